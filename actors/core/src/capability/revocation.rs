//! Revocations: which capabilities and keys no longer count, and the form in which that is kept (SPEC §5).
//!
//! Nothing is ever taken out of the set: a revoked capability that never expires must stay revoked. So the set is
//! bounded by refusing more, and the way out is to rotate the key and revoke the old one.
//!
//! ```text
//! ron-revoked 1
//! cap 0123456789abcdef 1795000000000 5b0c1a2d3e4f5061
//! kid 2026-11-21-5f0a24 1795000000000 60718293a4b5c6d7
//! end 2 e8f90a1b2c3d4e5f
//! ```
//!
//! A record is what was revoked, when (wall clock, ms), and the start of a BLAKE3 of both; the last line counts the
//! records and sums up all bytes before it. So a flipped bit, a missing record and a missing end are all seen.

use super::CapId;
use crate::ids::Kid;
use crate::reason::{Reason, Refusal};
use crate::time::Millis;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// Most revocations that are kept, of capabilities and keys together.
pub const REVOCATIONS_MAX: usize = 100_000;
/// Most of them in one request.
pub const REVOCATIONS_PER_CALL_MAX: usize = 256;

const FIRST_LINE: &str = "ron-revoked 1\n";

/// What is revoked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Revocation {
    /// A capability and all that were attenuated from it.
    Cap(CapId),
    /// All capabilities that a key has made.
    Kid(Kid),
}

impl std::fmt::Display for Revocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Revocation::Cap(id) => write!(f, "cap {id}"),
            Revocation::Kid(kid) => write!(f, "kid {kid}"),
        }
    }
}

/// A request to revoke; also the body of the control socket's call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeRequest {
    /// Capability ids, 16 hex digits each.
    #[serde(default)]
    pub cap_ids: Vec<String>,
    /// Key ids.
    #[serde(default)]
    pub kids: Vec<String>,
}

impl RevokeRequest {
    /// What is to be revoked, in order.
    ///
    /// # Errors
    /// MALFORMED, naming the field.
    pub fn check(&self) -> Result<Vec<Revocation>, Refusal> {
        let bad = |text: String| Refusal::new(Reason::Malformed, text);
        let count = self.cap_ids.len() + self.kids.len();
        if !(1..=REVOCATIONS_PER_CALL_MAX).contains(&count) {
            return Err(bad(format!("name 1 to {REVOCATIONS_PER_CALL_MAX} cap_ids and kids")));
        }
        let cap = |(at, text): (usize, &String)| {
            let rule = "a capability id: 16 lowercase hex digits, as `ronctl cap inspect` prints it";
            CapId::parse(text)
                .map(Revocation::Cap)
                .ok_or_else(|| bad(format!("cap_ids[{at}] must be {rule}")))
        };
        let kid = |(at, text): (usize, &String)| {
            let kid = Kid::parse(text).map(Revocation::Kid);
            kid.map_err(|broken| bad(format!("kids[{at}] must be a key id: {}", broken.rule)))
        };
        self.cap_ids.iter().enumerate().map(cap).chain(self.kids.iter().enumerate().map(kid)).collect()
    }
}

/// No more revocations can be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{REVOCATIONS_MAX} revocations are kept; rotate the key, and revoke the old one by its kid")]
pub struct TooMany;

/// All revocations of a node, with the wall clock of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revoked {
    /// Sorted; few bytes each and looked up on every request.
    caps: Vec<(CapId, Millis)>,
    kids: Vec<(Kid, Millis)>,
}

impl Revoked {
    /// Whether a capability of this id, made with this key, no longer counts.
    #[must_use]
    pub fn covers(&self, cap_id: CapId, kid: &Kid) -> bool {
        self.kid(kid) || self.caps.binary_search_by_key(&cap_id, |(id, _)| *id).is_ok()
    }

    /// Whether a key is revoked.
    #[must_use]
    pub fn kid(&self, kid: &Kid) -> bool {
        self.kids.binary_search_by(|(known, _)| known.cmp(kid)).is_ok()
    }

