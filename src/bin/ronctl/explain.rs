//! `ronctl interop explain ID`: what the audit log knows of a request, and which step refused it and why. It shows
//! names and keyed hashes, never a secret, a MAC or a payload, for the log has none.

use crate::audit::{self, From, Log};
use crate::client::{Call, Client};
use crate::failure::{Failure, failed};
use crate::locate::Places;
use crate::output::{Output, printable};
use clap::Args;
use serde_json::{Value, json};
use std::path::Path;

/// Which request.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The corr_id of an answer, or the req_id of a log line
    #[arg(value_name = "CORR_ID")]
    id: String,
}

/// Runs `ronctl interop explain`.
///
/// # Errors
/// The log has nothing of that id, the node's refusal, or that there is neither a node nor a log.
pub(crate) async fn run(
    ExplainArgs { id }: ExplainArgs,
    node: impl Fn() -> Result<Client, Failure>,
    places: impl Fn(Option<&Path>) -> Result<Places, Failure>,
    out: Output,
) -> Result<(), Failure> {
    let mut records = match node() {
        // what is in memory is the newest, and needs no file to be read
        Ok(mut node) => match audit::remembered(&mut node).await {
            Ok(lines) => named(&Log::Memory(lines, None), &id)?,
            Err(Failure::Unreachable(_)) => Vec::new(),
            Err(failure) => return Err(failure),
        },
        Err(failure) => return Err(failure),
    };
    if records.is_empty() {
        records = named(&audit::find(&From::default(), &node, places).await?, &id)?;
    }
    if records.is_empty() {
        return Err(failed(format!(
            "the audit log has nothing of {id}: it was not decided about alone (see `counted` in docs/AUDIT.md), \
             or its records were rotated out"
        )));
    }
    if out.json {
        return out.value(&json!({ "records": records }));
    }
    let providers = match node() {
        Ok(mut node) => node.read::<Value>(Call::get("/ctl/providers")).await.unwrap_or_default(),
        Err(_) => Value::Null,
    };
    for record in &records {
        out.pairs(&pairs(record, &providers))?;
        out.line("")?;
    }
    Ok(())
}

/// The records of a request.
fn named(log: &Log, id: &str) -> Result<Vec<Value>, Failure> {
    let mut records = Vec::new();
    audit::each_line(log, |line| {
        // to parse every line of a log takes long; nearly all are not of it
        if line.windows(id.len().max(1)).any(|part| part == id.as_bytes())
            && let Ok(record) = serde_json::from_slice::<Value>(line)
            && (record["corr_id"] == id || record["req_id"] == id)
        {
            records.push(record);
        }
        Ok(())
    })?;
    Ok(records)
}

fn pairs(record: &Value, providers: &Value) -> Vec<(&'static str, String)> {
    let text = |name: &str| match &record[name] {
        Value::Null => None,
        Value::String(text) => Some(printable(text)),
        other => Some(other.to_string()),
    };
    let mut pairs = Vec::new();
    let mut push = |name: &'static str, value: Option<String>| pairs.extend(value.map(|value| (name, value)));
    push("record", text("seq").zip(text("ts")).map(|(seq, ts)| format!("{seq}, {ts}")));
    push("about", text("kind").map(|kind| text("op").map_or(kind.clone(), |op| format!("{kind} {op}"))));
    let (decision, reason) = (text("decision").unwrap_or_default(), text("reason").unwrap_or_default());
    push("decision", Some(format!("{decision}, {reason}")));
    if let Some(step) = text("step") {
        let why = meaning(&step).unwrap_or("see docs/AUDIT.md");
        push("step", Some(format!("{step}: {why}")));
    }
    for name in [
        "provider", "tenant", "topic", "kid", "cap_id", "msg_id", "content", "skew_ms", "ip", "uid", "detail",
    ] {
        push(name, text(name));
    }
    if record["unsigned_decided"] == true {
        push("note", Some("an unsigned value took part in the decision (signed_only = false)".to_owned()));
    }
    if record["shadow"] == true {
        push(
            "note",
            Some("shadow mode (enforce = false): nothing was enqueued, and no verdict answered".to_owned()),
        );
    }
    if record["id_conflict"] == true {
        push(
            "note",
            Some("a known event with another signed body: taken for the provider's own retry".to_owned()),
        );
    }
    let provider = providers.as_array().into_iter().flatten();
    let provider =
        provider.into_iter().find(|one| one["name"] == record["provider"] && one["name"].is_string());
    if let Some(provider) = provider {
        push("scheme", provider["scheme"].as_str().map(str::to_owned));
        push("tried", Some(format!("secrets {}", provider["kids"])));
    }
    push("req_id", text("req_id"));
    pairs
}

