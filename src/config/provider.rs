//! `[interop.providers.NAME]`: who may send webhooks, how they sign, and where their events go.

use super::egress::allow_cidrs;
use super::interop::BODY_BYTES_MAX;
use super::read::Section;
use super::units::ByteSize;
use crate::egress::VisitRules;
use crate::tls::ClientTls;
use ron_core::ids::{Kid, ProviderName, Tenant, Topic};
use ron_core::inflate::Coding;
use ron_core::rotation::Window;
use ron_core::time::Millis;
use secrecy::{ExposeSecret, SecretString};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A provider of webhooks.
#[derive(Debug, Clone)]
pub struct Provider {
    /// How it signs.
    pub scheme: String,
    /// Whose its events are.
    pub tenant: Tenant,
    /// Where they go.
    pub topic: Topic,
    /// Whether it is served.
    pub enabled: bool,
    /// What it signs with; more than one during a rotation. Empty only if it is not enabled, or has no
    /// secrets.
    pub secrets: Vec<Secret>,
    /// How far a signed timestamp may be from now, seconds; `None` = what the scheme says.
    pub tolerance_s: Option<u64>,
    /// How long an event's id is remembered; `None` = what the scheme needs.
    pub dedup_ttl: Option<Duration>,
    /// Largest body; never more than `interop.limits.body_limit`, unless it says so itself.
    pub body_limit: Option<ByteSize>,
    /// What its webhooks may come compressed with; without any, a compressed one is refused.
    pub encodings: Vec<Coding>,
    /// What it may hold and how often it may send.
    pub limits: ProviderLimits,
    /// Our URL as the provider knows it.
    pub public_url: Option<String>,
    /// Whose events count, where one signer serves all of a provider's customers.
    pub principals: Vec<String>,
    /// What the provider's tokens are made out to; `None` = `public_url`.
    pub audience: Option<String>,
    /// What the verify token of its challenges may be; without any, a secret is meant.
    pub verify_tokens: Vec<SecretString>,
    /// Whether only signed bytes decide.
    pub signed_only: bool,
    /// Whether its verdicts count. Otherwise they are recorded only, and nothing is enqueued (shadow mode).
    pub enforce: bool,
    /// How the URLs are visited that its subscriptions are confirmed by; `None` = they are not.
    pub confirm: Option<VisitRules>,
}

/// `[interop.providers.NAME.limits]`: beside those of the node, and never more.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProviderLimits {
    /// Verified webhooks a second, and what is saved up on top of that.
    pub rate: Option<(NonZeroU32, NonZeroU32)>,
    /// Webhooks being read and verified at once; `None` = half of the node's.
    pub max_unverified: Option<u32>,
    /// Bytes of their bodies; `None` = half of the node's.
    pub unverified_bytes: Option<ByteSize>,
}

impl ProviderLimits {
    fn read(s: &Section<'_, '_>) -> ProviderLimits {
        let max_rps = s.integer_opt("max_rps", &(1..=10_000_000)).and_then(NonZeroU32::new);
        let burst_rps = s.integer_opt("burst_rps", &(1..=10_000_000)).and_then(NonZeroU32::new);
        if max_rps.is_none() && burst_rps.is_some() {
            s.problem("burst_rps", "means nothing without max_rps", Some("max_rps = 50".into()));
        }
        ProviderLimits {
            rate: max_rps.map(|rps| (rps, burst_rps.unwrap_or(rps))),
            max_unverified: s.integer_opt("max_unverified", &(1..=1_000_000)),
            unverified_bytes: s.size_opt("unverified_bytes", &(1024..=1 << 40)),
        }
    }
}

/// A secret in force.
#[derive(Debug, Clone)]
pub struct Secret {
    /// Its public name.
    pub kid: Kid,
    /// The secret: from the environment as it is, from a file without one trailing newline.
    pub value: SecretString,
    /// When it begins to be accepted, Unix seconds.
    pub not_before_unix_s: Option<u64>,
    /// When it stops being accepted, Unix seconds.
    pub not_after_unix_s: Option<u64>,
}

impl Secret {
    /// When it is accepted, wall clock.
    #[must_use]
    pub fn window(&self) -> Window {
        let at = |unix_s: u64| Millis(unix_s.saturating_mul(1000));
        Window { not_before: self.not_before_unix_s.map(at), not_after: self.not_after_unix_s.map(at) }
    }
}

/// What the catalogue of schemes knows, so that a configuration can be checked whole.
pub trait SchemeCheck {
    /// The names of the schemes that ship.
    fn shipped(&self) -> Vec<String>;

