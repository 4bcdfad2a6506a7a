use super::*;
use crate::capability::CapId;
use crate::ids::{CorrId, Kid, ProviderName, Tenant, Topic};
use crate::time::Millis;
use proptest::prelude::*;

const AT: Millis = Millis(1_795_000_000_123);

fn entry(n: u64) -> Entry {
    let mut entry = Entry::new(Millis(AT.0 + n), Kind::Webhook, Decision::Allow, OK);
    entry.corr_id = CorrId::parse("order-1234");
    entry.req_id = Some(u128::from(n));
    entry.provider = Some(ProviderName::parse("github").unwrap());
    entry.tenant = Some(Tenant::parse("acme").unwrap());
    entry.kid = Some(Kid::parse("2026-11").unwrap());
    entry.content = Some(content(&[7; 32], b"{}"));
    entry
}

/// A chain of `n` records as lines, without their ends, and its head.
fn chain(n: u64) -> (Vec<Vec<u8>>, Head) {
    let mut chain = Chain::after(Head::EMPTY);
    let lines = (0..n).map(|n| chain.append(&entry(n)).trim_end().as_bytes().to_vec()).collect();
    (lines, chain.head())
}

fn faults(lines: &[Vec<u8>], head: Option<Head>) -> Vec<Fault> {
    let mut verifier = Verifier::new(head);
    let at = |line: usize| Place { file: "a.jsonl", line: line as u64 };
    let mut all: Vec<Fault> =
        lines.iter().enumerate().filter_map(|(n, line)| verifier.line(at(n + 1), line)).collect();
    all.extend(verifier.end(at(lines.len())));
    all
}

#[test]
fn a_line_has_its_members_in_order_and_its_hash_can_be_recomputed() {
    let mut chain = Chain::after(Head::EMPTY);
    let mut full = entry(0);
    full.cap_id = CapId::parse("00112233aabbccdd");
    full.more = More {
        step: Some("STALE"),
        op: Some("recv".into()),
        topic: Some(Topic::parse("orders").unwrap()),
        msg_id: None,
        skew_ms: Some(-5),
        unsigned_decided: true,
        id_conflict: true,
        shadow: true,
        version: Some(3),
        count: Some(2),
        since: Some(AT),
        uid: Some(1000),
        pid: Some(42),
        ip: Some("::1".parse().unwrap()),
        detail: Some("\"quoted\"".to_owned()),
    };
    chain.dropped(4);
    let line = chain.append(&full);
    assert!(line.ends_with("\"}\n") && line.len() < LINE_BYTES_MAX);
    let names: Vec<&str> = line.split("\",\"").flat_map(|part| part.split(",\"")).collect();
    let names: Vec<&str> = names.iter().filter_map(|part| part.split("\":").next()).collect();
    let order = [
        "{\"v",
        "seq",
        "ts",
        "corr_id",
        "req_id",
        "kind",
        "provider",
        "tenant",
        "cap_id",
        "kid",
        "content",
        "decision",
        "reason",
        "step",
        "op",
        "topic",
        "skew_ms",
        "unsigned_decided",
        "id_conflict",
        "shadow",
        "version",
        "count",
        "since",
        "uid",
        "pid",
        "ip",
        "detail",
        "dropped",
        "prev",
        "hash",
    ];
    assert_eq!(names, order, "{line}");
    let (body, tail) = line.split_once(",\"hash\":").unwrap();
    let hash = blake3::hash(format!("{body}}}").as_bytes());
    assert_eq!(tail, format!("\"b3:{hash}\"}}\n"), "the line without its hash, its brace kept");
    let zero = format!("\"prev\":\"b3:{}\"", "0".repeat(64));
    assert!(body.contains(&zero) && body.contains("\"dropped\":4"));
    assert!(body.contains("\"ts\":\"2026-11-18T"));
    let next = chain.append(&entry(1));
    assert!(next.contains(&format!("\"prev\":\"b3:{hash}\"")) && !next.contains("dropped"));
}

