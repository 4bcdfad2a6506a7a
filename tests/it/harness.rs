//! A node of a test: its directory, its process, its log, and clients. It is killed when it is dropped, and a
//! panic anywhere in its log fails the test.

use crate::http::{Client, Door};
use ron_actors::kernel::clock::SystemClock;
use ron_core::scheme::{Scheme, SigningKey, ToSign};
use ron_core::time::{Clock, Millis};
use ron_node::schemes::Catalogue;
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// The tenant of most tests.
pub(crate) const TENANT: &str = "acme";
/// Longest wait for anything that is sure to come.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// The configuration of a node, and where it lives.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    dir: Arc<tempfile::TempDir>,
    more: String,
    env: Vec<(String, String)>,
    args: Vec<String>,
}

impl Setup {
    pub(crate) fn new() -> Setup {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        Setup { dir, more: String::new(), env: Vec::new(), args: Vec::new() }
    }

    /// The same with a variable.
    pub(crate) fn env(mut self, name: &str, value: impl Into<String>) -> Setup {
        self.env.push((name.into(), value.into()));
        self
    }

    /// The same with more of a configuration file.
    pub(crate) fn toml(mut self, text: &str) -> Setup {
        self.more.push_str(text);
        self
    }

    pub(crate) fn arg(mut self, arg: &str) -> Setup {
        self.args.push(arg.into());
        self
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.dir.path().join("node.toml")
    }

    pub(crate) fn command(&self) -> Command {
        let text = format!(
            "[node]\ndata_dir = {:?}\n[interop]\nbind_addr = \"127.0.0.1:0\"\nmetrics_addr = \"127.0.0.1:0\"\n\
             [mailbox]\nlisten = \"127.0.0.1:0\"\noap_listen = \"127.0.0.1:0\"\nmetrics_addr = \"127.0.0.1:0\"\n{}",
            self.data_dir().display().to_string(),
            self.more
        );
        std::fs::write(self.config_file(), text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ron-node"));
        command.env_clear().arg("--config").arg(self.config_file()).args(&self.args).current_dir(self.dir());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts the node and waits until it is ready.
    pub(crate) fn start(&self) -> TestNode {
        start_command(self, self.command())
    }

    /// Runs a node that is expected to end by itself; its exit code, and all it printed.
    pub(crate) fn run_to_end(&self) -> (i32, String) {
        let (child, log) = spawn(self.command());
        let mut node = TestNode { setup: self.clone(), child, log, ready: Value::Null };
        let status = node.wait_exit();
        poll("the end of its log", || node.log.ended().then_some(()));
        (status.code().unwrap_or(-1), node.log())
    }
}

fn spawn(mut command: Command) -> (Child, Arc<Log>) {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let log = Arc::new(Log::default());
    follow(child.stdout.take().unwrap(), log.clone());
    follow(child.stderr.take().unwrap(), log.clone());
    (child, log)
}

/// Starts a node by a command of one's own.
pub(crate) fn start_command(setup: &Setup, command: Command) -> TestNode {
    let (mut child, log) = spawn(command);
    let ready = log.wait(|line| {
        let json: Value = serde_json::from_str(line).ok()?;
        (json["msg"] == "ready" && json["ready"] == 1).then_some(json)
    });
    let Some(ready) = ready else {
        let _ = child.kill();
        let _ = child.wait();
        panic!("the node did not get ready:\n{}", log.text());
    };
    TestNode { setup: setup.clone(), child, log, ready }
}

#[derive(Debug, Default)]
struct Log {
    lines: Mutex<(Vec<String>, usize)>,
    more: Condvar,
}

impl Log {
    fn push(&self, line: String) {
        self.lines.lock().unwrap().0.push(line);
        self.more.notify_all();
    }

    /// Waits for a line, or for the end of both streams.
    fn wait<T>(&self, mut found: impl FnMut(&str) -> Option<T>) -> Option<T> {
        let mut seen = 0;
        let mut lines = self.lines.lock().unwrap();
        loop {
            while seen < lines.0.len() {
                if let Some(found) = found(&lines.0[seen]) {
                    return Some(found);
                }
                seen += 1;
            }
            if lines.1 == 2 {
                return None;
            }
            let (next, timed_out) = self.more.wait_timeout(lines, SOON).unwrap();
            if timed_out.timed_out() {
                return None;
            }
            lines = next;
        }
    }

    fn ended(&self) -> bool {
        self.lines.lock().unwrap().1 == 2
    }

    fn text(&self) -> String {
        self.lines.lock().unwrap().0.join("\n")
    }
}

fn follow(from: impl Read + Send + 'static, log: Arc<Log>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines() {
            match line {
                Ok(line) => log.push(line),
                Err(_) => break,
            }
        }
        log.lines.lock().unwrap().1 += 1;
        log.more.notify_all();
    });
}

