//! The audit log (SPEC §7 "Audit"): what is in it, what is not, and that nobody can change it unseen. Verified with
//! `ronctl` and with a verifier of the test's own, written from docs/AUDIT.md.

use crate::harness::{Provider, Setup, TENANT, TestNode, borrowed, poll, ronctl, wall};
use crate::http::Client;
use crate::mailbox::enqueue;
use ron_core::capability::{CapId, Token};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

const CANARY: &str = "canary-5f1e-of-the-payload";

fn dir(setup: &Setup) -> PathBuf {
    setup.data_dir().join("audit")
}

/// The files of a log, oldest first.
fn files(setup: &Setup) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir(setup)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|end| end == "jsonl"));
    files.sort();
    files
}

/// The records of a log, each checked against the one before it as docs/AUDIT.md says.
fn records(text: &str) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    for line in text.lines() {
        let (body, hash) = line.split_once(",\"hash\":").unwrap();
        let hash = hash.trim_end_matches('}').trim_matches('"');
        assert_eq!(hash, format!("b3:{}", blake3::hash(format!("{body}}}").as_bytes())), "{line}");
        let record: Value = serde_json::from_str(line).unwrap();
        let (seq, prev) = match all.last() {
            Some(last) => (last["seq"].as_u64().unwrap() + 1, last["hash"].clone()),
            None => (1, json!(format!("b3:{}", "0".repeat(64)))),
        };
        assert_eq!(
            (&record["v"], record["seq"].as_u64(), &record["prev"]),
            (&json!(1), Some(seq), &prev),
            "{line}"
        );
        all.push(record);
    }
    all
}

/// What `ronctl audit verify` says; exit code first.
pub(crate) fn verify(setup: &Setup, more: &[&str]) -> (i32, Value) {
    let (code, out, error) = ronctl(setup, &[&["--json", "audit", "verify"], more].concat());
    (code, serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{error}")))
}

pub(crate) fn export(setup: &Setup) -> Vec<Value> {
    let (code, out, error) = ronctl(setup, &["audit", "export"]);
    assert_eq!(code, 0, "{error}");
    records(&out)
}

/// The records that have these members.
pub(crate) fn with<'r>(records: &'r [Value], members: &Value) -> Vec<&'r Value> {
    let has =
        |record: &&Value| members.as_object().unwrap().iter().all(|(name, value)| record[name] == *value);
    records.iter().filter(has).collect()
}

/// A counter, as an admin port shows it.
pub(crate) fn sample(client: &Client, name: &str) -> f64 {
    let answer = client.get("/metrics");
    let value =
        answer.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("{name} in {}", answer.text()))
}

fn cap_id(token: &str) -> String {
    CapId::of(&Token::parse(token).unwrap().nonce).to_string()
}

pub(crate) fn github(more: &str) -> (Provider, Setup) {
    let provider = Provider::new("github", "github");
    let setup = provider.add_to(Setup::new(), "github", "").toml(more);
    (provider, setup)
}

/// Sends an event; its answer's corr_id and body.
pub(crate) fn hook(
    node: &TestNode,
    provider: &Provider,
    id: &str,
    body: &str,
    status: u16,
) -> (String, Value) {
    let headers = provider.sign(id, wall(), body.as_bytes());
    let answer = node.interop().call("POST", &provider.path(), &borrowed(&headers), body.as_bytes());
    let corr = answer.header("x-corr-id").unwrap().to_owned();
    (corr, answer.json(status))
}

pub(crate) fn body(n: usize) -> String {
    json!({"action": "opened", "n": n, "text": CANARY}).to_string()
}

