//! What a seed decides before anything runs: how many clients and queues, which settings, which faults. Every
//! seed leaves something out, so that what remains gets deeper.

use super::rng::Rng;
use ron_actors::mailbox::MailboxConfig;
use ron_core::shard::Settings;

/// How often each operation is chosen, relative to the others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weights {
    pub(super) send: u64,
    pub(super) recv: u64,
    pub(super) ack: u64,
    pub(super) nack: u64,
    pub(super) extend: u64,
    pub(super) stat: u64,
    pub(super) peek: u64,
    pub(super) foreign: u64,
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
    pub(super) slow: u64,
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
    pub(super) window_ms: u64,
    pub(super) keys: u64,
    pub(super) batch_max: u64,
    pub(super) visibility_max_ms: u64,
    pub(super) delay_max_ms: u64,
    pub(super) settings: Settings,
    pub(super) park_after_ms: u64,
    pub(super) body_cache_bytes: usize,
    pub(super) dedup_keys_topic_max: usize,
    pub(super) restart_base_ms: u64,
}

impl Plan {
    /// The plan of `seed` for `steps` operations.
    pub(super) fn of(seed: u64, steps: u64) -> Plan {
        let mut rng = Rng::new(seed, 0);
        let mut weight = |most: u64| if rng.chance(15) { 0 } else { rng.range(1, most) };
        let weights = Weights {
            send: 10 + weight(30),
            recv: 10 + weight(30),
            ack: 2 + weight(30),
            nack: weight(15),
            extend: weight(8),
            stat: weight(4),
            peek: weight(6),
            foreign: weight(2),
        };
        let faults = Faults {
            every_ms: rng.pick(&[0, 200, 1_000, 1_000, 5_000]),
            kill_shard: 40,
            kill_store: rng.pick(&[0, 10, 20]),
            kill_router: rng.pick(&[0, 5, 10]),
            fail_sync: rng.pick(&[0, 0, 15, 25]),
            slow: rng.pick(&[0, 10, 20]),
        };
        let settings = Settings {
            visibility_ms: rng.pick(&[250, 1_000, 5_000, 30_000]),
            max_attempts: rng.range(1, 5) as u32,
            max_deliveries: rng.pick(&[5, 8, 50]),
            backoff_base_ms: rng.pick(&[1, 50, 200]),
            backoff_max_ms: rng.pick(&[100, 5_000, 60_000]),
            max_inflight: rng.pick(&[4, 20, 8_192]),
            max_depth: rng.pick(&[30, 1_000_000, u64::MAX]),
            max_waiters: rng.pick(&[2, 10_000]),
            ..Settings::default()
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
            window_ms: rng.pick(&[500, 10_000, 300_000]),
            keys: rng.pick(&[3, 20, 1_000]),
            batch_max: rng.pick(&[1, 4, 20]),
            visibility_max_ms: rng.pick(&[500, 5_000, 60_000]),
            delay_max_ms: rng.pick(&[10, 2_000, 60_000]),
            settings,
            park_after_ms: rng.pick(&[100, 2_000, 60_000]),
            body_cache_bytes: rng.pick(&[0, 4_096, 1 << 20]),
            dedup_keys_topic_max: rng.pick(&[10, 100_000]),
            restart_base_ms: rng.pick(&[0, 20, 100]),
        }
    }

    pub(super) fn mailbox(&self) -> MailboxConfig {
        MailboxConfig {
            settings: Settings {
                dedup_window_ms: self.window_ms,
                max_dedup_keys: self.dedup_keys_topic_max as u64,
                ..self.settings
            },
            park_after_ms: self.park_after_ms,
            ..MailboxConfig::default()
        }
    }
}