    /// Whether providers of this scheme sign with a secret of ours. Few do not.
    fn needs_secrets(&self, _scheme: &str, _own: &toml::Table) -> bool {
        true
    }

    /// Whether a scheme written in the configuration is one.
    ///
    /// # Errors
    /// What is wrong with it, without values.
    fn scheme(&self, name: &str, text: &toml::Value) -> Result<(), String>;

    /// Whether an enabled provider has what its scheme needs: secrets in the scheme's form, `public_url`,
    /// `principals`.
    ///
    /// # Errors
    /// The key that is wrong, and what is wrong with it, without values.
    fn provider(
        &self,
        name: &ProviderName,
        provider: &Provider,
        own: &toml::Table,
    ) -> Result<(), (&'static str, String)>;
}

/// Knows the names of the shipped schemes and nothing else about them.
#[derive(Debug, Clone, Copy, Default)]
pub struct NamesOnly;

impl SchemeCheck for NamesOnly {
    fn shipped(&self) -> Vec<String> {
        ["github", "stripe", "slack", "standard_webhooks", "shopify", "discord"].map(str::to_owned).into()
    }

    fn scheme(&self, _name: &str, _text: &toml::Value) -> Result<(), String> {
        Ok(())
    }

    fn provider(
        &self,
        _: &ProviderName,
        _: &Provider,
        _: &toml::Table,
    ) -> Result<(), (&'static str, String)> {
        Ok(())
    }
}

/// The list `secrets`, fetched; `None` if something is wrong with one, which is told.
pub(super) fn secrets(
    s: &Section<'_, '_>,
    reader: &ProviderReader<'_>,
    enabled: bool,
) -> Option<Vec<Secret>> {
    let secrets = s.list("secrets", |s| reader.secret(s, enabled));
    let whole = secrets.iter().all(Option::is_some);
    let secrets: Vec<Secret> = secrets.into_iter().flatten().collect();
    for (at, secret) in secrets.iter().enumerate() {
        if secrets[..at].iter().any(|other| other.kid == secret.kid) {
            s.problem("secrets", "has two with the same kid", None);
        }
    }
    whole.then_some(secrets)
}

/// What reading a provider needs besides its table.
pub(super) struct ProviderReader<'a> {
    pub(super) env: &'a BTreeMap<String, String>,
    pub(super) check: &'a dyn SchemeCheck,
    pub(super) own_schemes: &'a toml::Table,
}

