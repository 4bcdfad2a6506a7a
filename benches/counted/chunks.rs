//! Chunks: the messages of a commit into the bytes that are stored, and back.

use crate::{BATCH, payload};
use bytes::Bytes;
use gungraun::{library_benchmark, library_benchmark_group};
use ron_actors::store::{ChunkImage, CutChunk, Cutter, Head};
use ron_core::ids::{ContentHash, ShardId, Slot};
use ron_core::message::{MessageMeta, NewMessage, StoredMessage};
use ron_core::time::Millis;

const NOW: Millis = Millis(1_795_366_065_000);
const CHUNK: u64 = 2;

fn meta() -> MessageMeta {
    MessageMeta {
        content_type: "application/json".into(),
        attrs: vec![
            ("source".into(), "shop".into()),
            ("trace".into(), "4bf92f3577b34da6a3ce929d0e0e4736".into()),
        ],
        corr_id: "01KAPZ5Q3N8Z6W4T2R0V9X7Y5B".into(),
        ..MessageMeta::default()
    }
}

fn message(number: usize) -> NewMessage {
    let payload = Bytes::from(payload(number));
    let payload_hash = ContentHash::of(&payload);
    NewMessage { payload, payload_hash, meta: meta(), delay_ms: 0, ttl_ms: None, dedup: None }
}

fn messages() -> Vec<NewMessage> {
    (0..BATCH).map(message).collect()
}

fn stored() -> (Vec<u8>, Bytes) {
    let (_, mut chunks) = cut(&messages());
    let (head, body) = chunks.pop().unwrap();
    assert!(chunks.is_empty());
    (head, body)
}

/// Four topics' messages of one commit.
fn cut(messages: &[NewMessage]) -> (u64, Vec<(Vec<u8>, Bytes)>) {
    let mut cutter = Cutter::new(NOW, CHUNK);
    for (at, message) in messages.iter().enumerate() {
        cutter.push(ShardId((at * 4 / BATCH) as u32), message);
    }
    let (chunks, next) = cutter.finish();
    let row = |CutChunk { head, body, .. }: CutChunk| (head.encode(), body);
    (next, chunks.into_iter().map(row).collect())
}

#[library_benchmark]
#[bench::of_64(messages())]
fn encode(messages: Vec<NewMessage>) -> (Vec<NewMessage>, Vec<(Vec<u8>, Bytes)>) {
    let (_, chunks) = cut(&messages);
    (messages, chunks)
}

// with the checksum and the BLAKE3 of each message
#[library_benchmark]
#[bench::of_64(stored())]
fn decode((head, body): (Vec<u8>, Bytes)) -> Vec<StoredMessage> {
    let head = Head::decode(CHUNK, &head).unwrap();
    let image = ChunkImage::new(&head, body);
    (0..BATCH as u16).map(|idx| image.read(Slot::new(CHUNK, idx)).unwrap()).collect()
}

#[library_benchmark]
#[bench::of_64(messages())]
fn payload_hashes(messages: Vec<NewMessage>) -> Vec<NewMessage> {
    for message in &messages {
        assert_eq!(ContentHash::of(&message.payload), message.payload_hash);
    }
    messages
}

library_benchmark_group!(name = chunk, benchmarks = [encode, decode, payload_hashes]);
