//! What the node answers `ronctl` about itself.

use crate::amnesia::verify;
use crate::clock::ClockKeeper;
use crate::http::ctl::{ControlDesk, MintedToken};
use crate::http::readiness::Readiness;
use crate::http::request::Peer;
use crate::node::OUR_FILES;
use crate::policy::PolicyKeeper;
use crate::providers::{Providers, verifier_name};
use crate::tls::TlsKeeper;
use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::future::ready;
use futures::{Stream, StreamExt};
use ron_actors::audit::Audit;
use ron_actors::kernel::bus::Bus;
use ron_actors::kernel::event::Record;
use ron_actors::kernel::supervisor::SupervisorRef;
use ron_actors::mailbox::Directory;
use ron_actors::passport::{KeyInfo, Passport, RevokedNow};
use ron_actors::store::StoreFigures;
use ron_core::audit::{Decision, Entry, Kind, OK};
use ron_core::capability::{MintRequest, Revocation, RevokeRequest};
use ron_core::ids::Kid;
use ron_core::reason::{Reason, Refusal};
use ron_core::time::{Clock, Millis};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A tail that has nothing to say says so this often, so that nobody takes the node for dead.
const QUIET: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub struct Desk {
    /// Readiness and quarantine.
    pub readiness: Arc<Readiness>,
    /// The profile's name.
    pub profile: &'static str,
    /// Whether the node lives in RAM alone.
    pub amnesia: bool,
    /// Where a durable node keeps what it must not forget.
    pub data_dir: PathBuf,
    /// When it started, node time.
    pub started: Millis,
    /// Node time.
    pub clock: Arc<dyn Clock>,
    /// Where its listeners are.
    pub addresses: BTreeMap<&'static str, SocketAddr>,
    /// Which of them are inside TLS.
    pub tls: Arc<TlsKeeper>,
    /// All queues.
    pub directory: Arc<Directory>,
    /// The supervisor of their actors.
    pub shards: SupervisorRef,
    /// The supervisor of the providers' verifiers.
    pub verifiers: SupervisorRef,
    /// What happens in the node.
    pub bus: Bus,
    /// The store's figures, at most a second old.
    pub store: Arc<ArcSwap<StoreFigures>>,
    /// The providers.
    pub providers: Arc<Providers>,
    /// Mints, revokes, rotates.
    pub passport: Passport,
    /// The policy.
    pub policy: Arc<PolicyKeeper>,
    /// Whether the clock is in doubt.
    pub clock_keeper: Arc<ClockKeeper>,
    /// Is told what became of whose act, beside the act itself.
    pub audit: Audit,
}

impl Desk {
    fn entry(&self, kind: Kind, peer: Peer) -> Entry {
        let mut entry = self.audit.entry(kind, Decision::Done, OK);
        if let Peer::Unix { uid, pid } = peer {
            (entry.more.uid, entry.more.pid) = (Some(uid), pid);
        }
        entry
    }
}

impl ControlDesk for Desk {
    type Mint = MintRequest;

    fn status(&self) -> Value {
        let missing = self.readiness.missing();
        let store = self.store.load();
        json!({
            "ready": self.readiness.is_ready(),
            "degraded": !missing.is_empty(),
            "missing": missing,
            "quarantined": *self.readiness.quarantined(),
            "warn": self.readiness.warnings(),
            "version": env!("CARGO_PKG_VERSION"),
            "profile": self.profile,
            "amnesia": self.amnesia,
            "pid": std::process::id(),
            "uptime_ms": self.clock.now().since(self.started),
            "addresses": self.addresses,
            "tls": self.tls.listeners(),
            "topics": self.directory.len(),
            "store": {
                "chunks": store.chunks,
                "messages": store.live,
                "body_bytes": store.body_bytes,
                "dedup_keys": store.dedup_keys,
                "commits": store.commits,
            },
        })
    }

    fn providers(&self) -> Value {
        self.providers.show(self.clock.wall())
    }

    async fn amnesia(&self) -> Value {
        let (amnesia, dir) = (self.amnesia, self.data_dir.clone());
        let look = move || verify(amnesia, &dir, &OUR_FILES);
        let items = tokio::task::spawn_blocking(look).await.unwrap_or_default();
        json!({ "items": items })
    }

    fn quarantined(&self) -> Value {
        json!({ "quarantined": *self.readiness.quarantined() })
    }

    async fn release(&self, name: &str, peer: Peer) -> Result<Value, Refusal> {
        let queue = self.directory.all().into_iter().find(|entry| entry.key.to_string() == name);
        let released = match queue {
            Some(entry) => self.shards.release(&entry.child_name()).await,
            // its endpoints are in quarantine under their whole names: `egress:NAME`
            None if name.starts_with("egress:") => self.verifiers.release(name).await,
            None => self.verifiers.release(&verifier_name(name)).await,
        };
        if !released {
            let text = format!("nothing called {name:.200} is in quarantine: see `ronctl quarantine list`");
            return Err(Refusal::new(Reason::NotFound, text));
        }
        tracing::info!(name, ?peer, "released from quarantine");
        Ok(json!({ "released": name }))
    }

