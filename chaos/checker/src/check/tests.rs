//! The checker checked: a clean history passes, and every planted fault is reported under its own number.

mod script;

use super::*;
use crate::history::*;
use script::*;

/// One message sent, delivered and acked.
fn simple() -> Script {
    let mut script = Script::new();
    script.send("t", 1, Some("k"), false).recv("t", vec![envelope(1, 1, 1)]).ack("r1.1");
    script
}

#[test]
fn a_clean_history_passes() {
    let mut script = simple();
    // a known duplicate, a conflict, an unknown send that resolves, an unknown one that never existed
    script.send("t", 1, Some("k"), true);
    let other = Sent { hash: "b3:other".to_owned(), ..sent(2, Some("k")) };
    script.send_as("t", other, Outcome::Sent(vec![SendResult::Refused("IDEMPOTENCY_CONFLICT".to_owned())]));
    script.send_as("t", sent(3, Some("k3")), unknown());
    script.send("t", 3, Some("k3"), true);
    script.send_as("t", sent(4, None), unknown());
    // timed out, failed with a delay, released, then acked by an unknown ack
    script.recv("t", vec![envelope(3, 1, 1)]).wait(S);
    script.recv("t", vec![envelope(3, 2, 2)]).settle(nack("release", None), "r3.2", None);
    script.settle(nack("release", None), "r3.2", None);
    script.recv("t", vec![envelope(3, 3, 2)]).settle(nack("fail", Some(500)), "r3.3", None);
    script.settle(How::Ack, "r3.2", Some("STALE_RECEIPT")).wait(S);
    script.recv("t", vec![envelope(3, 4, 3)]).settle_outcome(How::Ack, "r3.4", unknown());
    // rejected; out of attempts, once of them unseen
    script.send("t", 5, None, false).recv("t", vec![envelope(5, 1, 1)]).settle(
        nack("reject", None),
        "r5.1",
        None,
    );
    script.send("t", 6, None, false).recv("t", vec![envelope(6, 1, 1)]).wait(S);
    script.recv_outcome("t", unknown()).wait(S);
    script.recv("t", vec![envelope(6, 3, 3)]).settle(nack("fail", None), "r6.3", None);
    // extended, then acked after the first deadline; an ack of what is gone is ok
    script.send("t", 7, None, false).recv("t", vec![envelope(7, 1, 1)]);
    script.settle(How::Extend { visibility_ms: 3000 }, "r7.1", None).wait(2 * S).ack("r7.1").ack("r7.1");
    // delayed
    let delayed = Sent { delay_ms: 200, ..sent(8, None) };
    script.send_as("t", delayed, Outcome::Sent(vec![accepted_as("ID8", 8, false)])).wait(200 * MS);
    script.recv("t", vec![envelope(8, 1, 1)]).ack("r8.1");
    script.end("t", vec![dead(5, "broken", 1, 1), dead(6, "max_attempts", 3, 3)]);
    assert_eq!(script.judge(), [""; 0]);
}

#[test]
fn i1_a_lost_message() {
    let mut never_seen = simple();
    never_seen.send("t", 2, None, false).end("t", vec![]);
    assert_eq!(never_seen.judge(), ["I1"]);

    let mut gone_after_a_timeout = simple();
    gone_after_a_timeout.send("t", 2, None, false).recv("t", vec![envelope(2, 1, 1)]).end("t", vec![]);
    assert_eq!(gone_after_a_timeout.judge(), ["I1"]);

    let mut only_in_ram = simple();
    let SendResult::Accepted { msg_id, duplicate, hash, .. } = accepted_as("ID2", 2, false) else { return };
    let ram = SendResult::Accepted { msg_id, duplicate, durability: Some("ram".to_owned()), hash };
    only_in_ram.send_as("t", sent(2, None), Outcome::Sent(vec![ram]));
    only_in_ram.recv("t", vec![envelope(2, 1, 1)]).ack("r2.1").end("t", vec![]);
    assert_eq!(only_in_ram.judge(), ["I1"]);
}

