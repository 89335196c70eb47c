//! `upload_s3`: a file into a bucket of S3 or a store that speaks its protocol. Large
//! files go in parts, so that no more than one part is in memory.

use std::fmt::Write as _;
use std::io::Read;

use aws_lc_rs::hmac;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Response};
use http_body_util::{BodyExt, Limited};
use sha2::{Digest, Sha256};
use url::Url;
use vql::{ArgType, Args, Error, Level, Registry, Scope, Signature, Value};

use super::accessor::ReadSeek;
use super::file::named;
use super::upload::UploadResult;
use super::{OsPath, blocking};
use crate::comms::fetch::{Request, send};
use crate::env::Env;

/// Bytes of a part.
const PART: usize = 8 << 20;
/// Parts that a store takes of one file.
const PARTS: usize = 10_000;
/// Bytes of an answer that are read.
const ANSWER: usize = 1 << 20;

/// Adds the function.
pub fn register(registry: &mut Registry) {
    let sig = Signature::new("upload_s3", "Puts a file into a bucket of S3.")
        .required("file", ArgType::Path, "The file.")
        .required("bucket", ArgType::String, "The bucket.")
        .arg("name", ArgType::String, "The name to store it under.")
        .arg("accessor", ArgType::String, "An accessor to use.")
        .arg("region", ArgType::String, "The region (us-east-1).")
        .arg("credentials_key", ArgType::String, "Id of the key.")
        .arg("credentials_secret", ArgType::String, "The key.")
        .arg("credentials_token", ArgType::String, "The session's token.")
        .arg("endpoint", ArgType::String, "Base URL of another store.")
        .arg("serverside_encryption", ArgType::String, "AES256 or aws:kms.")
        .arg("kms_encryption_key", ArgType::String, "Key of aws:kms.")
        .arg("s3upload_root", ArgType::String, "What names begin with.")
        .arg("skip_verify", ArgType::Bool, "Take any certificate.")
        .arg("path_style", ArgType::Bool, "The bucket is in the path, not in the host name.");
    registry.function_async(sig, |scope, args| async move { run(&scope, &args).await });
}

/// A bucket and how to speak with it.
struct Bucket {
    base: Url,
    region: String,
    key: String,
    secret: String,
    token: String,
    skip_verify: bool,
    extra: Vec<(String, String)>,
}

async fn run(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let Some(env) = scope.extension::<Env>() else {
        return Err(Error::failed("no environment in this scope"));
    };
    let (accessor, path) = named(scope, args, "file")?;
    let name = match args.opt_string("name")?.filter(|n| !n.is_empty()) {
        Some(name) => name,
        None => OsPath::linux(path.to_text().as_bytes()).texts().join("/"),
    };
    let name = format!("{}{}", args.string("s3upload_root")?, name.trim_start_matches('/'));
    let bucket = Bucket::of(args)?;
    let from = path.clone();
    let opened = blocking(scope, move || accessor.open(&from)).await?;
    let sent = match opened {
        Ok(file) => bucket.put(scope, &env, &name, file).await,
        Err(e) => Err(Error::failed(e)),
    };
    let mut result = match sent {
        Ok(result) => result,
        Err(Error::Stopped) => return Err(Error::Stopped),
        Err(e) => {
            scope.log(Level::Error, format!("upload_s3: {}: {e}", path.to_text()));
            UploadResult { error: e.to_string(), ..UploadResult::default() }
        }
    };
    result.path = path.to_text();
    result.stored_name = name;
    Ok(result.row().into())
}

impl Bucket {
    fn of(args: &Args) -> Result<Bucket, Error> {
        let bucket = args.string("bucket")?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if bucket.is_empty() || !bucket.chars().all(plain) {
            return Err(Error::Arg(format!("{bucket:?} is no bucket")));
        }
        let region = args.opt_string("region")?.filter(|r| !r.is_empty());
        let region = region.unwrap_or_else(|| "us-east-1".into());
        let endpoint = args.opt_string("endpoint")?.filter(|e| !e.is_empty());
        // Other stores seldom have a host name for each bucket.
        let in_path = args.bool("path_style")? || endpoint.is_some();
        let base = match (endpoint, in_path) {
            (Some(e), _) => format!("{}/{bucket}/", e.trim_end_matches('/')),
            (None, true) => format!("https://s3.{region}.amazonaws.com/{bucket}/"),
            (None, false) => format!("https://{bucket}.s3.{region}.amazonaws.com/"),
        };
        let mut extra = Vec::new();
        for (header, arg) in [
            ("x-amz-server-side-encryption", "serverside_encryption"),
            ("x-amz-server-side-encryption-aws-kms-key-id", "kms_encryption_key"),
        ] {
            if let Some(value) = args.opt_string(arg)?.filter(|v| !v.is_empty()) {
                extra.push((header.to_owned(), value));
            }
        }
        Ok(Bucket {
            base: Url::parse(&base).map_err(|e| Error::Arg(format!("endpoint: {e}")))?,
            region,
            key: args.string("credentials_key")?,
            secret: args.string("credentials_secret")?,
            token: args.string("credentials_token")?,
            skip_verify: args.bool("skip_verify")?,
            extra,
        })
    }

