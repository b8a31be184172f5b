//! Gathering everything that is wrong with a command, instead of the first thing alone.
//!
//! [`Problems`] collects problems of a type that the application chose, each with the path of the field it was found in.
//! It never decides what is wrong, and knows nothing of stores and events. The order is that of the checks.
//!
//! The store's own input is judged in the same way, with [`Invalid`] and its violations: those are texts, because no
//! program decides by them. Problems become an [`Invalid`] where a function returns the crate's [`Error`].

use std::fmt::{self, Debug, Display};
use std::ops::{Deref, DerefMut};

use crate::error::{Error, Invalid, Violation};

/// What was found to be wrong so far, each problem with the field it was found in.
///
/// ```
/// use annals::Problems;
///
/// const CENTS_MAX: u64 = 1_000_000;
///
/// #[derive(Debug, PartialEq)]
/// enum Problem { Empty, NotPositive, TooMuch { limit: u64 } }
///
/// struct Transfer { from: String, to: String, cents: u64 }
///
/// fn check(transfer: &Transfer) -> Result<(), Problems<Problem>> {
///     let mut problems = Problems::new();
///     problems.field("from").check(!transfer.from.is_empty(), Problem::Empty);
///     problems.field("to").check(!transfer.to.is_empty(), Problem::Empty);
///     problems.field("cents").check(transfer.cents > 0, Problem::NotPositive);
///     problems.field("cents").at_most(transfer.cents, CENTS_MAX, |over| Problem::TooMuch { limit: over.limit });
///     problems.into_result()
/// }
///
/// let problems = check(&Transfer { from: String::new(), to: "bob".into(), cents: 0 }).unwrap_err();
/// assert_eq!(problems, Problems::from([("from", Problem::Empty), ("cents", Problem::NotPositive)]));
/// ```
///
/// A problem that concerns no field in particular is added without one. Fields can be nested, so that what checks a part
/// need not know where it stands:
///
/// ```
/// use annals::Problems;
///
/// struct Line { count: u32 }
///
/// fn check_line(line: &Line, problems: &mut Problems<&'static str>) {
///     problems.field("count").check(line.count > 0, "is zero");
/// }
///
/// let lines = [Line { count: 1 }, Line { count: 0 }];
/// let mut problems = Problems::new();
/// for (index, line) in lines.iter().enumerate() {
///     check_line(line, &mut problems.field("lines").item(index));
/// }
/// assert_eq!(problems.into_result().unwrap_err().to_string(), "lines[1].count: is zero");
/// ```
#[derive(Clone)]
pub struct Problems<P> {
    found: Vec<LocatedProblem<P>>,
    /// The field that is looked at now.
    path: String,
}

/// A problem, and where it was found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct LocatedProblem<P> {
    /// The path of the field, such as `lines[2].price`; empty for what concerns no field in particular.
    pub field: String,
    /// What is wrong there.
    pub problem: P,
}

/// A value that is on the wrong side of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OutOfLimit<T> {
    /// The last value that is allowed.
    pub limit: T,
    /// The value that was given.
    pub actual: T,
}

impl<P> Problems<P> {
    /// No problems.
    pub fn new() -> Self {
        Self { found: Vec::new(), path: String::new() }
    }

    /// Adds a problem.
    pub fn add(&mut self, problem: P) {
        self.found.push(LocatedProblem { field: self.path.clone(), problem });
    }

    /// Adds the problem unless `holds`. Returns `holds`, for checks that make sense only if this one held.
    pub fn check(&mut self, holds: bool, problem: P) -> bool {
        if !holds {
            self.add(problem);
        }
        holds
    }

    /// Adds a problem, made from the limit and the value, if the value is greater than the limit.
    pub fn at_most<T: PartialOrd>(&mut self, actual: T, limit: T, problem: impl FnOnce(OutOfLimit<T>) -> P) -> bool {
        let holds = actual <= limit;
        if !holds {
            self.add(problem(OutOfLimit { limit, actual }));
        }
        holds
    }

    /// Adds a problem, made from the limit and the value, if the value is less than the limit.
    pub fn at_least<T: PartialOrd>(&mut self, actual: T, limit: T, problem: impl FnOnce(OutOfLimit<T>) -> P) -> bool {
        let holds = actual >= limit;
        if !holds {
            self.add(problem(OutOfLimit { limit, actual }));
        }
        holds
    }

    /// The value of a result; its error is added, and there is none.
    pub fn take<T>(&mut self, result: Result<T, impl Into<P>>) -> Option<T> {
        result.map_err(|error| self.add(error.into())).ok()
    }

    /// The value of what was checked elsewhere; its problems are added, below the field that is looked at here.
    pub fn absorb<T, Q: Into<P>>(&mut self, result: Result<T, Problems<Q>>) -> Option<T> {
        let problems = match result {
            Ok(value) => return Some(value),
            Err(problems) => problems,
        };
        for located in problems {
            let field = joined(&self.path, &located.field);
            self.found.push(LocatedProblem { field, problem: located.problem.into() });
        }
        None
    }

