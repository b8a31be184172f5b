//! Sabotages: faults that the crate's own suites must notice.
//!
//! Each is one line at a decision point of the engine that does the wrong thing there. The environment variable
//! `ANNALS_SABOTAGE` chooses one of them, by its name, for a whole process. That works in the tests of the crate alone:
//! anywhere else the question is a constant, and its line is gone. `tests` runs the suite of each and shows after how
//! many histories, or in which test, it was caught.
//!
//! Never here: what the engine does when no sabotage is chosen.

/// Declares the enumeration, and the list of all that is in it.
macro_rules! sabotages {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// A fault at a decision point.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Sabotage {
            $($(#[doc = $doc])+ $name,)+
        }

        #[cfg(test)]
        impl Sabotage {
            const ALL: &[Self] = &[$(Self::$name,)+];
        }
    };
}

sabotages! {
    /// The segments of the log are never synced.
    NeverSync,
    /// They are synced only at positions that are multiples of four.
    SyncEveryFourth,
    /// A commit that asks for a sync is acknowledged once it is written.
    AcknowledgeBeforeSync,
    /// A sync that failed is tried again, and believed.
    RetrySync,
    /// A segment is not synced to its end before the next one says that it was.
    NoSyncAtRoll,
    /// The synced head is told to readers and to the next recovery before the sync.
    SyncedHeadEarly,
    /// A frame says that everything before it is synced, when it is only written.
    DurableAddressEarly,
    /// The name of a new segment is not synced.
    NoDirectorySync,
    /// A segment gets its name before its header is synced.
    RenameBeforeSync,
    /// That a full disk has no room for a commit is noticed when its position is given.
    FullAfterSequencing,
    /// Commit times follow a clock that goes back.
    ClockBackward,
    /// Whoever opens a log that was closed well leaves the word that nothing is behind its end.
    StayClosed,
    /// Recovery trusts what it finds behind the synced head as if it were synced.
    ConfirmNothing,
    /// Recovery goes on where a torn tail begins, and leaves the tail behind it.
    NoTailCut,
    /// The same, and a frame need not continue the chain: what is left of the tail may be taken for the next frame.
    ReuseTornPoint,
    /// A reader serves what the writer has not confirmed.
    ServeUnconfirmed,
    /// The checksum of a frame header leaves out the length of the body.
    ChecksumWithoutLength,
    /// The fields of a frame header are used whatever its checksum says.
    TrustHeader,
    /// A record is served whatever its checksum says.
    TrustRecord,
    /// A page of the index is used whatever its checksum says.
    TrustIndexPage,
    /// A file of the index gets its name before its bytes are synced.
    IndexBeforeSync,
    /// A window goes to disk, and says how far the log is synced, before the log is.
    IndexBeforeLog,
    /// The versions of streams are looked up before the turn is taken.
    CheckBeforeTurn,
    /// A commit that finds its place taken does not wait until it is known by whom.
    ConflictInFlight,
    /// Conditions do not see commits that are not visible yet.
    ConditionsMissInFlight,
    /// A snapshot is used whatever history it was made from.
    TrustSnapshot,
    /// Segments of the state are removed before the frame is synced that says so.
    TrimBeforeSync,
    /// The files of a backup are not synced.
    BackupWithoutSync,
    /// A subscription saves that it delivered an event as if it were acknowledged.
    CheckpointBeforeAck,
    /// A projection saves how far it came before what it made of it.
    CheckpointBeforeView,
}

/// Whether this is the sabotage of the process.
#[cfg(not(test))]
#[inline]
pub(crate) const fn sabotaged(_: Sabotage) -> bool {
    false
}

/// Whether this is the sabotage of the process.
#[cfg(test)]
pub(crate) fn sabotaged(sabotage: Sabotage) -> bool {
    tests::chosen() == Some(sabotage)
}

#[cfg(test)]
mod tests;
