//! What comes out, what does not, and that it does not matter how the wire was cut. The bombs are made here.

use super::*;
use miniz_oxide::deflate::compress_to_vec;
use proptest::prelude::*;
use ruzstd::encoding::{CompressionLevel, compress_to_vec as zstd};

const MIB: usize = 1 << 20;
const BOUNDS: Bounds = Bounds { max_ratio: 10, bytes_max: MIB };
/// Nothing but the absolute bound.
const LOOSE: Bounds = Bounds { max_ratio: 1 << 20, bytes_max: MIB };

/// A member with these flags, and the optional fields as they are.
fn member(flags: u8, fields: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, flags, 0, 0, 0, 0, 2, 255];
    out.extend_from_slice(fields);
    out.extend_from_slice(&compress_to_vec(plain, 9));
    out.extend_from_slice(&crc32fast::hash(plain).to_le_bytes());
    out.extend_from_slice(&u32::try_from(plain.len()).unwrap().to_le_bytes());
    out
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    member(0, &[], plain)
}

/// Feeds `wire` in pieces that end at `cuts`, as a reader of bodies does.
fn fed(coding: Coding, bounds: Bounds, wire: &[u8], cuts: &[usize]) -> Result<Vec<u8>, BadBody> {
    let (mut inflate, mut out, mut from) = (Inflate::new(coding, bounds), Vec::new(), 0);
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (wire.len() + 1)).collect();
    cuts.push(wire.len());
    cuts.sort_unstable();
    for cut in cuts {
        let mut piece = &wire[from..cut];
        from = cut;
        loop {
            let before = piece.len();
            let made = inflate.take(&mut piece)?;
            if made.is_empty() {
                assert!(piece.is_empty(), "{before} bytes, and no piece");
                break;
            }
            assert!(made.len() <= 32 * 1024);
            out.extend_from_slice(made);
            assert!(out.len() <= bounds.bytes_max, "more than allowed came out");
        }
    }
    let room = inflate.end_bytes();
    let rest = inflate.end()?;
    assert!(rest.len() <= room, "no room was made for the end");
    out.extend_from_slice(rest);
    assert!(out.len() <= bounds.bytes_max && out.len() <= bounds.allowed(wire.len()));
    Ok(out)
}

fn whole(wire: &[u8]) -> Result<Vec<u8>, BadBody> {
    fed(Coding::Gzip, BOUNDS, wire, &[])
}

fn is_broken(result: &Result<Vec<u8>, BadBody>) -> bool {
    matches!(result, Err(BadBody::Broken(_)))
}

/// Text whose length and ratio are those of webhooks: words of few kinds.
fn prose() -> impl Strategy<Value = Vec<u8>> {
    let word = prop::sample::select(vec!["\"id\":", "\"url\":", "true,", "{", "},", "1", "27", "event", " "]);
    prop::collection::vec(word, 0..4_000).prop_map(|words| words.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn what_was_compressed_comes_back(
        plain in prose(), cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        let bounds = Bounds { max_ratio: 10_000, bytes_max: plain.len() };
        prop_assert_eq!(fed(Coding::Gzip, bounds, &gzip(&plain), &cuts), Ok(plain.clone()));
        let framed = zstd(&plain[..], CompressionLevel::Fastest);
        prop_assert_eq!(fed(Coding::Zstd, bounds, &framed, &cuts), Ok(plain));
    }

    #[test]
    fn it_does_not_matter_how_the_wire_was_cut(
        zeros in 0usize..300_000, plain in prose(), zeros_after in 0usize..300_000,
        ratio in 1u32..200, bytes_max in 0usize..600_000,
        damage in prop::option::of((any::<usize>(), any::<u8>())),
        cuts in prop::collection::vec(any::<usize>(), 0..40),
    ) {
        let bounds = Bounds { max_ratio: ratio, bytes_max };
        let whole = [vec![0; zeros], plain, vec![7; zeros_after]].concat();
        for coding in Coding::ALL {
            let mut wire = match coding {
                Coding::Gzip => gzip(&whole),
                Coding::Zstd => zstd(&whole[..], CompressionLevel::Fastest),
            };
            if let Some((at, with)) = damage {
                let at = at % wire.len();
                wire[at] ^= with;
            }
            let at_once = fed(coding, bounds, &wire, &[]);
            prop_assert_eq!(&fed(coding, bounds, &wire, &cuts), &at_once);
            let single: Vec<usize> = (0..wire.len().min(5_000)).collect();
            prop_assert_eq!(&fed(coding, bounds, &wire, &single), &at_once);
            if damage.is_none() && whole.len() <= bytes_max && whole.len() <= GRACE_BYTES {
                prop_assert_eq!(at_once, Ok(whole.clone()));
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), cut in any::<usize>()) {
        for coding in Coding::ALL {
            let _ = fed(coding, BOUNDS, &bytes, &[cut]);
        }
        let headed = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0], &bytes[..]].concat();
        let _ = fed(Coding::Gzip, BOUNDS, &headed, &[cut]);
    }
}

