//! The process: arguments → configuration → telemetry → node → exit code. `main.rs` calls it with the product's
//! store; a drill calls it with a store on a disk that misbehaves, and is the whole node in everything else.

use crate::config::{Config, DevSecret, Sources, add_dev_secrets, report};
use crate::node::Node;
use crate::run::{Signals, dev_banner, say_ready, serve};
use crate::schemes::Catalogue;
use crate::{sandbox, scheduling, telemetry};
use clap::Parser;
use ron_actors::entropy::OsEntropy;
use ron_actors::kernel::clock::SystemClock;
use ron_actors::store::Medium;
use ron_core::time::{Clock, Millis};
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::available_parallelism;
use tokio::runtime::{self, Runtime};

/// Exit code of a bad configuration (EX_CONFIG).
const BAD_CONFIG: u8 = 78;

/// Verified webhooks in a durable queue: one supervised process.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file; without it, the one that `RON_CONFIG` names.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Try it out: loopback only, throw-away secrets and data, sample providers on.
    #[arg(long)]
    dev: bool,
    /// `macronode` or `micronode`.
    #[arg(long)]
    profile: Option<String>,
}

/// Runs a node until it ends, its store's bytes on what `medium_of` makes of the configuration.
pub fn main(medium_of: impl FnOnce(&Config) -> Arc<dyn Medium>) -> ExitCode {
    small_pages();
    let arguments = Arguments::parse();
    let mut sources = Sources::of_process();
    (sources.file, sources.dev, sources.profile) = (arguments.config, arguments.dev, arguments.profile);
    let secrets = match dev_secrets(&mut sources) {
        Ok(secrets) => secrets,
        Err(code) => return code,
    };
    let mut config = match Config::load(&sources, &Catalogue) {
        Ok(config) => config,
        Err(problems) => {
            complain(&report(&problems));
            return BAD_CONFIG.into();
        }
    };
    let throw_away = match temporary_data_dir(&mut config) {
        Ok(throw_away) => throw_away,
        Err(error) => {
            complain(&format!("a temporary data directory: {error}"));
            return ExitCode::from(75);
        }
    };
    telemetry::install_panic_hook();
    let wall = Arc::new(|| SystemClock::starting_from(Millis(0)).wall());
    let log = match telemetry::init(config.log.format, &config.log.level, wall) {
        Ok(log) => log,
        Err(error) => {
            complain(&format!("log: {error}"));
            return BAD_CONFIG.into();
        }
    };
    // Before there is a second thread: each has its own rule, and gives it to those it starts. Not where the data is
    // thrown away at the end: removing a directory is writing to the one it is in.
    if throw_away.is_none() {
        sandbox::enter(&config);
    }
    scheduling::in_batches();
    let runtime = match runtime(config.node.worker_threads) {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("the runtime did not start: {error}"));
            return ExitCode::from(70);
        }
    };
    let medium = medium_of(&config);
    let code = runtime.block_on(run(config, medium, sources, log, &secrets));
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    drop(throw_away);
    code.into()
}

/// The runtime. A commit needs a processor of its own while connections and actors keep the others busy; with a worker
/// for each processor they would take turns, and tasks be handed between threads for nothing.
fn runtime(workers: Option<NonZeroUsize>) -> io::Result<Runtime> {
    let processors = || available_parallelism().map_or(1, NonZeroUsize::get);
    let workers = workers.map_or_else(|| processors().saturating_sub(1).max(1), NonZeroUsize::get);
    runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()
}

/// Memory touched from now on comes in small pages alone. The allocator asks for huge ones, of 2 MiB, and each that is
/// touched anywhere is resident whole. Before the first line that allocates much, since a huge page stays one.
fn small_pages() {
    // A kernel without huge pages has nothing to turn off.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

async fn run(
    config: Config,
    medium: Arc<dyn Medium>,
    sources: Sources,
    log: telemetry::LogLevel,
    secrets: &[DevSecret],
) -> u8 {
    let signals = match Signals::take() {
        Ok(signals) => signals,
        Err(error) => {
            complain(&format!("signals: {error}"));
            return 70;
        }
    };
    match Box::pin(Node::boot_on(config, medium)).await {
        Ok(node) => {
            if sources.dev {
                say(&dev_banner(&node, secrets));
            }
            say_ready(&node);
            Box::pin(serve(node, signals, sources, log)).await
        }
        Err(error) => {
            tracing::error!(%error, "not started");
            complain(&error.to_string());
            error.exit_code()
        }
    }
}

/// `--dev` makes its own secrets before the configuration asks for them.
fn dev_secrets(sources: &mut Sources) -> Result<Vec<DevSecret>, ExitCode> {
    if !sources.dev {
        return Ok(Vec::new());
    }
    add_dev_secrets(&mut sources.env, &OsEntropy).map_err(|error| {
        complain(&error.to_string());
        ExitCode::from(70)
    })
}

fn temporary_data_dir(config: &mut Config) -> io::Result<Option<tempfile::TempDir>> {
    if !config.wants_temporary_data_dir {
        return Ok(None);
    }
    let dir = tempfile::Builder::new().prefix("ron-node-dev-").tempdir()?;
    config.set_data_dir(dir.path().to_path_buf());
    Ok(Some(dir))
}

fn say(text: &str) {
    // A closed stdout is the reader's choice.
    let _ = writeln!(io::stdout(), "{text}");
}

fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "ron-node: {text}");
}
