//! A turn of objects.

use super::{EngineCell, State};
use crate::store::objects::{NotStored, ObjectJob};

impl EngineCell {
    /// Does what is to be done with objects. If it fails everyone is told by being dropped.
    pub(super) fn commit_objects(
        &self,
        state: &mut State,
        jobs: Vec<ObjectJob>,
    ) -> Vec<(ObjectJob, Result<(), NotStored>)> {
        let Some(engine) = state.engine.as_mut() else { return Vec::new() };
        match engine.commit_objects(&jobs) {
            Ok(results) => jobs.into_iter().zip(results).collect(),
            Err(error) => {
                self.observer.failed();
                tracing::error!(%error, "a commit of objects failed, the store is reopened");
                self.close(state);
                Vec::new()
            }
        }
    }
}
