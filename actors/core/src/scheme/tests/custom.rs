//! Schemes written in the node's configuration alone, proven by published vectors.

use super::super::vectors::Expected;
use super::*;

fn prove(provider: &str, profile: Option<&str>, text: &str) -> usize {
    let scheme = custom(text);
    let of = |vector: &&Vector| {
        vector.provider == provider && profile.is_none_or(|wanted| vector.profile.as_deref() == Some(wanted))
    };
    let mut run = 0;
    for vector in published().iter().filter(of) {
        let outcome = vector.run(&scheme).unwrap();
        assert_eq!(outcome.got, vector.expected, "{}: {outcome:?}", vector.id);
        assert_eq!(outcome.reason, vector.reason.as_deref(), "{}", vector.id);
        run += 1;
    }
    run
}

#[test]
fn one_signature_over_the_body() {
    let hub = |algorithm: &str, prefix: &str| {
        format!("algorithm='{algorithm}'\nheader='X-Hub-Signature'\nprefix='{prefix}'\nencoding='hex'")
    };
    assert_eq!(prove("bitbucket", None, &hub("hmac-sha256", "sha256=")), 3);
    assert_eq!(prove("jira", None, &hub("hmac-sha256", "sha256=")), 3);
    assert_eq!(prove("intercom", None, &hub("hmac-sha1", "sha1=")), 3);
    let plain = |header: &str, encoding: &str| {
        format!("algorithm='hmac-sha256'\nheader='{header}'\nencoding='{encoding}'\nbase='{{body}}'")
    };
    assert_eq!(prove("coinbase_commerce", None, &plain("X-CC-Webhook-Signature", "hex")), 2);
    assert_eq!(prove("dropbox", None, &plain("X-Dropbox-Signature", "hex")), 2);
    assert_eq!(prove("line", None, &plain("X-Line-Signature", "base64")), 2);
    assert_eq!(prove("sentry", None, &plain("Sentry-Hook-Signature", "hex")), 3);
    let prefixed = |header: &str, encoding: &str| plain(header, encoding) + "\nprefix='sha256='";
    assert_eq!(prove("meta", None, &prefixed("X-Hub-Signature-256", "hex")), 2);
    assert_eq!(prove("typeform", None, &prefixed("Typeform-Signature", "base64")), 3);
    let sha512 = "algorithm='hmac-sha512'\nheader='X-Signature'\nprefix='sha512='\nencoding='hex'";
    assert_eq!(prove("generic", None, sha512), 1);
    let convoy = "algorithm='hmac-sha512'\nheader='X-Convoy-Signature'\nencoding='base64'";
    assert_eq!(prove("convoy", Some("convoy_simple_sha512_b64"), convoy), 1);
}

#[test]
fn a_time_in_the_body_and_lists_without_one() {
    let linear = "algorithm='hmac-sha256'\nheader='Linear-Signature'\nencoding='hex'\ntolerance_s=60\n\
                  timestamp={json='webhookTimestamp',unit='ms'}";
    assert_eq!(prove("linear", None, linear), 3);
    let pagerduty = "algorithm='hmac-sha256'\nheader='X-PagerDuty-Signature'\nencoding='hex'\n\
                     list={separator=',',key='v1='}";
    assert_eq!(prove("pagerduty", None, pagerduty), 4);
    let paddle = "algorithm='hmac-sha256'\nheader='Paddle-Signature'\nencoding='hex'\n\
                  base='{timestamp}:{body}'\n\
                  list={separator=';',key='h1'}\ntimestamp={key='ts',unit='s'}";
    assert_eq!(prove("paddle", None, paddle), 4);
    let zoom = "algorithm='hmac-sha256'\nheader='x-zm-signature'\nprefix='v0='\nencoding='hex'\n\
                base='v0:{timestamp}:{body}'\ntimestamp={header='x-zm-request-timestamp'}";
    assert_eq!(prove("zoom", None, zoom), 3);
    let rfc3339 = custom(
        "algorithm='hmac-sha256'\nheader='Sig'\nencoding='base64'\nbase='{body}{timestamp}'\n\
         key_format='hex'\ntimestamp={header='At',unit='rfc3339'}",
    );
    accepted(Signed::new(rfc3339, b"{}").judge());
}

