//! How fast clients are recruited. Pure: time is told.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// What was missed for want of a timer's grain is made up for, up to this.
const CATCH_UP: Duration = Duration::from_millis(20);

const SECOND: Duration = Duration::from_secs(1);

/// At most so many in any second, evenly spread.
///
/// It begins a second after it was made: what an earlier master recruited in its
/// last second counts.
#[derive(Debug)]
pub struct Pace {
    rate: usize,
    next: Instant,
    /// The last ones, at most `rate` of them.
    times: VecDeque<Instant>,
}

impl Pace {
    /// `rate` a second, at least one.
    pub fn new(rate: u64, now: Instant) -> Self {
        let rate = usize::try_from(rate).unwrap_or(usize::MAX).clamp(1, 100_000);
        Self { rate, next: now + SECOND, times: VecDeque::new() }
    }

    /// When the next may go.
    pub fn next(&self) -> Instant {
        match self.times.front() {
            // One grain more, so that no closed second holds one too many.
            Some(first) if self.times.len() >= self.rate => {
                self.next.max(*first + SECOND + Duration::from_millis(1))
            }
            _ => self.next,
        }
    }

    /// One goes now.
    pub fn take(&mut self, now: Instant) {
        let late = now.checked_sub(CATCH_UP).unwrap_or(now);
        self.next = self.next.max(late) + SECOND / self.rate as u32;
        if self.times.len() >= self.rate {
            self.times.pop_front();
        }
        self.times.push_back(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever delays there are, no second holds more than the rate; and
        /// without delays it is reached.
        #[test]
        fn no_second_holds_too_many(
            rate in 1u64..300,
            delays in prop::collection::vec(0u64..400, 1..600),
        ) {
            let start = Instant::now();
            let mut pace = Pace::new(rate, start);
            let (mut now, mut all) = (start, Vec::new());
            for d in delays {
                now = pace.next().max(now) + Duration::from_millis(d % 7 * (d / 40));
                pace.take(now);
                all.push(now);
            }
            prop_assert!(all[0] >= start + SECOND);
            for (i, t) in all.iter().enumerate() {
                let within = all[i..].iter().take_while(|x| **x <= *t + SECOND).count();
                prop_assert!(within <= rate as usize, "{within} in a second");
            }
        }

        #[test]
        fn the_rate_is_reached(rate in 1u64..2000) {
            let start = Instant::now();
            let mut pace = Pace::new(rate, start);
            let (mut now, mut n) = (start, 0u64);
            // Timers fire at whole milliseconds.
            while now < start + SECOND * 4 {
                now += Duration::from_millis(1);
                while pace.next() <= now {
                    pace.take(now);
                    n += 1;
                }
            }
            prop_assert!(n + rate / 20 + 2 >= 3 * rate, "{n} in three seconds at {rate}");
        }
    }
}
