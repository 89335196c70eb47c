//! Which URL is next.

use crate::env::Env;

/// Posts that carry `?r=1` after a redirect. A stock client counts 200 built
/// URLs, two a post.
const REDIRECTED_POSTS: u32 = 100;

/// The ring of base URLs.
#[derive(Debug)]
pub(super) struct Urls {
    list: Vec<String>,
    current: usize,
    last_good: usize,
    redirected: u32,
    /// Nothing was acknowledged since the last redirect.
    fresh: bool,
    /// Changes whenever `current` does.
    generation: u64,
}

/// A place to post to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub base: String,
    pub redirected: bool,
    pub generation: u64,
}

impl Place {
    /// The URL of a handler.
    pub(super) fn url(&self, handler: &str) -> String {
        let suffix = if self.redirected { "?r=1" } else { "" };
        format!("{}{handler}{suffix}", self.base)
    }
}

impl Urls {
    /// Shuffles; `list` must not be empty.
    pub(super) fn new(mut list: Vec<String>, env: &Env) -> Self {
        for i in (1..list.len()).rev() {
            let j = env.entropy.below(i as u64 + 1) as usize;
            list.swap(i, j);
        }
        Self { list, current: 0, last_good: 0, redirected: 0, fresh: false, generation: 1 }
    }

    /// Where to post now.
    pub(super) fn place(&mut self) -> Place {
        let redirected = self.redirected > 0;
        self.redirected = self.redirected.saturating_sub(1);
        Place { redirected, ..self.peek() }
    }

    /// Where `server.pem` is: never marked as redirected.
    pub(super) fn peek(&self) -> Place {
        let base = self.list.get(self.current).cloned().unwrap_or_default();
        Place { base, redirected: false, generation: self.generation }
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// The place answered 200.
    pub(super) fn good(&mut self, generation: u64) {
        if generation == self.generation {
            self.last_good = self.current;
            self.fresh = false;
        }
    }

    /// Leaves a place that failed, unless the other loop did so already.
    /// Returns whether the whole ring was walked.
    pub(super) fn advance(&mut self, generation: u64) -> bool {
        if generation != self.generation {
            return false;
        }
        self.current = (self.current + 1) % self.list.len().max(1);
        self.generation += 1;
        self.redirected = 0;
        self.current == self.last_good
    }

    /// Follows a redirect. Returns whether this one came while the marks of an earlier
    /// one last, and whether it came before anything was acknowledged.
    pub(super) fn redirect(&mut self, base: &str) -> (bool, bool) {
        let again = (self.redirected > 0, self.fresh);
        self.fresh = true;
        self.current = self.list.iter().position(|u| u == base).unwrap_or_else(|| {
            self.list.push(base.to_owned());
            self.list.len() - 1
        });
        self.generation += 1;
        self.redirected = REDIRECTED_POSTS;
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Urls {
        let env = crate::env::real::env();
        Urls::new(["a/", "b/", "c/"].map(String::from).to_vec(), &env)
    }

    #[test]
    fn walks_and_remembers() {
        let mut u = three();
        let first = u.peek();
        assert!(!u.advance(first.generation));
        assert!(!u.advance(first.generation), "the same failure advances once");
        assert_ne!(u.peek().base, first.base);
        let second = u.peek();
        u.good(second.generation);
        assert!(!u.advance(u.generation()));
        assert!(!u.advance(u.generation()));
        assert!(u.advance(u.generation()), "back at the last good one");
        assert_eq!(u.peek().base, second.base);
    }

    #[test]
    fn redirects_mark_and_wear_off() {
        let mut u = three();
        assert_eq!(u.redirect("d/"), (false, false));
        assert_eq!(u.place().url("control"), "d/control?r=1");
        assert_eq!(u.peek().url("server.pem"), "d/server.pem");
        for _ in 0..REDIRECTED_POSTS {
            u.place();
        }
        assert_eq!(u.place().url("reader"), "d/reader");
        assert!(!u.redirect("a/").0);
        assert_eq!(u.redirect("d/"), (true, true));
        u.good(u.generation());
        assert_eq!(u.redirect("a/"), (true, false), "the server sends it on later");
        assert_eq!(u.len(), 4);
        u.advance(u.generation());
        assert!(!u.place().redirected);
    }
}
