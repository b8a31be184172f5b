//! Planning: which index leaves the fewest rows to look at.
//!
//! A plan only leaves out rows that the filter would refuse; every row it leads to is still held against the whole
//! filter. So a plan can be wrong about speed, never about the answer.

use std::ops::Bound;

use super::Table;
use super::filter::{Resolved, Test};
use super::index::{Index, ValueRange};
use super::value::FieldValue;

/// Ranges of an index, disjoint and ascending.
#[derive(Debug, Clone)]
pub(super) struct Branch {
    pub(super) field: usize,
    pub(super) ranges: Vec<ValueRange>,
}

/// Where the rows that can match are found: in any of the branches.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) branches: Vec<Branch>,
    candidates: usize,
}

impl Plan {
    /// The plan with the fewest candidates; `None` if no index leaves out a row.
    pub(super) fn new<K: Ord + Clone, Row>(table: &Table<K, Row>, filter: &Resolved) -> Option<Self> {
        let plan = Self::of(table, filter)?;
        (plan.candidates < table.len()).then_some(plan)
    }

    fn of<K: Ord + Clone, Row>(table: &Table<K, Row>, filter: &Resolved) -> Option<Self> {
        match filter {
            Resolved::Path(..) => None,
            Resolved::Field(..) => Self::of_all(table, std::slice::from_ref(filter)),
            Resolved::All(parts) => Self::of_all(table, parts),
            Resolved::Any(parts) => {
                let plans: Option<Vec<Plan>> = parts.iter().map(|part| Self::of(table, part)).collect();
                let plans = plans?;
                let candidates = plans.iter().map(|plan| plan.candidates).sum();
                Some(Self { branches: plans.into_iter().flat_map(|plan| plan.branches).collect(), candidates })
            }
        }
    }

    /// The best way to find what matches all of the parts: the best for one of them, where comparisons of the same field
    /// are one part.
    fn of_all<K: Ord + Clone, Row>(table: &Table<K, Row>, parts: &[Resolved]) -> Option<Self> {
        let mut branches: Vec<Branch> = Vec::new();
        let mut best: Option<Plan> = None;
        for part in parts {
            match part {
                Resolved::Field(field, test) if table.fields[*field].index.is_some() => {
                    let Some(ranges) = ranges_of(test) else { continue };
                    match branches.iter_mut().find(|branch| branch.field == *field) {
                        Some(branch) => branch.ranges = intersect(&branch.ranges, &ranges),
                        None => branches.push(Branch { field: *field, ranges }),
                    }
                }
                Resolved::Field(..) | Resolved::Path(..) => {}
                Resolved::All(_) | Resolved::Any(_) => best = better(best, Self::of(table, part)),
            }
        }
        for branch in branches {
            let most = best.as_ref().map_or(table.len(), |plan| plan.candidates);
            best = better(best, Self::of_branch(table, branch, most));
        }
        best
    }

    fn of_branch<K: Ord + Clone, Row>(table: &Table<K, Row>, branch: Branch, most: usize) -> Option<Self> {
        let index = table.fields[branch.field].index.as_ref()?;
        let candidates = count(index, &branch.ranges, most);
        Some(Self { branches: vec![branch], candidates })
    }
}

fn better(a: Option<Plan>, b: Option<Plan>) -> Option<Plan> {
    match (a, b) {
        (Some(a), Some(b)) if b.candidates < a.candidates => Some(b),
        (Some(a), _) => Some(a),
        (None, b) => b,
    }
}

/// Counts no further than `most`: what is no better than the best so far need not be known exactly.
fn count<K: Ord + Clone>(index: &Index<K>, ranges: &[ValueRange], most: usize) -> usize {
    let mut sum = 0;
    for range in ranges {
        sum += index.count(range, most - sum);
        if sum >= most {
            break;
        }
    }
    sum
}

/// The values for which a test can hold; `None` if they are not ranges.
fn ranges_of(test: &Test) -> Option<Vec<ValueRange>> {
    // Null is less than every value of a field, and never compared.
    let above_null = || Bound::Excluded(FieldValue::Null);
    let range = match test {
        Test::Eq(value) => ValueRange::only(value.clone()),
        Test::Lt(value) => ValueRange { low: above_null(), high: Bound::Excluded(value.clone()) },
        Test::Le(value) => ValueRange { low: above_null(), high: Bound::Included(value.clone()) },
        Test::Gt(value) => ValueRange { low: Bound::Excluded(value.clone()), high: Bound::Unbounded },
        Test::Ge(value) => ValueRange { low: Bound::Included(value.clone()), high: Bound::Unbounded },
        Test::Prefix(prefix) => ValueRange::prefixed(prefix),
        Test::In(values) => {
            let mut values = values.clone();
            values.sort();
            values.dedup();
            return Some(values.into_iter().map(ValueRange::only).collect());
        }
        Test::Ne(_) | Test::Contains(_) => return None,
    };
    Some(vec![range])
}

fn intersect(a: &[ValueRange], b: &[ValueRange]) -> Vec<ValueRange> {
    let pairs = a.iter().flat_map(|a| b.iter().map(|b| a.intersect(b)));
    pairs.filter(|range| !range.is_empty()).collect()
}
