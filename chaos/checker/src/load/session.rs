//! One client: sends requests to whichever node is up, journals them, and reads answers strictly.

use super::Shared;
use super::plan::{Kind, Plan};
use super::{binary, wire};
use crate::clock;
use crate::history::{Call, Dead, Depths, Got, How, Outcome, Route, SendResult};
use crate::http::{Answer, Client, Failure, Request, Target};
use crate::node::{GITHUB_SECRET, STRIPE_SECRET, TENANT};
use crate::oap;
use crate::rng::Rng;
use crate::sign;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A silent node is given up after this; longer than any long poll of the load.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A frame of OAP/1 has 1 MiB with everything in it.
const OAP_BODY_MAX: usize = oap::FRAME_MAX - 8 * 1024;

/// A client with its own connections, generator and share of the run.
#[derive(Debug)]
pub struct Session {
    /// What all clients of the run share.
    pub shared: Arc<Shared>,
    /// This client's choices.
    pub rng: Rng,
    clients: Option<(u64, Client, Client)>,
    authorization: String,
    /// Whether it sends, receives and settles over OAP/1, where a request fits into a frame.
    binary: bool,
    oap: Option<(u64, oap::Connection)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Port {
    Mailbox,
    Interop,
}

impl Session {
    /// The client number `stream` of the run.
    #[must_use]
    pub fn new(shared: &Arc<Shared>, stream: u64) -> Session {
        let rng = Rng::new(shared.seed, stream);
        let authorization = format!("Bearer {}", shared.token);
        Session { shared: Arc::clone(shared), rng, clients: None, authorization, binary: false, oap: None }
    }

    /// The same over OAP/1 if `binary`.
    #[must_use]
    pub fn over_oap(mut self, binary: bool) -> Session {
        self.binary = binary;
        self
    }

    /// Connects to the node that is up now, waiting for one; false when the run is over.
    fn connect(&mut self, port: Port) -> bool {
        while let Some((generation, addresses)) = self.shared.cluster.wait_up() {
            if self.clients.as_ref().is_none_or(|(of, ..)| *of != generation) {
                let client = |addr| Client::new(Target::Tcp(addr), TIMEOUT);
                self.clients = Some((generation, client(addresses.mailbox), client(addresses.interop)));
            }
            if self.client(port).is_some_and(|client| client.connect().is_ok()) {
                return true;
            }
            // killed, and not yet known to be: ask again in a moment
            clock::sleep(Duration::from_millis(5));
        }
        false
    }

    fn client(&mut self, port: Port) -> Option<&mut Client> {
        let (_, mailbox, interop) = self.clients.as_mut()?;
        Some(if port == Port::Mailbox { mailbox } else { interop })
    }

    /// Sends one journaled request; `read` turns a 2xx answer into an outcome.
    fn run(
        &mut self,
        port: Port,
        call: Call,
        request: &Request<'_>,
        read: impl FnOnce(&Answer) -> Result<Outcome, String>,
    ) -> Option<Outcome> {
        if !self.connect(port) {
            return None;
        }
        let shared = Arc::clone(&self.shared);
        let receives = matches!(call, Call::Recv { .. });
        let gauge = if receives { &shared.recvs_in_flight } else { &shared.writes_in_flight };
        let invoked = shared.journal.invoke(call);
        gauge.fetch_add(1, Ordering::SeqCst);
        let answer = self.client(port)?.call(request);
        let at = shared.clock.now();
        gauge.fetch_sub(1, Ordering::SeqCst);
        let outcome = match answer {
            Err(Failure::NotSent(_)) => Outcome::NotSent,
            Err(Failure::Unknown(error)) => Outcome::Unknown(error.to_string()),
            Ok(answer) if (200..300).contains(&answer.status) => {
                read(&answer).unwrap_or_else(Outcome::Misformed)
            }
            Ok(answer) => wire::refusal(&answer),
        };
        if receives && matches!(outcome, Outcome::Got(_)) {
            shared.cluster.first_recv_answered(at);
        }
        shared.journal.done(&invoked, at, outcome.clone());
        Some(outcome)
    }

    /// Connects to the node that is up now, over OAP/1; `None` when the run is over.
    fn connect_oap(&mut self) -> Option<oap::Connection> {
        while let Some((generation, addresses)) = self.shared.cluster.wait_up() {
            if let Some((_, connection)) = self.oap.take().filter(|(of, _)| *of == generation) {
                return Some(connection);
            }
            if let Ok(connection) = oap::Connection::open(addresses.oap, &self.shared.token, TIMEOUT) {
                self.oap = Some((generation, connection));
                continue;
            }
            // killed, and not yet known to be: ask again in a moment
            clock::sleep(Duration::from_millis(5));
        }
        None
    }

