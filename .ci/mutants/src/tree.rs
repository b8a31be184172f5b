//! The copy of the project that the mutants are planted into, and what the compiler says of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use syn::spanned::Spanned;

use crate::Failure;
use crate::plan::{Mutant, by_file};
use crate::schemata::{Schemata, plant};

/// What is compiled into the copy: the switch that every planted place asks.
const SWITCH: &str = include_str!("switch.rs.in");

/// A copy of the project with its mutants.
#[derive(Debug)]
pub(crate) struct Tree {
    root: PathBuf,
    target: PathBuf,
    /// Features and targets that are built.
    arguments: Vec<String>,
    /// Modules of the root that are not built: nothing that has mutants needs them.
    left_out: Vec<String>,
}

/// What became of the mutants before any test ran.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Planted {
    /// Compiled in.
    pub(crate) viable: BTreeSet<usize>,
    /// Their own text does not compile.
    pub(crate) unviable: BTreeSet<usize>,
    /// Nothing at run time can choose them.
    pub(crate) inexpressible: BTreeSet<usize>,
}

#[derive(Debug, Deserialize)]
struct Report {
    reason: String,
    message: Option<Diagnostic>,
    executable: Option<PathBuf>,
    target: Option<Target>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Diagnostic {
    level: String,
    rendered: Option<String>,
    spans: Vec<Place>,
}

#[derive(Debug, Deserialize)]
struct Place {
    file_name: String,
    byte_start: usize,
    byte_end: usize,
    is_primary: bool,
}

/// A program of tests.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

impl Tree {
    /// Copies what git knows of, and what it would take.
    pub(crate) fn copy(
        project: &Path,
        scratch: &Path,
        arguments: Vec<String>,
        left_out: Vec<String>,
    ) -> Result<Self, Failure> {
        let root = scratch.join("tree");
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        let listed =
            Command::new("git").current_dir(project).args(["ls-files", "-co", "--exclude-standard", "-z"]).output()?;
        for name in String::from_utf8(listed.stdout)?.split('\0').filter(|name| !name.is_empty()) {
            let (from, to) = (project.join(name), root.join(name));
            if from.is_file() {
                fs::create_dir_all(to.parent().ok_or("a file has a directory")?)?;
                fs::copy(from, to)?;
            }
        }
        Ok(Self { root, target: scratch.join("target"), arguments, left_out })
    }

    /// Plants the mutants, and takes out again those that do not compile, until the rest does.
    pub(crate) fn plant(&self, project: &Path, mutants: &[Mutant]) -> Result<Planted, Failure> {
        self.add_switch()?;
        let mut planted = Planted { viable: (0..mutants.len()).collect(), ..Planted::default() };
        loop {
            let schemata = self.write(project, mutants, &mut planted)?;
            let complaints = self.check()?;
            if complaints.is_empty() {
                return Ok(planted);
            }
            let before = planted.viable.len();
            for complaint in &complaints {
                take_out(complaint, &schemata, &mut planted);
            }
            if planted.viable.len() == before {
                let text = complaints.iter().filter_map(|complaint| complaint.rendered.clone());
                return Err(text.collect::<String>().into());
            }
            eprintln!("{} mutants compile so far, {} do not", planted.viable.len(), before - planted.viable.len());
        }
    }

    fn add_switch(&self) -> Result<(), Failure> {
        fs::write(self.root.join("src/mutant.rs"), SWITCH)?;
        let lib = self.root.join("src/lib.rs");
        let text = without_modules(&fs::read_to_string(&lib)?, &self.left_out)?;
        fs::write(lib, text + "\nmod mutant;\n")?;
        Ok(())
    }

