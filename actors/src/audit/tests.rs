use super::*;
use crate::audit::files::{DIR, file_name, list, verify};
use crate::entropy::SeededEntropy;
use crate::kernel::bus::{Bus, BusLimits};
use crate::kernel::child::Observer;
use crate::kernel::supervisor::{RootWatch, SupervisorOptions, SupervisorRef, start_root};
use ron_core::audit::{Chain, Fault, What};
use ron_core::restart::RestartPolicy;
use ron_core::time::Millis;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::AtomicU64;

const WALL: Millis = Millis(1_795_000_000_000);

#[derive(Debug, Default)]
struct HandClock(AtomicU64);

impl Clock for HandClock {
    fn now(&self) -> Millis {
        Millis(self.0.load(Ordering::Relaxed))
    }

    fn wall(&self) -> Millis {
        WALL.plus(self.now().0)
    }
}

#[derive(Debug, Default)]
struct Counts {
    recorded: AtomicU64,
    dropped: AtomicU64,
    failing: Mutex<Vec<bool>>,
}

impl AuditObserver for Counts {
    fn recorded(&self, count: u64) {
        self.recorded.fetch_add(count, Ordering::Relaxed);
    }

    fn dropped(&self, count: u64) {
        self.dropped.fetch_add(count, Ordering::Relaxed);
    }

    fn failing(&self, why: Option<String>) {
        lock(&self.failing).push(why.is_some());
    }
}

impl Observer for Counts {
    fn crashed(&self, _: ServiceLabel) {}
}

const LIMITS: AuditLimits =
    AuditLimits { queue: 64, uses: 64, ring_bytes: 1 << 20, file_bytes: 1 << 20, keep: 3 };

/// A log whose actor is not up yet.
fn open(dir: Option<&Path>, limits: AuditLimits) -> (Audit, Arc<Counts>, Arc<HandClock>) {
    let (observer, clock) = (Arc::new(Counts::default()), Arc::new(HandClock::default()));
    let args = AuditArgs {
        dir: dir.map(Path::to_owned),
        limits,
        clock: clock.clone(),
        entropy: Arc::new(SeededEntropy::new(1)),
        observer: observer.clone(),
    };
    (Audit::open(args).unwrap(), observer, clock)
}

async fn run(log: &Audit, clock: &Arc<HandClock>) -> (SupervisorRef, RootWatch) {
    let bus = Bus::new(clock.clone(), BusLimits::default());
    let options = SupervisorOptions {
        clock: clock.clone(),
        bus,
        observer: Arc::new(Counts::default()),
        policy: RestartPolicy::default(),
        seed: 1,
    };
    start_root(options, vec![log.child_spec()]).await.unwrap()
}

/// What a process that ends does: whoever opens the log next can have it.
fn let_go(log: &Audit) {
    *lock(&log.0.held) = None;
}

fn said(log: &Audit, n: u64) -> Entry {
    log.entry(Kind::Webhook, Decision::Allow, "OK").detail(&format!("entry {n}"))
}

/// The files of a log, verified from their first record on to the log's end.
fn clean(dir: &Path, head: Head) -> u64 {
    let files: Vec<PathBuf> = list(dir).unwrap().into_iter().map(|file| file.path).collect();
    let report = verify(&files, Some(head), false).unwrap();
    assert_eq!(report.faults, []);
    report.summary.records
}

fn text(dir: &Path) -> String {
    list(dir).unwrap().iter().map(|file| std::fs::read_to_string(&file.path).unwrap()).collect()
}

#[tokio::test]
async fn what_is_said_is_on_disk_once_it_is_flushed_and_goes_on_after_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join(DIR);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let mut heads = Vec::new();
    for round in 0..3 {
        let (log, counts, clock) = open(Some(&dir), LIMITS);
        let (root, _watch) = run(&log, &clock).await;
        for n in 0..10 {
            log.record(said(&log, n));
        }
        let head = log.flush().await.unwrap();
        assert_eq!((head.seq, counts.recorded.load(Ordering::Relaxed)), (round * 11 + 10, 10));
        assert_eq!(clean(&dir, head), head.seq);
        log.close(log.entry(Kind::Audit, Decision::Done, "OK")).await;
        heads.push(*log.follow().borrow());
        root.stop().await;
    }
    assert_eq!(clean(&dir, heads[2]), 33);
    assert_eq!(clean(&dir, heads[0]), 33, "a head that was noted earlier is on the way");
    assert_eq!((mode(&dir), mode(&dir.join(file_name(1))), mode(&dir.join("key"))), (0o700, 0o600, 0o600));
    assert_eq!(list(&dir).unwrap().len(), 1);
}

