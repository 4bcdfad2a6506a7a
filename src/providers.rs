//! The providers that are served: their rules, their verifiers' specs, and how `ronctl` shows them.

use crate::config::{ByteSize, Config, InteropConfig, Provider};
use crate::gate::Served;
use crate::http::admission::OwnRate;
use crate::http::intake::{Allowance, Share};
use crate::metrics::Metrics;
use crate::node::BootError;
use crate::schemes::Catalogue;
use crate::self_test;
use ron_actors::interop::{Verifier, VerifierArgs, VerifierHandle};
use ron_actors::kernel::child::{ChildKind, ChildSpec, ServiceLabel};
use ron_actors::passport::Passport;
use ron_core::ids::QueueKey;
use ron_core::inflate::Bounds;
use std::collections::HashMap;
use std::sync::Arc;

pub(crate) fn serve_providers(
    config: &Config,
    metrics: &Metrics,
) -> Result<HashMap<String, Served>, BootError> {
    prove_schemes(config)?;
    let mut served = HashMap::new();
    let limits = &config.interop.limits;
    for (name, provider) in config.interop.providers.iter().filter(|(_, provider)| provider.enabled) {
        let rules = Catalogue::rules(name, provider, &config.interop.schemes);
        let rules = rules
            .map_err(|(key, what)| BootError::Config(format!("interop.providers.{name}.{key}: {what}")))?;
        let kids: Vec<String> = rules.kids().map(ToString::to_string).collect();
        let provider_metrics = metrics.interop.provider(name.as_str(), kids.iter().map(String::as_str));
        served.insert(
            name.to_string(),
            Served {
                rules: Arc::new(rules),
                verifier: VerifierHandle::new(
                    limits.max_unverified as usize,
                    limits.unverified_bytes.as_usize(),
                ),
                allowance: allowance(provider, &config.interop),
                queue: QueueKey { tenant: provider.tenant.clone(), topic: provider.topic.clone() },
                metrics: provider_metrics,
            },
        );
    }
    Ok(served)
}

/// What a provider may send and hold. Without a share of its own it gets half of the node's, so that whoever floods one
/// provider leaves room for the others.
fn allowance(provider: &Provider, interop: &InteropConfig) -> Allowance {
    let (node, own, inflate) = (&interop.limits, &provider.limits, interop.decompression);
    let body_limit = provider.body_limit.unwrap_or(node.body_limit).as_usize();
    let slots = own.max_unverified.unwrap_or(node.max_unverified.div_ceil(2)).min(node.max_unverified);
    // with room for one body at least, compressed and not
    let half = (node.unverified_bytes.as_usize() / 2).max(2 * body_limit);
    let bytes = own.unverified_bytes.map_or(half, ByteSize::as_usize);
    Allowance {
        body_limit,
        codings: provider.encodings.clone(),
        bounds: Bounds {
            max_ratio: inflate.max_ratio,
            bytes_max: body_limit.min(inflate.max_bytes.as_usize()),
        },
        share: Share::new(slots as usize, bytes.min(node.unverified_bytes.as_usize())),
        rate: own.rate.map_or_else(OwnRate::default, |(rps, burst)| OwnRate::new(rps, burst)),
    }
}

/// Runs the test vectors of the shipped schemes that are used.
fn prove_schemes(config: &Config) -> Result<(), BootError> {
    let own = &config.interop.schemes;
    let used = config.interop.providers.values().filter(|provider| provider.enabled);
    let mut names: Vec<&str> = used.map(|provider| provider.scheme.as_str()).collect();
    names.retain(|name| !own.contains_key(*name));
    names.iter_mut().for_each(|name| *name = Catalogue::shipped_name(name));
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Ok(());
    }
    let run = self_test::prove(&names).map_err(BootError::Config)?;
    tracing::info!(
        schemes = names.len(),
        vectors = run,
        "the schemes in use judge their test vectors rightly"
    );
    Ok(())
}

pub(crate) fn verifier_specs(providers: &HashMap<String, Served>, passport: &Passport) -> Vec<ChildSpec> {
    let spec = |(name, served): (&String, &Served)| {
        let args = VerifierArgs {
            rules: served.rules.clone(),
            queue: served.queue.clone(),
            passport: passport.clone(),
        };
        let make = move || (Verifier, args.clone());
        let publisher = served.verifier.publisher();
        ChildSpec::actor(ChildKind::Fixed, verifier_name(name), ServiceLabel::Verifier, publisher, make)
    };
    providers.iter().map(spec).collect()
}

/// The name of a provider's actor among its siblings.
pub(crate) fn verifier_name(provider: &str) -> String {
    format!("verifier:{provider}")
}

pub(crate) fn shown_providers(config: &Config) -> serde_json::Value {
    let show = |(name, provider): (&ron_core::ids::ProviderName, &Provider)| {
        let kids: Vec<&str> = provider.secrets.iter().map(|secret| secret.kid.as_str()).collect();
        serde_json::json!({
            "name": name.as_str(),
            "scheme": provider.scheme,
            "enabled": provider.enabled,
            "tenant": provider.tenant.as_str(),
            "topic": provider.topic.as_str(),
            "kids": kids,
        })
    };
    config.interop.providers.iter().map(show).collect()
}
