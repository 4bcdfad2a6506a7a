//! `ronctl`: the operators' command (SPEC §9). It talks to a node over its control socket; what it prints is
//! a table for people or, with `--json`, a line for programs.

#![allow(clippy::print_stdout)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod ambient;
mod args;
mod audit;
mod bench;
mod cap;
mod chaos;
mod client;
mod clock;
mod config;
mod control;
mod demo;
mod dlq;
mod egress;
mod explain;
mod failure;
mod interop;
mod key;
mod locate;
mod output;
mod own_node;
mod policy;
mod reload;
mod sender;
mod snapshot;
mod status;
mod store;
mod top;
mod topic;
mod watch;

use clap::{Parser, Subcommand};
use client::{Client, Door};
use failure::{Failure, failed};
use output::Output;
use ron_node::schemes::Catalogue;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Talks to a running ron-node.
///
/// Exit codes: 0 ok, 1 failed, 2 usage, 69 node unreachable, 78 bad configuration.
#[derive(Debug, Parser)]
#[command(name = "ronctl", version, propagate_version = true)]
struct Cli {
    /// The node's control socket: a path, or @NAME in the abstract namespace [else, without --config, RON_SOCKET]
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<String>,
    /// The node's configuration file; its data_dir holds the socket [else RON_CONFIG, else ./data]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show whether the node is ready, where it listens, and how it is
    Status,
    /// Show the node, its rates and its topics, again and again; q quits
    Top(top::TopArgs),
    /// Show what happens in the node, as it happens
    Tail(watch::TailArgs),
    /// Check that a node in amnesia keeps its promises
    #[command(subcommand)]
    Amnesia(watch::AmnesiaCommand),
    /// List and release what crashed too often
    #[command(subcommand)]
    Quarantine(watch::QuarantineCommand),
    /// Accept the node's clock after a start that was in doubt of it
    #[command(subcommand)]
    Clock(clock::ClockCommand),
    /// Inject faults into a node that allows them, for drills
    #[command(subcommand)]
    Chaos(chaos::ChaosCommand),
    /// Check a configuration, print it, or have the node read its own again
    #[command(subcommand)]
    Config(Config),
    /// Make, read, narrow and revoke capabilities
    #[command(subcommand)]
    Cap(Cap),
    /// Rotate and list the keys that make capabilities
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Check, show and reload the policy, or relax it for a while
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Look at topics, send, receive and ack single messages
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    /// Take, list and verify snapshots of the store, or bring one back
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Check, count, scrub or compact the store
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Look at dead letters, bring them back, send them again, end them
    #[command(subcommand)]
    Dlq(dlq::DlqCommand),
    /// Verify, export and show the audit log
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// List providers and schemes, run test vectors, sign requests, ask what became of one, look at egress
    #[command(subcommand)]
    Interop(interop::InteropCommand),
    /// Measure a node: rate and latency of durable sends and of whole cycles
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Show the node's main job on real input, with a node of its own, in a few seconds
    Demo(demo::DemoArgs),
}

#[derive(Debug, Subcommand)]
enum Config {
    #[command(flatten)]
    File(config::ConfigCommand),
    /// Have the node read its configuration, secrets, policy and certificates again; exit 78 if something is wrong
    Reload(reload::ReloadArgs),
}

#[derive(Debug, Subcommand)]
enum Cap {
    #[command(flatten)]
    Token(cap::CapCommand),
    /// Revoke capabilities, at once and for good
    Revoke(key::RevokeArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // one thread: `bench` shares its processors with the node that it measures
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(run(cli)),
        Err(err) => Err(failed(format!("starting: {err}"))),
    };
    done.unwrap_or_else(|failure| failure.report())
}

async fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let out = Output { json: cli.json };
    let (socket, config) = locate::named(cli.socket, cli.config.clone(), |name| std::env::var_os(name));
    let (socket, config) = (socket.as_deref(), config.as_deref());
    let node = || locate::find(socket, config).map(|place| Client::new(Door::Unix(place)));
    let places = |data_dir: Option<&Path>| locate::places(data_dir, socket, config);
    match cli.command {
        Command::Config(Config::Reload(args)) => reload::run(&args, node()?, out).await,
        Command::Config(Config::File(command)) => {
            let code =
                config::run(&command.or_file(cli.config), cli.json, &Catalogue, &mut io::stdout().lock())?;
            return Ok(ExitCode::from(code));
        }
        Command::Cap(Cap::Token(command)) => {
            let by_node = async |request| {
                let minted = control::mint(&mut node()?, &request).await?;
                Ok((minted.token, minted.cap_id))
            };
            cap::run(&command, cli.json, ambient::wall(), by_node, &mut io::stdout().lock()).await?;
            Ok(())
        }
        Command::Cap(Cap::Revoke(args)) => key::revoke(args, node, out).await,
        Command::Key(command) => key::run(command, node()?, out).await,
        Command::Tail(args) => watch::tail(args, node()?, out).await,
        Command::Amnesia(command) => watch::amnesia(command, node()?, out).await,
        Command::Quarantine(command) => watch::quarantine(command, node()?, out).await,
        Command::Top(args) => top::run(args, node()?, out).await,
        Command::Clock(command) => clock::run(command, node()?, out).await,
        Command::Chaos(command) => chaos::run(command, node()?, out).await,
        Command::Status => status::run(node()?, out).await,
        Command::Policy(command) => policy::run(command, node, out).await,
        Command::Topic(command) => topic::run(command, node()?, out).await,
        Command::Snapshot(command) => snapshot::run(command, node, places, out).await,
        Command::Store(command) => store::run(command, node, places, out).await,
        Command::Dlq(command) => dlq::run(command, node()?, out).await,
        Command::Audit(command) => audit::run(command, node, places, out).await,
        Command::Interop(command) => interop::run(command, node, places, out).await,
        Command::Bench(command) => bench::run(command, node, out).await,
        Command::Demo(args) => demo::run(args, out).await,
    }
    .map(|()| ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
