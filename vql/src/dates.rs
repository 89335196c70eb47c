//! Times written by people and programs: a reader that takes a text apart from left to right
//! instead of trying a list of layouts. A text is a date, then a time of day, then a zone; each of
//! the last two may be missing, and a name of the day may stand in front.
//!
//! Readings of what is ambiguous: two numbers and a year with slashes, dots or colons are month
//! and day; years of two digits from 69 on are of the last century; a zone's name does not move
//! the time away from UTC, an offset does; an hour with am or pm and without minutes counts as seconds after
//! midnight or noon, which is odd, but how the stock program reads it and so what queries get.

use crate::value::Time;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// A time written as text, in `zone` unless the text says otherwise.
pub(crate) fn read(text: &str, zone: &TimeZone) -> Option<Time> {
    let mut reader = Reader { rest: text.trim() };
    let date = reader.date()?;
    let between = reader.between();
    let clock = if between { reader.clock()? } else { Clock::default() };
    let tail = reader.tail()?;
    let year = date.year.or(tail.year).unwrap_or(0);
    let nanoseconds = i32::try_from(clock.nanosecond).ok()?;
    let (hour, minute, second) = (clock.hour, clock.minute, clock.second);
    let civil =
        DateTime::new(year, date.month, date.day, hour, minute, second, nanoseconds).ok()?;
    let here = civil.to_zoned(zone.clone()).ok()?;
    let known =
        |name: &str| here.time_zone().to_offset_info(here.timestamp()).abbreviation() == name;
    match (tail.offset, tail.zone) {
        (Some(offset), _) => offset.to_timestamp(civil).ok(),
        // A name says little: it counts when it is what the zone calls itself.
        (None, Some(name)) if !known(name) => jiff::tz::Offset::UTC.to_timestamp(civil).ok(),
        _ => Some(here.timestamp()),
    }
}

#[derive(Clone, Copy)]
struct Date {
    /// Logs of Unix tell none; it may follow the time.
    year: Option<i16>,
    month: i8,
    day: i8,
}

#[derive(Default)]
struct Clock {
    hour: i8,
    minute: i8,
    second: i8,
    nanosecond: u32,
}

#[derive(Default)]
struct Tail<'a> {
    offset: Option<jiff::tz::Offset>,
    /// The name of a zone, such as `EST`.
    zone: Option<&'a str>,
    year: Option<i16>,
}

