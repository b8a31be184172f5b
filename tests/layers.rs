//! Holds the architecture: which module may import which, where `unsafe` and files may stand, how a file begins.
//!
//! The sources are read as text and cut into tokens; comments, literals and test code are left out. The tables below
//! are the rules. A new module at the top of `src` needs a row in one of them.
//!
//! Three shapes that are legal Rust are refused because the rules could not be read from the text: a glob import of the
//! crate's root, a root that re-exports by glob, and a module whose file is named by `#[path]`.

#![allow(clippy::disallowed_methods, reason = "this is not the library: it may use files and time directly")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

// --- The rules -------------------------------------------------------------------------------------------------------

/// Words that every layer speaks. Each may import the others and nothing else of the crate.
const KERNEL: &[&str] = &["clock", "codec", "error", "limits", "randomness", "sabotage", "sync", "types"];

/// A module of the engine.
struct Layer {
    name: &'static str,
    /// What it may import, besides itself and the kernel.
    imports: &'static [&'static str],
    /// What it may not use although others do.
    never: &'static [&'static str],
}

/// The engine, from the bottom up.
const ENGINE: &[Layer] = &[
    Layer { name: "format", imports: &[], never: &["std::fs", "std::io", "std::thread", "std::time", "parking_lot"] },
    // A leaf beside the others: what it measures is told to it.
    Layer { name: "observe", imports: &[], never: &[] },
    Layer { name: "storage", imports: &["format", "observe"], never: &[] },
    Layer { name: "log", imports: &["format", "storage"], never: &[] },
    Layer { name: "index", imports: &["format", "storage", "log"], never: &[] },
    Layer { name: "store", imports: &["format", "storage", "log", "index", "observe"], never: &[] },
    // Doors for the fuzz targets, compiled for them alone. Nothing may import it.
    Layer { name: "fuzzing", imports: &["format", "storage", "store"], never: &[] },
];

/// What applications are written with. Such a module uses the kernel and what the root of the crate exports publicly,
/// as any other crate could, so that nothing in it needs a door that users do not have.
const DOMAIN: &[&str] = &[
    "aggregate",
    "asynchronous",
    "event",
    "handler",
    "process",
    "projection",
    "subscription",
    "table",
    "tenants",
    "testing",
    "validation",
];

/// What belongs to some modules alone. `cli` stands for the program in `src/bin/annals`.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("std::fs", &["storage", "cli", "testing"]),
    ("std::os", &["storage", "cli"]),
    ("memmap2", &["storage"]),
    ("rustix", &["storage"]),
    ("getrandom", &["randomness"]),
];

/// The only folder whose files may say `unsafe`.
const UNSAFE_FOLDER: &str = "src/storage/";

// --- The test of the crate -------------------------------------------------------------------------------------------

#[test]
fn the_sources_keep_the_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    read_sources(root, &root.join("src"), &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));

    let violations: Vec<String> = check(&files).iter().map(ToString::to_string).collect();
    assert!(violations.is_empty(), "broken rules:\n{}\n", violations.join("\n"));
}

fn read_sources(root: &Path, folder: &Path, files: &mut Vec<Source>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("a folder of sources can be listed").path();
        if path.is_dir() {
            read_sources(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source can be read");
            let path = path.strip_prefix(root).expect("a source lies below the root");
            files.push(Source { path: path.to_string_lossy().replace('\\', "/"), text });
        }
    }
}

// --- Checking --------------------------------------------------------------------------------------------------------

struct Source {
    /// From the root of the repository, with slashes.
    path: String,
    text: String,
}

struct Violation {
    file: String,
    line: usize,
    rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.rule)
    }
}

fn check(sources: &[Source]) -> Vec<Violation> {
    let parsed: Vec<Parsed<'_>> = sources.iter().map(Parsed::new).collect();
    let test_modules: BTreeSet<&[String]> =
        parsed.iter().flat_map(|file| file.test_modules.iter().map(Vec::as_slice)).collect();
    let exports = parsed.iter().find(|file| file.source.path == "src/lib.rs").map(Exports::new).unwrap_or_default();

    let mut violations = Vec::new();
    for file in &parsed {
        let mut report = |line, rule| violations.push(Violation { file: file.source.path.clone(), line, rule });
        check_opening(file.source, &mut report);
        check_unsafe(file, &mut report);
        let is_test = (1..=file.module.len()).any(|depth| test_modules.contains(&file.module[..depth]));
        if !is_test {
            check_paths(file, &exports, &mut report);
        }
    }
    violations
}

