//! What the node still lacks before it may serve, and whether it sheds writes (SPEC §2 "readyz", "Shutdown").

use crate::http::error::retry_after_s;
use arc_swap::ArcSwap;
use ron_core::reason::{Reason, Refusal};
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use tokio_util::sync::CancellationToken;

/// A part of the node that readiness waits for, in the order they are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The configuration is loaded.
    Config,
    /// The store is open.
    Store,
    /// The event bus runs.
    Bus,
    /// Capabilities can be checked.
    Passport,
    /// A policy is in force.
    Policy,
    /// The listeners are bound.
    Listener,
    /// The shards are known.
    Shards,
    /// Missing while the brownout sentinel sheds writes.
    Brownout,
    /// Missing once the node drains.
    Drain,
    /// Missing while the disk is too full for new messages.
    Disk,
}

impl Part {
    /// Every part.
    pub const ALL: [Part; 10] = [
        Part::Config,
        Part::Store,
        Part::Bus,
        Part::Passport,
        Part::Policy,
        Part::Listener,
        Part::Shards,
        Part::Brownout,
        Part::Drain,
        Part::Disk,
    ];

    /// Parts whose lack stops new messages and nothing else.
    const SHED: u16 = Part::Brownout.bit() | Part::Drain.bit() | Part::Disk.bit();

    /// As `missing` lists it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Part::Config => "config",
            Part::Store => "store",
            Part::Bus => "bus",
            Part::Passport => "passport",
            Part::Policy => "policy",
            Part::Listener => "listener",
            Part::Shards => "shards",
            Part::Brownout => "brownout",
            Part::Drain => "drain",
            Part::Disk => "disk",
        }
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// The state that `/readyz`, `ronctl status` and the send paths share.
#[derive(Debug)]
pub struct Readiness {
    missing: AtomicU16,
    retry_after_ms: u64,
    warn: ArcSwap<Vec<String>>,
    findings: ArcSwap<Vec<String>>,
    quarantined: ArcSwap<Vec<String>>,
    draining: CancellationToken,
}

impl Readiness {
    /// A node that boots: everything that boot must provide is missing.
    #[must_use]
    pub fn booting() -> Readiness {
        let boot = Part::ALL.iter().fold(0, |bits, part| bits | part.bit()) & !Part::SHED;
        Readiness {
            missing: AtomicU16::new(boot),
            retry_after_ms: 1000,
            warn: ArcSwap::default(),
            findings: ArcSwap::default(),
            quarantined: ArcSwap::default(),
            draining: CancellationToken::new(),
        }
    }

    /// A part became available, or is missing again.
    pub fn set(&self, part: Part, available: bool) {
        match available {
            true => self.missing.fetch_and(!part.bit(), Ordering::SeqCst),
            false => self.missing.fetch_or(part.bit(), Ordering::SeqCst),
        };
    }

    /// From now on new messages are refused and waiting receives end. There is no way back.
    pub fn start_drain(&self) {
        self.set(Part::Drain, false);
        self.draining.cancel();
    }

    /// Cancelled when the node drains.
    #[must_use]
    pub const fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Replaces what the regular look at the store found. Readyz shows it behind the warnings, which stay.
    pub fn set_findings(&self, findings: Vec<String>) {
        self.findings.store(Arc::new(findings));
    }

    /// Adds a warning, which stays until it is withdrawn.
    pub fn warn(&self, warning: String) {
        self.warn.rcu(|warnings| [warnings.as_slice(), std::slice::from_ref(&warning)].concat());
    }

    /// Takes back a warning whose cause is gone.
    pub fn withdraw_warning(&self, warning: &str) {
        self.warn
            .rcu(|warnings| warnings.iter().filter(|said| *said != warning).cloned().collect::<Vec<_>>());
    }

