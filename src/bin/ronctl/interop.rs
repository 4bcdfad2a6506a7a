//! `ronctl interop`: the providers of a node, the schemes that ship, test vectors, and signed requests.

use crate::ambient;
use crate::args;
use crate::client::Client;
use crate::control;
use crate::egress;
use crate::explain;
use crate::failure::{Failure, failed};
use crate::locate::Places;
use crate::output::Output;
use clap::{Args, Subcommand};
use ron_core::scheme::vectors::{Expected, Vector};
use ron_core::scheme::{Known, SchemeSpec, ToSign};
use ron_node::schemes::Catalogue;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// What to do about webhooks.
#[derive(Debug, Subcommand)]
pub(crate) enum InteropCommand {
    /// List the node's providers, or with --schemes what ships
    Providers(ProvidersArgs),
    /// Run test vectors against the schemes that ship; exit 1 if one is judged otherwise
    Verify(VerifyArgs),
    /// Make a request that a provider of this scheme would send, for smoke tests
    Sign(Box<SignArgs>),
    /// Say what became of a request, and which step refused it
    Explain(explain::ExplainArgs),
    /// Look at egress, stop and start it, send again what failed
    #[command(subcommand)]
    Egress(egress::EgressCommand),
}

/// Which list.
#[derive(Debug, Args)]
pub(crate) struct ProvidersArgs {
    /// The schemes that ship with this ronctl, without asking a node
    #[arg(long)]
    schemes: bool,
}

/// Which vectors.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// A JSON array of vectors, in the form of tests/vectors/webhooks.json
    #[arg(long, value_name = "FILE")]
    vectors: PathBuf,
}

/// What is signed, and with what.
#[derive(Debug, Args)]
pub(crate) struct SignArgs {
    /// The scheme, as `interop providers --schemes` lists it
    #[arg(long)]
    scheme: String,
    /// The variable that holds the secret (for public keys: the private one)
    #[arg(
        long,
        value_name = "VARIABLE",
        required_unless_present = "secret_file",
        conflicts_with = "secret_file"
    )]
    secret_env: Option<String>,
    /// The file that holds it
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// The body's file; `-` is stdin
    #[arg(long, value_name = "FILE")]
    body: PathBuf,
    /// The event's id, where the scheme has it in a header or token
    #[arg(long)]
    id: Option<String>,
    /// The event's type, where the scheme has it in a header
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Where the request goes: the provider's `public_url`, and in the printed command
    #[arg(long, default_value = "http://127.0.0.1:8080/webhooks/PROVIDER")]
    url: String,
    /// Whom the event is for, where the scheme signs it: one of the provider's `principals`
    #[arg(long)]
    principal: Option<String>,
    /// What a token is made out to [else the URL]
    #[arg(long)]
    audience: Option<String>,
    /// Another header that the scheme signs; may be repeated
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = args::attribute)]
    headers: Vec<(String, String)>,
}

/// Runs the command.
///
/// # Errors
/// A vector that is judged otherwise, bad arguments, a node that does not answer.
pub(crate) async fn run(
    command: InteropCommand,
    node: impl Fn() -> Result<Client, Failure>,
    places: impl Fn(Option<&Path>) -> Result<Places, Failure>,
    out: Output,
) -> Result<(), Failure> {
    match command {
        InteropCommand::Egress(command) => egress::run(command, node()?, out).await,
        InteropCommand::Explain(args) => explain::run(args, node, places, out).await,
        InteropCommand::Providers(ProvidersArgs { schemes: true }) => schemes(out),
        InteropCommand::Providers(ProvidersArgs { schemes: false }) => providers(node()?, out).await,
        InteropCommand::Verify(args) => verify(&args, out),
        InteropCommand::Sign(args) => sign(&args, out),
    }
}

async fn providers(mut node: Client, out: Output) -> Result<(), Failure> {
    let answer: serde_json::Value = control::providers(&mut node).await?;
    if out.json {
        return out.value(&answer);
    }
    let text = |value: &serde_json::Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let row = |value: &serde_json::Value| {
        let kids: Vec<&str> =
            value["kids"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str).collect();
        let enabled = match (value["enabled"] == true, value["enforce"] == false) {
            (true, false) => "yes",
            (true, true) => "shadow",
            (false, _) => "no",
        };
        let queue = format!("{}/{}", text(value, "tenant"), text(value, "topic"));
        let rotation = value["rotation"].as_str().unwrap_or("–").to_owned();
        let (name, scheme) = (text(value, "name"), text(value, "scheme"));
        vec![name, scheme, enabled.to_owned(), queue, kids.join(","), rotation]
    };
    let rows = answer.as_array().into_iter().flatten().map(row).collect();
    out.table(&["provider", "scheme", "enabled", "queue", "kids", "rotation"], rows)?;
    secrets(&answer, out)
}

