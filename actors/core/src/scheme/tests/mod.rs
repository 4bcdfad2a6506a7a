//! Tests of the whole path: shipped schemes, the vector files, tampering, custom schemes, arbitrary input.

mod bytes;
mod catalogue;
mod challenges;
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

/// Schemes that sign the body in a header, with an id and a type: what is tested of all of them at once.
const FAMILIAR: &[&str] =
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

/// Vectors that vendors or others published.
fn published() -> Vec<Vector> {
    serde_json::from_str(&read("tests/vectors/webhooks.json")).unwrap()
}

/// The published ones, and our own for what nobody publishes.
fn vectors() -> Vec<Vector> {
    let own: Vec<Vector> = serde_json::from_str(&read("tests/vectors/own.json")).unwrap();
    [published(), own].concat()
}

/// Every shipped scheme, by name.
fn catalogue() -> Vec<(String, SchemeSpec)> {
    let mut all: Vec<_> = std::fs::read_dir(root().join("config/schemes"))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, spec(&std::fs::read_to_string(path).unwrap()))
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// The shipped scheme of a vector, and its name.
fn scheme_of(vector: &Vector, all: &[(String, SchemeSpec)]) -> (String, Scheme) {
    let (name, spec) = vector.choose(all).unwrap_or_else(|| panic!("{}: no scheme", vector.id));
    let scheme = vector.fit(spec).compile(name);
    (name.clone(), scheme.unwrap_or_else(|problems| panic!("{}: {problems:?}", vector.id)))
}

fn rules_of(scheme: Scheme, secrets: &[&str]) -> ProviderRules {
    let secrets = secrets
        .iter()
        .enumerate()
        .map(|(place, text)| scheme.parse_secret(kid(&format!("k{place}")), text).unwrap())
        .collect();
    let name = ProviderName::parse("sample").unwrap();
    ProviderRules::new(ProviderSpec { known: known(), ..ProviderSpec::new(name, scheme, secrets) }).unwrap()
}

/// What node and provider know of each other in tests.
fn known() -> Known {
    Known {
        public_url: Some("https://node.example/webhooks/sample".to_owned()),
        principals: vec!["our-account".to_owned()],
        audience: Some("https://node.example".to_owned()),
    }
}

/// A request signed as the provider would, with a throw-away secret.
struct Signed {
    rules: ProviderRules,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Signed {
    fn new(scheme: Scheme, body: &[u8]) -> Signed {
        let pair = scheme.sample_pair(&[7; 32]).unwrap();
        let key = scheme.signing_key(&pair.signing).unwrap();
        let to_sign = ToSign { id: Some("evt-1"), event_type: Some("thing.done"), ..ToSign::new(NOW, body) };
        let headers = scheme.sign(&key, &to_sign).unwrap().headers;
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
    rules.judge(&InboundRequest { method: "POST", query: "", headers: &list(headers), body }, now)
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
