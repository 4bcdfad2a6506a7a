//! A configuration that is wrong stops the boot with 78 and every problem.

use crate::harness::{Provider, Setup};

#[test]
fn every_problem_is_listed_with_its_place() {
    let setup = Setup::new()
        .toml("max_inflght = 1\nvisibility_ms = \"soon\"\n[nods]\nx = 1\n[log]\nformat = \"xml\"\n")
        .toml("[interop.providers.hub]\nscheme = \"githob\"\ntenant = \"ACME\"\ntopic = \"t\"\n")
        .toml("secrets = [{ kid = \"k\", env = \"NOT_SET\" }]\n")
        .env("RON_NODE__DRAIN", "5")
        .env("RON_MAILBOX__MAX_ATTEMPTS", "many")
        .env("AMNESIA", "perhaps")
        .env("SVC_INTEROP_MAX_CONNS", "0");
    let (code, said) = setup.run_to_end();
    assert_eq!(code, 78, "{said}");
    let file = setup.config_file().display().to_string();
    for part in [
        "mailbox.max_inflght", // with the nearest known key, its file and line
        "max_inflight",
        &format!("{file}:10"),
        "mailbox.visibility_ms",
        "nods",
        "log.format",
        "interop.providers.hub.scheme",
        "github",
        "interop.providers.hub.tenant",
        "NOT_SET",
        "RON_NODE__DRAIN",
        "drain_ms",
        "RON_MAILBOX__MAX_ATTEMPTS",
        "AMNESIA",
        "SVC_INTEROP_MAX_CONNS",
    ] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
    assert!(!setup.data_dir().exists(), "nothing is made");
}

#[test]
fn what_stops_a_boot() {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ron-node"));
    let output = command.env_clear().env("RON_CONFIG", "/nonexistent/node.toml").output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent/node.toml"));

    let github = Provider::new("github", "github");
    for (setup, said) in [
        (Setup::new().toml("[node\n"), "TOML"),
        (Setup::new().arg("--profile").arg("meganode"), "profile"),
        (github.add_to(Setup::new(), "github", "").env("SECRET_GITHUB", ""), "secret"),
        (
            github.add_to(Setup::new(), "standard_webhooks", "").env("SECRET_GITHUB", "not base64!"),
            "interop.providers.github.secrets",
        ),
        (Setup::new().env("RON_MAILBOX__LISTEN", "localhost"), "mailbox.listen"),
        (Setup::new().env("RON_LOG__LEVEL", "a=b=c"), "log.level"),
        (Setup::new().arg("--dev").env("SVC_INTEROP_BIND_ADDR", "0.0.0.0:0"), "interop.bind_addr"),
        (Setup::new().env("RON_AUTH__KEYRING", "/dev/null/keyring"), "keyring"),
    ] {
        let (code, text) = setup.run_to_end();
        assert_eq!(code, 78, "{said}: {text}");
        assert!(text.contains(said) && !text.contains("panicked"), "{said} is not in:\n{text}");
    }
}

#[test]
fn the_environment_wins_over_the_file() {
    let setup = Setup::new()
        .toml("visibility_ms = 1000\nmax_attempts = 3\n")
        .env("RON_MAILBOX__VISIBILITY_MS", "2000");
    let node = setup.start();
    let client = node.mailbox();
    client.call("POST", "/v1/acme/t/enqueue", &[], b"x").json(200);
    let settings = client.get("/v1/acme/t").json(200)["settings"].clone();
    assert_eq!(
        (settings["visibility_ms"].as_u64(), settings["max_attempts"].as_u64()),
        (Some(2000), Some(3))
    );
}
