//! Appends that can be awaited, and subscriptions as a stream (feature `tokio`).
//!
//! Works under any executor: it uses the channels of tokio and no runtime. Whatever writes, syncs or waits does so on a
//! thread of its own, never on one that polls. The first awaited append starts the committer of its store; whatever is
//! handed to it while it works goes into its next group, so that a thousand tasks that append cost few syncs.

mod committer;
mod stream;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::error::{ExpectedVersion, Result};
use crate::{AppendError, Appended, Batch, Commit, Delivery, NewEvent, Store};

use committer::Committer;

#[cfg(test)]
pub(crate) use committer::JOBS_WAITING_MAX;
pub use stream::EventStream;

/// An append that can be awaited; see [`Store::send_async`]. It borrows nothing.
#[must_use = "nothing is sent before it is polled"]
pub struct AppendFuture(Pin<Box<dyn Future<Output = Result<Appended, AppendError>> + Send>>);

impl Future for AppendFuture {
    type Output = Result<Appended, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(context)
    }
}

impl fmt::Debug for AppendFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppendFuture").finish_non_exhaustive()
    }
}

impl Store {
    /// [`Store::append`], to be awaited.
    ///
    /// ```
    /// use annals::{ExpectedVersion, NewEvent, Store};
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(async {
    /// let store = Store::in_memory()?;
    /// let opened = store.append_async("account-alice", ExpectedVersion::NoStream, [NewEvent::raw("Opened", "")]).await?;
    /// assert_eq!(opened.last_position().number(), 1);
    /// # Ok::<(), annals::Error>(()) }).expect("it works");
    /// ```
    ///
    /// See [`Store::send_async`] for what dropping the future means.
    ///
    /// # Errors
    /// Those of [`Store::send`].
    ///
    /// # Panics
    /// Those of [`Store::send_async`].
    pub fn append_async(
        &self,
        stream: impl Into<String>,
        expected: impl Into<ExpectedVersion>,
        events: impl IntoIterator<Item = NewEvent>,
    ) -> AppendFuture {
        let commit = Commit::new().append(stream, expected, events);
        self.send_async(commit)
    }

    /// [`Store::send`], to be awaited: by a thread of the store, together with whatever else waits for it.
    ///
    /// Nothing is sent before the future is polled. It waits while too much is waiting already. Once the commit was
    /// handed over, which is with the first poll unless that is so, dropping the future does not cancel it: it is written
    /// all the same.
    ///
    /// # Errors
    /// Those of [`Store::send`]; [`Error::Io`](crate::Error::Io) if the thread cannot be started.
    ///
    /// # Panics
    /// If the commit made the committing thread panic, as a rule of the application may that commits have to pass.
    pub fn send_async(&self, commit: Commit) -> AppendFuture {
        AppendFuture(Box::pin(Committer::send(self.clone(), commit)))
    }
}

impl Delivery {
    /// [`Delivery::ack`], to be awaited: its write is done by the thread that appends for those who await.
    ///
    /// # Errors
    /// Those of [`Delivery::ack`].
    pub async fn ack_async(self) -> Result<()> {
        let store = self.store().clone();
        Committer::run(store, move || self.ack()).await
    }
}

impl Batch {
    /// [`Batch::ack`], to be awaited: its write is done by the thread that appends for those who await.
    ///
    /// # Errors
    /// Those of [`Batch::ack`].
    pub async fn ack_async(self) -> Result<()> {
        let Some(store) = self.first().map(|delivery| delivery.store().clone()) else { return Ok(()) };
        Committer::run(store, move || self.ack()).await
    }
}
