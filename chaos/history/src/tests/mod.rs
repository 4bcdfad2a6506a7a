//! Histories made by hand: a good one of each kind, and what breaks each invariant.

mod broken;
mod tale;

use crate::record::{How, Out, Settled};
use tale::{Tale, id};

#[test]
fn a_life_as_it_should_be_breaks_nothing() {
    let mut tale = Tale::new();
    let a = id(10, 1);
    tale.at(10).send(1, &a).at(20).recv(&[(&a, 1, 1, 1)], 1_000);
    tale.at(30).settle(&a, 1, How::Fail { delay_ms: Some(100) }, Settled::Ok);
    tale.at(130).recv(&[(&a, 1, 2, 2)], 1_000).at(1_130).recv(&[(&a, 1, 3, 3)], 1_000);
    tale.at(1_140).settle(&a, 2, How::Ack, Settled::Stale).settle(&a, 3, How::Ack, Settled::Ok);
    tale.settle(&a, 3, How::Ack, Settled::Ok).settle(&a, 3, How::Extend { visibility_ms: 9 }, Settled::Stale);
    tale.stat([0; 4]).calm().drained(&[]);
    tale.is_fine();
}

#[test]
fn a_dead_letter_is_brought_back() {
    let mut tale = Tale::new();
    let a = id(10, 1);
    tale.at(10).send(1, &a);
    for n in 1..=3 {
        tale.at(20 * n).recv(&[(&a, 1, n, n)], 1_000).settle(
            &a,
            n,
            How::Fail { delay_ms: Some(0) },
            Settled::Ok,
        );
    }
    tale.at(70).dead(&a, 1, 3, 3, "max_attempts").reprocess().at(80).recv(&[(&a, 1, 1, 4)], 1_000);
    tale.settle(&a, 4, How::Reject { reason: "no".into() }, Settled::Ok);
    tale.calm().drained(&[&a]);
    tale.is_fine();
}

#[test]
fn what_was_not_answered_may_go_either_way() {
    let a = id(10, 1);
    for seen in [true, false] {
        let mut tale = Tale::new();
        tale.at(10).call(tale::send_op(1), Out::Unknown("STORAGE".into()));
        if seen {
            tale.at(20).recv(&[(&a, 1, 1, 1)], 1_000).settle(&a, 1, How::Ack, Settled::Ok);
        }
        tale.calm().drained(&[]);
        tale.is_fine();
    }
}

#[test]
fn histories_are_read_back_as_they_were_written() {
    let mut tale = Tale::new();
    let a = id(10, 1);
    tale.at(10).send(1, &a).at(20).recv(&[(&a, 1, 1, 1)], 1_000).stat([0, 0, 1, 0]).calm().drained(&[&a]);
    let lines: Vec<String> =
        tale.records.iter().map(|record| serde_json::to_string(record).unwrap()).collect();
    assert_eq!(crate::read(&lines.join("\n")).unwrap(), tale.records);
    let error = crate::read("{\"ms\":1,\"event\":\"down\"}\n\nno").unwrap_err();
    assert!(error.to_string().starts_with("line 3"), "{error}");
}

#[test]
fn what_was_reached_is_counted_by_state() {
    let mut tale = Tale::new();
    let a = id(10, 1);
    tale.at(10).send(1, &a).at(20).recv(&[(&a, 1, 1, 1)], 1_000);
    tale.settle(&a, 1, How::Ack, Settled::Ok).settle(&a, 1, How::Ack, Settled::Ok);
    let reached = crate::reached(&tale.records);
    for (what, times) in [("ack × in-flight → ok", 1), ("ack × gone → ok", 1), ("send × unused → done", 1)]
    {
        assert_eq!(reached.get(what), Some(&times), "{what}: {reached:#?}");
    }
}
