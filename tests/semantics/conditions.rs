//! Groups 16 to 22: conditions, and the decisions that are built on them.

use annals::{Commit, ManualClock, NewEvent, Options, Position, Query, Randomness, RecordedEvent, Store, Timestamp};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::support::*;
use crate::world::{World, check, tiny};

/// e1 = type1 [X]; e2 = type2 [A, B]; e3 = type3 [A, C].
fn three(world: &mut World) {
    world.append("s-1", Any, [tagged("type1", &["X"])]).unwrap();
    world.pause();
    world.append("s-2", Any, [tagged("type2", &["A", "B"])]).unwrap();
    world.pause();
    world.append("s-3", Any, [tagged("type3", &["A", "C"])]).unwrap();
    world.pause();
}

/// A commit that no condition of these tests matches.
fn neutral() -> Commit {
    Commit::new().append("neutral", Any, [event("neutral")])
}

#[test]
fn g16_without_after_any_match_fails() {
    check(|world| {
        three(world);
        for (query, position) in [(Query::types(["type1"]), 1), (Query::tag("A"), 2), (Query::stream("s-3"), 3)] {
            let failed = conflict(world.send(neutral().unless(query)));
            assert_eq!(failed.failures, [condition_failure(0, position)]);
        }
    });
}

#[test]
fn g16_with_after_only_later_matches_fail() {
    check(|world| {
        three(world);
        let failed = conflict(world.send(neutral().unless_after(Query::tag("A"), p(2))));
        assert_eq!(failed.failures, [condition_failure(0, 3)]);
        world.send(neutral().unless_after(Query::tag("A"), p(3))).unwrap();
        world.send(neutral().unless_after(Query::tag("B"), p(2))).unwrap();
    });
}

#[test]
fn g16_after_beyond_the_head_succeeds() {
    check(|world| {
        three(world);
        for after in [4, 1_000, u64::MAX - 1, u64::MAX] {
            world.send(neutral().unless_after(Query::tag("A"), p(after))).unwrap();
            world.pause();
        }
        world.send(neutral().unless_after(Query::all(), p(u64::MAX))).unwrap();
    });
}

#[test]
fn g17_the_table_of_conditions() {
    check(|world| {
        three(world);
        let failing = [
            (Query::all(), None, 1),
            (Query::all(), Some(1), 2),
            (Query::types(["type1"]), None, 1),
            (Query::types(["type2"]), Some(1), 2),
            (Query::tag("X"), None, 1),
            (Query::tag("A"), Some(1), 2),
            (Query::types(["type2"]).and_tag("A"), Some(1), 2),
            (Query::tags(["A", "B"]), None, 2),
            (Query::tag("B").or(Query::tag("C")), None, 2),
            (Query::tag("X").or(Query::tag("Y")), None, 1),
            (Query::category("s"), Some(2), 3),
            (Query::stream("s-1"), None, 1),
            (Query::types(["typeN", "type3"]), None, 3),
        ];
        for (query, after, position) in failing {
            let failed = conflict(world.send(neutral().unless_after(query.clone(), after.map(p))));
            assert_eq!(failed.failures, [condition_failure(0, position)], "{query:?} after {after:?}");
        }
        let succeeding = [
            (Query::types(["typeN"]), None),
            (Query::tag("Y"), None),
            (Query::types(["type1"]), Some(1)),
            (Query::tag("X"), Some(1)),
            (Query::tags(["A", "X"]), None),
            (Query::stream("s"), None),
            (Query::category("s-1".split('-').next_back().unwrap()), None),
            (Query::types(["type1"]).and_tag("A"), None),
        ];
        for (query, after) in succeeding {
            world.send(neutral().unless_after(query.clone(), after.map(p))).unwrap_or_else(|error| {
                panic!("{query:?} after {after:?}: {error}");
            });
            world.pause();
        }
    });
}

#[test]
fn g18_a_name_never_matches_a_longer_one() {
    check(|world| {
        world.append("ab-1", Any, [tagged("Typed", &["foo:barx"])]).unwrap();
        world.pause();
        for query in [Query::tag("foo:bar"), Query::types(["Type"]), Query::stream("ab"), Query::category("a")] {
            assert_eq!(positions(world, query.clone()), [0; 0], "{query:?}");
            world.send(neutral().unless(query)).unwrap();
        }
        for query in [Query::tag("foo:barx"), Query::types(["Typed"]), Query::stream("ab-1"), Query::category("ab")] {
            assert_eq!(positions(world, query.clone()), [1], "{query:?}");
            conflict(world.send(neutral().unless(query)));
        }
    });
}

