//! Every file loads, every wrong key is found, every problem is told at once, and no secret is told at all.

use super::*;
use ron_actors::entropy::SeededEntropy;
use ron_core::ids::ProviderName;
use secrecy::ExposeSecret;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

mod admission;
mod egress;

fn from_env(pairs: &[(&str, &str)]) -> Sources {
    let env = pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    Sources { env, ..Sources::default() }
}

fn load(sources: &Sources) -> Result<Config, Vec<Problem>> {
    Config::load(sources, &NamesOnly)
}

fn problems(sources: &Sources) -> Vec<String> {
    load(sources).expect_err("no problem was found").iter().map(ToString::to_string).collect()
}

/// Loads `text` as a file, with these variables.
fn with_file<T>(text: &str, env: &[(&str, &str)], then: impl FnOnce(&Sources) -> T) -> T {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ron.toml");
    std::fs::write(&path, text).unwrap();
    then(&Sources { file: Some(path), ..from_env(env) })
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

const GITHUB: &str =
    "[interop.providers.github]\nscheme = \"github\"\ntenant = \"acme\"\ntopic = \"github\"\n";

#[test]
fn the_defaults_are_those_of_the_contract() {
    let config = load(&Sources::default()).unwrap();
    assert_eq!(config.interop.bind_addr.to_string(), "0.0.0.0:8080");
    assert_eq!(config.interop.metrics_addr.to_string(), "127.0.0.1:9909");
    assert_eq!(config.mailbox.listen.to_string(), "127.0.0.1:9410");
    assert_eq!(config.mailbox.oap_listen.to_string(), "127.0.0.1:9411");
    assert_eq!(config.mailbox.metrics_addr.to_string(), "127.0.0.1:9600");
    let limits = config.interop.limits;
    assert_eq!(
        (limits.max_conns, limits.max_rps, limits.burst_rps, limits.body_limit.0),
        (512, 500, 250, 1 << 20)
    );
    assert_eq!(config.mailbox.settings.visibility_ms, 5000);
    assert_eq!((config.mailbox.settings.max_attempts, config.mailbox.settings.max_deliveries), (5, 50));
    assert_eq!(
        (config.mailbox.settings.dedup_window_ms, config.mailbox.settings.max_inflight),
        (300_000, 8192)
    );
    assert_eq!(config.auth.max_ttl, Duration::from_secs(30 * 86_400));
    assert_eq!(config.auth.keyring, KeyringAt::File("./data/keyring".into()));
    assert_eq!((config.store.cache, config.store.max_dedup_keys), (ByteSize(16 << 20), 8_000_000));
    assert!(config.store.two_phase_commit && !config.node.amnesia && !config.chaos.enabled);
    assert_eq!(config.node.drain, Duration::from_secs(5));
    assert!(config.interop.providers.is_empty());
}

#[test]
fn every_shipped_file_loads() {
    for name in ["default", "macronode", "micronode", "dev"] {
        let mut sources =
            Sources { file: Some(repository(&format!("config/{name}.toml"))), ..Sources::default() };
        add_dev_secrets(&mut sources.env, &SeededEntropy::new(1)).unwrap();
        let config = load(&sources).unwrap_or_else(|problems| panic!("{name}: {}", report(&problems)));
        assert_eq!(config.node.amnesia, name == "micronode");
    }
    let sources = Sources {
        file: Some(repository("tests/fixtures/config/good.toml")),
        ..from_env(&[("GITHUB_SECRET", "s")])
    };
    assert_eq!(load(&sources).unwrap().interop.providers.len(), 1);
}

#[test]
fn every_key_of_the_contract_is_told_in_the_defaults() {
    let keys = "tls keyring snapshot_dir public_url principals audience verify_tokens signed_only dedup_ttl \
                tolerance_s body_limit encodings burst_rps not_before not_after enforce confirm file egress schemes client_ca";
    for key in keys.split(' ') {
        assert!(DEFAULT.contains(key), "{key}");
    }
    for (variable, _) in layers::OPERATORS_NAMES.iter().filter(|(name, _)| *name != "RUST_LOG") {
        assert!(DEFAULT.contains(variable), "{variable}");
    }
}

#[test]
fn each_wrong_key_is_named_with_its_line_and_the_nearest() {
    type Expect = (&'static str, &'static [(&'static str, usize, &'static str)]);
    let expect: [Expect; 5] = [
        ("node", &[("node.drain", 3, "node.drain_ms")]),
        (
            "interop",
            &[
                ("interop.bind_adr", 2, "interop.bind_addr"),
                ("interop.limits.max_con", 3, "interop.limits.max_conns"),
                ("interop.decompression.ratio", 5, "interop.decompression.max_ratio"),
            ],
        ),
        (
            "provider",
            &[
                ("interop.providers.github.topics", 4, "interop.providers.github.topic"),
                ("interop.providers.github.secret", 6, "interop.providers.github.secrets"),
                ("interop.providers.github.limits.max_rp", 7, "interop.providers.github.limits.max_rps"),
                ("interop.providers.github.secrets.1.envv", 10, "interop.providers.github.secrets.1.env"),
            ],
        ),
        (
            "mailbox",
            &[
                ("mailbox.visibility", 2, "mailbox.visibility_ms"),
                ("mailbox.admission.request", 4, "mailbox.admission.requests"),
            ],
        ),
        (
            "rest",
            &[
                ("auth.ttl", 2, "auth.max_ttl"),
                ("policy.files", 4, "policy.file"),
                ("log.formats", 6, "log.format"),
                ("store.cach", 8, "store.cache"),
                ("metrics.queues", 10, "metrics.max_queues"),
                ("chaos.enable", 12, "chaos.enabled"),
                ("clock.gap", 14, "clock.max_gap"),
                ("mailboxes", 15, "mailbox"),
            ],
        ),
    ];
    for (name, expect) in expect {
        let file = repository(&format!("tests/fixtures/config/bad-{name}.toml"));
        let sources = Sources { file: Some(file.clone()), ..from_env(&[("GITHUB_SECRET", "hidden")]) };
        let found = load(&sources).unwrap_err();
        let unknown: Vec<&Problem> = found.iter().filter(|problem| problem.text == "unknown key").collect();
        assert_eq!(unknown.len(), expect.len(), "{}", report(&found));
        for (key, line, nearest) in expect {
            let problem = unknown.iter().find(|problem| problem.key == *key);
            let problem = problem.unwrap_or_else(|| panic!("{key} in {}", report(&found)));
            assert_eq!(problem.place, format!("{}:{line}", file.display()));
            assert_eq!(problem.hint.as_deref(), Some(format!("nearest known: {nearest}").as_str()));
        }
        let text = report(&found);
        assert!(!text.contains("top-secret-value") && !text.contains("hidden"), "{text}");
    }
}

#[test]
fn variables_are_the_last_layer() {
    let text = "[interop.limits]\nmax_conns = 7\nmax_rps = 7\n[log]\nlevel = \"warn\"\n";
    let env = [
        ("SVC_INTEROP_BIND_ADDR", "127.0.0.1:0"),
        ("SVC_INTEROP_METRICS_ADDR", "127.0.0.1:1"),
        ("SVC_INTEROP_MAX_CONNS", "9"),
        ("SVC_INTEROP_BURST_RPS", "11"),
        ("MAILBOX_LISTEN", "[::1]:0"),
        ("METRICS_ADDR", "127.0.0.1:2"),
        ("AMNESIA", "on"),
        ("RUST_LOG", "debug"),
        ("RON_MAILBOX__MAX_ATTEMPTS", "3"),
        ("RON_MAILBOX__ADMISSION__BYTES", "2MiB"),
        ("RON_STORE__CACHE", "4194304"),
        ("RON_INTEROP__BROWNOUT__ERROR_RATE_5M", "0.5"),
        ("RON_NODE__DATA_DIR", "007"),
        ("RON_INTEROP__PROVIDERS__GITHUB__SCHEME", "github"),
        ("RON_INTEROP__PROVIDERS__GITHUB__TENANT", "7"),
        ("RON_INTEROP__PROVIDERS__GITHUB__TOPIC", "t"),
        ("RON_INTEROP__PROVIDERS__GITHUB__SECRETS", "[{kid=\"2026\", env=\"S\"}]"),
        ("S", "hush"),
        ("SVC_INTEROP_SERVICE_HOST", "10.0.0.1"),
        ("RON_SERVICE_HOST", "10.0.0.1"),
        ("NODE_EXTRA_CA_CERTS", "x"),
    ];
    let config =
        with_file(text, &env, |sources| load(sources).map_err(|problems| report(&problems)).unwrap());
    let limits = config.interop.limits;
    assert_eq!((limits.max_conns, limits.max_rps, limits.burst_rps), (9, 7, 11));
    assert_eq!(config.interop.bind_addr.port(), 0);
    assert_eq!(config.interop.metrics_addr.port(), 1);
    assert_eq!(config.mailbox.listen.to_string(), "[::1]:0");
    assert_eq!(config.mailbox.metrics_addr.port(), 2);
    assert!(config.node.amnesia);
    assert_eq!(config.auth.keyring, KeyringAt::Memory);
    assert_eq!(config.log.level, "debug");
    assert_eq!(config.mailbox.settings.max_attempts, 3);
    assert_eq!(config.mailbox.admission.bytes, ByteSize(2 << 20));
    assert_eq!(config.store.cache, ByteSize(4 << 20));
    assert!((config.interop.brownout.error_rate_5m - 0.5).abs() < 1e-9);
    assert_eq!(config.node.data_dir, Path::new("007"), "text stays text");
    let github = &config.interop.providers[&ProviderName::parse("github").unwrap()];
    assert_eq!(github.tenant.as_str(), "7");
    assert_eq!((github.secrets[0].kid.as_str(), github.secrets[0].value.expose_secret()), ("2026", "hush"));
}

#[test]
fn every_problem_is_told_at_once() {
    let text = r#"[node]
drain_ms = "5s"
profile = "mega"
[interop]
limits = 5
[mailbox]
listen = "here"
visibility_ms = 1
tls = { cert = "a" }
[auth]
cap_cache_ttl = 30
[store]
cache = "16MB"
[log]
format = "xml"
[interop.brownout]
error_rate_5m = 2
[interop.providers.g]
scheme = "gihtub"
topic = "T"
enabled = "yes"
"#;
    let env = [
        ("RON_INTEROP__MAX_CONNS", "5"),
        ("RON_LOG__LEVEL", "a=b=c"),
        ("AMNESIA", "maybe"),
        ("RON_STOER__CACHE", "1MiB"),
        ("RON___X", "1"),
    ];
    let found = with_file(text, &env, |sources| {
        let file = sources.file.clone().unwrap().display().to_string();
        problems(sources).into_iter().map(|line| line.replace(&file, "ron.toml")).collect::<Vec<_>>()
    });
    let expect = [
        "ron.toml:2: node.drain_ms: must be a whole number (milliseconds, 0 to 600000)",
        "ron.toml:3: node.profile: must be \"macronode\" or \"micronode\"",
        "ron.toml:5: interop.limits: must be a table",
        "ron.toml:7: mailbox.listen: must be an IP address and port, as 127.0.0.1:9410",
        "ron.toml:8: mailbox.visibility_ms: must be a whole number (milliseconds, 250 to 43200000)",
        "ron.toml:9: mailbox.tls.key: is missing: cert and key go together",
        "ron.toml:11: auth.cap_cache_ttl: must be a duration as \"30s\" or \"250ms\" (0ms to 30s)",
        "ron.toml:13: store.cache: must be a size as",
        "ron.toml:15: log.format: must be \"json\" or \"pretty\"",
        "ron.toml:17: interop.brownout.error_rate_5m: must be a number from 0 to 1",
        "ron.toml:19: interop.providers.g.scheme: names no scheme that ships or is in [interop.schemes]\n    \
         nearest known: github",
        "ron.toml:20: interop.providers.g.topic: must be a topic",
        "ron.toml:21: interop.providers.g.enabled: must be true or false",
        "ron.toml:18: interop.providers.g.tenant: is missing",
        "variable RON_INTEROP__MAX_CONNS: interop.max_conns: unknown key\n    nearest known: RON_",
        "variable RON_LOG__LEVEL: log.level: must be a filter",
        "variable AMNESIA: node.amnesia: must be on or off",
        "variable RON_STOER__CACHE: stoer.cache: unknown key\n    \
         nearest known: RON_STORE__CACHE (store.cache)",
        "variable RON___X: ",
    ];
    for expected in expect {
        assert!(found.iter().any(|line| line.contains(expected)), "{expected}\nnot in\n{}", found.join("\n"));
    }
    assert_eq!(found.len(), expect.len(), "{}", found.join("\n"));
}

#[test]
fn a_file_that_cannot_be_read_is_a_problem() {
    let missing = from_env(&[("RON_CONFIG", "/nowhere/ron.toml"), ("RON_LOG__FORMAT", "xml")]);
    let found = problems(&missing);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("RON_CONFIG /nowhere/ron.toml: cannot be read"), "{found:?}");
    let flag = Sources { file: Some("/nowhere/x.toml".into()), ..Sources::default() };
    assert!(problems(&flag)[0].starts_with("--config /nowhere/x.toml"));
    let found = with_file("[node]\na = \"b\nsecret = hunter2", &[], problems);
    assert!(found[0].contains("ron.toml:2: is not TOML") && !found[0].contains("hunter2"), "{found:?}");
    let twice = with_file("[log]\nformat = \"json\"\nformat = \"json\"", &[], problems);
    assert!(twice[0].contains("ron.toml:3: is not TOML"), "{twice:?}");
}

