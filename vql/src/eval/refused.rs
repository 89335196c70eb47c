//! What a call gives whose arguments are refused. For most functions that is NULL; some give
//! another nothing, which queries and recorded results tell apart.

use crate::value::Value;

/// Functions which give FALSE.
const FALSE: [&str; 29] = [
    "basename",
    "cache_dns",
    "crypto_rc4",
    "dirname",
    "entropy",
    "environ",
    "format",
    "gunzip",
    "host",
    "humanize",
    "int",
    "ip",
    "join",
    "log",
    "path_join",
    "pathspec",
    "pipe",
    "process_tracker",
    "rand",
    "relpath",
    "rot13",
    "rsyslog",
    "sleep",
    "str",
    "strip",
    "template",
    "unhex",
    "url",
    "xor",
];

/// What a refused call of this function gives.
pub(super) fn refused(function: &str) -> Value {
    match function {
        name if FALSE.contains(&name) => Value::Bool(false),
        "path_split" | "commandline_split" => Value::list(Vec::new()),
        "read_file" => "".into(),
        "similarity" => Value::Int(0),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::value;

    #[test]
    fn refused_calls_give_what_their_function_gives() {
        assert_eq!(value("join(array=(1, 2), prefix='a')"), "false");
        assert_eq!(value("format()"), "false");
        assert_eq!(value("str(text='x')"), "false");
        assert_eq!(value("path_split(path='/a', sep='/')"), "[]");
        assert_eq!(value("len(array=(1, 2))"), "null");
    }
}
