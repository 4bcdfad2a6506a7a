//! The passport: makes and checks capabilities for the whole node (SPEC §5).
//!
//! Every request is judged anew by the pure rules of [`ron_core::capability`]. A token whose MAC chain was checked a
//! moment ago is judged in the caller's own task; any other goes to the [`actor`], and while that is down it is
//! refused. What is revoked is looked up for both. It never logs or returns a token or a key.
//!
//! Tokens are made in the caller's task, too, so that verifiers do not wait for one another, but only while the actor
//! is up: a node that cannot check tokens makes none. A webhook's is then checked like any other, so none gets past.

pub mod actor;
mod book;
mod buckets;
mod cache;
mod changes;

pub use actor::{PassportActor, PassportMsg, PassportRef};
pub use book::{Book, Grant};
pub use changes::{KeyInfo, KeyringPlace, RevokedNow};

use crate::entropy::{Entropy, NoEntropy};
use crate::kernel::admission::Admission;
use crate::kernel::bus::Bus;
use crate::kernel::child::{ChildKind, ChildSpec, ServiceLabel};
use crate::kernel::handle::{CastError, Handle, HandlePublisher};
use buckets::Buckets;
use cache::{Cache, TokenHash};
use changes::Changes;
use ron_core::capability::{
    self, Ask, CapId, Keyring, MintRequest, Revocation, Revoked, Rotated, TEXT_BYTES_MAX,
};
use ron_core::ids::{Tenant, Topic};
use ron_core::reason::{Reason, Refusal};
use ron_core::time::{Clock, Millis};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

/// Most tokens that wait to be checked.
const WAITING_MAX: usize = 1024;
/// Bytes of their texts.
const WAITING_BYTES_MAX: usize = 1024 * 1024;
/// How long a check may take; it takes microseconds unless the actor is stuck.
const CHECKED_WITHIN: Duration = Duration::from_secs(2);

/// A token just made.
#[derive(Clone)]
pub struct Minted {
    /// The bearer token.
    pub token: String,
    /// Its public name.
    pub cap_id: CapId,
}

impl std::fmt::Debug for Minted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Minted({})", self.cap_id)
    }
}

/// Makes and checks capabilities. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Passport(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    book: Arc<Book>,
    checked: Cache,
    buckets: Mutex<Buckets>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    ttl_max_ms: u64,
    changes: Arc<Changes>,
    publisher: HandlePublisher<PassportMsg>,
    actor: Handle<PassportMsg>,
    admission: Admission,
}

/// What a passport is made of.
#[derive(Debug)]
pub struct PassportArgs {
    /// The keys.
    pub keyring: Keyring,
    /// Where they are kept.
    pub keyring_place: KeyringPlace,
    /// What is revoked.
    pub revoked: Revoked,
    /// Where that is kept; `None` = in memory alone.
    pub revoked_file: Option<PathBuf>,
    /// Node time and the wall clock.
    pub clock: Arc<dyn Clock>,
    /// For tokens and keys.
    pub entropy: Arc<dyn Entropy>,
    /// Told of revocations.
    pub bus: Bus,
    /// Its limits.
    pub limits: PassportLimits,
}

/// Limits of a passport, ms.
#[derive(Debug, Clone, Copy)]
pub struct PassportLimits {
    /// Longest life of a token it makes (`auth.max_ttl`). A key that was rotated out checks tokens for twice as long.
    pub ttl_max_ms: u64,
    /// How long a checked MAC chain is not checked again (`auth.cap_cache_ttl`); 0 = checked every time.
    pub cache_ttl_ms: u64,
}

/// The name of a token in the cache: says nothing about the token. See [`Passport::remembered`].
#[derive(Debug, Clone, Copy)]
pub struct Remembered(TokenHash);

