use super::super::vectors::Expected;
use super::*;
use crate::message::OtherBody;

#[test]
fn ships_exactly_the_listed_schemes() {
    let mut files: Vec<String> = std::fs::read_dir(root().join("config/schemes"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap().replace(".toml", ""))
        .collect();
    files.sort();
    assert_eq!(files, SHIPPED);
}

#[test]
fn every_vector_of_the_shipped_schemes_gets_its_verdict_and_its_reason() {
    let mut run = 0;
    for vector in vectors() {
        let Some(scheme) = scheme_of(&vector) else { continue };
        let outcome = vector.run(&scheme).unwrap();
        assert_eq!(outcome.got, vector.expected, "{}: {outcome:?}", vector.id);
        assert_eq!(outcome.reason, vector.reason.as_deref(), "{}", vector.id);
        run += 1;
    }
    assert_eq!(run, 53, "vectors of github, stripe, slack, standard_webhooks, svix, shopify and discord");
}

#[test]
fn a_shipped_scheme_names_the_vectors_that_prove_it() {
    for name in SHIPPED {
        let scheme = shipped(name);
        let proven = |vector: &&Vector| {
            let profile = vector.profile.as_ref().map(|profile| format!("{}/{profile}", vector.provider));
            let wanted = profile.unwrap_or_else(|| vector.provider.clone());
            scheme.vector_providers().contains(&wanted) && vector.expected == Expected::Accept
        };
        assert!(vectors().iter().any(|vector| proven(&vector)), "{name}");
    }
}

#[test]
fn header_prefix_can_be_replaced() {
    let mut svix = spec(&read("config/schemes/standard_webhooks.toml"));
    svix.header_prefix = "svix-".to_owned();
    let svix = svix.compile("standard_webhooks").unwrap();
    let mut run = 0;
    for vector in vectors().iter().filter(|vector| vector.header_prefix.as_deref() == Some("svix-")) {
        assert_eq!(vector.run(&svix).unwrap().got, vector.expected, "{}", vector.id);
        run += 1;
    }
    assert!(run >= 9, "{run}");
}

#[test]
fn what_the_provider_signs_is_accepted() {
    for name in SHIPPED {
        let signed = Signed::new(shipped(name), br#"{"id":"evt-1","event_id":"evt-1","type":"thing.done"}"#);
        let got = signed.accepted();
        assert_eq!(got.kid, kid("k0"), "{name}");
        let id_is_signed = !["github", "github_sha1_legacy", "shopify"].contains(name);
        assert_eq!(got.id, Some(Field { text: "evt-1".to_owned(), signed: id_is_signed }), "{name}");
        let event_type = got.event_type.unwrap();
        assert_eq!((event_type.text.as_str(), event_type.signed), ("thing.done", id_is_signed), "{name}");
        let prefix = if id_is_signed { "webhook" } else { "webhook-unsigned" };
        let attrs = [
            ("webhook-provider".to_owned(), "sample".to_owned()),
            ("webhook-kid".to_owned(), "k0".to_owned()),
            (format!("{prefix}-id"), "evt-1".to_owned()),
            (format!("{prefix}-type"), "thing.done".to_owned()),
        ];
        assert_eq!(got.attrs, attrs, "{name}");
        assert_eq!(got.dedup.same_key_other_body, OtherBody::Duplicate, "{name}");
        assert_eq!(got.reply, AcceptReply { status: 202, body: None }, "{name}");
        assert_eq!(got.skew_ms, signed.rules.scheme().has_signed_time().then_some(0), "{name}");
        assert!(!got.unsigned_decided);
        let precheck = signed.rules.precheck("POST", &list(&signed.headers), NOW);
        assert_eq!(precheck, Ok(()), "{name}");
        let mut sent = signed.headers.iter().map(|(header, _)| header.to_ascii_lowercase());
        assert!(sent.all(|header| signed.rules.scheme().reads(&header)), "{name}");
        assert!(!signed.rules.scheme().reads("content-type"), "{name}");
    }
}

#[test]
fn headers_come_in_the_vendors_spelling() {
    let names = |scheme: &str| -> Vec<String> {
        let signed = Signed::new(shipped(scheme), b"{}");
        signed.headers.into_iter().map(|(name, _)| name).collect()
    };
    assert_eq!(names("github"), ["X-GitHub-Delivery", "X-GitHub-Event", "X-Hub-Signature-256"]);
    assert_eq!(names("stripe"), ["Stripe-Signature"]);
    assert_eq!(names("svix"), ["svix-id", "svix-timestamp", "svix-signature"]);
    assert_eq!(names("discord"), ["X-Signature-Timestamp", "X-Signature-Ed25519"]);
}

#[test]
fn standard_webhooks_signs_with_either_kind_of_key() {
    let scheme = shipped("standard_webhooks");
    let seed = data_encoding::BASE64.encode(&[9; 32]);
    let private = scheme.signing_key(&format!("whsk_{seed}")).unwrap();
    let public = ed25519_dalek::SigningKey::from_bytes(&[9; 32]).verifying_key().to_bytes();
    let public = format!("whpk_{}", data_encoding::BASE64.encode(&public));
    let to_sign = ToSign { id: Some("msg_1"), event_type: None, at: NOW, body: b"{}" };
    let headers = scheme.sign(&private, &to_sign).unwrap();
    assert!(headers.iter().any(|(_, value)| value.starts_with("v1a,")));
    let shared = scheme.sample_pair(&[3; 32]);
    let rules = rules_of(scheme.clone(), &[&shared.verifying, &public]);
    assert_eq!(accepted(judge(&rules, &headers, b"{}", NOW)).kid, kid("k1"));

    // seed and public key together, as Svix prints them
    let pair = ed25519_dalek::SigningKey::from_bytes(&[9; 32]).to_keypair_bytes();
    let pair = scheme.signing_key(&format!("whsk_{}", data_encoding::BASE64.encode(&pair))).unwrap();
    assert_eq!(scheme.sign(&pair, &to_sign), Ok(headers));
    assert_eq!(scheme.sign(&pair, &ToSign { id: None, ..to_sign }), Err(SignError::NeedsId));
}

#[test]
fn secrets_are_checked() {
    let secret = |scheme: &str, text: &str| shipped(scheme).parse_secret(kid("k"), text).map(|_| ());
    for name in SHIPPED {
        assert_eq!(secret(name, ""), Err(SecretError::Empty), "{name}");
        assert_eq!(secret(name, &"a".repeat(SECRET_BYTES_MAX + 1)), Err(SecretError::TooLong), "{name}");
    }
    assert_eq!(secret("standard_webhooks", "whsec_"), Err(SecretError::Empty));
    assert!(matches!(secret("standard_webhooks", "whsec_%%"), Err(SecretError::Format(_))));
    assert!(matches!(secret("standard_webhooks", "whsk_AAAA"), Err(SecretError::WrongHalf(_))));
    assert_eq!(secret("standard_webhooks", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), Ok(()));
    assert_eq!(secret("stripe", "whsec_any text"), Ok(()));
    assert!(matches!(secret("discord", "abcd"), Err(SecretError::Format(_))));
    assert!(matches!(secret("discord", "not hex"), Err(SecretError::Format(_))));
    assert_eq!(secret("discord", &"00".repeat(32)), Err(SecretError::WeakKey));
    let debug = format!("{:?}", shipped("stripe").parse_secret(kid("k"), "hush").unwrap());
    assert_eq!(debug, "Secret(k)");
}
