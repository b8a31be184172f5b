//! `annals stats`: how much is in a store.

use annals::Position;
use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use crate::args::{FormatArg, StoreArg};
use crate::output;
use crate::text::grouped;

/// Show how much is in a store
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                        annals stats bank.annals\n  \
                        annals stats bank.annals --format json")]
pub(crate) struct Stats {
    #[command(flatten)]
    store: StoreArg,
    #[command(flatten)]
    format: FormatArg,
}

impl Stats {
    pub(crate) fn run(&self) -> Result<()> {
        let store = self.store.open_read_only()?;
        let stats = store.stats()?;
        let rows = [
            ("store", json!(store.id().to_string())),
            ("events", json!(stats.events)),
            ("streams", json!(stats.streams)),
            ("categories", json!(stats.categories)),
            ("types", json!(stats.types)),
            ("head", json!(stats.head.map(Position::number))),
            ("synced_head", json!(stats.synced_head.map(Position::number))),
            ("segments", json!(stats.segments)),
            ("bytes", json!(stats.bytes)),
            ("bytes_allocated", json!(stats.bytes_allocated)),
        ];
        let value: Value = rows.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        output::print(self.format.format, &value, || human(&rows))
    }
}

fn human(rows: &[(&str, Value)]) -> String {
    let shown = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.as_u64().map_or_else(|| other.to_string(), grouped),
    };
    let lines: Vec<String> =
        rows.iter().map(|(name, value)| format!("{:<16} {}", name.replace('_', " "), shown(value))).collect();
    lines.join("\n")
}
