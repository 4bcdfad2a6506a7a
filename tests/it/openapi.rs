//! A node's description and its answers: every call's real answer has exactly what is described.

use crate::harness::{Setup, TENANT};
use crate::http::Client;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// What of `value` is not as `schema` says; a member that is not described is an error, too.
fn fits(document: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        return fits(document, document.pointer(&reference[1..]).unwrap(), value, at);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let tried = choices.iter().map(|choice| fits(document, choice, value, at));
        let errors: Vec<String> = tried.filter_map(Result::err).collect();
        return if errors.len() < choices.len() { Ok(()) } else { Err(errors.join("; or ")) };
    }
    let is = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let types = schema["type"].as_array().cloned().unwrap_or_else(|| vec![schema["type"].clone()]);
    if !types[0].is_null() && !types.iter().any(|one| one == is || (one == "number" && is == "integer")) {
        return Err(format!("{at}: {is} instead of {types:?}"));
    }
    if schema["enum"].as_array().is_some_and(|values| !values.contains(value)) {
        return Err(format!("{at}: {value} is none of {}", schema["enum"]));
    }
    for (n, entry) in value.as_array().into_iter().flatten().enumerate() {
        fits(document, &schema["items"], entry, &format!("{at}[{n}]"))?;
    }
    let Some(members) = value.as_object() else { return Ok(()) };
    for name in schema["required"].as_array().into_iter().flatten() {
        if !members.contains_key(name.as_str().unwrap()) {
            return Err(format!("{at}: {name} is missing"));
        }
    }
    if schema["properties"].is_null() && schema["additionalProperties"].is_null() {
        return Ok(()); // free in form
    }
    for (name, member) in members {
        let described = match &schema["properties"][name] {
            Value::Null => &schema["additionalProperties"],
            described => described,
        };
        if !described.is_object() {
            return Err(format!("{at}: {name} is not described"));
        }
        fits(document, described, member, &format!("{at}.{name}"))?;
    }
    Ok(())
}

struct Checks<'c> {
    document: Value,
    client: &'c Client,
    seen: BTreeSet<String>,
}

impl Checks<'_> {
    /// Makes the call of this id on topic `t`, and holds the answer against the description.
    fn call(&mut self, id: &str, more: &str, body: &Value) -> Value {
        let paths = self.document["paths"].as_object().unwrap().iter();
        let mut all =
            paths.flat_map(|(path, item)| item.as_object().unwrap().iter().map(move |one| (path, one)));
        let (path, (method, operation)) = all.find(|(_, (_, one))| one["operationId"] == id).expect(id);
        let path = path.replace("{tenant}", TENANT).replace("{topic}", "t");
        let path = match path.split_once('{') {
            Some((start, _)) => format!("{start}{more}"),
            None => format!("{path}{more}"),
        };
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let headers: [(&str, &[u8]); 1] = [("Content-Type", b"application/json")];
        let answer = self.client.call(&method.to_uppercase(), &path, &headers, &bytes).json(200);
        let schema = &operation["responses"]["200"]["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{id} has no described answer");
        fits(&self.document, schema, &answer, id).unwrap_or_else(|wrong| panic!("{wrong}\n{answer}"));
        self.seen.insert(id.to_owned());
        answer
    }
}

#[test]
fn every_answer_is_as_it_is_described() {
    let node = Setup::new().start();
    let client = node.operator();
    let document = client.bare().get("/openapi.json").json(200);
    let mut checks = Checks { document, client: &client, seen: BTreeSet::new() };
    let sent = checks.call("enqueue", "", &json!("x"));
    checks.call("enqueueBatch", "", &json!({"messages": [{"payload": "a"}, {"payload": "b"}, {}]}));
    checks.call("topics", "", &Value::Null);
    checks.call("stat", "", &Value::Null);
    checks.call("peek", "?limit=2", &Value::Null);
    let lease = json!({"visibility_ms": 600_000, "max_messages": 3});
    let received = checks.call("recv", "", &lease);
    let receipt = |n: usize| json!([received["messages"][n]["receipt"], "A"]);
    checks.call("extend", "", &json!({"receipts": receipt(0), "visibility_ms": 600_000}));
    checks.call("ack", "", &json!({"receipts": receipt(0)}));
    for n in [1, 2] {
        checks.call("nack", "", &json!({"receipts": receipt(n), "mode": "reject", "reason": "bad"}));
    }
    checks.call("message", sent["msg_id"].as_str().unwrap(), &Value::Null);
    checks.call("peek", "?state=dlq", &Value::Null);
    let dead = checks.call("deadLetters", "", &Value::Null);
    let letter = &dead["clusters"][0]["sample"][0];
    checks.call("resend", "", &json!({"msg_id": letter, "payload": "new", "remove": true}));
    let task = checks.call("reprocess", "", &json!({"limit": 5, "rate_per_s": 9}));
    let task = task["task_id"].as_str().unwrap();
    checks.call("tasks", "", &Value::Null);
    checks.call("task", task, &Value::Null);
    checks.call("cancelTask", task, &Value::Null);
    checks.call("purgeDeadLetters", "", &json!({"filter": {}}));
    checks.call("settings", "", &json!({"max_depth": 100}));
    checks.call("pause", "", &json!({"what": "both"}));
    checks.call("resume", "", &json!({"what": "both"}));
    checks.call("graphql", "", &json!({"query": "{ topic(name: \"t\") { stat { ready } } }"}));
    checks.call("graphql", "", &json!({"query": "{ topic(name: \"none\") { stat { ready } } }"}));
    checks.call("subscribe", "", &json!({"add": [{"topic": "copy", "filter": {"attr": {"a": "b"}}}]}));
    checks.call("subscribers", "", &Value::Null);
    checks.call("subscribe", "", &json!({"remove": ["copy"]}));
    checks.call("purge", "", &json!({"confirm": "t"}));
    checks.call("deleteTopic", "", &json!({"confirm": "t"}));
    let described = checks.document["paths"].as_object().unwrap().values();
    let described = described.flat_map(|item| item.as_object().unwrap().values());
    let mut missed: BTreeSet<&str> = described.filter_map(|one| one["operationId"].as_str()).collect();
    missed.retain(|id| !checks.seen.contains(*id));
    // not in JSON, or a line a message: tests/it/stream.rs
    assert_eq!(missed, BTreeSet::from(["docs", "docsFile", "openapi", "recvStream"]));
}

#[test]
fn each_port_describes_what_it_serves() {
    let plain = Setup::new().start();
    let paths = |client: &Client| -> BTreeSet<String> {
        let document = client.get("/openapi.json").json(200);
        assert_eq!(client.get("/docs").status, 200);
        document["paths"].as_object().unwrap().keys().cloned().collect()
    };
    let (public, mailbox) = (paths(&plain.interop()), paths(&plain.bare()));
    assert!(public.contains("/webhooks/{provider}") && !public.contains("/graphql"), "{public:?}");
    assert!(mailbox.contains("/v1/{tenant}/{topic}/purge") && !mailbox.contains("/version"), "{mailbox:?}");
    let api = paths(&Setup::new().env("RON_INTEROP__API", "true").start().interop());
    assert!(api.contains("/graphql") && !api.contains("/v1/{tenant}/{topic}/purge"), "{api:?}");
}
