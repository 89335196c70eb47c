//! The link's metrics in Prometheus text.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Counters, Fleet, LinkStatus, Uplink};

struct Text(String);

impl Text {
    fn head(&mut self, kind: &str, name: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.head("gauge", name, help);
        let _ = writeln!(self.0, "{name} {value}");
    }

    fn counters(&mut self, c: &Counters) {
        let get = |v: &AtomicU64| v.load(Ordering::Relaxed);
        self.gauge("velociraptor_link_streams", "Streams between nodes now.", get(&c.streams));
        for (name, help, value) in [
            ("streams", "Streams that have been up.", &c.streams_total),
            ("connect_failures", "Attempts that led to no stream.", &c.connect_failures),
            ("refused", "Nodes refused, or refusals received.", &c.refused),
            ("silent", "Streams ended because nothing came.", &c.silent),
            ("stalled", "Streams ended because nothing was taken.", &c.stalled),
            ("frames_sent", "Frames sent.", &c.frames_sent),
            ("frames_received", "Frames received.", &c.frames_received),
            ("bytes_sent", "Bytes of frames sent.", &c.bytes_sent),
            ("bytes_received", "Bytes of frames received.", &c.bytes_received),
            ("resent", "Numbered frames sent again.", &c.resent),
            ("repeats", "Numbered frames received again.", &c.repeats),
            ("skipped", "Numbered frames only another master had.", &c.skipped),
            ("unknown", "Frames of an unknown kind.", &c.unknown),
            ("withheld", "Record frames without room; read from the store.", &c.withheld),
            ("dropped_changes", "Session changes a new list made up for.", &c.dropped_changes),
        ] {
            let name = format!("velociraptor_link_{name}_total");
            self.head("counter", &name, help);
            let _ = writeln!(self.0, "{name} {}", get(value));
        }
    }
}

/// A label's value.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// A master's streams.
pub fn master(fleet: &Fleet) -> String {
    let mut t = Text(String::new());
    t.counters(fleet.counters());
    let streams = fleet.streams();
    let mut each = |name: &str, help: &str, value: &dyn Fn(&super::StreamInfo) -> f64| {
        let name = format!("velociraptor_link_{name}");
        t.head("gauge", &name, help);
        for s in &streams {
            let _ = writeln!(t.0, "{name}{{node=\"{}\"}} {}", label(&s.process.node), value(s));
        }
    };
    each("silence_seconds", "Time since the node was heard.", &|s| s.silence.as_secs_f64());
    each("age_seconds", "Age of the node's stream.", &|s| s.age.as_secs_f64());
    each("lag_frames", "Frames sent and not received at the last beat.", &|s| s.lag as f64);
    each("waiting_frames", "Frames waiting to be sent.", &|s| s.waiting_frames as f64);
    each("waiting_bytes", "Bytes waiting to be sent.", &|s| s.waiting_bytes as f64);
    each("clock_ahead_seconds", "How far the node's clock is ahead.", &|s| {
        s.skew_micros as f64 / 1e6
    });
    t.0
}

/// A minion's link.
pub fn minion(uplink: &Uplink) -> String {
    let mut t = Text(String::new());
    t.counters(uplink.counters());
    let (up, since) = match uplink.status() {
        LinkStatus::Up { since, .. } => (1, since),
        LinkStatus::Down { since, .. } => (0, since),
    };
    t.gauge("velociraptor_link_up", "Whether a master has welcomed this node.", up);
    let age = since.elapsed().as_secs_f64();
    t.gauge("velociraptor_link_since_seconds", "For how long that is so.", age);
    if let Some(silence) = uplink.silence() {
        let help = "Time since the master was heard.";
        t.gauge("velociraptor_link_silence_seconds", help, silence.as_secs_f64());
    }
    let (sent, waiting) = uplink.owed();
    t.gauge("velociraptor_link_unacknowledged_frames", "Frames sent, not acknowledged.", sent);
    t.gauge("velociraptor_link_waiting_frames", "Numbered frames not sent yet.", waiting);
    t.0
}