    /// Sends journaled requests over OAP/1, all at once; `read` turns the answers with code 200 into outcomes.
    fn run_binary(
        &mut self,
        calls: Vec<(Call, Vec<u8>)>,
        read: impl Fn(&oap::Answer) -> Result<Outcome, String>,
    ) -> Option<Vec<Outcome>> {
        let mut connection = self.connect_oap()?;
        let generation = self.shared.cluster.wait_up()?.0;
        let shared = Arc::clone(&self.shared);
        let receives = matches!(calls.first(), Some((Call::Recv { .. }, _)));
        let gauge = if receives { &shared.recvs_in_flight } else { &shared.writes_in_flight };
        let (calls, requests): (Vec<Call>, Vec<Vec<u8>>) = calls.into_iter().unzip();
        let count = calls.len() as u64;
        let invoked: Vec<_> = calls.into_iter().map(|call| shared.journal.invoke(call)).collect();
        gauge.fetch_add(count, Ordering::SeqCst);
        let answers = connection.call_all(&requests);
        let at = shared.clock.now();
        gauge.fetch_sub(count, Ordering::SeqCst);
        if answers.iter().all(Result::is_ok) {
            self.oap = Some((generation, connection));
        }
        let mut outcomes = Vec::with_capacity(invoked.len());
        for (invoked, answer) in invoked.iter().zip(answers) {
            let outcome = match answer {
                Err(Failure::NotSent(_)) => Outcome::NotSent,
                Err(Failure::Unknown(error)) => Outcome::Unknown(error.to_string()),
                Ok(answer) if answer.code == 200 => read(&answer).unwrap_or_else(Outcome::Misformed),
                Ok(answer) => binary::refusal(&answer),
            };
            if receives && matches!(outcome, Outcome::Got(_)) {
                shared.cluster.first_recv_answered(at);
            }
            shared.journal.done(invoked, at, outcome.clone());
            outcomes.push(outcome);
        }
        Some(outcomes)
    }

    fn one_binary(
        &mut self,
        call: Call,
        request: Vec<u8>,
        read: impl Fn(&oap::Answer) -> Result<Outcome, String>,
    ) -> Option<Outcome> {
        self.run_binary(vec![(call, request)], read)?.pop()
    }

    /// Sends messages one by one without waiting for answers between them, as OAP/1 allows; one outcome each.
    /// Those that do not fit into a frame, and all of a client that speaks HTTP, go by themselves.
    pub fn send_pipelined(&mut self, plans: &[Plan]) -> Option<Vec<Outcome>> {
        let seed = self.shared.seed;
        let fits =
            |plan: &Plan| matches!(plan.kind, Kind::Bytes | Kind::Json | Kind::Text | Kind::BrokenText);
        if !self.binary || !plans.iter().all(|plan| fits(plan) && plan.size < OAP_BODY_MAX) {
            return plans.iter().map(|plan| self.send(plan)).collect();
        }
        let call = |plan: &Plan| {
            let body = plan.body(seed);
            let (topic, sends) = (plan.topic.to_owned(), vec![plan.sent(&body)]);
            (Call::Send { topic, route: Route::Oap, sends }, binary::enqueue(plan, &body))
        };
        let calls = plans.iter().map(call).collect();
        self.run_binary(calls, |answer| binary::accepted(answer).map(|one| Outcome::Sent(vec![one])))
    }

    fn post_json(
        &mut self,
        call: Call,
        path: &str,
        body: &serde_json::Value,
        read: impl FnOnce(&Answer) -> Result<Outcome, String>,
    ) -> Option<Outcome> {
        let path = format!("/v1/{TENANT}/{}/{path}", call.topic());
        let authorization = self.authorization.clone();
        let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
        let body = body.to_string();
        let request = Request { method: "POST", path: &path, headers: &headers, body: body.as_bytes() };
        self.run(Port::Mailbox, call, &request, read)
    }

    fn get(
        &mut self,
        call: Call,
        path: &str,
        read: impl FnOnce(&Answer) -> Result<Outcome, String>,
    ) -> Option<Outcome> {
        let authorization = self.authorization.clone();
        let headers = [("Authorization", authorization.as_str())];
        let request = Request { method: "GET", path, headers: &headers, body: b"" };
        self.run(Port::Mailbox, call, &request, read)
    }

    /// Sends one message by its own route: `/enqueue` or its provider's webhook. `None` when the run is over.
    pub fn send(&mut self, plan: &Plan) -> Option<Outcome> {
        match plan.kind {
            Kind::Github | Kind::Stripe => self.webhook(plan),
            Kind::Bytes | Kind::Json | Kind::Text | Kind::BrokenText => self.enqueue(plan),
        }
    }