    fn write(
        &self,
        project: &Path,
        mutants: &[Mutant],
        planted: &mut Planted,
    ) -> Result<BTreeMap<String, Schemata>, Failure> {
        let mut files = BTreeMap::new();
        for (file, numbers) in by_file(mutants) {
            let numbers: Vec<usize> = numbers.into_iter().filter(|number| planted.viable.contains(number)).collect();
            let source = fs::read_to_string(project.join(file))?;
            let schemata = plant(&source, mutants, &numbers)?;
            for (gone, numbers) in
                [(&mut planted.inexpressible, &schemata.inexpressible), (&mut planted.unviable, &schemata.unviable)]
            {
                planted.viable.retain(|number| !numbers.contains(number));
                gone.extend(numbers);
            }
            fs::write(self.root.join(file), &schemata.text)?;
            files.insert(file.to_owned(), schemata);
        }
        Ok(files)
    }

    fn cargo(&self, command: &str) -> Result<Vec<Report>, Failure> {
        let mut cargo = Command::new("cargo");
        cargo.current_dir(&self.root).arg(command).args(&self.arguments);
        cargo.args(["--message-format=json"]).env("CARGO_TARGET_DIR", &self.target).stderr(Stdio::null());
        // With the tests, which may need what was left out.
        cargo.args(if command == "test" { ["--no-run"].as_slice() } else { ["--profile", "test"].as_slice() });
        let output = cargo.output()?;
        let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"{"));
        lines.map(|line| serde_json::from_slice(line).map_err(Failure::from)).collect()
    }

    /// The errors of the compiler.
    fn check(&self) -> Result<Vec<Diagnostic>, Failure> {
        let reports = self.cargo("check")?.into_iter().filter(|report| report.reason == "compiler-message");
        let messages = reports.filter_map(|report| report.message);
        // The last error counts those before it and has no place.
        Ok(messages.filter(|message| message.level == "error" && !message.spans.is_empty()).collect())
    }

    /// Builds the programs of tests.
    pub(crate) fn build(&self) -> Result<Vec<Program>, Failure> {
        let mut programs = Vec::new();
        for report in self.cargo("test")? {
            if let (Some(path), Some(target)) = (report.executable, report.target)
                && target.kind.iter().any(|kind| kind == "lib" || kind == "test")
            {
                programs.push(Program { name: target.name, path });
            }
        }
        if programs.is_empty() { Err("the copy with the mutants does not build".into()) } else { Ok(programs) }
    }
}

/// Takes out the mutant that an error speaks of; or, if the error is about what surrounds mutants, all of that place.
fn take_out(complaint: &Diagnostic, schemata: &BTreeMap<String, Schemata>, planted: &mut Planted) {
    let mut places: Vec<&Place> = complaint.spans.iter().collect();
    places.sort_by_key(|place| !place.is_primary);
    for place in places {
        let Some(file) = schemata.get(&place.file_name) else { continue };
        let around = file.written.iter();
        let around =
            around.filter(|written| written.range.start <= place.byte_start && place.byte_end <= written.range.end);
        let Some(innermost) = around.min_by_key(|written| (!written.is_arm, written.range.len())) else { continue };
        for number in &innermost.mutants {
            if planted.viable.remove(number) {
                let gone = if innermost.is_arm { &mut planted.unviable } else { &mut planted.inexpressible };
                gone.insert(*number);
            }
        }
        return;
    }
}

/// The root of a library without some of its modules, and without what it exports of them.
fn without_modules(source: &str, left_out: &[String]) -> Result<String, Failure> {
    let file = syn::parse_file(source)?;
    let mut lines: Vec<&str> = source.lines().collect();
    for item in &file.items {
        let name = match item {
            syn::Item::Mod(module) => Some(module.ident.to_string()),
            syn::Item::Use(import) => match &import.tree {
                syn::UseTree::Path(path) => Some(path.ident.to_string()),
                _ => None,
            },
            _ => None,
        };
        if name.is_some_and(|name| left_out.contains(&name)) {
            let span = item.span();
            lines[span.start().line - 1..span.end().line].fill("");
        }
    }
    Ok(lines.join("\n"))
}
