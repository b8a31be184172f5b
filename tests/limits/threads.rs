//! The limit on threads: each place that starts one is refused it, by address space that its stack does not fit into.
//! Neither the kernel's limit on processes nor that of a container binds a privileged user, so that both would show
//! nothing where tests run as one.

use annals::{
    Error, ExpectedVersion, HandlerError, NewEvent, Options, ProcessManager, Query, Reactions, ReplayError, Result,
    Store,
};
use rustix::process::Resource;
use serde::{Deserialize, Serialize};

use super::alone::{Held, LARGE_STACK_BYTES, alone_with_large_stacks, limited, status_bytes};
use super::support::{directory, os_error};

/// "Resource temporarily unavailable", which is said of a thread for want of memory as well.
const EAGAIN: i32 = 11;

/// Runs something while no thread can be started. All other memory is plenty.
fn without_threads<T>(run: impl FnOnce() -> T) -> T {
    limited(Resource::As, status_bytes("VmSize:") + LARGE_STACK_BYTES / 2, run)
}

#[track_caller]
fn assert_refused<T>(result: Result<T>) {
    match result {
        Ok(_) => panic!("a thread was started"),
        Err(error) => assert_eq!(os_error(&error), Some(EAGAIN), "{error:?}"),
    }
}

fn opened() -> NewEvent {
    NewEvent::raw("Opened", "1")
}

#[test]
fn a_store_that_is_given_no_thread_is_not_opened_and_not_locked() {
    alone_with_large_stacks("threads::a_store_that_is_given_no_thread_is_not_opened_and_not_locked", || {
        let directory = directory();
        let held = Held::now(directory.path());
        for _ in 0..3 {
            assert_refused(without_threads(|| Store::open(directory.path())));
            held.assert_again(directory.path(), "a store that was refused");
        }
        // Whoever does the work of the thread needs none.
        let quiet = without_threads(|| Options::new().without_background_work().open(directory.path()).unwrap());
        quiet.append("account-1", ExpectedVersion::NoStream, [opened()]).unwrap();
        drop(quiet);
        let store = Store::open(directory.path()).unwrap();
        store.append("account-1", ExpectedVersion::StreamExists, [opened()]).unwrap();
        drop(store);
        held.assert_again(directory.path(), "a store that was closed");
    });
}

#[derive(Default, Serialize, Deserialize)]
struct Nothing;

#[derive(Deserialize)]
enum Any {
    Opened,
}

impl ProcessManager for Nothing {
    const NAME: &'static str = "nothing";
    type Event = Any;
    type Command = ();

    fn instance_of(_: &Any, _: &annals::Event<'_>) -> Option<String> {
        None
    }

    fn on_event(&mut self, _: &Any, _: &mut Reactions<()>) {}
}

fn count(count: &mut u64, _: &annals::Event<'_>) -> Result<(), HandlerError> {
    *count += 1;
    Ok(())
}

/// A name that was refused its thread is free again, and what was to be done is done when there are threads.
#[test]
fn what_runs_in_the_background_is_refused_and_starts_later() {
    alone_with_large_stacks("threads::what_runs_in_the_background_is_refused_and_starts_later", || {
        let directory = directory();
        let store = Store::open(directory.path()).unwrap();
        store.append("account-1", ExpectedVersion::NoStream, [opened()]).unwrap();
        // What is opened when it is first used is open.
        store.state().unwrap().put("key", "value").unwrap();
        let reactor = || store.react("reactor", |_: &annals::Event<'_>| Ok::<(), HandlerError>(())).start();
        let projection = || store.projection_over("count", Query::all(), 0, count).start();
        let process = || store.process::<Nothing>(|(), _| Ok(())).start();
        let held = Held::now(directory.path());
        without_threads(|| {
            assert_refused(reactor());
            assert_refused(projection());
            assert_refused(process());
        });
        held.assert_again(directory.path(), "refused");
        let (reactor, projection, process) = (reactor().unwrap(), projection().unwrap(), process().unwrap());
        let head = store.head().unwrap().unwrap();
        reactor.wait_for(head).unwrap();
        projection.wait_for(head).unwrap();
        assert_eq!(*projection.view(), 1);
        drop((reactor, projection, process));
        held.assert_again(directory.path(), "stopped");
    });
}

/// A replay panicked when it was given no thread.
#[test]
fn a_parallel_replay_without_threads_is_an_error_and_handles_nothing() {
    alone_with_large_stacks("threads::a_parallel_replay_without_threads_is_an_error_and_handles_nothing", || {
        let directory = directory();
        let store = Store::open(directory.path()).unwrap();
        (0..10).for_each(|_| drop(store.append("account-1", ExpectedVersion::Any, [opened()]).unwrap()));
        let held = Held::now(directory.path());
        let handled = std::sync::atomic::AtomicU64::new(0);
        let replay = || {
            store.replay(Query::all()).parallel(4).run(|_| {
                handled.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            })
        };
        match without_threads(replay) {
            Err(ReplayError::Store(error @ Error::Io { .. })) => assert_refused(Err::<(), _>(error)),
            other => panic!("{other:?}"),
        }
        assert_eq!(handled.load(std::sync::atomic::Ordering::Relaxed), 0);
        held.assert_again(directory.path(), "refused");
        replay().unwrap();
        assert_eq!(handled.load(std::sync::atomic::Ordering::Relaxed), 10);
        held.assert_again(directory.path(), "done");
    });
}

#[test]
#[cfg(feature = "tokio")]
fn what_is_awaited_without_threads_is_an_error_and_goes_later() {
    alone_with_large_stacks("threads::what_is_awaited_without_threads_is_an_error_and_goes_later", || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let directory = directory();
        let store = Store::open(directory.path()).unwrap();
        let held = Held::now(directory.path());
        let append = || runtime.block_on(store.append_async("account-1", ExpectedVersion::Any, [opened()]));
        let refused = without_threads(append).unwrap_err();
        assert_eq!(os_error(refused.error()), Some(EAGAIN), "{refused:?}");
        let stream = || store.follow(Query::all()).subscribe().into_stream();
        assert_refused(without_threads(stream));
        held.assert_again(directory.path(), "refused");
        // The commit came back with the error.
        runtime.block_on(store.send_async(refused.into_commit())).unwrap();
        append().unwrap();
        assert_eq!(store.read(Query::stream("account-1")).count().unwrap(), 2);
        drop(stream().unwrap());
    });
}