#[test]
fn secrets_are_fetched_and_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    std::fs::write(&path, "hunter2\n\n").unwrap();
    let text = format!(
        "{GITHUB}secrets = [{{ kid = \"a\", env = \"ONE\" }}, {{ kid = \"b\", file = \"{}\", \
         not_after = 2026-12-01T00:00:00Z }}]",
        path.display()
    );
    let config = with_file(&text, &[("ONE", "hunter1\n")], |sources| load(sources).unwrap());
    let secrets = &config.interop.providers[&ProviderName::parse("github").unwrap()].secrets;
    assert_eq!(secrets[0].value.expose_secret(), "hunter1\n");
    assert_eq!(secrets[1].value.expose_secret(), "hunter2\n", "exactly one newline is lost");
    assert_eq!((secrets[0].not_after_unix_s, secrets[1].not_after_unix_s), (None, Some(1_796_083_200)));
    let shown = format!("{config:?} {}", config.effective_toml());
    assert!(!shown.contains("hunter"), "{shown}");
    assert!(config.effective_toml().contains("env = \"ONE\""));
}

#[test]
fn missing_and_empty_secrets_stop_the_boot() {
    for (secrets, env, expect) in [
        ("[]", "x", "must hold at least one"),
        ("[{ kid = \"a\", env = \"UNSET\" }]", "x", "a variable that is not set: UNSET"),
        ("[{ kid = \"a\", env = \"ONE\" }]", "", "holds an empty secret"),
        ("[{ kid = \"a\", file = \"/nowhere/s\" }]", "x", "a file that cannot be read: entity not found"),
        ("[{ kid = \"a\", file = \"/dev/null\" }]", "x", "holds an empty secret"),
        ("[{ kid = \"a\" }]", "x", "exactly one of them"),
        ("[{ kid = \"a\", env = \"ONE\", file = \"x\" }]", "x", "exactly one of them"),
        ("[{ kid = \"A\", env = \"ONE\" }]", "x", "must be a key id"),
        ("[{ env = \"ONE\" }]", "x", "kid: is missing"),
        ("[{ kid = \"a\", env = \"ONE\" }, { kid = \"a\", env = \"ONE\" }]", "x", "two with the same kid"),
        ("[{ kid = \"a\", env = \"ONE\", not_after = \"soon\" }]", "x", "must be a time"),
        (
            "[{ kid = \"a\", env = \"ONE\", not_before = 2026-12-01T00:00:01Z, not_after = 2026-12-01T00:00:00Z }]",
            "x",
            "must not be before not_before",
        ),
        ("\"hunter2\"", "x", "must be a list of tables"),
        ("[{ kid = \"a\", env = \"hunter2\" }]", "x", "a variable that is not set"),
        ("[{ kid = \"a\", file = \"hunter2\" }]", "x", "a file that cannot be read"),
    ] {
        let text = format!("{GITHUB}secrets = {secrets}");
        let found = with_file(&text, &[("ONE", env)], problems).join("\n");
        assert!(found.contains(expect) && !found.contains("hunter2"), "{secrets}: {found}");
        let disabled = format!("{GITHUB}enabled = false\nsecrets = [{{ kid = \"a\", env = \"UNSET\" }}]");
        assert!(with_file(&disabled, &[], |sources| load(sources).is_ok()));
    }
}

