//! Threads that an explorer may schedule.

use std::io;

use super::{Explorer, STACK_BYTES, explorer};

/// A thread that can be waited for.
#[derive(Debug)]
pub(crate) enum JoinHandle<T> {
    Real(std::thread::JoinHandle<T>),
    Shuttle(shuttle::thread::JoinHandle<T>),
    Loom(loom::thread::JoinHandle<T>),
}

impl<T> JoinHandle<T> {
    pub(crate) fn join(self) -> std::thread::Result<T> {
        match self {
            Self::Real(handle) => handle.join(),
            Self::Shuttle(handle) => handle.join(),
            Self::Loom(handle) => handle.join(),
        }
    }
}

/// Whether this is the calling thread's own handle.
pub(crate) fn is_current<T>(handle: &JoinHandle<T>) -> bool {
    match handle {
        JoinHandle::Real(handle) => handle.thread().id() == std::thread::current().id(),
        JoinHandle::Shuttle(handle) => handle.thread().id() == shuttle::thread::current().id(),
        JoinHandle::Loom(handle) => handle.thread().id() == loom::thread::current().id(),
    }
}

/// What starts threads.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    name: String,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn name(mut self, name: String) -> Self {
        self.name = name;
        self
    }

    pub(crate) fn spawn<T: Send + 'static>(
        self,
        run: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        match explorer() {
            None => std::thread::Builder::new().name(self.name).spawn(run).map(JoinHandle::Real),
            Some(_) => Ok(spawn(run)),
        }
    }
}

pub(crate) fn spawn<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    match explorer() {
        None => JoinHandle::Real(std::thread::spawn(run)),
        Some(Explorer::Shuttle) => JoinHandle::Shuttle(shuttle::thread::spawn(run)),
        Some(Explorer::Loom) => {
            let builder = loom::thread::Builder::new().stack_size(STACK_BYTES / size_of::<usize>());
            JoinHandle::Loom(builder.spawn(run).expect("loom starts threads"))
        }
    }
}

/// Lets others run.
pub(crate) fn yield_now() {
    match explorer() {
        None => std::thread::yield_now(),
        Some(Explorer::Shuttle) => shuttle::thread::yield_now(),
        Some(Explorer::Loom) => loom::thread::yield_now(),
    }
}
