//! Bodies that come compressed (RFC 9110 §8.4): inflated piece by piece, under a ratio and an absolute bound.
//!
//! Whoever sends them is not known yet, so nothing is taken on trust: at no point may more have come out than
//! [`Bounds::bytes_max`], nor, past [`GRACE_BYTES`], more than [`Bounds::max_ratio`] times what went in. What
//! is wrong is found at the same byte however the wire cut the stream. One layer is opened; what is in it
//! stays as it is.

mod gzip;
#[cfg(test)]
mod tests;

use crate::oap::{BadComp, INFLATED_BYTES_MAX, inflate as unzstd};
use crate::reason::{Reason, Refusal};
use gzip::Gunzip;

/// What may come out before the ratio is judged: a short body of one repeated word is no bomb, and a bomb of
/// this size is none either.
pub const GRACE_BYTES: usize = 64 * 1024;

/// Content codings that are known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Coding {
    /// RFC 1952, one member.
    Gzip,
    /// RFC 8878, one frame without a dictionary, its window at most 8 MiB.
    Zstd,
}

impl Coding {
    /// All of them.
    pub const ALL: [Coding; 2] = [Coding::Gzip, Coding::Zstd];

    /// As `Content-Encoding` and the configuration name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Coding::Gzip => "gzip",
            Coding::Zstd => "zstd",
        }
    }

    /// The coding of this name in any case; `x-gzip` is `gzip` (RFC 9110 §8.4.1.3).
    #[must_use]
    pub fn parse(name: &str) -> Option<Coding> {
        let name = if name.eq_ignore_ascii_case("x-gzip") { "gzip" } else { name };
        Coding::ALL.into_iter().find(|coding| coding.name().eq_ignore_ascii_case(name))
    }
}

/// How far a body may inflate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes that come out over bytes that went in, once more than [`GRACE_BYTES`] came out.
    pub max_ratio: u32,
    /// Bytes that come out, at most.
    pub bytes_max: usize,
}

impl Bounds {
    /// What `wire` bytes may become.
    #[must_use]
    pub fn allowed(&self, wire: usize) -> usize {
        wire.saturating_mul(self.max_ratio as usize).max(GRACE_BYTES).min(self.bytes_max)
    }

    /// Whether `made` bytes may have come out of `wire`.
    fn judge(&self, made: usize, wire: usize) -> Result<(), BadBody> {
        if made > self.allowed(wire) { Err(self.over(wire)) } else { Ok(()) }
    }

    /// Which of the two bounds `wire` bytes meet first.
    fn over(&self, wire: usize) -> BadBody {
        match self.allowed(wire) == self.bytes_max {
            true => BadBody::Size(self.bytes_max),
            false => BadBody::Ratio(self.max_ratio),
        }
    }
}

/// Why a body is not inflated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadBody {
    /// More came out than a message may have.
    #[error("the body inflates to more than {0} bytes")]
    Size(usize),
    /// It grows too much.
    #[error("the body inflates to more than {0} times what was sent (interop.decompression.max_ratio)")]
    Ratio(u32),
    /// It is not one whole stream of its coding.
    #[error("the compressed body is broken: {0}")]
    Broken(&'static str),
}

impl From<BadBody> for Refusal {
    fn from(bad: BadBody) -> Refusal {
        let reason = match bad {
            BadBody::Size(_) | BadBody::Ratio(_) => Reason::DecompLimit,
            BadBody::Broken(_) => Reason::Malformed,
        };
        Refusal::new(reason, bad.to_string())
    }
}

/// A body on its way in: takes wire bytes as they come, gives pieces of what was in them.
#[derive(Debug)]
pub struct Inflate {
    bounds: Bounds,
    decoder: Decoder,
}

#[derive(Debug)]
enum Decoder {
    Gzip(Gunzip),
    /// Its decoder wants whole blocks, so the wire bytes wait for the end: there are never more of them than
    /// a body may have.
    Zstd {
        wire: Vec<u8>,
        out: Vec<u8>,
    },
}

impl Inflate {
    /// The decoder of a body that has not begun.
    #[must_use]
    pub fn new(coding: Coding, bounds: Bounds) -> Inflate {
        let decoder = match coding {
            Coding::Gzip => Decoder::Gzip(Gunzip::new()),
            Coding::Zstd => Decoder::Zstd { wire: Vec::new(), out: Vec::new() },
        };
        Inflate { bounds, decoder }
    }

    /// Takes bytes from the front of `wire` and gives the next piece of what was in them, at most 32 KiB; an
    /// empty one says that all of `wire` was taken.
    ///
    /// # Errors
    /// [`BadBody`]; what came out by then is not to be used.
    pub fn take(&mut self, wire: &mut &[u8]) -> Result<&[u8], BadBody> {
        match &mut self.decoder {
            Decoder::Gzip(gunzip) => gunzip.take(wire, self.bounds),
            Decoder::Zstd { wire: kept, .. } => {
                kept.extend_from_slice(std::mem::take(wire));
                Ok(&[])
            }
        }
    }

    /// How many bytes [`Inflate::end`] may give and need beside those that were taken: what to make room for
    /// before.
    #[must_use]
    pub fn end_bytes(&self) -> usize {
        match &self.decoder {
            Decoder::Gzip(_) => 0,
            Decoder::Zstd { wire, .. } => self.bounds.allowed(wire.len()),
        }
    }

    /// The wire has ended: gives what was not given yet.
    ///
    /// # Errors
    /// [`BadBody`].
    pub fn end(&mut self) -> Result<&[u8], BadBody> {
        match &mut self.decoder {
            Decoder::Gzip(gunzip) => gunzip.end().map(|()| &[][..]),
            Decoder::Zstd { wire, out } => {
                *out = frame(wire, self.bounds)?;
                Ok(out)
            }
        }
    }
}

/// One zstd frame. It is stopped at what the bounds leave, which tells a bomb from a body a block later at
/// most.
fn frame(wire: &[u8], bounds: Bounds) -> Result<Vec<u8>, BadBody> {
    let allowed = bounds.allowed(wire.len());
    unzstd(wire, allowed.min(INFLATED_BYTES_MAX)).map_err(|bad| match bad {
        BadComp::Broken => BadBody::Broken("not one whole zstd frame without a dictionary"),
        BadComp::TooLong => bounds.over(wire.len()),
    })
}
