//! How scripts are printed: one that failed is read by somebody, and written into a test.

use std::fmt;

use super::operation::{CommitSpec, EventSpec, ItemSpec, PartSpec, ReadSpec, Script};

/// A line for each operation.
impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}", self.setup)?;
        self.operations.iter().enumerate().try_for_each(|(index, operation)| writeln!(f, "{index:4}  {operation:?}"))
    }
}

impl fmt::Debug for CommitSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.parts).finish()?;
        self.checks.iter().try_for_each(|(stream, expect)| write!(f, " if {stream} is {expect:?}"))?;
        self.conditions.iter().try_for_each(|condition| write!(f, " unless {condition:?}"))?;
        self.durability.map_or(Ok(()), |durability| write!(f, " {durability:?}"))
    }
}

impl fmt::Debug for PartSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}: {:?}", self.stream, self.expect, self.events)
    }
}

impl fmt::Debug for EventSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.event_type)?;
        match (self.id, self.payload_seed) {
            (0, _) => {}
            (id, seed) if id == seed => write!(f, " #{id}")?,
            (id, seed) => write!(f, " #{id} of seed {seed}")?,
        }
        write!(f, " {} B of schema {} at {}", self.payload_bytes, self.schema, self.time)?;
        self.tags.iter().try_for_each(|tag| write!(f, " +{tag}"))?;
        self.metadata.map_or(Ok(()), |metadata| write!(f, " {metadata}"))
    }
}

impl fmt::Debug for ItemSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stream.map_or(Ok(()), |stream| write!(f, " stream {stream}"))?;
        self.category.map_or(Ok(()), |category| write!(f, " category {category}"))?;
        self.types.iter().try_for_each(|name| write!(f, " {name}"))?;
        self.tags.iter().try_for_each(|tag| write!(f, " +{tag}"))
    }
}

impl fmt::Debug for ReadSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.query)?;
        match self.begin {
            None => {}
            Some((begin, true)) => write!(f, " from {begin}")?,
            Some((begin, false)) => write!(f, " after {begin}")?,
        }
        self.upto.map_or(Ok(()), |upto| write!(f, " upto {upto}"))?;
        self.limit.map_or(Ok(()), |limit| write!(f, " limit {limit}"))?;
        self.since.map_or(Ok(()), |since| write!(f, " since {since}"))?;
        self.until.map_or(Ok(()), |until| write!(f, " until {until}"))?;
        if self.reverse { write!(f, " reverse") } else { Ok(()) }
    }
}
