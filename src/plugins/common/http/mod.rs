//! `http_client` asks web servers; others send rows to log stores.

mod send_rows;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use url::Url;
use vql::{ArgType, Args, Dict, Emitter, Error, Registry, Scope, Signature, Value};

use super::temp::TempFile;
use crate::comms::fetch::{Request, send};
use crate::env::Env;

/// Bytes of content in a row when nothing is said.
const CHUNK: usize = 4 << 20;

/// Adds the callables of this module and those that send rows.
pub fn register(registry: &mut Registry) {
    send_rows::register(registry);
    let signature = Signature::new("http_client", "Asks a web server.")
        .arg("url", ArgType::Strings, "Where; /path:unix/... is a Unix socket.")
        .arg("params", ArgType::Dict, "Sent in the URL, or as a form by POST.")
        .arg("headers", ArgType::Dict, "Further headers.")
        .arg("method", ArgType::String, "GET, POST and so on (GET).")
        .arg("data", ArgType::String, "The body.")
        .arg("chunk_size", ArgType::Int, "Bytes of content in a row.")
        .arg("disable_ssl_security", ArgType::Bool, "Take any certificate.")
        .arg("skip_verify", ArgType::Bool, "Take any certificate.")
        .arg("tempfile_extension", ArgType::String, "Content goes into a file; rows name it.")
        .arg("remove_last", ArgType::Bool, "Accepted; files go when the query ends.")
        .arg("root_ca", ArgType::String, "Further certificates to trust, PEM.")
        .arg("user_agent", ArgType::String, "Who asks.")
        .arg(
            "files",
            ArgType::List,
            "Files of a multipart form: dicts of file, key, path, accessor.",
        )
        .version(3);
    registry.plugin_async(signature, |scope, args, emitter| async move {
        run(&scope, &args, &emitter).await
    });
}

async fn run(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let Some(env) = scope.extension::<Env>() else {
        return Err(Error::failed("no environment in this scope"));
    };
    for url in args.strings("url")? {
        let request = request(scope, args, &url).await?;
        match send(&env, request).await {
            Ok((response, at)) => rows(scope, args, emitter, response, &at).await?,
            // One host that is away must not keep the others from being asked.
            Err(e) => {
                scope.log_text(format!("http_client: {url}: {e}"));
                let row = Dict::new()
                    .with("Url", url.as_str())
                    .with("Content", e.to_string())
                    .with("Response", 500)
                    .with("Headers", Value::Null);
                emitter.send(row).await?;
            }
        }
    }
    Ok(())
}

async fn request(scope: &Scope, args: &Args, url: &str) -> Result<Request, Error> {
    let (socket, text) = match url.split_once(":unix/") {
        Some((socket, path)) if socket.starts_with('/') => {
            (Some(socket.to_owned()), format!("http://unix/{path}"))
        }
        _ => (None, url.to_owned()),
    };
    let mut url = Url::parse(&text).map_err(|e| Error::failed(format!("{url}: {e}")))?;
    let method = args.opt_string("method")?.unwrap_or_else(|| "GET".into()).to_uppercase();
    let method = Method::from_bytes(method.as_bytes()).map_err(Error::failed)?;
    let mut headers = Vec::new();
    for (name, value) in args.dict("headers")?.iter() {
        let name = HeaderName::from_bytes(name.as_str().as_bytes()).map_err(Error::failed)?;
        let value = HeaderValue::from_bytes(value.to_str().as_bytes()).map_err(Error::failed)?;
        headers.push((name, value));
    }
    let mut body = args.bytes("data")?.as_bytes().to_vec();
    let params = pairs(&*args.dict("params")?);
    let mut kind = None;
    if args.has("files") {
        let (form, boundary) = multipart(scope, args, &params).await?;
        (body, kind) = (form, Some(format!("multipart/form-data; boundary={boundary}")));
    } else if method == Method::GET || !body.is_empty() {
        if !params.is_empty() {
            url.query_pairs_mut().extend_pairs(params);
        }
    } else if !params.is_empty() {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        body = form.extend_pairs(params).finish().into_bytes();
        kind = Some("application/x-www-form-urlencoded".into());
    }
    let mut default = |name: HeaderName, value: String| {
        if !headers.iter().any(|(n, _)| *n == name)
            && let Ok(value) = HeaderValue::from_str(&value)
        {
            headers.push((name, value));
        }
    };
    if let Some(kind) = kind {
        default(http::header::CONTENT_TYPE, kind);
    }
    let agent = args.opt_string("user_agent")?.unwrap_or_else(|| crate::PRODUCT.to_owned());
    default(http::header::USER_AGENT, agent);
    Ok(Request {
        method,
        url,
        headers,
        body: body.into(),
        skip_verify: args.bool("skip_verify")? || args.bool("disable_ssl_security")?,
        root_ca: args.string("root_ca")?,
        socket,
    })
}

