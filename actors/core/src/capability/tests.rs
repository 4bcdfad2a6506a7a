//! The token's form against vectors made by another implementation, and its rules as properties.

use super::*;
use proptest::prelude::*;
use proptest::sample::select;

const NOW: u64 = 1_790_000_000;

// Made by a Python program over the `blake3` package from PyPI, from the text of SPEC §5 alone: key 00…1f,
// kid `k1`, tenant `acme`, nonce a0…af.
const SHORT: &str = "ron1_AmsxBGFjbWWgoaKjpKWmp6ipqqusra6vARBleHAgPSAxODAwMDAwMDAwXwokDXUAec9xubitup2\
    SoSuQRsRWaN3-SaK3PvX_wIY";
const WIDE: &str = "ron1_AmsxBGFjbWWgoaKjpKWmp6ipqqusra6vCAtleHAgPSBuZXZlchFvcCA9IGVucXVldWUscmVjdhB\
    0b3BpYyA9IG9yZGVycy4qDWF1ZCA9IG1haWxib3gPaXAgPSAxMC4wLjAuMC84EW1heF9ieXRlcyA9IDY\
    1NTM2CXJwcyA9IDEwMBBuYmYgPSAxNzAwMDAwMDAwZ6VBqVLKXmm8cnZvKwOhR6QpFi4dKKK2TyqQK-c\
    tS9Y";
const WIDE_CAVEATS: [&str; 8] = [
    "exp = never",
    "op = enqueue,recv",
    "topic = orders.*",
    "aud = mailbox",
    "ip = 10.0.0.0/8",
    "max_bytes = 65536",
    "rps = 100",
    "nbf = 1700000000",
];

fn key() -> RootKey {
    let mut bytes = [0; 32];
    (0u8..32).for_each(|at| bytes[usize::from(at)] = at);
    RootKey::new(bytes)
}

fn entry(kid: &str, created: u64, not_after: Option<u64>) -> KeyEntry {
    KeyEntry {
        kid: Kid::parse(kid).unwrap(),
        key: key(),
        created_unix_s: created,
        not_after_unix_s: not_after,
    }
}

fn ring() -> Keyring {
    Keyring::new(vec![entry("k1", 1, None)]).unwrap()
}

fn nonce() -> [u8; 16] {
    std::array::from_fn(|at| 0xa0 + u8::try_from(at).unwrap())
}

fn acme() -> Tenant {
    Tenant::parse("acme").unwrap()
}

fn token(caveats: &[&str]) -> String {
    let caveats: Vec<String> = caveats.iter().map(|&text| text.to_owned()).collect();
    mint(&key(), &Kid::parse("k1").unwrap(), &acme(), nonce(), &caveats).unwrap()
}

fn capability(caveats: &[&str]) -> Capability {
    verify(&token(caveats), &ring(), NOW).unwrap()
}

/// Judges one request: `op` on `topic`, from 10.1.2.3, on the mailbox's port, at [`NOW`].
fn judge(caveats: &[&str], op: Op, topic: &str) -> Result<Vec<RateLimit>, Reason> {
    let (tenant, topic) = (acme(), Topic::parse(topic).unwrap());
    capability(caveats).allows(&ask(op, &tenant, &topic)).map_err(|refusal| refusal.reason)
}

fn ask<'a>(op: Op, tenant: &'a Tenant, topic: &'a Topic) -> Ask<'a> {
    Ask {
        op,
        tenant,
        topic: Some(topic),
        audience: Audience::Mailbox,
        peer: "10.1.2.3".parse().unwrap(),
        message_bytes: None,
        wall_unix_s: NOW,
    }
}

#[test]
fn agrees_with_another_implementation() {
    assert_eq!(token(&["exp = 1800000000"]), SHORT);
    assert_eq!(token(&WIDE_CAVEATS), WIDE);
    let cap = verify(WIDE, &ring(), NOW).unwrap();
    assert_eq!(cap.cap_id.to_string(), "811b8a28f4c24772");
    assert_eq!(cap.tenant, acme());
    assert_eq!(cap.message_bytes_max(), Some(65536));
    // a caveat of 128 bytes has a length of two bytes
    let long = format!("topic = {}", "x".repeat(128));
    let text = token(&["exp = 1800000000", &long]);
    assert!(text.ends_with("TEx8G-JiHKkmojWzwmyG9BNRZ34EASUUiuva7CYowpE"), "{text}");
}

