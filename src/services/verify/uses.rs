//! What a definition uses: callables with their arguments, accessors, other
//! artifacts. Pure text work; nothing is looked up.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use regex::Regex;
use velociraptor_proto::proto::Artifact;
use vql::syntax::ast::{Arg, ArgValue, Expr, Place, Statement};
use vql::syntax::{CallKind, ParseError, calls, definitions};

use crate::services::compiler::conversions;

/// A condition on the system a query runs on.
static SYSTEM: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r#"(?i)\bOS\s*(=~?)\s*['"]([^'"]*)['"]"#).ok());

/// A piece of VQL in a definition.
#[derive(Clone, Copy, Debug)]
pub struct Fragment<'a> {
    /// What it is, for messages.
    pub what: &'static str,
    /// The text.
    pub text: &'a str,
    /// It runs when the artifact is collected (cells of notebooks do not).
    pub collected: bool,
    /// It may run on Linux.
    pub on_linux: bool,
}

/// One use of a callable.
#[derive(Clone, Debug)]
pub struct Use {
    /// Its position.
    pub kind: CallKind,
    /// The name.
    pub name: String,
    /// Arguments by name; `None` for a source that is only mentioned.
    pub args: Option<Vec<(Arc<str>, Place)>>,
    /// Where it stands in its fragment.
    pub place: Place,
    /// Written inside of a lambda's text.
    pub in_lambda: bool,
}

/// What one fragment uses.
#[derive(Clone, Debug, Default)]
pub struct Uses {
    /// Callables, in order.
    pub calls: Vec<Use>,
    /// Accessors named outright.
    pub accessors: Vec<(String, Place)>,
    /// Names it defines with LET.
    pub defines: BTreeSet<Arc<str>>,
}

/// Whether a query with this precondition may run on Linux: true unless it
/// asks for other systems only.
pub fn runs_on_linux(precondition: &str) -> bool {
    let Some(regex) = SYSTEM.as_ref() else { return true };
    let mut asked = false;
    for found in regex.captures_iter(precondition) {
        asked = true;
        let value = found.get(2).map_or("", |m| m.as_str());
        let fits = match found.get(1).map_or("", |m| m.as_str()) {
            "=" => value.eq_ignore_ascii_case("linux"),
            _ => Regex::new(&format!("(?i){value}")).is_ok_and(|r| r.is_match("linux")),
        };
        if fits {
            return true;
        }
    }
    !asked
}

/// All pieces of VQL of a definition, as they stand in it.
pub fn fragments(artifact: &Artifact) -> Vec<Fragment<'_>> {
    let whole = runs_on_linux(&artifact.precondition);
    let mut all = vec![
        Fragment {
            what: "precondition",
            text: &artifact.precondition,
            collected: true,
            on_linux: true,
        },
        Fragment { what: "export", text: &artifact.export, collected: true, on_linux: true },
    ];
    for source in &artifact.sources {
        let on_linux = whole && runs_on_linux(&source.precondition);
        let queries = source.queries.iter().chain([&source.query]);
        all.push(Fragment {
            what: "precondition",
            text: &source.precondition,
            collected: true,
            on_linux: true,
        });
        all.extend(queries.map(|q| Fragment { what: "query", text: q, collected: true, on_linux }));
        for cell in &source.notebook {
            let kind = cell.r#type.to_ascii_lowercase();
            if kind == "vql" || kind == "vql_suggestion" {
                let text = &cell.template;
                all.push(Fragment { what: "notebook", text, collected: false, on_linux });
            }
        }
    }
    all.retain(|f| !f.text.trim().is_empty());
    all
}

/// The statements put before an artifact's own, one text.
pub fn injected(artifact: &Artifact) -> String {
    artifact.parameters.iter().flat_map(conversions::statements).collect::<Vec<_>>().join("\n")
}

/// What a text uses.
pub fn uses(text: &str) -> Result<Uses, ParseError> {
    if text.trim().is_empty() {
        return Ok(Uses::default());
    }
    let statements: Vec<Statement> = vql::parse(text)?;
    let mut found = Uses { defines: definitions(&statements), ..Uses::default() };
    calls(&statements, &mut |call| {
        let args = call.args.unwrap_or_default();
        found.accessors.extend(args.iter().filter_map(accessor));
        found.calls.push(Use {
            kind: call.kind,
            name: call.name.to_owned(),
            args: call
                .args
                .map(|a| a.iter().map(|a| (a.name.name.clone(), a.name.place)).collect()),
            place: call.place,
            in_lambda: call.in_lambda,
        });
    });
    Ok(found)
}

/// An accessor named outright.
fn accessor(arg: &Arg) -> Option<(String, Place)> {
    let named = ["accessor", "DelegateAccessor"].contains(&&*arg.name.name);
    match &arg.value {
        ArgValue::Expr(e) if named => match &**e {
            Expr::String(s) => Some((s.value.to_text().into_owned(), arg.name.place)),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preconditions_of_other_systems() {
        for yes in [
            "",
            "SELECT OS FROM info() WHERE OS = 'linux'",
            "SELECT * FROM info() WHERE OS =~ \"windows|linux\"",
            "SELECT * FROM info() WHERE OS = 'darwin' OR OS = 'Linux'",
            "SELECT * FROM info() WHERE version(plugin='x') > 1",
            "SELECT * FROM info() WHERE OS =~ '.'",
        ] {
            assert!(runs_on_linux(yes), "{yes}");
        }
        for no in [
            "SELECT OS From info() where OS = 'windows'",
            "SELECT * FROM info() WHERE OS =~ 'windows|darwin' AND Architecture = 'amd64'",
        ] {
            assert!(!runs_on_linux(no), "{no}");
        }
    }

    #[test]
    fn a_text_tells_what_it_uses() {
        let text = "LET x = 1 SELECT hash(path=a, accessor='zip') FROM glob(globs='*')";
        let found = uses(text).unwrap();
        let names: Vec<_> = found.calls.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["hash", "glob"]);
        assert_eq!(found.accessors[0].0, "zip");
        assert!(found.defines.contains("x"));
        assert!(uses("SELECT").is_err());
        assert!(uses("  ").unwrap().calls.is_empty());
    }
}
