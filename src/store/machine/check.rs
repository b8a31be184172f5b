//! Holds what a store shows against what its model says.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{Model, ModelEvent, Place, Standing};
use super::operation::{CATEGORIES, ItemSpec, KEYS, QuerySpec, ReadSpec, STREAMS, SUBSCRIPTIONS, TAGS, TYPES};
use super::sending::id_of;
use super::world::World;
use crate::error::{Error, Result};
use crate::store::{HistoryPoint, Query, Read, RecordedEvent, State, Store};
use crate::types::{Position, StreamVersion, Timestamp};

impl World {
    /// What is looked at after every operation: the heads, the versions of all streams, and whether who watches was told.
    pub(super) fn look(&mut self, store: &Store) -> Result<()> {
        let head = store.head()?.map_or(0, Position::number);
        assert_eq!(head, self.model.head(), "the visible head");
        // More may be synced than was asked for: what comes before a new segment is. It is held to its word.
        let synced = store.synced_head()?.map_or(0, Position::number);
        assert!((self.model.synced..=head).contains(&synced), "the synced head {synced} of {:?}", self.model.synced);
        self.model.synced = synced;
        let is_woken = self.is_woken();
        assert!(is_woken || self.heads == (head, synced), "nobody was told of {head}, {synced}");
        self.look_at_watches(head, synced)?;
        self.heads = (head, synced);
        for stream in STREAMS {
            let version = StreamVersion::new(self.model.version(stream));
            assert_eq!(store.version(stream)?, version, "the version of {stream:?}");
        }
        Ok(())
    }
}

impl World {
    /// Who watches the synced head alone is told that it moved, and of nothing else.
    fn look_at_watches(&mut self, head: u64, synced: u64) -> Result<()> {
        let Some(watch) = &self.synced_watch else { return Ok(()) };
        let (is_woken, has_moved) = (watch.signal().take(), self.heads.1 != synced);
        assert!(is_woken || !has_moved, "nobody was told that {synced} positions are synced");
        // The first word of a life may be of what was synced before it, and that of a failure is for everybody.
        let is_first = self.synced_words == 0;
        self.synced_words += u64::from(is_woken);
        assert!(!is_woken || has_moved || is_first || self.is_troubled, "woken for nothing at {head}, {synced}");
        let heads = (watch.head()?, watch.synced_head()?);
        assert_eq!(heads, (Position::new(head), Position::new(synced)), "the heads of a watch");
        Ok(())
    }
}

/// All events of a store. Positions and versions have no gaps, and commit times do not go back.
pub(super) fn everything(store: &Store) -> Result<Vec<RecordedEvent>> {
    let events: Vec<RecordedEvent> = store.read(Query::all()).owned().collect::<Result<_>>()?;
    let mut versions: BTreeMap<&str, u64> = BTreeMap::new();
    for (position, event) in (1..).zip(&events) {
        let version = versions.entry(&event.stream).or_default();
        *version += 1;
        assert_eq!((event.position.number(), event.version.number()), (position, *version), "{event:?}");
    }
    assert!(events.is_sorted_by_key(|event| event.commit_time), "time went back");
    Ok(events)
}

/// Events are the first of what was written.
pub(super) fn assert_same_events(events: &[RecordedEvent], written: &[ModelEvent]) {
    assert!(events.len() <= written.len(), "{} events of {} that were written", events.len(), written.len());
    events.iter().zip(written).for_each(|(event, model)| assert_same(event, model));
}

pub(super) fn assert_same(event: &RecordedEvent, model: &ModelEvent) {
    let spec = &model.spec;
    assert_eq!((event.stream.as_str(), event.version.number()), (model.stream, model.version), "{event:?}");
    assert_eq!((event.commit.number(), event.id), (model.commit, id_of(spec.id)), "{event:?}");
    assert_eq!((event.event_type.as_str(), &event.payload), (spec.event_type, &spec.payload()), "{event:?}");
    assert_eq!((event.schema_version, event.time.nanos()), (spec.schema, spec.time), "{event:?}");
    assert_eq!(event.metadata.as_deref(), spec.metadata.map(str::as_bytes), "{event:?}");
    let tags: BTreeSet<&str> = spec.tags.iter().copied().collect();
    assert_eq!(event.tags, tags.into_iter().collect::<Vec<_>>(), "{event:?}");
    let told = model.commit_time.is_none_or(|time| time == event.commit_time.nanos());
    assert!(told, "{event:?} was committed at {:?}", model.commit_time);
}

