//! Runs the mutants that cargo-mutants lists, all of them compiled into one build and chosen at run time.
//!
//! cargo-mutants builds the crate anew for each mutant, which takes a day for a few thousand. Here the sources are copied,
//! every place with mutants becomes a `match` on a number from the environment, and only the tests that reach a place
//! run against its mutants. What cannot be done so, such as a mutant in a constant, is left to cargo-mutants and told.
//!
//! ```text
//! cargo run --release --manifest-path .ci/mutants/Cargo.toml -- --scratch target/mutants 'src/format/**'
//! ```

mod judge;
mod plan;
mod schemata;
mod tree;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use judge::{Suite, Verdict};
use plan::Mutant;
use serde::{Deserialize, Serialize};
use tree::{Planted, Program, Tree};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What the command line says.
#[derive(Debug)]
struct Arguments {
    files: Vec<String>,
    scratch: PathBuf,
    minutes: u64,
    jobs: usize,
    /// Beginnings of the names of the unit tests that run.
    prefixes: Vec<String>,
    /// Passed to cargo: features and targets.
    cargo: Vec<String>,
    /// Modules at the root of the crate that are not built, since nothing with mutants needs them.
    left_out: Vec<String>,
    /// Names the mutants that earlier runs of the same sources caught, which are not tried again. Those that this one
    /// catches are added.
    caught: Option<PathBuf>,
    /// Take the programs that an earlier run has built.
    reuse: bool,
    /// Tests that take longer than this are left out.
    slowest_seconds: u64,
    /// Tests of about so many seconds run against a mutant, those of its own module first.
    budget_seconds: u64,
    /// Beginnings of files: only their mutants are tried, in this order.
    only: Vec<String>,
}

