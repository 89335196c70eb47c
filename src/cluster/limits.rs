//! Distances, deadlines and bounds of the stream.

use std::time::Duration;

/// Limits of one end of the stream (`cluster.*` in the settings file).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Distance of beats, both ways (`beat_ms`).
    pub beat: Duration,
    /// So many beats in a row that do not come end the stream (`missed_beats`).
    pub missed_beats: u32,
    /// For TCP, TLS and the answer's head; for a minion's `Hello` (`connect_ms`).
    pub connect: Duration,
    /// How long a minion waits to be welcomed: a master that starts reads journals
    /// first (`welcome_ms`).
    pub welcome: Duration,
    /// First pause before connecting again (`backoff_ms`).
    pub backoff_min: Duration,
    /// Longest pause before connecting again (`backoff_max_ms`).
    pub backoff_max: Duration,
    /// Longest pause as long as nobody answers there: so soon a network that is
    /// whole again is noticed (`backoff_unreached_ms`).
    pub backoff_unreached: Duration,
    /// A frame waiting for a minion this long ends its stream: it does not read
    /// (`stall_ms`).
    pub stall: Duration,
    /// Frames waiting in one direction of one stream, and again as many received and
    /// not worked on yet (`queue_frames`).
    pub queue_frames: usize,
    /// The same in bytes; one frame larger than this passes alone (`queue_bytes`).
    pub queue_bytes: usize,
    /// Largest frame, bytes (`frame_bytes`). It must pass within [`Limits::silence`],
    /// since only whole frames are heard.
    pub frame_bytes: usize,
    /// Numbered frames sent and not acknowledged; more wait, and are joined
    /// (`window_frames`).
    pub window_frames: usize,
    /// Session changes kept for a master that is away or slow. Beyond this they are
    /// dropped and a new stream sends the whole list (`session_backlog`).
    pub session_backlog: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            beat: Duration::from_secs(1),
            missed_beats: 3,
            connect: Duration::from_secs(5),
            welcome: Duration::from_secs(30),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(5),
            backoff_unreached: Duration::from_secs(1),
            stall: Duration::from_secs(10),
            queue_frames: 1024,
            queue_bytes: 16 << 20,
            frame_bytes: 16 << 20,
            window_frames: 64,
            session_backlog: 100_000,
        }
    }
}

impl Limits {
    /// Silence that ends a stream: [`Limits::missed_beats`] beats have had time to come.
    pub fn silence(&self) -> Duration {
        self.beat * self.missed_beats + self.beat / 2
    }

    /// How long one TCP connection may take to come up before another is tried: a
    /// first packet that was lost is sent again by the system ever more rarely.
    pub(super) fn tcp(&self) -> Duration {
        self.connect / 4
    }
}