impl Passport {
    /// A passport whose actor is not up yet; see [`Passport::child_spec`].
    ///
    /// # Errors
    /// There are no random bytes.
    pub fn new(args: PassportArgs) -> Result<Passport, NoEntropy> {
        let PassportArgs { clock, entropy, limits, .. } = args;
        let checked = Cache::new(limits.cache_ttl_ms, entropy.as_ref())?;
        let book = Arc::new(Book::new(args.keyring, args.revoked));
        let changes = Arc::new(Changes {
            book: book.clone(),
            bus: args.bus,
            clock: clock.clone(),
            entropy: entropy.clone(),
            overlap_s: limits.ttl_max_ms.saturating_mul(2).div_ceil(1000),
            keyring: args.keyring_place,
            revoked: args.revoked_file,
            saved: Mutex::new(true),
        });
        let publisher = HandlePublisher::new();
        Ok(Passport(Arc::new(Inner {
            book,
            checked,
            buckets: Mutex::default(),
            clock,
            entropy,
            ttl_max_ms: limits.ttl_max_ms,
            changes,
            actor: publisher.handle(),
            publisher,
            admission: Admission::new(WAITING_MAX, WAITING_BYTES_MAX),
        })))
    }

    /// Its actor, for the root: critical, since without it no unknown token is accepted.
    #[must_use]
    pub fn child_spec(&self) -> ChildSpec {
        let book = self.0.book.clone();
        let make = move || (PassportActor, book.clone());
        let spec =
            ChildSpec::actor(ChildKind::Fixed, "passport", ServiceLabel::Passport, &self.0.publisher, make);
        spec.critical()
    }

