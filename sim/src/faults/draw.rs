//! One trouble, drawn from a menu.

use std::io::ErrorKind;
use std::ops::Range;
use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;

use super::Fault;
use super::schedule::{Menu, Trouble};
use crate::nfs::{Effect, Kind, Rule};

pub(super) fn pick<T: Clone>(rng: &mut SmallRng, from: &[T]) -> Option<T> {
    (!from.is_empty()).then(|| from[rng.random_range(0..from.len())].clone())
}

pub(super) fn time(rng: &mut SmallRng, r: &Range<Duration>) -> Duration {
    if r.is_empty() { r.start } else { rng.random_range(r.clone()) }
}

/// A process and another end.
fn pair(rng: &mut SmallRng, menu: &Menu) -> Option<(String, String)> {
    let a = pick(rng, &menu.processes)?;
    let ends = menu.processes.iter().chain(&menu.peers).filter(|e| **e != a).cloned();
    let b = pick(rng, &ends.collect::<Vec<_>>())?;
    Some(if rng.random_bool(0.5) { (a, b) } else { (b, a) })
}

/// A trouble's faults with their times; `None` if it can happen to nothing here.
pub(super) fn draw(
    rng: &mut SmallRng,
    menu: &Menu,
    what: Trouble,
    begin: Duration,
    end: Duration,
) -> Option<Vec<(Duration, Fault)>> {
    let rest = end - begin;
    let from_to = |a: Fault, b: Fault| Some(vec![(begin, a), (end, b)]);
    let process = |rng: &mut SmallRng| pick(rng, &menu.processes);
    let machine = |rng: &mut SmallRng| pick(rng, &menu.machines);
    let calls = |rng: &mut SmallRng| match menu.calls.is_empty() {
        true => menu.calls.start,
        false => rng.random_range(menu.calls.clone()),
    };
    match what {
        Trouble::Cut => {
            let (a, b) = pair(rng, menu)?;
            from_to(Fault::Cut(a.clone(), b.clone()), Fault::Uncut(a, b))
        }
        Trouble::CutOneWay => {
            let (a, b) = pair(rng, menu)?;
            from_to(Fault::CutOneWay(a.clone(), b.clone()), Fault::UncutOneWay(a, b))
        }
        Trouble::Hold => {
            let (a, b) = pair(rng, menu)?;
            from_to(Fault::Hold(a.clone(), b.clone()), Fault::Release(a, b))
        }
        Trouble::Flaky => {
            let (a, b) = pair(rng, menu)?;
            let share = rng.random_range(0.001..0.05);
            from_to(Fault::Flaky(a.clone(), b.clone(), share), Fault::Flaky(a, b, 0.0))
        }
        Trouble::Kill => {
            let p = process(rng)?;
            from_to(Fault::Kill(p.clone()), Fault::Start(p))
        }
        Trouble::KillAtCall => {
            let p = process(rng)?;
            Some(vec![(begin, Fault::KillAtCall(p, calls(rng), rest))])
        }
        Trouble::PowerOff => {
            let m = machine(rng)?;
            from_to(Fault::PowerOff(m.clone()), Fault::PowerOn(m))
        }
        Trouble::PowerOffAtCall => {
            let p = process(rng)?;
            Some(vec![(begin, Fault::PowerOffAtCall(p, calls(rng), rest))])
        }
        Trouble::Stop => {
            let m = machine(rng)?;
            from_to(Fault::Stop(m.clone()), Fault::Continue(m))
        }
        Trouble::Freeze => {
            let m = machine(rng)?;
            from_to(Fault::Freeze(m.clone()), Fault::Continue(m))
        }
        Trouble::ClockJump => {
            let m = machine(rng)?;
            let most = if rng.random_bool(0.2) { 90_000_000 } else { 20_000 };
            let by = rng.random_range(-most..most);
            from_to(Fault::ClockJump(m.clone(), by), Fault::ClockJump(m, -by))
        }
        Trouble::ClockDrift => {
            let m = machine(rng)?;
            let ppm = rng.random_range(-50_000..50_000);
            from_to(Fault::ClockDrift(m.clone(), ppm), Fault::ClockDrift(m, 0))
        }
        Trouble::StoreOff => from_to(Fault::StoreOff, Fault::StoreOn),
        Trouble::StoreStall => from_to(Fault::StoreStall, Fault::StoreResume),
        Trouble::StoreCut => {
            let m = machine(rng)?;
            from_to(Fault::StoreCut(m.clone()), Fault::StoreUncut(m))
        }
        Trouble::StoreSlow => {
            let m = machine(rng)?;
            let ms = Duration::from_millis;
            let slow = Fault::StoreLatency(m.clone(), ms(20), ms(rng.random_range(21..400)));
            from_to(slow, Fault::StoreLatency(m, ms(1), ms(3)))
        }
        Trouble::StoreFull => {
            let left = if rng.random_bool(0.5) { 0 } else { rng.random_range(0..200_000) };
            from_to(Fault::StoreNearlyFull(left), Fault::StoreCapacity(None))
        }
        Trouble::StoreReadOnly => from_to(Fault::StoreReadOnly(true), Fault::StoreReadOnly(false)),
        Trouble::StoreBroken => {
            let kinds =
                [Kind::Write, Kind::Commit, Kind::Read, Kind::Create, Kind::Rename, Kind::Link];
            rule(rng, menu, begin, &kinds, Effect::Fail(ErrorKind::Other))
        }
        Trouble::StoreStale => {
            let kinds = [Kind::GetAttr, Kind::Read, Kind::Lookup, Kind::Open];
            rule(rng, menu, begin, &kinds, Effect::Fail(ErrorKind::StaleNetworkFileHandle))
        }
        Trouble::StoreForgets => {
            let kinds = [Kind::Link, Kind::Rename, Kind::Create, Kind::Remove, Kind::MakeDir];
            rule(rng, menu, begin, &kinds, Effect::LoseReplyAndForget)
        }
        Trouble::StoreLate => {
            let kinds = [Kind::Write, Kind::Rename, Kind::Link, Kind::Create, Kind::Remove];
            rule(rng, menu, begin, &kinds, Effect::Delay(rest))
        }
        Trouble::DiskFull => {
            let m = machine(rng)?;
            from_to(Fault::DiskCapacity(m.clone(), Some(0)), Fault::DiskCapacity(m, None))
        }
    }
}

/// A fault of single calls: some of the next ones of a kind.
fn rule(
    rng: &mut SmallRng,
    menu: &Menu,
    begin: Duration,
    kinds: &[Kind],
    effect: Effect,
) -> Option<Vec<(Duration, Fault)>> {
    let host = pick(rng, &menu.machines)?;
    let kind = pick(rng, kinds)?;
    let rule = Rule::next(&host, kind, effect).after(rng.random_range(0..20));
    Some(vec![(begin, Fault::StoreCall(rule.times(rng.random_range(1..4))))])
}
