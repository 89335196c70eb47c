//! How long a task takes to its client, in virtual time, in clusters of many
//! shapes: healthy, and around each kind of fault. Written as docs/latency.md
//! and hand-made SVG plots beside it.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::cluster::{Cluster, Handle};
use crate::ledger::{Task, now};
use crate::plan::Plan;

/// Tasks of each run before the fault, and as many after it.
const TASKS: usize = 24;

/// A cluster to be measured.
#[derive(Clone, Copy, Debug)]
struct Shape {
    minions: usize,
    wan: bool,
    /// Mean time of a call to the file server, milliseconds.
    nfs: u64,
    fault: &'static str,
}

/// Troubles after which tasks are given.
const FAULTS: &[&str] = &[
    "minion killed",
    "master killed",
    "minion cut off for 3 s",
    "store stalls for 3 s",
    "master frozen for 3 s",
];

/// Milliseconds of one task.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    /// From the user's call to the client.
    call: f64,
    /// From the answer to the user, when it is durable, to the client.
    told: f64,
    /// From when it is durable and the client held, to the client.
    held: f64,
}

/// What one run gave.
#[derive(Clone, Debug, Default)]
struct Measured {
    samples: Vec<Sample>,
    /// What the frontends themselves measured from durable to the socket: p50 and
    /// p99 of the slowest, milliseconds.
    socket: (f64, f64),
    /// Tasks that never came.
    lost: usize,
    broken: Vec<String>,
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

async fn tasks(c: &Handle, into: &mut Vec<(usize, String, Duration, Duration)>) {
    for i in 0..TASKS {
        let client = i % c.cluster().clients;
        let begun = now();
        if let Some(flow) = c.collect(client, Plan::rows(1, 1).lasting(10)).await {
            into.push((client, flow, begun, now()));
        }
        c.sleep(ms(150)).await;
    }
}

async fn trouble(c: &Handle, fault: &str) {
    match fault {
        "minion killed" => drop(c.restart("minion1", ms(500)).await),
        "master killed" => drop(c.restart("server", ms(500)).await),
        "minion cut off for 3 s" => c.partition("server", "minion1", ms(3000)).await,
        "store stalls for 3 s" => c.stall_store(ms(3000)).await,
        "master frozen for 3 s" => c.freeze("server", ms(3000)).await,
        _ => {}
    }
}

fn measure(shape: Shape) -> Measured {
    let network = if shape.wan { (ms(40), ms(60)) } else { (ms(1), ms(1)) };
    let cluster = Cluster::seed(1)
        .minions(shape.minions)
        .clients(24)
        .sockets(12)
        .tick(ms(1))
        .network(network.0, network.1)
        .nfs(Duration::from_micros(shape.nfs * 500));
    let out: Arc<Mutex<Measured>> = Arc::default();
    let into = out.clone();
    let outcome = cluster.run(move |c| async move {
        c.enrolled().await?;
        c.seconds(5).await;
        let mut asked = Vec::new();
        if shape.fault.is_empty() {
            tasks(&c, &mut asked).await;
        } else {
            trouble(&c, shape.fault).await;
            tasks(&c, &mut asked).await;
        }
        c.seconds(60).await;
        let mut m = Measured::default();
        {
            let books = c.books().lock();
            for (client, flow, begun, told) in &asked {
                let b = &books.clients[*client];
                let of = |r: &&crate::ledger::Received| r.session == *flow && r.what == Task::Flow;
                let Some(got) = b.received.iter().find(of) else {
                    m.lost += 1;
                    continue;
                };
                // The reader that brought it, or the last one that began before.
                let reader = b.exchanges.iter().filter(|x| x.reader && x.from <= got.at);
                let held = reader.map(|x| x.from).max().unwrap_or_default();
                let since = |t: Duration| got.at.saturating_sub(t).as_secs_f64() * 1e3;
                m.samples.push(Sample {
                    call: since(*begun),
                    told: since(*told),
                    held: since((*told).max(held)),
                });
            }
        }
        for f in c.cluster().frontends() {
            let seen = c.frontend(&f).call(|s| async move { s.delivery().measured() }).await;
            if let Ok(seen) = seen {
                let (p50, p99) = (seen.p50 as f64 / 1e3, seen.p99 as f64 / 1e3);
                m.socket = (m.socket.0.max(p50), m.socket.1.max(p99));
            }
        }
        *into.lock().unwrap_or_else(PoisonError::into_inner) = m;
        Ok(())
    });
    let mut m = std::mem::take(&mut *out.lock().unwrap_or_else(PoisonError::into_inner));
    m.broken = outcome.violations.iter().map(|v| v.invariant.to_owned()).collect();
    m.broken.dedup();
    m
}

/// The value below which `percent` of these lie.
fn at(percent: usize, values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let i = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(i).copied().unwrap_or(f64::NAN)
}

fn shapes() -> Vec<Shape> {
    let mut out = Vec::new();
    for wan in [false, true] {
        for nfs in [1, 60] {
            for minions in [1, 3, 10, 20] {
                out.push(Shape { minions, wan, nfs, fault: "" });
            }
        }
    }
    for (wan, nfs) in [(false, 1), (true, 60)] {
        out.extend(FAULTS.iter().map(|fault| Shape { minions: 3, wan, nfs, fault }));
    }
    out
}

fn column(m: &Measured, f: fn(&Sample) -> f64) -> (f64, f64, f64) {
    let all: Vec<f64> = m.samples.iter().map(f).collect();
    (at(50, &all), at(99, &all), at(100, &all))
}

/// Runs everything and gives files by name: the report and its plots.
pub fn report(mut progress: impl FnMut(&str)) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    for s in shapes() {
        let m = measure(s);
        progress(&format!("{s:?}: {} of {TASKS} tasks came", m.samples.len()));
        rows.push((s, m));
    }
    let healthy: Vec<_> = rows.iter().filter(|r| r.0.fault.is_empty()).collect();
    let after: Vec<_> = rows.iter().filter(|r| !r.0.fault.is_empty()).collect();
    let net = |s: &Shape| if s.wan { "WAN" } else { "LAN" };
    let bar = |label: String, m: &Measured, f: fn(&Sample) -> f64| {
        let (p50, _, most) = column(m, f);
        Bar { label, p50, most }
    };
    let plots = [
        ("latency-healthy.svg", "From the user's call to the client, healthy cluster", {
            let one = |r: &&(Shape, Measured)| {
                let n = r.0.minions;
                let name = format!("{}, NFS {} ms, minions: {n}", net(&r.0), r.0.nfs);
                bar(name, &r.1, |s| s.call)
            };
            healthy.iter().map(one).collect::<Vec<_>>()
        }),
        ("latency-faults.svg", "From durable and held to the client, after a fault", {
            let one = |r: &&(Shape, Measured)| {
                let name = format!("{}, NFS {} ms, {}", net(&r.0), r.0.nfs, r.0.fault);
                bar(name, &r.1, |s| s.held)
            };
            after.iter().map(one).collect::<Vec<_>>()
        }),
    ];
    let mut text = HEAD.to_owned();
    for (title, part) in [("Healthy", &healthy), ("After a fault", &after)] {
        let _ = write!(text, "\n## {title}\n\n{COLUMNS}");
        for (s, m) in part {
            let fault = if s.fault.is_empty() { "" } else { s.fault };
            let [call, told, held] =
                [column(m, |s| s.call), column(m, |s| s.told), column(m, |s| s.held)]
                    .map(|(a, b, c)| format!("{a:.0} / {b:.0} / {c:.0}"));
            let broken = if m.broken.is_empty() { "none".into() } else { m.broken.join(", ") };
            let _ = writeln!(
                text,
                "| {} | {} | {} | {fault} | {call} | {told} | {held} | {:.1} / {:.1} | {} of {} | {broken} |",
                s.minions,
                net(s),
                s.nfs,
                m.socket.0,
                m.socket.1,
                m.samples.len(),
                m.samples.len() + m.lost,
            );
        }
    }
    let _ = writeln!(text, "\n![]({})\n\n![]({})", plots[0].0, plots[1].0);
    let mut out = vec![("latency.md".to_owned(), text)];
    out.extend(plots.into_iter().map(|(name, title, bars)| (name.into(), svg(title, &bars))));
    out
}

