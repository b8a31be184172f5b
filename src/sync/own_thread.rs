//! Threads, and the process that they belong to.
//!
//! A process that is forked has the handles of all threads and, but for the one that forked, none of the threads: who
//! waited for one of the others there would never come back.

use std::io;
use std::process;

use super::thread::{Builder, JoinHandle, is_current};

/// A thread that this process has started, or the one that it was forked from.
#[derive(Debug)]
pub(crate) struct OwnThread {
    /// `None` once it was waited for.
    handle: Option<JoinHandle<()>>,
    process: u32,
}

impl OwnThread {
    pub(crate) fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let handle = Builder::new().name(name).spawn(run)?;
        Ok(Self { handle: Some(handle), process: process::id() })
    }

    /// Whether it is a thread of this process.
    pub(crate) fn is_here(&self) -> bool {
        self.process == process::id()
    }

    /// Whether it is the calling thread.
    pub(crate) fn is_current(&self) -> bool {
        self.handle.as_ref().is_some_and(is_current)
    }

    /// Waits until it ends, where it is. That it has panicked is not told.
    pub(crate) fn join(mut self) {
        if self.is_here()
            && let Some(handle) = self.handle.take()
        {
            let _ = handle.join();
        }
    }
}

impl Drop for OwnThread {
    fn drop(&mut self) {
        if !self.is_here() {
            // To detach a thread that is not there is not defined either.
            std::mem::forget(self.handle.take());
        }
    }
}
