//! The policy: what capabilities let through and this node still does not want, and what each tenant may use of it
//! (SPEC §6). It is read from `policy.toml`; [`Policy::parse`] finds every problem of the text, with its line.
//!
//! Rules are judged after the capability, and the first that fits decides. A policy never widens a capability.
//! Nothing here has a memory but [`Rates`], and nothing is applied here: the shell asks.

mod quotas;
mod rates;
mod read;
#[cfg(test)]
mod tests;

pub use quotas::{Preset, Quotas, UNLIMITED};
pub use rates::Rates;
pub use read::Problem;

use crate::capability::Op;
use crate::ids::{Tenant, Topic};
use crate::reason::{Reason, Refusal};
use quotas::QuotaTable;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Rules of one policy.
pub const RULES_MAX: usize = 1_000;
/// Tenants with a table of their own.
pub const TENANTS_MAX: usize = 10_000;
/// Presets of one policy.
pub const PRESETS_MAX: usize = 32;
/// Bytes of a policy's file.
pub const TEXT_BYTES_MAX: usize = 4 << 20;
/// The longest life of a preset: 24 h.
pub const PRESET_TTL_MS_MAX: u64 = 86_400_000;
/// The preset that every policy has.
pub const BROWNOUT: &str = "brownout-1";
/// The table of the tenants that have none.
pub const DEFAULT_TENANT: &str = "default";

/// A name, or the start of one followed by `*`, as in the `topic` caveat of capabilities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    text: String,
    prefix: bool,
}

impl Pattern {
    fn matches(&self, name: &str) -> bool {
        if self.prefix { name.starts_with(&self.text) } else { name == self.text }
    }
}

/// What a rule does with what it fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Let it through.
    Allow,
    /// POLICY_BLOCKED.
    Deny,
}

/// One `[[rule]]`. A list that is empty fits everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    tenants: Vec<Pattern>,
    topics: Vec<Pattern>,
    ops: Vec<Op>,
    providers: Vec<Pattern>,
    body_bytes_max: Option<u64>,
    action: Action,
    reason: Option<String>,
}

/// One request, as the policy sees it.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// What it wants to do.
    pub op: Op,
    /// Whose topic.
    pub tenant: &'a Tenant,
    /// Which topic; `None` for a call about a whole tenant, which rules that name topics do not fit.
    pub topic: Option<&'a Topic>,
    /// The provider of a webhook; `None` for calls with a capability, which rules that name providers do not fit.
    pub provider: Option<&'a str>,
}

/// What the policy allows of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Allowed {
    /// Bytes of one message; `None` = as many as the route takes.
    pub body_bytes_max: Option<u64>,
}

impl Allowed {
    /// Refuses a message that is too long for the rule that let it through.
    ///
    /// # Errors
    /// POLICY_BLOCKED.
    pub fn check_bytes(&self, bytes: u64) -> Result<(), Refusal> {
        match self.body_bytes_max {
            Some(max) if bytes > max => Err(blocked("policy: the body is over the rule's max_body_bytes")),
            Some(_) | None => Ok(()),
        }
    }
}

/// A whole policy.
#[derive(Debug, Clone)]
pub struct Policy {
    revision: u64,
    default: Action,
    rules: Vec<Rule>,
    tenants: BTreeMap<Tenant, QuotaTable>,
    /// The table `default`, which is among `tenants`, too.
    shared: Option<QuotaTable>,
    presets: BTreeMap<String, Preset>,
}

impl Default for Policy {
    /// Without a policy capabilities alone decide, and no tenant has a limit.
    fn default() -> Policy {
        Policy {
            revision: 0,
            default: Action::Allow,
            rules: Vec::new(),
            tenants: BTreeMap::new(),
            shared: None,
            presets: BTreeMap::from([(BROWNOUT.to_owned(), Preset::BROWNOUT)]),
        }
    }
}

impl Policy {
    /// Reads `policy.toml`.
    ///
    /// # Errors
    /// Everything that is wrong with it, in the order of its lines.
    pub fn parse(text: &str) -> Result<Policy, Vec<Problem>> {
        read::policy(text)
    }

    /// The operator's own number of it, `version` in the file; 0 = no policy.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// What becomes of a request that no rule fits.
    #[must_use]
    pub const fn default_action(&self) -> Action {
        self.default
    }

    /// How many rules it has.
    #[must_use]
    pub fn rules(&self) -> usize {
        self.rules.len()
    }

    /// The tenants with a table of their own, and what is in force for each.
    pub fn tenants(&self) -> impl Iterator<Item = (&Tenant, Quotas)> {
        self.tenants.keys().map(|tenant| (tenant, self.quotas(tenant)))
    }

    /// Its presets by name, the built-in one included.
    pub fn presets(&self) -> impl Iterator<Item = (&str, Preset)> {
        self.presets.iter().map(|(name, preset)| (name.as_str(), *preset))
    }

    /// The preset of that name.
    #[must_use]
    pub fn preset(&self, name: &str) -> Option<Preset> {
        self.presets.get(name).copied()
    }

    /// Judges a request: the first rule that fits decides.
    ///
    /// # Errors
    /// POLICY_BLOCKED, with the rule's own text if it has one.
    pub fn judge(&self, request: &Request<'_>) -> Result<Allowed, Refusal> {
        let fits = |(_, rule): &(usize, &Rule)| rule.fits(request);
        match (self.rules.iter().enumerate().find(fits), self.default) {
            (Some((_, rule)), _) if rule.action == Action::Allow => {
                Ok(Allowed { body_bytes_max: rule.body_bytes_max })
            }
            (Some((at, rule)), _) => Err(match &rule.reason {
                Some(reason) => blocked(reason.clone()),
                None => blocked(format!("policy: denied by rule {}", at + 1)),
            }),
            (None, Action::Allow) => Ok(Allowed::default()),
            (None, Action::Deny) => Err(blocked("policy: no rule allows this")),
        }
    }

    /// What the tenant may use: its own table, key by key, then the table `default`, then no limit and weight 1.
    #[must_use]
    pub fn quotas(&self, tenant: &Tenant) -> Quotas {
        Quotas::of(self.tenants.get(tenant), self.shared.as_ref())
    }
}

impl Rule {
    fn fits(&self, request: &Request<'_>) -> bool {
        let any = |patterns: &[Pattern], name: Option<&str>| {
            patterns.is_empty()
                || name.is_some_and(|name| patterns.iter().any(|pattern| pattern.matches(name)))
        };
        any(&self.tenants, Some(request.tenant.as_str()))
            && any(&self.topics, request.topic.map(Topic::as_str))
            && any(&self.providers, request.provider)
            && (self.ops.is_empty() || self.ops.iter().any(|op| op.word() == request.op.word()))
    }
}

fn blocked(text: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::new(Reason::PolicyBlocked, text)
}
