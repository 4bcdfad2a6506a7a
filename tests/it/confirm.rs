//! Subscriptions that are confirmed by visiting a URL of the provider's: only when it has signed the question and the
//! operator wants it, only on the provider's hosts, and never at an address of ours.

use crate::egress::receiver::{Receiver, Reply};
use crate::harness::{Provider, Setup, TestNode, borrowed, poll, wall};
use crate::http::Answer;
use crate::pki::{Authority, put};
use arc_swap::ArcSwap;
use futures::FutureExt;
use futures::future::BoxFuture;
use ron_actors::kernel::clock::SystemClock;
use ron_core::reason::{Effect, Reason, Refusal};
use ron_core::time::Millis;
use ron_node::egress::{Resolve, VisitRules, Visitor};
use ron_node::schemes::Catalogue;
use ron_node::tls::ClientTls;
use serde_json::json;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

const HOST: &str = "sns.us-west-2.amazonaws.com";

/// Every name means this, whatever the port.
#[derive(Debug)]
struct Always(SocketAddr);

impl Resolve for Always {
    fn resolve<'a>(&'a self, _name: &'a str, _port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        async move { Ok(vec![self.0]) }.boxed()
    }
}

/// Whom it trusts, where names lead, where the node itself listens.
fn visit(trusted: &Authority, leads_to: SocketAddr, own: Vec<SocketAddr>, url: &str) -> Result<(), Refusal> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    put(&file, &trusted.pem());
    let rules = VisitRules {
        tls: ClientTls::trusting(&file).unwrap(),
        allow_cidrs: vec!["127.0.0.2/32".parse().unwrap()],
    };
    let clock = Arc::new(SystemClock::starting_from(Millis(0)));
    let visitor = Visitor::new(Arc::new(ArcSwap::from_pointee(own)), Arc::new(Always(leads_to)), clock);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(visitor.visit(url, &rules))
}

#[test]
fn a_visit_is_one_get_that_ends_well_with_2xx_alone() {
    let authority = Authority::new("amazon");
    let pair = authority.issue_for(HOST, 2040);
    let replies = [Reply::Status(200, ""), Reply::To(format!("https://{HOST}/x")), Reply::Status(404, "")];
    let there = Receiver::start("127.0.0.2:0", Some(&pair), &replies);
    let url = format!("https://{HOST}/?Action=ConfirmSubscription&Token=2336412f37");
    let visit_as = |trusted: &Authority| visit(trusted, there.addr, Vec::new(), &url);
    visit_as(&authority).unwrap();
    let got = there.got();
    assert_eq!((got.len(), got[0].method.as_str(), got[0].body.len()), (1, "GET", 0));
    assert_eq!((got[0].path.as_str(), got[0].header("host")), (&url[8 + HOST.len()..], HOST));
    for status in ["307", "404"] {
        let refused = visit_as(&authority).unwrap_err();
        assert_eq!((refused.reason, refused.effect), (Reason::DownstreamUnavailable, Effect::Unknown));
        assert!(refused.text.contains(status) && !refused.text.contains("Token"), "{refused:?}");
    }
    assert_eq!(there.got().len(), 3, "a redirect is not followed");
    let refused = visit_as(&Authority::new("someone else")).unwrap_err();
    assert_eq!((refused.reason, refused.effect), (Reason::DownstreamUnavailable, Effect::None));
    assert!(refused.text.contains("tls") && there.got().len() == 3, "{refused:?}");
}

#[test]
fn no_visit_leads_to_an_inner_address_or_to_the_node_itself() {
    let authority = Authority::new("amazon");
    let pair = authority.issue_for(HOST, 2040);
    let canary = Receiver::start("127.0.0.1:0", Some(&pair), &[Reply::Status(200, "")]);
    let itself = Receiver::start("127.0.0.2:0", Some(&pair), &[Reply::Status(200, "")]);
    let url = format!("https://{HOST}/");
    let inner: [SocketAddr; 3] =
        [canary.addr, "169.254.169.254:443".parse().unwrap(), "[fd00:ec2::254]:443".parse().unwrap()];
    let told = inner.map(|addr| visit(&authority, addr, Vec::new(), &url));
    let own = visit(&authority, itself.addr, vec![itself.addr], &url);
    let urls = ["http://sns.us-west-2.amazonaws.com/", "https://127.0.0.1/", "https://localhost/"];
    let urls = urls.map(|url| visit(&authority, canary.addr, Vec::new(), url));
    for told in told.into_iter().chain([own]).chain(urls) {
        let refused = told.unwrap_err();
        assert_eq!((refused.reason, refused.effect), (Reason::PolicyBlocked, Effect::None), "{refused:?}");
        assert!(refused.text.contains("SSRF: "), "{refused:?}");
    }
    assert_eq!((canary.connections(), itself.connections()), (0, 0));
    visit(&authority, itself.addr, Vec::new(), &url).unwrap();
}