#[test]
fn what_is_decided_is_in_one_chain_and_no_secret_is() {
    let (provider, setup) = github("");
    let node = setup.start();
    let (accepted, answer) = hook(&node, &provider, "id-1", &body(1), 202);
    let (known, _) = hook(&node, &provider, "id-1", &body(1), 202);
    let headers = provider.sign("id-2", wall(), body(2).as_bytes());
    let forged = node.interop().call("POST", &provider.path(), &borrowed(&headers), body(3).as_bytes());
    forged.refused(401, "SIGNATURE_INVALID");
    let forged = forged.header("x-corr-id").unwrap().to_owned();
    node.interop().call("POST", "/webhooks/nobody", &[], b"{}").refused(403, "POLICY_BLOCKED");
    // a capability is used, misused, revoked, and used again
    let token = node.mint(&json!({"ops": ["enqueue"], "topic": "orders"}));
    for n in 0..3 {
        enqueue(&node.bare().with(&token), "orders", format!("{CANARY} {n}").as_bytes(), &[]);
    }
    node.bare().with(&token).post("/v1/acme/orders/recv", &json!({})).refused(403, "SCOPE_MISMATCH");
    let revoked = node.control().post("/ctl/cap/revoke", &json!({"cap_ids": [cap_id(&token)]}));
    revoked.json(200);
    node.bare().with(&token).call("POST", "/v1/acme/orders/enqueue", &[], b"x").refused(401, "UNAUTH");
    node.operator().post("/v1/acme/orders/purge", &json!({"confirm": "orders"})).json(200);
    node.signal(Signal::HUP);
    poll("the configuration read again", || node.log().contains("configuration reloaded").then_some(()));

    let all = poll("the reload in the log", || {
        let all = export(&node.setup);
        (with(&all, &json!({"op": "config.reload"})).len() == 2).then_some(all)
    });
    let one = |members: Value| -> Value {
        let found = with(&all, &members);
        assert_eq!(found.len(), 1, "{members} in {all:#?}");
        found[0].clone()
    };
    let record = one(json!({"corr_id": accepted}));
    webhooks(&all, &record, &answer["msg_id"], &known, &forged);
    let cap = cap_id(&token);
    one(json!({"kind": "api", "cap_id": cap, "op": "enqueue", "topic": "orders", "decision": "allow"}));
    one(json!({"kind": "api", "cap_id": cap, "op": "recv", "decision": "deny", "reason": "SCOPE_MISMATCH"}));
    one(json!({"kind": "api", "cap_id": cap, "decision": "deny", "reason": "UNAUTH"}));
    one(json!({"kind": "revocation", "cap_id": cap, "decision": "done"}));
    let uid = rustix::process::geteuid().as_raw();
    let acts = with(&all, &json!({"kind": "operator", "op": "cap.revoke", "uid": uid}));
    let stages: Vec<&Value> = acts.iter().map(|act| &act["reason"]).collect();
    assert_eq!(stages, ["INTENT", "OK"], "before it is done, and after");
    assert!(acts[0]["pid"].is_number() && acts[0]["detail"].as_str().unwrap().contains(&cap));
    assert_eq!(with(&all, &json!({"op": "topic.purge", "topic": "orders"})).len(), 2);
    assert_eq!(with(&all, &json!({"op": "config.reload", "kind": "config"})).len(), 2);
    assert_eq!(with(&all, &json!({"kind": "audit", "op": "start"})).len(), 1);

    explained(&node, &forged, &record);
    let emitted = sample(&node.interop_admin(), "svc_interop_audit_emitted_total");
    assert!(emitted >= all.len() as f64, "{emitted} of {}", all.len());
    assert_eq!(sample(&node.interop_admin(), "svc_interop_audit_drop_total"), 0.0);
    no_secret_is_in(&node, &[&token]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let setup = node.stop();
    assert_eq!(
        (mode(&dir(&setup)), mode(&files(&setup)[0]), mode(&dir(&setup).join("key"))),
        (0o700, 0o600, 0o600)
    );
    let all = export(&setup);
    assert_eq!(all.last().unwrap()["op"], "stop");
    // what was only counted is recorded at the end: three sends, of which the first had a record of its own
    assert_eq!(with(&all, &json!({"cap_id": cap, "op": "enqueue", "count": 2})).len(), 1);
}

/// What is recorded of webhooks: one that was accepted, the same again, and two that were refused.
fn webhooks(all: &[Value], record: &Value, msg_id: &Value, known: &str, forged: &str) {
    let one = |members: Value| -> Value {
        let found = with(all, &members);
        assert_eq!(found.len(), 1, "{members}");
        found[0].clone()
    };
    let expected = json!({"kind": "webhook", "provider": "github", "tenant": TENANT, "kid": "k1", "decision": "allow",
        "reason": "OK", "topic": "github", "msg_id": msg_id});
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&record[name], value, "{name} of {record}");
    }
    assert_eq!(record["req_id"].as_str().unwrap().len(), 32);
    assert!(record["content"].as_str().unwrap().starts_with("b3k:") && record["cap_id"].is_string());
    let duplicate = one(json!({"corr_id": known, "reason": "DUPLICATE"}));
    assert_eq!((&duplicate["content"], &duplicate["decision"]), (&record["content"], &json!("allow")));
    one(
        json!({"corr_id": forged, "decision": "deny", "reason": "SIGNATURE_INVALID", "step": "SIGNATURE_MISMATCH"}),
    );
    let nobody =
        one(json!({"kind": "webhook", "decision": "deny", "reason": "POLICY_BLOCKED", "step": "PROVIDER"}));
    assert_eq!(nobody["provider"], Value::Null, "a stranger's word is not repeated");
}

