//! Receipts: opaque text that names one delivery of one message and cannot be forged (SPEC §1, §4.7).
//!
//! The text is base64url without padding of `slot u64 BE ‖ delivery u32 BE ‖ tag`, 38 characters, where `tag`
//! is the first 128 bits of BLAKE3 keyed with the store's receipt key over `"ron-receipt/v1\0" ‖ incarnation
//! u64 BE ‖ tenant ‖ 0x00 ‖ topic ‖ 0x00 ‖ slot ‖ delivery`. So it survives a restart with the store, and
//! means nothing in another queue or another incarnation.

use crate::ids::{Incarnation, QueueKey, Slot};
use crate::shard::DeliveryRef;
use data_encoding::BASE64URL_NOPAD;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

const TAG_BYTES: usize = 16;
const NAMED_BYTES: usize = 12;
const BYTES: usize = NAMED_BYTES + TAG_BYTES;

/// The store's key for receipts. Wiped when dropped, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ReceiptKey([u8; 32]);

impl ReceiptKey {
    /// The key with these bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> ReceiptKey {
        ReceiptKey(bytes)
    }
}

impl std::fmt::Debug for ReceiptKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReceiptKey(..)")
    }
}

/// Why a receipt does not count. Maps to the reason of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// It is not the text of a receipt.
    #[error("receipt is not one that this service gives out")]
    Malformed,
    /// Its tag is wrong: forged, or of another queue or incarnation.
    #[error("receipt is not of this queue")]
    Stale,
}

/// Issues and opens receipts.
#[derive(Debug, Clone, Copy)]
pub struct Receipt;

impl Receipt {
    /// The receipt of `delivery` out of `queue`.
    #[must_use]
    pub fn issue(
        key: &ReceiptKey,
        incarnation: Incarnation,
        queue: &QueueKey,
        delivery: DeliveryRef,
    ) -> String {
        let named = name(delivery);
        let mut bytes = [0u8; BYTES];
        bytes[..NAMED_BYTES].copy_from_slice(&named);
        bytes[NAMED_BYTES..].copy_from_slice(&tag(key, incarnation, queue, &named));
        BASE64URL_NOPAD.encode(&bytes)
    }

    /// The delivery that the receipt `text` names. Compares its tag in constant time.
    ///
    /// # Errors
    /// See [`ReceiptError`].
    pub fn open(
        key: &ReceiptKey,
        incarnation: Incarnation,
        queue: &QueueKey,
        text: &str,
    ) -> Result<DeliveryRef, ReceiptError> {
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| ReceiptError::Malformed)?;
        if BASE64URL_NOPAD.encode(&bytes) != text {
            return Err(ReceiptError::Malformed);
        }
        let bytes: [u8; BYTES] = bytes.try_into().map_err(|_| ReceiptError::Malformed)?;
        let (named, given) = bytes.split_at(NAMED_BYTES);
        if !bool::from(tag(key, incarnation, queue, named).ct_eq(given)) {
            return Err(ReceiptError::Stale);
        }
        let slot = named[..8].iter().fold(0, |slot, &byte| (slot << 8) | u64::from(byte));
        let delivery = named[8..].iter().fold(0, |count, &byte| (count << 8) | u32::from(byte));
        Ok(DeliveryRef { slot: Slot(slot), delivery })
    }
}

fn name(delivery: DeliveryRef) -> [u8; NAMED_BYTES] {
    let mut named = [0u8; NAMED_BYTES];
    named[..8].copy_from_slice(&delivery.slot.0.to_be_bytes());
    named[8..].copy_from_slice(&delivery.delivery.to_be_bytes());
    named
}

fn tag(key: &ReceiptKey, incarnation: Incarnation, queue: &QueueKey, named: &[u8]) -> [u8; TAG_BYTES] {
    let mut hasher = blake3::Hasher::new_keyed(&key.0);
    hasher.update(b"ron-receipt/v1\0").update(&incarnation.0.to_be_bytes());
    hasher.update(queue.tenant.as_str().as_bytes()).update(&[0]);
    if !crate::planted!(ForeignReceiptTaken) {
        hasher.update(queue.topic.as_str().as_bytes()).update(&[0]);
    }
    hasher.update(named);
    let mut tag = [0u8; TAG_BYTES];
    tag.copy_from_slice(&hasher.finalize().as_bytes()[..TAG_BYTES]);
    tag
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Tenant, Topic};

    fn queue(tenant: &str, topic: &str) -> QueueKey {
        QueueKey { tenant: Tenant::parse(tenant).unwrap(), topic: Topic::parse(topic).unwrap() }
    }

    const INCARNATION: Incarnation = Incarnation(7);
    const DELIVERY: DeliveryRef = DeliveryRef { slot: Slot(0x0102_0304_0506_0708), delivery: 0x0a0b_0c0d };

    #[test]
    fn opens_what_it_issued() {
        let (key, queue) = (ReceiptKey::new([9; 32]), queue("acme", "orders"));
        let text = Receipt::issue(&key, INCARNATION, &queue, DELIVERY);
        assert_eq!(text.len(), 38);
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'));
        assert_eq!(Receipt::open(&key, INCARNATION, &queue, &text), Ok(DELIVERY));
    }

    #[test]
    fn is_stale_anywhere_else() {
        let (key, here) = (ReceiptKey::new([9; 32]), queue("acme", "orders"));
        let text = Receipt::issue(&key, INCARNATION, &here, DELIVERY);
        let stale = Err(ReceiptError::Stale);
        assert_eq!(Receipt::open(&ReceiptKey::new([8; 32]), INCARNATION, &here, &text), stale);
        assert_eq!(Receipt::open(&key, Incarnation(8), &here, &text), stale);
        for other in [queue("acme", "order"), queue("acm", "orders"), queue("orders", "acme")] {
            assert_eq!(Receipt::open(&key, INCARNATION, &other, &text), stale, "{other}");
        }
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let (key, queue) = (ReceiptKey::new([9; 32]), queue("acme", "orders"));
        let text = Receipt::issue(&key, INCARNATION, &queue, DELIVERY);
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let changed = BASE64URL_NOPAD.encode(&changed);
            assert_eq!(Receipt::open(&key, INCARNATION, &queue, &changed), Err(ReceiptError::Stale));
        }
    }

    #[test]
    fn other_text_is_malformed() {
        let (key, queue) = (ReceiptKey::new([9; 32]), queue("acme", "orders"));
        let text = Receipt::issue(&key, INCARNATION, &queue, DELIVERY);
        let mut others =
            vec![String::new(), "x".into(), format!("{text}="), format!("{text}A"), format!(" {text}")];
        others.push(text[1..].to_owned());
        others.push("é".repeat(19));
        others.push("A".repeat(10_000));
        // the last character has four bits that must be 0
        let last = BASE64URL_NOPAD.decode(text.as_bytes()).unwrap()[BYTES - 1];
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let sloppy = alphabet[usize::from((last & 0b11) << 4) + 1];
        others.push(format!("{}{}", &text[..37], char::from(sloppy)));
        for other in others {
            assert_eq!(
                Receipt::open(&key, INCARNATION, &queue, &other),
                Err(ReceiptError::Malformed),
                "{other}"
            );
        }
    }

    #[test]
    fn the_key_is_not_printed() {
        assert_eq!(format!("{:?}", ReceiptKey::new([0x41; 32])), "ReceiptKey(..)");
    }
}
