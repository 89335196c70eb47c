//! The syntax tree. It keeps every spelling the canonical text shows.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// One statement of a script.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// `LET name ...`.
    Let(Arc<Let>),
    /// `SELECT ...`.
    Select(Arc<Select>),
}

/// `LET name(params) = value` or `<=`.
#[derive(Clone, Debug, PartialEq)]
pub struct Let {
    /// The variable.
    pub name: Ident,
    /// Declared parameters; an empty list is the same as none.
    pub params: Arc<Vec<Param>>,
    /// `<=`: evaluated at once.
    pub materialize: bool,
    /// The right side.
    pub value: LetValue,
    /// Levels of brackets inside the right side: evaluating it takes this much stack.
    pub nesting: usize,
}

/// The right side of a LET.
#[derive(Clone, Debug, PartialEq)]
pub enum LetValue {
    /// A query.
    Select(Arc<Select>),
    /// An expression.
    Expr(Arc<Expr>),
}

/// A declared parameter of a LET.
#[derive(Clone, Debug, PartialEq)]
pub enum Param {
    /// Just a name.
    Name(Ident),
    /// With a default value.
    Default(Arg),
}

impl Param {
    /// The parameter's name.
    pub fn name(&self) -> &Ident {
        match self {
            Param::Name(name) => name,
            Param::Default(arg) => &arg.name,
        }
    }
}

/// A query.
#[derive(Clone, Debug, PartialEq)]
pub struct Select {
    /// How often EXPLAIN was written.
    pub explain: usize,
    /// Output columns.
    pub columns: Vec<Column>,
    /// FROM.
    pub source: Source,
    /// WHERE.
    pub filter: Option<Arc<List>>,
    /// GROUP BY.
    pub group_by: Option<Arc<List>>,
    /// ORDER BY.
    pub order_by: Option<OrderBy>,
    /// LIMIT.
    pub limit: Option<Number>,
}

/// The ORDER BY clause.
#[derive(Clone, Debug, PartialEq)]
pub struct OrderBy {
    /// The column.
    pub column: Ident,
    /// DESC was written.
    pub descending: bool,
}

/// One output column.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// What it shows.
    pub value: ColumnValue,
    /// AS.
    pub alias: Option<Ident>,
    /// The name in the result: the alias or the canonical text.
    pub name: Arc<str>,
}

/// What a column shows.
#[derive(Clone, Debug, PartialEq)]
pub enum ColumnValue {
    /// All members of the row.
    Star,
    /// A query in braces.
    Select(Arc<Select>),
    /// An expression.
    Expr(Arc<Expr>),
}

/// The FROM clause: a dotted name, perhaps called.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Name components.
    pub path: Vec<Ident>,
    /// All components joined with dots, back-quotes removed.
    pub full_name: Arc<str>,
    /// Arguments when written as a call.
    pub args: Option<Args>,
}

/// The arguments of a call.
pub type Args = Arc<Vec<Arg>>;

/// `name=value`.
#[derive(Clone, Debug, PartialEq)]
pub struct Arg {
    /// The name.
    pub name: Ident,
    /// The value.
    pub value: ArgValue,
}

/// The value of an argument.
#[derive(Clone, Debug, PartialEq)]
pub enum ArgValue {
    /// `{ SELECT ... }`.
    Select(Arc<Select>),
    /// `[a, b]`; `None` is `[]`.
    Array(Option<Arc<List>>),
    /// Anything else.
    Expr(Arc<Expr>),
}

/// A comma list. One element without a comma stands for the element itself.
#[derive(Clone, Debug, PartialEq)]
pub struct List {
    /// The first element.
    pub first: Arc<Expr>,
    /// The others; `None` is a hole such as a trailing comma.
    pub rest: Vec<Option<Arc<Expr>>>,
}

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// `a AND b && c`; the text is the spelling before each operand.
    And(Arc<Expr>, Vec<(Arc<str>, Arc<Expr>)>),
    /// `a OR b || c`.
    Or(Arc<Expr>, Vec<(Arc<str>, Arc<Expr>)>),
    /// `NOT a`.
    Not(Arc<Expr>),
    /// `a = b`.
    Compare(Arc<Expr>, Vec<(CompareOp, Arc<Expr>)>),
    /// `a + b - c`.
    Sum(Arc<Expr>, Vec<(SumOp, Arc<Expr>)>),
    /// `a * b / c`.
    Product(Arc<Expr>, Vec<(ProductOp, Arc<Expr>)>),
    /// `a[1].b[2:3]`.
    Member(Arc<Expr>, Vec<Suffix>),
    /// A name, perhaps called.
    Symbol(Symbol),
    /// `(a, b)`.
    Paren(Arc<List>),
    /// A string.
    String(StringLiteral),
    /// A number.
    Number(Number),
    /// `TRUE` or `FALSE` with its spelling.
    Bool(bool, Arc<str>),
    /// `NULL`.
    Null,
}

