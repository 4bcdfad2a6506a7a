//! GraphQL and REST are one API: the same cases over both, on the public port of a running node, end in the same
//! reasons, the same effects and the same state.

use crate::harness::{Setup, TENANT, TestNode};
use crate::http::{Answer, Client};
use serde_json::{Value, json};

fn node() -> TestNode {
    Setup::new().env("RON_INTEROP__API", "true").start()
}

/// Asks for one field; its value, or the extensions of its error.
fn field(client: &Client, operation: &str, variables: &Value) -> Result<Value, Value> {
    let answer = client.post("/graphql", &json!({"query": operation, "variables": variables})).json(200);
    match answer["errors"].as_array() {
        Some(errors) => {
            assert_eq!(errors.len(), 1, "{answer}");
            Err(errors[0]["extensions"].clone())
        }
        None => {
            let mut value = answer["data"].clone();
            while let Some(inner) = only(&value) {
                value = inner;
            }
            Ok(value)
        }
    }
}

/// What is in an object of one member that is called by an operation's field.
fn only(value: &Value) -> Option<Value> {
    const FIELDS: [&str; 11] = [
        "topic",
        "stat",
        "peek",
        "message",
        "enqueue",
        "recv",
        "ack",
        "nack",
        "extend",
        "redrive",
        "enqueue_batch",
    ];
    let members = value.as_object().filter(|members| members.len() == 1)?;
    let (name, inner) = members.iter().next()?;
    FIELDS.contains(&name.as_str()).then(|| inner.clone())
}

/// Reason, effect, and whether a retry is timed, of a refusal over REST.
fn refusal(answer: &Answer) -> Option<[Value; 3]> {
    if answer.status < 300 {
        return None;
    }
    let json = answer.json(answer.status);
    let effect = answer.header("x-effect").unwrap();
    Some([json["reason"].clone(), json!(effect), json!(answer.header("retry-after").is_some())])
}

fn extensions(more: &Value) -> [Value; 3] {
    assert!(more["corr_id"].is_string(), "{more}");
    [more["reason"].clone(), more["effect"].clone(), json!(more["retry_after_ms"].is_u64())]
}

type Rest = fn(&Client, &str) -> Answer;

struct Case {
    name: &'static str,
    rest: Rest,
    /// With `$topic`.
    graphql: &'static str,
    /// Expected of both; "" = accepted.
    reason: &'static str,
}

fn send(client: &Client, topic: &str, headers: &[(&str, &[u8])], body: &[u8]) -> Answer {
    client.call("POST", &format!("/v1/{TENANT}/{topic}/enqueue"), headers, body)
}

fn call(client: &Client, topic: &str, call: &str, body: &Value) -> Answer {
    client.post(&format!("/v1/{TENANT}/{topic}/{call}"), body)
}

