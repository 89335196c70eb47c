//! Rows to log stores over HTTP: `elastic_upload`, `splunk_upload`,
//! `logscale_upload`. Rows are gathered into batches; each batch that was sent,
//! or given up, is a row.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures::StreamExt;
use http::{HeaderName, HeaderValue, Method, header};
use http_body_util::BodyExt;
use serde_json::{Map, Value as Json, json};
use tokio::time::{Instant, sleep, sleep_until};
use url::Url;
use vql::{ArgType, Args, Dict, Emitter, Error, Registry, Row, Scope, Signature};

use crate::comms::fetch::{Request, send};
use crate::env::Env;

/// Rows of a batch when nothing is said.
const CHUNK: usize = 1000;
/// Bytes of rows in a batch at most.
const BYTES: usize = 8 << 20;
/// Seconds a batch waits for more rows when nothing is said.
const WAIT: u64 = 2;
/// Attempts for a batch when nothing is said.
const RETRIES: u64 = 10;
/// Bytes of an answer that are looked at.
const ANSWER: usize = 1 << 20;

/// Adds the callables of this module.
pub fn register(registry: &mut Registry) {
    let shared = |name, doc| {
        Signature::new(name, doc)
            .required("query", ArgType::Query, "The rows.")
            .arg("threads", ArgType::Int, "Accepted; batches go one after the other.")
            .arg("skip_verify", ArgType::Bool, "Take any certificate.")
            .arg("root_ca", ArgType::String, "Further certificates to trust, PEM.")
    };
    let elastic = shared("elastic_upload", "Sends rows to Elasticsearch.")
        .arg("index", ArgType::String, "The index (velociraptor); a row's _index goes first.")
        .arg("type", ArgType::String, "Accepted; types are gone.")
        .arg("chunk_size", ArgType::Int, "Rows of a batch.")
        .arg("addresses", ArgType::Strings, "Base URLs; the next one is taken when one fails.")
        .arg("username", ArgType::String, "For basic authentication.")
        .arg("password", ArgType::String, "See username.")
        .arg("api_key", ArgType::String, "Base64 of id and key.")
        .arg("cloud_id", ArgType::String, "The name of a deployment in Elastic's cloud.")
        .arg("wait_time", ArgType::Int, "Seconds a batch waits for more rows.")
        .arg("pipeline", ArgType::String, "An ingest pipeline.")
        .arg("disable_ssl_security", ArgType::Bool, "Take any certificate.")
        .arg("max_memory_buffer", ArgType::Int, "Bytes of a batch.")
        .arg("action", ArgType::String, "index or create (index).")
        .version(2);
    registry.plugin_async(elastic, |scope, args, emitter| async move {
        run(&scope, &args, &emitter, Store::elastic(&args)?).await
    });

    let splunk = shared("splunk_upload", "Sends rows to a Splunk event collector.")
        .arg("url", ArgType::String, "Where it is.")
        .arg("token", ArgType::String, "The collector's token.")
        .arg("index", ArgType::String, "The index.")
        .arg("source", ArgType::String, "Where events are from.")
        .arg("sourcetype", ArgType::String, "What they are.")
        .arg("chunk_size", ArgType::Int, "Rows of a batch.")
        .arg("wait_time", ArgType::Int, "Seconds a batch waits for more rows.")
        .arg("hostname", ArgType::String, "The host of all rows.")
        .arg("timestamp_field", ArgType::String, "The column with the time.")
        .arg("hostname_field", ArgType::String, "The column with the host.")
        .arg("max_retries", ArgType::Int, "Attempts for a batch.")
        .arg("retry_wait", ArgType::Int, "Accepted; attempts wait longer each time.")
        .arg("idle_conn_timeout", ArgType::Int, "Accepted; connections are not kept.")
        .version(2);
    registry.plugin_async(splunk, |scope, args, emitter| async move {
        run(&scope, &args, &emitter, Store::splunk(&args)?).await
    });

    let logscale = shared("logscale_upload", "Sends rows to LogScale.")
        .required("apibaseurl", ArgType::String, "The base of its API, such as https://host/api.")
        .required("ingest_token", ArgType::String, "The token.")
        .arg("http_timeout", ArgType::Int, "Accepted; answers are waited for.")
        .arg("max_retries", ArgType::Int, "Attempts for a batch.")
        .arg("batching_timeout_ms", ArgType::Int, "Milliseconds a batch waits for more rows.")
        .arg("event_batch_size", ArgType::Int, "Rows of a batch.")
        .arg("tag_fields", ArgType::Strings, "Columns that are tags; old=new renames.")
        .arg("stats_interval", ArgType::Int, "Accepted; each batch is told.")
        .arg("debug", ArgType::Bool, "Accepted.");
    registry.plugin_async(logscale, |scope, args, emitter| async move {
        run(&scope, &args, &emitter, Store::logscale(&args)?).await
    });
}

