//! Parameters travel as text; these statements, put before an artifact's own,
//! turn them into the values its author declared. They run twice on the same
//! variables (precondition, then queries), so each leaves an already converted
//! value alone.

use velociraptor_proto::proto::ArtifactParameter;

/// A conversion guard: the value is still text (or a list of texts).
const TEXT: &str = r#"format(format="%T", args=[{N},]) =~ "string""#;
/// A conversion guard: the value is still text, and not a list.
const ONE_TEXT: &str = r#"format(format="%T", args=[{N},]) = "string""#;

/// The statements for one parameter, none for those that stay text.
pub fn statements(parameter: &ArtifactParameter) -> Vec<String> {
    let name = identifier(&parameter.name);
    templates(&parameter.r#type)
        .iter()
        .map(|t| {
            t.replace("{TEXT}", TEXT)
                .replace("{ONE_TEXT}", ONE_TEXT)
                .replace("{N_}", &identifier_plus(&parameter.name, "_"))
                .replace("{N}", &name)
                .replace("{RAW}", &quoted(&parameter.name))
        })
        .collect()
}

fn templates(kind: &str) -> &'static [&'static str] {
    match kind.to_ascii_lowercase().as_str() {
        "int" | "int64" | "integer" => &["LET {N} <= int(int={N})"],
        "float" => &["LET {N} <= parse_float(string={N})"],
        "bool" => &["LET {N} <= get(field={RAW}) = TRUE OR \
                     get(field={RAW}) =~ '^(Y|TRUE|YES|OK)$'"],
        "timestamp" => &["LET {N} <= timestamp(epoch={N})"],
        "csv" | "artifactset" => &["LET {N} <= SELECT * FROM if(condition={TEXT}, \
             then={ SELECT * FROM parse_csv(filename={N}, accessor='data') }, else={N})"],
        "json" => &["LET {N} <= if(condition={TEXT}, then=parse_json(data={N}), else={N})"],
        "json_array" | "regex_array" | "multichoice" => {
            &["LET {N} <= if(condition={ONE_TEXT}, then=parse_json_array(data={N}), else={N})"]
        }
        "xml" => &["LET {N} <= if(condition={TEXT}, \
                    then=parse_xml(file={N}, accessor=\"data\"), else={N})"],
        "yaml" => &["LET {N} <= if(condition={TEXT}, \
                     then=parse_yaml(filename={N}, accessor=\"data\"), else={N})"],
        "starlark" => &["LET {N} <= if(condition={TEXT}, then=starl(code={N}), else={N})"],
        "upload" => &[
            "LET {N_} <= if(condition={N}, then={ SELECT Content FROM http_client(url={N}) })",
            "LET {N} <= {N_}.Content[0]",
        ],
        "upload_file" => &[
            "LET {N_} <= if(condition={N}, then={ SELECT Content FROM \
             http_client(url={N}, tempfile_extension='.tmp') })",
            "LET {N} <= {N_}.Content[0]",
        ],
        _ => &[],
    }
}

/// The name as VQL must write it.
fn identifier(name: &str) -> String {
    let awkward = |c: char| matches!(c, '\'' | '"' | ' ' | '.' | '-');
    if name.starts_with(|c: char| c.is_ascii_digit()) || name.contains(awkward) {
        format!("`{name}`")
    } else {
        name.to_owned()
    }
}

fn identifier_plus(name: &str, suffix: &str) -> String {
    identifier(&format!("{name}{suffix}"))
}

/// The name as a VQL string.
fn quoted(name: &str) -> String {
    format!("'{}'", name.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, kind: &str) -> Vec<String> {
        let p = ArtifactParameter { name: name.into(), r#type: kind.into(), ..Default::default() };
        statements(&p)
    }

    #[test]
    fn every_conversion_is_valid_vql() {
        let kinds = [
            "int",
            "INT64",
            "integer",
            "float",
            "bool",
            "timestamp",
            "csv",
            "artifactset",
            "json",
            "json_array",
            "regex_array",
            "multichoice",
            "xml",
            "yaml",
            "starlark",
            "upload",
            "upload_file",
        ];
        for kind in kinds {
            for name in ["Plain", "2nd one", "a-b.c", "it's"] {
                let all = of(name, kind);
                assert!(!all.is_empty(), "{kind}");
                for s in all {
                    let parsed = vql::parse(&s).unwrap_or_else(|e| panic!("{s}: {e}"));
                    assert_eq!(parsed.len(), 1, "{s}");
                }
            }
        }
        for kind in ["", "string", "regex", "hidden", "redacted", "choices", "whatever"] {
            assert!(of("A", kind).is_empty(), "{kind}");
        }
    }

    #[test]
    fn wording() {
        assert_eq!(of("N", "int"), ["LET N <= int(int=N)"]);
        assert_eq!(of("N", "upload")[1], "LET N <= N_.Content[0]");
        assert_eq!(of("a b", "upload")[1], "LET `a b` <= `a b_`.Content[0]");
        assert_eq!(
            of("a b", "bool"),
            ["LET `a b` <= get(field='a b') = TRUE OR get(field='a b') =~ '^(Y|TRUE|YES|OK)$'"]
        );
    }
}
