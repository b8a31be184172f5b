//! Groups 30 to 33, and 38 as far as it is about subscriptions: delivery, checkpoints, competing consumers, histories.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use annals::limits::{SUBSCRIPTION_NAME_BYTES_MAX, UNACKNOWLEDGED_EVENTS_MAX};
use annals::{Delivery, Durability, Error, Item, ManualClock, Options, Query, Result, Store, Subscription, Timestamp};
use tempfile::TempDir;

use crate::support::{Any, event, events, p, tagged};
use crate::world::check;

const LEASE: Duration = Duration::from_secs(30);

/// Runs a case on a store in memory and on one in a directory, on a clock that the case moves, without a thread but its
/// own.
fn check_with_clock(case: impl Fn(&Store, &ManualClock)) {
    check_options(|options, clock| {
        case(&options.clone().in_memory().unwrap(), clock);
        case(&options.open(tempfile::tempdir().unwrap().path()).unwrap(), clock);
    });
}

fn check_options(case: impl Fn(Options, &ManualClock)) {
    let clock = ManualClock::new(Timestamp::from_millis(1_000));
    case(Options::new().clock(clock.clone()).without_background_work(), &clock);
}

/// Spawns something that waits on the clock, and returns once it does.
fn begin_to_wait<T: Send + 'static>(
    clock: &ManualClock,
    wait: impl FnOnce() -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let waiting = clock.waiting();
    let handle = thread::spawn(wait);
    while clock.waiting() == waiting {
        thread::yield_now();
    }
    handle
}

/// What is there now.
fn now(subscription: &mut Subscription) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    while let Some(item) = subscription.next_within(Duration::ZERO).unwrap() {
        if let Item::Event(delivery) = item {
            deliveries.push(delivery);
        }
    }
    deliveries
}

fn positions(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(|delivery| delivery.position.number()).collect()
}

/// Takes what is there now and acknowledges it.
fn acknowledge_now(subscription: &mut Subscription) -> Vec<u64> {
    let deliveries = now(subscription);
    let positions = positions(&deliveries);
    for delivery in deliveries {
        delivery.ack().unwrap();
    }
    positions
}

fn append(store: &Store, stream: &str, count: usize) {
    store.append(stream, Any, events(count)).unwrap();
    store.sync().unwrap();
}

fn mailer(store: &Store) -> Subscription {
    store.subscribe("mailer").open().unwrap()
}

#[test]
fn g30_backlog_and_racing_live_events_come_once_in_order_with_one_caught_up_between() {
    check(|world| {
        append(world, "a-1", 100);
        let store = Store::clone(world);
        let writer = thread::spawn(move || (0..100).for_each(|_| append(&store, "a-1", 1)));
        let (mut seen, mut caught_up) = (Vec::new(), Vec::new());
        for item in mailer(world) {
            match item.unwrap() {
                Item::Event(delivery) => {
                    seen.push(delivery.position.number());
                    delivery.ack().unwrap();
                }
                Item::CaughtUp => caught_up.push(seen.len()),
            }
            if seen.len() == 200 && !caught_up.is_empty() {
                break;
            }
        }
        assert_eq!(seen, (1..=200).collect::<Vec<_>>());
        assert!(matches!(caught_up[..], [after] if after >= 100), "{caught_up:?}");
        writer.join().unwrap();
        assert!(now(&mut mailer(world)).is_empty());
    });
}

#[test]
fn g30_caught_up_is_told_once_also_of_an_empty_store() {
    check(|world| {
        let mut subscription = mailer(world);
        assert!(matches!(subscription.next_within(Duration::ZERO).unwrap(), Some(Item::CaughtUp)));
        assert!(subscription.next_within(Duration::ZERO).unwrap().is_none());
        append(world, "a-1", 2);
        let items: Vec<_> = std::iter::from_fn(|| subscription.next_within(Duration::ZERO).unwrap()).collect();
        assert!(matches!(&items[..], [Item::Event(_), Item::Event(_)]), "{items:?}");
    });
}

#[test]
fn g30_a_waiting_subscriber_is_woken_by_the_next_append() {
    check_with_clock(|store, clock| {
        let mut subscription = mailer(store);
        assert!(now(&mut subscription).is_empty());
        let waiter = begin_to_wait(clock, move || subscription.next().unwrap().unwrap());
        append(store, "a-1", 1);
        assert!(matches!(waiter.join().unwrap(), Item::Event(delivery) if delivery.position == p(1)));
    });
}

