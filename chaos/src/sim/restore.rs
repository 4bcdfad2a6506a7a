//! Between two lives: a snapshot is put in the store's place, as an operator would.

use super::rng::Rng;
use super::world::{Complaint, World};
use ron_actors::store::Plan;
use ron_core::time::Millis;
use ron_history::record::Event;

/// Restores the newest snapshot, if there is one. Receipts of before are worth nothing.
pub(super) fn restore(world: &World, rng: &mut Rng, wall: Millis) -> Result<(), Complaint> {
    let Some((call, bytes)) = world.lock().snapshot.clone() else { return Ok(()) };
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let (snapshot, store) = (dir.path().join("snapshot.redb"), dir.path().join("store.redb"));
    std::fs::write(&snapshot, bytes).map_err(|error| error.to_string())?;
    std::fs::write(&store, world.disk.bytes()).map_err(|error| error.to_string())?;
    let mut entropy = [0; 40];
    entropy.iter_mut().for_each(|byte| *byte = rng.next() as u8);
    let restored = Plan::make(&snapshot, &store).and_then(|plan| plan.carry_out(entropy, wall));
    restored.map_err(|error| format!("restore: {error}"))?;
    world.disk.replace(std::fs::read(&store).map_err(|error| error.to_string())?);
    let mut inner = world.lock();
    let now = inner.now;
    inner.log.record(now, Event::Restored { snapshot: call });
    inner.log.count("restored");
    inner.clients.iter_mut().for_each(|memory| memory.held.clear());
    inner.known.iter_mut().for_each(|known| known.dead.clear());
    Ok(())
}
