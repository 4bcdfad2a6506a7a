//! Restart-proof handles: an actor's address that outlives the actor.
//!
//! A restart gives an actor a new mailbox, so a plain `ActorRef` goes stale. Whoever needs the actor holds a
//! [`Handle`]; whoever spawns it publishes each new ref through the [`HandlePublisher`]. What was in the old
//! mailbox is lost all the same: callers are told, and a message counts as accepted only when it is
//! committed.

use super::child::{ChildStatus, SpawnFn, StatusHook};
use futures::FutureExt;
use ractor::rpc::CallResult;
use ractor::{Actor, ActorCell, ActorRef, ActorStatus, Message, MessagingErr, RpcReplyPort};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;
use tokio::sync::Notify;

enum Slot<M> {
    Up(ActorRef<M>),
    Down,
    Quarantined,
}

/// What a publisher and its handles share. Not a `watch`: that one wakes who waits for it in a random order,
/// which a simulation could not repeat; [`Notify`] wakes first come, first served.
struct Shared<M> {
    slot: RwLock<Slot<M>>,
    changed: Notify,
    /// Nobody is left to publish.
    closed: AtomicBool,
}

impl<M> Shared<M> {
    fn read(&self) -> RwLockReadGuard<'_, Slot<M>> {
        // Whoever panicked while it was held had only to store one value.
        self.slot.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, slot: Slot<M>) {
        let old = std::mem::replace(&mut *self.slot.write().unwrap_or_else(PoisonError::into_inner), slot);
        self.changed.notify_waiters();
        drop(old);
    }
}

/// The publishers of a handle, together: dropped with the last of them.
struct Owner<M>(Arc<Shared<M>>);

impl<M> Drop for Owner<M> {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Release);
        self.0.changed.notify_waiters();
    }
}

/// Why a message was not taken. Gives it back, and never shows it.
#[derive(PartialEq, Eq, thiserror::Error)]
pub enum CastError<M> {
    /// The actor is down and will be restarted, or is stopping.
    #[error("the service is restarting")]
    Down(M),
    /// The actor failed too often and stays down until an operator releases it.
    #[error("the service is quarantined")]
    Quarantined(M),
}

impl<M> CastError<M> {
    /// The message.
    #[must_use]
    pub fn into_message(self) -> M {
        match self {
            CastError::Down(message) | CastError::Quarantined(message) => message,
        }
    }
}

impl<M> std::fmt::Debug for CastError<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            CastError::Down(_) => "Down",
            CastError::Quarantined(_) => "Quarantined",
        })
    }
}

/// Why a call has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Not sent: the actor is down.
    #[error("the service is restarting")]
    Down,
    /// Not sent: the actor is quarantined.
    #[error("the service is quarantined")]
    Quarantined,
    /// Sent, but the actor died or dropped the request: it may have taken effect.
    #[error("the service failed while it had the request")]
    Lost,
    /// Sent, but not answered in time: it may still take effect.
    #[error("the service did not answer in time")]
    Timeout,
}

/// Why [`Handle::wait_up`] gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotUp {
    /// Still down after the timeout, or nobody is left to publish it.
    #[error("the service is down")]
    Down,
    /// Quarantined; waiting is no use.
    #[error("the service is quarantined")]
    Quarantined,
}

/// The address of an actor across its restarts. Cheap to clone.
pub struct Handle<M: Message> {
    shared: Arc<Shared<M>>,
}

impl<M: Message> Clone for Handle<M> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<M: Message> std::fmt::Debug for Handle<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match &*self.shared.read() {
            Slot::Up(_) => "up",
            Slot::Down => "down",
            Slot::Quarantined => "quarantined",
        };
        f.debug_tuple("Handle").field(&state).finish()
    }
}

impl<M: Message> Handle<M> {
    /// Sends a message to the actor's present incarnation. Never waits. `Ok` says it is in the mailbox, no
    /// more.
    ///
    /// # Errors
    /// [`CastError`] with the message.
    pub fn cast(&self, message: M) -> Result<(), CastError<M>> {
        match &*self.shared.read() {
            Slot::Up(actor) => match actor.cast(message) {
                Ok(()) => Ok(()),
                Err(MessagingErr::SendErr(message)) => Err(CastError::Down(message)),
                // never with a typed ref in one process; to the caller the same as a mailbox that died
                Err(MessagingErr::ChannelClosed | MessagingErr::InvalidActorType) => Ok(()),
            },
            Slot::Down => Err(CastError::Down(message)),
            Slot::Quarantined => Err(CastError::Quarantined(message)),
        }
    }

