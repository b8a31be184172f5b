//! How scripts are drawn: which operations, how often, and with what.

use std::io::ErrorKind;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::operation::{
    After, BatchSpec, CATEGORIES, Change, CommitSpec, ConditionSpec, End, EventSpec, Expect, FaultSpec, FollowSpec,
    Handling, ItemSpec, KEYS, Operation, PartSpec, QuerySpec, ReadSpec, ReplaySpec, STREAMS, SUBSCRIPTIONS, Script,
    Setup, Start, SubscribeSpec, TAGS, TYPES,
};
use crate::storage::{Call, FileSystem};
use crate::store::ReadMode;
use crate::types::Durability;

/// Scripts of up to so many operations.
pub(super) fn script(operations_max: usize) -> impl Strategy<Value = Script> {
    (setup(), vec(operation(), 1..=operations_max)).prop_map(|(setup, operations)| Script { setup, operations })
}

fn setup() -> impl Strategy<Value = Setup> {
    let file_system = prop_oneof![2 => Just(FileSystem::Strict), 1 => Just(FileSystem::Ext4)];
    let sizes = (select(vec![4096, 4096, 8192, 16_384]), select(vec![700, 3000]));
    let durability = select(vec![Durability::Os, Durability::Synced]);
    let writes_back_in = option::weighted(0.3, 2..40_u64);
    (file_system, any::<u64>().no_shrink(), writes_back_in, sizes, durability, mode()).prop_map(
        |(file_system, seed, writes_back_in, (segment_bytes, index_tail_bytes), durability, mode)| Setup {
            file_system,
            seed,
            writes_back_in,
            segment_bytes,
            index_tail_bytes,
            durability,
            mode,
        },
    )
}

fn mode() -> impl Strategy<Value = ReadMode> {
    select(vec![ReadMode::Map, ReadMode::Pread])
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        50 => appending(),
        14 => reading(),
        6 => following(),
        20 => keeping(),
        8 => prop_oneof![3 => Just(Operation::Maintain), 2 => Just(Operation::Sync)],
        2 => (-3000..3000_i64).prop_map(Operation::MoveClock),
        8 => trouble(),
        6 => reopen(),
        1 => Just(Operation::OpenTwice),
        1 => Just(Operation::Verify),
    ]
}

fn appending() -> impl Strategy<Value = Operation> {
    prop_oneof![
        22 => commit().prop_map(Operation::Send),
        2 => commit().prop_map(Operation::SendThrough),
        8 => vec(commit(), 1..6).prop_map(Operation::SendAll),
        12 => (any::<Index>(), change()).prop_map(|(index, change)| Operation::Resend(index, change)),
        1 => prop_oneof![1 => 0..7_usize, 2 => Just(usize::MAX)].prop_map(Operation::Admit),
    ]
}

fn reading() -> impl Strategy<Value = Operation> {
    prop_oneof![
        8 => read().prop_map(Operation::Read),
        1 => Just(Operation::Count),
        2 => (0..6_u64).prop_map(Operation::Remember),
        2 => read().prop_map(Operation::LookBeside),
        3 => read().prop_map(Operation::LookOn),
        1 => read().prop_map(Operation::Lend),
        1 => Just(Operation::Backup),
    ]
}

fn following() -> impl Strategy<Value = Operation> {
    let follow = (query(), after(), any::<bool>());
    prop_oneof![
        2 => follow.prop_map(|(query, after, visible)| Operation::Follow(FollowSpec { query, after, visible })),
        4 => Just(Operation::FollowOn),
        1 => after().prop_map(Operation::Seek),
        3 => (read(), handling())
            .prop_map(|(read, handling)| Operation::Replay(ReplaySpec { read, handling })),
    ]
}

fn handling() -> impl Strategy<Value = Handling> {
    prop_oneof![
        1 => Just(Handling::Whole),
        1 => (1..4_usize).prop_map(Handling::Parallel),
        2 => (0..9_usize).prop_map(Handling::Stopped),
        2 => (0..9_usize).prop_map(Handling::Failing),
    ]
}

