//! What a seed decides before anything runs: how many clients and queues, which settings, which faults. Every
//! seed leaves something out, so that what remains gets deeper.

use super::rng::Rng;
use ron_actors::mailbox::MailboxConfig;
use ron_actors::policy::InForce;
use ron_core::shard::Settings;

/// How often each operation is chosen, relative to the others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weights {
    pub(super) send: u64,
    pub(super) recv: u64,
    pub(super) stream: u64,
    pub(super) ack: u64,
    pub(super) nack: u64,
    pub(super) extend: u64,
    pub(super) stat: u64,
    pub(super) peek: u64,
    pub(super) look: u64,
    pub(super) foreign: u64,
    /// What operators do with dead letters.
    pub(super) dlq: u64,
    /// Settings, pause, resume.
    pub(super) configure: u64,
    /// Purges and deletions.
    pub(super) end: u64,
    /// Snapshots and scrubs.
    pub(super) upkeep: u64,
}

/// Which faults there are, in percent of the faults drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Faults {
    /// Longest pause between two faults, ms; 0 = none at all.
    pub(super) every_ms: u64,
    pub(super) kill_shard: u64,
    pub(super) kill_store: u64,
    pub(super) kill_router: u64,
    pub(super) fail_sync: u64,
    pub(super) fail_write: u64,
    pub(super) fail_read: u64,
    pub(super) slow: u64,
    pub(super) wall: u64,
    pub(super) policy: u64,
    pub(super) end_waits: u64,
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) steps: u64,
    pub(super) clients: u64,
    pub(super) queues: u64,
    /// Times the node is started, without the last two, which drain and look.
    pub(super) lives: u64,
    pub(super) weights: Weights,
    pub(super) faults: Faults,
    pub(super) think_ms: u64,
    pub(super) keys: u64,
    pub(super) groups: u64,
    pub(super) batch_max: u64,
    pub(super) visibility_max_ms: u64,
    pub(super) delay_max_ms: u64,
    pub(super) settings: Settings,
    pub(super) park_after_ms: u64,
    pub(super) body_cache_bytes: usize,
    /// Small, so that it is full now and then.
    pub(super) journal_bytes: u64,
    pub(super) restart_base_ms: u64,
    /// Restarts of one child in ten seconds before it is quarantined.
    pub(super) intensity: u32,
    /// Whether the wall clock steps between two lives.
    pub(super) wall_steps: bool,
    /// Whether a snapshot may be put in the store's place between two lives.
    pub(super) restores: bool,
    /// Shortest retention that is ever set, ms; 0 = none is set.
    pub(super) retention_min_ms: u64,
    /// How long a provider's keys are remembered, ms; 0 = there is none.
    pub(super) replay_ms: u64,
    /// Percent of sends and settlings that are done twice at the same time.
    pub(super) twice: u64,
    /// Settings that make messages of memory alone.
    pub(super) ram: bool,
    pub(super) fifo: bool,
    pub(super) policy: InForce,
    /// A fault waits for its operation.
    pub(super) armed: bool,
}

fn weights(rng: &mut Rng) -> Weights {
    let operated = rng.chance(60);
    let mut weight = |most: u64| if rng.chance(15) { 0 } else { rng.range(1, most) };
    let mut weights = Weights {
        send: 10 + weight(30),
        recv: 10 + weight(30),
        stream: weight(4),
        ack: 2 + weight(30),
        nack: weight(15),
        extend: weight(8),
        stat: weight(4),
        peek: weight(6),
        look: weight(4),
        foreign: weight(2),
        dlq: weight(6),
        configure: weight(3),
        end: weight(2),
        upkeep: weight(2),
    };
    if !operated {
        (weights.dlq, weights.configure, weights.end) = (0, 0, 0);
    }
    weights
}

fn faults(rng: &mut Rng) -> Faults {
    Faults {
        every_ms: rng.pick(&[0, 200, 1_000, 1_000, 5_000]),
        kill_shard: 40,
        kill_store: rng.pick(&[0, 10, 20]),
        kill_router: rng.pick(&[0, 5, 10]),
        fail_sync: rng.pick(&[0, 0, 10, 20]),
        fail_write: rng.pick(&[0, 0, 10, 20]),
        fail_read: rng.pick(&[0, 0, 10]),
        slow: rng.pick(&[0, 10, 20]),
        wall: rng.pick(&[0, 5]),
        policy: rng.pick(&[0, 0, 10]),
        end_waits: rng.pick(&[0, 2]),
    }
}

