//! Values of command line arguments that more than one command takes.

use ron_core::ids::{QueueKey, Tenant, Topic};
use std::time::Duration;

/// Reads a duration: a whole number and `ms`, `s`, `m`, `h` or `d`.
///
/// # Errors
/// A text that shows the form.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err("write a whole number and a unit: 250ms, 30s, 5m, 1h, 7d".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "write a whole number and a unit, such as 30s")?;
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(|| "too long".to_owned())
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
    fn durations_need_a_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
        for bad in ["", "5", "s", "1.5s", "-1s", "5 s", "99999999999999999999s", "18446744073709551615d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_queue_is_tenant_and_topic() {
        assert_eq!(queue("acme/orders.eu").map(|queue| queue.to_string()), Ok("acme/orders.eu".to_owned()));
        for bad in ["acme", "/orders", "acme/", "Acme/orders", "acme/a/b"] {
            assert!(queue(bad).is_err(), "{bad}");
        }
    }
}
