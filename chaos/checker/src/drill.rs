//! What the drills that start a node of their own have in common: what they are given, and how they end.
#![allow(clippy::print_stdout)] // what a drill prints is its product

use crate::node::Setup;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

/// Exit code of a drill that could not be carried out, so that nobody takes that for a finding.
const NOT_DONE: u8 = 77;

/// The programs of a drill, and where it leaves its traces.
#[derive(clap::Args, Debug)]
pub struct Place {
    /// The ron-node binary; a release build, or its latencies say little.
    #[arg(long)]
    pub node: PathBuf,
    /// The ronctl binary.
    #[arg(long)]
    pub ronctl: PathBuf,
    /// A new directory for the node's data and its log.
    #[arg(long)]
    pub dir: PathBuf,
}

impl Place {
    /// A durable node there; its configuration and secrets are written.
    ///
    /// # Errors
    /// A program is not there, the directory holds the data of another run, or I/O.
    pub fn setup(&self) -> Result<Setup> {
        fs::create_dir_all(&self.dir)?;
        let setup = Setup {
            node: fs::canonicalize(&self.node).context("--node")?,
            ronctl: fs::canonicalize(&self.ronctl).context("--ronctl")?,
            dir: fs::canonicalize(&self.dir)?,
            amnesia: false,
            dedup_window_ms: 300_000,
        };
        ensure!(!setup.data_dir().exists(), "{} holds the data of another run", self.dir.display());
        setup.write()?;
        Ok(setup)
    }
}

/// Ends a drill: 0 if nothing was found, 1 and the first of the faults, 77 if it could not be carried out.
#[must_use]
pub fn end(name: &str, found: Result<Vec<String>>) -> ExitCode {
    match found {
        Ok(faults) if faults.is_empty() => ExitCode::SUCCESS,
        Ok(faults) => {
            faults.iter().take(30).for_each(|fault| println!("  {fault}"));
            println!("FAILED: {} faults", faults.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("{name}: NOT DONE: {error:#}");
            NOT_DONE.into()
        }
    }
}