#[test]
fn g18_items_unite_without_duplicates() {
    check(|world| {
        three(world);
        world.append("s-1", Any, [tagged("type1", &["A", "B", "C", "X"])]).unwrap();
        world.observe(|store| {
            let items = [
                Query::tag("A"),
                Query::tag("C"),
                Query::types(["type1", "type2"]),
                Query::stream("s-1"),
                Query::category("s").and_tag("X"),
                Query::tag("nothing"),
            ];
            for first in &items {
                for second in &items {
                    let united = positions(store, first.clone().or(second.clone()));
                    let mut expected = positions(store, first.clone());
                    expected.extend(positions(store, second.clone()));
                    expected.sort_unstable();
                    expected.dedup();
                    assert_eq!(united, expected, "{first:?} or {second:?}");
                    let mut backwards = positions_of(store.read(second.clone().or(first.clone())).reverse());
                    backwards.reverse();
                    assert_eq!(backwards, expected, "{second:?} or {first:?}, backwards");
                }
            }
        });
    });
}

#[test]
fn g18_all_with_an_item_is_all() {
    check(|world| {
        three(world);
        assert_eq!(positions(world, Query::all().or(Query::tag("B"))), [1, 2, 3]);
        assert_eq!(positions(world, Query::tag("B").or(Query::all())), [1, 2, 3]);
    });
}

#[test]
fn g18_an_item_with_nothing_in_it_is_rejected() {
    check(|world| {
        three(world);
        let nothing = || Query::types(Vec::<String>::new());
        for query in [nothing(), Query::tags(Vec::<String>::new()), Query::tag("A").or(nothing())] {
            let read = world.read(query.clone()).next().map(|event| event.is_some());
            assert!(matches!(read, Err(annals::Error::Invalid(_))), "{query:?}: {read:?}");
            assert_eq!(violations(world.send(neutral().unless(query))).len(), 1);
        }
    });
}

/// Hands out bytes that the test has chosen first, for the id of the store.
#[derive(Debug)]
struct Chosen(std::sync::Mutex<Option<[u8; 16]>>);

impl Randomness for Chosen {
    fn fill(&self, buffer: &mut [u8]) {
        match self.0.lock().unwrap().take() {
            Some(bytes) => buffer.copy_from_slice(&bytes),
            None => annals::SystemRandomness::new().fill(buffer),
        }
    }
}

/// The bytes of a store id, and two names that have the same hash as keys of this kind in that store.
///
/// XXH3 takes an input of 32 bytes in two halves, and of each half the product of its two words, which are first combined
/// with a constant and the seed. The seed is chosen such that a word of text combines to zero: whatever the other word of
/// that half is, the product is zero.
fn collision(kind: u64) -> ([u8; 16], String, String) {
    let constant = 0xBE4B_A423_396C_FEB8_u64;
    let kind_step = kind.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let words = (0..=u8::MAX).flat_map(|byte| {
        [[b'k', byte, b'k'], [0xC3, byte, b'k'], [b'k', byte, 0x80]]
            .map(|[fifth, sixth, seventh]| [b'a', b'b', b'c', b'd', b'e', fifth, sixth, seventh])
    });
    // The word must be text, and a store id is a UUID of version 4, which fixes half of a byte.
    let is_usable = |word: &[u8; 8]| {
        let seed = u64::from_le_bytes(*word).wrapping_sub(constant).wrapping_sub(kind_step);
        std::str::from_utf8(word).is_ok() && seed.to_le_bytes()[6] >> 4 == 4
    };
    let word = words.into_iter().find(is_usable).expect("a word that is text");
    let seed = u64::from_le_bytes(word).wrapping_sub(constant).wrapping_sub(kind_step);
    let name = |other: &str| format!("{}{other}the second half.", std::str::from_utf8(&word).unwrap());
    let (one, other) = (name("the one;"), name("another;"));
    let hash = |name: &str| xxh3_64_with_seed(name.as_bytes(), seed.wrapping_add(kind_step));
    assert_eq!(hash(&one), hash(&other), "the names collide");
    let mut id = [0; 16];
    id[..8].copy_from_slice(&seed.to_le_bytes());
    (id, one, other)
}

