//! What the stock program offers on any system, as data: a stock agent can be
//! judged without one. Nothing here says what this program can do.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use vql::syntax::CallKind;

const TABLE: &str = include_str!("stock.tsv");

static STOCK: LazyLock<Catalogue> = LazyLock::new(|| Catalogue::read(TABLE));

/// One callable of the stock program.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Callable {
    /// Systems it runs on: `d` darwin, `l` linux, `w` windows.
    pub systems: &'static str,
    /// What `version()` says.
    pub version: u32,
    /// Rights it needs on a stock server, separated by commas.
    pub permissions: &'static str,
    /// Arguments and whether they must be given.
    pub args: BTreeMap<&'static str, bool>,
    /// Takes arguments of any name.
    pub free_form: bool,
}

/// All callables and accessors of the stock program.
#[derive(Debug, Default)]
pub struct Catalogue {
    functions: BTreeMap<&'static str, Callable>,
    plugins: BTreeMap<&'static str, Callable>,
    accessors: BTreeMap<&'static str, &'static str>,
}

/// The catalogue of this binary.
pub fn stock() -> &'static Catalogue {
    &STOCK
}

impl Catalogue {
    fn read(table: &'static str) -> Catalogue {
        let mut all = Catalogue::default();
        for line in table.lines().filter(|l| !l.starts_with('#')) {
            let mut cells = line.split('\t');
            let mut cell = || cells.next().filter(|c| *c != "-").unwrap_or_default();
            let (kind, name, systems, version) = (cell(), cell(), cell(), cell());
            let (permissions, args) = (cell(), cell());
            let free_form = args.split(' ').any(|a| a == "*");
            let args = args.split(' ').filter_map(|a| {
                let (name, kind) = a.split_once(':')?;
                Some((name, kind.ends_with('!')))
            });
            let callable = Callable {
                systems,
                version: version.parse().unwrap_or(0),
                permissions,
                args: args.collect(),
                free_form,
            };
            match kind {
                "F" => drop(all.functions.insert(name, callable)),
                "P" => drop(all.plugins.insert(name, callable)),
                _ => drop(all.accessors.insert(name, systems)),
            }
        }
        all
    }

    /// The callable of that name in that position.
    pub fn find(&self, kind: CallKind, name: &str) -> Option<&Callable> {
        match kind {
            CallKind::Function => self.functions.get(name),
            CallKind::Plugin => self.plugins.get(name),
        }
    }

    /// Whether there is such an accessor.
    pub fn has_accessor(&self, name: &str) -> bool {
        self.accessors.contains_key(name)
    }

    /// Every callable in order: position, name, facts.
    pub fn all(&self) -> impl Iterator<Item = (CallKind, &'static str, &Callable)> {
        let functions = self.functions.iter().map(|(n, c)| (CallKind::Function, *n, c));
        functions.chain(self.plugins.iter().map(|(n, c)| (CallKind::Plugin, *n, c)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_whole() {
        let all = stock();
        assert_eq!(all.functions.len(), 222);
        assert_eq!(all.plugins.len(), 145);
        assert_eq!(all.accessors.len(), 43);
        let glob = all.find(CallKind::Plugin, "glob").unwrap();
        assert_eq!(glob.args.get("globs"), Some(&true));
        assert_eq!(glob.args.get("root"), Some(&false));
        assert!(!glob.free_form && glob.systems == "dlw");
        assert!(all.find(CallKind::Function, "dict").unwrap().free_form);
        assert!(all.find(CallKind::Function, "glob").is_none());
        assert!(all.has_accessor("raw_reg"));
    }
}