/// Where rows go and in which form.
struct Store {
    urls: Vec<Url>,
    authorization: Option<HeaderValue>,
    content: &'static str,
    form: Form,
    rows: usize,
    bytes: usize,
    wait: Duration,
    attempts: u64,
    skip_verify: bool,
    root_ca: String,
}

enum Form {
    Elastic { index: String, action: String },
    Splunk { common: Map<String, Json>, host: String, time_field: String, host_field: String },
    LogScale { tags: Vec<(String, String)> },
}

fn address(text: &str) -> Result<Url, Error> {
    Url::parse(text).map_err(|e| Error::failed(format!("{text}: {e}")))
}

/// The address behind a cloud id: `name:` and base64 of `host$id$...`.
fn cloud(id: &str) -> Option<String> {
    let coded = id.rsplit(':').next()?;
    let text = String::from_utf8(BASE64_STANDARD.decode(coded).ok()?).ok()?;
    let mut parts = text.split('$');
    let (host, name) = (parts.next()?, parts.next()?);
    Some(format!("https://{name}.{host}"))
}

fn positive(args: &Args, name: &str) -> Result<Option<u64>, Error> {
    Ok(args.opt_int(name)?.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0))
}

fn secret(text: String) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(&text).map_err(Error::failed)?;
    value.set_sensitive(true);
    Ok(value)
}

impl Store {
    fn new(args: &Args, urls: Vec<Url>, content: &'static str, form: Form) -> Result<Store, Error> {
        let wait = positive(args, "wait_time")?.unwrap_or(WAIT);
        Ok(Store {
            urls,
            authorization: None,
            content,
            form,
            rows: positive(args, "chunk_size")?.map_or(CHUNK, |n| n as usize),
            bytes: BYTES,
            wait: Duration::from_secs(wait),
            attempts: positive(args, "max_retries")?.unwrap_or(RETRIES),
            skip_verify: args.bool("skip_verify")? || args.bool("disable_ssl_security")?,
            root_ca: args.string("root_ca")?,
        })
    }

    fn elastic(args: &Args) -> Result<Store, Error> {
        let mut given = args.strings("addresses")?;
        given.retain(|a| !a.trim().is_empty());
        if let Some(id) = args.opt_string("cloud_id")? {
            given = vec![cloud(&id).ok_or_else(|| Error::failed("the cloud_id is not one"))?];
        }
        if given.is_empty() {
            given.push("http://localhost:9200".to_owned());
        }
        let pipeline = args.opt_string("pipeline")?;
        let mut urls = Vec::new();
        for text in given {
            let mut url = address(&format!("{}/_bulk", text.trim_end_matches('/')))?;
            if let Some(pipeline) = &pipeline {
                url.query_pairs_mut().append_pair("pipeline", pipeline);
            }
            urls.push(url);
        }
        let form = Form::Elastic {
            index: args.opt_string("index")?.unwrap_or_else(|| "velociraptor".to_owned()),
            action: args.opt_string("action")?.unwrap_or_else(|| "index".to_owned()),
        };
        let mut store = Store::new(args, urls, "application/x-ndjson", form)?;
        if let Some(bytes) = positive(args, "max_memory_buffer")? {
            store.bytes = usize::try_from(bytes).unwrap_or(BYTES).max(1);
        }
        store.authorization = match (args.opt_string("api_key")?, args.opt_string("username")?) {
            (Some(key), _) => Some(secret(format!("ApiKey {key}"))?),
            (None, Some(user)) => {
                let pair = format!("{user}:{}", args.string("password")?);
                Some(secret(format!("Basic {}", BASE64_STANDARD.encode(pair)))?)
            }
            (None, None) => None,
        };
        Ok(store)
    }

    fn splunk(args: &Args) -> Result<Store, Error> {
        let text = args.string("url")?;
        let mut url = address(&text)?;
        if matches!(url.path(), "" | "/") {
            url.set_path("/services/collector/event");
        }
        let mut common = Map::new();
        for name in ["index", "source", "sourcetype"] {
            if let Some(value) = args.opt_string(name)? {
                common.insert(name.to_owned(), value.into());
            }
        }
        let form = Form::Splunk {
            common,
            host: args.string("hostname")?,
            time_field: args.string("timestamp_field")?,
            host_field: args.string("hostname_field")?,
        };
        let mut store = Store::new(args, vec![url], "application/json", form)?;
        store.authorization = Some(secret(format!("Splunk {}", args.string("token")?))?);
        Ok(store)
    }

