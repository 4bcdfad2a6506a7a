//! Test vectors: one request with the verdict it must get. The format of `tests/vectors/webhooks.json` and of
//! `ronctl interop verify --vectors FILE`.

use super::{HeaderList, Scheme, SecretError};
use crate::ids::Kid;
use crate::time::Millis;
use data_encoding::BASE64;
use serde::Deserialize;
use std::collections::BTreeMap;

/// One vector. Fields that only other schemes use are passed over.
#[derive(Debug, Clone, Deserialize)]
pub struct Vector {
    /// Its name.
    pub id: String,
    /// Whose request it is.
    pub provider: String,
    /// The family of schemes it was written for.
    pub scheme: String,
    /// A variant of the provider's scheme.
    pub profile: Option<String>,
    /// One secret or several.
    pub secret: OneOrManySecrets,
    /// Headers by name.
    pub headers: BTreeMap<String, String>,
    /// For schemes with `{prefix}` in header names.
    pub header_prefix: Option<String>,
    /// The body as text.
    #[serde(default)]
    pub body: String,
    /// The body in base64, instead of `body`.
    pub body_b64: Option<String>,
    /// Wall clock in seconds; without it the time is not checked.
    pub now_unix: Option<u64>,
    /// In place of the scheme's own.
    pub tolerance_s: Option<u64>,
    /// `accept` or `reject`.
    pub expected: Expected,
    /// Why it is rejected.
    pub reason: Option<String>,
}

/// See [`Vector::secret`].
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum OneOrManySecrets {
    /// One.
    One(String),
    /// Several, all in force.
    Many(Vec<String>),
}

/// See [`Vector::expected`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expected {
    /// The signature holds.
    Accept,
    /// It does not, or something else is wrong.
    Reject,
}

/// What came of a vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The verdict.
    pub got: Expected,
    /// The failing step's code.
    pub reason: Option<&'static str>,
}

/// Why a vector could not be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VectorError {
    /// Its secret does not suit the scheme.
    #[error("secret: {0}")]
    Secret(#[from] SecretError),
    /// `body_b64` is not base64.
    #[error("body_b64 is not base64")]
    Body,
}

impl Vector {
    /// The secrets as text.
    #[must_use]
    pub fn secrets(&self) -> &[String] {
        match &self.secret {
            OneOrManySecrets::One(one) => std::slice::from_ref(one),
            OneOrManySecrets::Many(many) => many,
        }
    }

    /// The body's bytes.
    ///
    /// # Errors
    /// [`VectorError::Body`].
    pub fn body_bytes(&self) -> Result<Vec<u8>, VectorError> {
        match &self.body_b64 {
            Some(text) => BASE64.decode(text.as_bytes()).map_err(|_| VectorError::Body),
            None => Ok(self.body.clone().into_bytes()),
        }
    }

    /// The headers as a request's.
    #[must_use]
    pub fn header_list(&self) -> HeaderList {
        self.headers.iter().map(|(name, value)| (name, value.clone())).collect()
    }

    /// Runs it.
    ///
    /// # Errors
    /// [`VectorError`] if the vector itself is at fault.
    pub fn run(&self, scheme: &Scheme) -> Result<Outcome, VectorError> {
        let kid = Kid::parse("vector").map_err(|_| VectorError::Body)?;
        let mut secrets = Vec::new();
        for text in self.secrets() {
            secrets.push(scheme.parse_secret(kid.clone(), text)?);
        }
        let now = self.now_unix.map(|s| Millis(s.saturating_mul(1000)));
        let tolerance_s = self.tolerance_s.unwrap_or(scheme.tolerance_s());
        let checked =
            scheme.check(&self.header_list(), &self.body_bytes()?, &secrets, tolerance_s, now).map(|_| ());
        Ok(match checked {
            Ok(()) => Outcome { got: Expected::Accept, reason: None },
            Err(rejection) => Outcome { got: Expected::Reject, reason: Some(rejection.why.code()) },
        })
    }
}
