//! Walks a topic's dead letters for those that a filter means, and has the topic's actor move them: one batch, one
//! commit, one at a time. Holds one page of places; of messages it reads, a few at once.

use super::messages::ShardMsg;
use super::shard::ShardRef;
use super::tasks::{DlqMsg, Move};
use crate::store::{ReadFailure, Reader};
use ron_core::ids::{ShardId, Slot};
use ron_core::reason::Refusal;
use ron_core::reprocess::{BATCH_MAX, DeadFilter, Task};
use ron_core::shard::Buried;
use ron_core::time::Millis;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::sleep;

/// Dead letters looked at together.
pub(super) const PAGE: usize = BATCH_MAX;
/// Messages read at once for their attributes: each may have a megabyte.
const READ_TOGETHER: usize = 8;
/// How long to wait for a topic that is full, or a store that cannot be read.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Of a page, what the filter means.
///
/// # Errors
/// The store cannot be read now.
pub(super) async fn pick(
    reader: &Reader,
    shard: ShardId,
    filter: &DeadFilter,
    as_of: Millis,
    page: &[Buried],
) -> Result<Vec<Slot>, ReadFailure> {
    let wanted = page.iter().filter(|buried| filter.wants(buried, as_of));
    let mut slots: Vec<Slot> = wanted.map(|buried| buried.slot).collect();
    if filter.reads_letters() && !slots.is_empty() {
        let letters = reader.letters(shard, slots.clone()).await?;
        let mut letters = letters.into_iter();
        slots.retain(|_| letters.next().flatten().is_some_and(|letter| filter.wants_letter(&letter)));
    }
    if !filter.reads_messages() {
        return Ok(slots);
    }
    let mut meant = Vec::new();
    for some in slots.chunks(READ_TOGETHER) {
        for (slot, message) in some.iter().zip(reader.fetch(some.to_vec()).await) {
            match message {
                Ok(message) if filter.wants_message(&message.meta) => meant.push(*slot),
                // A damaged record says nothing that could be trusted.
                Ok(_) | Err(ReadFailure::Gone | ReadFailure::Damaged) => {}
                Err(ReadFailure::Store) => return Err(ReadFailure::Store),
            }
        }
    }
    Ok(meant)
}

/// Why a reprocessor stops.
enum End {
    /// The task is over, or another one has it.
    Over,
    /// The actor that it works for is gone; its successor starts another one.
    Orphaned,
}

/// Works on `task` until it is over. Its place is in the task's row, so that whoever comes after goes on there.
pub(super) async fn run(actor: ShardRef, run: u64, task: Task, reader: Reader, shard: ShardId) {
    let mut cursor = task.cursor;
    loop {
        let only = task.draft.filter.slots.clone();
        let page = match ask(&actor, |reply| DlqMsg::Page { after: cursor, limit: PAGE, only, reply }).await {
            Ok(Ok(page)) => page,
            Ok(Err(_)) => {
                sleep(TRY_AGAIN_AFTER).await;
                continue;
            }
            Err(Gone) => return,
        };
        let Ok(slots) = pick(&reader, shard, &task.draft.filter, task.started, &page).await else {
            sleep(TRY_AGAIN_AFTER).await;
            continue;
        };
        let end = page.last().map(|buried| buried.slot);
        match move_all(&actor, run, &task, slots, end, page.len() < PAGE).await {
            Ok(()) => cursor = end.or(cursor),
            Err(End::Over | End::Orphaned) => return,
        }
    }
}

/// Has all of `slots` moved at the task's pace.
async fn move_all(
    actor: &ShardRef,
    run: u64,
    task: &Task,
    mut slots: Vec<Slot>,
    end: Option<Slot>,
    last_page: bool,
) -> Result<(), End> {
    let (batch, wait_ms) = task.pace();
    loop {
        let some: Vec<Slot> = slots.iter().copied().take(batch).collect();
        let all = some.len() == slots.len();
        let cursor = if all { end } else { some.last().copied() };
        let (number, sent) = (task.number, some.len());
        let step =
            |reply| DlqMsg::Move(Move { run, number, slots: some, cursor, last: all && last_page, reply });
        let left = match ask(actor, step).await {
            Ok(Ok(Some(left))) => left.min(sent),
            Ok(Ok(None)) => return Err(End::Over),
            // What became of it is in the store; the shard that is loaded from it has a reprocessor of its own.
            Ok(Err(_)) => return Err(End::Orphaned),
            Err(Gone) => return Err(End::Orphaned),
        };
        slots.drain(..sent - left);
        if left > 0 {
            sleep(TRY_AGAIN_AFTER).await;
        } else if all {
            return Ok(());
        }
        if wait_ms > 0 {
            sleep(Duration::from_millis(wait_ms)).await;
        }
    }
}

/// The actor is gone.
struct Gone;

async fn ask<T>(
    actor: &ShardRef,
    message: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> DlqMsg,
) -> Result<Result<T, Refusal>, Gone> {
    let (reply, answer) = oneshot::channel();
    actor.cast(ShardMsg::Dlq(message(reply))).map_err(|_| Gone)?;
    answer.await.map_err(|_| Gone)
}
