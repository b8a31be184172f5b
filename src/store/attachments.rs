//! What libraries on top of the store share about it: one value of a type for each open store.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use super::Store;
use crate::sync::Mutex;

/// One value of each type that was asked for.
#[derive(Default)]
pub(super) struct Attachments(Mutex<Vec<Arc<dyn Any + Send + Sync>>>);

impl fmt::Debug for Attachments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attachments").finish_non_exhaustive()
    }
}

impl Store {
    /// The value of this type that belongs to the open store, made when it is first asked for: all clones of the store
    /// give the same one, another store or the same one opened again another. For what must be known of a store in the
    /// whole process, such as which names are in use.
    ///
    /// It is gone with the last clone of the store, so it must not hold one.
    ///
    /// ```
    /// use std::sync::atomic::{AtomicU32, Ordering};
    /// use annals::Store;
    ///
    /// #[derive(Default)]
    /// struct Requests(AtomicU32);
    ///
    /// let store = Store::in_memory()?;
    /// store.attachment::<Requests>().0.fetch_add(1, Ordering::Relaxed);
    /// assert_eq!(store.clone().attachment::<Requests>().0.load(Ordering::Relaxed), 1);
    /// assert_eq!(Store::in_memory()?.attachment::<Requests>().0.load(Ordering::Relaxed), 0);
    /// # Ok::<(), annals::Error>(())
    /// ```
    pub fn attachment<T: Any + Send + Sync + Default>(&self) -> Arc<T> {
        let mut attached = self.handle.attachments.0.lock();
        let known = attached.iter().find_map(|value| Arc::clone(value).downcast::<T>().ok());
        known.unwrap_or_else(|| {
            let value = Arc::new(T::default());
            attached.push(Arc::clone(&value) as Arc<dyn Any + Send + Sync>);
            value
        })
    }
}