#[test]
fn bombs_are_stopped_early() {
    let gzipped = gzip(&vec![0; 64 * MIB]);
    assert!(64 * MIB / gzipped.len() > 1_000, "no bomb: {}", gzipped.len());
    assert_eq!(whole(&gzipped), Err(BadBody::Ratio(10)));
    assert_eq!(fed(Coding::Gzip, LOOSE, &gzipped, &[]), Err(BadBody::Size(MIB)));
    let mut bomb = Inflate::new(Coding::Gzip, BOUNDS);
    let (mut wire, mut made) = (&gzipped[..], 0);
    while let Ok(piece) = bomb.take(&mut wire) {
        made += piece.len();
    }
    assert!(made <= GRACE_BYTES, "{made} came out before it was refused");

    // 256 MiB of one byte as `zstd` writes it: blocks of 128 KiB in four bytes each
    let run = |last: u32| (131_072u32 << 3 | 1 << 1 | last).to_le_bytes();
    let mut framed = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0x38]; // a window of 128 KiB
    for n in 0..2_048 {
        let [a, b, c, _] = run(u32::from(n == 2_047));
        framed.extend_from_slice(&[a, b, c, 0]);
    }
    assert!(256 * MIB / framed.len() > 30_000);
    assert_eq!(fed(Coding::Zstd, BOUNDS, &framed, &[]), Err(BadBody::Ratio(10)));
    assert_eq!(fed(Coding::Zstd, LOOSE, &framed, &[]), Err(BadBody::Size(MIB)));
}

#[test]
fn one_layer_is_opened() {
    let bomb = gzip(&vec![0; 4 * MIB]);
    let nested = gzip(&bomb);
    assert_eq!(whole(&nested), Ok(bomb), "what is inside is bytes like others");
}

#[test]
fn the_bounds_are_exact() {
    let plain = vec![b'x'; GRACE_BYTES];
    assert_eq!(whole(&gzip(&plain)), Ok(plain.clone()), "the grace, at any ratio");
    assert_eq!(whole(&gzip(&[plain, vec![b'x']].concat())), Err(BadBody::Ratio(10)));
    let mut words = vec![0; MIB];
    blake3::Hasher::new().finalize_xof().fill(&mut words);
    assert_eq!(whole(&gzip(&words)), Ok(words.clone()), "a whole MiB of what does not shrink");
    assert_eq!(whole(&gzip(&[words, vec![1]].concat())), Err(BadBody::Size(MIB)));
    let none = Bounds { max_ratio: 1, bytes_max: 0 };
    assert_eq!(fed(Coding::Gzip, none, &gzip(b""), &[]), Ok(Vec::new()));
    assert_eq!(fed(Coding::Gzip, none, &gzip(b"x"), &[]), Err(BadBody::Size(0)));
}