fn after() -> impl Strategy<Value = After> {
    prop_oneof![1 => Just(After::Beginning), 4 => (-3..6_i64).prop_map(After::BeforeHead)]
}

fn subscribe() -> impl Strategy<Value = SubscribeSpec> {
    let query = prop_oneof![1 => Just(QuerySpec::default()), 1 => query()];
    let start = prop_oneof![
        2 => Just(Start::Usual),
        1 => Just(Start::Beginning),
        2 => after().prop_map(Start::After),
        2 => Just(Start::End),
    ];
    let batch = option::weighted(0.4, prop_oneof![1 => Just(0), 20 => 1..9_usize]);
    (name(SUBSCRIPTIONS), query, start, any::<bool>(), batch, 0..6_usize).prop_map(
        |(name, query, start, visible, batch, acknowledged)| SubscribeSpec {
            name,
            query,
            start,
            visible,
            batch,
            acknowledged,
        },
    )
}

fn keeping() -> impl Strategy<Value = Operation> {
    let back = -1..4_i64;
    let save = (name(STREAMS), back, 0..2_u64);
    let load = (name(STREAMS), option::of(0..4_u64), 0..2_u64);
    prop_oneof![
        16 => batch().prop_map(Operation::Put),
        1 => name(KEYS).prop_map(Operation::Wear),
        1 => Just(Operation::SyncState),
        4 => save.prop_map(|(stream, back, schema)| Operation::SaveSnapshot { stream, back, schema }),
        4 => load.prop_map(|(stream, back, schema)| Operation::LoadSnapshot { stream, back, schema }),
        1 => name(STREAMS).prop_map(Operation::DeleteSnapshot),
        6 => subscribe().prop_map(Operation::Subscribe),
        2 => name(SUBSCRIPTIONS).prop_map(Operation::Unsubscribe),
    ]
}

fn trouble() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => (0..40_u64).prop_map(Operation::LosePowerAfter),
        6 => fault().prop_map(Operation::Fail),
        1 => (0..40_000_u64).prop_map(Operation::Fill),
        1 => Just(Operation::Free),
    ]
}

fn reopen() -> impl Strategy<Value = Operation> {
    let end = prop_oneof![
        2 => Just(End::Close),
        1 => Just(End::Drop),
        3 => Just(End::Kill),
        5 => Just(End::PowerLoss),
    ];
    (end, mode(), any::<bool>()).prop_map(|(end, mode, must_exist)| Operation::Reopen(end, mode, must_exist))
}

fn fault() -> impl Strategy<Value = FaultSpec> {
    let likely = select(vec![
        Call::Write,
        Call::Write,
        Call::Sync,
        Call::Sync,
        Call::SyncDir,
        Call::Allocate,
        Call::Rename,
        Call::Map,
    ]);
    let rare = select(vec![Call::Create, Call::CreateDir, Call::List, Call::Open, Call::Read, Call::Remove]);
    let call = prop_oneof![3 => likely, 1 => rare];
    let path = select(vec!["", "", ".segment", "index/", "state/", "synced-head"]);
    let after = prop_oneof![0..3_u64, 0..12_u64, 0..40_u64];
    let kind = select(vec![ErrorKind::Other, ErrorKind::StorageFull]);
    (call, path, after, proptest::bool::weighted(0.3), kind).prop_map(|(call, path, after, forever, kind)| FaultSpec {
        call,
        path,
        after,
        forever,
        kind,
    })
}

