//! Whether a noisy tenant slows its neighbours down: equal tenants that together fill the store, then one of them with
//! many times its connections, then that same load as one tenant's, for which there is nothing to be fair about.

use super::load::{self, Load, Tally, Work};
use super::report::median;
use super::{Bench, TOKEN_TTL_MS};
use crate::control;
use crate::failure::{Failure, failed};
use crate::output::Output;
use futures::future::try_join_all;
use hdrhistogram::Histogram;
use ron_core::capability::Op;
use serde::Serialize;
use serde_json::json;
use std::cell::Cell;
use std::rc::Rc;

/// Bytes of a message, unless told: large enough that the store is what is short, not the processor.
pub(super) const SIZE: u32 = 65_536;

/// Connections of a tenant at its share, unless told.
pub(super) const CONNECTIONS: u16 = 8;

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// All tenants alike.
    Even,
    /// The first with `factor` times its connections.
    Noisy,
    /// As many connections as in [`Kind::Noisy`], all of one tenant.
    Single,
}

/// The figures of one run.
#[derive(Debug, Clone, Serialize)]
struct Run {
    kind: Kind,
    rate_per_s: f64,
    mib_per_s: f64,
    /// Of the first tenant.
    first_per_s: f64,
    /// Of all tenants but the first.
    others_p95_ms: f64,
    /// Share of the time in which the store was committing.
    store_busy: f64,
    commits: u64,
}

/// How the tenants are made up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Crowd {
    pub(super) tenants: u16,
    pub(super) factor: u16,
    pub(super) runs: u8,
}

impl Crowd {
    /// Connections of each tenant.
    fn connections(self, kind: Kind, each: u16) -> Vec<usize> {
        let (each, tenants, factor) =
            (usize::from(each), usize::from(self.tenants), usize::from(self.factor));
        let noisy = std::iter::once(each * factor).chain(std::iter::repeat_n(each, tenants - 1));
        match kind {
            Kind::Even => vec![each; tenants],
            Kind::Noisy => noisy.collect(),
            Kind::Single => vec![noisy.sum()],
        }
    }
}

impl Bench {
    /// `crowd.runs` rounds of the three kinds, interleaved.
    pub(super) async fn neighbours(&self, crowd: Crowd) -> Result<(), Failure> {
        let mut tokens = Vec::new();
        let own = self.site.own.as_ref().ok_or_else(|| failed("bench neighbours needs --spawn"))?;
        for tenant in 0..crowd.tenants {
            let name = name(tenant.into());
            let minted = control::mint_for(&mut own.control(), &name, &[Op::Enqueue], TOKEN_TTL_MS).await?;
            tokens.push(minted.token);
        }
        let mut runs = Vec::new();
        for _ in 0..crowd.runs {
            for kind in [Kind::Even, Kind::Noisy, Kind::Single] {
                runs.push(self.crowd_run(kind, crowd, &tokens).await?);
            }
        }
        present(&runs, self.out)
    }

    async fn crowd_run(&self, kind: Kind, crowd: Crowd, tokens: &[String]) -> Result<Run, Failure> {
        let each = self.setup.connections.unwrap_or(CONNECTIONS);
        let loads: Vec<Load> = crowd
            .connections(kind, each)
            .into_iter()
            .enumerate()
            .map(|(tenant, connections)| Load {
                token: tokens[tenant].clone(),
                tenant: name(tenant),
                connections,
                size: self.setup.size.unwrap_or(SIZE) as usize,
                ..self.load(self.setup.topics.unwrap_or(1))
            })
            .collect();
        let done = Rc::new(Cell::new(0));
        let running = try_join_all(loads.iter().map(|load| load::run(load, Work::Enqueue, Rc::clone(&done))));
        let label = format!("{kind:?}").to_lowercase();
        let spent = || self.site.spent();
        let (tallies, spent) = self.watched(&label, running, spent, self.site.pid, &done).await?;
        let (commits, busy_s) =
            spent.commits.ok_or_else(|| failed("the node has no admin address to ask"))?;
        Run::new(kind, &loads, &tallies, commits, busy_s)
    }
}

fn name(tenant: usize) -> String {
    format!("tenant{tenant}")
}

impl Run {
    fn new(kind: Kind, loads: &[Load], tallies: &[Tally], commits: u64, busy_s: f64) -> Result<Run, Failure> {
        if let Some((reason, n)) = tallies.iter().flat_map(|tally| &tally.errors).next() {
            return Err(failed(format!("some sends do not count: {reason} {n}")));
        }
        let seconds = loads[0].duration.as_secs_f64();
        let done: u64 = tallies.iter().map(|tally| tally.done).sum();
        let mut others: Option<Histogram<u64>> = None;
        for (_, histogram) in tallies.iter().skip(1).filter_map(|tally| tally.steps.last()) {
            match &mut others {
                Some(all) => all.add(histogram).map_err(|err| failed(format!("adding histograms: {err}")))?,
                None => others = Some(histogram.clone()),
            }
        }
        let rate_per_s = done as f64 / seconds;
        Ok(Run {
            kind,
            rate_per_s,
            mib_per_s: rate_per_s * loads[0].size as f64 / f64::from(1 << 20),
            first_per_s: tallies[0].done as f64 / seconds,
            others_p95_ms: others.map_or(0.0, |all| all.value_at_quantile(0.95) as f64 / 1e3),
            store_busy: busy_s / seconds,
            commits,
        })
    }
}

/// Medians over the runs of a kind.
fn of(runs: &[Run], kind: Kind, figure: fn(&Run) -> f64) -> f64 {
    median(runs.iter().filter(|run| run.kind == kind).map(figure)).unwrap_or(0.0)
}

fn present(runs: &[Run], out: Output) -> Result<(), Failure> {
    let p95 = |kind| of(runs, kind, |run| run.others_p95_ms);
    let rate = |kind| of(runs, kind, |run| run.rate_per_s);
    let moved = p95(Kind::Noisy) / p95(Kind::Even) - 1.0;
    let total = rate(Kind::Noisy) / rate(Kind::Single);
    if out.json {
        return out.value(&json!({ "others_p95_moved": moved, "total_to_single": total, "runs": runs }));
    }
    let row = |run: &Run| {
        let kind = format!("{:?}", run.kind).to_lowercase();
        let figures =
            [run.rate_per_s, run.mib_per_s, run.first_per_s, run.others_p95_ms, run.store_busy * 100.0];
        std::iter::once(kind).chain(figures.map(|figure| format!("{figure:.1}"))).collect()
    };
    let header = ["load", "sends/s", "MiB/s", "first tenant/s", "others' p95 ms", "store busy %"];
    out.table(&header, runs.iter().map(row).collect())?;
    out.line(format!(
        "\nothers' p95: {:.1} ms when all are alike, {:.1} ms beside the noisy one ({:+.0} %)\n\
         total: {:.0}/s with the noisy one, {:.0}/s as one tenant's ({:.0} %)",
        p95(Kind::Even),
        p95(Kind::Noisy),
        moved * 100.0,
        rate(Kind::Noisy),
        rate(Kind::Single),
        total * 100.0
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_noisy_tenant_has_its_factor_and_the_single_one_all_of_it() {
        let crowd = Crowd { tenants: 4, factor: 10, runs: 1 };
        assert_eq!(crowd.connections(Kind::Even, 2), [2; 4]);
        assert_eq!(crowd.connections(Kind::Noisy, 2), [20, 2, 2, 2]);
        assert_eq!(crowd.connections(Kind::Single, 2), [26]);
    }
}
