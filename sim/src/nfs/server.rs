//! The server: carries out calls on the tree, one at a time.

use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::time::Duration;

use super::Name;
use super::call::{Answer, DirChange, Kind, Op, Reply};
use super::options::ServerOptions;
use crate::tree::{Attr, Done, Fail, Ino, Loss, Tree};

/// Replies remembered for each host.
const REPLIES: usize = 1024;

/// Replies to a host's calls, by the number of the call, and these numbers in the order
/// of time.
#[derive(Debug, Default)]
struct Replies {
    by_call: BTreeMap<u64, Reply>,
    order: VecDeque<u64>,
}

#[derive(Debug)]
pub(super) struct Server {
    pub(super) tree: Tree,
    pub(super) options: ServerOptions,
    pub(super) read_only: bool,
    verifier: u64,
    grace_until: Duration,
    /// Files that hosts have open (version 4), with how often.
    opens: BTreeMap<(Name, Ino), u32>,
    replies: BTreeMap<Name, Replies>,
    /// Files that have lost their last name and are open somewhere; taken by
    /// whoever decides how long they stay.
    pub(super) removed: Vec<Ino>,
    /// See [`super::Removed::Hollow`], with whether it was opened or read since.
    hollow: BTreeMap<Ino, bool>,
    /// Calls carried out.
    pub(super) counts: BTreeMap<(Name, Kind), u64>,
}

impl Server {
    pub(super) fn new(options: ServerOptions) -> Server {
        Server {
            tree: Tree::new(options.async_export),
            options,
            read_only: false,
            verifier: 1,
            grace_until: Duration::ZERO,
            opens: BTreeMap::new(),
            replies: BTreeMap::new(),
            removed: Vec::new(),
            hollow: BTreeMap::new(),
            counts: BTreeMap::new(),
        }
    }

    /// The machine loses power and comes back.
    pub(super) fn restart(&mut self, now: Duration, keep: &mut dyn FnMut() -> bool) {
        self.verifier += 1;
        self.grace_until = now + self.options.grace;
        self.replies.clear();
        self.tree.power_loss(Loss::Some(keep));
        // Clients that live take their opens back; files without a name are gone.
        self.opens.retain(|(_, ino), _| self.tree.attr(*ino).is_ok());
        for ((_, ino), n) in &self.opens {
            (0..*n).for_each(|_| self.tree.pin(*ino));
        }
    }

    /// A host is gone for good or starts anew: its opens end.
    pub(super) fn forget_host(&mut self, host: &Name) {
        let (gone, kept) =
            std::mem::take(&mut self.opens).into_iter().partition(|((h, _), _)| h == host);
        self.opens = kept;
        let gone: BTreeMap<(Name, Ino), u32> = gone;
        for ((_, ino), n) in gone {
            (0..n).for_each(|_| self.tree.unpin(ino));
        }
        self.replies.remove(host);
    }

    /// Forgets the replies kept for calls that are sent again.
    pub(super) fn forget_replies(&mut self) {
        self.replies.clear();
    }

    /// Carries out a call.
    pub(super) fn handle(&mut self, host: &Name, xid: u64, op: &Op, now: Duration) -> Reply {
        if self.options.reply_cache
            && op.once()
            && let Some(r) = self.replies.get(host).and_then(|q| q.by_call.get(&xid))
        {
            return r.clone();
        }
        let late = matches!(op.kind(), Kind::Open | Kind::Create) && now < self.grace_until;
        if late {
            let verifier = self.verifier;
            return Reply { answer: Ok(Answer::None), dirs: vec![], verifier, later: true };
        }
        *self.counts.entry((host.clone(), op.kind())).or_default() += 1;
        let old = match op {
            Op::Remove { dir, name } | Op::Rename { to: (dir, name), .. } => {
                self.tree.lookup(*dir, name).ok().map(|a| a.ino)
            }
            _ => None,
        };
        let answer = self.execute(host, op, now);
        self.removed.extend(old.filter(|ino| self.tree.is_nameless(*ino)));
        let dirs =
            dirs_of(op).filter_map(|d| self.tree.attr(d).ok()).map(|attr| DirChange { attr });
        let dirs = if answer.is_ok() { dirs.collect() } else { Vec::new() };
        let reply = Reply { answer, dirs, verifier: self.verifier, later: false };
        if self.options.reply_cache && op.once() {
            let q = self.replies.entry(host.clone()).or_default();
            q.by_call.insert(xid, reply.clone());
            q.order.push_back(xid);
            if q.order.len() > REPLIES
                && let Some(oldest) = q.order.pop_front()
            {
                q.by_call.remove(&oldest);
            }
        }
        reply
    }

    /// A reply that refuses without carrying out.
    pub(super) fn refuse(&self, why: Fail) -> Reply {
        Reply { answer: Err(why), dirs: vec![], verifier: self.verifier, later: false }
    }

    pub(super) fn hollow_out(&mut self, ino: Ino) {
        self.hollow.insert(ino, false);
    }

