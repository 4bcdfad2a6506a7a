//! The revocation drill: capabilities are revoked one after another while clients use them in every way, and nothing
//! that one of them does is answered 2xx a second later.
#![allow(clippy::print_stdout)] // its output is its product

use anyhow::{Context, Result, anyhow, ensure};
use clap::Parser;
use ron_checker::api::{Api, ronctl, text};
use ron_checker::clock::{self, Clock, Micros};
use ron_checker::node::{Node, Setup, TENANT};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const READY_LIMIT: Duration = Duration::from_secs(60);
/// In force within this, µs (SPEC §5).
const WITHIN: Micros = 1_000_000;
/// How long the load goes on after the last revocation.
const AFTER: Duration = Duration::from_secs(3);
/// Exit code of a drill that could not be carried out, so that nobody takes that for a finding.
const NOT_DONE: u8 = 77;

/// Revokes capabilities under load. Exit 1 if one was of use a second later, or an unrevoked one was not; 77 if the
/// drill could not be carried out.
#[derive(Parser, Debug)]
#[command(name = "revocation")]
struct Args {
    /// The ron-node binary.
    #[arg(long)]
    node: PathBuf,
    /// The ronctl binary.
    #[arg(long)]
    ronctl: PathBuf,
    /// A new directory for the node's data and its log.
    #[arg(long)]
    dir: PathBuf,
    /// Capabilities that are revoked one after another; each has five clients: a sender, a consumer, one that waits for
    /// a message, a stream, and a sender with a narrower capability made of it.
    #[arg(long, default_value_t = 6)]
    capabilities: usize,
    /// Capabilities in the same use that are not revoked.
    #[arg(long, default_value_t = 2)]
    bystanders: usize,
    /// The control: revokes capabilities that nobody uses.
    #[arg(long)]
    revoke_others: bool,
}

