//! The test vectors of the schemes in use, run at boot (SPEC §7): a node that would judge them wrongly does not start.

use crate::schemes::Catalogue;
use ron_core::scheme::SchemeSpec;
use ron_core::scheme::vectors::Vector;

/// Published vectors, and our own for what nobody publishes.
const VECTORS: &[&str] =
    &[include_str!("../tests/vectors/webhooks.json"), include_str!("../tests/vectors/own.json")];

/// Runs the vectors of these shipped schemes; how many there were.
///
/// # Errors
/// A vector that is judged otherwise than it says, by its name.
pub fn prove(names: &[&str]) -> Result<usize, String> {
    let schemes: Vec<(String, SchemeSpec)> = Catalogue::specs()?;
    let mut run = 0;
    for text in VECTORS {
        let all: Vec<Vector> =
            serde_json::from_str(text).map_err(|error| format!("test vectors: {error}"))?;
        for vector in all {
            let Some((name, spec)) = vector.choose(&schemes) else { continue };
            if !names.contains(&name.as_str()) {
                continue;
            }
            let scheme = vector.fit(spec).compile(name);
            let scheme = scheme.map_err(|_| format!("scheme {name} does not compile for {}", vector.id))?;
            let outcome = vector.run(&scheme).map_err(|error| format!("{}: {error}", vector.id))?;
            if (outcome.got, outcome.reason) != (vector.expected, vector.reason.as_deref()) {
                return Err(format!("scheme {name} judges test vector {} wrongly", vector.id));
            }
            run += 1;
        }
    }
    Ok(run)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schemes::SHIPPED;

    #[test]
    fn every_shipped_scheme_is_proven() {
        let names: Vec<&str> = SHIPPED.iter().map(|(name, _)| *name).collect();
        assert!(prove(&names).unwrap() >= 445);
        for name in &names {
            assert!(prove(&[name]).unwrap() >= 4, "{name}");
        }
        assert_eq!(prove(&[]), Ok(0));
    }
}
