//! One gzip member (RFC 1952): strict about what stands around the deflate stream, since two decoders that
//! read one body differently are how a filter is passed. Nothing follows the member, its checksum and length
//! are right, no reserved flag is set, and its header is short.

use super::{BadBody, Bounds};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};
use std::ops::Range;

/// Deflate's window; output is written into it in a circle, and given from it.
const WINDOW_BYTES: usize = 32 * 1024;
/// The header may have names, comments and extra fields of this length together; senders of webhooks write
/// none.
const HEAD_BYTES_MAX: usize = 1024;
/// The ratio is judged where the wire reaches a multiple of this, so that it does not matter how it was cut.
const STEP_BYTES: usize = 256;

const BROKEN_HEAD: BadBody = BadBody::Broken("not a gzip header");
const FHCRC: u8 = 2;
const FEXTRA: u8 = 4;
const FNAME: u8 = 8;
const FCOMMENT: u8 = 16;
const RESERVED: u8 = 0xe0;

/// What the next bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The ten bytes that every header has: how many of them were read.
    Fixed(usize),
    /// How long the extra field is, low byte first; the bytes read so far.
    ExtraLen(usize, usize),
    /// So many bytes of the extra field.
    Extra(usize),
    /// Text up to a zero.
    Name,
    Comment,
    /// The low half of the header's CRC-32; the bytes read so far.
    HeadSum(usize, u16),
    Deflate,
    /// CRC-32 and length; the bytes read so far.
    Trailer(usize, u64),
    Over,
}

/// The decoder of one member.
pub(super) struct Gunzip {
    phase: Phase,
    flags: u8,
    head_sum: crc32fast::Hasher,
    inflate: Box<DecompressorOxide>,
    window: Box<[u8]>,
    /// Where the next byte goes in the window.
    at: usize,
    /// The window was full, and more may come out without more going in.
    more: bool,
    sum: crc32fast::Hasher,
    wire: usize,
    made: usize,
}

impl std::fmt::Debug for Gunzip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Gunzip { phase, wire, made, .. } = self;
        write!(f, "Gunzip {{ phase: {phase:?}, wire: {wire}, made: {made} }}")
    }
}

impl Gunzip {
    pub(super) fn new() -> Gunzip {
        Gunzip {
            phase: Phase::Fixed(0),
            flags: 0,
            head_sum: crc32fast::Hasher::new(),
            inflate: Box::default(),
            window: vec![0; WINDOW_BYTES].into_boxed_slice(),
            at: 0,
            more: false,
            sum: crc32fast::Hasher::new(),
            wire: 0,
            made: 0,
        }
    }

    /// See [`super::Inflate::take`].
    pub(super) fn take(&mut self, wire: &mut &[u8], bounds: Bounds) -> Result<&[u8], BadBody> {
        while !wire.is_empty() || self.more {
            let made = match self.phase {
                Phase::Deflate => self.deflated(wire, bounds)?,
                _ => {
                    let Some((byte, rest)) = wire.split_first() else { break };
                    *wire = rest;
                    self.wire += 1;
                    self.around(*byte)?;
                    continue;
                }
            };
            if !made.is_empty() {
                return Ok(&self.window[made]);
            }
        }
        Ok(&[])
    }

    pub(super) fn end(&self) -> Result<(), BadBody> {
        match self.phase {
            Phase::Over => Ok(()),
            _ => Err(BadBody::Broken("the gzip stream is cut off")),
        }
    }

    /// Inflates up to the next step; where in the window the piece is.
    fn deflated(&mut self, wire: &mut &[u8], bounds: Bounds) -> Result<Range<usize>, BadBody> {
        let step = STEP_BYTES - self.wire % STEP_BYTES;
        let input = &wire[..wire.len().min(step)];
        let (status, took, made) =
            decompress(&mut self.inflate, input, &mut self.window, self.at, TINFL_FLAG_HAS_MORE_INPUT);
        // until the step's end the ratio is judged by its end, which a whole step would reach
        let step_end = self.wire + step;
        *wire = &wire[took..];
        self.wire += took;
        self.made += made;
        bounds.judge(self.made, step_end)?;
        let piece = self.at..self.at + made;
        self.sum.update(&self.window[piece.clone()]);
        self.at = (self.at + made) % WINDOW_BYTES;
        self.more = status == TINFLStatus::HasMoreOutput;
        match status {
            TINFLStatus::Done => {
                bounds.judge(self.made, self.wire)?;
                self.phase = Phase::Trailer(0, 0);
            }
            TINFLStatus::HasMoreOutput | TINFLStatus::NeedsMoreInput => {}
            _ => return Err(BadBody::Broken("its deflate stream is damaged")),
        }
        Ok(piece)
    }

