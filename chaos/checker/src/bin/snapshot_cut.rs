//! The snapshot drill: snapshots of a real node under load, restored and compared with what its clients did, cut at
//! the sequence number that each snapshot names.
#![allow(clippy::print_stdout)] // its output is its product

use anyhow::{Context, Result, ensure};
use clap::Parser;
use ron_checker::api::{Api, percentile, ronctl, sequence, text};
use ron_checker::clock::{self, Clock, Micros};
use ron_checker::cut::load::{self, BALLAST, Did, Load, Size, TOPICS, topic};
use ron_checker::cut::{Came, Judgement, Taken, judge};
use ron_checker::node::{Node, Setup};
use ron_checker::sign;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

const READY_LIMIT: Duration = Duration::from_secs(60);
/// Messages sent to each topic after a restore, to see their ids.
const SENT_AFTER: u64 = 25;
/// Exit code of a drill that could not be carried out, so that nobody takes that for a finding.
const NOT_DONE: u8 = 77;

/// Takes snapshots of a node under load, restores some of them, and compares what comes back with what clients did.
/// Exit 1 if a promise was broken; 77 if the drill could not be carried out.
#[derive(Parser, Debug)]
#[command(name = "snapshot_cut")]
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
    /// Snapshots in one series; between two of them as long without.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(2..=100))]
    snapshots: u64,
    /// Snapshots of the last series that are restored, one after another.
    #[arg(long, default_value_t = 2)]
    restores: usize,
    /// MiB of messages that lie there from the start.
    #[arg(long, default_value_t = 16)]
    ballast_mib: u64,
    /// Clients that send.
    #[arg(long, default_value_t = 12)]
    senders: u64,
    /// Clients that receive.
    #[arg(long, default_value_t = 4)]
    consumers: u64,
    /// Milliseconds between two sends of one client.
    #[arg(long, default_value_t = 40)]
    pace_ms: u64,
    /// Most that the p99 of sends may rise while a snapshot is taken, as a factor.
    #[arg(long, default_value_t = 2.0)]
    p99_factor: f64,
    /// Series tried until one keeps the factor: a neighbour on the machine can spoil one. All are printed.
    #[arg(long, default_value_t = 5)]
    tries: u64,
    /// Decides what is sent.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The control: judges what comes back by the cut of the next snapshot.
    #[arg(long)]
    wrong_cut: bool,
}