    /// The warnings, then the findings.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        [self.warn.load().as_slice(), self.findings.load().as_slice()].concat()
    }

    /// Replaces the list of quarantined topics and providers. They do not make the node unready.
    pub fn set_quarantined(&self, names: Vec<String>) {
        self.quarantined.store(Arc::new(names));
    }

    /// The names of quarantined topics and providers.
    #[must_use]
    pub fn quarantined(&self) -> Arc<Vec<String>> {
        self.quarantined.load_full()
    }

    /// What is missing, in the order of [`Part::ALL`].
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let bits = self.missing.load(Ordering::SeqCst);
        Part::ALL.iter().filter(|part| bits & part.bit() != 0).map(|part| part.name()).collect()
    }

    /// Whether everything is there.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.missing.load(Ordering::SeqCst) == 0
    }

    /// Whether new messages are refused while the rest goes on.
    #[must_use]
    pub fn sheds_writes(&self) -> bool {
        self.missing.load(Ordering::Relaxed) & Part::SHED != 0
    }

    /// Whether a new message may come in.
    ///
    /// # Errors
    /// DEGRADED in drain and brownout, STORAGE when the disk is too full; neither has an effect.
    pub fn admit_send(&self) -> Result<(), Refusal> {
        let bits = self.missing.load(Ordering::Relaxed);
        if bits & Part::SHED == 0 {
            return Ok(());
        }
        let refusal = if bits & Part::Drain.bit() != 0 {
            Refusal::new(Reason::Degraded, "the node is shutting down; send to another, or again later")
        } else if bits & Part::Disk.bit() != 0 {
            // Before the brownout, which a full disk may cause: it is what there is to be done about.
            Refusal::new(Reason::Storage, "the disk is too full for new messages")
        } else {
            Refusal::new(Reason::Degraded, "the node sheds new messages until its store recovers")
        };
        Err(refusal.without_effect().retry_after(self.retry_after_ms))
    }

    /// Whether a receive may wait or be handed messages.
    ///
    /// # Errors
    /// DEGRADED in drain.
    pub fn admit_recv(&self) -> Result<(), Refusal> {
        if !self.draining.is_cancelled() {
            return Ok(());
        }
        let refusal =
            Refusal::new(Reason::Degraded, "the node is shutting down; receive from it again later");
        Err(refusal.retry_after(self.retry_after_ms))
    }

    /// The answer of `/readyz`: status, JSON, and `Retry-After` in seconds where it is due. With `reads` the
    /// node is ready even while it sheds writes.
    #[must_use]
    pub fn answer(&self, reads: bool) -> (u16, Vec<u8>, Option<u64>) {
        let bits = self.missing.load(Ordering::SeqCst);
        let counted = if reads { bits & !Part::SHED } else { bits };
        let quarantined = self.quarantined.load();
        if counted == 0 {
            let body = Ready { ready: true, warn: &self.warnings(), quarantined: &quarantined };
            return (200, serde_json::to_vec(&body).unwrap_or_default(), None);
        }
        let body = NotReady {
            ready: false,
            degraded: true,
            missing: self.missing(),
            shed_writes: bits & Part::SHED != 0,
            retry_after_ms: self.retry_after_ms,
        };
        (503, serde_json::to_vec(&body).unwrap_or_default(), Some(retry_after_s(self.retry_after_ms)))
    }
}

#[derive(Serialize)]
struct Ready<'a> {
    ready: bool,
    warn: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    quarantined: &'a [String],
}

#[derive(Serialize)]
struct NotReady {
    ready: bool,
    degraded: bool,
    missing: Vec<&'static str>,
    shed_writes: bool,
    retry_after_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up() -> Readiness {
        let readiness = Readiness::booting();
        for part in Part::ALL {
            readiness.set(part, true);
        }
        readiness
    }

    fn text(answer: (u16, Vec<u8>, Option<u64>)) -> (u16, String, Option<u64>) {
        (answer.0, String::from_utf8(answer.1).unwrap(), answer.2)
    }

