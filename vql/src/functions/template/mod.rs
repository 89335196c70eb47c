//! template(): texts with placeholders, in the notation of Go's text/template.
//! What it knows of a template is in `parse`, what it does with it in `run`.

mod calls;
mod parse;
mod run;

use crate::error::Error;
use crate::eval::materialize;
use crate::registry::Registry;
use crate::signature::{ArgType, Signature};

pub(super) fn register(registry: &mut Registry) {
    let template = Signature::new("template", "Fills the placeholders of a template.")
        .refused(false)
        .required("template", ArgType::String, "The template, in Go's notation.")
        .arg("expansion", ArgType::Any, "What the dot of the template is.");
    registry.function_async(template, |scope, args| async move {
        let data = materialize(args.any("expansion"), &scope).await;
        let parsed = parse::parse(&args.string("template")?).map_err(Error::failed)?;
        Ok(run::run(&parsed, data, &scope).map_err(Error::failed)?.into())
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ScopeBuilder;
    use crate::value::{Dict, Value};
    use std::sync::Arc;

    fn fill(template: &str) -> Result<String, String> {
        let scope = ScopeBuilder::new(Arc::new(Registry::standard())).build();
        scope.set("Town", "Ghent");
        let data = Dict::new()
            .with("Name", "a \"b\"")
            .with("Rows", Value::list(vec![1.into(), 2.into(), 3.into()]))
            .with("In", Dict::new().with("Deep", Dict::new().with("X", 7)))
            .with("Empty", "");
        run::run(&parse::parse(template)?, data.into(), &scope)
            .map(|out| String::from_utf8_lossy(&out).into_owned())
    }

    #[test]
    fn placeholders() {
        for (template, expected) in [
            ("no {{/* comment */}}more", "no more"),
            ("{{ .Name }}, {{ .In.Deep.X }}, {{ .Gone }}", "a \"b\", 7, <no value>"),
            (
                "{{ .Name | quote }} {{ \"x\\ty\" }} {{ `r\\aw` }} {{ 'a' }}",
                "\"a \\\"b\\\"\" x\ty r\\aw 97",
            ),
            ("{{ Get .In \"No.X\" }}{{ Get .Town \"X\" }}.", "."),
            ("{{ Get .In \"Deep.X\" }} {{ Scope \"Town\" }}", "7 Ghent"),
            ("a {{- \" b \" -}} c", "a b c"),
            ("{{ if .Empty }}full{{ else if .Rows }}rows{{ else }}none{{ end }}", "rows"),
            (
                "{{ range $i, $r := .Rows }}{{ if $i }},{{ end }}{{ $i }}={{ $r }}{{ end }}",
                "0=1,1=2,2=3",
            ),
            (
                "{{ range .Rows }}{{ if eq . 2 }}{{ continue }}{{ end }}{{ . }}{{ $.In.Deep.X }} {{ end }}",
                "17 37 ",
            ),
            ("{{ range .Empty }}x{{ else }}nothing{{ end }}", "nothing"),
            ("{{ with .In.Deep }}{{ .X }}{{ end }}{{ with .Empty }}x{{ end }}", "7"),
            ("{{ $x := 1 }}{{ if true }}{{ $x = 5 }}{{ end }}{{ $x }}", "5"),
            (
                "{{ len .Rows }} {{ index .Rows 1 }} {{ printf \"%03d|%v\" 7 .Rows }}",
                "3 2 007|[1 2 3]",
            ),
            (
                "{{ and .Name 3 }} {{ or .Empty 4 }} {{ not .Empty }} {{ lt 1 2 }} {{ eq 3 1 3 }}",
                "3 4 true true true",
            ),
            ("{{ (index .Rows 0) | printf \"%d-%d\" 9 }}", "9-1"),
            ("{{ .Name | upper | default \"x\" }}{{ .Empty | default \"x\" }}", "A \"B\"x"),
            ("{{ join \"+\" .Rows }} {{ replace \"a\" \"c\" .Name | trim }}", "1+2+3 c \"b\""),
            ("{{\"{{ .Paths }}\"}}", "{{ .Paths }}"),
        ] {
            assert_eq!(fill(template).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn what_is_no_template_says_where() {
        for (template, part) in [
            ("a\n{{ if .X }}b", "line 2"),
            ("{{ .X", "not closed"),
            ("{{ end }}", "line 1"),
            ("{{ frobnicate 1 }}", "frobnicate"),
            ("{{ $y }}", "$y"),
            ("{{ index .Rows 9 }}", "9"),
            ("{{ \"x }}", "string"),
        ] {
            let error = fill(template).unwrap_err();
            assert!(error.contains(part), "{template}: {error}");
        }
        let deep = "{{ if 1 }}".repeat(5000);
        assert!(fill(&deep).is_err());
        let parens = format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000));
        assert!(fill(&parens).is_err());
    }
}
