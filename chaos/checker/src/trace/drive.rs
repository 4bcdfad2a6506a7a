//! Uses every route of a node once or more, well and badly, with canaries in everything that a client can
//! send.

use crate::http::{Answer, Client, Request, Target};
use crate::node::{Addresses, GITHUB_SECRET, GITHUB_TOPIC, STRIPE_SECRET, TENANT};
use crate::sign;
use crate::trace::canary::Canary;
use anyhow::{Context, Result, bail, ensure};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(20);
const PAYLOAD: &str = "CANARY-payload-5f0c2b97d1";
const ATTRIBUTE: &str = "CANARY-attribute-77ab01e4c9";
const KEY: &str = "CANARY-key-c41d9e20b8";
const WEBHOOK: &str = "CANARY-webhook-0be65fa313";
const NOTE: &str = "CANARY-note-92cc6d10f7";

/// What must not be found outside the node's memory.
#[must_use]
pub fn canaries(token: &str) -> Vec<Canary> {
    // a hash is searched without its `b3:`, in the form that logs would hold
    let hash = sign::content_address(PAYLOAD.as_bytes()).trim_start_matches("b3:").to_owned();
    vec![
        Canary::new("a payload", PAYLOAD),
        Canary::new("a webhook's payload", WEBHOOK),
        Canary::new("an attribute", ATTRIBUTE),
        Canary::new("an idempotency key", KEY),
        Canary::new("a consumer's note", NOTE),
        Canary::new("a payload hash", &hash),
        Canary::new("the GitHub secret", GITHUB_SECRET),
        Canary::new("the Stripe secret", STRIPE_SECRET),
        Canary::new("a token", token),
    ]
}

/// A client of all listeners of one node.
#[derive(Debug)]
pub struct Drive {
    mailbox: Client,
    interop: Client,
    admins: Vec<Target>,
    authorization: String,
    /// Requests sent.
    pub requests: u64,
}

impl Drive {
    /// A client with this capability.
    #[must_use]
    pub fn new(addresses: &Addresses, token: &str) -> Drive {
        let client = |addr| Client::new(Target::Tcp(addr), TIMEOUT);
        Drive {
            mailbox: client(addresses.mailbox),
            interop: client(addresses.interop),
            admins: vec![Target::Tcp(addresses.interop_admin), Target::Tcp(addresses.mailbox_admin)],
            authorization: format!("Bearer {token}"),
            requests: 0,
        }
    }

    /// Sends a request with the capability and expects a status.
    ///
    /// # Errors
    /// No answer, or another status.
    pub fn mailbox(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
        status: u16,
    ) -> Result<Answer> {
        self.requests += 1;
        let authorization = self.authorization.clone();
        let all: Vec<_> =
            [("Authorization", authorization.as_str())].iter().chain(headers).copied().collect();
        let path = format!("/v1/{TENANT}{path}");
        let request = Request { method, path: &path, headers: &all, body: body.as_bytes() };
        expect(&mut self.mailbox, &request, status)
    }

    /// Sends one message and gives its id.
    ///
    /// # Errors
    /// As for [`Drive::mailbox`].
    pub fn enqueue(&mut self, topic: &str, body: &str) -> Result<()> {
        let headers = [("Content-Type", "text/plain"), ("X-Attr-Canary", ATTRIBUTE)];
        self.mailbox("POST", &format!("/{topic}/enqueue"), &headers, body, 200).map(drop)
    }

    /// Receives up to ten messages and gives their receipts.
    ///
    /// # Errors
    /// As for [`Drive::mailbox`], and if nothing comes.
    pub fn recv(&mut self, topic: &str) -> Result<Vec<String>> {
        let body = r#"{"max_messages":10,"visibility_ms":30000,"wait_ms":5000}"#;
        let answer = self.mailbox("POST", &format!("/{topic}/recv"), &[JSON], body, 200)?;
        let value: serde_json::Value = serde_json::from_slice(&answer.body).context("recv's answer")?;
        let messages = value["messages"].as_array().context("recv's answer has no messages")?;
        let receipts: Vec<String> =
            messages.iter().filter_map(|message| message["receipt"].as_str().map(str::to_owned)).collect();
        ensure!(!receipts.is_empty(), "nothing was received from {topic}");
        Ok(receipts)
    }