const ACME: &str = r#"
[interop.schemes.acme]
algorithm = "hmac-sha256"
header = "X-Acme-Signature"
encoding = "hex"
base = "{body}"
id = { json = "id", signed = true, unique = true }
type = { json = "type", signed = true }

[[interop.schemes.acme.handshake]]
when = [{ json = "type", equals = "confirm" }]
confirm = { json = "url", hosts = ["127.0.0.9"] }
reply = { status = 200 }
"#;

/// A provider that asks for visits to 127.0.0.9 alone.
fn acme() -> Provider {
    let own: toml::Table = ACME.parse().unwrap();
    let own = own["interop"]["schemes"].as_table().unwrap();
    Provider::of("acme", Catalogue::scheme("acme", own).unwrap())
}

fn node(acme: &Provider, confirm: &str) -> TestNode {
    acme.add_to(Setup::new().toml(ACME), "acme", confirm).start()
}

fn ask(node: &TestNode, acme: &Provider, url: &str) -> Answer {
    let body = json!({"id": "c-1", "type": "confirm", "url": url}).to_string();
    let headers = acme.sign("c-1", wall(), body.as_bytes());
    node.interop().call("POST", &acme.path(), &borrowed(&headers), body.as_bytes())
}

#[test]
fn a_node_visits_only_when_told_to_and_only_where_it_may() {
    let (acme, url) = (acme(), "https://127.0.0.9/?Token=t");
    let silent = node(&acme, "");
    let refused = ask(&silent, &acme, url);
    refused.refused(503, "DOWNSTREAM_UNAVAILABLE");
    assert!(refused.text().contains("confirm.visit"), "{}", refused.text());
    let guarded = node(&acme, "confirm = { visit = true }");
    ask(&guarded, &acme, "https://127.0.0.8/").refused(400, "MALFORMED");
    let refused = ask(&guarded, &acme, url);
    refused.refused(403, "POLICY_BLOCKED");
    assert!(refused.text().contains("SSRF") && !refused.text().contains("Token"), "{}", refused.text());
    let headers = acme.sign("c-1", wall(), b"{}");
    let forged = json!({"id": "c-1", "type": "confirm", "url": url}).to_string();
    let forged = guarded.interop().call("POST", &acme.path(), &borrowed(&headers), forged.as_bytes());
    forged.refused(401, "SIGNATURE_INVALID");
    // as such a provider's events always are
    let event = br#"{"id": "e-1", "type": "thing.done", "url": "https://127.0.0.9/"}"#;
    let headers = acme.sign("e-1", wall(), event);
    guarded.interop().call("POST", &acme.path(), &borrowed(&headers), event).json(202);
}

#[test]
fn a_subscription_is_confirmed_before_the_provider_gets_its_2xx() {
    let authority = Authority::new("acme");
    if TcpListener::bind("127.0.0.9:443").is_err() {
        return eprintln!("not done: only root may listen on port 443 here");
    }
    let pair = authority.issue_for("127.0.0.9", 2040);
    let there =
        Receiver::start("127.0.0.9:443", Some(&pair), &[Reply::Status(500, ""), Reply::Status(200, "")]);
    let (acme, dir) = (acme(), tempfile::tempdir().unwrap());
    let file = dir.path().join("ca.pem");
    put(&file, &authority.pem());
    let confirm = format!("confirm = {{ visit = true, allow_cidrs = [\"127.0.0.9\"], ca_file = {file:?} }}");
    let node = node(&acme, &confirm);
    let url = "https://127.0.0.9/confirm?Token=t";
    ask(&node, &acme, url).refused(503, "DOWNSTREAM_UNAVAILABLE");
    assert_eq!(ask(&node, &acme, url).status, 200);
    let paths: Vec<String> =
        there.got().into_iter().map(|got| format!("{} {}", got.method, got.path)).collect();
    assert_eq!(paths, ["GET /confirm?Token=t", "GET /confirm?Token=t"]);
    let log =
        poll("the log line", || Some(node.log()).filter(|log| log.contains("a subscription was confirmed")));
    assert!(!log.contains("Token"), "{log}");
}
