//! Every scheme that ships, over the wire: a request as its provider sends it is stored once, a tampered one is not,
//! challenges are answered, and what a scheme needs of the configuration is asked for at boot.

use crate::harness::{Setup, TENANT, TestNode, borrowed, ronctl, wall};
use crate::mailbox::depths;
use ron_core::scheme::vectors::Vector;
use ron_core::scheme::{Known, Scheme, Signed, SigningKey, ToSign};
use ron_node::schemes::{Catalogue, SHIPPED};
use serde_json::{Value, json};
use std::path::Path;

const ARN: &str = "arn:aws:sns:us-west-2:123456789012:T";

struct Sender {
    name: &'static str,
    scheme: Scheme,
    key: SigningKey,
    verifying: String,
}

fn vectors() -> Vec<Vector> {
    let read = |file: &str| -> Vec<Vector> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(file);
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    };
    [read("webhooks.json"), read("own.json")].concat()
}

fn secret_of(id: &str) -> String {
    vectors().into_iter().find(|vector| vector.id == id).unwrap().secrets()[0].clone()
}

fn sender(name: &'static str) -> Sender {
    let scheme = Catalogue::scheme(name, &toml::Table::new()).unwrap();
    let key = |file: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/keys").join(file);
        std::fs::read_to_string(path).unwrap()
    };
    let (signing, verifying) = match (scheme.sample_pair(&[name.len() as u8; 32]), name) {
        (Some(pair), _) => (pair.signing.to_string(), pair.verifying.to_string()),
        (None, "sendgrid") => {
            let der = key("p256.pem").lines().filter(|line| !line.starts_with('-')).collect();
            (der, secret_of("own-sendgrid-sendgrid_ecdsa-01"))
        }
        (None, _) => (key("rsa.pem"), secret_of("own-aws_sns-aws_sns-01")),
    };
    let key = scheme.signing_key(&signing).unwrap();
    Sender { name, scheme, key, verifying }
}

impl Sender {
    fn topic(&self) -> String {
        self.name.replace('_', "-")
    }

    fn known(&self) -> Known {
        Known {
            public_url: Some(format!("https://node.example/webhooks/{}", self.name)),
            principals: vec![ARN.to_owned()],
            audience: Some("https://node.example".to_owned()),
        }
    }

    fn add_to(&self, setup: Setup) -> Setup {
        let variable = format!("SECRET_{}", self.name.to_uppercase());
        let text = format!(
            "[interop.providers.{0}]\nscheme = \"{0}\"\ntenant = \"{TENANT}\"\ntopic = \"{1}\"\n\
             public_url = \"https://node.example\"\nprincipals = [\"{ARN}\"]\naudience = \"https://node.example\"\n\
             secrets = [{{ kid = \"k1\", env = \"{variable}\" }}]\n",
            self.name,
            self.topic()
        );
        setup.toml(&text).env(&variable, self.verifying.clone())
    }

    /// The n-th event as this provider sends it.
    fn event(&self, n: u32) -> Signed {
        let (id, now) = (format!("evt-{n}"), wall());
        let item = json!({"pspReference": format!("p{n}"), "eventCode": "E", "success": "true"});
        let body = json!({
            "id": id, "event_id": id, "type": "thing.done", "n": n, "webhookTimestamp": now.0,
            "signature": {"token": format!("token{n}")}, "notificationItems": [{"NotificationRequestItem": item}],
            "TopicArn": ARN, "Message": format!("m{n}"), "MessageId": id, "Timestamp": "t", "Type": "Notification",
        });
        let (body, headers) = (body.to_string(), [("PAYPAL-TRANSMISSION-TIME".to_owned(), now.rfc3339())]);
        let request = ToSign {
            id: Some(&id),
            event_type: Some("thing.done"),
            known: self.known(),
            query: "from=test",
            headers: &headers,
            ..ToSign::new(now, body.as_bytes())
        };
        self.scheme.sign(&self.key, &request).unwrap()
    }

    fn post(&self, node: &TestNode, signed: &Signed) -> crate::http::Answer {
        let path = format!("/webhooks/{}?{}", self.name, signed.query);
        node.interop().call("POST", &path, &borrowed(&signed.headers), &signed.body)
    }
}

