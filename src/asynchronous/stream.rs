//! A subscription as a stream: a thread pulls, a bounded channel holds a few items, tasks poll that.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::sync::thread::OwnThread;
use crate::{Item, Stopper, Subscription};

/// Items that are read ahead of those who poll.
const ITEMS_AHEAD_MAX: usize = 64;

/// A subscription as a [`Stream`]; see [`Subscription::into_stream`].
#[derive(Debug)]
pub struct EventStream {
    items: mpsc::Receiver<Result<Item>>,
    stopper: Stopper,
    thread: Option<OwnThread>,
}

impl Subscription {
    /// The subscription as a [`Stream`]. A thread reads, at most 64 items ahead; acknowledge with
    /// [`Delivery::ack_async`](crate::Delivery::ack_async). The stream ends as the iterator does; dropping it ends the
    /// subscription, and what was read ahead is delivered again another time.
    ///
    /// ```
    /// use annals::{ExpectedVersion, Item, NewEvent, Query, Store};
    /// use tokio_stream::StreamExt;
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(async {
    /// let store = Store::in_memory()?;
    /// store.append_async("account-alice", ExpectedVersion::NoStream, [NewEvent::raw("Opened", "")]).await?;
    ///
    /// let mut events = store.follow(Query::all()).subscribe().into_stream()?;
    /// while let Some(item) = events.next().await {
    ///     match item? {
    ///         Item::Event(event) => println!("{} {}", event.position, event.event_type),
    ///         Item::CaughtUp => break,
    ///     }
    /// }
    /// # Ok::<(), annals::Error>(()) }).expect("it works");
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`] if the thread cannot be started.
    pub fn into_stream(self) -> Result<EventStream> {
        let (sender, items) = mpsc::channel(ITEMS_AHEAD_MAX);
        let stopper = self.stopper();
        let thread = OwnThread::spawn("annals-stream".into(), move || {
            for item in self {
                if sender.blocking_send(item).is_err() {
                    break;
                }
            }
        });
        let thread = thread.map_err(|source| Error::Io {
            operation: "start a thread that reads from",
            path: "the store".into(),
            source: Arc::new(source),
        })?;
        Ok(EventStream { items, stopper, thread: Some(thread) })
    }
}

impl EventStream {
    /// What stops it from another thread or task: it ends after what was read ahead.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }
}

impl Stream for EventStream {
    type Item = Result<Item>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.items.poll_recv(context)
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.stopper.stop();
        self.items.close();
        // It ends before the next event, so that the name of the subscription is free when this returns.
        if let Some(thread) = self.thread.take() {
            thread.join();
        }
    }
}
