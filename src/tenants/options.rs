//! How tenants are opened: what holds for all of them, and what for each.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Tenants;
use super::quotas::Quotas;
use crate::clock::{Clock, Signal, SystemClock};
use crate::error::{Error, Invalid, Result};
use crate::{Options, Timestamp};

/// So many stores are open at once if nothing else is said.
const OPEN_STORES_MAX: usize = 64;

type PerTenant = Arc<dyn Fn(&str) -> TenantOptions + Send + Sync>;

/// Options of a directory of tenants.
///
/// ```
/// use annals::{Durability, Error, ExpectedVersion, NewEvent, Options, Quotas, TenantOptions, TenantsOptions};
///
/// # let directory = tempfile::tempdir().expect("a temporary directory");
/// # let path = directory.path().join("tenants");
/// let tenants = TenantsOptions::new()
///     .open_stores_max(200)
///     .per_tenant(|name| match name.starts_with("trial-") {
///         true => TenantOptions::new().quotas(Quotas::unlimited().events_max(1)),
///         false => TenantOptions::new().store(Options::new().durability(Durability::Os)),
///     })
///     .open(path)?;
/// let trial = tenants.store("trial-7")?;
/// trial.append("account-alice", ExpectedVersion::Any, [NewEvent::raw("Opened", "")])?;
/// let refused = trial.append("account-alice", ExpectedVersion::Any, [NewEvent::raw("Deposited", "50")]);
/// assert!(matches!(refused.unwrap_err().error(), Error::Quota { used: 2, limit: 1, .. }));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct TenantsOptions {
    pub(super) open_stores_max: usize,
    pub(super) per_tenant: PerTenant,
    pub(super) clock: Arc<dyn Clock>,
}

impl TenantsOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self { open_stores_max: OPEN_STORES_MAX, per_tenant: Arc::new(|_| TenantOptions::new()), clock: system() }
    }

    /// The most stores that are open at once, those that are open for reading only included. 64 by default. Each takes a
    /// thread, a handful of files, and memory as its options say.
    pub fn open_stores_max(mut self, stores: usize) -> Self {
        self.open_stores_max = stores;
        self
    }

    /// Says the options of each tenant. Asked whenever its store is opened, with its name.
    pub fn per_tenant(mut self, options: impl Fn(&str) -> TenantOptions + Send + Sync + 'static) -> Self {
        self.per_tenant = Arc::new(options);
        self
    }

    /// The clock of the quotas, of what waits, and of all stores. The system's by default.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Opens a directory of tenants, creating it if there is none. No store is opened yet. Deletions that a crash
    /// interrupted are finished.
    ///
    /// # Errors
    /// [`Error::Invalid`] if an option is out of range; [`Error::Io`] if the operating system refuses.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Tenants> {
        Tenants::with_options(path.as_ref(), self)
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.open_stores_max > 0 {
            return Ok(());
        }
        Err(Error::Invalid(Invalid::of("open_stores_max", "is 0, at least 1 is needed")))
    }
}

impl Default for TenantsOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for TenantsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TenantsOptions").field("open_stores_max", &self.open_stores_max).finish_non_exhaustive()
    }
}

fn system() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

/// Options of one tenant.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct TenantOptions {
    pub(super) store: Options,
    pub(super) quotas: Quotas,
}

impl TenantOptions {
    /// The defaults: those of a store, and no quotas.
    pub fn new() -> Self {
        Self::default()
    }

    /// How its store is opened. The clock is that of all tenants, and the admission and the label are those of the
    /// tenant: what these options say of them is replaced.
    pub fn store(mut self, options: Options) -> Self {
        self.store = options;
        self
    }

    /// What it may use. Unlimited by default.
    pub fn quotas(mut self, quotas: Quotas) -> Self {
        self.quotas = quotas;
        self
    }
}

/// One clock for all stores.
#[derive(Debug)]
pub(super) struct SharedClock(pub(super) Arc<dyn Clock>);

impl Clock for SharedClock {
    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    fn wait(&self, signal: &Arc<Signal>, deadline: Option<Duration>) -> bool {
        self.0.wait(signal, deadline)
    }
}