    fn logscale(args: &Args) -> Result<Store, Error> {
        let base = args.string("apibaseurl")?;
        let url = address(&format!("{}/v1/ingest/humio-structured", base.trim_end_matches('/')))?;
        let tags = args.strings("tag_fields")?.into_iter().map(|t| match t.split_once('=') {
            Some((from, to)) => (from.to_owned(), to.to_owned()),
            None => (t.clone(), t),
        });
        let form = Form::LogScale { tags: tags.collect() };
        let mut store = Store::new(args, vec![url], "application/json", form)?;
        store.rows = positive(args, "event_batch_size")?.map_or(CHUNK, |n| n as usize);
        if let Some(ms) = positive(args, "batching_timeout_ms")? {
            store.wait = Duration::from_millis(ms);
        }
        store.authorization = Some(secret(format!("Bearer {}", args.string("ingest_token")?))?);
        Ok(store)
    }

    /// One row as it goes into the body.
    fn render(&self, row: &Row, now: f64) -> Result<String, Error> {
        let mut plain: Map<String, Json> =
            serde_json::from_str(&row.to_json()).map_err(Error::failed)?;
        Ok(match &self.form {
            Form::Elastic { index, action } => {
                let mut meta = Map::new();
                let own = plain.shift_remove("_index");
                meta.insert("_index".into(), own.unwrap_or_else(|| index.as_str().into()));
                if let Some(id) = plain.shift_remove("_id") {
                    meta.insert("_id".into(), id);
                }
                format!("{}\n{}\n", json!({ action.as_str(): meta }), Json::Object(plain))
            }
            Form::Splunk { common, host, time_field, host_field } => {
                let time = plain.get(time_field).and_then(seconds).unwrap_or(now);
                let own = plain.get(host_field).and_then(Json::as_str).map(str::to_owned);
                let mut event = common.clone();
                event.insert("time".into(), json!(time));
                event.insert("host".into(), own.unwrap_or_else(|| host.clone()).into());
                event.insert("event".into(), Json::Object(plain));
                format!("{}\n", Json::Object(event))
            }
            Form::LogScale { tags } => {
                let time = ["timestamp", "Timestamp", "_ts"]
                    .iter()
                    .find_map(|n| plain.get(*n).and_then(seconds));
                let millis = (time.unwrap_or(now) * 1000.0) as i64;
                let told = tags.iter().filter_map(|(from, to)| {
                    let value = plain.get(from)?;
                    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    Some((to.clone(), Json::from(text)))
                });
                let told: Map<String, Json> = told.collect();
                let event = json!({ "timestamp": millis, "attributes": plain });
                json!({ "tags": told, "events": [event] }).to_string()
            }
        })
    }

    fn body(&self, rendered: &[String]) -> String {
        match self.form {
            Form::LogScale { .. } => format!("[{}]", rendered.join(",")),
            _ => rendered.concat(),
        }
    }
}

/// Epoch seconds of a time in a row.
fn seconds(value: &Json) -> Option<f64> {
    match value {
        Json::Number(n) => n.as_f64(),
        Json::String(s) => {
            let time = vql::parse_time(s)?;
            Some(time.as_nanosecond() as f64 / 1e9)
        }
        _ => None,
    }
}

async fn run(scope: &Scope, args: &Args, emitter: &Emitter, store: Store) -> Result<(), Error> {
    let env = scope.extension::<Env>();
    let env = env.ok_or_else(|| Error::failed("no environment in this scope"))?;
    let mut rows = args.rows("query");
    let (mut batch, mut bytes) = (Vec::new(), 0);
    let mut due = Instant::now() + store.wait;
    loop {
        let row = tokio::select! {
            biased;
            row = rows.next() => row,
            () = sleep_until(due), if !batch.is_empty() => {
                flush(&env, &store, &mut batch, emitter).await?;
                bytes = 0;
                continue;
            }
        };
        let end = row.is_none();
        if let Some(row) = row {
            scope.charge_op().await;
            if batch.is_empty() {
                due = Instant::now() + store.wait;
            }
            let now = scope.now().as_nanosecond() as f64 / 1e9;
            let text = store.render(&row.into_row(), now)?;
            bytes += text.len();
            batch.push(text);
        }
        if !batch.is_empty() && (end || batch.len() >= store.rows || bytes >= store.bytes) {
            flush(&env, &store, &mut batch, emitter).await?;
            bytes = 0;
        }
        if end {
            return Ok(());
        }
    }
}