    /// Acks, nacks or extends one receipt; `more` are further members of the body.
    ///
    /// # Errors
    /// As for [`Drive::mailbox`].
    pub fn settle(&mut self, topic: &str, call: &str, receipt: &str, more: &str) -> Result<()> {
        let body = format!("{{\"receipts\":[{receipt:?}]{more}}}");
        self.mailbox("POST", &format!("/{topic}/{call}"), &[JSON], &body, 200).map(drop)
    }

    /// Uses every route as it should be used.
    ///
    /// # Errors
    /// The first route that does not answer as it should.
    pub fn use_all(&mut self) -> Result<()> {
        let topic = "canaries";
        for _ in 0..6 {
            self.enqueue(topic, PAYLOAD)?;
        }
        let headers = [("Idempotency-Key", KEY), ("X-Delay-Ms", "60000"), ("X-Ttl-Ms", "90000")];
        self.mailbox("POST", "/canaries/enqueue", &headers, PAYLOAD, 200)?;
        self.mailbox("POST", "/canaries/enqueue", &headers, PAYLOAD, 200)?;
        self.mailbox("POST", "/canaries/enqueue", &headers, "another body", 409)?;
        let batch = format!(
            "{{\"messages\":[{{\"payload\":\"{PAYLOAD}\",\"attrs\":{{\"canary\":\"{ATTRIBUTE}\"}}}},\
             {{\"payload_b64\":\"AAEC\",\"content_type\":\"image/png\",\"idempotency_key\":\"{KEY}-2\"}}]}}"
        );
        self.mailbox("POST", "/canaries/enqueue/batch", &[JSON], &batch, 200)?;
        let receipts = self.recv(topic)?;
        ensure!(receipts.len() >= 5, "only {} messages were received", receipts.len());
        self.settle(topic, "ack", &receipts[0], "")?;
        self.settle(topic, "ack", &receipts[0], "")?;
        self.settle(topic, "nack", &receipts[1], &format!(",\"mode\":\"reject\",\"reason\":\"{NOTE}\""))?;
        self.settle(topic, "nack", &receipts[2], &format!(",\"mode\":\"fail\",\"reason\":\"{NOTE}\""))?;
        self.settle(topic, "nack", &receipts[3], ",\"mode\":\"release\"")?;
        self.settle(topic, "extend", &receipts[4], ",\"visibility_ms\":300")?;
        self.recv(topic)?;
        for state in ["ready", "delayed", "vis", "dlq"] {
            self.mailbox("GET", &format!("/canaries/peek?state={state}&limit=5"), &[], "", 200)?;
        }
        self.mailbox("GET", "/canaries", &[], "", 200)?;
        self.mailbox("GET", "", &[], "", 200)?;
        self.mailbox("POST", "/empty/recv", &[JSON], r#"{"wait_ms":300}"#, 200)?;
        self.webhooks()?;
        self.recv(GITHUB_TOPIC)?;
        for path in ["/healthz", "/readyz", "/readyz?for=reads", "/metrics"] {
            for admin in 0..self.admins.len() {
                self.admin(admin, path, 200)?;
            }
        }
        Ok(())
    }

    fn webhook(&mut self, path: &str, headers: &[(&str, &str)], body: &str, status: u16) -> Result<()> {
        self.requests += 1;
        let request = Request { method: "POST", path, headers, body: body.as_bytes() };
        expect(&mut self.interop, &request, status).map(drop)
    }

    fn webhooks(&mut self) -> Result<()> {
        let nth = self.requests; // a body of its own each time, so that it is no duplicate
        let body = format!("{{\"action\":\"opened\",\"number\":{nth},\"canary\":\"{WEBHOOK}\"}}");
        let signature = sign::github(GITHUB_SECRET, body.as_bytes());
        let headers = [("X-Hub-Signature-256", signature.as_str()), JSON, ("X-GitHub-Event", "push")];
        for _ in 0..2 {
            self.webhook("/webhooks/github", &headers, &body, 202)?;
        }
        self.webhook("/webhooks/github", &headers, "changed", 401)?;
        self.webhook("/webhooks/github", &[JSON], &body, 401)?;
        let event = format!("{{\"id\":\"evt_{nth}\",\"type\":\"x\",\"canary\":\"{WEBHOOK}\"}}");
        let signature = sign::stripe(STRIPE_SECRET, unix_s(), event.as_bytes());
        self.webhook("/webhooks/stripe", &[("Stripe-Signature", &signature), JSON], &event, 202)?;
        let old = sign::stripe(STRIPE_SECRET, 1_600_000_000, event.as_bytes());
        self.webhook("/webhooks/stripe", &[("Stripe-Signature", &old), JSON], &event, 401)?;
        self.webhook("/webhooks/nobody", &[JSON], &event, 403)
    }

    fn admin(&mut self, which: usize, path: &str, status: u16) -> Result<Answer> {
        self.requests += 1;
        // a new connection each time: a kept one may be closed as idle just when it is used
        let target = self.admins.get(which).context("no such admin listener")?;
        expect(
            &mut Client::new(target.clone(), TIMEOUT),
            &Request { method: "GET", path, headers: &[], body: b"" },
            status,
        )
    }

    /// What both admin listeners show at /metrics.
    ///
    /// # Errors
    /// If one does not answer.
    pub fn metrics(&mut self) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        for admin in 0..self.admins.len() {
            all.extend(self.admin(admin, "/metrics", 200)?.body);
        }
        Ok(all)
    }

