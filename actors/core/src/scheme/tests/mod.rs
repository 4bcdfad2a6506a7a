//! Tests of the whole path: shipped schemes, the vector files, tampering, custom schemes, arbitrary input.

mod catalogue;
mod custom;
mod handshakes;
mod properties;
mod rules;
mod tamper;

use super::vectors::Vector;
use super::*;
use crate::ids::ProviderName;
use crate::time::Millis;
use std::path::PathBuf;

/// Every shipped scheme.
const SHIPPED: &[&str] =
    &["discord", "github", "github_sha1_legacy", "shopify", "slack", "standard_webhooks", "stripe", "svix"];

/// The moment of tests that bring none of their own.
const NOW: Millis = Millis(1_700_000_000_000);

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn spec(text: &str) -> SchemeSpec {
    toml::from_str(text).unwrap_or_else(|error| panic!("{error}"))
}

fn shipped(name: &str) -> Scheme {
    let spec = spec(&read(&format!("config/schemes/{name}.toml")));
    spec.compile(name).unwrap_or_else(|problems| panic!("{name}: {problems:?}"))
}

fn custom(text: &str) -> Scheme {
    spec(text).compile("custom").unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn kid(text: &str) -> Kid {
    Kid::parse(text).unwrap()
}

fn vectors() -> Vec<Vector> {
    serde_json::from_str(&read("tests/vectors/webhooks.json")).unwrap()
}

/// The shipped scheme of a vector.
fn scheme_of(vector: &Vector) -> Option<Scheme> {
    let name = vector.profile.as_deref().unwrap_or(&vector.provider);
    SHIPPED.contains(&name).then(|| shipped(name))
}

fn rules_of(scheme: Scheme, secrets: &[&str]) -> ProviderRules {
    let secrets = secrets
        .iter()
        .enumerate()
        .map(|(place, text)| scheme.parse_secret(kid(&format!("k{place}")), text).unwrap())
        .collect();
    let name = ProviderName::parse("sample").unwrap();
    let spec =
        ProviderSpec { name, scheme, secrets, tolerance_s: None, dedup_ttl_ms: None, signed_only: true };
    ProviderRules::new(spec).unwrap()
}

/// A request signed as the provider would, with a throw-away secret.
struct Signed {
    rules: ProviderRules,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Signed {
    fn new(scheme: Scheme, body: &[u8]) -> Signed {
        let pair = scheme.sample_pair(&[7; 32]);
        let key = scheme.signing_key(&pair.signing).unwrap();
        let to_sign = ToSign { id: Some("evt-1"), event_type: Some("thing.done"), at: NOW, body };
        let headers = scheme.sign(&key, &to_sign).unwrap();
        Signed { rules: rules_of(scheme, &[&pair.verifying]), headers, body: body.to_vec() }
    }

    fn judge(&self) -> Verdict {
        judge(&self.rules, &self.headers, &self.body, NOW)
    }

    fn accepted(&self) -> Accepted {
        accepted(self.judge())
    }
}

fn list(headers: &[(String, String)]) -> HeaderList {
    headers.iter().map(|(name, value)| (name, value.clone())).collect()
}

fn judge(rules: &ProviderRules, headers: &[(String, String)], body: &[u8], now: Millis) -> Verdict {
    rules.judge(&InboundRequest { method: "POST", headers: &list(headers), body }, now)
}

fn accepted(verdict: Verdict) -> Accepted {
    match verdict {
        Verdict::Accept(accepted) => *accepted,
        other => panic!("{other:?}"),
    }
}

fn refused(verdict: Verdict) -> Rejection {
    match verdict {
        Verdict::Refuse(rejection) => rejection,
        other => panic!("{other:?}"),
    }
}

fn handshake(verdict: Verdict) -> Handshake {
    match verdict {
        Verdict::Handshake(handshake) => handshake,
        other => panic!("{other:?}"),
    }
}
