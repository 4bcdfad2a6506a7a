//! The provider catalogue: the schemes in `config/schemes/`, embedded, and those written in the configuration.

use crate::config::{Provider, SchemeCheck};
use ron_core::ids::ProviderName;
use ron_core::scheme::{Known, ProviderRules, ProviderSpec, Scheme, SchemeSpec};
use secrecy::ExposeSecret;

macro_rules! shipped {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../config/schemes/", $name, ".toml")))),*]
    };
}

/// Every scheme that ships, by name, as TOML.
pub const SHIPPED: &[(&str, &str)] = shipped![
    "adyen_banking",
    "adyen_payments",
    "auth0",
    "aws_sns",
    "bitbucket",
    "box",
    "calendly",
    "clerk",
    "coinbase_cdp",
    "coinbase_commerce",
    "convoy",
    "convoy_simple_sha256_b64",
    "convoy_simple_sha256_hex",
    "convoy_simple_sha512_b64",
    "convoy_simple_sha512_hex",
    "discord",
    "docusign",
    "dropbox",
    "elevenlabs",
    "fusionauth",
    "generic_sha512",
    "github",
    "github_sha1_legacy",
    "gitlab",
    "gitlab_token",
    "gocardless",
    "google_pubsub",
    "hook0",
    "hookdeck",
    "hubspot",
    "hubspot_v1",
    "hubspot_v2",
    "intercom",
    "jira",
    "line",
    "linear",
    "mailgun",
    "messagebird",
    "messagebird_legacy",
    "meta",
    "okta",
    "openai",
    "paddle",
    "pagerduty",
    "paypal",
    "plivo",
    "razorpay",
    "resend",
    "sendgrid",
    "sentry",
    "shopify",
    "slack",
    "square",
    "standard_webhooks",
    "stripe",
    "svix",
    "telegram",
    "telnyx",
    "twilio",
    "typeform",
    "vercel",
    "webflow",
    "woocommerce",
    "x_twitter",
    "zendesk",
    "zoom",
];

/// Other names that people look for.
pub const ALIASES: &[(&str, &str)] = &[
    ("adyen", "adyen_payments"),
    ("convoy_advanced", "convoy"),
    ("facebook", "meta"),
    ("hubspot_v3", "hubspot"),
    ("messagebird_jwt", "messagebird"),
    ("plivo_v2", "plivo"),
    ("pubsub", "google_pubsub"),
    ("sns", "aws_sns"),
    ("twitter", "x_twitter"),
    ("whatsapp", "meta"),
];

/// Compiles schemes, for the configuration's check and for boot alike.
#[derive(Debug, Clone, Copy, Default)]
pub struct Catalogue;

impl Catalogue {
    /// The scheme `name`: one of the configuration's own, or else one that ships.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn scheme(name: &str, own: &toml::Table) -> Result<Scheme, String> {
        match own.get(name) {
            Some(value) => compile(name, value.clone()),
            None => compiled(name, &Catalogue::spec(name)?),
        }
    }

    /// The name under which a scheme ships: itself, unless it is one of [`ALIASES`].
    #[must_use]
    pub fn shipped_name(name: &str) -> &str {
        ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, shipped)| shipped)
    }

    /// A scheme that ships, as written.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn spec(name: &str) -> Result<SchemeSpec, String> {
        let name = Catalogue::shipped_name(name);
        let text = SHIPPED.iter().find(|(shipped, _)| *shipped == name).map(|(_, text)| *text);
        let text = text.ok_or_else(|| "no such scheme".to_owned())?;
        toml::from_str(text).map_err(|error| error.message().to_owned())
    }

    /// Every scheme that ships.
    ///
    /// # Errors
    /// One of them does not parse: a bug, which a test finds.
    pub fn specs() -> Result<Vec<(String, SchemeSpec)>, String> {
        SHIPPED.iter().map(|(name, _)| Ok(((*name).to_owned(), Catalogue::spec(name)?))).collect()
    }

    /// The rules of a configured provider.
    ///
    /// # Errors
    /// The key of the provider's table that is wrong, and what is.
    pub fn rules(
        name: &ProviderName,
        provider: &Provider,
        own: &toml::Table,
    ) -> Result<ProviderRules, (&'static str, String)> {
        let scheme = Catalogue::scheme(&provider.scheme, own).map_err(|what| ("scheme", what))?;
        let mut secrets = Vec::with_capacity(provider.secrets.len());
        for secret in &provider.secrets {
            let parsed = scheme.parse_secret(secret.kid.clone(), secret.value.expose_secret());
            let parsed = parsed.map_err(|what| ("secrets", format!("kid {}: {what}", secret.kid)))?;
            secrets.push(parsed.within(secret.window()));
        }
        let url = provider.public_url.as_ref().map(|url| whole_url(url, name));
        let known = Known {
            audience: provider.audience.clone().or_else(|| url.clone()),
            public_url: url,
            principals: provider.principals.clone(),
        };
        let tokens = provider.verify_tokens.iter().map(|token| token.expose_secret().to_owned());
        let ttl = provider.dedup_ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        let spec = ProviderSpec {
            name: name.clone(),
            scheme,
            secrets,
            tolerance_s: provider.tolerance_s,
            dedup_ttl_ms: ttl,
            signed_only: provider.signed_only,
            known,
            verify_tokens: tokens.collect(),
        };
        ProviderRules::new(spec).map_err(|problems| {
            let key = match problems.first().map(|problem| problem.path.as_str()) {
                Some("tolerance_s") => "tolerance_s",
                Some("dedup_ttl") => "dedup_ttl",
                Some("secrets") => "secrets",
                Some("public_url") => "public_url",
                Some("principals") => "principals",
                Some("audience") => "audience",
                Some(_) | None => "scheme",
            };
            let texts: Vec<&str> = problems.iter().map(|problem| problem.text.as_str()).collect();
            (key, texts.join("; "))
        })
    }
}

