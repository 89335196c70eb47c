//! Searching bytes, and hits as rows.

use boreal::MetadataValue;
use boreal::scanner::{EvaluatedRule, ScanCallbackResult, ScanError, ScanEvent, ScanParams};
use vql::{Dict, Key, Value};

use super::memory::Regions;
use super::rules::Compiled;
use crate::plugins::common::accessor::FileInfo;
use crate::plugins::common::path::OsPath;

/// Bytes of one hit, and around it, that are shown.
const SHOWN: usize = 64 << 10;

/// Most matches of one string that are looked for.
const MATCHES: u32 = 10_000;

/// How much is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Hits.
    pub(super) number: usize,
    /// Bytes on each side of one.
    pub(super) context: usize,
}

/// One text that a rule found, or a rule that looks for none.
#[derive(Clone, Debug)]
pub(super) struct Hit {
    rule: String,
    meta: Value,
    tags: Vec<String>,
    name: String,
    offset: u64,
    data: Option<Vec<u8>>,
}

impl Hit {
    /// The row, for bytes that began at `base` in the file.
    pub(super) fn row(self, base: u64, info: &FileInfo, path: &OsPath) -> Dict {
        let found = match self.data {
            Some(data) => Dict::new()
                .with("Name", self.name)
                .with("Offset", base + self.offset)
                .with("HexData", hex_dump(&data).into_iter().collect::<Value>())
                .with("Data", Value::Bytes(data.into())),
            None => Dict::new()
                .with("Name", "")
                .with("Offset", 0)
                .with("HexData", Value::Null)
                .with("Data", Value::Null),
        };
        let tags = match self.tags.is_empty() {
            true => Value::Null,
            false => self.tags.into_iter().collect(),
        };
        Dict::new()
            .with("Rule", self.rule)
            .with("Meta", self.meta)
            .with("Tags", tags)
            .with("String", found)
            .with("File", info.row(None))
            .with("FileName", Value::object(path.clone()))
    }
}

/// The bytes from one place to another, as far as they can be read.
type Near<'a> = &'a (dyn Fn(usize, usize) -> Option<Vec<u8>> + Sync);

/// Searches bytes. `stop` is asked now and then.
pub(super) fn bytes(
    rules: &Compiled,
    data: &[u8],
    wanted: Wanted,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<Hit>, String> {
    let mut hits = Vec::new();
    let near = |start: usize, end: usize| data.get(start..end.min(data.len())).map(<[u8]>::to_vec);
    let mut scanner = rules.scanner.clone();
    scanner.set_scan_params(params());
    let done = scanner.scan_mem_with_callback(data, |event| {
        keep(&rules.scanner, event, wanted, &mut hits, stop, &near)
    });
    ended(done, hits)
}

/// Searches a process.
pub(super) fn process(
    rules: &Compiled,
    memory: Regions,
    wanted: Wanted,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<Hit>, String> {
    let mut hits = Vec::new();
    let reader = memory.reader().map_err(|e| e.to_string())?;
    let near = |start: usize, end: usize| super::memory::read_at(&reader, start, end - start);
    let mut scanner = rules.scanner.clone();
    scanner.set_scan_params(params().process_memory(true));
    let done = scanner.scan_fragmented_with_callback(memory, |event| {
        keep(&rules.scanner, event, wanted, &mut hits, stop, &near)
    });
    ended(done, hits)
}

fn params() -> ScanParams {
    ScanParams::default()
        .compute_full_matches(true)
        .match_max_length(SHOWN)
        // However few are wanted: a condition may ask for one further on.
        .string_max_nb_matches(MATCHES)
}

fn ended(done: Result<(), ScanError>, hits: Vec<Hit>) -> Result<Vec<Hit>, String> {
    match done {
        Ok(()) | Err(ScanError::CallbackAbort) => Ok(hits),
        Err(e) => Err(e.to_string()),
    }
}

fn keep(
    scanner: &boreal::Scanner,
    event: ScanEvent<'_, '_>,
    wanted: Wanted,
    hits: &mut Vec<Hit>,
    stop: &dyn Fn() -> bool,
    near: Near<'_>,
) -> ScanCallbackResult {
    if stop() {
        return ScanCallbackResult::Abort;
    }
    let ScanEvent::RuleMatch(rule) = event else { return ScanCallbackResult::Continue };
    add(scanner, &rule, wanted, hits, near);
    ScanCallbackResult::Continue
}

/// Adds what a rule found until there is enough: of each rule one hit at least.
fn add(
    scanner: &boreal::Scanner,
    rule: &EvaluatedRule<'_>,
    wanted: Wanted,
    hits: &mut Vec<Hit>,
    near: Near<'_>,
) {
    let mut meta = Dict::new();
    for m in rule.metadatas {
        let value = match m.value {
            MetadataValue::Bytes(text) => scanner.get_bytes_symbol(text).into(),
            MetadataValue::Integer(n) => n.into(),
            MetadataValue::Boolean(b) => Value::Bool(b),
        };
        meta.set(Key::new(scanner.get_string_symbol(m.name)), value);
    }
    let base = Hit {
        rule: rule.name.to_owned(),
        meta: if meta.is_empty() { Value::Null } else { meta.into() },
        tags: rule.tags.iter().map(|t| scanner.get_string_symbol(*t).to_owned()).collect(),
        name: String::new(),
        offset: 0,
        data: None,
    };
    let before = hits.len();
    for string in &rule.matches {
        for m in &string.matches {
            let at = m.base + m.offset;
            let length = m.length.min(SHOWN);
            let context = wanted.context.min(SHOWN);
            let data = near(at.saturating_sub(context), at + length + context);
            hits.push(Hit {
                name: format!("${}", string.name.trim_start_matches('$')),
                offset: at as u64,
                data: Some(data.unwrap_or_else(|| m.data.to_vec())),
                ..base.clone()
            });
            if hits.len() >= wanted.number {
                return;
            }
        }
    }
    if hits.len() == before {
        hits.push(base);
    }
}

/// The lines `hexdump -C` shows, and an empty one.
fn hex_dump(data: &[u8]) -> Vec<String> {
    let mut lines: Vec<String> = data
        .chunks(16)
        .enumerate()
        .map(|(n, chunk)| {
            let mut digits = String::new();
            for i in 0..16 {
                digits += if i == 8 { "  " } else { " " };
                digits += &chunk.get(i).map_or("  ".into(), |b| format!("{b:02x}"));
            }
            let shown = |b: &u8| if (32..127).contains(b) { char::from(*b) } else { '.' };
            let text: String = chunk.iter().map(shown).collect();
            format!("{:08x} {digits}  |{text}|", n * 16)
        })
        .collect();
    lines.push(String::new());
    lines
}