#[tokio::test]
async fn a_full_queue_drops_and_the_next_record_says_how_many() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join(DIR);
    let (log, counts, clock) = open(Some(&dir), LIMITS);
    for n in 0..LIMITS.queue as u64 + 7 {
        log.record(said(&log, n));
    }
    assert_eq!(counts.dropped.load(Ordering::Relaxed), 7);
    let (_root, _watch) = run(&log, &clock).await;
    let intent = log.entry(Kind::Operator, Decision::Allow, "OK");
    log.intent(intent).await.unwrap();
    let head = log.flush().await.unwrap();
    assert_eq!(head.seq, LIMITS.queue as u64 + 1);
    let lines = text(&dir);
    let last = lines.lines().last().unwrap();
    assert!(last.contains("\"reason\":\"INTENT\"") && last.contains("\"dropped\":7"), "{last}");
    clean(&dir, head);
}

#[tokio::test]
async fn an_act_is_on_the_device_before_it_is_done_or_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join(DIR);
    let (log, _, clock) = open(Some(&dir), LIMITS);
    let (root, _watch) = run(&log, &clock).await;
    let act = || log.entry(Kind::Operator, Decision::Done, "OK");
    log.intent(act()).await.unwrap();
    assert!(text(&dir).contains("INTENT"), "it is there when it is allowed");
    root.stop().await;
    let refused = log.intent(act()).await.unwrap_err();
    assert_eq!((refused.reason, refused.effect.label()), (Reason::DownstreamUnavailable, "none"));
    let late = log.outcome(act()).await.unwrap_err();
    assert!(late.text.contains("it was done") && late.effect.label() == "unknown", "{late}");
}

#[tokio::test]
async fn a_file_that_cannot_be_written_refuses_acts_and_is_caught_up_with() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join(DIR);
    // each record begins a file of its own
    let (log, counts, clock) = open(Some(&dir), AuditLimits { file_bytes: 1, keep: 100, ..LIMITS });
    let (_root, _watch) = run(&log, &clock).await;
    log.record(said(&log, 1));
    log.flush().await.unwrap();
    let aside = home.path().join("away");
    std::fs::rename(&dir, &aside).unwrap();
    log.record(said(&log, 2));
    let refused = log.intent(log.entry(Kind::Operator, Decision::Done, "OK")).await.unwrap_err();
    assert_eq!((refused.reason, refused.effect.label()), (Reason::Storage, "none"));
    assert!(refused.text.contains("not done"), "{refused}");
    std::fs::rename(&aside, &dir).unwrap();
    let head = log.flush().await.unwrap();
    assert_eq!(clean(&dir, head), 3);
    assert_eq!(*lock(&counts.failing), [true, false]);
    assert_eq!(counts.dropped.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn files_are_rotated_and_the_oldest_go() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join(DIR);
    let (log, _, clock) = open(Some(&dir), AuditLimits { file_bytes: 2_000, ..LIMITS });
    let (_root, _watch) = run(&log, &clock).await;
    let mut head = Head::EMPTY;
    for n in 0..60 {
        log.record(said(&log, n));
        head = log.flush().await.unwrap();
        let files = list(&dir).unwrap();
        assert!(files.len() <= LIMITS.keep, "{files:?}");
    }
    let first = list(&dir).unwrap()[0].first;
    assert!(first > 20, "{first}");
    assert_eq!(clean(&dir, head), 61 - first);
    let_go(&log);
    let (again, ..) = open(Some(&dir), LIMITS);
    assert_eq!(*again.follow().borrow(), head);
}