fn main() -> ExitCode {
    match drill(&Args::parse()) {
        Ok(faults) if faults.is_empty() => ExitCode::SUCCESS,
        Ok(faults) => {
            faults.iter().take(30).for_each(|fault| println!("  {fault}"));
            println!("FAILED: {} faults", faults.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("revocation: NOT DONE: {error:#}");
            NOT_DONE.into()
        }
    }
}

/// One use of a capability that was answered: a whole answer, or one line of a stream.
#[derive(Debug, Clone)]
struct Use {
    how: &'static str,
    begun: Micros,
    answered: Micros,
    status: u16,
    reason: String,
}

/// A capability, and how it was used.
struct Holder {
    token: String,
    cap_id: String,
    narrower: String,
    /// When its revocation was asked for and when that was answered.
    revoked: Option<(Micros, Micros)>,
    clients: Vec<JoinHandle<Vec<Use>>>,
    uses: Vec<Use>,
}

fn drill(args: &Args) -> Result<Vec<String>> {
    fs::create_dir_all(&args.dir)?;
    let setup = Setup {
        node: fs::canonicalize(&args.node).context("--node")?,
        ronctl: fs::canonicalize(&args.ronctl).context("--ronctl")?,
        dir: fs::canonicalize(&args.dir)?,
        amnesia: false,
        dedup_window_ms: 300_000,
    };
    ensure!(!setup.data_dir().exists(), "{} holds the data of another run", args.dir.display());
    setup.write()?;
    let clock = Clock::start();
    let mut node = Node::start(setup.command(), &setup.log(), &clock)?;
    let mailbox = node.wait_ready(READY_LIMIT)?.mailbox;
    let over = Arc::new(AtomicBool::new(false));
    let mut holders = Vec::new();
    for n in 0..args.capabilities + args.bystanders {
        holders.push(Holder::start(&setup, clock, mailbox, n, &over)?);
    }
    clock::sleep(Duration::from_secs(2));
    for holder in holders.iter_mut().take(args.capabilities) {
        let id = if args.revoke_others { cap_id(&setup, &setup.mint()?)? } else { holder.cap_id.clone() };
        let asked = clock.now();
        ronctl(&setup, &["cap", "revoke", &id])?;
        holder.revoked = Some((asked, clock.now()));
        clock::sleep(Duration::from_millis(300));
    }
    clock::sleep(AFTER);
    over.store(true, Ordering::SeqCst);
    let ended = clock.now();
    let mut faults = Vec::new();
    for holder in &mut holders {
        for client in std::mem::take(&mut holder.clients) {
            holder.uses.extend(client.join().map_err(|_| anyhow!("a client panicked"))?);
        }
        judge(holder, ended, &mut faults);
    }
    summary(&holders);
    check_stored(&setup, mailbox, &holders, &mut faults)?;
    node.kill()?;
    let mut node = Node::start(setup.command(), &setup.log(), &clock)?;
    let mailbox = node.wait_ready(READY_LIMIT)?.mailbox;
    for holder in &holders {
        for token in [&holder.token, &holder.narrower] {
            let sent = Api::new(mailbox, token).try_call("POST", "after/enqueue", &[], b"x");
            let status = sent.map_err(|failure| anyhow!("{failure:?}"))?.status;
            if status != if holder.revoked.is_some() { 401 } else { 200 } {
                faults.push(format!("{}: after SIGKILL and a start it is answered {status}", holder.cap_id));
            }
        }
    }
    node.kill()?;
    Ok(faults)
}

fn cap_id(setup: &Setup, token: &str) -> Result<String> {
    Ok(text(&ronctl(setup, &["cap", "inspect", token])?, "cap_id").to_owned())
}

impl Holder {
    fn start(
        setup: &Setup,
        clock: Clock,
        mailbox: SocketAddr,
        n: usize,
        over: &Arc<AtomicBool>,
    ) -> Result<Holder> {
        let token = setup.mint()?;
        let narrower = ronctl(setup, &["cap", "attenuate", &token, "--caveat", "op = enqueue,stat"])?;
        let narrower = text(&narrower, "token").to_owned();
        let worker = |token: &str| Worker { clock, mailbox, token: token.to_owned(), over: over.clone() };
        let busy = format!("busy-{n}");
        let (sends, narrow, takes, streams) =
            (busy.clone(), busy.clone(), busy.clone(), format!("stream-{n}"));
        let one = worker(&token);
        let mut clients = vec![std::thread::spawn(move || one.sender("a send", &sends))];
        let one = worker(&narrower);
        clients.push(std::thread::spawn(move || one.sender("a send of a narrower one", &narrow)));
        let one = worker(&token);
        clients.push(std::thread::spawn(move || one.consumer(&takes)));
        let one = worker(&token);
        clients.push(std::thread::spawn(move || one.waiter(&format!("empty-{n}"))));
        let one = worker(&token);
        clients.push(std::thread::spawn(move || one.stream(&streams)));
        // what the stream hands out is sent by somebody whom nobody revokes
        let mut feeder = Api::new(mailbox, &setup.mint()?);
        let (over, topic) = (over.clone(), format!("stream-{n}"));
        std::thread::spawn(move || {
            while !over.load(Ordering::SeqCst) && feeder.send(&topic, None, "fed").is_ok() {
                clock::sleep(Duration::from_millis(20));
            }
        });
        let cap_id = cap_id(setup, &token)?;
        Ok(Holder { token, cap_id, narrower, revoked: None, clients, uses: Vec::new() })
    }
}

struct Worker {
    clock: Clock,
    mailbox: SocketAddr,
    token: String,
    over: Arc<AtomicBool>,
}

impl Worker {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::SeqCst)
    }

    /// One call, noted.
    fn call(&self, api: &mut Api, how: &'static str, path: &str, body: &Value, uses: &mut Vec<Use>) -> Value {
        let begun = self.clock.now();
        let body = body.to_string();
        let answer = api.try_call("POST", path, &[("Content-Type", "application/json")], body.as_bytes());
        let answered = self.clock.now();
        let (status, value) = match answer {
            Ok(answer) => (answer.status, serde_json::from_slice(&answer.body).unwrap_or(Value::Null)),
            Err(failure) => (0, json!({ "reason": format!("{failure:?}") })),
        };
        uses.push(Use { how, begun, answered, status, reason: text(&value, "reason").to_owned() });
        if status != 200 {
            clock::sleep(Duration::from_millis(10));
        }
        value
    }

    fn sender(&self, how: &'static str, topic: &str) -> Vec<Use> {
        let (mut api, mut uses) = (Api::new(self.mailbox, &self.token), Vec::new());
        while self.goes_on() {
            self.call(&mut api, how, &format!("{topic}/enqueue"), &json!("x"), &mut uses);
            clock::sleep(Duration::from_millis(5));
        }
        uses
    }

    fn consumer(&self, topic: &str) -> Vec<Use> {
        let (mut api, mut uses) = (Api::new(self.mailbox, &self.token), Vec::new());
        while self.goes_on() {
            let ask = json!({"max_messages": 5, "wait_ms": 50, "visibility_ms": 60_000});
            let got = self.call(&mut api, "a receive", &format!("{topic}/recv"), &ask, &mut uses);
            let messages = got["messages"].as_array().into_iter().flatten();
            let receipts: Vec<&str> = messages.map(|message| text(message, "receipt")).collect();
            if !receipts.is_empty() {
                let body = json!({ "receipts": receipts });
                self.call(&mut api, "an ack", &format!("{topic}/ack"), &body, &mut uses);
            }
        }
        uses
    }

    fn waiter(&self, topic: &str) -> Vec<Use> {
        let (mut api, mut uses) = (Api::new(self.mailbox, &self.token), Vec::new());
        while self.goes_on() {
            let ask = json!({ "wait_ms": 9_000 });
            self.call(&mut api, "a long poll", &format!("{topic}/recv"), &ask, &mut uses);
        }
        uses
    }

    /// Opens streams; every line counts as a use.
    fn stream(&self, topic: &str) -> Vec<Use> {
        let mut uses = Vec::new();
        while self.goes_on() {
            if let Err(error) = self.one_stream(topic, &mut uses) {
                let now = self.clock.now();
                let reason = error.to_string();
                uses.push(Use { how: "a stream", begun: now, answered: now, status: 0, reason });
            }
            clock::sleep(Duration::from_millis(10));
        }
        uses
    }

    fn one_stream(&self, topic: &str, uses: &mut Vec<Use>) -> Result<()> {
        let begun = self.clock.now();
        let mut connection = TcpStream::connect(self.mailbox)?;
        // the end of the drill must not wait for a stream that nothing ends
        connection.set_read_timeout(Some(Duration::from_secs(2)))?;
        let body = json!({"max_inflight": 256, "visibility_ms": 600_000}).to_string();
        write!(
            connection,
            "POST /v1/{TENANT}/{topic}/recv/stream HTTP/1.1\r\nHost: node\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        )?;
        let mut lines = BufReader::new(connection).split(b'\n');
        let first = lines.next().context("no answer")??;
        let first = String::from_utf8_lossy(&first).into_owned();
        let status = first.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status line")?;
        let mut note = |how, status, reason: String| {
            uses.push(Use { how, begun, answered: self.clock.now(), status, reason });
        };
        note("a stream opened", status, String::new());
        for line in lines {
            let Ok(line) = line else { break };
            let line = String::from_utf8_lossy(&line);
            if line.contains("\"msg_id\"") {
                note("a stream's message", 200, String::new());
            } else if line.contains("\"reason\"") {
                note("a stream's end", 401, line.trim().to_owned());
            }
            if !self.goes_on() {
                break;
            }
        }
        Ok(())
    }
}

