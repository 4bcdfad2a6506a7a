//! Lists, cursors, and what is kept for whom.

use super::*;
use crate::ids::{Tenant, Topic};

const S: ShardId = ShardId(1);

fn queue(topic: &str) -> QueueKey {
    QueueKey { tenant: Tenant::parse("acme").unwrap(), topic: Topic::parse(topic).unwrap() }
}

fn add(topics: &[&str]) -> Edit {
    let addition = |topic: &&str| Addition { topic: queue(topic).topic, filter: Filter::default() };
    Edit { add: topics.iter().map(addition).collect(), remove: Vec::new() }
}

fn remove(topics: &[&str]) -> Edit {
    Edit { add: Vec::new(), remove: topics.iter().map(|topic| queue(topic).topic).collect() }
}

fn wanting(topic: &str, name: &str, value: &str) -> Edit {
    let attrs = BTreeMap::from([(name.to_owned(), value.to_owned())]);
    Edit { add: vec![Addition { topic: queue(topic).topic, filter: Filter { attrs } }], remove: Vec::new() }
}

fn at(chunk: u64) -> Slot {
    Slot::new(chunk, 0)
}

fn edit(fans: &mut Fans, boundary: u64, edit: &Edit) -> Result<ListInForce, Refusal> {
    fans.edit(S, &queue("news"), at(boundary), edit, &mut Touched::default())
}

fn due(fans: &Fans) -> Vec<(String, Slot)> {
    let list = fans.list(S).unwrap();
    list.due().map(|due| (due.subscription.queue.topic.to_string(), due.from)).collect()
}

fn bring(fans: &mut Fans, topic: &str, to: Slot) -> bool {
    let due = fans.list(S).unwrap().due().find(|due| due.subscription.queue == queue(topic)).unwrap();
    let step = Advance { list: S, number: due.number, since: due.subscription.since, from: due.from, to };
    fans.advance(&step, &mut Touched::default())
}

fn lag(fans: &Fans, topic: &str) -> u64 {
    fans.lags().get(&queue(topic)).copied().unwrap_or(0)
}

#[test]
fn a_message_goes_to_the_list_of_its_own_commit() {
    let mut fans = Fans::default();
    edit(&mut fans, 10, &add(&["a", "b"])).unwrap();
    assert!(fans.sent(S, 10, 0, 2), "in the very commit of the edit");
    let now = edit(&mut fans, 12, &Edit { add: add(&["c"]).add, remove: remove(&["a"]).remove }).unwrap();
    assert_eq!((now.version, now.count), (2, 2));
    fans.sent(S, 12, 3, 1);
    assert_eq!((lag(&fans, "a"), lag(&fans, "b"), lag(&fans, "c")), (2, 3, 1));
    assert!(bring(&mut fans, "a", at(11)));
    assert_eq!(fans.list(S).unwrap().places(), 2, "a was removed, and has got all that was sent before");
    assert_eq!(due(&fans), [("b".to_owned(), at(10)), ("c".to_owned(), at(12))]);
}

#[test]
fn whoever_was_due_before_a_removal_is_not_brought_what_came_after_it() {
    let mut fans = Fans::default();
    edit(&mut fans, 10, &add(&["a", "b"])).unwrap();
    fans.sent(S, 10, 0, 1);
    let seen: Vec<Due> = fans.list(S).unwrap().due().collect();
    let numbers: Vec<u32> = seen.iter().map(|due| due.number).collect();
    edit(&mut fans, 11, &remove(&["a"])).unwrap();
    fans.sent(S, 11, 0, 1);
    let batch = fans.list(S).unwrap().batch(at(10), &numbers, 64);
    assert_eq!(batch.chunks, [(10, 0, 1), (11, 0, 1)]);
    let until: Vec<Option<Slot>> = batch.due.iter().map(|due| due.subscription.until).collect();
    assert_eq!(until, [Some(at(11)), None], "with the message comes the end of the subscription");
    assert!(bring(&mut fans, "b", at(12)));
    let next = fans.list(S).unwrap().batch(at(10), &numbers, 64).due;
    assert_eq!(next, batch.due[..1], "b has gone on meanwhile, and so on its next step");
}

