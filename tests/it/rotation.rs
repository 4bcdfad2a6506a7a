//! Secrets are rotated while providers go on sending: no request is lost, none is accepted too long, and each step is
//! shown.

use crate::harness::{Provider, Setup, TENANT, TestNode, borrowed, poll, ronctl, wall};
use crate::http::{Client, read_answer};
use crate::mailbox::{depths, recv};
use ron_core::time::Millis;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

/// The secrets of one provider: its senders, each with a KID of its own.
fn senders() -> [Provider; 2] {
    // the name makes the secret
    [Provider::new("hub", "standard_webhooks"), Provider::new("hub_new", "standard_webhooks")]
}

/// Puts a secret where a mount would.
fn put_secret(setup: &Setup, name: &str, text: &str) -> String {
    let path = setup.dir().join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// A provider `hub` with this list of secrets; a request lives four seconds at most, an overlap is eight.
fn hub(secrets: &str, more: &str) -> String {
    format!(
        "[interop.providers.hub]\nscheme = \"standard_webhooks\"\ntenant = \"{TENANT}\"\ntopic = \"hub\"\n\
         tolerance_s = 4\nsecrets = [{secrets}]\n{more}\n"
    )
}

fn reload(node: &TestNode, more: &[&str]) -> (i32, String, String) {
    ronctl(&node.setup, &[&["config", "reload", "--json"], more].concat())
}

fn reloaded(node: &TestNode) -> Value {
    let (code, out, said) = reload(node, &[]);
    assert_eq!(code, 0, "{said}");
    serde_json::from_str(&out).unwrap()
}

fn send(client: &Client, sender: &Provider, id: &str, at: Millis) -> u16 {
    let body = format!("{{\"id\":\"{id}\"}}");
    let headers = sender.sign(id, at, body.as_bytes());
    client.call("POST", "/webhooks/hub", &borrowed(&headers), body.as_bytes()).status
}

fn states(node: &TestNode) -> Vec<(String, String)> {
    let shown = node.ronctl_json(&["interop", "providers"]);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let secrets = shown[0]["secrets"].as_array().unwrap();
    secrets.iter().map(|secret| (text(&secret["kid"]), text(&secret["state"]))).collect()
}

fn metric(node: &TestNode, series: &str) -> Option<f64> {
    let text = node.interop_admin().get("/metrics").text().to_owned();
    text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

/// What the senders sign by, and which of it must be accepted.
#[derive(Default)]
struct Traffic {
    stop: AtomicBool,
    /// 0: by the old secret, 1: by both in turn, 2: by the new one.
    by: AtomicU8,
    sent: [AtomicU64; 2],
}

impl Traffic {
    /// Sends until it is stopped; everything must be answered 202.
    fn run(&self, client: &Client, senders: &[Provider; 2], thread: u64) {
        let mut n = 0_u64;
        while !self.stop.load(Ordering::SeqCst) {
            n += 1;
            let which = match self.by.load(Ordering::SeqCst) {
                0 => 0,
                1 => usize::try_from(n % 2).unwrap(),
                _ => 1,
            };
            let status = send(client, &senders[which], &format!("{thread}-{n}"), wall());
            assert_eq!(status, 202, "request {n} of thread {thread}, signed by secret {which}");
            self.sent[which].fetch_add(1, Ordering::SeqCst);
        }
    }

    fn wait_for(&self, which: usize, more: u64) {
        let from = self.sent[which].load(Ordering::SeqCst);
        poll("requests go on", || (self.sent[which].load(Ordering::SeqCst) >= from + more).then_some(()));
    }
}

/// Each step is in the audit log, with its KID.
fn audited(node: &TestNode) -> String {
    let mut found = BTreeSet::new();
    let (code, out, said) = ronctl(&node.setup, &["audit", "export"]);
    assert_eq!(code, 0, "{said}");
    for line in out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        if line["kind"] == "rotation" {
            found.insert((line["kid"].as_str().unwrap().to_owned(), line["op"].as_str().unwrap().to_owned()));
        }
    }
    for (kid, op) in [
        ("new", "secret.listed"),
        ("new", "secret.active"),
        ("old", "secret.dual"),
        ("old", "secret.cutover"),
        ("old", "secret.removed"),
    ] {
        assert!(found.contains(&(kid.to_owned(), op.to_owned())), "{kid} {op} is not in {found:?}");
    }
    out
}

#[test]
fn secrets_are_rotated_under_load_and_not_a_request_is_lost() {
    let senders = senders();
    let base = Setup::new().toml("[interop.limits]\nmax_rps = 100000\nburst_rps = 100000\n");
    let old = format!("{{ kid = \"old\", file = {:?} }}", put_secret(&base, "old", senders[0].secret()));
    let new = format!("{{ kid = \"new\", file = {:?} }}", put_secret(&base, "new", senders[1].secret()));
    let (only_old, both, only_new) = (hub(&old, ""), hub(&format!("{new}, {old}"), ""), hub(&new, ""));
    let file = |text: &str| std::fs::write(base.config_file(), text).unwrap();
    let node = base.clone().toml(&only_old).start();
    let start = std::fs::read_to_string(base.config_file()).unwrap();
    let with = |list: &str| start.replace(&only_old, list);
    let version = Cell::new(1);
    let again = |times: usize| {
        for _ in 0..times {
            let report = reloaded(&node);
            version.set(version.get() + 1);
            assert_eq!(report["version"], version.get(), "a refused one has no number: {report}");
            assert_eq!(report["restart"], json!([]), "{report}");
        }
    };
    let traffic = Traffic::default();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (traffic, client, senders) = (&traffic, node.interop(), &senders);
            scope.spawn(move || traffic.run(&client, senders, thread));
        }
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            traffic.wait_for(0, 20);
            again(5);
            // the provider's own order: first the node knows the new one, then the sender uses it
            file(&with(&both));
            again(1);
            traffic.by.store(1, Ordering::SeqCst);
            traffic.wait_for(1, 20);
            again(6);
            assert_eq!(states(&node), [("new".into(), "active".into()), ("old".into(), "dual".into())]);
            // too soon: it still signs, and nothing at all is changed by such a reload
            file(&with(&only_new));
            let (code, _, said) = reload(&node, &[]);
            assert!(code == 78 && said.contains("kid old would be gone now"), "{code} {said}");
            traffic.by.store(2, Ordering::SeqCst);
            poll("the old one is not used any more", || (states(&node)[1].1 == "cutover").then_some(()));
            poll("the old one may go", || (reload(&node, &[]).0 == 0).then_some(()));
            version.set(version.get() + 1);
            traffic.wait_for(1, 20);
            again(7);
        }));
        traffic.stop.store(true, Ordering::SeqCst);
        done.unwrap();
    });
    assert!(version.get() > 20, "{version:?}");
    assert_eq!(send(&node.interop(), &senders[0], "late", wall()), 401, "the retired one is nobody's");
    let sent: u64 = traffic.sent.iter().map(|sent| sent.load(Ordering::SeqCst)).sum();
    assert_eq!(depths(&node.mailbox(), "hub"), [sent, 0, 0, 0], "each is stored, once");
    for (kid, sent) in ["old", "new"].iter().zip(&traffic.sent) {
        let series = format!("svc_interop_secret_matches_total{{provider=\"hub\",kid=\"{kid}\"}}");
        assert_eq!(metric(&node, &series), Some(sent.load(Ordering::SeqCst) as f64), "{kid}");
    }
    assert_eq!(metric(&node, "svc_interop_secret_state{provider=\"hub\",kid=\"old\"}"), Some(4.0));
    let out = audited(&node);
    assert!(!node.log().contains(senders[0].secret()) && !out.contains(senders[1].secret()));
}

