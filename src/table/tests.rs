//! A table against the plainest thing that could answer: all rows in a map, looked at one by one.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde::Serialize;

use super::*;
use crate::error::Error;
use crate::limits::FILTER_CONDITIONS_MAX;

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Person {
    age: i64,
    score: Option<f64>,
    name: String,
    active: bool,
    tags: Vec<String>,
    address: Address,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Address {
    city: String,
    #[serde(rename = "a.b/c")]
    odd: Option<u8>,
}

type People = Table<u8, Person>;

fn indexed() -> People {
    Table::new()
        .index("age", |person: &Person| person.age)
        .index("score", |person: &Person| person.score)
        .index("name", |person: &Person| person.name.clone())
        .field("active", |person: &Person| person.active)
        .index("tags", |person: &Person| person.tags.clone())
}

fn scanned() -> People {
    Table::new()
        .field("age", |person: &Person| person.age)
        .field("score", |person: &Person| person.score)
        .field("name", |person: &Person| person.name.clone())
        .field("active", |person: &Person| person.active)
        .field("tags", |person: &Person| person.tags.clone())
}

fn person(age: i64, name: &str) -> Person {
    let address = Address { city: format!("city of {name}"), odd: None };
    Person { age, score: None, name: name.into(), active: true, tags: vec![name.into()], address }
}

/// A few people by hand: 1 Ann 30, 2 Bob 40, 3 Amy 50, 4 Cid 40.
fn people() -> People {
    let mut people = indexed();
    for (key, age, name) in [(1, 30, "Ann"), (2, 40, "Bob"), (3, 50, "Amy"), (4, 40, "Cid")] {
        people.insert(key, person(age, name));
    }
    people
}

// --- The model -------------------------------------------------------------------------------------------------------

#[derive(Debug, Clone)]
enum Step {
    Insert(u8, Person),
    Update(u8, Person),
    Upsert(u8, i64),
    Remove(u8),
    Clear,
    Save,
}

/// A filter whose meaning is spelled out in plain Rust.
#[derive(Debug, Clone)]
enum Want {
    Age(u8, i64),
    AgeFloat(u8, f64),
    Score(u8, f64),
    ScoreIs(Option<f64>),
    Name(u8, String),
    NameIn(Vec<String>),
    NamePrefix(String),
    NameContains(String),
    AgeIn(Vec<i64>),
    Active(bool),
    Tagged(String),
    City(u8, String),
    Odd(u8, u8),
    SecondTag(String),
    And(Box<Want>, Box<Want>),
    Or(Box<Want>, Box<Want>),
}

const OPERATORS: u8 = 6;

fn compare(field: FieldRef, operator: u8, value: impl Into<FieldValue>) -> Filter {
    match operator {
        0 => field.eq(value),
        1 => field.ne(value),
        2 => field.lt(value),
        3 => field.le(value),
        4 => field.gt(value),
        _ => field.ge(value),
    }
}

/// `None` where one of the sides is null.
fn holds(operator: u8, ordering: Option<Ordering>) -> bool {
    match operator {
        0 => ordering == Some(Ordering::Equal),
        1 => ordering != Some(Ordering::Equal),
        2 => ordering == Some(Ordering::Less),
        3 => ordering.is_some_and(Ordering::is_le),
        4 => ordering == Some(Ordering::Greater),
        _ => ordering.is_some_and(Ordering::is_ge),
    }
}

impl Want {
    fn filter(&self) -> Filter {
        match self {
            Want::Age(operator, age) => compare(field("age"), *operator, *age),
            Want::AgeFloat(operator, age) => compare(field("age"), *operator, *age),
            Want::Score(operator, score) => compare(field("score"), *operator, *score),
            Want::ScoreIs(score) => field("score").eq(*score),
            Want::Name(operator, name) => compare(field("name"), *operator, name),
            Want::NameIn(names) => field("name").is_in(names),
            Want::NamePrefix(prefix) => field("name").prefix(prefix),
            Want::NameContains(part) => field("name").contains(part),
            Want::AgeIn(ages) => field("age").is_in(ages.iter().copied()),
            Want::Active(active) => field("active").eq(*active),
            Want::Tagged(tag) => field("tags").contains(tag),
            Want::City(operator, city) => compare(path("address.city"), *operator, city),
            Want::Odd(operator, odd) => compare(path("/address/a.b~1c"), *operator, *odd),
            Want::SecondTag(tag) => path("tags.1").eq(tag),
            Want::And(a, b) => a.filter().and(b.filter()),
            Want::Or(a, b) => a.filter().or(b.filter()),
        }
    }

    fn holds(&self, person: &Person) -> bool {
        match self {
            Want::Age(operator, age) => holds(*operator, person.age.partial_cmp(age)),
            Want::AgeFloat(operator, age) => holds(*operator, (person.age as f64).partial_cmp(age)),
            Want::Score(operator, score) => holds(*operator, person.score.and_then(|own| own.partial_cmp(score))),
            Want::ScoreIs(score) => person.score == *score,
            Want::Name(operator, name) => holds(*operator, person.name.partial_cmp(name)),
            Want::NameIn(names) => names.contains(&person.name),
            Want::NamePrefix(prefix) => person.name.starts_with(prefix),
            Want::NameContains(part) => person.name.contains(part),
            Want::AgeIn(ages) => ages.contains(&person.age),
            Want::Active(active) => person.active == *active,
            Want::Tagged(tag) => person.tags.contains(tag),
            Want::City(operator, city) => holds(*operator, person.address.city.partial_cmp(city)),
            Want::Odd(operator, odd) => holds(*operator, person.address.odd.and_then(|own| own.partial_cmp(odd))),
            Want::SecondTag(tag) => person.tags.get(1) == Some(tag),
            Want::And(a, b) => a.holds(person) && b.holds(person),
            Want::Or(a, b) => a.holds(person) || b.holds(person),
        }
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[ab]{0,3}", Just("\u{10FFFF}".to_owned()), Just("a\u{10FFFF}".to_owned()), Just("\u{D7FF}".to_owned())]
}

fn any_score() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), Just(-0.0), Just(0.5), -2.0..2.0]
}

