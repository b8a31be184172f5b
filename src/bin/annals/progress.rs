//! Progress bars: on standard error, and only if that is a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar over so many bytes.
pub(crate) fn bytes(message: &'static str, total: u64) -> ProgressBar {
    bar(message, total, "{msg:10} {wide_bar} {bytes} of {total_bytes}, {eta} left")
}

/// A bar over so many events.
pub(crate) fn events(message: &'static str, total: u64) -> ProgressBar {
    bar(message, total, "{msg:10} {wide_bar} {human_pos} of {human_len} events, {eta} left")
}

fn bar(message: &'static str, total: u64, template: &str) -> ProgressBar {
    // Standard error that is no terminal hides the bar.
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()).with_message(message);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Moves a bar, but not for every event: in a fast loop the bar would cost more than the work.
pub(crate) fn tick(bar: &ProgressBar, done: u64) {
    const EVENTS: u64 = 1024;
    if done.is_multiple_of(EVENTS) {
        bar.set_position(done);
    }
}
