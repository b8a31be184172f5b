//! Times as text: RFC 3339, to the nanosecond.

use annals::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

/// The time in UTC, with as many digits of the second as it needs.
pub(crate) fn to_text(time: Timestamp) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(time.nanos()));
    // All times of a store lie between 1677 and 2262, well within what jiff can tell.
    time.map_or_else(|error| error.to_string(), |time| time.to_string())
}

/// The time that a text such as `2011-10-01T00:38:44.546+02:00` names.
pub(crate) fn parse(text: &str) -> Result<Timestamp, String> {
    let time: jiff::Timestamp =
        text.parse().map_err(|error: jiff::Error| format!("{text:?} is not a time by RFC 3339: {error}"))?;
    from_jiff(time, text)
}

/// A time, or a date that stands for its first moment in UTC: what a person types.
pub(crate) fn parse_loosely(text: &str) -> Result<Timestamp, String> {
    let Ok(date) = text.parse::<Date>() else { return parse(text) };
    if text.contains(['T', 't', ' ']) {
        return parse(text);
    }
    let midnight = date.to_zoned(TimeZone::UTC).map_err(|error| error.to_string())?;
    from_jiff(midnight.timestamp(), text)
}

fn from_jiff(time: jiff::Timestamp, text: &str) -> Result<Timestamp, String> {
    let nanos = i64::try_from(time.as_nanosecond());
    nanos.map(Timestamp::from_nanos).map_err(|_| format!("{text:?} is not between the years 1677 and 2262"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_nanosecond_survives_the_text() {
        for nanos in [i64::MIN, -1, 0, 1, 1_000, 1_000_000_000, 1_317_422_324_546_000_000, i64::MAX] {
            let time = Timestamp::from_nanos(nanos);
            assert_eq!(parse(&to_text(time)), Ok(time), "{}", to_text(time));
        }
    }

    #[test]
    fn digits_are_as_many_as_needed() {
        assert_eq!(to_text(Timestamp::from_nanos(0)), "1970-01-01T00:00:00Z");
        assert_eq!(to_text(Timestamp::from_millis(1_500)), "1970-01-01T00:00:01.5Z");
        assert_eq!(to_text(Timestamp::from_nanos(1)), "1970-01-01T00:00:00.000000001Z");
    }

    #[test]
    fn offsets_are_taken_into_account() {
        assert_eq!(parse("2011-10-01T00:38:44.546+02:00"), parse("2011-09-30T22:38:44.546Z"));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "yesterday", "2011-10-01", "2011-10-01T00:00:00", "3000-01-01T00:00:00Z"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_date_is_its_first_moment() {
        assert_eq!(parse_loosely("2011-10-01"), parse("2011-10-01T00:00:00Z"));
        assert_eq!(parse_loosely("2011-10-01T12:00:00Z"), parse("2011-10-01T12:00:00Z"));
        assert!(parse_loosely("2011-10-01T12:00:00").is_err());
        assert!(parse_loosely("October").is_err());
    }
}
