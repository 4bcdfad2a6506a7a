//! Who may import whom, and who may name which library.

use crate::{assert_clean, files};

/// A crate of ours: its directory, its name, and which of ours it may name.
const CRATES: [(&str, &str, &[&str]); 8] = [
    ("actors/core/", "ron_core", &[]),
    ("actors/", "ron_actors", &["ron_core"]),
    ("benches/", "ron_benches", &["ron_core", "ron_actors"]),
    ("chaos/checker/", "ron_checker", &[]),
    ("chaos/history/", "ron_history", &[]),
    ("sdk/rust/", "ron_client", &["ron_core"]),
    ("chaos/", "ron_chaos", &["ron_core", "ron_actors", "ron_node", "ron_history"]),
    ("", "ron_node", &["ron_core", "ron_actors", "ron_client"]),
];

/// The crate a file belongs to. The inner directories come first in the list.
fn crate_of(path: &str) -> (&'static str, &'static str, &'static [&'static str]) {
    *CRATES.iter().find(|(dir, _, _)| path.starts_with(dir)).expect("the last one fits all")
}

#[test]
fn crates_import_only_along_the_arrows() {
    let mut wrong = Vec::new();
    for (path, tokens) in files::tokens() {
        let (_, name, may) = crate_of(path);
        for (_, other, _) in CRATES {
            if other == name || may.contains(&other) {
                continue;
            }
            let lines = files::find(tokens, &[other, ":", ":"]);
            wrong.extend(lines.iter().map(|line| format!("{path}:{line}: {name} must not know {other}")));
        }
    }
    assert_clean(&wrong);
}

#[test]
fn manifests_depend_only_along_the_arrows() {
    let mut wrong = Vec::new();
    for (dir, name, may) in CRATES {
        let path = format!("{dir}Cargo.toml");
        let manifest: toml::Table = toml::from_str(&files::read(&path)).expect("a manifest");
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(table) = manifest.get(section).and_then(toml::Value::as_table) else { continue };
            for dependency in table.keys().map(|key| key.replace('-', "_")) {
                if dependency.starts_with("ron_") && !may.contains(&dependency.as_str()) {
                    wrong.push(format!("{path}: {name} must not depend on {dependency}"));
                }
            }
        }
    }
    assert_clean(&wrong);
}

/// Libraries that only some rooms may name: the library, then where it may be named.
const LIBRARIES: [(&str, &[&str]); 18] = [
    ("redb", &["actors/src/store/", "actors/tests/", "chaos/src/", "chaos/tests/"]),
    ("metrics", &["src/metrics.rs", "src/metrics/"]),
    ("metrics_exporter_prometheus", &["src/metrics.rs", "src/metrics/"]),
    ("axum", &["src/", "tests/"]),
    // what is described, and by whom: the types that read requests
    ("utoipa", &["src/http/dto", "src/http/openapi", "src/http/graphql.rs"]),
    ("async_graphql", &["src/http/graphql", "fuzz/targets/graphql_document.rs"]),
    ("hyper", &["src/", "chaos/src/drill/", "sdk/rust/", "tests/"]),
    ("rustls", &["src/tls/", "sdk/rust/", "tests/"]),
    // one reading of a URL: what was judged is what is connected to
    ("url", &["actors/core/src/egress/ssrf/"]),
    ("figment", &["src/config/"]),
    ("clap", &["src/process.rs", "src/bin/ronctl/", "chaos/"]),
    // "SHA-256 (and SHA-1 …) only at the edge": the keys of a scheme; the senders' side of demo and drills signs
    ("sha2", &["actors/core/src/scheme/", "src/bin/ronctl/sender.rs", "chaos/checker/src/sign.rs", "tests/"]),
    ("sha1", &["actors/core/src/scheme/", "src/bin/ronctl/sender.rs", "chaos/checker/src/sign.rs", "tests/"]),
    ("hmac", &["actors/core/src/scheme/", "src/bin/ronctl/sender.rs", "chaos/checker/src/sign.rs", "tests/"]),
    ("ruzstd", &["actors/core/src/oap/", "actors/core/src/inflate/tests.rs", "tests/"]),
    // what strangers compressed is opened in one place, under its bounds
    ("miniz_oxide", &["actors/core/src/inflate/"]),
    ("ractor", &["actors/", "src/", "chaos/src/", "tests/"]),
    ("tokio", &["actors/src/", "actors/tests/", "src/", "chaos/src/", "chaos/tests/", "sdk/rust/", "tests/"]),
];

#[test]
fn libraries_are_named_only_where_they_belong() {
    let mut wrong = Vec::new();
    for (path, tokens) in files::tokens() {
        for (library, rooms) in LIBRARIES {
            let in_core =
                path.starts_with("actors/core/") && !rooms.iter().any(|room| room.contains("core/"));
            if rooms.iter().any(|room| path.starts_with(room)) && !in_core {
                continue;
            }
            let uses = tokens.windows(4).filter(|window| {
                // a path that begins with the name; `crate::metrics::…` is a module of ours
                let [before, name, one, two] = window else { return false };
                before.text != ":" && name.text == library && one.text == ":" && two.text == ":"
            });
            wrong.extend(uses.map(|window| format!("{path}:{}: names {library}", window[1].line)));
        }
    }
    assert_clean(&wrong);
}

#[test]
fn the_core_depends_on_nothing_that_acts() {
    let manifest: toml::Table = toml::from_str(&files::read("actors/core/Cargo.toml")).expect("a manifest");
    let table = manifest["dependencies"].as_table().expect("a table");
    for forbidden in ["tokio", "ractor", "redb", "axum", "rand", "tracing", "metrics", "rustix", "getrandom"]
    {
        assert!(!table.contains_key(forbidden), "ron-core must not depend on {forbidden}");
    }
}

/// Only at the edge, and never stored: one file of the product does arithmetic with foreign hashes.
#[test]
fn foreign_hashes_stay_at_the_edge() {
    let mut wrong = Vec::new();
    for (path, tokens) in files::production() {
        let sender = path == "src/bin/ronctl/sender.rs";
        if sender || path.starts_with("chaos/") || path == "actors/core/src/scheme/key.rs" {
            continue;
        }
        for name in ["sha1", "sha2", "Sha1", "Sha256", "Sha512", "md5"] {
            for line in files::find(tokens, &[name]) {
                wrong.push(format!("{path}:{line}: names {name}; inside, everything is BLAKE3"));
            }
        }
    }
    assert_clean(&wrong);
}

/// A release build has no planted bugs because nobody but the drills asks for the feature.
#[test]
fn only_the_drills_ask_for_planted_bugs() {
    let mut asking = Vec::new();
    for (dir, name, _) in CRATES {
        if files::read(&format!("{dir}Cargo.toml")).contains("planted-bugs") {
            asking.push(name);
        }
    }
    assert_eq!(asking, ["ron_core", "ron_chaos"], "the one that has it, and the one that may ask for it");
}