fn check_opening(source: &Source, report: &mut impl FnMut(usize, String)) {
    let first = source.text.lines().next().unwrap_or_default();
    // The documentation of the crate may be the README.
    let is_readme = source.path == "src/lib.rs" && first.starts_with("#![doc = include_str!");
    if !first.starts_with("//!") && !is_readme {
        report(1, "a file begins with `//!`: what it owns, what it never does, what always holds".into());
    }
}

/// Looks at test code too.
fn check_unsafe(file: &Parsed<'_>, report: &mut impl FnMut(usize, String)) {
    if file.source.path.starts_with(UNSAFE_FOLDER) {
        return;
    }
    for token in file.all_tokens.iter().filter(|token| token.text == "unsafe") {
        report(token.line, format!("`unsafe` stands only under {UNSAFE_FOLDER}"));
    }
}

fn check_paths(file: &Parsed<'_>, exports: &Exports, report: &mut impl FnMut(usize, String)) {
    let owner = file.owner();
    if owner != "lib" && owner != "cli" && !is_known(owner) {
        report(1, format!("`{owner}` is in no table of tests/layers.rs: give it a row"));
        return;
    }
    for (line, text) in &file.refused {
        report(*line, format!("{text} hides what is imported from tests/layers.rs"));
    }
    for path in &file.paths {
        if let Err(rule) = check_outside(owner, path).and_then(|()| check_inside(owner, path, exports)) {
            report(path.line, format!("{rule} (`{path}`)"));
        }
    }
}

fn is_known(module: &str) -> bool {
    KERNEL.contains(&module) || DOMAIN.contains(&module) || ENGINE.iter().any(|layer| layer.name == module)
}

/// Paths into other crates.
fn check_outside(owner: &str, path: &ImportPath) -> Result<(), String> {
    if let Some((prefix, owners)) = ONLY_IN.iter().find(|(prefix, _)| path.is_under(prefix))
        && !owners.contains(&owner)
    {
        return Err(format!("`{prefix}` belongs to `{}`, not to `{owner}`", owners.join("` and `")));
    }
    let never = ENGINE.iter().find(|layer| layer.name == owner).map_or(&[][..], |layer| layer.never);
    match never.iter().find(|prefix| path.is_under(prefix)) {
        Some(prefix) => Err(format!("`{owner}` never uses `{prefix}`")),
        None => Ok(()),
    }
}

/// Paths into this crate.
fn check_inside(owner: &str, path: &ImportPath, exports: &Exports) -> Result<(), String> {
    let is_inside = path.is_under("annals") || (owner != "cli" && path.is_under("crate"));
    if !is_inside || owner == "lib" {
        return Ok(());
    }
    // `use annals;` and the like bring in nothing by themselves.
    let Some(name) = path.segments.get(1).map(String::as_str) else { return Ok(()) };
    if name == "*" {
        return Err(format!("`{owner}` imports by name what it takes from the root of the crate"));
    }
    let export = exports.named(name);
    let is_public = export.is_some_and(|export| export.is_public);
    if owner == "cli" {
        return if is_public {
            Ok(())
        } else {
            Err(format!("the command line uses the public API, and `{name}` is not in it"))
        };
    }

    // An engine module may say `crate::Error` for `crate::error::Error`: what counts is where it comes from.
    let module = match export {
        Some(Export { module: Some(module), .. }) => module.as_str(),
        Some(Export { module: None, .. }) => return Ok(()),
        None => name,
    };
    if module == owner || KERNEL.contains(&module) {
        return Ok(());
    }
    if KERNEL.contains(&owner) {
        return Err(format!("`{owner}` belongs to the kernel and may import only `{}`", KERNEL.join("`, `")));
    }
    if DOMAIN.contains(&owner) {
        return if is_public {
            Ok(())
        } else {
            Err(format!("`{owner}` may import only what the root of the crate exports publicly, and `{name}` is not"))
        };
    }
    let layer = ENGINE.iter().find(|layer| layer.name == owner).expect("an owner is in one of the tables");
    if layer.imports.contains(&module) { Ok(()) } else { Err(format!("`{owner}` may not import `{module}`")) }
}

/// What `src/lib.rs` exports, by name.
#[derive(Default)]
struct Exports {
    names: BTreeMap<String, Export>,
}

