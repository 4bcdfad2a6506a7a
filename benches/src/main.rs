//! Judges the instruction counts of the benches, or accepts them. `.ci/counts` calls it.
//!
//! Exit code 1 if a bench has more instructions than are tolerated, 77 if the accepted counts are of another
//! compiler or machine and nothing could be judged.

#![allow(clippy::print_stdout, reason = "a command line tool")]

mod judge;

use anyhow::{Context, bail};
use judge::{Baseline, Counts, compare};
use serde::Deserialize;
use std::io::Read;
use std::process::ExitCode;

const HEADER: &str = "\
# Instructions of each bench, as they were accepted. `.ci/counts` compares; `.ci/counts --accept` writes
# this file.
# A change that makes one of them larger says in its commit why that is worth it.

";

const TOLERANCE_PERCENT: u64 = 5;

const NOT_DONE: u8 = 77;

/// One bench's summary as gungraun prints it, a JSON object a line. Of the many fields only these are read.
#[derive(Debug, Deserialize)]
struct Summary {
    group: String,
    function_name: String,
    id: Option<String>,
    profiles: Vec<Profile>,
}

#[derive(Debug, Deserialize)]
struct Profile {
    data: Data,
}

#[derive(Debug, Deserialize)]
struct Data {
    total: Total,
}

#[derive(Debug, Deserialize)]
struct Total {
    metrics: Metrics,
}

#[derive(Debug, Deserialize)]
struct Metrics {
    #[serde(rename = "Ir")]
    instructions: Metric,
}

#[derive(Debug, Deserialize)]
struct Metric {
    values: Values,
}

#[derive(Debug, Deserialize)]
struct Values {
    new: u64,
}

fn main() -> anyhow::Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (file, with, accept) = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [file, with] => (file, with, false),
        [file, with, "--accept"] => (file, with, true),
        _ => bail!("usage: counts FILE COUNTED_WITH [--accept]; the summaries come on the standard input"),
    };
    let counts = summaries()?;
    if accept {
        return write(file, with, counts);
    }
    let text = std::fs::read_to_string(file).with_context(|| file.to_owned())?;
    let baseline: Baseline = toml::from_str(&text).with_context(|| file.to_owned())?;
    Ok(judge(file, with, &baseline, &counts))
}

fn summaries() -> anyhow::Result<Counts> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let mut counts = Counts::new();
    for summary in serde_json::Deserializer::from_str(&text).into_iter::<Summary>() {
        let Summary { group, function_name, id, profiles } = summary.context("a summary of gungraun")?;
        let bench = [group, function_name].into_iter().chain(id).collect::<Vec<_>>().join(".");
        let [profile] = &profiles[..] else { bail!("{bench} was run by {} tools", profiles.len()) };
        let count = profile.data.total.metrics.instructions.values.new;
        if counts.insert(bench.clone(), count).is_some() {
            bail!("{bench} is there twice");
        }
    }
    if counts.is_empty() {
        bail!("no bench was run");
    }
    Ok(counts)
}

fn write(file: &str, with: &str, counts: Counts) -> anyhow::Result<ExitCode> {
    let (taken_with, benches) = (with.to_owned(), counts.len());
    let baseline = Baseline { taken_with, tolerance_percent: TOLERANCE_PERCENT, counts };
    std::fs::write(file, format!("{HEADER}{}", toml::to_string(&baseline)?))?;
    println!("{benches} benches accepted in {file}");
    Ok(ExitCode::SUCCESS)
}

fn judge(file: &str, with: &str, baseline: &Baseline, counts: &Counts) -> ExitCode {
    let tolerance = baseline.tolerance_percent;
    let found = compare(&baseline.counts, counts);
    found.iter().for_each(|finding| println!("{finding}"));
    if baseline.taken_with != with {
        println!("NOT DONE: nothing is judged, for {file} is of {}; this is {with}", baseline.taken_with);
        return ExitCode::from(NOT_DONE);
    }
    let wrong: Vec<_> = found.iter().filter(|finding| finding.is_wrong(tolerance)).collect();
    wrong.iter().for_each(|finding| println!("FAILED: {finding}"));
    if !wrong.is_empty() {
        println!(
            "{} of {} benches are not as in {file}, which lets {tolerance} % pass",
            wrong.len(),
            found.len()
        );
        return ExitCode::FAILURE;
    }
    println!("{} benches, none with over {tolerance} % more instructions than in {file}", found.len());
    ExitCode::SUCCESS
}
