//! What a provider may send and hold: `encodings`, `limits`.

use super::*;
use ron_core::inflate::Coding;

fn provider(more: &str) -> Result<Provider, Vec<String>> {
    let text = format!("{GITHUB}secrets = [{{ kid = \"a\", env = \"S\" }}]\n{more}\n");
    with_file(&text, &[("S", "hush")], |sources| {
        let told = |found: Vec<Problem>| found.iter().map(ToString::to_string).collect::<Vec<String>>();
        let config = load(sources).map_err(told)?;
        Ok(config.interop.providers[&ProviderName::parse("github").unwrap()].clone())
    })
}

#[test]
fn nothing_compressed_and_no_limits_are_the_default() {
    let github = provider("").unwrap();
    assert!(github.encodings.is_empty());
    let ProviderLimits { rate, max_unverified, unverified_bytes } = github.limits;
    assert_eq!((rate, max_unverified, unverified_bytes), (None, None, None));
}

#[test]
fn what_is_said_is_read() {
    let github = provider(
        "encodings = [\"gzip\", \"zstd\"]\n\
         limits = { max_rps = 50, burst_rps = 70, max_unverified = 3, unverified_bytes = \"2MiB\" }",
    );
    let github = github.unwrap();
    assert_eq!(github.encodings, Coding::ALL);
    let (rps, burst) = github.limits.rate.unwrap();
    assert_eq!((rps.get(), burst.get()), (50, 70));
    let limits = github.limits;
    assert_eq!((limits.max_unverified, limits.unverified_bytes), (Some(3), Some(ByteSize(2 << 20))));
    let (rps, burst) = provider("limits = { max_rps = 5 }").unwrap().limits.rate.unwrap();
    assert_eq!((rps.get(), burst.get()), (5, 5));
}

#[test]
fn what_is_wrong_is_told_with_its_key() {
    for (more, key) in [
        ("encodings = [\"br\"]", "interop.providers.github.encodings"),
        ("encodings = \"gzip\"", "interop.providers.github.encodings"),
        ("limits = { burst_rps = 5 }", "interop.providers.github.limits.burst_rps"),
        ("limits = { max_rps = 0 }", "interop.providers.github.limits.max_rps"),
        ("limits = { max_unverified = 0 }", "interop.providers.github.limits.max_unverified"),
        ("limits = { unverified_bytes = 1 }", "interop.providers.github.limits.unverified_bytes"),
        ("limits = 5", "interop.providers.github.limits"),
    ] {
        let found = provider(more).unwrap_err();
        assert!(found.len() == 1 && found[0].contains(key), "{more}: {found:?}");
    }
}