struct Export {
    /// The module at the top of `src` that it comes from; none for what another crate or the root itself defines.
    module: Option<String>,
    /// Whether users see it, in their documentation too.
    is_public: bool,
}

impl Exports {
    /// Reads the items of the root: `pub use a::{B, c::D as E};`, `mod a;`, `pub struct F;`.
    fn new(root: &Parsed<'_>) -> Self {
        let mut names = BTreeMap::new();
        let tokens = &root.tokens;
        let modules: BTreeSet<&str> =
            tokens.windows(2).filter(|pair| pair[0].text == "mod").map(|pair| pair[1].text).collect();
        let mut at = 0;
        while at < tokens.len() {
            let (start, is_hidden) = skip_attributes(tokens, at);
            let end = item_end(tokens, start);
            let item = &tokens[start..end];
            at = end.max(at + 1);
            let (is_public, item) = split_visibility(item);
            let is_public = is_public && !is_hidden;
            match item {
                [Token { text: "use", .. }, tree @ ..] => {
                    for path in read_tree(tree) {
                        let first = path.segments.iter().find(|name| *name != "crate" && *name != "self");
                        let module = first.filter(|name| modules.contains(name.as_str())).cloned();
                        names.insert(path.binds.clone(), Export { module, is_public });
                    }
                }
                [Token { text: "mod", .. }, name, ..] => {
                    names.insert(name.text.to_owned(), Export { module: Some(name.text.to_owned()), is_public });
                }
                [
                    Token { text: "struct" | "enum" | "trait" | "type" | "fn" | "const" | "static" | "union", .. },
                    name,
                    ..,
                ] => {
                    names.insert(name.text.to_owned(), Export { module: None, is_public });
                }
                _ => {}
            }
        }
        Self { names }
    }

    fn named(&self, name: &str) -> Option<&Export> {
        self.names.get(name)
    }
}

// --- Reading a file --------------------------------------------------------------------------------------------------

/// A source, taken apart as far as the rules need it.
struct Parsed<'a> {
    source: &'a Source,
    /// The path of the module that the file is, without `crate`.
    module: Vec<String>,
    all_tokens: Vec<Token<'a>>,
    /// Without test code.
    tokens: Vec<Token<'a>>,
    /// Of code that is no test.
    paths: Vec<ImportPath>,
    /// Modules in files of their own that are declared under `#[cfg(test)]`.
    test_modules: Vec<Vec<String>>,
    /// Lines with constructs that the rules cannot see through.
    refused: Vec<(usize, &'static str)>,
}

impl<'a> Parsed<'a> {
    fn new(source: &'a Source) -> Self {
        let module = module_of(&source.path);
        let all_tokens = tokenize(&source.text);
        let (tokens, test_modules) = without_tests(&all_tokens, &module);
        let paths = read_paths(&tokens, &module);
        let mut refused = Vec::new();
        for window in tokens.windows(3) {
            match [window[0].text, window[1].text, window[2].text] {
                ["[", "path", "="] => refused.push((window[1].line, "`#[path]`")),
                ["include", "!", _] => refused.push((window[0].line, "`include!`")),
                _ => {}
            }
        }
        if source.path == "src/lib.rs" {
            let globs = paths.iter().filter(|path| path.binds == "*");
            refused.extend(globs.map(|path| (path.line, "a glob import in the root of the crate")));
        }
        Self { source, module, all_tokens, tokens, paths, test_modules, refused }
    }

    /// The name under which the tables know the file.
    fn owner(&self) -> &str {
        if self.source.path.starts_with("src/bin/") {
            return "cli";
        }
        self.module.first().map_or("lib", String::as_str)
    }
}

/// `src/log/writer.rs` is `log::writer`, `src/log/mod.rs` is `log`, `src/lib.rs` is the root. A program gets a name of
/// its own: `src/bin/annals/main.rs` is `bin::annals`.
fn module_of(path: &str) -> Vec<String> {
    let inside = path.strip_prefix("src/").unwrap_or(path);
    let stem = inside.strip_suffix(".rs").unwrap_or(inside);
    let mut module: Vec<String> = stem.split('/').map(str::to_owned).collect();
    let is_root = module == ["lib"] || (module.len() == 3 && module[0] == "bin" && module[2] == "main");
    if is_root || module.last().is_some_and(|name| name == "mod") {
        module.pop();
    }
    module
}