fn name<const N: usize>(names: [&'static str; N]) -> impl Strategy<Value = &'static str> {
    select(names.to_vec())
}

fn expect() -> impl Strategy<Value = Expect> {
    prop_oneof![
        6 => Just(Expect::Any),
        1 => Just(Expect::NoStream),
        2 => Just(Expect::StreamExists),
        10 => Just(Expect::Near(0)),
        1 => (-2..2_i64).prop_map(Expect::Near),
    ]
}

fn event() -> impl Strategy<Value = EventSpec> {
    let metadata = select(vec![None, Some("{}"), Some("{\"who\":1}")]);
    let payload_bytes = prop_oneof![9 => 0..20_usize, 2 => 400..600_usize, 1 => 500..2_000_usize];
    let schema = prop_oneof![2 => Just(1), 1 => 0..4_u32, 1 => Just(u32::MAX)];
    (name(TYPES), payload_bytes, schema, 0..40_i64, vec(name(TAGS), 0..4), metadata).prop_map(
        |(event_type, payload_bytes, schema, time, tags, metadata)| EventSpec {
            id: 0,
            payload_seed: 0,
            payload_bytes,
            event_type,
            schema,
            time,
            tags,
            metadata,
        },
    )
}

fn item() -> impl Strategy<Value = ItemSpec> {
    let stream = option::weighted(0.3, name(STREAMS));
    let category = option::weighted(0.3, name(CATEGORIES));
    let names = (vec(name(TYPES), 0..3), vec(name(TAGS), 0..3));
    (stream, category, names).prop_map(|(stream, category, (mut types, tags))| {
        if stream.is_none() && category.is_none() && tags.is_empty() && types.is_empty() {
            types.push("Two");
        }
        ItemSpec { stream, category, types, tags }
    })
}

fn query() -> impl Strategy<Value = QuerySpec> {
    let only_stream = name(STREAMS).prop_map(|stream| ItemSpec { stream: Some(stream), ..ItemSpec::default() });
    prop_oneof![
        1 => Just(QuerySpec::default()),
        2 => only_stream.prop_map(|item| QuerySpec(vec![item])),
        4 => vec(item(), 1..4).prop_map(QuerySpec),
    ]
}

fn condition() -> impl Strategy<Value = ConditionSpec> {
    (query(), after()).prop_map(|(query, after)| ConditionSpec { query, after })
}

fn commit() -> impl Strategy<Value = CommitSpec> {
    let part = (name(STREAMS), expect(), vec(event(), 1..4));
    let part = part.prop_map(|(stream, expect, events)| PartSpec { stream, expect, events });
    let checks = option::weighted(0.2, (name(STREAMS), expect()));
    let conditions = option::weighted(0.2, condition());
    let durability = option::of(select(vec![Durability::Os, Durability::Synced]));
    (vec(part, 1..3), checks, conditions, durability).prop_map(|(parts, checks, conditions, durability)| CommitSpec {
        parts,
        checks: checks.into_iter().collect(),
        conditions: conditions.into_iter().collect(),
        durability,
    })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => Just(Change::Nothing),
        1 => Just(Change::Shorter),
        2 => expect().prop_map(Change::Expectations),
        1 => Just(Change::Payload),
        1 => Just(Change::OneId),
    ]
}

fn read() -> impl Strategy<Value = ReadSpec> {
    let begin = option::of((1..120_u64, any::<bool>()));
    let upto = option::weighted(0.2, 1..120_u64);
    let limit = option::weighted(0.3, 0..9_u64);
    let time = || option::weighted(0.3, 0..40_i64);
    (query(), begin, upto, limit, any::<bool>(), time(), time()).prop_map(
        |(query, begin, upto, limit, reverse, since, until)| ReadSpec {
            query,
            begin,
            upto,
            limit,
            reverse,
            since,
            until,
        },
    )
}

fn batch() -> impl Strategy<Value = BatchSpec> {
    // Some are large, so that the state has segments enough to be compacted.
    let bytes = prop_oneof![1 => 0..40_usize, 1 => 1_500..4_000_usize];
    let changes = vec((name(KEYS), option::weighted(0.8, bytes)), 1..3);
    let expected = option::weighted(0.4, (name(KEYS), proptest::bool::weighted(0.7)));
    let durability = option::of(select(vec![Durability::Os, Durability::Synced]));
    (changes, expected, durability).prop_map(|(changes, expected, durability)| BatchSpec {
        changes,
        expected,
        durability,
    })
}
