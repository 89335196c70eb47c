//! Places in a process's journal.

use std::fmt;

use super::frame::HEADER;

/// A place in the journal of one process: between two records.
///
/// Files are numbered in the order in which they are written, so places are
/// ordered; the end of one file comes before the start of the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Number in the file's name.
    pub file: u64,
    /// Bytes from the start of that file.
    pub offset: u64,
}

impl Position {
    /// The start of a process's first file.
    pub const START: Self = Self::start_of(0);

    /// Where the first record of a file begins.
    pub const fn start_of(file: u64) -> Self {
        Self { file, offset: HEADER.len() as u64 }
    }
}

impl Default for Position {
    fn default() -> Self {
        Self::START
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.offset)
    }
}

impl From<velociraptor_proto::fleet::Position> for Position {
    fn from(p: velociraptor_proto::fleet::Position) -> Self {
        Self { file: p.file, offset: p.offset }
    }
}

impl From<Position> for velociraptor_proto::fleet::Position {
    fn from(p: Position) -> Self {
        Self { file: p.file, offset: p.offset }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_file_comes_before_the_start_of_the_next() {
        let end = Position { file: 3, offset: 1 << 40 };
        assert!(Position::START < end && end < Position::start_of(4));
        assert_eq!(end.to_string(), "3:1099511627776");
        let wire: velociraptor_proto::fleet::Position = end.into();
        assert_eq!(Position::from(wire), end);
    }
}