#[derive(Clone, Copy, Debug)]
struct Token<'a> {
    text: &'a str,
    line: usize,
}

impl Token<'_> {
    fn is_word(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
    }
}

/// Words, `::` and single other characters. Comments are dropped; a string or character becomes the token `"`.
fn tokenize(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment_length(rest)
        } else if let Some(length) = literal_length(rest) {
            tokens.push(Token { text: "\"", line });
            length
        } else if first.is_alphanumeric() || first == '_' {
            let raw = if rest.starts_with("r#") { 2 } else { 0 };
            let length = raw + word_length(&rest[raw..]);
            tokens.push(Token { text: &rest[raw..length], line });
            length
        } else {
            let length = if rest.starts_with("::") { 2 } else { first.len_utf8() };
            if !first.is_whitespace() {
                tokens.push(Token { text: &rest[..length], line });
            }
            length
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

fn word_length(text: &str) -> usize {
    text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())
}

fn block_comment_length(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of the string or character literal that `text` starts with, its prefix included.
fn literal_length(text: &str) -> Option<usize> {
    let prefix = word_length(text);
    let is_raw = match &text[..prefix] {
        "" | "b" | "c" => false,
        "r" | "br" | "cr" => true,
        _ => return None,
    };
    let body = &text[prefix..];
    if is_raw {
        let hashes = body.len() - body.trim_start_matches('#').len();
        let inner = body[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        let inner_length = inner.find(&end).unwrap_or(inner.len().saturating_sub(end.len()));
        return Some(prefix + hashes + 1 + inner_length + end.len());
    }
    let quote = body.chars().next().filter(|c| *c == '"' || (*c == '\'' && prefix < 2))?;
    if quote == '\'' && !is_character(body) {
        return None;
    }
    let mut escaped = false;
    for (at, c) in body.char_indices().skip(1) {
        if c == quote && !escaped {
            return Some(prefix + at + 1);
        }
        escaped = c == '\\' && !escaped;
    }
    Some(text.len())
}

/// Tells `'a'` and `'\n'` from the lifetime `'a`.
fn is_character(text: &str) -> bool {
    let mut inner = text.chars().skip(1);
    inner.next() == Some('\\') || inner.next() == Some('\'')
}

/// Drops items under `#[cfg(test)]` and `#[test]`, and names the modules among them that have files of their own.
fn without_tests<'a>(tokens: &[Token<'a>], module: &[String]) -> (Vec<Token<'a>>, Vec<Vec<String>>) {
    let mut kept = Vec::new();
    let mut test_modules = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let Some(attribute_end) = attribute_end(tokens, at) else {
            kept.push(tokens[at]);
            at += 1;
            continue;
        };
        let attribute = &tokens[at..attribute_end];
        if !is_for_tests(attribute) {
            kept.extend_from_slice(attribute);
            at = attribute_end;
            continue;
        }
        if attribute[1].text == "!" {
            // `#![cfg(test)]`: the rest of the file.
            break;
        }
        let (start, _) = skip_attributes(tokens, attribute_end);
        let end = item_end(tokens, start);
        if let (_, [Token { text: "mod", .. }, name, Token { text: ";", .. }]) = split_visibility(&tokens[start..end]) {
            test_modules.push(module.iter().cloned().chain([name.text.to_owned()]).collect());
        }
        at = end;
    }
    (kept, test_modules)
}

