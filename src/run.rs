//! What a node does while it lives: signals, reloads, and the small duties of every second.

use crate::config::{DevSecret, Sources};
use crate::http::readiness::Part;
use crate::node::Node;
use crate::reload::Reloading;
use crate::telemetry::LogLevel;
use ron_actors::kernel::bus::LagCount;
use ron_actors::kernel::supervisor::RootEnd;
use ron_core::disk::DiskGauge;
use ron_core::scheme::ToSign;
use secrecy::ExposeSecret;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How often readiness, figures and metrics are brought up to date.
const EVERY: Duration = Duration::from_millis(250);
/// The exporter's histograms must be emptied now and then, or they grow.
const UPKEEP_TICKS: u64 = 20;

/// Exit code of a root that failed, for systemd to restart the process.
pub const ROOT_FAILED: u8 = 70;

/// The signals that a node listens to.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// Takes over SIGINT, SIGTERM and SIGHUP.
    ///
    /// # Errors
    /// What the system says.
    pub fn take() -> std::io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::End { code: 130 },
            _ = self.terminate.recv() => Asked::End { code: 143 },
            _ = self.hangup.recv() => Asked::Reload,
        }
    }

    /// The next request to end, with the exit code if it is not the first.
    async fn end(&mut self) -> u8 {
        loop {
            if let Asked::End { code } = self.next().await {
                return code;
            }
        }
    }
}

enum Asked {
    End { code: u8 },
    Reload,
}

/// Logs the line that says where everything is.
pub fn say_ready(node: &Node) {
    let at = |name: &str| node.addresses().get(name).map(ToString::to_string).unwrap_or_default();
    tracing::info!(
        ready = 1,
        interop = at("interop"),
        interop_admin = at("interop_admin"),
        mailbox = at("mailbox"),
        mailbox_admin = at("mailbox_admin"),
        oap = at("oap"),
        socket = %node.socket,
        "ready"
    );
}

/// Serves until a signal or the root's failure ends it; the process's exit code.
pub async fn serve(mut node: Node, mut signals: Signals, sources: Sources, log: LogLevel) -> u8 {
    let mut duties = Duties::of(node.config.store.reserve.0);
    let mut timer = tokio::time::interval(EVERY);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut reloading = Reloading::new(sources, log);
    loop {
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::End { .. } => break,
                Asked::Reload => reloading.by_signal(&mut node).await,
            },
            Some(asked) = node.reloads.recv() => reloading.by_operator(&mut node, asked).await,
            end = node.tree.watch.ended() => {
                if let RootEnd::Failed(failure) = end {
                    tracing::error!(%failure, "the root failed: the process ends and is to be restarted");
                }
                return ROOT_FAILED;
            }
            _ = timer.tick() => duties.do_them(&node).await,
        }
    }
    tracing::info!(drain_ms = node.config.node.drain.as_millis() as u64, "draining");
    let code = tokio::select! {
        () = node.shut() => 0,
        code = signals.end() => code,
    };
    tracing::info!(code, "stopped");
    code
}

/// Does the small duties of every second until it is dropped: [`serve`] without signals, for drills that run a
/// node inside themselves.
pub async fn look_after(node: &Node) {
    let mut duties = Duties::of(node.config.store.reserve.0);
    let mut timer = tokio::time::interval(EVERY);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        duties.do_them(node).await;
    }
}

struct Duties {
    ticks: u64,
    disk: DiskGauge,
    lag: HashMap<(String, String), u64>,
}

impl Duties {
    fn of(reserve: u64) -> Duties {
        Duties { ticks: 0, disk: DiskGauge::new(reserve), lag: HashMap::new() }
    }

    async fn do_them(&mut self, node: &Node) {
        self.ticks += 1;
        node.readiness.set(Part::Store, node.tree.store.healthy());
        node.readiness.set(Part::Passport, node.passport.is_up());
        let quarantined = node.tree.mailbox.directory().all().into_iter();
        let quarantined =
            quarantined.filter(|entry| entry.is_quarantined()).map(|entry| entry.key.to_string());
        let served = node.providers.all();
        let providers = served.iter().filter(|(_, served)| served.verifier.is_quarantined());
        let audit = node.audit.is_quarantined().then(|| "audit".to_owned());
        let all = quarantined.chain(providers.map(|(name, _)| name.clone())).chain(audit);
        let all: Vec<String> = all.chain(node.egress.egresses.quarantined()).collect();
        if *node.readiness.quarantined() != all {
            node.readiness.set_quarantined(all);
        }
        self.count_lag(node);
        node.policy.expire();
        self.look_at_disk(node).await;
        if self.ticks.is_multiple_of(4)
            && let Ok(figures) = node.tree.store.ask(|engine| engine.figures()).await
        {
            let mut findings = node.upkeep.look(&figures);
            findings.extend(node.tls.findings(node.clock.wall()));
            findings.extend(node.rotations.tick());
            let rotations = node.rotations.clone();
            tokio::task::spawn_blocking(move || rotations.save_if_due());
            node.readiness.set_findings(findings);
            node.metrics.mailbox.objects.show(&figures);
            node.store_figures.store(Arc::new(figures));
        }
        if self.ticks.is_multiple_of(UPKEEP_TICKS) {
            node.metrics.run_upkeep();
        }
    }

