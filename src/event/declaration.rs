//! The declaration of an enum of events: which types its variants are recorded as, in which versions, by which codec.
//!
//! Everything that can be wrong with it is found when it is checked, before an event is written or read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::capture::Body;
use super::chain::{self, Upcasters};
use super::codec::{Current, Encoded, EventCodec, RawCodec, Recorded, Shared, TagsOf};
use super::names::NameTable;
use super::trap::asks_what_comes_next;
use super::upcaster::Upcaster;
use super::variant::variants_of;
use crate::error::{Invalid, Result, Violation};
use crate::types::Codec;

/// Declares how the events of a plain serde enum are recorded: each variant is an event type, its body the payload.
///
/// ```
/// use annals::{Codec, EventTypes, Upcaster};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// enum AccountEvent {
///     Opened { owner: String },
///     Deposited { cents: u64, currency: String },
///     Closed,
/// }
///
/// let events = EventTypes::<AccountEvent>::new()
///     .rename("Opened", "AccountOpened")
///     .schema_version("Deposited", 2)
///     .upcast(Upcaster::one("Deposited", 1, |mut payload| {
///         payload["currency"] = "EUR".into();
///         Ok(payload)
///     }))
///     .samples([AccountEvent::Opened { owner: "Alice".into() }, AccountEvent::Closed])
///     .check()?;
/// assert_eq!(events.event_types(), ["AccountOpened", "Deposited", "Closed"]);
/// # Ok::<(), annals::Error>(())
/// ```
///
/// The enum must be externally tagged, as serde does without attributes: a tagged or untagged enum, or a struct, has no
/// variant that could be told from its payload and is refused. `#[serde(rename)]`, `rename_all` and `alias` are
/// respected.
#[must_use = "a declaration is used with check"]
pub struct EventTypes<E> {
    codec: Codec,
    renames: Vec<(&'static str, &'static str)>,
    versions: Vec<(String, u32)>,
    upcasters: Vec<Upcaster>,
    tags: Option<Arc<TagsOf<E>>>,
    raw: Option<RawCodec<E>>,
    samples: Vec<E>,
    /// Known as soon as there are samples, which can be serialized.
    serializer: Option<SampleSerializer<E>>,
}

/// What is done with samples, without the bound on their type.
struct SampleSerializer<E> {
    encode: fn(&Shared<E>, &E) -> Result<Encoded>,
    to_json: fn(&E) -> Option<serde_json::Value>,
}

impl<E> EventTypes<E> {
    /// JSON payloads, types named as the variants are, every schema version 1.
    pub fn new() -> Self {
        Self {
            codec: Codec::Json,
            renames: Vec::new(),
            versions: Vec::new(),
            upcasters: Vec::new(),
            tags: None,
            raw: None,
            samples: Vec::new(),
            serializer: None,
        }
    }

    /// Sets the codec of new events. Recorded ones are decoded by the codec that they were encoded with.
    pub fn encoded_as(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Makes and reads the bytes of payloads with functions of your own, under [`Codec::Raw`]. The second one is given
    /// the type that the event was recorded as.
    pub fn raw(
        mut self,
        encode: impl Fn(&E) -> Result<Vec<u8>> + Send + Sync + 'static,
        decode: impl Fn(&str, &[u8]) -> Result<E> + Send + Sync + 'static,
    ) -> Self {
        self.codec = Codec::Raw;
        self.raw = Some(RawCodec { encode: Arc::new(encode), decode: Arc::new(decode) });
        self
    }

    /// Records a variant under another type name.
    pub fn rename(mut self, variant: &'static str, event_type: &'static str) -> Self {
        self.renames.push((variant, event_type));
        self
    }

    /// Sets the schema version that events of a type are written in, which is 1 otherwise. Every earlier one needs an
    /// upcaster.
    pub fn schema_version(mut self, event_type: impl Into<String>, version: u32) -> Self {
        self.versions.push((event_type.into(), version));
        self
    }

    /// Adds an upcaster for events of an earlier schema version, or of a type that is no more.
    pub fn upcast(mut self, upcaster: Upcaster) -> Self {
        self.upcasters.push(upcaster);
        self
    }

    /// Tags new events with what this function reads from them.
    pub fn tagged_by(mut self, tags: impl Fn(&E) -> Vec<String> + Send + Sync + 'static) -> Self {
        self.tags = Some(Arc::new(tags));
        self
    }

    /// Adds samples, which [`EventTypes::check`] proves to survive encoding and decoding. One for each variant, and one
    /// for each optional field that is absent, finds what a codec cannot hold.
    pub fn samples(mut self, samples: impl IntoIterator<Item = E>) -> Self
    where
        E: Serialize,
    {
        self.samples.extend(samples);
        self.serializer = Some(SampleSerializer {
            encode: Shared::encode,
            to_json: |event| serde_json::to_value(Body::new(event)).ok(),
        });
        self
    }
}

impl<E: DeserializeOwned> EventTypes<E> {
    /// Checks the declaration and makes it ready for use.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) with everything that is wrong: a type that is no externally tagged
    /// enum, names that are used twice, variants and types that do not exist, a codec that is not available, upcasters
    /// that leave a gap or go in a circle, samples that do not come back as they were.
    pub fn check(self) -> Result<EventCodec<E>> {
        let mut violations = Vec::new();
        let variants = find_variants::<E>(&mut violations);
        self.check_codec(variants, &mut violations);
        let recorded = self.record(variants, &mut violations);
        chain::check(&self.upcasters, &mut violations);
        self.check_reach(&recorded, &mut violations);
        if !violations.is_empty() {
            return Err(Invalid { violations }.into());
        }
        let serializer = self.serializer;
        let shared = Shared {
            codec: self.codec,
            event_types: event_types(&recorded, &self.upcasters),
            current: NameTable::new(recorded.iter().map(|(variant, recorded)| {
                (recorded.event_type.to_owned(), Current { variant, version: recorded.version })
            })),
            variants: NameTable::new(recorded.into_iter().map(|(variant, recorded)| (variant.to_owned(), recorded))),
            upcasters: Upcasters::unchecked(self.upcasters),
            tags: self.tags,
            raw: self.raw,
            samples: self.samples,
        };
        if let Some(serializer) = serializer {
            check_samples(&shared, &serializer, &mut violations);
        }
        if violations.is_empty() { Ok(EventCodec::new(shared)) } else { Err(Invalid { violations }.into()) }
    }

