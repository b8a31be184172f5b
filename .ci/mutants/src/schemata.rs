//! A source file with all of its mutants in it, chosen at run time.
//!
//! Each changed place becomes a `match` on the mutant that is switched on: the first arm is what stood there, with the
//! changes further inside; every other arm is one mutant, made of the original text. So at most one of them is on, and
//! the text grows with the depth of expressions, not with a power of it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use proc_macro2::LineColumn;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use crate::Failure;
use crate::plan::{Genre, Mutant, Spot};

/// What holds iterators of different types.
const ANY_ITERATOR: &str = "Box<dyn Iterator<Item = _> + '_>";

/// A place of a file where mutants stand.
#[derive(Debug)]
struct Site {
    range: Range<usize>,
    kind: SiteKind,
    /// Numbers of the mutants, and the text of each.
    arms: Vec<(usize, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SiteKind {
    /// An expression that is replaced.
    Expression,
    /// The beginning of a body that returns early.
    Body,
    /// A body that returns some iterator: a box holds any of them.
    IteratorBody,
    /// The end of a pattern without a guard, whose arm is taken away.
    Arm,
    /// A guard of an arm that is taken away.
    GuardedArm,
}

/// Where the text of a mutant, or what surrounds it, stands in the new file.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) range: Range<usize>,
    /// The mutants that an error in this range speaks of.
    pub(crate) mutants: Vec<usize>,
    /// The range is the text of one mutant alone.
    pub(crate) is_arm: bool,
}

/// A file with its mutants.
#[derive(Debug, Default)]
pub(crate) struct Schemata {
    pub(crate) text: String,
    pub(crate) written: Vec<Written>,
    /// Mutants that no expression at run time can choose, such as those in constants.
    pub(crate) inexpressible: Vec<usize>,
    /// Arms without which a `match` would not cover everything, and operators between which a `let` stands.
    pub(crate) unviable: Vec<usize>,
}

/// Puts the mutants with these numbers into a file.
pub(crate) fn plant(source: &str, mutants: &[Mutant], numbers: &[usize]) -> Result<Schemata, Failure> {
    let file = syn::parse_file(source)?;
    let mut finder = Finder::new(source, mutants, numbers);
    finder.visit_file(&file);
    let unviable = std::mem::take(&mut finder.unviable);
    let mut sites: Vec<Site> = finder.sites.into_values().collect();
    // A body before the expression that it begins with, outer before inner.
    sites.sort_by_key(|site| (site.range.start, site.kind != SiteKind::Body, Reverse(site.range.end)));
    let inexpressible = finder.wanted.into_values().flatten().collect();
    let mut schemata = Schemata { inexpressible, unviable, ..Schemata::default() };
    let mut writer = Writer { source, sites: &sites, next: 0, out: &mut schemata };
    writer.copy(0..source.len());
    Ok(schemata)
}

struct Writer<'a> {
    source: &'a str,
    sites: &'a [Site],
    next: usize,
    out: &'a mut Schemata,
}

impl Writer<'_> {
    /// Copies a range of the source with the sites in it.
    fn copy(&mut self, range: Range<usize>) {
        let mut at = range.start;
        while let Some(site) =
            self.sites.get(self.next).filter(|site| site.range.end <= range.end && site.range.start >= at)
        {
            self.next += 1;
            self.push(at..site.range.start);
            self.site(site);
            at = site.range.end;
        }
        self.push(at..range.end);
    }

    fn push(&mut self, range: Range<usize>) {
        self.out.text.push_str(&self.source[range]);
    }

    fn site(&mut self, site: &Site) {
        let begin = self.out.text.len();
        let pick = format!("crate::mutant::pick(&[{}])", comma_separated(site));
        match site.kind {
            SiteKind::Expression => {
                self.out.text.push_str(&format!("(match {pick} {{ 0 => {{ "));
                self.copy(site.range.clone());
                self.out.text.push_str(" }");
                self.arms(site, "");
                self.out.text.push_str(" })");
            }
            SiteKind::Body => {
                self.out.text.push_str(&format!("match {pick} {{ 0 => {{}}"));
                self.arms(site, "return ");
                self.out.text.push_str(" } ");
            }
            SiteKind::IteratorBody => {
                self.out.text.push_str(&format!("{{ match {pick} {{ 0 => Box::new("));
                self.copy(site.range.clone());
                self.out.text.push_str(&format!(") as {ANY_ITERATOR},"));
                self.arms(site, "");
                self.out.text.push_str(" } }");
            }
            SiteKind::Arm => self.out.text.push_str(&format!(" if {pick} == 0 ")),
            SiteKind::GuardedArm => {
                self.out.text.push_str(&format!("{pick} == 0 && ("));
                self.copy(site.range.clone());
                self.out.text.push(')');
            }
        }
        let mutants = site.arms.iter().map(|(number, _)| *number).collect();
        self.out.written.push(Written { range: begin..self.out.text.len(), mutants, is_arm: false });
    }

    fn arms(&mut self, site: &Site, before: &str) {
        for (index, (number, text)) in site.arms.iter().enumerate() {
            let pattern = if index + 1 == site.arms.len() { "_".into() } else { (index + 1).to_string() };
            self.out.text.push_str(&format!(" {pattern} => {{ {before}"));
            let begin = self.out.text.len();
            self.out.text.push_str(text);
            let range = begin..self.out.text.len();
            self.out.written.push(Written { range, mutants: vec![*number], is_arm: true });
            self.out.text.push_str(" }");
        }
    }
}

