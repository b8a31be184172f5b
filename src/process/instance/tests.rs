//! What each step makes of an instance, and the limits of what it may ask for.

use std::time::Duration;

use super::*;
use crate::error::Error;

type Saga = Instance<u32, &'static str>;

fn instance() -> Saga {
    Instance::new(Place { position: Position::FIRST, ordinal: 0 }, 0)
}

fn reactions() -> Reactions<&'static str> {
    Reactions::new("one", Timestamp::from_millis(1_000))
}

fn react(saga: &mut Saga, ask: impl FnOnce(&mut Reactions<&'static str>)) {
    let mut asked = reactions();
    ask(&mut asked);
    saga.apply(Uuid::from_u128(1), asked).unwrap();
}

fn pending(saga: &Saga) -> Vec<&'static str> {
    saga.pending.iter().map(|pending| pending.command).collect()
}

fn timer(name: &str, millis: i64) -> Timer {
    Timer { name: name.into(), due: Timestamp::from_millis(millis) }
}

fn failed(reason: &str) -> ProcessStatus {
    ProcessStatus::Failed { reason: reason.into() }
}

#[test]
fn an_instance_completes_once_its_last_command_has_succeeded() {
    let mut saga = instance();
    react(&mut saga, |reactions| {
        reactions.execute("pack");
        reactions.execute("ship");
        reactions.after(Duration::from_secs(1), "late");
        reactions.complete();
    });
    assert_eq!((saga.status.clone(), pending(&saga)), (ProcessStatus::Completing, vec!["pack", "ship"]));
    let first = saga.succeeded();
    assert_ne!(first, saga.succeeded());
    assert_eq!((saga.status.clone(), saga.timers.len()), (ProcessStatus::Completed, 0));
}

#[test]
fn what_succeeded_is_undone_in_reverse_order_after_the_last_wishes() {
    let mut saga = instance();
    react(&mut saga, |reactions| reactions.compensate_with("close"));
    react(&mut saga, |reactions| {
        reactions.execute("reserve").compensated_by("release");
        reactions.execute("pay").compensated_by("refund");
    });
    saga.succeeded();
    saga.succeeded();
    react(&mut saga, |reactions| {
        reactions.execute("tell");
        reactions.fail("lost");
    });
    assert_eq!(pending(&saga), ["tell", "refund", "release", "close"]);
    for _ in 0..4 {
        saga.succeeded();
    }
    assert_eq!((saga.status.clone(), saga.compensations.len()), (failed("lost"), 0));
}

#[test]
fn a_rejected_command_is_not_undone_and_drops_those_behind_it() {
    let mut saga = instance();
    react(&mut saga, |reactions| {
        reactions.execute("reserve").compensated_by("release");
        reactions.execute("pay").compensated_by("refund");
        reactions.execute("ship").compensated_by("return");
        reactions.complete();
    });
    saga.succeeded();
    let rejected = saga.rejected("no money").unwrap();
    assert_eq!((rejected.command, pending(&saga)), ("pay", vec![]));
    assert_eq!(saga.status, ProcessStatus::Running, "what it was to complete with did not happen");
    react(&mut saga, |reactions| reactions.fail("no money"));
    assert_eq!(pending(&saga), ["release"]);
}

#[test]
fn a_rejected_compensation_is_remembered_and_the_others_are_carried_out() {
    let mut saga = instance();
    react(&mut saga, |reactions| {
        reactions.compensate_with("release");
        reactions.compensate_with("refund");
        reactions.fail("lost");
    });
    assert_eq!(saga.rejected("account closed"), None);
    assert_eq!(pending(&saga), ["release"]);
    saga.succeeded();
    assert_eq!(saga.status, failed("lost"));
    let left = NotCompensated { command: "refund", reason: "account closed".into() };
    assert_eq!(saga.not_compensated, [left]);
}

#[test]
fn fail_counts_more_than_complete_whichever_comes_first() {
    for fail_first in [true, false] {
        let mut saga = instance();
        react(&mut saga, |reactions| {
            if fail_first {
                reactions.fail("lost");
            }
            reactions.complete();
            if !fail_first {
                reactions.fail("lost");
            }
        });
        assert_eq!(saga.status, failed("lost"));
    }
}