/// A running node.
#[derive(Debug)]
pub(crate) struct TestNode {
    pub(crate) setup: Setup,
    child: Child,
    log: Arc<Log>,
    pub(crate) ready: Value,
}

impl Drop for TestNode {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = self.log.text();
        if std::thread::panicking() {
            eprintln!("--- the node's log\n{log}\n---");
        } else {
            assert!(!log.contains("panicked"), "the node panicked:\n{log}");
        }
    }
}

impl TestNode {
    fn at(&self, name: &str) -> Client {
        let addr = self.ready[name].as_str().unwrap_or_default();
        Client::new(Door::Tcp(addr.parse().unwrap_or_else(|_| panic!("{name} in {}", self.ready))))
    }

    pub(crate) fn interop(&self) -> Client {
        self.at("interop")
    }

    pub(crate) fn interop_admin(&self) -> Client {
        self.at("interop_admin")
    }

    pub(crate) fn mailbox_admin(&self) -> Client {
        self.at("mailbox_admin")
    }

    /// Where OAP/1 is spoken.
    pub(crate) fn oap(&self) -> SocketAddr {
        self.at("oap").addr()
    }

    /// The mailbox, without a capability.
    pub(crate) fn bare(&self) -> Client {
        self.at("mailbox")
    }

    /// The mailbox, with a capability for all that clients of [`TENANT`] do.
    pub(crate) fn mailbox(&self) -> Client {
        self.bare().with(&self.token())
    }

    pub(crate) fn control(&self) -> Client {
        Client::new(Door::Unix(self.ready["socket"].as_str().unwrap().to_owned()))
    }

    /// The mailbox, with a capability that also allows what operators do.
    pub(crate) fn operator(&self) -> Client {
        let ops = ["enqueue", "recv", "ack", "nack", "peek", "stat", "admin"];
        self.bare().with(&self.mint(&json!({ "ops": ops })))
    }

    /// What `ronctl` prints as JSON.
    pub(crate) fn ronctl_json(&self, arguments: &[&str]) -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ronctl"));
        command.arg("--json").args(arguments).env("RON_SOCKET", self.ready["socket"].as_str().unwrap());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ronctl {arguments:?}: {said}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn token(&self) -> String {
        self.mint(&json!({"ops": ["enqueue", "recv", "ack", "nack", "peek", "stat"]}))
    }

    /// A capability; `over` goes over tenant acme, all topics, an hour.
    pub(crate) fn mint(&self, over: &Value) -> String {
        let mut request = json!({"tenant": TENANT, "topic": "*", "ttl_ms": 3_600_000});
        for (key, value) in over.as_object().unwrap() {
            request[key] = value.clone();
        }
        let minted = self.control().post("/ctl/cap/mint", &request).json(200);
        assert_eq!(minted["cap_id"].as_str().unwrap().len(), 16);
        minted["token"].as_str().unwrap().to_owned()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
        if signal == Signal::STOP {
            // Until one of its threads has noticed, on a busy machine, the others still answer.
            poll("each thread stands still", || {
                self.thread_states().iter().all(|state| *state == "T").then_some(())
            });
        }
    }

    fn thread_states(&self) -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let stats = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
        // behind the name, which may contain anything
        let state = |stat: String| Some(stat.rsplit_once(") ")?.1.split(' ').next()?.to_owned());
        stats.filter_map(state).collect()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    pub(crate) fn wait_exit(&mut self) -> ExitStatus {
        poll("the node's end", || self.child.try_wait().unwrap())
    }

