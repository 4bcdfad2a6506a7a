//! How the kernel lets the node's threads take turns.

use rustix::process::getpriority_process;
use thread_priority::{
    Error, NormalThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id, thread_schedule_policy,
};

const USUAL: ThreadSchedulePolicy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Other);
const IN_BATCHES: ThreadSchedulePolicy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch);

/// Has the calling thread, and all that it starts from now on, run on when another one of them wakes up (`SCHED_BATCH`,
/// sched(7)): a commit that is back from the disk then begins the next one when the sends that are just being read
/// are through, and takes them along. Niceness, and with it the share of the processors, stays as it is. Whoever
/// started the process under another policy than the usual one meant it, and it stays. Never fails: a node without it
/// works as well.
pub fn in_batches() {
    match thread_schedule_policy() {
        Ok(USUAL) => match enter() {
            Ok(()) => tracing::debug!("scheduling: in batches"),
            Err(error) => tracing::info!(?error, "scheduling: as usual, in batches is refused"),
        },
        policy => tracing::info!(?policy, "scheduling: as it was set"),
    }
}

fn enter() -> Result<(), Error> {
    let nice = getpriority_process(None).map_err(|errno| Error::OS(errno.raw_os_error()))?;
    let priority = ThreadPriority::Crossplatform(that_keeps(nice)?);
    set_thread_priority_and_policy(thread_native_id(), priority, IN_BATCHES)
}

/// The library sets niceness together with the policy, and wants it as a number from 0 (nicest) to 99, of which it
/// makes 39 steps. Off the bounds between them, since it reckons in `f32`.
fn that_keeps(nice: i32) -> Result<ThreadPriorityValue, Error> {
    let value = (99 * (19 - nice) - 10) / 39;
    let value = u8::try_from(value).ok().and_then(|value| ThreadPriorityValue::try_from(value).ok());
    value.ok_or(Error::Priority("out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_niceness_is_kept() {
        for nice in -20..20 {
            let priority = ThreadPriority::Crossplatform(that_keeps(nice).unwrap());
            assert_eq!(priority.to_posix(IN_BATCHES), Ok(nice));
        }
    }

    /// Whether this kernel has it: not every sandbox of containers does.
    fn kernel_has_it() -> bool {
        std::thread::spawn(enter).join().unwrap().is_ok()
    }

    #[test]
    fn a_thread_and_those_it_starts_run_in_batches_as_nice_as_before() {
        let of_thread = || (thread_schedule_policy(), getpriority_process(None));
        let (before, after, started) = std::thread::spawn(move || {
            let before = of_thread();
            in_batches();
            (before, of_thread(), std::thread::spawn(of_thread).join().unwrap())
        })
        .join()
        .unwrap();
        let wanted = if before.0 == Ok(USUAL) && kernel_has_it() { Ok(IN_BATCHES) } else { before.0 };
        assert_eq!(after, (wanted, before.1));
        assert_eq!(started, after);
    }

    #[test]
    fn another_policy_stays() {
        let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
        let after = std::thread::spawn(move || {
            // The policy comes first; niceness may be refused after it.
            let _ = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle);
            in_batches();
            thread_schedule_policy()
        });
        let after = after.join().unwrap();
        assert!(after == Ok(idle) || !kernel_has_it(), "{after:?}");
    }
}