#[test]
fn i2_what_was_never_sent_comes_out() {
    let mut phantom = simple();
    let mut stranger = envelope(9, 1, 1);
    stranger.attrs.clear();
    phantom.recv("t", vec![stranger]).ack("r9.1").end("t", vec![]);
    assert_eq!(phantom.judge(), ["I2"]);

    let mut doubled = simple();
    let twin = Got { msg_id: "TWIN".to_owned(), receipt: "twin".to_owned(), ..envelope(2, 1, 1) };
    doubled.send("t", 2, None, false).recv("t", vec![envelope(2, 1, 1), twin]).ack("r2.1").ack("twin");
    doubled.end("t", vec![]);
    assert_eq!(doubled.judge(), ["I2"]);

    let mut one_id_for_two = simple();
    one_id_for_two.send_as("t", sent(2, None), Outcome::Sent(vec![accepted_as("ID1", 2, false)]));
    one_id_for_two.end("t", vec![]);
    assert_eq!(one_id_for_two.judge(), ["I2"]);

    let mut forged = simple();
    let bad = Sent { forged: true, ..sent(2, None) };
    forged.send_as("t", bad, Outcome::Sent(vec![accepted_as("ID2", 2, false)]));
    forged.recv("t", vec![envelope(2, 1, 1)]).ack("r2.1").end("t", vec![]);
    assert_eq!(forged.judge(), ["I2"]);
}

#[test]
fn i3_an_acked_message_comes_back() {
    let mut redelivered = simple();
    redelivered.wait(S).recv("t", vec![envelope(1, 2, 2)]).ack("r1.2").end("t", vec![]);
    assert_eq!(redelivered.judge(), ["I3"]);

    let mut dead_too = simple();
    dead_too.end("t", vec![dead(1, "max_attempts", 3, 3)]);
    assert!(dead_too.judge().contains(&"I3"));
}

#[test]
fn i4_an_early_delivery() {
    let mut before_the_deadline = Script::new();
    before_the_deadline.send("t", 1, None, false).recv("t", vec![envelope(1, 1, 1)]).wait(900 * MS);
    before_the_deadline.recv("t", vec![envelope(1, 2, 2)]).ack("r1.2").end("t", vec![]);
    assert_eq!(before_the_deadline.judge(), ["I4"]);

    let mut extended = Script::new();
    extended.send("t", 1, None, false).recv("t", vec![envelope(1, 1, 1)]);
    extended.settle(How::Extend { visibility_ms: 5000 }, "r1.1", None).wait(2 * S);
    extended.recv("t", vec![envelope(1, 2, 2)]).ack("r1.2").end("t", vec![]);
    assert_eq!(extended.judge(), ["I4"]);

    let mut nacked_with_delay = Script::new();
    nacked_with_delay.send("t", 1, None, false).recv("t", vec![envelope(1, 1, 1)]);
    nacked_with_delay.settle(nack("fail", Some(700)), "r1.1", None).wait(600 * MS);
    nacked_with_delay.recv("t", vec![envelope(1, 2, 2)]).ack("r1.2").end("t", vec![]);
    assert_eq!(nacked_with_delay.judge(), ["I4"]);

    let mut delayed = Script::new();
    let slow = Sent { delay_ms: 300, ..sent(1, None) };
    delayed.send_as("t", slow, Outcome::Sent(vec![accepted_as("ID1", 1, false)])).wait(200 * MS);
    delayed.recv("t", vec![envelope(1, 1, 1)]).ack("r1.1").end("t", vec![]);
    assert_eq!(delayed.judge(), ["I4"]);

    let mut short_lease = Script::new();
    let short = Got { deadline: short_lease.now + 500 * MS, ..envelope(1, 1, 1) };
    short_lease.send("t", 1, None, false).recv_outcome("t", Outcome::Got(vec![short])).ack("r1.1");
    short_lease.end("t", vec![]);
    assert_eq!(short_lease.judge(), ["I4"]);
}