    async fn put(
        &self,
        scope: &Scope,
        env: &Env,
        name: &str,
        mut file: Box<dyn ReadSeek>,
    ) -> Result<UploadResult, Error> {
        let (mut sha, mut size) = (Sha256::new(), 0u64);
        let mut parts: Vec<String> = Vec::new();
        let mut upload = None;
        loop {
            let read = blocking(scope, move || {
                let mut block = Vec::new();
                let n = (&mut file).take(PART as u64).read_to_end(&mut block);
                (n.map(|_| block), file)
            });
            let (block, back) = read.await?;
            file = back;
            let block = Bytes::from(block.map_err(Error::failed)?);
            sha.update(&block);
            size += block.len() as u64;
            let last = block.len() < PART;
            if last && upload.is_none() {
                self.call(env, Method::PUT, name, "", block, true).await?;
                break;
            }
            let id: &String = match &mut upload {
                Some(id) => id,
                none => none.insert(self.begin(env, name).await?),
            };
            if !block.is_empty() {
                let query = format!("partNumber={}&uploadId={}", parts.len() + 1, coded(id, true));
                let answer = self.call(env, Method::PUT, name, &query, block, false).await?;
                let tag = answer.headers().get(http::header::ETAG);
                let tag = tag.and_then(|t| t.to_str().ok());
                parts.push(tag.ok_or_else(|| Error::failed("a part has no ETag"))?.to_owned());
            }
            if parts.len() > PARTS {
                return Err(Error::failed("the file is too large for a bucket"));
            }
            if last {
                self.complete(env, name, id, &parts).await?;
                break;
            }
        }
        Ok(UploadResult {
            size,
            stored_size: size,
            sha256: hex::encode(sha.finalize()),
            ..UploadResult::default()
        })
    }

    async fn begin(&self, env: &Env, name: &str) -> Result<String, Error> {
        let answer = self.call(env, Method::POST, name, "uploads=", Bytes::new(), true).await?;
        let text = String::from_utf8_lossy(answer.body()).into_owned();
        let id = text.split_once("<UploadId>").and_then(|(_, t)| t.split_once("</UploadId>"));
        id.map(|(id, _)| id.to_owned()).ok_or_else(|| Error::failed("the store gave no UploadId"))
    }

    async fn complete(
        &self,
        env: &Env,
        name: &str,
        id: &str,
        parts: &[String],
    ) -> Result<(), Error> {
        let mut body = String::from("<CompleteMultipartUpload>");
        for (n, tag) in parts.iter().enumerate() {
            let tag = tag.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;");
            let _ =
                write!(body, "<Part><PartNumber>{}</PartNumber><ETag>{tag}</ETag></Part>", n + 1);
        }
        body += "</CompleteMultipartUpload>";
        let query = format!("uploadId={}", coded(id, true));
        let answer = self.call(env, Method::POST, name, &query, body.into(), false).await?;
        // It may say that it failed after it has begun to say that it did not.
        match String::from_utf8_lossy(answer.body()).contains("<Error>") {
            true => Err(Error::failed(shown(answer.body()))),
            false => Ok(()),
        }
    }