    /// Sends what no client should send; every refusal must have its status.
    ///
    /// # Errors
    /// The first that is answered otherwise.
    pub fn misuse_all(&mut self) -> Result<()> {
        let large = "x".repeat(1024 * 1024 + 1);
        let canary = format!("{{\"receipts\":[\"{PAYLOAD}\"]}}");
        let unknown = format!("{{\"{PAYLOAD}\":1}}");
        let broken = format!("{{\"max_messages\": \"{PAYLOAD}");
        for (method, path, headers, body, status) in [
            ("POST", "/canaries/recv", &[JSON][..], unknown.as_str(), 400),
            ("POST", "/canaries/recv", &[JSON], broken.as_str(), 400),
            ("POST", "/canaries/recv", &[("Content-Type", "text/plain")], "{}", 415),
            ("POST", "/canaries/enqueue", &[("Content-Encoding", "gzip")], "x", 415),
            ("POST", "/canaries/enqueue", &[("X-Delay-Ms", PAYLOAD)], "x", 400),
            ("POST", "/canaries/enqueue", &[("X-Payload-Hash", "b3:00")], PAYLOAD, 400),
            ("POST", "/canaries/enqueue", &[], large.as_str(), 413),
            ("POST", "/CANARIES/enqueue", &[], "x", 400),
            ("GET", "/never-used", &[], "", 404),
            ("GET", "/canaries/no-such-route", &[], "", 404),
            ("DELETE", "/canaries/recv", &[], "", 405),
            ("GET", "/canaries/peek?state=nowhere", &[], "", 400),
        ] {
            // a server that refuses a body early closes the connection under it
            if status == 413 {
                self.requests += 1;
                let _ = self.mailbox(method, path, headers, body, status);
                continue;
            }
            self.mailbox(method, path, headers, body, status)?;
        }
        let answer = self.mailbox("POST", "/canaries/ack", &[JSON], &canary, 200)?;
        ensure!(!String::from_utf8_lossy(&answer.body).contains("CANARY"), "a refusal repeats what was sent");
        self.unauthorised(&[], 401)?;
        self.unauthorised(&[("Authorization", "Bearer ron1_AAAA")], 401)?;
        self.unauthorised(&[("Authorization", "Basic x"), ("X-Token", PAYLOAD)], 401)?;
        for raw in [&b"GARBAGE\r\n\r\n"[..], b"POST /v1/acme/t/enqueue HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n"] {
            // the library answers or closes; both are right
            let _ = self.mailbox.raw(raw);
            let _ = self.interop.raw(raw);
        }
        self.mailbox("GET", "/canaries", &[], "", 200).map(drop)
    }

    fn unauthorised(&mut self, headers: &[(&str, &str)], status: u16) -> Result<()> {
        self.requests += 1;
        let path = format!("/v1/{TENANT}/canaries/enqueue");
        let request = Request { method: "POST", path: &path, headers, body: PAYLOAD.as_bytes() };
        expect(&mut self.mailbox, &request, status).map(drop)
    }
}

const JSON: (&str, &str) = ("Content-Type", "application/json");

fn unix_s() -> u64 {
    crate::clock::Clock::start().now() / 1_000_000
}

fn expect(client: &mut Client, request: &Request<'_>, status: u16) -> Result<Answer> {
    let Request { method, path, .. } = request;
    match client.call(request) {
        Ok(answer) if answer.status == status => Ok(answer),
        Ok(answer) => {
            let body = String::from_utf8_lossy(&answer.body);
            bail!("{method} {path} was answered {} and not {status}: {:.300}", answer.status, body)
        }
        Err(failure) => bail!("{method} {path} was not answered: {failure:?}"),
    }
}
