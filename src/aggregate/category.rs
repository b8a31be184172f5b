//! The streams of a category, folded into states: loading them, from the cache, a snapshot or their beginning.
//!
//! Never writes an event. No lock is held while code of the application runs: while it applies events, encodes or decodes.

use std::fmt::Display;
use std::num::NonZeroUsize;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::cache::Cache;
use super::command::Terms;
use super::folded::{Fold, Folded, Last, Loaded};
use super::snapshots::{Saved, SnapshotPolicy, SnapshotProblem, Snapshots};
use crate::error::{Error, Invalid, Result};
use crate::limits::STREAM_NAME_BYTES_MAX;
use crate::types::StreamVersion;
use crate::{Event, EventCodec, Query, Read, Store};

/// A category of a store, and how its streams are folded.
pub(super) struct Category<F: Fold> {
    pub(super) store: Store,
    name: Arc<str>,
    pub(super) fold: F,
    pub(super) codec: EventCodec<F::Event>,
    pub(super) snapshots: Option<Arc<Snapshots<F::State>>>,
    /// One in so many loads from a snapshot is checked; 0 for none.
    pub(super) checked_one_in: u32,
    pub(super) observer: Option<Arc<ProblemObserver>>,
    pub(super) cache: Option<Arc<Cache<F::State>>>,
    pub(super) terms: Terms,
}

/// Is told the stream and what was wrong with a snapshot of it.
pub(super) type ProblemObserver = dyn Fn(&str, &SnapshotProblem) + Send + Sync;

impl<F: Fold> Clone for Category<F> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            name: Arc::clone(&self.name),
            fold: self.fold.clone(),
            codec: self.codec.clone(),
            snapshots: self.snapshots.clone(),
            checked_one_in: self.checked_one_in,
            observer: self.observer.clone(),
            cache: self.cache.clone(),
            terms: self.terms.clone(),
        }
    }
}

impl<F: Fold> Category<F> {
    pub(super) fn new(store: &Store, name: &str, fold: F, codec: EventCodec<F::Event>) -> Result<Self> {
        if let Some(problem) = category_problem(name) {
            return Err(Invalid::of("category", problem).into());
        }
        Ok(Self {
            store: store.clone(),
            name: name.into(),
            fold,
            codec,
            snapshots: None,
            checked_one_in: 0,
            observer: None,
            cache: None,
            terms: Terms::default(),
        })
    }

    /// Keeps up to so many states in memory, at least 1.
    pub(super) fn keep_in_memory(&mut self, aggregates_max: usize)
    where
        F::State: Clone,
    {
        let capacity = NonZeroUsize::new(aggregates_max).unwrap_or(NonZeroUsize::MIN);
        self.cache = Some(Arc::new(Cache::new(capacity)));
    }

