//! What may not be written, and where time and randomness may be asked for.

use crate::{assert_clean, files};
use std::collections::BTreeSet;

#[test]
fn nothing_is_left_to_do_and_nothing_gives_up() {
    let forbidden: [&[&str]; 6] = [
        &[".", "unwrap", "("],
        &[".", "expect", "("],
        &["todo", "!"],
        &["unimplemented", "!"],
        &["dbg", "!"],
        &["panic", "!"],
    ];
    let mut wrong = Vec::new();
    for (path, tokens) in files::production() {
        for pattern in forbidden {
            let lines = files::find(tokens, pattern);
            wrong.extend(lines.iter().map(|line| format!("{path}:{line}: {}", pattern.concat())));
        }
    }
    assert_clean(&wrong);
}

/// Where the operating system may be asked for the time or for random bytes.
const CLOCKS: [&str; 14] = [
    "actors/src/kernel/clock.rs",
    "actors/src/entropy.rs",
    "sdk/rust/src/entropy.rs",
    "src/bin/ronctl/ambient.rs",
    "chaos/checker/src/clock.rs",
    // how long a commit took, for a metric
    "actors/src/store/cell.rs",
    // the runtime's own clock, which a test can pause: deadlines of bodies, latencies of requests
    "src/http/body.rs",
    "src/http/passed.rs",
    "src/http/door.rs",
    "src/oap/puts.rs",
    // a real node is measured from outside; the simulator next door gets no clock
    "chaos/src/drill/",
    // how long requests took, for the metrics
    "src/oap/conn.rs",
    // the runtime's clock, paused: what simulated lives count from
    "chaos/src/sim/life.rs",
    // a disk that takes its time over a sync
    "chaos/src/bin/lying_node.rs",
];

#[test]
fn time_and_randomness_are_arguments() {
    let forbidden: [&[&str]; 6] = [
        &["Instant", ":", ":", "now"],
        &["SystemTime", ":", ":", "now"],
        &["thread", ":", ":", "sleep"],
        &["rand", ":", ":", "rng"],
        &["SysRng"],
        &["OsRng"],
    ];
    let mut wrong = Vec::new();
    for (path, tokens) in files::production() {
        if CLOCKS.iter().any(|room| path.starts_with(room)) {
            continue;
        }
        for pattern in forbidden {
            let lines = files::find(tokens, pattern);
            wrong.extend(lines.iter().map(|line| format!("{path}:{line}: {}", pattern.concat())));
        }
    }
    assert_clean(&wrong);
}

/// Unfinished work is an issue, not a comment.
#[test]
fn no_comment_promises_anything() {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:"), concat!("HA", "CK")];
    let mut wrong = Vec::new();
    for path in files::rust() {
        for (at, line) in files::read(&path).lines().enumerate() {
            if let Some(mark) = marks.iter().find(|mark| line.contains(**mark)) {
                wrong.push(format!("{path}:{}: {mark}", at + 1));
            }
        }
    }
    assert_clean(&wrong);
}

/// A path of the machine that built it means nothing to anybody else.
#[test]
fn no_file_names_this_checkout_or_a_home() {
    let root = files::root().to_str().expect("a path in UTF-8");
    let home = std::env::var("HOME").ok().filter(|home| home.len() > 1).map(|home| format!("{home}/"));
    let mut wrong = Vec::new();
    for path in files::all() {
        let Ok(text) = std::fs::read_to_string(files::root().join(&path)) else { continue };
        for (at, line) in text.lines().enumerate() {
            let named = home.as_deref().is_some_and(|home| line.contains(home));
            if named || (root.len() > 8 && line.contains(root)) {
                wrong.push(format!("{path}:{}: {}", at + 1, line.trim()));
            }
        }
    }
    assert_clean(&wrong);
}

/// A bug that is nowhere would never be found; one without a name would not compile in the builds that have bugs.
#[test]
fn every_planted_bug_has_a_place_and_a_name() {
    const HOME: &str = "actors/core/src/planted.rs";
    let home = files::read(HOME);
    let listed = home.split_once("\nbugs! {").and_then(|(_, rest)| rest.split_once("\n}")).expect("a list").0;
    let names = listed.lines().filter_map(|line| line.trim().strip_suffix(','));
    let named: BTreeSet<&str> = names.filter(|name| name.chars().all(char::is_alphanumeric)).collect();
    assert!(named.len() >= 20, "{named:?}");
    let mut planted = BTreeSet::new();
    for path in files::rust().iter().filter(|path| path.starts_with("actors/") && *path != HOME) {
        let text = files::read(path);
        let names = text.split("::planted!(").skip(1).filter_map(|rest| rest.split_once(')'));
        planted.extend(names.map(|(name, _)| name.to_owned()));
    }
    let planted: BTreeSet<&str> = planted.iter().map(String::as_str).collect();
    let lost: Vec<String> = named.symmetric_difference(&planted).map(|name| (*name).to_owned()).collect();
    assert_clean(&lost);
}
