//! The bomb corpus, made bit by bit from RFC 1951, 1952 and 8878: no library that the node uses has a hand in
//! it.

use crate::http::{Answer, Client, Failure, Request};

/// A body that must be refused.
#[derive(Debug, Clone)]
pub struct Bomb {
    /// What it is.
    pub name: &'static str,
    /// `Content-Encoding`.
    pub coding: &'static str,
    /// As sent.
    pub body: Vec<u8>,
    /// The status and reason that it must get.
    pub refusal: (u16, &'static str),
}

/// Writes bits as deflate wants them, the lowest first.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    held: u32,
    count: u32,
}

impl Bits {
    fn put(&mut self, value: u32, count: u32) {
        for at in 0..count {
            self.held |= (value >> at & 1) << self.count;
            self.count += 1;
            if self.count == 8 {
                self.bytes.push(self.held.to_le_bytes()[0]);
                (self.held, self.count) = (0, 0);
            }
        }
    }

    fn end(mut self) -> Vec<u8> {
        if self.count > 0 {
            self.bytes.push(self.held.to_le_bytes()[0]);
        }
        self.bytes
    }
}

/// `1 + 258 * repeats` zeros, two bits for each 258 of them: 1032:1, as far as deflate goes (RFC 1951 §3.2.7).
fn deflated_zeros(repeats: u32) -> Vec<u8> {
    let mut bits = Bits::default();
    bits.put(0b101, 3); // last block, dynamic codes
    bits.put(286 - 257, 5);
    bits.put(0, 5); // one distance code
    bits.put(18 - 4, 4); // lengths of 18 code length codes, in their order: 16 17 18 0 … 2 14 1
    for symbol in [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1] {
        let length = match symbol {
            18 => 1,
            1 | 2 => 2,
            _ => 0,
        };
        bits.put(length, 3);
    }
    // their codes, first bit first: 18 is 0, 1 is 10, 2 is 11
    let zeros = |bits: &mut Bits, n: u32| {
        bits.put(0, 1);
        bits.put(n - 11, 7);
    };
    bits.put(0b11, 2); // a zero: length 2
    zeros(&mut bits, 138);
    zeros(&mut bits, 117);
    bits.put(0b11, 2); // end of block: length 2
    zeros(&mut bits, 28);
    bits.put(0b01, 2); // a match of 258: length 1
    bits.put(0b01, 2); // the distance 1: length 1
    // and the codes they make: 0 is the match, 10 the zero, 11 the end; 0 is the distance
    bits.put(0b01, 2);
    for _ in 0..repeats {
        bits.put(0, 2);
    }
    bits.put(0b11, 2);
    bits.end()
}

/// CRC-32 (RFC 1952 §8), a byte at a time.
fn crc32(bytes: impl Iterator<Item = u8>) -> u32 {
    let mut table = [0u32; 256];
    for (n, entry) in (0u32..).zip(table.iter_mut()) {
        *entry = (0..8).fold(n, |c, _| if c & 1 == 1 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 });
    }
    !bytes.fold(u32::MAX, |sum, byte| table[usize::from(sum.to_le_bytes()[0] ^ byte)] ^ sum >> 8)
}

/// A gzip member around a deflate stream.
fn member(flags: u8, fields: &[u8], deflated: &[u8], sum: u32, len: u32) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, flags, 0, 0, 0, 0, 2, 255];
    out.extend_from_slice(fields);
    out.extend_from_slice(deflated);
    out.extend_from_slice(&sum.to_le_bytes());
    out.extend_from_slice(&len.to_le_bytes());
    out
}

fn gzip_zeros(repeats: u32) -> Vec<u8> {
    let len = 1 + 258 * repeats;
    let sum = crc32((0..len).map(|_| 0));
    member(0, &[], &deflated_zeros(repeats), sum, len)
}

/// A gzip member around stored blocks: as long as what is in it.
fn gzip_stored(flags: u8, fields: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut deflated = Vec::new();
    let mut chunks = plain.chunks(65_535).peekable();
    while let Some(chunk) = chunks.next() {
        deflated.push(u8::from(chunks.peek().is_none()));
        let len = u16::try_from(chunk.len()).unwrap_or(u16::MAX);
        deflated.extend_from_slice(&len.to_le_bytes());
        deflated.extend_from_slice(&(!len).to_le_bytes());
        deflated.extend_from_slice(chunk);
    }
    let len = u32::try_from(plain.len()).unwrap_or(u32::MAX);
    member(flags, fields, &deflated, crc32(plain.iter().copied()), len)
}

