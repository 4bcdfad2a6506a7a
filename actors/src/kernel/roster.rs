//! The books of a supervisor: its children and where each is in its life.
//!
//! Each spawn of a child has a generation; reports and timers of an older one are ignored.

use super::child::{ChildInfo, ChildKind, ChildSpec, ChildStatus};
use super::event::Event;
use super::halt::{self, Halting, Outcome};
use super::life::{Child, Exit, Phase, StartReply, Task, Waiter};
use super::supervisor::{Args, Msg, RootEnd, RootFailed, StartError, SupervisorOptions, attempt};
use ractor::{ActorCell, ActorId, ActorRef, RpcReplyPort};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ron_core::restart::{Decision, ExitKind, RestartState};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

pub(super) struct State {
    me: ActorRef<Msg>,
    options: SupervisorOptions,
    jitter: StdRng,
    children: HashMap<Arc<str>, Child>,
    by_id: HashMap<ActorId, Arc<str>>,
    /// Exits of children whose spawn has not reported yet; empty when none is being spawned.
    early: HashMap<ActorId, Exit>,
    spawning: usize,
    started: u64,
    boot: VecDeque<ChildSpec>,
    booting: bool,
    boot_waiters: Vec<RpcReplyPort<()>>,
    stopping: bool,
    stop_task: Option<Task>,
    end: Option<watch::Sender<Option<RootEnd>>>,
}

impl State {
    pub(super) fn new(me: ActorRef<Msg>, args: Args) -> Self {
        Self {
            me,
            jitter: StdRng::seed_from_u64(args.options.seed),
            options: args.options,
            children: HashMap::new(),
            by_id: HashMap::new(),
            early: HashMap::new(),
            spawning: 0,
            started: 0,
            boot: args.children.into(),
            booting: true,
            boot_waiters: Vec::new(),
            stopping: false,
            stop_task: None,
            end: args.end,
        }
    }

    // --- starting

    pub(super) fn start(&mut self, spec: ChildSpec, reply: StartReply) {
        if self.stopping {
            let _ = reply.send(Err(StartError::Stopping));
            return;
        }
        match self.children.get_mut(&spec.name) {
            None => self.add(spec, Waiter::Caller(reply)),
            Some(child) if child.successor.is_none() && child.is_leaving() => {
                child.successor = Some((spec, reply))
            }
            Some(_) => {
                let _ = reply.send(Err(StartError::Exists));
            }
        }
    }

    fn add(&mut self, spec: ChildSpec, first_start: Waiter) {
        let name = Arc::clone(&spec.name);
        let child = Child {
            order: self.started,
            generation: 0,
            phase: Phase::Quarantined,
            restart: RestartState::new(self.options.policy),
            crashes: 0,
            first_start,
            stop_wanted: false,
            kill_wanted: false,
            stop_waiters: Vec::new(),
            successor: None,
            spec,
        };
        self.started += 1;
        self.children.insert(Arc::clone(&name), child);
        self.spawn(&name);
    }

    fn spawn(&mut self, name: &Arc<str>) {
        let Some(child) = self.children.get_mut(name) else { return };
        child.generation += 1;
        let (me, name, generation) = (self.me.clone(), Arc::clone(name), child.generation);
        let (spawn, timeout) = (Arc::clone(&child.spec.spawn), child.spec.spawn_timeout);
        let task = tokio::spawn(async move {
            let result = attempt(spawn, me.get_cell(), timeout).await;
            let _ = me.cast(Msg::Spawned { name, generation, result });
        });
        child.phase = Phase::Starting { _task: Task(task.abort_handle()) };
        child.spec.tell(ChildStatus::Starting);
        self.spawning += 1;
    }

    pub(super) fn spawned(
        &mut self,
        name: &Arc<str>,
        generation: u64,
        result: Result<ActorCell, String>,
    ) -> Option<RootFailed> {
        self.spawning = self.spawning.saturating_sub(1);
        let early = result.as_ref().ok().and_then(|cell| self.early.remove(&cell.get_id()));
        if self.spawning == 0 {
            self.early.clear();
        }
        let child = self.children.get_mut(name).filter(|child| child.generation == generation);
        let Some(child) = child.filter(|child| matches!(child.phase, Phase::Starting { .. })) else {
            if let Ok(stray) = result {
                stray.kill();
            }
            return None;
        };
        match result {
            Ok(cell) => {
                self.by_id.insert(cell.get_id(), Arc::clone(name));
                if std::mem::take(&mut child.kill_wanted) {
                    cell.kill();
                }
                child.phase = Phase::Up { cell: cell.clone() };
                child.spec.tell(ChildStatus::Up);
                let waiter = std::mem::replace(&mut child.first_start, Waiter::Nobody);
                let stop_wanted = child.stop_wanted;
                self.first_start_done(waiter, Ok(()));
                match early {
                    Some(exit) => self.exited(cell.get_id(), exit),
                    None if stop_wanted => {
                        self.halt(name);
                        None
                    }
                    None => None,
                }
            }
            Err(_) if child.stop_wanted => {
                self.remove(name);
                None
            }
            Err(reason) => {
                let exit = Exit::new(ExitKind::SpawnFailed, &reason);
                let waiter = std::mem::replace(&mut child.first_start, Waiter::Nobody);
                let failed = StartError::NotUp(Arc::clone(&exit.reason));
                let end = self.crashed(name, &exit);
                self.first_start_done(waiter, Err(failed));
                end
            }
        }
    }