prop_compose! {
    fn any_person()(
        age in -3_i64..6,
        score in option::of(any_score()),
        name in text(),
        active in any::<bool>(),
        tags in vec(text(), 0..3),
        city in text(),
        odd in option::of(0_u8..3),
    ) -> Person {
        Person { age, score, name, active, tags, address: Address { city, odd } }
    }
}

fn any_step() -> impl Strategy<Value = Step> {
    let key = 0_u8..24;
    prop_oneof![
        6 => (key.clone(), any_person()).prop_map(|(key, person)| Step::Insert(key, person)),
        3 => (key.clone(), any_person()).prop_map(|(key, person)| Step::Update(key, person)),
        2 => (key.clone(), -3_i64..6).prop_map(|(key, age)| Step::Upsert(key, age)),
        2 => key.prop_map(Step::Remove),
        1 => Just(Step::Clear),
        1 => Just(Step::Save),
    ]
}

fn any_want() -> impl Strategy<Value = Want> {
    let operator = 0..OPERATORS;
    let leaf = prop_oneof![
        (operator.clone(), -4_i64..7).prop_map(|(operator, age)| Want::Age(operator, age)),
        (operator.clone(), any_score()).prop_map(|(operator, age)| Want::AgeFloat(operator, age)),
        (operator.clone(), any_score()).prop_map(|(operator, score)| Want::Score(operator, score)),
        option::of(any_score()).prop_map(Want::ScoreIs),
        (operator.clone(), text()).prop_map(|(operator, name)| Want::Name(operator, name)),
        vec(text(), 0..4).prop_map(Want::NameIn),
        text().prop_map(Want::NamePrefix),
        text().prop_map(Want::NameContains),
        vec(-4_i64..7, 0..4).prop_map(Want::AgeIn),
        any::<bool>().prop_map(Want::Active),
        text().prop_map(Want::Tagged),
        (operator.clone(), text()).prop_map(|(operator, city)| Want::City(operator, city)),
        (operator, 0_u8..4).prop_map(|(operator, odd)| Want::Odd(operator, odd)),
        text().prop_map(Want::SecondTag),
    ];
    leaf.prop_recursive(4, 16, 2, |inner| {
        prop_oneof![
            2 => (inner.clone(), inner.clone()).prop_map(|(a, b)| Want::And(Box::new(a), Box::new(b))),
            1 => (inner.clone(), inner).prop_map(|(a, b)| Want::Or(Box::new(a), Box::new(b))),
        ]
    })
}

