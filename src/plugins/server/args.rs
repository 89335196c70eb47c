//! Reading arguments the way server callables share.

use vql::{Args, Error, Scope, Value};

/// A value as the text an artifact parameter or a metadata value is.
pub(super) fn text_of(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(true) => "Y".to_owned(),
        Value::Bool(false) => "N".to_owned(),
        Value::Str(s) => s.to_text().into_owned(),
        Value::List(_) | Value::Dict(_) => value.to_json(),
        other => other.to_text(),
    }
}

/// An argument, or else the variable of the scope that notebooks and reports
/// set; `None` when neither is there.
pub(super) fn or_variable(
    args: &Args,
    scope: &Scope,
    name: &str,
    variable: &str,
) -> Result<Option<String>, Error> {
    let given = args.opt_string(name)?;
    Ok(given.or_else(|| scope.resolve_string(variable).filter(|s| !s.is_empty())))
}

/// As [`or_variable`]; an error when neither is there.
pub(super) fn needed(
    args: &Args,
    scope: &Scope,
    name: &str,
    variable: &str,
) -> Result<String, Error> {
    or_variable(args, scope, name, variable)?
        .ok_or_else(|| Error::Arg(format!("Field {name} is required")))
}
