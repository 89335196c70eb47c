//! `yara_lint`: rules of which only those stay that can be used here. What they mean is
//! asked of the compiler, one rule at a time.

mod layout;
mod split;

use std::collections::BTreeSet;

use boreal::Compiler;
use boreal::compiler::CompilerParams;
use vql::{ArgType, Args, Error, Level, Registry, Scope, Signature, Value};

use crate::plugins::common::blocking;
use split::{Rule, split};

/// Adds `yara_lint`.
pub(super) fn register(registry: &mut Registry) {
    let doc = "YARA rules without those that cannot be used here, and with the imports they need.";
    let signature = Signature::new("yara_lint", doc)
        .required("rules", ArgType::String, "YARA rules.")
        .arg("clean", ArgType::Bool, "Leave out the metadata and tags of rules too.");
    registry.function_async(signature, |scope, args| async move { run(&scope, &args).await });
}

async fn run(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let (text, clean) = (args.string("rules")?, args.bool("clean")?);
    let (kept, faults) = blocking(scope, move || lint(&text, clean)).await?;
    for fault in faults {
        scope.log(Level::Default, format!("yara_lint: {fault}"));
    }
    Ok(kept.map_or(Value::Null, Value::from))
}

/// The rules that compile, laid out anew, and what was wrong with the others. Nothing when
/// none is left of a text that is no YARA.
fn lint(text: &str, clean: bool) -> (Option<String>, Vec<String>) {
    let mut faults = Vec::new();
    let parts = split(text, &mut faults);
    let mut no_yara = !faults.is_empty();
    let mut imports: Vec<&str> = parts.imports.into_iter().filter(|m| is_module(m)).collect();
    let (mut out, mut left_out) = (String::new(), BTreeSet::new());
    let mut compiler = Compiler::new();
    compiler.set_params(CompilerParams::default().disable_includes(true));
    for rule in &parts.rules {
        let needed: Vec<&str> = rule.modules().into_iter().filter(|m| is_module(m)).collect();
        let head: String = needed.iter().map(|m| format!("import \"{m}\"\n")).collect();
        for module in needed {
            if !imports.contains(&module) {
                imports.push(module);
            }
        }
        if let Err(e) = compiler.add_rules_str(format!("{head}{}", rule.layout(false))) {
            let why = e.to_string();
            let why = why.lines().next().unwrap_or_default();
            if !may_be_variable(why, rule, &left_out) {
                no_yara |=
                    why.contains("error: syntax error") || why.contains("unknown variable $");
                faults.push(format!("rule {} is left out: {why}", rule.name));
                left_out.insert(rule.name);
                continue;
            }
        }
        out.push('\n');
        out += &rule.layout(clean);
    }
    if no_yara && out.is_empty() {
        return (None, faults);
    }
    let head: String = imports.iter().map(|m| format!("import \"{m}\"\n")).collect();
    (Some(head + &out), faults)
}

/// Whether all that is wrong is a name not known here: the search may define it (`vars`).
fn may_be_variable(why: &str, rule: &Rule<'_>, left_out: &BTreeSet<&str>) -> bool {
    let name = why.split_once("unknown identifier \"").and_then(|(_, n)| n.split('"').next());
    name.is_some_and(|name| !left_out.contains(name) && !rule.modules().contains(&name))
}

/// Modules that stock agents have.
const MODULES: [&str; 4] = ["elf", "math", "pe", "time"];

/// Whether rules can import it, here and on agents that get them.
fn is_module(name: &str) -> bool {
    if !MODULES.contains(&name) {
        return false;
    }
    let rule = format!("import \"{name}\"\nrule r {{ condition: true }}");
    Compiler::new().add_rules_str(rule).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = r#"
        include "other.yar"  // never read
        import "elf" /* not used */
        private rule Small : tiny
          { meta: author = "a \" // b" score = -3
            strings: $a = "x" wide ascii  $h = { 4d [2-3] ( 5a | 5b ) ~0? }
                     $r = /a\/b{2}/i fullword
            condition: any of ($a*) and $h and #r > 1*2 and @a[1] < filesize - 1 and
              for all i in (1..3) : ( uint8(i) != 0x00 ) }
        rule Uses { condition: Small and math.entropy(0, filesize) >= 7.5 }
        what = is this
        rule Bad { condition: nowhere.sum(0) == 1 }
        rule After { condition: Bad or true }
        rule Twice { condition: not pe.is_pe }
        rule Twice { condition: true }"#;

    #[test]
    fn only_rules_that_compile_stay() {
        let (kept, faults) = lint(RULES, true);
        let kept = kept.unwrap();
        let expected = r#"import "elf"
import "math"
import "pe"

private rule Small {
  strings:
    $a = "x" ascii wide
    $h = { 4D [2-3] ( 5A | 5B ) ~0? }
    $r = /a\/b{2}/i fullword
  condition:
    any of ($a*) and $h and #r > 1 * 2 and @a[1] < filesize - 1 and for all i in (1..3) : (uint8(i) != 0x0)
}

rule Uses {
  condition:
    Small and math.entropy(0, filesize) >= 7.500000
}

rule Twice {
  condition:
    not pe.is_pe
}
"#;
        assert_eq!(kept, expected);
        assert_eq!(faults.len(), 4, "{faults:?}");
        // What was written means the same: nothing more is left out, and nothing changes.
        assert_eq!(lint(&kept, false), (Some(kept), vec![]));
        let kept = lint(RULES, false).0.unwrap();
        assert!(kept.contains("private rule Small : tiny {\n"), "{kept}");
        assert!(kept.contains("  meta:\n    author = \"a \\\" // b\"\n    score = -3\n"), "{kept}");
    }

    #[test]
    fn texts_that_are_cut_anywhere() {
        for (end, _) in RULES.char_indices() {
            lint(&RULES[..end], false);
        }
        assert_eq!(lint("", false), (Some(String::new()), vec![]));
        assert!(lint("rule ö { condition: \"", false).1.len() == 1);
    }

    #[test]
    fn nothing_is_left_of_what_is_no_yara() {
        for text in ["junk", "rule A { condition: $a }", "rule A { condition: 1 of them }"] {
            let (kept, faults) = lint(text, false);
            assert_eq!((kept, faults.len()), (None, 1), "{text}");
        }
        // Rules that are YARA and of no use here leave an empty text.
        assert_eq!(lint("rule A { condition: cuckoo.x }", false).0.as_deref(), Some(""));
        let (kept, _) = lint("import \"pe\" rule A { condition: pe.nothing }", false);
        assert_eq!(kept.as_deref(), Some("import \"pe\"\n"));
    }

    #[test]
    fn names_may_be_variables_of_the_search() {
        let rules = "rule A { condition: filename == \"x\" } rule B { condition: A and size > 1 }";
        let (kept, faults) = lint(rules, false);
        assert_eq!(faults, Vec::<String>::new());
        assert!(kept.unwrap().contains("\nrule B {\n  condition:\n    A and size > 1\n}\n"));
    }
}