/// How far each secret is, and what is to be done about it.
fn secrets(providers: &serde_json::Value, out: Output) -> Result<(), Failure> {
    let (mut rows, mut warnings) = (Vec::new(), Vec::new());
    for provider in providers.as_array().into_iter().flatten() {
        let name = provider["name"].as_str().unwrap_or_default();
        for secret in provider["secrets"].as_array().into_iter().flatten() {
            let text = |key: &str| secret[key].as_str().unwrap_or("–").to_owned();
            let accepted = if secret["accepted"] == true { "yes" } else { "no" };
            rows.push(vec![
                name.to_owned(),
                text("kid"),
                text("state"),
                accepted.to_owned(),
                text("since"),
                text("last_match"),
                text("not_after"),
            ]);
        }
        let told = provider["warnings"].as_array().into_iter().flatten();
        let told = told.filter_map(serde_json::Value::as_str);
        warnings.extend(told.map(|text| format!("warning: provider {name}: {text}")));
    }
    if !rows.is_empty() {
        out.line("")?;
        out.table(&["provider", "kid", "state", "accepted", "since", "last match", "not after"], rows)?;
    }
    warnings.into_iter().try_for_each(|warning| out.line(warning))
}

fn schemes(out: Output) -> Result<(), Failure> {
    let all = Catalogue::specs().map_err(failed)?;
    if out.json {
        let all: serde_json::Map<String, serde_json::Value> = all
            .iter()
            .map(|(name, spec)| Ok((name.clone(), serde_json::to_value(spec)?)))
            .collect::<Result<_, serde_json::Error>>()
            .map_err(|error| failed(format!("writing JSON: {error}")))?;
        return out.value(&all);
    }
    let mut rows = Vec::new();
    for (name, spec) in &all {
        rows.push(scheme_row(name, spec)?);
    }
    out.table(&["scheme", "algorithm", "covers", "duplicates by", "needs"], rows)
}

fn scheme_row(name: &str, spec: &SchemeSpec) -> Result<Vec<String>, Failure> {
    let scheme = Catalogue::scheme(name, &toml::Table::new()).map_err(failed)?;
    let shown = |value: serde_json::Result<serde_json::Value>| {
        value.ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
    };
    let covers = match shown(serde_json::to_value(spec.body_coverage)).as_str() {
        "full" => "the body",
        "partial" => "some fields",
        _ => "nothing of the body",
    };
    let by = if scheme.knows_by_id() { "signed id" } else { "what is signed" };
    let needs = [
        (scheme.needs_public_url(), "public_url"),
        (scheme.needs_principals(), "principals"),
        (scheme.needs_audience(), "audience"),
    ];
    let needs: Vec<&str> = needs.into_iter().filter_map(|(needed, what)| needed.then_some(what)).collect();
    let algorithm = shown(serde_json::to_value(spec.algorithm));
    Ok(vec![name.to_owned(), algorithm, covers.to_owned(), by.to_owned(), needs.join(",")])
}

fn verify(args: &VerifyArgs, out: Output) -> Result<(), Failure> {
    let text = std::fs::read_to_string(&args.vectors)
        .map_err(|error| failed(format!("{}: {error}", args.vectors.display())))?;
    let all: Vec<serde_json::Value> = serde_json::from_str(&text).map_err(|error| {
        failed(format!("{} is no JSON array of vectors: {error}", args.vectors.display()))
    })?;
    let schemes = Catalogue::specs().map_err(failed)?;
    let (mut good, mut bad) = (0_usize, 0_usize);
    for value in all {
        let id = value["id"].as_str().unwrap_or("?").to_owned();
        let expected = value["expected"].as_str().unwrap_or("?").to_owned();
        let wanted = value["reason"].as_str().map(str::to_owned);
        let got = judged(value, &schemes);
        let same = got.as_ref().is_ok_and(|(verdict, _)| *verdict == expected);
        if same {
            good += 1
        } else {
            bad += 1
        }
        let verdict = match &got {
            Ok((verdict, None)) => verdict.clone(),
            Ok((verdict, Some(reason))) => format!("{verdict}({reason})"),
            Err(why) => format!("error({why})"),
        };
        if out.json {
            let error = got.as_ref().err();
            let (got, reason) = got.as_ref().map_or((None, None), |(got, reason)| (Some(got), *reason));
            out.value(&serde_json::json!({
                "id": id, "ok": same, "expected": expected, "got": got, "reason": reason, "error": error,
            }))?;
        } else {
            let expected = wanted.map_or_else(|| expected.clone(), |reason| format!("{expected}({reason})"));
            let word = if same { "ok" } else { "MISMATCH" };
            out.line(format!("{word} {id} expected={expected} got={verdict}"))?;
        }
    }
    if !out.json {
        out.line(format!("{good} ok, {bad} mismatched"))?;
    }
    if bad == 0 {
        Ok(())
    } else {
        Err(failed(format!("{bad} of {} vectors are judged otherwise", good + bad)))
    }
}