/// `ronctl interop explain` says what became of a request, by either of its names.
fn explained(node: &TestNode, forged: &str, accepted: &Value) {
    let (code, out, error) = ronctl(&node.setup, &["interop", "explain", forged]);
    assert_eq!(code, 0, "{error}");
    for part in ["deny, SIGNATURE_INVALID", "SIGNATURE_MISMATCH: no configured secret", "scheme", "[\"k1\"]"]
    {
        assert!(out.contains(part), "{part} in {out}");
    }
    let req_id = accepted["req_id"].as_str().unwrap();
    assert_eq!(node.ronctl_json(&["interop", "explain", req_id])["records"], json!([accepted]));
    let (code, _, error) = ronctl(&node.setup, &["interop", "explain", "no-such-id"]);
    assert!(code == 1 && error.contains("nothing of no-such-id"), "{error}");
}

/// Neither in the files nor in what the node tells of them.
fn no_secret_is_in(node: &TestNode, tokens: &[&str]) {
    let mut told: String = files(&node.setup).iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    told.push_str(node.control().get("/ctl/audit/lines").text());
    let command = node.setup.command();
    let secrets = command.get_envs().filter_map(|(name, value)| Some((name.to_str()?, value?.to_str()?)));
    let mut canaries: Vec<String> =
        secrets.filter(|(name, _)| name.starts_with("SECRET_")).map(|(_, value)| value.to_owned()).collect();
    assert_eq!(canaries.len(), 1);
    canaries.push(CANARY.to_owned());
    canaries.extend(tokens.iter().map(|token| (*token).to_owned()));
    // what a body or a signature is called elsewhere
    for n in 1..4 {
        canaries.push(blake3::hash(body(n).as_bytes()).to_string());
    }
    let provider = Provider::new("github", "github");
    let signed = provider.sign("id-1", wall(), body(1).as_bytes());
    let mac = signed.iter().find(|(name, _)| name.eq_ignore_ascii_case("x-hub-signature-256")).unwrap();
    canaries.push(mac.1.trim_start_matches("sha256=").to_owned());
    for canary in canaries {
        assert!(canary.len() >= 16 && !told.contains(&canary), "{canary} is in the audit log");
    }
}

