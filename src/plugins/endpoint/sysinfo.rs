//! `sysinfo`: how much memory the machine has.

use vql::{Dict, Registry, Signature};

use crate::plugins::common::host;

/// Adds `sysinfo`.
pub fn register(registry: &mut Registry) {
    let sig = Signature::new("sysinfo", "How much memory the machine has, in bytes.");
    registry.function_sync(sig, |scope, _| {
        // A made-up host has made-up memory: that of the machine changes all the time.
        let made_up = host(scope).persona.is_some();
        Ok(if made_up { dict([4 << 30, 2 << 30, 0, 0, 0]) } else { memory() }.into())
    });
}

fn memory() -> Dict {
    let kernel = rustix::system::sysinfo();
    let unit = u64::from(kernel.mem_unit.max(1));
    let all =
        [kernel.totalram, kernel.freeram, kernel.sharedram, kernel.totalswap, kernel.freeswap];
    dict(all.map(|n| n.saturating_mul(unit)))
}

fn dict([total, free, shared, swap, free_swap]: [u64; 5]) -> Dict {
    Dict::new()
        .with("TotalPhysicalMemory", total)
        .with("TotalFreeMemory", free)
        .with("TotalSharedMemory", shared)
        .with("TotalSwap", swap)
        .with("FreeSwap", free_swap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_memory() {
        let all = memory();
        let get = |name| all.get(name).and_then(vql::Value::as_int).unwrap();
        assert!(get("TotalPhysicalMemory") > get("TotalFreeMemory") && get("TotalFreeMemory") > 0);
        assert!(get("TotalSwap") >= get("FreeSwap"));
        // The kernel says the same in another place, rounded to kibibytes.
        let told = std::fs::read_to_string("/proc/meminfo").unwrap();
        let total = told.lines().find_map(|l| l.strip_prefix("MemTotal:")).unwrap().trim();
        let total: i64 = total.trim_end_matches(" kB").trim().parse().unwrap();
        assert_eq!(get("TotalPhysicalMemory") / 1024, total);
    }
}
