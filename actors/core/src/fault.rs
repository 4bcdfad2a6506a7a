//! Faults that an operator injects into a node on purpose, each for a time (`ronctl chaos`): what may be asked for,
//! which are in force, and what they add up to. Never breaks anything itself.

use crate::reason::{Reason, Refusal};
use crate::time::Millis;
use serde::{Deserialize, Serialize};

/// Faults in force at once.
pub const FAULTS_MAX: usize = 16;
/// The longest delay of a sync, ms.
pub const LATENCY_MAX_MS: u64 = 10_000;
/// The longest time that a fault lasts, ms.
pub const LASTS_MAX_MS: u64 = 3_600_000;
/// How long one lasts unless told, ms.
const LASTS_MS: u64 = 60_000;
/// What a sync takes longer unless told, ms: "+300 ms upstream latency".
const LATENCY_MS: u64 = 300;
/// How many syncs fail unless told, %: "5 % error bursts".
const ERROR_PERCENT: u8 = 5;
/// How much of the processors is used up unless told, %.
const CPU_PERCENT: u8 = 60;

/// The service that is meant, as operators know them. They share one process and one store: what slows the store slows
/// both. It matters for what is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The mailbox: queues and the store.
    SvcMailbox,
    /// The webhooks: verifiers.
    SvcInterop,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Latency,
    Error,
    Cpu,
    Kill,
}

/// The body of a request to inject a fault. What is left out has the default of its fault.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InjectRequest {
    target: Target,
    fault: Kind,
    ms: Option<u64>,
    percent: Option<u8>,
    child: Option<String>,
    duration_ms: Option<u64>,
}

/// A fault that lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "fault")]
pub enum Fault {
    /// Each sync of the store takes so much longer.
    Latency {
        /// In milliseconds.
        ms: u64,
    },
    /// Of the store's syncs so many fail with an I/O error.
    Error {
        /// Of a hundred.
        percent: u8,
    },
    /// So much of every processor is used up.
    Cpu {
        /// Of a hundred.
        percent: u8,
    },
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Put a fault in force for a time.
    Inject {
        /// Which.
        fault: Fault,
        /// For how long, ms.
        lasts_ms: u64,
    },
    /// Kill an actor, once.
    Kill {
        /// A queue as `TENANT/TOPIC`, `store`, or a provider.
        child: String,
    },
}

impl InjectRequest {
    /// What it asks of whom.
    ///
    /// # Errors
    /// MALFORMED for a field that its fault does not have, or whose value is out of range.
    pub fn order(self) -> Result<(Target, Order), Refusal> {
        let InjectRequest { target, fault: kind, ms, percent, child, duration_ms } = self;
        let strays = [
            ("ms", ms.is_some() && kind != Kind::Latency),
            ("percent", percent.is_some() && !matches!(kind, Kind::Error | Kind::Cpu)),
            ("child", child.is_some() && kind != Kind::Kill),
            ("duration_ms", duration_ms.is_some() && kind == Kind::Kill),
        ];
        if let Some((field, _)) = strays.into_iter().find(|(_, stray)| *stray) {
            return Err(malformed(format!("{field}: this fault has none")));
        }
        let within = |field, value: u64, most: u64, default: u64| match value {
            0 => Err(malformed(format!("{field}: 1 to {most}, or leave it out for {default}"))),
            value if value > most => Err(malformed(format!("{field}: at most {most}"))),
            value => Ok(value),
        };
        let percent_of = |default: u8| {
            let percent = within("percent", percent.unwrap_or(default).into(), 100, default.into())?;
            Ok::<u8, Refusal>(u8::try_from(percent).unwrap_or(100))
        };
        let fault = match kind {
            Kind::Kill => {
                let wanted =
                    || malformed("child: which actor: TENANT/TOPIC, `store`, or a provider".to_owned());
                return Ok((target, Order::Kill { child: child.ok_or_else(wanted)? }));
            }
            Kind::Latency => {
                Fault::Latency { ms: within("ms", ms.unwrap_or(LATENCY_MS), LATENCY_MAX_MS, LATENCY_MS)? }
            }
            Kind::Error => Fault::Error { percent: percent_of(ERROR_PERCENT)? },
            Kind::Cpu => Fault::Cpu { percent: percent_of(CPU_PERCENT)? },
        };
        let lasts_ms = within("duration_ms", duration_ms.unwrap_or(LASTS_MS), LASTS_MAX_MS, LASTS_MS)?;
        Ok((target, Order::Inject { fault, lasts_ms }))
    }
}

fn malformed(text: String) -> Refusal {
    Refusal::new(Reason::Malformed, text)
}

/// A fault in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Injected {
    /// Its number, for [`Faults::clear`].
    pub id: u32,
    /// Whom it was asked for.
    pub target: Target,
    /// What it is.
    pub fault: Fault,
    /// When it ends by itself, node time.
    pub until: Millis,
}

/// What all faults in force add up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// What each sync takes longer, ms.
    pub latency_ms: u64,
    /// Of a hundred syncs, so many fail.
    pub error_percent: u8,
    /// Of each processor, so much is used up, %.
    pub cpu_percent: u8,
}

/// The faults in force.
#[derive(Debug, Default)]
pub struct Faults {
    all: Vec<Injected>,
    last_id: u32,
}