#[tokio::test]
async fn a_torn_last_line_is_cut_off_and_that_is_recorded() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join(DIR);
    let (log, _, clock) = open(Some(&dir), LIMITS);
    let (root, _watch) = run(&log, &clock).await;
    (0..3).for_each(|n| log.record(said(&log, n)));
    log.flush().await.unwrap();
    root.stop().await;
    let_go(&log);
    let file = list(&dir).unwrap().remove(0).path;
    let whole = std::fs::read(&file).unwrap();
    let third = whole.len() - whole.split_inclusive(|byte| *byte == b'\n').next_back().unwrap().len();
    for (cut, torn) in [(third, false), (third + 1, true), (whole.len() - 1, true)] {
        std::fs::write(&file, &whole[..cut]).unwrap();
        assert_eq!(verify(std::slice::from_ref(&file), None, false).unwrap().faults.len(), usize::from(torn));
        let (log, _, clock) = open(Some(&dir), LIMITS);
        let (root, _watch) = run(&log, &clock).await;
        log.record(said(&log, 9));
        let head = log.flush().await.unwrap();
        assert_eq!(clean(&dir, head), if torn { 4 } else { 3 }, "{cut}");
        let note = format!("\"reason\":\"TORN\",\"detail\":\"{} bytes", cut - third);
        assert_eq!(text(&dir).contains(&note), torn, "{note} in {}", text(&dir));
        root.stop().await;
        let_go(&log);
    }
}

#[tokio::test]
async fn a_damaged_last_file_is_put_aside_and_the_chain_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join(DIR);
    let (log, _, clock) = open(Some(&dir), LIMITS);
    let (root, _watch) = run(&log, &clock).await;
    (0..5).for_each(|n| log.record(said(&log, n)));
    let before = log.flush().await.unwrap();
    root.stop().await;
    let_go(&log);
    let file = list(&dir).unwrap().remove(0).path;
    let changed = std::fs::read_to_string(&file).unwrap().replace("entry 2", "entry 7");
    std::fs::write(&file, &changed).unwrap();
    let (log, _, clock) = open(Some(&dir), LIMITS);
    let (_root, _watch) = run(&log, &clock).await;
    let head = log.flush().await.unwrap();
    assert_eq!(head.seq, before.seq + 1);
    let name = file.file_name().unwrap().to_str().unwrap();
    let aside = dir.join(format!("{name}.damaged-1"));
    assert_eq!(std::fs::read_to_string(&aside).unwrap(), changed, "never deleted");
    let record = text(&dir);
    assert!(record.contains("\"reason\":\"DAMAGED\"") && record.contains("record 3 was changed"), "{record}");
    // both together are the chain, with the fault where it is
    let files = [aside.clone(), dir.join(file_name(6))];
    let faults = verify(&files, Some(head), false).unwrap().faults;
    let fault = Fault { file: aside.display().to_string(), line: 3, what: What::Hash { seq: 3 } };
    assert_eq!(faults, [fault]);
    assert_eq!(clean(&dir, head), 1);
}

#[tokio::test]
async fn a_crash_of_the_actor_loses_nothing() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join(DIR);
    let (log, _, clock) = open(Some(&dir), LIMITS);
    let (_root, _watch) = run(&log, &clock).await;
    for n in 0..20 {
        log.record(said(&log, n));
        if n % 7 == 0 {
            log.crash();
        }
    }
    let head = log.flush().await.unwrap();
    assert_eq!((head.seq, clean(&dir, head)), (20, 20));
}

#[test]
fn what_is_done_to_a_stopped_node_is_in_its_log() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join(DIR);
    let entropy = SeededEntropy::new(1);
    for round in 0..2 {
        let mut offline = offline::Offline::open(&dir, &entropy, WALL).unwrap();
        assert!(matches!(offline::Offline::open(&dir, &entropy, WALL), Err(AuditError::InUse { .. })));
        let entry = Entry::new(WALL, Kind::Operator, Decision::Done, "OK");
        offline.intent(entry.clone()).unwrap();
        assert_eq!(text(&dir).matches("INTENT").count(), round + 1);
        offline.add(entry).unwrap();
    }
    let (log, ..) = open(Some(&dir), LIMITS);
    assert_eq!(clean(&dir, *log.follow().borrow()), 4);
}

