//! Queries over a table: filter, sort, cut; and what they cost.
//!
//! A query answers the same with indexes and without. Rows that no sort key tells apart are in the order of their keys,
//! so that pages neither repeat nor lose a row.

use std::cmp::Ordering;
use std::fmt;

use serde::Serialize;

use super::Table;
use super::filter::{FieldRef, Filter, Resolved, ResolvedPlace, Resolver};
use super::index::ValueRange;
use super::plan::{Branch, Plan};
use super::value::FieldValue;
use crate::error::{Error, Invalid, Result};

/// A query over a table, begun with [`Table::query`]. It looks at nothing before it is asked for rows.
///
/// ```
/// use annals::{Table, field, path};
/// use serde::Serialize;
///
/// #[derive(Clone, Serialize)]
/// struct Order { customer: String, cents: u64 }
///
/// let mut orders = Table::new().index("cents", |order: &Order| order.cents);
/// for number in 1..=100_u32 {
///     orders.insert(number, Order { customer: format!("c{}", number % 3), cents: u64::from(number) * 100 });
/// }
/// let query = orders.query().filter(field("cents").ge(9_000)).filter(path("customer").eq("c1")).sort_desc("cents");
/// let explain = query.explain()?;
/// assert_eq!(explain.to_string(), "index \"cents\", in its order: 11 of 100 rows looked at, 4 returned");
/// let page = query.limit(3).page(2).fetch()?;
/// assert_eq!(page.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [91]);
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "a query finds nothing before it is asked to"]
pub struct TableQuery<'t, K, Row> {
    table: &'t Table<K, Row>,
    filter: Filter,
    sort: Vec<(FieldRef, Direction)>,
    limit: Option<usize>,
    offset: usize,
    page: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ascending,
    Descending,
}

/// How a query finds its rows, and what that cost.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explain {
    /// Where the rows come from.
    pub access: Access,
    /// The index whose order the rows are returned in; `None` if they are sorted, or are in the order of their keys.
    pub order: Option<String>,
    /// Whether rows had to be sorted by the sort keys.
    pub sorted: bool,
    /// How many rows were held against the filter.
    pub rows_looked_at: usize,
    /// How many rows the query returns.
    pub rows_returned: usize,
    /// How many rows the table has.
    pub rows: usize,
}

/// Where the rows of a query come from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// From the whole table.
    Scan,
    /// From the indexes over these fields, each named once: one, or one for each side of an `or`.
    Index(Vec<String>),
}

impl fmt::Display for Explain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.access {
            Access::Scan => f.write_str("scan")?,
            Access::Index(fields) => {
                let names: Vec<_> = fields.iter().map(|field| format!("{field:?}")).collect();
                write!(f, "index {}", names.join(" and "))?;
            }
        }
        if self.order.is_some() {
            f.write_str(", in its order")?;
        }
        if self.sorted {
            f.write_str(", sorted")?;
        }
        let Self { rows_looked_at, rows_returned, rows, .. } = self;
        write!(f, ": {rows_looked_at} of {rows} rows looked at, {rows_returned} returned")
    }
}

impl<'t, K: Ord + Clone, Row: Serialize> TableQuery<'t, K, Row> {
    pub(super) fn new(table: &'t Table<K, Row>) -> Self {
        Self { table, filter: Filter::everything(), sort: Vec::new(), limit: None, offset: 0, page: None }
    }

