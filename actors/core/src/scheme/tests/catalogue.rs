use super::super::vectors::Expected;
use super::*;
use crate::message::OtherBody;

#[test]
fn forty_schemes_ship_and_each_compiles() {
    let all = catalogue();
    for (name, spec) in &all {
        let scheme = spec.compile(name).unwrap_or_else(|problems| panic!("{name}: {problems:?}"));
        assert!(!scheme.vector_providers().is_empty(), "{name} names no provider of vectors");
    }
    assert!(all.len() >= 60, "{}", all.len());
}

#[test]
fn every_vector_gets_its_verdict_and_its_reason() {
    let all = catalogue();
    let mut wrong = Vec::new();
    let mut schemes = std::collections::BTreeMap::<String, (usize, usize)>::new();
    let every = vectors();
    for vector in &every {
        let (name, scheme) = scheme_of(vector, &all);
        let outcome = vector.run(&scheme).unwrap_or_else(|error| panic!("{}: {error}", vector.id));
        let counts = schemes.entry(name).or_default();
        match vector.expected {
            Expected::Accept => counts.0 += 1,
            Expected::Reject => counts.1 += 1,
        }
        if (outcome.got, outcome.reason) != (vector.expected, vector.reason.as_deref()) {
            wrong.push(format!("{}: {:?} {:?}, got {outcome:?}", vector.id, vector.expected, vector.reason));
        }
    }
    assert!(wrong.is_empty(), "{} of {} are wrong\n{}", wrong.len(), every.len(), wrong.join("\n"));
    for (name, _) in &all {
        let (accepts, rejects) = schemes.get(name).copied().unwrap_or_default();
        assert!(
            accepts >= 1 && rejects >= 3,
            "{name} has {accepts} accepting and {rejects} rejecting vectors"
        );
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
    for name in FAMILIAR {
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
        assert!(!got.unsigned_decided, "{name}");
        let precheck = signed.rules.precheck("POST", &list(&signed.headers), NOW);
        assert_eq!(precheck, Ok(()), "{name}");
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
    let to_sign = ToSign { id: Some("msg_1"), ..ToSign::new(NOW, b"{}") };
    let headers = scheme.sign(&private, &to_sign).unwrap().headers;
    assert!(headers.iter().any(|(_, value)| value.starts_with("v1a,")));
    let shared = scheme.sample_pair(&[3; 32]).unwrap();
    let rules = rules_of(scheme.clone(), &[&shared.verifying, &public]);
    assert_eq!(accepted(judge(&rules, &headers, b"{}", NOW)).kid, kid("k1"));

    // seed and public key together, as Svix prints them
    let pair = ed25519_dalek::SigningKey::from_bytes(&[9; 32]).to_keypair_bytes();
    let pair = scheme.signing_key(&format!("whsk_{}", data_encoding::BASE64.encode(&pair))).unwrap();
    assert_eq!(scheme.sign(&pair, &to_sign).map(|signed| signed.headers), Ok(headers));
    assert_eq!(scheme.sign(&pair, &ToSign { id: None, ..to_sign }), Err(SignError::NeedsId));
}

#[test]
fn secrets_are_checked() {
    let secret = |scheme: &str, text: &str| shipped(scheme).parse_secret(kid("k"), text).map(|_| ());
    for name in FAMILIAR {
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

/// `ronctl interop sign` makes a request of any scheme; here the node's side takes each.
#[test]
fn a_request_of_any_scheme_can_be_signed() {
    let (rsa, p256) = (read("tests/vectors/keys/rsa.pem"), read("tests/vectors/keys/p256.pem"));
    let secret =
        |id: &str| vectors().into_iter().find(|vector| vector.id == id).unwrap().secrets()[0].clone();
    let der = |pem: &str| -> String { pem.lines().filter(|line| !line.starts_with('-')).collect() };
    let bodies = [
        r#"{"id":"evt-1","type":"a","signature":{"token":"tok"},"webhookTimestamp":1700000000000,"notificationItems":[{"NotificationRequestItem":{"pspReference":"p","eventCode":"E","success":"true"}}],"TopicArn":"our-account","Message":"m","MessageId":"i","Timestamp":"t","Type":"Notification"}"#,
        "MessageSid=SM1&MessageStatus=sent",
    ];
    for (name, spec) in catalogue() {
        let scheme = spec.compile(&name).unwrap();
        let (signing, verifying) = match (scheme.sample_pair(&[5; 32]), name.as_str()) {
            (Some(pair), _) => (pair.signing.to_string(), pair.verifying.to_string()),
            (None, "sendgrid") => (der(&p256), secret("own-sendgrid-sendgrid_ecdsa-01")),
            (None, _) => (rsa.clone(), secret("own-aws_sns-aws_sns-01")),
        };
        let key = scheme.signing_key(&signing).unwrap_or_else(|error| panic!("{name}: {error}"));
        let rules = rules_of(scheme.clone(), &[&verifying]);
        let in_body = matches!(scheme.signature, SignaturePlace::Json(_));
        for body in bodies.iter().filter(|body| !in_body || body.starts_with('{')) {
            let to_sign = ToSign {
                id: Some("evt-1"),
                event_type: Some("thing.done"),
                known: known(),
                query: "a=1",
                headers: &[("PAYPAL-TRANSMISSION-TIME".to_owned(), "2026-11-23T00:00:00Z".to_owned())],
                ..ToSign::new(NOW, body.as_bytes())
            };
            let signed = scheme.sign(&key, &to_sign).unwrap_or_else(|error| panic!("{name}: {error}"));
            let headers = list(&signed.headers);
            let request = InboundRequest {
                method: "POST",
                query: &signed.query,
                headers: &headers,
                body: &signed.body,
            };
            let wants_json = matches!(scheme.timestamp, Some((TimePlace::Json(_), _)));
            match rules.judge(&request, NOW) {
                Verdict::Accept(_) => {}
                Verdict::Refuse(rejection) if wants_json && !body.starts_with('{') => {
                    assert_eq!(rejection.why, RejectReason::BadTimestamp, "{name}");
                }
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}
