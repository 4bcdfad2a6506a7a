//! `[node]` and `[clock]`: the process itself.

use super::read::Section;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

/// What kind of machine the node is on; decides the defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// A server with a disk.
    Macronode,
    /// A small device; everything in RAM.
    Micronode,
}

impl Profile {
    /// Its name in the configuration.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Profile::Macronode => "macronode",
            Profile::Micronode => "micronode",
        }
    }

    /// The profile of a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Profile> {
        [Profile::Macronode, Profile::Micronode].into_iter().find(|profile| profile.label() == name)
    }
}

/// `[node]`.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Decides the defaults.
    pub profile: Profile,
    /// Store, keyring, control socket. With `--dev` see [`super::Config::wants_temporary_data_dir`].
    pub data_dir: PathBuf,
    /// Keep everything in RAM, write no file.
    pub amnesia: bool,
    /// How long a stopping node waits for requests and leases.
    pub drain: Duration,
    /// Threads for connections and actors; commits run on one of their own. `None` = one fewer than there are
    /// processors.
    pub worker_threads: Option<NonZeroUsize>,
    /// Whether it forbids itself to write anywhere but below its data, where the kernel can.
    pub sandbox: bool,
}

impl NodeConfig {
    pub(super) fn read(s: &Section<'_, '_>) -> NodeConfig {
        let data_dir = s.parsed("data_dir", "a path", |text| (!text.is_empty()).then(|| PathBuf::from(text)));
        let sandbox = s.parsed("sandbox", "\"auto\" or \"off\"", |text| match text {
            "auto" => Some(true),
            "off" => Some(false),
            _ => None,
        });
        let profile = s.parsed("profile", "\"macronode\" or \"micronode\"", Profile::parse);
        NodeConfig {
            profile: profile.unwrap_or(Profile::Macronode),
            data_dir: data_dir.unwrap_or_default(),
            amnesia: s.boolean("amnesia"),
            drain: Duration::from_millis(s.integer("drain_ms", 0..=600_000)),
            worker_threads: NonZeroUsize::new(s.integer::<u32>("worker_threads", 0..=1_024) as usize),
            sandbox: sandbox.unwrap_or(true),
        }
    }
}

/// `[clock]`.
#[derive(Debug, Clone, Copy)]
pub struct ClockConfig {
    /// A larger jump ahead at start expires nothing until it is accepted.
    pub max_gap: Duration,
}

impl ClockConfig {
    pub(super) fn read(s: &Section<'_, '_>) -> ClockConfig {
        let day = Duration::from_secs(86_400);
        ClockConfig { max_gap: s.duration("max_gap", Duration::from_secs(60)..=365 * day) }
    }
}