type Judged = Result<(String, Option<&'static str>), String>;

fn judged(value: serde_json::Value, schemes: &[(String, SchemeSpec)]) -> Judged {
    let vector: Vector = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let (name, spec) =
        vector.choose(schemes).ok_or_else(|| format!("no scheme for `{}`", vector.provider))?;
    let scheme = vector
        .fit(spec)
        .compile(name)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
    let outcome = vector.run(&scheme).map_err(|error| error.to_string())?;
    let verdict = match outcome.got {
        Expected::Accept => "accept",
        Expected::Reject => "reject",
    };
    Ok((verdict.to_owned(), outcome.reason))
}

fn sign(args: &SignArgs, out: Output) -> Result<(), Failure> {
    let scheme = Catalogue::scheme(&args.scheme, &toml::Table::new())
        .map_err(|what| Failure::Usage(format!("--scheme {}: {what}", args.scheme)))?;
    let secret = match (&args.secret_env, &args.secret_file) {
        (Some(name), _) => std::env::var(name).map_err(|_| Failure::Usage(format!("{name} is not set")))?,
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path);
            let text = text.map_err(|error| failed(format!("{}: {error}", path.display())))?;
            text.strip_suffix('\n').map(str::to_owned).unwrap_or(text)
        }
        (None, None) => return Err(Failure::Usage("give --secret-env or --secret-file".to_owned())),
    };
    let key = scheme.signing_key(&secret).map_err(|error| failed(error.to_string()))?;
    let mut body = Vec::new();
    if args.body.as_os_str() == "-" {
        std::io::stdin().read_to_end(&mut body).map_err(|error| failed(format!("stdin: {error}")))?;
    } else {
        body =
            std::fs::read(&args.body).map_err(|error| failed(format!("{}: {error}", args.body.display())))?;
    }
    let (base, query) = args.url.split_once('?').unwrap_or((&args.url, ""));
    let request = ToSign {
        id: args.id.as_deref(),
        event_type: args.event_type.as_deref(),
        known: Known {
            public_url: Some(base.to_owned()),
            principals: args.principal.iter().cloned().collect(),
            audience: Some(args.audience.clone().unwrap_or_else(|| base.to_owned())),
        },
        query,
        headers: &args.headers,
        ..ToSign::new(ambient::wall(), &body)
    };
    let signed = scheme.sign(&key, &request).map_err(|error| failed(error.to_string()))?;
    let url = if signed.query.is_empty() { base.to_owned() } else { format!("{base}?{}", signed.query) };
    if out.json {
        let headers: Vec<[&str; 2]> =
            signed.headers.iter().map(|(name, value)| [name.as_str(), value.as_str()]).collect();
        let body = String::from_utf8_lossy(&signed.body);
        return out.value(&serde_json::json!({ "url": url, "headers": headers, "body": body }));
    }
    let mut curl = format!("curl -sS {}", quoted(&url));
    for (name, value) in &signed.headers {
        let _ = write!(curl, " -H {}", quoted(&format!("{name}: {value}")));
    }
    let _ = write!(curl, " --data-binary {}", quoted(&String::from_utf8_lossy(&signed.body)));
    out.line(curl)
}

/// For a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shell_words_hold_any_text() {
        assert_eq!(quoted("a'b $c"), r"'a'\''b $c'");
    }

    #[test]
    fn a_vector_that_cannot_be_read_is_a_mismatch_and_says_why() {
        let schemes = Catalogue::specs().unwrap();
        let wrong = judged(serde_json::json!({ "id": "x" }), &schemes);
        assert!(wrong.unwrap_err().contains("missing field"), "names the field");
    }
}
