//! Faults aimed at single calls: the next RENAME of this host loses its reply.

use std::time::Duration;

use super::Name;
use super::call::{Kind, Op};
use super::machine::Machine;
use crate::tree::{Fail, Ino};

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It never reaches the server; the client sends again.
    LoseRequest,
    /// It takes effect, the reply is lost; the client sends again and the
    /// server's reply cache, if there is one, answers.
    LoseReply,
    /// The same, and the reply cache has forgotten: success is told as failure.
    LoseReplyAndForget,
    /// It takes this much longer to arrive.
    Delay(Duration),
    /// It is refused and not carried out (`Other` is an input/output error).
    Fail(Fail),
}

/// Which calls, how many of them, and what happens to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Calls of this host; `None` is any.
    pub host: Option<String>,
    /// Calls of this kind; `None` is any.
    pub kind: Option<Kind>,
    /// Calls about a path that contains this; empty is any.
    pub path: String,
    /// Calls that pass before the first is hit.
    pub skip: u32,
    /// Calls that are hit.
    pub times: u32,
    /// What happens.
    pub effect: Effect,
}

impl Rule {
    /// The next call of a kind from a host.
    pub fn next(host: &str, kind: Kind, effect: Effect) -> Rule {
        Rule {
            host: Some(host.into()),
            kind: Some(kind),
            path: String::new(),
            skip: 0,
            times: 1,
            effect,
        }
    }

    /// Only calls about a path that contains `part`.
    pub fn at(self, part: &str) -> Rule {
        Rule { path: part.into(), ..self }
    }

    /// Lets `n` calls pass first.
    pub fn after(self, n: u32) -> Rule {
        Rule { skip: n, ..self }
    }

    /// Hits `n` calls.
    pub fn times(self, n: u32) -> Rule {
        Rule { times: n, ..self }
    }
}

impl Machine {
    /// The effect of the first rule that fits, if it is one of `wanted`.
    pub(super) fn rule(
        &mut self,
        host: &Name,
        op: &Op,
        wanted: fn(&Effect) -> bool,
    ) -> Option<Effect> {
        let fits = |r: &Rule| {
            wanted(&r.effect)
                && r.times > 0
                && r.host.as_ref().is_none_or(|h| **h == **host)
                && r.kind.is_none_or(|k| k == op.kind())
                && (r.path.is_empty() || self.about(op).iter().any(|p| p.contains(&r.path)))
        };
        let at = self.rules.iter().position(fits)?;
        let r = &mut self.rules[at];
        if r.skip > 0 {
            r.skip -= 1;
            return None;
        }
        r.times -= 1;
        let effect = r.effect;
        self.note("call hit by an injected fault");
        Some(effect)
    }

    /// Paths a call is about.
    fn about(&self, op: &Op) -> Vec<String> {
        let named = |dir: &Ino, name: &String| -> Vec<String> {
            self.server.tree.paths(*dir).iter().map(|d| format!("{d}/{name}")).collect()
        };
        match op {
            Op::Lookup { dir, name }
            | Op::Open { dir, name }
            | Op::Create { dir, name, .. }
            | Op::Remove { dir, name }
            | Op::MakeDir { dir, name }
            | Op::RemoveDir { dir, name } => named(dir, name),
            Op::Rename { from, to } => [named(&from.0, &from.1), named(&to.0, &to.1)].concat(),
            Op::Link { ino, dir, name } => {
                [self.server.tree.paths(*ino), named(dir, name)].concat()
            }
            Op::GetAttr { ino }
            | Op::OpenKnown { ino }
            | Op::SetAttr { ino }
            | Op::Close { ino }
            | Op::Read { ino, .. }
            | Op::Write { ino, .. }
            | Op::Commit { ino } => self.server.tree.paths(*ino),
            Op::ReadDir { dir, .. } => self.server.tree.paths(*dir),
            Op::FsStat => Vec::new(),
        }
    }
}
