//! Chains of upcasters: checked as a whole when they are put together, and followed for each event of an old version.
//!
//! What holds afterwards: no event goes round in a circle, and none stops at a version that another upcaster of its type
//! was to go on from.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use serde_json::Value;
use smallvec::{SmallVec, smallvec};

use super::names::NameTable;
use super::upcaster::{Payload, Step, Upcast, Upcaster, failed};
use crate::codec::rounded_integer;
use crate::error::{Error, Invalid, Result, Violation};
use crate::limits::{TYPE_NAME_BYTES_MAX, UPCAST_EVENTS_MAX, UPCASTERS_MAX};
use crate::types::Codec;
use crate::{Event, RecordedEvent};

/// Upcasters that fit together, for events that are read without their types: copies, exports, tools.
///
/// An enum of events has its own in [`EventCodec`](crate::EventCodec).
///
/// ```
/// use annals::{Query, Store, NewEvent, ExpectedVersion, Upcaster, Upcasters};
///
/// let upcasters = Upcasters::new([Upcaster::one("Deposited", 1, |mut payload| {
///     payload["currency"] = "EUR".into();
///     Ok(payload)
/// })])?;
///
/// let store = Store::in_memory()?;
/// store.append("account-alice", ExpectedVersion::Any, [NewEvent::json("Deposited", &serde_json::json!({"cents": 5}))?])?;
/// let mut read = store.read(Query::all());
/// while let Some(event) = read.next()? {
///     let events = upcasters.upcast(&event)?;
///     assert_eq!(events[0].payload, br#"{"cents":5,"currency":"EUR"}"#);
///     assert_eq!(events[0].schema_version, 2);
/// }
/// # Ok::<(), annals::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Upcasters {
    /// The upcasters of each type.
    by_type: NameTable<Vec<Upcaster>>,
}

/// An event on its way from the version that it was written in.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    pub(super) event_type: Cow<'a, str>,
    pub(super) version: u32,
    pub(super) payload: StagePayload<'a>,
}

#[derive(Debug)]
pub(super) enum StagePayload<'a> {
    Bytes(Cow<'a, [u8]>),
    Json(Value),
}

/// What one event became, in order.
pub(super) type Stages<'a> = SmallVec<[Stage<'a>; 1]>;

impl Upcasters {
    /// Puts upcasters together. Events that none of them takes stay as they are.
    ///
    /// # Errors
    /// [`Error::Invalid`] with everything that is wrong: two upcasters for one version, versions of a type that are
    /// left out in between, chains that come back to where they began, names and numbers beyond their limits.
    pub fn new(upcasters: impl IntoIterator<Item = Upcaster>) -> Result<Self> {
        let upcasters: Vec<Upcaster> = upcasters.into_iter().collect();
        let mut violations = Vec::new();
        check(&upcasters, &mut violations);
        if violations.is_empty() { Ok(Self::unchecked(upcasters)) } else { Err(Invalid { violations }.into()) }
    }

    /// Without the checks, which the caller has made.
    pub(super) fn unchecked(upcasters: Vec<Upcaster>) -> Self {
        let mut by_type: BTreeMap<String, Vec<Upcaster>> = BTreeMap::new();
        for upcaster in upcasters {
            by_type.entry(upcaster.source().0.to_owned()).or_default().push(upcaster);
        }
        Self { by_type: NameTable::new(by_type) }
    }

    /// The events that one event is told as now, in order; the index of each is its ordinal. They share its position,
    /// version, id, time, tags and metadata. An event that no upcaster takes is returned as it is.
    ///
    /// # Errors
    /// [`Error::Codec`], naming the event, if an upcaster fails on it.
    pub fn upcast(&self, event: &Event<'_>) -> Result<Vec<RecordedEvent>> {
        let stages = self.follow(event)?;
        stages.into_iter().map(|stage| stage.into_recorded(event)).collect()
    }

    /// Whether an upcaster takes events of this type and schema version.
    pub fn takes(&self, event_type: &str, version: u32) -> bool {
        self.find(event_type, version).is_some()
    }

    /// The types and schema versions that they take.
    #[cfg(feature = "schema")]
    pub(super) fn sources(&self) -> impl Iterator<Item = (&str, u32)> {
        self.by_type.iter().flat_map(|(_, upcasters)| upcasters.iter().map(Upcaster::source))
    }

    #[inline]
    fn find(&self, event_type: &str, version: u32) -> Option<&Upcaster> {
        self.by_type.find(event_type)?.iter().find(|upcaster| upcaster.source().1 == version)
    }