const HEAD: &str = "# How long a task takes to its client

Virtual time, one seed, made by `cargo run -p sim --release -- --latency`. 24 clients, 12 of them on WebSockets, spread over
all frontends; one task every 150 ms. LAN: 1 ms for every packet, WAN: 40 to 60 ms, also between the frontends. NFS: mean time
of one call to the file server. Code takes no time here: this is what waiting costs, not what computing costs.

Tasks are given once a fault is over: this shows what it leaves behind, not the time it lasts. Those the user was refused are not counted. Of
24 tasks the 99th percentile is the longest. Promises broken: what the checkers found in that run; open until it says none.

Median / 99th percentile / longest, in milliseconds:

- **call**: from the user's call to the client's having it;
- **told**: from the answer to the user, when the task is durable;
- **held**: the same, but not before the client's poll or socket that brought it began;
- **socket**: what the frontends measured themselves, from the durable right to send to the last byte on the socket: median / 99th
  percentile of the slowest frontend.
";

const COLUMNS: &str = "\
| minions | network | NFS, ms | fault | call | told | held | socket | came | promises broken |
|---|---|---|---|---|---|---|---|---|---|
";

struct Bar {
    label: String,
    p50: f64,
    most: f64,
}

/// Bars on a logarithmic scale: a dark one to the median, a light one to the
/// longest.
fn svg(title: &str, bars: &[Bar]) -> String {
    const LEFT: f64 = 250.0;
    const WIDTH: f64 = 520.0;
    let height = 70 + 24 * bars.len();
    let top = bars.iter().map(|b| b.most).fold(10.0, f64::max);
    let decades = top.log10().ceil().max(1.0);
    let x = |v: f64| LEFT + WIDTH * v.max(1.0).log10() / decades;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"860\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"860\" height=\"{height}\" \
         fill=\"white\"/>\n<text x=\"20\" y=\"22\" font-size=\"15\">{title}: ms, median (dark) and \
         longest</text>\n"
    );
    for d in 0..=decades as i32 {
        let (v, bottom) = (10f64.powi(d), height - 20);
        let _ = writeln!(
            out,
            "<line x1=\"{0:.1}\" y1=\"36\" x2=\"{0:.1}\" y2=\"{bottom}\" stroke=\"#ccc\"/>\
             <text x=\"{0:.1}\" y=\"{1}\" text-anchor=\"middle\">{v}</text>",
            x(v),
            height - 5
        );
    }
    for (i, b) in bars.iter().enumerate() {
        let y = 42 + 24 * i;
        if b.p50.is_nan() {
            continue;
        }
        let _ = writeln!(
            out,
            "<text x=\"{0}\" y=\"{1}\" text-anchor=\"end\">{2}</text>\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{3:.1}\" height=\"16\" fill=\"#9ecae1\"/>\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{4:.1}\" height=\"16\" fill=\"#08519c\"/>\
             <text x=\"{5:.1}\" y=\"{1}\">{6:.0} / {7:.0}</text>",
            LEFT - 8.0,
            y + 13,
            b.label,
            x(b.most) - LEFT,
            x(b.p50) - LEFT,
            x(b.most) + 6.0,
            b.p50,
            b.most
        );
    }
    out + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_what_is_there() {
        let all: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((at(50, &all), at(99, &all), at(100, &all)), (50.0, 99.0, 100.0));
        assert!(at(50, &[]).is_nan());
    }
}