/// The URL that a provider calls: an origin alone stands for our own path on it.
fn whole_url(url: &str, provider: &ProviderName) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    if rest.contains(['/', '?']) { url.to_owned() } else { format!("{url}/webhooks/{provider}") }
}

fn compile(name: &str, value: toml::Value) -> Result<Scheme, String> {
    let spec: SchemeSpec = value.try_into().map_err(|error: toml::de::Error| error.message().to_owned())?;
    compiled(name, &spec)
}

fn compiled(name: &str, spec: &SchemeSpec) -> Result<Scheme, String> {
    spec.compile(name).map_err(|problems| {
        let lines: Vec<String> =
            problems.iter().map(|problem| format!("{} {}", problem.path, problem.text)).collect();
        lines.join("; ")
    })
}

impl SchemeCheck for Catalogue {
    fn shipped(&self) -> Vec<String> {
        let aliases = ALIASES.iter().map(|(name, _)| *name);
        SHIPPED.iter().map(|(name, _)| *name).chain(aliases).map(str::to_owned).collect()
    }

    fn needs_secrets(&self, _scheme: &str, _own: &toml::Table) -> bool {
        true // every scheme so far
    }

    fn scheme(&self, name: &str, text: &toml::Value) -> Result<(), String> {
        compile(name, text.clone()).map(drop)
    }

    fn provider(
        &self,
        name: &ProviderName,
        provider: &Provider,
        own: &toml::Table,
    ) -> Result<(), (&'static str, String)> {
        Catalogue::rules(name, provider, own).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_stand_for_schemes_that_ship_and_hide_none() {
        for (alias, name) in ALIASES {
            assert!(SHIPPED.iter().any(|(shipped, _)| shipped == name), "{alias}");
            assert!(!SHIPPED.iter().any(|(shipped, _)| shipped == alias), "{alias}");
            assert_eq!(Catalogue::spec(alias), Catalogue::spec(name));
        }
    }

    #[test]
    fn an_origin_stands_for_our_own_path() {
        let name = ProviderName::parse("twilio").unwrap();
        let whole = |url| whole_url(url, &name);
        assert_eq!(whole("https://a.example"), "https://a.example/webhooks/twilio");
        assert_eq!(whole("https://a.example:8443"), "https://a.example:8443/webhooks/twilio");
        assert_eq!(whole("https://a.example/"), "https://a.example/");
        assert_eq!(whole("https://a.example/in/x"), "https://a.example/in/x");
    }

    #[test]
    fn every_shipped_scheme_compiles_and_every_file_is_shipped() {
        for (name, _) in SHIPPED {
            Catalogue::scheme(name, &toml::Table::new()).unwrap_or_else(|what| panic!("{name}: {what}"));
        }
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/config/schemes");
        let mut files: Vec<String> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        files.sort();
        assert_eq!(files, SHIPPED.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    }
}