/// What is left of the text. Methods take their part, or nothing when it is not there.
#[derive(Clone)]
struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn date(&mut self) -> Option<Date> {
        let mut named = self.clone();
        if named.word().is_some_and(is_weekday) {
            named.eat(",");
            if named.spaces() {
                *self = named;
            }
        }
        match self.rest.chars().next()? {
            c if c.is_ascii_digit() => self.date_of_numbers(),
            _ => self.date_of_words(),
        }
    }

    /// `2019-07-25`, `07/25/2019`, `25 Jul 2019` and the like.
    fn date_of_numbers(&mut self) -> Option<Date> {
        let (first, digits) = self.number(8)?;
        match digits {
            8 => {
                let year = i16::try_from(first / 10_000).ok()?;
                Some(Date { year: Some(year), ..packed(first % 10_000)? })
            }
            6 if self.rest.starts_with(' ') => {
                Some(Date { year: Some(century(first / 10_000)?), ..packed(first % 10_000)? })
            }
            4 => self.date_after_year(i16::try_from(first).ok()?),
            1 | 2 => self.date_after_number(first),
            _ => None,
        }
    }

    fn date_after_year(&mut self, year: i16) -> Option<Date> {
        let year = Some(year);
        if self.eat("年") {
            let month = self.small()?;
            let day = if self.eat("月") { self.small()? } else { return None };
            return self.eat("日").then_some(Date { year, month, day });
        }
        let separator = self.one_of("-/.:")?;
        let month = match self.word() {
            Some(word) => month_of(word)?,
            None => self.small()?,
        };
        let day = if self.eat(separator) { self.small()? } else { 1 };
        Some(Date { year, month, day })
    }

    /// After the month or the day.
    fn date_after_number(&mut self, first: u32) -> Option<Date> {
        let first = i8::try_from(first).ok()?;
        let ordinal = self.ordinal();
        if !ordinal && let Some(separator) = self.numeric_separator() {
            let day = self.small()?;
            if !self.eat(separator) {
                return None;
            }
            // `10:30:01` is no date.
            let long = self.clone().number(4).is_some_and(|(_, digits)| digits == 4);
            let year = if long || separator != ":" { self.year()? } else { return None };
            return Some(Date { year: Some(year), month: first, day });
        }
        let tight = self.one_of("-/");
        if tight.is_none() && !self.spaces() {
            return None;
        }
        let month = month_of(self.word()?)?;
        self.eat(".");
        let year = match tight {
            Some(separator) if self.eat(separator) => self.year()?,
            Some(_) => return None,
            None => {
                self.eat(",");
                if self.spaces() { self.year()? } else { return None }
            }
        };
        Some(Date { year: Some(year), month, day: first })
    }

    /// A separator that a number follows: the date is of numbers alone.
    fn numeric_separator(&mut self) -> Option<&'a str> {
        let mut ahead = self.clone();
        let separator = ahead.one_of("/.:")?;
        if !ahead.rest.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        *self = ahead;
        Some(separator)
    }

    /// `Jul 25, 2019`, and `Jul 25` of a log, which the time follows.
    fn date_of_words(&mut self) -> Option<Date> {
        let month = month_of(self.word()?)?;
        self.eat(".");
        if !self.spaces() {
            return None;
        }
        let day = self.small()?;
        self.ordinal();
        let mut ahead = self.clone();
        ahead.eat(",");
        let mut year = None;
        if ahead.spaces() {
            let quoted = ahead.eat("'");
            if let Some((number, digits)) = ahead.number(4)
                && (digits == 4 || quoted && digits == 2)
            {
                let long = i16::try_from(number).ok()?;
                year = Some(if digits == 4 { long } else { century(number)? });
                *self = ahead;
            }
        }
        Some(Date { year, month, day })
    }

    /// Whether a time of day follows; takes what stands between.
    fn between(&mut self) -> bool {
        let mut ahead = self.clone();
        ahead.eat(",");
        let spaces = ahead.spaces();
        if spaces && ahead.eat("at ") {
            ahead.spaces();
        }
        let joined = spaces || ahead.one_of("Tt:").is_some();
        let follows = joined && ahead.rest.starts_with(|c: char| c.is_ascii_digit());
        let year = ahead.clone().number(4).is_some_and(|(_, digits)| digits == 4);
        if follows && !year {
            *self = ahead;
        }
        follows && !year
    }

    fn clock(&mut self) -> Option<Clock> {
        let (hour, digits) = self.number(6)?;
        if digits == 6 {
            // The packed form, as after `20190725T`.
            let part = |divisor: u32| i8::try_from(hour / divisor % 100).ok();
            let (hour, minute, second) = (part(10_000)?, part(100)?, part(1)?);
            return Some(Clock { hour, minute, second, nanosecond: 0 });
        }
        let hour = i8::try_from(hour).ok()?;
        if !self.eat(":") {
            let noon = i8::from(self.half_of_day()?) * 12;
            return (hour < 10).then_some(Clock { hour: noon, second: hour, ..Clock::default() });
        }
        let minute = self.small()?;
        let second = if self.eat(":") { self.small()? } else { 0 };
        let nanosecond = self.fraction()?;
        let hour = match self.half_of_day() {
            Some(true) if hour < 12 => hour + 12,
            Some(false) if hour == 12 => 0,
            _ => hour,
        };
        Some(Clock { hour, minute, second, nanosecond })
    }

    /// Nanoseconds after a dot or a comma.
    fn fraction(&mut self) -> Option<u32> {
        let mut ahead = self.clone();
        if ahead.one_of(".,").is_none() {
            return Some(0);
        }
        let length = ahead.rest.bytes().take_while(u8::is_ascii_digit).count();
        if length == 0 {
            return Some(0);
        }
        let (digits, rest) = ahead.rest.split_at(length);
        self.rest = rest;
        format!("{digits:0<9}").get(..9)?.parse().ok()
    }

    /// am (false) or pm.
    fn half_of_day(&mut self) -> Option<bool> {
        let mut ahead = self.clone();
        ahead.spaces();
        let word = ahead.word()?;
        let afternoon = word.eq_ignore_ascii_case("pm");
        if !afternoon && !word.eq_ignore_ascii_case("am") {
            return None;
        }
        *self = ahead;
        Some(afternoon)
    }

    /// Everything after the time: offsets, names of zones, a year, what is in brackets.
    fn tail(&mut self) -> Option<Tail<'a>> {
        let mut tail = Tail::default();
        loop {
            self.spaces();
            if self.rest.is_empty() || self.rest.starts_with("m=") {
                return Some(tail);
            }
            if self.eat("(") {
                self.rest = self.rest.split_once(')')?.1;
            } else if self.rest.starts_with(['+', '-']) {
                tail.offset = Some(self.offset()?);
            } else if let Some((year, digits)) = self.number(4) {
                if digits != 4 {
                    return None;
                }
                tail.year = Some(i16::try_from(year).ok()?);
            } else {
                self.zone(&mut tail)?;
            }
        }
    }

    fn offset(&mut self) -> Option<jiff::tz::Offset> {
        let sign = if self.one_of("+-")? == "-" { -1 } else { 1 };
        let (number, digits) = self.number(4)?;
        let (hours, minutes) = match digits {
            4 => (number / 100, number % 100),
            1 | 2 if self.eat(":") => (number, self.number(2)?.0),
            1 | 2 => (number, 0),
            _ => return None,
        };
        let seconds = i32::try_from(hours * 3600 + minutes * 60).ok()?;
        jiff::tz::Offset::from_seconds(sign * seconds).ok()
    }

    /// The name of a zone: an offset may belong to it; `UTC` is one.
    fn zone(&mut self, tail: &mut Tail<'a>) -> Option<()> {
        let name = self.word()?;
        let place = self.eat("/");
        if place {
            let length = self.rest.find(|c: char| !(c.is_ascii_alphabetic() || "_/-".contains(c)));
            self.rest = self.rest.split_at(length.unwrap_or(self.rest.len())).1;
            return Some(());
        }
        let abbreviated = name.len() <= 5 && name.bytes().all(|b| b.is_ascii_uppercase());
        if !abbreviated && !name.eq_ignore_ascii_case("z") {
            return None;
        }
        if self.rest.starts_with(['+', '-']) {
            tail.offset = Some(self.offset()?);
        } else if matches!(name, "UTC" | "Z" | "z") {
            tail.offset = Some(jiff::tz::Offset::UTC);
        } else {
            tail.zone = Some(name);
        }
        Some(())
    }

    fn eat(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn one_of(&mut self, of: &str) -> Option<&'a str> {
        let first = self.rest.get(..1).filter(|first| of.contains(first))?;
        self.rest = &self.rest[1..];
        Some(first)
    }

    fn spaces(&mut self) -> bool {
        let rest = self.rest.trim_start();
        let any = rest.len() < self.rest.len();
        self.rest = rest;
        any
    }

    fn word(&mut self) -> Option<&'a str> {
        let length = self.rest.find(|c: char| !c.is_ascii_alphabetic());
        let (word, rest) = self.rest.split_at(length.unwrap_or(self.rest.len()));
        if word.is_empty() {
            return None;
        }
        self.rest = rest;
        Some(word)
    }

    /// A number of up to so many digits, and how many it has.
    fn number(&mut self, most: usize) -> Option<(u32, usize)> {
        let digits = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        let number = if digits > most { None } else { self.rest[..digits].parse().ok() }?;
        self.rest = &self.rest[digits..];
        Some((number, digits))
    }

    /// A number of one or two digits.
    fn small(&mut self) -> Option<i8> {
        i8::try_from(self.number(2)?.0).ok()
    }

    fn year(&mut self) -> Option<i16> {
        self.eat("'");
        match self.number(4)? {
            (year, 4) => i16::try_from(year).ok(),
            (year, 2) => century(year),
            _ => None,
        }
    }

    /// What makes a number one of an order: `st`, `nd`, `rd` or `th`.
    fn ordinal(&mut self) -> bool {
        ["st", "nd", "rd", "th"].iter().any(|suffix| self.eat(suffix))
    }
}

/// Month and day of `mmdd`.
fn packed(number: u32) -> Option<Date> {
    let (month, day) = (i8::try_from(number / 100).ok()?, i8::try_from(number % 100).ok()?);
    Some(Date { year: None, month, day })
}

/// The year of its last two digits.
fn century(year: u32) -> Option<i16> {
    i16::try_from(if year < 69 { 2000 + year } else { 1900 + year }).ok()
}

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const DAYS: [&str; 7] =
    ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// Whether a word is a name or its first three letters.
fn names(name: &str, word: &str) -> bool {
    word.eq_ignore_ascii_case(name) || word.len() == 3 && word.eq_ignore_ascii_case(&name[..3])
}

fn month_of(word: &str) -> Option<i8> {
    let at = MONTHS.iter().position(|name| names(name, word))?;
    i8::try_from(at + 1).ok()
}

fn is_weekday(word: &str) -> bool {
    DAYS.iter().any(|name| names(name, word))
}

#[cfg(test)]
#[path = "tests/dates.rs"]
mod tests;