#[test]
fn a_bad_provider_name_is_one_problem() {
    let text =
        GITHUB.replace("providers.github", "providers.GitHub") + "secrets = [{ kid = \"a\", env = \"S\" }]";
    let found = with_file(&text, &[("S", "s")], problems);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("ron.toml:1: interop.providers.GitHub: must be named"), "{found:?}");
}

struct Fussy;

impl SchemeCheck for Fussy {
    fn shipped(&self) -> Vec<String> {
        vec!["github".into()]
    }

    fn scheme(&self, name: &str, text: &toml::Value) -> Result<(), String> {
        if text.get("header").is_some() { Ok(()) } else { Err(format!("{name}: header is missing")) }
    }

    fn provider(
        &self,
        _: &ProviderName,
        provider: &Provider,
        own: &toml::Table,
    ) -> Result<(), (&'static str, String)> {
        match &provider.public_url {
            None if own.contains_key(&provider.scheme) => {
                Err(("public_url", "is what the scheme signs".into()))
            }
            _ => Ok(()),
        }
    }
}

#[test]
fn schemes_of_ones_own_are_handed_to_the_catalogue() {
    let text = r#"[interop.schemes.mine]
header = "X-Sig"
timestamp = { header = "T", unit = "s" }
[interop.schemes.broken]
prefix = "x"
[interop.providers.p]
scheme = "mine"
tenant = "a"
topic = "t"
secrets = [{ kid = "k", env = "S" }]
"#;
    let found = with_file(text, &[("S", "s")], |sources| Config::load(sources, &Fussy).unwrap_err());
    let found = report(&found);
    assert!(found.contains("ron.toml:4: interop.schemes.broken: broken: header is missing"), "{found}");
    assert!(found.contains("interop.providers.p.public_url: is what the scheme signs"), "{found}");
    let config = with_file(
        &text.replace("[interop.schemes.broken]\nprefix", "[interop.schemes.broken]\nheader"),
        &[("S", "s")],
        |sources| load(sources).unwrap(),
    );
    assert_eq!(config.interop.schemes["mine"]["timestamp"]["unit"].as_str(), Some("s"));
}