#[test]
fn a_timer_is_moved_cancelled_and_fired_once() {
    let mut saga = instance();
    react(&mut saga, |reactions| reactions.after(Duration::from_secs(1), "late"));
    assert_eq!(saga.timers, [timer("late", 2_000)]);
    react(&mut saga, |reactions| reactions.at(Timestamp::from_millis(5_000), "late"));
    assert_eq!(saga.timers, [timer("late", 5_000)]);
    assert!(!saga.fire(&timer("late", 2_000)), "it was moved");
    assert!(saga.fire(&timer("late", 5_000)));
    assert!(!saga.fire(&timer("late", 5_000)), "it fires once");
    assert!(saga.take_fired(&timer("late", 5_000)));
    assert!(!saga.take_fired(&timer("late", 5_000)), "it is reacted to once");
}

#[test]
fn a_timer_that_is_due_and_not_reacted_to_can_be_cancelled() {
    let mut saga = instance();
    react(&mut saga, |reactions| reactions.after(Duration::from_secs(1), "late"));
    assert!(saga.fire(&timer("late", 2_000)));
    react(&mut saga, |reactions| reactions.cancel("late"));
    assert!(!saga.take_fired(&timer("late", 2_000)));
}

#[test]
fn a_delay_beyond_all_time_is_due_at_its_end() {
    let mut asked = reactions();
    asked.after(Duration::MAX, "never");
    assert_eq!(asked.timers().collect::<Vec<_>>(), [("never", Some(Timestamp::MAX))]);
}

