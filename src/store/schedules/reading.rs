//! Readers beside writers: a beginning of the log without gaps, which is never taken back, by whichever way they look.

use super::*;

/// What one look shows, by the log itself and by the index.
fn look(store: &Store, before: &[(String, String)]) -> Vec<(String, String)> {
    let synced = number(store.synced_head().unwrap());
    let visible = number(store.head().unwrap());
    assert!(synced <= visible, "the synced head {synced} is ahead of the visible one {visible}");
    let by_tag = store.read(Query::tag("t"));
    let pinned = number(by_tag.head());
    assert!(pinned >= visible, "a head went back");
    let positions: Vec<u64> = by_tag.owned().map(|event| event.unwrap().position.number()).collect();
    assert_eq!(positions, (1..=pinned).collect::<Vec<_>>(), "the index shows what the log does");
    let found = contents(store);
    assert!(found.len() as u64 >= pinned, "the head went back");
    assert_eq!(found[..before.len()], *before, "what was seen is never taken back");
    let last = found.iter().rev().find(|(stream, _)| stream == "s-0");
    let versions = found.iter().filter(|(stream, _)| stream == "s-0").count() as u64;
    let version = store.version("s-0").unwrap().map_or(0, StreamVersion::number);
    assert!(
        version >= versions,
        "version {version} of a stream of which {versions} events were seen, {last:?} the last"
    );
    found
}

fn check_readers(options: impl Fn() -> Options + Send + Sync + 'static, schedules: usize) {
    shuttle(schedules, move || {
        let (store, _) = in_memory(options());
        let mut threads = Vec::new();
        for writer in 0..2 {
            let store = store.clone();
            threads.push(spawn(move || {
                for attempt in 0..3 {
                    // Of all durabilities, one commit with two events.
                    let durability = if attempt == writer { Durability::Synced } else { Durability::Os };
                    let events = (0..=attempt % 2).map(|part| event(format!("{writer}.{attempt}.{part}")));
                    let commit = Commit::new().append(format!("s-{writer}"), Any, events);
                    store.send(commit.durability(durability)).unwrap();
                }
            }));
        }
        let reader = store.clone();
        threads.push(spawn(move || {
            let mut before = Vec::new();
            for _ in 0..3 {
                before = look(&reader, &before);
            }
        }));
        join_all(threads);
        assert_eq!(look(&store, &[]).len(), 8);
    });
}

#[test]
fn readers_see_a_gapless_beginning_that_is_never_taken_back() {
    check_readers(|| options(Durability::Synced), 300);
}

#[test]
fn readers_by_calls_see_a_gapless_beginning_that_is_never_taken_back() {
    check_readers(|| options(Durability::Synced).read_mode(super::ReadMode::Pread), 100);
}

/// Commits fill segments and windows, which background work writes to disk and merges meanwhile.
#[test]
fn readers_see_the_same_while_segments_and_the_index_move() {
    shuttle(100, || {
        let (store, _) = in_memory(tiny(Durability::Os));
        let filling = "x".repeat(900);
        let writer = store.clone();
        let writer = spawn(move || {
            for commit in 0..8 {
                let events = [event(format!("{commit}.{filling}"))];
                let appended = writer.append(format!("s-{}", commit % 3), Any, events).unwrap();
                assert_eq!(appended.last_position().number(), commit + 1);
            }
        });
        let keeper = store.clone();
        let keeper = spawn(move || (0..3).for_each(|_| keeper.maintain().unwrap()));
        let reader = store.clone();
        let reader = spawn(move || {
            let mut before = Vec::new();
            for _ in 0..3 {
                before = look(&reader, &before);
            }
        });
        join_all([writer, keeper, reader]);
        assert_eq!(look(&store, &[]).len(), 8);
        store.maintain().unwrap();
        assert_eq!(look(&store, &[]).len(), 8);
        store.close().unwrap();
    });
}