#[test]
fn whatever_is_changed_in_a_log_is_found() {
    let (provider, setup) = github("");
    let node = setup.start();
    (0..5).for_each(|n| drop(hook(&node, &provider, &format!("id-{n}"), &body(n), 202)));
    let (code, live) = verify(&node.setup, &[]);
    assert_eq!((code, &live["ok"], &live["first"]), (0, &json!(true), &json!(1)), "{live}");
    let head = live["head"].as_str().unwrap().to_owned();
    let setup = node.stop();
    let file = files(&setup).remove(0);
    let whole = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    assert_eq!(verify(&setup, &["--head", &head]).0, 0);
    assert_eq!(verify(&setup, &[file.to_str().unwrap()]).0, 0);

    let found = |text: String, more: &[&str], expected: &str| {
        fs::write(&file, text).unwrap();
        let (code, said) = verify(&setup, more);
        let faults = said["faults"].as_array().unwrap();
        let place = format!("{}:", file.display());
        assert!(code == 1 && faults.len() == 1, "{expected}: {said}");
        let fault = faults[0].as_str().unwrap();
        assert!(fault.starts_with(&place) && fault.contains(expected), "{expected}: {fault}");
    };
    let joined = |lines: &[&str]| lines.join("\n") + "\n";
    let mut removed = lines.clone();
    removed.remove(2);
    found(joined(&removed), &[], ":3: record 4 stands where 3 belongs");
    found(joined(&lines[1..]), &[], ":1: record 2 stands where 1 belongs");
    found(whole.replacen("\"OK\"", "\"KO\"", 1), &[], "was changed");
    found(joined(&lines[..2]), &["--head", &head], "records are missing at the end");
    found(whole[..whole.len() - 1].to_owned(), &[], "the last line has no end");
    fs::write(&file, joined(&lines[..2])).unwrap();
    assert_eq!(verify(&setup, &[]).0, 0, "without a head nobody can know of a cut end");
    let (code, _, error) = ronctl(&setup, &["audit", "verify", "--head", "17"]);
    assert!(code == 2 && error.contains("SEQ:HASH"), "{error}");

    // a node goes on, and its log says that it was damaged
    fs::write(&file, whole.replacen("\"OK\"", "\"KO\"", 1)).unwrap();
    let node = setup.start();
    assert!(node.log().contains("the audit log is damaged"));
    let text: String = files(&node.setup).iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    poll("its record", || {
        let text: String = files(&node.setup).iter().map(|file| fs::read_to_string(file).unwrap()).collect();
        text.contains("\"reason\":\"DAMAGED\"").then_some(())
    });
    assert!(!text.contains("\"KO\""), "the damaged file is put aside: {text}");
    let aside = format!("{}.damaged-1", file.display());
    assert!(fs::read_to_string(&aside).unwrap().contains("\"KO\""));
    let next = files(&node.setup).remove(0);
    let (code, said) = verify(&node.setup, &[&aside, next.to_str().unwrap()]);
    assert!(code == 1 && said["faults"].as_array().unwrap().len() == 1, "{said}");
}

#[test]
fn a_kill_in_the_midst_of_writing_leaves_a_chain_that_goes_on() {
    let (provider, setup) = github("[interop.limits]\nmax_rps = 1000000\nburst_rps = 1000000\n");
    let mut node = setup.start();
    for round in 0..3 {
        let answered = AtomicBool::new(false);
        let token = std::thread::scope(|scope| {
            for thread in 0..4 {
                let (node, provider, answered) = (&node, &provider, &answered);
                scope.spawn(move || {
                    for n in 0.. {
                        let (id, body) = (format!("{round}-{thread}-{n}"), body(n));
                        let headers = provider.sign(&id, wall(), body.as_bytes());
                        let (headers, client) = (borrowed(&headers), node.interop());
                        let request = client.request("POST", &provider.path(), &headers, body.as_bytes());
                        if client.try_raw(&request).is_err() {
                            return;
                        }
                        answered.store(true, Ordering::Relaxed);
                    }
                });
            }
            poll("a webhook", || answered.load(Ordering::Relaxed).then_some(()));
            let token = node.token();
            node.signal(Signal::KILL);
            token
        });
        // what was answered to an operator is there
        let text: String = files(&node.setup).iter().map(|file| fs::read_to_string(file).unwrap()).collect();
        assert!(text.contains(&format!("\"cap_id\":\"{}\"", cap_id(&token))), "minted, and not in the log");
        if round == 1 {
            let last = files(&node.setup).pop().unwrap();
            let mut last = fs::OpenOptions::new().append(true).open(last).unwrap();
            last.write_all(b"{\"v\":1,\"seq\":99,\"ts\":\"20").unwrap();
        }
        node = node.kill_and_restart();
        let (code, said) = verify(&node.setup, &[]);
        assert_eq!((code, &said["ok"]), (0, &json!(true)), "round {round}: {said}");
        let all = export(&node.setup);
        assert_eq!(with(&all, &json!({"op": "start"})).len(), round + 2);
        assert!(round == 0 || !with(&all, &json!({"reason": "TORN"})).is_empty(), "the cut line is recorded");
    }
}