#[test]
fn g30_what_is_not_synced_waits_unless_asked_for() {
    check_with_clock(|store, _| {
        let (mut synced, mut visible) = (mailer(store), store.subscribe("screen").visible().open().unwrap());
        store.commit().append("a-1", Any, events(2)).durability(Durability::Os).send().unwrap();
        assert_eq!((positions(&now(&mut synced)), positions(&now(&mut visible))), (vec![], vec![1, 2]));
        store.sync().unwrap();
        assert_eq!((positions(&now(&mut synced)), positions(&now(&mut visible))), (vec![1, 2], vec![]));
    });
}

#[test]
fn g30_closing_ends_the_waiting_after_everything_was_delivered() {
    check_with_clock(|store, clock| {
        let mut subscription = mailer(store);
        append(store, "a-1", 1);
        assert_eq!(now(&mut subscription).len(), 1);
        let waiter = begin_to_wait(clock, move || (subscription.next(), subscription.next()));
        store.clone().close().unwrap();
        let (first, second) = waiter.join().unwrap();
        assert!(matches!(first, Some(Err(Error::Closed))), "{first:?}");
        assert!(second.is_none());
    });
}

#[test]
fn g30_stopping_from_another_thread_ends_the_waiting_and_gives_the_name_back() {
    check_with_clock(|store, clock| {
        let mut subscription = mailer(store);
        assert!(now(&mut subscription).is_empty());
        let stopper = subscription.stopper();
        let waiter = begin_to_wait(clock, move || subscription.next());
        stopper.stop();
        assert!(waiter.join().unwrap().is_none());
        let mut again = mailer(store);
        again.stopper().stop();
        assert!(matches!(again.next_within(Duration::ZERO), Err(Error::Stopped)));
        assert!(matches!(again.next_batch(), Err(Error::Stopped)));
    });
}

#[test]
fn g30_without_a_name_nothing_is_remembered() {
    check(|world| {
        append(world, "a-1", 3);
        for _ in 0..2 {
            let mut all = world.follow(Query::all()).subscribe();
            assert_eq!(acknowledge_now(&mut all), [1, 2, 3]);
            assert_eq!(all.checkpoint(), Some(p(3)));
        }
        assert_eq!(acknowledge_now(&mut world.follow(Query::all()).after(p(1)).subscribe()), [2, 3]);
        assert!(world.state().unwrap().keys("checkpoint-").unwrap().is_empty());
    });
}

#[test]
fn g30_a_batch_is_over_when_it_is_full_or_its_time_is() {
    check_with_clock(|store, clock| {
        append(store, "a-1", 5);
        let mut subscription = store.subscribe("mailer").batch(2, Duration::from_secs(1)).open().unwrap();
        let mut next = || subscription.next_batch().unwrap();
        let (first, second, third) = (next(), next(), next());
        assert_eq!((positions(&first), positions(&second), positions(&third)), (vec![1, 2], vec![3, 4], vec![5]));
        assert!(!first.has_caught_up() && !second.has_caught_up() && third.has_caught_up());
        third.ack().unwrap();
        assert_eq!(subscription.checkpoint(), None);
        first.ack().unwrap();
        second.ack().unwrap();
        assert_eq!(subscription.checkpoint(), Some(p(5)));

        append(store, "a-1", 1);
        let waiter = begin_to_wait(clock, move || subscription.next_batch().unwrap());
        clock.advance(Duration::from_secs(1));
        assert_eq!(positions(&waiter.join().unwrap()), [6]);
    });
}

#[test]
fn g30_a_batch_has_a_limit() {
    check_with_clock(|store, _| {
        let open = |events| store.subscribe("mailer").batch(events, Duration::ZERO).open();
        open(UNACKNOWLEDGED_EVENTS_MAX).unwrap();
        open(1).unwrap();
        for events in [0, UNACKNOWLEDGED_EVENTS_MAX + 1] {
            assert!(matches!(open(events), Err(Error::Invalid(_))), "{events}");
        }
    });
}

