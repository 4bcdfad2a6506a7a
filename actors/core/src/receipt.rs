//! Receipts.
use crate::ids::{Incarnation, QueueKey, Slot};
use crate::shard::DeliveryRef;
use data_encoding::BASE64URL_NOPAD;
use subtle::ConstantTimeEq;
/// Key.
#[derive(Debug, Clone)]
pub struct ReceiptKey([u8; 32]);
impl ReceiptKey {
    /// New.
    #[must_use]
    pub fn new(key: [u8; 32]) -> ReceiptKey {
        ReceiptKey(key)
    }
}
/// Error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiptError {
    /// M
    Malformed,
    /// S
    Stale,
}
/// Receipt.
#[derive(Debug)]
pub struct Receipt;
fn tag(key: &ReceiptKey, inc: Incarnation, q: &QueueKey, d: DeliveryRef) -> [u8; 16] {
    let mut h = blake3::Hasher::new_keyed(&key.0);
    h.update(&inc.0.to_le_bytes())
        .update(q.tenant.as_str().as_bytes())
        .update(b"\0")
        .update(q.topic.as_str().as_bytes())
        .update(b"\0");
    h.update(&d.slot.0.to_le_bytes()).update(&d.delivery.to_le_bytes());
    let mut t = [0; 16];
    t.copy_from_slice(&h.finalize().as_bytes()[..16]);
    t
}
impl Receipt {
    /// Issue.
    pub fn issue(key: &ReceiptKey, inc: Incarnation, q: &QueueKey, d: DeliveryRef) -> String {
        let mut b = Vec::with_capacity(28);
        b.extend_from_slice(&d.slot.0.to_be_bytes());
        b.extend_from_slice(&d.delivery.to_be_bytes());
        b.extend_from_slice(&tag(key, inc, q, d));
        BASE64URL_NOPAD.encode(&b)
    }
    /// Open.
    pub fn open(
        key: &ReceiptKey,
        inc: Incarnation,
        q: &QueueKey,
        text: &str,
    ) -> Result<DeliveryRef, ReceiptError> {
        let b = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| ReceiptError::Malformed)?;
        let b: [u8; 28] = b.try_into().map_err(|_| ReceiptError::Malformed)?;
        let mut s = [0; 8];
        s.copy_from_slice(&b[..8]);
        let mut n = [0; 4];
        n.copy_from_slice(&b[8..12]);
        let d = DeliveryRef { slot: Slot(u64::from_be_bytes(s)), delivery: u32::from_be_bytes(n) };
        if bool::from(tag(key, inc, q, d).ct_eq(&b[12..])) { Ok(d) } else { Err(ReceiptError::Stale) }
    }
}
