//! Judges a recorded history: one JSON line a record. Ends with 1 if a promise was broken.

#![allow(clippy::print_stdout, reason = "a command line tool")]

use std::process::ExitCode;

fn main() -> anyhow::Result<ExitCode> {
    let Some(path) = std::env::args_os().nth(1) else {
        println!("usage: judge FILE");
        return Ok(ExitCode::from(2));
    };
    let history = ron_history::read(&std::fs::read_to_string(path)?)?;
    let found = ron_history::judge(&history);
    found.iter().for_each(|violation| println!("{violation}"));
    println!("{} records, {} broken promises", history.len(), found.len());
    Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
