//! A store that does not keep up: new messages are shed, the rest goes on, and it ends by itself.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use http::Method;
use ron_actors::kernel::event::Event;
use ron_chaos::drill::client::Answer;
use ron_chaos::drill::house::{House, TENANT};
use ron_chaos::drill::until;
use serde_json::{Value, json};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

async fn send(house: &House) -> Answer {
    let path = format!("/v1/{TENANT}/t/enqueue");
    house.mailbox().call(Method::POST, &path, &[], "x").await.unwrap()
}

async fn ready(house: &House) -> Answer {
    house.admin("mailbox_admin").get("/readyz").await.unwrap()
}

async fn stat(house: &House) -> [Value; 2] {
    let stat = house.mailbox().get(&format!("/v1/{TENANT}/t")).await.unwrap().ok().unwrap();
    [stat["ready"].clone(), stat["vis"].clone()]
}

fn switched(house: &House) -> Vec<bool> {
    let events = house.node.tree().bus.recent(SOON * 10, "interop.bridge.brownout");
    let active = |event: &Event| matches!(event, Event::Brownout { active: true });
    events.iter().map(|record| active(&record.event)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stalled_disk_sheds_sends_alone_until_it_is_well_again() {
    let dir = tempfile::tempdir().unwrap();
    let house = Box::pin(House::boot(dir.path(), 1)).await.unwrap();
    send(&house).await.ok().unwrap();
    assert_eq!(ready(&house).await.status, 200);

    house.gate.hold();
    let path = format!("/v1/{TENANT}/t/enqueue");
    let mut stuck = house.mailbox();
    let stuck = tokio::spawn(async move { stuck.call(Method::POST, &path, &[], "stuck").await });
    let shed = || async { Some(ready(&house).await).filter(|answer| answer.status == 503) };
    let answer = until("the brownout", SOON, shed).await.unwrap();
    assert_eq!(answer.json["missing"], json!(["brownout"]));
    assert_eq!(house.admin("mailbox_admin").get("/readyz?for=reads").await.unwrap().status, 200);
    let refused = send(&house).await;
    assert_eq!((refused.status, refused.reason()), (503, "DEGRADED"));
    let (headers, body) = house.senders[0].event(1, house.clock.as_ref()).unwrap();
    let hook = house.interop().call(Method::POST, "/webhooks/wh-00", &headers, body).await.unwrap();
    assert_eq!((hook.status, hook.reason()), (503, "DEGRADED"));
    assert_eq!(switched(&house), [true]);

    house.gate.release();
    // what was taken in before is stored, and what is there can be received and acked
    stuck.await.unwrap().unwrap().ok().unwrap();
    let mut consumer = house.mailbox();
    let got = consumer.post(&format!("/v1/{TENANT}/t/recv"), &json!({"max_messages": 1})).await.unwrap();
    let receipt = got.ok().unwrap()["messages"][0]["receipt"].clone();
    let acked = consumer.post(&format!("/v1/{TENANT}/t/ack"), &json!({"receipts": [receipt]})).await.unwrap();
    assert_eq!(acked.ok().unwrap()["results"][0]["ok"], json!(true));
    let refused = send(&house).await;
    assert_eq!((refused.status, refused.reason()), (503, "DEGRADED"), "not at the first good commit");
    assert_eq!(stat(&house).await, [json!(1), json!(0)], "what was refused has no effect");

    let well = || async { Some(ready(&house).await).filter(|answer| answer.status == 200) };
    until("the end of the brownout", SOON, well).await.unwrap();
    send(&house).await.ok().unwrap();
    assert_eq!(stat(&house).await, [json!(2), json!(0)]);
    assert_eq!(switched(&house), [true, false]);
    house.shut().await.unwrap();
}
