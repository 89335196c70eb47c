//! What the kernel says about the file system a directory is on, and whether a
//! datastore may be there. Text in, facts out: it mounts and changes nothing.

use crate::env::FileSystem;
use crate::env::fs::read_limited;

/// Where the kernel lists this process's mounts.
pub const MOUNTINFO: &str = "/proc/self/mountinfo";

/// One line of `mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub point: String,
    /// Device numbers, as `stat` tells them of files on it.
    pub device: (u32, u32),
    /// Kind: `ext4`, `nfs4`.
    pub kind: String,
    /// What is mounted: `filer:/export`.
    pub source: String,
    /// Options of the mount and of the file system together.
    pub options: Vec<String>,
}

/// How much a remark matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Good to know.
    Note,
    /// Works, but slower or less safely than it could.
    Warning,
    /// A frontend must not start on it.
    Refused,
}

impl Mount {
    /// The value of `name=value`, or the empty text for a bare `name`.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find_map(|o| match o.split_once('=') {
            Some((n, v)) if n == name => Some(v),
            None if o == name => Some(""),
            _ => None,
        })
    }

    /// Whether it is a network file system of Unix.
    pub fn is_nfs(&self) -> bool {
        matches!(self.kind.as_str(), "nfs" | "nfs4")
    }

    /// Everything there is to say about a datastore on this mount.
    pub fn judge(&self) -> Vec<(Weight, String)> {
        let mut out = Vec::new();
        let mut say = |weight, text: &str| out.push((weight, text.to_owned()));
        if self.option("ro").is_some() {
            say(Weight::Refused, "mounted read only");
        }
        match self.kind.as_str() {
            "nfs" | "nfs4" => {}
            "tmpfs" | "ramfs" => {
                say(Weight::Warning, "in memory: everything is gone after a restart of the host");
                return out;
            }
            "cifs" | "smb3" | "smbfs" => {
                say(
                    Weight::Warning,
                    "SMB is not known to keep what a datastore on several nodes needs",
                );
                return out;
            }
            kind if kind.starts_with("fuse") => {
                say(
                    Weight::Note,
                    "a FUSE file system: what it keeps of its promises, only the tests can tell",
                );
                return out;
            }
            _ => return out,
        }
        for soft in ["soft", "softerr"] {
            if self.option(soft).is_some() {
                let text = format!(
                    "mounted with `{soft}`: writes can be given up and reported late or not at \
                     all; mount it with `hard`"
                );
                say(Weight::Refused, &text);
            }
        }
        match self.option("lookupcache") {
            Some("pos" | "positive" | "none") => {}
            _ => say(
                Weight::Warning,
                "without `lookupcache=positive`: a name that was looked up before it existed can \
                 stay unseen for `acdirmax` seconds (60 unless set)",
            ),
        }
        if self.option("noac").is_some() {
            say(Weight::Warning, "mounted with `noac`: every look at a file goes to the server");
        }
        let cache: Vec<String> = ["acregmin", "acregmax", "acdirmin", "acdirmax"]
            .iter()
            .filter_map(|n| self.option(n).map(|v| format!("{n}={v}")))
            .collect();
        if !cache.is_empty() {
            say(Weight::Note, &format!("attributes are cached: {}", cache.join(" ")));
        }
        if self.option("vers").is_some_and(|v| v.starts_with('3')) {
            let text = "NFS version 3: files replaced while they are read give errors; prefer 4.1 or later";
            say(Weight::Note, text);
        }
        say(
            Weight::Note,
            "whether the server exports it `sync` cannot be seen from here; with `async` what was \
             acknowledged can be lost when the file server crashes",
        );
        out
    }
}