/// A comparison operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum CompareOp {
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Equal,
    NotEqual,
    /// `<>`: accepted, always false.
    Diamond,
    In,
    Match,
}

impl CompareOp {
    /// Canonical spelling.
    pub fn text(self) -> &'static str {
        match self {
            CompareOp::Less => "<",
            CompareOp::LessEqual => "<=",
            CompareOp::Greater => ">",
            CompareOp::GreaterEqual => ">=",
            CompareOp::Equal => "=",
            CompareOp::NotEqual => "!=",
            CompareOp::Diamond => "<>",
            CompareOp::In => "IN",
            CompareOp::Match => "=~",
        }
    }
}

/// `+` or `-`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SumOp {
    Add,
    Subtract,
}

/// `*` or `/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ProductOp {
    Multiply,
    Divide,
}

/// What follows a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Suffix {
    /// `[i]`; `[]` has no index.
    Index(Option<Arc<Expr>>),
    /// `[from:to]`.
    Slice(Option<Arc<Expr>>, Option<Arc<Expr>>),
    /// `.name`.
    Name(Ident),
}

/// A dotted name, perhaps negated, perhaps called.
#[derive(Clone, Debug, PartialEq)]
pub struct Symbol {
    /// Written with a minus directly before it.
    pub negated: bool,
    /// Name components.
    pub path: Vec<Ident>,
    /// All components joined with dots, back-quotes removed.
    pub full_name: Arc<str>,
    /// Arguments when written as a call.
    pub args: Option<Args>,
    /// Tells this place of the text from all others: aggregates keep state by it.
    pub site: CallSite,
}

/// An identifier.
#[derive(Clone, Debug, PartialEq)]
pub struct Ident {
    /// As written, with back-quotes.
    pub text: Arc<str>,
    /// The name meant.
    pub name: Arc<str>,
    /// Where it stands.
    pub place: Place,
}

/// A byte offset of the text a tree was read from. Trees compare by their text
/// alone, so all places are equal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place(pub u32);

impl PartialEq for Place {
    fn eq(&self, _other: &Place) -> bool {
        true
    }
}

impl Place {
    /// Line and column in `text`, both from 1; columns count characters.
    pub fn line_column(self, text: &str) -> (usize, usize) {
        super::error::line_column(text, self.0 as usize)
    }
}

/// A string literal.
#[derive(Clone, Debug, PartialEq)]
pub struct StringLiteral {
    /// As written, with its quotes.
    pub text: Arc<str>,
    /// The bytes meant.
    pub value: crate::value::Str,
}

/// A number literal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// An integer.
    Int(i64),
    /// A fraction.
    Float(f64),
    /// Not representable; evaluates to NULL.
    Invalid,
}

/// The identity of one call in a syntax tree. Copies of a tree share it.
#[derive(Clone, Debug, Default)]
pub struct CallSite(Arc<u8>);

impl CallSite {
    fn address(&self) -> usize {
        Arc::as_ptr(&self.0) as usize
    }

    /// Identity, unlike `==`, which treats all sites alike.
    pub fn same(&self, other: &CallSite) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Trees compare by their text alone.
impl PartialEq for CallSite {
    fn eq(&self, _other: &CallSite) -> bool {
        true
    }
}

/// A call site as the key of a map; it keeps the identity from being reused.
#[derive(Clone, Debug)]
pub struct SiteKey(pub CallSite);

impl PartialEq for SiteKey {
    fn eq(&self, other: &SiteKey) -> bool {
        self.0.same(&other.0)
    }
}
impl Eq for SiteKey {}
impl Hash for SiteKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.address().hash(state);
    }
}