    fn enqueue(&mut self, plan: &Plan) -> Option<Outcome> {
        let body = plan.body(self.shared.seed);
        let sent = plan.sent(&body);
        if self.binary && body.len() < OAP_BODY_MAX {
            let call = Call::Send { topic: plan.topic.to_owned(), route: Route::Oap, sends: vec![sent] };
            let read = |answer: &oap::Answer| binary::accepted(answer).map(|one| Outcome::Sent(vec![one]));
            return self.one_binary(call, binary::enqueue(plan, &body), read);
        }
        let (delay, cid) = (plan.delay_ms.to_string(), format!("{:x}", plan.send));
        let authorization = self.authorization.clone();
        let mut headers = vec![("Authorization", authorization.as_str()), ("X-Attr-Cid", cid.as_str())];
        headers.extend(plan.content_type().map(|value| ("Content-Type", value)));
        headers.extend(plan.key.as_deref().map(|value| ("Idempotency-Key", value)));
        if plan.delay_ms > 0 {
            headers.push(("X-Delay-Ms", &delay));
        }
        let hash = sent.hash.clone();
        if plan.send.is_multiple_of(3) {
            headers.push(("X-Payload-Hash", &hash));
        }
        let path = format!("/v1/{TENANT}/{}/enqueue", plan.topic);
        let request = Request { method: "POST", path: &path, headers: &headers, body: &body };
        let call = Call::Send { topic: plan.topic.to_owned(), route: Route::Single, sends: vec![sent] };
        self.run(Port::Mailbox, call, &request, |answer| {
            wire::accepted(answer).map(|one| Outcome::Sent(vec![one]))
        })
    }

    fn webhook(&mut self, plan: &Plan) -> Option<Outcome> {
        let body = plan.body(self.shared.seed);
        let now_s = self.shared.clock.now() / 1_000_000;
        let (delivery, wrong) = (plan.delivery_id(), "not-the-secret");
        let (provider, signature, header) = if plan.kind == Kind::Github {
            let secret = if plan.forged { wrong } else { GITHUB_SECRET };
            ("github", sign::github(secret, &body), "X-Hub-Signature-256")
        } else {
            let secret = if plan.forged { wrong } else { STRIPE_SECRET };
            ("stripe", sign::stripe(secret, now_s, &body), "Stripe-Signature")
        };
        let mut headers = vec![(header, signature.as_str())];
        headers.extend(plan.content_type().map(|value| ("Content-Type", value)));
        if plan.kind == Kind::Github {
            headers.extend([("X-GitHub-Delivery", delivery.as_str()), ("X-GitHub-Event", "pull_request")]);
        }
        let path = format!("/webhooks/{provider}");
        let request = Request { method: "POST", path: &path, headers: &headers, body: &body };
        let route = Route::Webhook(provider.to_owned());
        let call = Call::Send { topic: plan.topic.to_owned(), route, sends: vec![plan.sent(&body)] };
        self.run(Port::Interop, call, &request, |answer| {
            wire::webhook_accepted(answer).map(|one| Outcome::Sent(vec![one]))
        })
    }

    /// Sends several messages of one topic in one request.
    pub fn send_batch(&mut self, topic: &'static str, plans: &[Plan]) -> Option<Outcome> {
        let mut sends = Vec::new();
        let mut messages = Vec::new();
        if self.binary && plans.iter().map(|plan| plan.size + 1_024).sum::<usize>() < OAP_BODY_MAX {
            let bodies: Vec<_> = plans.iter().map(|plan| (plan, plan.body(self.shared.seed))).collect();
            sends.extend(bodies.iter().map(|(plan, body)| plan.sent(body)));
            let count = sends.len();
            let call = Call::Send { topic: topic.to_owned(), route: Route::Oap, sends };
            let read = |answer: &oap::Answer| binary::batch_results(answer, count).map(Outcome::Sent);
            return self.one_binary(call, binary::enqueue_batch(topic, &bodies), read);
        }
        for plan in plans {
            let body = plan.body(self.shared.seed);
            messages.push(wire::batch_item(plan, &body));
            sends.push(plan.sent(&body));
        }
        let count = sends.len();
        let call = Call::Send { topic: topic.to_owned(), route: Route::Batch, sends };
        let body = serde_json::json!({ "messages": messages });
        self.post_json(call, "enqueue/batch", &body, |answer| {
            wire::batch_results(answer, count).map(Outcome::Sent)
        })
    }

