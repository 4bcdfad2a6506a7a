//! What the node answered, and whether it kept its word.

use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

/// A message whose sending was answered.
#[derive(Debug, Clone)]
struct Kept {
    topic: String,
    body: String,
}

#[derive(Debug, Default)]
struct Books {
    /// By message id.
    answered: HashMap<String, Kept>,
    acked: HashSet<String>,
    delivered: HashMap<String, u64>,
    broken: Vec<String>,
}

/// The books of a drill. Shared by all its clients.
#[derive(Debug, Default)]
pub struct Ledger {
    books: Mutex<Books>,
}

/// What the books say at the end.
#[derive(Debug, Clone, Serialize)]
pub struct Balance {
    /// Messages answered 2xx.
    pub answered: usize,
    /// Of those, acked.
    pub acked: usize,
    /// Deliveries of them.
    pub deliveries: u64,
    /// Answered and never delivered: ids by topic.
    pub lost: BTreeMap<String, Vec<String>>,
    /// Whatever else must not be: other bytes, an acked one back, a message nobody sent.
    pub broken: Vec<String>,
}

impl Balance {
    /// Whether nothing was lost and nothing is wrong.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.lost.is_empty() && self.broken.is_empty()
    }
}

impl Ledger {
    fn books(&self) -> std::sync::MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A send was answered 2xx with this id.
    pub fn answered(&self, topic: &str, msg_id: &str, body: &str) {
        let mut books = self.books();
        let kept = Kept { topic: topic.to_owned(), body: body.to_owned() };
        if let Some(other) = books.answered.insert(msg_id.to_owned(), kept)
            && (other.body != body || other.topic != topic)
        {
            books.broken.push(format!("{topic}/{msg_id} was answered for two messages"));
        }
    }

    /// A message was handed out.
    pub fn delivered(&self, topic: &str, msg_id: &str, body: &str) {
        let mut books = self.books();
        *books.delivered.entry(msg_id.to_owned()).or_default() += 1;
        if books.acked.contains(msg_id) {
            books.broken.push(format!("{topic}/{msg_id} came back after its ack"));
        }
        match books.answered.get(msg_id) {
            Some(kept) if kept.body == body && kept.topic == topic => {}
            Some(_) => books.broken.push(format!("{topic}/{msg_id} came with other bytes")),
            None => books.broken.push(format!("{topic}/{msg_id} was never answered")),
        }
    }

    /// An ack was answered ok.
    pub fn acked(&self, msg_id: &str) {
        self.books().acked.insert(msg_id.to_owned());
    }

    /// Something else that must not be.
    pub fn broken(&self, what: String) {
        self.books().broken.push(what);
    }

    /// The balance, once all that the node has was delivered.
    #[must_use]
    pub fn balance(&self) -> Balance {
        let books = self.books();
        let mut lost: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (msg_id, kept) in &books.answered {
            if !books.delivered.contains_key(msg_id) {
                lost.entry(kept.topic.clone()).or_default().push(msg_id.clone());
            }
        }
        Balance {
            answered: books.answered.len(),
            acked: books.acked.len(),
            deliveries: books.delivered.values().sum(),
            lost,
            broken: books.broken.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_books_find_what_is_lost_and_what_is_wrong() {
        let ledger = Ledger::default();
        for id in ["a", "b", "c"] {
            ledger.answered("t", id, "body");
        }
        ledger.delivered("t", "a", "body");
        ledger.delivered("t", "b", "body");
        assert_eq!(ledger.balance().lost["t"], ["c"]);
        assert!(ledger.balance().broken.is_empty());
        ledger.delivered("t", "c", "body");
        assert!(ledger.balance().holds());

        ledger.acked("a");
        ledger.delivered("t", "a", "body");
        ledger.delivered("t", "b", "other");
        ledger.delivered("u", "c", "body");
        ledger.delivered("t", "d", "body");
        ledger.answered("t", "b", "another");
        assert_eq!(ledger.balance().broken.len(), 5, "{:?}", ledger.balance().broken);
    }
}