/// Names and values; a list gives a pair for each element.
fn pairs(dict: &Dict) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (name, value) in dict.iter() {
        match value {
            Value::List(items) => {
                all.extend(items.iter().map(|v| (name.as_str().to_owned(), v.to_text())));
            }
            Value::Null => {}
            other => all.push((name.as_str().to_owned(), other.to_text())),
        }
    }
    all
}

/// A form with files, and what separates its parts.
async fn multipart(
    scope: &Scope,
    args: &Args,
    params: &[(String, String)],
) -> Result<(Vec<u8>, String), Error> {
    let mut parts: Vec<(String, Vec<u8>)> = Vec::new();
    let quoted = |s: &str| s.replace('"', "%22").replace(['\r', '\n'], " ");
    for (name, value) in params {
        let head = format!("Content-Disposition: form-data; name=\"{}\"\r\n\r\n", quoted(name));
        parts.push((head, value.clone().into_bytes()));
    }
    for file in args.list("files") {
        let Some(dict) = file.as_dict() else { continue };
        let text = |n: &str| dict.get(n).map(Value::to_text).unwrap_or_default();
        let accessor = super::accessor::accessor(scope, &text("accessor"))?;
        let path = dict.get("path").or_else(|| dict.get("file")).cloned().unwrap_or_default();
        let path = super::accessor::path_of(scope, &*accessor, &path);
        let named = if dict.contains("path") { text("file") } else { path.basename() };
        let read = move || -> std::io::Result<Vec<u8>> {
            let mut data = Vec::new();
            std::io::Read::read_to_end(&mut accessor.open(&path)?, &mut data)?;
            Ok(data)
        };
        let data = super::blocking(scope, read).await?.map_err(Error::failed)?;
        let head = format!(
            "Content-Disposition: form-data; name=\"{}\"; filename=\"{}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n",
            quoted(&text("key")),
            quoted(&named)
        );
        parts.push((head, data));
    }
    let mut random = [0; 16];
    if let Some(env) = scope.extension::<Env>() {
        env.entropy.fill(&mut random);
    }
    let boundary = hex::encode(random);
    let mut body = Vec::new();
    for (head, data) in parts {
        body.extend(format!("--{boundary}\r\n{head}").as_bytes());
        body.extend(data);
        body.extend(b"\r\n");
    }
    body.extend(format!("--{boundary}--\r\n").as_bytes());
    Ok((body, boundary))
}

async fn rows(
    scope: &Scope,
    args: &Args,
    emitter: &Emitter,
    response: http::Response<Incoming>,
    url: &Url,
) -> Result<(), Error> {
    let mut headers = Dict::new();
    for name in response.headers().keys() {
        let values = response.headers().get_all(name).iter();
        let values: Value = values.map(|v| Value::from(v.as_bytes())).collect();
        headers.set(canonical(name.as_str()), values);
    }
    let status = response.status().as_u16();
    let row = |content: Value| {
        Dict::new()
            .with("Url", url.as_str())
            .with("Content", content)
            .with("Response", status)
            .with("Headers", headers.clone())
    };
    let mut body = response.into_body();
    if args.has("tempfile_extension") {
        let extension = args.string("tempfile_extension")?;
        let mut file = TempFile::create(scope, &extension).await?;
        while let Some(data) = next(&mut body).await? {
            scope.charge_op().await;
            file = file.append(scope, data).await?;
        }
        return emitter.send(row(file.path().into())).await;
    }
    let chunk = usize::try_from(args.int("chunk_size")?).ok().filter(|n| *n > 0).unwrap_or(CHUNK);
    let (mut held, mut sent) = (Vec::new(), false);
    while let Some(data) = next(&mut body).await? {
        held.extend_from_slice(&data);
        while held.len() >= chunk {
            let rest = held.split_off(chunk);
            emitter.send(row(std::mem::replace(&mut held, rest).into())).await?;
            sent = true;
        }
    }
    // An answer without a body is a row all the same.
    if !held.is_empty() || !sent {
        emitter.send(row(held.into())).await?;
    }
    Ok(())
}

