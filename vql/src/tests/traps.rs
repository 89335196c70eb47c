//! The things most likely to be got wrong.

use super::{rows, rows_and_log, value};
use crate::parse;

#[test]
fn trap_01_or_binds_tighter_than_and() {
    assert_eq!(value("FALSE AND 5 OR 4"), "false");
    assert_eq!(value("(FALSE AND 5) OR 4"), "true");
}

#[test]
fn trap_02_order_by_takes_one_name_and_limit_a_literal() {
    assert!(parse("SELECT a FROM b ORDER BY a ASC").is_err());
    assert!(parse("SELECT a FROM b ORDER BY a, b").is_err());
    assert!(parse("SELECT a FROM b ORDER BY a + 1").is_err());
    assert!(parse("SELECT a FROM b LIMIT x").is_err());
    assert!(parse("SELECT a FROM b ORDER BY a DESC LIMIT 3").is_ok());
}

#[test]
fn trap_03_diamond_is_always_false() {
    assert_eq!(value("1 <> 2"), "false");
    assert_eq!(value("1 <> 1"), "false");
    assert_eq!(value("1 != 2"), "true");
}

#[test]
fn trap_04_minus_needs_spaces() {
    assert!(parse("SELECT 1-2 FROM scope()").is_err());
    assert!(parse("SELECT a-b FROM scope()").is_err());
    assert!(parse("SELECT -(1) FROM scope()").is_err());
    assert_eq!(value("1 - 2"), "-1");
    assert_eq!(
        rows("LET a = dict(b=5) SELECT -a.b AS X FROM range(end=2)"),
        r#"[{"X":-5},{"X":-5}]"#
    );
}

#[test]
fn trap_05_negative_numbers_are_false() {
    assert_eq!(value("NOT -1"), "true");
    assert_eq!(value("NOT -0.5"), "true");
    assert_eq!(value("NOT 0.5"), "false");
}

#[test]
fn trap_06_unknown_escapes_drop_the_backslash() {
    assert_eq!(value(r#""\d""#), "\"d\"");
    assert_eq!(value(r"'12' =~ '^\\d+$'"), "true");
    assert_eq!(value(r"'12' =~ '''^\d+$'''"), "true");
    assert_eq!(value(r"'12' =~ '^\d+$'"), "false");
}

#[test]
fn trap_07_one_element_lists_collapse() {
    assert_eq!(value("(1)"), "1");
    assert_eq!(value("dict(a=[1])"), r#"{"a":1}"#);
    assert_eq!(value("dict(a=[1,])"), r#"{"a":[1]}"#);
    assert_eq!(value("dict(a=[])"), r#"{"a":[]}"#);
    assert_eq!(value("(1, , 2)"), "[1]");
}

#[test]
fn trap_08_division() {
    assert_eq!(value("format(format='%T', args=[4 / 2,])"), "\"float64\"");
    assert_eq!(value("4 / 2"), "2");
    assert_eq!(value("1 / 0"), "null");
    assert_eq!(value("0 / 2.0"), "null");
    assert_eq!(value("1 / 0.0 > 1000000.5"), "true");
}

#[test]
fn trap_09_matching() {
    assert_eq!(value("'xHELLOx' =~ 'hello'"), "true");
    for pattern in ["''", "'.'", "'.*'"] {
        assert_eq!(value(&format!("NULL =~ {pattern}")), "true");
    }
    assert_eq!(value("NULL =~ '.+'"), "false");
    let (found, log) = rows_and_log("SELECT 'a' =~ '(' AS X FROM range(end=2)");
    assert_eq!(found, r#"[{"X":false},{"X":false}]"#);
    assert_eq!(log, ["DEFAULT: Compile regexp: unclosed group"], "logged once");
}

#[test]
fn trap_10_columns_are_named_by_canonical_text() {
    assert_eq!(
        rows("select 1+2, 0x10, `a b`, null && '', f . x from scope()"),
        r#"[{"1 + 2":3,"16":16,"a b":null,"NULL  \u0026\u0026 ''":false,"f.x":null}]"#
    );
}

#[test]
fn trap_11_function_arguments_in_brackets_come_first() {
    assert_eq!(
        rows("LET X = count() SELECT dict(foo=X, bar=[1, X]) AS D FROM scope()"),
        r#"[{"D":{"foo":2,"bar":[1,1]}}]"#
    );
}

#[test]
fn trap_12_a_returned_query_sees_the_callers_scope() {
    assert_eq!(
        rows(
            "LET f(a) = if(condition=a, then={SELECT a AS P FROM scope()}) SELECT f(a=TRUE) AS X FROM scope()"
        ),
        r#"[{"X":[{"P":null}]}]"#
    );
}

#[test]
fn trap_13_calling_resets_aggregates_and_mentioning_does_not() {
    assert_eq!(
        rows("LET X = count() SELECT X AS A, X() AS B FROM range(end=3)"),
        r#"[{"A":1,"B":1},{"A":2,"B":1},{"A":3,"B":1}]"#
    );
}

#[test]
fn trap_14_builtins_win_when_called() {
    let (rows, log) =
        rows_and_log("LET len = 5 SELECT len AS A, len(list=(1,2)) AS B FROM scope()");
    assert_eq!(rows, r#"[{"A":5,"B":2}]"#);
    assert!(log[0].contains("masks a built-in"), "{log:?}");
}

#[test]
fn trap_15_aliases_are_visible_to_where_but_not_to_columns() {
    assert_eq!(
        rows("SELECT _value AS A, A AS B FROM range(end=3) WHERE A > 1"),
        r#"[{"A":2,"B":null}]"#
    );
}

#[test]
fn trap_16_limit_zero_gives_one_row() {
    for limit in ["0", "1", "-1"] {
        let script = format!("SELECT _value FROM range(end=9) LIMIT {limit}");
        assert_eq!(rows(&script), r#"[{"_value":0}]"#);
    }
}

#[test]
fn trap_17_descending_order_reverses_ties() {
    assert_eq!(
        rows("SELECT _value AS V, 1 AS K FROM range(end=3) ORDER BY K DESC"),
        r#"[{"V":2,"K":1},{"V":1,"K":1},{"V":0,"K":1}]"#
    );
    assert_eq!(
        rows("SELECT _value AS V, 1 AS K FROM range(end=3) ORDER BY K"),
        r#"[{"V":0,"K":1},{"V":1,"K":1},{"V":2,"K":1}]"#
    );
}

#[test]
fn trap_18_json_retypes() {
    let script = r#"parse_json(data='{"t":"2020-01-02T03:04:05Z","n":7,"s":"2020-01-02T"}')"#;
    assert_eq!(value(&format!("typeof(item={script}.t)")), "\"time.Time\"");
    assert_eq!(value(&format!("typeof(item={script}.s)")), "\"string\"");
    assert_eq!(value("parse_json(data='[1]')"), "null");
}

#[test]
fn trap_19_keys_mind_case_unless_the_row_says_otherwise() {
    let (scope, _) = super::scope();
    scope.set("d", crate::Dict::case_insensitive().with("Pid", 1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let rows = runtime.block_on(crate::run("SELECT pid, PID FROM d", &scope)).unwrap();
    assert_eq!(crate::Value::from(rows).to_json(), r#"[{"pid":1,"PID":1}]"#);
    assert_eq!(value("dict(Pid=1).pid"), "null");
}