#[test]
fn what_no_request_caused_has_no_ids_and_what_is_long_is_cut() {
    let long = format!("{}\u{7}\u{1f980}", "x".repeat(DETAIL_CHARS_MAX - 2));
    let entry = Entry::new(AT, Kind::Audit, Decision::Done, OK).detail(&format!("{long}more"));
    let line = Chain::after(Head::EMPTY).append(&entry);
    assert!(line.contains("\"corr_id\":\"-\",\"req_id\":\"-\",\"kind\":\"audit\",\"decision\":\"done\""));
    assert!(line.contains("x\u{fffd}\u{1f980}\"") && line.len() < LINE_BYTES_MAX, "{line}");
}

#[test]
fn a_head_is_written_and_read() {
    let (_, head) = chain(3);
    assert_eq!(Head::parse(&head.to_string()), Ok(head));
    assert_eq!(Head::EMPTY.to_string(), format!("0:b3:{}", "0".repeat(64)));
    let hash = head.hash_text();
    for bad in ["", "3", "3:", &hash, &format!("+3:{hash}"), &format!(":{hash}"), &format!("3:{hash}0")] {
        assert!(Head::parse(bad).is_err(), "{bad}");
    }
    assert!(Head::parse(&format!("3:{}", hash.to_uppercase())).is_err());
}

#[test]
fn each_way_to_tamper_is_named_with_its_place() {
    let (lines, head) = chain(6);
    assert_eq!(faults(&lines, Some(head)), []);
    assert_eq!(faults(&lines[2..], Some(head)), [], "the oldest may have been rotated out");
    let only = |lines: &[Vec<u8>], head: Option<Head>, line: u64, what: What| {
        let all = faults(lines, head);
        assert_eq!(all, [Fault { file: "a.jsonl".to_owned(), line, what }]);
        assert!(all[0].to_string().starts_with(&format!("a.jsonl:{line}: ")), "{}", all[0]);
    };
    let mut removed = lines.clone();
    removed.remove(2);
    only(&removed, Some(head), 3, What::Order { expected: 3, found: 4 });
    let mut doubled = lines.clone();
    doubled.insert(3, lines[2].clone());
    only(&doubled, Some(head), 4, What::Order { expected: 4, found: 3 });
    let mut changed = lines.clone();
    changed[1] = String::from_utf8(lines[1].clone()).unwrap().replace("allow", "deny!").into_bytes();
    only(&changed, Some(head), 2, What::Hash { seq: 2 });
    let mut grown = lines.clone();
    grown[4].insert(0, b' ');
    only(&grown, Some(head), 5, What::Hash { seq: 5 });
    only(&lines[..4], Some(head), 4, What::CutTail { head, last: 4 });
    only(&lines[..0], Some(head), 0, What::CutTail { head, last: 0 });
    only(&lines[4..], Some(chain(2).1), 2, What::TooOld { head: chain(2).1, first: 5 });
    let other = Head { seq: 6, hash: [1; 32] };
    only(&lines, Some(other), 6, What::OtherHistory { head: other });
    // a record of another chain, with a number that fits
    let mut foreign = Chain::after(Head { seq: 3, hash: [9; 32] });
    let mut replaced = lines.clone();
    replaced[3] = foreign.append(&entry(3)).trim_end().as_bytes().to_vec();
    let all: Vec<What> = faults(&replaced, Some(head)).into_iter().map(|fault| fault.what).collect();
    assert_eq!(all, [What::Prev { seq: 4 }, What::Prev { seq: 5 }]);
    // the first record of all follows nothing
    let first = Chain::after(Head { seq: 0, hash: [9; 32] }).append(&entry(0));
    only(&[first.trim_end().as_bytes().to_vec()], None, 1, What::Prev { seq: 1 });
}

#[test]
fn what_is_no_record_is_said_to_be_none() {
    let newer = "{\"v\":2,\"seq\":1,\"prev\":\"\"";
    let hash = blake3::hash(format!("{newer}}}").as_bytes());
    let newer = format!("{newer},\"hash\":\"b3:{hash}\"}}").into_bytes();
    assert_eq!(faults(&[newer], None)[0].what, What::Version(2));
    let tail = format!(",\"hash\":\"b3:{}\"}}", "0".repeat(64));
    for bad in ["", "{}", "x", &tail, &format!("\u{e9}{tail}"), &format!("{}{tail}", "[".repeat(200))] {
        let what = faults(&[bad.as_bytes().to_vec()], None)[0].what.clone();
        assert!(matches!(what, What::NotARecord(_)), "{bad}: {what}");
    }
    assert!(matches!(faults(&[vec![0xff; 200]], None)[0].what, What::NotARecord("not UTF-8")));
}

