//! What keeps an object, and that what is counted is what there is.

use super::*;
use proptest::prelude::*;

fn tenant(name: &str) -> Tenant {
    Tenant::parse(name).unwrap()
}

fn hash(n: u8) -> ContentHash {
    ContentHash([n; 32])
}

/// A whole object of `len` bytes, published.
fn put(objects: &mut Objects, id: u64, of: &str, n: u8, len: u64, now: u64) -> Result<Became, NotTaken> {
    let id = UploadId(id);
    objects.begin(id, &tenant(of))?;
    let grown = objects.grow(id, len);
    if grown.is_err() {
        objects.end(id);
    }
    grown?;
    let became = objects.finish(id, hash(n), Millis(now))?;
    if let Became::New(number, _) = &became {
        objects.publish(*number);
    }
    Ok(became)
}

fn numbers(due: &[(u64, u64)]) -> Vec<u64> {
    due.iter().map(|(number, _)| *number).collect()
}

#[test]
fn an_object_is_its_tenants_alone_and_seen_once_published() {
    let mut objects = Objects::new(ObjectLimits::default(), 5);
    objects.begin(UploadId(1), &tenant("a")).unwrap();
    assert_eq!(objects.grow(UploadId(1), 70), Ok((5, 0)));
    assert_eq!(objects.grow(UploadId(1), 30), Ok((5, 70)));
    assert_eq!(objects.find(&tenant("a"), &hash(1)), None, "half of it is there");
    objects.finish(UploadId(1), hash(1), Millis(9)).unwrap();
    assert_eq!(objects.find(&tenant("a"), &hash(1)), None, "not yet committed");
    objects.publish(5);
    assert_eq!(objects.find(&tenant("a"), &hash(1)), Some(Found { number: 5, len: 100 }));
    assert_eq!(objects.find(&tenant("b"), &hash(1)), None, "another tenant's");
    assert_eq!(objects.grow(UploadId(1), 1), Err(NotTaken::Lost), "it is over");
    // the same bytes of another tenant are an object of its own
    assert!(matches!(put(&mut objects, 2, "b", 1, 100, 9), Ok(Became::New(6, _))));
}

#[test]
fn it_stays_an_hour_after_the_last_upload_and_while_a_message_holds_it() {
    let mut objects = Objects::new(ObjectLimits::default(), 0);
    put(&mut objects, 1, "a", 1, 10, 1_000).unwrap();
    put(&mut objects, 2, "a", 2, 10, 2_000).unwrap();
    let end = 1_000 + KEPT_MS;
    assert!(!objects.is_due(Some(Millis(end - 1))));
    assert!(objects.is_due(Some(Millis(end))) && !objects.is_due(None));
    // the same bytes again: the hour begins anew, and no second object is counted
    let again = put(&mut objects, 3, "a", 1, 10, 5_000).unwrap();
    assert!(matches!(again, Became::Known(0, Object { uploaded: Millis(5_000), .. })));
    assert_eq!(numbers(&objects.take_due(Some(Millis(end)), 1_000)), [2], "what was uploaded twice");
    assert_eq!(objects.figures(), ObjectFigures { count: 2, bytes: 20, held: 0, uploads: 0 });
    let (one, two) = (Slot::new(8, 3), Slot::new(8, 4));
    objects.hold(one, 0);
    objects.hold(two, 0);
    objects.hold(two, 0);
    let late = Some(Millis(9_000 + KEPT_MS));
    assert_eq!(numbers(&objects.take_due(late, 1_000)), [1], "nothing holds the other");
    objects.gone(Slot::new(8, 0), 4);
    objects.gone(one, 1);
    assert!(objects.take_due(late, 1_000).is_empty(), "one message is left");
    objects.gone(two, 1);
    objects.reads(0);
    assert!(objects.take_due(late, 1_000).is_empty(), "somebody reads it");
    objects.read(0);
    assert_eq!(numbers(&objects.take_due(late, 1_000)), [0]);
    assert!(objects.shelves.is_empty() && objects.none_held() && objects.used == Used::default());
}

#[test]
fn limits_count_what_is_under_way_and_come_back_with_what_goes() {
    let limits = ObjectLimits { bytes: 300, count: 4, tenant_bytes: 200, tenant_count: 3 };
    let mut objects = Objects::new(limits, 0);
    objects.begin(UploadId(1), &tenant("a")).unwrap();
    assert!(objects.grow(UploadId(1), 150).is_ok());
    assert_eq!(objects.grow(UploadId(1), 51), Err(NotTaken::TenantFull));
    assert_eq!(put(&mut objects, 2, "b", 1, 151, 0), Err(NotTaken::NodeFull));
    assert!(put(&mut objects, 3, "b", 2, 150, 0).is_ok());
    assert!(put(&mut objects, 4, "a", 3, 0, 0).is_ok());
    assert_eq!(objects.begin(UploadId(5), &tenant("a")), Err(NotTaken::NodeFull), "four with the failed one");
    assert_eq!(objects.take_due(None, u64::MAX).len(), 1, "what failed is removed");
    assert!(put(&mut objects, 6, "a", 4, 0, 0).is_ok());
    assert_eq!(objects.begin(UploadId(7), &tenant("a")), Err(NotTaken::TenantFull));
    objects.end(UploadId(1));
    assert!(objects.is_due(None));
    assert_eq!(objects.take_due(None, u64::MAX), [(0, 150)]);
    assert!(objects.begin(UploadId(7), &tenant("a")).is_ok());
}