/// Runs a case on a store in which two names have the same hash, before and after its events go to runs.
fn check_collision(kind: u64, case: impl Fn(&Store, &str, &str)) {
    let (id, one, other) = collision(kind);
    for options in [Options::new(), tiny()] {
        let chosen = Chosen(std::sync::Mutex::new(Some(id)));
        let store = options.without_background_work().randomness(chosen).in_memory().unwrap();
        assert_eq!(store.id().to_bytes()[..8], id[..8]);
        // Events in between, so that those of the names lie in several windows and runs.
        let between = |_| store.append("between", Any, [NewEvent::raw("Between", vec![0; 500])]).map(drop).unwrap();
        case(&store, &one, &other);
        (0..10).for_each(between);
        store.maintain().unwrap();
        case(&store, &one, &other);
        case(&store, &other, &one);
        store.maintain().unwrap();
        case(&store, &one, &other);
    }
}

#[test]
fn g18_colliding_tags_answer_only_their_own_events() {
    check_collision(4, |store, one, other| {
        let before = found(store, Query::tag(other));
        let appended = store.append("a", Any, [tagged("Made", &[one])]).unwrap();
        assert_eq!(positions(store, Query::tag(one)).last(), Some(&appended.last_position().number()));
        assert_eq!(found(store, Query::tag(other)), before);
        let after = before.last().map(|event| event.position);
        store.send(neutral().unless_after(Query::tag(other), after)).unwrap();
        conflict(store.send(neutral().unless(Query::tag(one))));
        assert_eq!(positions(store, Query::tags([one, other])), [0; 0]);
    });
}

#[test]
fn g18_colliding_streams_have_their_own_versions() {
    check_collision(1, |store, one, other| {
        let (before, reached) = (version(store, one), version(store, other));
        store.append(one, before.map_or(NoStream, exact), [event("Made")]).unwrap();
        assert_eq!(version(store, one), Some(before.unwrap_or(0) + 1));
        assert_eq!(version(store, other), reached);
        store.commit().append("a", Any, [event("A")]).expect(other, reached.map_or(NoStream, exact)).send().unwrap();
        let versions: Vec<u64> = found(store, Query::stream(one)).iter().map(|e| e.version.number()).collect();
        assert_eq!(versions, (1..=before.unwrap_or(0) + 1).collect::<Vec<_>>());
        let failed = conflict(store.append(one, NoStream, [event("Late")]));
        let first = positions(store, Query::stream(one))[0];
        assert_eq!(failed.failures, [stream_failure(one, NoStream, version(store, one), first)]);
    });
}

#[test]
fn g18_colliding_types_and_categories_answer_only_their_own_events() {
    check_collision(3, |store, one, other| {
        let before = positions(store, Query::types([other]));
        store.append("a", Any, [event(one)]).unwrap();
        assert_eq!(positions(store, Query::types([other])), before);
        assert!(found(store, Query::types([one])).iter().all(|event| event.event_type == one));
    });
    check_collision(2, |store, one, other| {
        assert!(!one.contains('-') && !other.contains('-'));
        let before = positions(store, Query::category(other));
        store.append(format!("{one}-1"), Any, [event("Made")]).unwrap();
        assert_eq!(positions(store, Query::category(other)), before);
        assert!(found(store, Query::category(one)).iter().all(|event| event.as_event().category() == one));
    });
}

#[test]
fn g19_a_condition_sees_the_append_before_it() {
    check(|world| {
        let append = || Commit::new().append("a", Any, [event("Made")]);
        assert_eq!(told(&world.send(append()).unwrap()), (1, 1, false));
        assert_eq!(conflict(world.send(append().unless(Query::all()))).failures, [condition_failure(0, 1)]);
        assert_eq!(told(&world.send(append().unless_after(Query::all(), p(10))).unwrap()), (2, 2, false));
    });
}

