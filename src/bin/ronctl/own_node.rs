//! A node of ronctl's own, for `demo` and `bench --spawn`: the real `ron-node` binary on free ports, its
//! files in a temporary directory. Nothing is left behind: dropping an [`OwnNode`] kills the process and
//! removes the directory.

use crate::ambient;
use crate::client::{Client, Door};
use crate::failure::{Failure, failed};
use ron_node::socket::SocketPlace;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How long a start or a stop may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// How many of the node's last log lines are kept, to show when it fails.
const TAIL_LINES: usize = 12;

/// Settings of the environment that would change the node that we start.
const FOREIGN: [&str; 4] = ["MAILBOX_LISTEN", "METRICS_ADDR", "AMNESIA", "RUST_LOG"];

/// The listeners that the ready line names.
const LISTENERS: [&str; 5] = ["interop", "interop_admin", "mailbox", "mailbox_admin", "oap"];

/// A node that this process started, or is about to.
#[derive(Debug)]
pub(crate) struct OwnNode {
    running: Option<Running>,
    program: PathBuf,
    log: Tail,
    // last: dropped after the process that writes into it
    dir: TempDir,
}

#[derive(Debug)]
struct Running {
    child: Child,
    addresses: BTreeMap<String, String>,
    // ends when the process has closed its stdout, that is, when it is gone
    said: mpsc::UnboundedReceiver<BTreeMap<String, String>>,
}

impl OwnNode {
    /// A directory for it, under `parent` or else the system's for temporary files, and the program to run.
    ///
    /// # Errors
    /// If there is no `ron-node` to run, or the directory cannot be made.
    pub(crate) fn prepare(parent: Option<&Path>) -> Result<OwnNode, Failure> {
        let program = program()?;
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_path_buf);
        let dir = tempfile::Builder::new().prefix("ronctl-").tempdir_in(&parent);
        let dir = dir.map_err(|err| failed(format!("a directory in {}: {err}", parent.display())))?;
        Ok(OwnNode { running: None, program, log: Tail::default(), dir })
    }

    /// Writes the configuration: the listeners on free ports of the loopback, then `more`, TOML text of
    /// further tables; `interop` and `mailbox` are further lines of those two tables.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn configure(&self, interop: &str, mailbox: &str, more: &str) -> Result<(), Failure> {
        let text = format!(
            "[node]\ndata_dir = {:?}\n\n\
             [interop]\nbind_addr = \"127.0.0.1:0\"\nmetrics_addr = \"127.0.0.1:0\"\n{interop}\n\
             [mailbox]\nlisten = \"127.0.0.1:0\"\noap_listen = \"127.0.0.1:0\"\n\
             metrics_addr = \"127.0.0.1:0\"\n{mailbox}\n\
             {more}",
            self.data_dir().display().to_string(),
        );
        self.write("node.toml", text.as_bytes()).map(drop)
    }

    /// Writes a file beside the configuration, for the node and nobody else to read; gives back its path.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, Failure> {
        let path = self.dir.path().join(name);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(bytes))
            .map_err(|err| failed(format!("{}: {err}", path.display())))?;
        Ok(path)
    }

    /// Starts the process and waits until it says that it is ready; how long that took.
    ///
    /// # Errors
    /// With the node's last words if it ends or is not ready in time.
    pub(crate) async fn start(&mut self) -> Result<Duration, Failure> {
        let began = ambient::now();
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(self.dir.path().join("node.toml"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        for name in names.filter(|name| {
            name.starts_with("RON_") || name.starts_with("SVC_INTEROP_") || FOREIGN.contains(&name.as_str())
        }) {
            command.env_remove(name);
        }
        let mut child =
            command.spawn().map_err(|err| failed(format!("starting {}: {err}", self.program.display())))?;
        let (tell, said) = mpsc::unbounded_channel();
        if let Some(stderr) = child.stderr.take() {
            self.log.follow(stderr, None);
        }
        if let Some(stdout) = child.stdout.take() {
            self.log.follow(stdout, Some(tell));
        }
        let running = self.running.insert(Running { child, addresses: BTreeMap::new(), said });
        match timeout(PATIENCE, running.said.recv()).await {
            Ok(Some(addresses)) => {
                running.addresses = addresses;
                Ok(began.elapsed())
            }
            Ok(None) => {
                let status =
                    running.child.wait().map_or_else(|err| err.to_string(), |status| status.to_string());
                Err(failed(format!("the node ended before it was ready ({status}):\n{}", self.log.text())))
            }
            Err(_) => {
                let within = PATIENCE.as_secs();
                Err(failed(format!("the node was not ready within {within} s:\n{}", self.log.text())))
            }
        }
    }

    /// Ends the process as a power cut would: SIGKILL, no warning.
    ///
    /// # Errors
    /// If it was not running.
    pub(crate) fn kill(&mut self) -> Result<(), Failure> {
        let mut running = self.running.take().ok_or_else(|| failed("the node is not running"))?;
        let ended = running.child.kill().and_then(|()| running.child.wait());
        ended.map(drop).map_err(|err| failed(format!("killing the node: {err}")))
    }

    /// Asks the process to stop (SIGTERM) and waits for its end.
    ///
    /// # Errors
    /// If it does not end in time.
    pub(crate) async fn stop(&mut self) -> Result<ExitStatus, Failure> {
        let running = self.running.as_mut().ok_or_else(|| failed("the node is not running"))?;
        kill_process(Pid::from_child(&running.child), Signal::TERM)
            .map_err(|err| failed(format!("stopping the node: {err}")))?;
        let gone = timeout(PATIENCE, async { while running.said.recv().await.is_some() {} }).await;
        gone.map_err(|_| failed(format!("the node did not stop in {} s", PATIENCE.as_secs())))?;
        let status = running.child.wait().map_err(|err| failed(format!("stopping the node: {err}")))?;
        self.running = None;
        Ok(status)
    }

    /// `IP:PORT` of a listener of the running process.
    ///
    /// # Errors
    /// If the ready line did not name it.
    pub(crate) fn address(&self, listener: &str) -> Result<String, Failure> {
        let found = self.running.as_ref().and_then(|running| running.addresses.get(listener));
        found.cloned().ok_or_else(|| failed(format!("the node's ready line names no {listener} address")))
    }

    /// The running process.
    #[must_use]
    pub(crate) fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.child.id())
    }

    /// A client of its control socket.
    #[must_use]
    pub(crate) fn control(&self) -> Client {
        Client::new(Door::Unix(SocketPlace::in_data_dir(&self.data_dir())))
    }

    /// Whether its directory is on a file system that keeps files in memory only.
    #[must_use]
    pub(crate) fn in_memory(&self) -> bool {
        const TMPFS_MAGIC: u64 = 0x0102_1994; // statfs(2)
        rustix::fs::statfs(self.dir.path()).is_ok_and(|stat| stat.f_type as u64 == TMPFS_MAGIC)
    }

    /// Where it keeps its data.
    #[must_use]
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }
}