    /// One signed exchange; an answer that is no success is an error.
    async fn call(
        &self,
        env: &Env,
        method: Method,
        name: &str,
        query: &str,
        body: Bytes,
        first: bool,
    ) -> Result<Response<Bytes>, Error> {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{}", self.base.path(), coded(name, false)));
        url.set_query(Some(query).filter(|q| !q.is_empty()));
        let now = vql::Time::try_from(env.clock.now()).unwrap_or(vql::Time::UNIX_EPOCH);
        let host = match url.port() {
            Some(port) => format!("{}:{port}", url.host_str().unwrap_or_default()),
            None => url.host_str().unwrap_or_default().to_owned(),
        };
        let mut headers = vec![
            ("host".to_owned(), host),
            ("x-amz-content-sha256".to_owned(), hex::encode(Sha256::digest(&body))),
            ("x-amz-date".to_owned(), now.strftime("%Y%m%dT%H%M%SZ").to_string()),
        ];
        if !self.token.is_empty() {
            headers.push(("x-amz-security-token".to_owned(), self.token.clone()));
        }
        if first {
            headers.extend(self.extra.iter().cloned());
        }
        headers.sort();
        if !self.key.is_empty() {
            let signed = self.signature(&method, &url, &headers);
            headers.push(("authorization".to_owned(), signed));
        }
        let mut all = Vec::new();
        for (name, value) in &headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(Error::failed)?;
            all.push((name, HeaderValue::from_str(value).map_err(Error::failed)?));
        }
        let request = Request {
            method,
            url,
            headers: all,
            body,
            skip_verify: self.skip_verify,
            root_ca: String::new(),
            socket: None,
        };
        let (response, _) = send(env, request).await.map_err(Error::failed)?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER).collect().await.map_err(Error::failed)?.to_bytes();
        if !head.status.is_success() {
            return Err(Error::failed(format!("{}: {}", head.status, shown(&body))));
        }
        Ok(Response::from_parts(head, body))
    }

    /// The fourth version of the signature; `headers` are sorted, with the date and the
    /// hash of the body among them.
    fn signature(&self, method: &Method, url: &Url, headers: &[(String, String)]) -> String {
        let of = |name: &str| {
            let found = headers.iter().find(|(n, _)| n == name);
            found.map_or("", |(_, v)| v.as_str())
        };
        let names: Vec<&str> = headers.iter().map(|(n, _)| n.as_str()).collect();
        let names = names.join(";");
        let mut query: Vec<&str> = url.query().unwrap_or_default().split('&').collect();
        query.sort_unstable();
        let mut text = format!("{method}\n{}\n{}\n", url.path(), query.join("&"));
        for (name, value) in headers {
            let _ = writeln!(text, "{name}:{}", value.trim());
        }
        let _ = write!(text, "\n{names}\n{}", of("x-amz-content-sha256"));
        let (at, day) = (of("x-amz-date"), of("x-amz-date").get(..8).unwrap_or_default());
        let place = format!("{day}/{}/s3/aws4_request", self.region);
        let text = format!(
            "AWS4-HMAC-SHA256\n{at}\n{place}\n{}",
            hex::encode(Sha256::digest(text.as_bytes()))
        );
        let mut key = format!("AWS4{}", self.secret).into_bytes();
        for part in [day, &self.region, "s3", "aws4_request"] {
            key = mac(&key, part.as_bytes());
        }
        let signature = hex::encode(mac(&key, text.as_bytes()));
        format!(
            "AWS4-HMAC-SHA256 Credential={}/{place},SignedHeaders={names},Signature={signature}",
            self.key
        )
    }
}

fn mac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, data).as_ref().to_vec()
}

/// Percent-coded as signatures want it; `/` stays in names.
fn coded(text: &str, slash: bool) -> String {
    let mut out = String::new();
    for b in text.bytes() {
        let kept = b.is_ascii_alphanumeric() || b"-._~".contains(&b) || (b == b'/' && !slash);
        if kept {
            out.push(char::from(b));
        } else {
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}

fn shown(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(500)]).into_owned();
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_the_published_example() {
        let bucket = Bucket {
            base: Url::parse("https://examplebucket.s3.amazonaws.com/").unwrap(),
            region: "us-east-1".into(),
            key: "AKIAIOSFODNN7EXAMPLE".into(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
            token: String::new(),
            skip_verify: false,
            extra: vec![],
        };
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let headers = [
            ("host", "examplebucket.s3.amazonaws.com"),
            ("range", "bytes=0-9"),
            ("x-amz-content-sha256", empty),
            ("x-amz-date", "20130524T000000Z"),
        ]
        .map(|(n, v)| (n.to_owned(), v.to_owned()));
        let url = bucket.base.join("test.txt").unwrap();
        let signed = bucket.signature(&Method::GET, &url, &headers);
        let want = "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
        assert!(signed.ends_with(want), "{signed}");
        assert_eq!(coded("a b/ä", false), "a%20b/%C3%A4");
        assert_eq!(coded("a/b", true), "a%2Fb");
    }
}