#[test]
fn g30_nothing_more_is_read_while_too_much_is_not_acknowledged() {
    check_with_clock(|store, clock| {
        append(store, "a-1", UNACKNOWLEDGED_EVENTS_MAX);
        append(store, "a-1", 1);
        let mut subscription = mailer(store);
        let mut out = now(&mut subscription);
        assert_eq!(out.len(), UNACKNOWLEDGED_EVENTS_MAX);
        let last = out.pop().unwrap();
        let waiter = begin_to_wait(clock, move || (subscription.next().unwrap().unwrap(), subscription));
        // The first holds up all behind it.
        last.ack().unwrap();
        assert!(!waiter.is_finished());
        out.remove(0).ack().unwrap();
        let (item, _subscription) = waiter.join().unwrap();
        assert!(matches!(item, Item::Event(delivery) if delivery.position.number() == 65_537));
    });
}

#[test]
fn g30_a_reader_beside_the_writer_follows_it_and_remembers_nothing() {
    check_options(|options, clock| {
        let directory = tempfile::tempdir().unwrap();
        let writer = options.clone().open(directory.path()).unwrap();
        append(&writer, "a-1", 1);
        let reader = options.open_read_only(directory.path()).unwrap();
        let mut subscription = mailer(&reader);
        let mut first = now(&mut subscription);
        assert_eq!(positions(&first), [1]);
        assert!(matches!(first.remove(0).ack(), Err(Error::ReadOnly)));
        let waiter = begin_to_wait(clock, move || subscription.next().unwrap().unwrap());
        append(&writer, "a-1", 1);
        clock.advance(Duration::from_millis(annals::limits::FOLLOW_INTERVAL_MS));
        assert!(matches!(waiter.join().unwrap(), Item::Event(delivery) if delivery.position == p(2)));
    });
}

#[test]
fn g31_a_reader_passes_over_what_does_not_match_although_it_saves_nothing() {
    check_options(|options, _| {
        let directory = tempfile::tempdir().unwrap();
        let writer = options.clone().open(directory.path()).unwrap();
        append(&writer, "b-1", 2_000);
        let reader = options.open_read_only(directory.path()).unwrap();
        let mut subscription = reader.subscribe("mailer").query(Query::category("a")).open().unwrap();
        assert!(matches!(subscription.next(), Some(Ok(Item::CaughtUp))));
        assert!(matches!(subscription.next_within(Duration::ZERO), Ok(None)));
        assert_eq!(subscription.checkpoint(), Some(p(2_000)));
    });
}

#[test]
fn g31_what_does_not_match_is_not_delivered_and_advances_the_checkpoint() {
    check(|world| {
        let kept = ["a-1", "b-1", "a-2", "b-1"];
        for stream in kept {
            append(world, stream, 1);
        }
        let mut subscription = world.subscribe("mailer").query(Query::category("a")).open().unwrap();
        let mut out = now(&mut subscription);
        assert_eq!(positions(&out), [1, 3]);
        out.pop().unwrap().ack().unwrap();
        assert_eq!(subscription.checkpoint(), None);
        out.pop().unwrap().ack().unwrap();
        assert_eq!(subscription.checkpoint(), Some(p(4)));
        subscription.close().unwrap();
        world.pause();
        assert_eq!(world.subscription_checkpoint("mailer").unwrap().unwrap().position, p(4));
    });
}

#[test]
fn g31_a_million_that_do_not_match_stall_nothing() {
    check_with_clock(|store, _| {
        let mut subscription = store.subscribe("mailer").query(Query::tag("wanted")).open().unwrap();
        assert!(now(&mut subscription).is_empty());
        for _ in 0..100 {
            append(store, "a-1", 10_000);
        }
        assert!(now(&mut subscription).is_empty());
        assert_eq!(subscription.checkpoint(), Some(p(1_000_000)));
        // So many are remembered at once, although nothing was acknowledged.
        assert_eq!(store.subscription_checkpoint("mailer").unwrap().unwrap().position, p(1_000_000));
        store.append("b-1", Any, [tagged("B", &["wanted"])]).unwrap();
        assert_eq!(acknowledge_now(&mut subscription), [1_000_001]);
    });
}

#[test]
fn g32_two_names_are_independent() {
    check(|world| {
        append(world, "a-1", 3);
        let (mut one, mut other) = (mailer(world), world.subscribe("auditor").open().unwrap());
        assert_eq!(acknowledge_now(&mut one), [1, 2, 3]);
        assert_eq!(positions(&now(&mut other)), [1, 2, 3]);
        drop((one, other));
        assert!(now(&mut mailer(world)).is_empty());
        assert_eq!(positions(&now(&mut world.subscribe("auditor").open().unwrap())), [1, 2, 3]);
    });
}