    /// Saves and uses snapshots of states of this version, made by this fold.
    pub(super) fn save_snapshots(&mut self, policy: SnapshotPolicy, state_version: u32) -> Result<()>
    where
        F::State: Serialize + DeserializeOwned,
    {
        let snapshots = Snapshots::new(policy, state_version, &self.fold, self.codec.samples())?;
        self.snapshots = (!policy.is_never()).then(|| Arc::new(snapshots));
        Ok(())
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The stream of an id.
    pub(super) fn stream(&self, id: &dyn Display) -> Result<String> {
        let stream = format!("{}-{id}", self.name);
        let id_bytes_max = STREAM_NAME_BYTES_MAX - self.name.len() - 1;
        let problem = match stream.len() - self.name.len() - 1 {
            0 => "is empty".into(),
            bytes if bytes > id_bytes_max => format!("has {bytes} bytes, at most {id_bytes_max} are allowed"),
            _ => return Ok(stream),
        };
        Err(Invalid::of("id", format!("of the category {:?} {problem}", self.name)).into())
    }

    /// A state as one's own, to fold events into it.
    fn claim(&self, stream: &str, folded: Arc<Folded<F::State>>) -> Option<Folded<F::State>> {
        match &self.cache {
            Some(cache) => Some(cache.claim(stream, folded)),
            // Without a cache only the application could share it, and does not while it executes.
            None => Arc::into_inner(folded),
        }
    }

    fn tell(&self, stream: &str, problem: &SnapshotProblem) {
        if let Some(observer) = &self.observer {
            observer(stream, problem);
        }
    }
}

fn category_problem(name: &str) -> Option<String> {
    match name.len() {
        0 => Some("is empty".into()),
        bytes if bytes + 2 > STREAM_NAME_BYTES_MAX => {
            Some(format!("has {bytes} bytes, at most {} leave room for an id", STREAM_NAME_BYTES_MAX - 2))
        }
        _ if name.contains('-') => Some(format!("{name:?} contains a '-', which ends a category")),
        _ => None,
    }
}

impl<F: Fold> Category<F>
where
    F::Event: DeserializeOwned,
{
    /// A state that was just loaded, as one's own.
    pub(super) fn own_state(&self, loaded: Loaded<F::State>) -> F::State {
        match &self.cache {
            Some(cache) => cache.own(loaded.folded).state,
            None => Arc::into_inner(loaded.folded).expect("without a cache nobody shares it").state,
        }
    }

    /// The state of a stream as of now. A snapshot that is due is saved.
    pub(super) fn load(&self, stream: &str) -> Result<Loaded<F::State>> {
        let mut loaded = self.read(stream, None)?;
        self.save_if_due(stream, &mut loaded);
        Ok(loaded)
    }

    /// The state of a stream as of now, read behind one that is cached or known.
    pub(super) fn read(&self, stream: &str, known: Option<Arc<Folded<F::State>>>) -> Result<Loaded<F::State>> {
        let cache = self.cache.as_ref();
        let known = cache.and_then(|cache| cache.find(stream)).or(known);
        let behind_known = known.map_or(Ok(None), |known| self.read_behind(stream, known))?;
        let loaded = match behind_known {
            Some(loaded) => loaded,
            None => self.read_from_store(stream, None)?,
        };
        if let Some(cache) = cache.filter(|_| loaded.version().is_some()) {
            cache.put(stream, &loaded.folded);
        }
        self.tell_problems(stream, &loaded);
        Ok(loaded)
    }

    /// The state of a stream as it was at a version. No cache has it, and none wants it.
    pub(super) fn load_at(&self, stream: &str, version: StreamVersion) -> Result<Loaded<F::State>> {
        let loaded = self.read_from_store(stream, Some(version))?;
        self.tell_problems(stream, &loaded);
        if loaded.version() == Some(version) {
            return Ok(loaded);
        }
        let problem = match loaded.version() {
            Some(newest) => format!("is {version}, and the stream {stream:?} is at version {newest}"),
            None => format!("is {version}, and there is no stream {stream:?}"),
        };
        Err(Invalid::of("version", problem).into())
    }

    fn tell_problems(&self, stream: &str, loaded: &Loaded<F::State>) {
        for problem in &loaded.problems {
            self.tell(stream, problem);
        }
    }

    /// A known state, brought up to date. Reading begins with the last event in it: if that is not where it was, the
    /// state is of another history, and is forgotten.
    fn read_behind(&self, stream: &str, known: Arc<Folded<F::State>>) -> Result<Option<Loaded<F::State>>> {
        let Some(last) = known.last else { return Ok(None) };
        let mut read = self.store.read(Query::stream(stream)).from(last.position);
        let head = read.head();
        if read.next()?.is_none_or(|event| Last::of(&event) != last) {
            if let Some(cache) = &self.cache {
                cache.remove(stream);
            }
            return Ok(None);
        }
        let folded = match read.next()? {
            None => known,
            Some(event) => {
                let Some(mut own) = self.claim(stream, known) else { return Ok(None) };
                self.fold_event(&mut own, &event)?;
                self.fold_rest(&mut own, &mut read, None)?;
                Arc::new(own)
            }
        };
        Ok(Some(Loaded { folded, head, problems: Vec::new() }))
    }

    /// The state of a stream as of now, or as of a version if the stream has come so far.
    fn read_from_store(&self, stream: &str, upto: Option<StreamVersion>) -> Result<Loaded<F::State>> {
        let mut problems = Vec::new();
        if let Some(snapshots) = &self.snapshots
            && let Some(saved) = snapshots.find(&self.store, stream, upto, &mut problems)?
            && let Some(loaded) = self.read_behind_snapshot(stream, snapshots, saved, upto, &mut problems)?
        {
            return Ok(Loaded { problems, ..loaded });
        }
        let mut folded = Folded::new(self.fold.initial());
        let mut read = self.store.read(Query::stream(stream));
        let head = read.head();
        self.fold_rest(&mut folded, &mut read, upto)?;
        Ok(Loaded { folded: Arc::new(folded), head, problems })
    }

    /// The state of a snapshot with the events behind it, unless a check finds that it is wrong.
    fn read_behind_snapshot(
        &self,
        stream: &str,
        snapshots: &Snapshots<F::State>,
        saved: Saved<F::State>,
        upto: Option<StreamVersion>,
        problems: &mut Vec<SnapshotProblem>,
    ) -> Result<Option<Loaded<F::State>>> {
        if self.is_to_be_checked() && !self.is_replay(stream, snapshots, &saved)? {
            problems.push(SnapshotProblem::Mismatch { version: saved.version });
            if let Err(error) = self.store.delete_snapshot(stream) {
                problems.push(SnapshotProblem::NotSaved(error));
            }
            return Ok(None);
        }
        let mut read = self.store.read(Query::stream(stream)).from(saved.position);
        let head = read.head();
        let last = read.next()?.map(|event| Last::of(&event));
        let Some(last) = last.filter(|last| (last.version, last.position) == (saved.version, saved.position)) else {
            return Ok(None);
        };
        let mut folded = Folded::saved(saved.state, last);
        self.fold_rest(&mut folded, &mut read, upto)?;
        Ok(Some(Loaded { folded: Arc::new(folded), head, problems: Vec::new() }))
    }

    fn is_to_be_checked(&self) -> bool {
        if self.checked_one_in <= 1 {
            return self.checked_one_in == 1;
        }
        let mut random = [0; 8];
        self.store.randomness().fill(&mut random);
        u64::from_le_bytes(random).is_multiple_of(u64::from(self.checked_one_in))
    }

    /// Whether a saved state is what its events amount to.
    fn is_replay(&self, stream: &str, snapshots: &Snapshots<F::State>, saved: &Saved<F::State>) -> Result<bool> {
        let mut replayed = Folded::new(self.fold.initial());
        let mut read = self.store.read(Query::stream(stream));
        self.fold_rest(&mut replayed, &mut read, Some(saved.version))?;
        Ok(replayed.version() == Some(saved.version) && snapshots.is_same(&saved.state, &replayed.state)?)
    }

    /// Folds what is read, up to a version if there is one.
    fn fold_rest(&self, folded: &mut Folded<F::State>, read: &mut Read, upto: Option<StreamVersion>) -> Result<()> {
        while upto.is_none() || folded.version() < upto {
            let Some(event) = read.next()? else { break };
            self.fold_event(folded, &event)?;
        }
        Ok(())
    }

    #[inline]
    fn fold_event(&self, folded: &mut Folded<F::State>, event: &Event<'_>) -> Result<()> {
        for decoded in self.codec.decode(event)? {
            self.fold.apply(&mut folded.state, &decoded);
        }
        folded.note(event);
        Ok(())
    }

    /// Saves a state that is due. It is right, whether it could be saved or not.
    pub(super) fn save_if_due(&self, stream: &str, loaded: &mut Loaded<F::State>) {
        let Some(snapshots) = &self.snapshots else { return };
        if !snapshots.policy.is_due(&loaded.folded) {
            return;
        }
        match snapshots.save(&self.store, stream, &loaded.folded) {
            // Whoever opened the store only for reading knows that nothing is written.
            Ok(_) | Err(Error::ReadOnly) => {}
            Err(error) => {
                let problem = SnapshotProblem::NotSaved(error);
                self.tell(stream, &problem);
                loaded.problems.push(problem);
            }
        }
    }

    /// Saves the state of a stream as of now; whether it was saved, which it is not if a newer one is there.
    pub(super) fn save_snapshot(&self, stream: &str) -> Result<bool> {
        let Some(snapshots) = &self.snapshots else {
            return Err(Invalid::of("snapshots", "the repository has no policy for snapshots").into());
        };
        let loaded = self.read(stream, None)?;
        Ok(!loaded.folded.is_saved() && snapshots.save(&self.store, stream, &loaded.folded)?)
    }
}
