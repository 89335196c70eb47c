//! What a power failure takes: uncommitted bytes, and uncommitted names.

use super::*;

/// One name as it was before it changed.
#[derive(Clone, Debug)]
pub(super) struct NameChange {
    dir: Ino,
    name: String,
    before: Option<Ino>,
}

/// How much of what was not committed a power failure takes.
pub enum Loss<'a> {
    /// All of it.
    All,
    /// Each write by the toss of this coin (true keeps it); of the changed
    /// names, a beginning is kept.
    Some(&'a mut dyn FnMut() -> bool),
}

impl Tree {
    /// Lets `name` in `dir` mean `to`, or nothing. All name changes pass here.
    pub(super) fn point(&mut self, dir: Ino, name: &str, to: Option<Ino>, now: Duration) {
        let before = self.swap(dir, name, to);
        self.touch(dir, now);
        if self.volatile_names {
            self.names.push(vec![NameChange { dir, name: name.to_owned(), before }]);
        }
        if let Some(old) = before {
            self.reap(old);
        }
    }

    /// Makes the last two name changes one, which power loss takes or leaves.
    pub(super) fn join_last_two(&mut self) {
        if let Some(second) = self.names.pop()
            && let Some(first) = self.names.last_mut()
        {
            first.extend(second);
        }
    }

    fn swap(&mut self, dir: Ino, name: &str, to: Option<Ino>) -> Option<Ino> {
        let Some(Node { body: Body::Dir(d), .. }) = self.nodes.get_mut(&dir) else { return None };
        let before = match to {
            Some(ino) => d.insert(name.to_owned(), ino),
            None => d.remove(name),
        };
        let key = (dir, name.to_owned());
        if let Some(n) = before.and_then(|b| self.nodes.get_mut(&b)) {
            n.names.remove(&key);
        }
        if let Some(n) = to.and_then(|t| self.nodes.get_mut(&t)) {
            n.names.insert(key);
        }
        before
    }

    /// Whether an uncommitted name change may bring a file back.
    pub(super) fn owed(&self, ino: Ino) -> bool {
        self.names.iter().flatten().any(|c| c.before == Some(ino) || c.dir == ino)
    }

    /// Makes all names durable, as a journaling file system does on any sync.
    pub fn commit_names(&mut self) {
        for c in std::mem::take(&mut self.names).into_iter().flatten() {
            if let Some(old) = c.before {
                self.reap(old);
            }
        }
    }

    /// The power fails and comes back; no handle survives.
    pub fn power_loss(&mut self, loss: Loss<'_>) {
        let mut none = || false;
        let keep = match loss {
            Loss::All => &mut none,
            Loss::Some(f) => f,
        };
        let kept = self.names.iter().take_while(|_| keep()).count();
        for c in self.names.split_off(kept).into_iter().flatten().rev() {
            self.swap(c.dir, &c.name, c.before);
            self.touch(c.dir, Duration::ZERO);
        }
        self.names.clear();
        let mut changed = Vec::new();
        self.used = 0;
        for (ino, n) in &mut self.nodes {
            if *ino != ROOT {
                n.pins = 0;
            }
            if let Body::File(c) = &mut n.body {
                if c.lose(keep) {
                    changed.push((*ino, n.modified));
                }
                self.used += c.len() as u64;
            }
        }
        for (ino, at) in changed {
            self.touch(ino, at);
        }
        for ino in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.reap(ino);
        }
    }
}