    /// Follows the chain from an event to its ends.
    pub(super) fn follow<'a>(&'a self, event: &Event<'a>) -> Result<Stages<'a>> {
        let first = Stage {
            event_type: Cow::Borrowed(event.event_type()),
            version: event.schema_version(),
            payload: StagePayload::Bytes(Cow::Borrowed(event.payload())),
        };
        let mut ends = Stages::new();
        // The stage that is next is the last, so that results stay in order.
        let mut open: Stages<'a> = smallvec![first];
        let mut made = 1;
        while let Some(stage) = open.pop() {
            let Some(upcaster) = self.find(&stage.event_type, stage.version) else {
                ends.push(stage);
                continue;
            };
            let results =
                advance(upcaster, stage, event.codec()).map_err(|error| error.of(describe(upcaster, event)))?;
            made += results.len();
            if made > UPCAST_EVENTS_MAX {
                let reason = format!("it became more than {UPCAST_EVENTS_MAX} events");
                return Err(failed(reason).of(describe(upcaster, event)));
            }
            open.extend(results.into_iter().rev());
        }
        Ok(ends)
    }
}

fn describe(upcaster: &Upcaster, event: &Event<'_>) -> String {
    let (event_type, version) = upcaster.source();
    format!(
        "cannot upcast {event_type:?} of schema version {version} from the {:?} event at position {} of stream {:?}",
        event.event_type(),
        event.position(),
        event.stream()
    )
}

/// One step of a chain.
fn advance<'a>(upcaster: &'a Upcaster, stage: Stage<'a>, codec: Codec) -> Result<Stages<'a>> {
    let results = match upcaster.step() {
        Step::Drop => return Ok(Stages::new()),
        Step::Keep => {
            let (event_type, version) = only_target(upcaster)?;
            return Ok(smallvec![Stage { event_type: event_type.into(), version, payload: stage.payload }]);
        }
        Step::One(upcast) => {
            let (event_type, version) = only_target(upcaster)?;
            let payload = StagePayload::Json(upcast(stage.payload.into_json(codec)?).map_err(failed)?);
            return Ok(smallvec![Stage { event_type: event_type.into(), version, payload }]);
        }
        Step::Json(upcast) => upcast(stage.payload.into_json(codec)?).map_err(failed)?,
        Step::Typed(upcast) => upcast(codec, &stage.payload.into_bytes(codec)?)?,
    };
    results.into_iter().map(|result| stage_of(upcaster, result, codec)).collect()
}

/// The result of an upcaster, with the schema version that its type was declared with.
fn stage_of(upcaster: &Upcaster, result: Upcast, codec: Codec) -> Result<Stage<'_>> {
    let (event_type, version) = match &result.event_type {
        None => only_target(upcaster)?,
        Some(name) => upcaster.targets().find(|(target, _)| target == name).ok_or_else(|| {
            failed(format_args!("it gave an event of type {name:?}, which was not declared with Upcaster::to"))
        })?,
    };
    let payload = match result.payload {
        Payload::Json(value) if codec == Codec::Json => StagePayload::Json(value),
        Payload::Json(_) => return Err(failed(format_args!("it gave a JSON payload for an event of codec {codec}"))),
        Payload::Encoded(bytes) => StagePayload::Bytes(bytes.into()),
        Payload::Typed(encode) => StagePayload::Bytes(encode(codec)?.into()),
    };
    Ok(Stage { event_type: event_type.into(), version, payload })
}

fn only_target(upcaster: &Upcaster) -> Result<(&str, u32)> {
    let mut targets = upcaster.targets();
    match (targets.next(), targets.next()) {
        (Some(target), None) => Ok(target),
        _ => Err(failed("it gave an event without a type, and has several targets")),
    }
}

impl<'a> StagePayload<'a> {
    fn into_json(self, codec: Codec) -> Result<Value> {
        match self {
            StagePayload::Json(value) => Ok(value),
            StagePayload::Bytes(bytes) if codec == Codec::Json => match rounded_integer(&bytes) {
                Some(number) => Err(failed(format_args!("a JSON value has at most 64 bits for the integer {number}"))),
                None => codec.decode(&bytes),
            },
            StagePayload::Bytes(_) => Err(failed(format_args!("it works on JSON, and the codec is {codec}"))),
        }
    }

    pub(super) fn into_bytes(self, codec: Codec) -> Result<Cow<'a, [u8]>> {
        match self {
            StagePayload::Bytes(bytes) => Ok(bytes),
            StagePayload::Json(value) => codec.encode(&value).map(Cow::Owned),
        }
    }
}

impl Stage<'_> {
    fn into_recorded(self, event: &Event<'_>) -> Result<RecordedEvent> {
        let payload = self.payload.into_bytes(event.codec())?.into_owned();
        let event_type = self.event_type.into_owned();
        Ok(RecordedEvent { event_type, schema_version: self.version, payload, ..event.to_recorded() })
    }
}

