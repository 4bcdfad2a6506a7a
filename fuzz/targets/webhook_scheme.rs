//! A scheme as an operator writes it: it compiles or says what is wrong, and one that compiles judges any request and
//! signs what it then takes.
//!
//! parser: actors/core/src/scheme/compile.rs
//! parser: actors/core/src/scheme/compile_answers.rs
//! parser: actors/core/src/scheme/template.rs
//! parser: actors/core/src/scheme/spec.rs
#![no_main]

use libfuzzer_sys::fuzz_target;
use ron_core::ids::{Kid, ProviderName};
use ron_core::scheme::{
    HeaderList, InboundRequest, Known, ProviderRules, ProviderSpec, SchemeSpec, ToSign, Verdict,
};
use ron_core::time::Millis;

const NOW: Millis = Millis(1_795_366_065_000);

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(spec) = toml::from_str::<SchemeSpec>(text) else { return };
    let scheme = match spec.compile("fuzzed") {
        Ok(scheme) => scheme,
        Err(problems) => return assert!(!problems.is_empty()),
    };
    let Some(pair) = scheme.sample_pair(&[7; 32]) else { return };
    let (Ok(kid), Ok(name)) = (Kid::parse("k"), ProviderName::parse("sample")) else { return };
    let Ok(secret) = scheme.parse_secret(kid, &pair.verifying) else { return };
    let known = Known {
        public_url: Some("https://node.example/in".to_owned()),
        principals: vec!["ours".to_owned()],
        audience: Some("https://node.example".to_owned()),
    };
    let spec = ProviderSpec { known: known.clone(), ..ProviderSpec::new(name, scheme.clone(), vec![secret]) };
    let Ok(rules) = ProviderRules::new(spec) else { return };
    let body =
        br#"{"id":"e1","type":"t","Type":"t","signature":{"token":"t"},"webhookTimestamp":1795366065000}"#;
    let Ok(key) = scheme.signing_key(&pair.signing) else { return };
    let request =
        ToSign { id: Some("e1"), event_type: Some("t"), known, query: "a=1", ..ToSign::new(NOW, body) };
    let Ok(signed) = scheme.sign(&key, &request) else { return };
    let headers: HeaderList = signed.headers.iter().map(|(name, value)| (name, value.clone())).collect();
    let request =
        InboundRequest { method: "POST", query: &signed.query, headers: &headers, body: &signed.body };
    // Whatever it makes of it, it makes of it twice.
    let verdict = rules.judge(&request, NOW);
    assert_eq!(verdict, rules.judge(&request, NOW));
    let unsigned = HeaderList::new();
    let request = InboundRequest { method: "POST", query: "", headers: &unsigned, body };
    assert!(matches!(rules.judge(&request, NOW), Verdict::Refuse(_)), "nothing was signed");
});
