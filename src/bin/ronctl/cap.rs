//! `ronctl cap mint|inspect|attenuate`: makes, reads and narrows capabilities.

use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand};
use ron_actors::entropy::OsEntropy;
use ron_actors::keyring_file;
use ron_actors::passport::make_token;
use ron_core::capability::{Audience, CapId, Caveat, MintRequest, Op, Token, attenuate, verify};
use ron_core::ids::Tenant;
use ron_core::time::Millis;
use ron_node::config::{ByteSize, parse_duration};
use serde_json::json;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::Duration;

/// The longest life a token can have, whatever the node's `auth.max_ttl` says: 30 days.
const TTL_MAX_MS: u64 = 30 * 86_400_000;

/// What to do with a capability.
#[derive(Debug, Subcommand)]
pub(crate) enum CapCommand {
    /// Make a capability and print it, alone, on stdout
    Mint(MintArgs),
    /// Tell what a capability allows; checks who made it only with --keyring
    Inspect {
        /// The token, or `-` to read it from stdin
        token: String,
        /// Check it against the keys of this file
        #[arg(long)]
        keyring: Option<PathBuf>,
    },
    /// Narrow a capability by more caveats; needs no key
    Attenuate {
        /// The token, or `-` to read it from stdin
        token: String,
        /// A caveat, as "topic = orders.*"; can be repeated
        #[arg(long = "caveat", required = true)]
        caveats: Vec<String>,
    },
}

/// What the new capability allows.
#[derive(Debug, Args)]
pub(crate) struct MintArgs {
    /// Whose it is
    #[arg(long)]
    tenant: String,
    /// A topic, or the start of one followed by `*`
    #[arg(long)]
    topic: String,
    /// What it allows: enqueue, recv, ack, nack, peek, stat, admin, put, get, introspect
    #[arg(long = "op", required = true, value_delimiter = ',')]
    ops: Vec<String>,
    /// How long it lives, as 30s, 15m, 1h, 7d; at most 30d
    #[arg(long, value_parser = duration, required_unless_present = "no_expiry", conflicts_with = "no_expiry")]
    ttl: Option<Duration>,
    /// It never expires
    #[arg(long)]
    no_expiry: bool,
    /// The only listener it works on: mailbox or interop
    #[arg(long, value_parser = audience)]
    aud: Option<Audience>,
    /// The only peers it works from, as a CIDR or one address
    #[arg(long)]
    ip: Option<String>,
    /// The largest message it may send, as 64KiB or in bytes
    #[arg(long, value_parser = size)]
    max_bytes: Option<u64>,
    /// Requests a second
    #[arg(long)]
    rps: Option<u64>,
    /// Make it with the keys of this file; needs no node
    #[arg(long)]
    keyring: Option<PathBuf>,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "a duration, as 30s, 15m, 1h, 7d".to_owned())
}

fn size(text: &str) -> Result<u64, String> {
    let bytes = || ByteSize::parse(text).map(|size| size.0);
    text.parse().ok().or_else(bytes).ok_or_else(|| "a size, as 64KiB or in bytes".to_owned())
}

fn audience(text: &str) -> Result<Audience, String> {
    Audience::parse(text).ok_or_else(|| "mailbox or interop".to_owned())
}

impl MintArgs {
    /// The request, as the node takes it on its control socket.
    ///
    /// # Errors
    /// The tenant or an op is not one.
    pub(crate) fn request(&self) -> anyhow::Result<MintRequest> {
        let op = |word: &String| Op::parse(word).ok_or_else(|| anyhow!("--op: {word:?} is no operation"));
        let ttl_ms = self.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        Ok(MintRequest {
            tenant: Tenant::parse(&self.tenant).context("--tenant")?,
            topic: self.topic.clone(),
            ops: self.ops.iter().map(op).collect::<Result<_, _>>()?,
            ttl_ms,
            aud: self.aud,
            ip: self.ip.clone(),
            max_bytes: self.max_bytes,
            rps: self.rps,
        })
    }
}