    /// One byte of what stands before and after the deflate stream.
    fn around(&mut self, byte: u8) -> Result<(), BadBody> {
        if let Phase::Trailer(read, value) = self.phase {
            return self.trailer(read, value | u64::from(byte) << (8 * read));
        }
        if self.phase == Phase::Over {
            return Err(BadBody::Broken("something follows the gzip member; only one is accepted"));
        }
        if self.wire > HEAD_BYTES_MAX {
            return Err(BadBody::Broken("its gzip header is over 1024 bytes"));
        }
        if !matches!(self.phase, Phase::HeadSum(..)) {
            self.head_sum.update(&[byte]);
        }
        self.phase = match self.phase {
            Phase::Fixed(read) => {
                let known = match read {
                    0 => byte == 0x1f,
                    1 => byte == 0x8b,
                    2 => byte == 8,
                    3 => {
                        self.flags = byte;
                        byte & RESERVED == 0
                    }
                    // time, hint of the level, system: whatever they are
                    _ => true,
                };
                match (known, read) {
                    (false, _) => return Err(BROKEN_HEAD),
                    (true, 9) => self.field_from(FEXTRA),
                    (true, _) => Phase::Fixed(read + 1),
                }
            }
            Phase::ExtraLen(0, _) => Phase::ExtraLen(1, usize::from(byte)),
            Phase::ExtraLen(_, low) => match low | usize::from(byte) << 8 {
                0 => self.field_from(FNAME),
                len => Phase::Extra(len),
            },
            Phase::Extra(1) => self.field_from(FNAME),
            Phase::Extra(left) => Phase::Extra(left - 1),
            Phase::Name if byte == 0 => self.field_from(FCOMMENT),
            Phase::Comment if byte == 0 => self.field_from(FHCRC),
            Phase::HeadSum(0, _) => Phase::HeadSum(1, u16::from(byte)),
            Phase::HeadSum(_, low) => {
                let said = low | u16::from(byte) << 8;
                if u32::from(said) != self.head_sum.clone().finalize() & 0xffff {
                    return Err(BROKEN_HEAD);
                }
                Phase::Deflate
            }
            same @ (Phase::Name | Phase::Comment | Phase::Deflate | Phase::Trailer(..) | Phase::Over) => same,
        };
        Ok(())
    }

    /// The first field from `flag` on that the header has. They come in this order.
    fn field_from(&self, flag: u8) -> Phase {
        let order = [
            (FEXTRA, Phase::ExtraLen(0, 0)),
            (FNAME, Phase::Name),
            (FCOMMENT, Phase::Comment),
            (FHCRC, Phase::HeadSum(0, 0)),
        ];
        let from = order.iter().skip_while(|(field, _)| *field != flag);
        from.clone().find(|(field, _)| self.flags & field != 0).map_or(Phase::Deflate, |(_, phase)| *phase)
    }

    fn trailer(&mut self, read: usize, value: u64) -> Result<(), BadBody> {
        if read < 7 {
            self.phase = Phase::Trailer(read + 1, value);
            return Ok(());
        }
        let (sum, len) = (value & 0xffff_ffff, value >> 32);
        if sum != u64::from(self.sum.clone().finalize()) {
            return Err(BadBody::Broken("its gzip checksum is wrong"));
        }
        if len != self.made as u64 & 0xffff_ffff {
            return Err(BadBody::Broken("its gzip length is wrong"));
        }
        self.phase = Phase::Over;
        Ok(())
    }
}