    /// Sends a request and waits for its reply. On a timeout the request is not withdrawn: the actor should
    /// skip it if `reply.is_closed()`.
    ///
    /// # Errors
    /// [`CallError`]; `Down` and `Quarantined` say that nothing was sent.
    pub async fn call<R: Send + 'static>(
        &self,
        request: impl FnOnce(RpcReplyPort<R>) -> M,
        timeout: Duration,
    ) -> Result<R, CallError> {
        let actor = match &*self.shared.read() {
            Slot::Up(actor) => actor.clone(),
            Slot::Down => return Err(CallError::Down),
            Slot::Quarantined => return Err(CallError::Quarantined),
        };
        match actor.call(request, Some(timeout)).await {
            Ok(CallResult::Success(reply)) => Ok(reply),
            Ok(CallResult::Timeout) => Err(CallError::Timeout),
            Ok(CallResult::SenderError) => Err(CallError::Lost),
            Err(_) => Err(CallError::Down),
        }
    }

    /// The actor's present incarnation, if it takes messages.
    #[must_use]
    pub fn get(&self) -> Option<ActorRef<M>> {
        match &*self.shared.read() {
            Slot::Up(actor) if takes_messages(actor) => Some(actor.clone()),
            Slot::Up(_) | Slot::Down | Slot::Quarantined => None,
        }
    }

    /// Whether messages are taken now.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.get().is_some()
    }

    /// Whether the actor waits for an operator.
    #[must_use]
    pub fn is_quarantined(&self) -> bool {
        matches!(&*self.shared.read(), Slot::Quarantined)
    }

    /// Waits until the actor is up.
    ///
    /// # Errors
    /// [`NotUp`] when it is quarantined, or still down after `timeout`.
    pub async fn wait_up(&self, timeout: Duration) -> Result<ActorRef<M>, NotUp> {
        let up = async {
            loop {
                let mut changed = std::pin::pin!(self.shared.changed.notified());
                // from here on no change is missed
                changed.as_mut().enable();
                match &*self.shared.read() {
                    Slot::Up(actor) if takes_messages(actor) => return Ok(actor.clone()),
                    Slot::Quarantined => return Err(NotUp::Quarantined),
                    // a ref that is dead already: its end is about to be published
                    Slot::Up(_) | Slot::Down => {}
                }
                if self.shared.closed.load(Ordering::Acquire) {
                    return Err(NotUp::Down);
                }
                changed.await;
            }
        };
        tokio::time::timeout(timeout, up).await.unwrap_or(Err(NotUp::Down))
    }
}

fn takes_messages<M>(actor: &ActorRef<M>) -> bool {
    actor.get_status() < ActorStatus::Draining
}

/// The other end of a [`Handle`]: tells all its clones where the actor is now. Cheap to clone.
pub struct HandlePublisher<M: Message> {
    owner: Arc<Owner<M>>,
}

impl<M: Message> Clone for HandlePublisher<M> {
    fn clone(&self) -> Self {
        Self { owner: Arc::clone(&self.owner) }
    }
}

impl<M: Message> std::fmt::Debug for HandlePublisher<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HandlePublisher")
    }
}

impl<M: Message> Default for HandlePublisher<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M: Message> HandlePublisher<M> {
    /// A publisher of an actor that is not up yet.
    #[must_use]
    pub fn new() -> Self {
        let (slot, changed) = (RwLock::new(Slot::Down), Notify::new());
        let shared = Shared { slot, changed, closed: AtomicBool::new(false) };
        Self { owner: Arc::new(Owner(Arc::new(shared))) }
    }

    /// A handle that follows this publisher.
    #[must_use]
    pub fn handle(&self) -> Handle<M> {
        Handle { shared: Arc::clone(&self.owner.0) }
    }

    /// The actor is up, at this address.
    pub fn publish(&self, actor: ActorRef<M>) {
        self.owner.0.replace(Slot::Up(actor));
    }

    /// The actor is down.
    pub fn down(&self) {
        self.owner.0.replace(Slot::Down);
    }

    /// The actor is quarantined.
    pub fn quarantined(&self) {
        self.owner.0.replace(Slot::Quarantined);
    }

    /// What a supervisor calls when the child's status changes, so that handles flip at once. `Up` is not
    /// acted on: the spawn function, which knows the typed ref, has published it.
    #[must_use]
    pub fn status_hook(&self) -> StatusHook {
        let publisher = self.clone();
        Arc::new(move |status| match status {
            ChildStatus::Restarting { .. } | ChildStatus::Stopped => publisher.down(),
            ChildStatus::Quarantined => publisher.quarantined(),
            ChildStatus::Starting | ChildStatus::Up | ChildStatus::Stopping => {}
        })
    }

    /// A spawn function for an actor without a name: each (re)start makes a fresh actor and fresh arguments,
    /// and publishes the new ref.
    #[must_use]
    pub fn spawn_fn<A, F>(&self, make: F) -> SpawnFn
    where
        A: Actor<Msg = M>,
        F: Fn() -> (A, A::Arguments) + Send + Sync + 'static,
    {
        let publisher = self.clone();
        let make = Arc::new(make);
        Arc::new(move |supervisor: ActorCell| {
            let publisher = publisher.clone();
            let make = Arc::clone(&make);
            async move {
                let (actor, args) = make();
                let (actor, _) = Actor::spawn_linked(None, actor, args, supervisor).await?;
                publisher.publish(actor.clone());
                Ok(actor.get_cell())
            }
            .boxed()
        })
    }
}
