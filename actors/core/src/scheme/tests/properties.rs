use super::*;
use proptest::prelude::*;

/// Names that schemes read, and some that they do not.
fn header_name() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "x-hub-signature-256",
            "x-hub-signature",
            "x-github-delivery",
            "x-github-event",
            "stripe-signature",
            "x-slack-signature",
            "x-slack-request-timestamp",
            "webhook-id",
            "webhook-timestamp",
            "webhook-signature",
            "svix-id",
            "svix-timestamp",
            "svix-signature",
            "x-shopify-hmac-sha256",
            "x-signature-ed25519",
            "x-signature-timestamp",
            "content-type",
        ])
        .prop_map(str::to_owned),
        "[a-z-]{1,20}",
    ]
}

fn header_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..80),
        "(sha256=|sha1=|v0=|v1=|v1,|v1a,|t=)?[0-9a-f]{0,130}".prop_map(String::into_bytes),
        "t=[0-9]{0,12},v1=[0-9a-f]{64}(,v1=[0-9a-f]{0,70}){0,3}".prop_map(String::into_bytes),
        "v1a?,[A-Za-z0-9+/]{43}=( v[0-9],[A-Za-z0-9+/]{0,44}){0,4}".prop_map(String::into_bytes),
        "17000000[0-9]{2}".prop_map(String::into_bytes),
    ]
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        r#"[\{\}\[\]",:a-z0-9\\]{0,100}"#.prop_map(String::into_bytes),
        r#"\{"id":"[a-z0-9]{0,8}","type":[0-2],"event":\{"type":"[a-z]{0,5}"\}\}"#
            .prop_map(String::into_bytes),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_unsigned_gets_through_and_nothing_panics(
        name in prop::sample::select(FAMILIAR.to_vec()),
        headers in prop::collection::vec((header_name(), header_value()), 0..8),
        body in body(),
        now in prop_oneof![Just(NOW.0), any::<u64>()],
    ) {
        let signed = Signed::new(shipped(name), b"{}");
        let headers: HeaderList = headers.into_iter().collect();
        let request = InboundRequest { method: "POST", query: "", headers: &headers, body: &body };
        let early = signed.rules.precheck("POST", &headers, Millis(now));
        match signed.rules.judge(&request, Millis(now)) {
            Verdict::Refuse(rejection) => {
                if let Err(early) = early {
                    prop_assert_eq!(early, rejection);
                }
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn signed_bodies_of_any_kind_get_a_verdict(
        name in prop::sample::select(FAMILIAR.to_vec()),
        body in body(),
    ) {
        let signed = Signed::new(shipped(name), &body);
        let refused = matches!(signed.judge(), Verdict::Refuse(_));
        prop_assert!(!refused);
        prop_assert_eq!(signed.judge(), signed.judge());
    }

    #[test]
    fn what_is_not_read_or_not_signed_never_moves_the_dedup_key(
        name in prop::sample::select(FAMILIAR.to_vec()),
        body in body(),
        more in prop::collection::vec(("x-[a-z]{1,12}", header_value()), 0..6),
        hints in prop::collection::vec("[!-~]{0,40}", 2),
        reversed in any::<bool>(),
    ) {
        let signed = Signed::new(shipped(name), &body);
        let Verdict::Accept(plain) = signed.judge() else { return Ok(()) };
        let mut headers = signed.headers.clone();
        if ["github", "github_sha1_legacy", "shopify"].contains(&name) {
            headers[0].1 = hints[0].clone();
            headers[1].1 = hints[1].clone();
        }
        if reversed {
            headers.reverse();
        }
        let mut all = list(&headers);
        for (name, value) in more {
            all.push(&name, value);
        }
        all.push("Content-Type", "application/x-www-form-urlencoded");
        let request = InboundRequest { method: "POST", query: "", headers: &all, body: &body };
        match signed.rules.judge(&request, NOW) {
            Verdict::Accept(got) => {
                prop_assert_eq!(got.dedup, plain.dedup);
                prop_assert_eq!(got.kid, plain.kid);
                prop_assert_eq!(got.reply, plain.reply);
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn specs_never_panic_the_compiler(
        base in "[{}a-z:.]{0,30}",
        header in "[A-Za-z -]{0,10}",
        key in "[a-z0-9=,]{0,4}",
        json in "[a-z.]{0,8}",
    ) {
        let mut spec = spec(&read("config/schemes/stripe.toml"));
        spec.base = Some(base);
        spec.header = Some(OneOrMany::One(header));
        spec.list = spec.list.map(|list| ListSpec { key, ..list });
        let json = Some(OneOrMany::One(json));
        spec.id = Some(FieldSpec { json, unique: true, ..FieldSpec::default() });
        if let Err(problems) = spec.compile("any") {
            prop_assert!(!problems.is_empty());
        }
    }
}
