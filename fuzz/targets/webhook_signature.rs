//! A webhook from a stranger, to each scheme that ships: it gets a refusal, never a panic, and is never taken.
//!
//! Input: the number of the scheme, then the query, headers as `Name: value`, an empty line, the body.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ron_core::ids::{Kid, ProviderName};
use ron_core::scheme::{HeaderList, InboundRequest, Known, ProviderRules, ProviderSpec, SchemeSpec, Verdict};
use ron_core::time::Millis;
use std::sync::LazyLock;

include!(concat!(env!("OUT_DIR"), "/schemes.rs"));

const NOW: Millis = Millis(1_795_366_065_000);
const P256: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNNRaINXvVpiglSI8eNEc6wEA3F+g==";
const RSA: &str = include_str!("../../tests/vectors/keys/rsa_public.pem");

static RULES: LazyLock<Vec<ProviderRules>> = LazyLock::new(|| {
    let rules: Vec<ProviderRules> = SCHEMES.iter().filter_map(|(name, text)| rules(name, text)).collect();
    assert_eq!(rules.len(), SCHEMES.len(), "a scheme is not fuzzed");
    rules
});

fn rules(name: &str, text: &str) -> Option<ProviderRules> {
    let spec: SchemeSpec = toml::from_str(text).ok()?;
    let scheme = spec.compile(name).ok()?;
    let secret = match scheme.sample_pair(&[7; 32]) {
        Some(pair) => pair.verifying.to_string(),
        None if name == "sendgrid" => P256.to_owned(),
        None => RSA.to_owned(),
    };
    let secrets = vec![scheme.parse_secret(Kid::parse("k").ok()?, &secret).ok()?];
    let known = Known {
        public_url: Some("https://node.example/webhooks/sample".to_owned()),
        principals: vec!["ours".to_owned()],
        audience: Some("https://node.example".to_owned()),
    };
    let provider = ProviderSpec::new(ProviderName::parse("sample").ok()?, scheme, secrets);
    ProviderRules::new(ProviderSpec { known, ..provider }).ok()
}

fuzz_target!(|input: &[u8]| {
    let Some((number, rest)) = input.split_first() else { return };
    let rules = &RULES[usize::from(*number) % RULES.len()];
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