#[test]
fn attenuating_equals_minting_with_more_caveats() {
    let more: Vec<String> = WIDE_CAVEATS[1..].iter().map(|&text| text.to_owned()).collect();
    assert_eq!(attenuate(&token(&WIDE_CAVEATS[..1]), &more).unwrap(), WIDE);
    assert_eq!(attenuate(WIDE, &[]).unwrap(), WIDE);
}

#[test]
fn every_flipped_or_missing_byte_is_refused() {
    for text in [SHORT, WIDE] {
        for at in 0..text.len() {
            for flip in [0x01, 0x02, 0x04, 0x20, 0x40] {
                let mut bytes = text.as_bytes().to_vec();
                bytes[at] ^= flip;
                let Ok(changed) = String::from_utf8(bytes) else { continue };
                let refusal = verify(&changed, &ring(), NOW).expect_err(&changed);
                assert_eq!(refusal.reason, Reason::Unauth);
            }
            assert!(verify(&text[..at], &ring(), NOW).is_err(), "cut at {at}");
        }
        assert!(verify(&format!("{text}A"), &ring(), NOW).is_err());
        assert!(verify(&format!("{text}="), &ring(), NOW).is_err());
    }
}

#[test]
fn only_the_canonical_encoding_is_a_token() {
    let bytes = data_encoding::BASE64URL_NOPAD.decode(&SHORT.as_bytes()[5..]).unwrap();
    let text = |bytes: &[u8]| format!("ron1_{}", data_encoding::BASE64URL_NOPAD.encode(bytes));
    assert_eq!(text(&bytes), SHORT);
    let trailing = [&bytes[..], &[0]].concat();
    // the kid's length, 2, as a varint of two bytes
    let long_varint = [&[0x82, 0x00], &bytes[1..]].concat();
    for bad in [trailing, long_varint] {
        let refusal = verify(&text(&bad), &ring(), NOW).unwrap_err();
        assert_eq!(refusal.text, "capability: not in canonical form");
    }
    // bits of the last character that carry nothing
    assert!(verify(&SHORT.replace("wIY", "wIZ"), &ring(), NOW).is_err());
}

#[test]
fn refusals_never_hold_the_token() {
    let foreign = WIDE.replace("ron1_", "ron3_");
    for bad in ["", "x", "ron1_", "ron1_####", "ron2_AAAA", &WIDE[..60], &foreign, &format!("{WIDE}x")] {
        let refusal = verify(bad, &ring(), NOW).unwrap_err();
        assert_eq!(refusal.reason, Reason::Unauth, "{bad}");
        assert!(bad.len() < 8 || !refusal.text.contains(&bad[5..]), "{}", refusal.text);
    }
    let shown = format!("{:?} {:?}", Token::parse(WIDE).unwrap(), key());
    assert!(!shown.contains("mac") && !shown.contains("31"), "{shown}");
}

#[test]
fn limits_hold_on_the_way_in_and_out() {
    let many: Vec<String> = (0..32).map(|_| "rps = 1".to_owned()).collect();
    let kid = Kid::parse("k1").unwrap();
    let full = mint(&key(), &kid, &acme(), nonce(), &many).unwrap();
    assert!(attenuate(&full, &["rps = 1".into()]).is_err());
    let long = vec!["x".repeat(TEXT_BYTES_MAX)];
    assert!(mint(&key(), &kid, &acme(), nonce(), &long).is_err());
    assert!(verify(&format!("ron1_{}", "A".repeat(5000)), &ring(), NOW).is_err());
}