#[test]
fn g32_what_was_not_acknowledged_is_delivered_again() {
    check(|world| {
        append(world, "a-1", 5);
        let mut subscription = mailer(world);
        for delivery in now(&mut subscription).into_iter().take(2) {
            delivery.ack().unwrap();
        }
        drop(subscription);
        world.pause();
        assert_eq!(acknowledge_now(&mut mailer(world)), [3, 4, 5]);
        world.pause();
        assert!(now(&mut mailer(world)).is_empty());
    });
}

#[test]
fn g32_deleted_and_created_anew_it_starts_over() {
    check(|world| {
        append(world, "a-1", 2);
        let mut subscription = mailer(world);
        assert_eq!(acknowledge_now(&mut subscription), [1, 2]);
        assert!(matches!(world.delete_subscription("mailer"), Err(Error::Held { name }) if name == "mailer"));
        drop(subscription);
        world.delete_subscription("mailer").unwrap();
        assert_eq!(world.subscription_checkpoint("mailer").unwrap(), None);
        assert_eq!(acknowledge_now(&mut mailer(world)), [1, 2]);
    });
}

#[test]
fn g32_a_second_holder_is_refused_until_the_first_is_gone() {
    check(|world| {
        let first = mailer(world);
        let refused = |store: &Store| matches!(store.subscribe("mailer").open(), Err(Error::Held { .. }));
        assert!(refused(world));
        assert!(matches!(world.subscribe("mailer").shared(LEASE).open(), Err(Error::Held { .. })));
        let _other = world.subscribe("auditor").open().unwrap();
        drop(first);
        let shared = world.subscribe("mailer").shared(LEASE).open().unwrap();
        assert!(refused(world));
        drop(shared);
        assert!(!refused(world));
    });
}

#[test]
fn g32_where_it_begins_counts_the_first_time_only_and_is_remembered_at_once() {
    check(|world| {
        append(world, "a-1", 3);
        drop(world.subscribe("end").from_end().open().unwrap());
        drop(world.subscribe("after").after(p(2)).open().unwrap());
        append(world, "a-1", 2);
        world.pause();
        let all = |name: &str| acknowledge_now(&mut world.subscribe(name).from_start().open().unwrap());
        assert_eq!((all("end"), all("after"), all("start")), (vec![4, 5], vec![3, 4, 5], vec![1, 2, 3, 4, 5]));
        let mut end = world.subscribe("end").after(p(1)).open().unwrap();
        assert!(now(&mut end).is_empty());
    });
}

#[test]
fn g32_one_that_begins_at_the_end_of_an_empty_store_skips_nothing_later() {
    check(|world| {
        drop(world.subscribe("end").from_end().open().unwrap());
        append(world, "a-1", 1);
        assert_eq!(acknowledge_now(&mut world.subscribe("end").from_end().open().unwrap()), [1]);
    });
}

#[test]
fn g32_a_name_has_a_limit_and_a_position_must_be_there() {
    check(|world| {
        let open = |name: &str| world.subscribe(name).open();
        open(&"n".repeat(SUBSCRIPTION_NAME_BYTES_MAX)).unwrap();
        for name in ["", &"n".repeat(SUBSCRIPTION_NAME_BYTES_MAX + 1)] {
            assert!(matches!(open(name), Err(Error::Invalid(_))));
        }
        assert!(matches!(world.subscribe("mailer").after(p(1)).open(), Err(Error::Invalid(_))));
        assert!(matches!(world.subscribe("mailer").shared(Duration::ZERO).open(), Err(Error::Invalid(_))));
    });
}

