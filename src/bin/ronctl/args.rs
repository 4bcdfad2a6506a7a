//! Values of command line arguments that more than one command takes.

use ron_core::ids::{QueueKey, Tenant, Topic};
use ron_node::config::parse_duration;
use std::time::Duration;

/// Reads a duration: a whole number and `ms`, `s`, `m`, `h` or `d`.
///
/// # Errors
/// A text that shows the form.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "write a whole number and a unit: 250ms, 30s, 15m, 1h, 7d".to_owned())
}

/// Reads `TENANT/TOPIC`.
///
/// # Errors
/// The rule that it breaks.
pub(crate) fn queue(text: &str) -> Result<QueueKey, String> {
    let (tenant, topic) = text.split_once('/').ok_or("write TENANT/TOPIC, such as acme/orders")?;
    let tenant = Tenant::parse(tenant).map_err(|err| err.to_string())?;
    let topic = Topic::parse(topic).map_err(|err| err.to_string())?;
    Ok(QueueKey { tenant, topic })
}

/// Reads a tenant's name.
///
/// # Errors
/// The rule that it breaks.
pub(crate) fn tenant(text: &str) -> Result<Tenant, String> {
    Tenant::parse(text).map_err(|err| err.to_string())
}

/// Reads `name=value`.
///
/// # Errors
/// A text that shows the form.
pub(crate) fn attribute(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_tenant_and_topic() {
        assert_eq!(queue("acme/orders.eu").map(|queue| queue.to_string()), Ok("acme/orders.eu".to_owned()));
        for bad in ["acme", "/orders", "acme/", "Acme/orders", "acme/a/b"] {
            assert!(queue(bad).is_err(), "{bad}");
        }
    }
}