    fn check_codec(&self, variants: &[&str], violations: &mut Vec<Violation>) {
        let problem = match self.codec {
            Codec::Raw if self.raw.is_none() => "raw payloads need functions of your own: use EventTypes::raw".into(),
            Codec::Raw => return,
            codec if codec.is_available() => return self.check_traps(variants, violations),
            codec => format!("{codec} is not available: its feature is not on"),
        };
        violations.push(Violation::new(None, "codec", problem));
    }

    /// Finds what the codec would write and never read again.
    fn check_traps(&self, variants: &[&str], violations: &mut Vec<Violation>) {
        let codec = self.codec;
        if codec == Codec::Json {
            return;
        }
        for variant in variants.iter().filter(|variant| asks_what_comes_next::<E>(variant)) {
            let problem = format!(
                "cannot be read back from {codec}: something in it asks the format what comes next, as a tagged or \
                 untagged enum, a flattened struct and a JSON value do, and {codec} does not say"
            );
            violations.push(Violation::new(None, format!("variant {variant:?}"), problem));
        }
    }

    /// What each variant is recorded as.
    fn record(
        &self,
        variants: &'static [&'static str],
        violations: &mut Vec<Violation>,
    ) -> Vec<(&'static str, Recorded)> {
        let renames = self.check_renames(variants, violations);
        let recorded: Vec<(&'static str, Recorded)> = variants
            .iter()
            .map(|variant| {
                let event_type = renames.get(variant).copied().unwrap_or(variant);
                let version = self.versions.iter().find(|(name, _)| name == event_type);
                (*variant, Recorded { event_type, version: version.map_or(1, |(_, version)| *version) })
            })
            .collect();
        check_types(&recorded, violations);
        self.check_versions(&recorded, violations);
        recorded
    }

    fn check_renames(
        &self,
        variants: &[&str],
        violations: &mut Vec<Violation>,
    ) -> BTreeMap<&'static str, &'static str> {
        let mut renames = BTreeMap::new();
        for (variant, event_type) in &self.renames {
            let mut add = |problem| violations.push(Violation::new(None, format!("variant {variant:?}"), problem));
            if !variants.contains(variant) {
                add(format!("cannot be renamed to {event_type:?}: there is no such variant, only {variants:?}"));
            }
            if renames.insert(*variant, *event_type).is_some() {
                add("is renamed twice".into());
            }
        }
        renames
    }

    fn check_versions(&self, recorded: &[(&str, Recorded)], violations: &mut Vec<Violation>) {
        let mut seen = BTreeSet::new();
        for (event_type, version) in &self.versions {
            let mut add = |problem: &str| {
                violations.push(Violation::new(None, format!("event type {event_type:?}"), problem.to_owned()));
            };
            if !recorded.iter().any(|(_, recorded)| recorded.event_type == event_type) {
                add("is given a schema version, and no variant is recorded as it");
            }
            if !seen.insert(event_type) {
                add("is given a schema version twice");
            }
            if *version == 0 {
                add("is given schema version 0: schema versions count from 1");
            }
        }
    }

    /// Checks that every version before the current one is upcast, and that every upcaster leads to what is read.
    fn check_reach(&self, recorded: &[(&str, Recorded)], violations: &mut Vec<Violation>) {
        let current: BTreeMap<&str, u32> =
            recorded.iter().map(|(_, recorded)| (recorded.event_type, recorded.version)).collect();
        let mut sources: BTreeMap<&str, BTreeSet<u32>> =
            current.keys().map(|event_type| (*event_type, BTreeSet::new())).collect();
        for upcaster in &self.upcasters {
            sources.entry(upcaster.source().0).or_default().insert(upcaster.source().1);
        }
        for (event_type, versions) in &sources {
            if let Some(problem) = gap_of(versions, current.get(event_type).copied()) {
                violations.push(Violation::new(None, format!("event type {event_type:?}"), problem));
            }
        }
        for upcaster in &self.upcasters {
            for (event_type, version) in upcaster.targets() {
                let is_current = current.get(event_type) == Some(&version);
                let is_source = sources.get(event_type).is_some_and(|versions| versions.contains(&version));
                if !is_current && !is_source {
                    let (source, from) = upcaster.source();
                    let problem = format!("leads to {event_type:?} in schema version {version}, which nothing reads");
                    let field = format!("upcaster of {source:?} in schema version {from}");
                    violations.push(Violation::new(None, field, problem));
                }
            }
        }
    }
}

/// What is missing of the upcasters of a type, which follow each other; `current` is the version that it is written in,
/// if it still is.
fn gap_of(versions: &BTreeSet<u32>, current: Option<u32>) -> Option<String> {
    let (first, last) = (versions.first().copied(), versions.last().copied().unwrap_or(0));
    match current {
        Some(current) if last >= current => {
            Some(format!("has an upcaster for schema version {last}, and is written in {current}"))
        }
        Some(current) if first.unwrap_or(current) > 1 => Some("a gap: schema version 1 has no upcaster".into()),
        None if first > Some(1) => Some("a gap: schema version 1 has no upcaster".into()),
        Some(current) if last + 1 < current => Some(format!("a gap: schema version {} has no upcaster", last + 1)),
        _ => None,
    }
}

fn find_variants<E: DeserializeOwned>(violations: &mut Vec<Violation>) -> &'static [&'static str] {
    let mut refuse = |reason: &str| {
        let problem = format!("events are the variants of an externally tagged enum, which this is not: {reason}");
        violations.push(Violation::new(None, std::any::type_name::<E>(), problem));
    };
    match variants_of::<E>() {
        Ok([]) => refuse("it has no variants"),
        Ok(variants) => return variants,
        Err(reason) => refuse(&reason),
    }
    &[]
}

