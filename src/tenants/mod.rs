//! Tenants: a directory of stores, one for each, of which a bounded number is open at once.
//!
//! A tenant's store is opened when it is asked for, lent out, and kept open when it comes back, until the place is
//! needed. Only a store that nobody has a handle or a read of is ever closed; the least recently used goes first. What a
//! tenant may use is checked when a commit is about to be written. Tenants share nothing: neither files nor locks nor
//! positions.
//!
//! Lock order: a slot, then the registry. Who holds the registry only tries to lock a slot.

mod options;
mod quotas;
mod slot;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use crate::error::{Error, Quota, Result};
use crate::{BackupReport, Options, Store, StoreDirectory};

pub use options::{TenantOptions, TenantsOptions};
pub use quotas::{Quotas, Usage};

use options::SharedClock;
use slot::{OpenCount, Slot, SlotState};

/// Slots of tenants that are not open are let go when there are so many for each store that may be open.
const SLOTS_PER_OPEN_STORE: usize = 4;

/// A directory of stores, one for each tenant.
///
/// ```
/// use annals::{ExpectedVersion, NewEvent, Query, Tenants};
///
/// # let directory = tempfile::tempdir().expect("a temporary directory");
/// # let path = directory.path().join("tenants");
/// let tenants = Tenants::open(path)?;
/// let acme = tenants.store("acme")?;
/// acme.append("account-alice", ExpectedVersion::NoStream, [NewEvent::raw("Opened", "Alice")])?;
/// assert_eq!(tenants.store("globex")?.read(Query::all()).count()?, 0);
/// assert_eq!(tenants.names()?, ["acme", "globex"]);
/// # Ok::<(), annals::Error>(())
/// ```
///
/// What is lent is a [`Store`] like any other. It stays open as long as the handle, a clone of it, whatever was made from
/// it (a repository, a subscription, a projection), or a read of it exists. Cheap to clone; all clones are the same
/// tenants.
///
/// Names are those of a [`StoreDirectory`]: 1 to [64](crate::limits::STORE_NAME_BYTES_MAX) bytes of `a` to `z`, `0` to
/// `9`, `-` and `_`, which are no way out of the directory and the same on every operating system.
#[derive(Debug, Clone)]
pub struct Tenants {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    directory: StoreDirectory,
    options: TenantsOptions,
    slots: Mutex<Slots>,
    open: Arc<OpenCount>,
    /// Counts the uses of all stores, so that they can be put in order.
    uses: AtomicU64,
}

#[derive(Debug, Default)]
struct Slots {
    by_tenant: HashMap<String, Arc<Slot>>,
    /// When there are so many, those that are not needed are let go.
    crowd: usize,
}

/// Whether a store is created where there is none.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Absent {
    Create,
    Refuse,
}