#[test]
fn every_scheme_is_stored_once_and_refused_if_tampered() {
    let senders: Vec<Sender> = SHIPPED.iter().map(|(name, _)| sender(name)).collect();
    let node = senders.iter().fold(Setup::new(), |setup, sender| sender.add_to(setup)).start();
    let mailbox = node.mailbox();
    for sender in &senders {
        let name = sender.name;
        let signed = sender.event(1);
        for round in ["first", "again"] {
            let answer = sender.post(&node, &signed);
            assert!(
                (200..300).contains(&answer.status),
                "{name} {round}: {} {:?}",
                answer.status,
                answer.text()
            );
        }
        assert_eq!(depths(&mailbox, &sender.topic()), [1, 0, 0, 0], "{name}");
        let second = sender.event(2);
        assert!((200..300).contains(&sender.post(&node, &second).status), "{name}");
        assert_eq!(depths(&mailbox, &sender.topic()), [2, 0, 0, 0], "{name}: another event");

        // One byte of what is signed: of the body, or where that is not covered, of the signature.
        let mut flipped = sender.event(3);
        let of_body = ["adyen_payments", "aws_sns", "mailgun"].contains(&name);
        let header =
            flipped.headers.iter_mut().find(|(header, _)| sender.scheme.signs_in(&header.to_lowercase()));
        match header {
            Some((_, value)) => {
                let last = value.trim_end_matches('=').len() - 2;
                let other = if value.as_bytes()[last] == b'1' { "2" } else { "1" };
                value.replace_range(last..=last, other);
            }
            None => {
                assert!(of_body, "{name}");
                let text = String::from_utf8(flipped.body).unwrap();
                flipped.body =
                    text.replace("p3", "p4").replace("token3", "token4").replace("m3", "m4").into_bytes();
            }
        }
        let answer = sender.post(&node, &flipped);
        assert_eq!(
            (answer.status, &answer.json(401)["reason"]),
            (401, &json!("SIGNATURE_INVALID")),
            "{name}"
        );
        assert_eq!(depths(&mailbox, &sender.topic()), [2, 0, 0, 0], "{name}");
    }
    let log = node.log();
    for sender in &senders {
        assert!(!log.contains(&sender.verifying), "{}: its secret is in the log", sender.name);
    }
    assert!(log.contains("judge their test vectors rightly"), "the self-test at boot says so");
}

