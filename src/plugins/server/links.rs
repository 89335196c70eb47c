//! Links to what the GUI shows.

use vql::{ArgType, Args, Error, Level, Registry, Scope, Signature, Value};

use super::session::Session;

/// What a link leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Client,
    Collection,
    Hunt,
    Artifact,
    Event,
    Notebook,
}

impl Kind {
    fn parse(name: &str) -> Option<Kind> {
        Some(match name {
            "client" => Kind::Client,
            "collection" => Kind::Collection,
            "hunt" => Kind::Hunt,
            "artifact" => Kind::Artifact,
            "event" => Kind::Event,
            "notebook" => Kind::Notebook,
            _ => return None,
        })
    }

    /// What is meant when only these arguments are there.
    fn of(has: impl Fn(&str) -> bool) -> Option<Kind> {
        Some(match (has("client_id"), has("flow_id"), has("artifact")) {
            (true, true, _) => Kind::Collection,
            (true, _, true) => Kind::Event,
            (true, ..) => Kind::Client,
            _ if has("hunt_id") => Kind::Hunt,
            _ if has("notebook_id") => Kind::Notebook,
            (_, _, true) => Kind::Artifact,
            _ => return None,
        })
    }

    /// The arguments it needs.
    fn needs(self) -> &'static [&'static str] {
        match self {
            Kind::Client => &["client_id"],
            Kind::Collection => &["client_id", "flow_id"],
            Kind::Hunt => &["hunt_id"],
            Kind::Artifact => &["artifact"],
            Kind::Event => &["client_id", "artifact"],
            Kind::Notebook => &["notebook_id"],
        }
    }
}

pub(super) fn register(r: &mut Registry) {
    let sig = Signature::new("link_to", "A link to something that the GUI shows, as markdown.")
        .arg("type", ArgType::String, "client, collection, hunt, artifact, event or notebook.")
        .arg("client_id", ArgType::String, "The client.")
        .arg("flow_id", ArgType::String, "The collection.")
        .arg("upload", ArgType::Dict, "An uploaded file: what uploads are in rows.")
        .arg("tab", ArgType::String, "The part of the screen to show; default overview.")
        .arg("text", ArgType::String, "What the link says.")
        .arg("hunt_id", ArgType::String, "The hunt.")
        .arg("notebook_id", ArgType::String, "The notebook.")
        .arg("artifact", ArgType::String, "The artifact.")
        .arg("parameters", ArgType::Dict, "Accepted and ignored: screens of artifacts take none.")
        .arg("raw", ArgType::Bool, "Only the address.")
        .arg("org", ArgType::String, "The organisation; default that of the query.")
        .version(3);
    r.function_sync(sig, link);
}

