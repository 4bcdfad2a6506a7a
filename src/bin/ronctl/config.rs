//! `ronctl config check|print`: judges a configuration as boot would, without starting anything.

use crate::ambient;
use clap::{Args, Subcommand};
use ron_actors::entropy::OsEntropy;
use ron_node::config::{Config, SchemeCheck, Sources, add_dev_secrets, check_report, report};
use ron_node::rotations::foresee;
use std::io::Write;
use std::path::PathBuf;

/// EX_CONFIG of sysexits.h.
const EXIT_CONFIG: u8 = 78;

/// What to do with a configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Tell every problem of a configuration; exit 78 if there is one
    Check(Which),
    /// Print what is in force, as TOML; secrets are shown by where they are kept
    Print(Which),
}

impl ConfigCommand {
    /// The same command, about `file` if it names none itself: what a global `--config` means here.
    #[must_use]
    pub(crate) fn or_file(mut self, file: Option<PathBuf>) -> ConfigCommand {
        let (ConfigCommand::Check(which) | ConfigCommand::Print(which)) = &mut self;
        which.file = which.file.take().or(file);
        self
    }
}

/// Which configuration.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The file; without it RON_CONFIG, else the defaults. The environment goes on top, as at boot
    file: Option<PathBuf>,
    /// As `ron-node --profile`
    #[arg(long)]
    profile: Option<String>,
    /// As `ron-node --dev`
    #[arg(long)]
    dev: bool,
}

impl Which {
    fn sources(&self) -> anyhow::Result<Sources> {
        let mut sources = Sources::of_process();
        sources.file.clone_from(&self.file);
        sources.profile.clone_from(&self.profile);
        sources.dev = self.dev;
        if self.dev {
            add_dev_secrets(&mut sources.env, &OsEntropy)?;
        }
        Ok(sources)
    }
}

/// Runs the command and returns the exit code. Problems go to `out`, since they are the answer.
///
/// # Errors
/// `out` cannot be written to.
pub(crate) fn run(
    command: &ConfigCommand,
    json: bool,
    schemes: &dyn SchemeCheck,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    match command {
        ConfigCommand::Check(which) => check(&which.sources()?, json, schemes, out),
        ConfigCommand::Print(which) => match Config::load(&which.sources()?, schemes) {
            Ok(config) if json => {
                let tree: toml::Table = toml::from_str(&config.effective_toml())?;
                writeln!(out, "{}", serde_json::to_string_pretty(&tree)?)?;
                Ok(0)
            }
            Ok(config) => {
                write!(out, "{}", config.effective_toml())?;
                Ok(0)
            }
            Err(problems) => {
                write!(out, "{}", report(&problems))?;
                Ok(EXIT_CONFIG)
            }
        },
    }
}

fn check(
    sources: &Sources,
    json: bool,
    schemes: &dyn SchemeCheck,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let loaded = Config::load(sources, schemes);
    let warnings = loaded.as_ref().map(|config| foresee(config, ambient::wall())).unwrap_or_default();
    if json {
        let problems = loaded.err().unwrap_or_default();
        let ok = problems.is_empty();
        writeln!(out, "{}", serde_json::json!({ "ok": ok, "problems": problems, "warnings": warnings }))?;
        return Ok(if problems.is_empty() { 0 } else { EXIT_CONFIG });
    }
    match check_report(sources, schemes) {
        Ok(text) => {
            write!(out, "{text}")?;
            warnings.iter().try_for_each(|warning| writeln!(out, "warning: {warning}")).map(|()| 0)
        }
        Err(text) => write!(out, "{text}").map(|()| EXIT_CONFIG),
    }
    .map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ron_node::config::NamesOnly;

    #[test]
    fn a_wrong_file_is_told_and_exits_78() {
        let sources = Sources {
            file: Some("/nowhere.toml".into()),
            env: [("RON_LOG__FORMAT".to_owned(), "xml".to_owned())].into(),
            ..Sources::default()
        };
        let mut text = Vec::new();
        assert_eq!(check(&sources, false, &NamesOnly, &mut text).unwrap(), 78);
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("/nowhere.toml") && text.contains("RON_LOG__FORMAT"), "{text}");
        let mut json = Vec::new();
        assert_eq!(check(&sources, true, &NamesOnly, &mut json).unwrap(), 78);
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!((&json["ok"], &json["problems"][1]["key"]), (&false.into(), &"log.format".into()));
        assert_eq!(check(&Sources::default(), true, &NamesOnly, &mut Vec::new()).unwrap(), 0);
    }
}
