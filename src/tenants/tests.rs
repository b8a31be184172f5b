//! What of tenants is seen only from inside: the arithmetic of quotas, and slots that are let go.

use super::quotas::Ledger;
use super::*;
use crate::clock::{Clock, ManualClock};
use crate::types::Timestamp;

fn ledger(quotas: Quotas) -> (Ledger, ManualClock) {
    let clock = ManualClock::new(Timestamp::default());
    let ledger = Ledger::new("acme", &(Arc::new(clock.clone()) as Arc<dyn Clock>));
    ledger.set_quotas(quotas);
    (ledger, clock)
}

/// What an admission was refused for.
fn refusal(admitted: Result<()>) -> (Quota, u64, u64) {
    match admitted {
        Err(Error::Quota { tenant, what, used, limit }) => {
            assert_eq!(tenant, "acme");
            (what, used, limit)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn events_and_bytes_are_admitted_up_to_the_limit() {
    let (ledger, _) = ledger(Quotas::unlimited().events_max(10).bytes_max(1_000));
    ledger.begin(Usage { events: 4, bytes: 100 });
    ledger.admit(5, 200).unwrap();
    assert_eq!(refusal(ledger.admit(2, 201)), (Quota::Events, 11, 10));
    assert_eq!(refusal(ledger.admit(1, 1_001)), (Quota::Bytes, 1_001, 1_000));
    // What was refused was not counted.
    ledger.admit(1, 1_000).unwrap();
    assert_eq!(refusal(ledger.admit(1, 0)), (Quota::Events, 11, 10));
    ledger.set_quotas(Quotas::unlimited());
    ledger.admit(u64::MAX, u64::MAX).unwrap();
}

#[test]
fn a_rate_refuses_until_exactly_the_time_that_it_says() {
    let (ledger, clock) = ledger(Quotas::unlimited().events_per_second(3).burst_events(5));
    ledger.admit(5, 0).unwrap();
    let (what, used, limit) = refusal(ledger.admit(1, 0));
    let Quota::Rate { retry_after: Some(retry_after) } = what else { panic!("{what:?}") };
    assert_eq!((retry_after, used, limit), (Duration::from_nanos(333_333_334), 6, 5));
    clock.advance(retry_after.saturating_sub(Duration::from_nanos(1)));
    refusal(ledger.admit(1, 0));
    assert!(!ledger.is_rested());
    clock.advance(Duration::from_nanos(1));
    ledger.admit(1, 0).unwrap();
    refusal(ledger.admit(1, 0));
    // A long rest fills the bucket, and no more.
    clock.advance(Duration::from_secs(3_600));
    assert!(ledger.is_rested());
    ledger.admit(5, 0).unwrap();
    refusal(ledger.admit(1, 0));
}

#[test]
fn over_a_long_time_the_rate_is_exact() {
    let (ledger, clock) = ledger(Quotas::unlimited().events_per_second(7).burst_events(2));
    let mut admitted = 0;
    for _ in 0..7_000 {
        admitted += u64::from(ledger.admit(1, 0).is_ok());
        clock.advance(Duration::from_millis(10));
    }
    // Two at the beginning, and seven in each of 70 seconds but for the last 10 ms.
    assert_eq!(admitted, 2 + 7 * 70 - 1);
}

#[test]
fn a_commit_larger_than_the_burst_is_never_admitted() {
    let (ledger, clock) = ledger(Quotas::unlimited().events_per_second(3));
    assert_eq!(refusal(ledger.admit(4, 0)), (Quota::Rate { retry_after: None }, 4, 3));
    clock.advance(Duration::from_secs(60));
    refusal(ledger.admit(4, 0));
    ledger.admit(3, 0).unwrap();
    ledger.set_quotas(Quotas::unlimited().events_per_second(0).burst_events(1));
    assert_eq!(refusal(ledger.admit(1, 0)).0, Quota::Rate { retry_after: None });
}

#[test]
#[cfg(not(miri))]
fn slots_of_tenants_that_are_not_open_are_let_go() {
    let root = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(Timestamp::default());
    let quotas = Quotas::unlimited().events_per_second(1);
    let tenants = TenantsOptions::new()
        .open_stores_max(1)
        .clock(clock.clone())
        .per_tenant(move |name| {
            let quotas = if name == "busy" { quotas } else { Quotas::unlimited() };
            TenantOptions::new().quotas(quotas).store(Options::new().without_background_work())
        })
        .open(root.path())
        .unwrap();
    let event = || [crate::NewEvent::raw("A", "")];
    tenants.store("busy").unwrap().append("a-1", crate::ExpectedVersion::Any, event()).unwrap();
    for number in 0..12 {
        tenants.store(&format!("t{number}")).unwrap();
    }
    // Its bucket is not full: closing and opening the store is no way around the rate.
    let slots = tenants.shared.slots.lock().by_tenant.len();
    assert!(slots <= SLOTS_PER_OPEN_STORE + 1, "{slots}");
    let busy = tenants.store("busy").unwrap();
    let refused = busy.append("a-1", crate::ExpectedVersion::Any, event()).unwrap_err();
    assert!(matches!(refused.error(), Error::Quota { what: Quota::Rate { .. }, .. }));
    clock.advance(Duration::from_secs(1));
    busy.append("a-1", crate::ExpectedVersion::Any, event()).unwrap();
}