fn judge(holder: &Holder, ended: Micros, faults: &mut Vec<String>) {
    let id = &holder.cap_id;
    let good = |one: &&Use| (200..300).contains(&one.status);
    let bad = holder.uses.iter().filter(|one| one.answered < ended && !good(one));
    let hows =
        ["a send", "a send of a narrower one", "a receive", "an ack", "a long poll", "a stream's message"];
    let Some((asked, revoked)) = holder.revoked else {
        // a stream of 256 unsettled messages waits, which is no refusal
        let refused: Vec<&Use> = bad.filter(|one| one.how != "a stream").collect();
        faults.extend(refused.iter().take(3).map(|one| format!("{id} was not revoked: {one:?}")));
        for how in hows {
            if !holder.uses.iter().any(|one| one.how == how) {
                faults.push(format!("{id} was not used for {how}: the drill shows too little"));
            }
        }
        return;
    };
    let late = holder.uses.iter().filter(good).filter(|one| one.answered > revoked + WITHIN);
    for one in late.take(3) {
        let ms = (one.answered - revoked) / 1000;
        faults.push(format!("{id}: {} was answered {} {ms} ms after the revocation", one.how, one.status));
    }
    for one in holder.uses.iter().filter(|one| one.begun > revoked + WITHIN && one.status != 401).take(3) {
        faults
            .push(format!("{id}: {} after the revocation ended with {} {}", one.how, one.status, one.reason));
    }
    for how in hows {
        let before = |one: &Use| match how {
            // under way when it was revoked, and ended by that
            "a long poll" => one.begun < asked && one.answered >= asked && one.status == 401,
            _ => one.status == 200 && one.answered < revoked,
        };
        if !holder.uses.iter().any(|one| one.how == how && before(one)) {
            faults.push(format!("{id} was not used for {how} before: the drill shows too little"));
        }
        // what was under way has ended, and was tried again and refused
        let again = ["a stream's message", "an ack"].contains(&how)
            || holder.uses.iter().any(|one| one.how == how && one.status == 401 && one.reason == "UNAUTH");
        if !again {
            faults.push(format!("{id}: {how} was never refused"));
        }
    }
    let over = |one: &&Use| one.begun < revoked && one.answered > revoked + WITHIN;
    for one in holder.uses.iter().filter(over).take(3) {
        let ms = (one.answered - revoked) / 1000;
        faults.push(format!("{id}: {} was ended only {ms} ms after the revocation", one.how));
    }
}