    /// Adds a revocation; false if it was there, and its time stays.
    ///
    /// # Errors
    /// [`TooMany`]; the set is as before.
    pub fn add(&mut self, what: &Revocation, wall: Millis) -> Result<bool, TooMany> {
        let room = if self.len() < REVOCATIONS_MAX { Ok(()) } else { Err(TooMany) };
        match what {
            Revocation::Cap(cap_id) => {
                let Err(at) = self.caps.binary_search_by_key(cap_id, |(id, _)| *id) else { return Ok(false) };
                room.map(|()| self.caps.insert(at, (*cap_id, wall)))?;
            }
            Revocation::Kid(kid) => {
                let Err(at) = self.kids.binary_search_by(|(known, _)| known.cmp(kid)) else {
                    return Ok(false);
                };
                room.map(|()| self.kids.insert(at, (kid.clone(), wall)))?;
            }
        }
        Ok(true)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.caps.len() + self.kids.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The file's text; see the module.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = FIRST_LINE.to_owned();
        let caps = self.caps.iter().map(|(id, at)| format!("cap {id} {}", at.0));
        let kids = self.kids.iter().map(|(kid, at)| format!("kid {kid} {}", at.0));
        for record in caps.chain(kids) {
            // writing to a string does not fail
            let _ = writeln!(text, "{record} {}", sum(&record));
        }
        let all = sum(&text);
        let _ = writeln!(text, "end {} {all}", self.len());
        text
    }

    /// Reads the file's text.
    ///
    /// # Errors
    /// Which line is damaged, and how.
    pub fn parse(text: &str) -> Result<Revoked, String> {
        let records = text.strip_prefix(FIRST_LINE).ok_or("line 1: not a list of revocations of format 1")?;
        let mut revoked = Revoked::default();
        let mut read = FIRST_LINE.len();
        let mut number = 1;
        for line in records.split_inclusive('\n') {
            number += 1;
            let damaged = |what: &str| format!("line {number}: {what}");
            let whole = line.strip_suffix('\n').ok_or_else(|| damaged("ends early"))?;
            if let Some(rest) = whole.strip_prefix("end ") {
                if rest != format!("{} {}", revoked.len(), sum(&text[..read])) {
                    return Err(damaged("the records before it are not all that were written"));
                }
                let after = &text[read + line.len()..];
                return if after.is_empty() {
                    Ok(revoked)
                } else {
                    Err(damaged("something follows the end"))
                };
            }
            let (record, checksum) = whole.rsplit_once(' ').ok_or_else(|| damaged("not a record"))?;
            if sum(record) != checksum {
                return Err(damaged("its checksum does not match"));
            }
            let (what, at) = record_of(record).ok_or_else(|| damaged("not a record"))?;
            match revoked.add(&what, at) {
                Ok(true) => {}
                Ok(false) => return Err(damaged("is there twice")),
                Err(too_many) => return Err(damaged(&too_many.to_string())),
            }
            read += line.len();
        }
        Err(format!("line {}: the end is missing", number + 1))
    }
}

fn record_of(record: &str) -> Option<(Revocation, Millis)> {
    let mut words = record.split(' ');
    let (kind, name, at) = (words.next()?, words.next()?, words.next()?);
    let what = match kind {
        "cap" => Revocation::Cap(CapId::parse(name)?),
        "kid" => Revocation::Kid(Kid::parse(name).ok()?),
        _ => return None,
    };
    let at = at.parse().ok().map(Millis)?;
    words.next().is_none().then_some((what, at))
}

