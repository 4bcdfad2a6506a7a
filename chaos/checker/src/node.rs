//! The node under test as a process: its configuration file, start, ready line, SIGKILL.

use crate::clock::{self, Clock, Micros};
use anyhow::{Context, Result, anyhow, bail};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// The tenant of every drill.
pub const TENANT: &str = "acme";
/// The secret shared with the GitHub provider.
pub const GITHUB_SECRET: &str = "drill-github-secret-6b1f9d";
/// The secret shared with the Stripe provider.
pub const STRIPE_SECRET: &str = "whsec_drill-stripe-secret-03aa7e";
/// The secret shared with the Slack provider.
pub const SLACK_SECRET: &str = "drill-slack-secret-51d2e8";
/// The KID of the secrets.
pub const KID: &str = "2026-11";
/// Where GitHub's messages go.
pub const GITHUB_TOPIC: &str = "hooks-github";
/// Where Stripe's messages go.
pub const STRIPE_TOPIC: &str = "hooks-stripe";
/// Where Slack's messages go.
pub const SLACK_TOPIC: &str = "hooks-slack";

/// The node's addresses, from its ready line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Webhooks.
    pub interop: SocketAddr,
    /// healthz, readyz, metrics of interop.
    pub interop_admin: SocketAddr,
    /// The mailbox.
    pub mailbox: SocketAddr,
    /// healthz, readyz, metrics of the mailbox.
    pub mailbox_admin: SocketAddr,
    /// The mailbox's binary listener.
    pub oap: SocketAddr,
}

/// How the node is set up.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The `ron-node` binary.
    pub node: PathBuf,
    /// The `ronctl` binary.
    pub ronctl: PathBuf,
    /// Where everything of the drill goes.
    pub dir: PathBuf,
    /// RAM only.
    pub amnesia: bool,
    /// Idempotency window, ms.
    pub dedup_window_ms: u64,
}

impl Setup {
    /// The node's data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.dir.join("node.toml")
    }

    /// Where the node's stdout is kept.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join("node.log")
    }

    /// Writes the configuration and the secrets.
    ///
    /// # Errors
    /// I/O.
    pub fn write(&self) -> Result<()> {
        fs::create_dir_all(&self.dir).with_context(|| format!("create {}", self.dir.display()))?;
        let secrets = [("github", GITHUB_SECRET), ("stripe", STRIPE_SECRET), ("slack", SLACK_SECRET)];
        for (name, secret) in secrets {
            let path = self.dir.join(format!("{name}.secret"));
            fs::write(&path, format!("{secret}\n"))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        }
        fs::write(self.config(), self.text()).context("write the node's configuration")?;
        Ok(())
    }

    fn text(&self) -> String {
        let quoted = |path: PathBuf| format!("{:?}", path.display().to_string());
        let provider = |name: &str, topic: &str| {
            let secret = quoted(self.dir.join(format!("{name}.secret")));
            format!(
                "[interop.providers.{name}]\nscheme = \"{name}\"\ntenant = \"{TENANT}\"\n\
                 topic = \"{topic}\"\n\
                 enabled = true\nsecrets = [{{ kid = \"{KID}\", file = {secret} }}]\n"
            )
        };
        let (data_dir, amnesia, window) = (quoted(self.data_dir()), self.amnesia, self.dedup_window_ms);
        let limits = "{ max_conns = 2048, max_rps = 1000000, burst_rps = 1000000, body_limit = \"1MiB\" }";
        let (github, stripe) = (provider("github", GITHUB_TOPIC), provider("stripe", STRIPE_TOPIC));
        let slack = provider("slack", SLACK_TOPIC);
        format!(
            "[node]\ndata_dir = {data_dir}\namnesia = {amnesia}\n\
             [interop]\nbind_addr = \"127.0.0.1:0\"\nmetrics_addr = \"127.0.0.1:0\"\nlimits = {limits}\n\
             {github}{stripe}{slack}\
             [mailbox]\nlisten = \"127.0.0.1:0\"\noap_listen = \"127.0.0.1:0\"\n\
             metrics_addr = \"127.0.0.1:0\"\n\
             dedup_window_ms = {window}\n\
             [log]\nformat = \"json\"\n"
        )
    }

    /// A capability for the drill's tenant, minted from the node's own keyring file.
    ///
    /// # Errors
    /// If `ronctl` can't be run or refuses.
    pub fn mint(&self) -> Result<String> {
        let mut command = self.ronctl();
        command.args(["cap", "mint"]).arg("--keyring").arg(self.data_dir().join("keyring"));
        token_of(command)
    }

    /// A capability minted by the running node, over its socket.
    ///
    /// # Errors
    /// As for [`Setup::mint`].
    pub fn mint_over(&self, socket: &OsStr) -> Result<String> {
        let mut command = self.ronctl();
        command.env("RON_SOCKET", socket).args(["cap", "mint"]);
        token_of(command)
    }

    /// `ronctl`, in an environment free of what could change what it talks to.
    #[must_use]
    pub fn ronctl(&self) -> Command {
        let mut command = Command::new(&self.ronctl);
        clean_environment(&mut command);
        command
    }

    /// The command that runs the node, its environment free of what could change the configuration.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.node);
        command.arg("--config").arg(self.config());
        clean_environment(&mut command);
        command
    }
}

