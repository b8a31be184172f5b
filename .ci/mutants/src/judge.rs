//! Runs tests: once without a mutant to learn which places each of them reaches, then against each mutant those that
//! reach it, the quick ones first, until one of them fails.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Failure;
use crate::tree::Program;

/// What tests may take beyond four times what they take without a mutant.
const PATIENCE: Duration = Duration::from_secs(15);
/// Seconds that a test may take without a mutant.
const SURVEY_SECONDS_MAX: u64 = 600;
/// A mutant may run wild: memory and file sizes, in KiB, and time end here, even if nobody is left who waits for it.
const LIMITS: &str = "ulimit -v 8000000 -f 4000000; exec timeout --signal=KILL $SECONDS_MAX \"$0\" \"$@\"";
/// What `timeout` ends with when the time was over.
const TIME_IS_OVER: i32 = 137;

/// A test, and what is known of it.
#[derive(Debug)]
pub(crate) struct Test {
    program: usize,
    name: String,
    took: Duration,
    reaches: BTreeSet<usize>,
}

/// How a mutant fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Caught,
    /// Caught, by not coming to an end.
    TimedOut,
    Survived,
    /// No test reaches the place.
    Unreached,
}

/// The tests of a tree with mutants.
#[derive(Debug)]
pub(crate) struct Suite {
    root: PathBuf,
    scratch: PathBuf,
    programs: Vec<Program>,
    tests: Vec<Test>,
}

impl Suite {
    /// Runs each test whose name begins with one of these once. One that fails without a mutant says nothing of any.
    pub(crate) fn survey(
        programs: Vec<Program>,
        prefixes: &[String],
        scratch: &Path,
        slowest: Duration,
    ) -> Result<Self, Failure> {
        let temporary = scratch.join("tmp");
        fs::create_dir_all(&temporary)?;
        let mut suite = Self { root: scratch.join("tree"), scratch: scratch.into(), programs, tests: Vec::new() };
        for program in 0..suite.programs.len() {
            for name in suite.names(program, prefixes)? {
                match suite.run_once(program, name.clone())? {
                    Some(test) if test.took > slowest => eprintln!("{:?} for {name}: left out", test.took),
                    Some(test) => suite.tests.push(test),
                    None => eprintln!("without a mutant, {}: {name} does not pass", suite.programs[program].name),
                }
            }
        }
        suite.tests.sort_by_key(|test| test.took);
        Ok(suite)
    }

    pub(crate) fn len(&self) -> usize {
        self.tests.len()
    }

    fn names(&self, program: usize, prefixes: &[String]) -> Result<Vec<String>, Failure> {
        let output = Command::new(&self.programs[program].path).args(["--list", "--format=terse"]).output()?;
        let text = String::from_utf8(output.stdout)?;
        let names = text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned);
        let is_lib = self.programs[program].name == "annals";
        Ok(names.filter(|name| !is_lib || prefixes.iter().any(|prefix| name.starts_with(prefix))).collect())
    }

    fn run_once(&self, program: usize, name: String) -> Result<Option<Test>, Failure> {
        let trace = self.scratch.join("trace");
        fs::write(&trace, "")?;
        let began = Instant::now();
        let mut command = self.command(program, [name.as_str()], SURVEY_SECONDS_MAX);
        let status = command.env("ANNALS_MUTANT_TRACE", &trace).status()?;
        let took = began.elapsed();
        let reaches = fs::read_to_string(&trace)?.lines().map(str::parse).collect::<Result<_, _>>()?;
        Ok(status.success().then_some(Test { program, name, took, reaches }))
    }

    fn command<'n>(&self, program: usize, names: impl IntoIterator<Item = &'n str>, seconds_max: u64) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", LIMITS]).arg(&self.programs[program].path).arg("--exact").args(names);
        command.args(["--test-threads=1"]).current_dir(&self.root).env("TMPDIR", self.scratch.join("tmp"));
        command.env("SECONDS_MAX", seconds_max.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Tries one mutant, which is in this file.
    pub(crate) fn judge(&self, mutant: usize, file: &str, budget: Duration) -> Result<Verdict, Failure> {
        let mut reaching: Vec<&Test> = self.tests.iter().filter(|test| test.reaches.contains(&mutant)).collect();
        if reaching.is_empty() {
            return Ok(Verdict::Unreached);
        }
        let module = file.trim_start_matches("src/").trim_end_matches(".rs").replace('/', "::");
        let shared = |test: &Test| test.name.split("::").zip(module.split("::")).take_while(|(a, b)| a == b).count();
        reaching.sort_by_key(|test| (std::cmp::Reverse(shared(test)), test.took));
        let mut spent = Duration::ZERO;
        reaching.retain(|test| {
            spent += test.took;
            spent - test.took <= budget
        });
        for group in groups(&reaching) {
            let names = group.iter().map(|test| test.name.as_str());
            let expected: Duration = group.iter().map(|test| test.took).sum();
            let seconds_max = (expected * 4 + PATIENCE).as_secs();
            let mut command = self.command(group[0].program, names, seconds_max);
            let status = command.env("ANNALS_MUTANT", mutant.to_string()).status()?;
            match status.code() {
                Some(0) => {}
                Some(TIME_IS_OVER) | None => return Ok(Verdict::TimedOut),
                Some(_) => return Ok(Verdict::Caught),
            }
        }
        Ok(Verdict::Survived)
    }
}

/// Cuts the tests into runs of one program that take longer and longer.
fn groups<'t>(tests: &[&'t Test]) -> Vec<Vec<&'t Test>> {
    let mut groups: Vec<Vec<&Test>> = Vec::new();
    let (mut most, mut taken) = (Duration::from_millis(200), Duration::ZERO);
    for test in tests {
        let fits = groups.last().is_some_and(|group| group[0].program == test.program) && taken + test.took <= most;
        if fits {
            groups.last_mut().expect("there is one").push(test);
            taken += test.took;
        } else {
            groups.push(vec![test]);
            most = if taken + test.took > most { most * 2 } else { most };
            taken = test.took;
        }
    }
    groups
}
