//! The actor that writes the audit log: takes what was said in batches, and looks once a second at what was counted and
//! at what is not on the device yet. It keeps nothing itself: a killed one's successor finds all in [`Audit`].

use super::{Audit, lock};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(1);
/// The head goes to the log so often, in seconds.
const HEAD_EVERY: u64 = 60;
/// Entries that are written at once.
const BATCH_MAX: usize = 1024;

/// What the actor is told.
#[derive(Debug)]
pub enum AuditMsg {
    /// Something waits.
    Wake,
    /// A second is over.
    Tick,
    /// Fail: a drill wants to see the restart.
    Crash,
}

/// See the module.
#[derive(Debug, Default)]
pub struct AuditActor;

/// The log, and the seconds since the start.
#[derive(Debug)]
pub struct Writing {
    log: Audit,
    ticks: u64,
}

impl Actor for AuditActor {
    type Msg = AuditMsg;
    type State = Writing;
    type Arguments = Audit;

    async fn pre_start(&self, myself: ActorRef<AuditMsg>, log: Audit) -> Result<Writing, ActorProcessingErr> {
        if log.0.trail.is_poisoned() {
            let recovering = log.clone();
            tokio::task::spawn_blocking(move || recovering.recover()).await??;
        }
        // what was said while nobody was there
        log.0.woken.store(true, Ordering::Release);
        myself.cast(AuditMsg::Wake)?;
        myself.send_after(EVERY, || AuditMsg::Tick);
        Ok(Writing { log, ticks: 0 })
    }

    async fn handle(
        &self,
        myself: ActorRef<AuditMsg>,
        message: AuditMsg,
        state: &mut Writing,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            AuditMsg::Wake => state.log.write_all(false).await,
            AuditMsg::Tick => {
                myself.send_after(EVERY, || AuditMsg::Tick);
                state.ticks += 1;
                state.log.settle(false);
                state.log.write_all(true).await?;
                if state.ticks.is_multiple_of(HEAD_EVERY) {
                    let head = *state.log.0.head.borrow();
                    tracing::info!(seq = head.seq, head = %head, "the audit log's head");
                }
                Ok(())
            }
            AuditMsg::Crash => Err("killed by a drill".into()),
        }
    }
}

impl Audit {
    /// Writes all that waits; with `sync` it is on the device afterwards, as well as anything can be.
    async fn write_all(&self, sync: bool) -> Result<(), ActorProcessingErr> {
        // before the queue is looked at: who comes later wakes again
        self.0.woken.store(false, Ordering::Release);
        let mut sync = sync;
        loop {
            let batch = lock(&self.0.queue).take(BATCH_MAX);
            if batch.is_empty() && !sync {
                return Ok(());
            }
            let log = self.clone();
            tokio::task::spawn_blocking(move || log.write_batch(batch, sync)).await?;
            sync = false;
        }
    }

    fn write_batch(&self, batch: Vec<super::Queued>, sync: bool) {
        // a poisoned one is not written to: the restart reads it anew
        let Ok(mut trail) = self.0.trail.lock() else { return };
        let observer = &*self.0.observer;
        let written = trail.write(batch, sync, &self.0.ring, observer);
        let head = trail.head();
        drop(trail);
        observer.recorded(written.recorded);
        observer.dropped(written.dropped);
        self.0.head.send_if_modified(|known| std::mem::replace(known, head) != head);
        written.tell();
    }

    /// After a panic in the midst of a step: what counts is on the device.
    fn recover(&self) -> Result<(), super::AuditError> {
        let mut trail = self.0.trail.lock().unwrap_or_else(PoisonError::into_inner);
        trail.resume(self.0.clock.wall())?;
        let findings = trail.findings();
        drop(trail);
        self.0.trail.clear_poison();
        lock(&self.0.ring).clear();
        findings.into_iter().for_each(|finding| self.record(finding));
        Ok(())
    }
}
