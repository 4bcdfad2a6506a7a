//! What one producer waits who has one send outstanding, beside what the disk alone takes: rounds of bare
//! `fdatasync`s, of sends to a node that commits in two phases, and of sends to one that commits in one, all in the
//! same directory.

use super::load::{Load, Work};
use super::report::median;
use super::site::{Proto, Site, Tables};
use super::{Bench, SIZE, Setup};
use crate::ambient;
use crate::failure::{Failure, failed};
use crate::output::Output;
use clap::Args;
use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::json;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes that are written before each bare `fdatasync`: a page of the store.
const PAGE: usize = 4096;
/// Pages of the file that is written round and round. It has them all from the start, as the store's file has, so that
/// no sync has to write of the file's length.
const PAGES: u64 = 256;

/// The slowest `fdatasync` that can be told from slower ones.
const SLOWEST_NS: u64 = 60_000_000_000;

/// How to measure.
#[derive(Debug, Args)]
pub(crate) struct LoneArgs {
    /// The way in
    #[arg(long, value_enum, default_value = "oap")]
    proto: Proto,
    /// How many rounds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=101))]
    runs: u8,
    /// How long each run counts
    #[arg(long, default_value = "2s", value_parser = crate::args::duration)]
    duration: Duration,
    /// Bytes of a message
    #[arg(long, default_value_t = SIZE, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    size: u32,
    /// Where the nodes' directories are made, so that the figures are of that disk [default: the temporary directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// The medians of one round, ms.
#[derive(Debug, Clone, Copy, Serialize)]
struct Round {
    fdatasync_p50_ms: f64,
    two_phase_p50_ms: f64,
    one_phase_p50_ms: f64,
}

/// Runs `ronctl bench lone`, on nodes of its own.
///
/// # Errors
/// If a node fails, or a run had answers that do not count.
pub(super) async fn run(args: LoneArgs, out: Output) -> Result<(), Failure> {
    let bench = async |two_phase: bool| {
        let store = format!("[store]\ntwo_phase_commit = {two_phase}\n");
        let tables = Tables { more: store, ..Tables::default() };
        let site = Site::spawn(args.dir.as_deref(), args.proto, tables).await?;
        let setup = Setup::of_one(args.duration, args.size);
        Ok::<_, Failure>(Bench { setup, proto: args.proto, site, out })
    };
    let (two_phase, one_phase) = (bench(true).await?, bench(false).await?);
    let own = two_phase.site.own.as_ref().ok_or_else(|| failed("no node"))?;
    let beside = own.data_dir().join("bare");
    let mut rounds = Vec::new();
    for _ in 0..args.runs {
        let fdatasync_p50_ms = bare(&beside, args.duration).await?;
        let two_phase_p50_ms = two_phase.lone_p50("two phases").await?;
        let one_phase_p50_ms = one_phase.lone_p50("one phase").await?;
        rounds.push(Round { fdatasync_p50_ms, two_phase_p50_ms, one_phase_p50_ms });
    }
    present(&rounds, out)
}

impl Bench {
    async fn lone_p50(&self, label: &str) -> Result<f64, Failure> {
        let load: Load = self.load(1);
        let run = self.measure(Work::Enqueue, &load, label).await?;
        run.verdict()?;
        run.p50_ms().ok_or_else(|| failed("a run without latencies"))
    }
}

/// The median time of an `fdatasync` behind a page written, ms.
async fn bare(path: &Path, span: Duration) -> Result<f64, Failure> {
    let path = path.to_owned();
    let shown = path.display().to_string();
    let measured = tokio::task::spawn_blocking(move || bare_blocking(&path, span)).await;
    let measured = measured.map_err(|error| failed(format!("measuring fdatasync: {error}")))?;
    measured.map_err(|error| failed(format!("{shown}: {error}")))
}

fn bare_blocking(path: &Path, span: Duration) -> std::io::Result<f64> {
    let file = File::create(path)?;
    let mut page = [0; PAGE];
    for n in 0..PAGES {
        file.write_all_at(&page, n * PAGE as u64)?;
    }
    file.sync_all()?;
    let mut took = Histogram::<u64>::new_with_bounds(1, SLOWEST_NS, 3).map_err(std::io::Error::other)?;
    let began = ambient::now();
    for n in 0.. {
        page[0] = n as u8;
        file.write_all_at(&page, n % PAGES * PAGE as u64)?;
        let written = ambient::now();
        file.sync_data()?;
        let synced = ambient::now();
        took.saturating_record((synced - written).as_nanos() as u64);
        if synced - began >= span {
            break;
        }
    }
    std::fs::remove_file(path)?;
    Ok(took.value_at_quantile(0.5) as f64 / 1e6)
}

fn present(rounds: &[Round], out: Output) -> Result<(), Failure> {
    let of = |what: fn(&Round) -> f64| median(rounds.iter().map(what)).unwrap_or(0.0);
    let bare = of(|round| round.fdatasync_p50_ms);
    let (two, one) = (of(|round| round.two_phase_p50_ms), of(|round| round.one_phase_p50_ms));
    let times = |p50: f64| if bare > 0.0 { p50 / bare } else { 0.0 };
    if out.json {
        return out.value(&json!({
            "rounds": rounds, "fdatasync_p50_ms": bare, "two_phase_p50_ms": two, "one_phase_p50_ms": one,
            "two_phase_times": times(two), "one_phase_times": times(one),
        }));
    }
    let cells = |n: usize, round: &Round| {
        let p50s = [round.fdatasync_p50_ms, round.two_phase_p50_ms, round.one_phase_p50_ms];
        std::iter::once((n + 1).to_string()).chain(p50s.map(|ms| format!("{ms:.3}"))).collect()
    };
    let rows = rounds.iter().enumerate().map(|(n, round)| cells(n, round)).collect();
    out.table(&["round", "fdatasync p50 ms", "send p50 ms", "in one phase, p50 ms"], rows)?;
    out.line(format!(
        "\na send takes {:.1} times a bare fdatasync ({two:.3} of {bare:.3} ms); in one phase {:.1} times",
        times(two),
        times(one)
    ))
}
