//! `mail`: as a function, and as the plugin it was before.

use std::time::Duration;

use vql::{ArgType, Args, Dict, Error, Level, Registry, Scope, Signature};

use super::session::Session;
use crate::plugins::common::smtp::{Mail, send};
use crate::services::acl::Permission;

/// Seconds between mails when nothing is said.
const PERIOD: u64 = 60;
/// The port when nothing is said.
const PORT: u64 = 587;
/// Who sends when nobody is named.
const NOBODY: &str = "no-reply@velociraptor.example.com";

fn signature() -> Signature {
    Signature::new("mail", "Sends a mail.")
        .required("to", ArgType::Strings, "Who gets it.")
        .required("body", ArgType::String, "The text.")
        .arg("from", ArgType::String, "Who sends it.")
        .arg("cc", ArgType::Strings, "Who gets it, too.")
        .arg("subject", ArgType::String, "The subject.")
        .arg("period", ArgType::Int, "Seconds since the last mail at least (60).")
        .arg("server_port", ArgType::Int, "The server's port (587).")
        .arg("server", ArgType::String, "The server; default is the configuration's.")
        .arg("auth_username", ArgType::String, "For authentication.")
        .arg("auth_password", ArgType::String, "See auth_username.")
        .arg("skip_verify", ArgType::Bool, "Take any certificate.")
        .arg("root_ca", ArgType::String, "Further certificates to trust, PEM.")
        .arg("headers", ArgType::Dict, "Further headers.")
        .version(2)
}

pub(super) fn register(r: &mut Registry) {
    r.function_async(
        signature(),
        |scope, args| async move { Ok(status(&scope, &args).await.into()) },
    );
    r.plugin_async(signature(), |scope, args, emitter| async move {
        emitter.send(status(&scope, &args).await).await
    });
}

/// What became of it, as a row: whoever sends mails goes on.
async fn status(scope: &Scope, args: &Args) -> Dict {
    let text = match run(scope, args).await {
        Ok(()) => "OK: Message Sent".to_owned(),
        Err(e) => {
            scope.log(Level::Error, format!("mail: {e}"));
            e.to_string()
        }
    };
    Dict::new().with("ErrorStatus", text)
}

async fn run(scope: &Scope, args: &Args) -> Result<(), Error> {
    let session = Session::with(scope, Permission::Network)?;
    let configured = &session.server.options.mail;
    let or = |name: &str, default: &str| {
        let given = args.opt_string(name)?.filter(|v| !v.is_empty());
        Ok::<String, Error>(given.unwrap_or_else(|| default.to_owned()))
    };
    let number = |name: &str| {
        let given = args.opt_int(name)?.and_then(|n| u64::try_from(n).ok());
        Ok::<_, Error>(given.filter(|n| *n > 0))
    };
    let server = or("server", &configured.server)?;
    if server.is_empty() {
        return Err(Error::failed("server not specified"));
    }
    let to = args.strings("to")?;
    if to.is_empty() {
        return Err(Error::failed("no recipient"));
    }
    let user = or("auth_username", &configured.user)?;
    let mut from = or("from", &configured.from)?;
    for other in [user.as_str(), NOBODY] {
        if from.is_empty() {
            from = other.to_owned();
        }
    }
    let port = number("server_port")?.or(Some(configured.port).filter(|p| *p > 0));
    let mail = Mail {
        server,
        port: u16::try_from(port.unwrap_or(PORT)).map_err(Error::failed)?,
        user,
        password: or("auth_password", &configured.password)?,
        skip_verify: args.bool("skip_verify")? || configured.skip_verify,
        root_ca: args.string("root_ca")?,
        from,
        to,
        cc: args.strings("cc")?.into_iter().filter(|a| !a.is_empty()).collect(),
        subject: args.string("subject")?,
        headers: args.dict("headers")?.iter().map(|(k, v)| (k.to_string(), v.to_text())).collect(),
        body: args.string("body")?,
    };
    let period = Duration::from_secs(number("period")?.unwrap_or(PERIOD));
    if !session.server.mails.may_send(period) {
        return Err(Error::failed("Send too fast, suppressing."));
    }
    send(&session.server.env, &mail).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_types)] // the mail server is a real one

    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;

    use super::super::tests::{run_as, server};

    /// Takes one mail and gives what was said to it.
    async fn mail_server(listener: TcpListener) -> String {
        let (conn, _) = listener.accept().await.unwrap();
        let mut io = BufReader::new(conn);
        let mut all = String::new();
        io.get_mut().write_all(b"220 here\r\n").await.unwrap();
        let mut data = false;
        loop {
            let mut line = String::new();
            if io.read_line(&mut line).await.unwrap() == 0 {
                return all;
            }
            all += &line;
            let answer = match line.trim_end() {
                "." => {
                    data = false;
                    "250 taken\r\n"
                }
                _ if data => continue,
                "DATA" => {
                    data = true;
                    "354 go on\r\n"
                }
                l if l.starts_with("EHLO") => "250-here\r\n250-AUTH PLAIN\r\n250 8BITMIME\r\n",
                "QUIT" => "221 bye\r\n",
                l if l.contains("nobody@") => "550 not known\r\n",
                _ => "250 ok\r\n",
            };
            io.get_mut().write_all(answer.as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_mail_is_delivered_and_the_next_one_waits() {
        let dir = tempfile::tempdir().unwrap();
        let server = server(&dir).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let taken = tokio::spawn(mail_server(listener));
        let text = format!(
            "SELECT * FROM mail(to=['A <a@x.org>', 'b@x.org'], cc='c@x.org', subject='Größe', \
             body='one\n.two\n', server='127.0.0.1', server_port={port}, `from`='me@x.org', \
             auth_username='u', auth_password='p')"
        );
        let (rows, log) = run_as(&server, "reader", &text).await;
        assert!(rows.contains("PermissionDenied") && rows.contains("NETWORK"), "{rows} {log}");
        let (rows, log) = run_as(&server, "administrator", &text).await;
        assert_eq!(rows, r#"[{"ErrorStatus":"OK: Message Sent"}]"#, "{log}");
        let said = taken.await.unwrap();
        for line in [
            "AUTH PLAIN AHUAcA==\r\nMAIL FROM:<me@x.org>\r\nRCPT TO:<a@x.org>\r\n",
            "RCPT TO:<b@x.org>\r\nRCPT TO:<c@x.org>\r\nDATA\r\n",
            "To: A <a@x.org>, b@x.org\r\nCc: c@x.org\r\nSubject: =?UTF-8?B?R3LDtsOfZQ==?=\r\n",
            "\r\n\r\none\r\n..two\r\n.\r\nQUIT\r\n",
        ] {
            assert!(said.contains(line), "{line:?} in {said:?}");
        }
        let (rows, _) = run_as(&server, "administrator", &text).await;
        assert_eq!(rows, r#"[{"ErrorStatus":"Send too fast, suppressing."}]"#);
    }
}
