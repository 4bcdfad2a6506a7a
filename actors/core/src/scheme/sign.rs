//! The sender's side of a scheme: correct headers for a sample, a demonstration or a test.

use super::header::{self, HeaderName};
use super::template::{self, Part, Values};
use super::{Algorithm, FieldPlace, FieldRule, Scheme, Shape, SigningKey, TimePlace};
use crate::time::Millis;

/// A request to be signed.
#[derive(Debug, Clone, Copy)]
pub struct ToSign<'a> {
    /// The event's id, where the scheme sends one in a header. Needed if it is signed.
    pub id: Option<&'a str>,
    /// The event's type, where the scheme sends it in a header.
    pub event_type: Option<&'a str>,
    /// The wall clock.
    pub at: Millis,
    /// The raw body.
    pub body: &'a [u8],
}

/// Why nothing was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The scheme signs an id, and none was given.
    #[error("this scheme signs the event's id; give one")]
    NeedsId,
    /// The scheme signs a header that only the provider knows.
    #[error("this scheme signs headers that only its provider sends")]
    ForeignHeaders,
    /// A key of another kind.
    #[error("the key does not fit the scheme's algorithm")]
    WrongKey,
}

impl Scheme {
    /// The headers that the provider would send with this request, in the vendor's spelling.
    ///
    /// # Errors
    /// See [`SignError`].
    pub fn sign(&self, key: &SigningKey, request: &ToSign<'_>) -> Result<Vec<(String, String)>, SignError> {
        let mut headers = Vec::new();
        if self.base.iter().any(|part| matches!(part, Part::Header(_))) {
            return Err(SignError::ForeignHeaders);
        }
        if self.base.contains(&Part::Id) && request.id.is_none_or(str::is_empty) {
            return Err(SignError::NeedsId);
        }
        for (rule, text) in [(&self.id, request.id), (&self.event_type, request.event_type)] {
            if let (Some(FieldRule { place: FieldPlace::Header(name), .. }), Some(text)) = (rule, text) {
                add(&mut headers, name, text.to_owned());
            }
        }
        let stamp = match &self.timestamp {
            Some((_, unit)) => header::write_time(*unit, request.at.0),
            None => String::new(),
        };
        if let Some((TimePlace::Header(name), _)) = &self.timestamp {
            add(&mut headers, name, stamp.clone());
        }
        let values = Values {
            timestamp: &stamp,
            id: request.id.unwrap_or_default(),
            headers: Vec::new(),
            body: request.body,
        };
        let base = template::fill(&self.base, &values);
        add(&mut headers, &self.signature, self.signature_text(key, &base, &stamp)?);
        Ok(headers)
    }

    fn signature_text(&self, key: &SigningKey, base: &[&[u8]], stamp: &str) -> Result<String, SignError> {
        let write = |algorithm| {
            let bytes = key.sign(algorithm, base).ok_or(SignError::WrongKey)?;
            match algorithm {
                Algorithm::Token => String::from_utf8(bytes).map_err(|_| SignError::WrongKey),
                _ => Ok(header::encode(self.encoding, &bytes)),
            }
        };
        match &self.shape {
            Shape::Single { prefix } => Ok(format!("{prefix}{}", write(self.algorithm)?)),
            Shape::List { separator, assign, versions } => {
                let version = versions.iter().find(|(_, algorithm)| key.can(*algorithm));
                let (name, algorithm) = version.ok_or(SignError::WrongKey)?;
                let entry = format!("{name}{assign}{}", write(*algorithm)?);
                Ok(match &self.timestamp {
                    Some((TimePlace::List(time), _)) => format!("{time}{assign}{stamp}{separator}{entry}"),
                    _ => entry,
                })
            }
        }
    }
}

fn add(headers: &mut Vec<(String, String)>, name: &HeaderName, value: String) {
    headers.push((name.shown.clone(), value));
}
