//! Challenges by GET, answers with a MAC, and that neither is of use to sign anything.

use super::super::vectors::Expected;
use super::*;

fn published_challenge(id: &str) -> serde_json::Value {
    let all: serde_json::Value = serde_json::from_str(&read("tests/vectors/handshakes.json")).unwrap();
    all.as_array().unwrap().iter().find(|entry| entry["id"] == id).unwrap().clone()
}

fn get(rules: &ProviderRules, query: &str, headers: &HeaderList) -> Verdict {
    rules.judge(&InboundRequest { method: "GET", query, headers, body: b"" }, NOW)
}

#[test]
fn published_challenges_by_get_are_answered() {
    let challenges = [
        ("meta-hub-challenge", "meta"),
        ("dropbox-challenge", "dropbox"),
        ("okta-one-time", "okta"),
        ("x-twitter-crc", "x_twitter"),
    ];
    for (id, scheme) in challenges {
        let entry = published_challenge(id);
        let rules = rules_of(shipped(scheme), &[entry["secret"].as_str().unwrap_or("any secret")]);
        let mut headers = HeaderList::new();
        for (name, value) in entry["request"]["headers"].as_object().into_iter().flatten() {
            headers.push(name, value.as_str().unwrap().to_owned());
        }
        let query = entry["request"]["query"].as_str().unwrap_or_default();
        assert_eq!(rules.precheck("GET", &headers, NOW), Ok(()), "{id}");
        let got = handshake(get(&rules, query, &headers));
        let wanted = &entry["response"];
        assert_eq!(u64::from(got.status), wanted["status"].as_u64().unwrap(), "{id}");
        assert_eq!(got.content_type.as_deref(), wanted["content_type"].as_str(), "{id}");
        assert_eq!(got.body, wanted["body"].as_str().unwrap(), "{id}");
        assert_eq!(got.headers, [("x-content-type-options", "nosniff")], "{id}");
        // Nothing of it is a challenge without its parameter.
        let rejection = refused(get(&rules, "other=1", &HeaderList::new()));
        assert_eq!(rejection.why, RejectReason::BadChallenge, "{id}");
    }
}

#[test]
fn metas_token_must_be_right() {
    let rules = rules_of(shipped("meta"), &["verify-me"]);
    for query in [
        "hub.mode=subscribe&hub.verify_token=verify-m&hub.challenge=1",
        "hub.mode=subscribe&hub.verify_token=&hub.challenge=1",
        "hub.mode=subscribe&hub.challenge=1",
        "hub.mode=unsubscribe&hub.verify_token=verify-me&hub.challenge=1",
        "hub.verify_token=verify-me&hub.challenge=1",
    ] {
        let rejection = refused(get(&rules, query, &HeaderList::new()));
        assert_eq!(rejection.refusal.reason.status(), 403, "{query}");
    }
    let twice = "hub.mode=subscribe&hub.verify_token=verify-me&hub.challenge=1&hub.challenge=2";
    assert_eq!(refused(get(&rules, twice, &HeaderList::new())).refusal.reason.status(), 401);

    // With tokens of their own, the app secret is none.
    let scheme = shipped("meta");
    let secrets = vec![scheme.parse_secret(kid("k0"), "app-secret").unwrap()];
    let name = ProviderName::parse("sample").unwrap();
    let spec = ProviderSpec::new(name, scheme, secrets);
    let rules = ProviderRules::new(ProviderSpec { verify_tokens: vec!["own".to_owned()], ..spec }).unwrap();
    let ask = |token: &str| format!("hub.mode=subscribe&hub.verify_token={token}&hub.challenge=%3Cb%3E");
    let got = handshake(get(&rules, &ask("own"), &HeaderList::new()));
    assert_eq!((got.body.as_str(), got.content_type.as_deref(), got.kid), ("<b>", Some("text/plain"), None));
    assert_eq!(refused(get(&rules, &ask("app-secret"), &HeaderList::new())).refusal.reason.status(), 403);
}