    /// Sheds new messages while the disk is too full for them; nothing to look at in amnesia.
    async fn look_at_disk(&mut self, node: &Node) {
        if node.config.node.amnesia {
            return;
        }
        let dir = node.config.node.data_dir.clone();
        let looked = tokio::task::spawn_blocking(move || rustix::fs::statvfs(&dir)).await;
        // A disk that cannot be looked at is the store's to complain of.
        let Ok(Ok(disk)) = looked else { return };
        let free = disk.f_bavail * disk.f_frsize;
        node.metrics.mailbox.store_free_bytes.set(free as f64);
        let whole = node.tree.store.make_room().await;
        let (shed, sheds) = (self.disk.sheds(), self.disk.look(free, whole));
        node.readiness.set(Part::Disk, !sheds);
        node.tree.store.reader().fans().hold_up(sheds);
        match (shed, sheds) {
            (false, true) => {
                tracing::warn!(free, "the disk is too full: new messages are refused (store.reserve)")
            }
            (true, false) => tracing::info!(free, "the disk has room again: new messages are accepted"),
            (true, true) | (false, false) => {}
        }
    }

    /// The bus counts for itself; the metrics get what is new.
    fn count_lag(&mut self, node: &Node) {
        for LagCount { subscriber, topic, lagged, .. } in node.tree.bus.lag_counters() {
            let seen = self.lag.entry((subscriber.to_string(), topic.to_string())).or_default();
            if lagged > *seen {
                node.metrics.mailbox.bus_lagged(topic, lagged - *seen);
                *seen = lagged;
            }
        }
    }
}

/// What `--dev` prints: where everything is, a capability, and a signed request that works when pasted.
#[must_use]
pub fn dev_banner(node: &Node, secrets: &[DevSecret]) -> String {
    let mut text = String::from("\nron-node --dev: everything on loopback, data thrown away at the end\n\n");
    for (name, addr) in node.addresses() {
        let _ = writeln!(text, "  {name:<14} {}://{addr}", url_scheme(node, name));
    }
    let _ = writeln!(text, "  {:<14} {}\n", "ronctl", node.socket);
    let tenant = node.providers.all().values().next().map(|served| served.queue.tenant.clone());
    let mailbox = node.addresses().get("mailbox").map(ToString::to_string).unwrap_or_default();
    if let Some(tenant) = tenant
        && let Some(token) = dev_token(node, &tenant)
    {
        let _ =
            writeln!(text, "A capability for tenant {tenant}, good for a day:\n\n  export TOKEN={token}\n");
        if let Some(curl) = signed_curl(node, secrets) {
            let _ = writeln!(text, "A signed GitHub webhook, and its message:\n\n  {curl}\n");
        }
        let _ = writeln!(
            text,
            "  curl -sS -XPOST {}://{mailbox}/v1/{tenant}/github/recv -H \"Authorization: Bearer $TOKEN\"\n",
            url_scheme(node, "mailbox")
        );
    }
    text
}

/// The scheme of a listener's URL.
fn url_scheme(node: &Node, listener: &str) -> &'static str {
    match (listener, node.tls.of(listener).is_some()) {
        ("oap", false) => "oap",
        ("oap", true) => "oap+tls",
        (_, false) => "http",
        (_, true) => "https",
    }
}

fn dev_token(node: &Node, tenant: &ron_core::ids::Tenant) -> Option<String> {
    let request = serde_json::json!({
        "tenant": tenant.as_str(),
        "topic": "*",
        "ops": ["enqueue", "recv", "ack", "nack", "peek", "stat"],
        "ttl_ms": 86_400_000,
    });
    let request = serde_json::from_value(request).ok()?;
    node.passport().mint(&request).ok().map(|minted| minted.token)
}

fn signed_curl(node: &Node, secrets: &[DevSecret]) -> Option<String> {
    let secret = secrets.iter().find(|secret| secret.provider == "github")?;
    let served = node.provider(secret)?;
    let scheme = served.rules.scheme();
    let key = scheme.signing_key(secret.signs_with.expose_secret()).ok()?;
    let body = r#"{"action":"opened","number":1}"#;
    let request = ToSign {
        id: Some("72d3162e-cc78-11e3-81ab-4c9367dc0958"),
        event_type: Some("pull_request"),
        ..ToSign::new(node.clock.wall(), body.as_bytes())
    };
    let headers = scheme.sign(&key, &request).ok()?.headers;
    let at = node.addresses().get("interop")?;
    let mut curl = format!("curl -sS {}://{at}/webhooks/github", url_scheme(node, "interop"));
    for (name, value) in headers {
        let _ = write!(curl, " -H '{name}: {value}'");
    }
    let _ = write!(curl, " -H 'Content-Type: application/json' -d '{body}'");
    Some(curl)
}
