//! Which tool is meant by a name: among what was decided, what was fetched before and what
//! definitions say. Pure.

use std::cmp::Ordering;

use velociraptor_proto::proto::Tool;

use crate::services::repository::Repository;

/// What definitions say of a tool, each with the artifact that says it.
pub(super) fn in_definitions(repository: &Repository, wanted: impl Fn(&Tool) -> bool) -> Vec<Tool> {
    let mut all = Vec::new();
    for a in repository.all().iter().filter(|a| !a.is_alias) {
        let of = |t: &Tool| Tool { artifact: a.name.clone(), ..t.clone() };
        all.extend(a.tools.iter().filter(|t| wanted(t)).map(of));
    }
    all
}

/// Whether a tool has this name, and this version if one is asked for.
pub(super) fn is_called(tool: &Tool, name: &str, version: &str) -> bool {
    tool.name == name && (version.is_empty() || tool.version == version)
}

/// Whether both say the same of where a tool is found.
fn same_source(a: &Tool, b: &Tool) -> bool {
    a.url == b.url
        && a.github_project == b.github_project
        && a.github_asset_regex == b.github_asset_regex
        && a.expected_hash == b.expected_hash
}

/// What is known of the tool that a definition names: what an administrator decided about it, or
/// what was found when it was fetched from where the definition still says it is.
pub(super) fn recorded<'a>(known: &'a [Tool], definition: &Tool) -> Option<&'a Tool> {
    let named = |t: &&Tool| is_called(t, &definition.name, &definition.version);
    let decided = known.iter().filter(|t| t.admin_override).filter(named);
    // Of several, the exact version; else the newest.
    let by_version = |a: &&Tool, b: &&Tool| {
        let exact = |t: &Tool| t.version == definition.version;
        let order = exact(a).cmp(&exact(b)).then_with(|| compare_versions(&a.version, &b.version));
        // What says where it is, or what it is, comes before what says nothing.
        is_known(a).cmp(&is_known(b)).then(order)
    };
    decided.max_by(by_version).or_else(|| {
        let fetched = known.iter().filter(|t| !t.admin_override && !t.hash.is_empty());
        fetched
            .filter(|t| t.name == definition.name && t.version == definition.version)
            .find(|t| source_of(t, definition))
    })
}

fn is_known(tool: &Tool) -> bool {
    has_source(tool) || !tool.filestore_path.is_empty() && !tool.hash.is_empty()
}

/// Whether a tool says where it can be fetched.
pub(super) fn has_source(tool: &Tool) -> bool {
    !tool.url.is_empty() || !tool.github_project.is_empty()
}

/// Whether `fetched` is what `definition` says. The address of a release is found by its project,
/// so that alone counts then.
fn source_of(fetched: &Tool, definition: &Tool) -> bool {
    if definition.github_project.is_empty() {
        return same_source(fetched, definition);
    }
    let no_url = Tool { url: String::new(), ..definition.clone() };
    same_source(&Tool { url: String::new(), ..fetched.clone() }, &no_url)
}

/// Versions by their numbers: `1.10` is newer than `1.9`; other parts by their text.
pub(super) fn compare_versions(a: &str, b: &str) -> Ordering {
    let parts = |v: &str| -> Vec<String> {
        v.trim_start_matches(['v', 'V']).split(['.', '-', '+']).map(str::to_owned).collect()
    };
    let (a, b) = (parts(a), parts(b));
    for (x, y) in a.iter().zip(&b) {
        let order = match (x.parse::<u64>(), y.parse::<u64>()) {
            (Ok(x), Ok(y)) => x.cmp(&y),
            _ => x.cmp(y),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    a.len().cmp(&b.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(version: &str, url: &str) -> Tool {
        Tool {
            name: "T".into(),
            version: version.into(),
            url: url.into(),
            hash: "h".into(),
            ..Tool::default()
        }
    }

    fn decided(version: &str, url: &str) -> Tool {
        Tool { admin_override: true, ..tool(version, url) }
    }

    #[test]
    fn versions_count_by_their_numbers() {
        for (less, more) in [("1.9", "1.10"), ("v1.2", "1.3"), ("", "0.1"), ("1.2", "1.2.1")] {
            assert_eq!(compare_versions(less, more), Ordering::Less, "{less} {more}");
        }
        assert_eq!(compare_versions("v2", "2"), Ordering::Equal);
    }

    #[test]
    fn what_an_administrator_decided_comes_first() {
        let known = [tool("", "u"), decided("1.9", "x"), decided("1.10", "y")];
        assert_eq!(recorded(&known, &tool("", "u")).unwrap().url, "y");
        assert_eq!(recorded(&known, &tool("1.9", "u")).unwrap().url, "x");
        let exact = [decided("1.10", "y"), decided("", "z")];
        assert_eq!(recorded(&exact, &tool("", "u")).unwrap().url, "z");
        let says_nothing = [decided("1.10", "y"), decided("", "")];
        assert_eq!(recorded(&says_nothing, &tool("", "u")).unwrap().url, "y");
    }

    #[test]
    fn what_was_fetched_from_elsewhere_does_not_count() {
        let known = [tool("", "u")];
        assert!(recorded(&known, &tool("", "u")).is_some());
        assert!(recorded(&known, &tool("", "other")).is_none());
        assert!(recorded(&known, &tool("2", "u")).is_none());
        assert!(recorded(&known, &Tool { name: "S".into(), ..tool("", "u") }).is_none());
        let expects = Tool { expected_hash: "e".into(), ..tool("", "u") };
        assert!(recorded(&known, &expects).is_none());
        // The address of a release was found, not given.
        let release = |url: &str| Tool { github_project: "a/b".into(), ..tool("", url) };
        assert!(recorded(&[release("https://x/1")], &release("")).is_some());
        let unknown = Tool { hash: String::new(), ..tool("", "u") };
        assert!(recorded(&[unknown], &tool("", "u")).is_none());
    }
}
