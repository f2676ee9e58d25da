//! Forgets snapshots and removes what only they needed, under one lock.

use super::{Pruning, Thrift, plan, store_lets_remove};
use crate::fault::Fault;
use crate::repository::restic::Repository;
use crate::repository::restic::backend::{Kind, Name};
use crate::repository::restic::id::Id;
use crate::repository::restic::locks::Held;

impl Repository {
    /// What [`Repository::forget_and_prune`] would do.
    ///
    /// Errors: as there.
    pub fn plan_without(&self, ids: &[Id], thrift: Thrift) -> Result<Pruning, Fault> {
        let _held = self.lock(false)?;
        Ok(plan(&self.state(ids)?, thrift))
    }

    /// Takes snapshots from the list and prunes. Everything that stays is looked at first: where any of
    /// it is missing or damaged, nothing is forgotten. `chosen` is asked with the lock held, so that what
    /// it looks at is what is there; `seen` hears how many packs are done, of so many.
    ///
    /// Errors: those of `chosen`; refused (5) while somebody else uses the repository, for version 1, and
    /// when anything that a snapshot needs is missing or damaged; 4 when the store fails or lets nothing
    /// be removed. Nothing that a remaining snapshot needs is ever gone.
    pub fn forget_and_prune(
        &self,
        chosen: &mut dyn FnMut() -> Result<Vec<Id>, Fault>,
        thrift: Thrift,
        seen: &mut dyn FnMut(usize, usize),
    ) -> Result<Pruning, Fault> {
        self.store.must_be_writable()?;
        self.store.backend.may_remove(Kind::Snapshot)?;
        store_lets_remove(&self.store)?;
        let held = Held::new(&self.store, true)?;
        let ids = chosen()?;
        let state = self.state(&ids)?;
        let plan = plan(&state, thrift);
        for id in &ids {
            held.still_holds()?;
            self.store.backend.remove(Name::File(Kind::Snapshot, *id))?;
        }
        if !plan.is_empty() {
            self.carry_out(&held, &state, &plan, seen)?;
        }
        Ok(plan)
    }
}
