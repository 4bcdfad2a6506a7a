//! A request of the mailbox that owns its parts, and what comes of it; the same whatever it travels over.

use crate::error::{Error, Refused};
use crate::frames::Answer;
use crate::message::{Delivery, Durability, Message, Nack, Sent, Want};
use crate::repeat::Effect;
use crate::window::Lane;
use bytes::Bytes;
use ron_core::ids::{ContentHash, Incarnation, MessageId, Slot};
use ron_core::oap::{self, BatchOutcome, Bounded, Delivered, Draft, Enqueued, EnqueuedBatch, Raw, Request};
use ron_core::receipt::Receipt;
use ron_core::time::Millis;

/// Most entries of one request: messages, receipts.
pub(crate) const LIST_MAX: usize = oap::LIST_MAX;

/// How deliveries are settled.
#[derive(Debug, Clone)]
pub(crate) enum Settle {
    /// Done.
    Ack,
    /// Given back.
    Nack(Nack),
    /// More time, ms from now.
    Extend(u64),
}

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) enum Ask {
    /// One message.
    Send(Message),
    /// Up to [`LIST_MAX`].
    SendAll(Vec<Message>),
    /// Messages.
    Recv(Want),
    /// Up to [`LIST_MAX`] deliveries.
    Settle(Vec<Receipt>, Settle),
}

/// What is asked, of which topic.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// The topic; its form is checked.
    pub(crate) topic: String,
    /// See there.
    pub(crate) ask: Ask,
}

/// One result an entry, in order.
pub(crate) type Each<T> = Vec<Result<T, Refused>>;

/// What came of it: the list that belongs to the request.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Of sends.
    Sent(Each<Sent>),
    /// Of a receive.
    Delivered(Vec<Delivery>),
    /// Of settling.
    Settled(Each<()>),
}

impl Call {
    /// Which queue it waits in.
    pub(crate) const fn lane(&self) -> Lane {
        match self.ask {
            Ask::Settle(..) => Lane::Settle,
            Ask::Send(_) | Ask::SendAll(_) => Lane::Send,
            Ask::Recv(_) => Lane::Recv,
        }
    }

    /// What repeating it would do.
    pub(crate) fn effect(&self) -> Effect {
        let keyed = match &self.ask {
            Ask::Settle(..) | Ask::Recv(_) => true,
            Ask::Send(message) => message.idempotency_key.is_some(),
            Ask::SendAll(messages) => messages.iter().all(|message| message.idempotency_key.is_some()),
        };
        if keyed { Effect::Same } else { Effect::Twice }
    }

    /// How long the node may take its time with it, ms.
    pub(crate) const fn wait_ms(&self) -> u64 {
        match self.ask {
            Ask::Recv(want) => want.wait_ms,
            Ask::Settle(..) | Ask::Send(_) | Ask::SendAll(_) => 0,
        }
    }

    /// As it goes into a frame.
    pub(crate) fn to_payload(&self) -> Vec<u8> {
        let topic = self.topic.as_str();
        match &self.ask {
            Ask::Send(message) => Request::Enqueue { topic, message: draft(message) }.to_vec(),
            Ask::SendAll(messages) => {
                let messages = Bounded(messages.iter().map(draft).collect());
                Request::EnqueueBatch { topic, messages }.to_vec()
            }
            Ask::Recv(Want { max_messages, max_bytes, visibility_ms, wait_ms }) => Request::Recv {
                topic,
                max_messages: *max_messages,
                max_bytes: *max_bytes,
                visibility_ms: *visibility_ms,
                wait_ms: *wait_ms,
            }
            .to_vec(),
            Ask::Settle(receipts, how) => {
                let receipts = Bounded(receipts.iter().map(|one| oap::Receipt(one.to_bytes())).collect());
                match how {
                    Settle::Ack => Request::Ack { topic, receipts },
                    Settle::Nack(Nack { mode, delay_ms, reason }) => {
                        let reason = reason.as_deref();
                        Request::Nack { topic, receipts, mode: *mode, delay_ms: *delay_ms, reason }
                    }
                    Settle::Extend(visibility_ms) => {
                        Request::Extend { topic, receipts, visibility_ms: *visibility_ms }
                    }
                }
                .to_vec()
            }
        }
    }

    /// Reads the answer of a frame.
    ///
    /// # Errors
    /// [`Error::Refused`], or [`Error::Protocol`] if it is not the answer to this.
    pub(crate) fn read(&self, answer: &Answer) -> Result<Outcome, Error> {
        match &self.ask {
            Ask::Send(_) => {
                let Enqueued { msg_id, duplicate, durability } = answer.read()?;
                Ok(Outcome::Sent(vec![Ok(sent(msg_id, duplicate, durability))]))
            }
            Ask::SendAll(messages) => {
                let EnqueuedBatch { durability, results } = answer.read()?;
                all(results.len(), messages.len())?;
                let one = |outcome| match outcome {
                    BatchOutcome::Stored(msg_id) => Ok(sent(msg_id, false, durability)),
                    BatchOutcome::Duplicate(msg_id) => Ok(sent(msg_id, true, durability)),
                    BatchOutcome::Refused(reason) => Err(Refused::of_entry(&reason)),
                };
                Ok(Outcome::Sent(results.into_iter().map(one).collect()))
            }
            Ask::Recv(_) => Ok(Outcome::Delivered(delivered(answer)?)),
            Ask::Settle(receipts, _) => {
                let oap::Settled { results } = answer.read()?;
                all(results.len(), receipts.len())?;
                let one =
                    |result: Option<String>| result.map_or(Ok(()), |reason| Err(Refused::of_entry(&reason)));
                Ok(Outcome::Settled(results.into_iter().map(one).collect()))
            }
        }
    }
}

