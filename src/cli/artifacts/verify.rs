//! `artifacts verify`: whether definitions parse, compile and use what exists.

use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::{Context, print};
use crate::plugins;
use crate::plugins::common::{Accessors, Host};
use crate::services::repository::load::{Found, find};
use crate::services::repository::{Origin, Repository};
use crate::services::verify::{Judge, Problem, Report, Share, Sum, sum};

/// Arguments of `artifacts verify`.
#[derive(Args, Debug)]
#[command(after_long_help = "Each file is judged together with all the others, with those of \
    --definitions and with the built-in ones. Names and arguments are those of the stock program \
    on any system, and of this one. What is not implemented here is listed and counted; it is no \
    fault, since stock agents may have it.\n\nExit status: 0 when every file parses and compiles \
    and uses known names only, 1 otherwise.")]
pub struct VerifyArgs {
    /// Definitions: a YAML file, a directory of them, or a zip archive.
    #[arg(required = true, value_name = "FILE|DIR|ZIP")]
    paths: Vec<String>,
    /// Print one JSON object with a report of each file and the sum.
    #[arg(long)]
    json: bool,
    /// Also print what each file needs and is not implemented here.
    #[arg(long)]
    missing: bool,
}

/// Runs the command.
pub(super) async fn run(args: VerifyArgs, ctx: &Context) -> anyhow::Result<()> {
    let base = super::repository(ctx).await?;
    let mut found = Vec::new();
    for path in &args.paths {
        let absolute = crate::config::load::absolute(path)?;
        found.extend(find(&ctx.env, &absolute).await?);
    }
    anyhow::ensure!(!found.is_empty(), "there is no .yaml file in {}", args.paths.join(", "));
    let reports = judged(base, &found);
    let sum = sum(&reports);
    if args.json {
        let all = json!({ "files": reports, "sum": sum });
        print(&format!("{}\n", serde_json::to_string_pretty(&all)?))?;
    } else {
        for report in &reports {
            for problem in &report.problems {
                print(&line(report, problem))?;
            }
            if args.missing && !report.missing.is_empty() {
                let names: Vec<_> = report.missing.iter().map(String::as_str).collect();
                print(&format!("{}: not here: {}\n", report.path, names.join(", ")))?;
            }
        }
        print(&text(&sum, reports.len()))?;
    }
    let bad = reports.iter().filter(|r| !r.problems.is_empty()).count();
    anyhow::ensure!(bad == 0, "{bad} of {} files have errors", reports.len());
    Ok(())
}

/// Judges files as one set.
fn judged(base: Arc<Repository>, found: &[Found]) -> Vec<Report> {
    let repository = Repository::child_of(base);
    let mut refused = Vec::new();
    for file in found {
        let added = file.text.as_ref().map(|t| repository.add(t, Origin::Folder));
        // What the file itself does not show: an alias that is taken.
        refused.push(added.ok().and_then(Result::err).map(|e| e.to_string()));
    }
    let agent = plugins::local_registry();
    let server = plugins::server::registry();
    let mut accessors = Accessors::endpoint(&Host::default()).names();
    // Queries of the server have it besides.
    accessors.insert("fs".into());
    let judge =
        Judge { repository: &repository, agent: &agent, server: &server, accessors: &accessors };
    let one = |(file, refused): (&Found, Option<String>)| {
        let text = file.text.as_deref().unwrap_or_default();
        let mut report = judge.file(&file.path, text);
        let unread = file.text.as_ref().err().cloned();
        if let Some(message) =
            unread.or(refused).filter(|_| report.problems.is_empty() || file.text.is_err())
        {
            let fault = crate::services::verify::Fault::Parse;
            report.problems = vec![Problem { line: 0, column: 0, fault, message }];
        }
        report
    };
    found.iter().zip(refused).map(one).collect()
}

fn line(report: &Report, problem: &Problem) -> String {
    let place = match problem.line {
        0 => String::new(),
        line => format!(":{line}:{}", problem.column),
    };
    format!("{}{place}: {}\n", report.path, problem.message)
}

fn text(sum: &Sum, files: usize) -> String {
    let share = |what: &str, s: Share| {
        format!("{what:<34}{:>5} of {:>4}  {:>5.1} %\n", s.of, s.all, s.percent())
    };
    let mut out = format!("{files} files\n");
    out += &share("parse", sum.parse);
    out += &share("compile", sum.compile);
    out += &share("names and arguments known", sum.known);
    out += &share("implemented here: Linux clients", sum.implemented_linux);
    out += &share("implemented here: server", sum.implemented_server);
    out += &share("implemented here: all", sum.implemented);
    if !sum.missing.is_empty() {
        out += "not here, by how many of those for Linux clients and the server need it:\n";
        for (name, count) in &sum.missing {
            out += &format!("{count:>5}  {name}\n");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Our own definitions are held to what we ask of others.
    #[test]
    fn what_is_built_in_is_right_and_whole() {
        let built_in = Arc::new(Repository::built_in().unwrap());
        let found: Vec<_> = built_in
            .all()
            .iter()
            .map(|a| Found { path: a.name.clone(), text: Ok(a.raw.clone()) })
            .collect();
        let reports = judged(Arc::new(Repository::empty()), &found);
        for report in &reports {
            assert!(report.problems.is_empty(), "{report:?}");
            // Linux.Search.FileFinder offers it to those who have it.
            let missing = report.missing.iter().filter(|m| *m != "plugin yara").count();
            assert!(!(report.linux || report.server) || missing == 0, "{report:?}");
        }
        assert!(text(&sum(&reports), reports.len()).contains("100.0 %"));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_a_problem() {
        let found = [Found { path: "x".into(), text: Err("not UTF-8".into()) }];
        let reports = judged(Arc::new(Repository::empty()), &found);
        assert_eq!(line(&reports[0], &reports[0].problems[0]), "x: not UTF-8\n");
    }
}