/// In this order; each leaves a state that is compared.
const CASES: [Case; 17] = [
    Case {
        name: "a topic never used",
        rest: |client, topic| client.get(&format!("/v1/{TENANT}/{topic}")),
        graphql: "query($topic: String!) { topic(name: $topic) { stat { ready } } }",
        reason: "NOT_FOUND",
    },
    Case {
        name: "a message",
        rest: |client, topic| {
            send(client, topic, &[("Idempotency-Key", b"k1"), ("Content-Type", b"text/plain")], b"one")
        },
        graphql: "mutation($topic: String!) { enqueue(topic: $topic, message: \
                  {payload: \"one\", content_type: \"text/plain\", idempotency_key: \"k1\"}) { duplicate durability } }",
        reason: "",
    },
    Case {
        name: "its repeat",
        rest: |client, topic| send(client, topic, &[("Idempotency-Key", b"k1")], b"one"),
        graphql: "mutation($topic: String!) { enqueue(topic: $topic, message: \
                  {payload_b64: \"b25l\", idempotency_key: \"k1\"}) { duplicate payload_hash } }",
        reason: "",
    },
    Case {
        name: "its key with another payload",
        rest: |client, topic| send(client, topic, &[("Idempotency-Key", b"k1")], b"two"),
        graphql: "mutation($topic: String!) { enqueue(topic: $topic, message: \
                  {payload: \"two\", idempotency_key: \"k1\"}) { msg_id } }",
        reason: "IDEMPOTENCY_CONFLICT",
    },
    Case {
        name: "a delay beyond its life",
        rest: |client, topic| send(client, topic, &[("X-Delay-Ms", b"500"), ("X-Ttl-Ms", b"500")], b"x"),
        graphql: "mutation($topic: String!) { enqueue(topic: $topic, message: \
                  {payload: \"x\", delay_ms: 500, ttl_ms: 500}) { msg_id } }",
        reason: "MALFORMED",
    },
    Case {
        name: "an attribute's name",
        rest: |client, topic| send(client, topic, &[("X-Attr-a.b", b"1")], b"x"),
        graphql: "mutation($topic: String!) { enqueue(topic: $topic, message: \
                  {payload: \"x\", attrs: {A: \"1\"}}) { msg_id } }",
        reason: "MALFORMED",
    },
    Case {
        name: "a delayed one, of 30 days",
        rest: |client, topic| send(client, topic, &[("X-Delay-Ms", b"2592000000")], b"later"),
        graphql: "mutation($topic: String!) { enqueue(topic: $topic, message: \
                  {payload: \"later\", delay_ms: 2592000000}) { duplicate } }",
        reason: "",
    },
    Case {
        name: "several, one of them bad",
        rest: |client, topic| {
            let messages = json!([{"payload": "a"}, {"payload": "b", "payload_b64": "Yg=="}]);
            call(client, topic, "enqueue/batch", &json!({"messages": messages}))
        },
        graphql: "mutation($topic: String!) { enqueue_batch(topic: $topic, messages: [{payload: \"a\"}, \
                  {payload: \"b\", payload_b64: \"Yg==\"}]) { results { reason } } }",
        reason: "",
    },
    Case {
        name: "a look",
        rest: |client, topic| client.get(&format!("/v1/{TENANT}/{topic}/peek?limit=1")),
        graphql: "query($topic: String!) { topic(name: $topic) { peek(limit: 1) { messages { payload attempt } } } }",
        reason: "",
    },
    Case {
        name: "a page of none",
        rest: |client, topic| client.get(&format!("/v1/{TENANT}/{topic}/peek?limit=0")),
        graphql: "query($topic: String!) { topic(name: $topic) { peek(limit: 0) { cursor } } }",
        reason: "MALFORMED",
    },
    Case {
        name: "a message that is none",
        rest: |client, topic| {
            client.get(&format!("/v1/{TENANT}/{topic}/messages/01KAQW2R7V0000000000000001"))
        },
        graphql: "query($topic: String!) { topic(name: $topic) \
                  { message(msg_id: \"01KAQW2R7V0000000000000001\") { state } } }",
        reason: "NOT_FOUND",
    },
    Case {
        name: "a receive",
        rest: |client, topic| call(client, topic, "recv", &json!({"visibility_ms": 600_000})),
        graphql: "mutation($topic: String!) { recv(topic: $topic, visibility_ms: 600000) \
                  { messages { payload attempt delivery content_type } } }",
        reason: "",
    },
    Case {
        name: "a lease too short",
        rest: |client, topic| call(client, topic, "recv", &json!({"visibility_ms": 1})),
        graphql: "mutation($topic: String!) { recv(topic: $topic, visibility_ms: 1) { messages { payload } } }",
        reason: "MALFORMED",
    },
    Case {
        name: "no receipts",
        rest: |client, topic| call(client, topic, "ack", &json!({"receipts": []})),
        graphql: "mutation($topic: String!) { ack(topic: $topic, receipts: []) { results { ok } } }",
        reason: "MALFORMED",
    },
    Case {
        name: "receipts that are none",
        rest: |client, topic| call(client, topic, "ack", &json!({"receipts": ["A", "?"]})),
        graphql: "mutation($topic: String!) { ack(topic: $topic, receipts: [\"A\", \"?\"]) { results { ok reason } } }",
        reason: "",
    },
    Case {
        name: "a rejection with a delay",
        rest: |client, topic| {
            call(client, topic, "nack", &json!({"receipts": ["A"], "mode": "reject", "delay_ms": 1}))
        },
        graphql: "mutation($topic: String!) { nack(topic: $topic, receipts: [\"A\"], mode: reject, delay_ms: 1) \
                  { results { ok } } }",
        reason: "MALFORMED",
    },
    Case {
        name: "a redrive, which the public port has not",
        rest: |client, topic| call(client, topic, "dlq/reprocess", &json!({})),
        graphql: "mutation($topic: String!) { redrive(topic: $topic) { matched } }",
        reason: "NOT_FOUND",
    },
];