#[test]
fn g21_a_read_returns_the_head_that_was_pinned_before_it() {
    check(|world| {
        let read = world.read(Query::tag("A"));
        assert_eq!(read.head(), None);
        let decision = neutral().unless_after(Query::tag("A"), read.head());
        three(world);
        conflict(world.send(decision));

        let mut read = world.read(Query::tag("A"));
        assert_eq!(read.next().unwrap().unwrap().position(), p(2));
        let head = read.head();
        assert_eq!(head, Some(p(3)));
        world.append("s-4", Any, [tagged("type4", &["A"])]).unwrap();
        assert_eq!(positions_of(read), [3], "what came later is not part of the read");
        let failed = conflict(world.send(neutral().unless_after(Query::tag("A"), head)));
        assert_eq!(failed.failures, [condition_failure(0, 4)]);
        world.send(neutral().unless_after(Query::tag("A"), world.read(Query::all()).head())).unwrap();
    });
}

#[test]
fn g21_the_head_of_an_empty_store_is_a_valid_after() {
    check(|world| {
        let head = world.read(Query::tag("once")).head();
        world
            .commit()
            .append("a", Any, [tagged("Made", &["once"])])
            .unless_after(Query::tag("once"), head)
            .send()
            .unwrap();
        world.pause();
        let again = neutral().unless_after(Query::tag("once"), head);
        assert_eq!(conflict(world.send(again)).failures, [condition_failure(0, 1)]);
    });
}

// --- Worked examples -------------------------------------------------------------------------------------------------

/// What a decision rests on: the events of a query, and up to where they are all.
struct Seen {
    query: Query,
    events: Vec<RecordedEvent>,
    head: Option<Position>,
}

fn see(store: &Store, query: Query) -> Seen {
    let read = store.read(query.clone());
    let head = read.head();
    Seen { query, events: read.owned().collect::<Result<_, _>>().unwrap(), head }
}

impl Seen {
    /// Writes what was decided, if nothing that it rests on has changed.
    fn write(self, store: &Store, stream: &str, decided: NewEvent) -> Sent {
        store.commit().append(stream, Any, [decided]).unless_after(self.query, self.head).send()
    }

    fn with(&self, event_type: &str, tag: &str) -> impl Iterator<Item = &RecordedEvent> {
        self.events
            .iter()
            .filter(move |event| event.event_type == event_type && event.tags.iter().any(|own| own == tag))
    }
}

fn course(id: &str) -> String {
    format!("course:{id}")
}

fn student(id: &str) -> String {
    format!("student:{id}")
}

fn define_course(store: &Store, id: &str, capacity: usize) -> Result<(), &'static str> {
    let seen = see(store, Query::types(["CourseDefined"]).and_tag(course(id)));
    if !seen.events.is_empty() {
        return Err("the course exists");
    }
    let defined = NewEvent::json("CourseDefined", &capacity).unwrap().tag(course(id));
    seen.write(store, &format!("course-{id}"), defined).map(drop).map_err(|_| "raced")
}

fn change_capacity(store: &Store, id: &str, capacity: usize) -> Result<(), &'static str> {
    let seen = see(store, Query::types(["CourseDefined", "CapacityChanged"]).and_tag(course(id)));
    match seen.events.last() {
        None => return Err("no such course"),
        Some(last) if last.as_event().decode_payload::<usize>().unwrap() == capacity => return Err("no change"),
        Some(_) => {}
    }
    let changed = NewEvent::json("CapacityChanged", &capacity).unwrap().tag(course(id));
    seen.write(store, &format!("course-{id}"), changed).map(drop).map_err(|_| "raced")
}

/// What a subscription rests on: the course, and the student.
fn see_subscription(store: &Store, course_id: &str, student_id: &str) -> Seen {
    let of_course = Query::types(["CourseDefined", "CapacityChanged", "Subscribed"]).and_tag(course(course_id));
    see(store, of_course.or(Query::types(["Subscribed"]).and_tag(student(student_id))))
}

fn subscribe(store: &Store, course_id: &str, student_id: &str) -> Result<(), &'static str> {
    decide_subscription(store, see_subscription(store, course_id, student_id), course_id, student_id)
}

fn decide_subscription(store: &Store, seen: Seen, course_id: &str, student_id: &str) -> Result<(), &'static str> {
    let capacities = ["CourseDefined", "CapacityChanged"];
    let capacity = seen.events.iter().rfind(|event| capacities.contains(&event.event_type.as_str()));
    let Some(capacity) = capacity else { return Err("no such course") };
    let capacity: usize = capacity.as_event().decode_payload().unwrap();
    let (in_course, of_student) = (course(course_id), student(student_id));
    if seen.with("Subscribed", &in_course).count() >= capacity {
        return Err("the course is full");
    }
    if seen.with("Subscribed", &in_course).any(|event| event.tags.contains(&of_student)) {
        return Err("subscribed already");
    }
    if seen.with("Subscribed", &of_student).count() >= 5 {
        return Err("five courses are enough");
    }
    let subscribed = event("Subscribed").tag(in_course).tag(of_student);
    seen.write(store, &format!("course-{course_id}"), subscribed).map(drop).map_err(|_| "raced")
}