/// Runs the command. `by_node` mints over the control socket and returns the token and its id.
///
/// # Errors
/// The request, token or caveat is not one; the keyring cannot be used; or what `by_node` says.
pub(crate) async fn run(
    command: &CapCommand,
    json: bool,
    wall: Millis,
    by_node: impl AsyncFnOnce(MintRequest) -> anyhow::Result<(String, String)>,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    match command {
        CapCommand::Mint(args) => {
            let request = args.request()?;
            // both sides judge it; here the text is about the command line, there it is about the request
            request.caveats(wall.0 / 1000, TTL_MAX_MS).map_err(|refusal| anyhow!(refusal.text))?;
            let (token, cap_id) = match &args.keyring {
                Some(path) => by_keyring(path, &request, wall)?,
                None => by_node(request).await?,
            };
            show(json, &token, &cap_id, out)
        }
        CapCommand::Inspect { token, keyring } => inspect(&given(token)?, keyring.as_ref(), json, wall, out),
        CapCommand::Attenuate { token, caveats } => {
            for caveat in caveats {
                if Caveat::parse(caveat, 1).is_none() {
                    bail!("--caveat {caveat:?} cannot be read, so the capability would allow nothing");
                }
            }
            let token = attenuate(&given(token)?, caveats).map_err(|why| anyhow!(why))?;
            let cap_id = CapId::of(&Token::parse(&token).map_err(|why| anyhow!(why))?.nonce);
            show(json, &token, &cap_id.to_string(), out)
        }
    }
}

fn by_keyring(
    path: &std::path::Path,
    request: &MintRequest,
    wall: Millis,
) -> anyhow::Result<(String, String)> {
    let keyring = keyring_file::load(path)?;
    let caveats = request.caveats(wall.0 / 1000, TTL_MAX_MS).map_err(|refusal| anyhow!(refusal.text))?;
    let minted = make_token(&keyring, &OsEntropy, &request.tenant, &caveats)
        .map_err(|refusal| anyhow!(refusal.text))?;
    Ok((minted.token, minted.cap_id.to_string()))
}