/// One past the attribute that starts at `at`, if one does.
fn attribute_end(tokens: &[Token<'_>], at: usize) -> Option<usize> {
    let text = |at: usize| tokens.get(at).map(|token| token.text);
    if text(at) != Some("#") {
        return None;
    }
    let open = if text(at + 1) == Some("!") { at + 2 } else { at + 1 };
    (text(open) == Some("[")).then(|| group_end(tokens, open))
}

fn is_for_tests(attribute: &[Token<'_>]) -> bool {
    let words: Vec<&str> = attribute.iter().filter(|token| token.is_word()).map(|token| token.text).collect();
    match words.as_slice() {
        ["test"] | ["cfg", "test"] => true,
        // `any` and `not` let other builds in.
        ["cfg", "all", conditions @ ..] => {
            conditions.contains(&"test") && !words.contains(&"any") && !words.contains(&"not")
        }
        _ => false,
    }
}

/// Skips attributes, and tells whether one of them was `#[doc(hidden)]`.
fn skip_attributes(tokens: &[Token<'_>], mut at: usize) -> (usize, bool) {
    let mut is_hidden = false;
    while let Some(end) = attribute_end(tokens, at) {
        is_hidden |= tokens[at..end].windows(3).any(|w| [w[0].text, w[1].text, w[2].text] == ["doc", "(", "hidden"]);
        at = end;
    }
    (at, is_hidden)
}

/// Takes `pub` or `pub(...)` off; tells whether it was the former.
fn split_visibility<'t, 'a>(item: &'t [Token<'a>]) -> (bool, &'t [Token<'a>]) {
    match item {
        [Token { text: "pub", .. }, Token { text: "(", .. }, ..] => (false, &item[group_end(item, 1)..]),
        [Token { text: "pub", .. }, rest @ ..] => (true, rest),
        _ => (false, item),
    }
}

/// One past the group whose opening bracket stands at `open`.
fn group_end(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    tokens.len()
}

/// One past the item, field or arm that starts at `start`.
fn item_end(tokens: &[Token<'_>], start: usize) -> usize {
    let (_, item) = split_visibility(&tokens[start..]);
    let first = item.first().map_or("", |token| token.text);
    let is_field = !matches!(
        first,
        "fn" | "mod"
            | "use"
            | "impl"
            | "struct"
            | "enum"
            | "union"
            | "trait"
            | "type"
            | "const"
            | "static"
            | "unsafe"
            | "async"
            | "extern"
            | "macro_rules"
            | "let"
    );
    // The braces of these are part of an expression or a tree; others end with theirs.
    let is_function = item.get(1).is_some_and(|token| matches!(token.text, "fn" | "unsafe" | "async" | "extern"));
    let ends_with_semicolon = matches!(first, "use" | "type" | "static" | "let") || (first == "const" && !is_function);
    let mut at = start;
    while at < tokens.len() {
        match tokens[at].text {
            ";" => return at + 1,
            "," if is_field => return at + 1,
            "}" | ")" | "]" => return at,
            "{" => {
                at = group_end(tokens, at);
                if !ends_with_semicolon {
                    return at;
                }
            }
            "(" | "[" => at = group_end(tokens, at),
            _ => at += 1,
        }
    }
    tokens.len()
}

/// A path with its import tree spelled out: `use crate::log::{Writer, Cursor as C}` is two.
#[derive(Debug)]
struct ImportPath {
    line: usize,
    /// Starts with `crate` where it leads into this crate.
    segments: Vec<String>,
    /// The name that an import gives it.
    binds: String,
}

impl ImportPath {
    fn is_under(&self, prefix: &str) -> bool {
        let prefix: Vec<&str> = prefix.split("::").collect();
        // What `core` and `alloc` offer is the same thing as in `std`.
        let segments = self.segments.iter().enumerate().map(|(at, name)| match name.as_str() {
            "core" | "alloc" if at == 0 => "std",
            name => name,
        });
        self.segments.len() >= prefix.len() && segments.zip(prefix).all(|(name, wanted)| name == wanted)
    }
}

impl fmt::Display for ImportPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.segments.join("::"))
    }
}

/// All paths of at least two segments, with `self` and `super` resolved against the module that they stand in.
fn read_paths(tokens: &[Token<'_>], module: &[String]) -> Vec<ImportPath> {
    let mut paths = Vec::new();
    // Modules that are open at this token, each with the brace depth outside of it.
    let mut inline: Vec<(&str, usize)> = Vec::new();
    let mut depth = 0_usize;
    let mut at = 0;
    while at < tokens.len() {
        let token = tokens[at];
        match token.text {
            "mod" if tokens.get(at + 2).is_some_and(|token| token.text == "{") => {
                inline.push((tokens[at + 1].text, depth));
            }
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                inline.retain(|(_, outside)| *outside < depth);
            }
            _ => {}
        }
        let is_use = token.text == "use" && tokens.get(at + 1).is_none_or(|next| next.text != "<");
        let starts_path = token.is_word() && tokens.get(at + 1).is_some_and(|next| next.text == "::");
        let (read, end) = if is_use {
            let end = item_end(tokens, at);
            (read_tree(&tokens[at + 1..end]), end)
        } else if starts_path {
            let end = path_end(tokens, at);
            (read_tree(&tokens[at..end]), end)
        } else {
            at += 1;
            continue;
        };
        let here: Vec<&str> = module.iter().map(String::as_str).chain(inline.iter().map(|(name, _)| *name)).collect();
        paths.extend(read.into_iter().map(|path| ImportPath { segments: absolute(path.segments, &here), ..path }));
        at = end;
    }
    paths
}