#[test]
fn i5_a_counter_that_moves_wrongly() {
    let second = |delivery, attempt| {
        let mut script = Script::new();
        script.send("t", 1, None, false).recv("t", vec![envelope(1, 1, 1)]).wait(S);
        let got = Got { receipt: "second".to_owned(), ..envelope(1, delivery, attempt) };
        script.recv("t", vec![got]).ack("second").end("t", vec![]);
        script.judge()
    };
    assert_eq!(second(2, 2), [""; 0]);
    assert_eq!(second(1, 1), ["I5"], "delivery stands still");
    assert_eq!(second(3, 3), ["I5"], "delivery skips");
    assert_eq!(second(2, 3), ["I5"], "attempt skips");
    assert_eq!(second(2, 1), ["I5"], "attempt stands still");

    let mut falls = Script::new();
    falls.send("t", 1, None, false).recv_outcome("t", unknown()).wait(S);
    falls.recv("t", vec![envelope(1, 2, 2)]).wait(S).recv("t", vec![envelope(1, 1, 1)]).ack("r1.1");
    falls.settle(How::Ack, "r1.2", None).end("t", vec![]);
    assert!(falls.judge().contains(&"I5"), "delivery falls");

    let mut beyond_the_limit = Script::new();
    beyond_the_limit.send("t", 1, None, false);
    for n in 1..=4 {
        beyond_the_limit.recv("t", vec![envelope(1, n, n)]).wait(S);
    }
    beyond_the_limit.settle(How::Ack, "r1.4", None).end("t", vec![]);
    assert_eq!(beyond_the_limit.judge(), ["I5"]);
}

#[test]
fn i5_a_dead_letter_that_should_not_be_or_should() {
    let mut too_soon = Script::new();
    too_soon.send("t", 1, None, false).recv("t", vec![envelope(1, 1, 1)]).wait(S);
    too_soon.recv("t", vec![envelope(1, 2, 2)]).end("t", vec![dead(1, "max_attempts", 3, 3)]);
    assert_eq!(too_soon.judge(), ["I5"]);

    let mut rejected_and_acked_away = Script::new();
    rejected_and_acked_away.send("t", 1, None, false).recv("t", vec![envelope(1, 1, 1)]);
    rejected_and_acked_away.settle(nack("reject", None), "r1.1", None).wait(S);
    rejected_and_acked_away.recv("t", vec![envelope(1, 2, 2)]).ack("r1.2").end("t", vec![]);
    assert_eq!(rejected_and_acked_away.judge(), ["I5"]);

    let mut twice = Script::new();
    twice.send("t", 1, None, false).recv("t", vec![envelope(1, 1, 1)]).settle(
        nack("reject", None),
        "r1.1",
        None,
    );
    twice.end("t", vec![dead(1, "broken", 1, 1), dead(1, "broken", 1, 1)]);
    assert_eq!(twice.judge(), ["I5"]);

    let mut reason = Script::new();
    reason.send("t", 1, None, false).recv("t", vec![envelope(1, 1, 1)]).settle(
        nack("reject", None),
        "r1.1",
        None,
    );
    reason.end("t", vec![dead(1, "max_attempts", 1, 1)]);
    assert_eq!(reason.judge(), ["I5"]);
}

#[test]
fn i6_a_key_that_means_two_things() {
    let mut forgotten = simple();
    forgotten.send_as("t", sent(1, Some("k")), Outcome::Sent(vec![accepted_as("ID2", 1, false)]));
    let second = Got { msg_id: "ID2".to_owned(), receipt: "x".to_owned(), ..envelope(1, 1, 1) };
    forgotten.recv("t", vec![second]).ack("x").end("t", vec![]);
    assert_eq!(forgotten.judge(), ["I6"]);

    let mut other_id = simple();
    other_id
        .send_as("t", sent(1, Some("k")), Outcome::Sent(vec![accepted_as("ID7", 1, true)]))
        .end("t", vec![]);
    assert_eq!(other_id.judge(), ["I6"]);

    let mut not_said = simple();
    not_said.send("t", 1, Some("k"), false).end("t", vec![]);
    assert_eq!(not_said.judge(), ["I6"]);

    let mut unknown_twice = Script::new();
    unknown_twice.send_as("t", sent(1, Some("k")), unknown()).send("t", 1, Some("k"), false);
    let ghost = Got { msg_id: "ID9".to_owned(), receipt: "ghost".to_owned(), ..envelope(1, 1, 1) };
    unknown_twice.recv("t", vec![envelope(1, 1, 1), ghost]).ack("r1.1").ack("ghost").end("t", vec![]);
    assert_eq!(unknown_twice.judge(), ["I6"]);

    let mut conflict_taken = simple();
    let other = Outcome::Sent(vec![accepted_as("ID2", 2, false)]);
    conflict_taken.send_as("t", sent(2, Some("k")), other).recv("t", vec![envelope(2, 1, 1)]).ack("r2.1");
    conflict_taken.end("t", vec![]);
    assert_eq!(conflict_taken.judge(), ["I6"]);

    let mut conflict_with_itself = simple();
    let refused = Outcome::Sent(vec![SendResult::Refused("IDEMPOTENCY_CONFLICT".to_owned())]);
    conflict_with_itself.send_as("t", sent(1, Some("k")), refused).end("t", vec![]);
    assert_eq!(conflict_with_itself.judge(), ["I6"]);
}

