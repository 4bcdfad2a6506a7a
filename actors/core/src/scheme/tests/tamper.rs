//! Whatever the signature covers cannot change; whatever it does not cover changes nothing.

use super::*;

#[test]
fn cut_or_lengthened_bodies_are_refused() {
    for name in FAMILIAR {
        let signed = Signed::new(shipped(name), br#"{"id":"evt-1"}"#);
        for body in [&b""[..], br#"{"id":"evt-1""#, br#"{"id":"evt-1"} "#, b"\xef\xbb\xbf{\"id\":\"evt-1\"}"]
        {
            let verdict = judge(&signed.rules, &signed.headers, body, NOW);
            assert_eq!(refused(verdict).why, RejectReason::SignatureMismatch, "{name}");
        }
    }
}

#[test]
fn a_header_that_is_read_comes_once() {
    for name in FAMILIAR {
        let signed = Signed::new(shipped(name), b"{}");
        for place in 0..signed.headers.len() {
            let mut repeated = signed.headers.clone();
            repeated.push((repeated[place].0.to_uppercase(), repeated[place].1.clone()));
            let rejection = refused(judge(&signed.rules, &repeated, b"{}", NOW));
            assert_eq!(rejection.why, RejectReason::MalformedHeader, "{name}");
            assert_eq!(rejection.refusal.reason.code(), "SIGNATURE_INVALID", "{name}");
            let precheck = signed.rules.precheck("POST", &list(&repeated), NOW);
            assert_eq!(precheck, Err(rejection), "{name}");

            let mut spoilt = list(&signed.headers[..place]);
            spoilt.push(&signed.headers[place].0, &b"\xff\xfe"[..]);
            let request = InboundRequest { method: "POST", query: "", headers: &spoilt, body: b"{}" };
            assert_eq!(refused(signed.rules.judge(&request, NOW)).refusal.reason.code(), "SIGNATURE_INVALID");
        }
    }
}

#[test]
fn unsigned_headers_decide_nothing() {
    let body = br#"{"action":"opened"}"#;
    for name in ["github", "shopify"] {
        let mut signed = Signed::new(shipped(name), body);
        let first = signed.accepted();
        signed.headers[0].1 = "another-id".to_owned();
        signed.headers[1].1 = "another.type".to_owned();
        let second = signed.accepted();
        assert_eq!(first.dedup, second.dedup, "{name}");
        assert_eq!(second.id.as_ref().unwrap().text, "another-id");
        signed.headers.drain(..2);
        let third = signed.accepted();
        assert_eq!((first.dedup, third.id), (third.dedup, None), "{name}");
    }
}

#[test]
fn borders_inside_the_base_cannot_be_shifted() {
    let scheme = shipped("standard_webhooks");
    let at = (NOW.0 / 1000).to_string();
    let body = format!(r#"{{"text":"x.{at}.","more":1}}"#);
    let signed = Signed::new(scheme, body.as_bytes());
    let (start, rest) = body.split_once(&format!(".{at}.")).unwrap();
    let mut shifted = signed.headers.clone();
    shifted[0].1 = format!("evt-1.{at}.{start}");
    let rejection = refused(judge(&signed.rules, &shifted, rest.as_bytes(), NOW));
    assert_eq!(rejection.why, RejectReason::MalformedHeader);
}

#[test]
fn the_window_is_symmetric_and_inclusive() {
    for name in ["stripe", "slack", "standard_webhooks", "discord"] {
        let signed = Signed::new(shipped(name), b"{}");
        let at = |offset_ms: i64| Millis(NOW.0.checked_add_signed(offset_ms).unwrap());
        for ok in [0, 300_000, 300_999, -300_000] {
            accepted(judge(&signed.rules, &signed.headers, b"{}", at(ok)));
        }
        for late in [301_000, -300_001, -1_000_000_000_000] {
            let rejection = refused(judge(&signed.rules, &signed.headers, b"{}", at(late)));
            assert_eq!(rejection.why, RejectReason::Stale, "{name} {late}");
            assert_eq!(rejection.refusal.reason.code(), "REPLAY_WINDOW");
            let precheck = signed.rules.precheck("POST", &list(&signed.headers), at(late));
            assert_eq!(precheck, Err(rejection));
        }
    }
}

#[test]
fn lists_are_bounded_in_work() {
    let signed = Signed::new(shipped("standard_webhooks"), b"{}");
    let with = |value: String| {
        let mut headers = signed.headers.clone();
        headers[2].1 = value;
        judge(&signed.rules, &headers, b"{}", NOW)
    };
    let good = &signed.headers[2].1;
    accepted(with(format!("v9,x {good}")));
    accepted(with(format!("{}{good}", "v2,AAAA ".repeat(99))));
    assert_eq!(refused(with(format!("{}{good}", "v2,AAAA ".repeat(100)))).why, RejectReason::MalformedHeader);
    accepted(with(format!("{}{good}", "v1a,AAAA ".repeat(10))));
    assert_eq!(refused(with(format!("{}{good}", "v1a,AAAA ".repeat(11)))).why, RejectReason::MalformedHeader);
    assert_eq!(refused(with("v1,?".to_owned())).why, RejectReason::BadEncoding);
    assert_eq!(refused(with("v1".to_owned())).why, RejectReason::MalformedHeader);
    assert_eq!(refused(with(String::new())).why, RejectReason::MalformedHeader);
}

#[test]
fn stripe_headers_are_read_strictly() {
    let signed = Signed::new(shipped("stripe"), b"{}");
    let good = signed.headers[0].1.clone();
    let (time, signature) = good.split_once(',').unwrap();
    let why = |value: String| {
        let headers = [("Stripe-Signature".to_owned(), value)];
        refused(judge(&signed.rules, &headers, b"{}", NOW)).why
    };
    assert_eq!(why(format!("{time},{time},{signature}")), RejectReason::MalformedHeader);
    assert_eq!(why(signature.to_owned()), RejectReason::MalformedHeader);
    assert_eq!(why(time.to_owned()), RejectReason::MalformedHeader);
    assert_eq!(why(format!("t=,{signature}")), RejectReason::BadTimestamp);
    assert_eq!(why(format!("t=+1700000000,{signature}")), RejectReason::BadTimestamp);
    assert_eq!(why(format!("{time},{}", signature.to_uppercase())), RejectReason::MalformedHeader);
    let upper = signature.replace(|c: char| c.is_ascii_lowercase() && c != 'v', "A");
    assert_eq!(why(format!("{time},{upper}")), RejectReason::BadEncoding);
    let swapped = [("stripe-signature".to_owned(), format!("{signature},{time}"))];
    accepted(judge(&signed.rules, &swapped, b"{}", NOW));
}
