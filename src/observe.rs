//! From what the actors report to metrics and the bus: the actors name no metric.

use crate::metrics::{Metrics, QueueCounters, QueueFigure, QueueFigures, Service, Stage};
use ron_actors::kernel::bus::Bus;
use ron_actors::kernel::child::{Observer, ServiceLabel};
use ron_actors::kernel::event::Event;
use ron_actors::mailbox::{Directory, MailboxObserver};
use ron_actors::store::{Reader, StoreObserver};
use ron_core::ids::QueueKey;
use ron_core::time::Clock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Counts what happens, and tells the bus once there is one.
#[derive(Debug)]
pub struct Watch {
    metrics: Arc<Metrics>,
    bus: OnceLock<Bus>,
    store_failed: AtomicBool,
}

impl Watch {
    /// A watch over these metrics.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Watch {
        Watch { metrics, bus: OnceLock::new(), store_failed: AtomicBool::new(false) }
    }

    /// From now on the bus hears of it too.
    pub fn tell(&self, bus: &Bus) {
        // Set once at boot; a second bus would be a bug without consequences.
        let _ = self.bus.set(bus.clone());
    }

    fn publish(&self, event: Event) {
        if let Some(bus) = self.bus.get() {
            bus.publish(event);
        }
    }
}

impl StoreObserver for Watch {
    fn committed(&self, seconds: f64, size: usize) {
        self.metrics.mailbox.committed(Duration::from_secs_f64(seconds), size);
    }

    fn failed(&self) {
        if !self.store_failed.swap(true, Ordering::Relaxed) {
            self.publish(Event::Health { service: ServiceLabel::Store, ok: false });
        }
    }

    fn reopened(&self) {
        if self.store_failed.swap(false, Ordering::Relaxed) {
            self.publish(Event::Health { service: ServiceLabel::Store, ok: true });
        }
    }
}

impl MailboxObserver for Watch {
    fn delivered(&self, seconds: f64) {
        self.metrics.mailbox.enqueue_to_delivery.record(seconds);
    }

    fn integrity_failed(&self) {
        self.metrics.mailbox.integrity_fail(Stage::Egress);
    }

    fn dead_lettered(&self, queue: &QueueKey, n: u64) {
        self.publish(Event::DlqMoved { queue: queue.clone(), n });
    }

    fn requeued(&self, queue: &QueueKey, n: u64) {
        self.publish(Event::ScannerRequeue { queue: queue.clone(), n });
    }
}

impl Observer for Watch {
    fn crashed(&self, service: ServiceLabel) {
        if let Some(service) = Service::named(service.as_str()) {
            self.metrics.mailbox.service_restarted(service);
        }
    }
}

/// The figures of all queues, for the scrape.
#[derive(Debug)]
pub struct Queues {
    /// Where they are.
    pub directory: Arc<Directory>,
    /// Who of them is behind.
    pub reader: Reader,
    /// For ages.
    pub clock: Arc<dyn Clock>,
}

impl QueueFigures for Queues {
    fn queues(&self) -> Vec<QueueFigure> {
        let now = self.clock.now();
        let (entries, lags) = (self.directory.all(), self.reader.fans().lags());
        let figure = |entry: &Arc<ron_actors::mailbox::directory::Entry>| {
            let (stats, counters) = (entry.figures.stats(), entry.figures.counters());
            let counts = counters.counts;
            QueueFigure {
                queue: entry.key.to_string(),
                shard: entry.shard.0,
                ready: stats.ready,
                delayed: stats.delayed,
                vis: stats.vis,
                dlq: stats.dlq,
                oldest_age_ms: stats.oldest_enqueued.map_or(0, |at| now.since(at)),
                fanout_lag: lags.get(&entry.key).copied().unwrap_or(0),
                counters: QueueCounters {
                    enqueued: counters.enqueued,
                    delivered: counts.delivered,
                    acked: counts.acked,
                    expired: counts.expired,
                    visibility_timeouts: counts.timeouts,
                    requeued_visibility: counts.requeued_visibility,
                    requeued_nack: counts.requeued_release,
                    requeued_retry: counts.requeued_retry,
                    dlq_writes: counts.dead,
                    reprocessed: counts.revived,
                },
            }
        };
        entries.iter().filter(|entry| entry.exists()).map(figure).collect()
    }
}
