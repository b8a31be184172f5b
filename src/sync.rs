//! What threads share and wait with: locks, condition variables, atomics, swapped references, threads.
//!
//! The engine takes them from here. In a build for tests they can be explored: where a test runs code under an explorer,
//! each use of one of them is a place where the explorer may go on with another thread, so that schedules are chosen
//! and not met. Everywhere else they are what they are re-exported from.
//!
//! Never imported from here: what no other thread can wait for while it is held, such as the locks of the disks in memory.

#[cfg(test)]
pub(crate) mod explored;
mod own_thread;

#[cfg(test)]
pub(crate) use explored::{ArcSwap, Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard};

#[cfg(not(test))]
pub(crate) use arc_swap::ArcSwap;
#[cfg(not(test))]
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard};

pub(crate) use arc_swap::Guard as SwapGuard;

/// Atomics.
pub(crate) mod atomic {
    pub(crate) use std::sync::atomic::Ordering;

    #[cfg(test)]
    pub(crate) use super::explored::atomic::{AtomicBool, AtomicU64, AtomicUsize, fence};
    #[cfg(not(test))]
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, fence};
}

/// Threads.
pub(crate) mod thread {
    pub(crate) use super::own_thread::OwnThread;

    #[cfg(test)]
    pub(super) use super::explored::thread::{Builder, JoinHandle, is_current};
    #[cfg(not(test))]
    pub(super) use std::thread::{Builder, JoinHandle};

    /// Whether this is the calling thread's own handle.
    #[cfg(not(test))]
    pub(super) fn is_current<T>(handle: &JoinHandle<T>) -> bool {
        handle.thread().id() == std::thread::current().id()
    }
}