#[test]
fn the_profile_decides_the_defaults_and_gives_way_to_the_file() {
    let flag = Sources { profile: Some("micronode".into()), ..Sources::default() };
    let config = load(&flag).unwrap();
    assert!(config.node.amnesia && config.node.profile == Profile::Micronode);
    assert_eq!(config.interop.limits.max_conns, 64);
    let key = "[node]\nprofile = \"micronode\"\n[interop.limits]\nmax_conns = 99\n";
    let config = with_file(key, &[("AMNESIA", "off")], |sources| load(sources).unwrap());
    assert!(
        !config.node.amnesia && config.interop.limits.max_conns == 99 && config.interop.limits.max_rps == 50
    );
    let variable = load(&from_env(&[("RON_NODE__PROFILE", "micronode")])).unwrap();
    assert!(variable.node.amnesia);
    let unknown = Sources { profile: Some("nano".into()), ..Sources::default() };
    assert!(problems(&unknown)[0].starts_with("flag --profile: node.profile: must be"));
}

#[test]
fn amnesia_refuses_what_would_write() {
    let text = "[node]\namnesia = true\n[auth]\nkeyring = \"k\"\n[store]\nsnapshot_dir = \"s\"\n";
    let found = with_file(text, &[], problems).join("\n");
    assert!(
        found.contains("auth.keyring: cannot be a file") && found.contains("store.snapshot_dir: cannot"),
        "{found}"
    );
    let mount = load(&from_env(&[("AMNESIA", "on"), ("RON_KEYRING", "/run/keyring")])).unwrap();
    assert_eq!(mount.auth.keyring, KeyringAt::Mount("/run/keyring".into()));
}