    async fn accept_clock(&self, peer: Peer) -> Result<Value, Refusal> {
        let gap = self.clock_keeper.accept().await?;
        tracing::info!(%gap, ?peer, "the clock is accepted: things expire again");
        Ok(json!({ "saved": gap.saved.rfc3339(), "wall": gap.wall.rfc3339() }))
    }

    fn events(
        &self,
        topic: &str,
        since: Duration,
        follow: bool,
    ) -> impl Stream<Item = Bytes> + Send + 'static {
        // In this order nothing is missed, and what both have is left out of the second.
        let live = self.bus.subscribe("tail", topic);
        let past = self.bus.recent(since, topic);
        let last = past.last().map(|record| record.seq);
        let draining = self.readiness.draining().clone();
        // `None` = nothing for a while
        let live = futures::stream::unfold((live, draining), |(mut live, draining)| async move {
            let next = tokio::select! {
                biased;
                record = live.recv() => record.map(Some),
                () = draining.cancelled() => live.try_recv().map(Some),
                () = tokio::time::sleep(QUIET) => Some(None),
            };
            next.map(|record| (record, (live, draining)))
        });
        let new = move |record: &Arc<Record>| last.is_none_or(|last| record.seq > last);
        let live = live.filter(move |record| ready(record.as_ref().is_none_or(new)));
        let live = live.take(if follow { usize::MAX } else { 0 });
        let said =
            |record: Option<Arc<Record>>| record.map_or(Bytes::from_static(b"\n"), |record| line(&record));
        futures::stream::iter(past).map(Some).chain(live).map(said)
    }

    fn policy(&self) -> Value {
        self.policy.show()
    }

    fn reload_policy(&self, peer: Peer) -> Result<Value, Refusal> {
        tracing::info!(?peer, "policy reload asked for");
        self.policy.reload()?;
        Ok(self.policy.show())
    }

    fn apply_preset(&self, preset: &str, ttl_ms: u64, peer: Peer) -> Result<Value, Refusal> {
        self.policy.apply(preset, ttl_ms)?;
        tracing::info!(?peer, preset, ttl_ms, "policy preset applied");
        Ok(self.policy.show())
    }

    fn mint(&self, request: MintRequest, peer: Peer) -> Result<MintedToken, Refusal> {
        let minted = self.passport.mint(&request)?;
        tracing::info!(cap_id = %minted.cap_id, tenant = %request.tenant, ?peer, "capability minted");
        let mut entry = self.entry(Kind::Operator, peer);
        (entry.cap_id, entry.tenant) = (Some(minted.cap_id), Some(request.tenant));
        entry.more.op = Some("cap.minted".into());
        self.audit.record(entry);
        Ok(MintedToken { token: minted.token, cap_id: minted.cap_id.to_string() })
    }

    async fn revoke(&self, request: RevokeRequest, peer: Peer) -> Result<Value, Refusal> {
        let list = request.check()?;
        let asked: Vec<String> = list.iter().map(ToString::to_string).collect();
        let revoked = self.passport.revoke(list).await.inspect_err(|refusal| {
            tracing::warn!(what = asked.join(", "), %refusal, ?peer, "not revoked, or not for good");
        })?;
        for RevokedNow { what, already, .. } in &revoked {
            let mut entry = self.entry(Kind::Revocation, peer);
            match what {
                Revocation::Cap(cap_id) => entry.cap_id = Some(*cap_id),
                Revocation::Kid(kid) => entry.kid = Some(kid.clone()),
            }
            entry.reason = if *already { "ALREADY" } else { OK };
            self.audit.record(entry);
            tracing::info!(%what, already, ?peer, "revoked");
        }
        Ok(json!({ "revoked": revoked.iter().map(shown_revocation).collect::<Vec<_>>() }))
    }

    fn keys(&self) -> Value {
        json!({ "keys": self.passport.keys().iter().map(shown_key).collect::<Vec<_>>() })
    }

    async fn rotate(&self, peer: Peer) -> Result<Value, Refusal> {
        let rotated = self.passport.rotate().await?;
        tracing::info!(kid = %rotated.kid, ?peer, "key rotated: it makes all capabilities from now on");
        let mut entry = self.entry(Kind::Rotation, peer);
        entry.kid = Some(rotated.kid.clone());
        self.audit.record(entry);
        let retired = |(kid, unix_s): &(Kid, u64)| json!({ "kid": kid, "not_after": Millis(unix_s.saturating_mul(1000)).rfc3339() });
        Ok(json!({
            "kid": rotated.kid,
            "retired": rotated.retired.iter().map(retired).collect::<Vec<_>>(),
            "dropped": rotated.dropped,
        }))
    }
}

/// An event as `ronctl tail` prints it.
fn line(record: &Record) -> Bytes {
    let mut line = serde_json::to_vec(record).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

fn shown_revocation(revoked: &RevokedNow) -> Value {
    match &revoked.what {
        Revocation::Cap(id) => json!({ "cap_id": id.to_string(), "already": revoked.already }),
        Revocation::Kid(kid) => json!({ "kid": kid, "already": revoked.already, "known": revoked.known }),
    }
}

fn shown_key(key: &KeyInfo) -> Value {
    json!({
        "kid": key.kid,
        "created": key.created.rfc3339(),
        "not_after": key.not_after.map(Millis::rfc3339),
        "minting": key.minting,
        "revoked": key.revoked,
    })
}
