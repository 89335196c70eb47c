//! What a callable takes: for validation, help and completion.

use crate::value::Value;

/// The kind of a parameter; it decides how an argument is coerced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgType {
    /// Any value; queries come unexpanded.
    Any,
    /// A list; queries are drained to their rows.
    List,
    /// Not evaluated before the callee asks ([`crate::Args::lazy`]).
    Lazy,
    /// Text.
    String,
    /// A list of texts; a single value is a list of one.
    Strings,
    /// An integer.
    Int,
    /// A fraction.
    Float,
    /// The truth of any value.
    Bool,
    /// A dictionary.
    Dict,
    /// A time.
    Time,
    /// Something with rows.
    Query,
    /// `x => expr`.
    Lambda,
    /// A path: any value, queries drained. The host interprets it.
    Path,
    /// A list of paths, or one.
    Paths,
}

impl ArgType {
    /// The name in help texts.
    pub fn name(self) -> &'static str {
        match self {
            ArgType::Any | ArgType::List => "Any",
            ArgType::Lazy => "LazyExpr",
            ArgType::String | ArgType::Strings => "string",
            ArgType::Int => "int64",
            ArgType::Float => "float64",
            ArgType::Bool => "bool",
            ArgType::Dict => "ordereddict.Dict",
            ArgType::Time => "time.Time",
            ArgType::Query => "StoredQuery",
            ArgType::Lambda => "Lambda",
            ArgType::Path | ArgType::Paths => "OSPath",
        }
    }

    /// True for lists.
    pub fn is_repeated(self) -> bool {
        matches!(self, ArgType::Strings | ArgType::Paths | ArgType::List)
    }

    /// Queries given for this kind are drained to a list first.
    pub(crate) fn drains_queries(self) -> bool {
        use ArgType::*;
        matches!(self, String | Strings | Time | Path | Paths | List)
    }
}

/// One declared parameter.
#[derive(Clone, Debug)]
pub struct ArgSpec {
    /// Name.
    pub name: &'static str,
    /// Kind.
    pub kind: ArgType,
    /// A call without it is refused.
    pub required: bool,
    /// One line of help.
    pub doc: &'static str,
}

/// The declaration of a function or plugin.
#[derive(Clone, Debug)]
pub struct Signature {
    /// Name, possibly dotted.
    pub name: &'static str,
    /// One line of help.
    pub doc: &'static str,
    /// Parameters in order.
    pub args: Vec<ArgSpec>,
    /// Accepts any further arguments.
    pub free_form: bool,
    /// Answers for all dotted names below its own (`Artifact.X.Y`).
    pub namespace: bool,
    /// What `version()` reports; 0 is unversioned.
    pub version: u32,
    /// What a call of the function gives whose arguments are refused.
    pub refused: Value,
}

impl Signature {
    /// A declaration without parameters.
    pub fn new(name: &'static str, doc: &'static str) -> Signature {
        Signature {
            name,
            doc,
            args: vec![],
            free_form: false,
            namespace: false,
            version: 0,
            refused: Value::Null,
        }
    }

    /// Adds an optional parameter.
    #[must_use]
    pub fn arg(mut self, name: &'static str, kind: ArgType, doc: &'static str) -> Signature {
        self.args.push(ArgSpec { name, kind, required: false, doc });
        self
    }

    /// Adds a required parameter.
    #[must_use]
    pub fn required(mut self, name: &'static str, kind: ArgType, doc: &'static str) -> Signature {
        self.args.push(ArgSpec { name, kind, required: true, doc });
        self
    }

    /// Accepts arguments of any name.
    #[must_use]
    pub fn any_args(mut self) -> Signature {
        self.free_form = true;
        self
    }

    /// Answers for all dotted names which begin with this name and a dot.
    #[must_use]
    pub fn namespace(mut self) -> Signature {
        self.namespace = true;
        self
    }

    /// Sets the version.
    #[must_use]
    pub fn version(mut self, version: u32) -> Signature {
        self.version = version;
        self
    }

    /// A refused call gives this and not NULL: queries tell one nothing from another.
    #[must_use]
    pub fn refused(mut self, value: impl Into<Value>) -> Signature {
        self.refused = value.into();
        self
    }

    /// The parameter of that name.
    pub fn find(&self, name: &str) -> Option<&ArgSpec> {
        self.args.iter().find(|arg| arg.name == name)
    }
}