/// Checks upcasters among themselves.
pub(super) fn check(upcasters: &[Upcaster], violations: &mut Vec<Violation>) {
    if upcasters.len() > UPCASTERS_MAX {
        let problem = format!("{} upcasters, at most {UPCASTERS_MAX} are allowed", upcasters.len());
        violations.push(Violation::new(None, "upcasters", problem));
        return;
    }
    let mut sources = BTreeSet::new();
    for upcaster in upcasters {
        let mut add = |problem: String| violations.push(violation(upcaster.source(), problem));
        if !sources.insert(upcaster.source()) {
            add("there are two upcasters for it".into());
        }
        check_names(upcaster, &mut add);
        check_targets(upcaster, &mut add);
    }
    check_gaps(&sources, violations);
    check_cycles(upcasters, violations);
}

fn violation((event_type, version): (&str, u32), problem: impl Display) -> Violation {
    Violation::new(None, format!("upcaster of {event_type:?} in schema version {version}"), problem.to_string())
}

fn check_names(upcaster: &Upcaster, add: &mut impl FnMut(String)) {
    for (event_type, version) in std::iter::once(upcaster.source()).chain(upcaster.targets()) {
        add_name_problem(event_type, add);
        if version == 0 {
            add(format!("schema version 0 of {event_type:?}: schema versions count from 1"));
        }
    }
}

/// What is wrong with the name of an event type, if anything.
pub(super) fn add_name_problem(event_type: &str, add: &mut impl FnMut(String)) {
    match event_type.len() {
        0 => add("the name of an event type is empty".into()),
        bytes if bytes > TYPE_NAME_BYTES_MAX => {
            add(format!("the name of an event type has {bytes} bytes, at most {TYPE_NAME_BYTES_MAX} are allowed"));
        }
        _ => {}
    }
}

fn check_targets(upcaster: &Upcaster, add: &mut impl FnMut(String)) {
    let targets: Vec<(&str, u32)> = upcaster.targets().collect();
    let names: BTreeSet<&str> = targets.iter().map(|(name, _)| *name).collect();
    if names.len() < targets.len() {
        add("it has the same type as a target twice".into());
    }
    if upcaster.is_one_to_one() && targets.len() != 1 {
        add(format!("it gives one event and has {} targets", targets.len()));
    }
    if upcaster.drops() && !targets.is_empty() {
        add("it drops the event and has a target".into());
    }
    if upcaster.source().1 == u32::MAX {
        add("there is no schema version behind the last".into());
    }
}

/// The schema versions that a type has upcasters for must follow each other.
fn check_gaps(sources: &BTreeSet<(&str, u32)>, violations: &mut Vec<Violation>) {
    let ordered: Vec<&(&str, u32)> = sources.iter().collect();
    for pair in ordered.windows(2) {
        let ((event_type, version), (next_type, next)) = (*pair[0], *pair[1]);
        if event_type == next_type && version.checked_add(1) != Some(next) {
            let problem = format!("a gap: schema version {} has no upcaster, and {next} has", version + 1);
            violations.push(violation((event_type, version), problem));
        }
    }
}

/// Takes away what nothing leads to or what leads nowhere, until nothing changes. What is left are circles.
fn check_cycles(upcasters: &[Upcaster], violations: &mut Vec<Violation>) {
    let mut left: Vec<&Upcaster> = upcasters.iter().collect();
    loop {
        let sources: BTreeSet<(&str, u32)> = left.iter().map(|upcaster| upcaster.source()).collect();
        let targets: BTreeSet<(&str, u32)> = left.iter().flat_map(|upcaster| upcaster.targets()).collect();
        let before = left.len();
        left.retain(|upcaster| {
            targets.contains(&upcaster.source()) && upcaster.targets().any(|target| sources.contains(&target))
        });
        if left.len() == before {
            break;
        }
    }
    for upcaster in left {
        violations.push(violation(upcaster.source(), "a circle: its chain comes back to it"));
    }
}

impl Stage<'_> {
    /// Whether it is of this type and schema version.
    pub(super) fn is(&self, event_type: &str, version: u32) -> bool {
        self.version == version && self.event_type == event_type
    }
}

/// The error of an event that nothing is known of.
pub(super) fn unknown(event: &Event<'_>, event_type: &str, schema_version: u32) -> Error {
    Error::UnknownEvent {
        event_type: event_type.to_owned(),
        schema_version,
        stream: event.stream().to_owned(),
        position: event.position(),
        id: event.id(),
    }
}