/// Sort keys: which one, and whether it descends.
fn any_sort() -> impl Strategy<Value = Vec<(u8, bool)>> {
    vec((0_u8..4, any::<bool>()), 0..3)
}

fn sort_values(a: &Person, b: &Person, key: u8) -> Ordering {
    match key {
        0 => a.age.cmp(&b.age),
        1 => a.score.partial_cmp(&b.score).unwrap(),
        2 => a.name.cmp(&b.name),
        _ => a.address.city.cmp(&b.address.city),
    }
}

fn sort_key(key: u8) -> FieldRef {
    match key {
        0 => field("age"),
        1 => field("score"),
        2 => field("name"),
        _ => path("address.city"),
    }
}

fn apply(table: &mut People, step: &Step) {
    match step.clone() {
        Step::Insert(key, person) => drop(table.insert(key, person)),
        Step::Update(key, person) => drop(table.update(&key, |row| *row = person)),
        Step::Upsert(key, age) => table.upsert(key, || person(0, "new"), |row| row.age = age),
        Step::Remove(key) => drop(table.remove(&key)),
        Step::Clear => table.clear(),
        Step::Save => table.mark_saved(),
    }
}

fn apply_to_model(model: &mut BTreeMap<u8, Person>, step: &Step) {
    match step.clone() {
        Step::Insert(key, person) => drop(model.insert(key, person)),
        Step::Update(key, person) => {
            model.entry(key).and_modify(|row| *row = person);
        }
        Step::Upsert(key, age) => model.entry(key).or_insert_with(|| person(0, "new")).age = age,
        Step::Remove(key) => drop(model.remove(&key)),
        Step::Clear => model.clear(),
        Step::Save => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_query_with_indexes_answers_like_looking_at_every_row(
        steps in vec(any_step(), 0..60),
        want in option::weighted(0.9, any_want()),
        sort in any_sort(),
        limit in option::of(0_usize..8),
        offset in 0_usize..5,
    ) {
        let (mut with, mut without, mut model) = (indexed(), scanned(), BTreeMap::new());
        for step in &steps {
            apply(&mut with, step);
            apply(&mut without, step);
            apply_to_model(&mut model, step);
        }
        prop_assert_eq!(&with, &without);

        let matching = model.iter().filter(|(_, row)| want.as_ref().is_none_or(|want| want.holds(row)));
        let mut expected: Vec<(u8, Person)> = matching.map(|(key, row)| (*key, row.clone())).collect();
        let count = expected.len();
        // A stable sort of what is in the order of keys.
        expected.sort_by(|(_, a), (_, b)| {
            let orderings = sort.iter().map(|(key, descends)| {
                let ordering = sort_values(a, b, *key);
                if *descends { ordering.reverse() } else { ordering }
            });
            orderings.fold(Ordering::Equal, Ordering::then)
        });
        let expected: Vec<_> = expected.into_iter().skip(offset).take(limit.unwrap_or(usize::MAX)).collect();

        for table in [&with, &without] {
            let mut query = table.query().offset(offset);
            if let Some(want) = &want {
                query = query.filter(want.filter());
            }
            for (key, descends) in &sort {
                query = if *descends { query.sort_desc(sort_key(*key)) } else { query.sort(sort_key(*key)) };
            }
            if let Some(limit) = limit {
                query = query.limit(limit);
            }
            prop_assert_eq!(&query.fetch().unwrap(), &expected, "{}", query.explain().unwrap());
            prop_assert_eq!(query.count().unwrap(), count);
            let explain = query.explain().unwrap();
            prop_assert_eq!(explain.rows_returned, expected.len());
            prop_assert!(explain.rows_looked_at <= table.len());
            prop_assert_eq!(query.first().unwrap().map(|(key, _)| *key), expected.first().map(|(key, _)| *key));
        }
    }

    /// Whoever writes only what is unsaved has the table, after every save.
    #[test]
    fn what_is_unsaved_is_all_that_a_copy_lacks(steps in vec(any_step(), 0..80), marked in any::<bool>()) {
        let mut table = indexed();
        let mut kept: BTreeMap<u64, (u8, Person)> = BTreeMap::new();
        for (index, step) in steps.iter().enumerate() {
            apply(&mut table, &if matches!(step, Step::Save) { Step::Update(0, person(1, "x")) } else { step.clone() });
            if index % 7 == 0 {
                if marked && index % 3 == 0 {
                    table.mark_unsaved();
                    kept.clear();
                }
                save(&mut table, &mut kept);
                prop_assert_eq!(&restored(&kept), &table);
            }
        }
        let mut copy = restored(&kept);
        save(&mut table, &mut kept);
        prop_assert_eq!(&restored(&kept), &table);
        prop_assert_eq!(table.unsaved().count(), 0);

        // A restored table goes on like the one that was saved.
        copy.insert(200, person(1, "new"));
        let mut kept_by_copy = kept.clone();
        save(&mut copy, &mut kept_by_copy);
        prop_assert_eq!(kept_by_copy.values().filter(|(key, _)| *key == 200).count(), 1);
    }
}

fn save(table: &mut People, kept: &mut BTreeMap<u64, (u8, Person)>) {
    for change in table.unsaved() {
        match change {
            Unsaved::Put { number, key, row } => drop(kept.insert(number, (*key, row.clone()))),
            Unsaved::Delete { number } => assert!(kept.remove(&number).is_some(), "{number} was never saved"),
        }
    }
    table.mark_saved();
}

fn restored(kept: &BTreeMap<u64, (u8, Person)>) -> People {
    let mut table = indexed();
    for (number, (key, row)) in kept {
        assert!(table.restore(*number, *key, row.clone()), "{key} twice");
    }
    table
}

// --- By hand ---------------------------------------------------------------------------------------------------------

fn explain(query: &TableQuery<'_, u8, Person>) -> String {
    query.explain().unwrap().to_string()
}

#[test]
fn explain_names_the_index_and_counts_the_rows() {
    let people = people();
    let query = || people.query();
    let cases = [
        (query(), "scan: 4 of 4 rows looked at, 4 returned"),
        (query().limit(2), "scan: 2 of 4 rows looked at, 2 returned"),
        (query().limit(0), "scan: 0 of 4 rows looked at, 0 returned"),
        (query().filter(field("active").eq(true)), "scan: 4 of 4 rows looked at, 4 returned"),
        (query().filter(path("age").eq(40)), "scan: 4 of 4 rows looked at, 2 returned"),
        (query().filter(field("age").eq(40)), "index \"age\": 2 of 4 rows looked at, 2 returned"),
        (query().filter(field("age").is_in([30, 50, 30])), "index \"age\": 2 of 4 rows looked at, 2 returned"),
        (
            query().filter(field("age").gt(30).and(field("age").lt(50))),
            "index \"age\": 2 of 4 rows looked at, 2 returned",
        ),
        (query().filter(field("name").prefix("A")), "index \"name\": 2 of 4 rows looked at, 2 returned"),
        (
            query().filter(field("name").prefix("A")).filter(field("age").eq(30)),
            "index \"age\": 1 of 4 rows looked at, 1 returned",
        ),
        (
            query().filter(field("age").eq(30).or(field("name").eq("Bob"))),
            "index \"age\" and \"name\": 2 of 4 rows looked at, 2 returned",
        ),
        (query().filter(field("age").eq(30).or(field("active").eq(true))), "scan: 4 of 4 rows looked at, 4 returned"),
        (query().filter(field("age").ge(0)), "scan: 4 of 4 rows looked at, 4 returned"),
        (
            query().filter(field("age").gt(50).and(field("age").lt(50))),
            "index \"age\": 0 of 4 rows looked at, 0 returned",
        ),
        (query().sort_desc("age").limit(1), "index \"age\", in its order: 1 of 4 rows looked at, 1 returned"),
        (
            query().filter(field("age").ge(40)).sort("age").limit(2),
            "index \"age\", in its order: 2 of 4 rows looked at, 2 returned",
        ),
        (query().filter(field("age").eq(40)).sort("name"), "index \"age\", sorted: 2 of 4 rows looked at, 2 returned"),
        (query().sort("active"), "scan, sorted: 4 of 4 rows looked at, 4 returned"),
    ];
    for (query, expected) in cases {
        assert_eq!(explain(&query), expected, "{query:?}");
    }
}

#[test]
fn every_problem_of_a_query_is_told_with_what_is_known() {
    let people = people();
    let wrong = field("balance").gt(1).and(field("age").eq("x")).or(path("").eq(1)).or(field("score").lt(None::<i64>));
    let query =
        people.query().filter(wrong).filter(field("age").eq(None::<i64>)).sort("size").sort_desc("tags").page(0);
    let Err(Error::Invalid(invalid)) = query.fetch() else { panic!("it is refused") };
    let told: Vec<_> = invalid.violations.iter().map(ToString::to_string).collect();
    let known =
        "known are \"age\" (number), \"score\" (optional number), \"name\" (text), \"active\" (bool), \"tags\" (list)";
    let expected = [
        format!("filter: there is no field \"balance\"; {known}"),
        format!("filter: field \"age\" is a number, and \"x\" is a text; {known}"),
        "filter: a path is empty".to_owned(),
        format!("filter: field \"score\" is compared with null, which nothing is less or greater than; {known}"),
        format!("filter: field \"age\" is never null; {known}"),
        format!("sort: there is no field \"size\"; {known}"),
        "sort: field \"tags\" is a list, which rows are not sorted by".to_owned(),
        "page: a page needs a limit, which is its length".to_owned(),
    ];
    assert_eq!(told, expected);
}

/// A path in brackets was taken for a name, and matched nothing without a word.
#[test]
fn a_path_of_another_language_is_refused_by_name() {
    let people = people();
    for (wrong, problem) in [
        ("a.c[1]", "the path \"a.c[1]\" has a bracket"),
        ("a]", "has a bracket"),
        ("a..c", "has an empty name"),
        (".a", "has an empty name"),
        ("a.", "has an empty name"),
        ("$", "has a sign of JSONPath"),
        ("$.a", "has a sign of JSONPath"),
        ("a.*.c", "has a sign of JSONPath"),
        ("/a~2", "is no JSON pointer"),
        ("/a~", "is no JSON pointer"),
    ] {
        for query in [people.query().filter(path(wrong).eq(1)), people.query().sort(path(wrong))] {
            let error = query.fetch().unwrap_err().to_string();
            assert!(error.contains(problem), "{wrong}: {error}");
        }
    }
    for right in ["a", "a.0.c", "a-b.c d", "$a", "a*", "/", "//", "/a[0]", "/a.b~1c~0", "/*"] {
        people.query().filter(path(right).eq(1)).fetch().unwrap();
    }
}

#[test]
fn tests_that_can_never_hold_are_refused() {
    let people = people();
    let refused = [
        field("age").prefix("x"),
        field("age").contains(1),
        field("name").contains(1),
        field("name").is_in([1]),
        field("active").gt(0),
        field("tags").gt("x"),
    ];
    for filter in refused {
        assert!(matches!(people.query().filter(filter.clone()).count(), Err(Error::Invalid(_))), "{filter:?}");
    }
    let allowed = [field("tags").contains(1), field("age").lt(1.5), field("score").eq(None::<f64>), path("x").gt("y")];
    for filter in allowed {
        people.query().filter(filter).count().unwrap();
    }
    let none: Table<u8, u8> = Table::new();
    let error = none.query().sort("a").fetch().unwrap_err().to_string();
    assert!(error.contains("known are no fields"), "{error}");
}

#[test]
fn pages_follow_each_other() {
    let people = people();
    let page = |number| people.query().sort_desc("age").limit(3).page(number);
    let keys = |number| page(number).lend().unwrap().iter().map(|(key, _)| **key).collect::<Vec<_>>();
    assert_eq!([keys(1), keys(2), keys(3)], [vec![3, 2, 4], vec![1], vec![]]);
    assert_eq!(page(2).first().unwrap().map(|(key, _)| *key), Some(1));
    assert!(page(0).fetch().is_err());
    assert!(page(1).offset(1).fetch().is_err());
    assert!(page(usize::MAX).fetch().unwrap().is_empty());
}

#[test]
fn a_filter_has_a_limit() {
    let people = people();
    let at_limit = || field("age").is_in(0..FILTER_CONDITIONS_MAX as i64);
    assert_eq!(people.query().filter(at_limit()).count().unwrap(), 4);
    let error = people.query().filter(at_limit()).filter(field("age").eq(1)).count().unwrap_err().to_string();
    let problem = format!("{} conditions, at most {FILTER_CONDITIONS_MAX} are allowed", FILTER_CONDITIONS_MAX + 1);
    assert!(error.contains(&problem), "{error}");
}

#[test]
fn a_change_that_panics_leaves_indexes_that_fit_the_rows() {
    let mut people = people();
    let changed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        people.update(&1, |row| {
            row.age = 99;
            panic!("half way");
        })
    }));
    assert!(changed.is_err());
    assert_eq!(people.query().filter(field("age").eq(99)).count().unwrap(), 1);
    assert_eq!(people.query().filter(field("age").eq(30)).count().unwrap(), 0);
}