/// What of a value both show: GraphQL gives what was asked for.
fn same(asked: &Value, rest: &Value, what: &str) {
    match asked {
        Value::Object(members) => {
            members
                .iter()
                .for_each(|(name, value)| same(value, rest.get(name).unwrap_or(&Value::Null), what));
        }
        Value::Array(list) => {
            assert_eq!(list.len(), rest.as_array().map_or(0, Vec::len), "{what}");
            list.iter().zip(rest.as_array().unwrap()).for_each(|(one, other)| same(one, other, what));
        }
        _ => assert_eq!(asked, rest, "{what}"),
    }
}

/// A topic's figures that do not depend on the moment.
fn state(client: &Client, topic: &str) -> Option<Vec<Value>> {
    let answer = client.get(&format!("/v1/{TENANT}/{topic}"));
    let stat = (answer.status == 200).then(|| answer.json(200))?;
    Some(["ready", "delayed", "vis", "dlq", "dedup_keys"].map(|name| stat[name].clone()).into())
}

#[test]
fn the_same_cases_end_in_the_same_way() {
    let node = node();
    let all = node.token();
    let client = node.interop().with(&all);
    for case in &CASES {
        let over_rest = (case.rest)(&client, "by-rest");
        let over_graphql = field(&client, case.graphql, &json!({"topic": "by-graphql"}));
        match (refusal(&over_rest), over_graphql) {
            (None, Ok(value)) => {
                assert_eq!(case.reason, "", "{}", case.name);
                same(&value, &over_rest.json(200), case.name);
            }
            (Some(rest), Err(more)) => {
                assert_eq!((&rest, &rest[0]), (&extensions(&more), &json!(case.reason)), "{}", case.name);
            }
            (rest, graphql) => panic!("{}: {rest:?} and {graphql:?}", case.name),
        }
        assert_eq!(state(&client, "by-rest"), state(&client, "by-graphql"), "after {}", case.name);
    }
    // not all the same because nothing happened
    let expected = [json!(1), json!(1), json!(1), json!(0), json!(1)];
    assert_eq!(state(&client, "by-graphql").unwrap(), expected);
}