#[test]
fn what_is_damaged_is_mended_by_the_next_upload_alone() {
    let mut objects = Objects::new(ObjectLimits::default(), 0);
    put(&mut objects, 1, "a", 1, 10, 0).unwrap();
    objects.damaged(0);
    assert!(matches!(put(&mut objects, 2, "a", 1, 10, 5), Ok(Became::Mends(0, Object { len: 10, .. }, 1))));
    objects.publish(0);
    assert!(matches!(put(&mut objects, 3, "a", 1, 10, 6), Ok(Became::Known(0, _))));
}

#[test]
fn who_reads_is_known_to_the_next_book() {
    let mut before = Objects::new(ObjectLimits::default(), 0);
    put(&mut before, 1, "a", 1, 10, 0).unwrap();
    before.reads(0);
    let mut after = Objects::new(ObjectLimits::default(), 0);
    after.restore(0, Object { tenant: tenant("a"), hash: hash(1), len: 10, uploaded: Millis(0) });
    after.take_readers(&before);
    assert!(after.take_due(Some(Millis::NEVER), 1).is_empty());
    after.read(0);
    assert_eq!(after.take_due(Some(Millis::NEVER), 1).len(), 1);
    assert_eq!(after.next_number(), 1);
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Put { tenant: bool, hash: u8, len: u64 },
    Hold { nth: usize, slot: u16 },
    Gone { slot: u16, count: u16 },
    Pass { ms: u64 },
    Collect { bytes: u64 },
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (any::<bool>(), 0..6_u8, 0..60_u64).prop_map(|(tenant, hash, len)| Act::Put { tenant, hash, len }),
        (0..8_usize, 0..30_u16).prop_map(|(nth, slot)| Act::Hold { nth, slot }),
        (0..30_u16, 1..4_u16).prop_map(|(slot, count)| Act::Gone { slot, count }),
        (0..2 * KEPT_MS / 3).prop_map(|ms| Act::Pass { ms }),
        (0..120_u64).prop_map(|bytes| Act::Collect { bytes }),
    ]
}

/// What there is, kept plainly: number → whose, bytes, when.
#[derive(Debug, Default)]
struct Model {
    there: BTreeMap<u64, Object>,
    holders: BTreeMap<u16, u64>,
}

proptest! {
    /// Against a plain model: only what is idle and old goes, everything held stays, sums are sums.
    #[test]
    fn nothing_held_or_young_ever_goes(acts in prop::collection::vec(act(), 1..120)) {
        let limits = ObjectLimits { bytes: 250, count: 9, tenant_bytes: 180, tenant_count: 6 };
        let (mut objects, mut model, mut now) = (Objects::new(limits, 0), Model::default(), 0);
        for (id, act) in acts.into_iter().enumerate() {
            match act {
                Act::Put { tenant, hash, len } => {
                    let of = if tenant { "a" } else { "b" };
                    match put(&mut objects, id as u64, of, hash, len, now) {
                        Ok(Became::New(number, object) | Became::Known(number, object)) => {
                            model.there.insert(number, object);
                        }
                        Ok(Became::Mends(..)) => prop_assert!(false, "nothing was damaged"),
                        Err(why) => prop_assert_ne!(why, NotTaken::Lost),
                    }
                }
                Act::Hold { nth, slot } => {
                    let number = model.there.keys().nth(nth).copied();
                    if let Some(number) = number.filter(|_| !model.holders.contains_key(&slot)) {
                        objects.hold(Slot::new(4, slot), number);
                        model.holders.insert(slot, number);
                    }
                }
                Act::Gone { slot, count } => {
                    objects.gone(Slot::new(4, slot), count);
                    model.holders.retain(|at, _| !(slot..slot + count).contains(at));
                }
                Act::Pass { ms } => now += ms,
                Act::Collect { bytes } => {
                    for (number, _) in objects.take_due(Some(Millis(now)), bytes) {
                        let Some(object) = model.there.remove(&number) else { continue };
                        prop_assert!(object.uploaded.plus(KEPT_MS) <= Millis(now));
                        prop_assert!(!model.holders.values().any(|held| *held == number));
                    }
                }
            }
            let bytes: u64 = model.there.values().map(|object| object.len).sum();
            prop_assert_eq!(objects.figures().bytes, bytes);
            prop_assert_eq!(objects.figures().count, model.there.len() as u64);
            prop_assert!(objects.used.bytes <= 250 && objects.used.count <= 9);
            for (number, object) in &model.there {
                let found = objects.find(&object.tenant, &object.hash);
                prop_assert_eq!(found, Some(Found { number: *number, len: object.len }));
            }
        }
        objects.gone(Slot::new(4, 0), u16::MAX);
        objects.take_due(Some(Millis::NEVER), u64::MAX);
        prop_assert_eq!(objects.figures(), ObjectFigures::default());
    }
}