#[test]
fn i7_a_receipt_that_works_or_fails_wrongly() {
    let redelivered = || {
        let mut script = Script::new();
        script.send("t", 1, None, false).recv("t", vec![envelope(1, 1, 1)]).wait(S);
        script.recv("t", vec![envelope(1, 2, 2)]);
        script
    };
    let mut stale_acks = redelivered();
    stale_acks.ack("r1.1").end("t", vec![]);
    assert_eq!(stale_acks.judge(), ["I7"]);

    let mut stale_nacks = redelivered();
    stale_nacks.settle(nack("fail", None), "r1.1", None).ack("r1.2").end("t", vec![]);
    assert_eq!(stale_nacks.judge(), ["I7"]);

    let mut stale_extends = redelivered();
    stale_extends.settle(How::Extend { visibility_ms: 100 }, "r1.1", None).ack("r1.2").end("t", vec![]);
    assert_eq!(stale_extends.judge(), ["I7"]);

    let mut refused_in_time = redelivered();
    refused_in_time.settle(How::Ack, "r1.2", Some("STALE_RECEIPT")).wait(S);
    refused_in_time.recv("t", vec![envelope(1, 3, 3)]).ack("r1.3").end("t", vec![]);
    assert_eq!(refused_in_time.judge(), ["I7"]);

    let mut rate_limited = redelivered();
    rate_limited.settle(How::Ack, "r1.2", Some("RATE_LIMIT")).ack("r1.2").end("t", vec![]);
    assert_eq!(rate_limited.judge(), ["I7"]);

    let mut same_receipt = redelivered();
    same_receipt.send("t", 2, None, false);
    let copied = Got { receipt: "r1.2".to_owned(), ..envelope(2, 1, 1) };
    same_receipt.recv("t", vec![copied]).ack("r1.2").end("t", vec![]);
    assert!(same_receipt.judge().contains(&"I7"));
}

#[test]
fn i8_first_deliveries_out_of_order() {
    let run = |first, second| {
        let mut script = Script::new();
        script.send("fifo", 1, None, false).send("fifo", 2, None, false);
        script.recv("fifo", vec![envelope(first, 1, 1), envelope(second, 1, 1)]);
        script.ack("r1.1").ack("r2.1").end("fifo", vec![]).end("t", vec![]);
        script.judge()
    };
    assert_eq!(run(1, 2), [""; 0]);
    assert_eq!(run(2, 1), ["I8"]);
}

#[test]
fn i9_and_i10_figures_that_do_not_add_up() {
    let figures = |depths: Depths| {
        let mut script = simple();
        script.end("t", vec![]);
        script.op(Call::Stat { topic: "t".to_owned() }, Outcome::Figures(depths));
        script.judge()
    };
    let right = Depths { ready: 0, delayed: 0, vis: 0, dlq: 0, dedup_keys: 1 };
    assert_eq!(figures(right), [""; 0]);
    assert_eq!(figures(Depths { dlq: 1, ..right }), ["I9"]);
    assert_eq!(figures(Depths { dedup_keys: 0, ..right }), ["I9"]);
    assert_eq!(figures(Depths { vis: 1, ..right }), ["I10"]);
    assert_eq!(simple().judge(), ["I10"], "never looked at");
}