    /// Receives up to `max` messages.
    pub fn recv(&mut self, topic: &str, visibility_ms: u64, max: u32, wait_ms: u64) -> Option<Vec<Got>> {
        let call = Call::Recv { topic: topic.to_owned(), visibility_ms, max, wait_ms };
        let body = serde_json::json!({
            "max_messages": max, "visibility_ms": visibility_ms, "wait_ms": wait_ms, "max_bytes": 8 << 20
        });
        let at = topic.to_owned();
        let outcome = if self.binary {
            let request = binary::recv(topic, visibility_ms, max, wait_ms);
            self.one_binary(call, request, |answer| binary::deliveries(answer).map(Outcome::Got))?
        } else {
            self.post_json(call, "recv", &body, |answer| wire::envelopes(answer, &at).map(Outcome::Got))?
        };
        match outcome {
            Outcome::Got(messages) => Some(messages),
            outcome => {
                if matches!(outcome, Outcome::Refused { .. }) {
                    clock::sleep(Duration::from_millis(20));
                }
                Some(Vec::new())
            }
        }
    }

    /// Acks, nacks or extends.
    pub fn settle(&mut self, topic: &str, how: &How, receipts: &[String]) -> Option<Outcome> {
        if self.binary
            && let Some(request) = binary::settle(topic, how, receipts)
        {
            let count = receipts.len();
            let call =
                Call::Settle { topic: topic.to_owned(), how: how.clone(), receipts: receipts.to_vec() };
            let read = |answer: &oap::Answer| binary::settled(answer, count).map(Outcome::Settled);
            return self.one_binary(call, request, read);
        }
        let (path, body) = match how {
            How::Ack => ("ack", serde_json::json!({ "receipts": receipts })),
            How::Nack { mode, delay_ms, reason } => {
                let mut body = serde_json::json!({ "receipts": receipts, "mode": mode });
                if let Some(delay_ms) = delay_ms {
                    body["delay_ms"] = (*delay_ms).into();
                }
                if let Some(reason) = reason {
                    body["reason"] = reason.as_str().into();
                }
                ("nack", body)
            }
            How::Extend { visibility_ms } => {
                ("extend", serde_json::json!({ "receipts": receipts, "visibility_ms": visibility_ms }))
            }
        };
        let receipts = receipts.to_vec();
        let count = receipts.len();
        let call = Call::Settle { topic: topic.to_owned(), how: how.clone(), receipts };
        self.post_json(call, path, &body, |answer| wire::settled(answer, count).map(Outcome::Settled))
    }

    /// The topic's figures; a topic never used has none and counts as empty.
    pub fn stat(&mut self, topic: &str) -> Option<Depths> {
        let call = Call::Stat { topic: topic.to_owned() };
        let path = format!("/v1/{TENANT}/{topic}");
        match self.get(call, &path, |answer| wire::depths(answer).map(Outcome::Figures))? {
            Outcome::Figures(depths) => Some(depths),
            _ => None,
        }
    }

    /// Walks all dead letters of a topic, and journals the walk as one operation.
    pub fn walk_dlq(&mut self, topic: &str) -> Option<Vec<Dead>> {
        if !self.connect(Port::Mailbox) {
            return None;
        }
        let shared = Arc::clone(&self.shared);
        let invoked = shared.journal.invoke(Call::WalkDlq { topic: topic.to_owned() });
        let outcome = self.walk_pages(topic).map_or_else(Outcome::Misformed, Outcome::Dead);
        shared.journal.done(&invoked, shared.clock.now(), outcome.clone());
        match outcome {
            Outcome::Dead(dead) => Some(dead),
            _ => None,
        }
    }

    fn walk_pages(&mut self, topic: &str) -> Result<Vec<Dead>, String> {
        let mut all = Vec::new();
        let mut cursor = None;
        loop {
            let from = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
            let path = format!("/v1/{TENANT}/{topic}/peek?state=dlq&limit=20{from}");
            let authorization = self.authorization.clone();
            let headers = [("Authorization", authorization.as_str())];
            let request = Request { method: "GET", path: &path, headers: &headers, body: b"" };
            let client = self.client(Port::Mailbox).ok_or("no connection")?;
            let answer = client.call(&request).map_err(|failure| format!("peek: {failure:?}"))?;
            let (mut page, next) = wire::dead_page(&answer, topic)?;
            all.append(&mut page);
            match next {
                Some(next) => cursor = Some(next),
                None => return Ok(all),
            }
        }
    }

    /// Whether one of a send's results says that its outcome is open.
    #[must_use]
    pub fn is_open(outcome: &Outcome) -> bool {
        match outcome {
            Outcome::Sent(results) => results.iter().any(|result| {
                matches!(result, SendResult::Refused(reason)
                    if !matches!(reason.as_str(), "IDEMPOTENCY_CONFLICT" | "MALFORMED" | "BODY_LIMIT"))
            }),
            Outcome::Refused { status, .. } => matches!(status, 429 | 500..),
            outcome => outcome.is_unknown() || *outcome == Outcome::NotSent,
        }
    }
}