/// One past the path in an expression or a type that starts at `at`: generic arguments are left for the next round.
fn path_end(tokens: &[Token<'_>], mut at: usize) -> usize {
    while let [Token { text: "::", .. }, next, ..] = &tokens[(at + 1).min(tokens.len())..]
        && next.is_word()
    {
        at += 2;
    }
    at + 1
}

/// `super::log` in `store::append` is `crate::store::log`.
fn absolute(segments: Vec<String>, here: &[&str]) -> Vec<String> {
    let mut base: Option<&[&str]> = None;
    let mut taken = 0;
    for name in &segments {
        base = match (name.as_str(), base) {
            ("self", None) => Some(here),
            ("super", above) => {
                let from = above.unwrap_or(here);
                Some(&from[..from.len().saturating_sub(1)])
            }
            _ => break,
        };
        taken += 1;
    }
    match base {
        Some(base) => {
            let base = base.iter().map(|name| (*name).to_owned());
            ["crate".to_owned()].into_iter().chain(base).chain(segments.into_iter().skip(taken)).collect()
        }
        None => segments,
    }
}

/// Spells out `a::{b, c::{self, D as E}}`.
fn read_tree(tokens: &[Token<'_>]) -> Vec<ImportPath> {
    let mut paths = Vec::new();
    spell_out(tokens, &[], &mut paths);
    paths
}

fn spell_out(tokens: &[Token<'_>], prefix: &[String], paths: &mut Vec<ImportPath>) {
    let mut segments = prefix.to_vec();
    let mut alias = None;
    let mut line = tokens.first().map_or(0, |token| token.line);
    let mut at = 0;
    while at < tokens.len() {
        let token = tokens[at];
        match token.text {
            // A macro writes `$crate`.
            "::" | "$" => {}
            "{" => {
                let end = group_end(tokens, at);
                let inside = &tokens[at + 1..end.saturating_sub(1).max(at + 1)];
                for branch in branches(inside) {
                    spell_out(branch, &segments, paths);
                }
                return;
            }
            "as" => {
                alias = tokens.get(at + 1).map(|token| token.text.to_owned());
                break;
            }
            "*" => segments.push("*".into()),
            _ if token.is_word() => {
                line = token.line;
                // `self` in a branch is the module in front of the brace.
                if token.text != "self" || segments.is_empty() {
                    segments.push(token.text.to_owned());
                }
            }
            _ => break,
        }
        at += 1;
    }
    if let Some(last) = segments.last() {
        let binds = alias.unwrap_or_else(|| last.clone());
        paths.push(ImportPath { line, segments, binds });
    }
}

/// Splits at the commas outside of braces.
fn branches<'t, 'a>(tokens: &'t [Token<'a>]) -> Vec<&'t [Token<'a>]> {
    let mut depth = 0_usize;
    tokens
        .split(|token| {
            match token.text {
                "{" => depth += 1,
                "}" => depth = depth.saturating_sub(1),
                _ => {}
            }
            token.text == "," && depth == 0
        })
        .filter(|branch| !branch.is_empty())
        .collect()
}

// --- The checker can fail --------------------------------------------------------------------------------------------

/// Checks one file beside a root that exports a little.
fn violations(path: &str, text: &str) -> Vec<String> {
    let root = "//! Root.\n\
        mod error; mod format; mod log; mod store; mod types;\n\
        pub mod aggregate;\n\
        pub use error::{Error, Result as StoreResult};\n\
        pub use store::Store;\n\
        pub(crate) use log::Cursor;\n\
        #[doc(hidden)]\n\
        pub use format::frame;\n\
        pub use uuid::Uuid;\n";
    let sources = [("src/lib.rs", root), (path, text)];
    let sources = sources.map(|(path, text)| Source { path: path.into(), text: text.into() });
    check(&sources).iter().map(ToString::to_string).collect()
}

#[track_caller]
fn refuses(path: &str, text: &str, line: usize, rule: &str) {
    let found = violations(path, text);
    let wanted = format!("{path}:{line}: ");
    assert!(
        matches!(found.as_slice(), [one] if one.starts_with(&wanted) && one.contains(rule)),
        "wanted one violation at {wanted}with {rule:?}, found {found:#?}"
    );
}

#[track_caller]
fn accepts(path: &str, text: &str) {
    assert_eq!(violations(path, text), Vec::<String>::new());
}

#[test]
fn an_import_of_a_higher_layer_is_refused_in_every_spelling() {
    let rule = "`log` may not import `store`";
    refuses("src/log/writer.rs", "//! W.\n\nuse crate::store::Store;\n", 3, rule);
    refuses("src/log/writer.rs", "//! W.\nuse crate::{\n    format::frame,\n    store::{Store},\n};\n", 4, rule);
    refuses("src/log/writer.rs", "//! W.\nuse super::super::store::Store;\n", 2, rule);
    refuses("src/log/mod.rs", "//! L.\nuse super::store;\n", 2, rule);
    refuses("src/log/mod.rs", "//! L.\nmod inner { fn f() { super::super::store::open() } }\n", 2, rule);
    refuses("src/log.rs", "//! L.\nfn f(s: &Vec<crate::store::Store>) {}\n", 2, rule);
    refuses("src/log.rs", "//! L.\nuse ::std::vec; macro_rules! m { () => { $crate::store::f() } }\n", 2, rule);
    refuses("src/log.rs", "//! L.\nmacro_rules! m { () => { use $crate::{store::f}; } }\n", 2, rule);
    refuses("src/log.rs", "//! L.\nuse annals::store::f;\n", 2, rule);
    refuses("src/log.rs", "//! L.\nfn f() -> impl Sized + use<> { crate::store::f::<crate::log::A>() }\n", 2, rule);
    refuses("src/log.rs", "//! L.\nuse crate::Store;\n", 2, rule);
    refuses("src/log.rs", "//! L.\nuse crate::r#store as s;\n", 2, rule);
    refuses("src/log.rs", "//! L.\npub(crate) use crate::store::Store;\n", 2, rule);
    refuses("src/log.rs", "//! L.\nuse crate::*;\n", 2, "imports by name");
    refuses("src/log.rs", "//! L.\n#[cfg(not(test))]\nuse crate::store::Store;\n", 3, rule);
    refuses("src/log.rs", "//! L.\n#[cfg(any(test, unix))]\nuse crate::store::Store;\n", 3, rule);
}

#[test]
fn each_row_of_the_engine_is_held() {
    let names: Vec<&str> = ENGINE.iter().map(|layer| layer.name).collect();
    for layer in ENGINE {
        for other in &names {
            let path = format!("src/{}/part.rs", layer.name);
            let text = format!("//! Part.\nuse crate::{other}::Thing;\n");
            if *other == layer.name || layer.imports.contains(other) {
                accepts(&path, &text);
            } else {
                refuses(&path, &text, 2, &format!("`{}` may not import `{other}`", layer.name));
            }
        }
        for kernel in KERNEL {
            accepts(&format!("src/{}.rs", layer.name), &format!("//! L.\nuse crate::{kernel}::Thing;\n"));
            refuses(&format!("src/{kernel}.rs"), &format!("//! K.\nuse crate::{}::X;\n", layer.name), 2, "the kernel");
        }
        // A layer imports none that stands above it in the table.
        let rank = |name: &str| names.iter().position(|other| *other == name).expect("an import is a row of the table");
        assert!(layer.imports.iter().all(|import| rank(import) < rank(layer.name)), "{} is out of order", layer.name);
    }
}

#[test]
fn domain_modules_get_the_public_api_and_the_kernel() {
    accepts("src/projection/mod.rs", "//! P.\nuse crate::{Store, Uuid, aggregate::Aggregate, types::Position};\n");
    accepts("src/projection/mod.rs", "//! P.\nmod part;\nuse self::part::Part;\nuse crate::projection::part::Other;\n");
    let rule = "may import only what the root of the crate exports publicly";
    refuses("src/projection/mod.rs", "//! P.\nuse crate::store::Store;\n", 2, rule);
    refuses("src/projection/mod.rs", "//! P.\nuse crate::Cursor;\n", 2, rule);
    refuses("src/projection/mod.rs", "//! P.\nuse crate::frame;\n", 2, rule);
    refuses("src/projection/mod.rs", "//! P.\nuse super::log;\n", 2, rule);
    refuses("src/gadget.rs", "//! G.\n", 1, "`gadget` is in no table");
}

#[test]
fn the_command_line_gets_the_public_api() {
    let path = "src/bin/annals/import.rs";
    accepts(
        path,
        "//! I.\nuse crate::output; use std::fs::File; use annals::{Error, Store};\nfn f() -> annals::StoreResult<()>;\n",
    );
    refuses(path, "//! I.\nuse annals::{Store, log::Writer};\n", 2, "`log` is not in it");
    refuses(path, "//! I.\nfn f() { annals::frame::decode() }\n", 2, "`frame` is not in it");
    refuses(path, "//! I.\n#[path = \"../../log/mod.rs\"]\nmod log;\n", 2, "`#[path]`");
}

#[test]
fn files_and_maps_belong_to_storage() {
    refuses("src/log/mod.rs", "//! L.\nuse std::{io, fs::File};\n", 2, "`std::fs` belongs to `storage`");
    refuses("src/store.rs", "//! S.\nfn f() { std::fs::remove_file(p) }\n", 2, "`std::fs` belongs to `storage`");
    refuses("src/lib.rs.rs", "//! S.\n", 1, "in no table");
    refuses("src/index.rs", "//! I.\nuse memmap2::Mmap;\n", 2, "`memmap2` belongs to `storage`");
    refuses("src/types.rs", "//! T.\nfn f() { getrandom::fill(b) }\n", 2, "`getrandom` belongs to `randomness`");
    accepts("src/storage/disk.rs", "//! D.\nuse std::fs::File;\nfn f() { unsafe { memmap2::Mmap::map(f) } }\n");
}

#[test]
fn the_format_is_pure() {
    for used in ["std::io::Read", "std::thread", "core::time::Duration", "parking_lot::Mutex"] {
        refuses("src/format/frame.rs", &format!("//! F.\nuse {used};\n"), 2, "`format` never uses");
    }
    accepts("src/format/frame.rs", "//! F.\nuse core::mem; use crate::error::Error;\n");
}

#[test]
fn unsafe_stands_in_storage_alone() {
    refuses("src/log.rs", "//! L.\nfn f() {\n    unsafe { g() }\n}\n", 3, "`unsafe` stands only under src/storage/");
    refuses("src/log.rs", "//! L.\n#[cfg(test)]\nmod tests { unsafe fn f() {} }\n", 3, "`unsafe` stands only");
    accepts("src/log.rs", "//! No unsafe.\n// unsafe\n/* unsafe /* unsafe */ unsafe */\nconst A: &str = \"unsafe\";\n");
}

#[test]
fn a_file_says_what_it_is() {
    refuses("src/log.rs", "use std::vec;\n", 1, "begins with `//!`");
    refuses("src/log.rs", "", 1, "begins with `//!`");
}

#[test]
fn comments_literals_and_tests_are_not_code() {
    accepts(
        "src/log.rs",
        r##"//! Not crate::store::Store.
/// ```
/// use crate::store::Store;
/// ```
const A: &[&str] = &["crate::store::A \" crate::store::B", r#"crate::store::C " crate::store::D"#];
const B: (char, char, u8) = ('"', '\'', b'"');
fn f<'a>(a: &'a str) -> &'a str { a }

#[cfg(test)]
use crate::store::Store;

struct S {
    #[cfg(test)]
    count: crate::store::Count,
    other: u8,
}

#[cfg(test)]
#[allow(dead_code)]
mod tests {
    use crate::store::Store;
    #[test]
    fn g() { crate::store::open(); std::fs::read("x"); }
}

#[cfg(all(unix, test))]
pub(crate) mod tests_of_unix;
"##,
    );
    // What follows test code is code again.
    let text = "//! L.\n#[cfg(test)]\nuse crate::store::{Store};\n#[test]\nfn f() {}\nuse crate::store::g;\n";
    refuses("src/log.rs", text, 6, "`log` may not import `store`");
}

#[test]
fn a_test_module_in_its_own_file_is_not_code() {
    let files = |declaration: &str| {
        let log = format!("//! L.\n{declaration} mod tests;\n");
        [("src/log/mod.rs", log.as_str()), ("src/log/tests.rs", "//! T.\nuse crate::store::Store;\n")]
            .map(|(path, text)| Source { path: path.into(), text: text.into() })
    };
    assert_eq!(check(&files("#[cfg(test)]")).len(), 0);
    assert_eq!(check(&files("")).len(), 1);
}