impl Faults {
    /// Puts one in force.
    ///
    /// # Errors
    /// BACKPRESSURE when [`FAULTS_MAX`] are.
    pub fn inject(
        &mut self,
        now: Millis,
        target: Target,
        fault: Fault,
        lasts_ms: u64,
    ) -> Result<Injected, Refusal> {
        self.end(now);
        if self.all.len() >= FAULTS_MAX {
            let text = format!("{FAULTS_MAX} faults are in force: clear some first");
            return Err(Refusal::new(Reason::Backpressure, text));
        }
        self.last_id += 1;
        let injected = Injected { id: self.last_id, target, fault, until: now.plus(lasts_ms) };
        self.all.push(injected);
        Ok(injected)
    }

    /// Ends those whose time is over.
    pub fn end(&mut self, now: Millis) {
        self.all.retain(|injected| injected.until > now);
    }

    /// Ends one, or all; how many that were.
    pub fn clear(&mut self, id: Option<u32>) -> usize {
        let before = self.all.len();
        self.all.retain(|injected| id.is_some_and(|id| injected.id != id));
        before - self.all.len()
    }

    /// Those in force, oldest first.
    #[must_use]
    pub fn all(&self) -> &[Injected] {
        &self.all
    }

    /// What they add up to.
    #[must_use]
    pub fn sum(&self) -> Sum {
        let mut sum = Sum::default();
        for injected in &self.all {
            match injected.fault {
                Fault::Latency { ms } => sum.latency_ms = (sum.latency_ms + ms).min(LATENCY_MAX_MS),
                Fault::Error { percent } => sum.error_percent = (sum.error_percent + percent).min(100),
                Fault::Cpu { percent } => sum.cpu_percent = (sum.cpu_percent + percent).min(100),
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(json: &str) -> Result<(Target, Order), Refusal> {
        serde_json::from_str::<InjectRequest>(json).unwrap().order()
    }

    #[test]
    fn what_is_left_out_has_the_default_of_its_fault() {
        let lasts_ms = 60_000;
        for (json, fault) in [
            (r#"{"target":"svc-mailbox","fault":"latency"}"#, Fault::Latency { ms: 300 }),
            (r#"{"target":"svc-interop","fault":"error"}"#, Fault::Error { percent: 5 }),
            (r#"{"target":"svc-mailbox","fault":"cpu"}"#, Fault::Cpu { percent: 60 }),
        ] {
            assert_eq!(order(json).unwrap().1, Order::Inject { fault, lasts_ms }, "{json}");
        }
        let kill = order(r#"{"target":"svc-interop","fault":"kill","child":"github"}"#).unwrap();
        assert_eq!(kill, (Target::SvcInterop, Order::Kill { child: "github".into() }));
    }

    #[test]
    fn a_field_out_of_range_or_out_of_place_is_named() {
        for (fields, named) in [
            (r#""fault":"latency","percent":5"#, "percent"),
            (r#""fault":"latency","ms":0"#, "ms"),
            (r#""fault":"latency","ms":10001"#, "ms"),
            (r#""fault":"cpu","percent":101"#, "percent"),
            (r#""fault":"cpu","ms":1"#, "ms"),
            (r#""fault":"error","duration_ms":3600001"#, "duration_ms"),
            (r#""fault":"kill""#, "child"),
            (r#""fault":"kill","child":"store","duration_ms":1"#, "duration_ms"),
        ] {
            let refusal = order(&format!(r#"{{"target":"svc-mailbox",{fields}}}"#)).unwrap_err();
            assert!(refusal.text.starts_with(&format!("{named}:")), "{fields}: {}", refusal.text);
        }
    }

    #[test]
    fn faults_add_up_and_end_by_time_or_by_number() {
        let mut faults = Faults::default();
        let at = |ms: u64| Millis(1_000 + ms);
        let mut inject =
            |fault, lasts_ms| faults.inject(at(0), Target::SvcMailbox, fault, lasts_ms).unwrap().id;
        let slow = inject(Fault::Latency { ms: 300 }, 100);
        inject(Fault::Latency { ms: 9_900 }, 50);
        inject(Fault::Error { percent: 60 }, 100);
        inject(Fault::Error { percent: 60 }, 100);
        assert_eq!(faults.sum(), Sum { latency_ms: 10_000, error_percent: 100, cpu_percent: 0 });
        faults.end(at(50));
        assert_eq!(faults.sum().latency_ms, 300);
        assert_eq!((faults.clear(Some(slow)), faults.clear(Some(slow))), (1, 0));
        assert_eq!(faults.sum().latency_ms, 0);
        assert_eq!((faults.clear(None), faults.all().len()), (2, 0));
    }

    #[test]
    fn there_are_not_more_than_can_be_overlooked() {
        let mut faults = Faults::default();
        let mut inject = |now| {
            faults
                .inject(Millis(now), Target::SvcMailbox, Fault::Cpu { percent: 1 }, 10)
                .map(|fault| fault.id)
        };
        for id in 1..=FAULTS_MAX {
            assert_eq!(inject(5).unwrap() as usize, id);
        }
        assert_eq!(inject(5).unwrap_err().reason, Reason::Backpressure);
        assert_eq!(inject(15).unwrap() as usize, FAULTS_MAX + 1, "the others are over");
    }
}