#[test]
fn what_somebody_waits_for_is_held_until_all_have_it_once() {
    let mut fans = Fans::default();
    edit(&mut fans, 10, &add(&["a", "b"])).unwrap();
    fans.sent(S, 10, 0, 1);
    fans.sent(S, 12, 0, 1);
    assert!(bring(&mut fans, "a", at(13)));
    assert!(fans.holds(10) && fans.holds(12) && !fans.has_released());
    assert!(bring(&mut fans, "b", at(11)));
    assert_eq!((fans.take_released(), fans.holds(12)), (vec![10], true));
    assert!(bring(&mut fans, "b", at(13)));
    assert_eq!((fans.take_released(), fans.holds(12)), (vec![12], false));
    assert!(due(&fans).is_empty() && fans.lags().is_empty());
}

#[test]
fn a_step_that_was_made_before_is_refused_and_changes_nothing() {
    let mut fans = Fans::default();
    edit(&mut fans, 10, &add(&["a"])).unwrap();
    fans.sent(S, 10, 0, 3);
    let step = Advance { list: S, number: 0, since: at(10), from: at(10), to: Slot::new(10, 2) };
    let mut touched = Touched::default();
    assert!(fans.advance(&step, &mut touched));
    assert_eq!(touched.pages, BTreeSet::from([(S, 0)]));
    assert_eq!(lag(&fans, "a"), 1);
    let mut nothing = Touched::default();
    for wrong in [
        step,
        Advance { from: Slot::new(10, 2), to: Slot::new(10, 2), ..step },
        Advance { since: at(8), from: Slot::new(10, 2), to: at(11), ..step },
        Advance { number: 1, from: Slot::new(10, 2), to: at(11), ..step },
        Advance { list: ShardId(2), from: Slot::new(10, 2), to: at(11), ..step },
    ] {
        assert!(!fans.advance(&wrong, &mut nothing), "{wrong:?}");
    }
    assert!(nothing.is_empty());
    assert_eq!(due(&fans), [("a".to_owned(), Slot::new(10, 2))]);
}

#[test]
fn copies_go_no_further_and_limits_are_named() {
    let mut fans = Fans::default();
    edit(&mut fans, 10, &add(&["a"])).unwrap();
    let refused = |fans: &mut Fans, shard: u32, source: &str, edit: &Edit| {
        let refused = fans.edit(ShardId(shard), &queue(source), at(12), edit, &mut Touched::default());
        refused.unwrap_err().text.to_string()
    };
    assert!(refused(&mut fans, 2, "a", &add(&["x"])).contains("a is a subscriber itself"));
    assert!(refused(&mut fans, 3, "top", &add(&["news"])).contains("news has subscribers itself"));
    assert!(refused(&mut fans, 1, "news", &add(&["news"])).contains("to itself"));
    assert_eq!(fans.lists().count(), 1, "a refused edit makes no list");
    // removed, but not through: its copies still come
    fans.sent(S, 10, 0, 1);
    edit(&mut fans, 12, &remove(&["a"])).unwrap();
    assert!(refused(&mut fans, 2, "a", &add(&["x"])).contains("a is a subscriber itself"));
    assert!(bring(&mut fans, "a", at(11)));
    assert_eq!(
        fans.edit(ShardId(2), &queue("a"), at(14), &add(&["x"]), &mut Touched::default()).unwrap().count,
        1
    );
    let names: Vec<String> = (0..SUBSCRIBERS_MAX).map(|i| format!("s{i}")).collect();
    for some in names.chunks(EDIT_MAX) {
        let some: Vec<&str> = some.iter().map(String::as_str).collect();
        edit(&mut fans, 20, &add(&some)).unwrap();
    }
    assert!(edit(&mut fans, 20, &add(&["more"])).unwrap_err().text.contains("at most 10000"));
    let swap = Edit { add: add(&["more"]).add, remove: remove(&["s0"]).remove };
    assert_eq!(edit(&mut fans, 20, &swap).unwrap().count, 10_000, "one goes, one comes");
}

#[test]
fn the_same_again_changes_nothing_and_another_filter_counts_from_then_on() {
    let mut fans = Fans::default();
    assert_eq!(edit(&mut fans, 10, &add(&["a"])).unwrap(), ListInForce { version: 1, count: 1 });
    assert_eq!(edit(&mut fans, 12, &add(&["a"])).unwrap(), ListInForce { version: 1, count: 1 });
    assert_eq!(edit(&mut fans, 12, &remove(&["b"])).unwrap(), ListInForce { version: 1, count: 1 });
    fans.sent(S, 12, 0, 1);
    assert_eq!(edit(&mut fans, 14, &wanting("a", "k", "v")).unwrap(), ListInForce { version: 2, count: 1 });
    fans.sent(S, 14, 0, 1);
    assert_eq!(due(&fans), [("a".to_owned(), at(10))], "first what is due under the old filter");
    assert!(bring(&mut fans, "a", at(13)));
    let next = fans.list(S).unwrap().due().next().unwrap();
    assert_eq!((next.from, next.subscription.filter.is_open()), (at(14), false));
    let meta =
        |value: &str| MessageMeta { attrs: vec![("k".into(), value.into())], ..MessageMeta::default() };
    assert!(next.subscription.filter.wants(&meta("v")) && !next.subscription.filter.wants(&meta("w")));
    assert!(!next.subscription.filter.wants(&MessageMeta::default()));
}

