//! The passport: makes and checks capabilities for the whole node (SPEC §5).
//!
//! Every request is judged anew by the pure rules of [`ron_core::capability`]; what is kept between requests
//! is the keyring, the MAC chains checked a moment ago, and the `rps` buckets. It never logs or returns a token
//! or a key.

mod cache;

use crate::entropy::{Entropy, NoEntropy};
use arc_swap::ArcSwap;
use cache::Cache;
use ron_core::capability::{self, Ask, CapId, Capability, Keyring, MintRequest, RateLimit, TEXT_BYTES_MAX};
use ron_core::ids::{Kid, Tenant, Topic};
use ron_core::limit::{Bucket, Rate};
use ron_core::reason::{Reason, Refusal};
use ron_core::time::{Clock, Millis};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Most `rps` buckets of one tenant. An idle bucket is forgotten after a second, so this bounds how many
/// rated tokens of a tenant are in use at once.
const BUCKETS_PER_TENANT_MAX: usize = 4096;
/// Most tenants with `rps` buckets.
const TENANTS_MAX: usize = 4096;

/// Who a request was found to act for.
#[derive(Debug, Clone)]
pub struct Authority {
    /// The capability's public name, for logs and audit.
    pub cap_id: CapId,
    /// The key it was made with.
    pub kid: Kid,
    /// The capability, to ask it again: while a long poll waits, or for each topic of a list.
    pub capability: Arc<Capability>,
}

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
    keyring: ArcSwap<Ring>,
    buckets: Mutex<Buckets>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    limits: PassportLimits,
}

/// A keyring and what was checked with it: another ring starts with an empty cache.
#[derive(Debug)]
struct Ring {
    keys: Keyring,
    checked: Cache,
}

/// Limits of a passport, ms.
#[derive(Debug, Clone, Copy)]
pub struct PassportLimits {
    /// Longest life of a token it makes (`auth.max_ttl`).
    pub ttl_max_ms: u64,
    /// How long a checked MAC chain is not checked again (`auth.cap_cache_ttl`); 0 = checked every time.
    pub cache_ttl_ms: u64,
}

impl Passport {
    /// A passport over `keyring`.
    ///
    /// # Errors
    /// There are no random bytes.
    pub fn new(
        keyring: Keyring,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        limits: PassportLimits,
    ) -> Result<Passport, NoEntropy> {
        let checked = Cache::new(limits.cache_ttl_ms, entropy.as_ref())?;
        let keyring = ArcSwap::from_pointee(Ring { keys: keyring, checked });
        Ok(Passport(Arc::new(Inner { keyring, buckets: Mutex::default(), clock, entropy, limits })))
    }

    /// Puts another keyring in force, at once and for every clone.
    ///
    /// # Errors
    /// There are no random bytes.
    pub fn replace_keyring(&self, keyring: Keyring) -> Result<(), NoEntropy> {
        let checked = Cache::new(self.0.limits.cache_ttl_ms, self.0.entropy.as_ref())?;
        self.0.keyring.store(Arc::new(Ring { keys: keyring, checked }));
        Ok(())
    }

    /// Checks a token's MAC alone, or remembers that it held: what it allows is still to be asked.
    ///
    /// # Errors
    /// UNAUTH.
    pub fn verify(&self, token: &str, wall_unix_s: u64) -> Result<Authority, Refusal> {
        let ring = self.0.keyring.load();
        if token.len() > TEXT_BYTES_MAX {
            return Ok(authority(self.chain(&ring, token, wall_unix_s)?));
        }
        let (place, now) = (ring.checked.hash(token), self.0.clock.now());
        if let Some(capability) = ring.checked.get(&place, now)
            && ring.keys.key(&capability.kid, wall_unix_s).is_some()
        {
            return Ok(authority(capability));
        }
        let capability = self.chain(&ring, token, wall_unix_s)?;
        ring.checked.put(place, &capability, now);
        Ok(authority(capability))
    }

    fn chain(&self, ring: &Ring, token: &str, wall_unix_s: u64) -> Result<Arc<Capability>, Refusal> {
        capability::verify(token, &ring.keys, wall_unix_s).map(Arc::new)
    }