/// `blocks` times 128 KiB of a byte, in four bytes each (RFC 8878 §3.1.1.2): over 30,000:1.
fn zstd_runs(blocks: u32) -> Vec<u8> {
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0x38]; // no length is told; a window of 128 KiB
    for block in 1..=blocks {
        let head = 131_072u32 << 3 | 1 << 1 | u32::from(block == blocks);
        out.extend_from_slice(&head.to_le_bytes()[..3]);
        out.push(0);
    }
    out
}

/// The corpus, for a provider that takes gzip and zstd.
#[must_use]
pub fn corpus() -> Vec<Bomb> {
    let zeros = gzip_zeros(260_000); // 64 MiB in 65 KB
    let good = gzip_stored(0, &[], b"{\"small\":1}");
    let bomb = |name, coding, body, refusal| Bomb { name, coding, body, refusal };
    let (limit, broken) = ((400, "DECOMP_LIMIT"), (400, "MALFORMED"));
    let (unread, forged) = ((415, "UNSUPPORTED_ENCODING"), (401, "SIGNATURE_INVALID"));
    let flipped = |at_end: usize| {
        let mut body = good.clone();
        let at = body.len() - at_end;
        body[at] ^= 1;
        body
    };
    let long_extra = [&[0xff, 0xff], &vec![0; 65_535][..]].concat();
    let huge_window = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0xf8, 1, 0, 0];
    vec![
        bomb("64 MiB in 65 KB of gzip", "gzip", zeros.clone(), limit),
        bomb("256 MiB in 8 KB of zstd", "zstd", zstd_runs(2_048), limit),
        bomb("zstd with a window of 2 TiB", "zstd", huge_window, limit),
        bomb("gzip in gzip: one layer is opened", "gzip", gzip_stored(0, &[], &zeros), forged),
        bomb("gzip, gzip", "gzip, gzip", gzip_stored(0, &[], &zeros), unread),
        bomb("a coding that is not allowed", "br", zeros, unread),
        bomb("an extra field of 64 KiB", "gzip", gzip_stored(4, &long_extra, b"{}"), broken),
        bomb("a name of 2 KB", "gzip", gzip_stored(8, &[&[b'n'; 2_000][..], &[0]].concat(), b"{}"), broken),
        bomb("two members", "gzip", [&good[..], &good].concat(), broken),
        bomb("bytes after the member", "gzip", [&good[..], b"\0\0"].concat(), broken),
        bomb("cut off", "gzip", good[..good.len() - 9].to_vec(), broken),
        bomb("a wrong CRC", "gzip", flipped(8), broken),
        bomb("a wrong length", "gzip", flipped(1), broken),
        bomb("not compressed at all", "gzip", b"{\"plain\":true}".to_vec(), broken),
        bomb("over the limit", "identity", vec![b'x'; (1 << 20) + 1], (413, "BODY_LIMIT")),
        bomb("as long as allowed, forged", "identity", vec![b'x'; 1 << 20], forged),
        bomb("small and sound, forged", "gzip", good, forged),
    ]
}

/// Sends a bomb to `/webhooks/github`, with headers that look right and a signature that is not.
///
/// # Errors
/// As [`Client::call`].
pub fn throw(client: &mut Client, bomb: &Bomb) -> Result<Answer, Failure> {
    let signature = format!("sha256={}", "0".repeat(64));
    let headers = [
        ("X-GitHub-Event", "push"),
        ("X-GitHub-Delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958"),
        ("X-Hub-Signature-256", signature.as_str()),
        ("Content-Type", "application/json"),
        ("Content-Encoding", bomb.coding),
    ];
    client.call(&Request { method: "POST", path: "/webhooks/github", headers: &headers, body: &bomb.body })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    /// What `program -dc` makes of it, cut at 100 MB; nothing if there is no such program.
    fn unpacked(program: &str, body: &[u8]) -> Option<Result<usize, String>> {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("command -v {program} >/dev/null || exit 99; {program} -dc | wc -c")]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(body);
        let output = child.wait_with_output().unwrap();
        if output.status.code() == Some(99) {
            return None;
        }
        Some(String::from_utf8(output.stdout).unwrap().trim().parse::<usize>().map_err(|e| e.to_string()))
    }

    #[test]
    fn another_decoder_finds_the_bombs_sound() {
        let zeros = gzip_zeros(10_000);
        assert!(2_580_001 / zeros.len() > 1_000, "{}", zeros.len());
        if let Some(len) = unpacked("gzip", &zeros) {
            assert_eq!(len, Ok(2_580_001));
        }
        if let Some(len) = unpacked("gzip", &gzip_stored(0, &[], &zeros)) {
            assert_eq!(len, Ok(zeros.len()));
        }
        if let Some(len) = unpacked("zstd", &zstd_runs(100)) {
            assert_eq!(len, Ok(13_107_200));
        }
        assert_eq!(crc32(b"123456789".iter().copied()), 0xcbf4_3926, "the check value of this CRC");
    }
}