#[test]
fn an_instance_that_has_ended_can_only_ask_for_commands() {
    let mut saga = instance();
    react(&mut saga, Reactions::complete);
    let refused: [fn(&mut Reactions<&'static str>); 4] = [
        |reactions| reactions.after(Duration::ZERO, "late"),
        |reactions| reactions.compensate_with("refund"),
        |reactions| reactions.execute("pay").compensated_by("refund"),
        |reactions| reactions.fail("late"),
    ];
    for ask in refused {
        let mut asked = reactions();
        ask(&mut asked);
        assert!(matches!(saga.apply(Uuid::nil(), asked), Err(Error::Invalid(_))));
    }
    react(&mut saga, |reactions| {
        reactions.execute("refund");
    });
    assert_eq!(saga.rejected("no"), None, "nobody is asked");
    assert_eq!((saga.status.clone(), saga.not_compensated.len()), (ProcessStatus::Completed, 1));
}

/// Applies what `ask` asks for `count` times, and says whether that was allowed.
fn allows(count: usize, ask: impl Fn(&mut Reactions<&'static str>, usize)) -> bool {
    let mut asked = reactions();
    (0..count).for_each(|number| ask(&mut asked, number));
    instance().apply(Uuid::nil(), asked).is_ok()
}

#[test]
fn limits_hold_at_n_and_n_plus_one() {
    let command = |reactions: &mut Reactions<_>, _| {
        reactions.execute("pay");
    };
    assert!(allows(COMMANDS_PER_REACTION_MAX, command));
    assert!(!allows(COMMANDS_PER_REACTION_MAX + 1, command));
    let compensation = |reactions: &mut Reactions<_>, _| reactions.compensate_with("refund");
    assert!(allows(COMPENSATIONS_PER_INSTANCE_MAX, compensation));
    assert!(!allows(COMPENSATIONS_PER_INSTANCE_MAX + 1, compensation));
    let timer = |reactions: &mut Reactions<_>, number: usize| reactions.after(Duration::ZERO, number.to_string());
    assert!(allows(TIMERS_PER_INSTANCE_MAX, timer));
    assert!(!allows(TIMERS_PER_INSTANCE_MAX + 1, timer));
    let named = |len| move |reactions: &mut Reactions<_>, _| reactions.after(Duration::ZERO, "x".repeat(len));
    assert!(allows(1, named(TIMER_NAME_BYTES_MAX)));
    assert!(!allows(1, named(TIMER_NAME_BYTES_MAX + 1)));
    assert!(!allows(1, named(0)));
}

#[test]
fn everything_wrong_with_a_reaction_is_told_at_once() {
    let mut asked = reactions();
    asked.after(Duration::ZERO, "");
    (0..=COMMANDS_PER_REACTION_MAX).for_each(|_| {
        asked.execute("pay");
    });
    let Err(Error::Invalid(invalid)) = instance().apply(Uuid::nil(), asked) else { panic!("allowed") };
    assert_eq!(invalid.violations.len(), 2);
}

#[test]
fn an_instance_that_goes_on_asking_for_what_is_rejected_fails() {
    let mut saga = instance();
    react(&mut saga, |reactions| reactions.compensate_with("close"));
    for _ in 0..REJECTIONS_IN_A_ROW_MAX {
        react(&mut saga, |reactions| {
            reactions.execute("pay");
        });
        assert!(saga.rejected("no money").is_some());
    }
    react(&mut saga, |reactions| {
        reactions.execute("pay");
    });
    assert_eq!(saga.rejected("no money"), None);
    assert_eq!(pending(&saga), ["close"]);
    assert!(matches!(saga.status, ProcessStatus::Compensating { .. }));
}

#[test]
fn an_abandoned_instance_has_ended_with_nothing_undone() {
    let mut saga = instance();
    react(&mut saga, |reactions| {
        reactions.execute("pay").compensated_by("refund");
        reactions.after(Duration::ZERO, "late");
    });
    saga.abandon("by hand");
    assert_eq!((saga.status.clone(), saga.pending.len(), saga.timers.len()), (failed("by hand"), 0, 0));

    react(&mut saga, |reactions| {
        reactions.execute("refund");
    });
    assert!(saga.status.has_ended() && saga.is_open(), "it has something to do again");
    saga.abandon("again");
    assert_eq!((saga.status.clone(), saga.is_open()), (failed("by hand"), false));
}

#[test]
fn a_reason_is_cut_at_its_limit_between_characters() {
    let longest = "x".repeat(REASON_BYTES_MAX);
    assert_eq!(cut(longest.clone()), longest);
    assert_eq!(cut(longest.clone() + "x"), longest);
    assert_eq!(cut("x".repeat(REASON_BYTES_MAX - 1) + "é").len(), REASON_BYTES_MAX - 1);
    let mut saga = instance();
    react(&mut saga, |reactions| reactions.fail(longest.clone() + "x"));
    assert_eq!(saga.status, failed(&longest));
}

#[test]
fn what_was_not_compensated_is_kept_up_to_a_limit() {
    let mut saga = instance();
    react(&mut saga, Reactions::complete);
    for _ in 0..=COMPENSATIONS_PER_INSTANCE_MAX {
        react(&mut saga, |reactions| {
            reactions.execute("refund");
        });
        assert_eq!(saga.rejected("no"), None);
    }
    assert_eq!(saga.not_compensated.len(), COMPENSATIONS_PER_INSTANCE_MAX);
}

#[test]
fn an_instance_survives_its_encoding() {
    let mut saga: Instance<u32, String> = Instance::new(Place { position: Position::FIRST, ordinal: 2 }, 7);
    let mut asked = Reactions::new("one", Timestamp::from_millis(1_000));
    asked.execute("pay".to_owned()).compensated_by("refund".to_owned());
    asked.compensate_with("close".to_owned());
    asked.after(Duration::from_secs(1), "late");
    asked.after(Duration::from_secs(2), "later");
    saga.apply(Uuid::nil(), asked).unwrap();
    assert!(saga.fire(&timer("late", 2_000)));
    let text = serde_json::to_string(&saga).unwrap();
    assert_eq!(serde_json::from_str::<Instance<u32, String>>(&text).unwrap(), saga);
}

#[test]
fn an_instance_with_all_the_timers_it_may_have_can_still_cancel_and_move_them() {
    let mut saga = instance();
    react(&mut saga, |reactions| {
        (0..TIMERS_PER_INSTANCE_MAX).for_each(|number| reactions.after(Duration::from_secs(1), number.to_string()));
    });
    react(&mut saga, |reactions| reactions.cancel("0"));
    assert_eq!(saga.timers.len(), TIMERS_PER_INSTANCE_MAX - 1);
}

/// A command that is nothing but its name says nothing in JSON.
#[test]
fn what_undoes_a_command_is_kept_also_where_it_says_nothing() {
    let mut saga: Instance<u32, ()> = Instance::new(Place { position: Position::FIRST, ordinal: 0 }, 0);
    let mut asked = Reactions::new("one", Timestamp::from_millis(0));
    asked.execute(()).compensated_by(());
    asked.execute(());
    saga.apply(Uuid::nil(), asked).unwrap();
    let again: Instance<u32, ()> = serde_json::from_str(&serde_json::to_string(&saga).unwrap()).unwrap();
    assert_eq!(again, saga);
}
