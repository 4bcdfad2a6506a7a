//! What operators do, and what keeps the store well: settings, purges, dead letters, snapshots, scrubs.

use super::client::Client;
use super::ops::Operation;
use super::world::Complaint;
use ron_actors::mailbox::Mailbox;
use ron_actors::store::{Scrub, SnapshotConfig, Snapshots};
use ron_core::ids::{MessageId, QueueKey, Slot};
use ron_core::reason::Refusal;
use ron_core::reprocess::{DeadFilter, Draft, TaskState};
use ron_core::shard::{SettingsPatch, TopicChange};
use ron_history::record::{Op, Out, Settings};

fn recorded(change: &TopicChange) -> Settings {
    match change {
        TopicChange::Pause { what, paused } => {
            Settings { paused: what.recv.then_some(u64::from(*paused)), ..Settings::default() }
        }
        TopicChange::Settings(patch) => of_patch(patch),
    }
}

fn of_patch(patch: &SettingsPatch) -> Settings {
    Settings {
        visibility_ms: patch.visibility_ms,
        max_attempts: patch.max_attempts.map(u64::from),
        max_deliveries: patch.max_deliveries.map(u64::from),
        retention_ms: patch.retention_ms,
        dlq_retention_ms: patch.dlq_retention_ms,
        dedup_window_ms: patch.dedup_window_ms,
        fifo: patch.fifo.map(u64::from),
        ram: patch.ram.map(u64::from),
        max_depth: patch.max_depth,
        max_inflight: None,
        paused: None,
    }
}

fn parse(ids: &[String]) -> Vec<MessageId> {
    ids.iter().filter_map(|id| MessageId::parse(id).ok()).collect()
}

/// The filter that means these dead letters, or all.
async fn filter(mailbox: &Mailbox, key: &QueueKey, ids: Option<&Vec<String>>) -> Result<DeadFilter, Refusal> {
    let slots: Option<Vec<Slot>> = match ids {
        None => None,
        Some(ids) => Some(mailbox.dead_slots(key, &parse(ids)).await?),
    };
    Ok(DeadFilter { slots, ..DeadFilter::default() })
}

impl Client {
    pub(super) async fn operate(&self, queue: usize, how: Operation) -> Result<(), Complaint> {
        let (of, key) = (queue as u32, &self.world.queues[queue]);
        match how {
            Operation::Configure(change) => {
                let call = self.begin(Op::Configure { queue: of, to: recorded(&change) });
                let what = match change {
                    TopicChange::Settings(_) => "configure",
                    TopicChange::Pause { paused: true, .. } => "pause",
                    TopicChange::Pause { paused: false, .. } => "resume",
                };
                self.done(call, what, self.mailbox.configure(key, change).await.map(|_| 0))
            }
            Operation::Purge => {
                let call = self.begin(Op::Purge { queue: of });
                self.done(call, "purge", self.mailbox.purge(key).await)
            }
            Operation::Delete => {
                let call = self.begin(Op::Delete { queue: of });
                self.done(call, "delete", self.mailbox.delete(key).await)
            }
            Operation::PurgeDead(ids) => {
                let call = self.begin(Op::PurgeDead { queue: of, ids: ids.clone() });
                let purged = match filter(&self.mailbox, key, ids.as_ref()).await {
                    // it ends a batch a commit: an error does not say how many
                    Ok(filter) => self.mailbox.purge_dead(key, &filter).await.map_err(may_have_acted),
                    Err(refusal) => Err(refusal),
                };
                self.done(call, "purge-dead", purged)
            }
            Operation::Replace(id, content) => self.replace(queue, id, content).await,
            Operation::Reprocess { ids, limit, rate, stop_permille } => {
                let draft = |filter| Draft { filter, limit, rate_per_s: rate, stop_permille };
                self.reprocess(queue, ids, draft).await
            }
            Operation::Cancel => self.cancel(queue).await,
            Operation::Tasks => self.tasks(queue).await,
            Operation::Clusters => {
                if let Ok(clusters) = self.mailbox.clusters(key).await {
                    self.count("clusters");
                    let sums = clusters.iter().all(|one| one.count > 0 && one.oldest <= one.newest);
                    return if sums { Ok(()) } else { Err(format!("clusters: {clusters:?}")) };
                }
                Ok(())
            }
        }
    }

    fn done(&self, call: u64, what: &str, answer: Result<u64, Refusal>) -> Result<(), Complaint> {
        match answer {
            Ok(n) => {
                self.end(call, what, Out::Done(n));
                Ok(())
            }
            Err(refusal) => self.refused(call, what, &refusal),
        }
    }