/// Holds a read of a store, whose head is `head`, against the model.
pub(super) fn compare(store: &Store, model: &Model, spec: &ReadSpec, head: u64) -> Result<()> {
    let read = reading(store, spec);
    let pinned = Position::new(spec.upto.map_or(head, |upto| head.min(upto)));
    // A reader that cannot follow its writer says so at the first event.
    let events: Vec<RecordedEvent> = match read.head() {
        found if found == pinned => read.owned().collect::<Result<_>>()?,
        found => {
            read.owned().collect::<Result<Vec<_>>>()?;
            panic!("a read up to {found:?}, expected {pinned:?}");
        }
    };
    let positions: Vec<u64> = events.iter().map(|event| event.position.number()).collect();
    assert_eq!(positions, model.read(spec, head), "{spec:?}");
    for event in &events {
        assert_same(event, model.at(event.position.number()));
    }
    Ok(())
}

fn reading(store: &Store, spec: &ReadSpec) -> Read {
    let mut read = store.read(spec.query.query()).upto(spec.upto.and_then(Position::new));
    match spec.begin.and_then(|(begin, included)| Some((Position::new(begin)?, included))) {
        None => {}
        Some((begin, true)) => read = read.from(begin),
        Some((begin, false)) => read = read.after(begin),
    }
    if let Some(limit) = spec.limit {
        read = read.limit(limit);
    }
    if spec.reverse {
        read = read.reverse();
    }
    if let Some(since) = spec.since {
        read = read.since(Timestamp::from_nanos(since));
    }
    if let Some(until) = spec.until {
        read = read.until(Timestamp::from_nanos(until));
    }
    read
}

/// Every way to ask gives what the log holds.
pub(super) fn every_query(store: &Store, model: &Model) -> Result<()> {
    let mut items: Vec<ItemSpec> = Vec::new();
    items.extend(STREAMS.map(|stream| ItemSpec { stream: Some(stream), ..ItemSpec::default() }));
    items.extend(CATEGORIES.map(|category| ItemSpec { category: Some(category), ..ItemSpec::default() }));
    items.extend(TYPES.map(|name| ItemSpec { types: vec![name], ..ItemSpec::default() }));
    items.extend(TAGS.map(|tag| ItemSpec { tags: vec![tag], ..ItemSpec::default() }));
    items.push(ItemSpec { category: Some("a"), types: vec!["One", "Two"], tags: vec!["x"], ..ItemSpec::default() });
    let either = QuerySpec(vec![items[1].clone(), items[items.len() - 2].clone()]);
    let queries = items.into_iter().map(|item| QuerySpec(vec![item])).chain([QuerySpec::default(), either]);
    for query in queries {
        for reverse in [false, true] {
            compare(store, model, &ReadSpec { query: query.clone(), reverse, ..ReadSpec::default() }, model.head())?;
        }
        compare(
            store,
            model,
            &ReadSpec { query, since: Some(10), until: Some(30), ..ReadSpec::default() },
            model.head(),
        )?;
    }
    STREAMS.iter().try_for_each(|stream| {
        let version = store.version(stream)?;
        assert_eq!(version, StreamVersion::new(model.version(stream)), "the version of {stream:?}");
        Ok(())
    })
}

/// What was remembered of positions is confirmed as long as it is so, and not when something else is there.
pub(super) fn places(store: &Store, model: &Model, remembered: &[(HistoryPoint, Place)]) -> Result<()> {
    for (point, place) in remembered {
        let standing = model.standing(place);
        match store.check_history(point) {
            Ok(()) => assert_ne!(standing, Standing::Other, "{point:?} is of another history"),
            Err(Error::HistoryChanged { .. }) => assert_ne!(standing, Standing::Same, "{point:?} is of this history"),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// All that is in the state, by key.
pub(super) fn values(state: &State) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut values = BTreeMap::new();
    for key in state.keys("")? {
        let value = state.get(&key)?.expect("a key that is listed has a value");
        values.insert(key, value);
    }
    for key in KEYS.map(str::to_owned).into_iter().chain(SUBSCRIPTIONS.map(|name| format!("checkpoint-{name}"))) {
        assert_eq!(state.get(&key)?.as_ref(), values.get(&key), "a key that is not listed has none");
    }
    Ok(values)
}
