//! What a text calls: a walk over the tree for those who judge names without
//! running anything. Knows no registry.

use super::ast::*;
use super::parser::parse_lambda;
use std::collections::BTreeSet;
use std::sync::Arc;

/// In which position a callable is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CallKind {
    /// In an expression.
    Function,
    /// After FROM.
    Plugin,
}

/// One call.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Its position.
    pub kind: CallKind,
    /// The name with its dots.
    pub name: &'a str,
    /// The arguments; `None` is a source that is merely mentioned.
    pub args: Option<&'a [Arg]>,
    /// Where the name stands. Inside of a lambda it is the call that holds
    /// the lambda's text.
    pub place: Place,
    /// Written in the text of a lambda.
    pub in_lambda: bool,
}

/// The names that LET statements of a script define.
pub fn definitions(statements: &[Statement]) -> BTreeSet<Arc<str>> {
    let name = |s: &Statement| match s {
        Statement::Let(definition) => Some(definition.name.name.clone()),
        Statement::Select(_) => None,
    };
    statements.iter().filter_map(name).collect()
}

/// Visits every call, in the order they are written. Texts that are lambdas
/// are looked into.
pub fn calls<'a>(statements: &'a [Statement], each: &mut dyn FnMut(Call<'_>)) {
    let mut walk = Walk { each, lambda_at: None, last: Place::default() };
    for statement in statements {
        match statement {
            Statement::Select(select) => walk.select(select),
            Statement::Let(definition) => {
                for param in definition.params.iter() {
                    if let Param::Default(arg) = param {
                        walk.arg(arg);
                    }
                }
                match &definition.value {
                    LetValue::Select(select) => walk.select(select),
                    LetValue::Expr(expr) => walk.expr(expr),
                }
            }
        }
    }
}

struct Walk<'e> {
    each: &'e mut dyn FnMut(Call<'_>),
    /// The place to report instead of places inside a lambda's text.
    lambda_at: Option<Place>,
    /// The last place met: where a lambda's text is about.
    last: Place,
}

impl Walk<'_> {
    fn call(&mut self, kind: CallKind, name: &str, args: Option<&[Arg]>, place: Place) {
        if self.lambda_at.is_none() {
            self.last = place;
        }
        let place = self.lambda_at.unwrap_or(place);
        (self.each)(Call { kind, name, args, place, in_lambda: self.lambda_at.is_some() });
        args.unwrap_or_default().iter().for_each(|arg| self.arg(arg));
    }

    fn select(&mut self, select: &Select) {
        for column in &select.columns {
            match &column.value {
                ColumnValue::Star => {}
                ColumnValue::Select(select) => self.select(select),
                ColumnValue::Expr(expr) => self.expr(expr),
            }
        }
        let source = &select.source;
        let place = source.path.first().map(|p| p.place).unwrap_or_default();
        let args = source.args.as_ref().map(|args| args.as_slice());
        self.call(CallKind::Plugin, &source.full_name, args, place);
        for list in [&select.filter, &select.group_by].into_iter().flatten() {
            self.list(list);
        }
    }

    fn arg(&mut self, arg: &Arg) {
        if self.lambda_at.is_none() {
            self.last = arg.name.place;
        }
        match &arg.value {
            ArgValue::Select(select) => self.select(select),
            ArgValue::Array(None) => {}
            ArgValue::Array(Some(list)) => self.list(list),
            ArgValue::Expr(expr) => self.expr(expr),
        }
    }

    fn list(&mut self, list: &List) {
        self.expr(&list.first);
        list.rest.iter().flatten().for_each(|e| self.expr(e));
    }

    fn expr(&mut self, expr: &Expr) {
        match expr {
            Expr::And(first, rest) | Expr::Or(first, rest) => {
                self.expr(first);
                rest.iter().for_each(|(_, e)| self.expr(e));
            }
            Expr::Not(inner) => self.expr(inner),
            Expr::Compare(first, rest) => {
                self.expr(first);
                rest.iter().for_each(|(_, e)| self.expr(e));
            }
            Expr::Sum(first, rest) => {
                self.expr(first);
                rest.iter().for_each(|(_, e)| self.expr(e));
            }
            Expr::Product(first, rest) => {
                self.expr(first);
                rest.iter().for_each(|(_, e)| self.expr(e));
            }
            Expr::Member(base, suffixes) => {
                self.expr(base);
                for suffix in suffixes {
                    match suffix {
                        Suffix::Name(_) => {}
                        Suffix::Index(index) => index.iter().for_each(|e| self.expr(e)),
                        Suffix::Slice(from, to) => {
                            from.iter().chain(to).for_each(|e| self.expr(e));
                        }
                    }
                }
            }
            Expr::Symbol(symbol) => {
                let place = symbol.path.first().map(|p| p.place).unwrap_or_default();
                if let Some(args) = &symbol.args {
                    self.call(CallKind::Function, &symbol.full_name, Some(args), place);
                }
            }
            Expr::Paren(list) => self.list(list),
            Expr::String(text) => self.lambda(&text.value.to_text()),
            Expr::Number(_) | Expr::Bool(..) | Expr::Null => {}
        }
    }

    fn lambda(&mut self, text: &str) {
        if !text.contains("=>") {
            return;
        }
        let Ok((_, body, _)) = parse_lambda(text) else { return };
        let before = self.lambda_at.replace(self.lambda_at.unwrap_or(self.last));
        self.expr(&body);
        self.lambda_at = before;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_seen_once_with_its_place() {
        let text = "LET f(x, y=int(int=1)) = SELECT a[len(list=x)] AS B, { SELECT * FROM in1() }\n\
                    FROM Artifact.A.B(p=[1, str(str=2)], q='x=>upcase(string=x)')\n  \
                    WHERE NOT -now() AND (1 + rand(range=2), 3) GROUP BY hash(path=B)\n\
                    SELECT * FROM f";
        let parsed = super::super::parse(text).unwrap();
        let mut seen = Vec::new();
        calls(&parsed, &mut |call| {
            let (line, column) = call.place.line_column(text);
            let lambda = if call.in_lambda { " lambda" } else { "" };
            let called = if call.args.is_some() { "()" } else { "" };
            seen.push(format!("{line}:{column} {}{called}{lambda}", call.name));
        });
        let expected = [
            "1:12 int()",
            "1:35 len()",
            "1:70 in1()",
            "2:6 Artifact.A.B()",
            "2:25 str()",
            "2:38 upcase() lambda",
            "3:13 now()",
            "3:29 rand()",
            "3:56 hash()",
            "4:15 f",
        ];
        assert_eq!(seen, expected);
        assert_eq!(definitions(&parsed).into_iter().collect::<Vec<_>>(), [Arc::from("f")]);
    }
}
