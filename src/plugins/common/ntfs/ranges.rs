//! `parse_ntfs_ranges`: where on the disk the content of a stream lies.

use std::io;

use vql::{Args, Dict, Emitter, Error, Registry, Scope};

use super::attribute::{Attribute, DATA, Place, Run};
use super::records::{signature, source, wanted};
use crate::plugins::common::blocking;

/// Adds `parse_ntfs_ranges`.
pub fn register(registry: &mut Registry) {
    let doc = "Where on an NTFS volume the content of a stream lies.";
    registry.plugin_async(signature("parse_ntfs_ranges", doc), |scope, args, emitter| async move {
        run(&scope, &args, &emitter).await
    });
}

async fn run(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let source = source(scope, args).await?;
    let record = wanted(args, &source.volume)?;
    // Without more than a record its first attribute is meant, if that is content.
    let inode = args.string("inode")?;
    let mut numbers = inode.split(':').next().unwrap_or_default().split('-').skip(1);
    let mut number = || numbers.next().and_then(|n| n.parse::<u32>().ok());
    let (kind, id) = (number().unwrap_or(DATA), number().unwrap_or(0));
    let volume = source.volume.clone();
    let attributes = blocking(scope, move || volume.attributes(record)).await?;
    let failed = |e: io::Error| Error::failed(format!("record {record}: {e}"));
    // Records that hold a further part of a stream are not asked for by themselves.
    let same = |a: &&Attribute| a.kind == kind && u32::from(a.id) == id && a.start == 0;
    let attributes = attributes.map_err(failed)?;
    let found = attributes
        .iter()
        .find(same)
        .ok_or_else(|| failed(io::Error::other(format!("has no attribute {kind}-{id}"))))?;
    for range in ranges(found, source.volume.cluster()) {
        scope.charge_op().await;
        emitter.send(range.row()).await?;
    }
    Ok(())
}

/// A stretch of content. Offsets and lengths are counted in units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    /// Others are inside of one of level 0.
    level: u32,
    from: u64,
    to: u64,
    length: u64,
    /// Units that are stored of it, packed.
    packed: u64,
    sparse: bool,
    unit: u64,
    /// How it is read, in the names that other agents give.
    reader: &'static str,
}

impl Stretch {
    fn row(&self) -> Dict {
        let Stretch { level, from, to, length, packed, sparse, unit, reader } = *self;
        let indent = " ".repeat(level as usize);
        let note = match packed {
            0 if sparse => "Sparse ".to_owned(),
            0 => String::new(),
            n => format!("Compressed Length {n}"),
        };
        let text = format!(
            "{indent} {level} MappedReader: FileOffset {from} -> DiskOffset {to} \
             (Length {length}, {note} Cluster {unit}) Delegate {reader}"
        );
        Dict::new()
            .with("Type", "MappedReader")
            .with("Level", level)
            .with("FromOffset", from)
            .with("ToOffset", to)
            .with("Length", length)
            .with("CompressedLength", packed)
            .with("IsSparse", sparse)
            .with("ClusterSize", unit)
            .with("Reader", reader)
            .with("String", text)
    }
}

/// The whole, its runs, and what behind them was never written.
fn ranges(attribute: &Attribute, cluster: u64) -> Vec<Stretch> {
    let whole = Stretch {
        level: 0,
        from: 0,
        to: 0,
        length: attribute.size,
        packed: 0,
        sparse: false,
        unit: 1,
        reader: "*bytes.Reader",
    };
    let Place::Disk { runs, written, unit, sparse } = &attribute.place else { return vec![whole] };
    let mut out = vec![Stretch { length: *written, reader: "*parser.RangeReader", ..whole }];
    let part = Stretch { level: 1, unit: cluster, reader: "*readers.AccessorReader", ..whole };
    let of = |r: &Run| Stretch {
        from: r.start / cluster,
        to: r.at.unwrap_or(0) / cluster,
        length: r.length / cluster,
        sparse: r.at.is_none() && *sparse,
        ..part
    };
    let per_unit = unit / cluster;
    let mut runs = runs.iter().peekable();
    while let Some(run) = runs.next() {
        let stretch = of(run);
        // A hole behind a run fills up the unit that is packed in its last clusters.
        let hole = runs.peek().filter(|r| r.at.is_none() && run.at.is_some());
        let (Some(hole), true) = (hole, per_unit > 0) else {
            out.push(stretch);
            continue;
        };
        let packed = (stretch.from + stretch.length) % per_unit;
        let (before, behind) = (stretch.length.saturating_sub(packed), per_unit - packed);
        if packed == 0 {
            out.push(stretch);
            continue;
        }
        if before > 0 {
            out.push(Stretch { length: before, ..stretch });
        }
        out.push(Stretch {
            from: stretch.from + before,
            to: stretch.to + before,
            length: per_unit,
            packed,
            ..stretch
        });
        let hole = of(hole);
        if hole.length > behind {
            let (from, length) = (hole.from + behind, hole.length - behind);
            out.push(Stretch { from, length, ..hole });
        }
        runs.next();
    }
    if attribute.size > *written {
        let length = attribute.size - written;
        let reader = "*parser.NullReader";
        out.push(Stretch { from: *written, length, sparse: true, reader, ..whole });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_units_are_put_together() {
        let run = |start, length, at| Run { start, length, at };
        // A unit as it is and one packed in 3 clusters; a hole of two more.
        let runs = vec![run(0, 190, Some(500)), run(190, 130 + 320, None), run(640, 160, Some(0))];
        let place = Place::Disk { runs, written: 800, unit: 160, sparse: false };
        let name = String::new();
        let attribute = Attribute { kind: DATA, id: 0, name, size: 800, start: 0, place };
        let all = ranges(&attribute, 10);
        let shown: Vec<_> =
            all.iter().map(|r| (r.level, r.from, r.to, r.length, r.packed)).collect();
        let expected = [
            (0, 0, 0, 800, 0),
            (1, 0, 50, 16, 0),
            (1, 16, 66, 16, 3),
            (1, 32, 0, 32, 0),
            (1, 64, 0, 16, 0),
        ];
        assert_eq!(shown, expected);
        let text = all[2].row().get("String").unwrap().to_text();
        let expected = "  1 MappedReader: FileOffset 16 -> DiskOffset 66 (Length 16, \
            Compressed Length 3 Cluster 10) Delegate *readers.AccessorReader";
        assert_eq!(text, expected);
    }
}
