//! What goes wrong while clients work: actors killed wherever they are, a disk that fails, a slow store, steps of the
//! wall clock, another policy, long polls ended.

use super::medium::{Fault, On};
use super::rng::Rng;
use super::world::World;
use ron_actors::kernel::supervisor::SupervisorRef;
use ron_actors::mailbox::Mailbox;
use ron_core::policy::Policy;
use ron_core::time::Clock;
use ron_history::record::Event;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

/// What a tenant may use, as policies that are reloaded say it.
const POLICIES: [&str; 4] = ["", "max_depth = 40", "max_inflight = 6", "max_topics = 2\nweight = 9"];

/// Makes trouble until it is aborted.
pub(super) struct Trouble {
    pub(super) world: Arc<World>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) root: SupervisorRef,
    pub(super) shards: SupervisorRef,
    pub(super) mailbox: Mailbox,
    pub(super) rng: Rng,
}

impl Trouble {
    pub(super) async fn make(mut self) {
        let faults = self.world.plan.faults;
        if faults.every_ms == 0 {
            return;
        }
        loop {
            let pause = self.rng.range(1, faults.every_ms);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            // wherever the others are by then, and not only where they wait for the time
            for _ in 0..self.rng.below(24) {
                tokio::task::yield_now().await;
            }
            if self.rng.chance(50) {
                self.world.lock().slow_ms = 2;
            }
            self.one().await;
        }
    }

    async fn one(&mut self) {
        let f = self.world.plan.faults;
        let all = [
            f.kill_shard,
            f.kill_store,
            f.kill_router,
            f.fail_sync,
            f.fail_write,
            f.fail_read,
            f.slow,
            f.wall,
            f.policy,
            f.end_waits,
        ];
        let mut drawn = self.rng.below(all.iter().sum());
        let mut which = 0;
        while drawn >= all[which] {
            drawn -= all[which];
            which += 1;
        }
        match which {
            0 => {
                let queue = self.rng.below(self.world.plan.queues) as usize;
                let name = format!("shard:{}", self.world.queues[queue]);
                let hit = self.shards.kill_child(&name).await;
                self.event("kill-shard", &format!("{name} {hit}"));
            }
            1 => {
                let hit = self.root.kill_child("store").await;
                self.event("kill-store", &hit.to_string());
            }
            2 => {
                let hit = self.shards.kill_child("router").await;
                self.event("kill-router", &hit.to_string());
            }
            3 => self.fail(On::Sync, 4),
            4 => self.fail(On::Write, 8),
            5 => self.fail(On::Read, 60),
            6 => {
                let slow_ms = self.rng.pick(&[20, 200, 1_500]);
                self.world.lock().slow_ms = slow_ms;
                self.event("slow", &slow_ms.to_string());
            }
            7 => self.step_wall(),
            8 => self.reload_policy(),
            _ => {
                self.mailbox.end_waits();
                self.event("end-waits", "");
            }
        }
    }

    fn fail(&mut self, on: On, most: u64) {
        let full = on == On::Write && self.rng.chance(50);
        let kind = if full { ErrorKind::StorageFull } else { ErrorKind::Other };
        let (after, times) = (self.rng.below(most), self.rng.pick(&[1, 1, 2, 5]));
        let kept = self.rng.chance(50);
        self.world.disk.arm(Fault { on: Some(on), after, times, kind, kept });
        let refused = self.rng.pick(&[0, 0, 1, 3]);
        self.world.disk.refuse(refused);
        let what = match (on, full) {
            (On::Sync, _) => "fail-sync",
            (On::Read, _) => "fail-read",
            (On::Write, true) => "fail-write-full",
            (On::Write, false) => "fail-write",
        };
        self.event(what, &format!("{after} {times} {kept} {refused}"));
    }

    /// Ten minutes to one side or the other; node time does not move.
    fn step_wall(&mut self) {
        let step = self.rng.below(1_200_001) as i64 - 600_000;
        self.world.lock().wall_off += step;
        self.event("wall-step", &step.to_string());
        if self.rng.chance(50) {
            accept_clock(&self.world, self.clock.as_ref());
        }
    }

    fn reload_policy(&mut self) {
        let quotas = self.rng.pick(&POLICIES);
        set_policy(&self.world, &self.mailbox, quotas);
        self.event("policy", quotas);
    }

    fn event(&self, what: &str, text: &str) {
        self.world.event(self.clock.as_ref(), what, format_args!("{text}"));
    }
}

/// Puts a policy in force that says this of the only tenant.
pub(super) fn set_policy(world: &World, mailbox: &Mailbox, quotas: &str) {
    let text = format!("version = 1\ndefault = \"allow\"\n[tenant.sim]\n{quotas}\n");
    match Policy::parse(&text) {
        Ok(policy) => {
            world.plan.policy.replace(policy, "sim".into());
            mailbox.directory().refresh_quotas();
        }
        Err(problems) => world.judge(Err(format!("policy: {problems:?}"))),
    }
}

/// What has lived its time may end again.
pub(super) fn accept_clock(world: &World, clock: &dyn Clock) {
    let held = std::mem::take(&mut world.lock().held);
    if held {
        world.record(clock, Event::Held(false));
        world.event(clock, "clock-accepted", format_args!(""));
    }
}