#[test]
fn dev_is_loopback_with_samples_and_a_directory_of_its_own() {
    let mut sources = Sources { dev: true, ..Sources::default() };
    let secrets = add_dev_secrets(&mut sources.env, &SeededEntropy::new(3)).unwrap();
    let mut config = load(&sources).map_err(|problems| report(&problems)).unwrap();
    assert_eq!(config.interop.providers.len(), 6);
    assert!(config.interop.bind_addr.ip().is_loopback() && config.log.format == LogFormat::Pretty);
    for secret in &secrets {
        let provider = &config.interop.providers[&ProviderName::parse(secret.provider).unwrap()];
        let same = provider.secrets[0].value.expose_secret() == secret.signs_with.expose_secret();
        assert_eq!(same, secret.provider != "discord");
    }
    assert!(config.wants_temporary_data_dir);
    config.set_data_dir("/tmp/x".into());
    assert_eq!(config.auth.keyring, KeyringAt::File("/tmp/x/keyring".into()));

    sources.env.insert("RON_NODE__DATA_DIR".into(), "mine".into());
    sources.env.insert("RON_DEV_SECRET_GITHUB".into(), "given".into());
    let secrets = add_dev_secrets(&mut sources.env, &SeededEntropy::new(3)).unwrap();
    assert_eq!(secrets[0].signs_with.expose_secret(), "given");
    assert!(!load(&sources).unwrap().wants_temporary_data_dir);
    sources.env.insert("MAILBOX_LISTEN".into(), "0.0.0.0:9410".into());
    assert!(
        problems(&sources)[0].contains("variable MAILBOX_LISTEN: mailbox.listen: must be a loopback address")
    );
}

