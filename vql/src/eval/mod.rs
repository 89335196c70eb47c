//! The evaluator: expressions, queries and the rules values obey.

mod aggregate;
mod argument;
mod arithmetic;
mod call;
mod compare;
mod expr;
mod group;
mod lazy_row;
mod matching;
mod materialize;
mod member;
mod order;
mod rows;
mod select;
mod sorter;
mod stack;
mod symbol;
mod truth;

pub(crate) use aggregate::Aggregates;
pub(crate) use argument::argument;
pub use call::call_lambda;
pub(crate) use compare::find;
pub use compare::{equal, less};
pub use expr::evaluate;
pub(crate) use lazy_row::LazyRow;
pub(crate) use matching::matches;
pub use materialize::materialize;
pub use member::member;
pub(crate) use member::{dereference, element};
pub(crate) use rows::later;
pub use rows::rows;
pub(crate) use select::select_rows;
pub use symbol::variable;
pub(crate) use truth::plain_truth;
pub use truth::truth;