fn main() -> ExitCode {
    match arguments().and_then(|arguments| run(&arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(2),
        Err(failure) => {
            eprintln!("annals-mutants: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<Arguments, Failure> {
    let mut arguments = Arguments {
        files: Vec::new(),
        scratch: "target/mutants".into(),
        minutes: 24 * 60,
        jobs: 1,
        prefixes: Vec::new(),
        cargo: Vec::new(),
        left_out: Vec::new(),
        caught: None,
        reuse: false,
        slowest_seconds: u64::MAX,
        budget_seconds: u64::MAX,
        only: Vec::new(),
    };
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut value = || given.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--scratch" => arguments.scratch = value()?.into(),
            "--minutes" => arguments.minutes = value()?.parse()?,
            "--jobs" => arguments.jobs = value()?.parse()?,
            "--unit" => arguments.prefixes.push(value()?),
            "--cargo" => arguments.cargo.extend(value()?.split_whitespace().map(str::to_owned)),
            "--leave-out" => arguments.left_out.extend(value()?.split(',').map(str::to_owned)),
            "--caught" => arguments.caught = Some(value()?.into()),
            "--reuse" => arguments.reuse = true,
            "--budget" => arguments.budget_seconds = value()?.parse()?,
            "--only" => arguments.only.push(value()?),
            "--slowest" => arguments.slowest_seconds = value()?.parse()?,
            file if !file.starts_with('-') => arguments.files.push(file.into()),
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    Ok(arguments)
}

/// Whether no mutant survived.
fn run(arguments: &Arguments) -> Result<bool, Failure> {
    let project = std::env::current_dir()?;
    fs::create_dir_all(&arguments.scratch)?;
    let scratch = arguments.scratch.canonicalize()?;
    let built = scratch.join("built.json");
    if !arguments.reuse {
        fs::write(&built, serde_json::to_vec(&build(arguments, &project, &scratch)?)?)?;
    }
    let Built { mutants, planted, programs } = serde_json::from_slice(&fs::read(&built)?)?;
    let slowest = Duration::from_secs(arguments.slowest_seconds);
    let suite = Suite::survey(programs, &arguments.prefixes, &scratch, slowest)?;
    eprintln!("{} tests pass without a mutant", suite.len());
    let verdicts = judge_all(&suite, &mutants, &planted, arguments)?;
    let _ = fs::remove_dir_all(scratch.join("tmp"));
    Ok(report(&mutants, &planted, &verdicts))
}

/// The programs with the mutants in them.
#[derive(Debug, Deserialize, Serialize)]
struct Built {
    mutants: Vec<Mutant>,
    planted: Planted,
    programs: Vec<Program>,
}

fn build(arguments: &Arguments, project: &Path, scratch: &Path) -> Result<Built, Failure> {
    let mutants = plan::list(project, &arguments.files)?;
    eprintln!("{} mutants are listed", mutants.len());
    let tree = Tree::copy(project, scratch, arguments.cargo.clone(), arguments.left_out.clone())?;
    let planted = tree.plant(project, &mutants)?;
    eprintln!("{} of them are compiled in", planted.viable.len());
    Ok(Built { mutants, planted, programs: tree.build()? })
}

/// Judges the mutants on several threads, as long as there is time. What is caught is kept for a later run.
fn judge_all(
    suite: &Suite,
    mutants: &[Mutant],
    planted: &Planted,
    arguments: &Arguments,
) -> Result<BTreeMap<usize, Verdict>, Failure> {
    let kept = arguments.caught.as_deref();
    let known = kept.and_then(|kept| fs::read_to_string(kept).ok()).unwrap_or_default();
    let mut verdicts: BTreeMap<usize, Verdict> = BTreeMap::new();
    for number in &planted.viable {
        if known.lines().any(|name| name == mutants[*number].name) {
            verdicts.insert(*number, Verdict::Caught);
        }
    }
    let kept = kept.map(|kept| File::options().create(true).append(true).open(kept)).transpose()?;
    let file = Mutex::new(kept);
    let rank = |number: &usize| arguments.only.iter().position(|only| mutants[*number].file.starts_with(only));
    let is_wanted = |number: &usize| arguments.only.is_empty() || rank(number).is_some();
    let untried = planted.viable.iter().copied().filter(|number| !verdicts.contains_key(number));
    let mut left: Vec<usize> = untried.filter(is_wanted).collect();
    left.sort_by_key(|number| (rank(number), *number));
    let budget = Duration::from_secs(arguments.budget_seconds);
    let (next, verdicts) = (AtomicUsize::new(0), Mutex::new(verdicts));
    let until = Instant::now() + Duration::from_secs(arguments.minutes * 60);
    let work = || -> Result<(), Failure> {
        while let Some(number) = left.get(next.fetch_add(1, Ordering::Relaxed)).filter(|_| Instant::now() < until) {
            let verdict = suite.judge(*number, &mutants[*number].file, budget)?;
            let name = &mutants[*number].name;
            match verdict {
                Verdict::Caught | Verdict::TimedOut => {
                    if let Some(kept) = &mut *file.lock().expect("no panic") {
                        writeln!(kept, "{name}")?;
                    }
                }
                Verdict::Survived | Verdict::Unreached => println!("{verdict:?}: {name}"),
            }
            verdicts.lock().expect("no panic").insert(*number, verdict);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..arguments.jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no panic"))
    })?;
    Ok(verdicts.into_inner()?)
}

/// Prints a table; whether no mutant survived.
fn report(mutants: &[Mutant], planted: &Planted, verdicts: &BTreeMap<usize, Verdict>) -> bool {
    println!(
        "\n| module | mutants | unviable | caught | by a time-out | survived | not reached | not compiled in | not tried |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut modules: BTreeMap<String, [usize; 8]> = BTreeMap::new();
    for (number, mutant) in mutants.iter().enumerate() {
        let column = match verdicts.get(&number) {
            _ if planted.unviable.contains(&number) => 1,
            _ if planted.inexpressible.contains(&number) => 6,
            Some(Verdict::Caught) => 2,
            Some(Verdict::TimedOut) => 3,
            Some(Verdict::Survived) => 4,
            Some(Verdict::Unreached) => 5,
            None => 7,
        };
        for module in [module_of(&mutant.file), "all".into()] {
            let counts = modules.entry(module).or_default();
            counts[0] += 1;
            counts[column] += 1;
        }
        if column == 6 {
            println!("not compiled in: {}", mutant.name);
        }
    }
    for (module, counts) in &modules {
        let counts: Vec<String> = counts.iter().map(usize::to_string).collect();
        println!("| `{module}` | {} |", counts.join(" | "));
    }
    verdicts.values().all(|verdict| matches!(verdict, Verdict::Caught | Verdict::TimedOut))
}

fn module_of(file: &str) -> String {
    file.rsplit_once('/').map_or(file, |(directory, _)| directory).to_owned()
}
