//! Which process this is: what one has opened is not used by another that was forked from it.
//!
//! A forked process has a copy of everything in memory, and shares the open files. It must neither write where the other
//! one writes nor give up the other one's lock. A page that the kernel empties at a fork tells, without a system call,
//! whether this is still the process that has stamped it; where there is no such page, the number of the process tells.

#![allow(unsafe_code, reason = "the page that a fork empties")]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The process that opened something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    stamp: u64,
}

impl Owner {
    pub(crate) fn this_process() -> Self {
        Self { stamp: page().map_or_else(process_number, give_stamp) }
    }

    #[inline]
    pub(crate) fn is_this_process(self) -> bool {
        let stamp = page().map_or_else(process_number, |page| page.load(Ordering::Relaxed));
        stamp == self.stamp
    }

    /// Whether what belongs to a process came along into this one, which was forked from it. What belongs to none did not.
    #[inline]
    pub(crate) fn is_another(owner: Option<Self>) -> bool {
        owner.is_some_and(|owner| !owner.is_this_process())
    }
}

fn process_number() -> u64 {
    u64::from(std::process::id())
}

/// The stamp of this process, given when it is asked for the first time.
fn give_stamp(page: &AtomicU64) -> u64 {
    /// Counts the stamps that this process and those it was forked from were given: none of them is given twice.
    static STAMPS: AtomicU64 = AtomicU64::new(0);

    let found = page.load(Ordering::Acquire);
    if found != 0 {
        return found;
    }
    let fresh = STAMPS.fetch_add(1, Ordering::Relaxed) + 1;
    match page.compare_exchange(0, fresh, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => fresh,
        Err(of_another_thread) => of_another_thread,
    }
}

/// The page: 0 in a process that has just been forked. `None` where there are no such pages.
#[inline]
fn page() -> Option<&'static AtomicU64> {
    static PAGE: OnceLock<Option<&'static AtomicU64>> = OnceLock::new();
    *PAGE.get_or_init(map_page)
}

#[cfg(all(any(target_os = "linux", target_os = "android"), not(miri)))]
fn map_page() -> Option<&'static AtomicU64> {
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
    use std::ptr::{NonNull, null_mut};

    const BYTES: usize = 4096;
    let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: a new mapping, at an address that the kernel chooses, is in the way of nothing.
    let start = unsafe { mmap_anonymous(null_mut(), BYTES, access, flags) }.ok()?;
    // SAFETY: the range is the mapping that was just made, and nothing refers to it yet.
    unsafe { madvise(start, BYTES, Advice::LinuxWipeOnFork) }.ok()?;
    let page = NonNull::new(start.cast::<AtomicU64>())?;
    // SAFETY: the mapping is zeroed, readable and writable, aligned to a page, and never unmapped. It is only used as this
    // atomic number. That the kernel empties it at a fork is a change of another process's copy.
    Some(unsafe { page.as_ref() })
}

#[cfg(not(all(any(target_os = "linux", target_os = "android"), not(miri))))]
fn map_page() -> Option<&'static AtomicU64> {
    None
}

/// Runs the test that calls it again in a process of its own; whether it did. Beside other tests, a fork could find a lock
/// held by one of their threads, and wait for ever.
#[cfg(test)]
#[cfg(all(unix, not(miri)))]
pub(crate) fn ran_alone() -> bool {
    const ALONE: &str = "ANNALS_TEST_ALONE";
    let thread = std::thread::current();
    // On the main thread there are no others.
    let Some(name) = thread.name().filter(|name| *name != "main" && std::env::var_os(ALONE).is_none()) else {
        return false;
    };
    let program = std::env::current_exe().expect("the tests are a program");
    let mut command = std::process::Command::new(program);
    let output = command.args(["--exact", name]).env(ALONE, "1").env("RUST_TEST_THREADS", "2").output();
    let output = output.expect("it starts");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("1 passed"), "{name}: {told}");
    true
}

/// Runs a check in a process that is forked from this one, and says whether it held.
#[cfg(test)]
#[cfg(all(unix, not(miri)))]
pub(crate) fn holds_in_a_fork(check: impl Fn() -> bool + Send + Sync + 'static) -> bool {
    use std::os::unix::process::CommandExt;

    let told = move || if check() { Ok(()) } else { Err(std::io::ErrorKind::Other.into()) };
    let mut command = std::process::Command::new("true");
    // SAFETY: what runs between fork and exec needs no lock but those of the allocator, which a fork leaves in order, and
    // those that the test itself holds or that belong to what it has made.
    let command = unsafe { command.pre_exec(told) };
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
#[cfg(all(unix, not(miri)))]
mod tests {
    use super::holds_in_a_fork as fork;
    use super::*;

    #[test]
    fn a_forked_process_is_not_the_one_it_was_forked_from() {
        let owner = Owner::this_process();
        assert!(owner.is_this_process());
        assert_eq!(owner, Owner::this_process());
        assert!(fork(move || !owner.is_this_process()));
        assert!(owner.is_this_process());
    }

    #[test]
    fn a_forked_process_owns_what_it_opens_itself() {
        let owner = Owner::this_process();
        assert!(fork(move || {
            let own = Owner::this_process();
            own.is_this_process() && own != owner && !owner.is_this_process()
        }));
        assert!(owner.is_this_process());
    }

    #[test]
    fn without_the_page_the_number_of_the_process_tells() {
        let number = process_number();
        assert_eq!(number, process_number());
        assert!(fork(move || process_number() != number));
    }
}
