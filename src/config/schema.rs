//! The table of every known stock key: its type, and what becomes of it here.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use indexmap::IndexMap;

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// Text.
    Str,
    /// True or false.
    Bool,
    /// A number from 0 up.
    Uint,
    /// A whole number.
    Int,
    /// A list of text.
    Strs,
    /// Text to text.
    Map,
    /// Another section.
    Section(&'static str),
    /// A list of sections.
    List(&'static str),
    /// Text to section.
    Sections(&'static str),
    /// Not looked into.
    Any,
}

/// What becomes of a key here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It has its stock meaning.
    Honoured,
    /// Kept, without effect.
    Harmless,
    /// Names a feature that is not offered.
    Feature,
    /// Restricts something and is not honoured: a server refuses it.
    RestrictsServer,
    /// Restricts something on endpoints and is not honoured: the agent refuses it.
    RestrictsAgent,
}

/// One key of a section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// What it holds.
    pub ty: Type,
    /// What becomes of it.
    pub treatment: Treatment,
    /// Current stock versions no longer know it.
    pub old: bool,
}

/// The keys of one section, in the order stock writes them.
pub type Section = IndexMap<&'static str, Key>;

/// Name of the section at the top of a file.
pub const TOP: &str = "Config";

static TABLE: LazyLock<BTreeMap<&'static str, Section>> = LazyLock::new(|| {
    let mut table: BTreeMap<&str, Section> = BTreeMap::new();
    for line in include_str!("keys.tsv").lines() {
        if let Some((section, name, key)) = parse(line) {
            table.entry(section).or_default().insert(name, key);
        }
    }
    table
});

fn parse(line: &'static str) -> Option<(&'static str, &'static str, Key)> {
    let mut columns = line.split('\t');
    let (section, name, ty, treatment) =
        (columns.next()?, columns.next()?, columns.next()?, columns.next()?);
    let ty = match ty.split_once(':') {
        Some(("msg", s)) => Type::Section(s),
        Some(("list", s)) => Type::List(s),
        Some(("map", s)) => Type::Sections(s),
        Some(_) => return None,
        None => match ty {
            "str" => Type::Str,
            "bool" => Type::Bool,
            "uint" => Type::Uint,
            "int" => Type::Int,
            "strs" => Type::Strs,
            "map" => Type::Map,
            "any" => Type::Any,
            _ => return None,
        },
    };
    let (treatment, old) = match treatment.split_once(' ') {
        Some((t, "old")) => (t, true),
        Some(_) => return None,
        None => (treatment, false),
    };
    let treatment = match treatment {
        "H" => Treatment::Honoured,
        "-" => Treatment::Harmless,
        "N" => Treatment::Feature,
        "S" => Treatment::RestrictsServer,
        "A" => Treatment::RestrictsAgent,
        _ => return None,
    };
    Some((section, name, Key { ty, treatment, old }))
}

/// The keys of a section by its name in the table.
pub fn section(name: &str) -> Option<&'static Section> {
    TABLE.get(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_understood() {
        let lines = include_str!("keys.tsv").lines().filter(|l| !l.starts_with('#'));
        let mut count = 0;
        for line in lines {
            let (s, name, key) = parse(line).unwrap_or_else(|| panic!("{line}"));
            assert_eq!(section(s).unwrap().get(name), Some(&key), "twice: {line}");
            if let Type::Section(t) | Type::List(t) | Type::Sections(t) = key.ty {
                assert!(section(t).is_some(), "{line}");
            }
            count += 1;
        }
        assert!(count > 400, "{count}");
        assert_eq!(TABLE.values().map(IndexMap::len).sum::<usize>(), count);
        assert_eq!(section(TOP).unwrap()["lockdown"].treatment, Treatment::RestrictsServer);
    }
}
