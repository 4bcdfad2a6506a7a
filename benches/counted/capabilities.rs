//! Capabilities: read and proven, asked, made for a webhook.

use crate::BATCH;
use gungraun::{library_benchmark, library_benchmark_group};
use ron_core::capability::{
    Ask, Audience, Capability, KeyEntry, Keyring, Op, RootKey, mint, verify, webhook_caveats,
};
use ron_core::ids::{Kid, Tenant, Topic};
use std::hint::black_box;

/// Unix seconds.
const NOW: u64 = 1_795_366_065;

struct Bearer {
    keyring: Keyring,
    text: String,
}

struct Asked {
    capability: Capability,
    tenant: Tenant,
    topic: Topic,
}

fn kid() -> Kid {
    Kid::parse("k2026-11").unwrap()
}

fn tenant() -> Tenant {
    Tenant::parse("acme").unwrap()
}

fn topic() -> Topic {
    Topic::parse("orders").unwrap()
}

fn key() -> RootKey {
    RootKey::new([7; 32])
}

/// A token with three caveats, as `ronctl cap mint` writes them.
fn bearer() -> Bearer {
    let entry = KeyEntry { kid: kid(), key: key(), created_unix_s: NOW - 60, not_after_unix_s: None };
    let caveats =
        [format!("exp = {}", NOW + 3_600), "op = enqueue,recv,ack,nack".into(), "topic = orders".into()];
    let text = mint(&key(), &kid(), &tenant(), [9; 16], &caveats).unwrap();
    Bearer { keyring: Keyring::new(vec![entry]).unwrap(), text }
}

fn asked() -> Asked {
    let Bearer { keyring, text } = bearer();
    Asked { capability: verify(&text, &keyring, NOW).unwrap(), tenant: tenant(), topic: topic() }
}

#[library_benchmark]
#[bench::three_caveats(bearer())]
fn prove(bearer: Bearer) -> (Bearer, Capability) {
    let proven = verify(&bearer.text, &bearer.keyring, NOW).unwrap();
    (bearer, proven)
}

#[library_benchmark]
#[bench::times_64(asked())]
fn ask(asked: Asked) -> (Asked, usize) {
    let mut rates = 0;
    for bytes in 0..BATCH as u64 {
        let ask = Ask {
            op: Op::Enqueue,
            tenant: &asked.tenant,
            topic: Some(&asked.topic),
            audience: Audience::Mailbox,
            peer: [127, 0, 0, 1].into(),
            message_bytes: Some(bytes),
            wall_unix_s: NOW,
        };
        rates += black_box(&asked.capability).allows(&ask).unwrap().len();
    }
    (asked, rates)
}

#[library_benchmark]
#[bench::five_caveats(key(), kid(), tenant(), topic())]
fn mint_for_webhook(key: RootKey, kid: Kid, tenant: Tenant, topic: Topic) -> String {
    mint(&key, &kid, &tenant, [9; 16], &webhook_caveats(&topic, 256, NOW)).unwrap()
}

library_benchmark_group!(name = capability, benchmarks = [prove, ask, mint_for_webhook]);
