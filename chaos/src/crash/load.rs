//! The workload: everything a client can do to a queue, at random, in commits that mix shards.

use super::Violation;
use super::told::{Draft, How, Settling};
use super::world::{Outcome, World};
use bytes::Bytes;
use ron_core::ids::ContentHash;
use ron_core::message::{DedupClaim, MessageMeta, Origin, OtherBody};
use ron_core::shard::{Command, DeliveryRef, NackMode, Want};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Keys a topic's senders draw from: few, so that they meet again.
const KEYS: u64 = 40;

impl World {
    /// Time passes, clients do something, the store commits; sometimes it tidies up.
    ///
    /// # Errors
    /// An answer that is not true.
    pub fn round(&mut self) -> Result<Outcome, Violation> {
        let ms = match self.rng.between(0, 99) {
            0..30 => 0,
            30..80 => self.rng.between(1, 600),
            80..97 => self.rng.between(1_000, 8_000),
            97..99 => self.rng.between(10_000, 60_000),
            _ => self.rng.between(300_000, 900_000),
        };
        self.clock.advance(ms);
        for _ in 0..self.rng.between(1, 6) {
            let seat = self.rng.index(self.seats.len());
            self.act(seat);
        }
        if let Outcome::Failed(failure) = self.commit_all()? {
            return Ok(Outcome::Failed(failure));
        }
        // Seldom in some workloads, so that much is left to fold, and in more than one commit; power may fail
        // between them.
        let often = if self.spread { 6 } else { 25 };
        if self.rng.chance(often) {
            for _ in 0..self.rng.between(1, 5) {
                if !self.idle() {
                    break;
                }
            }
        }
        Ok(Outcome::Answered)
    }

    fn act(&mut self, seat: usize) {
        match self.rng.between(0, 99) {
            0..34 if self.model.live(self.seats[seat].id) < self.live_max => {
                let count = if self.live_max < 10 || self.spread {
                    self.rng.between(1, 2)
                } else if self.rng.chance(8) {
                    self.rng.between(20, 45)
                } else {
                    self.rng.between(1, 6)
                };
                let puts = (0..count).map(|_| Arc::new(self.draft())).collect();
                self.send(seat, puts);
            }
            0..62 => {
                let visibility_ms = self.rng.chance(50).then(|| self.rng.between(250, 20_000));
                let max_bytes = if self.rng.chance(20) { 1_000 } else { 4 << 20 };
                let want = Want { max_messages: self.rng.between(1, 20) as u32, max_bytes, visibility_ms };
                let wait_ms = if self.rng.chance(30) { self.rng.between(1, 3_000) } else { 0 };
                self.receive(seat, want, self.now().plus(wait_ms));
            }
            62..95 => self.settle_some(seat),
            _ => self.command(seat, Command::Tick),
        }
    }

    fn settle_some(&mut self, seat: usize) {
        let most = self.seats[seat].receipts.len().min(if self.rng.chance(30) { 40 } else { 6 });
        let mut deliveries: Vec<DeliveryRef> = Vec::new();
        for _ in 0..self.rng.between(1, 40).min(most as u64) {
            let keep = self.rng.chance(12); // to be used again, when it is stale
            let at = self.rng.index(self.seats[seat].receipts.len());
            let receipts = &mut self.seats[seat].receipts;
            deliveries.push(if keep { receipts[at] } else { receipts.swap_remove(at) });
        }
        if deliveries.is_empty() {
            return;
        }
        let delay_ms = self.rng.chance(60).then(|| self.rng.between(0, 4) * self.rng.between(0, 3_000));
        let note = self.rng.chance(50).then(|| format!("error {}", self.rng.bits() % 1_000));
        let how = match self.rng.between(0, 9) {
            _ if self.live_max < 10 && self.rng.chance(80) => How::Ack,
            0..5 => How::Ack,
            5 => {
                let ms = self.rng.between(250, 30_000);
                // what was extended is still held
                self.seats[seat].receipts.extend(&deliveries);
                How::Extend(ms)
            }
            6 => How::Nack(NackMode::Release, delay_ms, note, BTreeMap::new()),
            7 => How::Nack(NackMode::Reject, None, note, BTreeMap::new()),
            _ => How::Nack(NackMode::Fail, delay_ms, note, BTreeMap::new()),
        };
        let command = match &how {
            How::Ack => Command::Ack { deliveries: deliveries.clone() },
            How::Extend(ms) => Command::Extend { deliveries: deliveries.clone(), visibility_ms: *ms },
            How::Nack(mode, delay_ms, note, _) => Command::Nack {
                deliveries: deliveries.clone(),
                mode: *mode,
                delay_ms: *delay_ms,
                note: note.clone(),
                entropy: self.rng.bits(),
            },
        };
        self.settle(seat, command, Settling { how, deliveries, results: Vec::new() });
    }