/// All mounts in a text of `mountinfo`; lines that cannot be read are left out.
pub fn parse(text: &str) -> Vec<Mount> {
    text.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<Mount> {
    // Optional fields stand between the sixth and a lone dash.
    let (head, tail) = line.split_once(" - ")?;
    let mut head = head.split(' ').skip(2);
    let (major, minor) = head.next()?.split_once(':')?;
    let point = head.nth(1)?;
    let own = head.next()?;
    let mut tail = tail.split(' ');
    let (kind, source) = (tail.next()?, tail.next()?);
    let of_fs = tail.next().unwrap_or_default();
    Some(Mount {
        point: unescape(point),
        device: (major.parse().ok()?, minor.parse().ok()?),
        kind: kind.to_owned(),
        source: unescape(source),
        options: of_fs
            .split(',')
            .chain(own.split(','))
            .filter(|o| !o.is_empty())
            .map(str::to_owned)
            .collect(),
    })
}

/// Spaces and backslashes stand as three octal digits.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let octal = bytes.get(i + 1..i + 4).filter(|_| bytes[i] == b'\\').and_then(|d| {
            let text = std::str::from_utf8(d).ok()?;
            u8::from_str_radix(text, 8).ok()
        });
        match octal {
            Some(b) => {
                out.push(b);
                i += 4;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The mount that `path` is on. `device` is what `stat` says of the path, if that is
/// known: it finds the way through symbolic links, which the text does not show.
pub fn holding<'a>(
    mounts: &'a [Mount],
    path: &str,
    device: Option<(u32, u32)>,
) -> Option<&'a Mount> {
    let below = |m: &&Mount| {
        let point = m.point.trim_end_matches('/');
        path.strip_prefix(point).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    // Of equal length the later lies over the earlier.
    let longest = |of: &mut dyn Iterator<Item = &'a Mount>| of.max_by_key(|m| m.point.len());
    let on_device = || mounts.iter().filter(|m| Some(m.device) == device);
    longest(&mut on_device().filter(below))
        .or_else(|| on_device().next())
        .or_else(|| longest(&mut mounts.iter().filter(below)))
}

/// The mount that `path` is on, as the kernel tells it; `None` where it does not.
pub async fn of(fs: &dyn FileSystem, path: &str) -> Option<Mount> {
    let text = read_limited(fs, MOUNTINFO, 4 << 20).await.ok()?;
    let mounts = parse(&String::from_utf8_lossy(&text));
    let device = fs.details(path).await.ok().map(|d| d.device);
    holding(&mounts, path, device).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
30 22 0:25 / /run rw,nosuid - tmpfs tmpfs rw,size=100k
41 22 0:44 / /srv/velo rw,nosuid,noexec,noatime shared:9 master:2 - nfs4 filer:/export rw,vers=4.2,hard,proto=tcp,lookupcache=pos,acdirmin=1,acdirmax=1
42 22 0:45 / /srv/velo2 rw - nfs filer:/b rw,vers=3,soft,proto=tcp
43 41 0:46 / /srv/velo/with\\040space ro - nfs4 filer:/c\\134d rw,vers=4.1,softerr,noac
44 22 0:47 / /over rw - ext4 /dev/sdb1 rw
45 22 0:48 / /over rw - xfs /dev/sdc1 rw
nonsense
46 22 x:y / /bad rw - ext4 /dev/x rw
";

    fn at(path: &str) -> Mount {
        holding(&parse(TEXT), path, None).unwrap().clone()
    }

    fn weights(path: &str) -> Vec<Weight> {
        at(path).judge().into_iter().map(|(w, _)| w).collect()
    }

    #[test]
    fn the_nearest_mount_holds_a_path() {
        let all = parse(TEXT);
        assert_eq!(all.len(), 7);
        for (path, kind, source) in [
            ("/", "ext4", "/dev/sda1"),
            ("/srv/v", "ext4", "/dev/sda1"),
            ("/srv/velo", "nfs4", "filer:/export"),
            ("/srv/velo/a/b", "nfs4", "filer:/export"),
            ("/srv/velo2/x", "nfs", "filer:/b"),
            ("/srv/velo3", "ext4", "/dev/sda1"),
            ("/srv/velo/with space/x", "nfs4", "filer:/c\\d"),
            ("/over/x", "xfs", "/dev/sdc1"),
        ] {
            let m = at(path);
            assert_eq!((m.kind.as_str(), m.source.as_str()), (kind, source), "{path}");
        }
        // A link from elsewhere is found by its device.
        assert_eq!(holding(&all, "/home/data", Some((0, 44))).unwrap().point, "/srv/velo");
        assert_eq!(holding(&all, "/home/data", Some((9, 9))).unwrap().point, "/");
        assert_eq!(holding(&[], "/", None), None);
    }

    #[test]
    fn what_loses_data_is_refused() {
        use Weight::{Note, Refused, Warning};
        assert_eq!(weights("/"), []);
        assert_eq!(weights("/run/x"), [Warning]);
        assert_eq!(weights("/srv/velo"), [Note, Note]);
        assert_eq!(weights("/srv/velo2"), [Refused, Warning, Note, Note]);
        assert_eq!(weights("/srv/velo/with space"), [Refused, Refused, Warning, Warning, Note]);
        let said = at("/srv/velo").judge();
        assert!(said[0].1.contains("acdirmin=1 acdirmax=1") && said[1].1.contains("async"));
        assert!(at("/srv/velo2").judge()[0].1.contains("`hard`"));
        assert_eq!(at("/srv/velo").option("vers"), Some("4.2"));
        assert_eq!(at("/srv/velo").option("hard"), Some(""));
        assert!(at("/srv/velo").is_nfs() && !at("/").is_nfs());
    }

    #[tokio::test]
    async fn this_process_has_mounts() {
        let dir = tempfile::tempdir().unwrap();
        let m = of(&*crate::env::real::env().fs, dir.path().to_str().unwrap()).await.unwrap();
        assert!(!m.kind.is_empty() && m.point.starts_with('/'), "{m:?}");
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "[0-9a-z:/ \\\\,=\n-]{0,120}", path in "[/a-z]{0,9}") {
            let all = parse(&text);
            if let Some(m) = holding(&all, &path, None) { let _ = m.judge(); }
        }
    }
}
