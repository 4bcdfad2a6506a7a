use super::*;
use crate::ids::ContentHash;
use crate::message::{DedupClaim, Origin, OtherBody};
use crate::reason::Reason;
use crate::rotation::Window;

fn provider(scheme: Scheme) -> ProviderSpec {
    let pair = scheme.sample_pair(&[7; 32]).unwrap();
    let secrets = vec![scheme.parse_secret(kid("k0"), &pair.verifying).unwrap()];
    let name = ProviderName::parse("sample").unwrap();
    ProviderSpec::new(name, scheme, secrets)
}

fn problems(spec: ProviderSpec) -> Vec<String> {
    ProviderRules::new(spec).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn the_matching_secret_is_named_during_a_rotation() {
    for name in FAMILIAR {
        let scheme = shipped(name);
        let pairs = [
            scheme.sample_pair(&[1; 32]).unwrap(),
            scheme.sample_pair(&[2; 32]).unwrap(),
            scheme.sample_pair(&[3; 32]).unwrap(),
        ];
        let rules = rules_of(scheme.clone(), &[&pairs[0].verifying, &pairs[1].verifying]);
        for (place, pair) in pairs.iter().enumerate() {
            let key = scheme.signing_key(&pair.signing).unwrap();
            let to_sign = ToSign { id: Some("e"), ..ToSign::new(NOW, b"{}") };
            let verdict = judge(&rules, &scheme.sign(&key, &to_sign).unwrap().headers, b"{}", NOW);
            if place < 2 {
                assert_eq!(accepted(verdict).kid, kid(&format!("k{place}")), "{name}");
            } else {
                assert_eq!(refused(verdict).why, RejectReason::SignatureMismatch, "{name}");
            }
        }
    }
}

#[test]
fn a_secret_ends_with_its_time() {
    let scheme = shipped("github");
    let signed = Signed::new(scheme.clone(), b"{}");
    let mut spec = provider(scheme);
    let window = Window { not_before: Some(NOW), not_after: Some(NOW.plus(5)) };
    spec.secrets = spec.secrets.into_iter().map(|secret| secret.within(window)).collect();
    let rules = ProviderRules::new(spec).unwrap();
    accepted(judge(&rules, &signed.headers, b"{}", NOW));
    accepted(judge(&rules, &signed.headers, b"{}", NOW.plus(5)));
    for out in [Millis(NOW.0 - 1), NOW.plus(6)] {
        let rejection = refused(judge(&rules, &signed.headers, b"{}", out));
        assert_eq!(rejection.why, RejectReason::SecretOutOfTime, "whose it is, is known");
        assert_eq!((rejection.signer, rejection.refusal.reason), (Some(kid("k0")), Reason::SignatureInvalid));
        // a wrong signature is nobody's, in time or out of it
        let forged = judge(&rules, &signed.headers, b"{ }", out);
        assert_eq!(refused(forged).why, RejectReason::SignatureMismatch);
    }
}

#[test]
fn a_token_by_a_key_that_is_over_says_whose_it_is() {
    let scheme = shipped("messagebird");
    let mut spec = provider(scheme.clone());
    spec.known.public_url = Some("https://a.example/hook".to_owned());
    let window = Window { not_after: Some(NOW), ..Window::ALWAYS };
    spec.secrets = spec.secrets.into_iter().map(|secret| secret.within(window)).collect();
    let known = spec.known.clone();
    let rules = ProviderRules::new(spec).unwrap();
    let key = scheme.signing_key(&scheme.sample_pair(&[7; 32]).unwrap().signing).unwrap();
    let to_sign = ToSign { id: Some("e"), known, ..ToSign::new(NOW, b"{}") };
    let headers = scheme.sign(&key, &to_sign).unwrap().headers;
    accepted(judge(&rules, &headers, b"{}", NOW));
    let late = refused(judge(&rules, &headers, b"{}", NOW.plus(1)));
    assert_eq!((late.why, late.signer), (RejectReason::SecretOutOfTime, Some(kid("k0"))));
}

#[test]
fn a_certificate_ends_when_it_says_whatever_the_list_says() {
    let secret = shipped("github").parse_secret(kid("k0"), "secret").unwrap();
    let ends = |secret: &Secret| secret.listed().window.not_after;
    let (early, late) = (Some(NOW), Some(NOW.plus(9)));
    let of_certificate = secret.within(Window { not_after: early, ..Window::ALWAYS });
    assert_eq!(ends(&of_certificate.clone().within(Window { not_after: late, ..Window::ALWAYS })), early);
    assert_eq!(ends(&of_certificate.within(Window::ALWAYS)), early);
}

#[test]
fn dedup_keys_are_the_signed_unique_id_or_the_body() {
    let stripe = |body: &[u8]| Signed::new(shipped("stripe"), body).accepted().dedup;
    let first = stripe(br#"{"id":"evt_1","pending_webhooks":2}"#);
    assert_eq!(first.key, b"ievt_1");
    assert_eq!(first.same_key_other_body, OtherBody::Duplicate);
    assert_eq!(stripe(br#"{"id":"evt_1","pending_webhooks":1}"#), first);
    assert_ne!(stripe(br#"{"id":"evt_2"}"#).key, first.key);
    // no id: the body itself
    let bare = stripe(b"not json");
    assert_ne!(stripe(b"not json ").key, bare.key);
    assert_eq!(bare.key.len(), 33);

    let mut other = Signed::new(shipped("github"), b"{}");
    let github = other.accepted().dedup;
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"ron-wh/v1\0sample\0{}");
    assert_eq!(github.key[1..], hasher.finalize().as_bytes()[..]);
    let mut spec = provider(shipped("github"));
    spec.name = ProviderName::parse("another").unwrap();
    other.rules = ProviderRules::new(spec).unwrap();
    assert_ne!(other.accepted().dedup.key, github.key);
}

#[test]
fn a_dedup_claim_is_the_providers_own() {
    let dedup = Signed::new(shipped("stripe"), br#"{"id":"evt_1"}"#).accepted().dedup;
    let payload = ContentHash::of(b"x");
    let claim = dedup.claim(&ProviderName::parse("sample").unwrap(), &payload);
    let plain = DedupClaim::new(&Origin::Provider("sample".to_owned()), b"ievt_1", &payload, dedup.ttl_ms);
    assert_eq!((claim.key, claim.body, claim.window_ms), (plain.key, plain.body, plain.window_ms));
    assert_eq!(claim.same_key_other_body, OtherBody::Duplicate);
}

#[test]
fn unsigned_ids_count_only_if_the_operator_says_so() {
    let mut spec = provider(shipped("github"));
    spec.signed_only = false;
    let mut signed = Signed::new(shipped("github"), b"{}");
    signed.rules = ProviderRules::new(spec).unwrap();
    let got = signed.accepted();
    assert_eq!(got.dedup.key, b"ievt-1");
    assert_eq!(
        got.dedup.same_key_other_body,
        OtherBody::Conflict,
        "an unsigned id must not swallow an event"
    );
    assert!(got.unsigned_decided);
    signed.headers.remove(0);
    let without = signed.accepted();
    assert!(!without.unsigned_decided);
    assert_eq!(without.dedup.key[0], b'b');
}

#[test]
fn duplicates_are_remembered_long_enough() {
    let ttl = |name: &str| ProviderRules::new(provider(shipped(name))).unwrap().dedup_ttl_ms();
    assert_eq!(ttl("slack"), 660_000);
    assert_eq!(ttl("stripe"), 86_400_000);
    assert_eq!(ttl("github"), 86_400_000);
    let wider = ProviderSpec { tolerance_s: Some(3600), ..provider(shipped("slack")) };
    assert_eq!(ProviderRules::new(wider).unwrap().dedup_ttl_ms(), 7_260_000);
    let shorter = ProviderSpec { dedup_ttl_ms: Some(60_000), ..provider(shipped("github")) };
    assert_eq!(ProviderRules::new(shorter).unwrap().dedup_ttl_ms(), 60_000);
    let short = ProviderSpec { dedup_ttl_ms: Some(659_999), ..provider(shipped("slack")) };
    assert_eq!(problems(short), ["dedup_ttl: must be 660 s (2 × tolerance + 60 s) to 30 d"]);
}

#[test]
fn every_problem_of_a_provider_is_listed() {
    let mut spec = provider(shipped("github"));
    spec.secrets.clear();
    spec.tolerance_s = Some(0);
    spec.dedup_ttl_ms = Some(0);
    let found = problems(spec);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].starts_with("secrets: "), "{found:?}");
    let mut spec = provider(shipped("github"));
    spec.secrets.push(spec.secrets[0].clone());
    assert_eq!(problems(spec), ["secrets: has the kid `k0` twice; give each its own"]);
}

#[test]
fn only_post_brings_webhooks() {
    let signed = Signed::new(shipped("github"), b"{}");
    let headers = list(&signed.headers);
    let request = InboundRequest { method: "GET", query: "", headers: &headers, body: b"{}" };
    let rejection = refused(signed.rules.judge(&request, NOW));
    assert_eq!(rejection.refusal.reason.code(), "METHOD_NOT_ALLOWED");
    assert_eq!(signed.rules.precheck("GET", &headers, NOW), Err(rejection));
}

#[test]
fn ids_and_types_that_are_no_attribute_still_count() {
    let long = "x".repeat(FIELD_BYTES_MAX + 1);
    for id in [long.as_str(), "é", "a\\nb"] {
        let body = format!(r#"{{"id":"{id}","type":"{id}"}}"#);
        let got = Signed::new(shipped("stripe"), body.as_bytes()).accepted();
        assert_eq!((got.id, got.event_type, got.attrs.len()), (None, None, 2));
        assert_eq!(got.dedup.key[0], b'i');
    }
    let empty = Signed::new(shipped("stripe"), br#"{"id":"","type":null}"#).accepted();
    assert_eq!((empty.id, empty.dedup.key[0]), (None, b'b'));
}
