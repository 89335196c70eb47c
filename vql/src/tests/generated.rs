//! Properties over generated texts and syntax trees.

use crate::syntax::{parse, parse_expression, parse_lambda, tokenize};
use proptest::prelude::*;

fn ident() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z_][a-zA-Z0-9_]{0,5}".prop_filter("keyword", |s| parse_expression(s).is_ok()
            && !["null", "true", "false"].contains(&s.to_lowercase().as_str())),
        "`[a-z .\\-]{1,6}`",
    ]
}

fn literal() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|i| i.to_string()),
        (-1e18f64..1e18).prop_map(|f| format!("{f:?}")),
        "0x[0-9a-f]{1,8}",
        "'([a-z \\\\\n\"%]|\\\\.){0,8}'".prop_filter("lexes", |s| parse_expression(s).is_ok()),
        "\"[a-z '<>]{0,8}\"",
        "'''[a-z\\\\ \"\n]{0,8}'''",
        prop_oneof![Just("TRUE"), Just("false"), Just("NULL"), Just("null")].prop_map(Into::into),
    ]
}

/// A value in the sense of the grammar: usable on both sides of any operator.
fn value(inner: BoxedStrategy<String>) -> BoxedStrategy<String> {
    let list = prop::collection::vec(inner.clone(), 1..4);
    let call = (ident(), prop::collection::vec((ident(), argument(inner)), 0..3));
    prop_oneof![
        2 => literal(),
        2 => prop::collection::vec(ident(), 1..4).prop_map(|path| path.join(".")),
        1 => ident().prop_map(|name| format!("-{name}")),
        1 => (list, any::<bool>()).prop_map(|(items, comma)| {
            format!("({}{})", items.join(" , "), if comma { "," } else { "" })
        }),
        1 => call.prop_map(|(name, args)| {
            let args: Vec<_> = args.iter().map(|(k, v)| format!("{k} = {v}")).collect();
            format!("{name}({})", args.join(","))
        }),
    ]
    .boxed()
}

fn argument(inner: BoxedStrategy<String>) -> BoxedStrategy<String> {
    prop_oneof![
        4 => inner.clone(),
        1 => Just("[]".to_string()),
        1 => prop::collection::vec(inner.clone(), 1..3).prop_map(|l| format!("[{}]", l.join(","))),
        1 => inner.prop_map(|e| format!("{{ select {e} from scope() limit 1 }}")),
    ]
    .boxed()
}

fn expression() -> BoxedStrategy<String> {
    let leaf = literal().boxed();
    leaf.prop_recursive(4, 24, 4, |inner| {
        let v = value(inner.clone());
        prop_oneof![
            2 => v.clone(),
            1 => (v.clone(), "(and|AND|&&|or|OR|\\|\\||\\|)", v.clone())
                .prop_map(|(a, op, b)| format!("{a} {op} {b}")),
            1 => (v.clone(), "(=|!=|<|>|<=|>=|=~|in|IN|<>)", v.clone())
                .prop_map(|(a, op, b)| format!("{a} {op} {b}")),
            1 => (v.clone(), "[+\\-*/]", v.clone()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
            1 => v.clone().prop_map(|a| format!("not {a}")),
            1 => (v.clone(), v.clone(), ident())
                .prop_map(|(a, b, c)| format!("{a}[{b}].{c}[{b}:][:{b}]")),
        ]
        .boxed()
    })
    .boxed()
}

fn statement() -> impl Strategy<Value = String> {
    let column = (expression(), prop::option::of(ident()), any::<bool>());
    let column = column.prop_map(|(e, alias, sub)| {
        let e = if sub { format!("{{ SELECT {e} FROM x }}") } else { e };
        alias.map_or(e.clone(), |a| format!("{e} AS {a}"))
    });
    let tail = (
        prop::option::of(expression()),
        prop::option::of(expression()),
        prop::option::of((ident(), any::<bool>())),
        prop::option::of(any::<u16>()),
    );
    let columns = (any::<bool>(), prop::collection::vec(column, 1..3));
    (0..3usize, columns, ident(), tail).prop_map(|(kind, (star, columns), name, tail)| {
        let (filter, group, order, limit) = tail;
        let mut text = format!("{}{}", if star { "*, " } else { "" }, columns.join(", "));
        text = format!("select {text} from {name}(a=1)");
        filter.iter().for_each(|e| text += &format!(" where {e}"));
        group.iter().for_each(|e| text += &format!(" group  by {e}"));
        order.iter().for_each(|(column, desc)| {
            text += &format!(" order by {column}{}", if *desc { " desc" } else { "" });
        });
        limit.iter().for_each(|n| text += &format!(" limit {n}"));
        match kind {
            0 => text,
            1 => format!("let {name}(p, q=2) = {text}"),
            _ => format!("let {name} <= {text}"),
        }
    })
}

fn canonical(text: &str) -> (String, Vec<crate::syntax::ast::Statement>) {
    let statements = parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    let texts: Vec<String> = statements.iter().map(ToString::to_string).collect();
    (texts.join(" "), statements)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn formatting_is_a_fixed_point(text in statement()) {
        let (once, tree) = canonical(&text);
        let (twice, again) = canonical(&once);
        prop_assert_eq!(&once, &twice);
        prop_assert_eq!(tree, again);
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,60}") {
        let _ = tokenize(&text);
        let _ = parse(&text);
        let _ = parse_lambda(&text);
    }

    #[test]
    fn no_mix_of_tokens_panics(tokens in prop::collection::vec(
        "(SELECT|FROM|WHERE|LET|GROUP BY|ORDER BY|LIMIT|AS|AND|NOT|IN|a|-b|`c d`|1|-2.5|'x'|'''|\\{|\\}|\\(|\\)|\\[|\\]|,|\\.|=|<=|=~|\\*|-|/|é|\\\\)", 0..30)
    ) {
        let _ = parse(&tokens.join(" "));
        let _ = parse(&tokens.concat());
    }

    #[test]
    fn no_expression_panics_when_evaluated(text in expression()) {
        let (scope, _) = super::scope();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let script = format!("SELECT {text} AS X FROM scope()");
        let limits = crate::Limits { timeout: Some(std::time::Duration::from_secs(2)), rows: None };
        let rows = crate::eval(parse(&script).unwrap(), &scope, limits);
        runtime.block_on(async {
            use futures::StreamExt;
            let mut rows = rows;
            while let Some(row) = rows.next().await {
                let json = row.to_json();
                assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{json}");
            }
        });
    }
}

#[test]
fn deep_nesting_is_an_error_not_an_overflow() {
    for (open, close) in [("(", ")"), ("NOT ", ""), ("f(a=", ")"), ("x[(", ")]")] {
        let text = format!("SELECT {}1{} FROM x", open.repeat(5000), close.repeat(5000));
        let error = parse(&text).unwrap_err();
        assert!(error.message.contains("nested"), "{error}");
    }
    let text = format!("SELECT {} FROM x", vec!["1"; 20_000].join(" + "));
    assert!(parse(&text).is_ok());
}