#[test]
fn a_deleted_source_still_brings_what_was_sent_and_a_deleted_subscriber_gets_nothing() {
    let mut fans = Fans::default();
    edit(&mut fans, 10, &add(&["a", "b"])).unwrap();
    fans.sent(S, 10, 0, 1);
    let mut touched = Touched::default();
    fans.delete(ShardId(7), &queue("b"), at(12), &mut touched);
    assert_eq!(touched.places, BTreeSet::from([(S, 1)]));
    let list = fans.list(S).unwrap();
    assert_eq!((list.count(), list.version()), (1, 2));
    fans.delete(S, &queue("news"), at(12), &mut Touched::default());
    assert!(!fans.is_source(S) && fans.holds(10));
    assert!(!fans.sent(S, 12, 0, 1), "nothing comes any more");
    // another topic of its name has a list of its own
    let again = fans.edit(ShardId(5), &queue("news"), at(14), &add(&["c"]), &mut Touched::default()).unwrap();
    assert_eq!(again, ListInForce { version: 1, count: 1 });
    assert!(bring(&mut fans, "a", at(11)));
    assert!(fans.list(S).is_none() && fans.take_released() == [10]);
}

#[test]
fn rows_bring_back_what_was_written() {
    let mut fans = Fans::default();
    let names: Vec<String> = (0..600).map(|i| format!("s{i:03}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut touched = Touched::default();
    fans.edit(S, &queue("news"), at(10), &add(&names), &mut touched).unwrap();
    assert_eq!(touched.pages, BTreeSet::from([(S, 0), (S, 1)]));
    fans.sent(S, 10, 0, 4);
    fans.edit(S, &queue("news"), at(12), &remove(&["s001"]), &mut touched).unwrap();
    assert!(bring(&mut fans, "s005", Slot::new(10, 2)) && bring(&mut fans, "s001", at(11)));
    let list = fans.list(S).unwrap();
    assert_eq!(list.page(0), [(1, at(10)), (1, Slot(0)), (3, at(10)), (1, Slot::new(10, 2)), (506, at(10))]);
    let mut back = Fans::default();
    back.restore_list(S, queue("news"), list.version(), true);
    for page in 0..2 {
        let runs = list.page(page);
        for (number, next) in Fan::cursors(page, &runs) {
            let Some(subscription) = list.subscription(number) else { continue };
            back.restore_place(S, number, subscription.as_ref().clone(), next);
        }
    }
    assert!(back.sent(S, 10, 0, 4) && !back.sent(S, 8, 0, 4), "what all are past is not held again");
    back.settle(&mut Touched::default());
    assert_eq!((back.lags(), back.holds(10)), (fans.lags(), true));
    let (one, other) = (back.list(S).unwrap(), fans.list(S).unwrap());
    assert_eq!((one.listed(None, 700), one.version()), (other.listed(None, 700), other.version()));
    assert_eq!(one.listed(Some(&queue("s597").topic), 1)[0].topic, queue("s598").topic);
    assert_eq!(one.count(), 599);
}

#[test]
fn a_change_is_checked_before_it_is_looked_up() {
    let refused = |edit: &Edit| edit.check(&queue("news")).unwrap_err().text.to_string();
    assert!(refused(&Edit::default()).contains("1 to 1000"));
    let many: Vec<String> = (0..=EDIT_MAX).map(|i| format!("s{i}")).collect();
    assert!(refused(&add(&many.iter().map(String::as_str).collect::<Vec<_>>())).contains("1 to 1000"));
    assert!(
        refused(&Edit { add: add(&["a"]).add, remove: remove(&["a"]).remove }).contains("a is named twice")
    );
    assert!(refused(&add(&["news"])).contains("to itself"));
    assert!(refused(&wanting("a", "k", &"v".repeat(5_000))).starts_with("add[].filter.attr"));
    assert!(wanting("a", "k", "v").check(&queue("news")).is_ok());
}
