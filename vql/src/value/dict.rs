//! The insertion ordered dictionary. Rows are dictionaries.

use super::{Key, Value};
use indexmap::IndexMap;

/// Up to this many members a linear scan beats hashing.
const SMALL: usize = 12;

/// An insertion ordered map from names to values, optionally with
/// case-insensitive lookup.
#[derive(Clone, Debug)]
pub struct Dict {
    entries: Entries,
    case_insensitive: bool,
    default: Option<Box<Value>>,
}

#[derive(Clone, Debug)]
enum Entries {
    Small(Vec<(Key, Value)>),
    Large(IndexMap<Key, Value>),
}

impl Default for Dict {
    fn default() -> Self {
        Dict::new()
    }
}

impl Dict {
    /// An empty dictionary with case-sensitive names.
    pub fn new() -> Dict {
        Dict::with_capacity(0)
    }

    /// An empty dictionary with room for `n` members.
    pub fn with_capacity(n: usize) -> Dict {
        let entries = if n <= SMALL {
            Entries::Small(Vec::with_capacity(n))
        } else {
            Entries::Large(IndexMap::with_capacity(n))
        };
        Dict { entries, case_insensitive: false, default: None }
    }

    /// An empty dictionary whose lookups ignore ASCII case.
    pub fn case_insensitive() -> Dict {
        Dict { case_insensitive: true, ..Dict::new() }
    }

    /// Builder form of [`Dict::set`].
    #[must_use]
    pub fn with(mut self, key: impl Into<Key>, value: impl Into<Value>) -> Dict {
        self.set(key, value);
        self
    }

    /// Whether lookups ignore ASCII case.
    pub fn is_case_insensitive(&self) -> bool {
        self.case_insensitive
    }

    /// The value given for names which are absent when this dictionary is a
    /// layer of a scope.
    pub fn default_value(&self) -> Option<&Value> {
        self.default.as_deref()
    }

    /// Sets what [`Dict::default_value`] returns.
    pub fn set_default(&mut self, value: impl Into<Value>) {
        self.default = Some(Box::new(value.into()));
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        match &self.entries {
            Entries::Small(list) => list.len(),
            Entries::Large(map) => map.len(),
        }
    }

    /// True without members.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn position(&self, key: &str) -> Option<usize> {
        match &self.entries {
            Entries::Small(list) if self.case_insensitive => {
                list.iter().position(|(k, _)| k.eq_ignore_ascii_case(key))
            }
            Entries::Small(list) => list.iter().position(|(k, _)| k.as_str() == key),
            Entries::Large(map) => map.get_index_of(key).or_else(|| {
                let ignore = self.case_insensitive;
                ignore.then(|| map.keys().position(|k| k.eq_ignore_ascii_case(key))).flatten()
            }),
        }
    }

    /// The member called `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let at = self.position(key)?;
        match &self.entries {
            Entries::Small(list) => list.get(at).map(|(_, v)| v),
            Entries::Large(map) => map.get_index(at).map(|(_, v)| v),
        }
    }

    /// True when the member exists.
    pub fn contains(&self, key: &str) -> bool {
        self.position(key).is_some()
    }

    /// Sets a member. An existing member of that name MOVES TO THE END.
    pub fn set(&mut self, key: impl Into<Key>, value: impl Into<Value>) {
        let key = key.into();
        if let Some(at) = self.position(&key) {
            self.remove_at(at);
        }
        self.push(key, value.into());
    }

    /// Sets a member. An existing member of that name keeps its place.
    pub fn update(&mut self, key: impl Into<Key>, value: impl Into<Value>) {
        let key = key.into();
        let Some(at) = self.position(&key) else { return self.push(key, value.into()) };
        let slot = match &mut self.entries {
            Entries::Small(list) => list.get_mut(at).map(|(_, v)| v),
            Entries::Large(map) => map.get_index_mut(at).map(|(_, v)| v),
        };
        if let Some(slot) = slot {
            *slot = value.into();
        }
    }

    fn push(&mut self, key: Key, value: Value) {
        match &mut self.entries {
            Entries::Small(list) if list.len() < SMALL => list.push((key, value)),
            Entries::Small(list) => {
                let mut map: IndexMap<Key, Value> = std::mem::take(list).into_iter().collect();
                map.insert(key, value);
                self.entries = Entries::Large(map);
            }
            Entries::Large(map) => {
                map.insert(key, value);
            }
        }
    }

    fn remove_at(&mut self, at: usize) -> Option<Value> {
        match &mut self.entries {
            Entries::Small(list) => (at < list.len()).then(|| list.remove(at).1),
            Entries::Large(map) => map.shift_remove_index(at).map(|(_, v)| v),
        }
    }

    /// Removes a member and returns its value.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.position(key)?;
        self.remove_at(at)
    }

    /// Members in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&Key, &Value)> + '_ {
        let (small, large) = match &self.entries {
            Entries::Small(list) => (Some(list.iter().map(|(k, v)| (k, v))), None),
            Entries::Large(map) => (None, Some(map.iter())),
        };
        small.into_iter().flatten().chain(large.into_iter().flatten())
    }

    /// Names in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &Key> + '_ {
        self.iter().map(|(k, _)| k)
    }

    /// Values in order.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &Value> + '_ {
        self.iter().map(|(_, v)| v)
    }
}

impl<K: Into<Key>, V: Into<Value>> FromIterator<(K, V)> for Dict {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(iter: I) -> Self {
        let mut dict = Dict::new();
        for (key, value) in iter {
            dict.update(key, value);
        }
        dict
    }
}

impl IntoIterator for Dict {
    type Item = (Key, Value);
    type IntoIter = std::iter::Chain<
        std::iter::Flatten<std::option::IntoIter<std::vec::IntoIter<(Key, Value)>>>,
        std::iter::Flatten<std::option::IntoIter<indexmap::map::IntoIter<Key, Value>>>,
    >;
    fn into_iter(self) -> Self::IntoIter {
        let (small, large) = match self.entries {
            Entries::Small(list) => (Some(list.into_iter()), None),
            Entries::Large(map) => (None, Some(map.into_iter())),
        };
        small.into_iter().flatten().chain(large.into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_moves_to_the_end_and_update_keeps_the_place() {
        for n in [3usize, 40] {
            let mut d: Dict = (0..n).map(|i| (format!("k{i}"), i as i64)).collect();
            d.update("k0", 9);
            assert_eq!(d.keys().next().map(Key::as_str), Some("k0"));
            d.set("k0", 8);
            assert_eq!(d.keys().next_back().map(Key::as_str), Some("k0"));
            assert_eq!(d.len(), n);
            assert!(matches!(d.get("k0"), Some(Value::Int(8))));
            assert!(d.get("K0").is_none());
        }
    }

    #[test]
    fn case_insensitive_lookup_on_demand() {
        let d = Dict::case_insensitive().with("Pid", 1);
        assert!(d.contains("pid"));
        assert!(!Dict::new().with("Pid", 1).contains("pid"));
    }
}
