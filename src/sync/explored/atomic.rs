//! Atomics that an explorer may schedule.

pub(crate) use std::sync::atomic::Ordering;

use super::{Explorer, explorer};

macro_rules! atomic {
    ($name:ident, $value:ty) => {
        /// An atomic.
        #[derive(Debug)]
        pub(crate) enum $name {
            Real(std::sync::atomic::$name),
            Shuttle(shuttle::sync::atomic::$name),
            Loom(loom::sync::atomic::$name),
        }

        impl $name {
            pub(crate) fn new(value: $value) -> Self {
                match explorer() {
                    None => Self::Real(std::sync::atomic::$name::new(value)),
                    Some(Explorer::Shuttle) => Self::Shuttle(shuttle::sync::atomic::$name::new(value)),
                    Some(Explorer::Loom) => Self::Loom(loom::sync::atomic::$name::new(value)),
                }
            }

            pub(crate) fn load(&self, ordering: Ordering) -> $value {
                match self {
                    Self::Real(atomic) => atomic.load(ordering),
                    Self::Shuttle(atomic) => atomic.load(ordering),
                    Self::Loom(atomic) => atomic.load(ordering),
                }
            }

            pub(crate) fn store(&self, value: $value, ordering: Ordering) {
                match self {
                    Self::Real(atomic) => atomic.store(value, ordering),
                    Self::Shuttle(atomic) => atomic.store(value, ordering),
                    Self::Loom(atomic) => atomic.store(value, ordering),
                }
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new(<$value>::default())
            }
        }
    };
}

macro_rules! modify {
    ($name:ident, $value:ty, $($method:ident),+) => {
        impl $name {
            $(
                pub(crate) fn $method(&self, value: $value, ordering: Ordering) -> $value {
                    match self {
                        Self::Real(atomic) => atomic.$method(value, ordering),
                        Self::Shuttle(atomic) => atomic.$method(value, ordering),
                        Self::Loom(atomic) => atomic.$method(value, ordering),
                    }
                }
            )+
        }
    };
}

atomic!(AtomicBool, bool);
atomic!(AtomicU64, u64);
atomic!(AtomicUsize, usize);
modify!(AtomicBool, bool, swap);
modify!(AtomicU64, u64, swap, fetch_max);
modify!(AtomicUsize, usize, fetch_add, fetch_sub);

/// A fence. Shuttle needs none: its atomics are sequentially consistent.
pub(crate) fn fence(ordering: Ordering) {
    match explorer() {
        None => std::sync::atomic::fence(ordering),
        Some(Explorer::Shuttle) => {}
        Some(Explorer::Loom) => loom::sync::atomic::fence(ordering),
    }
}