    /// Judges one request, and charges the token's rates for it.
    ///
    /// # Errors
    /// UNAUTH, EXPIRED_TOKEN, SCOPE_MISMATCH, or RATE_LIMIT with the time to wait.
    pub fn authorize(&self, token: &str, ask: &Ask<'_>) -> Result<Authority, Refusal> {
        self.judge(self.verify(token, ask.wall_unix_s)?, ask)
    }

    /// [`Passport::authorize`] for a token that is used once, as a webhook's: it is not remembered, so that
    /// webhooks do not push out what consumers use all the time.
    ///
    /// # Errors
    /// As there.
    pub fn authorize_once(&self, token: &str, ask: &Ask<'_>) -> Result<Authority, Refusal> {
        let capability = self.chain(&self.0.keyring.load(), token, ask.wall_unix_s)?;
        self.judge(authority(capability), ask)
    }

    fn judge(&self, authority: Authority, ask: &Ask<'_>) -> Result<Authority, Refusal> {
        let limits = authority.capability.allows(ask)?;
        if !limits.is_empty() {
            let mut buckets = self.0.buckets.lock().unwrap_or_else(PoisonError::into_inner);
            buckets.charge(&authority.capability.tenant, &limits, self.0.clock.now())?;
        }
        Ok(authority)
    }

    /// Makes a token as asked for.
    ///
    /// # Errors
    /// MALFORMED, naming the field; INTERNAL if there are no random bytes.
    pub fn mint(&self, request: &MintRequest) -> Result<Minted, Refusal> {
        let caveats = request.caveats(self.0.clock.wall().0 / 1000, self.0.limits.ttl_max_ms)?;
        self.make(&request.tenant, &caveats)
    }

    /// Makes the token of a verified webhook: the mailbox, enqueue, one topic, at most `max_bytes`, for at
    /// most 60 s. It never leaves the process.
    ///
    /// # Errors
    /// INTERNAL if there are no random bytes.
    pub fn mint_webhook(
        &self,
        tenant: &Tenant,
        topic: &Topic,
        max_bytes: u64,
        wall: Millis,
    ) -> Result<String, Refusal> {
        let caveats = capability::webhook_caveats(topic, max_bytes, wall.0 / 1000);
        Ok(self.make(tenant, &caveats)?.token)
    }

    fn make(&self, tenant: &Tenant, caveats: &[String]) -> Result<Minted, Refusal> {
        make_token(&self.0.keyring.load().keys, self.0.entropy.as_ref(), tenant, caveats)
    }
}

fn authority(capability: Arc<Capability>) -> Authority {
    Authority { cap_id: capability.cap_id, kid: capability.kid.clone(), capability }
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
    let mut nonce = [0; 16];
    entropy.fill(&mut nonce).map_err(|error| Refusal::new(Reason::Internal, error.to_string()))?;
    let entry = keyring.minting();
    let token = capability::mint(&entry.key, &entry.kid, tenant, nonce, caveats)
        .map_err(|why| Refusal::new(Reason::Malformed, why))?;
    Ok(Minted { token, cap_id: CapId::of(&nonce) })
}

/// The `rps` buckets in use, a tenant's apart from the others', so that none can fill them all.
#[derive(Debug, Default)]
struct Buckets {
    tenants: HashMap<Tenant, HashMap<[u8; 32], (Bucket, Rate)>>,
}

impl Buckets {
    /// Takes one token from each bucket, or none from any.
    fn charge(&mut self, tenant: &Tenant, limits: &[RateLimit], now: Millis) -> Result<(), Refusal> {
        let too_many = || Refusal::new(Reason::RateLimit, "too many capabilities with `rps` in use at once");
        if !self.tenants.contains_key(tenant) {
            if self.tenants.len() >= TENANTS_MAX {
                self.tenants.retain(|_, buckets| {
                    forget_idle(buckets, now);
                    !buckets.is_empty()
                });
            }
            if self.tenants.len() >= TENANTS_MAX {
                return Err(too_many());
            }
        }
        let buckets = self.tenants.entry(tenant.clone()).or_default();
        if buckets.len() + limits.len() > BUCKETS_PER_TENANT_MAX {
            forget_idle(buckets, now);
            if buckets.len() + limits.len() > BUCKETS_PER_TENANT_MAX {
                return Err(too_many());
            }
        }
        for (at, limit) in limits.iter().enumerate() {
            let rate = Rate::per_second(limit.per_second);
            let (bucket, _) = buckets.entry(limit.mac).or_insert_with(|| (Bucket::full(rate, now), rate));
            if let Err(wait_ms) = bucket.take(rate, now, 1) {
                for charged in &limits[..at] {
                    if let Some((bucket, rate)) = buckets.get_mut(&charged.mac) {
                        bucket.give_back(*rate, 1);
                    }
                }
                let wait_ms = wait_ms.min(3_600_000);
                return Err(
                    Refusal::new(Reason::RateLimit, "capability: rate exceeded (`rps`)").retry_after(wait_ms)
                );
            }
        }
        Ok(())
    }
}