#[test]
fn g32_the_value_of_another_kind_of_handler_is_no_checkpoint() {
    check(|world| {
        world.state().unwrap().put("checkpoint-mailer", r#"{"projection": 7}"#).unwrap();
        assert!(matches!(world.subscribe("mailer").open(), Err(Error::Codec { .. })));
    });
}

/// Two consumers of one name.
fn pair(store: &Store) -> [Subscription; 2] {
    [0, 1].map(|_| store.subscribe("mailer").shared(LEASE).open().unwrap())
}

fn next_event(subscription: &mut Subscription) -> Option<Delivery> {
    loop {
        match subscription.next_within(Duration::ZERO).unwrap()? {
            Item::Event(delivery) => return Some(delivery),
            Item::CaughtUp => {}
        }
    }
}

#[test]
fn g33_a_stream_stays_with_one_consumer_until_it_is_acknowledged() {
    check(|world| {
        for stream in ["a-1", "a-1", "b-1", "a-1"] {
            append(world, stream, 1);
        }
        let [mut one, mut other] = pair(world);
        let first = next_event(&mut one).unwrap();
        let of_b = next_event(&mut other).unwrap();
        assert_eq!((first.position, of_b.position), (p(1), p(3)));
        assert!(next_event(&mut other).is_none(), "the rest is of a stream that the other has");
        assert_eq!(next_event(&mut one).unwrap().position, p(2));
        first.ack().unwrap();
        assert_eq!(next_event(&mut one).unwrap().position, p(4));
        of_b.ack().unwrap();
        append(world, "b-1", 1);
        assert_eq!(next_event(&mut one).unwrap().position, p(5), "a stream that is acknowledged is anybody's");
    });
}

#[test]
fn g33_the_work_of_a_dropped_consumer_goes_to_a_survivor_in_order() {
    check(|world| {
        append(world, "a-1", 3);
        append(world, "b-1", 1);
        let [mut one, mut other] = pair(world);
        let mut taken: Vec<_> = (0..2).map(|_| next_event(&mut one).unwrap()).collect();
        assert_eq!(next_event(&mut other).unwrap().position, p(4));
        drop(one);
        let again: Vec<_> = std::iter::from_fn(|| next_event(&mut other)).collect();
        assert_eq!(positions(&again), [1, 2, 3]);
        assert_eq!(again.iter().map(Delivery::attempt).collect::<Vec<_>>(), [2, 2, 1]);
        assert!(matches!(taken.remove(0).ack(), Err(Error::Stopped)));
        for delivery in again {
            delivery.ack().unwrap();
        }
    });
}

#[test]
fn g33_the_work_of_a_consumer_whose_lease_expired_goes_to_one_that_waits() {
    check_with_clock(|store, clock| {
        append(store, "a-1", 2);
        let [mut one, mut other] = pair(store);
        let taken = next_event(&mut one).unwrap();
        assert!(next_event(&mut other).is_none());
        let waiter = begin_to_wait(clock, move || (other.next().unwrap().unwrap(), other));
        clock.advance(LEASE.saturating_sub(Duration::from_millis(1)));
        assert!(!waiter.is_finished());
        clock.advance(Duration::from_millis(1));
        let (item, mut other) = waiter.join().unwrap();
        let Item::Event(first) = item else { panic!("{item:?}") };
        assert_eq!((first.position, first.attempt()), (p(1), 2));
        let lost = taken.ack();
        assert!(matches!(lost, Err(Error::LeaseExpired { position, .. }) if position == p(1)), "{lost:?}");
        assert!(next_event(&mut one).is_none(), "the stream is with the other now");
        first.ack().unwrap();
        next_event(&mut other).unwrap().ack().unwrap();
        assert_eq!(other.checkpoint(), Some(p(2)));
    });
}

#[test]
fn g33_asking_and_acknowledging_renew_the_lease() {
    check_with_clock(|store, clock| {
        append(store, "a-1", 2);
        let [mut one, mut other] = pair(store);
        let first = next_event(&mut one).unwrap();
        clock.advance(LEASE / 2);
        let second = next_event(&mut one).unwrap();
        clock.advance(LEASE / 2);
        first.ack().unwrap();
        clock.advance(LEASE / 2);
        assert!(next_event(&mut other).is_none());
        second.ack().unwrap();
        assert_eq!(one.checkpoint(), Some(p(2)));
    });
}

#[test]
fn g33_a_consumer_that_waits_for_more_keeps_what_it_has() {
    check_with_clock(|store, clock| {
        append(store, "a-1", 1);
        let [mut one, mut other] = pair(store);
        let taken = next_event(&mut one).unwrap();
        assert!(next_event(&mut one).is_none());
        let waiter = begin_to_wait(clock, move || (one.next().unwrap().unwrap(), one));
        clock.advance(2 * LEASE);
        assert!(next_event(&mut other).is_none());
        append(store, "a-1", 1);
        let (item, one) = waiter.join().unwrap();
        let Item::Event(second) = item else { panic!("{item:?}") };
        taken.ack().unwrap();
        clock.advance(LEASE);
        assert_eq!(next_event(&mut other).unwrap().position, p(2), "it has let its lease expire since");
        assert!(matches!(second.ack(), Err(Error::LeaseExpired { .. })));
        assert_eq!(one.checkpoint(), Some(p(1)));
    });
}

/// It had looked while the other one waited too, when no lease could expire. Nobody told it that one could again, and
/// what was left behind waited for the next append.
#[test]
fn g33_a_consumer_that_waits_is_called_when_one_that_has_waited_goes_away() {
    const PATIENCE: Duration = Duration::from_secs(10);
    check_with_clock(|store, clock| {
        append(store, "a-1", 1);
        let [mut one, mut other] = pair(store);
        let _left_behind = next_event(&mut one).unwrap();
        assert!(next_event(&mut one).is_none() && next_event(&mut other).is_none());
        let leaves = begin_to_wait(clock, move || (one.next_within(PATIENCE).unwrap().is_none(), one));
        let waiter = begin_to_wait(clock, move || other.next().unwrap().unwrap());
        clock.advance(PATIENCE);
        let (waited_in_vain, _one) = leaves.join().unwrap();
        assert!(waited_in_vain);
        clock.advance(LEASE);
        let item = waiter.join().unwrap();
        assert!(matches!(&item, Item::Event(event) if event.position == p(1) && event.attempt() == 2), "{item:?}");
    });
}

/// The others were not told that its lease goes on, and what it had taken stayed with it until the next append.
#[test]
fn g33_the_work_of_a_consumer_that_was_stopped_while_it_waited_goes_to_another_when_its_lease_expires() {
    check_with_clock(|store, clock| {
        append(store, "a-1", 1);
        let [mut one, mut other] = pair(store);
        let _left_behind = next_event(&mut one).unwrap();
        assert!(next_event(&mut one).is_none() && next_event(&mut other).is_none());
        let stopper = one.stopper();
        let stops = begin_to_wait(clock, move || (one.next().is_none(), one));
        let waiter = begin_to_wait(clock, move || other.next().unwrap().unwrap());
        stopper.stop();
        let (has_ended, _one) = stops.join().unwrap();
        assert!(has_ended);
        clock.advance(LEASE);
        let item = waiter.join().unwrap();
        assert!(matches!(&item, Item::Event(event) if event.position == p(1) && event.attempt() == 2), "{item:?}");
    });
}

/// An acknowledgement from another thread gave a consumer that waited a lease that ran out while it did.
#[test]
fn g33_a_consumer_that_waits_keeps_what_it_has_though_something_of_it_is_acknowledged_meanwhile() {
    check_with_clock(|store, clock| {
        append(store, "a-1", 1);
        append(store, "b-1", 1);
        let [mut one, mut other] = pair(store);
        let (kept, done) = (next_event(&mut one).unwrap(), next_event(&mut one).unwrap());
        assert!(next_event(&mut one).is_none());
        let stopper = one.stopper();
        let waiter = begin_to_wait(clock, move || (one.next().is_none(), one));
        done.ack().unwrap();
        clock.advance(2 * LEASE);
        assert!(next_event(&mut other).is_none());
        stopper.stop();
        let (has_ended, one) = waiter.join().unwrap();
        assert!(has_ended);
        kept.ack().unwrap();
        assert_eq!(one.checkpoint(), Some(p(2)));
    });
}

#[test]
fn g33_acknowledging_the_second_before_the_first_moves_the_checkpoint_with_the_first() {
    check(|world| {
        append(world, "a-1", 1);
        append(world, "b-1", 1);
        let [mut one, mut other] = pair(world);
        let (first, second) = (next_event(&mut one).unwrap(), next_event(&mut other).unwrap());
        second.ack().unwrap();
        assert_eq!(other.checkpoint(), None);
        assert_eq!(world.subscription_checkpoint("mailer").unwrap(), None);
        first.ack().unwrap();
        assert_eq!(other.checkpoint(), Some(p(2)));
        assert_eq!(world.subscription_checkpoint("mailer").unwrap().unwrap().position, p(2));
    });
}

#[test]
fn g33_consumers_of_one_name_want_the_same() {
    check(|world| {
        let _one = world.subscribe("mailer").shared(LEASE).open().unwrap();
        let other = || world.subscribe("mailer").shared(LEASE);
        assert!(other().open().is_ok());
        assert!(matches!(other().query(Query::stream("a-1")).open(), Err(Error::Invalid(_))));
        assert!(matches!(other().visible().open(), Err(Error::Invalid(_))));
        assert!(matches!(other().shared(2 * LEASE).open(), Err(Error::Invalid(_))));
    });
}

/// Consumers come and go while others work: every event is handled, of each stream in order, and the checkpoint ends at
/// the end.
#[test]
fn g33_threads_that_share_a_name_handle_everything_in_order_while_some_die() {
    const EVENTS: u64 = 400;
    check(|world| {
        let (handled, received) = mpsc::channel();
        let consumers: Vec<_> = (0..4)
            .map(|consumer| {
                let (store, handled) = (Store::clone(world), handled.clone());
                thread::spawn(move || consume(&store, consumer, &handled))
            })
            .collect();
        drop(handled);
        for number in 0..EVENTS {
            append(world, &format!("s-{}", number % 7), 1);
        }
        let mut versions = BTreeMap::<String, u64>::new();
        let mut done = BTreeSet::new();
        for (stream, version, position) in &received {
            let last = versions.entry(stream).or_default();
            assert!(version <= *last + 1, "an event was passed over");
            *last = version.max(*last);
            done.insert(position);
            if done.len() as u64 == EVENTS {
                break;
            }
        }
        append(world, "end-1", consumers.len() * 2);
        for consumer in consumers {
            consumer.join().unwrap().unwrap();
        }
    });
}

/// Handles events until one says that it is the end. The first two consumers die now and then.
fn consume(store: &Store, consumer: usize, handled: &mpsc::Sender<(String, u64, u64)>) -> Result<()> {
    loop {
        let subscription = store.subscribe("mailer").shared(LEASE).open()?;
        for (count, item) in subscription.enumerate() {
            let Item::Event(delivery) = item? else { continue };
            if delivery.stream == "end-1" {
                return Ok(());
            }
            if consumer < 2 && count == 20 + consumer {
                // Dropped with an event that is not acknowledged.
                break;
            }
            // The main thread has gone on once it has everything.
            let _ = handled.send((delivery.stream.clone(), delivery.version.number(), delivery.position.number()));
            delivery.ack()?;
        }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => assert_eq!(std::fs::copy(entry.path(), target).unwrap(), entry.metadata().unwrap().len()),
        }
    }
}

