//! What an attempt came to.

use std::fmt;

/// The part of an attempt that it ended in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Resolving the name, and judging its addresses.
    Dns,
    /// Connecting.
    Tcp,
    /// Shaking hands.
    Tls,
    /// Sending the request and reading the answer.
    Http,
}

impl Phase {
    /// As logs name it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Phase::Dns => "dns",
            Phase::Tcp => "tcp",
            Phase::Tls => "tls",
            Phase::Http => "http",
        }
    }
}

/// Why an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The target's address is forbidden; nothing was connected to.
    Ssrf,
    /// The time was over in this phase.
    Timeout(Phase),
    /// The phase itself failed.
    Broken(Phase),
    /// A redirect, which is never followed.
    Redirect(u16),
    /// Any other answer.
    Status(u16),
}

/// What is to be done about an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The endpoint has it: ack.
    Delivered,
    /// Try again by the schedule.
    Failed(Failure),
    /// The endpoint will never take this message: to the dead letters at once.
    Terminal(u16),
    /// 410: the endpoint wants nothing any more. It is disabled, and the message stays.
    Gone,
}

/// Statuses that say nothing of the endpoint's health, only of one message, are those below 500 but for these.
const ABOUT_THE_ENDPOINT: [u16; 8] = [401, 402, 403, 404, 405, 408, 425, 429];

impl Outcome {
    /// Judges the status of an answer that came in time. `terminal`: statuses after which an operator wants no retry.
    #[must_use]
    pub fn of_status(status: u16, terminal: &[u16]) -> Outcome {
        match status {
            200..=299 => Outcome::Delivered,
            410 => Outcome::Gone,
            _ if terminal.contains(&status) => Outcome::Terminal(status),
            300..=399 => Outcome::Failed(Failure::Redirect(status)),
            _ => Outcome::Failed(Failure::Status(status)),
        }
    }

    /// Whether the endpoint, and not the message, is at fault: what counts for its breaker. `None` = it says nothing
    /// about the endpoint.
    #[must_use]
    pub fn endpoint_failed(self) -> Option<bool> {
        match self {
            Outcome::Delivered => Some(false),
            Outcome::Terminal(_) => None,
            Outcome::Failed(Failure::Status(status))
                if (400..500).contains(&status) && !ABOUT_THE_ENDPOINT.contains(&status) =>
            {
                None
            }
            Outcome::Failed(_) | Outcome::Gone => Some(true),
        }
    }

    /// Every label there is, for counters that must exist at 0.
    pub const LABELS: [&'static str; 12] = [
        "delivered",
        "ssrf",
        "timeout",
        "dns",
        "tcp",
        "tls",
        "http",
        "redirect",
        "status_4xx",
        "status_5xx",
        "terminal",
        "gone",
    ];

    /// The `result` label of metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Outcome::Delivered => "delivered",
            Outcome::Failed(Failure::Ssrf) => "ssrf",
            Outcome::Failed(Failure::Timeout(_)) => "timeout",
            Outcome::Failed(Failure::Broken(phase)) => phase.label(),
            Outcome::Failed(Failure::Redirect(_)) => "redirect",
            Outcome::Failed(Failure::Status(400..=499)) => "status_4xx",
            Outcome::Failed(Failure::Status(_)) => "status_5xx",
            Outcome::Terminal(_) => "terminal",
            Outcome::Gone => "gone",
        }
    }
}

/// The text of a dead letter and of a log line: a code, then what it was.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Delivered => f.write_str("delivered"),
            Outcome::Failed(Failure::Ssrf) => f.write_str("SSRF: a forbidden address"),
            Outcome::Failed(Failure::Timeout(phase)) => write!(f, "TIMEOUT in {}", phase.label()),
            Outcome::Failed(Failure::Broken(phase)) => write!(f, "{} failed", phase.label()),
            Outcome::Failed(Failure::Redirect(status)) => write!(f, "REDIRECT {status} is not followed"),
            Outcome::Failed(Failure::Status(status)) => write!(f, "status {status}"),
            Outcome::Terminal(status) => write!(f, "status {status} is final"),
            Outcome::Gone => f.write_str("status 410: the endpoint is gone"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_2xx_is_delivered_and_nothing_is_followed() {
        for status in 100..=999_u16 {
            let outcome = Outcome::of_status(status, &[422, 301, 410, 200]);
            let expect = match status {
                200..=299 => Outcome::Delivered,
                410 => Outcome::Gone,
                422 | 301 => Outcome::Terminal(status),
                300..=399 => Outcome::Failed(Failure::Redirect(status)),
                _ => Outcome::Failed(Failure::Status(status)),
            };
            assert_eq!(outcome, expect, "{status}");
            assert!(Outcome::LABELS.contains(&outcome.label()), "{status}");
        }
        assert!(Outcome::of_status(307, &[]).to_string().starts_with("REDIRECT"));
    }

    #[test]
    fn every_failure_has_a_label_and_a_code() {
        let phases = [Phase::Dns, Phase::Tcp, Phase::Tls, Phase::Http];
        let failures = phases.iter().flat_map(|phase| [Failure::Timeout(*phase), Failure::Broken(*phase)]);
        for failure in failures.chain([Failure::Ssrf]) {
            let outcome = Outcome::Failed(failure);
            assert!(Outcome::LABELS.contains(&outcome.label()), "{outcome}");
            assert_eq!(outcome.endpoint_failed(), Some(true), "{outcome}");
        }
        assert!(Outcome::Failed(Failure::Ssrf).to_string().starts_with(super::super::Ssrf::CODE));
    }

    #[test]
    fn a_message_that_is_not_liked_is_not_the_endpoints_fault() {
        let verdict = |status| Outcome::of_status(status, &[]).endpoint_failed();
        assert!([400, 409, 413, 415, 422].iter().all(|status| verdict(*status).is_none()));
        assert!([401, 403, 404, 408, 410, 429, 500, 503, 301].iter().all(|s| verdict(*s) == Some(true)));
        assert_eq!(verdict(204), Some(false));
    }
}