async fn next(body: &mut Incoming) -> Result<Option<Bytes>, Error> {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(Error::failed)?.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// `content-type` as Go writes it: `Content-Type`.
fn canonical(name: &str) -> String {
    let part = |p: &str| {
        let mut chars = p.chars();
        let first = chars.next().map(|c| c.to_ascii_uppercase());
        first.into_iter().chain(chars).collect::<String>()
    };
    name.split('-').map(part).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A server that answers each connection with the next text and hands
    /// over what it was asked.
    pub(super) async fn serve(
        env: &Env,
        answers: Vec<String>,
    ) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
        let mut listener = env.net.bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut io, _) = listener.accept().await.unwrap();
                let (mut data, mut buffer) = (Vec::new(), [0; 4096]);
                loop {
                    let n = io.read(&mut buffer).await.unwrap();
                    data.extend_from_slice(&buffer[..n]);
                    let text = String::from_utf8_lossy(&data).into_owned();
                    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
                    let length = head.lines().find_map(|l| {
                        l.to_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok()
                    });
                    if n == 0 || text.contains("\r\n\r\n") && body.len() >= length.unwrap_or(0) {
                        asked.push(text);
                        break;
                    }
                }
                io.write_all(answer.as_bytes()).await.unwrap();
                io.shutdown().await.unwrap();
            }
            asked
        });
        (port, task)
    }

    #[tokio::test]
    async fn servers_behind_unix_sockets() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("s.sock").to_str().unwrap().to_owned();
        #[allow(clippy::disallowed_methods, clippy::disallowed_types)]
        let listener = tokio::net::UnixListener::bind(&at).unwrap();
        let task = tokio::spawn(async move {
            let (mut io, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 4096];
            let n = io.read(&mut asked).await.unwrap();
            io.write_all(answer("200 OK", "{}").as_bytes()).await.unwrap();
            String::from_utf8(asked[..n].to_vec()).unwrap()
        });
        let env = crate::env::real::env();
        let text = format!("SELECT Content, Response FROM http_client(url='{at}:unix/v1/info')");
        assert_eq!(query(&env, &text).await, r#"[{"Content":"{}","Response":200}]"#);
        assert!(task.await.unwrap().starts_with("GET /v1/info HTTP/1.1\r\n"));
        let text = "SELECT Url, Response, Headers FROM http_client(url='/none.sock:unix/x')";
        let expected = r#"[{"Url":"/none.sock:unix/x","Response":500,"Headers":null}]"#;
        assert_eq!(query(&env, text).await, expected);
    }

    pub(super) async fn query(env: &Env, text: &str) -> String {
        let mut registry = Registry::standard();
        super::super::register(&mut registry);
        let scope = vql::ScopeBuilder::new(Arc::new(registry)).extension(Arc::new(env.clone()));
        let scope = scope.build();
        Value::from(vql::run(text, &scope).await.unwrap()).to_json()
    }

    pub(super) fn answer(head: &str, body: &str) -> String {
        format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn requests_and_rows() {
        let env = crate::env::real::env();
        let (port, task) = serve(
            &env,
            vec![
                answer("302 Found\r\nLocation: /two?x=1", ""),
                answer("200 OK\r\nX-Kind: a", "abcde"),
                answer("201 Created", "done"),
                answer("404 Not Found", ""),
                answer("200 OK", "to a file"),
            ],
        )
        .await;
        let at = format!("http://127.0.0.1:{port}");
        let rows = query(
            &env,
            &format!(
                "SELECT Url, Content, Response, get(item=Headers, field='X-Kind') AS K \
                 FROM http_client(url='{at}/one', params=dict(q='a b'), chunk_size=3, \
                 headers=dict(Authorization='secret'))"
            ),
        )
        .await;
        let row = |content: &str| {
            format!(r#"{{"Url":"{at}/two?x=1","Content":"{content}","Response":200,"K":["a"]}}"#)
        };
        assert_eq!(rows, format!("[{},{}]", row("abc"), row("de")));
        let post = format!(
            "SELECT Content FROM http_client(url='{at}/', method='POST', params=dict(a=1, b=('x', 'y')))"
        );
        assert_eq!(query(&env, &post).await, r#"[{"Content":"done"}]"#);
        let lost =
            format!("SELECT Response FROM http_client(url='{at}/', data='{{}}', method='PUT')");
        assert_eq!(query(&env, &lost).await, r#"[{"Response":404}]"#);
        let file = format!(
            "SELECT read_file(filename=Content) AS C, Content =~ '[.]bin$' AS N \
             FROM http_client(url='{at}/', tempfile_extension='.bin')"
        );
        assert_eq!(query(&env, &file).await, r#"[{"C":"to a file","N":true}]"#);
        let asked = task.await.unwrap();
        assert!(asked[0].starts_with("GET /one?q=a+b HTTP/1.1\r\n"), "{}", asked[0]);
        assert!(asked[1].to_lowercase().contains("authorization: secret"), "{}", asked[1]);
        assert!(asked[2].ends_with("\r\n\r\na=1&b=x&b=y"), "{}", asked[2]);
        assert!(asked[3].starts_with("PUT / ") && asked[3].ends_with("{}"), "{}", asked[3]);
    }

    #[tokio::test]
    async fn who_is_not_there_is_a_row() {
        let env = crate::env::real::env();
        let rows = query(&env, "SELECT Response FROM http_client(url='http://127.0.0.1:1/')").await;
        assert_eq!(rows, r#"[{"Response":500}]"#);
        let unsupported = query(&env, "SELECT * FROM http_client(url='ftp://x/')").await;
        assert!(unsupported.contains("500"), "{unsupported}");
    }

    #[test]
    fn header_names() {
        assert_eq!(canonical("content-type"), "Content-Type");
    }
}