#[test]
fn looking_at_a_row_is_no_change() {
    let mut people = people();
    people.mark_saved();
    assert_eq!(people.get_mut(&1).unwrap().age, 30);
    assert_eq!(people.unsaved().count(), 0);
    people.get_mut(&1).unwrap().age = 31;
    assert_eq!(people.unsaved().count(), 1);
}

#[test]
fn an_index_can_be_declared_over_rows_that_are_there() {
    let people = people().index("letters", |person: &Person| person.name.len());
    let query = people.query().filter(field("letters").gt(3));
    assert_eq!(explain(&query), "index \"letters\": 0 of 4 rows looked at, 0 returned");
}

#[test]
#[should_panic(expected = "the field \"age\" is declared twice")]
fn a_name_is_declared_once() {
    drop(people().field("age", |person: &Person| person.age));
}

#[test]
fn no_row_has_the_last_number() {
    let mut people = indexed();
    assert!(!people.restore(u64::MAX, 1, person(1, "x")));
    assert!(people.restore(u64::MAX - 1, 1, person(1, "x")));
    assert!(!people.restore(0, 1, person(1, "y")), "the key has a row");
}

#[test]
fn a_restored_number_is_not_given_to_another_row() {
    let mut table = Table::new();
    table.insert(1_u8, "a");
    table.clear();
    table.mark_saved();
    assert!(table.restore(0, 1, "a"));
    table.insert(2, "b");
    let unsaved: Vec<_> = table.unsaved().collect();
    assert_eq!(unsaved, [Unsaved::Put { number: 1, key: &2, row: &"b" }]);
}
