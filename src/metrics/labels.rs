//! Label values: closed sets, so that no client can make series.

use ron_core::reason::Reason;

/// The mailbox port's routes; [`mailbox_route`] gives the index.
pub(super) const MAILBOX_ROUTES: [&str; 26] = [
    "/enqueue",
    "/enqueue/batch",
    "/recv",
    "/recv/stream",
    "/ack",
    "/nack",
    "/extend",
    "/",
    "/peek",
    "/messages",
    "/settings",
    "/pause",
    "/resume",
    "/purge",
    "/dlq",
    "/dlq/reprocess",
    "/dlq/purge",
    "/dlq/resend",
    "/dlq/tasks",
    "/subscribers",
    "/tenant",
    "/bench",
    "/openapi.json",
    "/docs",
    "/graphql",
    "other",
];

/// The interop port's routes; [`interop_route`] gives the index.
pub(super) const INTEROP_ROUTES: [&str; 9] =
    ["/webhooks/{provider}", "/version", "/v1", "/openapi.json", "/docs", "/graphql", "/put", "/o", "other"];

/// The index of one of the mailbox's routes by its name.
#[must_use]
pub fn mailbox_call(name: &str) -> usize {
    MAILBOX_ROUTES.iter().position(|route| *route == name).unwrap_or(MAILBOX_ROUTES.len() - 1)
}

/// What follows the topic in `/v1/{tenant}/{topic}…`, as an index into the mailbox's routes.
#[must_use]
pub fn mailbox_route(path: &str) -> usize {
    const BASE: usize = 7;
    const MESSAGES: usize = 9;
    const TASKS: usize = 18;
    const TENANT: usize = 20;
    const BENCH: usize = 21;
    const OPENAPI: usize = 22;
    const DOCS: usize = 23;
    const GRAPHQL: usize = 24;
    const OTHER: usize = MAILBOX_ROUTES.len() - 1;
    let Some(rest) = path.strip_prefix("/v1/") else {
        return match path {
            "/openapi.json" => OPENAPI,
            "/graphql" => GRAPHQL,
            _ if is_docs(path) => DOCS,
            _ if path.starts_with("/bench/") => BENCH,
            _ => OTHER,
        };
    };
    let Some((_, rest)) = rest.split_once('/') else {
        return TENANT;
    };
    match rest.find('/') {
        None => BASE,
        Some(at) => {
            let call = &rest[at..];
            if call.starts_with("/messages/") {
                return MESSAGES;
            }
            if call.starts_with("/dlq/tasks/") {
                return TASKS;
            }
            // the last ones are no calls on a topic
            let calls = &MAILBOX_ROUTES[..TENANT];
            calls.iter().position(|route| *route == call && call != "/").unwrap_or(OTHER)
        }
    }
}

/// The interop route of `path`, as an index.
#[must_use]
pub fn interop_route(path: &str) -> usize {
    match path {
        "/version" => 1,
        _ if path.starts_with("/webhooks/") => 0,
        "/openapi.json" => 3,
        _ if path.starts_with("/v1/") => 2,
        "/graphql" => 5,
        _ if is_docs(path) => 4,
        "/put" => 6,
        _ if path.starts_with("/o/") => 7,
        _ => 8,
    }
}

fn is_docs(path: &str) -> bool {
    path == "/docs" || path.starts_with("/docs/")
}

/// A service as `service_restarts_total` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// The mailbox tree.
    Mailbox,
    /// A shard.
    Shard,
    /// The store.
    Store,
    /// The interop tree.
    Interop,
    /// A provider's verifier.
    Verifier,
    /// The brownout sentinel.
    Sentinel,
    /// The audit log.
    Audit,
    /// An egress.
    Egress,
    /// The keeper of capabilities.
    Passport,
    /// The keeper of the policy.
    Policy,
    /// The event bus.
    Bus,
}

impl Service {
    pub(super) const NAMES: [&'static str; 11] = [
        "mailbox", "shard", "store", "interop", "verifier", "sentinel", "audit", "egress", "passport",
        "policy", "bus",
    ];

    /// The label's value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Service::NAMES[self as usize]
    }

    /// The service of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Service> {
        use Service::*;
        let all = [Mailbox, Shard, Store, Interop, Verifier, Sentinel, Audit, Egress, Passport, Policy, Bus];
        all.into_iter().find(|service| service.name() == name)
    }
}

/// Whose lag the bus counts. Subscribers name their topic by its first part.
pub(super) const BUS_TOPICS: [&str; 5] = ["kernel", "mailbox", "interop", "tail", "other"];

/// Where a payload's hash was found wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A sender's `X-Payload-Hash`.
    Ingress,
    /// A stored record.
    Egress,
}

/// How a webhook's verification ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookResult {
    /// Verified and stored.
    Accepted,
    /// Verified; its id was known.
    Duplicate,
    /// A handshake was answered.
    Handshake,
    /// Refused.
    Refused(Reason),
}

impl WebhookResult {
    pub(super) const fn label(self) -> &'static str {
        match self {
            WebhookResult::Accepted => "accepted",
            WebhookResult::Duplicate => "duplicate",
            WebhookResult::Handshake => "handshake",
            WebhookResult::Refused(reason) => reason.code(),
        }
    }
}

/// Where a request met a full queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// A connection over the limit.
    Connection,
    /// A webhook.
    Webhooks,
    /// An API call.
    Api,
}

impl Endpoint {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Endpoint::Connection => "connection",
            Endpoint::Webhooks => "webhooks",
            Endpoint::Api => "api",
        }
    }
}
