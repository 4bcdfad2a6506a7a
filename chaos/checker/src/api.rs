//! A client of the mailbox for drills that need a few of its calls: each is one request on one kept connection.
//! It asserts no more than a status; what an answer means is for the drill to judge.

use crate::http::{Answer, Client, Failure, Request, Target};
use crate::node::{Setup, TENANT};
use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

/// A silent node is given up after this; longer than any long poll.
const TIMEOUT: Duration = Duration::from_secs(40);

/// A client with a capability.
#[derive(Debug)]
pub struct Api {
    client: Client,
    authorization: String,
}

impl Api {
    /// A client of the mailbox at `addr`.
    #[must_use]
    pub fn new(addr: SocketAddr, token: &str) -> Api {
        Api { client: Client::new(Target::Tcp(addr), TIMEOUT), authorization: format!("Bearer {token}") }
    }

    /// Calls `path`, which follows the tenant's name.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn try_call(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, Failure> {
        let authorization = self.authorization.clone();
        let all: Vec<(&str, &str)> =
            [("Authorization", authorization.as_str())].iter().chain(headers).copied().collect();
        let path = format!("/v1/{TENANT}/{path}");
        self.client.call(&Request { method, path: &path, headers: &all, body })
    }

    /// Calls `path` with a JSON body and wants a 200; `Null` sends no body.
    ///
    /// # Errors
    /// No answer, or another one.
    pub fn done(&mut self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.try_call(method, path, &[("Content-Type", "application/json")], body.as_bytes());
        read(method, path, answer)
    }

    /// Sends one message of text, and gives the answer.
    ///
    /// # Errors
    /// As [`Api::done`], and an answer that does not say `fsync`.
    pub fn send(&mut self, topic: &str, key: Option<&str>, body: &str) -> Result<Value> {
        let path = format!("{topic}/enqueue");
        let mut headers = vec![("Content-Type", "text/plain")];
        headers.extend(key.map(|key| ("Idempotency-Key", key)));
        let sent = read("POST", &path, self.try_call("POST", &path, &headers, body.as_bytes()))?;
        ensure!(sent["durability"] == "fsync", "{path}: {sent}");
        Ok(sent)
    }

    /// Receives.
    ///
    /// # Errors
    /// As [`Api::done`].
    pub fn recv(&mut self, topic: &str, ask: &Value) -> Result<Vec<Value>> {
        let mut got = self.done("POST", &format!("{topic}/recv"), ask)?;
        match got["messages"].take() {
            Value::Array(messages) => Ok(messages),
            other => Err(anyhow!("recv answers {other}")),
        }
    }

    /// Acks, or with `call` and `more` settles in another way; one result for each receipt.
    ///
    /// # Errors
    /// As [`Api::done`], and a wrong number of results.
    pub fn settle(&mut self, topic: &str, call: &str, receipts: &[&str], more: &Value) -> Result<Vec<Value>> {
        let mut body = json!({ "receipts": receipts });
        for (name, value) in more.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        let done = self.done("POST", &format!("{topic}/{call}"), &body)?;
        let results = done["results"].as_array().cloned().unwrap_or_default();
        ensure!(results.len() == receipts.len(), "{call} of {}: {done}", receipts.len());
        Ok(results)
    }
}

fn read(method: &str, path: &str, answer: Result<Answer, Failure>) -> Result<Value> {
    let answer = answer.map_err(|failure| match failure {
        Failure::NotSent(error) | Failure::Unknown(error) => anyhow!("{method} {path}: {error}"),
    })?;
    let text = || String::from_utf8_lossy(&answer.body).chars().take(300).collect::<String>();
    ensure!(answer.status == 200, "{method} {path}: {} {}", answer.status, text());
    serde_json::from_slice(&answer.body).with_context(|| format!("{method} {path}"))
}

/// A text member of an answer; empty if it is not there, which is no id, receipt or reason.
#[must_use]
pub fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// What `ronctl --json` with these arguments says.
///
/// # Errors
/// It fails, or says no JSON.
pub fn ronctl(setup: &Setup, arguments: &[&str]) -> Result<Value> {
    let mut command = setup.ronctl();
    command.arg("--config").arg(setup.config()).arg("--json").args(arguments);
    let output = command.output().context("run ronctl")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ronctl {arguments:?}: {}: {}", output.status, said.trim());
    serde_json::from_slice(&output.stdout).with_context(|| format!("ronctl {arguments:?}"))
}

/// The sequence number in a message id: the lower 64 bits of the ULID; `None` if it is none.
#[must_use]
pub fn sequence(msg_id: &str) -> Option<u64> {
    const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    if msg_id.len() != 26 {
        return None;
    }
    let bits = msg_id.bytes().try_fold(0_u128, |bits, byte| {
        let digit = ALPHABET.iter().position(|known| *known == byte)?;
        Some(bits << 5 | u128::try_from(digit).ok()?)
    })?;
    u64::try_from(bits & u128::from(u64::MAX)).ok()
}

/// The value that `percent` of 100 are not above; `values` need no order.
#[must_use]
pub fn percentile(values: &mut [u64], percent: f64) -> u64 {
    values.sort_unstable();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rank"
    )]
    let rank = (values.len() as f64 * percent / 100.0).ceil() as usize;
    values.get(rank.clamp(1, values.len().max(1)) - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_the_lower_half_of_an_id() {
        assert_eq!(sequence("00000000000000000000000000"), Some(0));
        assert_eq!(sequence("0000000000000000000000001Z"), Some(63));
        // the largest ULID
        assert_eq!(sequence("7ZZZZZZZZZZZZZZZZZZZZZZZZZ"), Some(u64::MAX));
        assert_eq!(sequence("7ZZZZZZZZZZZZ100000000000G"), Some((1 << 60) + 16));
        for bad in ["", "U0000000000000000000000000", "0000000000000000000000000"] {
            assert_eq!(sequence(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let mut values: Vec<u64> = (1..=200).rev().collect();
        assert_eq!(percentile(&mut values, 99.0), 198);
        assert_eq!((percentile(&mut values, 50.0), percentile(&mut values, 100.0)), (100, 200));
        assert_eq!((percentile(&mut [7], 1.0), percentile(&mut [], 99.0)), (7, 0));
    }
}
