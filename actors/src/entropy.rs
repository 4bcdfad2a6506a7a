//! Where the shell gets random bytes: the operating system, or a seed in tests and simulation.

use rand::TryRng;
use rand::rngs::SysRng;
use std::fmt::Debug;

/// A source of random bytes. Handed in, so that a simulation can replay it.
pub trait Entropy: Send + Sync + Debug {
    /// Fills `bytes`.
    ///
    /// # Errors
    /// The operating system gave none. Nothing may be made of `bytes` then.
    fn fill(&self, bytes: &mut [u8]) -> Result<(), NoEntropy>;
}

/// The operating system gave no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gave no random bytes")]
pub struct NoEntropy;

/// The operating system's generator; the only place that asks it.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), NoEntropy> {
        SysRng.try_fill_bytes(bytes).map_err(|_| NoEntropy)
    }
}

/// Bytes that follow from a seed: for tests and simulation, never for a key.
#[derive(Debug)]
pub struct SeededEntropy(std::sync::Mutex<blake3::OutputReader>);

impl SeededEntropy {
    /// The stream of this seed.
    #[must_use]
    pub fn new(seed: u64) -> SeededEntropy {
        SeededEntropy(std::sync::Mutex::new(blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof()))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), NoEntropy> {
        self.0.lock().map_err(|_| NoEntropy)?.fill(bytes);
        Ok(())
    }
}