fn main() -> ExitCode {
    match drill(&Args::parse()) {
        Ok(faults) if faults.is_empty() => ExitCode::SUCCESS,
        Ok(faults) => {
            faults.iter().for_each(|fault| println!("  {fault}"));
            println!("FAILED: {} faults", faults.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("snapshot_cut: NOT DONE: {error:#}");
            NOT_DONE.into()
        }
    }
}

/// All that happened before the node was killed.
struct Past {
    did: Did,
    taken: Vec<Taken>,
    token: String,
    /// Revoked after the last snapshot.
    revoked: String,
}

fn drill(args: &Args) -> Result<Vec<String>> {
    let setup = set_up(args)?;
    let clock = Clock::start();
    let mut faults = Vec::new();
    let mut node = Node::start(setup.command(), &setup.log(), &clock)?;
    let mailbox = node.wait_ready(READY_LIMIT)?.mailbox;
    let past = load_and_snapshots(args, &setup, clock, mailbox, &mut faults)?;
    let mut ids: BTreeSet<String> = past.did.events.iter().map(|event| event.msg_id.clone()).collect();
    let mut kept = past.did.kept.clone();
    let wrong = usize::from(args.wrong_cut);
    for n in 0..args.restores.min(past.taken.len() - wrong) {
        node.kill()?;
        let taken = &past.taken[n];
        let said = restore(&setup, &taken.name)?;
        node = Node::start(setup.command(), &setup.log(), &clock)?;
        let mailbox = node.wait_ready(READY_LIMIT)?.mailbox;
        let mut api = Api::new(mailbox, &past.token);
        check_stale(&mut api, &kept, &mut faults)?;
        check_revoked(mailbox, &past.revoked, &mut faults)?;
        let came = everything(&mut api, &mut kept)?;
        let cut = &past.taken[n + wrong];
        let Judgement { inside, outside, around, faults: found } = judge(&past.did.events, cut, &came);
        println!(
            "{}: {} messages came back; {inside} of the clients' acts are in it, {outside} are not; {around} were \
             under way while it was taken",
            taken.name,
            came.len()
        );
        faults.extend(found);
        check_ids(&mut api, &said, &mut ids, &mut faults)?;
        check_keys(&mut api, &past.did, cut, &mut faults)?;
    }
    node.kill()?;
    Ok(faults)
}

fn set_up(args: &Args) -> Result<Setup> {
    fs::create_dir_all(&args.dir)?;
    let setup = Setup {
        node: fs::canonicalize(&args.node).context("--node")?,
        ronctl: fs::canonicalize(&args.ronctl).context("--ronctl")?,
        dir: fs::canonicalize(&args.dir)?,
        amnesia: false,
        dedup_window_ms: 6 * 3_600_000,
    };
    ensure!(!setup.data_dir().exists(), "{} holds the data of another run", args.dir.display());
    setup.write()?;
    let config = fs::read_to_string(setup.config())?;
    let store = format!(
        "[store]\nsnapshot_keep = {}\nsnapshot_every = \"24h\"\n[mailbox]\nmax_inflight = 1000000\n",
        args.snapshots * args.tries + 1
    );
    fs::write(setup.config(), config.replacen("[mailbox]\n", &store, 1))?;
    Ok(setup)
}

fn load_and_snapshots(
    args: &Args,
    setup: &Setup,
    clock: Clock,
    mailbox: SocketAddr,
    faults: &mut Vec<String>,
) -> Result<Past> {
    let (token, revoked) = (setup.mint()?, setup.mint()?);
    let mut did = load::ballast(clock, mailbox, &token, args.ballast_mib, args.seed)?;
    println!("{} MiB in {} messages lie there", args.ballast_mib, did.events.len());
    let (mut taken, mut kept) = (Vec::new(), false);
    for number in 1..=args.tries.max(1) {
        let size = Size {
            senders: args.senders,
            consumers: args.consumers,
            pace: Duration::from_millis(args.pace_ms),
            seed: args.seed + number * 1_000,
        };
        let load = Load::start(clock, mailbox, &token, size);
        taken = series(args, setup, clock)?;
        let done = load.stop()?;
        kept = p99_kept(args, number, &taken, &done.sends);
        did.add(done);
        if kept {
            break;
        }
    }
    if !kept {
        faults.push(format!("the p99 of sends rose more than {} times in each series", args.p99_factor));
    }
    let cap = ronctl(setup, &["cap", "inspect", &revoked])?;
    ronctl(setup, &["cap", "revoke", text(&cap, "cap_id")])?;
    Ok(Past { did, taken, token, revoked })
}

/// Takes snapshots, each after as long a time without one.
fn series(args: &Args, setup: &Setup, clock: Clock) -> Result<Vec<Taken>> {
    let mut taken: Vec<Taken> = Vec::new();
    for _ in 0..args.snapshots {
        let last = taken.last().map_or(0, |last| last.answered - last.begun);
        clock::sleep(Duration::from_micros(last.max(1_500_000)));
        let begun = clock.now();
        let said = ronctl(setup, &["snapshot", "create"])?;
        let answered = clock.now();
        let next_sequence = said["next_sequence"].as_u64().context("a snapshot names no next_sequence")?;
        taken.push(Taken { name: text(&said, "name").to_owned(), begun, answered, next_sequence });
    }
    clock::sleep(Duration::from_millis(500)); // what is sent after the last one must not be in it
    Ok(taken)
}

/// Compares how long sends took while a snapshot was being taken with how long they took between.
fn p99_kept(args: &Args, number: u64, taken: &[Taken], sends: &[(Micros, Micros)]) -> bool {
    let (mut during, mut between) = (Vec::new(), Vec::new());
    let last = taken.last().map_or(0, |last| last.answered);
    for (due, answered) in sends.iter().filter(|(due, _)| *due < last) {
        let one = taken.iter().any(|taken| *due < taken.answered && *answered > taken.begun);
        if one { &mut during } else { &mut between }.push(answered - due);
    }
    let took: Micros = taken.iter().map(|taken| taken.answered - taken.begun).sum();
    let ms = |micros: Micros| micros as f64 / 1e3;
    let counts = [during.len(), between.len()];
    let [during, between] =
        [during, between].map(|mut all| [50.0, 99.0].map(|at| ms(percentile(&mut all, at))));
    let factor = during[1] / between[1].max(0.001);
    println!(
        "series {number}: {} snapshots in {:.0} ms each; sends while one is taken: {}, p50 {:.1} ms, p99 {:.1} ms; \
         between: {}, p50 {:.1} ms, p99 {:.1} ms; factor {factor:.2}",
        taken.len(),
        ms(took) / taken.len() as f64,
        counts[0],
        during[0],
        during[1],
        counts[1],
        between[0],
        between[1],
    );
    counts.iter().all(|count| *count >= 200) && factor <= args.p99_factor
}

fn restore(setup: &Setup, name: &str) -> Result<Value> {
    let said = ronctl(setup, &["snapshot", "restore", name, "--yes"])?;
    println!(
        "{name} restored: {} come back ({} for the second time, {} were in flight), {} are forgotten",
        said["come_back"], said["come_again"], said["in_flight"], said["forgotten"]
    );
    Ok(said)
}

/// Receives everything, and reads the dead letters. The receipts are kept.
fn everything(api: &mut Api, kept: &mut Vec<(String, String)>) -> Result<BTreeMap<String, Came>> {
    let mut all = BTreeMap::new();
    let ask = json!({"max_messages": 256, "visibility_ms": 6 * 3_600_000});
    for topic in (0..TOPICS).map(topic).chain([BALLAST.to_owned()]) {
        loop {
            let got = api.recv(&topic, &ask)?;
            if got.is_empty() {
                break;
            }
            for message in got {
                kept.push((topic.clone(), text(&message, "receipt").to_owned()));
                let delivery = message["delivery"].as_u64().context("no delivery")?;
                add(&mut all, &topic, &message, delivery.saturating_sub(1), false)?;
            }
        }
        let mut cursor = String::new();
        loop {
            let page = api.done("GET", &format!("{topic}/peek?state=dlq&limit=100{cursor}"), &Value::Null)?;
            for message in page["messages"].as_array().into_iter().flatten() {
                add(&mut all, &topic, message, message["delivery"].as_u64().context("no delivery")?, true)?;
            }
            match page["cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        let left = api.done("GET", &topic, &Value::Null)?;
        ensure!([&left["ready"], &left["delayed"]] == [&json!(0), &json!(0)], "{topic} has more: {left}");
    }
    Ok(all)
}

fn add(
    all: &mut BTreeMap<String, Came>,
    topic: &str,
    message: &Value,
    received: u64,
    dead: bool,
) -> Result<()> {
    let payload = message["payload"].as_str().context("text came without a payload")?;
    let came = Came {
        topic: topic.to_owned(),
        hash: sign::content_address(payload.as_bytes()),
        received,
        dead,
        restored: message["restored_at"].is_string(),
        place: u64::try_from(all.len())?,
    };
    let id = text(message, "msg_id").to_owned();
    ensure!(all.insert(id.clone(), came).is_none(), "{id} came twice");
    Ok(())
}

/// No receipt from before the restore settles anything.
fn check_stale(api: &mut Api, kept: &[(String, String)], faults: &mut Vec<String>) -> Result<()> {
    let mut wrong = BTreeMap::new();
    for (call, more) in
        [("nack", json!({})), ("extend", json!({"visibility_ms": 60_000})), ("ack", json!({}))]
    {
        for topic in (0..TOPICS).map(topic).chain([BALLAST.to_owned()]) {
            let of_topic: Vec<&str> =
                kept.iter().filter(|(of, _)| *of == topic).map(|(_, receipt)| receipt.as_str()).collect();
            for some in of_topic.chunks(250) {
                for result in api.settle(&topic, call, some, &more)? {
                    if result["ok"] != false || result["reason"] != "STALE_RECEIPT" {
                        *wrong.entry(format!("{call}: {result}")).or_insert(0) += 1;
                    }
                }
            }
        }
    }
    faults.extend(wrong.iter().map(|(what, count)| format!("{count} old receipts are not stale: {what}")));
    println!("{} old receipts tried in three ways, {} not stale", kept.len(), wrong.len());
    Ok(())
}

/// What was revoked after the snapshot stays so.
fn check_revoked(mailbox: SocketAddr, revoked: &str, faults: &mut Vec<String>) -> Result<()> {
    let answer = Api::new(mailbox, revoked).try_call("GET", &topic(0), &[], b"");
    let answer = answer.map_err(|failure| anyhow::anyhow!("stat: {failure:?}"))?;
    if answer.status != 401 {
        faults.push(format!("a capability revoked after the snapshot works: {}", answer.status));
    }
    Ok(())
}

/// New ids are above all that were ever given.
fn check_ids(
    api: &mut Api,
    said: &Value,
    ids: &mut BTreeSet<String>,
    faults: &mut Vec<String>,
) -> Result<()> {
    let next = said["next_sequence"].as_u64().context("a restore names no next_sequence")?;
    let highest = ids.iter().filter_map(|id| sequence(id)).max().unwrap_or_default();
    if next <= highest {
        faults.push(format!("the sequence goes on at {next}, and {highest} was given"));
    }
    for n in 0..SENT_AFTER * TOPICS {
        let sent = api.send(&topic(n), None, "after the restore")?;
        let id = text(&sent, "msg_id").to_owned();
        if sequence(&id).is_none_or(|sequence| sequence < next) || !ids.insert(id.clone()) {
            faults.push(format!("{id} is an id of before the restore"));
        }
    }
    Ok(())
}

/// Keys of the snapshot are known, later ones are forgotten.
fn check_keys(api: &mut Api, did: &Did, taken: &Taken, faults: &mut Vec<String>) -> Result<()> {
    let mut counts = [0, 0];
    for [topic, key, body, id] in &did.keyed {
        let inside = sequence(id).is_some_and(|sequence| sequence < taken.next_sequence);
        let again = api.send(topic, Some(key), body)?;
        let known = again["duplicate"] == true && text(&again, "msg_id") == id;
        let unknown = again["duplicate"] == false && text(&again, "msg_id") != id;
        if if inside { !known } else { !unknown } {
            faults.push(format!("key {key}, in the snapshot: {inside}: {again}"));
        }
        counts[usize::from(!inside)] += 1;
    }
    println!("{} keys are known, {} are forgotten", counts[0], counts[1]);
    Ok(())
}