    /// SIGTERM, and the end of it.
    pub(crate) fn stop(mut self) -> Setup {
        self.signal(Signal::TERM);
        assert!(self.wait_exit().success(), "a drained node exits 0");
        self.setup.clone()
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) -> Setup {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.setup.clone()
    }

    /// SIGKILL, and a new node on the same data.
    pub(crate) fn kill_and_restart(mut self) -> TestNode {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.setup.clone().start()
    }
}

/// Runs `ronctl` for a node that may be stopped: exit code, stdout, stderr.
pub(crate) fn ronctl(setup: &Setup, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ronctl"));
    command.env_clear().arg("--config").arg(setup.config_file()).args(arguments).current_dir(setup.dir());
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// Polls until there is something, 30 s at most.
#[track_caller]
#[allow(clippy::disallowed_methods)] // the one place where tests wait
pub(crate) fn poll<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = std::time::Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(started.elapsed() < SOON, "{what}: not within {SOON:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Bytes that came to this address and were not read yet.
pub(crate) fn unread_bytes(listener: SocketAddr) -> usize {
    const LISTENS: &str = "0A"; // for such a socket it is connections
    let unread = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let &[_, local, _, state, queues, ..] = &words[..] else { return None };
        let here = local.ends_with(&format!(":{:04X}", listener.port())) && state != LISTENS;
        let unread = queues.split_once(':').filter(|_| here)?.1;
        Some(usize::from_str_radix(unread, 16).unwrap())
    };
    std::fs::read_to_string("/proc/net/tcp").unwrap().lines().skip(1).filter_map(unread).sum()
}

/// How long `work` takes.
#[allow(clippy::disallowed_methods)] // latencies are what some tests are about
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let started = std::time::Instant::now();
    let done = work();
    (done, started.elapsed())
}

/// The wall clock.
pub(crate) fn wall() -> Millis {
    SystemClock::starting_from(Millis(0)).wall()
}

/// A provider's side: what it signs with.
#[derive(Debug)]
pub(crate) struct Provider {
    pub(crate) name: &'static str,
    scheme: Scheme,
    key: SigningKey,
    verifying: String,
}

impl Provider {
    pub(crate) fn new(name: &'static str, scheme: &str) -> Provider {
        Provider::of(name, Catalogue::scheme(scheme, &toml::Table::new()).unwrap())
    }

    pub(crate) fn of(name: &'static str, scheme: Scheme) -> Provider {
        let pair = scheme.sample_pair(&[name.len() as u8; 32]).unwrap();
        let key = scheme.signing_key(&pair.signing).unwrap();
        Provider { name, key, verifying: pair.verifying.to_string(), scheme }
    }

    /// The setup with this provider, its topic named like it.
    pub(crate) fn add_to(&self, setup: Setup, scheme: &str, more: &str) -> Setup {
        let variable = format!("SECRET_{}", self.name.to_uppercase());
        let topic = self.name.replace('_', "-");
        let text = format!(
            "[interop.providers.{}]\nscheme = \"{scheme}\"\ntenant = \"{TENANT}\"\ntopic = \"{topic}\"\n\
             secrets = [{{ kid = \"k1\", env = \"{variable}\" }}]\n{more}\n",
            self.name
        );
        setup.toml(&text).env(&variable, self.verifying.clone())
    }

    /// What it shares with who verifies it.
    pub(crate) fn secret(&self) -> &str {
        &self.verifying
    }

    pub(crate) fn topic(&self) -> String {
        self.name.replace('_', "-")
    }

    /// Signed headers for a body, at a moment.
    pub(crate) fn sign(&self, id: &str, at: Millis, body: &[u8]) -> Vec<(String, String)> {
        let request = ToSign { id: Some(id), event_type: Some("thing.done"), ..ToSign::new(at, body) };
        let mut headers = self.scheme.sign(&self.key, &request).unwrap().headers;
        headers.push(("Content-Type".into(), "application/json".into()));
        headers
    }

    pub(crate) fn path(&self) -> String {
        format!("/webhooks/{}", self.name)
    }
}

/// Headers as the client takes them.
pub(crate) fn borrowed(headers: &[(String, String)]) -> Vec<(&str, &[u8])> {
    headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect()
}