#[test]
fn only_one_whole_member_is_accepted() {
    let one = gzip(b"some bytes, and some bytes more");
    assert!(whole(&one).is_ok());
    for cut in 0..one.len() {
        assert!(is_broken(&whole(&one[..cut])), "{cut}");
    }
    assert!(is_broken(&whole(&[&one[..], &one].concat())), "a second member");
    assert!(is_broken(&whole(&[&one[..], &[0]].concat())), "padding");
    assert!(is_broken(&whole(&[&[0], &one[..]].concat())), "something before it");
    assert!(is_broken(&whole(b"")));
    for damaged in [one.len() - 1, one.len() - 4, one.len() - 5, one.len() - 8] {
        let mut wrong = one.clone();
        wrong[damaged] ^= 1;
        assert!(is_broken(&whole(&wrong)), "ISIZE and CRC32: {damaged}");
    }
    let deflate = compress_to_vec(b"raw", 9);
    assert!(is_broken(&whole(&deflate)));
    assert!(is_broken(&fed(Coding::Gzip, BOUNDS, &zstd(&b"x"[..], CompressionLevel::Fastest), &[])));
    assert!(is_broken(&fed(Coding::Zstd, BOUNDS, &one, &[])));
}

#[test]
fn headers_are_read_and_short() {
    let name = [&b"a name\0"[..], b"a comment\0"].concat();
    let fields = [&[3, 0, 1, 2, 3], &name[..]].concat();
    let sum_of = |flags: u8, fields: &[u8]| {
        let head = [&[0x1f, 0x8b, 8, flags, 0, 0, 0, 0, 2, 255], fields].concat();
        let sum = crc32fast::hash(&head).to_le_bytes();
        [fields, &sum[..2]].concat()
    };
    let good = [
        member(1, &[], b"text"), // FTEXT: a hint
        member(4, &[0, 0], b"text"),
        member(4, &[3, 0, 1, 2, 3], b"text"),
        member(8 | 16, &name, b"text"),
        member(4 | 8 | 16, &fields, b"text"),
        member(2 | 4 | 8 | 16, &sum_of(2 | 4 | 8 | 16, &fields), b"text"),
        member(2, &sum_of(2, &[]), b"text"),
    ];
    for wire in good {
        assert_eq!(whole(&wire), Ok(b"text".to_vec()));
        let single: Vec<usize> = (0..wire.len()).collect();
        assert_eq!(fed(Coding::Gzip, BOUNDS, &wire, &single), Ok(b"text".to_vec()));
    }
    let mut wrong_sum = member(2, &sum_of(2, &[]), b"text");
    wrong_sum[10] ^= 1;
    assert!(is_broken(&whole(&wrong_sum)));
    for reserved in [0x20, 0x40, 0x80] {
        assert!(is_broken(&whole(&member(reserved, &[], b"text"))));
    }
    let huge = [&[0xff, 0xff], &vec![0; 65_535][..]].concat();
    let long_name = [&vec![b'n'; 2_000][..], &[0]].concat();
    for wire in [member(4, &huge, b"text"), member(8, &long_name, b"x"), member(16, &long_name, b"x")] {
        assert_eq!(whole(&wire), Err(BadBody::Broken("its gzip header is over 1024 bytes")));
    }
    let fits = [&vec![b'n'; 1024 - 11][..], &[0]].concat();
    assert!(whole(&member(8, &fits, b"x")).is_ok());
}

#[test]
fn names_of_codings() {
    for (name, coding) in [("gzip", Coding::Gzip), ("X-GZIP", Coding::Gzip), ("zSTD", Coding::Zstd)] {
        assert_eq!(Coding::parse(name), Some(coding));
    }
    for name in ["", "identity", "br", "deflate", "gzip, gzip", "gzip ", "compress"] {
        assert_eq!(Coding::parse(name), None, "{name:?}");
    }
}

#[test]
fn refusals_say_which_kind_it_is() {
    assert_eq!(Refusal::from(BadBody::Ratio(10)).reason, Reason::DecompLimit);
    assert_eq!(Refusal::from(BadBody::Size(1)).reason, Reason::DecompLimit);
    assert_eq!(Refusal::from(BadBody::Broken("x")).reason, Reason::Malformed);
}