impl Drop for OwnNode {
    fn drop(&mut self) {
        if self.running.is_some() {
            // nobody is left to tell
            let _ = self.kill();
        }
    }
}

/// The last lines that a process wrote.
#[derive(Debug, Clone, Default)]
struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    /// Reads a process's output to its end, on a thread of its own, so that it never blocks on a full pipe.
    /// The first ready line is told to `ready`, which is dropped at the end.
    fn follow(
        &self,
        output: impl Read + Send + 'static,
        ready: Option<mpsc::UnboundedSender<BTreeMap<String, String>>>,
    ) {
        let tail = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let Ok(line) = line else { break };
                if let (Some(tell), Some(addresses)) = (&ready, addresses(&line)) {
                    let _ = tell.send(addresses); // nobody waits any more: fine
                }
                tail.push(line);
            }
        });
    }

    fn push(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == TAIL_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    fn text(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
    }
}

/// The addresses of a ready line (SPEC §2); `None` for any other line.
fn addresses(line: &str) -> Option<BTreeMap<String, String>> {
    if !line.contains("\"ready\":1") {
        return None;
    }
    let line: Value = serde_json::from_str(line).ok()?;
    let named = |name: &str| Some((name.to_owned(), line[name].as_str()?.to_owned()));
    Some(LISTENERS.iter().filter_map(|name| named(name)).collect())
}

/// The `ron-node` that stands beside this program. Under `cargo run`, which builds only the binary it runs,
/// it is built (or brought up to date) first.
fn program() -> Result<PathBuf, Failure> {
    let this = std::env::current_exe().map_err(|err| failed(format!("finding this program: {err}")))?;
    let sibling = this.with_file_name("ron-node");
    if let (Some(cargo), Some(manifest)) = (std::env::var_os("CARGO"), std::env::var_os("CARGO_MANIFEST_DIR"))
    {
        let manifest = Path::new(&manifest).join("Cargo.toml");
        let mut build = Command::new(cargo);
        build.args(["build", "--bin", "ron-node", "--manifest-path"]).arg(manifest);
        if this.parent().is_some_and(|dir| dir.ends_with("release")) {
            build.arg("--release");
        }
        if let Some(target) = this.parent().and_then(Path::parent) {
            build.arg("--target-dir").arg(target);
        }
        let built = build.stdin(Stdio::null()).status();
        let built = built.map_err(|err| failed(format!("building ron-node: {err}")))?;
        if !built.success() {
            return Err(failed("ron-node does not build; see above"));
        }
    }
    if sibling.is_file() {
        return Ok(sibling);
    }
    Err(failed(format!("{} is missing: build it with `cargo build --release`", sibling.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_gives_the_addresses() {
        let line = r#"{"msg":"ready","ready":1,"interop":"127.0.0.1:1","mailbox":"127.0.0.1:2","oap":null}"#;
        let found = addresses(line).unwrap();
        assert_eq!(found.get("mailbox").map(String::as_str), Some("127.0.0.1:2"));
        assert_eq!(found.len(), 2);
        assert_eq!(addresses(r#"{"msg":"starting"}"#), None);
        assert_eq!(addresses(r#"text with "ready":1 in it"#), None);
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let tail = Tail::default();
        for n in 0..100 {
            tail.push(n.to_string());
        }
        assert_eq!(tail.text().lines().count(), TAIL_LINES);
        assert!(tail.text().ends_with("  99"));
    }
}