#[tokio::test]
async fn strangers_and_uses_are_counted_and_the_counts_are_written_at_the_end() {
    let (log, counts, clock) = open(None, LIMITS);
    let (_root, _watch) = run(&log, &clock).await;
    for n in 0..100 {
        log.stranger(Kind::Webhook, "SIGNATURE_INVALID", || said(&log, n));
    }
    let usage = Usage {
        who: Who::Local { uid: 7, pid: Some(8) },
        op: "ack",
        tenant: ron_core::ids::Tenant::parse("acme").ok(),
        topic: None,
        refused: None,
    };
    for n in 0..5 {
        log.usage(&usage, 100, |entry| entry.more.version = Some(n));
    }
    log.close(log.entry(Kind::Audit, Decision::Done, "OK")).await;
    let (lines, last) = log.recent(0, 100);
    assert_eq!((lines.len(), last), (14, 14), "ten of the strangers, their rest, the use, its rest, the end");
    let counted: Vec<&str> =
        lines.iter().filter(|line| line.contains("\"count\"")).map(|line| &**line).collect();
    assert!(counted[0].contains("\"reason\":\"SIGNATURE_INVALID\",\"count\":90,"), "{counted:?}");
    assert!(counted[1].contains("\"op\":\"ack\",\"count\":499,") && counted[1].contains("\"uid\":7"));
    assert!(lines.iter().any(|line| line.contains("\"version\":0")));
    assert_eq!(counts.recorded.load(Ordering::Relaxed), 14);
    assert_eq!(log.recent(12, 100).0.len(), 2);
}

#[test]
fn after_a_failed_sync_the_next_file_has_all_that_was_not_synced() {
    let home = tempfile::tempdir().unwrap();
    let mut chain = Chain::after(Head::EMPTY);
    let entry = Entry::new(WALL, Kind::Audit, Decision::Done, "OK");
    let lines: Vec<String> = (0..4).map(|_| chain.append(&entry)).collect();
    // it takes what is written, and its sync fails
    let broken = std::fs::OpenOptions::new().write(true).open("/dev/null").unwrap();
    let path = home.path().join(file_name(1));
    std::fs::write(&path, "nobody knows what the device has of this").unwrap();
    let open = sink::Open { file: broken, path, synced: 0, new: false };
    let mut sink = sink::Sink::new(home.path(), 1 << 20, 3, Some(open));
    for (seq, line) in (1..).zip(&lines) {
        sink.push(seq, line);
        // a file that cannot be synced can be written to
        assert!(seq > 2 || sink.write().is_ok());
        match seq {
            2 => assert!(sink.sync().is_err() && sink.pending() == lines[0].len() + lines[1].len()),
            4 => sink.sync().unwrap(),
            _ => {}
        }
    }
    assert_eq!((text(home.path()), sink.pending()), (lines.concat(), 0));
    assert_eq!(clean(home.path(), chain.head()), 4);
}

#[test]
fn a_small_ring_keeps_the_newest() {
    let mut ring = Ring::new(1_000);
    for seq in 1..=100 {
        ring.push(seq, &"x".repeat(100));
    }
    let (lines, last) = ring.after(0, usize::MAX);
    assert_eq!((lines.len(), last), (6, 100));
    assert_eq!(ring.after(98, 1), (vec!["x".repeat(100).into()], 99));
    assert_eq!(ring.after(100, 5), (vec![], 100));
    ring.push(101, &"x".repeat(10_000));
    assert_eq!(ring.after(0, 5).0.len(), 1, "one is kept, however long");
}

#[test]
fn a_damaged_key_is_named_and_kept() {
    let home = tempfile::tempdir().unwrap();
    let (first, held) = files::key(home.path(), &SeededEntropy::new(1)).unwrap();
    let again = || files::key(home.path(), &SeededEntropy::new(2));
    assert!(matches!(again(), Err(AuditError::InUse { .. })), "a chain has one writer");
    drop(held);
    assert_eq!(again().unwrap().0, first);
    std::fs::write(home.path().join("key"), "00").unwrap();
    let error = files::key(home.path(), &SeededEntropy::new(1)).unwrap_err().to_string();
    assert!(error.contains("/key: not 64 hex digits"), "{error}");
    assert!(matches!(
        files::key(&home.path().join("key"), &SeededEntropy::new(1)),
        Err(AuditError::Io { .. })
    ));
}