#[test]
fn zoom_is_answered_with_a_mac() {
    let entry = published_challenge("zoom-url_validation");
    let (secret, body) = (entry["secret"].as_str().unwrap(), entry["request"]["body"].as_str().unwrap());
    let scheme = shipped("zoom");
    let key = scheme.signing_key(secret).unwrap();
    let signed = scheme.sign(&key, &ToSign::new(NOW, body.as_bytes())).unwrap();
    let rules = rules_of(scheme, &[secret]);
    let got = handshake(judge(&rules, &signed.headers, body.as_bytes(), NOW));
    assert_eq!(got.body, entry["response"]["body"].as_str().unwrap());
    assert_eq!(got.content_type.as_deref(), Some("application/json"));
}

#[test]
fn only_a_short_plain_challenge_gets_a_mac() {
    let rules = rules_of(shipped("x_twitter"), &["secret"]);
    let fits = "a".repeat(MAC_CHALLENGE_BYTES_MAX);
    handshake(get(&rules, &format!("crc_token={fits}"), &HeaderList::new()));
    for bad in ["", &format!("{fits}a"), "%7B%7D", "a.b", "v0:1:x", "a+b", "a%20b", "%22", "%C3%A9", "%00"] {
        let verdict = get(&rules, &format!("crc_token={bad}"), &HeaderList::new());
        assert_eq!(refused(verdict).why, RejectReason::BadChallenge, "{bad}");
    }
    assert_eq!(
        refused(get(&rules, "crc_token=a&crc_token=b", &HeaderList::new())).refusal.reason.status(),
        401
    );
}

#[test]
fn json_answers_are_escaped() {
    let rules = rules_of(shipped("okta"), &["secret"]);
    let headers = HeaderList::from_iter([("x-okta-verification-challenge", "a\"b\\c{mac}")]);
    let got = handshake(get(&rules, "", &headers));
    let json: serde_json::Value = serde_json::from_str(&got.body).unwrap();
    assert_eq!(json["verification"], "a\"b\\c{mac}");
}

/// The issue: no challenge endpoint signs an event body or base string of any accepted scheme.
#[test]
fn no_challenge_signs_what_would_be_accepted() {
    let all = catalogue();
    // Every base string of every accepted vector, as a challenge of each scheme that answers with a MAC.
    let oracles = ["x_twitter", "zoom"];
    let mut asked = 0;
    for vector in vectors().iter().filter(|vector| vector.expected == Expected::Accept) {
        let (name, scheme) = scheme_of(vector, &all);
        let body = vector.body_bytes().unwrap();
        let text = String::from_utf8_lossy(&body).into_owned();
        let stamp = vector.headers.get("x-zm-request-timestamp").cloned().unwrap_or_default();
        for challenge in [text.clone(), format!("v0:{stamp}:{text}")] {
            let secret = &shipped("x_twitter").parse_secret(kid("k"), "s").unwrap();
            let mac = Some(((Algorithm::HmacSha256, Encoding::Hex), secret));
            let reply = AcceptReply { status: 200, body: None };
            let answered = challenge::answer(&challenge, mac, &reply, None).is_ok();
            if answered {
                // Then it is nothing that a provider with such a challenge would send an event as.
                assert!(challenge::may_be_challenge(&[challenge.as_bytes()]), "{}", vector.id);
            }
            asked += 1;
        }
        if oracles.contains(&name.as_str()) {
            assert!(scheme.has_mac_challenge());
        }
    }
    assert!(asked > 250, "{asked}");

    // An event that is such a text is not taken, though its signature can be had for the asking.
    let rules = rules_of(shipped("x_twitter"), &["secret"]);
    for text in ["hello", "", "MTIz==", &"a".repeat(128)] {
        let signature = match get(&rules, &format!("crc_token={text}"), &HeaderList::new()) {
            Verdict::Handshake(got) => {
                let json: serde_json::Value = serde_json::from_str(&got.body).unwrap();
                json["response_token"].as_str().unwrap().to_owned()
            }
            other => {
                assert!(text.is_empty(), "{other:?}");
                "sha256=".to_owned() + &Signed::new(shipped("x_twitter"), b"").headers[0].1[7..]
            }
        };
        let headers = [("x-twitter-webhooks-signature".to_owned(), signature)];
        let rejection = refused(judge(&rules, &headers, text.as_bytes(), NOW));
        assert_eq!(rejection.why, RejectReason::SignatureMismatch, "{text}");
    }
}