#[test]
fn a_file_that_says_which_record_is_its_first_cannot_lose_it() {
    let (lines, _) = chain(4);
    let mut verifier = Verifier::new(None);
    verifier.begins_with(1);
    let at = Place { file: "a", line: 1 };
    assert_eq!(verifier.line(at, &lines[1]).unwrap().what, What::Order { expected: 1, found: 2 });
    verifier.begins_with(9);
    assert_eq!(verifier.line(at, &lines[2]), None, "only of the first file");
    assert_eq!((verifier.summary().first, verifier.summary().records), (2, 2));
}

#[test]
fn a_summary_counts_what_is_not_there() {
    let mut chain = Chain::after(Head::EMPTY);
    let mut verifier = Verifier::new(None);
    chain.dropped(2);
    chain.dropped(3);
    let mut counted = entry(1);
    counted.more.count = Some(10);
    for line in [chain.append(&entry(0)), chain.append(&counted)] {
        assert_eq!(verifier.line(Place { file: "a", line: 1 }, line.trim_end().as_bytes()), None);
    }
    let summary = Summary { records: 2, first: 1, head: chain.head(), dropped: 5, counted: 9 };
    assert_eq!(verifier.summary(), summary);
}

#[test]
fn strangers_are_recorded_up_to_so_many_a_second_and_counted_beyond() {
    let mut folder = Folder::new(2);
    let mut take = |now: u64, reason| folder.take(Millis(now), Millis(AT.0 + now), Kind::Webhook, reason);
    assert!(take(5_000, "UNAUTH") && take(5_500, "UNAUTH"));
    assert!(!take(5_600, "UNAUTH") && !take(5_900, "SIGNATURE_INVALID") && !take(5_999, "UNAUTH"));
    assert!(take(6_000, "UNAUTH") && take(6_001, "UNAUTH") && !take(6_999, "UNAUTH"));
    let fold =
        |reason, count, since| Fold { kind: Kind::Webhook, reason, count, since: Millis(AT.0 + since) };
    assert_eq!(folder.due(), [fold("UNAUTH", 3, 5_600), fold("SIGNATURE_INVALID", 1, 5_900)]);
    assert_eq!(folder.due(), []);
}

#[test]
fn uses_are_recorded_once_and_counted_once_a_minute() {
    let mut tally = Tally::new(2, 60_000);
    let mut add = |key: u8, n: u64, now: u64| tally.add(&key, n, Millis(now), Millis(AT.0 + now));
    assert!(add(1, 5, 0), "the first is recorded; it stands for one");
    assert!(!add(1, 10, 59_999) && add(2, 1, 30_000));
    assert!(!add(3, 7, 30_000) && !add(3, 1, 40_000), "no room: counted together");
    let spent = |count, since| Spent { count, since: Millis(AT.0 + since) };
    assert_eq!(tally.due(Millis(59_999), false), []);
    assert_eq!(tally.due(Millis(60_000), false), [(Some(1), spent(14, 0))]);
    assert_eq!(
        tally.due(Millis(90_000), false),
        [(None, spent(8, 30_000))],
        "2 was used once, and is forgotten"
    );
    assert!(!tally.add(&1, 1, Millis(100_000), AT) && tally.add(&2, 1, Millis(100_000), AT));
    assert_eq!(
        tally.due(Millis(100_001), true),
        [(Some(1), Spent { count: 1, since: AT })],
        "at the end all"
    );
    assert_eq!(tally.due(Millis(200_000), false), []);
    assert!(tally.add(&1, 1, Millis(200_001), AT), "after a minute without use the next is a first one");
}

