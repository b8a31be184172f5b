//! Lists of postings, and their unions and intersections.
//!
//! Everything here is one operation, `seek`: the first posting at or behind a target, in the direction of reading.
//! Forwards that is the smallest one that is not less, backwards the greatest one that is not greater. The targets of
//! one cursor never turn back, so that a list searches on from where it stands, in growing steps.

use super::fault::Result;

/// The direction of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Forward,
    Backward,
}

impl Direction {
    /// Whether `posting` lies at or behind `target`.
    #[inline]
    fn reaches(self, posting: u32, target: u32) -> bool {
        match self {
            Direction::Forward => posting >= target,
            Direction::Backward => posting <= target,
        }
    }

    /// Whether `posting` lies behind `end`.
    #[inline]
    pub(super) fn passes(self, posting: u32, end: u32) -> bool {
        posting != end && self.reaches(posting, end)
    }

    /// The posting that follows; `None` behind the last.
    #[inline]
    pub(super) fn step(self, posting: u32) -> Option<u32> {
        match self {
            Direction::Forward => posting.checked_add(1),
            Direction::Backward => posting.checked_sub(1),
        }
    }

    /// The posting that is `count` further on, or `end` if that comes first.
    pub(super) fn advance(self, posting: u32, count: u32, end: u32) -> u32 {
        match self {
            Direction::Forward => posting.saturating_add(count).min(end),
            Direction::Backward => posting.saturating_sub(count).max(end),
        }
    }

    /// The part of a list that does not lie behind `end`.
    pub(super) fn upto(self, postings: &[u32], end: u32) -> &[u32] {
        match self {
            Direction::Forward => &postings[..postings.partition_point(|posting| *posting <= end)],
            Direction::Backward => &postings[postings.partition_point(|posting| *posting < end)..],
        }
    }

    /// The one of two postings that comes first.
    fn nearer(self, one: u32, other: u32) -> u32 {
        match self {
            Direction::Forward => one.min(other),
            Direction::Backward => one.max(other),
        }
    }
}

/// An ascending list of different numbers.
pub(super) trait Postings {
    fn len(&self) -> usize;
    fn at(&self, index: usize) -> Result<u32>;
}

impl Postings for &[u32] {
    fn len(&self) -> usize {
        <[u32]>::len(self)
    }

    #[inline]
    fn at(&self, index: usize) -> Result<u32> {
        Ok(self[index])
    }
}

/// A cursor over lists of postings.
#[derive(Debug)]
pub(super) enum Cursor<P> {
    List(List<P>),
    /// What is in any of them.
    Union(Vec<Member<P>>),
    /// What is in all of them.
    Intersection(Vec<Cursor<P>>),
}

impl<P: Postings> Cursor<P> {
    pub(super) fn list(postings: P) -> Self {
        Cursor::List(List { postings, passed: 0 })
    }

    /// The union of these cursors; `None` of none.
    pub(super) fn union(mut cursors: Vec<Cursor<P>>) -> Option<Self> {
        match cursors.len() {
            0 | 1 => cursors.pop(),
            _ => Some(Cursor::Union(cursors.into_iter().map(Member::new).collect())),
        }
    }

    /// The intersection of these cursors; `None` of none.
    pub(super) fn intersection(mut cursors: Vec<Cursor<P>>) -> Option<Self> {
        if cursors.len() <= 1 {
            return cursors.pop();
        }
        // The shortest one leads, and the others skip what it skips.
        cursors.sort_by_key(Cursor::len_max);
        Some(Cursor::Intersection(cursors))
    }

    /// More postings than this it cannot yield.
    fn len_max(&self) -> usize {
        match self {
            Cursor::List(list) => list.postings.len(),
            Cursor::Union(members) => members.iter().map(|member| member.cursor.len_max()).sum(),
            Cursor::Intersection(cursors) => cursors.iter().map(Cursor::len_max).min().unwrap_or(0),
        }
    }

    /// The first posting at or behind `target`.
    pub(super) fn seek(&mut self, target: u32, direction: Direction) -> Result<Option<u32>> {
        match self {
            Cursor::List(list) => list.seek(target, direction),
            Cursor::Union(members) => seek_any(members, target, direction),
            Cursor::Intersection(cursors) => seek_all(cursors, target, direction),
        }
    }
}

/// A member of a union, and where it stands.
#[derive(Debug)]
pub(super) struct Member<P> {
    cursor: Cursor<P>,
    stand: Stand,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    Before,
    At(u32),
    End,
}

impl<P: Postings> Member<P> {
    fn new(cursor: Cursor<P>) -> Self {
        Self { cursor, stand: Stand::Before }
    }