    /// Looks at a field of what is looked at here: what is added through the result belongs to it.
    pub fn field(&mut self, name: &str) -> FieldProblems<'_, P> {
        let outer_len = self.path.len();
        self.path = joined(&self.path, name);
        FieldProblems { problems: self, outer_len }
    }

    /// Looks at an item of the list that is looked at here, counted from 0.
    pub fn item(&mut self, index: usize) -> FieldProblems<'_, P> {
        use fmt::Write;
        let outer_len = self.path.len();
        let _ = write!(self.path, "[{index}]");
        FieldProblems { problems: self, outer_len }
    }

    /// Whether nothing was found to be wrong.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// How many problems were found.
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// The problems, in the order in which they were found.
    pub fn iter(&self) -> std::slice::Iter<'_, LocatedProblem<P>> {
        self.found.iter()
    }

    /// Success if nothing was found to be wrong.
    ///
    /// # Errors
    /// All problems, if there are any.
    pub fn into_result(self) -> Result<(), Self> {
        self.into_result_with(|| ())
    }

    /// A value, such as the events that were decided, if nothing was found to be wrong.
    ///
    /// # Errors
    /// All problems, if there are any.
    pub fn into_result_with<T>(self, value: impl FnOnce() -> T) -> Result<T, Self> {
        if self.is_empty() { Ok(value()) } else { Err(self) }
    }
}

/// The path of a field below another; one of them may be empty.
fn joined(path: &str, name: &str) -> String {
    let dot = if path.is_empty() || name.is_empty() || name.starts_with('[') { "" } else { "." };
    format!("{path}{dot}{name}")
}

/// The problems, while a field is looked at. Goes back to the one around it when it is dropped.
#[derive(Debug)]
pub struct FieldProblems<'p, P> {
    problems: &'p mut Problems<P>,
    /// The length of the path around the field, in bytes.
    outer_len: usize,
}

impl<P> Deref for FieldProblems<'_, P> {
    type Target = Problems<P>;

    fn deref(&self) -> &Problems<P> {
        self.problems
    }
}

impl<P> DerefMut for FieldProblems<'_, P> {
    fn deref_mut(&mut self) -> &mut Problems<P> {
        self.problems
    }
}

impl<P> Drop for FieldProblems<'_, P> {
    fn drop(&mut self) {
        self.problems.path.truncate(self.outer_len);
    }
}

impl<P> Default for Problems<P> {
    fn default() -> Self {
        Self::new()
    }
}

/// Problems that concern no field in particular.
impl<P> FromIterator<P> for Problems<P> {
    fn from_iter<I: IntoIterator<Item = P>>(problems: I) -> Self {
        let mut all = Self::new();
        problems.into_iter().for_each(|problem| all.add(problem));
        all
    }
}

/// Problems with their fields, for what a test expects.
impl<P, const N: usize> From<[(&str, P); N]> for Problems<P> {
    fn from(problems: [(&str, P); N]) -> Self {
        let mut all = Self::new();
        for (field, problem) in problems {
            all.field(field).add(problem);
        }
        all
    }
}

impl<P> IntoIterator for Problems<P> {
    type Item = LocatedProblem<P>;
    type IntoIter = std::vec::IntoIter<LocatedProblem<P>>;

    fn into_iter(self) -> Self::IntoIter {
        self.found.into_iter()
    }
}

impl<'p, P> IntoIterator for &'p Problems<P> {
    type Item = &'p LocatedProblem<P>;
    type IntoIter = std::slice::Iter<'p, LocatedProblem<P>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<P: PartialEq> PartialEq for Problems<P> {
    fn eq(&self, other: &Self) -> bool {
        self.found == other.found
    }
}

impl<P: Eq> Eq for Problems<P> {}

impl<P: Debug> Debug for Problems<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.found.iter().map(|located| (&located.field, &located.problem))).finish()
    }
}

impl<P: Display> Display for Problems<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, located) in self.found.iter().enumerate() {
            write!(f, "{}{located}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl<P: Debug + Display> std::error::Error for Problems<P> {}

impl<P: Display> Display for LocatedProblem<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.as_str() {
            "" => write!(f, "{}", self.problem),
            field => write!(f, "{field}: {}", self.problem),
        }
    }
}

impl<T: Display> Display for OutOfLimit<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "is {}, the limit is {}", self.actual, self.limit)
    }
}

impl<P: Display> From<Problems<P>> for Invalid {
    fn from(problems: Problems<P>) -> Self {
        let violation = |located: LocatedProblem<P>| Violation::new(None, located.field, located.problem.to_string());
        Invalid { violations: problems.into_iter().map(violation).collect() }
    }
}