    fn first_start_done(&mut self, waiter: Waiter, outcome: Result<(), StartError>) {
        match waiter {
            Waiter::Nobody => {}
            Waiter::Caller(reply) => {
                let _ = reply.send(outcome);
            }
            Waiter::Boot => self.boot_next(),
        }
    }

    /// Starts the next of the children it was made with, or tells that all have been.
    pub(super) fn boot_next(&mut self) {
        while let Some(spec) = self.boot.pop_front() {
            if self.children.contains_key(&spec.name) {
                tracing::error!(child = %spec.name, "two children of one name; the second is left out");
                continue;
            }
            return self.add(spec, Waiter::Boot);
        }
        if self.stopping {
            // whoever waits learns from the dropped reply
            return self.boot_waiters.clear();
        }
        self.booting = false;
        for waiter in self.boot_waiters.drain(..) {
            let _ = waiter.send(());
        }
    }

    pub(super) fn tell_booted(&mut self, reply: RpcReplyPort<()>) {
        if self.booting {
            self.boot_waiters.push(reply);
        } else {
            let _ = reply.send(());
        }
    }

    pub(super) fn respawn(&mut self, name: &Arc<str>, generation: u64) {
        let due =
            |child: &Child| child.generation == generation && matches!(child.phase, Phase::Waiting { .. });
        if self.children.get(name).is_some_and(due) {
            self.spawn(name);
        }
    }

    // --- exits

    pub(super) fn exited(&mut self, id: ActorId, exit: Exit) -> Option<RootFailed> {
        let Some(name) = self.by_id.remove(&id) else {
            // a child that died before its spawn reported, or one that is left over from a stop
            if self.spawning > 0 {
                self.early.insert(id, exit);
            }
            return None;
        };
        let child = self.children.get(&name)?;
        // one being stopped is reported by its task; one that outlived its kill may have a successor
        if !matches!(&child.phase, Phase::Up { cell } if cell.get_id() == id) {
            return None;
        }
        match (exit.kind, child.spec.kind) {
            (ExitKind::Clean, ChildKind::Dynamic) => {
                self.remove(&name);
                None
            }
            // nobody asked it to
            (ExitKind::Clean, ChildKind::Fixed) => {
                self.crashed(&name, &Exit { kind: ExitKind::Failed, reason: exit.reason })
            }
            (ExitKind::Failed | ExitKind::SpawnFailed, _) => self.crashed(&name, &exit),
        }
    }

    fn crashed(&mut self, name: &Arc<str>, exit: &Exit) -> Option<RootFailed> {
        let child = self.children.get_mut(name)?;
        child.crashes += 1;
        if child.stop_wanted {
            self.remove(name);
            return None;
        }
        let (service, reason) = (child.spec.service, Arc::clone(&exit.reason));
        tracing::warn!(%service, child = %name, %reason, "child failed");
        self.options.observer.crashed(service);
        let event = Event::ServiceCrashed { service, child: Arc::clone(name), reason: Arc::clone(&reason) };
        self.options.bus.publish(event);
        if let Some((_, reply)) = child.successor.take() {
            let _ = reply.send(Err(StartError::Exists));
        }
        let now = self.options.clock.now();
        match child.restart.on_exit(now, exit.kind, self.jitter.next_u64()) {
            Decision::Respawn { at } => {
                let (name, generation) = (Arc::clone(name), child.generation);
                let wait = Duration::from_millis(at.since(now));
                let timer = self.me.send_after(wait, move || Msg::Respawn { name, generation });
                child.phase = Phase::Waiting { at, _timer: Task(timer.abort_handle()) };
                child.spec.tell(ChildStatus::Restarting { at });
                None
            }
            Decision::Quarantine => {
                child.phase = Phase::Quarantined;
                child.spec.tell(ChildStatus::Quarantined);
                if child.spec.critical {
                    return Some(RootFailed { child: Arc::clone(name), reason });
                }
                tracing::error!(%service, child = %name, "child is quarantined until it is released");
                self.options.observer.quarantined(service);
                self.options.bus.publish(Event::Quarantined { service, child: Arc::clone(name) });
                None
            }
            // only a clean exit is ignored, and those do not get here
            Decision::Ignore => None,
        }
    }

    /// Forgets a child that is gone, and starts its successor.
    fn remove(&mut self, name: &Arc<str>) {
        let Some(child) = self.children.remove(name) else { return };
        child.spec.tell(ChildStatus::Stopped);
        for waiter in child.stop_waiters {
            let _ = waiter.send(true);
        }
        self.first_start_done(child.first_start, Err(StartError::Stopping));
        if let Some((spec, reply)) = child.successor {
            self.start(spec, reply);
        }
    }

