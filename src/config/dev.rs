//! `--dev`: sample providers with secrets that are made at start and thrown away.

use data_encoding::{BASE64, HEXLOWER};
use ed25519_dalek::SigningKey;
use ron_actors::entropy::{Entropy, NoEntropy};
use secrecy::SecretString;
use std::collections::BTreeMap;

const DISCORD: &str = "discord";

/// The sample providers of config/dev.toml and the variables it names.
const SAMPLES: [(&str, &str); 6] = [
    ("github", "RON_DEV_SECRET_GITHUB"),
    ("stripe", "RON_DEV_SECRET_STRIPE"),
    ("slack", "RON_DEV_SECRET_SLACK"),
    ("standard_webhooks", "RON_DEV_SECRET_STANDARD_WEBHOOKS"),
    ("shopify", "RON_DEV_SECRET_SHOPIFY"),
    (DISCORD, "RON_DEV_SECRET_DISCORD"),
];

/// What a sample provider signs with: what `--dev` needs to print a command that works.
#[derive(Debug, Clone)]
pub struct DevSecret {
    /// The sample provider, as in config/dev.toml.
    pub provider: &'static str,
    /// The variable that config/dev.toml names.
    pub variable: &'static str,
    /// What the provider signs with. For discord the private Ed25519 key in hex; the variable then holds the
    /// public one.
    pub signs_with: SecretString,
}

/// Makes the secrets that `env` does not have yet, puts them there, and returns those of all sample
/// providers.
///
/// # Errors
/// No random bytes.
pub fn add_dev_secrets(
    env: &mut BTreeMap<String, String>,
    entropy: &dyn Entropy,
) -> Result<Vec<DevSecret>, NoEntropy> {
    let mut made = Vec::new();
    for (provider, variable) in SAMPLES {
        let mut bytes = [0; 32];
        entropy.fill(&mut bytes)?;
        let new = match provider {
            "standard_webhooks" => format!("whsec_{}", BASE64.encode(&bytes)),
            "stripe" => format!("whsec_{}", HEXLOWER.encode(&bytes)),
            _ => HEXLOWER.encode(&bytes),
        };
        // a variable that is set already holds what discord signs with in public form only
        let given = env.get(variable).filter(|_| provider != DISCORD).cloned();
        let signs_with = given.unwrap_or(new);
        let checks_with = match provider {
            DISCORD => HEXLOWER.encode(SigningKey::from_bytes(&bytes).verifying_key().as_bytes()),
            _ => signs_with.clone(),
        };
        env.insert(variable.to_owned(), checks_with);
        made.push(DevSecret { provider, variable, signs_with: signs_with.into() });
    }
    Ok(made)
}