fn comma_separated(site: &Site) -> String {
    let numbers: Vec<String> = site.arms.iter().map(|(number, _)| number.to_string()).collect();
    numbers.join(", ")
}

/// Finds the syntax that each mutant changes.
struct Finder<'a> {
    source: &'a str,
    mutants: &'a [Mutant],
    /// The offset of each line.
    lines: Vec<usize>,
    /// The mutants that were not found yet, by what they change and where it begins.
    wanted: HashMap<(Genre, usize), Vec<usize>>,
    sites: BTreeMap<(usize, usize, u8), Site>,
    unviable: Vec<usize>,
    /// How many constants surround this place: nothing can be chosen in them at run time.
    constants: usize,
}

impl<'a> Finder<'a> {
    fn new(source: &'a str, mutants: &'a [Mutant], numbers: &[usize]) -> Self {
        let starts = source.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        let lines = std::iter::once(0).chain(starts).collect();
        let mut finder = Self {
            source,
            mutants,
            lines,
            wanted: HashMap::new(),
            sites: BTreeMap::new(),
            unviable: Vec::new(),
            constants: 0,
        };
        for number in numbers {
            let mutant = &mutants[*number];
            let at = finder.offset_of(mutant.span.start);
            finder.wanted.entry((mutant.genre, at)).or_default().push(*number);
        }
        finder
    }

    fn offset_of(&self, spot: Spot) -> usize {
        self.offset(spot.line, spot.column - 1)
    }

    /// Columns count characters, offsets bytes.
    fn offset(&self, line: usize, column: usize) -> usize {
        let begin = self.lines[line - 1];
        let rest = &self.source[begin..];
        begin + rest.char_indices().nth(column).map_or(rest.len(), |(at, _)| at)
    }

    fn at(&self, place: LineColumn) -> usize {
        self.offset(place.line, place.column)
    }

    fn range(&self, spanned: &impl Spanned) -> Range<usize> {
        let span = spanned.span();
        self.at(span.start())..self.at(span.end())
    }

    fn take(&mut self, genre: Genre, at: usize) -> Vec<usize> {
        if self.constants > 0 { Vec::new() } else { self.wanted.remove(&(genre, at)).unwrap_or_default() }
    }

    fn add(&mut self, kind: SiteKind, range: Range<usize>, arms: Vec<(usize, String)>) {
        if arms.is_empty() {
            return;
        }
        let key = (range.start, range.end, kind as u8);
        self.sites.entry(key).or_insert_with(|| Site { range, kind, arms: Vec::new() }).arms.extend(arms);
    }

    /// The text of an expression with an operator in it replaced.
    fn replaced(&self, whole: &Range<usize>, part: &Range<usize>, by: &str) -> String {
        format!("{}{by}{}", &self.source[whole.start..part.start], &self.source[part.end..whole.end])
    }

    fn within_constant(&mut self, visit: impl FnOnce(&mut Self)) {
        self.constants += 1;
        visit(self);
        self.constants -= 1;
    }

    fn body(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let Some(first) = block.stmts.first() else { return };
        let at = self.range(first).start;
        if signature.constness.is_some() {
            return;
        }
        let replacement = |number: usize| self.mutants[number].replacement.clone();
        let numbers = self.take(Genre::FnValue, at).into_iter();
        if returns_opaque(&signature.output) {
            let boxed = |number| (number, format!("Box::new({}) as {ANY_ITERATOR}", replacement(number)));
            self.add(SiteKind::IteratorBody, self.range(block), numbers.map(boxed).collect());
        } else {
            self.add(SiteKind::Body, at..at, numbers.map(|number| (number, replacement(number))).collect());
        }
    }