impl Tenants {
    /// Opens a directory of tenants with the default options, creating it if there is none.
    ///
    /// # Errors
    /// Those of [`TenantsOptions::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        TenantsOptions::new().open(path)
    }

    fn with_options(path: &Path, options: TenantsOptions) -> Result<Self> {
        options.check()?;
        let shared = Shared {
            directory: StoreDirectory::open(path)?,
            slots: Mutex::default(),
            open: Arc::new(OpenCount::new(options.open_stores_max)),
            uses: AtomicU64::new(0),
            options,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The store of a tenant, created if there is none.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the name is not allowed; [`Error::Quota`] if as many stores are open as may be and all are
    /// in use; [`Error::Held`] while the tenant is being deleted; those of [`Store::open`].
    pub fn store(&self, tenant: &str) -> Result<Store> {
        self.lend(tenant, Absent::Create)
    }

    /// The store of a tenant that exists.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none, and those of [`Tenants::store`].
    pub fn existing_store(&self, tenant: &str) -> Result<Store> {
        self.lend(tenant, Absent::Refuse)
    }

    /// The store of a tenant, open for reading only, as [`Store::open_read_only`] opens it. It counts as an open store,
    /// and is closed with its last handle.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none, and those of [`Tenants::store`].
    pub fn read_only_store(&self, tenant: &str) -> Result<Store> {
        let path = self.shared.directory.path_of(tenant)?;
        let slot = self.shared.slot(tenant);
        let mut state = self.shared.lock(&slot)?;
        let place = self.shared.make_room(tenant).or_else(|full| {
            // The search passes over the slot that is locked here.
            if state.close_if_idle().is_some() { self.shared.make_room(tenant) } else { Err(full) }
        })?;
        let options = self.shared.options_of(tenant).store.clock(self.shared.clock());
        let store = options.metric_label("tenant", tenant).open_read_only(path)?;
        Ok(slot.lend_reader(&mut state, &store, place))
    }

    /// The names of all tenants that have a store, ascending.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be listed.
    pub fn names(&self) -> Result<Vec<String>> {
        self.shared.directory.names()
    }

    /// How many stores are open now.
    pub fn open_stores(&self) -> usize {
        self.shared.open.now()
    }

    /// How much a tenant uses. Opens its store for that, if it is not open.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such tenant, and those of [`Tenants::store`].
    pub fn usage(&self, tenant: &str) -> Result<Usage> {
        let store = self.existing_store(tenant)?;
        Usage::of(&store)
    }

    /// Asks for the quotas of a tenant again, so that new ones hold for its next commit, if its store is open. A store
    /// that is opened later has the new ones anyway.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the name is not allowed; [`Error::Held`] while the tenant is being deleted.
    pub fn reload_quotas(&self, tenant: &str) -> Result<()> {
        self.shared.directory.path_of(tenant)?;
        let slot = self.shared.slot(tenant);
        let _state = self.shared.lock(&slot)?;
        slot.ledger.set_quotas(self.shared.options_of(tenant).quotas);
        Ok(())
    }

    /// Copies the store of a tenant to a new directory, while appends go on. See [`Store::backup`].
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such tenant; those of [`Tenants::store`] and [`Store::backup`].
    pub fn backup(&self, tenant: &str, path: impl AsRef<Path>) -> Result<BackupReport> {
        self.existing_store(tenant)?.backup(path)
    }

    /// Deletes a tenant with all its events, for good. Waits until nobody has a handle or a read of its store, at most so
    /// long, on the clock of the tenants; meanwhile the store is not lent out again.
    ///
    /// After a crash the tenant is either as it was or gone.
    ///
    /// # Errors
    /// [`Error::TimedOut`] if there are handles or reads at the end of that time: the tenant stays and is lent out
    /// again. [`Error::NotFound`] if there is no such tenant; [`Error::Held`] if it is being deleted by another thread;
    /// [`Error::Locked`] if another process has it; [`Error::Io`] if the operating system refuses.
    pub fn delete(&self, tenant: &str, within: Duration) -> Result<()> {
        self.shared.directory.path_of(tenant)?;
        let slot = self.shared.slot(tenant);
        let deleting = slot.begin_deletion()?;
        let clock = &self.shared.options.clock;
        let deadline = clock.monotonic().saturating_add(within);
        while deleting.is_lent() {
            // What came back at the last moment came back.
            if !clock.wait(slot.returned(), Some(deadline)) && deleting.is_lent() {
                let what = format!("the return of all handles and reads of tenant {tenant:?}");
                return Err(Error::TimedOut { what });
            }
        }
        deleting.close();
        self.shared.directory.remove(tenant)
    }

    /// Closes the stores that nobody has a handle or a read of, and says whether that went well. They are opened again
    /// when they are asked for.
    ///
    /// # Errors
    /// The first error of [`Store::close`]; the stores are closed all the same.
    pub fn close_idle(&self) -> Result<()> {
        let mut first = Ok(());
        for slot in self.shared.least_recently_used() {
            if let Some(closed) = slot.close_if_idle() {
                first = first.and(closed);
            }
        }
        first
    }

    fn lend(&self, tenant: &str, absent: Absent) -> Result<Store> {
        let path = self.shared.directory.path_of(tenant)?;
        let slot = self.shared.slot(tenant);
        let mut state = self.shared.lock(&slot)?;
        state.settle();
        if let Some(store) = slot.lend_open(&mut state) {
            return Ok(store);
        }
        let place = self.shared.make_room(tenant)?;
        let options = self.shared.writing_options(&slot);
        let store = match absent {
            Absent::Create => options.open(path)?,
            Absent::Refuse => options.open_existing(path)?,
        };
        slot.ledger.begin(Usage::of(&store)?);
        Ok(slot.lend_opened(&mut state, store, place))
    }
}

impl Shared {
    fn clock(&self) -> SharedClock {
        SharedClock(Arc::clone(&self.options.clock))
    }

    fn options_of(&self, tenant: &str) -> TenantOptions {
        (self.options.per_tenant)(tenant)
    }

    fn writing_options(&self, slot: &Slot) -> Options {
        let options = self.options_of(slot.name());
        slot.ledger.set_quotas(options.quotas);
        let ledger = Arc::clone(&slot.ledger);
        options
            .store
            .clock(self.clock())
            .metric_label("tenant", slot.name())
            .admission(move |commit| ledger.admit(commit.events(), commit.log_bytes().saturating_add(commit.bytes())))
    }

    fn slot(&self, tenant: &str) -> Arc<Slot> {
        let slots = &mut *self.slots.lock();
        if slots.by_tenant.len() >= slots.crowd {
            // One that somebody has just taken from here is not let go: there would be two for one tenant.
            slots.by_tenant.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.is_needed());
            let usual = self.options.open_stores_max.saturating_mul(SLOTS_PER_OPEN_STORE);
            slots.crowd = usual.max(slots.by_tenant.len() * 2);
        }
        if let Some(slot) = slots.by_tenant.get(tenant) {
            return Arc::clone(slot);
        }
        let slot = Arc::new(Slot::new(tenant, &self.options.clock));
        slots.by_tenant.insert(tenant.to_owned(), Arc::clone(&slot));
        slot
    }

    /// Locks the slot to lend its store out.
    fn lock<'s>(&self, slot: &'s Slot) -> Result<MutexGuard<'s, SlotState>> {
        slot.note_use(self.uses.fetch_add(1, Ordering::Relaxed));
        let state = slot.lock();
        match state.is_being_deleted() {
            true => Err(Error::Held { name: slot.name().to_owned() }),
            false => Ok(state),
        }
    }

    /// Takes a place for one more open store, closing others that are not in use if need be.
    fn make_room(&self, tenant: &str) -> Result<slot::Place> {
        loop {
            let uses = self.uses.load(Ordering::Relaxed);
            if let Some(place) = self.open.take() {
                return Ok(place);
            }
            // As when it is dropped, an error of closing stays untold: what was acknowledged as synced is safe.
            let has_closed = self.least_recently_used().iter().any(|slot| slot.close_if_idle().is_some());
            // One may have come back behind the search while another went out before it.
            if !has_closed && self.uses.load(Ordering::Relaxed) == uses {
                let limit = self.options.open_stores_max as u64;
                return Err(Error::Quota { tenant: tenant.into(), what: Quota::OpenStores, used: limit + 1, limit });
            }
        }
    }

    fn least_recently_used(&self) -> Vec<Arc<Slot>> {
        let mut slots: Vec<Arc<Slot>> = self.slots.lock().by_tenant.values().map(Arc::clone).collect();
        slots.sort_by_key(|slot| slot.last_use());
        slots
    }
}
