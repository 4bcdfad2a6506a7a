//! The node that a benchmark measures: how its load gets in, and what the node says that it did meanwhile.

use super::memory::Memory;
use super::{Setup, TENANT, TOKEN_TTL_MS, report};
use crate::client::{Call, Client, Door};
use crate::control;
use crate::failure::{Failure, failed};
use crate::output::warn;
use crate::own_node::OwnNode;
use crate::sender::{Kind, Sender};
use crate::status::Status;
use clap::ValueEnum;
use ron_client::Tls;
use ron_core::capability::Op;
use serde_json::{Value, json};
use std::path::Path;
use tokio::sync::Mutex;

/// Whose webhooks a node of our own takes: the signature goes over the body, and the delivery's id makes it new.
const PROVIDER: Kind = Kind::Github;

/// What a node of our own is told of its limits: none shall be what is measured.
const INTEROP: &str = "limits = { max_rps = 1000000, burst_rps = 1000000, max_unverified = 4096 }";

/// What a node of our own is told beside its listeners.
#[derive(Debug, Clone, Default)]
pub(super) struct Tables {
    /// Further lines of `[mailbox]`.
    pub(super) mailbox: &'static str,
    /// Further tables.
    pub(super) more: String,
}

/// How the load gets in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Proto {
    /// HTTP/1.1
    #[default]
    Http,
    /// OAP/1
    Oap,
}

/// The node that is measured.
pub(super) struct Site {
    /// `IP:PORT` of the listener.
    pub(super) address: String,
    /// The capability of the load.
    pub(super) token: String,
    /// How the load speaks TLS, if it does.
    pub(super) tls: Option<Tls>,
    admin: Option<String>,
    /// Whose writes are counted, if it runs here.
    pub(super) pid: Option<u32>,
    /// For what the load's capability does not allow.
    control: Option<Mutex<Client>>,
    /// Where the provider's webhooks go, and who signs them, on a node of our own.
    pub(super) webhooks: Option<(String, Sender)>,
    /// Kept until the end: dropping it ends the node.
    pub(super) own: Option<OwnNode>,
}

/// What a server has done so far, or since; `None` where nobody says.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spent {
    /// Commits of the store, each fsynced before anything in it was answered, and the seconds they took.
    pub(super) commits: Option<Commits>,
    /// Bytes that its process wrote to files.
    pub(super) written: Option<u64>,
    /// Bytes by which its log grew, of a server that says so.
    pub(super) log: Option<u64>,
    /// Its memory meanwhile.
    pub(super) memory: Option<Memory>,
}

impl Spent {
    /// What was spent from then to now.
    pub(super) fn since(self, before: Spent) -> Spent {
        let grown = |now: Option<u64>, then: Option<u64>| Some(now?.saturating_sub(then?));
        let commits = self.commits.zip(before.commits);
        Spent {
            commits: commits.map(|(now, then)| (now.0.saturating_sub(then.0), now.1 - then.1)),
            written: grown(self.written, before.written),
            log: grown(self.log, before.log),
            memory: self.memory,
        }
    }
}

/// Bytes that a process of this machine has had written to files, if we may know; counted when it hands them to the
/// kernel.
pub(super) fn written_by(pid: u32) -> Option<u64> {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    io.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.trim().parse().ok()
}

impl Proto {
    /// The listener's name in the node's status.
    const fn listener(self) -> &'static str {
        match self {
            Proto::Http => "mailbox",
            Proto::Oap => "oap",
        }
    }

    const fn scheme(self) -> &'static str {
        match self {
            Proto::Http => "http",
            Proto::Oap => "oap",
        }
    }
}

impl Site {
    /// The node that the command line names, or one of its own.
    ///
    /// # Errors
    /// If there is none.
    pub(super) async fn find(
        setup: &Setup,
        proto: Proto,
        tables: Tables,
        node: impl FnOnce() -> Result<Client, Failure>,
    ) -> Result<Site, Failure> {
        if let (Some(url), Some(token)) = (&setup.url, &setup.token) {
            let (address, token, admin) = (address_of(url, proto)?, token.clone(), setup.admin.clone());
            let tls = setup.cacert.as_deref().map(trusting).transpose()?;
            let (pid, control) = (None, None);
            return Ok(Site { address, token, tls, admin, pid, control, webhooks: None, own: None });
        }
        if !setup.spawn {
            let mut node = node()?;
            let status: Status = control::status(&mut node).await?;
            let named = |name: &str| status.address(name).map(str::to_owned);
            let address = named(proto.listener());
            let address = address.ok_or_else(|| failed("the node serves no such listener"))?;
            let (token, admin, pid) = (mint(&mut node).await?, named("mailbox_admin"), Some(status.pid));
            let control = Some(Mutex::new(node));
            return Ok(Site { address, token, tls: None, admin, pid, control, webhooks: None, own: None });
        }
        Site::spawn(setup.dir.as_deref(), proto, tables).await
    }

