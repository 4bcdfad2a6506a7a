//! A webhook from a stranger, to each scheme that ships: it gets a refusal, never a panic, and is never taken. And one
//! of a provider that sends what it likes, rightly signed: the same verdict each time, whatever else comes with it.
//!
//! Input: the number of the scheme (and 128 for signed), then the query, headers as `Name: value`, an empty line, the
//! body.
//!
//! parser: actors/core/src/scheme/header.rs
//! parser: actors/core/src/scheme/judge.rs
//! parser: actors/core/src/scheme/jwt.rs
//! parser: actors/core/src/scheme/body.rs
//! parser: actors/core/src/scheme/base.rs
//! parser: actors/core/src/scheme/challenge.rs
//! parser: actors/core/src/scheme/verify.rs
//! parser: actors/core/src/scheme/checked.rs
#![no_main]

use libfuzzer_sys::fuzz_target;
use ron_core::ids::{ContentHash, Kid, ProviderName};
use ron_core::scheme::{
    HeaderList, InboundRequest, Known, ProviderRules, ProviderSpec, SchemeSpec, SigningKey, ToSign, Verdict,
};
use ron_core::time::Millis;
use std::sync::LazyLock;

include!(concat!(env!("OUT_DIR"), "/schemes.rs"));

const NOW: Millis = Millis(1_795_366_065_000);
const P256: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNNRaINXvVpiglSI8eNEc6wEA3F+g==";
const RSA: &str = include_str!("../../tests/vectors/keys/rsa_public.pem");

const RSA_PRIVATE: &str = include_str!("../../tests/vectors/keys/rsa.pem");

struct Sample {
    rules: ProviderRules,
    known: Known,
    /// None where only the provider can sign.
    key: Option<SigningKey>,
}

static SAMPLES: LazyLock<Vec<Sample>> = LazyLock::new(|| {
    let samples: Vec<Sample> = SCHEMES.iter().filter_map(|(name, text)| sample(name, text)).collect();
    assert_eq!(samples.len(), SCHEMES.len(), "a scheme is not fuzzed");
    samples
});

fn sample(name: &str, text: &str) -> Option<Sample> {
    let spec: SchemeSpec = toml::from_str(text).ok()?;
    let scheme = spec.compile(name).ok()?;
    let (secret, key) = match scheme.sample_pair(&[7; 32]) {
        Some(pair) => (pair.verifying.to_string(), scheme.signing_key(&pair.signing).ok()),
        None if name == "sendgrid" => (P256.to_owned(), None),
        None => (RSA.to_owned(), scheme.signing_key(RSA_PRIVATE).ok()),
    };
    let secrets = vec![scheme.parse_secret(Kid::parse("k").ok()?, &secret).ok()?];
    let known = Known {
        public_url: Some("https://node.example/webhooks/sample".to_owned()),
        principals: vec!["ours".to_owned()],
        audience: Some("https://node.example".to_owned()),
    };
    let provider = ProviderSpec::new(ProviderName::parse("sample").ok()?, scheme, secrets);
    let rules = ProviderRules::new(ProviderSpec { known: known.clone(), ..provider }).ok()?;
    Some(Sample { rules, known, key })
}

/// With `PLANTED=1` it panics in a place that is hard to get to: `.ci/fuzz-planted` wants it found.
static PLANTED: std::sync::LazyLock<bool> =
    std::sync::LazyLock::new(|| std::env::var_os("PLANTED").is_some());

/// The provider signs what the input says.
fn signed(sample: &Sample, query: &str, headers: &HeaderList, body: &[u8]) {
    let Some(key) = &sample.key else { return };
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers: Vec<(String, String)> =
        headers.iter().map(|(name, value)| (name.to_owned(), text(value))).collect();
    // An event's own id and type, unless the input has them.
    let own = (body.len() % 2 == 0).then_some("e1");
    let known = sample.known.clone();
    let request =
        ToSign { id: own, event_type: own, known, query, headers: &headers, ..ToSign::new(NOW, body) };
    let Ok(signed) = sample.rules.scheme().sign(key, &request) else { return };
    let mut headers: HeaderList = signed.headers.iter().map(|(name, value)| (name, value.clone())).collect();
    let judge = |headers: &HeaderList| {
        let (query, body) = (&signed.query, &signed.body);
        sample.rules.judge(&InboundRequest { method: "POST", query, headers, body }, NOW)
    };
    let verdict = judge(&headers);
    headers.push("x-of-no-concern", b"1".to_vec());
    assert_eq!(verdict, judge(&headers), "a header that no scheme reads decides");
    if let Verdict::Accept(accepted) = verdict {
        assert_eq!(accepted.kid.as_str(), "k");
        assert!(accepted.attrs.iter().all(|(_, value)| value.len() <= 256));
        let id = accepted.id.as_ref().map_or(0, |id| id.text.len());
        assert!(!(*PLANTED && id == 11), "planted");
        let _ = accepted.dedup.claim(sample.rules.name(), &ContentHash::of(&signed.body));
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((number, rest)) = input.split_first() else { return };
    let sample = &SAMPLES[usize::from(*number & 0x7F) % SAMPLES.len()];
    let rules = &sample.rules;
    let mut lines = rest.splitn(2, |byte| *byte == b'\n');
    let query = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let mut rest = lines.next().unwrap_or_default();
    let mut headers = HeaderList::new();
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line = &rest[..end];
        rest = &rest[end + 1..];
        if line.is_empty() {
            break;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = String::from_utf8_lossy(&line[..colon]);
        headers.push(&name, line[colon + 1..].trim_ascii().to_vec());
    }
    if *number & 0x80 != 0 {
        return signed(sample, &query, &headers, rest);
    }
    for method in ["POST", "GET"] {
        let early = rules.precheck(method, &headers, NOW);
        let request = InboundRequest { method, query: &query, headers: &headers, body: rest };
        match rules.judge(&request, NOW) {
            Verdict::Refuse(rejection) => {
                assert!(method == "GET" || early.is_ok() || early == Err(rejection), "two verdicts");
            }
            Verdict::Handshake(_) => assert_eq!(method, "GET", "a signature was forged"),
            Verdict::Accept(_) => assert_eq!(method, "", "a signature was forged"),
        }
    }
});