/// Sends a batch, again and again while it may help; tells what came of it.
async fn flush(
    env: &Env,
    store: &Store,
    batch: &mut Vec<String>,
    emitter: &Emitter,
) -> Result<(), Error> {
    let rows = batch.len();
    let body = store.body(batch);
    batch.clear();
    let mut attempt = 0;
    let row = loop {
        let url = &store.urls[attempt as usize % store.urls.len()];
        let told = post(env, store, url, &body).await;
        attempt += 1;
        let row = Dict::new().with("Url", url.as_str()).with("Rows", rows);
        let (again, row) = match told {
            Ok((status, answer)) => {
                let again = status == 429 || status >= 500;
                (again, row.with("StatusCode", status).with("Response", answer))
            }
            Err(e) => (true, row.with("StatusCode", 0).with("Response", e.to_string())),
        };
        if !again || attempt >= store.attempts {
            break row;
        }
        sleep(Duration::from_secs((1 << attempt.min(6)) - 1)).await;
    };
    emitter.send(row).await
}

async fn post(env: &Env, store: &Store, url: &Url, body: &str) -> Result<(u16, String), Error> {
    let mut headers: Vec<(HeaderName, HeaderValue)> =
        vec![(header::CONTENT_TYPE, HeaderValue::from_static(store.content))];
    headers.extend(store.authorization.clone().map(|v| (header::AUTHORIZATION, v)));
    let request = Request {
        method: Method::POST,
        url: url.clone(),
        headers,
        body: body.to_owned().into(),
        skip_verify: store.skip_verify,
        root_ca: store.root_ca.clone(),
        socket: None,
    };
    let (response, _) = send(env, request).await.map_err(Error::failed)?;
    let status = response.status().as_u16();
    let limited = http_body_util::Limited::new(response.into_body(), ANSWER);
    let answer = limited.collect().await.map_err(Error::failed)?.to_bytes();
    Ok((status, vql::lossy(&answer).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{answer, query, serve};
    use super::*;

    #[test]
    fn cloud_ids() {
        let id = format!("my:{}", BASE64_STANDARD.encode("eu.example$abc$def"));
        assert_eq!(cloud(&id).unwrap(), "https://abc.eu.example");
        assert!(cloud("my:$$").is_none());
    }

    fn bodies(asked: &[String]) -> Vec<&str> {
        asked.iter().map(|a| a.split_once("\r\n\r\n").unwrap().1).collect()
    }

    const ROWS: &str = "{ SELECT * FROM parse_json_array(data='[{\"a\":1,\"_index\":\"own\",\"_id\":\"7\"},{\"a\":2,\"h\":\"web\",\"t\":5}]') }";

    #[tokio::test]
    async fn rows_arrive_in_the_form_of_each_store() {
        let env = crate::env::real::env();
        let answers = vec![
            answer("503 Busy", ""),
            answer("200 OK", "{}"),
            answer("200 OK", "ok"),
            answer("403 Forbidden", "no"),
        ];
        let (port, task) = serve(&env, answers).await;
        let at = format!("http://127.0.0.1:{port}");
        let text = format!(
            "SELECT Rows, StatusCode FROM elastic_upload(query={ROWS}, addresses=['{at}/'], \
             api_key='k', pipeline='p')"
        );
        assert_eq!(query(&env, &text).await, r#"[{"Rows":2,"StatusCode":200}]"#);
        let text = format!(
            "SELECT StatusCode, Response FROM splunk_upload(query={ROWS}, url='{at}', token='T', \
             index='i', hostname='me', hostname_field='h', timestamp_field='t', chunk_size=5)"
        );
        assert_eq!(query(&env, &text).await, r#"[{"StatusCode":200,"Response":"ok"}]"#);
        let text = format!(
            "SELECT StatusCode, Response FROM logscale_upload(query={ROWS}, apibaseurl='{at}/api', \
             ingest_token='L', tag_fields=['h=host'])"
        );
        assert_eq!(query(&env, &text).await, r#"[{"StatusCode":403,"Response":"no"}]"#);
        let asked = task.await.unwrap();
        assert!(asked[1].starts_with("POST /_bulk?pipeline=p "), "{}", asked[1]);
        assert!(asked[1].to_lowercase().contains("authorization: apikey k"), "{}", asked[1]);
        let all = bodies(&asked);
        // A busy store gets the same batch again.
        assert_eq!(all[0], all[1]);
        assert_eq!(
            all[1],
            "{\"index\":{\"_index\":\"own\",\"_id\":\"7\"}}\n{\"a\":1}\n\
             {\"index\":{\"_index\":\"velociraptor\"}}\n{\"a\":2,\"h\":\"web\",\"t\":5}\n"
        );
        assert!(asked[2].starts_with("POST /services/collector/event "), "{}", asked[2]);
        assert!(all[2].contains(r#""host":"web","event":{"a":2"#), "{}", all[2]);
        assert!(all[2].contains(r#""time":5.0,"host":"web""#), "{}", all[2]);
        assert!(asked[3].starts_with("POST /api/v1/ingest/humio-structured "), "{}", asked[3]);
        assert!(all[3].contains(r#""tags":{"host":"web"}"#), "{}", all[3]);
    }
}
