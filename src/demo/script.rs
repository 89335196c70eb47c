//! Scripts: what happens when. One step a line; a word that is not known is an
//! error with its line and column.

use std::time::Duration;

/// The language, for people.
pub const GRAMMAR: &str = "\
A script has one step a line; `#` begins a comment:

    at TIME ACTION [NODE]

TIME counts from the moment all clients were heard: 10s, 1m30s, 500ms. Steps stand in order of
time. NODE is master, minion-1, minion-2, …

    kill NODE       kill -9
    stop NODE       SIGTERM: the node finishes what it does and sends its clients away
    start NODE      start it again
    pause NODE      stop its process without ending it (SIGSTOP): it hangs, the network stays
    resume NODE     let it go on
    hunt            start a hunt over all clients
    stall           let the store answer nobody (needs --stalls)
    unstall         let it answer again
    fill            take all room on the datastore's disk (needs --disk)
    free            give the room back
    end             stop tasking, put everything in order, audit; also at the end of the script

In order means: the store answers, paused nodes go on, ended ones are started, room is given back.";

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// SIGKILL.
    Kill(usize),
    /// SIGTERM.
    Stop(usize),
    /// Start a node that has ended.
    Start(usize),
    /// SIGSTOP.
    Pause(usize),
    /// SIGCONT.
    Resume(usize),
    /// A hunt over all clients.
    Hunt,
    /// The store answers nobody.
    Stall,
    /// It answers again.
    Unstall,
    /// Take all room on the disk.
    Fill,
    /// Give it back.
    Free,
    /// The audit.
    End,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// After the beginning.
    pub at: Duration,
    /// What.
    pub action: Action,
}

/// Steps in order of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// They.
    pub steps: Vec<Step>,
}

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {what}")]
pub struct ScriptError {
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// In words.
    pub what: String,
}

/// The name of node number `n`: 0 is the master.
pub fn node_name(n: usize) -> String {
    match n {
        0 => "master".into(),
        n => format!("minion-{n}"),
    }
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (what, node) = match self {
            Action::Kill(n) => ("kill", Some(n)),
            Action::Stop(n) => ("stop", Some(n)),
            Action::Start(n) => ("start", Some(n)),
            Action::Pause(n) => ("pause", Some(n)),
            Action::Resume(n) => ("resume", Some(n)),
            Action::Hunt => ("hunt", None),
            Action::Stall => ("stall", None),
            Action::Unstall => ("unstall", None),
            Action::Fill => ("fill", None),
            Action::Free => ("free", None),
            Action::End => ("end", None),
        };
        match node {
            Some(n) => write!(f, "{what} {}", node_name(*n)),
            None => f.write_str(what),
        }
    }
}

/// Words of a line with their columns.
struct Words<'a> {
    line: usize,
    text: &'a str,
    at: usize,
}

impl<'a> Words<'a> {
    /// The next word and its column; at the end the empty word.
    fn next(&mut self) -> (usize, &'a str) {
        let rest = &self.text[self.at..];
        let start = self.at + (rest.len() - rest.trim_start().len());
        let word = self.text[start..].split_whitespace().next().unwrap_or("");
        self.at = start + word.len();
        (self.text[..start].chars().count() + 1, word)
    }

    fn wrong<T>(&self, column: usize, what: String) -> Result<T, ScriptError> {
        Err(ScriptError { line: self.line, column, what })
    }
}

impl Script {
    /// Reads a script for a cluster of a master and so many minions.
    pub fn parse(text: &str, minions: usize) -> Result<Script, ScriptError> {
        let mut script = Script::default();
        for (n, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or("");
            let mut words = Words { line: n + 1, text: line, at: 0 };
            if line.trim().is_empty() {
                continue;
            }
            let step = step(&mut words, minions)?;
            let last = script.steps.last().map_or(Duration::ZERO, |s| s.at);
            if step.at < last {
                let what = format!("{:?} is before the step above, {last:?}", step.at);
                return Err(ScriptError { line: n + 1, column: 1, what });
            }
            script.steps.push(step);
        }
        Ok(script)
    }
}

