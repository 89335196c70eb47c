//! Errors of functions and plugins. A query never fails of them: the call logs
//! and gives NULL or no rows.

/// Why a call gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An argument is missing, unknown or of the wrong kind.
    #[error("{0}")]
    Arg(String),
    /// The consumer went away or the query was cancelled; nothing is logged.
    #[error("stopped")]
    Stopped,
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// A failure with a message.
    pub fn failed(message: impl std::fmt::Display) -> Error {
        Error::Failed(message.to_string())
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        Error::failed(e)
    }
}

impl From<String> for Error {
    fn from(e: String) -> Self {
        Error::Failed(e)
    }
}

impl From<&str> for Error {
    fn from(e: &str) -> Self {
        Error::failed(e)
    }
}
