use super::*;

fn published_handshake(id: &str) -> serde_json::Value {
    let all: serde_json::Value = serde_json::from_str(&read("tests/vectors/handshakes.json")).unwrap();
    all.as_array().unwrap().iter().find(|entry| entry["id"] == id).unwrap().clone()
}

/// Signs the body, and checks that the same request with a wrong signature is refused.
fn answer(scheme: &str, body: &str) -> Handshake {
    let mut signed = Signed::new(shipped(scheme), body.as_bytes());
    let got = handshake(signed.judge());
    assert_eq!(got.kid, Some(kid("k0")));
    assert_eq!(got.headers, [("x-content-type-options", "nosniff")]);
    signed.body.push(b' ');
    let refusal = refused(signed.judge()).refusal;
    assert_eq!(refusal.reason.code(), "SIGNATURE_INVALID");
    assert_eq!(refusal.reason.status(), 401);
    got
}

fn check_published(id: &str, scheme: &str, body: &str) {
    let expected = &published_handshake(id)["response"];
    let got = answer(scheme, body);
    assert_eq!(u64::from(got.status), expected["status"].as_u64().unwrap(), "{id}");
    if let Some(body) = expected["body"].as_str() {
        assert_eq!(got.body, body, "{id}");
    }
    if !got.body.is_empty() && expected["content_type"].is_string() {
        assert_eq!(got.content_type.as_deref(), expected["content_type"].as_str(), "{id}");
    }
    assert_eq!(got.content_type.is_none(), got.body.is_empty(), "{id}");
}

#[test]
fn published_handshakes_are_answered() {
    for (id, scheme) in [("slack-url_verification", "slack"), ("discord-interaction-ping", "discord")] {
        let body = published_handshake(id)["request"]["body"].as_str().unwrap().to_owned();
        check_published(id, scheme, &body);
    }
    check_published(
        "discord-webhook-events-ping",
        "discord",
        r#"{"version":1,"application_id":"1","type":0}"#,
    );
    let ping = r#"{"zen":"Design for failure.","hook_id":1,"hook":{"type":"Repository"}}"#;
    check_published("github-ping", "github", ping);
}

#[test]
fn discord_events_are_no_ping() {
    let event = br#"{"version":1,"type":1,"event":{"type":"APPLICATION_AUTHORIZED","data":{}}}"#;
    let got = Signed::new(shipped("discord"), event).accepted();
    assert_eq!(got.reply, AcceptReply { status: 204, body: Some((None, String::new())) });
    assert_eq!(got.event_type.unwrap().text, "APPLICATION_AUTHORIZED");
    let command = Signed::new(shipped("discord"), br#"{"id":"77","type":2}"#).accepted();
    assert_eq!(command.reply.status, 202);
    assert_eq!((command.id.unwrap().text, command.event_type.unwrap().text), ("77".into(), "2".into()));
}

#[test]
fn github_ping_is_known_by_its_body_alone() {
    let mut event = Signed::new(shipped("github"), br#"{"action":"opened","zen":"x"}"#);
    event.headers[1] = ("X-GitHub-Event".to_owned(), "ping".to_owned());
    let got = event.accepted();
    assert_eq!(got.event_type, Some(Field { text: "ping".to_owned(), signed: false }));

    let mut ping = Signed::new(shipped("github"), br#"{"zen":"x","hook_id":1}"#);
    ping.headers[1] = ("X-GitHub-Event".to_owned(), "push".to_owned());
    assert_eq!(handshake(ping.judge()).status, 200);
    let form = Signed::new(shipped("github"), b"payload=%7B%22zen%22%3A%22x%22%2C%22hook_id%22%3A1%7D");
    assert_eq!(handshake(form.judge()).status, 200);
}

#[test]
fn only_a_harmless_challenge_is_echoed() {
    let body = |challenge: &str| format!(r#"{{"type":"url_verification","challenge":{challenge}}}"#);
    let long = format!("\"{}\"", "a".repeat(CHALLENGE_BYTES_MAX));
    assert_eq!(answer("slack", &body(&long)).body.len(), CHALLENGE_BYTES_MAX);
    assert_eq!(answer("slack", &body("\"<b>\"")).content_type.as_deref(), Some("text/plain"));
    let too_long = format!("\"{}\"", "a".repeat(CHALLENGE_BYTES_MAX + 1));
    for bad in [too_long.as_str(), "\"\"", "\"a\\r\\nb\"", "\"\\u0000\"", "\"é\"", "1", "null", "{}"] {
        let signed = Signed::new(shipped("slack"), body(bad).as_bytes());
        let rejection = refused(signed.judge());
        assert_eq!(rejection.why, RejectReason::BadChallenge, "{bad}");
        assert_eq!(rejection.refusal.reason.code(), "MALFORMED", "{bad}");
    }
}

#[test]
fn slack_forms_are_read_where_they_hold_json() {
    let action = Signed::new(shipped("slack"), b"payload=%7B%22type%22%3A%22block_actions%22%7D").accepted();
    assert_eq!(action.event_type, Some(Field { text: "block_actions".to_owned(), signed: true }));
    assert_eq!(action.id, None);
    let command = Signed::new(shipped("slack"), b"command=%2Fx&trigger_id=1&event_id=forged").accepted();
    assert_eq!((command.id, command.event_type), (None, None));
}