    /// Whether a call meets the stale part of a hollow file.
    fn is_stale(&mut self, op: &Op) -> bool {
        match op {
            Op::GetAttr { ino } => self.hollow.get(ino) == Some(&true),
            Op::OpenKnown { ino } | Op::Read { ino, .. } => {
                if let Some(touched) = self.hollow.get_mut(ino) {
                    *touched = true;
                }
                false
            }
            _ => false,
        }
    }

    /// A file without a name is no longer kept for those who have it open.
    pub(super) fn drop_opens(&mut self, ino: Ino) {
        let (gone, kept) =
            std::mem::take(&mut self.opens).into_iter().partition(|((_, i), _)| *i == ino);
        self.opens = kept;
        let gone: BTreeMap<(Name, Ino), u32> = gone;
        for n in gone.into_values() {
            (0..n).for_each(|_| self.tree.unpin(ino));
        }
    }

    fn opened(&mut self, host: &Name, a: Attr) -> Attr {
        if !a.is_dir {
            self.tree.pin(a.ino);
            *self.opens.entry((host.clone(), a.ino)).or_default() += 1;
        }
        a
    }

    fn closed(&mut self, host: &Name, ino: Ino) {
        let key = (host.clone(), ino);
        if let Some(n) = self.opens.get_mut(&key) {
            *n -= 1;
            if *n == 0 {
                self.opens.remove(&key);
            }
            self.tree.unpin(ino);
        }
    }

    fn execute(&mut self, host: &Name, op: &Op, now: Duration) -> Done<Answer> {
        let writes = op.once() && !matches!(op.kind(), Kind::Open | Kind::Close);
        if self.read_only && (writes || op.kind() == Kind::Write) {
            return Err(ErrorKind::ReadOnlyFilesystem);
        }
        if self.is_stale(op) {
            return Err(ErrorKind::StaleNetworkFileHandle);
        }
        let t = &mut self.tree;
        Ok(match op {
            Op::Lookup { dir, name } => Answer::Attr(t.lookup(*dir, name)?),
            Op::GetAttr { ino } => Answer::Attr(t.attr(*ino)?),
            Op::Open { dir, name } => {
                let a = t.lookup(*dir, name)?;
                Answer::Attr(self.opened(host, a))
            }
            Op::OpenKnown { ino } => {
                let a = t.attr(*ino)?;
                let a = self.opened(host, a);
                // A hollow file is opened, and its attributes are not had.
                if self.hollow.contains_key(ino) { Answer::None } else { Answer::Attr(a) }
            }
            Op::SetAttr { ino } => Answer::Attr(t.attr(*ino)?),
            Op::Close { ino } => {
                let a = if self.hollow.contains_key(ino) { None } else { t.attr(*ino).ok() };
                self.closed(host, *ino);
                a.map_or(Answer::None, Answer::Attr)
            }
            Op::Create { dir, name, open } => {
                let a = t.create(*dir, name, now)?;
                Answer::Attr(if *open { self.opened(host, a) } else { a })
            }
            Op::Read { ino, off, len } => {
                let (bytes, _) = t.read(*ino, *off, *len)?;
                Answer::Data { bytes, attr: t.attr(*ino)? }
            }
            Op::Write { ino, off, data, stable } => {
                let before = t.attr(*ino)?.change;
                let stable = *stable && !self.options.async_export;
                Answer::Written { before, attr: t.write(*ino, *off, data.clone(), stable, now)? }
            }
            Op::Commit { ino } => {
                if !self.options.async_export {
                    t.commit(*ino)?;
                }
                Answer::Attr(t.attr(*ino)?)
            }
            Op::Link { ino, dir, name } => {
                t.link(*ino, *dir, name, now)?;
                Answer::Attr(t.attr(*ino)?)
            }
            Op::Rename { from, to } => {
                t.rename((from.0, &from.1), (to.0, &to.1), now)?;
                Answer::Attr(t.lookup(to.0, &to.1)?)
            }
            Op::Remove { dir, name } => {
                t.remove(*dir, name, now)?;
                Answer::None
            }
            Op::MakeDir { dir, name } => Answer::Attr(t.mkdir(*dir, name, now)?),
            Op::RemoveDir { dir, name } => {
                t.rmdir(*dir, name, now)?;
                Answer::None
            }
            Op::ReadDir { dir, after, max } => {
                let (names, all) = t.names_after(*dir, after, *max)?;
                Answer::Names { names, all }
            }
            Op::FsStat => Answer::Space(t.free()),
        })
    }
}

/// Directories whose names a call changes.
fn dirs_of(op: &Op) -> impl Iterator<Item = Ino> {
    let (a, b) = match op {
        Op::Create { dir, .. }
        | Op::Link { dir, .. }
        | Op::Remove { dir, .. }
        | Op::MakeDir { dir, .. }
        | Op::RemoveDir { dir, .. } => (Some(*dir), None),
        Op::Rename { from, to } => (Some(from.0), Some(to.0)),
        _ => (None, None),
    };
    a.into_iter().chain(b)
}