fn summary(holders: &[Holder]) {
    let revoked = holders.iter().filter_map(|holder| Some((holder, holder.revoked?.1)));
    let (mut last, mut polls, mut refused) = (0, 0, 0);
    for (holder, at) in revoked.clone() {
        for one in &holder.uses {
            refused += u64::from(one.status == 401);
            if one.status == 200 {
                last = last.max(one.answered.saturating_sub(at));
            }
            if one.begun < at && one.answered > at {
                polls = polls.max(one.answered - at);
            }
        }
    }
    println!(
        "{} capabilities revoked under load, {} not; {} uses; the last 2xx came {:.1} ms after a revocation was answered, \
         what was under way ended within {:.1} ms; {refused} refusals since",
        revoked.count(),
        holders.iter().filter(|holder| holder.revoked.is_none()).count(),
        holders.iter().map(|holder| holder.uses.len()).sum::<usize>(),
        last as f64 / 1e3,
        polls as f64 / 1e3,
    );
}

/// What was refused was not kept: each topic got exactly what was answered 2xx, as its messages say.
fn check_stored(
    setup: &Setup,
    mailbox: SocketAddr,
    holders: &[Holder],
    faults: &mut Vec<String>,
) -> Result<()> {
    let mut api = Api::new(mailbox, &setup.mint()?);
    for (n, holder) in holders.iter().enumerate() {
        let count = |how: &[&str]| {
            let all = holder.uses.iter().filter(|one| one.status == 200 && how.contains(&one.how));
            all.count() as u64
        };
        let sent = count(&["a send", "a send of a narrower one"]);
        let stat = api.done("GET", &format!("busy-{n}"), &Value::Null)?;
        let left = stat["ready"].as_u64().unwrap_or(0) + stat["vis"].as_u64().unwrap_or(0);
        if left > sent || (holder.revoked.is_some() && stat["dlq"] != 0) {
            faults.push(format!("busy-{n}: {sent} sends were answered 200, and {left} messages are there"));
        }
    }
    Ok(())
}