#[test]
fn i11_a_refused_send_comes_out() {
    let refused = |effect: &str, fault: Option<&str>| Outcome::Refused {
        status: 503,
        reason: "STORAGE".to_owned(),
        effect: effect.to_owned(),
        fault: fault.map(str::to_owned),
    };
    let mut without_effect = simple();
    without_effect.send_as("t", sent(2, None), refused("none", None)).recv("t", vec![envelope(2, 1, 1)]);
    without_effect.ack("r2.1").end("t", vec![]);
    assert_eq!(without_effect.judge(), ["I11"]);

    let mut perhaps = simple();
    perhaps.send_as("t", sent(2, None), refused("unknown", None)).recv("t", vec![envelope(2, 1, 1)]);
    perhaps.ack("r2.1").end("t", vec![]);
    assert_eq!(perhaps.judge(), [""; 0]);

    let mut misformed = simple();
    misformed.send_as("t", sent(2, None), refused("none", Some("no corr_id"))).end("t", vec![]);
    assert_eq!(misformed.judge(), ["I11"]);

    let unread = Outcome::Refused {
        status: 400,
        reason: "MALFORMED".to_owned(),
        effect: "none".to_owned(),
        fault: None,
    };
    let mut unheard = simple();
    unheard.send_as("t", sent(2, None), unread).end("t", vec![]);
    assert_eq!(unheard.judge(), ["I11"], "whose fault it is does not matter");
}

#[test]
fn i13_changed_on_the_way() {
    let changed = |change: fn(&mut Got)| {
        let mut script = Script::new();
        let mut got = envelope(1, 1, 1);
        change(&mut got);
        script.send("t", 1, None, false).recv("t", vec![got]).ack("r1.1").end("t", vec![]);
        script.judge()
    };
    assert_eq!(changed(|_| {}), [""; 0]);
    assert_eq!(changed(|got| got.hash = "b3:wrong".to_owned()), ["I13"]);
    assert_eq!(changed(|got| got.stated_hash = "b3:wrong".to_owned()), ["I13"]);
    assert_eq!(changed(|got| got.content_type = "text/html".to_owned()), ["I13"]);
    assert_eq!(changed(|got| drop(got.attrs.insert("x".to_owned(), "y".to_owned()))), ["I13"]);

    let mut dead_changed = Script::new();
    dead_changed.send("t", 1, None, false).recv("t", vec![envelope(1, 1, 1)]);
    dead_changed.settle(nack("reject", None), "r1.1", None);
    dead_changed.end("t", vec![Dead { hash: "b3:wrong".to_owned(), ..dead(1, "broken", 1, 1) }]);
    assert_eq!(dead_changed.judge(), ["I13"]);
}

#[test]
fn unknown_requests_excuse_only_what_they_can() {
    // an unseen receive explains one skipped delivery, not two
    let skip = |to| {
        let mut script = Script::new();
        script.send("t", 1, None, false).recv("t", vec![envelope(1, 1, 1)]).wait(S);
        script.recv_outcome("t", unknown()).wait(S);
        let got = Got { receipt: "last".to_owned(), ..envelope(1, to, to) };
        script.recv("t", vec![got]).ack("last").end("t", vec![]);
        script.judge()
    };
    assert_eq!(skip(2), [""; 0]);
    assert_eq!(skip(3), [""; 0]);
    assert!(skip(4).contains(&"I5"));

    // an unknown nack may have ended the lease, an unknown ack may have ended the message, neither must have
    let mut maybe = Script::new();
    maybe.send("t", 1, None, false).recv("t", vec![envelope(1, 1, 1)]);
    maybe.settle_outcome(nack("release", None), "r1.1", unknown());
    maybe.recv("t", vec![envelope(1, 2, 1)]).settle_outcome(How::Ack, "r1.2", unknown()).wait(S);
    maybe.recv("t", vec![envelope(1, 3, 2)]).ack("r1.3").end("t", vec![]);
    assert_eq!(maybe.judge(), [""; 0]);
}

#[test]
fn a_violation_is_shown_with_its_requests_and_the_kills_between() {
    let mut script = simple();
    let killed = script.now;
    script.wait(S).recv("t", vec![envelope(1, 2, 2), envelope(3, 1, 1)]).end("t", vec![]);
    let history = History { limits: limits(), operations: script.operations.clone(), kills: vec![killed] };
    let violations = check(&history);
    let back = violations.iter().find(|violation| violation.invariant == Invariant::AckedStaysAway).unwrap();
    let shown = show(&history, back);
    for part in
        ["I3 ID1 was acked", "Ack on t -> [None] (1 in all)", "SIGKILL", "ID1 delivery 2", "(2 in all)"]
    {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert!(!shown.contains("ID3"), "{shown}");
}
