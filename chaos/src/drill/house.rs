//! The node of a drill: its configuration, its providers with secrets, and clients with a capability.

use super::client::Client;
use super::gate::{Gate, GatedFile};
use anyhow::{Context, Result, anyhow};
use ron_core::capability::MintRequest;
use ron_core::scheme::{Scheme, SigningKey, ToSign};
use ron_core::time::Clock;
use ron_node::config::{Config, Sources};
use ron_node::node::{Node, STORE_FILE};
use ron_node::schemes::Catalogue;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// The tenant of all drills.
pub const TENANT: &str = "drill";

/// The schemes that providers take turns with.
const SCHEMES: [&str; 6] = ["github", "stripe", "slack", "standard_webhooks", "shopify", "discord"];

/// A provider of the drill.
#[derive(Debug)]
pub struct Sender {
    /// Its name, `wh-07`; also its topic.
    pub name: String,
    scheme: Scheme,
    key: SigningKey,
}

impl Sender {
    /// A signed event: headers and body. Each `n` is another event.
    ///
    /// # Errors
    /// A scheme that cannot be signed, which the ones shipped can.
    pub fn event(&self, n: u64, clock: &dyn Clock) -> Result<(Vec<(String, String)>, String)> {
        let id = format!("evt_{}_{n}", self.name);
        let body =
            format!(r#"{{"id":"{id}","event_id":"{id}","type":"drill","event":{{"type":"drill"}},"n":{n}}}"#);
        let signed =
            ToSign { id: Some(&id), event_type: Some("drill"), ..ToSign::new(clock.wall(), body.as_bytes()) };
        let mut headers = self.scheme.sign(&self.key, &signed).map_err(|error| anyhow!("{error}"))?.headers;
        headers.push(("Content-Type".into(), "application/json".into()));
        Ok((headers, body))
    }
}

/// A node in this process.
#[derive(Debug)]
pub struct House {
    /// It.
    pub node: Arc<Node>,
    /// Holds up its syncs.
    pub gate: Gate,
    /// Its providers.
    pub senders: Vec<Sender>,
    /// Wall clock, for signatures.
    pub clock: Arc<dyn Clock>,
    token: String,
    duties: JoinHandle<()>,
}

impl House {
    /// Boots a node in `dir` with `providers` providers.
    ///
    /// # Errors
    /// Whatever keeps it from booting.
    pub async fn boot(dir: &Path, providers: usize) -> Result<House> {
        let (mut env, mut senders) = (BTreeMap::new(), Vec::new());
        let mut text = format!(
            "[node]\ndata_dir = {:?}\n[interop]\nbind_addr = \"127.0.0.1:0\"\nmetrics_addr = \"127.0.0.1:0\"\n\
             [interop.limits]\nmax_rps = 1000000\nburst_rps = 1000000\n\
             [interop.brownout]\nerror_rate_5m = 1.0\n\
             [mailbox]\nlisten = \"127.0.0.1:0\"\noap_listen = \"127.0.0.1:0\"\nmetrics_addr = \"127.0.0.1:0\"\n",
            dir.join("data").display().to_string()
        );
        // What a killed actor had aboard fails, which is a brownout's cause; here it is the point, and holding up
        // commits would keep it from ending.
        for n in 0..providers {
            let (name, kind) = (format!("wh-{n:02}"), SCHEMES[n % SCHEMES.len()]);
            let scheme = Catalogue::scheme(kind, &toml::Table::new()).map_err(|what| anyhow!(what))?;
            let pair = scheme.sample_pair(blake3::hash(name.as_bytes()).as_bytes());
            let pair = pair.ok_or_else(|| anyhow!("{kind}: no key can be made up"))?;
            let variable = format!("DRILL_SECRET_{n}");
            env.insert(variable.clone(), pair.verifying.to_string());
            let key = scheme.signing_key(&pair.signing).map_err(|error| anyhow!("{kind}: {error}"))?;
            let _ = write!(
                text,
                "[interop.providers.{name}]\nscheme = \"{kind}\"\ntenant = \"{TENANT}\"\ntopic = \"{name}\"\n\
                 secrets = [{{ kid = \"k\", env = \"{variable}\" }}]\n"
            );
            senders.push(Sender { name, scheme, key });
        }
        std::fs::create_dir_all(dir).context("make the drill's directory")?;
        let file = dir.join("node.toml");
        std::fs::write(&file, text).context("write the configuration")?;
        let sources = Sources { file: Some(file), env, ..Sources::default() };
        let config = Config::load(&sources, &Catalogue)
            .map_err(|problems| anyhow!(ron_node::config::report(&problems)))?;
        let gate = Gate::default();
        let medium = GatedFile::new(config.node.data_dir.join(STORE_FILE), gate.clone());
        let node = Arc::new(Box::pin(Node::boot_on(config, Arc::new(medium))).await?);
        let request = serde_json::json!({
            "tenant": TENANT, "topic": "*", "ttl_ms": 3_600_000,
            "ops": ["enqueue", "recv", "ack", "nack", "peek", "stat"],
        });
        let request: MintRequest = serde_json::from_value(request)?;
        let token = node.passport().mint(&request).map_err(|refusal| anyhow!("{refusal}"))?.token;
        let duties = tokio::spawn({
            let node = node.clone();
            async move { ron_node::run::look_after(&node).await }
        });
        let clock = node.clock().clone();
        Ok(House { node, gate, senders, clock, token, duties })
    }

    fn at(&self, name: &str) -> SocketAddr {
        let unbound = SocketAddr::from(([127, 0, 0, 1], 1));
        self.node.addresses().get(name).copied().unwrap_or(unbound)
    }

    /// A client of the mailbox.
    #[must_use]
    pub fn mailbox(&self) -> Client {
        Client::new(self.at("mailbox"), Some(&self.token))
    }

    /// A client of the public port.
    #[must_use]
    pub fn interop(&self) -> Client {
        Client::new(self.at("interop"), None)
    }

    /// A client of an admin port: `mailbox_admin` or `interop_admin`.
    #[must_use]
    pub fn admin(&self, name: &str) -> Client {
        Client::new(self.at(name), None)
    }

    /// Stops the node in order.
    ///
    /// # Errors
    /// If somebody still holds it.
    pub async fn shut(self) -> Result<()> {
        self.gate.release();
        self.duties.abort();
        let _ = self.duties.await;
        let node = Arc::try_unwrap(self.node).map_err(|_| anyhow!("the node is still in use"))?;
        Box::pin(node.shut()).await;
        Ok(())
    }
}
