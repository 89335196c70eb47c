//! `filesystems` and `partitions`: what is mounted on this host, and how full it is.

use vql::{Dict, Error, Registry, Scope, Signature, Value};

use crate::plugins::common::{blocking, host};

/// Adds both.
pub fn register(registry: &mut Registry) {
    let filesystems = Signature::new("filesystems", "File systems that are mounted.");
    registry.plugin_async(filesystems, |scope, _, emitter| async move {
        for m in mounts(&scope).await? {
            let row = m.row();
            let text = Value::from(row.clone()).to_json();
            emitter.send(Dict::new().with("PartitionStat", row).with("String", text)).await?;
        }
        Ok(())
    });
    let partitions = Signature::new("partitions", "The same, with the room they have.");
    registry.plugin_async(partitions, |scope, _, emitter| async move {
        let root = host(&scope).root.clone();
        for m in mounts(&scope).await? {
            let row = m.row();
            let at = root.join(m.point.trim_start_matches('/'));
            let usage = blocking(&scope, move || m.usage(&at)).await?;
            // Where others may not look nothing is said of the room.
            let usage = usage.map_or(Value::Null, Value::from);
            let row = Dict::new().with("Partition", row).with("SerialNumber", "");
            emitter.send(row.with("Usage", usage)).await?;
        }
        Ok(())
    });
}

/// A mount, as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mounted {
    device: String,
    point: String,
    kind: String,
    options: Vec<String>,
}

async fn mounts(scope: &Scope) -> Result<Vec<Mounted>, Error> {
    let list = host(scope).proc.join("self/mountinfo");
    let shown = list.display().to_string();
    let text = blocking(scope, move || std::fs::read(list)).await?;
    let text = text.map_err(|e| Error::failed(format!("{shown}: {e}")))?;
    Ok(listed(&String::from_utf8_lossy(&text)))
}

/// Of a line: two numbers, the device's, what of it is mounted, where, how; after a dash
/// its kind and its device.
fn listed(text: &str) -> Vec<Mounted> {
    let one = |line: &str| {
        let (place, source) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(4).map(unescaped);
        let mut source = source.split(' ').map(unescaped);
        Some(Mounted {
            point: place.next()?,
            options: place.next()?.split(',').map(str::to_owned).collect(),
            kind: source.next()?,
            device: source.next()?,
        })
    };
    text.lines().filter_map(one).collect()
}

/// Blanks and the like are written as `\` and three octal digits.
fn unescaped(word: &str) -> String {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let code = (*first == b'\\').then(|| more.get(..3)).flatten();
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &more[3..];
            }
            None => {
                out.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 }
}

impl Mounted {
    fn row(&self) -> Dict {
        let options: Vec<Value> = self.options.iter().map(|o| o.as_str().into()).collect();
        Dict::new()
            .with("device", self.device.as_str())
            .with("mountpoint", self.point.as_str())
            .with("fstype", self.kind.as_str())
            .with("opts", Value::from(options))
    }

    /// What its super block says, if it may be asked.
    fn usage(&self, at: &std::path::Path) -> Option<Dict> {
        let s = rustix::fs::statvfs(at).ok()?;
        let (total, free) = (s.f_blocks * s.f_frsize, s.f_bavail * s.f_frsize);
        let used = s.f_blocks.saturating_sub(s.f_bfree) * s.f_frsize;
        let inodes = s.f_files.saturating_sub(s.f_ffree);
        Some(
            Dict::new()
                .with("path", self.point.as_str())
                .with("fstype", self.kind.as_str())
                .with("total", total)
                .with("free", free)
                .with("used", used)
                .with("usedPercent", percent(used, used + free))
                .with("inodesTotal", s.f_files)
                .with("inodesUsed", inodes)
                .with("inodesFree", s.f_ffree)
                .with("inodesUsedPercent", percent(inodes, s.f_files)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn names_with_blanks_are_read() {
        let text = "36 35 98:0 / /mnt/a\\040b\\134c rw,noatime shared:1 - ext4 /dev/a rw,errors=continue\nbad\n";
        let want = Mounted {
            device: "/dev/a".into(),
            point: "/mnt/a b\\c".into(),
            kind: "ext4".into(),
            options: vec!["rw".into(), "noatime".into()],
        };
        assert_eq!(listed(text), [want]);
        assert_eq!(unescaped("a\\0"), "a\\0");
    }

    #[tokio::test]
    async fn the_root_has_a_size() {
        let mut registry = Registry::standard();
        register(&mut registry);
        let env = Arc::new(crate::env::real::env());
        let scope = vql::ScopeBuilder::new(Arc::new(registry)).extension(env).build();
        let text = "SELECT Usage.total > 0 AS T, Usage.usedPercent <= 100 AS P \
                    FROM partitions() WHERE Partition.mountpoint = '/' LIMIT 1";
        let rows = Value::from(vql::run(text, &scope).await.unwrap()).to_json();
        assert_eq!(rows, r#"[{"T":true,"P":true}]"#);
        let text = "SELECT PartitionStat.fstype != '' AS F, String =~ 'mountpoint' AS S \
                    FROM filesystems() LIMIT 1";
        let rows = Value::from(vql::run(text, &scope).await.unwrap()).to_json();
        assert_eq!(rows, r#"[{"F":true,"S":true}]"#);
    }
}
