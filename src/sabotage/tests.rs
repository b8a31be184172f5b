//! Runs the suite of each sabotage in a process that is sabotaged, and shows when it was caught.
//!
//! ```text
//! cargo test --all-features --lib sabotage -- --nocapture
//! ANNALS_SABOTAGE=NoTailCut cargo test --all-features --lib store::crashes
//! ```

use std::process::{Command, Output};
use std::sync::OnceLock;

use super::Sabotage;

const CHOICE: &str = "ANNALS_SABOTAGE";
/// A sabotage that shows in one of six hundred histories is caught in so many with a chance of 99 in 100.
const HISTORIES_MAX: u64 = 3000;
/// So few show that a suite is there and passes. In large numbers it runs by itself.
const HISTORIES_MIN: u64 = 20;

/// The tests that catch sabotages.
const STORE: &str = "store::crashes::what_was_acknowledged_survives_every_crash_and_nothing_else_is_served";
const PROJECTION: &str = "projection::crashes::a_model_is_what_its_checkpoint_says_after_every_crash";
const BACKUP: &str = "store::sweeps::backups::a_backup_that_was_made_is_whole_after_a_loss_of_power";
const HEADER: &str = "format::frame::tests::every_flipped_bit_of_a_header_is_noticed_before_its_length_is_used";
const INDEX: &str = "index::run::tests::every_flipped_bit_is_noticed";
const ONE_WINNER: &str = "store::schedules::appending::of_writers_with_one_expectation_exactly_one_wins";
const WRITTEN_ONCE: &str = "store::schedules::appending::the_same_commit_from_several_threads_is_written_once";
const CONDITION: &str = "store::schedules::appending::of_writers_with_one_condition_exactly_one_wins";

/// The sabotage of this process.
pub(super) fn chosen() -> Option<Sabotage> {
    static CHOSEN: OnceLock<Option<Sabotage>> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let name = std::env::var(CHOICE).ok()?;
        let named = Sabotage::ALL.iter().copied().find(|sabotage| sabotage.name() == name);
        Some(named.unwrap_or_else(|| panic!("{CHOICE} is {name:?}, and the sabotages are {:?}", Sabotage::ALL)))
    })
}

impl Sabotage {
    fn name(self) -> String {
        format!("{self:?}")
    }

    /// The test that catches it.
    fn suite(self) -> &'static str {
        match self {
            Sabotage::NeverSync
            | Sabotage::SyncEveryFourth
            | Sabotage::AcknowledgeBeforeSync
            | Sabotage::RetrySync
            | Sabotage::NoSyncAtRoll
            | Sabotage::SyncedHeadEarly
            | Sabotage::DurableAddressEarly
            | Sabotage::NoDirectorySync
            | Sabotage::RenameBeforeSync
            | Sabotage::FullAfterSequencing
            | Sabotage::ClockBackward
            | Sabotage::StayClosed
            | Sabotage::ConfirmNothing
            | Sabotage::NoTailCut
            | Sabotage::ReuseTornPoint
            | Sabotage::ServeUnconfirmed
            | Sabotage::TrustHeader
            | Sabotage::TrustRecord
            | Sabotage::IndexBeforeSync
            | Sabotage::IndexBeforeLog
            | Sabotage::TrustSnapshot
            | Sabotage::TrimBeforeSync
            | Sabotage::CheckpointBeforeAck => STORE,
            Sabotage::CheckpointBeforeView => PROJECTION,
            Sabotage::BackupWithoutSync => BACKUP,
            Sabotage::ChecksumWithoutLength => HEADER,
            Sabotage::TrustIndexPage => INDEX,
            Sabotage::CheckBeforeTurn => ONE_WINNER,
            Sabotage::ConflictInFlight => WRITTEN_ONCE,
            Sabotage::ConditionsMissInFlight => CONDITION,
        }
    }
}

/// Runs a test of this program in a process of its own.
fn run(test: &str, sabotage: Option<Sabotage>, histories: u64) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]);
    // Nothing that was chosen for this process is meant for that one.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ANNALS_")) {
        command.env_remove(name);
    }
    for prefix in ["ANNALS_CRASH", "ANNALS_PROJECTION"] {
        command.env(format!("{prefix}_HISTORIES"), histories.to_string());
    }
    if let Some(sabotage) = sabotage {
        command.env(CHOICE, sabotage.name());
    }
    command.output().unwrap()
}

/// After what the test failed; `None` if it did not. One that goes through histories fails in one of them, and not because
/// too little happened.
fn caught(suite: &str, output: &Output) -> Option<String> {
    let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if !told.contains("test result: FAILED. 0 passed; 1 failed") {
        return None;
    }
    let seed = told.rsplit_once("_SEED=").and_then(|(_, rest)| rest.split(' ').next()?.parse::<u64>().ok());
    match seed {
        None if [STORE, PROJECTION].contains(&suite) => None,
        None => Some("1 test".to_owned()),
        Some(0) => Some("1 history".to_owned()),
        Some(seed) => Some(format!("{} histories", seed + 1)),
    }
}

#[test]
fn every_sabotage_is_caught_by_its_suite() {
    println!("| sabotage | suite | caught after |\n|---|---|---:|");
    let mut escaped = Vec::new();
    for sabotage in Sabotage::ALL {
        let suite = sabotage.suite();
        let caught = caught(suite, &run(suite, Some(*sabotage), HISTORIES_MAX));
        println!("| {sabotage:?} | {suite} | {} |", caught.as_deref().unwrap_or("-"));
        escaped.extend(caught.is_none().then_some(*sabotage));
    }
    assert_eq!(escaped, [], "these were not caught");
}

#[test]
fn without_a_sabotage_every_suite_passes() {
    let mut suites: Vec<&str> = Sabotage::ALL.iter().map(|sabotage| sabotage.suite()).collect();
    suites.sort_unstable();
    suites.dedup();
    for suite in suites {
        let output = run(suite, None, HISTORIES_MIN);
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(told.contains("test result: ok. 1 passed"), "{suite}: {told}");
    }
}

/// Who looks a sabotage up finds it, beside the suite that catches it.
#[test]
fn the_table_of_reliability_names_every_sabotage_and_its_suite() {
    let table = include_str!("../../docs/RELIABILITY.md");
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| `") && line.contains("` | ")).collect();
    for sabotage in Sabotage::ALL {
        let (name, module) = (format!("| `{sabotage:?}` | "), sabotage.suite().rsplit_once("::").unwrap().0);
        let row = rows.iter().find(|row| row.starts_with(&name));
        assert!(row.is_some_and(|row| row.contains(&format!("| `{module}` | "))), "{sabotage:?} of {module}: {row:?}");
    }
}
