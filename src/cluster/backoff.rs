//! When to try again. Pure but for the dice.

use std::time::Duration;

use crate::env::Env;

/// Pauses that double up to a bound.
#[derive(Debug)]
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(min: Duration, max: Duration) -> Self {
        let max = max.max(min);
        Self { min, max, next: min }
    }

    /// The next pause, of at most `cap`: between half and all of its nominal length, so
    /// that nodes cut off together do not come back together.
    pub fn pause(&mut self, env: &Env, cap: Duration) -> Duration {
        let nominal = self.next.min(cap);
        self.next = (self.next * 2).min(self.max);
        env.jitter(nominal / 2, nominal / 2)
    }

    /// It went well: start from the shortest again.
    pub fn reset(&mut self) {
        self.next = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_with_jitter_to_its_bound() {
        let env = crate::env::real::env();
        let ms = Duration::from_millis;
        let mut b = Backoff::new(ms(100), ms(5000));
        for nominal in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            let p = b.pause(&env, ms(9000));
            assert!(p >= ms(nominal) / 2 && p <= ms(nominal), "{nominal}: {p:?}");
        }
        assert!(b.pause(&env, ms(1000)) <= ms(1000));
        b.reset();
        assert!(b.pause(&env, ms(1000)) <= ms(100));
    }
}