impl Plan {
    /// The plan of `seed` for `steps` operations.
    pub(super) fn of(seed: u64, steps: u64) -> Plan {
        let mut rng = Rng::new(seed, 0);
        let (weights, faults) = (weights(&mut rng), faults(&mut rng));
        let (ram, fifo) = (rng.chance(15), rng.chance(25));
        let settings = Settings {
            visibility_ms: rng.pick(&[250, 1_000, 5_000, 30_000]),
            max_attempts: rng.range(1, 5) as u32,
            max_deliveries: rng.pick(&[5, 8, 50]),
            backoff_base_ms: rng.pick(&[1, 50, 200]),
            backoff_max_ms: rng.pick(&[200, 5_000, 60_000]),
            max_inflight: rng.pick(&[4, 20, 8_192]),
            max_depth: rng.pick(&[30, 1_000_000, u64::MAX]),
            max_waiters: rng.pick(&[2, 10_000]),
            dedup_window_ms: rng.pick(&[500, 10_000, 300_000]),
            max_dedup_keys: rng.pick(&[10, 100_000]),
            fifo: fifo && rng.chance(50),
            ram: ram && rng.chance(50),
            ..Settings::default()
        };
        let retention_min_ms = rng.pick(&[0, 0, 1_000, 5_000]);
        let retention_ms = if rng.chance(50) { retention_min_ms * rng.range(1, 10) } else { 0 };
        let settings = match retention_ms {
            0 => settings,
            retention_ms => Settings { retention_ms, ..settings },
        };
        Plan {
            seed,
            steps,
            clients: rng.range(1, 8),
            queues: rng.range(1, 4),
            lives: rng.range(1, 4),
            weights,
            faults,
            think_ms: rng.pick(&[0, 3, 30, 300]),
            keys: rng.pick(&[3, 20, 1_000]),
            groups: rng.pick(&[0, 1, 3]),
            batch_max: rng.pick(&[1, 4, 20]),
            visibility_max_ms: rng.pick(&[500, 5_000, 60_000]),
            delay_max_ms: rng.pick(&[10, 2_000, 60_000]),
            settings,
            park_after_ms: rng.pick(&[100, 2_000, 60_000]),
            body_cache_bytes: rng.pick(&[0, 4_096, 1 << 20]),
            journal_bytes: rng.pick(&[0, 16 << 10, 64 << 10, 256 << 10]),
            restart_base_ms: rng.pick(&[0, 20, 100]),
            intensity: 1_000_000,
            wall_steps: rng.chance(40),
            restores: rng.chance(20),
            retention_min_ms,
            replay_ms: rng.pick(&[0, 600, 60_000, 600_000]),
            twice: rng.pick(&[0, 10, 30, 60]),
            ram,
            fifo,
            policy: InForce::default(),
            armed: false,
        }
    }

    /// A plan without faults of its own and without time that hides one: for a fault at a chosen operation.
    pub(super) fn script(seed: u64, steps: u64) -> Plan {
        let mut plan = Plan::of(seed, steps);
        plan.faults.every_ms = 0;
        plan.journal_bytes = 64 << 10; // full a few times on the way
        (plan.clients, plan.queues, plan.lives) = (2, 2, 1);
        (plan.wall_steps, plan.restores, plan.retention_min_ms, plan.ram) = (false, false, 0, false);
        plan.settings.ram = false;
        plan.settings.max_depth = u64::MAX;
        plan.settings.visibility_ms = plan.settings.visibility_ms.max(5_000);
        plan.weights.upkeep = 0;
        (plan.think_ms, plan.delay_max_ms) = (30, 2_000);
        // what a node has: past it a child is quarantined
        plan.intensity = 5;
        plan.armed = true;
        plan
    }

    pub(super) fn mailbox(&self) -> MailboxConfig {
        MailboxConfig {
            settings: self.settings,
            park_after_ms: self.park_after_ms,
            policy: self.policy.clone(),
            ..MailboxConfig::default()
        }
    }

    /// Whether nothing goes wrong: then nothing may be refused as if it had.
    pub(super) fn calm(&self) -> bool {
        self.faults.every_ms == 0 && !self.armed
    }

    /// Everything that a client can ask for is over within this.
    pub(super) fn calm_within_ms(&self) -> u64 {
        let longest = [self.visibility_max_ms, self.settings.visibility_ms, self.delay_max_ms, 60_000];
        longest.into_iter().max().unwrap_or(0) + 30_000
    }
}