    fn draft(&mut self) -> Draft {
        let key = self.rng.chance(35).then(|| self.rng.between(1, KEYS));
        // The body follows from the key, so that a repeated key is a duplicate; now and then it does not.
        let variant = if self.rng.chance(12) { self.rng.bits() } else { 0 };
        let mut of_body = match key {
            Some(key) => super::rng::Rng::new(key, variant),
            None => super::rng::Rng::new(self.rng.bits(), 0),
        };
        let len = match of_body.between(0, 99) {
            0..90 => of_body.between(1, 600),
            90..98 => of_body.between(2_000, 20_000),
            _ => of_body.between(61_000, 80_000),
        };
        let payload: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| of_body.bits().to_le_bytes()).collect();
        let payload = Bytes::from(payload).slice(..len as usize);
        let claim = key.map(|key| self.claim(key, &payload));
        let ttl_ms = self.rng.chance(10).then(|| self.rng.between(500, 60_000));
        let delay_ms = if self.rng.chance(15) { self.rng.between(100, 20_000) } else { 0 };
        let meta = MessageMeta {
            content_type: "application/octet-stream".to_owned(),
            attrs: match self.rng.between(0, 9) {
                0 => vec![("kind".to_owned(), "x".to_owned())],
                1..4 => vec![("group".to_owned(), format!("g{}", self.rng.between(0, 3)))],
                _ => Vec::new(),
            },
            idempotency_key: claim.as_ref().map(|(text, _)| text.clone()),
            corr_id: format!("corr-{:016x}", self.rng.bits()),
            source_msg_id: None,
            body_ref: None,
        };
        Draft { payload, meta, delay_ms, ttl_ms, claim }
    }

    fn claim(&mut self, key: u64, payload: &Bytes) -> (String, DedupClaim) {
        let text = format!("key-{key}");
        let provider = key.is_multiple_of(4);
        let origin = if provider { Origin::Provider("github".to_owned()) } else { Origin::Api };
        let window_ms = if self.rng.chance(30) { self.rng.between(1_000, 30_000) } else { 900_000 };
        let mut claim = DedupClaim::new(&origin, text.as_bytes(), &ContentHash::of(payload), window_ms);
        if provider {
            claim.same_key_other_body = OtherBody::Duplicate;
        }
        (text, claim)
    }

    /// Sends remembered keys once more, with the same body, with another one, and after their end: what the
    /// store makes of them is judged as every other answer.
    ///
    /// # Errors
    /// An answer that is not true.
    pub fn probe_keys(&mut self) -> Result<Outcome, Violation> {
        for seat in 0..self.seats.len() {
            let id = self.seats[seat].id;
            let known: Vec<Arc<Draft>> = self.model.keys(id).map(|(_, known)| known.draft.clone()).collect();
            let mut puts: Vec<Arc<Draft>> = Vec::new();
            for first in known {
                let Some((text, claim)) = first.claim.clone() else { continue };
                let other = self.rng.chance(10);
                let payload = if other { Bytes::from_static(b"other") } else { first.payload.clone() };
                let body = DedupClaim::new(&Origin::Api, b"", &ContentHash::of(&payload), 1).body;
                let claim = Some((text, DedupClaim { body, ..claim }));
                let meta = first.meta.clone();
                puts.push(Arc::new(Draft { payload, meta, delay_ms: 0, ttl_ms: None, claim }));
            }
            // One without a key: its place must be a new one.
            puts.push(Arc::new(Draft { claim: None, ..self.draft() }));
            self.send(seat, puts);
        }
        self.commit_all()
    }
}