/// Text in a query of an address.
fn escaped(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn link(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let session = Session::of(scope)?;
    let base = session.server.options.public_url.trim_end_matches('/');
    if base.is_empty() {
        return Err(Error::failed("GUI.public_url is not set: nobody knows where the GUI is"));
    }
    let org = args.opt_string("org")?.unwrap_or_else(|| session.org.id.to_string());
    let (raw, text) = (args.bool("raw")?, args.opt_string("text")?.filter(|t| !t.is_empty()));
    let shown = |text: Option<String>, url: String| match text {
        Some(text) if !raw => format!("[{text}]({url})"),
        _ => url,
    };
    if args.has("upload") {
        let parts = match args.dict("upload")?.get("Components") {
            Some(Value::List(parts)) => parts.iter().map(Value::to_text).collect(),
            _ => Vec::new(),
        };
        if parts.is_empty() {
            return Err(Error::Arg("upload has no Components: it is no uploaded file".into()));
        }
        let app = base.strip_suffix("/app/index.html").unwrap_or(base);
        let mut url = format!("{app}/api/v1/DownloadVFSFile?");
        parts.iter().for_each(|p| url += &format!("fs_components={}&", escaped(p)));
        url += &format!("org_id={}&vfs_path=", escaped(&org));
        return Ok(shown(text, url).into());
    }
    let get = |name: &str| args.string(name);
    let has = |name: &str| get(name).is_ok_and(|t| !t.is_empty());
    let asked = get("type")?;
    let kind = match asked.as_str() {
        "" => Kind::of(has)
            .ok_or_else(|| Error::Arg("nothing to link to: no type and no id is given".into()))?,
        name => Kind::parse(name).ok_or_else(|| Error::Arg(format!("no links to type {name}")))?,
    };
    if let Some(missing) = kind.needs().iter().find(|n| !has(n)) {
        return Err(Error::Arg(format!("a link to this needs {missing}")));
    }
    if has("parameters") {
        scope.log(Level::Debug, "link_to: parameters are not part of links");
    }
    let tab = args.opt_string("tab")?.filter(|t| !t.is_empty()).unwrap_or("overview".into());
    let (client, flow, hunt) = (get("client_id")?, get("flow_id")?, get("hunt_id")?);
    let (artifact, notebook) = (get("artifact")?, get("notebook_id")?);
    let (place, name) = match kind {
        Kind::Client => {
            let state = session.org.state();
            let host = state.clients.get(&client).map(|c| c.info.fqdn.clone());
            (format!("host/{client}"), format!("{client} ({})", host.unwrap_or_default()))
        }
        Kind::Collection => (format!("collected/{client}/{flow}/{tab}"), flow),
        Kind::Hunt => (format!("hunts/{hunt}/{tab}"), hunt),
        Kind::Artifact => (format!("artifacts/{artifact}"), artifact),
        Kind::Event => (format!("events/{client}/{artifact}"), artifact),
        Kind::Notebook => (format!("notebooks/{notebook}"), notebook),
    };
    let url = format!("{base}?org_id={}#/{place}", escaped(&org));
    Ok(shown(Some(text.unwrap_or(name)), url).into())
}

#[cfg(test)]
mod tests {
    use crate::plugins::server::tests::{CLIENT, run_as, server_with};
    use crate::services::Options;

    #[tokio::test]
    async fn links_lead_where_the_gui_shows_it() {
        let dir = tempfile::tempdir().unwrap();
        let url = "https://h:1/app/index.html".to_owned();
        let s = server_with(&dir, Options { public_url: url, ..Options::default() }).await;
        let app = "https://h:1/app/index.html?org_id=root#";
        for (args, want) in [
            ("client_id='C.9'", format!("[C.9 ()]({app}/host/C.9)")),
            ("type='client', raw=TRUE, client_id='C.9'", format!("{app}/host/C.9")),
            ("hunt_id='H.1'", format!("[H.1]({app}/hunts/H.1/overview)")),
            (
                "client_id='C.9', flow_id='F.1', text='x', tab='logs'",
                format!("[x]({app}/collected/C.9/F.1/logs)"),
            ),
            ("client_id='C.9', artifact='A.B'", format!("[A.B]({app}/events/C.9/A.B)")),
            ("artifact='A.B'", format!("[A.B]({app}/artifacts/A.B)")),
            ("notebook_id='N.1'", format!("[N.1]({app}/notebooks/N.1)")),
            (
                "upload=dict(Components=['a b','c&d'])",
                "https://h:1/api/v1/DownloadVFSFile?fs_components=a+b&fs_components=c%26d\
                 &org_id=root&vfs_path="
                    .replace('&', "\\u0026"),
            ),
        ] {
            let text = format!("SELECT link_to({args}) AS L FROM scope()");
            let (rows, log) = run_as(&s, "reader", &text).await;
            assert_eq!(rows, format!(r#"[{{"L":"{want}"}}]"#), "{args} {log}");
        }
        let org = format!("SELECT link_to(client_id='{CLIENT}', org='O 1') AS L FROM scope()");
        assert!(run_as(&s, "reader", &org).await.0.contains("?org_id=O+1#/"));
        for bad in
            ["", "flow_id='F.1'", "type='no', client_id='C.1'", "type='event', client_id='C.1'"]
        {
            let text = format!("SELECT link_to({bad}) AS L FROM scope()");
            let (rows, log) = run_as(&s, "reader", &text).await;
            assert!(rows == r#"[{"L":null}]"# && !log.is_empty(), "{bad}: {rows}");
        }
    }
}
