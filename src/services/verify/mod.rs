//! Judging artifact definitions without running them: do they parse and
//! compile, are all names and arguments known to the stock program or to this
//! one, and which of them does this program implement.
//!
//! Pure: definitions and registries in, a report out. What is not implemented
//! here is no fault of a definition; a stock agent may well have it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use velociraptor_proto::proto::Artifact;
use vql::Registry;
use vql::syntax::CallKind;
use vql::syntax::ast::Place;

use super::compiler;
use super::repository::{self, ArtifactError, Kind, Repository};

mod catalogue;
mod sum;
mod uses;

pub use catalogue::{Callable, Catalogue, stock};
pub use sum::{Share, Sum, sum};
pub use uses::runs_on_linux;
use uses::{Fragment, Use, Uses, fragments, injected, uses};

/// Arguments that every call of an artifact understands.
const OF_CALLS: [&str; 3] = ["source", "preconditions", "**"];

/// What is wrong with a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The file is not an artifact.
    Parse,
    /// VQL does not parse, or the definition breaks a rule.
    Compile,
    /// A name is not known.
    Name,
    /// A call's arguments are not those of the callable.
    Argument,
}

/// One fault and where it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// Line of the file, from 1; 0 when it is about the whole.
    pub line: usize,
    /// Column in characters, from 1; 0 when it is about the whole.
    pub column: usize,
    /// The kind of fault.
    pub fault: Fault,
    /// What is wrong.
    pub message: String,
}

/// What is to be said about one file.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The file.
    pub path: String,
    /// The artifact in it; empty when the file does not parse.
    pub artifact: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Collected from clients and may run on Linux.
    pub linux: bool,
    /// Runs on the server.
    pub server: bool,
    /// Faults in order.
    pub problems: Vec<Problem>,
    /// What it needs, itself or through other artifacts, and is not here.
    pub missing: BTreeSet<String>,
}

/// Everything definitions are judged by.
pub struct Judge<'a> {
    /// Where artifacts that are called or imported are looked up.
    pub repository: &'a Repository,
    /// The callables of our agent.
    pub agent: &'a Registry,
    /// The callables of queries on the server.
    pub server: &'a Registry,
    /// Accessors that are here.
    pub accessors: &'a BTreeSet<String>,
}