#[test]
fn a_token_must_begin_with_its_expiry() {
    for caveats in [&[][..], &["op = recv"], &["op = recv", "exp = 1800000000"], &["exp=1800000000"]] {
        let refusal = verify(&token(caveats), &ring(), NOW).unwrap_err();
        assert_eq!(refusal.reason, Reason::Unauth, "{caveats:?}");
    }
    assert_eq!(judge(&["exp = soon"], Op::Recv, "t"), Err(Reason::ScopeMismatch));
    assert_eq!(judge(&["exp = never", "exp = never"], Op::Recv, "t"), Err(Reason::ScopeMismatch));
    assert_eq!(judge(&["exp = never", "exp = 1800000000"], Op::Recv, "t"), Ok(vec![]));
}

#[test]
fn expiry_allows_thirty_seconds_of_skew() {
    let at = |caveat: String| {
        judge(&[if caveat.starts_with('e') { &caveat } else { "exp = never" }, &caveat], Op::Ack, "t")
    };
    assert_eq!(at(format!("exp = {}", NOW - 29)), Ok(vec![]));
    assert_eq!(at(format!("exp = {}", NOW - 30)), Err(Reason::ExpiredToken));
    assert_eq!(at(format!("nbf = {}", NOW + 30)), Ok(vec![]));
    assert_eq!(at(format!("nbf = {}", NOW + 31)), Err(Reason::ExpiredToken));
    let cap = capability(&["exp = 1800000000", "exp = 1795000000"]);
    assert_eq!(cap.ends_unix_s(), Some(1_795_000_030));
    assert!(cap.in_time(1_795_000_029).is_ok() && cap.in_time(1_795_000_030).is_err());
    assert_eq!(capability(&["exp = never"]).ends_unix_s(), None);
}

#[test]
fn no_op_implies_another() {
    for granted in Op::WORDS {
        let caveat = format!("op = {}", granted.word());
        for asked in Op::WORDS {
            assert_eq!(
                judge(&["exp = never", &caveat], asked, "t").is_ok(),
                asked == granted,
                "{caveat} {asked:?}"
            );
        }
        let extends = judge(&["exp = never", &caveat], Op::Extend, "t").is_ok();
        assert_eq!(extends, granted == Op::Recv);
    }
    assert!(judge(&["exp = never", "op = enqueue,ack"], Op::Ack, "t").is_ok());
    assert!(
        judge(&["exp = never", "op = enqueue,ack", "op = enqueue"], Op::Ack, "t").is_err(),
        "all must hold"
    );
}

#[test]
fn topics_are_exact_or_a_prefix() {
    let table = [
        ("orders", "orders", true),
        ("orders", "orders.eu", false),
        ("orders*", "orders", true),
        ("orders*", "orders.eu", true),
        ("orders.*", "orders", false),
        ("*", "anything", true),
        ("a*b", "a*b".trim_end_matches("*b"), false),
        ("Orders", "orders", false),
        ("orders**", "orders", false),
        ("orders,other", "orders", false),
    ];
    for (pattern, topic, expect) in table {
        let caveat = format!("topic = {pattern}");
        assert_eq!(judge(&["exp = never", &caveat], Op::Recv, topic).is_ok(), expect, "{pattern} {topic}");
        let seen = capability(&["exp = never", &caveat]).topics_allowed(&Topic::parse(topic).unwrap());
        assert!(seen || !expect);
    }
    let whole_tenant = |op| {
        let (tenant, topic) = (acme(), Topic::parse("t").unwrap());
        let ask = Ask { topic: None, ..ask(op, &tenant, &topic) };
        capability(&["exp = never", "topic = t"]).allows(&ask).is_ok()
    };
    assert!(whole_tenant(Op::Stat));
    assert!(whole_tenant(Op::Introspect));
    assert!(!whole_tenant(Op::Put) && !whole_tenant(Op::Get) && !whole_tenant(Op::Admin));
    for (topic, objects) in [("*", true), ("t*", false)] {
        let (tenant, named) = (acme(), Topic::parse("t").unwrap());
        let token = capability(&["exp = never", &format!("topic = {topic}")]);
        for op in [Op::Put, Op::Get] {
            let ask = Ask { topic: None, ..ask(op, &tenant, &named) };
            assert_eq!(token.allows(&ask).is_ok(), objects, "{topic}");
        }
        assert!(token.allows(&Ask { topic: None, ..ask(Op::Admin, &tenant, &named) }).is_err());
    }
}