#[test]
fn g22_course_subscriptions() {
    check(|world| {
        assert_eq!(change_capacity(world, "c1", 5), Err("no such course"));
        assert_eq!(subscribe(world, "c1", "s1"), Err("no such course"));
        define_course(world, "c1", 10).unwrap();
        world.pause();
        assert_eq!(define_course(world, "c1", 3), Err("the course exists"));
        assert_eq!(change_capacity(world, "c1", 10), Err("no change"));
        change_capacity(world, "c1", 3).unwrap();
        for number in ["s1", "s2"] {
            subscribe(world, "c1", number).unwrap();
            world.pause();
        }
        assert_eq!(subscribe(world, "c1", "s2"), Err("subscribed already"));
        subscribe(world, "c1", "s3").unwrap();
        assert_eq!(subscribe(world, "c1", "s4"), Err("the course is full"));
        for number in 2..=6 {
            define_course(world, &format!("c{number}"), 3).unwrap();
            world.pause();
        }
        for number in 2..=5 {
            subscribe(world, &format!("c{number}"), "s1").unwrap();
            world.pause();
        }
        assert_eq!(subscribe(world, "c6", "s1"), Err("five courses are enough"));
        subscribe(world, "c6", "s2").unwrap();
    });
}

#[test]
fn g22_the_last_seat_is_given_once() {
    check(|world| {
        define_course(world, "c1", 1).unwrap();
        world.pause();
        let first = see_subscription(world, "c1", "s1");
        let second = see_subscription(world, "c1", "s2");
        decide_subscription(world, first, "c1", "s1").unwrap();
        world.pause();
        assert_eq!(decide_subscription(world, second, "c1", "s2"), Err("raced"));
        assert_eq!(subscribe(world, "c1", "s2"), Err("the course is full"));
    });
}

const DAY: i64 = 24 * 60 * 60 * 1_000;

/// Whether a name is claimed on a day, by all that ever happened to it. Names are kept back for three days.
fn is_claimed(seen: &Seen, name: &str, today: i64) -> bool {
    let mut freed = None;
    let mut claimed = false;
    let tag = format!("name:{name}");
    for event in &seen.events {
        let is_freed = match event.event_type.as_str() {
            "AccountClosed" => true,
            "NameChanged" => event.payload == tag.as_bytes(),
            _ => false,
        };
        claimed = !is_freed;
        freed = is_freed.then_some(event.time);
    }
    claimed || freed.is_some_and(|freed| Timestamp::from_millis((today - 3) * DAY) <= freed)
}

fn name_event(event_type: &'static str, names: &[&str], freed: &str, day: i64) -> NewEvent {
    let event = NewEvent::raw(event_type, freed).tags(names.iter().map(|name| format!("name:{name}")));
    event.time(Timestamp::from_millis(day * DAY))
}

fn claim(store: &Store, name: &str, day: i64) -> Result<(), &'static str> {
    let seen = see(store, Query::tag(format!("name:{name}")));
    if is_claimed(&seen, name, day) {
        return Err("claimed");
    }
    let registered = name_event("AccountRegistered", &[name], "", day);
    seen.write(store, &format!("account-{name}"), registered).map(drop).map_err(|_| "raced")
}

#[test]
fn g22_a_user_name_is_unique() {
    check(|world| {
        claim(world, "u1", 0).unwrap();
        world.pause();
        assert_eq!(claim(world, "u1", 0), Err("claimed"));
        claim(world, "u2", 0).unwrap();
        // Renamed: the old name is kept back and then free, the new one is claimed.
        let renamed = name_event("NameChanged", &["u1", "u9"], "name:u1", 1);
        world.append("account-u1", StreamExists, [renamed]).unwrap();
        world.pause();
        assert_eq!(claim(world, "u9", 9), Err("claimed"));
        assert_eq!(claim(world, "u1", 4), Err("claimed"));
        claim(world, "u1", 5).unwrap();
        assert_eq!(claim(world, "u1", 5), Err("claimed"));
    });
}