#[test]
fn a_usage_says_who_and_what() {
    let cap = Who::Cap(CapId::parse("00112233aabbccdd").unwrap(), Kid::parse("k").unwrap());
    let tenant = Tenant::parse("acme").ok();
    let mut usage = Usage { who: cap, op: "recv", tenant, topic: Topic::parse("t").ok(), refused: None };
    let line = |usage: &Usage, spent: Spent| Chain::after(Head::EMPTY).append(&usage.counted(AT, spent));
    let spent = Spent { count: 12, since: AT };
    let text = line(&usage, spent);
    for part in [
        "\"kind\":\"api\",\"tenant\":\"acme\",\"cap_id\":\"00112233aabbccdd\",\"kid\":\"k\"",
        "\"decision\":\"allow\",\"reason\":\"OK\",\"op\":\"recv\",\"topic\":\"t\",\"count\":12,\"since\":\"2026",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    (usage.who, usage.refused) = (Who::Local { uid: 5, pid: None }, Some("SCOPE_MISMATCH"));
    let text = line(&usage, spent);
    assert!(
        text.contains("\"decision\":\"deny\",\"reason\":\"SCOPE_MISMATCH\"") && text.contains("\"uid\":5")
    );
}

#[test]
fn a_body_is_named_by_a_key() {
    assert_ne!(content(&[1; 32], b"x"), content(&[2; 32], b"x"));
    assert_ne!(content(&[1; 32], b"x"), *blake3::hash(b"x").as_bytes());
    assert_eq!(content(&[1; 32], b"x"), content(&[1; 32], b"x"));
}

proptest! {
    /// Whatever single byte is changed, something is wrong at its line or the next.
    #[test]
    fn a_changed_byte_is_found(n in 1_u64..8, at in any::<prop::sample::Index>(), flip in 1_u8..=255) {
        let (lines, head) = chain(n);
        let whole = lines.join(&b'\n');
        let at = at.index(whole.len());
        let mut changed = whole.clone();
        changed[at] ^= flip;
        let lines: Vec<Vec<u8>> = changed.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        let line = whole[..at].iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
        let found = faults(&lines, Some(head));
        prop_assert!(found.iter().any(|fault| (line..=line + 1).contains(&fault.line)), "{:?}", found);
    }

    /// Removed, doubled and swapped lines are found without a head, but for those at the two ends.
    #[test]
    fn a_moved_line_is_found(
        n in 3_usize..9,
        one in any::<prop::sample::Index>(),
        other in any::<prop::sample::Index>(),
    ) {
        let (lines, _) = chain(n as u64);
        let (one, other) = (one.index(n), other.index(n));
        let mut removed = lines.clone();
        removed.remove(one);
        prop_assert_eq!(faults(&removed, None).is_empty(), one == 0 || one == n - 1);
        let mut doubled = lines.clone();
        doubled.insert(other, lines[one].clone());
        prop_assert!(!faults(&doubled, None).is_empty());
        let mut swapped = lines.clone();
        swapped.swap(one, other);
        prop_assert_eq!(faults(&swapped, None).is_empty(), one == other);
    }

    /// With a head, every cut is found; without one, none can be.
    #[test]
    fn a_cut_tail_is_found_with_the_head(n in 1_usize..9, keep in any::<prop::sample::Index>()) {
        let (lines, head) = chain(n as u64);
        let keep = keep.index(n);
        let found = faults(&lines[..keep], Some(head));
        prop_assert_eq!(found.len(), 1);
        let cut = matches!(found[0].what, What::CutTail { .. });
        prop_assert!(cut);
        prop_assert_eq!(faults(&lines[..keep], None), vec![]);
        // a head that was noted earlier is met on the way
        prop_assert_eq!(faults(&lines, Some(chain(keep as u64).1)), vec![]);
    }

    /// Whatever an entry says, its line is one line, and verifies.
    #[test]
    fn no_entry_is_too_odd_for_its_line(detail in ".{0,400}", reason in "[A-Z_]{1,20}") {
        let reason: &'static str = Box::leak(reason.into_boxed_str());
        let odd = Entry::new(AT, Kind::Operator, Decision::Failed, reason).detail(&detail);
        let mut chain = Chain::after(Head::EMPTY);
        let line = chain.append(&odd);
        prop_assert!(line.len() <= LINE_BYTES_MAX && line.matches('\n').count() == 1);
        prop_assert_eq!(faults(&[line.trim_end().as_bytes().to_vec()], Some(chain.head())), vec![]);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        prop_assert_eq!(value["detail"].as_str().unwrap(), cut(&detail));
    }
}
