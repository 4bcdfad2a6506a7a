//! Verdicts on webhooks: the signature, and what is read out of a body of 4 KiB.

use gungraun::{library_benchmark, library_benchmark_group};
use ron_core::ids::{Kid, ProviderName};
use ron_core::scheme::{
    HeaderList, InboundRequest, ProviderRules, ProviderSpec, SchemeSpec, ToSign, Verdict,
};
use ron_core::time::Millis;

const NOW: Millis = Millis(1_795_366_065_000);

struct Inbound {
    rules: ProviderRules,
    headers: HeaderList,
    body: Vec<u8>,
}

/// An event as providers send them.
fn body() -> Vec<u8> {
    let line =
        |n: u32| format!("{{\"sku\":\"A-{n:04}\",\"quantity\":{},\"note\":\"gift wrap, please\"}}", n % 7);
    let lines: Vec<String> = (0..66).map(line).collect();
    format!("{{\"id\":\"evt_17\",\"type\":\"order.paid\",\"lines\":[{}]}}", lines.join(",")).into_bytes()
}

/// A request that the provider signed.
fn signed(name: &str, spec: &str) -> Inbound {
    let spec: SchemeSpec = toml::from_str(spec).unwrap();
    let scheme = spec.compile(name).unwrap();
    let (pair, body) = (scheme.sample_pair(&[7; 32]).unwrap(), body());
    let key = scheme.signing_key(&pair.signing).unwrap();
    let to_sign = ToSign { id: Some("evt_17"), event_type: Some("order.paid"), ..ToSign::new(NOW, &body) };
    let mut headers: HeaderList = scheme.sign(&key, &to_sign).unwrap().headers.into_iter().collect();
    headers.push("Content-Type", "application/json");
    headers.push("User-Agent", "Provider-Hookshot/1.0");
    let secrets = vec![scheme.parse_secret(Kid::parse("k0").unwrap(), &pair.verifying).unwrap()];
    let name = ProviderName::parse("provider").unwrap();
    let rules = ProviderRules::new(ProviderSpec::new(name, scheme, secrets)).unwrap();
    Inbound { rules, headers, body }
}

/// A shipped scheme.
macro_rules! shipped {
    ($name:literal) => {
        signed($name, include_str!(concat!("../../config/schemes/", $name, ".toml")))
    };
}

#[library_benchmark]
#[bench::github(shipped!("github"))]
#[bench::stripe(shipped!("stripe"))]
#[bench::standard_webhooks(shipped!("standard_webhooks"))]
#[bench::shopify(shipped!("shopify"))]
#[bench::github_sha1_legacy(shipped!("github_sha1_legacy"))]
#[bench::discord_ed25519(shipped!("discord"))]
fn judge(inbound: Inbound) -> (Inbound, Verdict) {
    let request =
        InboundRequest { method: "POST", query: "", headers: &inbound.headers, body: &inbound.body };
    let verdict = inbound.rules.judge(&request, NOW);
    assert!(matches!(verdict, Verdict::Accept(_)));
    (inbound, verdict)
}

library_benchmark_group!(name = webhook, benchmarks = judge);
