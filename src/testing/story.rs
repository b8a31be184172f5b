//! The story of a test, told when it does not end as expected: given, when, expected, actual, one event a line.
//!
//! Events are compared and shown as JSON, whatever they are recorded as, so that they need neither `PartialEq` nor
//! `Debug`.

use std::fmt::Write;
use std::panic::Location;

use serde::Serialize;
use serde_json::Value;

/// An event, a command or a model, as it is compared and shown.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Told(Value);

impl Told {
    /// # Panics
    /// If it cannot be told in JSON.
    #[track_caller]
    pub(super) fn new(event: &impl Serialize) -> Self {
        match serde_json::to_value(event) {
            Ok(value) => Self(value),
            Err(error) => panic!("{} cannot be told in JSON: {error}", std::any::type_name_of_val(event)),
        }
    }

    /// Its fields or items, one a line.
    pub(super) fn fields(&self) -> Vec<String> {
        match &self.0 {
            Value::Object(fields) => fields.iter().map(|(name, value)| format!("{name}: {value}")).collect(),
            Value::Array(items) => items.iter().map(Value::to_string).collect(),
            other => vec![other.to_string()],
        }
    }

    /// The name of its variant and its fields, on one line.
    pub(super) fn line(&self) -> String {
        match &self.0 {
            Value::String(variant) => variant.clone(),
            Value::Object(fields) => match fields.iter().next() {
                Some((variant, body)) if fields.len() == 1 => format!("{variant} {body}"),
                _ => self.0.to_string(),
            },
            other => other.to_string(),
        }
    }
}

pub(super) fn lines(events: &[Told]) -> Vec<String> {
    events.iter().map(Told::line).collect()
}

/// What happened before, and what was done.
#[derive(Debug, Clone, Default)]
pub(super) struct Story {
    pub(super) given: Vec<String>,
    pub(super) when: Vec<String>,
}

impl Story {
    /// Ends the test, with the whole story.
    #[track_caller]
    pub(super) fn fail(&self, expected: &[String], actual: &[String]) -> ! {
        let mut text = format!("the test did not end as expected\n{}", self.beginning());
        let tell = |text: &mut String, title: &str, mark: char, own: &[String], other: &[String]| {
            section(text, title, own.iter().enumerate().map(|(at, line)| (other.get(at) != Some(line), line)), mark);
        };
        tell(&mut text, "expected", '-', expected, actual);
        tell(&mut text, "actual", '+', actual, expected);
        panic!("{text}");
    }

    /// Runs the assertions of a test, and tells the beginning of the story if one fails.
    pub(super) fn around(&self, assertions: impl FnOnce()) {
        struct Tell<'s>(&'s Story);
        impl Drop for Tell<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    eprintln!("the state is not as expected\n{}", self.0.beginning());
                }
            }
        }
        let _tell = Tell(self);
        assertions();
    }

    fn beginning(&self) -> String {
        let mut text = String::new();
        section(&mut text, "given", self.given.iter().map(|line| (false, line)), ' ');
        section(&mut text, "when", self.when.iter().map(|line| (false, line)), ' ');
        text
    }
}

/// A title and lines, those that differ with a mark.
fn section<'l>(text: &mut String, title: &str, lines: impl Iterator<Item = (bool, &'l String)>, mark: char) {
    let _ = writeln!(text, "{title}");
    let mut is_empty = true;
    for (differs, line) in lines {
        is_empty = false;
        let _ = writeln!(text, "  {} {line}", if differs { mark } else { ' ' });
    }
    if is_empty {
        let _ = writeln!(text, "    nothing");
    }
}

/// Says where a closure stands, which says nothing of itself.
pub(super) fn decision_at(place: &Location<'_>) -> Vec<String> {
    vec![format!("the decision at {place}")]
}