/// The first 8 bytes of the text's BLAKE3: against damage, not against whoever may write the file.
fn sum(text: &str) -> String {
    HEXLOWER.encode(&blake3::hash(text.as_bytes()).as_bytes()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: Millis = Millis(1_795_000_000_000);

    fn cap(n: u64) -> Revocation {
        Revocation::Cap(CapId(n.to_be_bytes()))
    }

    fn kid(text: &str) -> Kid {
        Kid::parse(text).unwrap()
    }

    fn set() -> Revoked {
        let mut revoked = Revoked::default();
        for what in [cap(3), cap(1), Revocation::Kid(kid("old")), cap(2)] {
            assert_eq!(revoked.add(&what, WALL), Ok(true));
        }
        revoked
    }

    #[test]
    fn covers_what_was_revoked_and_nothing_else() {
        let mut revoked = set();
        let id = |n: u64| CapId(n.to_be_bytes());
        assert!((1..=3).all(|n| revoked.covers(id(n), &kid("new"))));
        assert!(!revoked.covers(id(4), &kid("new")) && !revoked.covers(id(0), &kid("olde")));
        assert!(revoked.covers(id(4), &kid("old")) && revoked.kid(&kid("old")));
        assert_eq!(revoked.add(&cap(2), WALL.plus(9)), Ok(false));
        assert_eq!(revoked, set(), "a repetition changes nothing");
        assert!(Revoked::default().is_empty() && !Revoked::default().covers(id(1), &kid("old")));
    }

    #[test]
    fn is_bounded_and_what_is_in_stays_in() {
        let mut revoked = Revoked::default();
        for n in 0..REVOCATIONS_MAX as u64 {
            revoked.add(&cap(n), WALL).unwrap();
        }
        assert_eq!(revoked.add(&cap(u64::MAX), WALL), Err(TooMany));
        assert_eq!(revoked.add(&Revocation::Kid(kid("k")), WALL), Err(TooMany));
        assert_eq!(revoked.add(&cap(0), WALL), Ok(false), "a known one needs no room");
        assert!(revoked.covers(CapId(0_u64.to_be_bytes()), &kid("k")));
        let read = Revoked::parse(&revoked.render()).unwrap();
        assert_eq!(read.len(), REVOCATIONS_MAX);
    }

    #[test]
    fn the_text_round_trips() {
        for revoked in [Revoked::default(), set()] {
            assert_eq!(Revoked::parse(&revoked.render()), Ok(revoked));
        }
        let text = set().render();
        let second = text.lines().nth(1).unwrap();
        assert!(second.starts_with("cap 0000000000000001 1795000000000 "), "{second}");
    }

    #[test]
    fn every_flipped_byte_and_every_cut_is_seen() {
        let text = set().render();
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            assert!(Revoked::parse(&String::from_utf8(bytes).unwrap()).is_err(), "byte {at}");
            let why = Revoked::parse(&text[..at]).unwrap_err();
            assert!(why.starts_with("line "), "cut at {at}: {why}");
        }
        // a record left out whole, checksums and all
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        for out in 1..lines.len() - 1 {
            let rest: String =
                lines.iter().enumerate().filter(|(at, _)| *at != out).map(|(_, l)| *l).collect();
            assert!(Revoked::parse(&rest).is_err(), "without line {out}");
        }
        assert!(Revoked::parse(&format!("{text}x")).is_err());
        assert!(Revoked::parse(&format!("{text}{text}")).is_err());
        assert!(Revoked::parse("ron-revoked 2\n").is_err());
    }

    #[test]
    fn a_request_names_what_is_wrong_and_never_quotes_it() {
        let of = |cap_ids: &[&str], kids: &[&str]| {
            let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
            RevokeRequest { cap_ids: owned(cap_ids), kids: owned(kids) }.check()
        };
        let good = of(&["0123456789abcdef"], &["2026-11"]).unwrap();
        assert_eq!(
            good.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["cap 0123456789abcdef", "kid 2026-11"]
        );
        for (cap_ids, kids, field) in [
            (&[][..], &[][..], "cap_ids"),
            (&["0123456789abcdef", "0123456789abcde"], &[], "cap_ids[1]"),
            (&["0123456789ABCDEF"], &[], "cap_ids[0]"),
            (&["ron1_secretsecret"], &[], "cap_ids[0]"),
            (&[], &["K"], "kids[0]"),
            (&["0123456789abcdef"; 257], &[], "cap_ids"),
        ] {
            let refusal = of(cap_ids, kids).unwrap_err();
            assert_eq!(refusal.reason, Reason::Malformed);
            assert!(refusal.text.contains(field) && !refusal.text.contains("secret"), "{}", refusal.text);
        }
    }
}
