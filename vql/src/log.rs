//! Log lines of a query and where they go.

/// Severity of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Level {
    Debug,
    Default,
    Info,
    Warn,
    Error,
    Alert,
}

impl Level {
    /// Upper-case name, as logs and the wire show it.
    pub fn name(self) -> &'static str {
        match self {
            Level::Debug => "DEBUG",
            Level::Default => "DEFAULT",
            Level::Info => "INFO",
            Level::Warn => "WARN",
            Level::Error => "ERROR",
            Level::Alert => "ALERT",
        }
    }

    /// The level of a name in any case.
    pub fn from_name(name: &str) -> Option<Level> {
        use Level::*;
        [Debug, Default, Info, Warn, Error, Alert]
            .into_iter()
            .find(|level| level.name().eq_ignore_ascii_case(name))
    }

    /// Splits `LEVEL:text`; text without a level is [`Level::Default`].
    pub fn split(message: &str) -> (Level, &str) {
        let prefix = message.split_once(':');
        let known = prefix.and_then(|(name, rest)| {
            let upper = name.bytes().all(|b| b.is_ascii_uppercase());
            Some((Level::from_name(name).filter(|_| upper)?, rest.trim_start()))
        });
        known.unwrap_or((Level::Default, message))
    }
}

/// Receives the log lines of a query.
pub trait LogSink: Send + Sync {
    /// One line, without its level.
    fn log(&self, level: Level, message: &str);
    /// One line that a query itself wrote, by calling `log()`. A sink that shows levels may
    /// show this one's always.
    fn said(&self, level: Level, message: &str) {
        self.log(level, message);
    }
}

impl<F: Fn(Level, &str) + Send + Sync> LogSink for F {
    fn log(&self, level: Level, message: &str) {
        self(level, message);
    }
}

/// Forwards to `tracing`; the sink when a host gives none.
pub struct TracingLog;

impl LogSink for TracingLog {
    fn log(&self, level: Level, message: &str) {
        match level {
            Level::Debug => tracing::debug!(target: "vql", "{message}"),
            Level::Default | Level::Info => tracing::info!(target: "vql", "{message}"),
            Level::Warn => tracing::warn!(target: "vql", "{message}"),
            Level::Error | Level::Alert => tracing::error!(target: "vql", "{message}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_prefixes() {
        assert_eq!(Level::split("ERROR: x"), (Level::Error, "x"));
        assert_eq!(Level::split("WARN:x"), (Level::Warn, "x"));
        assert_eq!(Level::split("error: x"), (Level::Default, "error: x"));
        assert_eq!(Level::split("http://x"), (Level::Default, "http://x"));
    }
}