/// Whether there is a result for each entry.
pub(crate) fn all(results: usize, entries: usize) -> Result<(), Error> {
    if results == entries { Ok(()) } else { Err(Error::Protocol("not one result for each entry")) }
}

/// The deliveries of an answer.
pub(crate) fn delivered(answer: &Answer) -> Result<Vec<Delivery>, Error> {
    let list: Vec<Delivered<'_>> = answer.read()?;
    Ok(list.into_iter().map(|one| delivery(one, &answer.payload)).collect())
}

fn delivery(one: Delivered<'_>, whole: &Bytes) -> Delivery {
    // one that is a large part of the answer shares its bytes; a small one must not keep all of it in memory
    let large = one.payload.0.len() >= whole.len() / 2;
    let payload = if large { whole.slice_ref(one.payload.0) } else { Bytes::copy_from_slice(one.payload.0) };
    Delivery {
        msg_id: message_id(one.msg_id),
        receipt: Receipt::from_bytes(one.receipt.0),
        enqueued_ms: one.enqueued_ms,
        deadline_ms: one.deadline_ms,
        attempt: one.attempt,
        delivery: one.delivery,
        idempotency_key: one.idempotency_key.map(str::to_owned),
        content_type: one.content_type.to_owned(),
        attrs: one.attrs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
        payload,
        corr_id: one.corr_id.to_owned(),
        source_msg_id: one.source_msg_id.map(str::to_owned),
        restored_ms: one.restored_ms,
        body_ref: one.body_ref.map(ContentHash),
    }
}

fn draft(message: &Message) -> Draft<'_> {
    Draft {
        payload: Raw(&message.payload),
        content_type: message.content_type.as_deref(),
        idempotency_key: message.idempotency_key.as_deref(),
        delay_ms: message.delay_ms,
        ttl_ms: message.ttl_ms,
        payload_hash: None,
        attrs: Bounded(message.attrs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()),
        body_ref: message.body_ref.map(|address| address.0),
    }
}

fn sent(msg_id: [u8; 16], duplicate: bool, durability: oap::Durability) -> Sent {
    let durability = match durability {
        oap::Durability::Ram => Durability::Ram,
        oap::Durability::Fsync => Durability::Fsync,
    };
    Sent { msg_id: message_id(msg_id), duplicate, durability }
}

fn message_id(bytes: [u8; 16]) -> MessageId {
    let whole = u128::from_be_bytes(bytes);
    let (ms, incarnation) = ((whole >> 80) as u64, (whole >> 64) as u64 & 0xffff);
    MessageId::new(Millis(ms), Incarnation(incarnation), Slot(whole as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(ask: Ask) -> Call {
        Call { topic: "t".to_owned(), ask }
    }

    #[test]
    fn ids_keep_all_their_bits() {
        let bytes: [u8; 16] = std::array::from_fn(|n| 0xa0 + n as u8);
        assert_eq!(message_id(bytes).to_bytes(), bytes);
    }

    #[test]
    fn a_send_is_safe_to_repeat_if_every_message_of_it_has_a_key() {
        let (bare, keyed) = (Message::new("x"), Message::new("x").key("k"));
        assert_eq!(call(Ask::Send(bare.clone())).effect(), Effect::Twice);
        assert_eq!(call(Ask::Send(keyed.clone())).effect(), Effect::Same);
        assert_eq!(call(Ask::SendAll(vec![keyed.clone(), bare])).effect(), Effect::Twice);
        assert_eq!(call(Ask::SendAll(vec![keyed.clone(), keyed])).effect(), Effect::Same);
        assert_eq!(call(Ask::Recv(Want::up_to(1))).effect(), Effect::Same);
        assert_eq!(call(Ask::Settle(Vec::new(), Settle::Ack)).effect(), Effect::Same);
    }

    #[test]
    fn a_list_of_another_length_is_no_answer() {
        let settled = oap::to_vec(&oap::Settled { results: vec![None] });
        let header = oap::Header { code: 200, flags: oap::RESP, ..oap::Header::default() };
        let answer = Answer { header, payload: settled.into() };
        let receipt = Receipt::from_bytes([1; 28]);
        let two = call(Ask::Settle(vec![receipt, receipt], Settle::Ack));
        assert!(matches!(two.read(&answer), Err(Error::Protocol(_))));
        let one = call(Ask::Settle(vec![receipt], Settle::Ack));
        assert!(matches!(one.read(&answer), Ok(Outcome::Settled(results)) if results == [Ok(())]));
    }
}