    fn seek(&mut self, target: u32, direction: Direction) -> Result<Option<u32>> {
        match self.stand {
            Stand::End => return Ok(None),
            Stand::At(posting) if direction.reaches(posting, target) => return Ok(Some(posting)),
            Stand::At(_) | Stand::Before => {}
        }
        let found = self.cursor.seek(target, direction)?;
        self.stand = found.map_or(Stand::End, Stand::At);
        Ok(found)
    }
}

fn seek_any<P: Postings>(members: &mut [Member<P>], target: u32, direction: Direction) -> Result<Option<u32>> {
    let mut nearest: Option<u32> = None;
    for member in members {
        if let Some(posting) = member.seek(target, direction)? {
            nearest = Some(nearest.map_or(posting, |nearest| direction.nearer(nearest, posting)));
        }
    }
    Ok(nearest)
}

/// Each cursor in turn leaps to where the ones before it agree, until all do.
fn seek_all<P: Postings>(cursors: &mut [Cursor<P>], target: u32, direction: Direction) -> Result<Option<u32>> {
    let mut agreed = target;
    let mut agreeing = 0;
    for index in (0..cursors.len()).cycle() {
        let Some(posting) = cursors[index].seek(agreed, direction)? else { return Ok(None) };
        agreeing = if posting == agreed { agreeing + 1 } else { 1 };
        agreed = posting;
        if agreeing >= cursors.len() {
            break;
        }
    }
    Ok(Some(agreed))
}

/// A cursor over one list.
#[derive(Debug)]
pub(super) struct List<P> {
    postings: P,
    /// How many postings, in the direction of reading, lie before the last target.
    passed: usize,
}

impl<P: Postings> List<P> {
    #[inline]
    fn at(&self, step: usize, direction: Direction) -> Result<u32> {
        match direction {
            Direction::Forward => self.postings.at(step),
            Direction::Backward => self.postings.at(self.postings.len() - 1 - step),
        }
    }

    fn seek(&mut self, target: u32, direction: Direction) -> Result<Option<u32>> {
        let len = self.postings.len();
        // Nearly always the next posting is the answer; else the steps double until one reaches the target.
        let mut reach = self.passed;
        let mut stride = 1;
        while reach < len {
            let posting = self.at(reach, direction)?;
            if direction.reaches(posting, target) {
                if reach == self.passed {
                    return Ok(Some(posting));
                }
                break;
            }
            self.passed = reach + 1;
            reach = reach.saturating_add(stride);
            stride *= 2;
        }
        self.bisect(reach.min(len), target, direction)
    }