fn check_types(recorded: &[(&str, Recorded)], violations: &mut Vec<Violation>) {
    let mut variant_of: BTreeMap<&str, &str> = BTreeMap::new();
    for (variant, Recorded { event_type, .. }) in recorded {
        let mut add = |problem| violations.push(Violation::new(None, format!("variant {variant:?}"), problem));
        chain::add_name_problem(event_type, &mut add);
        if let Some(other) = variant_of.insert(event_type, variant) {
            add(format!("is recorded as {event_type:?}, and so is {other:?}"));
        }
    }
}

fn event_types(recorded: &[(&str, Recorded)], upcasters: &[Upcaster]) -> Vec<String> {
    let current = recorded.iter().map(|(_, recorded)| recorded.event_type);
    let old = upcasters.iter().map(|upcaster| upcaster.source().0);
    let mut seen = BTreeSet::new();
    current.chain(old).filter(|name| seen.insert(*name)).map(str::to_owned).collect()
}

fn check_samples<E: DeserializeOwned>(
    shared: &Shared<E>,
    serializer: &SampleSerializer<E>,
    violations: &mut Vec<Violation>,
) {
    for (index, sample) in shared.samples.iter().enumerate() {
        if let Err(problem) = check_sample(shared, serializer, sample) {
            violations.push(Violation::new(None, format!("samples[{index}]"), problem));
        }
    }
}

/// Proves that a sample is the same after it was encoded and decoded.
fn check_sample<E: DeserializeOwned>(
    shared: &Shared<E>,
    serializer: &SampleSerializer<E>,
    sample: &E,
) -> Result<(), String> {
    let encoded = (serializer.encode)(shared, sample).map_err(|error| error.to_string())?;
    let event_type = encoded.recorded.event_type;
    let variant = shared.current.find(event_type).expect("what is recorded can be read").variant;
    let codec = shared.codec;
    let decoded = shared.decode(variant, event_type, codec, &encoded.payload);
    let decoded = decoded.map_err(|reason| format!("{event_type:?} cannot be read back from {codec}: {reason}"))?;
    let is_same = match ((serializer.to_json)(sample), (serializer.to_json)(&decoded)) {
        // The entries of a hash map come in any order, which JSON objects do not keep.
        (Some(before), Some(after)) => before == after,
        _ => (serializer.encode)(shared, &decoded).is_ok_and(|again| again.payload == encoded.payload),
    };
    if is_same { Ok(()) } else { Err(format!("{event_type:?} is another value when it is read back from {codec}")) }
}

impl<E> Default for EventTypes<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E> fmt::Debug for EventTypes<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventTypes")
            .field("codec", &self.codec)
            .field("renames", &self.renames)
            .field("versions", &self.versions)
            .field("upcasters", &self.upcasters)
            .finish_non_exhaustive()
    }
}