    // --- operators

    pub(super) fn release(&mut self, name: &Arc<str>) -> bool {
        let Some(child) = self.children.get_mut(name) else { return false };
        if !matches!(child.phase, Phase::Quarantined) || self.stopping {
            return false;
        }
        child.restart.release();
        let service = child.spec.service;
        self.options.bus.publish(Event::Released { service, child: Arc::clone(name) });
        self.spawn(name);
        true
    }

    pub(super) fn kill_child(&mut self, name: &Arc<str>) -> bool {
        let Some(child) = self.children.get_mut(name) else { return false };
        match &child.phase {
            Phase::Up { cell } => cell.kill(),
            // perhaps up already, with its report still under way
            Phase::Starting { .. } => child.kill_wanted = true,
            Phase::Waiting { .. } | Phase::Quarantined | Phase::Halting { .. } => return false,
        }
        true
    }

    pub(super) fn infos(&self) -> Vec<ChildInfo> {
        let mut children: Vec<&Child> = self.children.values().collect();
        children.sort_by_key(|child| child.order);
        let info = |child: &Child| ChildInfo {
            name: Arc::clone(&child.spec.name),
            service: child.spec.service,
            critical: child.spec.critical,
            status: child.status(),
            crashes: child.crashes,
        };
        children.into_iter().map(info).collect()
    }

    // --- stopping

    pub(super) fn stop_child(&mut self, name: &Arc<str>, reply: RpcReplyPort<bool>) {
        let Some(child) = self.children.get_mut(name) else {
            let _ = reply.send(false);
            return;
        };
        child.stop_waiters.push(reply);
        match child.phase {
            // its report comes within the spawn timeout; until then nobody knows what there is to stop
            Phase::Starting { .. } => child.stop_wanted = true,
            Phase::Up { .. } => self.halt(name),
            Phase::Halting { .. } => {}
            Phase::Waiting { .. } | Phase::Quarantined => self.remove(name),
        }
    }

    fn halt(&mut self, name: &Arc<str>) {
        let Some(child) = self.children.get_mut(name) else { return };
        let Phase::Up { cell } = &child.phase else { return };
        let cell = cell.clone();
        let (halting, me) = (child.halting(cell.clone()), self.me.clone());
        let task = tokio::spawn(async move {
            let how = halt::one(&halting).await;
            let _ = me.cast(Msg::Halted { name: halting.name, generation: halting.generation, how });
        });
        child.phase = Phase::Halting { cell, _task: Some(Task(task.abort_handle())) };
        child.spec.tell(ChildStatus::Stopping);
    }

    pub(super) fn halted(&mut self, name: &Arc<str>, generation: u64, how: Outcome) {
        let Some(child) = self.children.get(name).filter(|child| child.generation == generation) else {
            return;
        };
        if how == Outcome::Killed {
            self.options.observer.killed(child.spec.service);
        }
        self.remove(name);
    }

    pub(super) fn stop_all(&mut self) {
        if self.stopping {
            return;
        }
        let (rest, me) = (self.give_up_all(), self.me.clone());
        let task = tokio::spawn(async move {
            let report = |child: &Halting, how| {
                let (name, generation) = (Arc::clone(&child.name), child.generation);
                let _ = me.cast(Msg::Halted { name, generation, how });
            };
            halt::in_order(rest, report).await;
            let _ = me.cast(Msg::AllHalted);
        });
        self.stop_task = Some(Task(task.abort_handle()));
    }

    /// From here on nothing is started or restarted. Forgets all that do not run, and returns those that do.
    pub(super) fn give_up_all(&mut self) -> Vec<Halting> {
        self.stopping = true;
        self.stop_task = None;
        self.boot.clear();
        let mut rest = Vec::new();
        let mut idle = Vec::new();
        for (name, child) in &mut self.children {
            let cell = match &child.phase {
                // one that is being stopped already is waited for in its turn
                Phase::Up { cell } | Phase::Halting { cell, .. } => cell.clone(),
                Phase::Starting { .. } | Phase::Waiting { .. } | Phase::Quarantined => {
                    idle.push(Arc::clone(name));
                    continue;
                }
            };
            rest.push(child.halting(cell.clone()));
            child.phase = Phase::Halting { cell, _task: None };
            child.spec.tell(ChildStatus::Stopping);
        }
        // In an order that a simulation can repeat.
        rest.sort_by_key(|child| child.order);
        idle.sort();
        for name in idle {
            self.remove(&name);
        }
        rest
    }

    /// Forgets the children that [`State::give_up_all`] returned, once they are gone.
    pub(super) fn forget_all(&mut self) {
        let names: Vec<Arc<str>> = self.children.keys().cloned().collect();
        for name in names {
            self.remove(&name);
        }
    }

    pub(super) fn finish(&mut self) {
        self.me.stop(None);
    }

    pub(super) fn end(&mut self, how: RootEnd) {
        if let Some(end) = self.end.take() {
            end.send_replace(Some(how));
        }
    }
}
