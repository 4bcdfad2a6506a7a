//! Test vectors: one request with the verdict it must get. The format of `tests/vectors/webhooks.json` and of
//! `ronctl interop verify --vectors FILE`.

use super::base::{Known, Request};
use super::{Algorithm, Encoding, HeaderList, OneOrMany, Scheme, SchemeSpec, SecretError};
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
    pub secret: OneOrMany,
    /// Headers by name.
    pub headers: BTreeMap<String, String>,
    /// For schemes with `{prefix}` in header names.
    pub header_prefix: Option<String>,
    /// In place of the scheme's algorithm: `sha512` and the like, for an HMAC.
    pub alg: Option<String>,
    /// In place of the scheme's encoding.
    pub encoding: Option<Encoding>,
    /// `POST` if it is not given.
    pub method: Option<String>,
    /// The receiver's URL with its query.
    pub url: Option<String>,
    /// What a token is made out to.
    pub audience: Option<String>,
    /// Whose events count: an account, a webhook's id, a topic.
    #[serde(alias = "webhook_id", alias = "topic_arn", alias = "principal")]
    pub email: Option<String>,
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
        self.secret.as_slice()
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

    /// The scheme that this vector is for: the one that names its provider and scheme (or profile), else the
    /// one of its provider that reads a header of it.
    #[must_use]
    pub fn choose<'s>(&self, schemes: &'s [(String, SchemeSpec)]) -> Option<&'s (String, SchemeSpec)> {
        let named = |what: &str| {
            let full = format!("{}/{what}", self.provider);
            schemes.iter().find(|(_, spec)| spec.vectors.contains(&full))
        };
        let reads = |(name, spec): &&(String, SchemeSpec)| {
            let spec = self.fit(spec);
            let Ok(scheme) = spec.compile(name) else { return false };
            self.headers.keys().any(|header| scheme.signs_in(&header.to_ascii_lowercase()))
        };
        let own: Vec<_> = schemes
            .iter()
            .filter(|(name, spec)| {
                let of = |text: &String| text.split('/').next() == Some(&self.provider);
                *name == self.provider || spec.vectors.iter().any(of)
            })
            .collect();
        self.profile
            .as_deref()
            .and_then(named)
            .or_else(|| named(&self.scheme))
            .or_else(|| own.iter().copied().find(|entry| reads(entry)))
            .or_else(|| own.first().copied())
            .or_else(|| schemes.iter().find(|(name, _)| *name == self.scheme))
    }

    /// The scheme with what this vector has in place of the scheme's own.
    #[must_use]
    pub fn fit(&self, spec: &SchemeSpec) -> SchemeSpec {
        let mut spec = spec.clone();
        if let Some(prefix) = &self.header_prefix {
            spec.header_prefix.clone_from(prefix);
        }
        if let Some(encoding) = self.encoding {
            spec.encoding = Some(encoding);
        }
        match self.alg.as_deref().map(|alg| alg.trim_start_matches("hmac-")) {
            Some("sha1") => spec.algorithm = Algorithm::HmacSha1,
            Some("sha256") => spec.algorithm = Algorithm::HmacSha256,
            Some("sha384") => spec.algorithm = Algorithm::HmacSha384,
            Some("sha512") => spec.algorithm = Algorithm::HmacSha512,
            Some(_) | None => {}
        }
        spec
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
        let (url, query) = self
            .url
            .as_deref()
            .unwrap_or_default()
            .split_once('?')
            .unwrap_or((self.url.as_deref().unwrap_or_default(), ""));
        let known = Known {
            public_url: self.url.as_ref().map(|_| url.to_owned()),
            principals: self.email.iter().cloned().collect(),
            audience: self.audience.clone(),
        };
        let request = Request {
            method: self.method.as_deref().unwrap_or("POST"),
            query,
            headers: &self.header_list(),
            body: &self.body_bytes()?,
            known: &known,
        };
        let checked = scheme.check(&request, &secrets, tolerance_s, now).map(|_| ());
        Ok(match checked {
            Ok(()) => Outcome { got: Expected::Accept, reason: None },
            Err(rejection) => Outcome { got: Expected::Reject, reason: Some(rejection.why.code()) },
        })
    }
}
