//! The contract's postcard, written and read strictly: the binary sibling of [`super::wire`].

use super::plan::Plan;
use crate::history::{Got, How, Outcome, SendResult};
use crate::oap::{Answer, Reader, Writer};
use crate::sign;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use std::collections::BTreeMap;

const MICROS: u64 = 1_000;
const RECEIPT: usize = 28;

fn request(op: u64, topic: &str) -> Writer {
    let mut writer = Writer::default();
    writer.number(op).bytes(topic.as_bytes());
    writer
}

fn draft(to: &mut Writer, plan: &Plan, body: &[u8]) {
    to.bytes(body);
    for text in [plan.content_type(), plan.key.as_deref()] {
        to.option(text, |to, text| to.bytes(text.as_bytes()));
    }
    to.number(plan.delay_ms).number(0); // no TTL
    let hash = plan.send.is_multiple_of(3).then(|| blake3::hash(body));
    to.option(hash, |to, hash| to.array(hash.as_bytes()));
    to.number(1).bytes(b"cid").bytes(format!("{:x}", plan.send).as_bytes());
    to.option(None::<&[u8]>, |to, object| to.array(object)); // no object
}

/// One message.
pub(super) fn enqueue(plan: &Plan, body: &[u8]) -> Vec<u8> {
    let mut writer = request(0, plan.topic);
    draft(&mut writer, plan, body);
    writer.0
}

/// Several messages of one topic.
pub(super) fn enqueue_batch(topic: &str, messages: &[(&Plan, Vec<u8>)]) -> Vec<u8> {
    let mut writer = request(1, topic);
    writer.number(messages.len() as u64);
    for (plan, body) in messages {
        draft(&mut writer, plan, body);
    }
    writer.0
}

/// A receive.
pub(super) fn recv(topic: &str, visibility_ms: u64, max: u32, wait_ms: u64) -> Vec<u8> {
    let mut writer = request(2, topic);
    writer.number(max.into());
    for number in [8 << 20, visibility_ms] {
        writer.option(Some(number), |to, number| to.number(number));
    }
    writer.number(wait_ms);
    writer.0
}

/// An ack, nack or extend; `None` if a receipt is none.
pub(super) fn settle(topic: &str, how: &How, receipts: &[String]) -> Option<Vec<u8>> {
    let mut writer = request(
        if *how == How::Ack {
            5
        } else if matches!(how, How::Nack { .. }) {
            6
        } else {
            7
        },
        topic,
    );
    writer.number(receipts.len() as u64);
    for receipt in receipts {
        let bytes = BASE64URL_NOPAD.decode(receipt.as_bytes()).ok()?;
        writer.array(Some(bytes).filter(|bytes| bytes.len() == RECEIPT)?.as_slice());
    }
    match how {
        How::Ack => {}
        How::Nack { mode, delay_ms, reason } => {
            let mode = ["fail", "release", "reject"].iter().position(|known| known == mode)?;
            writer.number(mode as u64).option(*delay_ms, |to, ms| to.number(ms));
            writer.option(reason.as_deref(), |to, text| to.bytes(text.as_bytes()));
        }
        How::Extend { visibility_ms } => {
            writer.number(*visibility_ms);
        }
    }
    Some(writer.0)
}

/// A refusal, and what is wrong with its form.
pub(super) fn refusal(answer: &Answer) -> Outcome {
    let mut from = Reader(&answer.payload);
    let mut read = || -> Result<_, String> {
        let error = (from.text()?, from.text()?, from.text()?, from.option(Reader::number)?);
        from.end()?;
        Ok(error)
    };
    let (status, mut fault) = (answer.code, None);
    let (reason, effect) = match read() {
        Err(wrong) => {
            fault = Some(wrong);
            (String::new(), String::new())
        }
        Ok((reason, text, effect, retry)) => {
            let known = matches!(effect.as_str(), "none" | "unknown");
            if text.is_empty() || !known || status < 500 && effect == "unknown" {
                fault = Some(format!("{status} {reason} {effect:?} {text:?}"));
            } else if matches!(status, 429 | 503) && retry.is_none() {
                fault = Some(format!("{status} {reason} without retry_after_ms"));
            }
            (reason, effect)
        }
    };
    Outcome::Refused { status, reason, effect, fault }
}

