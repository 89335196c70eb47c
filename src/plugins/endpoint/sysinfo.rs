//! `sysinfo`: how much memory the machine has.

use vql::{Dict, Registry, Signature};

/// Adds `sysinfo`.
pub fn register(registry: &mut Registry) {
    let sig = Signature::new("sysinfo", "How much memory the machine has, in bytes.");
    registry.function_sync(sig, |_, _| Ok(memory().into()));
}

fn memory() -> Dict {
    let kernel = rustix::system::sysinfo();
    let unit = u64::from(kernel.mem_unit.max(1));
    let bytes = |n: u64| n.saturating_mul(unit);
    Dict::new()
        .with("TotalPhysicalMemory", bytes(kernel.totalram))
        .with("TotalFreeMemory", bytes(kernel.freeram))
        .with("TotalSharedMemory", bytes(kernel.sharedram))
        .with("TotalSwap", bytes(kernel.totalswap))
        .with("FreeSwap", bytes(kernel.freeswap))
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