#[test]
fn g22_a_closed_name_is_kept_back_for_three_days() {
    check(|world| {
        claim(world, "u1", -5).unwrap();
        world.append("account-u1", StreamExists, [name_event("AccountClosed", &["u1"], "", 0)]).unwrap();
        world.pause();
        assert_eq!(claim(world, "u1", 3), Err("claimed"));
        claim(world, "u1", 4).unwrap();
    });
}

/// Creates the next invoice; `Err` if another one came first.
pub(crate) fn create_invoice(store: &Store) -> Result<u64, annals::AppendError> {
    let query = Query::types(["InvoiceCreated"]);
    let mut read = store.read(query.clone()).reverse().limit(1);
    let head = read.head();
    let last = read.next().unwrap().map_or(0, |event| event.decode_payload::<u64>().unwrap());
    let created = NewEvent::json("InvoiceCreated", &(last + 1)).unwrap();
    store.commit().append("invoices", Any, [created]).unless_after(query, head).send()?;
    Ok(last + 1)
}

#[test]
fn g22_invoice_numbers_have_no_gaps() {
    check(|world| {
        for number in 1..=12 {
            assert_eq!(create_invoice(world).unwrap(), number);
            world.append("noise", Any, [event("Noise")]).unwrap();
            world.pause();
        }
        let invoices = found(world, Query::types(["InvoiceCreated"]));
        let numbers: Vec<u64> = invoices.iter().map(|event| event.as_event().decode_payload().unwrap()).collect();
        assert_eq!(numbers, (1..=12).collect::<Vec<_>>());
    });
}

#[test]
fn g22_a_one_time_password_is_used_once() {
    check(|world| {
        let redeem = |store: &Store, password: &str| {
            let tag = format!("password:{password}");
            let seen = see(store, Query::tag(&tag));
            let issued = seen.with("PasswordIssued", &tag).count() == 1;
            let used = seen.with("PasswordUsed", &tag).count() > 0;
            match (issued, used) {
                (false, _) => Err("unknown"),
                (_, true) => Err("used"),
                _ => seen.write(store, "signups", event("PasswordUsed").tag(tag)).map(drop).map_err(|_| "raced"),
            }
        };
        assert_eq!(redeem(world, "1234"), Err("unknown"));
        world.append("signups", Any, [tagged("PasswordIssued", &["password:1234"])]).unwrap();
        world.pause();
        redeem(world, "1234").unwrap();
        world.pause();
        assert_eq!(redeem(world, "1234"), Err("used"));
    });
}

#[test]
fn g22_an_idempotency_token_is_used_once() {
    check(|world| {
        let place_order = |store: &Store, token: &str| {
            let tag = format!("token:{token}");
            store.commit().append("orders", Any, [tagged("OrderPlaced", &[&tag])]).unless(Query::tag(&tag)).send()
        };
        place_order(world, "t1").unwrap();
        world.pause();
        assert_eq!(conflict(place_order(world, "t1")).failures, [condition_failure(0, 1)]);
        place_order(world, "t2").unwrap();
        world.observe(|store| assert_eq!(head(store), Some(2)));
    });
}

#[test]
fn a_commit_time_never_goes_back() {
    let clock = ManualClock::new(Timestamp::from_millis(1_000));
    let directory = tempfile::tempdir().unwrap();
    let options = || tiny().clock(clock.clone()).without_background_work();
    let store = options().open(directory.path()).unwrap();
    store.append("a", Any, events(1)).unwrap();
    clock.set(Timestamp::from_millis(500));
    store.append("a", Any, events(1)).unwrap();
    store.close().unwrap();
    let store = options().open(directory.path()).unwrap();
    store.append("a", Any, events(1)).unwrap();
    clock.set(Timestamp::from_millis(2_000));
    store.append("a", Any, [event("Given").time(Timestamp::from_nanos(-7)), event("Now")]).unwrap();
    let times = |event: RecordedEvent| (event.time.nanos(), event.commit_time.nanos() / 1_000_000);
    let times: Vec<(i64, i64)> = found(&store, Query::all()).into_iter().map(times).collect();
    let ms = 1_000_000;
    assert_eq!(times, [(1_000 * ms, 1_000), (500 * ms, 1_000), (500 * ms, 1_000), (-7, 2_000), (2_000 * ms, 2_000)]);
}