impl ProviderReader<'_> {
    /// Reads one provider; `None` if something that has no stand-in is wrong.
    pub(super) fn read(&self, name: Option<&ProviderName>, s: &Section<'_, '_>) -> Option<Provider> {
        let enabled = s.boolean_or("enabled", true);
        let day = Duration::from_secs(86_400);
        let secrets = secrets(s, self, enabled);
        let secrets_whole = secrets.is_some();
        let secrets = secrets.unwrap_or_default();
        let provider = (
            self.scheme(s),
            s.parsed("tenant", "a tenant, [a-z0-9][a-z0-9-]{0,62}", |text| Tenant::parse(text).ok()),
            s.parsed("topic", "a topic, [a-z0-9][a-z0-9._-]{0,127}", |text| Topic::parse(text).ok()),
        );
        let tolerance_s = s.integer_opt("tolerance_s", &(1..=86_400));
        let dedup_ttl = s.duration_opt("dedup_ttl", &(Duration::from_secs(1)..=30 * day));
        let body_limit = s.size_opt("body_limit", &(1..=BODY_BYTES_MAX));
        let encodings = s.parsed_list("encodings", "gzip or zstd", |text| {
            Coding::ALL.into_iter().find(|coding| coding.name() == text)
        });
        let limits = s.table("limits", ProviderLimits::read);
        let public_url = s.parsed_opt("public_url", "an http(s) URL", |text| {
            let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
            (!rest.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())).then(|| text.to_owned())
        });
        let principals = s.parsed_list("principals", "text", |text| Some(text.to_owned()));
        let audience = s.parsed_opt("audience", "text", |text| (!text.is_empty()).then(|| text.to_owned()));
        let verify_tokens = s.list("verify_tokens", |s| self.fetched(s, enabled));
        let verify_tokens = verify_tokens.into_iter().flatten().map(|(_, value)| value).collect();
        let signed_only = s.boolean_or("signed_only", true);
        let enforce = s.boolean_or("enforce", true);
        let confirm = s.table("confirm", confirm);
        let (scheme, tenant, topic) = (provider.0?, provider.1?, provider.2?);
        if enabled
            && secrets_whole
            && secrets.is_empty()
            && self.check.needs_secrets(&scheme, self.own_schemes)
        {
            let hint = "secrets = [{ kid = \"2026-11\", env = \"SOME_SECRET\" }]";
            s.problem("secrets", "must hold at least one", Some(hint.into()));
            return None;
        }
        let provider = Provider {
            scheme,
            tenant,
            topic,
            enabled,
            secrets,
            tolerance_s,
            dedup_ttl,
            body_limit,
            encodings,
            limits,
            public_url,
            principals,
            audience,
            verify_tokens,
            signed_only,
            enforce,
            confirm,
        };
        if enabled
            && secrets_whole
            && let Some(name) = name
            && let Err((key, what)) = self.check.provider(name, &provider, self.own_schemes)
        {
            s.problem(key, what, None);
        }
        Some(provider)
    }

    fn scheme(&self, s: &Section<'_, '_>) -> Option<String> {
        let name = s.parsed("scheme", "the name of a scheme", |text| Some(text.to_owned()))?;
        let known = [self.check.shipped(), self.own_schemes.keys().cloned().collect()].concat();
        if !known.contains(&name) {
            let nearest = known.iter().min_by_key(|known| strsim::damerau_levenshtein(known, &name));
            let hint = nearest.map(|nearest| format!("nearest known: {nearest}"));
            s.problem("scheme", "names no scheme that ships or is in [interop.schemes]", hint);
        }
        Some(name)
    }

    /// One secret, fetched from where it is kept. Nothing is fetched for a provider that is not served.
    fn secret(&self, s: &Section<'_, '_>, enabled: bool) -> Option<Secret> {
        let kid = s.parsed("kid", "a key id, [a-z0-9][a-z0-9._-]{0,62}", |text| Kid::parse(text).ok());
        let time = |key| s.parsed_opt(key, "a time, as 2026-12-01T00:00:00Z", unix_s);
        let (not_before, not_after) = (time("not_before"), time("not_after"));
        if not_before.zip(not_after).is_some_and(|(start, end)| start > end) {
            s.problem("not_after", "must not be before not_before", None);
        }
        let (_, value) = self.fetched(s, enabled)?;
        Some(Secret { kid: kid?, value, not_before_unix_s: not_before, not_after_unix_s: not_after })
    }

    /// What the variable or the file holds, and which of the two it is.
    fn fetched(&self, s: &Section<'_, '_>, enabled: bool) -> Option<(&'static str, SecretString)> {
        let (env, file) = (s.text_opt("env"), s.path_opt("file"));
        let value = match (env, file) {
            (Some(name), None) if enabled => {
                let value = self.env.get(&name).cloned();
                if value.is_none() {
                    // what does not look like a variable's name may be the secret itself, put in the wrong place
                    let plain = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
                    let shown = if name.bytes().all(plain) { format!(": {name}") } else { String::new() };
                    s.problem("env", format!("names a variable that is not set{shown}"), None);
                }
                value.map(|value| ("env", value))
            }
            (None, Some(path)) if enabled => match std::fs::read_to_string(&path) {
                Ok(text) => Some(("file", text.strip_suffix('\n').map(str::to_owned).unwrap_or(text))),
                Err(error) => {
                    s.problem("file", format!("names a file that cannot be read: {}", error.kind()), None);
                    None
                }
            },
            (Some(_), None) | (None, Some(_)) => return None,
            _ => {
                s.problem("env", "or file must say where the secret is (exactly one of them)", None);
                None
            }
        };
        let (key, value) = value?;
        let value = SecretString::from(value);
        if value.expose_secret().is_empty() {
            s.problem(key, "holds an empty secret", None);
            return None;
        }
        Some((key, value))
    }
}

/// `[interop.providers.NAME.confirm]`. A file is looked at even if nothing is visited, so that a wrong one is told.
fn confirm(s: &Section<'_, '_>) -> Option<VisitRules> {
    let (visit, allow_cidrs, ca_file) = (s.boolean_or("visit", false), allow_cidrs(s), s.path_opt("ca_file"));
    let trusted = ca_file.as_deref().map(ClientTls::trusting);
    let tls = match trusted {
        Some(Ok(tls)) => tls,
        Some(Err(bad)) => {
            s.problem(bad.key, bad.text, bad.hint);
            return None;
        }
        None if visit => ClientTls::system().map_err(|text| s.problem("visit", text, None)).ok()?,
        None => return None,
    };
    visit.then_some(VisitRules { tls, allow_cidrs })
}

fn unix_s(text: &str) -> Option<u64> {
    OffsetDateTime::parse(text, &Rfc3339).ok().and_then(|at| u64::try_from(at.unix_timestamp()).ok())
}