    /// A node of our own in `dir`, configured by `tables`, with routes to compare with and a provider of webhooks.
    ///
    /// # Errors
    /// If it does not start.
    pub(super) async fn spawn(dir: Option<&Path>, proto: Proto, tables: Tables) -> Result<Site, Failure> {
        let mut own = OwnNode::prepare(dir)?;
        let sender = Sender::new(PROVIDER)?;
        let provider = sender.configuration(&own, TENANT)?;
        let more = format!("[chaos]\nenabled = true\n{}\n{provider}", tables.more);
        own.configure(INTEROP, tables.mailbox, &more)?;
        own.start().await?;
        if own.in_memory() {
            warn("the node's directory is on tmpfs, where fsync costs nothing: name a disk with --dir");
        }
        let mut control = own.control();
        let token = mint(&mut control).await?;
        let (address, admin) = (own.address(proto.listener())?, Some(own.address("mailbox_admin")?));
        let (pid, control) = (own.pid(), Some(Mutex::new(control)));
        let webhooks = Some((own.address("interop")?, sender));
        Ok(Site { address, token, tls: None, admin, pid, control, webhooks, own: Some(own) })
    }

    /// What the node has done so far.
    ///
    /// # Errors
    /// If it has an admin port that does not answer.
    pub(super) async fn spent(&self) -> Result<Spent, Failure> {
        let commits = match &self.admin {
            None => None,
            Some(admin) => Some(commits(&mut Client::new(Door::Tcp(admin.clone()))).await?),
        };
        Ok(Spent { commits, written: self.pid.and_then(written_by), ..Spent::default() })
    }

    /// Deletes a topic of the load, so that runs do not pile up; where only a URL is known, it stays.
    ///
    /// # Errors
    /// The node's refusal.
    pub(super) async fn forget(&self, topic: &str) -> Result<(), Failure> {
        let Some(control) = &self.control else { return Ok(()) };
        let call = Call::delete_json(format!("/v1/{TENANT}/{topic}"), &json!({ "confirm": topic }));
        control.lock().await.read::<Value>(call).await.map(drop)
    }
}

/// A number of commits, and the seconds they took.
pub(super) type Commits = (u64, f64);

/// The store's so far.
///
/// # Errors
/// If the admin port does not answer.
pub(super) async fn commits(admin: &mut Client) -> Result<Commits, Failure> {
    let answer = admin.call(Call::get("/metrics")).await?;
    let text = String::from_utf8_lossy(&answer.body);
    let of = |name| report::counter(&text, name);
    Ok((of("store_commit_seconds_count") as u64, of("store_commit_seconds_sum")))
}

async fn mint(node: &mut Client) -> Result<String, Failure> {
    let ops = [Op::Enqueue, Op::Recv, Op::Ack];
    Ok(control::mint_for(node, TENANT, &ops, TOKEN_TTL_MS).await?.token)
}

fn trusting(file: &Path) -> Result<Tls, Failure> {
    let pem = std::fs::read(file).map_err(|err| failed(format!("--cacert {}: {err}", file.display())))?;
    Tls::trusting(&pem).map_err(|err| failed(format!("--cacert {}: {err}", file.display())))
}

/// `HOST:PORT` of a URL.
fn address_of(url: &str, proto: Proto) -> Result<String, Failure> {
    let scheme = proto.scheme();
    let bad = || Failure::Usage(format!("--url {url}: write {scheme}://HOST:PORT"));
    let uri: http::Uri = url.parse().map_err(|_| bad())?;
    let authority = uri.authority().ok_or_else(bad)?;
    let plain = uri.scheme_str().is_none_or(|named| named == scheme) && !authority.as_str().contains('@');
    let whole = matches!(uri.path(), "" | "/") && uri.query().is_none();
    if !plain || !whole {
        return Err(bad());
    }
    let default = if proto == Proto::Oap { 9411 } else { 80 };
    // Without a port the authority is the host; one that is no number is none, too.
    let port = if authority.host() == authority.as_str() { Some(default) } else { authority.port_u16() };
    Ok(format!("{}:{}", authority.host(), port.ok_or_else(bad)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_plain_http_and_no_more() {
        let of = |url| address_of(url, Proto::Http).map_err(|err| err.code());
        assert_eq!(of("http://127.0.0.1:9410"), Ok("127.0.0.1:9410".to_owned()));
        assert_eq!(of("http://localhost/"), Ok("localhost:80".to_owned()));
        assert_eq!(of("http://[::1]:9410"), Ok("[::1]:9410".to_owned()));
        for bad in [
            "https://a",
            "http://a:http",
            "http://a:",
            "http://a/v1",
            "http://u:p@a",
            "http://a?x",
            "",
            "http://",
        ] {
            assert_eq!(of(bad), Err(2), "{bad}");
        }
        let oap = |url| address_of(url, Proto::Oap).map_err(|err| err.code());
        assert_eq!(oap("oap://localhost"), Ok("localhost:9411".to_owned()));
        assert_eq!(oap("http://localhost"), Err(2));
    }
}
