//! Those whom a brownout must not touch: a consumer that reads and settles, and a provider that shakes hands.

use crate::api::{Api, text};
use crate::clock::{self, Clock, Micros};
use crate::http::{Answer, Client, Failure, Request, Target};
use crate::node::SLACK_SECRET;
use crate::sign;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A silent node is given up after this.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Between two rounds.
const EVERY: Duration = Duration::from_millis(50);

/// The name of asking whether the node serves reads.
pub const READYZ: &str = "readyz for reads";

/// One of their requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// What was asked for.
    pub what: &'static str,
    /// When.
    pub at: Micros,
    /// How long it took, µs.
    pub took: Micros,
    /// `200`, or a status, its reason and the text; empty without an answer.
    pub said: String,
}

/// Asks in turns until `over`: stat, peek, receive, ack, readiness for reads, a handshake.
pub fn visit(clock: Clock, to: Visited<'_>, over: &AtomicBool) -> Vec<Served> {
    let mut visitor = Visitor {
        clock,
        api: Api::new(to.mailbox, to.token),
        interop: Client::new(Target::Tcp(to.interop), TIMEOUT),
        admin: Client::new(Target::Tcp(to.admin), TIMEOUT),
        topic: to.topic,
        served: Vec::new(),
    };
    let mut number = 0;
    while !over.load(Ordering::SeqCst) {
        visitor.round(number);
        number += 1;
        clock::sleep(EVERY);
    }
    visitor.served
}

/// Where they go.
#[derive(Debug, Clone, Copy)]
pub struct Visited<'a> {
    /// The mailbox's listener.
    pub mailbox: SocketAddr,
    /// The webhooks' listener.
    pub interop: SocketAddr,
    /// An admin listener.
    pub admin: SocketAddr,
    /// A capability.
    pub token: &'a str,
    /// A topic that holds messages.
    pub topic: &'a str,
}

struct Visitor<'a> {
    clock: Clock,
    api: Api,
    interop: Client,
    admin: Client,
    topic: &'a str,
    served: Vec<Served>,
}

impl Visitor<'_> {
    fn round(&mut self, number: u64) {
        let topic = self.topic;
        self.api_call("stat", "GET", topic, &Value::Null);
        self.api_call("peek", "GET", &format!("{topic}/peek?state=ready&limit=5"), &Value::Null);
        let ask = json!({"max_messages": 1, "visibility_ms": 60_000});
        let got = self.api_call("recv", "POST", &format!("{topic}/recv"), &ask);
        let messages = got["messages"].as_array().cloned().unwrap_or_default();
        let receipts: Vec<&str> = messages.iter().map(|message| text(message, "receipt")).collect();
        if !receipts.is_empty() {
            self.api_call("ack", "POST", &format!("{topic}/ack"), &json!({"receipts": receipts}));
        }
        let (at, ready) =
            (self.clock.now(), Request { method: "GET", path: "/readyz?for=reads", headers: &[], body: b"" });
        let answer = ask_again(&mut self.admin, &ready);
        self.note(READYZ, at, answer);
        self.shake_hands(number);
    }

    /// Slack's `url_verification` (docs.slack.dev): the challenge comes back.
    fn shake_hands(&mut self, number: u64) {
        let at = self.clock.now();
        let challenge = format!("challenge-{number}");
        let body = json!({"type": "url_verification", "challenge": challenge, "token": "x"}).to_string();
        let stamp = (at / 1_000_000).to_string();
        let signature = sign::slack(SLACK_SECRET, &stamp, body.as_bytes());
        let headers = [
            ("X-Slack-Signature", signature.as_str()),
            ("X-Slack-Request-Timestamp", stamp.as_str()),
            ("Content-Type", "application/json"),
        ];
        let request =
            Request { method: "POST", path: "/webhooks/slack", headers: &headers, body: body.as_bytes() };
        let answer = ask_again(&mut self.interop, &request);
        let echoed = answer.as_ref().is_ok_and(|answer| {
            answer.status != 200 || String::from_utf8_lossy(&answer.body).contains(&challenge)
        });
        self.note(if echoed { "handshake" } else { "handshake without its challenge" }, at, answer);
    }

    fn api_call(&mut self, what: &'static str, method: &str, path: &str, body: &Value) -> Value {
        let at = self.clock.now();
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let answer = self.api.try_call(method, path, &[("Content-Type", "application/json")], &bytes);
        let read = answer.as_ref().ok().and_then(|answer| serde_json::from_slice(&answer.body).ok());
        self.note(what, at, answer);
        read.unwrap_or_default()
    }

    fn note(&mut self, what: &'static str, at: Micros, answer: Result<Answer, Failure>) {
        let took = self.clock.now() - at;
        let said = match answer {
            Ok(answer) if answer.status == 200 => "200".to_owned(),
            Ok(answer) => {
                let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                format!("{} {}: {}", answer.status, text(&body, "reason"), text(&body, "text"))
            }
            Err(_) => String::new(),
        };
        self.served.push(Served { what, at, took, said });
    }
}

/// Asks once more if there was no answer: a round may take so long that the node has ended a kept connection as
/// idle, and asking twice changes nothing.
fn ask_again(client: &mut Client, request: &Request<'_>) -> Result<Answer, Failure> {
    match client.call(request) {
        Err(Failure::Unknown(_)) => client.call(request),
        answered => answered,
    }
}