#[test]
fn tenant_listener_peer_and_size_narrow() {
    let (tenant, topic) = (acme(), Topic::parse("t").unwrap());
    let ask = ask(Op::Enqueue, &tenant, &topic);
    let other = Tenant::parse("other").unwrap();
    let reason = |caveats: &[&str], ask: &Ask<'_>| capability(caveats).allows(ask).err().map(|r| r.reason);
    let no = Some(Reason::ScopeMismatch);
    assert_eq!(reason(&["exp = never"], &ask), None);
    assert_eq!(reason(&["exp = never"], &Ask { tenant: &other, ..ask }), no);
    assert_eq!(reason(&["exp = never", "aud = mailbox"], &ask), None);
    assert_eq!(reason(&["exp = never", "aud = interop"], &ask), no);
    for (ip, peer, expect) in [
        ("10.0.0.0/8", "10.1.2.3", None),
        ("10.1.2.3/8", "10.9.9.9", None),
        ("10.0.0.0/8", "::ffff:10.1.2.3", None),
        ("10.0.0.0/8", "11.1.2.3", no),
        ("10.1.2.3", "10.1.2.3", no),
        ("10.0.0.0/33", "10.1.2.3", no),
        ("10.0.0.0/08", "10.1.2.3", no),
        ("2001:db8::/32", "2001:db8::1", None),
        ("0.0.0.0/0", "2001:db8::1", no),
    ] {
        let caveat = format!("ip = {ip}");
        let ask = Ask { peer: peer.parse().unwrap(), ..ask };
        assert_eq!(reason(&["exp = never", &caveat], &ask), expect, "{ip} {peer}");
    }
    let sized = |bytes| Ask { message_bytes: bytes, ..ask };
    assert_eq!(reason(&["exp = never", "max_bytes = 10"], &sized(Some(10))), None);
    assert_eq!(reason(&["exp = never", "max_bytes = 10"], &sized(Some(11))), no);
    assert_eq!(reason(&["exp = never", "max_bytes = 10"], &sized(None)), None);
}

#[test]
fn what_cannot_be_read_denies() {
    for bad in [
        "",
        " = ",
        "op",
        "op=recv",
        "op =recv",
        "op= recv",
        "op  = recv",
        "op =  recv",
        "op = recv ",
        " op = recv",
        "op = ",
        "op = recv,",
        "op = ,recv",
        "op = recv, ack",
        "op = RECV",
        "op = extend",
        "Op = recv",
        "color = red",
        "max_bytes = 01",
        "max_bytes = -1",
        "max_bytes = 1e3",
        "max_bytes = 12345678901234567",
        "rps = ",
        "rps = +1",
        "nbf = never",
        "aud = both",
        "aud = mailbox,interop",
        "topic = ünï",
        "op = recv\n",
        "exp = 1800000000\u{a0}",
        "op\t= recv",
        "ip = 10.0.0.0/",
        "ip = /8",
    ] {
        assert_eq!(judge(&["exp = never", bad], Op::Recv, "t"), Err(Reason::ScopeMismatch), "{bad:?}");
    }
}

#[test]
fn rates_have_one_bucket_an_occurrence_shared_by_descendants() {
    let parent = judge(&["exp = never", "rps = 5", "rps = 5"], Op::Recv, "t").unwrap();
    assert_eq!(parent.len(), 2);
    assert_ne!(parent[0].mac, parent[1].mac);
    let child = judge(&["exp = never", "rps = 5", "rps = 5", "op = recv", "rps = 1"], Op::Recv, "t").unwrap();
    assert_eq!(child[..2], parent[..]);
    assert_eq!(child[2].per_second, 1);
    for settling in [Op::Ack, Op::Nack, Op::Extend] {
        assert_eq!(judge(&["exp = never", "rps = 0"], settling, "t"), Ok(vec![]));
    }
}