#[test]
fn in_amnesia_the_log_is_in_memory_alone() {
    let provider = Provider::new("github", "github");
    let setup = provider.add_to(Setup::new().env("AMNESIA", "on"), "github", "");
    let node = setup.start();
    let (corr, _) = hook(&node, &provider, "id-1", &body(1), 202);
    let socket = node.ready["socket"].as_str().unwrap().to_owned();
    let by_socket = |more: &[&str]| {
        let arguments = [&["--socket", &socket, "audit"], more].concat();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ronctl"));
        let output = command.env_clear().args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(by_socket(&["verify"]).contains("records"));
    assert_eq!(with(&records(&by_socket(&["export"])), &json!({"corr_id": corr})).len(), 1);
    let tail = by_socket(&["tail"]);
    assert!(tail.contains("webhook") && tail.contains(&corr), "{tail}");
    assert!(!dir(&node.setup).exists() && !node.setup.data_dir().exists(), "nothing is on disk");
    // a durable node's log is not sat upon
    drop(node);
    fs::create_dir_all(dir(&setup)).unwrap();
    let (code, log) = setup.run_to_end();
    assert!(code == 78 && log.contains("holds audit of a durable node"), "{code}: {log}");
}

#[test]
fn an_act_that_cannot_be_written_down_is_not_done_but_revoking_is() {
    let node = Setup::new().toml("[audit]\nfile = \"64KiB\"\nkeep = 2\n").start();
    let (client, token) = (node.operator(), node.token());
    enqueue(&client, "orders", b"x", &[]);
    let (dir, away) = (dir(&node.setup), node.setup.dir().join("away"));
    fs::rename(&dir, &away).unwrap();
    // until a new file is to be begun, which is nowhere; the first to meet it may have been done already, and says so
    let mint = json!({"tenant": TENANT, "topic": "*", "ops": ["stat"], "ttl_ms": 1000});
    let refused = poll("a refusal", || {
        let answer = node.control().post("/ctl/cap/mint", &mint);
        (answer.header("x-effect") == Some("none")).then_some(answer)
    });
    assert!(refused.refused(503, "STORAGE").contains("audit log"));
    client.post("/v1/acme/orders/pause", &json!({"what": "both"})).refused(503, "STORAGE");
    assert_eq!(client.get("/v1/acme/orders").json(200)["paused"], Value::Null, "it was not done");
    let warned = || node.mailbox_admin().get("/readyz").json(200)["warn"].to_string().contains("audit log");
    assert!(warned());
    let answer = node.control().post("/ctl/cap/revoke", &json!({"cap_ids": [cap_id(&token)]}));
    assert_eq!(answer.header("x-effect"), Some("unknown"));
    answer.refused(503, "STORAGE");
    node.bare().with(&token).get("/v1/acme").refused(401, "UNAUTH");

    fs::rename(&away, &dir).unwrap();
    client.post("/v1/acme/orders/pause", &json!({"what": "both"})).json(200);
    assert!(!warned());
    let (code, said) = verify(&node.setup, &[]);
    assert_eq!(code, 0, "{said}");
    assert!(files(&node.setup).len() <= 2);
}