impl Judge<'_> {
    /// Judges the text of a file. Its definition must be in the repository
    /// already if others refer to it.
    pub fn file(&self, path: &str, text: &str) -> Report {
        let mut report = Report {
            path: path.to_owned(),
            artifact: String::new(),
            kind: String::new(),
            linux: false,
            server: false,
            problems: Vec::new(),
            missing: BTreeSet::new(),
        };
        let artifact = match repository::parse(text) {
            Ok(artifact) => artifact,
            Err(e) => {
                let (line, column) = match &e {
                    ArtifactError::Yaml(y) => (y.line, y.column),
                    _ => (0, 0),
                };
                let message = match e {
                    ArtifactError::Yaml(y) => y.message,
                    other => other.to_string(),
                };
                report.problems.push(Problem { line, column, fault: Fault::Parse, message });
                return report;
            }
        };
        let kind = Kind::of(&artifact);
        report.kind = kind.name().to_owned();
        report.linux = kind.is_client() && usable_on_linux(&artifact);
        report.server = matches!(kind, Kind::Server | Kind::ServerEvent);
        report.artifact = artifact.name.clone();
        report.problems = self.problems(&artifact, text);
        report.missing = self.missing(&artifact);
        report
    }

    fn problems(&self, artifact: &Artifact, text: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut parsed: Vec<(Fragment<'_>, Uses)> = Vec::new();
        for fragment in fragments(artifact) {
            match uses(fragment.text) {
                Ok(found) => parsed.push((fragment, found)),
                Err(e) => {
                    let (line, column) = locate(text, fragment.text, e.line, e.column);
                    let message = format!("{}: {}\n{}", fragment.what, e.message, e.excerpt);
                    problems.push(Problem { line, column, fault: Fault::Compile, message });
                }
            }
        }
        let whole =
            |message: String| Problem { line: 0, column: 0, fault: Fault::Compile, message };
        if problems.is_empty() {
            // Only what the parser could not say.
            if let Err(e) = repository::validate(artifact) {
                problems.push(whole(e.to_string()));
            }
            if let Err(e) = compiler::dry_run(self.repository, artifact) {
                problems.push(whole(e.to_string()));
            }
        }
        let defined = self.defined(artifact, &parsed);
        for (fragment, found) in &parsed {
            let at = |place: Place, fault, message| {
                let (line, column) = place.line_column(fragment.text);
                let (line, column) = locate(text, fragment.text, line, column);
                Problem { line, column, fault, message }
            };
            for call in &found.calls {
                problems.extend(self.call(call, &defined).into_iter().map(|(p, f, m)| at(p, f, m)));
            }
            for (name, place) in &found.accessors {
                if !stock().has_accessor(name) && !self.accessors.contains(name) {
                    problems.push(at(*place, Fault::Name, format!("unknown accessor {name}")));
                }
            }
        }
        problems.sort();
        problems.dedup();
        problems
    }

    /// Names that LET defines anywhere in the artifact or what it imports.
    fn defined(&self, artifact: &Artifact, parsed: &[(Fragment<'_>, Uses)]) -> BTreeSet<Arc<str>> {
        let own = parsed.iter().flat_map(|(_, u)| u.defines.iter().cloned());
        let mut all: BTreeSet<Arc<str>> = own.collect();
        let exports = artifact.imports.iter().filter_map(|n| self.repository.get(n));
        for export in exports {
            all.extend(uses(&export.export).unwrap_or_default().defines);
        }
        all.extend(artifact.parameters.iter().map(|p| Arc::from(p.name.as_str())));
        all
    }

    /// What is wrong with one call.
    fn call(&self, call: &Use, defined: &BTreeSet<Arc<str>>) -> Vec<(Place, Fault, String)> {
        let Some(args) = &call.args else { return Vec::new() };
        if let Some(name) = call.name.strip_prefix("Artifact.") {
            return self.artifact_call(name, args, call.place);
        }
        if call.name.contains('.') {
            // The member of a value: what it is shows when it runs.
            return Vec::new();
        }
        let what = match call.kind {
            CallKind::Function => "function",
            CallKind::Plugin => "plugin",
        };
        let name = &call.name;
        let known = stock().find(call.kind, name);
        let own = self.own_arguments(call.kind, name);
        if known.is_none() && own.is_none() {
            if defined.contains(name.as_str()) {
                return Vec::new();
            }
            let other = match call.kind {
                CallKind::Function => CallKind::Plugin,
                CallKind::Plugin => CallKind::Function,
            };
            let hint = match (stock().find(other, name), call.kind) {
                (None, _) => "",
                (Some(_), CallKind::Function) => " (there is a plugin of that name)",
                (Some(_), CallKind::Plugin) => " (there is a function of that name)",
            };
            return vec![(call.place, Fault::Name, format!("unknown {what} {name}{hint}"))];
        }
        let given = |arg: &str| args.iter().any(|(n, _)| &**n == arg);
        if given("**") {
            return Vec::new();
        }
        let mut wrong = Vec::new();
        let free = known.is_some_and(|k| k.free_form) || own.as_ref().is_some_and(|o| o.1);
        for (arg, place) in args.iter().filter(|_| !free) {
            let there = known.is_some_and(|k| k.args.contains_key(&**arg))
                || own.as_ref().is_some_and(|o| o.0.contains_key(&**arg));
            if !there {
                let place = if call.in_lambda { call.place } else { *place };
                let text = format!("{what} {name} has no argument {arg}");
                wrong.push((place, Fault::Argument, text));
            }
        }
        // Ours may ask for less than stock's: then a call without is right here, not there.
        let required: Vec<&str> = match known {
            Some(k) => k.args.iter().filter(|(_, r)| **r).map(|(n, _)| *n).collect(),
            None => {
                own.iter().flat_map(|o| o.0.iter()).filter(|(_, r)| **r).map(|(n, _)| *n).collect()
            }
        };
        for arg in required.into_iter().filter(|a| !given(a)) {
            let text = format!("{what} {name} needs the argument {arg}");
            wrong.push((call.place, Fault::Argument, text));
        }
        wrong
    }

    fn artifact_call(
        &self,
        name: &str,
        args: &[(Arc<str>, Place)],
        place: Place,
    ) -> Vec<(Place, Fault, String)> {
        let Some(artifact) = self.repository.get(name) else {
            return vec![(place, Fault::Name, format!("unknown artifact {name}"))];
        };
        let known = |arg: &str| {
            OF_CALLS.contains(&arg) || artifact.parameters.iter().any(|p| p.name == arg)
        };
        let unknown = args.iter().filter(|(n, _)| !known(n));
        unknown
            .map(|(n, p)| (*p, Fault::Argument, format!("artifact {name} has no parameter {n}")))
            .collect()
    }

    /// Arguments of a callable of this program, and whether it takes any.
    fn own_arguments(
        &self,
        kind: CallKind,
        name: &str,
    ) -> Option<(BTreeMap<&'static str, bool>, bool)> {
        let of = |r: &Registry| match kind {
            CallKind::Function => r.function(name).map(|f| f.signature().clone()),
            CallKind::Plugin => r.plugin(name).map(|p| p.signature().clone()),
        };
        let signature = of(self.server).or_else(|| of(self.agent))?;
        let args = signature.args.iter().map(|a| (a.name, a.required)).collect();
        Some((args, signature.free_form))
    }

    /// What the artifact needs and this program does not have.
    fn missing(&self, artifact: &Artifact) -> BTreeSet<String> {
        let registry = if Kind::of(artifact).is_client() { self.agent } else { self.server };
        let mut missing = BTreeSet::new();
        let mut seen = BTreeSet::from([artifact.name.clone()]);
        let mut open = vec![(Arc::new(artifact.clone()), true)];
        let linux_only = Kind::of(artifact).is_client() && usable_on_linux(artifact);
        while let Some((one, whole)) = open.pop() {
            let injected = injected(&one);
            let mut texts: Vec<&str> = vec![&injected];
            let all = fragments(&one);
            let wanted = |f: &&Fragment<'_>| {
                f.collected && (f.on_linux || !linux_only) && (whole || f.what == "export")
            };
            texts.extend(all.iter().filter(wanted).map(|f| f.text));
            for name in one.imports.iter().filter(|_| whole) {
                match self.repository.get(name) {
                    Some(a) if seen.insert(format!("export of {name}")) => open.push((a, false)),
                    Some(_) => {}
                    None => drop(missing.insert(format!("artifact {name}"))),
                }
            }
            let found: Vec<Uses> = texts.iter().filter_map(|t| uses(t).ok()).collect();
            let mut defined: BTreeSet<Arc<str>> =
                found.iter().flat_map(|u| u.defines.iter().cloned()).collect();
            for imported in one.imports.iter().filter_map(|n| self.repository.get(n)) {
                defined.extend(uses(&imported.export).unwrap_or_default().defines);
            }
            for (name, _) in found.iter().flat_map(|u| &u.accessors) {
                if !self.accessors.contains(name) {
                    missing.insert(format!("accessor {name}"));
                }
            }
            for call in found.iter().flat_map(|u| &u.calls) {
                let Some(args) = &call.args else { continue };
                if let Some(name) = call.name.strip_prefix("Artifact.") {
                    match self.repository.get(name) {
                        Some(a) if seen.insert(name.to_owned()) => open.push((a, true)),
                        Some(_) => {}
                        None => drop(missing.insert(format!("artifact {name}"))),
                    }
                    continue;
                }
                let stock = stock().find(call.kind, &call.name).is_some();
                let local = defined.iter().any(|d| **d == *call.name);
                if stock || (!local && !call.name.contains('.')) {
                    missing.extend(lacks(registry, call, args));
                }
            }
        }
        missing
    }
}

/// What a registry lacks for a call.
fn lacks(registry: &Registry, call: &Use, args: &[(Arc<str>, Place)]) -> Vec<String> {
    let (what, signature) = match call.kind {
        CallKind::Function => {
            ("function", registry.function(&call.name).map(|f| f.signature().clone()))
        }
        CallKind::Plugin => ("plugin", registry.plugin(&call.name).map(|p| p.signature().clone())),
    };
    let Some(signature) = signature else { return vec![format!("{what} {}", call.name)] };
    let known = |arg: &str| signature.free_form || arg == "**" || signature.find(arg).is_some();
    let unknown = args.iter().filter(|(arg, _)| !known(arg));
    unknown.map(|(arg, _)| format!("{what} {}({arg})", call.name)).collect()
}

/// Whether something of an artifact may run on Linux.
fn usable_on_linux(artifact: &Artifact) -> bool {
    let elsewhere = ["Windows.", "MacOS."].iter().any(|p| artifact.name.starts_with(p));
    let some = artifact.sources.is_empty()
        || artifact.sources.iter().any(|s| runs_on_linux(&s.precondition));
    !elsewhere && runs_on_linux(&artifact.precondition) && some
}

/// The place in a file of a place in one of its texts. The texts of a YAML
/// file are its lines without their indentation.
fn locate(file: &str, text: &str, line: usize, column: usize) -> (usize, usize) {
    let wanted: Vec<&str> = text.lines().map(str::trim).collect();
    let Some(skipped) = wanted.iter().position(|l| !l.is_empty()) else { return (0, 0) };
    let wanted = &wanted[skipped..];
    let lines: Vec<&str> = file.lines().collect();
    let matches = |at: usize| {
        let here = lines.get(at..).unwrap_or_default();
        // The last line may be cut, and a text may stand behind its key.
        wanted.len() <= here.len()
            && wanted.iter().zip(here).enumerate().all(|(i, (w, h))| {
                let h = h.trim();
                h == *w || (i == 0 && h.ends_with(w))
            })
    };
    let Some(first) = (0..lines.len()).find(|at| matches(*at)) else { return (0, 0) };
    let at = first + line.saturating_sub(1 + skipped);
    let own = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    let before = lines.get(at).map_or(0, |l| {
        let start = l.len() - l.trim_start().len();
        let shift = l.trim_start().len().saturating_sub(own.trim().len());
        (start + if at == first { shift } else { 0 })
            .saturating_sub(own.len() - own.trim_start().len())
    });
    (at + 1, column + before)
}

#[cfg(test)]
mod tests;
