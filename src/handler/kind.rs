//! What kinds of work handlers do.

use std::fmt;

/// What kind of work a handler does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum HandlerKind {
    /// A read model: pure, and built anew whenever that is called for.
    Projection,
    /// Side effects. It never sees an event again because something is built anew.
    Reactor,
    /// A relay of events to the world outside. What holds for a reactor holds for it.
    Sink,
    /// A process manager.
    ProcessManager,
}

impl fmt::Display for HandlerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HandlerKind::Projection => "projection",
            HandlerKind::Reactor => "reactor",
            HandlerKind::Sink => "sink",
            HandlerKind::ProcessManager => "process manager",
        })
    }
}