#[test]
fn shared_tokens_cover_nothing() {
    let token = |header: &str| format!("algorithm='token'\nheader='{header}'\nbody_coverage='none'");
    assert_eq!(prove("telegram", None, &token("X-Telegram-Bot-Api-Secret-Token")), 3);
    let scheme = custom(&(token("X-Gitlab-Token") + "\nid={header='X-Gitlab-Event-UUID',unique=true}"));
    let of_token = |vector: &&Vector| vector.provider == "gitlab" && vector.scheme == "shared_token";
    for vector in published().iter().filter(of_token) {
        assert_eq!(vector.run(&scheme).unwrap().got, vector.expected, "{}", vector.id);
    }
    let got = Signed::new(scheme, b"{}").accepted();
    assert_eq!(got.id, Some(Field { text: "evt-1".to_owned(), signed: false }));
    assert_eq!(got.dedup.key[0], b'b');
    assert_eq!(got.dedup.same_key_other_body, crate::message::OtherBody::Conflict);
}

#[test]
fn gitlab_signs_as_the_standard_says() {
    let scheme = shipped("standard_webhooks");
    let of = |vector: &&Vector| vector.provider == "gitlab" && vector.scheme == "standard_webhooks";
    let outcomes: Vec<_> =
        published().iter().filter(of).map(|vector| vector.run(&scheme).unwrap().got).collect();
    assert_eq!(outcomes, [Expected::Accept, Expected::Reject]);
}

#[test]
fn the_form_of_the_contract_compiles() {
    let scheme = custom(
        "algorithm='hmac-sha256'\nheader='X-Sig'\nprefix='v1='\nencoding='base64'\n\
         base='{id}.{timestamp}.{header:X-Shop}.{body}'\ntimestamp={header='X-Time',unit='ms'}\n\
         key_format='base64'\nid={header='X-Id',signed=true,unique=true}\n\
         type={header='X-Shop',signed=true}\nbody_coverage='full'\n\
         accept={status=200,content_type='text/plain',body='ok'}",
    );
    let foreign = ToSign { id: Some("1"), ..ToSign::new(NOW, b"") };
    let key = scheme.signing_key("AAAA").unwrap();
    assert_eq!(scheme.sign(&key, &foreign), Err(SignError::NeedsHeader("X-Shop".to_owned())));
    let other = custom(
        "algorithm='ed25519'\nheader='telnyx-signature-ed25519'\nencoding='base64'\n\
         base='{timestamp}|{body}'\ntimestamp={header='telnyx-timestamp'}\nkey_format='base64'\n\
         accept={status=200,content_type='text/plain',body='ok'}",
    );
    let got = Signed::new(other, b"{}").accepted();
    let body = Some((Some("text/plain".to_owned()), "ok".to_owned()));
    assert_eq!(got.reply, AcceptReply { status: 200, body });
}

#[test]
fn where_the_body_is_not_signed_another_body_is_a_replay() {
    let text = "algorithm='hmac-sha256'\nheader='Sig'\nencoding='hex'\nbase='{timestamp}.{id}'\n\
                timestamp={header='At'}\nid={header='Id',unique=UNIQUE}\nbody_coverage='none'";
    for (unique, kind) in [("true", b'i'), ("false", b's')] {
        let signed = Signed::new(custom(&text.replace("UNIQUE", unique)), b"one");
        let first = signed.accepted().dedup;
        let second = accepted(judge(&signed.rules, &signed.headers, b"two", NOW)).dedup;
        assert_eq!(first, second);
        assert_eq!(first.key[0], kind);
        assert_eq!(first.same_key_other_body, crate::message::OtherBody::Conflict);
    }
}