    fn function(&mut self, signature: &syn::Signature, visit: impl FnOnce(&mut Self)) {
        if signature.constness.is_some() { self.within_constant(visit) } else { visit(self) }
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item_fn(&mut self, node: &'ast syn::ItemFn) {
        self.body(&node.sig, &node.block);
        self.function(&node.sig, |finder| visit::visit_item_fn(finder, node));
    }

    fn visit_impl_item_fn(&mut self, node: &'ast syn::ImplItemFn) {
        self.body(&node.sig, &node.block);
        self.function(&node.sig, |finder| visit::visit_impl_item_fn(finder, node));
    }

    fn visit_trait_item_fn(&mut self, node: &'ast syn::TraitItemFn) {
        if let Some(block) = &node.default {
            self.body(&node.sig, block);
        }
        self.function(&node.sig, |finder| visit::visit_trait_item_fn(finder, node));
    }

    fn visit_item_const(&mut self, node: &'ast syn::ItemConst) {
        self.within_constant(|finder| visit::visit_item_const(finder, node));
    }

    fn visit_impl_item_const(&mut self, node: &'ast syn::ImplItemConst) {
        self.within_constant(|finder| visit::visit_impl_item_const(finder, node));
    }

    fn visit_item_static(&mut self, node: &'ast syn::ItemStatic) {
        self.within_constant(|finder| visit::visit_item_static(finder, node));
    }

    fn visit_expr_const(&mut self, node: &'ast syn::ExprConst) {
        self.within_constant(|finder| visit::visit_expr_const(finder, node));
    }

    fn visit_type(&mut self, node: &'ast syn::Type) {
        self.within_constant(|finder| visit::visit_type(finder, node));
    }

    fn visit_expr_repeat(&mut self, node: &'ast syn::ExprRepeat) {
        self.visit_expr(&node.expr);
        self.within_constant(|finder| finder.visit_expr(&node.len));
    }

    fn visit_expr_binary(&mut self, node: &'ast syn::ExprBinary) {
        let (whole, operator) = (self.range(node), self.range(&node.op));
        if !has_let(&node.left) && !has_let(&node.right) {
            let numbers = self.take(Genre::BinaryOperator, operator.start);
            let text = |number: usize| self.replaced(&whole, &operator, &self.mutants[number].replacement);
            let arms = numbers.into_iter().map(|number| (number, text(number))).collect();
            self.add(SiteKind::Expression, whole, arms);
        } else {
            let chained = self.take(Genre::BinaryOperator, operator.start);
            self.unviable.extend(chained);
        }
        visit::visit_expr_binary(self, node);
    }

    fn visit_expr_unary(&mut self, node: &'ast syn::ExprUnary) {
        let (whole, operator) = (self.range(node), self.range(&node.op));
        let numbers = self.take(Genre::UnaryOperator, operator.start);
        let text = |number: usize| self.replaced(&whole, &operator, &self.mutants[number].replacement);
        let arms = numbers.into_iter().map(|number| (number, text(number))).collect();
        self.add(SiteKind::Expression, whole, arms);
        visit::visit_expr_unary(self, node);
    }

    fn visit_expr_struct(&mut self, node: &'ast syn::ExprStruct) {
        let whole = self.range(node);
        for field in node.fields.pairs() {
            let range = self.range(&field);
            let numbers = self.take(Genre::StructField, range.start);
            let text = |_| self.replaced(&whole, &range, "");
            let arms = numbers.into_iter().map(|number| (number, text(number))).collect();
            self.add(SiteKind::Expression, whole.clone(), arms);
        }
        visit::visit_expr_struct(self, node);
    }

    fn visit_expr_match(&mut self, node: &'ast syn::ExprMatch) {
        let catches_all =
            |arm: &syn::Arm| arm.guard.is_none() && matches!(arm.pat, syn::Pat::Wild(_) | syn::Pat::Ident(_));
        if !node.arms.iter().any(catches_all) {
            for arm in &node.arms {
                let needed = self.take(Genre::MatchArm, self.range(arm).start);
                self.unviable.extend(needed);
            }
        }
        visit::visit_expr_match(self, node);
    }

    fn visit_arm(&mut self, node: &'ast syn::Arm) {
        let removed = self.take(Genre::MatchArm, self.range(node).start);
        let removed: Vec<_> = removed.into_iter().map(|number| (number, String::new())).collect();
        if let Some((_, guard)) = &node.guard {
            let range = self.range(guard.as_ref());
            self.add(SiteKind::GuardedArm, range.clone(), removed);
            let numbers = self.take(Genre::MatchArmGuard, range.start);
            let arms = numbers.into_iter().map(|number| (number, self.mutants[number].replacement.clone())).collect();
            self.add(SiteKind::Expression, range, arms);
        } else {
            let end = self.range(&node.pat).end;
            self.add(SiteKind::Arm, end..end, removed);
        }
        visit::visit_arm(self, node);
    }
}

/// Whether an operand of `&&` is a `let`, or a chain with one: such a chain is no expression of its own.
fn has_let(expression: &syn::Expr) -> bool {
    match expression {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(binary) => has_let(&binary.left) || has_let(&binary.right),
        _ => false,
    }
}

/// Whether a function returns an `impl Trait`, which here is some iterator: a second `return` would have to be of the
/// same type.
fn returns_opaque(output: &syn::ReturnType) -> bool {
    matches!(output, syn::ReturnType::Type(_, of) if matches!(&**of, syn::Type::ImplTrait(_)))
}