/// What a step means, and what to do about it.
fn meaning(step: &str) -> Option<&'static str> {
    Some(match step {
        "SLOT" => {
            "too many webhooks were being verified at once, of all providers or of this one (max_unverified)"
        }
        "PROVIDER" => "no provider of that name is configured and enabled",
        "POLICY" => "the policy denies it: `ronctl policy show`",
        "MISSING_HEADER" => {
            "a header that the scheme needs was not sent: is it this provider, and this scheme?"
        }
        "BAD_PREFIX" => "the signature does not begin as the scheme says: another scheme or version signs",
        "BAD_ENCODING" => "the signature is not in the scheme's encoding (hex or base64)",
        "MALFORMED_HEADER" => "a header was repeated, not printable, or not in the scheme's syntax",
        "BAD_TIMESTAMP" => "the time is not written as the scheme says",
        "STALE" => "the signed time is outside tolerance_s: an old delivery, or a clock that is wrong",
        "SIGNATURE_MISMATCH" => {
            "no configured secret made the signature over the bytes that came: the secret is another one, or \
             something on the way changed the body"
        }
        "SECRET_OUT_OF_TIME" => {
            "the secret `kid` made the signature, outside its not_before and not_after: the sender must use the one in \
             force (`ronctl interop providers`)"
        }
        "CHALLENGE_DENIED" => {
            "a challenge by GET that is not this provider's, or with the wrong verify token"
        }
        "MISSING_FIELD" => "a value of the body that the provider signs is missing, repeated or ambiguous",
        "UNSUPPORTED_ALG" => "the request names a version or algorithm that the scheme does not allow",
        "CERT_URL_DENIED" => "the certificate is said to be where the vendor keeps none",
        "CANNOT_VERIFY" => "key material or `principals` are missing for this scheme",
        "BAD_PRINCIPAL" => "signed by the vendor, for a source that is not in `principals`",
        "BAD_AUDIENCE" => "the token is made out to another `audience`",
        "URL_MISMATCH" => "signed for another URL: compare `public_url` with what the provider calls",
        "BODY_HASH_MISMATCH" => "signed for another body: something on the way changed it",
        "BODY_HASH_MISSING" => "nothing in the signature says which body it is for",
        "BAD_CHALLENGE" => "a signed challenge that is not safe to send back",
        "BAD_METHOD" => "the provider does not use this method",
        "LENGTH" => "the declared length is over the limit (body_limit)",
        "BYTES" => {
            "too many bytes of webhooks were under way, of all providers or of this one (unverified_bytes)"
        }
        "ENCODING" => "the body is compressed in a way that the provider's `encodings` do not name",
        "BODY" => "the body did not arrive whole and in time, or is over the limit",
        "GAVE_WAY" => "its body came slowly, and others needed its place (max_unverified, unverified_bytes)",
        "INFLATE" => "the compressed body is broken, or inflates further than interop.decompression allows",
        "VERIFIER" => "the provider's verifier was down, quarantined or full: `ronctl quarantine list`",
        "SHED" => "new messages are shed: `ronctl status` says why",
        "RATE" => "more verified webhooks a second than interop.limits or the provider's own allow",
        "CAPABILITY" => {
            "the capability that was made for it did not hold: is its key revoked? `ronctl key list`"
        }
        "CONFIRM" => {
            "a signed question to confirm a subscription, whose URL was not visited or did not answer 2xx"
        }
        "QUOTA" => "the tenant's quota is used up: `ronctl policy show`",
        "ENQUEUE" => "the queue or the store did not take it; the provider sends it again",
        "DEDUP" => "its id is known with another body, and the scheme does not sign the body",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn the_records_of_an_id_are_found_and_no_others() {
        let line = |corr: &str, req: &str| {
            Bytes::from(json!({"corr_id": corr, "req_id": req, "detail": "corr-0001"}).to_string())
        };
        let log =
            Log::Memory(vec![line("corr-0001", "a"), line("corr-0002", "b"), Bytes::from("corr-0001")], None);
        assert_eq!(named(&log, "corr-0001").unwrap().len(), 1);
        assert_eq!(named(&log, "b").unwrap()[0]["corr_id"], "corr-0002");
        assert_eq!(named(&log, "").unwrap().len(), 0);
    }

    #[test]
    fn a_refusal_says_which_step_and_what_to_do() {
        let record = json!({"seq": 3, "ts": "t", "kind": "webhook", "provider": "github", "decision": "deny",
            "reason": "SIGNATURE_INVALID", "step": "SIGNATURE_MISMATCH", "req_id": "ab"});
        let providers = json!([{"name": "github", "scheme": "github", "kids": ["k1", "k2"]}]);
        let pairs = pairs(&record, &providers);
        let of = |name: &str| pairs.iter().find(|(known, _)| *known == name).unwrap().1.clone();
        assert_eq!(of("decision"), "deny, SIGNATURE_INVALID");
        assert!(of("step").starts_with("SIGNATURE_MISMATCH: no configured secret made"), "{pairs:?}");
        assert_eq!(of("tried"), r#"secrets ["k1","k2"]"#);
    }
}