/// A full bucket and none at all are the same.
fn forget_idle(buckets: &mut HashMap<[u8; 32], (Bucket, Rate)>, now: Millis) {
    buckets.retain(|_, (bucket, rate)| !bucket.is_full(*rate, now));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::SeededEntropy;
    use crate::keyring_file::in_memory;
    use ron_core::capability::{Audience, Op};
    use std::sync::atomic::{AtomicU64, Ordering};

    const WALL: Millis = Millis(1_795_000_000_000);

    #[derive(Debug, Default)]
    struct HandClock(AtomicU64);

    impl Clock for HandClock {
        fn now(&self) -> Millis {
            WALL.plus(self.0.load(Ordering::SeqCst))
        }

        fn wall(&self) -> Millis {
            self.now()
        }
    }

    fn passport() -> (Passport, Arc<HandClock>) {
        let (clock, entropy) = (Arc::new(HandClock::default()), Arc::new(SeededEntropy::new(7)));
        let ring = in_memory(WALL, entropy.as_ref()).unwrap();
        let limits = PassportLimits { ttl_max_ms: 30 * 86_400_000, cache_ttl_ms: 30_000 };
        (Passport::new(ring, Arc::<HandClock>::clone(&clock), entropy, limits).unwrap(), clock)
    }

    fn request(ops: Vec<Op>, rps: Option<u64>) -> MintRequest {
        let tenant = Tenant::parse("acme").unwrap();
        let topic = "orders*".to_owned();
        MintRequest { tenant, topic, ops, ttl_ms: Some(60_000), aud: None, ip: None, max_bytes: None, rps }
    }

    fn authorize(passport: &Passport, token: &str, op: Op, topic: &str) -> Result<Authority, Refusal> {
        let (tenant, topic) = (Tenant::parse("acme").unwrap(), Topic::parse(topic).unwrap());
        let ask = Ask {
            op,
            tenant: &tenant,
            topic: Some(&topic),
            audience: Audience::Mailbox,
            peer: "127.0.0.1".parse().unwrap(),
            message_bytes: Some(10),
            wall_unix_s: passport.0.clock.wall().0 / 1000,
        };
        passport.authorize(token, &ask)
    }

    #[test]
    fn what_it_mints_it_accepts_until_it_expires() {
        let (passport, clock) = passport();
        let minted = passport.mint(&request(vec![Op::Recv, Op::Ack], None)).unwrap();
        let authority = authorize(&passport, &minted.token, Op::Recv, "orders.eu").unwrap();
        assert_eq!(authority.cap_id, minted.cap_id);
        assert_eq!(authority.kid, passport.0.keyring.load().keys.minting().kid);
        let refused = |token: &str, op, topic| authorize(&passport, token, op, topic).unwrap_err().reason;
        assert_eq!(refused(&minted.token, Op::Enqueue, "orders"), Reason::ScopeMismatch);
        assert_eq!(refused(&minted.token, Op::Recv, "other"), Reason::ScopeMismatch);
        assert_eq!(refused("ron1_x", Op::Recv, "orders"), Reason::Unauth);
        clock.0.store(90_000, Ordering::SeqCst);
        assert_eq!(refused(&minted.token, Op::Recv, "orders"), Reason::ExpiredToken);
        let other = passport.mint(&request(vec![Op::Recv], None)).unwrap();
        assert_ne!(other.cap_id, minted.cap_id);
    }

    #[test]
    fn a_webhooks_token_enqueues_to_its_topic() {
        let (passport, _) = passport();
        let (tenant, topic) = (Tenant::parse("acme").unwrap(), Topic::parse("github").unwrap());
        let token = passport.mint_webhook(&tenant, &topic, 10, WALL).unwrap();
        assert!(authorize(&passport, &token, Op::Enqueue, "github").is_ok());
        let reason = authorize(&passport, &token, Op::Enqueue, "other").unwrap_err().reason;
        assert_eq!(reason, Reason::ScopeMismatch);
        let small = passport.mint_webhook(&tenant, &topic, 9, WALL).unwrap();
        assert!(authorize(&passport, &small, Op::Enqueue, "github").is_err());
    }

    #[test]
    fn a_rate_is_shared_with_descendants_and_spares_settling() {
        let (passport, clock) = passport();
        let minted = passport.mint(&request(vec![Op::Recv, Op::Ack], Some(2))).unwrap();
        let child = capability::attenuate(&minted.token, &["op = recv".into()]).unwrap();
        assert!(authorize(&passport, &minted.token, Op::Recv, "orders").is_ok());
        assert!(authorize(&passport, &child, Op::Recv, "orders").is_ok());
        let refusal = authorize(&passport, &minted.token, Op::Recv, "orders").unwrap_err();
        assert_eq!((refusal.reason, refusal.retry_after_ms), (Reason::RateLimit, Some(500)));
        assert!(authorize(&passport, &minted.token, Op::Ack, "orders").is_ok());
        assert!(authorize(&passport, &child, Op::Extend, "orders").is_ok());
        clock.0.store(500, Ordering::SeqCst);
        assert!(authorize(&passport, &child, Op::Recv, "orders").is_ok());
        assert!(authorize(&passport, &child, Op::Recv, "orders").is_err());
    }

    #[test]
    fn a_refusal_by_one_bucket_charges_no_other() {
        let (passport, clock) = passport();
        let wide = passport.mint(&request(vec![Op::Recv], Some(2))).unwrap().token;
        let narrow = capability::attenuate(&wide, &["rps = 1".into()]).unwrap();
        assert!(authorize(&passport, &narrow, Op::Recv, "orders").is_ok());
        assert!(authorize(&passport, &narrow, Op::Recv, "orders").is_err());
        assert!(authorize(&passport, &wide, Op::Recv, "orders").is_ok(), "its second token is still there");
        assert!(authorize(&passport, &wide, Op::Recv, "orders").is_err());
        let never = capability::attenuate(&wide, &["rps = 0".into()]).unwrap();
        clock.0.store(5000, Ordering::SeqCst);
        assert_eq!(authorize(&passport, &never, Op::Recv, "orders").unwrap_err().reason, Reason::RateLimit);
    }

    #[test]
    fn buckets_are_bounded_and_idle_ones_forgotten() {
        let mut buckets = Buckets::default();
        let (acme, other) = (Tenant::parse("acme").unwrap(), Tenant::parse("other").unwrap());
        let limit = |at: usize| {
            let mut mac = [0; 32];
            mac[..8].copy_from_slice(&at.to_le_bytes());
            [RateLimit { mac, per_second: 1 }]
        };
        for at in 0..BUCKETS_PER_TENANT_MAX {
            buckets.charge(&acme, &limit(at), WALL).unwrap();
        }
        let refusal = buckets.charge(&acme, &limit(BUCKETS_PER_TENANT_MAX), WALL).unwrap_err();
        assert_eq!(refusal.reason, Reason::RateLimit);
        buckets.charge(&other, &limit(0), WALL).unwrap();
        buckets.charge(&acme, &limit(BUCKETS_PER_TENANT_MAX), WALL.plus(1000)).unwrap();
        assert_eq!(buckets.tenants[&acme].len(), 1);
    }

    #[test]
    fn another_keyring_is_in_force_at_once() {
        let (passport, _) = passport();
        let token = passport.mint(&request(vec![Op::Recv], None)).unwrap().token;
        let clone = passport.clone();
        assert!(authorize(&clone, &token, Op::Recv, "orders").is_ok());
        passport.replace_keyring(in_memory(WALL, &SeededEntropy::new(99)).unwrap()).unwrap();
        assert_eq!(authorize(&clone, &token, Op::Recv, "orders").unwrap_err().reason, Reason::Unauth);
    }
}