#[test]
fn capabilities_hold_as_they_do_over_rest() {
    let node = node();
    let mint = |over: Value| node.mint(&over);
    let graphql = "mutation($topic: String!) { enqueue(tenant: \"acme\", topic: $topic, message: {payload: \"12345\"}) \
                   { duplicate } }";
    let cases = [
        (mint(json!({"ops": ["enqueue"]})), ""),
        (mint(json!({"ops": ["recv"]})), "SCOPE_MISMATCH"),
        (mint(json!({"ops": ["enqueue"], "topic": "other"})), "SCOPE_MISMATCH"),
        (mint(json!({"ops": ["enqueue"], "tenant": "other"})), "SCOPE_MISMATCH"),
        (mint(json!({"ops": ["enqueue"], "aud": "mailbox"})), "SCOPE_MISMATCH"),
        (mint(json!({"ops": ["enqueue"], "ip": "10.0.0.0/8"})), "SCOPE_MISMATCH"),
        (mint(json!({"ops": ["enqueue"], "max_bytes": 4})), "SCOPE_MISMATCH"),
    ];
    let looks = node.interop().with(&node.token());
    for (at, (token, reason)) in cases.into_iter().enumerate() {
        let client = node.interop().with(&token);
        let over_rest = send(&client, "t-rest", &[], b"12345");
        let over_graphql = field(&client, graphql, &json!({"topic": "t-graphql"}));
        let (rest, graphql) = (refusal(&over_rest), over_graphql.err().map(|more| extensions(&more)));
        assert_eq!(rest, graphql, "case {at}");
        assert_eq!(rest.map_or(json!(""), |[code, ..]| code), reason, "case {at}");
        assert_eq!(state(&looks, "t-rest"), state(&looks, "t-graphql"), "case {at}");
    }
    // revoked, and then what is no token at all
    let token = mint(json!({"ops": ["enqueue"]}));
    let cap_id = ron_core::capability::CapId::of(&ron_core::capability::Token::parse(&token).unwrap().nonce);
    node.ronctl_json(&["cap", "revoke", &cap_id.to_string()]);
    let client = node.interop().with(&token);
    send(&client, "t-rest", &[], b"12345").refused(401, "UNAUTH");
    let more = field(&client, graphql, &json!({"topic": "t-graphql"})).unwrap_err();
    assert_eq!((&more["reason"], &more["effect"]), (&json!("UNAUTH"), &json!("none")));
    let none = node.interop().with("ron1_bm9uZQ");
    send(&none, "t-rest", &[], b"12345").refused(401, "UNAUTH");
    none.post("/graphql", &json!({"query": "{ __typename }"})).refused(401, "UNAUTH");
    // a rate is charged for each field
    let metered = node.interop().with(&mint(json!({"ops": ["stat"], "rps": 1})));
    let fields: String = (0..10).map(|n| format!("s{n}: stat {{ ready }} ")).collect();
    let query = format!("{{ topic(name: \"t-rest\") {{ {fields} }} }}");
    let answer = metered.post("/graphql", &json!({"query": query})).json(200);
    let limited = answer["errors"].as_array().map_or(0, Vec::len);
    assert!((8..10).contains(&limited), "{answer}");
    assert_eq!(answer["errors"][0]["extensions"]["reason"], "RATE_LIMIT");
    assert_eq!(answer["errors"][0]["extensions"]["retry_after_ms"].as_u64().map(|ms| ms > 0), Some(true));
}

#[test]
fn the_schema_shows_itself_to_the_op_introspect_alone() {
    let node = node();
    let query = json!({"query": "{ __schema { queryType { name } types { name } } }"});
    node.interop().with(&node.token()).post("/graphql", &query).refused(403, "SCOPE_MISMATCH");
    node.interop().post("/graphql", &query).refused(401, "UNAUTH");
    let may = node.interop().with(&node.mint(&json!({"ops": ["introspect"]})));
    let shown = may.post("/graphql", &query).json(200);
    assert_eq!(shown["data"]["__schema"]["queryType"]["name"], "Query");
    assert!(shown["data"]["__schema"]["types"].as_array().unwrap().len() > 10);
    // no suggestions to others
    let typo = json!({"query": "{ topik(name: \"t\") { __typename } }"});
    let text = node.interop().with(&node.token()).post("/graphql", &typo).refused(400, "MALFORMED");
    assert!(text.contains("topik") && !text.contains("mean"), "{text}");
}

#[test]
fn operators_redrive_on_the_mailboxs_own_port() {
    let node = Setup::new().start();
    let client = node.operator();
    send(&client, "t", &[], b"x").json(200);
    let received = call(&client, "t", "recv", &json!({"visibility_ms": 600_000})).json(200);
    let receipts =
        json!({"receipts": [received["messages"][0]["receipt"]], "mode": "reject", "reason": "bad"});
    call(&client, "t", "nack", &receipts).json(200);
    let redrive =
        "mutation { redrive(topic: \"t\", filter: {reason: \"bad\"}, dry_run: true) { task_id matched } }";
    assert_eq!(field(&client, redrive, &json!({})), Ok(json!({"task_id": null, "matched": 1})));
    let refused = field(&node.mailbox(), redrive, &json!({})).unwrap_err();
    assert_eq!(refused["reason"], "SCOPE_MISMATCH");
    // without `interop.api` the public port has none of it
    node.interop()
        .with(&node.token())
        .post("/graphql", &json!({"query": "{ __typename }"}))
        .refused(404, "NOT_FOUND");
}
