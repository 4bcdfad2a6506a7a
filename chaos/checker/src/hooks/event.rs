//! An event of a provider, and the request that carries it.

use crate::node::{GITHUB_SECRET, GITHUB_TOPIC, STRIPE_SECRET, STRIPE_TOPIC};
use crate::sign;

/// Who sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// Signs the body, names no time.
    Github,
    /// Signs the time and the body; names an id in the body.
    Stripe,
}

impl Provider {
    /// Where it sends to.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Provider::Github => "/webhooks/github",
            Provider::Stripe => "/webhooks/stripe",
        }
    }

    /// Where its events end up.
    #[must_use]
    pub fn topic(self) -> &'static str {
        match self {
            Provider::Github => GITHUB_TOPIC,
            Provider::Stripe => STRIPE_TOPIC,
        }
    }

    /// Its name in the configuration, and in the attribute `webhook-provider`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Provider::Github => "github",
            Provider::Stripe => "stripe",
        }
    }
}

/// One event: number `n` of run `run`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Whose.
    pub provider: Provider,
    /// Unlike any other's.
    pub id: String,
    /// What is sent, the same each time.
    pub body: Vec<u8>,
}

impl Event {
    /// Event number `n`; every other one is Stripe's.
    #[must_use]
    pub fn new(run: u64, n: usize) -> Event {
        let provider = if n.is_multiple_of(2) { Provider::Github } else { Provider::Stripe };
        let id = format!("evt_{run:016x}_{n}");
        let body = match provider {
            Provider::Github => format!(
                r#"{{"action":"opened","delivery":"{id}","repository":{{"id":{n},"full_name":"acme/{n}"}},"filler":"{}"}}"#,
                "g".repeat(n % 700)
            ),
            Provider::Stripe => format!(
                r#"{{"id":"{id}","object":"event","type":"charge.succeeded","data":{{"object":{{"amount":{n}}}}},"filler":"{}"}}"#,
                "s".repeat(n % 900)
            ),
        };
        Event { provider, id, body: body.into_bytes() }
    }

    /// The header that proves the event when it is sent at `unix_s`.
    #[must_use]
    pub fn signature(&self, unix_s: u64) -> (&'static str, String) {
        match self.provider {
            Provider::Github => ("X-Hub-Signature-256", sign::github(GITHUB_SECRET, &self.body)),
            Provider::Stripe => ("Stripe-Signature", sign::stripe(STRIPE_SECRET, unix_s, &self.body)),
        }
    }

    /// As [`Event::signature`], wrong in its last digit: only the verification itself can tell.
    #[must_use]
    pub fn forged(&self, unix_s: u64) -> (&'static str, String) {
        let (name, mut value) = self.signature(unix_s);
        let last = value.pop();
        value.push(if last == Some('0') { '1' } else { '0' });
        (name, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_unlike_the_others_and_forged_ones_look_right() {
        let (first, second) = (Event::new(7, 0), Event::new(7, 1));
        assert_ne!(first.id, second.id);
        assert_ne!(first.body, Event::new(8, 0).body);
        assert_eq!((first.provider, second.provider), (Provider::Github, Provider::Stripe));
        for event in [first, second] {
            let (right, wrong) = (event.signature(1_700_000_000), event.forged(1_700_000_000));
            assert_eq!((right.0, right.1.len()), (wrong.0, wrong.1.len()));
            assert_ne!(right.1, wrong.1);
            assert_eq!(event.signature(1_700_000_000), right);
            assert!(serde_json::from_slice::<serde_json::Value>(&event.body).is_ok());
        }
    }
}