    /// Only rows that the filter holds for, besides those given before.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = self.filter.and(filter);
        self
    }

    /// Sorts ascending by a declared field, or by a [`path`](crate::path), behind the sort keys given before. Null comes
    /// first.
    pub fn sort(mut self, by: impl Into<FieldRef>) -> Self {
        self.sort.push((by.into(), Direction::Ascending));
        self
    }

    /// Sorts descending by a declared field, or by a [`path`](crate::path), behind the sort keys given before. Null
    /// comes last.
    pub fn sort_desc(mut self, by: impl Into<FieldRef>) -> Self {
        self.sort.push((by.into(), Direction::Descending));
        self
    }

    /// At most so many rows.
    pub fn limit(mut self, rows: usize) -> Self {
        self.limit = Some(rows);
        self
    }

    /// Leaves out the first rows.
    pub fn offset(mut self, rows: usize) -> Self {
        self.offset = rows;
        self
    }

    /// The page with this number, from 1, where a page has as many rows as the [`limit`](TableQuery::limit) says.
    pub fn page(mut self, number: usize) -> Self {
        self.page = Some(number);
        self
    }

    /// The rows, copied.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every name that the table does not declare, every comparison that can never hold, and
    /// what the table does declare; [`Error::Codec`] if a row that a path looks into is no JSON.
    pub fn fetch(&self) -> Result<Vec<(K, Row)>>
    where
        Row: Clone,
    {
        Ok(self.lend()?.into_iter().map(|(key, row)| (key.clone(), row.clone())).collect())
    }

    /// The rows, borrowed from the table.
    ///
    /// # Errors
    /// Those of [`TableQuery::fetch`].
    pub fn lend(&self) -> Result<Vec<(&'t K, &'t Row)>> {
        Ok(self.run()?.found.into_iter().map(|found| (found.key, found.row)).collect())
    }

    /// The first of the rows, borrowed from the table.
    ///
    /// # Errors
    /// Those of [`TableQuery::fetch`].
    pub fn first(self) -> Result<Option<(&'t K, &'t Row)>> {
        let limit = self.limit.map_or(1, |limit| limit.min(1));
        // A page is counted with the limit that was given.
        let offset = self.checked_offset()?;
        let first = Self { offset, page: None, limit: Some(limit), ..self };
        Ok(first.lend()?.pop())
    }

    /// How many rows the filter holds for, whatever the limit.
    ///
    /// # Errors
    /// Those of [`TableQuery::fetch`].
    pub fn count(&self) -> Result<usize> {
        let all = TableQuery { filter: self.filter.clone(), ..Self::new(self.table) };
        Ok(all.run()?.found.len())
    }

    /// Runs the query, and says which index it used and how many rows it looked at.
    ///
    /// # Errors
    /// Those of [`TableQuery::fetch`].
    pub fn explain(&self) -> Result<Explain> {
        Ok(self.run()?.explain)
    }

    fn checked_offset(&self) -> Result<usize> {
        let mut resolver = Resolver::new(self.table.declared());
        let offset = self.resolve_offset(&mut resolver);
        resolver.finish().map(|()| offset)
    }

    fn resolve_offset(&self, resolver: &mut Resolver<'_>) -> usize {
        match (self.page, self.limit) {
            (None, _) => return self.offset,
            (Some(_), None) => resolver.refuse("page", "a page needs a limit, which is its length".into()),
            (Some(0), _) => resolver.refuse("page", "pages count from 1".into()),
            (Some(_), _) if self.offset > 0 => resolver.refuse("page", "a page and an offset are given".into()),
            (Some(number), Some(limit)) => return (number - 1).saturating_mul(limit),
        }
        0
    }

    fn resolve(&self) -> Result<Request> {
        let mut resolver = Resolver::new(self.table.declared());
        let filter = resolver.filter(&self.filter);
        let resolved = self.sort.iter().map(|(by, direction)| Some((resolver.sort(by)?, *direction)));
        let sort = resolved.collect::<Vec<_>>().into_iter().flatten().collect();
        let offset = self.resolve_offset(&mut resolver);
        resolver.finish()?;
        Ok(Request {
            filter,
            sort,
            offset,
            wanted: self.limit.map_or(usize::MAX, |limit| offset.saturating_add(limit)),
        })
    }

    fn run(&self) -> Result<Run<'t, K, Row>> {
        let request = self.resolve()?;
        let source = Source::choose(self.table, &request);
        let (order, sorted) = (source.order, !request.sort.is_empty() && source.order.is_none());
        let mut looked = Looked { found: Vec::new(), rows_looked_at: 0 };
        if request.wanted > request.offset {
            source.each(self.table, |key, row| looked.look(self.table, &request, sorted, key, row))?;
        }
        let Looked { mut found, rows_looked_at } = looked;
        if sorted {
            sort(&mut found, &request);
        }
        found.truncate(request.wanted);
        found.drain(..request.offset.min(found.len()));
        let explain = Explain {
            access: source.access(self.table),
            order: order.map(|(field, _)| self.table.fields[field].name.clone()),
            sorted,
            rows_looked_at,
            rows_returned: found.len(),
            rows: self.table.len(),
        };
        Ok(Run { found, explain })
    }
}

