//! The picture: a table of the nodes, the load, what happened, the keys.

use std::time::Duration;

use super::nodes::State;
use super::sampler::{Figures, Seen};
use crate::pool::Latency;

/// One node's row.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its short name.
    pub name: String,
    /// How its process is, and since when.
    pub state: (State, Duration),
    /// What it says.
    pub figures: Option<Figures>,
    /// Rows it stored in the last second.
    pub rows_per_second: u64,
    /// What the master says of it.
    pub seen: Option<Seen>,
    /// The keys speak of it.
    pub chosen: bool,
}

/// Everything shown.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Said once: where to look.
    pub head: Vec<String>,
    /// Nodes.
    pub rows: Vec<Row>,
    /// Clients, and those heard so far.
    pub clients: (u64, u64),
    /// Tasks accepted, received, over; calls that failed.
    pub tasks: [u64; 4],
    /// Rows and bytes of files that clients were acknowledged.
    pub acknowledged: (u64, u64),
    /// From the call to the client having its task: of the last seconds, and of all.
    pub latency: (Latency, Latency),
    /// What happened, oldest first.
    pub events: Vec<String>,
    /// The last line.
    pub keys: String,
}

/// Events shown.
const EVENTS: usize = 9;

/// Bytes, for people.
pub fn bytes(n: u64) -> String {
    match n {
        0..=9_999 => format!("{n} B"),
        10_000..=9_999_999 => format!("{} kB", n / 1000),
        _ => format!("{} MB", n / 1_000_000),
    }
}

fn state(row: &Row) -> String {
    let since = row.state.1.as_secs();
    let heard = row.seen.as_ref().is_none_or(|s| s.connected);
    let text = match row.state.0 {
        State::Down => "down",
        State::Paused => "held still",
        State::Stopping => "stopping",
        State::Running if row.figures.is_none() => "silent",
        State::Running if !heard => "cut off",
        State::Running => "up",
    };
    format!("{text} {since} s")
}

fn cells(row: &Row) -> [String; 10] {
    let of = |get: fn(&Figures) -> u64| row.figures.as_ref().map(get);
    let number = |n: Option<u64>| n.map_or_else(|| "-".into(), |n| n.to_string());
    let lag = row.seen.as_ref().map(|s| match s.lag_files {
        0 => bytes(s.lag),
        n => format!("{} + {n} files", bytes(s.lag)),
    });
    [
        format!("{}{}", if row.chosen { "> " } else { "  " }, row.name),
        state(row),
        number(of(|f| f.clients)),
        number(of(|f| f.tasks)),
        number(row.figures.as_ref().map(|_| row.rows_per_second)),
        number(of(|f| f.rows)),
        of(|f| f.uploads).map_or_else(|| "-".into(), bytes),
        number(of(|f| f.refused)),
        lag.unwrap_or_else(|| "-".into()),
        row.seen.as_ref().map_or_else(|| "-".into(), |s| format!("{} ms", s.beat)),
    ]
}

const HEADS: [&str; 10] =
    ["  node", "state", "clients", "tasks", "rows/s", "rows", "uploads", "refused", "lag", "beat"];

/// Lines of a table; texts to the left, numbers to the right.
fn table(rows: &[Row]) -> Vec<String> {
    let mut all = vec![HEADS.map(str::to_owned)];
    all.extend(rows.iter().map(cells));
    let width = |c: usize| all.iter().map(|r| r[c].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEADS.len()).map(width).collect();
    let line = |row: &[String; 10]| {
        let cells: Vec<String> = row
            .iter()
            .zip(widths.iter().copied())
            .enumerate()
            .map(|(i, (cell, w))| if i < 2 { format!("{cell:<w$}") } else { format!("{cell:>w$}") })
            .collect();
        cells.join("  ").trim_end().to_owned()
    };
    all.iter().map(line).collect()
}

fn latency(l: &Latency) -> String {
    match l.count {
        0 => "-".into(),
        n => format!("p50 {:.1}, p99 {:.1}, max {:.1} ms of {n}", l.p50_ms, l.p99_ms, l.max_ms),
    }
}

impl View {
    /// All of it.
    pub fn lines(&self) -> Vec<String> {
        let mut out = self.head.clone();
        out.push(String::new());
        out.extend(table(&self.rows));
        out.push(String::new());
        let held: u64 =
            self.rows.iter().filter_map(|r| r.figures.as_ref()).map(|f| f.clients).sum();
        let [accepted, received, over, failed] = self.tasks;
        out.push(format!(
            "clients  {} of {} heard, {held} held for tasks now",
            self.clients.1, self.clients.0
        ));
        out.push(format!(
            "tasks    {accepted} accepted, {failed} calls failed, {received} received, {over} over"
        ));
        out.push(format!(
            "sent     {} rows and {} of files acknowledged",
            self.acknowledged.0,
            bytes(self.acknowledged.1)
        ));
        out.push(format!("latency  last 10 s: {}", latency(&self.latency.0)));
        out.push(format!("         all: {}", latency(&self.latency.1)));
        out.push(String::new());
        let skip = self.events.len().saturating_sub(EVENTS);
        out.extend(self.events.iter().skip(skip).cloned());
        out.push(String::new());
        out.push(self.keys.clone());
        out
    }

    /// One line, for a file or a pipe.
    pub fn line(&self) -> String {
        let node = |r: &Row| {
            let clients = r.figures.as_ref().map_or_else(|| "-".into(), |f| f.clients.to_string());
            format!("{} {} {clients}", r.name, state(r))
        };
        let nodes: Vec<String> = self.rows.iter().map(node).collect();
        let [accepted, received, over, failed] = self.tasks;
        format!(
            "{}; clients {} of {}; tasks {accepted} accepted, {failed} failed, {received} received, \
             {over} over; {} rows, {}; latency {}",
            nodes.join(", "),
            self.clients.1,
            self.clients.0,
            self.acknowledged.0,
            bytes(self.acknowledged.1),
            latency(&self.latency.0)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_how_nodes_are() {
        let up = Row {
            name: "master".into(),
            state: (State::Running, Duration::from_secs(7)),
            figures: Some(Figures {
                clients: 12,
                rows: 3456,
                uploads: 20_000,
                ..Default::default()
            }),
            rows_per_second: 70,
            seen: Some(Seen { connected: true, lag: 5, lag_files: 0, beat: 0 }),
            chosen: true,
        };
        let silent =
            Row { figures: None, seen: None, chosen: false, name: "minion-1".into(), ..up.clone() };
        let down = Row { state: (State::Down, Duration::from_secs(1)), ..silent.clone() };
        let lines = table(&[up.clone(), silent, down]);
        let words: Vec<Vec<&str>> = lines.iter().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(words[1][..6], [">", "master", "up", "7", "s", "12"], "{lines:?}");
        assert_eq!(words[2][1..4], ["silent", "7", "s"], "{lines:?}");
        assert_eq!(words[3][1..4], ["down", "1", "s"], "{lines:?}");
        let view = View { rows: vec![up], clients: (20, 19), ..View::default() };
        assert!(view.line().contains("master up 7 s 12; clients 19 of 20"), "{}", view.line());
    }
}
