//! The only place that asks the operating system for random bytes: for keys and for the spread of pauses.

use rand::TryRng;
use rand::rngs::SysRng;
use std::io;

/// Fresh random bytes.
///
/// # Errors
/// If the system gives none.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    SysRng.try_fill_bytes(&mut bytes).map_err(|_| io::Error::other("the system gave no random bytes"))?;
    Ok(bytes)
}

/// A number that spreads pauses; without entropy it spreads nothing, and nothing else is lost.
pub(crate) fn spread() -> u64 {
    random().map_or(0, u64::from_le_bytes)
}
