//! Callables of a host that may go on for long end when their query is
//! cancelled, and leave nothing running.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use vql::{Limits, ScopeBuilder};

/// Generous: what is tested is that the end comes at all.
const DEADLINE: Duration = Duration::from_secs(60);

/// Endless, each in its way. `Huge` is a file of a tebibyte that takes no space.
const ENDLESS: &[&str] = &[
    "SELECT * FROM execve(argv=['sleep', '1000'])",
    "SELECT * FROM execve(argv=['yes']) WHERE FALSE",
    "SELECT * FROM clock(period=1000)",
    "SELECT sleep(time=1000) FROM scope()",
    "SELECT * FROM watch_syslog(filename='/nothing/there')",
    "SELECT * FROM watch_journald(filename='/nothing/there')",
    "SELECT * FROM parse_lines(filename=Huge) WHERE FALSE",
    "SELECT * FROM split_records(filenames=Huge, columns='A') WHERE FALSE",
    "SELECT * FROM parse_records_with_regex(file=Huge, regex='(?P<A>x+)') WHERE FALSE",
    "SELECT * FROM read_file(filenames=Huge) WHERE FALSE",
    "SELECT hash(path=Huge, max_size=2000000000000) AS H FROM scope()",
    "SELECT * FROM yara(files=Huge, rules='ascii: needle', blocksize=65536, force_buffers=TRUE)",
    "SELECT * FROM foreach(row=shell_session(name='s', argv='cat').Query)",
];

#[tokio::test]
async fn what_goes_on_for_ever_ends_when_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let huge = dir.path().join("huge");
    std::fs::File::create(&huge).unwrap().set_len(1 << 40).unwrap();
    for script in ENDLESS {
        let cancel = CancellationToken::new();
        let env = Arc::new(crate::env::real::env());
        let scope = ScopeBuilder::new(super::local_registry())
            .cancel(cancel.clone())
            .extension(env)
            .build();
        scope.set("Huge", huge.to_str().unwrap());
        let rows = vql::eval(vql::parse(script).unwrap(), &scope, Limits::default());
        let mut running = tokio::spawn(async move { rows.count().await });
        let early = tokio::time::timeout(Duration::from_millis(150), &mut running).await;
        assert!(early.is_err(), "{script}: ended by itself");
        cancel.cancel();
        let ended = tokio::time::timeout(DEADLINE, running).await;
        assert!(ended.is_ok(), "{script}: goes on");
        scope.close();
    }
}
