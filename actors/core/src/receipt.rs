//! Receipts: opaque text that names one delivery of one message and cannot be forged (SPEC §1, §4.7).
//!
//! The text is base64url without padding of `slot u64 BE ‖ delivery u32 BE ‖ tag`, 38 characters, where `tag`
//! is the first 128 bits of BLAKE3 keyed with the store's receipt key over `"ron-receipt/v1\0" ‖ incarnation
//! u64 BE ‖ tenant ‖ 0x00 ‖ topic ‖ 0x00 ‖ slot ‖ delivery`. So it survives a restart with the store, and
//! means nothing in another queue or another incarnation.

use crate::ids::{Incarnation, QueueKey, Slot};
use crate::shard::DeliveryRef;
use data_encoding::BASE64URL_NOPAD;
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

const TAG_BYTES: usize = 16;
const NAMED_BYTES: usize = 12;
/// Bytes of a receipt.
pub const RECEIPT_BYTES: usize = NAMED_BYTES + TAG_BYTES;

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

impl fmt::Debug for ReceiptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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

/// A receipt, as it is; [`fmt::Display`] writes its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt([u8; RECEIPT_BYTES]);

impl Receipt {
    /// The receipt of `delivery` out of `queue`.
    #[must_use]
    pub fn issue(
        key: &ReceiptKey,
        incarnation: Incarnation,
        queue: &QueueKey,
        delivery: DeliveryRef,
    ) -> Receipt {
        let named = name(delivery);
        let mut bytes = [0u8; RECEIPT_BYTES];
        bytes[..NAMED_BYTES].copy_from_slice(&named);
        bytes[NAMED_BYTES..].copy_from_slice(&tag(key, incarnation, queue, &named));
        Receipt(bytes)
    }

    /// What somebody says is a receipt.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; RECEIPT_BYTES]) -> Receipt {
        Receipt(bytes)
    }

    /// Its bytes, as OAP/1 has them.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; RECEIPT_BYTES] {
        self.0
    }

    /// The receipt with this text.
    ///
    /// # Errors
    /// [`ReceiptError::Malformed`] for anything that is not exactly what [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Result<Receipt, ReceiptError> {
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| ReceiptError::Malformed)?;
        if BASE64URL_NOPAD.encode(&bytes) != text {
            return Err(ReceiptError::Malformed);
        }
        bytes.try_into().map(Receipt).map_err(|_| ReceiptError::Malformed)
    }

    /// The delivery that it names. Compares its tag in constant time.
    ///
    /// # Errors
    /// [`ReceiptError::Stale`].
    pub fn open(
        &self,
        key: &ReceiptKey,
        incarnation: Incarnation,
        queue: &QueueKey,
    ) -> Result<DeliveryRef, ReceiptError> {
        let (named, given) = self.0.split_at(NAMED_BYTES);
        if !bool::from(tag(key, incarnation, queue, named).ct_eq(given)) {
            return Err(ReceiptError::Stale);
        }
        let slot = named[..8].iter().fold(0, |slot, &byte| (slot << 8) | u64::from(byte));
        let delivery = named[8..].iter().fold(0, |count, &byte| (count << 8) | u32::from(byte));
        Ok(DeliveryRef { slot: Slot(slot), delivery })
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64URL_NOPAD.encode(&self.0))
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
        let receipt = Receipt::issue(&key, INCARNATION, &queue, DELIVERY);
        let text = receipt.to_string();
        assert_eq!(text.len(), 38);
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'));
        assert_eq!(Receipt::parse(&text), Ok(receipt));
        assert_eq!(Receipt::from_bytes(receipt.to_bytes()).open(&key, INCARNATION, &queue), Ok(DELIVERY));
    }

    #[test]
    fn is_stale_anywhere_else() {
        let (key, here) = (ReceiptKey::new([9; 32]), queue("acme", "orders"));
        let receipt = Receipt::issue(&key, INCARNATION, &here, DELIVERY);
        let stale = Err(ReceiptError::Stale);
        assert_eq!(receipt.open(&ReceiptKey::new([8; 32]), INCARNATION, &here), stale);
        assert_eq!(receipt.open(&key, Incarnation(8), &here), stale);
        for other in [queue("acme", "order"), queue("acm", "orders"), queue("orders", "acme")] {
            assert_eq!(receipt.open(&key, INCARNATION, &other), stale, "{other}");
        }
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let (key, queue) = (ReceiptKey::new([9; 32]), queue("acme", "orders"));
        let receipt = Receipt::issue(&key, INCARNATION, &queue, DELIVERY);
        for bit in 0..RECEIPT_BYTES * 8 {
            let mut changed = receipt.to_bytes();
            changed[bit / 8] ^= 1 << (bit % 8);
            let changed = Receipt::from_bytes(changed);
            assert_eq!(changed.open(&key, INCARNATION, &queue), Err(ReceiptError::Stale));
        }
    }

    #[test]
    fn other_text_is_malformed() {
        let (key, queue) = (ReceiptKey::new([9; 32]), queue("acme", "orders"));
        let receipt = Receipt::issue(&key, INCARNATION, &queue, DELIVERY);
        let text = receipt.to_string();
        let mut others =
            vec![String::new(), "x".into(), format!("{text}="), format!("{text}A"), format!(" {text}")];
        others.push(text[1..].to_owned());
        others.push("é".repeat(19));
        others.push("A".repeat(10_000));
        // the last character has four bits that must be 0
        let last = receipt.to_bytes()[RECEIPT_BYTES - 1];
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let sloppy = alphabet[usize::from((last & 0b11) << 4) + 1];
        others.push(format!("{}{}", &text[..37], char::from(sloppy)));
        for other in others {
            assert_eq!(Receipt::parse(&other), Err(ReceiptError::Malformed), "{other}");
        }
    }

    #[test]
    fn the_key_is_not_printed() {
        assert_eq!(format!("{:?}", ReceiptKey::new([0x41; 32])), "ReceiptKey(..)");
    }
}