/// Reads the payload of a 200 to its last byte.
fn whole<T>(answer: &Answer, read: impl FnOnce(&mut Reader<'_>) -> Result<T, String>) -> Result<T, String> {
    let mut from = Reader(&answer.payload);
    let value = read(&mut from)?;
    from.end()?;
    Ok(value)
}

/// A ULID as text: 26 digits of 5 bits.
fn message_id(from: &mut Reader<'_>) -> Result<String, String> {
    const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let bits = from.array(16)?.iter().fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
    Ok((0..26).rev().map(|place| char::from(DIGITS[(bits >> (5 * place) & 31) as usize])).collect())
}

fn durability(from: &mut Reader<'_>) -> Result<String, String> {
    match from.number()? {
        0 => Ok("ram".to_owned()),
        1 => Ok("fsync".to_owned()),
        other => Err(format!("durability {other}")),
    }
}

/// The answer to an enqueue.
pub(super) fn accepted(answer: &Answer) -> Result<SendResult, String> {
    whole(answer, |from| {
        let msg_id = message_id(from)?;
        let duplicate = from.option(|_| Ok(()))?.is_some(); // a bool is an option of nothing
        Ok(SendResult::Accepted { msg_id, duplicate, durability: Some(durability(from)?), hash: None })
    })
}

/// The answer to a batch.
pub(super) fn batch_results(answer: &Answer, count: usize) -> Result<Vec<SendResult>, String> {
    let results = whole(answer, |from| {
        let durability = durability(from)?;
        from.list(|from| match from.number()? {
            kind @ (0 | 1) => Ok(SendResult::Accepted {
                msg_id: message_id(from)?,
                duplicate: kind == 1,
                durability: Some(durability.clone()),
                hash: None,
            }),
            2 => from.text().map(SendResult::Refused),
            other => Err(format!("a result of kind {other}")),
        })
    })?;
    if results.len() == count { Ok(results) } else { Err(format!("{} results for {count}", results.len())) }
}

/// The answer to a settling.
pub(super) fn settled(answer: &Answer, count: usize) -> Result<Vec<Option<String>>, String> {
    let results = whole(answer, |from| from.list(|from| from.option(Reader::text)))?;
    if results.len() == count { Ok(results) } else { Err(format!("{} results for {count}", results.len())) }
}

/// The answer to a receive.
pub(super) fn deliveries(answer: &Answer) -> Result<Vec<Got>, String> {
    whole(answer, |from| from.list(delivered))
}

fn delivered(from: &mut Reader<'_>) -> Result<Got, String> {
    let msg_id = message_id(from)?;
    let receipt = BASE64URL_NOPAD.encode(from.array(RECEIPT)?);
    let (_enqueued, deadline) = (from.number()?, from.number()? * MICROS);
    let (attempt, delivery) = (from.small()?, from.small()?);
    from.option(Reader::text)?; // its key
    let content_type = from.text()?;
    let attrs: BTreeMap<String, String> =
        from.list(|from| Ok((from.text()?, from.text()?)))?.into_iter().collect();
    let stated_hash = format!("b3:{}", HEXLOWER.encode(from.array(32)?));
    let payload = from.bytes()?;
    if from.text()?.is_empty() {
        return Err(format!("{msg_id} has no corr_id"));
    }
    from.option(Reader::text)?; // the message it is a copy of
    from.option(Reader::number)?; // when it was restored
    from.option(|from| from.array(32))?; // the object that is its body
    let (hash, len) = (sign::content_address(payload), payload.len() as u64);
    Ok(Got { msg_id, receipt, delivery, attempt, deadline, hash, stated_hash, len, content_type, attrs })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(hex: &str) -> Answer {
        let frame = HEXLOWER.decode(hex.as_bytes()).unwrap();
        Answer { code: u16::from_be_bytes([frame[8], frame[9]]), payload: frame[38..].to_vec() }
    }

    /// Frames of docs/OAP.md.
    #[test]
    fn answers_are_read_to_the_last_byte() {
        let enqueued = "000000380001000200c802010000000000000000000000000000000000000000000000000003019c363a5598\
            000100000000000000000001";
        let Ok(SendResult::Accepted { msg_id, duplicate, durability, .. }) = accepted(&answer(enqueued))
        else {
            panic!("not accepted")
        };
        assert_eq!(
            (msg_id.as_str(), duplicate, durability.as_deref()),
            ("01KGV3MNCR000G000000000000", false, Some("fsync"))
        );
        assert!(accepted(&answer(&format!("{enqueued}00"))).is_err(), "a byte too many");
        let settled = settled(
            &answer(
                "000000370001000200c8020100000000000000000000000000000000000000000000000000090200010d5354414c455f\
                52454345495054",
            ),
            2,
        );
        assert_eq!(settled, Ok(vec![None, Some("STALE_RECEIPT".to_owned())]));
        let Outcome::Refused { status, reason, effect, fault } = refusal(&answer(
            "000000530001000201910201000000000000000000000000000000000000000000000000000206554e415554481f6361\
            70206d7573742062652061206361706162696c69747927732074657874046e6f6e6500",
        )) else {
            panic!("not refused")
        };
        assert_eq!((status, reason.as_str(), effect.as_str(), fault), (401, "UNAUTH", "none", None));
    }

    #[test]
    fn a_delivery_is_read_to_the_last_byte() {
        let got = deliveries(&answer(
            "000000bf0001000200c80201000000000000000000000000000000000000000000000000000501019c363a5598000100\
            000000000000000102030405060708090a0b0c0d0e0f101112131415161718191a1b1ce8a6a0a1a0349891a2a1a03401\
            0101086f726465722d31370a746578742f706c61696e01047a6f6e65026575ea8f163db38682925e4491c5e58d4bb350\
            6ef8c14eb78a86e908c5624a67200f0568656c6c6f166f61702d312d30303030303030303030303030303033000000",
        ));
        let got = &got.unwrap()[0];
        assert_eq!((got.len, got.attempt, got.delivery), (5, 1, 1));
        assert_eq!((&got.hash, got.attrs["zone"].as_str()), (&got.stated_hash, "eu"));
    }
}
