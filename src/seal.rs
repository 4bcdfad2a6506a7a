//! What a node in amnesia does to its own process (SPEC §4.11): no core dump, no debugger, no swap where allowed.

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Seals the process. Returns what could not be had, for a warning: a container may forbid `mlockall`.
#[must_use]
pub fn seal() -> Vec<&'static str> {
    let mut missing = Vec::new();
    if setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).is_err() {
        missing.push("RLIMIT_CORE");
    }
    if set_dumpable_behavior(DumpableBehavior::NotDumpable).is_err() {
        missing.push("PR_SET_DUMPABLE");
    }
    // On fault: what is never touched takes no memory.
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    if mlockall(flags).is_err() {
        missing.push("mlockall");
    }
    missing
}