fn step(words: &mut Words<'_>, minions: usize) -> Result<Step, ScriptError> {
    let (column, word) = words.next();
    if word != "at" {
        return words.wrong(column, format!("`{word}` where a step begins with `at TIME`"));
    }
    let (column, word) = words.next();
    let Some(at) = time(word) else {
        return words.wrong(column, format!("`{word}` is no time, such as 10s, 1m30s or 500ms"));
    };
    let (column, word) = words.next();
    let action = match word {
        "kill" => Action::Kill(node(words, minions)?),
        "stop" => Action::Stop(node(words, minions)?),
        "start" => Action::Start(node(words, minions)?),
        "pause" => Action::Pause(node(words, minions)?),
        "resume" => Action::Resume(node(words, minions)?),
        "hunt" => Action::Hunt,
        "stall" => Action::Stall,
        "unstall" => Action::Unstall,
        "fill" => Action::Fill,
        "free" => Action::Free,
        "end" => Action::End,
        "" => return words.wrong(column, "the action is missing".into()),
        other => return words.wrong(column, format!("no action is called `{other}`")),
    };
    match words.next() {
        (_, "") => Ok(Step { at, action }),
        (column, more) => words.wrong(column, format!("`{more}` is more than the step needs")),
    }
}

fn node(words: &mut Words<'_>, minions: usize) -> Result<usize, ScriptError> {
    let (column, word) = words.next();
    match (0..=minions).find(|n| node_name(*n) == word) {
        Some(n) => Ok(n),
        None if word.is_empty() => words.wrong(column, "the node is missing".into()),
        None => {
            let last = node_name(minions);
            words.wrong(column, format!("no node is called `{word}`: they are master to {last}"))
        }
    }
}

/// `1m30s`: numbers with their units, each unit once, the longest first.
fn time(word: &str) -> Option<Duration> {
    let mut rest = word;
    let mut sum = Duration::ZERO;
    let mut unit_before = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = rest[..digits].parse().ok()?;
        let unit_text = &rest[digits..];
        let letters =
            unit_text.len() - unit_text.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let unit = match &unit_text[..letters] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        if unit >= unit_before {
            return None;
        }
        unit_before = unit;
        sum = sum.checked_add(Duration::from_millis(number.checked_mul(unit)?))?;
        rest = &unit_text[letters..];
    }
    (unit_before != u64::MAX).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_in_order() {
        let text = "# a comment\n\nat 10s kill minion-1 # hard\n  at 1m500ms start minion-1\nat 2m hunt\nat 2m end\n";
        let script = Script::parse(text, 2).unwrap();
        let all: Vec<(u128, String)> =
            script.steps.iter().map(|s| (s.at.as_millis(), s.action.to_string())).collect();
        let expect = [
            (10_000, "kill minion-1"),
            (60_500, "start minion-1"),
            (120_000, "hunt"),
            (120_000, "end"),
        ];
        assert_eq!(all, expect.map(|(t, s)| (t, s.to_owned())));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let cases = [
            ("at 10s explode", (1, 8), "no action is called `explode`"),
            ("\nat soon hunt", (2, 4), "`soon` is no time"),
            ("at 1s kill", (1, 11), "the node is missing"),
            ("at 1s kill minion-3", (1, 12), "no node is called `minion-3`"),
            ("at 1s hunt minion-1", (1, 12), "more than the step needs"),
            ("when 1s hunt", (1, 1), "a step begins with"),
            ("at 5s hunt\nat 1s hunt", (2, 1), "before the step above"),
            ("at 1s", (1, 6), "the action is missing"),
            ("at 30s5m hunt", (1, 4), "no time"),
            ("at 99999999999999999999s hunt", (1, 4), "no time"),
            ("at é1s hunt", (1, 4), "no time"),
        ];
        for (text, (line, column), what) in cases {
            let e = Script::parse(text, 2).unwrap_err();
            assert_eq!((e.line, e.column), (line, column), "{text}: {e}");
            assert!(e.what.contains(what), "{text}: {e}");
        }
    }
}