    #[test]
    fn boot_lists_what_is_missing() {
        let readiness = Readiness::booting();
        readiness.set(Part::Config, true);
        let (status, body, retry) = text(readiness.answer(false));
        assert_eq!((status, retry), (503, Some(1)));
        assert_eq!(
            body,
            concat!(
                r#"{"ready":false,"degraded":true,"#,
                r#""missing":["store","bus","passport","policy","listener","shards"],"#,
                r#""shed_writes":false,"retry_after_ms":1000}"#
            )
        );
        assert_eq!(text(readiness.answer(true)).0, 503);
        assert!(readiness.admit_send().is_ok(), "what is missing at boot refuses by itself");
    }

    #[test]
    fn ready_has_warnings_and_stays_ready_with_a_quarantine() {
        let readiness = up();
        assert_eq!(text(readiness.answer(false)).1, r#"{"ready":true,"warn":[]}"#);
        readiness.warn("clock".into());
        readiness.set_quarantined(vec!["acme/orders".into()]);
        let (status, body, _) = text(readiness.answer(false));
        assert_eq!(status, 200);
        assert_eq!(body, r#"{"ready":true,"warn":["clock"],"quarantined":["acme/orders"]}"#);
    }

    #[test]
    fn a_warning_comes_and_goes_beside_the_others() {
        let readiness = up();
        readiness.warn("one".into());
        readiness.warn("two".into());
        assert_eq!(text(readiness.answer(false)).1, r#"{"ready":true,"warn":["one","two"]}"#);
        readiness.withdraw_warning("one");
        readiness.withdraw_warning("never given");
        assert_eq!(readiness.warnings(), ["two"]);
    }

    #[test]
    fn findings_replace_each_other_and_no_warning() {
        let readiness = up();
        readiness.warn("clock".into());
        readiness.set_findings(vec!["damage".into(), "size".into()]);
        assert_eq!(text(readiness.answer(false)).1, r#"{"ready":true,"warn":["clock","damage","size"]}"#);
        readiness.set_findings(vec!["size".into()]);
        assert_eq!(readiness.warnings(), ["clock", "size"]);
        readiness.withdraw_warning("size");
        readiness.withdraw_warning("clock");
        assert_eq!(readiness.warnings(), ["size"], "a finding goes when the next look does not find it");
        readiness.set_findings(Vec::new());
        assert_eq!(text(readiness.answer(false)).1, r#"{"ready":true,"warn":[]}"#);
    }

    #[test]
    fn shedding_writes_leaves_reads_ready() {
        for (part, reason) in [
            (Part::Brownout, Reason::Degraded),
            (Part::Drain, Reason::Degraded),
            (Part::Disk, Reason::Storage),
        ] {
            let readiness = up();
            readiness.set(part, false);
            assert_eq!(readiness.answer(false).0, 503);
            assert_eq!(readiness.answer(true).0, 200);
            let refusal = readiness.admit_send().unwrap_err();
            assert_eq!(refusal.reason, reason);
            assert_eq!(refusal.effect, ron_core::reason::Effect::None);
        }
    }

    #[test]
    fn a_full_disk_is_named_before_the_brownout_that_it_causes() {
        let readiness = up();
        readiness.set(Part::Brownout, false);
        readiness.set(Part::Disk, false);
        assert_eq!(readiness.admit_send().unwrap_err().reason, Reason::Storage);
        readiness.set(Part::Disk, true);
        assert_eq!(readiness.admit_send().unwrap_err().reason, Reason::Degraded);
    }

    #[test]
    fn drain_ends_receives_too() {
        let readiness = up();
        assert!(readiness.admit_recv().is_ok());
        readiness.start_drain();
        assert!(readiness.draining().is_cancelled());
        assert_eq!(readiness.admit_recv().unwrap_err().reason, Reason::Degraded);
        assert_eq!(readiness.missing(), ["drain"]);
    }
}