#[test]
fn a_leaked_secret_goes_at_once_by_force_and_an_ended_one_says_whose_it_is() {
    let senders = senders();
    let setup = Setup::new();
    let old = put_secret(&setup, "old", senders[0].secret());
    let new = put_secret(&setup, "new", senders[1].secret());
    let first = hub(&format!("{{ kid = \"old\", file = {old:?} }}"), "");
    let node = setup.clone().toml(&first).start();
    let client = node.interop();
    let start = std::fs::read_to_string(setup.config_file()).unwrap();
    let put =
        |list: &str| std::fs::write(setup.config_file(), start.replace(&first, &hub(list, ""))).unwrap();
    assert_eq!(send(&client, &senders[0], "1", wall()), 202);
    // one that is over stays listed, so that whoever still uses it is told apart from a stranger
    let over = format!("{{ kid = \"old\", file = {old:?}, not_after = \"2026-01-01T00:00:00Z\" }}");
    put(&format!("{over}, {{ kid = \"new\", file = {new:?} }}"));
    let (code, _, said) = reload(&node, &[]);
    assert!(
        code == 78 && said.contains("kid old would end now") && said.contains("--force"),
        "{code} {said}"
    );
    assert_eq!(send(&client, &senders[0], "2", wall()), 202, "nothing was changed");
    assert_eq!(send(&client, &senders[1], "3", wall()), 401);
    let (code, out, said) = reload(&node, &["--force"]);
    assert_eq!(code, 0, "{said}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert!(report["forced"][0].as_str().unwrap().contains("kid old would end now"), "{report}");
    assert_eq!(report["applied"], json!(["interop.providers.hub.secrets"]));
    let (body, at) = (b"{\"id\":\"4\"}", wall());
    let headers = senders[0].sign("4", at, body);
    let refused = client.call("POST", "/webhooks/hub", &borrowed(&headers), body);
    refused.refused(401, "SIGNATURE_INVALID");
    assert_eq!(send(&client, &senders[1], "5", wall()), 202);
    assert_eq!(states(&node), [("old".into(), "retired".into()), ("new".into(), "active".into())]);
    let corr_id = refused.header("x-corr-id").unwrap().to_owned();
    let explained = node.ronctl_json(&["interop", "explain", &corr_id]);
    let record = &explained["records"][0];
    assert_eq!((&record["step"], &record["kid"]), (&json!("SECRET_OUT_OF_TIME"), &json!("old")));
    // the last one that is accepted can't go, for nothing would be
    put(&over);
    let (code, _, said) = reload(&node, &[]);
    assert!(code == 78 && said.contains("no secret would be accepted"), "{code} {said}");
    // another secret under the same KID is the same as taking the old one out
    put(&format!("{{ kid = \"new\", file = {old:?} }}"));
    let (code, _, said) = reload(&node, &[]);
    assert!(code == 78 && said.contains("kid new would be gone now"), "{code} {said}");
    let text = node.interop_admin().get("/metrics").text().to_owned();
    assert!(text.contains("svc_interop_clock_skew_seconds_count{provider=\"hub\"} 3\n"), "{text}");
}

#[test]
fn providers_come_and_go_without_a_restart_and_the_rest_is_listed() {
    let senders = senders();
    let setup = Setup::new();
    let one = put_secret(&setup, "one", senders[0].secret());
    let node = setup.clone().toml("max_attempts = 7\n[chaos]\nenabled = true\n").start();
    let client = node.interop();
    let kill = json!({"target": "svc-interop", "fault": "kill", "child": "hub"});
    let kill = || node.control().post("/ctl/chaos/inject", &kill).status;
    assert_eq!(send(&client, &senders[0], "1", wall()), 403);
    let start = std::fs::read_to_string(setup.config_file()).unwrap();
    let table = hub(&format!("{{ kid = \"k1\", file = {one:?} }}"), "");
    let put = |text: &str| std::fs::write(setup.config_file(), text).unwrap();

    put(&format!("{}\n[log]\nlevel = \"debug\"\n{table}", start.replace("= 7", "= 8")));
    let report = reloaded(&node);
    assert_eq!(report["restart"], json!(["mailbox.max_attempts"]), "{report}");
    assert!(report["applied"].as_array().unwrap().contains(&json!("log.level")), "{report}");
    assert_eq!(report["providers"]["added"], json!(["hub"]));
    assert_eq!(send(&client, &senders[0], "2", wall()), 202);
    // its verifier is one like the others: it is restarted when it fails
    assert_eq!(kill(), 200);
    assert_eq!(send(&client, &senders[0], "2b", wall()), 202);
    assert_eq!(reloaded(&node)["applied"], json!([]), "what is in force is no change any more");

    // another topic: each request goes where the rules of its time say
    put(&format!("{start}\n{}", table.replace("topic = \"hub\"", "topic = \"hub2\"")));
    assert_eq!(reloaded(&node)["restart"], json!([]), "it is as it was at the start");
    assert_eq!(send(&client, &senders[0], "3", wall()), 202);
    assert_eq!((depths(&node.mailbox(), "hub")[0], depths(&node.mailbox(), "hub2")[0]), (2, 1));

    put(&start);
    assert_eq!(reloaded(&node)["providers"]["removed"], json!(["hub"]));
    assert_eq!(send(&client, &senders[0], "4", wall()), 403);
    poll("its verifier ends", || (kill() == 404).then_some(()));
    // and back; then away and back at once, while its verifier may be on its way out
    for n in 0..6 {
        put(&format!("{start}\n{table}"));
        assert_eq!(reloaded(&node)["providers"]["added"], json!(["hub"]));
        assert_eq!(send(&client, &senders[0], &format!("5-{n}"), wall()), 202);
        put(&start);
        assert_eq!(reloaded(&node)["providers"]["removed"], json!(["hub"]));
    }
    put(&format!("{start}\n{table}"));
    reloaded(&node);

    let (_, out, _) = ronctl(&node.setup, &["audit", "export"]);
    for (op, times) in [("\"op\":\"provider.added\"", 8), ("\"op\":\"provider.removed\"", 7)] {
        assert_eq!(out.matches(op).count(), times, "{op} in {out}");
    }

    // a file with problems changes nothing, names all of them, and says so by its code
    put(&format!("{start}\n{}\n[nods]\nx = 1\n", table.replace("\"standard_webhooks\"", "\"nosuch\"")));
    let (code, _, said) = reload(&node, &[]);
    assert!(code == 78 && said.contains("nods") && said.contains("interop.providers.hub.scheme"), "{said}");
    assert_eq!(send(&client, &senders[0], "6", wall()), 202);
    std::fs::write(setup.dir().join("policy.toml"), "version = 1\nfoo = 1\n").unwrap();
    put(&format!("{start}\n{table}"));
    let (code, _, said) = reload(&node, &[]);
    assert!(code == 78 && said.contains("policy.toml:2: foo"), "{said}");
}

/// A request of which all but the last byte is there: the node waits for the rest of its body.
fn begun(node: &TestNode, sender: &Provider, id: &str) -> (TcpStream, Vec<u8>) {
    let body = format!("{{\"id\":\"{id}\"}}");
    let headers = sender.sign(id, wall(), body.as_bytes());
    let request = node.interop().request("POST", "/webhooks/hub", &borrowed(&headers), body.as_bytes());
    let under_way = "svc_interop_inflight{route=\"/webhooks/{provider}\"}";
    let stream = node.interop().begin(&request[..request.len() - 1]);
    poll("it is under way", || (metric(node, under_way) == Some(1.0)).then_some(()));
    (stream, request)
}

fn finish((mut stream, request): (TcpStream, Vec<u8>)) -> u16 {
    stream.write_all(&request[request.len() - 1..]).unwrap();
    read_answer(&mut stream, &request).unwrap().status
}

#[test]
fn a_request_under_way_is_judged_by_what_was_in_force_when_it_came() {
    let senders = senders();
    let setup = Setup::new();
    let [old, new] = [("old", &senders[0]), ("new", &senders[1])].map(|(kid, sender)| {
        format!("{{ kid = \"{kid}\", file = {:?} }}", put_secret(&setup, kid, sender.secret()))
    });
    let first = hub(&old, "");
    let node = setup.clone().toml(&first).start();
    let start = std::fs::read_to_string(setup.config_file()).unwrap();
    let put = |text: &str| std::fs::write(setup.config_file(), start.replace(&first, text)).unwrap();
    // its secret is taken out, its topic is another, and then its provider is gone
    let under_way = begun(&node, &senders[0], "1");
    put(&hub(&new, "").replace("topic = \"hub\"", "topic = \"hub2\""));
    assert_eq!(reload(&node, &["--force"]).0, 0);
    assert_eq!(send(&node.interop(), &senders[0], "2", wall()), 401);
    assert_eq!(finish(under_way), 202);
    assert_eq!(depths(&node.mailbox(), "hub"), [1, 0, 0, 0], "all of it is as it was when it came");

    let under_way = begun(&node, &senders[1], "3");
    put("");
    node.signal(Signal::HUP);
    poll("the provider is gone", || (send(&node.interop(), &senders[1], "4", wall()) == 403).then_some(()));
    assert_eq!(finish(under_way), 202);
    let stored = recv(&node.mailbox(), "hub2", &json!({"max_messages": 10}));
    assert!(stored.iter().any(|message| message["payload"] == "{\"id\":\"3\"}"), "{stored:?}");
}

#[test]
fn a_restart_in_the_midst_of_a_rotation_forgets_nothing() {
    let senders = senders();
    let text = |both: bool| {
        let new = if both { ", { kid = \"new\", env = \"NEW\" }" } else { "" };
        hub(&format!("{{ kid = \"old\", env = \"OLD\" }}{new}"), "")
    };
    let base = Setup::new().env("OLD", senders[0].secret()).env("NEW", senders[1].secret());
    let node = base.clone().toml(&text(false)).start();
    assert_eq!(send(&node.interop(), &senders[0], "1", wall()), 202);
    poll("it is active", || (states(&node)[0].1 == "active").then_some(()));
    let shown = node.ronctl_json(&["interop", "providers"]);
    assert_eq!(shown[0]["secrets"][0]["since"], Value::Null, "it does not say what it cannot know");
    node.stop();
    // a variable can only change by a restart, and a rotation goes on over it
    let node = base.clone().toml(&text(true)).start();
    assert_eq!(send(&node.interop(), &senders[1], "2", wall()), 202);
    poll("both are in use", || (states(&node)[0].1 == "dual").then_some(()));
    let shown = node.ronctl_json(&["interop", "providers"]);
    assert_eq!(shown[0]["rotation"], "dual");
    assert!(shown[0]["secrets"][1]["since"].is_string(), "{shown}");
    poll("the cutover", || (states(&node)[0].1 == "cutover").then_some(()));
    poll("it is written down", || {
        let text = std::fs::read_to_string(base.data_dir().join("rotations")).ok()?;
        text.contains("cutover").then_some(())
    });
    let node = node.kill_and_restart();
    assert_eq!(states(&node), [("old".into(), "cutover".into()), ("new".into(), "active".into())]);
    // a straggler is accepted, and told of
    assert_eq!(send(&node.interop(), &senders[0], "3", wall()), 202);
    let warn = || node.interop_admin().get("/readyz").json(200)["warn"].to_string();
    poll("the straggler is told of", || warn().contains("kid old signed again").then_some(()));
    // a file that nobody can read stops nothing
    let setup = node.stop();
    std::fs::write(base.data_dir().join("rotations"), "[hub").unwrap();
    let node = setup.start();
    assert!(node.log().contains("since when secrets are listed is not known"));
    assert_eq!(send(&node.interop(), &senders[0], "4", wall()), 202);
}
