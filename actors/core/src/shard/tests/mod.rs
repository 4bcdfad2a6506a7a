//! Tests of the state machine: a property test against a plain model, and cases worth spelling out.

mod broken;
mod cases;
mod cover;
mod disk;
mod drive;
mod expect;
mod held;
mod model;
mod msg;
mod revive;
mod rng;
mod seen;
mod streams;

use cover::Coverage;

/// Sequences of the property test.
const SEQUENCES: u64 = 29_000;

#[test]
fn behaves_like_the_model() {
    let mut coverage = Coverage::default();
    if let Some(seed) = std::env::var("SHARD_SEED").ok().and_then(|text| text.parse().ok()) {
        drive::run(seed, &mut coverage);
        return;
    }
    for seed in 0..SEQUENCES {
        let outcome =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drive::run(seed, &mut coverage)));
        assert!(outcome.is_ok(), "the sequence above fails; run it alone with SHARD_SEED={seed}");
    }
    coverage.assert_complete();
}
