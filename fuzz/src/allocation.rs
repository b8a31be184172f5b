//! Counts what is allocated, so that an input that gets more memory than it is worth is a find.
//!
//! One bound at a time, for the whole process: the targets work on one thread. Counting never fails and never frees.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that are allocated now.
static LIVE: AtomicUsize = AtomicUsize::new(0);
/// So many may be allocated at once.
static BOUND: AtomicUsize = AtomicUsize::new(usize::MAX);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Counting;

// SAFETY: every call is handed on to the allocator of the system as it came; the counters are no part of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the same.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both are there for a moment.
        count(size);
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the same.
        unsafe { System.realloc(at, layout, size) }
    }
}

fn count(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    // What is found by a panic is told whole: a trace of it takes memory, under a lock that this one would wait for.
    if live > BOUND.load(Ordering::Relaxed) && !std::thread::panicking() {
        refuse(bytes);
    }
}

/// An allocator must not unwind: the process ends where too much is asked for, and the trace shows who asks.
#[cold]
fn refuse(bytes: usize) -> ! {
    BOUND.store(usize::MAX, Ordering::Relaxed);
    eprintln!("an allocation of {bytes} bytes goes beyond what this input may have");
    eprintln!("{}", std::backtrace::Backtrace::force_capture());
    std::process::abort()
}

/// Does `work`, which may have so many bytes allocated at once besides those that are allocated now.
pub fn within<T>(bytes_max: usize, work: impl FnOnce() -> T) -> T {
    let bound = LIVE.load(Ordering::Relaxed).saturating_add(bytes_max);
    BOUND.store(bound, Ordering::Relaxed);
    let result = work();
    BOUND.store(usize::MAX, Ordering::Relaxed);
    result
}