impl<P: Display> From<Problems<P>> for Error {
    fn from(problems: Problems<P>) -> Self {
        Error::Invalid(problems.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME_BYTES_MAX: usize = 8;

    #[derive(Debug, Clone, PartialEq)]
    enum Problem {
        Empty,
        TooLong(OutOfLimit<usize>),
        TooFew(OutOfLimit<usize>),
        NoNumber,
    }

    impl Display for Problem {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{self:?}")
        }
    }

    impl From<std::num::ParseIntError> for Problem {
        fn from(_: std::num::ParseIntError) -> Self {
            Problem::NoNumber
        }
    }

    fn check_name(name: &str, problems: &mut Problems<Problem>) {
        problems.check(!name.is_empty(), Problem::Empty);
        problems.at_most(name.len(), NAME_BYTES_MAX, Problem::TooLong);
    }

    fn named(name: &str) -> Result<String, Problems<Problem>> {
        let mut problems = Problems::new();
        check_name(name, &mut problems.field("name"));
        problems.into_result_with(|| name.to_owned())
    }

    #[test]
    fn all_problems_are_told_with_their_fields_in_the_order_of_the_checks() {
        let mut problems = Problems::new();
        check_name("", &mut problems.field("owner"));
        problems.add(Problem::Empty);
        {
            let mut lines = problems.field("lines");
            check_name("too long a name", &mut lines.item(3).field("name"));
            lines.at_least(1, 2, Problem::TooFew);
        }
        check_name("fine", &mut problems.field("owner"));
        let expected = Problems::from([
            ("owner", Problem::Empty),
            ("", Problem::Empty),
            ("lines[3].name", Problem::TooLong(OutOfLimit { limit: 8, actual: 15 })),
            ("lines", Problem::TooFew(OutOfLimit { limit: 2, actual: 1 })),
        ]);
        assert_eq!(problems.len(), 4);
        assert_eq!(problems.into_result().unwrap_err(), expected);
    }

    #[test]
    fn a_limit_is_met_at_the_limit_and_broken_one_beyond() {
        for (len, holds) in [(1, true), (NAME_BYTES_MAX, true), (NAME_BYTES_MAX + 1, false)] {
            assert_eq!(named(&"a".repeat(len)).is_ok(), holds, "{len} bytes");
        }
        let mut problems = Problems::new();
        assert!(problems.at_least(2, 2, |_| ()) && problems.is_empty());
        assert!(!problems.at_least(1, 2, |_| ()) && !problems.is_empty());
    }

    #[test]
    fn what_was_checked_elsewhere_is_absorbed_below_its_field() {
        let mut problems: Problems<Problem> = Problems::new();
        assert_eq!(problems.field("buyer").absorb(named("Alice")).as_deref(), Some("Alice"));
        assert_eq!(problems.field("seller").absorb(named("")), None);
        assert_eq!(problems.absorb(named("")), None);
        assert_eq!(problems.field("count").take("12".parse::<u8>()), Some(12));
        assert_eq!(problems.field("count").take("dozen".parse::<u8>()), None);
        let expected = [("seller.name", Problem::Empty), ("name", Problem::Empty), ("count", Problem::NoNumber)];
        assert_eq!(problems, Problems::from(expected));
    }

    #[test]
    fn no_problem_is_success() {
        assert_eq!(Problems::<Problem>::new().into_result_with(|| 7), Ok(7));
        assert_eq!(Problems::<Problem>::default().into_result(), Ok(()));
    }

    #[test]
    fn problems_are_an_error_and_an_invalid_input() {
        fn of_the_crate() -> crate::Result<String> {
            Ok(named("much too long")?)
        }
        let Err(Error::Invalid(invalid)) = of_the_crate() else { panic!("it is too long") };
        assert_eq!(invalid.violations.len(), 1);
        assert_eq!((invalid.violations[0].event, invalid.violations[0].field.as_str()), (None, "name"));
        let problems: Problems<&str> = ["is late", "is old"].into_iter().collect();
        assert_eq!(problems.to_string(), "is late; is old");
        assert_eq!(format!("{problems:?}"), r#"{"": "is late", "": "is old"}"#);
        assert_eq!(OutOfLimit { limit: 8, actual: 9 }.to_string(), "is 9, the limit is 8");
    }

    #[test]
    fn an_outer_field_is_looked_at_again_after_an_inner_one() {
        let mut problems = Problems::new();
        let mut outer = problems.field("outer");
        outer.field("inner").add(1);
        outer.item(0).item(1).add(2);
        outer.add(3);
        drop(outer);
        problems.add(4);
        let fields: Vec<&str> = problems.iter().map(|located| located.field.as_str()).collect();
        assert_eq!(fields, ["outer.inner", "outer[0][1]", "outer", ""]);
    }
}