#[test]
fn challenges_are_answered_over_get() {
    let provider = |name: &str, more: &str| {
        format!(
            "[interop.providers.{name}]\nscheme = \"{name}\"\ntenant = \"{TENANT}\"\ntopic = \"t\"\n\
             secrets = [{{ kid = \"k1\", env = \"S\" }}]\n{more}\n"
        )
    };
    let node = Setup::new()
        .toml(&provider("meta", "verify_tokens = [{ env = \"META_VERIFY\" }]"))
        .toml(&provider("dropbox", ""))
        .toml(&provider("okta", ""))
        .toml(&provider("x_twitter", ""))
        .toml(&provider("github", ""))
        .env("S", "Convoy")
        .env("META_VERIFY", "verify-me")
        .start();
    let get = |path: &str, headers: &[(&str, &[u8])]| node.interop().call("GET", path, headers, b"");
    let meta = "/webhooks/meta?hub.mode=subscribe&hub.challenge=12&hub.verify_token=";
    let answer = get(&format!("{meta}verify-me"), &[]);
    assert_eq!((answer.status, answer.text()), (200, "12"));
    assert_eq!(answer.header("content-type"), Some("text/plain"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    get(&format!("{meta}Convoy"), &[]).refused(403, "POLICY_BLOCKED");
    assert_eq!(get("/webhooks/dropbox?challenge=abc123", &[]).text(), "abc123");
    get("/webhooks/dropbox", &[]).refused(400, "MALFORMED");
    let okta = get("/webhooks/okta", &[("X-Okta-Verification-Challenge", b"my verification challenge")]);
    assert_eq!(okta.json(200), json!({"verification": "my verification challenge"}));
    let crc = get("/webhooks/x_twitter?crc_token=uzwcfYtzr9", &[]);
    let published = "sha256=HXvxTdsfShG6k2zC9NVANwFquJBdOugRYHax2vNiiOo=";
    assert_eq!(crc.json(200), json!({ "response_token": published }));
    get("/webhooks/x_twitter?crc_token=%7B%22a%22%3A1%7D", &[]).refused(400, "MALFORMED");
    get("/webhooks/github?challenge=1", &[]).refused(405, "METHOD_NOT_ALLOWED");
    get("/webhooks/nobody?challenge=1", &[]).refused(403, "POLICY_BLOCKED");
}

#[test]
fn what_a_scheme_needs_stops_the_boot() {
    let provider = |name: &str, scheme: &str| {
        format!(
            "[interop.providers.{name}]\nscheme = \"{scheme}\"\ntenant = \"{TENANT}\"\ntopic = \"t\"\n\
             secrets = [{{ kid = \"k1\", env = \"S_{name}\" }}]\n"
        )
    };
    let public = secret_of("own-aws_sns-aws_sns-01");
    let setup = ["square:square", "sns:aws_sns", "pubsub:google_pubsub", "paypal:paypal"]
        .iter()
        .map(|pair| pair.split_once(':').unwrap())
        .fold(Setup::new(), |setup, (name, scheme)| setup.toml(&provider(name, scheme)))
        .env("S_square", "x")
        .env("S_sns", &public)
        .env("S_pubsub", &public)
        .env("S_paypal", "not a certificate");
    let (code, text) = setup.run_to_end();
    assert_eq!(code, 78, "{text}");
    for wanted in [
        "interop.providers.square.public_url",
        "interop.providers.sns.principals",
        "interop.providers.pubsub.principals",
        "interop.providers.paypal.secrets",
    ] {
        assert!(text.contains(wanted), "{wanted} not in {text}");
    }
    assert!(!text.contains("not a certificate"), "{text}");
}

#[test]
fn ronctl_runs_vectors_lists_schemes_and_signs() {
    let setup = Setup::new();
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/webhooks.json");
    let (code, out, _) = ronctl(&setup, &["interop", "verify", "--vectors", shared.to_str().unwrap()]);
    assert_eq!((code, out.lines().last()), (0, Some("189 ok, 0 mismatched")));
    assert!(out.contains("ok github-01 expected=accept got=accept"), "{out}");

    // A vector with the wrong verdict is named, and so is one that cannot be read.
    let mut all: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(&shared).unwrap()).unwrap();
    all.truncate(2);
    all[0]["expected"] = json!("reject");
    all.push(json!({"id": "broken", "provider": "nobody"}));
    let file = setup.dir().join("vectors.json");
    std::fs::write(&file, serde_json::to_vec(&all).unwrap()).unwrap();
    let (code, out, _) = ronctl(&setup, &["interop", "verify", "--vectors", file.to_str().unwrap()]);
    assert_eq!((code, out.lines().last()), (1, Some("1 ok, 2 mismatched")), "{out}");
    assert!(out.lines().next().unwrap().starts_with("MISMATCH "), "{out}");
    assert!(out.contains("MISMATCH broken expected=? got=error(missing field"), "{out}");

    let (code, out, _) = ronctl(&setup, &["interop", "providers", "--schemes"]);
    assert_eq!((code, out.lines().count()), (0, SHIPPED.len() + 1), "{out}");

    // What it signs, the node takes.
    let square = sender("square");
    let node = square.add_to(setup).start();
    let body = node.setup.dir().join("body.json");
    std::fs::write(&body, br#"{"event_id":"e1","type":"payment.created"}"#).unwrap();
    let secret = node.setup.dir().join("secret");
    std::fs::write(&secret, format!("{}\n", square.verifying)).unwrap();
    let signed = node.ronctl_json(&[
        "interop",
        "sign",
        "--scheme",
        "square",
        "--secret-file",
        secret.to_str().unwrap(),
        "--body",
        body.to_str().unwrap(),
        "--url",
        "https://node.example/webhooks/square?x=1",
    ]);
    let headers: Vec<(String, String)> = serde_json::from_value(signed["headers"].clone()).unwrap();
    let answer = node.interop().call(
        "POST",
        "/webhooks/square?x=1",
        &borrowed(&headers),
        signed["body"].as_str().unwrap().as_bytes(),
    );
    assert_eq!(answer.json(202)["accepted"], true);
    let listed = node.ronctl_json(&["interop", "providers"]);
    assert_eq!(listed[0]["scheme"], "square");
}