    async fn replace(&self, queue: usize, id: String, content: u64) -> Result<(), Complaint> {
        let key = &self.world.queues[queue];
        let (message, item) = self.message(content);
        let parsed = MessageId::parse(&id).map_err(|bad| bad.to_string())?;
        let call = self.begin(Op::Replace { queue: queue as u32, id, item });
        let slot = match self.mailbox.dead_message(key, parsed).await {
            Ok((slot, Some(_))) => slot,
            Ok((_, None)) => return Err("a dead letter's record is damaged".to_owned()),
            Err(refusal) => return self.refused(call, "replace", &refusal.without_effect()),
        };
        match self.mailbox.replace_dead(key, message, slot).await {
            Ok(stored) => {
                let sent = self.sent(queue, Ok(stored))?;
                self.end(call, "replace", Out::Sent(vec![sent]));
                Ok(())
            }
            Err(refusal) => self.refused(call, "replace", &refusal),
        }
    }

    async fn reprocess(
        &self,
        queue: usize,
        ids: Option<Vec<String>>,
        draft: impl FnOnce(DeadFilter) -> Draft,
    ) -> Result<(), Complaint> {
        let key = &self.world.queues[queue];
        let call = self.begin(Op::Reprocess { queue: queue as u32, ids: ids.clone() });
        let counted = match filter(&self.mailbox, key, ids.as_ref()).await {
            Ok(filter) => self.mailbox.count_dead(key, &filter).await.map(|counted| (filter, counted)),
            Err(refusal) => Err(refusal),
        };
        let (filter, counted) = match counted {
            Ok(counted) => counted,
            Err(refusal) => return self.refused(call, "reprocess", &refusal.without_effect()),
        };
        match self.mailbox.reprocess(key, draft(filter), counted).await {
            Ok(task) => {
                self.end(call, "reprocess", Out::Done(task.matched));
                Ok(())
            }
            Err(refusal) => self.refused(call, "reprocess", &refusal),
        }
    }

    /// Ends the newest task.
    pub(super) async fn cancel(&self, queue: usize) -> Result<(), Complaint> {
        let key = &self.world.queues[queue];
        let call = self.begin(Op::Cancel { queue: queue as u32 });
        // asked anew: a restore has other tasks, and one of which no answer came may be the newest
        let newest = match self.mailbox.tasks(key).await {
            Ok(tasks) => tasks.last().map(|task| task.number),
            Err(refusal) => return self.refused(call, "cancel", &refusal.without_effect()),
        };
        let Some(number) = newest else {
            self.end(call, "cancel", Out::NotFound);
            return Ok(());
        };
        match self.mailbox.cancel_task(key, number).await {
            Ok(task) if task.runs() => Err(format!("a task runs that was cancelled: {task:?}")),
            answer => self.done(call, "cancel", answer.map(|task| task.moved)),
        }
    }

    async fn tasks(&self, queue: usize) -> Result<(), Complaint> {
        let Ok(tasks) = self.mailbox.tasks(&self.world.queues[queue]).await else { return Ok(()) };
        for task in &tasks {
            self.count(&format!("task {:?}", task.state));
        }
        let one_runs = tasks.iter().filter(|task| task.state == TaskState::Running).count() <= 1;
        let limits = tasks.iter().all(|task| task.draft.limit.is_none_or(|limit| task.moved <= limit));
        if one_runs && limits { Ok(()) } else { Err(format!("tasks: {tasks:?}")) }
    }

    pub(super) async fn scrub(&self) -> Result<(), Complaint> {
        match Scrub::new(self.store.clone()).run_once(|_| async {}).await {
            Ok(findings) if !findings.is_clean() => Err(format!("a scrub found {findings:?}")),
            Ok(_) => {
                self.count("scrub");
                Ok(())
            }
            Err(_) => {
                self.count("scrub-failed");
                Ok(())
            }
        }
    }

    pub(super) async fn snapshot(&self) -> Result<(), Complaint> {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let config = SnapshotConfig { dir: dir.path().to_owned(), keep: 1, reserve: 0 };
        let call = self.begin(Op::Snapshot);
        match Snapshots::new(self.store.clone(), config, self.clock.clone()).run_once().await {
            Ok(file) => {
                let bytes = std::fs::read(&file.path).map_err(|error| error.to_string())?;
                self.world.lock().snapshot = Some((call, bytes));
                self.end(call, "snapshot", Out::Done(0));
            }
            Err(_) if !self.world.plan.calm() || self.world.lock().stopping => {
                self.end(call, "snapshot-failed", Out::Refused("no snapshot".to_owned()));
            }
            Err(error) => return Err(format!("no snapshot: {error}")),
        }
        Ok(())
    }
}

fn may_have_acted(mut refusal: Refusal) -> Refusal {
    refusal.effect = ron_core::reason::Effect::Unknown;
    refusal
}