fn given(token: &str) -> anyhow::Result<String> {
    if token != "-" {
        return Ok(token.to_owned());
    }
    let mut text = String::new();
    std::io::stdin().take(64 * 1024).read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

fn show(json: bool, token: &str, cap_id: &str, out: &mut dyn Write) -> anyhow::Result<()> {
    match json {
        true => writeln!(out, "{}", json!({ "token": token, "cap_id": cap_id }))?,
        false => writeln!(out, "{token}")?,
    }
    Ok(())
}

fn inspect(
    text: &str,
    keyring: Option<&PathBuf>,
    json: bool,
    wall: Millis,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let token = Token::parse(text).map_err(|why| anyhow!(why))?;
    let now_s = wall.0 / 1000;
    let caveats: Vec<(&String, Option<Caveat>)> =
        token.caveats.iter().enumerate().map(|(at, text)| (text, Caveat::parse(text, at))).collect();
    let ends = caveats.iter().filter_map(|(_, caveat)| match caveat {
        Some(Caveat::Exp(at)) => Some(*at),
        _ => None,
    });
    let ends = ends.min().map(|at| Millis(at.saturating_mul(1000)));
    let verified = match keyring {
        Some(path) => Some(verify(text, &keyring_file::load(path)?, now_s).is_ok()),
        None => None,
    };
    let cap_id = CapId::of(&token.nonce).to_string();
    if json {
        let caveats: Vec<_> = caveats
            .iter()
            .map(|(text, caveat)| json!({ "text": text, "readable": caveat.is_some() }))
            .collect();
        let expires_at = ends.map(Millis::rfc3339);
        let (kid, tenant) = (&token.kid, &token.tenant);
        let expired = ends.is_some_and(|end| end <= wall);
        let shown = json!({
            "cap_id": cap_id, "kid": kid, "tenant": tenant, "caveats": caveats,
            "expires_at": expires_at, "expired": expired, "verified": verified,
        });
        writeln!(out, "{shown}")?;
        return Ok(());
    }
    writeln!(
        out,
        "cap_id   {cap_id}\nkid      {}\ntenant   {}",
        token.kid.escape_default(),
        token.tenant.escape_default()
    )?;
    let expiry = match ends {
        None => "never".to_owned(),
        Some(end) if end <= wall => format!("{} (expired)", end.rfc3339()),
        Some(end) => end.rfc3339(),
    };
    let made_by = match verified {
        None => "not checked (give --keyring to check)",
        Some(true) => "yes, made with this keyring",
        Some(false) => "NO",
    };
    writeln!(out, "expires  {expiry}\nverified {made_by}")?;
    for (text, caveat) in &caveats {
        let note = if caveat.is_none() { "   <- cannot be read: denies everything" } else { "" };
        writeln!(out, "caveat   {}{note}", text.escape_default())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use futures::executor::block_on;

    const WALL: Millis = Millis(1_795_000_000_000);

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: CapCommand,
    }

    fn ronctl(args: &[&str], json: bool) -> anyhow::Result<String> {
        let line = Line::try_parse_from([&["cap"], args].concat())?;
        let by_node = async |request: MintRequest| Ok((serde_json::to_string(&request)?, "id".to_owned()));
        let mut out = Vec::new();
        block_on(run(&line.command, json, WALL, by_node, &mut out))?;
        Ok(String::from_utf8(out)?)
    }

    #[test]
    fn mints_inspects_and_attenuates_without_a_node() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keyring");
        keyring_file::load_or_create(&path, WALL, &OsEntropy).unwrap();
        let ring = path.to_str().unwrap();
        let mint = [
            "mint",
            "--tenant",
            "acme",
            "--topic",
            "orders*",
            "--op",
            "recv,ack",
            "--ttl",
            "1h",
            "--keyring",
            ring,
        ];
        let token = ronctl(&mint, false).unwrap();
        assert!(token.starts_with("ron1_") && token.lines().count() == 1);
        let token = token.trim();
        let text = ronctl(&["inspect", token, "--keyring", ring], false).unwrap();
        assert!(
            text.contains("yes, made with this keyring") && text.contains("caveat   op = recv,ack"),
            "{text}"
        );

        let narrow =
            ronctl(&["attenuate", token, "--caveat", "op = recv", "--caveat", "rps = 5"], true).unwrap();
        let narrow: serde_json::Value = serde_json::from_str(&narrow).unwrap();
        let inspected =
            ronctl(&["inspect", narrow["token"].as_str().unwrap(), "--keyring", ring], true).unwrap();
        let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
        assert_eq!((&inspected["verified"], &inspected["expired"]), (&true.into(), &false.into()));
        assert_eq!(inspected["caveats"].as_array().unwrap().len(), 5);
        assert_eq!(inspected["cap_id"], narrow["cap_id"]);
        assert!(ronctl(&["attenuate", token, "--caveat", "op=recv"], false).is_err());
        assert!(ronctl(&["inspect", "ron1_nonsense"], false).is_err());
    }

    #[test]
    fn mints_by_the_node_with_what_was_asked() {
        let mint = [
            "mint",
            "--tenant",
            "acme",
            "--topic",
            "t",
            "--op",
            "enqueue",
            "--no-expiry",
            "--max-bytes",
            "1KiB",
        ];
        let sent = ronctl(&mint, false).unwrap();
        let expect = r#"{"tenant":"acme","topic":"t","ops":["enqueue"],"ttl_ms":null,"max_bytes":1024}"#;
        assert_eq!(sent.trim(), expect);
    }

    #[test]
    fn bad_requests_never_reach_the_node() {
        let base = ["mint", "--tenant", "acme", "--topic", "t", "--op", "recv"];
        for more in [
            &["--ttl", "31d"][..],
            &["--ttl", "soon"],
            &[],
            &["--ttl", "1h", "--no-expiry"],
            &["--ttl", "1h", "--op", "fly"],
            &["--ttl", "1h", "--ip", "here"],
            &["--ttl", "1h", "--aud", "both"],
            &["--ttl", "1h", "--tenant", "ACME"],
        ] {
            assert!(ronctl(&[&base[..], more].concat(), false).is_err(), "{more:?}");
        }
    }
}
