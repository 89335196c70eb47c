//! The language section by section.

use super::{rows, rows_and_log, value};

#[test]
fn logical_values() {
    for (expression, want) in [
        ("'A' && 'B'", "\"B\""),
        ("'A' AND 'B'", "true"),
        ("'A' && 0", "false"),
        ("1 AND 2 && 3", "3"),
        ("NULL || ''", "\"\""),
        ("NULL OR FALSE", "false"),
        ("NULL || 'x'", "\"x\""),
        ("NULL OR 'x'", "true"),
        ("'x' OR NULL", "\"x\""),
        ("NULL | 'x'", "true"),
        ("NOT 'x'", "false"),
        ("NOT 1 = 2", "true"),
    ] {
        assert_eq!(value(expression), want, "{expression}");
    }
}

#[test]
fn a_scope_has_the_variables_of_the_query() {
    let query = "LET Town = 'Gh' + 'ent' LET Area <= 156 \
                 SELECT eval(func='x=>x.Town') AS T, scope().Area AS A, scope().Nothing AS N FROM scope()";
    assert_eq!(rows(query), r#"[{"T":"Ghent","A":156,"N":null}]"#);
}

#[test]
fn equality_and_order() {
    for (expression, want) in [
        ("NULL = NULL", "true"),
        ("NULL = 0", "false"),
        ("1 = TRUE", "true"),
        ("1 = 1.0", "true"),
        ("'1' = 1", "false"),
        ("TRUE = 'Y'", "true"),
        ("FALSE = 'foo'", "true"),
        ("'Y' = TRUE", "false"),
        ("(1, 2) = (1, 2)", "true"),
        ("dict(a=1, b=2) = dict(b=2, a=1)", "true"),
        ("timestamp(epoch=5) = 5", "true"),
        ("5 = timestamp(epoch=5)", "false"),
        ("'5' > 10", "true"),
        ("'5' < 10", "true"),
        ("10 > '5'", "false"),
        ("'5' < 10.5", "false"),
        ("TRUE > 0", "false"),
        ("FALSE > 1", "true"),
        ("1 >= TRUE", "true"),
        ("'a' < 'b'", "true"),
        ("NULL < 1", "false"),
        ("dict(a=1) < dict(a=1, b=2)", "true"),
        ("dict(a=1, b=2) > dict(a=1)", "false"),
        ("timestamp(epoch=5) > 4", "true"),
    ] {
        assert_eq!(value(expression), want, "{expression}");
    }
}

#[test]
fn arithmetic() {
    for (expression, want) in [
        ("1 + TRUE", "null"),
        ("TRUE + 1", "null"),
        ("1.5 + TRUE", "2.5"),
        ("9223372036854775807 + 1", "-9223372036854775808"),
        ("(1, 2) + NULL", "[1,2,null]"),
        ("NULL + (1, 2)", "null"),
        ("1 + (3, 4)", "[1,3,4]"),
        ("1 + 'a'", "null"),
        ("'a' + 'b'", "\"ab\""),
        ("dict(a=1, b=2) + dict(a=3)", r#"{"a":3,"b":2}"#),
        ("dict(a=1, b=2) - dict(a=3)", r#"{"b":2}"#),
        ("dict(a=1, b=2) * dict(a=3)", r#"{"a":1}"#),
        ("'ab' * 2", "\"abab\""),
        ("5 - TRUE", "4"),
        ("2 * 3 + 4", "10"),
        ("2 + 3 * 4", "14"),
        ("070", "56"),
        ("08", "8"),
    ] {
        assert_eq!(value(expression), want, "{expression}");
    }
}

#[test]
fn membership_and_members() {
    for (expression, want) in [
        ("'a' IN dict(a=1)", "true"),
        ("'el' IN 'hello'", "true"),
        ("2 IN (1, 2)", "true"),
        ("1 IN NULL", "false"),
        ("NULL.x", "null"),
        ("dict(a=dict(b=2)).a.b", "2"),
        ("dict(a=1)['a']", "1"),
        ("(1, 2, 3)[-1]", "3"),
        ("(1, 2, 3)[7]", "2"),
        ("(1, 2, 3)[-7]", "3"),
        ("'abc'[7]", "null"),
        ("(1, 2, 3)[1:]", "[2,3]"),
        ("(1, 2, 3)[:-1]", "[1,2]"),
        ("'abc'[1]", "98"),
        ("'abc'[1:9]", "\"bc\""),
        ("(dict(a=1), dict(b=2), dict(a=3)).a", "[1,3]"),
        ("dict(a=1, b=2).`@Keys`", r#"["a","b"]"#),
        ("dict(a=1).`@Len`", "1"),
    ] {
        assert_eq!(value(expression), want, "{expression}");
    }
    assert_eq!(
        rows(
            "LET Q = SELECT _value FROM range(end=3) SELECT Q._value AS A, Q[1] AS B, Q[7] AS C, 1 IN Q AS D FROM scope()"
        ),
        r#"[{"A":[0,1,2],"B":{"_value":1},"C":null,"D":false}]"#
    );
}

#[test]
fn stars() {
    let source = "LET d = dict(a=1, b=2) ";
    let run = |select: &str| rows(&format!("{source} {select} FROM d"));
    assert_eq!(run("SELECT *"), r#"[{"a":1,"b":2}]"#);
    assert_eq!(run("SELECT * , 9 AS a"), r#"[{"b":2,"a":9}]"#);
    assert_eq!(run("SELECT 9 AS a, *"), r#"[{"a":9,"b":2}]"#);
    assert_eq!(run("SELECT * 9 AS c"), r#"[{"a":1,"b":2,"c":9}]"#);
}

#[test]
fn subselects_reduce() {
    let columns = |select: &str| rows(&format!("SELECT {{ {select} }} AS X FROM scope()"));
    assert_eq!(columns("SELECT _value FROM range(end=1)"), r#"[{"X":0}]"#);
    assert_eq!(columns("SELECT _value FROM range(end=2)"), r#"[{"X":[0,1]}]"#);
    assert_eq!(columns("SELECT 1 AS A, 2 AS B FROM scope()"), r#"[{"X":{"A":1,"B":2}}]"#);
    assert_eq!(columns("SELECT _value FROM range(end=0)"), r#"[{"X":null}]"#);
}

#[test]
fn from_values() {
    assert_eq!(rows("LET X = (1, 2) SELECT * FROM X"), "[{},{}]");
    assert_eq!(rows("LET X = dict(a=1) SELECT * FROM X"), r#"[{"a":1}]"#);
    assert_eq!(rows("SELECT * FROM NoSuch"), "[]");
    let (found, log) = rows_and_log("SELECT * FROM foreachh(row=1)");
    assert_eq!(found, "[]");
    assert!(log[0].starts_with("ERROR: Plugin foreachh not found. Did you mean"), "{log:?}");
    let (_, log) = rows_and_log("SELECT nosuch FROM scope()");
    assert!(log[0].starts_with("ERROR: Symbol nosuch not found"), "{log:?}");
}

#[test]
fn group_by_keeps_the_last_row_of_each_bin() {
    assert_eq!(
        rows(
            "SELECT _value AS V, count() AS C, sum(item=_value) AS S, max(item=_value) AS M, min(item=_value) AS N, enumerate(items=_value) AS E FROM range(end=5) GROUP BY _value > 2"
        ),
        r#"[{"V":2,"C":3,"S":3,"M":2,"N":0,"E":[0,1,2]},{"V":4,"C":2,"S":7,"M":4,"N":3,"E":[3,4]}]"#
    );
    assert_eq!(rows("SELECT count() AS C FROM range(end=7) GROUP BY 1"), r#"[{"C":7}]"#);
    assert_eq!(
        rows("SELECT rate(x=_value * 2, y=_value) AS R FROM range(end=3)"),
        r#"[{"R":null},{"R":2},{"R":2}]"#
    );
}

#[test]
fn order_by_puts_nulls_before_integers() {
    assert_eq!(
        rows("LET L = (dict(a=2), dict(a=NULL), dict(a=1)) SELECT * FROM L ORDER BY a"),
        r#"[{"a":null},{"a":1},{"a":2}]"#
    );
    let (_, log) = rows_and_log("SELECT 1 AS a FROM scope() ORDER BY b");
    assert!(log[0].contains("Order by column b not present in row"));
}

#[test]
fn stored_expressions_and_queries() {
    assert_eq!(
        rows("LET X = v + 1 LET v = 5 SELECT X AS A, v AS V FROM range(end=1)"),
        r#"[{"A":6,"V":5}]"#
    );
    assert_eq!(
        rows("LET f(a, b=10) = a + b SELECT f(a=1) AS A, f(a=1, b=2) AS B FROM scope()"),
        r#"[{"A":11,"B":3}]"#
    );
    assert_eq!(rows("LET X = SELECT Foo FROM scope() SELECT * FROM X(Foo=1)"), r#"[{"Foo":1}]"#);
    assert_eq!(
        rows(
            "LET X(a) = SELECT count() AS C, a FROM scope() SELECT C FROM foreach(row=[2, 3, 4], query=X(a=1))"
        ),
        r#"[{"C":1},{"C":2},{"C":3}]"#
    );
    let (found, log) = rows_and_log("LET X = SELECT 1 FROM scope() SELECT X() AS A FROM scope()");
    assert_eq!(found, r#"[{"A":null}]"#);
    assert!(log[0].contains("is not a function but it is being called"));
    let (found, _) = rows_and_log("LET X <= SELECT 1 AS A FROM scope() SELECT * FROM X()");
    assert_eq!(found, "[]");
    assert_eq!(
        rows("LET X <= SELECT _value FROM range(end=2) SELECT X AS A, X._value AS B FROM scope()"),
        r#"[{"A":[{"_value":0},{"_value":1}],"B":[0,1]}]"#
    );
}

#[test]
fn queries_add_up() {
    let two = "LET A = SELECT 1 AS x FROM scope() LET B = SELECT 2 AS x FROM scope() ";
    let sum = format!("{two} LET C = A + B SELECT * FROM C");
    assert_eq!(rows(&sum), r#"[{"x":1},{"x":2}]"#);
    let lists = format!("{two} SELECT (7, 8) + A AS L, A + (7, 8) AS R FROM scope()");
    assert_eq!(rows(&lists), r#"[{"L":[7,8,{"x":1}],"R":[{"x":1},7,8]}]"#);
}

#[test]
fn control_plugins() {
    assert_eq!(
        rows(
            "SELECT * FROM if(condition=1, then={SELECT 1 AS A FROM scope()}, else={SELECT 2 AS A FROM scope()})"
        ),
        r#"[{"A":1}]"#
    );
    assert_eq!(rows("SELECT * FROM if(condition=0, then={SELECT 1 AS A FROM scope()})"), "[]");
    assert_eq!(
        rows("SELECT * FROM chain(a={SELECT 1 AS A FROM scope()}, b={SELECT 2 AS A FROM scope()})"),
        r#"[{"A":1},{"A":2}]"#
    );
    assert_eq!(
        rows(
            "SELECT * FROM switch(a={SELECT 1 AS A FROM scope() WHERE FALSE}, b={SELECT 2 AS A FROM scope()}, c={SELECT 3 AS A FROM scope()})"
        ),
        r#"[{"A":2}]"#
    );
    assert_eq!(
        rows(
            "SELECT * FROM foreach(row=[2, NULL, 3], query={SELECT _value * 10 AS V FROM scope()})"
        ),
        r#"[{"V":20},{"V":30}]"#
    );
    assert_eq!(
        rows(
            "SELECT * FROM foreach(row={SELECT dict(a=_value) AS D FROM range(end=2)}, column='D')"
        ),
        r#"[{"a":0},{"a":1}]"#
    );
    assert_eq!(
        rows(
            "SELECT * FROM foreach(row={SELECT * FROM range(end=50)}, workers=5, query={SELECT _value AS V FROM scope()}) ORDER BY V LIMIT 2"
        ),
        r#"[{"V":0},{"V":1}]"#
    );
    assert_eq!(
        rows("SELECT * FROM flatten(query={SELECT (3, 4) AS A, (1, 2) AS B FROM scope()})"),
        r#"[{"A":3,"B":1},{"A":4,"B":1},{"A":3,"B":2},{"A":4,"B":2}]"#
    );
    assert_eq!(rows("SELECT * FROM items(item=dict(a=1))"), r#"[{"_key":"a","_value":1}]"#);
    assert_eq!(
        rows(
            "LET v = 1 SELECT * FROM query(query='SELECT v AS A, e AS B FROM scope()', env=dict(e=2))"
        ),
        r#"[{"A":null,"B":2}]"#
    );
}

#[test]
fn argument_errors_have_the_known_words() {
    for (call, words) in [
        ("substr(str='a', start='x')", "Field start should be an int not string"),
        ("len()", "Field list is required"),
        ("len(list=1, foo=2)", "Unexpected arg foo"),
    ] {
        let (found, log) = rows_and_log(&format!("SELECT {call} AS X FROM scope()"));
        assert_eq!(found, r#"[{"X":null}]"#);
        assert!(log[0].starts_with("DEFAULT: ") && log[0].contains(words), "{log:?}");
    }
}

#[test]
fn double_star_replaces_all_arguments() {
    assert_eq!(value("upcase(`**`=dict(string='a'), foo=2)"), r#""A""#);
    // Where any name will do, this is one.
    assert_eq!(value("dict(`**`=dict(a=1), b=2)"), r#"{"**":{"a":1},"b":2}"#);
    assert_eq!(rows("LET f(a) = a SELECT f(`**`=dict(a=7)) AS X FROM scope()"), r#"[{"X":7}]"#);
}

#[test]
fn runaway_recursion_ends() {
    for script in [
        "LET X = X SELECT X AS A FROM scope()",
        "LET f(x) = f(x=x + 1) SELECT f(x=1) AS A FROM scope()",
        "LET f(x) = 1 + f(x=x + 1) * 2 SELECT f(x=1) AS A FROM scope()",
    ] {
        let (_, log) = rows_and_log(script);
        assert!(log.iter().any(|l| l.contains("Stack Overflow")), "{script}: {log:?}");
    }
    for script in [
        "LET Q = SELECT * FROM Q SELECT * FROM Q",
        "LET Q(x) = SELECT * FROM Q(x=x + 1) SELECT * FROM Q(x=1)",
        "LET Q = SELECT * FROM foreach(row=1, query={SELECT * FROM Q}) SELECT * FROM Q LIMIT 1",
        "LET f(x) = SELECT { SELECT * FROM f(x=x) } AS A FROM scope() SELECT * FROM f(x=1) WHERE A",
    ] {
        let (found, log) = rows_and_log(script);
        assert_eq!(found, "[]");
        assert!(log.iter().any(|l| l.contains("Stack Overflow")), "{script}");
    }
    let (found, _) = rows_and_log(
        "LET down(n) = if(condition=n > 0, then=1 + down(n=n - 1), else=0) SELECT down(n=100) AS X FROM scope()",
    );
    assert_eq!(found, r#"[{"X":100}]"#);
}

#[test]
fn event_plugins() {
    assert_eq!(
        rows("SELECT * FROM delay(query={SELECT * FROM range(end=2)}, delay=0)"),
        r#"[{"_value":0},{"_value":1}]"#
    );
    assert_eq!(
        rows("SELECT * FROM dedup(key='K', query={SELECT _value > 1 AS K FROM range(end=5)})"),
        r#"[{"K":false},{"K":true}]"#
    );
    assert_eq!(
        rows("SELECT * FROM sample(n=2, query={SELECT * FROM range(end=5)})"),
        r#"[{"_value":0},{"_value":2},{"_value":4}]"#
    );
    let script = "LET F = SELECT * FROM fifo(query={SELECT * FROM range(end=5)}, max_rows=2)
        LET _ <= SELECT * FROM F LET _ <= sleep(ms=20) SELECT * FROM F SELECT * FROM F";
    assert_eq!(rows(script), r#"[{"_value":3},{"_value":4},{"_value":3},{"_value":4}]"#);
    // The same text elsewhere is another query, which has only begun.
    let script = "LET F <= SELECT * FROM fifo(query={SELECT * FROM range(end=2)})
        LET _ <= sleep(ms=20) SELECT * FROM fifo(query={SELECT * FROM range(end=2)})";
    assert_eq!(rows(script), "[]");
    // A member that is missing is a row without columns.
    let script = "SELECT *, 1 AS A FROM foreach(row={SELECT * FROM range(end=1)}, column='Z')";
    assert_eq!(rows(script), r#"[{"A":1}]"#);
}

#[test]
fn memoize_looks_rows_up() {
    let memo =
        "LET M <= memoize(query={SELECT _value AS K, _value * 2 AS V FROM range(end=3)}, key='K')";
    assert_eq!(
        rows(&format!(
            "{memo} SELECT get(item=M, field=1).V AS A, get(item=M, field=9) AS B FROM scope()"
        )),
        r#"[{"A":2,"B":null}]"#
    );
}

#[test]
fn refused_calls_give_what_their_function_gives() {
    assert_eq!(value("join(array=(1, 2), prefix='a')"), "false");
    assert_eq!(value("format()"), "false");
    assert_eq!(value("str(text='x')"), "false");
    assert_eq!(value("path_split(path='/a', sep='/')"), "[]");
    assert_eq!(value("len(array=(1, 2))"), "null");
}

#[test]
fn tables_and_addresses() {
    assert_eq!(
        rows("SELECT * FROM parse_csv(filename='a,b\n1,x\n', accessor='data')"),
        r#"[{"a":1,"b":"x"}]"#
    );
    let (found, log) = rows_and_log("SELECT * FROM parse_csv(filename='/etc/passwd')");
    assert_eq!(found, "[]");
    assert!(log[0].contains("only the data accessor"), "{log:?}");
    assert_eq!(
        rows("SELECT * FROM batch(batch_size=2, query={SELECT _value FROM range(end=3)})"),
        r#"[{"rows":[{"_value":0},{"_value":1}]},{"rows":[{"_value":2}]}]"#
    );
    assert_eq!(
        rows(
            "SELECT * FROM column_filter(exclude='a', query={SELECT 1 AS a, 2 AS b FROM scope()})"
        ),
        r#"[{"b":2}]"#
    );
    assert_eq!(value("ip(parse='10.0.0.1').IsPrivate"), "true");
    assert_eq!(value("ip(netaddr4_le=16777343)"), "\"127.0.0.1\"");
    assert_eq!(value("ip(parse='x')"), "null");
}

#[test]
fn set_changes_the_shared_dictionary() {
    assert_eq!(
        rows(
            "LET f(d) = set(item=d, field='x', value=1) LET D <= dict() SELECT f(d=D) AS A, D AS B FROM scope()"
        ),
        r#"[{"A":{"x":1},"B":{"x":1}}]"#
    );
    assert_eq!(
        rows(
            "LET D <= dict() LET _ <= SELECT set(item=D, field=_value, value=1) FROM range(end=2) SELECT D FROM scope()"
        ),
        r#"[{"D":{"0":1,"1":1}}]"#
    );
}

#[test]
fn rows_without_the_order_column_stay_behind() {
    let list = "LET L = (dict(a='x'), dict(a=NULL), dict(a=3), dict(a=TRUE), dict(b=1))";
    assert_eq!(
        rows(&format!("{list} SELECT * FROM L ORDER BY a")),
        r#"[{"a":null},{"a":"x"},{"a":true},{"a":3},{"b":1}]"#
    );
    assert_eq!(
        rows(&format!("{list} SELECT * FROM L ORDER BY a DESC")),
        r#"[{"a":3},{"a":true},{"a":"x"},{"a":null},{"b":1}]"#
    );
}