#[test]
fn old_keys_check_until_their_end_and_make_nothing() {
    let ring =
        Keyring::new(vec![entry("old", 9, Some(NOW)), entry("a", 1, None), entry("b", 2, None)]).unwrap();
    assert_eq!(ring.minting().kid.as_str(), "b");
    let old = mint(&key(), &Kid::parse("old").unwrap(), &acme(), nonce(), &["exp = never".into()]).unwrap();
    assert!(verify(&old, &ring, NOW - 1).is_ok());
    assert_eq!(verify(&old, &ring, NOW).unwrap_err().reason, Reason::Unauth);
    assert!(verify(SHORT, &ring, NOW).is_err(), "unknown key id");
    assert!(Keyring::new(vec![]).is_err());
    assert!(Keyring::new(vec![entry("a", 1, Some(5))]).is_err());
    assert!(Keyring::new(vec![entry("a", 1, None), entry("a", 2, None)]).is_err());
}

#[test]
fn a_mint_request_becomes_caveats_in_order() {
    let json = r#"{"tenant":"acme","topic":"orders.*","ops":["enqueue","recv","enqueue"],"ttl_ms":3600001,
        "aud":"interop","ip":"10.0.0.1","max_bytes":5,"rps":7}"#;
    let request: MintRequest = serde_json::from_str(json).unwrap();
    let caveats = request.caveats(100, 30 * 86_400_000).unwrap();
    let expect = ["exp = 3701", "op = enqueue,recv", "topic = orders.*", "aud = interop", "ip = 10.0.0.1/32"];
    assert_eq!(caveats[..5], expect);
    assert_eq!(caveats[5..], ["max_bytes = 5", "rps = 7"]);

    let never = MintRequest { ttl_ms: None, ..request.clone() };
    assert_eq!(never.caveats(100, 1000).unwrap()[0], "exp = never");
    for bad in [
        MintRequest { ttl_ms: Some(0), ..request.clone() },
        MintRequest { ttl_ms: Some(30 * 86_400_000 + 1), ..request.clone() },
        MintRequest { topic: "No".into(), ..request.clone() },
        MintRequest { ops: vec![], ..request.clone() },
        MintRequest { ip: Some("10.0.0.0/99".into()), ..request.clone() },
        MintRequest { max_bytes: Some(u64::MAX), ..request.clone() },
    ] {
        assert_eq!(bad.caveats(100, 30 * 86_400_000).unwrap_err().reason, Reason::Malformed, "{bad:?}");
    }
    for bad in [
        r#"{"tenant":"acme","topic":"t","ops":["recv"]}"#,
        r#"{"tenant":"acme","topic":"t","ops":["all"],"ttl_ms":1}"#,
        r#"{"tenant":"acme","topic":"t","ops":["recv"],"ttl_ms":1,"admin":true}"#,
    ] {
        assert!(serde_json::from_str::<MintRequest>(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_webhook_may_enqueue_to_its_topic_and_nothing_else() {
    let topic = Topic::parse("github").unwrap();
    let caveats = webhook_caveats(&topic, 100, NOW);
    let caveats: Vec<&str> = caveats.iter().map(String::as_str).collect();
    let tenant = acme();
    let cap = capability(&caveats);
    let sized = Ask { message_bytes: Some(100), ..ask(Op::Enqueue, &tenant, &topic) };
    assert!(cap.allows(&sized).is_ok());
    for op in Op::WORDS {
        assert_eq!(cap.allows(&Ask { op, ..sized }).is_ok(), op == Op::Enqueue);
    }
    assert!(cap.allows(&Ask { audience: Audience::Interop, ..sized }).is_err());
    assert!(cap.allows(&Ask { message_bytes: Some(101), ..sized }).is_err());
    assert!(cap.allows(&Ask { topic: Some(&Topic::parse("github2").unwrap()), ..sized }).is_err());
    assert_eq!(cap.ends_unix_s(), Some(NOW + 60 + SKEW_S));
}

#[test]
fn an_egress_may_receive_and_settle_its_topic_and_nothing_else() {
    let topic = Topic::parse("orders").unwrap();
    let caveats = egress_caveats(&topic, NOW);
    let caveats: Vec<&str> = caveats.iter().map(String::as_str).collect();
    let tenant = acme();
    let cap = capability(&caveats);
    for op in Op::WORDS {
        let may = [Op::Recv, Op::Ack, Op::Nack].contains(&op);
        assert_eq!(cap.allows(&ask(op, &tenant, &topic)).is_ok(), may, "{op:?}");
    }
    let asked = ask(Op::Recv, &tenant, &topic);
    assert!(cap.allows(&Ask { audience: Audience::Interop, ..asked }).is_err());
    assert!(cap.allows(&Ask { topic: Some(&Topic::parse("orders2").unwrap()), ..asked }).is_err());
    assert_eq!(cap.ends_unix_s(), Some(NOW + 60 + SKEW_S));
}

fn any_caveat() -> impl Strategy<Value = String> {
    prop_oneof![
        select(vec!["op = recv", "op = enqueue,recv,ack", "op = stat", "aud = mailbox", "aud = interop"])
            .prop_map(str::to_owned),
        select(vec!["topic = a", "topic = a*", "topic = *", "topic = b", "what = ever", "rps = 3"])
            .prop_map(str::to_owned),
        select(vec!["ip = 10.0.0.0/8", "ip = ::/0", "max_bytes = 50", "max_bytes = 5000"])
            .prop_map(str::to_owned),
        (NOW - 60..NOW + 60).prop_map(|at| format!("exp = {at}")),
        (NOW - 60..NOW + 60).prop_map(|at| format!("nbf = {at}")),
        "[a-z_]{1,9} = [ -~]{0,12}",
        any::<String>().prop_filter("short", |text| text.len() < 60),
    ]
}

proptest! {
    #[test]
    fn attenuation_only_narrows(
        base in prop::collection::vec(any_caveat(), 0..4),
        more in prop::collection::vec(any_caveat(), 0..4),
        op in select(Op::WORDS.to_vec()),
        topic in select(vec!["a", "ab", "b"]),
        bytes in prop::option::of(0u64..6000),
        interop: bool,
    ) {
        let mut caveats = vec!["exp = never".to_owned()];
        caveats.extend(base);
        let wide = mint(&key(), &Kid::parse("k1").unwrap(), &acme(), nonce(), &caveats).unwrap();
        let narrow = attenuate(&wide, &more).unwrap();
        let (tenant, topic) = (acme(), Topic::parse(topic).unwrap());
        let audience = if interop { Audience::Interop } else { Audience::Mailbox };
        let ask = Ask { message_bytes: bytes, audience, ..ask(op, &tenant, &topic) };
        let wide = verify(&wide, &ring(), NOW).unwrap();
        let narrow = verify(&narrow, &ring(), NOW).unwrap();
        prop_assert_eq!(wide.cap_id, narrow.cap_id);
        if let Ok(limits) = narrow.allows(&ask) {
            let before = wide.allows(&ask);
            prop_assert!(before.is_ok_and(|before| limits.starts_with(&before)));
        }
    }

    #[test]
    fn decoding_gives_back_what_was_encoded(
        caveats in prop::collection::vec(any_caveat(), 0..8), nonce: [u8; 16],
    ) {
        let text = mint(&key(), &Kid::parse("k1").unwrap(), &acme(), nonce, &caveats).unwrap();
        let token = Token::parse(&text).unwrap();
        prop_assert_eq!((&token.caveats, token.nonce), (&caveats, nonce));
        prop_assert_eq!(attenuate(&text, &[]).unwrap(), text);
    }

    #[test]
    fn dropping_or_changing_a_caveat_breaks_the_token(
        mut caveats in prop::collection::vec(any_caveat(), 1..6), at: prop::sample::Index,
    ) {
        caveats.insert(0, "exp = never".to_owned());
        let text = mint(&key(), &Kid::parse("k1").unwrap(), &acme(), nonce(), &caveats).unwrap();
        let mut token = Token::parse(&text).unwrap();
        token.caveats.remove(at.index(token.caveats.len()));
        let bytes = postcard::to_stdvec(&token).unwrap();
        let forged = format!("ron1_{}", data_encoding::BASE64URL_NOPAD.encode(&bytes));
        prop_assert!(verify(&forged, &ring(), NOW).is_err());
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,200}", body in "[A-Za-z0-9_-]{0,300}") {
        prop_assert!(verify(&text, &ring(), NOW).is_err());
        let text = format!("ron1_{body}");
        prop_assert!(verify(&text, &ring(), NOW).is_err());
    }
}