    /// The answer lies from `passed` up to `high`; what is at `high`, if anything, reaches the target.
    fn bisect(&mut self, mut high: usize, target: u32, direction: Direction) -> Result<Option<u32>> {
        while self.passed < high {
            let middle = self.passed + (high - self.passed) / 2;
            match direction.reaches(self.at(middle, direction)?, target) {
                true => high = middle,
                false => self.passed = middle + 1,
            }
        }
        match self.passed < self.postings.len() {
            true => self.at(self.passed, direction).map(Some),
            false => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything(mut cursor: Cursor<&[u32]>, direction: Direction) -> Vec<u32> {
        let mut found = Vec::new();
        let mut target = if direction == Direction::Forward { Some(0) } else { Some(u32::MAX) };
        while let Some(posting) = target.and_then(|target| cursor.seek(target, direction).unwrap()) {
            found.push(posting);
            target = direction.step(posting);
        }
        if direction == Direction::Backward {
            found.reverse();
        }
        found
    }

    fn check(make: impl Fn() -> Option<Cursor<&'static [u32]>>, expected: &[u32]) {
        for direction in [Direction::Forward, Direction::Backward] {
            let found = make().map(|cursor| everything(cursor, direction)).unwrap_or_default();
            assert_eq!(found, expected, "{direction:?}");
        }
    }

    const EVEN: &[u32] = &[0, 2, 4, 6, 8, 10, 12];
    const THREES: &[u32] = &[0, 3, 6, 9, 12];
    const ENDS: &[u32] = &[0, u32::MAX];

    #[test]
    fn of_one_cursor_there_is_no_union_and_of_none_no_cursor() {
        for join in [Cursor::union, Cursor::intersection] {
            assert!(join(Vec::new()).is_none());
            assert!(matches!(join(vec![Cursor::list(EVEN)]), Some(Cursor::List(_))));
            assert!(!matches!(join(vec![Cursor::list(EVEN), Cursor::list(THREES)]), Some(Cursor::List(_))));
        }
    }

    #[test]
    fn a_list_yields_itself() {
        check(|| Some(Cursor::list(EVEN)), EVEN);
        check(|| Some(Cursor::list(ENDS)), ENDS);
        check(|| Some(Cursor::list(&[][..])), &[]);
    }

    #[test]
    fn a_union_yields_each_posting_once() {
        check(|| Cursor::union(vec![Cursor::list(EVEN), Cursor::list(THREES)]), &[0, 2, 3, 4, 6, 8, 9, 10, 12]);
        check(|| Cursor::union(vec![Cursor::list(EVEN), Cursor::list(&[][..])]), EVEN);
        check(|| Cursor::union(vec![]), &[]);
    }

    #[test]
    fn an_intersection_yields_what_all_have() {
        let lists = || vec![Cursor::list(EVEN), Cursor::list(THREES), Cursor::list(&[6, 7, 12][..])];
        check(|| Cursor::intersection(lists()), &[6, 12]);
        check(|| Cursor::intersection(vec![Cursor::list(EVEN), Cursor::list(ENDS)]), &[0]);
        check(|| Cursor::intersection(vec![Cursor::list(EVEN), Cursor::list(&[1, 3][..])]), &[]);
    }

    #[test]
    fn cursors_nest() {
        let either = || Cursor::union(vec![Cursor::list(THREES), Cursor::list(&[4, 5][..])]).unwrap();
        check(|| Cursor::intersection(vec![Cursor::list(EVEN), either()]), &[0, 4, 6, 12]);
    }

    /// A list that counts how often it is looked at.
    struct Watched<'w>(&'w [u32], &'w std::cell::Cell<usize>);

    impl Postings for Watched<'_> {
        fn len(&self) -> usize {
            self.0.len()
        }

        fn at(&self, index: usize) -> Result<u32> {
            self.1.set(self.1.get() + 1);
            Ok(self.0[index])
        }
    }

    /// The others skip what it skips: of lists that have nothing in common with it nothing is read.
    #[test]
    fn what_can_yield_least_leads_an_intersection() {
        let (long, short) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
        let list = |postings, looks| Cursor::list(Watched(postings, looks));
        let empty = || list(&[], &short);
        for least in [
            empty(),
            Cursor::union(vec![empty(), empty()]).unwrap(),
            Cursor::intersection(vec![list(EVEN, &short), empty()]).unwrap(),
        ] {
            let mut both = Cursor::intersection(vec![list(THREES, &long), least]).unwrap();
            assert_eq!(both.seek(0, Direction::Forward).unwrap(), None);
            assert_eq!(long.get(), 0, "the longer list was looked at");
        }
        // Two lists of two are more than one of three.
        short.set(0);
        let pair = Cursor::union(vec![list(&[7, 8], &short), list(&[9, 10], &short)]).unwrap();
        let mut both = Cursor::intersection(vec![pair, list(&[3, 5, 6], &long)]).unwrap();
        assert_eq!(both.seek(7, Direction::Forward).unwrap(), None);
        assert_eq!(short.get(), 0, "the union was looked at");
    }

    /// Steps that double lead there, and halves back.
    #[test]
    fn a_leap_costs_the_logarithm_of_its_length() {
        let list: Vec<u32> = (0..100_000).collect();
        for (begin, leap) in [(0, 1), (0, 90_000), (10, 5_000), (20_000, 79_999), (50_000, 300), (99_998, 1)] {
            let looks = std::cell::Cell::new(0);
            let mut cursor = Cursor::list(Watched(&list, &looks));
            cursor.seek(begin, Direction::Forward).unwrap();
            looks.set(0);
            assert_eq!(cursor.seek(begin + leap, Direction::Forward).unwrap(), Some(begin + leap));
            let most = 2 * leap.ilog2() as usize + 4;
            assert!(looks.get() <= most, "{} looks to leap over {leap} postings, and not {most}", looks.get());
        }
    }

    #[test]
    fn every_seek_in_a_list_finds_what_a_scan_finds() {
        let list: Vec<u32> = (0..200).map(|number| number * 3 + number % 2).collect();
        for step in [1, 2, 5, 17, 100, 400] {
            for direction in [Direction::Forward, Direction::Backward] {
                let mut cursor = Cursor::list(list.as_slice());
                let mut targets: Vec<u32> = (0..700).step_by(step).collect();
                if direction == Direction::Backward {
                    targets.reverse();
                }
                for target in targets {
                    let mut found = list.iter().copied().filter(|posting| direction.reaches(*posting, target));
                    let expected = if direction == Direction::Forward { found.next() } else { found.next_back() };
                    assert_eq!(cursor.seek(target, direction).unwrap(), expected, "{direction:?} {target}");
                }
            }
        }
    }
}
