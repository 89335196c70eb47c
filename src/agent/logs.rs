//! Log lines on their way to the server: numbered from 0, sent in batches of
//! consecutive lines; an alert is a batch of its own.

use velociraptor_proto::proto::LogMessage;
use vql::{Dict, Level};

use super::flow::log_message;

/// Lines gathered since the last [`LogBatch::take`].
#[derive(Debug, Default)]
pub struct LogBatch {
    next: i64,
    open: Lines,
    closed: Vec<(Lines, bool)>,
}

#[derive(Debug, Default)]
struct Lines {
    first: i64,
    rows: u64,
    jsonl: String,
}

impl LogBatch {
    /// Adds a line; `now` is in unix seconds.
    pub fn add(&mut self, level: Level, message: &str, now: u64) {
        let alert = level == Level::Alert;
        if alert && self.open.rows > 0 {
            self.closed.push((std::mem::take(&mut self.open), false));
        }
        if self.open.rows == 0 {
            self.open.first = self.next;
        }
        self.next += 1;
        self.open.rows += 1;
        let line = Dict::new()
            .with("client_time", now)
            .with("level", level.name())
            .with("message", message);
        line.write_json(&mut self.open.jsonl);
        self.open.jsonl.push('\n');
        if alert {
            self.closed.push((std::mem::take(&mut self.open), true));
        }
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.closed.is_empty() && self.open.rows == 0
    }

    /// Takes the batches; `now` is in microseconds.
    pub fn take(&mut self, now: u64) -> Vec<LogMessage> {
        let mut all = std::mem::take(&mut self.closed);
        if self.open.rows > 0 {
            all.push((std::mem::take(&mut self.open), false));
        }
        let message = |(lines, alert): (Lines, bool)| {
            let mut m = log_message(lines.first, lines.rows, lines.jsonl, now);
            if alert {
                m.level = Level::Alert.name().into();
            }
            m
        };
        all.into_iter().map(message).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_consecutive_across_batches_and_alerts() {
        let mut logs = LogBatch::default();
        logs.add(Level::Info, "a \"<b>\"", 7);
        logs.add(Level::Default, "b", 7);
        logs.add(Level::Alert, "{}", 8);
        logs.add(Level::Error, "c", 9);
        let got = logs.take(1);
        let ids: Vec<_> = got.iter().map(|m| (m.id, m.number_of_rows, m.level.as_str())).collect();
        assert_eq!(ids, [(0, 2, ""), (2, 1, "ALERT"), (3, 1, "")]);
        assert_eq!(
            got[0].jsonl.lines().next().unwrap(),
            r#"{"client_time":7,"level":"INFO","message":"a \"\u003cb\u003e\""}"#
        );
        assert!(logs.is_empty() && logs.take(1).is_empty());
        logs.add(Level::Info, "d", 9);
        assert_eq!(logs.take(2)[0].id, 4);
    }
}
