//! The place of one tenant: its open store, who has it, and whether it is being deleted.
//!
//! A store that is lent carries a lease, which its clones and reads share. The slot knows the lease without keeping it
//! alive, so that a store is in use exactly as long as its lease lives. A slot never opens a store.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard};

use super::quotas::Ledger;
use crate::clock::{Clock, Signal};
use crate::error::{Error, Result};
use crate::{Store, Watch};

/// How many stores are open, and how many may be.
#[derive(Debug)]
pub(super) struct OpenCount {
    now: AtomicUsize,
    max: usize,
}

/// One of the places for open stores, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<OpenCount>);

impl OpenCount {
    pub(super) fn new(max: usize) -> Self {
        Self { now: AtomicUsize::new(0), max }
    }

    pub(super) fn now(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }

    /// A place, if one is free.
    pub(super) fn take(self: &Arc<Self>) -> Option<Place> {
        let one_more = |now| (now < self.max).then_some(now + 1);
        let taken = self.now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok();
        if taken {
            tell_open(self.now());
        }
        taken.then(|| Place(Arc::clone(self)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
        tell_open(self.0.now());
    }
}

#[cfg_attr(not(feature = "metrics"), expect(unused_variables, reason = "nobody listens"))]
fn tell_open(stores: usize) {
    #[cfg(feature = "metrics")]
    metrics::gauge!("annals_tenants_open").set(stores as f64);
}

/// Kept by what was lent; says when it is gone.
#[derive(Debug)]
struct Lease {
    returned: Arc<Signal>,
    /// That of a store that is open only as long as it is lent.
    _place: Option<Place>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.returned.raise();
    }
}

/// The place of a tenant.
#[derive(Debug)]
pub(super) struct Slot {
    name: String,
    pub(super) ledger: Arc<Ledger>,
    returned: Arc<Signal>,
    last_use: AtomicU64,
    state: Mutex<SlotState>,
}

#[derive(Debug, Default)]
pub(super) struct SlotState {
    open: Option<OpenStore>,
    /// Of stores that are open for reading, and of a store that was closed by one of its users.
    other_leases: Vec<Weak<Lease>>,
    is_being_deleted: bool,
}

/// The store of the tenant, open for writing.
#[derive(Debug)]
struct OpenStore {
    store: Store,
    watch: Watch,
    lease: Weak<Lease>,
    _place: Place,
}

impl SlotState {
    pub(super) fn is_being_deleted(&self) -> bool {
        self.is_being_deleted
    }

    /// Lets go of a store that takes no more appends, unless somebody still reads from it: then it can only be opened
    /// again once they are gone.
    pub(super) fn settle(&mut self) {
        self.other_leases.retain(|lease| lease.strong_count() > 0);
        let Some(open) = self.open.take() else { return };
        match open.watch.end() {
            // One of its users closed it, for all.
            Some(Error::Closed) => self.other_leases.push(open.lease),
            // What a process inherits it can read, and could not open again.
            Some(Error::Locked { .. }) => self.open = Some(open),
            Some(_) if open.lease.strong_count() == 0 => drop(open.store.close()),
            Some(_) | None => self.open = Some(open),
        }
    }

    /// Closes the store if it is open and nobody has it, and says what came of that.
    pub(super) fn close_if_idle(&mut self) -> Option<Result<()>> {
        self.open.take_if(|open| open.lease.strong_count() == 0).map(|open| open.store.close())
    }

    fn is_lent(&self) -> bool {
        let is_alive = |lease: &Weak<Lease>| lease.strong_count() > 0;
        self.open.as_ref().is_some_and(|open| is_alive(&open.lease)) || self.other_leases.iter().any(is_alive)
    }
}

impl Slot {
    pub(super) fn new(name: &str, clock: &Arc<dyn Clock>) -> Self {
        Self {
            name: name.to_owned(),
            ledger: Arc::new(Ledger::new(name, clock)),
            returned: Arc::default(),
            last_use: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Raised when something that was lent is gone.
    pub(super) fn returned(&self) -> &Arc<Signal> {
        &self.returned
    }

    pub(super) fn note_use(&self, number: u64) {
        self.last_use.store(number, Ordering::Relaxed);
    }

    pub(super) fn last_use(&self) -> u64 {
        self.last_use.load(Ordering::Relaxed)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock()
    }

    /// Whether it holds anything that a new one would not know.
    pub(super) fn is_needed(&self) -> bool {
        self.state.try_lock().is_none_or(|state| state.open.is_some() || state.is_lent() || state.is_being_deleted)
            || !self.ledger.is_rested()
    }

    /// Lends the store that is open, if it is.
    pub(super) fn lend_open(&self, state: &mut SlotState) -> Option<Store> {
        let open = state.open.as_mut()?;
        let lease = open.lease.upgrade().unwrap_or_else(|| self.lease(None));
        open.lease = Arc::downgrade(&lease);
        Some(open.store.with_guard(lease))
    }

    /// Keeps a store that was opened, and lends it.
    pub(super) fn lend_opened(&self, state: &mut SlotState, store: Store, place: Place) -> Store {
        let lease = self.lease(None);
        let lent = store.with_guard(Arc::clone(&lease) as _);
        let watch = store.watch();
        state.open = Some(OpenStore { store, watch, lease: Arc::downgrade(&lease), _place: place });
        lent
    }

    /// Lends a store that is open for reading, and is closed when it comes back.
    pub(super) fn lend_reader(&self, state: &mut SlotState, store: &Store, place: Place) -> Store {
        let lease = self.lease(Some(place));
        state.other_leases.retain(|lease| lease.strong_count() > 0);
        state.other_leases.push(Arc::downgrade(&lease));
        store.with_guard(lease)
    }

    fn lease(&self, place: Option<Place>) -> Arc<Lease> {
        Arc::new(Lease { returned: Arc::clone(&self.returned), _place: place })
    }

    /// The same, unless somebody has the slot just now.
    pub(super) fn close_if_idle(&self) -> Option<Result<()>> {
        self.state.try_lock()?.close_if_idle()
    }

    /// From now on nothing is lent, until the deletion is dropped.
    pub(super) fn begin_deletion(&self) -> Result<Deletion<'_>> {
        let mut state = self.state.lock();
        if state.is_being_deleted {
            return Err(Error::Held { name: self.name.clone() });
        }
        state.is_being_deleted = true;
        Ok(Deletion { slot: self })
    }
}

/// A tenant that is being deleted.
pub(super) struct Deletion<'s> {
    slot: &'s Slot,
}

impl Deletion<'_> {
    pub(super) fn is_lent(&self) -> bool {
        self.slot.lock().is_lent()
    }

    /// Closes the store. That its last sync may fail is of no interest any more.
    pub(super) fn close(&self) {
        let open = self.slot.lock().open.take();
        drop(open.map(|open| open.store.close()));
    }
}

impl Drop for Deletion<'_> {
    fn drop(&mut self) {
        self.slot.lock().is_being_deleted = false;
    }
}