impl Resolver<'_> {
    fn finish(self) -> Result<()> {
        if self.violations.is_empty() { Ok(()) } else { Err(Invalid { violations: self.violations }.into()) }
    }
}

/// A query whose names are resolved.
struct Request {
    filter: Resolved,
    sort: Vec<(ResolvedPlace, Direction)>,
    offset: usize,
    /// How many rows are wanted, with those that are left out at the beginning.
    wanted: usize,
}

struct Run<'t, K, Row> {
    found: Vec<Found<'t, K, Row>>,
    explain: Explain,
}

struct Found<'t, K, Row> {
    key: &'t K,
    row: &'t Row,
    /// The values of the sort keys; none if the row need not be sorted.
    values: Vec<FieldValue>,
}

struct Looked<'t, K, Row> {
    found: Vec<Found<'t, K, Row>>,
    rows_looked_at: usize,
}

impl<'t, K: Ord + Clone, Row: Serialize> Looked<'t, K, Row> {
    /// Holds a row against the filter; returns whether more rows are wanted.
    fn look(
        &mut self,
        table: &Table<K, Row>,
        request: &Request,
        sorted: bool,
        key: &'t K,
        row: &'t Row,
    ) -> Result<bool> {
        self.rows_looked_at += 1;
        let mut view = RowView { table, row, json: None };
        if view.matches(&request.filter)? {
            let places = request.sort.iter().map(|(place, _)| place).filter(|_| sorted);
            let values = places.map(|place| view.value(place)).collect::<Result<_>>()?;
            self.found.push(Found { key, row, values });
        }
        Ok(sorted || self.found.len() < request.wanted)
    }
}

/// Sorts no more than is wanted.
fn sort<K: Ord, Row>(found: &mut Vec<Found<'_, K, Row>>, request: &Request) {
    let compare = |a: &Found<'_, K, Row>, b: &Found<'_, K, Row>| {
        let pairs = a.values.iter().zip(&b.values).zip(&request.sort);
        let mut orderings = pairs.map(|((a, b), (_, direction))| match direction {
            Direction::Ascending => a.cmp(b),
            Direction::Descending => b.cmp(a),
        });
        orderings.find(|ordering| ordering.is_ne()).unwrap_or(Ordering::Equal).then_with(|| a.key.cmp(b.key))
    };
    if request.wanted < found.len() {
        found.select_nth_unstable_by(request.wanted, compare);
        found.truncate(request.wanted);
    }
    found.sort_unstable_by(compare);
}

/// A row, and the JSON that it is once a path asked for it.
struct RowView<'r, K, Row> {
    table: &'r Table<K, Row>,
    row: &'r Row,
    json: Option<serde_json::Value>,
}

