//! Writes and syncs that fail or panic while others wait: everybody is told, and told the truth.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::storage::{Call, Fault};

/// What an append came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Acknowledged,
    /// Written or not, and not visible.
    InDoubt,
    /// The disk panicked under it: anything.
    Unknown,
    NotWritten,
}

fn fate_of(store: &Store, payload: &str, durability: Durability) -> Fate {
    let commit = Commit::new().append("s", Any, [event(payload)]).durability(durability);
    let sent = catch_unwind(AssertUnwindSafe(|| store.send(commit).map_err(Error::from)));
    match sent {
        Err(_) => Fate::Unknown,
        Ok(Ok(_)) => Fate::Acknowledged,
        Ok(Err(Error::Indeterminate { .. })) => Fate::InDoubt,
        Ok(Err(Error::NotWritten { .. } | Error::Poisoned { .. })) => Fate::NotWritten,
        Ok(Err(other)) => panic!("{other}"),
    }
}

/// Three append while the `after`-th of such calls fails. Nobody waits for ever; what was acknowledged is there, and what
/// was not written is not, after a kill and, where it was synced, after a loss of power.
fn check_failure(call: Call, kind: Option<std::io::ErrorKind>, schedules: usize) {
    shuttle(schedules, move || {
        let (store, disk) = in_memory(options(Durability::Synced));
        disk.inject(Fault { kind, after: 1, ..Fault::next(call).of(".segment") });
        let watch = store.watch();
        let waiter = spawn(move || {
            let end = std::iter::repeat_with(|| watch.wait(None)).find_map(Result::err);
            assert!(matches!(end, Some(Error::Poisoned { .. } | Error::Closed)));
        });
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let store = store.clone();
                spawn(move || {
                    let durability = if writer == 0 { Durability::Os } else { Durability::Synced };
                    let fates = [0, 1].map(|attempt| {
                        let payload = format!("{writer}.{attempt}");
                        let fate = fate_of(&store, &payload, durability);
                        (payload, durability, fate)
                    });
                    fates.to_vec()
                })
            })
            .collect();
        let fates: Vec<_> = join_all(writers).into_iter().flatten().collect();
        let visible: Vec<String> = contents(&store).into_iter().map(|(_, payload)| payload).collect();
        // A store that nothing failed of ends by a close instead.
        drop(store);
        join_all([waiter]);
        let killed = Store::open_on(Arc::new(disk.clone()), options(Durability::Synced), false);
        let killed: Vec<String> = contents(&killed.unwrap()).into_iter().map(|(_, payload)| payload).collect();
        let cut: Vec<String> = contents(&after_power_cut(&disk, 1)).into_iter().map(|(_, payload)| payload).collect();
        for (payload, durability, fate) in fates {
            match fate {
                Fate::Acknowledged => {
                    assert!(visible.contains(&payload) && killed.contains(&payload), "{payload} is lost");
                    assert!(durability == Durability::Os || cut.contains(&payload), "{payload} was not synced");
                }
                Fate::NotWritten => assert!(!killed.contains(&payload), "{payload} was written"),
                Fate::InDoubt => assert!(!visible.contains(&payload), "{payload} is visible and in doubt"),
                Fate::Unknown => assert_eq!(kind, None, "only a disk that panics panics"),
            }
        }
    });
}

#[test]
fn a_failed_write_is_told_to_all_that_wait() {
    check_failure(Call::Write, Some(std::io::ErrorKind::Other), 300);
}

#[test]
fn a_failed_sync_is_told_to_all_that_wait() {
    check_failure(Call::Sync, Some(std::io::ErrorKind::Other), 300);
}

#[test]
fn a_leader_that_panics_while_it_writes_releases_all_that_wait() {
    check_failure(Call::Write, None, 200);
}

#[test]
fn a_leader_that_panics_while_it_syncs_releases_all_that_wait() {
    check_failure(Call::Sync, None, 200);
}
