//! A provider as it is configured, and what of that makes no sense.

use super::base::Known;
use super::compile::DEDUP_TTL_S_MAX;
use super::{AcceptReply, Scheme, SchemeError, Secret, TOLERANCE_S_MAX};
use crate::ids::{Kid, ProviderName};
use crate::rotation::Listed;

/// How long a duplicate is remembered where requests carry no signed time, in seconds: it is the only defence
/// against a replay there.
pub const DEDUP_TTL_UNTIMED_S: u64 = 86_400;

/// One provider as configured.
#[derive(Debug, Clone)]
pub struct ProviderSpec {
    /// Its name in the configuration.
    pub name: ProviderName,
    /// Its scheme.
    pub scheme: Scheme,
    /// The secrets in use; several during a rotation.
    pub secrets: Vec<Secret>,
    /// Seconds a signed time may differ from the wall clock, either way, inclusive. None: the scheme's.
    pub tolerance_s: Option<u64>,
    /// How long a duplicate is remembered, in ms. None: the scheme's.
    pub dedup_ttl_ms: Option<u64>,
    /// Whether bytes that are not signed may decide nothing. True unless the operator says otherwise.
    pub signed_only: bool,
    /// What it and this node know of each other.
    pub known: Known,
    /// What the verify token of a challenge may be; without any, one of the secrets.
    pub verify_tokens: Vec<String>,
}

impl ProviderSpec {
    /// A provider with the scheme's defaults.
    #[must_use]
    pub fn new(name: ProviderName, scheme: Scheme, secrets: Vec<Secret>) -> ProviderSpec {
        ProviderSpec {
            name,
            scheme,
            secrets,
            tolerance_s: None,
            dedup_ttl_ms: None,
            signed_only: true,
            known: Known::default(),
            verify_tokens: Vec::new(),
        }
    }
}

/// A provider's rules, checked and ready.
#[derive(Debug, Clone)]
pub struct ProviderRules {
    pub(super) name: ProviderName,
    pub(super) scheme: Scheme,
    pub(super) secrets: Vec<Secret>,
    pub(super) tolerance_s: u64,
    pub(super) dedup_ttl_ms: u64,
    pub(super) signed_only: bool,
    pub(super) known: Known,
    pub(super) verify_tokens: Vec<String>,
}

impl ProviderRules {
    /// Checks a provider and makes its rules.
    ///
    /// # Errors
    /// Every problem found, each by its key relative to the provider.
    pub fn new(spec: ProviderSpec) -> Result<ProviderRules, Vec<SchemeError>> {
        let ProviderSpec {
            name,
            scheme,
            secrets,
            tolerance_s,
            dedup_ttl_ms,
            signed_only,
            known,
            verify_tokens,
        } = spec;
        let mut problems = Vec::new();
        let mut wrong = |path: &str, text: String| problems.push(SchemeError::new(path, text));
        if secrets.is_empty() {
            wrong("secrets", "is empty; a provider needs at least one secret".to_owned());
        }
        for (place, secret) in secrets.iter().enumerate() {
            if secrets.iter().take(place).any(|other| other.kid() == secret.kid()) {
                wrong("secrets", format!("has the kid `{}` twice; give each its own", secret.kid()));
            }
        }
        for (key, text) in missing(&scheme, &known) {
            wrong(key, text.to_owned());
        }
        if tolerance_s.is_some_and(|s| !(1..=TOLERANCE_S_MAX).contains(&s)) {
            wrong("tolerance_s", format!("must be 1 to {TOLERANCE_S_MAX}"));
        }
        let tolerance_s = tolerance_s.unwrap_or(scheme.tolerance_s);
        let floor_s =
            if scheme.has_signed_time() { tolerance_s.saturating_mul(2).saturating_add(60) } else { 1 };
        let scheme_s = scheme.dedup_ttl_s.unwrap_or(match scheme.has_signed_time() {
            true => floor_s,
            false => DEDUP_TTL_UNTIMED_S,
        });
        let floor_ms = floor_s.saturating_mul(1000);
        let dedup_ttl_ms = dedup_ttl_ms.unwrap_or(scheme_s.saturating_mul(1000).max(floor_ms));
        if !(floor_ms..=DEDUP_TTL_S_MAX * 1000).contains(&dedup_ttl_ms) {
            let why = if scheme.has_signed_time() { " (2 × tolerance + 60 s)" } else { "" };
            wrong("dedup_ttl", format!("must be {floor_s} s{why} to 30 d"));
        }
        if problems.is_empty() {
            let known = Known {
                public_url: known.public_url.map(|url| url.split('?').next().unwrap_or_default().to_owned()),
                ..known
            };
            Ok(ProviderRules {
                name,
                scheme,
                secrets,
                tolerance_s,
                dedup_ttl_ms,
                signed_only,
                known,
                verify_tokens,
            })
        } else {
            Err(problems)
        }
    }

    /// The provider's name.
    #[must_use]
    pub fn name(&self) -> &ProviderName {
        &self.name
    }

    /// The provider's scheme.
    #[must_use]
    pub fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// The kids of its secrets.
    pub fn kids(&self) -> impl Iterator<Item = &Kid> {
        self.secrets.iter().map(Secret::kid)
    }

    /// Its secrets without the secrets: names, and when each is accepted.
    pub fn listed(&self) -> impl Iterator<Item = Listed> {
        self.secrets.iter().map(Secret::listed)
    }

    /// How long a duplicate is remembered, in ms.
    #[must_use]
    pub fn dedup_ttl_ms(&self) -> u64 {
        self.dedup_ttl_ms
    }

    /// How long after it was signed a request may still come, ms: the tolerance, where a time is signed; else as long
    /// as duplicates are remembered, for nothing else bounds the life of such a signature.
    #[must_use]
    pub fn signed_ttl_ms(&self) -> u64 {
        match self.scheme.has_signed_time() {
            true => self.tolerance_s.saturating_mul(1000),
            false => self.dedup_ttl_ms,
        }
    }

    /// The answer to an event that nothing special holds for.
    #[must_use]
    pub fn usual_reply(&self) -> &AcceptReply {
        &self.scheme.accept
    }
}

/// What the scheme needs and is not there: keys of the provider, and what they are for.
fn missing(scheme: &Scheme, known: &Known) -> Vec<(&'static str, &'static str)> {
    let mut missing = Vec::new();
    if scheme.needs_public_url() && known.public_url.is_none() {
        let text = "is missing; the provider signs our URL: set it to the one that it is configured with";
        missing.push(("public_url", text));
    }
    if scheme.needs_principals() && known.principals.is_empty() {
        let text = "is empty; one signer serves all of the vendor's customers: list whose events are yours";
        missing.push(("principals", text));
    }
    if scheme.needs_audience() && known.audience.is_none() {
        let text = "is missing; set it (or `public_url`) to what the provider's tokens are made out to";
        missing.push(("audience", text));
    }
    missing
}