impl<K, Row: Serialize> RowView<'_, K, Row> {
    fn matches(&mut self, filter: &Resolved) -> Result<bool> {
        match filter {
            Resolved::Field(field, test) => Ok(test.holds(&self.field(*field))),
            Resolved::Path(pointer, test) => Ok(test.holds(&self.path(pointer)?)),
            Resolved::All(parts) => {
                for part in parts {
                    if !self.matches(part)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Resolved::Any(parts) => {
                for part in parts {
                    if self.matches(part)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }

    fn value(&mut self, place: &ResolvedPlace) -> Result<FieldValue> {
        match place {
            ResolvedPlace::Field(field) => Ok(self.field(*field)),
            ResolvedPlace::Path(pointer) => self.path(pointer),
        }
    }

    fn field(&self, field: usize) -> FieldValue {
        (self.table.fields[field].value)(self.row)
    }

    fn path(&mut self, pointer: &str) -> Result<FieldValue> {
        let json = match self.json.take() {
            Some(json) => json,
            None => serde_json::to_value(self.row).map_err(|error| Error::Codec {
                what: format!("cannot look for {pointer:?} in a row of a table"),
                reason: error.to_string(),
            })?,
        };
        Ok(self.json.insert(json).pointer(pointer).map_or(FieldValue::Null, FieldValue::from_json))
    }
}

/// Where the rows come from.
struct Source {
    branches: Option<Vec<Branch>>,
    /// The index that gives the rows in the order that is asked for.
    order: Option<(usize, Direction)>,
}

impl Source {
    fn choose<K: Ord + Clone, Row>(table: &Table<K, Row>, request: &Request) -> Self {
        let sort = match request.sort.as_slice() {
            [(ResolvedPlace::Field(field), direction)] if table.fields[*field].index.is_some() => {
                Some((*field, *direction))
            }
            _ => None,
        };
        let branches = Plan::new(table, &request.filter).map(|plan| plan.branches);
        match (branches.as_deref(), sort) {
            (Some([branch]), Some((field, _))) if branch.field == field => Self { branches, order: sort },
            (Some(_), _) | (None, None) => Self { branches, order: None },
            (None, Some((field, _))) => {
                Self { branches: Some(vec![Branch { field, ranges: vec![ValueRange::ALL] }]), order: sort }
            }
        }
    }

    fn access<K, Row>(&self, table: &Table<K, Row>) -> Access {
        let Some(branches) = &self.branches else { return Access::Scan };
        let mut names: Vec<_> = branches.iter().map(|branch| table.fields[branch.field].name.clone()).collect();
        names.sort();
        names.dedup();
        Access::Index(names)
    }

    /// Calls `look` with each row that can match, in the order that is asked for or in that of the keys, until it
    /// returns `false`.
    fn each<'t, K: Ord + Clone, Row>(
        &self,
        table: &'t Table<K, Row>,
        mut look: impl FnMut(&'t K, &'t Row) -> Result<bool>,
    ) -> Result<()> {
        let Some(branches) = &self.branches else {
            return until_enough(table.iter(), &mut look);
        };
        let row = |key: &'t K| table.rows.get(key).map(|slot| (key, &slot.row));
        let Some((_, direction)) = self.order else {
            let mut keys: Vec<&K> = branches.iter().flat_map(|branch| ascending(table, branch)).collect();
            keys.sort_unstable();
            keys.dedup();
            return until_enough(keys.into_iter().filter_map(row), &mut look);
        };
        let [branch] = branches.as_slice() else { return Ok(()) };
        match direction {
            Direction::Ascending => until_enough(ascending(table, branch).filter_map(row), &mut look),
            Direction::Descending => until_enough(descending(table, branch).filter_map(row), &mut look),
        }
    }
}

fn ascending<'t, K: Ord + Clone, Row>(table: &'t Table<K, Row>, branch: &Branch) -> impl Iterator<Item = &'t K> {
    let index = table.fields[branch.field].index.iter();
    index.flat_map(|index| branch.ranges.iter().flat_map(|range| index.ascending(range)))
}

fn descending<'t, K: Ord + Clone, Row>(table: &'t Table<K, Row>, branch: &Branch) -> impl Iterator<Item = &'t K> {
    let index = table.fields[branch.field].index.iter();
    index.flat_map(|index| branch.ranges.iter().rev().flat_map(|range| index.descending(range)))
}

fn until_enough<'t, K: 't, Row: 't>(
    rows: impl Iterator<Item = (&'t K, &'t Row)>,
    look: &mut impl FnMut(&'t K, &'t Row) -> Result<bool>,
) -> Result<()> {
    for (key, row) in rows {
        if !look(key, row)? {
            break;
        }
    }
    Ok(())
}