#[test]
fn only_amazons_urls_are_visited() {
    let sns = |url: &str, arn: &str| {
        let body = format!(
            r#"{{"Type":"SubscriptionConfirmation","MessageId":"m","TopicArn":"{arn}","Message":"x","Timestamp":"t","Token":"k","SubscribeURL":"{url}"}}"#
        );
        let scheme = shipped("aws_sns");
        let key = scheme.signing_key(&read("tests/vectors/keys/rsa.pem")).unwrap();
        let signed = scheme.sign(&key, &ToSign::new(NOW, body.as_bytes())).unwrap();
        let public = vectors().into_iter().find(|vector| vector.id == "own-aws_sns-aws_sns-01").unwrap();
        let rules = rules_of(scheme, &[&public.secrets()[0]]);
        judge(&rules, &signed.headers, &signed.body, NOW)
    };
    let good = "https://sns.us-west-2.amazonaws.com/?Action=ConfirmSubscription&Token=k";
    assert_eq!(handshake(sns(good, "our-account")).confirm.as_deref(), Some(good));
    assert_eq!(refused(sns(good, "arn:of:somebody:else")).why, RejectReason::BadPrincipal);
    for bad in
        ["http://sns.us-west-2.amazonaws.com/", "https://127.0.0.1/", "https://amazonaws.com.evil.example/"]
    {
        assert_eq!(refused(sns(bad, "our-account")).why, RejectReason::BadChallenge, "{bad}");
    }
}

#[test]
fn what_a_scheme_needs_is_asked_for() {
    let all = catalogue();
    for (name, spec) in &all {
        let scheme = spec.compile(name).unwrap();
        let wanted = match name.as_str() {
            "square" | "twilio" | "hubspot" | "hubspot_v2" | "plivo" | "messagebird" => vec!["public_url"],
            "aws_sns" | "paypal" => vec!["principals"],
            "google_pubsub" => vec!["principals", "audience"],
            _ => vec![],
        };
        let provider = ProviderName::parse("sample").unwrap();
        let problems = ProviderRules::new(ProviderSpec::new(provider, scheme, Vec::new())).unwrap_err();
        let keys: Vec<&str> =
            problems.iter().map(|problem| problem.path.as_str()).filter(|key| *key != "secrets").collect();
        assert_eq!(keys, wanted, "{name}");
    }
}

#[test]
fn keys_in_pem_are_read_strictly() {
    let scheme = shipped("aws_sns");
    let parse = |text: &str| scheme.parse_secret(kid("k"), text).map(drop);
    let vector =
        |id: &str| vectors().into_iter().find(|vector| vector.id == id).unwrap().secrets()[0].clone();
    let (public, certificate) = (vector("own-aws_sns-aws_sns-01"), vector("own-paypal-paypal-01"));
    assert_eq!((parse(&public), parse(&certificate)), (Ok(()), Ok(())));
    assert!(matches!(parse(&read("tests/vectors/keys/rsa.pem")), Err(SecretError::WrongHalf(_))));
    for bad in ["x", &public[30..], &public.replace("MII", "MIJ"), &format!("{public}{public}")] {
        assert!(matches!(parse(bad), Err(SecretError::Format(_))), "{bad}");
    }
    let p256 = vector("own-sendgrid-sendgrid_ecdsa-01");
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{p256}\n-----END PUBLIC KEY-----\n");
    assert_eq!(parse(&pem), Err(SecretError::OtherKind("an ECDSA key")));
    assert!(shipped("sendgrid").parse_secret(kid("k"), &p256).is_ok());
    assert!(matches!(shipped("sendgrid").parse_secret(kid("k"), "AAAA"), Err(SecretError::Format(_))));
}