    /// Whether tokens that are not remembered can be checked, and new ones made.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.0.actor.is_up()
    }

    /// Makes its actor fail: for drills.
    pub fn crash(&self) {
        let _ = self.0.actor.cast(PassportMsg::Crash);
    }

    /// Judges one request whose token was checked a moment ago, and charges the token's rates for it. `None` = it was
    /// not: see [`Passport::authorize`].
    #[must_use]
    pub fn authorize_known(&self, token: &str, ask: &Ask<'_>) -> Option<Result<Arc<Grant>, Refusal>> {
        self.authorize_remembered(&self.remembered(token), ask)
    }

    /// What a token is called among those that were checked a moment ago, for who asks again and again.
    #[must_use]
    pub fn remembered(&self, token: &str) -> Remembered {
        Remembered(self.0.checked.hash(token))
    }

    /// [`Passport::authorize_known`] without the token's text.
    #[must_use]
    pub fn authorize_remembered(
        &self,
        token: &Remembered,
        ask: &Ask<'_>,
    ) -> Option<Result<Arc<Grant>, Refusal>> {
        let grant = self.0.checked.get(&token.0, self.0.clock.now())?;
        Some(self.judge(grant, ask))
    }

    /// Whose token it is, if it is in force; what it allows is not asked, and nothing charged.
    ///
    /// # Errors
    /// As [`Passport::authorize`], but neither SCOPE_MISMATCH nor RATE_LIMIT.
    pub async fn present(&self, token: &str, wall_unix_s: u64) -> Result<Tenant, Refusal> {
        let (hash, now) = (self.0.checked.hash(token), self.0.clock.now());
        let grant = match self.0.checked.get(&hash, now) {
            Some(grant) => grant,
            None => {
                let grant = self.check(token, wall_unix_s).await?;
                self.0.checked.put(hash, &grant, now);
                grant
            }
        };
        grant.in_force(wall_unix_s)?;
        Ok(grant.capability.tenant.clone())
    }

    /// Judges one request, and charges the token's rates for it.
    ///
    /// # Errors
    /// UNAUTH, EXPIRED_TOKEN, SCOPE_MISMATCH, or RATE_LIMIT with the time to wait. For a token that was not checked a
    /// moment ago also BACKPRESSURE, or DOWNSTREAM_UNAVAILABLE while the actor is down.
    pub async fn authorize(&self, token: &str, ask: &Ask<'_>) -> Result<Arc<Grant>, Refusal> {
        if let Some(judged) = self.authorize_known(token, ask) {
            return judged;
        }
        // its time in the cache runs from before the check
        let now = self.0.clock.now();
        let grant = self.check(token, ask.wall_unix_s).await?;
        self.0.checked.put(self.0.checked.hash(token), &grant, now);
        self.judge(grant, ask)
    }

    /// [`Passport::authorize`] for a token that is used once or twice, as an egress's: it is not remembered, so that
    /// it does not push out what consumers use all the time.
    ///
    /// # Errors
    /// As there.
    pub async fn authorize_once(&self, token: &str, ask: &Ask<'_>) -> Result<Arc<Grant>, Refusal> {
        let grant = self.check(token, ask.wall_unix_s).await?;
        self.judge(grant, ask)
    }

    /// Has the actor check who made a token.
    async fn check(&self, token: &str, wall_unix_s: u64) -> Result<Arc<Grant>, Refusal> {
        if token.len() > TEXT_BYTES_MAX {
            return Err(Refusal::new(Reason::Unauth, "capability: longer than 4096 bytes"));
        }
        let full = |_| Refusal::new(Reason::Backpressure, "too many capabilities wait to be checked");
        let permit = self.0.admission.try_acquire(token.len()).map_err(full)?;
        let (reply, checked) = oneshot::channel();
        let token = Zeroizing::new(token.to_owned());
        let message = PassportMsg::Check { token, wall_unix_s, reply, permit };
        self.0.actor.cast(message).map_err(|error| match error {
            CastError::Down(_) => down("is restarting; retry"),
            CastError::Quarantined(_) => down("failed too often"),
        })?;
        match tokio::time::timeout(CHECKED_WITHIN, checked).await {
            Ok(Ok(checked)) => checked,
            Ok(Err(_)) | Err(_) => Err(down("failed while it had the request; retry")),
        }
    }

    /// Judges one request of whoever holds this, as [`Passport::authorize`] does.
    ///
    /// # Errors
    /// UNAUTH once it is revoked, EXPIRED_TOKEN, SCOPE_MISMATCH, RATE_LIMIT.
    pub fn judge(&self, grant: Arc<Grant>, ask: &Ask<'_>) -> Result<Arc<Grant>, Refusal> {
        grant.in_force(ask.wall_unix_s)?;
        let limits = grant.capability.allows(ask)?;
        if !limits.is_empty() {
            let mut buckets = self.0.buckets.lock().unwrap_or_else(PoisonError::into_inner);
            buckets.charge(&grant.capability.tenant, &limits, self.0.clock.now())?;
        }
        Ok(grant)
    }

    /// Makes a token as asked for.
    ///
    /// # Errors
    /// MALFORMED, naming the field; DOWNSTREAM_UNAVAILABLE while the actor is down or the key that makes tokens is
    /// revoked; INTERNAL if there are no random bytes.
    pub fn mint(&self, request: &MintRequest) -> Result<Minted, Refusal> {
        let caveats = request.caveats(self.0.clock.wall().0 / 1000, self.0.ttl_max_ms)?;
        self.make(&request.tenant, &caveats)
    }

    /// Makes the token of a verified webhook: the mailbox, enqueue, one topic, at most `max_bytes`, for at
    /// most 60 s. It never leaves the process, so it has no text, and what was made here need not wait among the
    /// tokens of strangers: its MAC chain is checked at once, by the same code.
    ///
    /// # Errors
    /// As [`Passport::mint`], but never MALFORMED; UNAUTH as [`Passport::authorize`].
    pub fn mint_webhook(
        &self,
        tenant: &Tenant,
        topic: &Topic,
        max_bytes: u64,
        wall: Millis,
    ) -> Result<Arc<Grant>, Refusal> {
        let caveats = capability::webhook_caveats(topic, max_bytes, wall.0 / 1000);
        let keys = self.minting_keys()?;
        let (entry, nonce) = (keys.minting(), nonce(self.0.entropy.as_ref())?);
        let token = capability::make(&entry.key, &entry.kid, tenant, nonce, &caveats)
            .map_err(|why| Refusal::new(Reason::Malformed, why))?;
        let capability = capability::verify_token(&token, &keys, wall.0 / 1000)?;
        Ok(Arc::new(Grant::new(capability, self.0.book.clone())))
    }

    /// Makes the token that an egress takes messages of its topic with, and settles them, for at most 60 s. It never
    /// leaves the process, and is checked like any other.
    ///
    /// # Errors
    /// As [`Passport::mint`], but never MALFORMED.
    pub fn mint_egress(&self, tenant: &Tenant, topic: &Topic, wall: Millis) -> Result<String, Refusal> {
        Ok(self.make(tenant, &capability::egress_caveats(topic, wall.0 / 1000))?.token)
    }

    fn make(&self, tenant: &Tenant, caveats: &[String]) -> Result<Minted, Refusal> {
        make_token(&*self.minting_keys()?, self.0.entropy.as_ref(), tenant, caveats)
    }

    /// The keys, if one of them may make tokens now.
    fn minting_keys(&self) -> Result<Arc<Keyring>, Refusal> {
        if !self.is_up() {
            return Err(down("is restarting and makes no token; retry"));
        }
        let keys = self.0.book.keys();
        if self.0.book.revoked().kid(&keys.minting().kid) {
            return Err(down(
                "has no key to make tokens with: its newest is revoked; run `ronctl key rotate`",
            ));
        }
        Ok(keys)
    }

    /// Revokes capabilities and keys: in force for every request from now on, and on the device when this returns.
    ///
    /// # Errors
    /// MALFORMED for the key that makes tokens now, BACKPRESSURE if the list is full: nothing is revoked then. STORAGE
    /// if it could not be written: it is in force, but may not outlast a restart, and must be repeated.
    pub async fn revoke(&self, list: Vec<Revocation>) -> Result<Vec<RevokedNow>, Refusal> {
        self.change(move |changes| changes.revoke(&list)).await
    }

    /// Makes a new key, which makes all tokens from now on. The others check theirs for twice `auth.max_ttl`.
    ///
    /// # Errors
    /// POLICY_BLOCKED for a keyring that is not ours to write, BACKPRESSURE for a full one, STORAGE if it could not be
    /// written: the keys in force are as before.
    pub async fn rotate(&self) -> Result<Rotated, Refusal> {
        self.change(Changes::rotate).await
    }

    /// Its keys, without the keys.
    #[must_use]
    pub fn keys(&self) -> Vec<KeyInfo> {
        self.0.changes.keys()
    }

    /// On the blocking pool, where it is finished even if its caller goes away.
    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Changes) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let changes = self.0.changes.clone();
        let done = tokio::task::spawn_blocking(move || change(&changes)).await;
        done.unwrap_or_else(|_| Err(Refusal::new(Reason::Internal, "the change failed; the log says why")))
    }
}

fn down(what: &str) -> Refusal {
    // Nothing is done for a request before its capability is known to hold.
    Refusal::new(Reason::DownstreamUnavailable, format!("the capability check {what}")).without_effect()
}

/// Makes a token with the ring's minting key; for the node, and for `ronctl cap mint --keyring`.
///
/// # Errors
/// INTERNAL if there are no random bytes; MALFORMED if the caveats are too many or too long.
pub fn make_token(
    keyring: &Keyring,
    entropy: &dyn Entropy,
    tenant: &Tenant,
    caveats: &[String],
) -> Result<Minted, Refusal> {
    let (entry, nonce) = (keyring.minting(), nonce(entropy)?);
    let token = capability::mint(&entry.key, &entry.kid, tenant, nonce, caveats)
        .map_err(|why| Refusal::new(Reason::Malformed, why))?;
    Ok(Minted { token, cap_id: CapId::of(&nonce) })
}

fn nonce(entropy: &dyn Entropy) -> Result<[u8; 16], Refusal> {
    let mut nonce = [0; 16];
    entropy.fill(&mut nonce).map_err(|error| Refusal::new(Reason::Internal, error.to_string()))?;
    Ok(nonce)
}

#[cfg(test)]
mod tests;