/// A store in a directory where a subscription has acknowledged its two events.
fn acknowledged() -> (TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    append(&store, "a-1", 2);
    assert_eq!(acknowledge_now(&mut mailer(&store)), [1, 2]);
    (directory, store)
}

fn check_stopped(store: &Store) {
    let opened = store.subscribe("mailer").open();
    assert!(matches!(opened, Err(Error::HistoryChanged { position, .. }) if position == p(2)), "{opened:?}");
    store.delete_subscription("mailer").unwrap();
    let head = store.head().unwrap().unwrap().number();
    assert_eq!(acknowledge_now(&mut mailer(store)).len() as u64, head);
}

#[test]
fn g38_a_checkpoint_of_another_store_stops_the_subscription() {
    let (directory, store) = acknowledged();
    store.close().unwrap();
    let (other_directory, other) = acknowledged();
    other.close().unwrap();
    std::fs::remove_dir_all(other_directory.path().join("state")).unwrap();
    copy(&directory.path().join("state"), &other_directory.path().join("state"));
    check_stopped(&Store::open(other_directory.path()).unwrap());
}

#[test]
fn g38_a_log_that_lost_its_end_stops_the_subscription_also_when_it_has_grown_again() {
    for grown in [0, 1, 5] {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        append(&store, "a-1", 1);
        store.close().unwrap();
        let earlier = tempfile::tempdir().unwrap();
        copy(directory.path(), earlier.path());

        let store = Store::open(directory.path()).unwrap();
        append(&store, "a-1", 1);
        assert_eq!(acknowledge_now(&mut mailer(&store)), [1, 2]);
        store.close().unwrap();
        copy(&directory.path().join("state"), &earlier.path().join("state"));

        let store = Store::open(earlier.path()).unwrap();
        if grown > 0 {
            store.append("b-1", Any, (0..grown).map(|_| event("Other"))).unwrap();
        }
        check_stopped(&store);
    }
}

#[test]
fn g38_a_checkpoint_of_this_history_is_used_whatever_came_behind_it() {
    let (directory, store) = acknowledged();
    append(&store, "a-1", 3);
    store.close().unwrap();
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(acknowledge_now(&mut mailer(&store)), [3, 4, 5]);
}
