//! Text to syntax tree and back.

pub mod ast;
mod calls;
mod comments;
mod error;
mod format;
mod layout;
mod lexer;
mod parser;
mod pretty;
mod unquote;

pub use calls::{Call, CallKind, calls, definitions};
pub use error::ParseError;
pub use layout::reformat;
pub use lexer::{Token, TokenKind, tokenize};
pub(crate) use parser::parse_int;
pub use parser::{parse, parse_expression, parse_lambda};
pub use pretty::one_per_line;