/// Runs a `cap mint` and takes the token from its stdout, where nothing else may be.
fn token_of(mut command: Command) -> Result<String> {
    command.args([
        "--tenant",
        TENANT,
        "--topic",
        "*",
        "--op",
        "enqueue,recv,ack,nack,peek,stat",
        "--ttl",
        "12h",
    ]);
    let output = command.output().with_context(|| format!("run {:?}", command.get_program()))?;
    let token = String::from_utf8(output.stdout).context("the token is not text")?;
    let token = token.strip_suffix('\n').unwrap_or(&token).to_owned();
    if !output.status.success() || !token.starts_with("ron1_") || token.contains(char::is_whitespace) {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("ronctl cap mint gave no token ({}): {said}", output.status);
    }
    Ok(token)
}

/// Takes away what the node or `ronctl` would read as configuration.
pub fn clean_environment(command: &mut Command) {
    let named = ["AMNESIA", "METRICS_ADDR", "MAILBOX_LISTEN", "RUST_LOG", "XDG_RUNTIME_DIR"];
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("RON_") || text.starts_with("SVC_INTEROP_") || named.contains(&text.as_ref()) {
            command.env_remove(&name);
        }
    }
}

/// A running node, or another process that runs one.
#[derive(Debug)]
pub struct Node {
    child: Child,
    ready: Receiver<Addresses>,
    /// When it was started.
    pub started: Micros,
}

impl Node {
    /// Starts `command`; its stdout is scanned for the ready line and appended to `log`, its stderr goes to
    /// `log` with `.err` appended.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start(mut command: Command, log: &Path, clock: &Clock) -> Result<Node> {
        let open = |path: &Path| OpenOptions::new().create(true).append(true).open(path);
        let (out, err) = (open(log)?, open(&log.with_extension("err"))?);
        // pipes and not files: with amnesia on, the node must hold no file that can be written
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = clock.now();
        let mut child = command.spawn().with_context(|| format!("start {:?}", command.get_program()))?;
        let stdout = child.stdout.take().ok_or_else(|| anyhow!("the node has no stdout"))?;
        let stderr = child.stderr.take().ok_or_else(|| anyhow!("the node has no stderr"))?;
        let (tell, ready) = channel();
        std::thread::spawn(move || follow(stderr, err, |_| {}));
        std::thread::spawn(move || {
            follow(stdout, out, |addresses| {
                let _ = tell.send(addresses);
            })
        });
        Ok(Node { child, ready, started })
    }

    /// Waits for the ready line.
    ///
    /// # Errors
    /// If the node ends or says nothing for `limit`.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<Addresses> {
        self.ready.recv_timeout(limit).map_err(|_| match self.child.try_wait() {
            Ok(Some(status)) => anyhow!("the node ended before it was ready: {status}"),
            _ => anyhow!("the node printed no JSON ready line with all addresses within {limit:?}"),
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and the wait for its end.
    ///
    /// # Errors
    /// If it can't be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().context("kill the node")?;
        self.child.wait().context("wait for the killed node")?;
        Ok(())
    }

    /// Waits for its end by itself.
    ///
    /// # Errors
    /// If it is still there after `limit`; it is killed then.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let ended = clock::poll(limit, Duration::from_millis(10), || self.child.try_wait().ok().flatten());
        match ended {
            Some(status) => Ok(status),
            None => {
                self.kill()?;
                bail!("the node did not end within {limit:?}")
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Copies the node's output to its log until it ends, and reports the ready line.
fn follow(stdout: impl Read, mut log: File, ready: impl Fn(Addresses)) {
    for line in BufReader::new(stdout).split(b'\n') {
        let Ok(mut line) = line else { return };
        if let Some(addresses) = ready_line(&line) {
            ready(addresses);
        }
        line.push(b'\n');
        if log.write_all(&line).is_err() {
            return;
        }
    }
}

/// The addresses, if this is the ready line of SPEC §2.
fn ready_line(line: &[u8]) -> Option<Addresses> {
    let line: serde_json::Value = serde_json::from_slice(line).ok()?;
    if line.get("msg")?.as_str()? != "ready" || line.get("ready")?.as_u64()? != 1 {
        return None;
    }
    let address = |name: &str| line.get(name)?.as_str()?.parse().ok();
    Some(Addresses {
        interop: address("interop")?,
        interop_admin: address("interop_admin")?,
        mailbox: address("mailbox")?,
        mailbox_admin: address("mailbox_admin")?,
        oap: address("oap")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_ready_line_and_nothing_else() {
        let line = br#"{"ts":"x","level":"INFO","msg":"ready","ready":1,
            "interop":"127.0.0.1:1","interop_admin":"127.0.0.1:2",
            "mailbox":"127.0.0.1:3","mailbox_admin":"127.0.0.1:4","oap":"127.0.0.1:5"}"#;
        let addresses = ready_line(line).unwrap();
        assert_eq!(
            (addresses.interop.port(), addresses.mailbox_admin.port(), addresses.oap.port()),
            (1, 4, 5)
        );
        assert_eq!(ready_line(br#"{"msg":"ready","ready":1}"#), None);
        assert_eq!(ready_line(br#"{"msg":"almost","ready":1}"#), None);
        assert_eq!(ready_line(b"ready=1"), None);
    }
}