#[test]
fn listeners_may_not_share_a_port() {
    let found = problems(&from_env(&[("MAILBOX_LISTEN", "127.0.0.1:8080")]));
    assert!(found[0].contains("mailbox.listen: takes the port of interop.bind_addr"), "{found:?}");
    let zeros: Vec<(&str, &str)> =
        ["SVC_INTEROP_BIND_ADDR", "SVC_INTEROP_METRICS_ADDR", "MAILBOX_LISTEN", "METRICS_ADDR"]
            .iter()
            .map(|name| (*name, "127.0.0.1:0"))
            .collect();
    assert!(load(&from_env(&zeros)).is_ok());
}

#[test]
fn what_is_printed_loads_to_the_same() {
    let sources = from_env(&[
        ("RON_STORE__CACHE", "3MiB"),
        ("AMNESIA", "off"),
        ("RON_MAILBOX__MAX_ATTEMPTS", "9"),
        ("RON_STORE__TWO_PHASE_COMMIT", "false"),
        ("RON_INTEROP__BROWNOUT__ERROR_RATE_5M", "1"),
    ]);
    let before = load(&sources).unwrap();
    let text = before.effective_toml();
    let after = with_file(&text, &[], |sources| load(sources).map_err(|problems| report(&problems)).unwrap());
    assert!(after.store.cache == ByteSize(3 << 20) && !after.store.two_phase_commit);
    assert_eq!(after.mailbox.settings, before.mailbox.settings);
    let parsed = |text: &str| toml::from_str::<BTreeMap<String, toml::Value>>(text).unwrap();
    assert_eq!(parsed(&after.effective_toml()), parsed(&text));
}

#[test]
fn check_says_what_boot_would_say() {
    let good = Sources { profile: Some("micronode".into()), ..Sources::default() };
    let text = check_report(&good, &NamesOnly).unwrap();
    assert_eq!(
        text,
        "configuration ok: built-in defaults, profile micronode, amnesia on, 0 of 0 providers enabled\n"
    );
    let bad = from_env(&[("RON_LOG__FORMAT", "xml")]);
    let text = check_report(&bad, &NamesOnly).unwrap_err();
    assert_eq!(
        text,
        "configuration: 1 problem\n  variable RON_LOG__FORMAT: log.format: must be \"json\" or \"pretty\"\n"
    );
}