fn problems(text: &str) -> Vec<String> {
    match spec(text).compile("custom") {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn every_problem_of_a_scheme_is_found_at_once() {
    let found = problems(
        "algorithm='ed25519'\nheader='X Sig'\nbase='{timestamp}.{id}'\ntolerance_s=0\ndedup_ttl_s=0\n\
         id={header='A',json='b'}\ntype={json='a..b'}\naccept={status=404}\n\
         handshake=[{when=[],echo='a',confirm={json='b',hosts=['a.b']}}]",
    );
    let keys: Vec<&str> = found.iter().map(|problem| problem.split(": ").next().unwrap()).collect();
    for key in [
        "header",
        "base",
        "id",
        "type.json",
        "encoding",
        "key_format",
        "body_coverage",
        "tolerance_s",
        "dedup_ttl_s",
        "accept.status",
        "handshake",
        "handshake.when",
    ] {
        assert!(keys.contains(&key), "{key} not in {found:?}");
    }
}

#[test]
fn each_mistake_names_its_key() {
    let ok = "algorithm='hmac-sha256'\nheader='Sig'\nencoding='hex'\n";
    assert_eq!(problems(ok), Vec::<String>::new());
    let at = "timestamp={header='At'}\n";
    for (text, key) in [
        ("base='constant'", "base"),
        ("base='{timestamp}{body}'", "base"),
        ("base='{id}{body}'", "base"),
        ("base='{nonsense}{body}'", "base"),
        (at, "timestamp"),
        ("timestamp={}", "timestamp"),
        ("base='{timestamp}{body}'\ntimestamp={key='t'}", "timestamp.key"),
        ("base='{timestamp}{body}'\ntimestamp={key='v1'}\nlist={separator=',',key='v1'}", "timestamp.key"),
        ("list={separator='',key='v1'}", "list.separator"),
        ("list={separator=',',key=''}", "list.key"),
        ("list={separator=',',key='v1',also={v1='hmac-sha1'}}", "list.also.v1"),
        ("list={separator=',',key='v1',also={v2='ed25519'}}\nkey_format='hex'", "key_format"),
        ("list={separator=',',key='v1'}\nprefix='a'", "prefix"),
        ("id={header='Id',signed=true}", "id.signed"),
        ("type={header='Type',signed=true}", "type.signed"),
        ("body_coverage='none'", "body_coverage"),
        ("body_coverage='partial'", "body_coverage"),
        ("accept={status=204,body='x'}", "accept.body"),
        ("accept={content_type='text/plain'}", "accept.content_type"),
        ("form_field='a&b'", "form_field"),
        ("tolerance_s=300", "tolerance_s"),
        ("handshake=[{when=[{json='a'}]}]", "handshake"),
        ("handshake=[{when=[{json='a',equals=1,absent=true}],echo='b'}]", "handshake.when"),
        ("handshake=[{when=[{json='a'}],confirm={json='b',hosts=['*.com']}}]", "handshake.confirm.hosts"),
        ("challenge=[{from={query='a',header='b'}}]", "challenge.from"),
        ("signature_json='sig'", "header"),
        ("base='{names}{body}'", "base"),
        ("base='{text:a}{text:b}{body}'", "base"),
        ("list={separator=',',key='v1',bases={v2='{body}'}}", "list.bases.v2"),
        ("list={separator=',',key='v1',also={v0='hmac-sha256'},bases={v0='{method}'}}", "body_coverage"),
        ("key_url={header='U',hosts=[]}", "key_url.hosts"),
        ("key_url={hosts=['a.example.com']}", "key_url"),
        ("principal={query='a'}", "principal"),
        ("jwt={algorithms=['HS256']}", "jwt"),
        ("id={claim='jti'}", "id.claim"),
        ("id={form='a',json='b'}", "id"),
        ("id={header='A',join=':'}", "id.join"),
        ("key_format='pem'", "key_format"),
        ("algorithm_by={json='v',values={1='rsa-sha1'}}", "algorithm_by.values"),
    ] {
        let found = problems(&format!("{ok}{text}"));
        assert!(found.iter().any(|problem| problem.starts_with(&format!("{key}: "))), "{text}: {found:?}");
    }
}

#[test]
fn each_mistake_with_tokens_and_keys_names_its_key() {
    for (text, key) in [
        ("algorithm='token'\nheader='T'", "body_coverage"),
        ("algorithm='token'\nheader='T'\nbody_coverage='none'\nbase='{body}'", "base"),
        ("algorithm='token'\nheader='T'\nbody_coverage='none'\nencoding='hex'", "encoding"),
        ("algorithm='hmac-sha1'\nheader='T'", "encoding"),
        ("algorithm='ed25519'\nheader='T'\nencoding='hex'", "key_format"),
        ("algorithm='rsa-sha256'\nheader='T'\nencoding='hex'\nkey_format='hex'", "key_format"),
        ("algorithm='jwt'\nheader='T'\nbody_coverage='none'", "jwt"),
        ("algorithm='jwt'\nheader='T'\njwt={algorithms=['RS256']}", "body_coverage"),
        ("algorithm='jwt'\nheader='T'\nbody_coverage='none'\njwt={algorithms=['none']}", "jwt.algorithms"),
        (
            "algorithm='jwt'\nheader='T'\nbody_coverage='none'\njwt={algorithms=['HS256','RS256']}",
            "jwt.algorithms",
        ),
        (
            "algorithm='ed25519'\nheader='T'\nencoding='hex'\nkey_format='hex'\n\
          challenge=[{from={query='a'},mac='hex'}]",
            "challenge.mac",
        ),
        ("algorithm='token'\nheader=['A','B']\nbody_coverage='none'", "header"),
    ] {
        let found = problems(text);
        assert!(found.iter().any(|problem| problem.starts_with(&format!("{key}: "))), "{text}: {found:?}");
    }
}

#[test]
fn unknown_keys_and_values_are_no_scheme() {
    for unknown in ["algoritm='x'", "timestamp={headr='x'}", "algorithm='md5'", "encoding='b64'"] {
        let text = format!("header='Sig'\n{unknown}\n");
        assert!(toml::from_str::<SchemeSpec>(&text).is_err(), "{unknown}");
    }
}
