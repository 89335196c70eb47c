//! Sending a mail to a server that takes it. Encrypted where the server can; a
//! password is never given over a connection that is not.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use vql::Error;

use crate::comms::fetch::{Trust, encrypt};
use crate::env::{Conn, Env};

/// Longest time for all of it.
const LIMIT: Duration = Duration::from_secs(60);
/// Longest line of an answer.
const LINE: u64 = 4096;
/// Most lines of an answer.
const LINES: usize = 100;
/// The port on which encryption comes before the first word.
const SECURE: u16 = 465;

/// A mail and how to send it.
#[derive(Clone, Debug, Default)]
pub struct Mail {
    /// The server.
    pub server: String,
    /// Its port.
    pub port: u16,
    /// For authentication, if there is one.
    pub user: String,
    /// Its password.
    pub password: String,
    /// Take any certificate.
    pub skip_verify: bool,
    /// Further certificates to trust, PEM.
    pub root_ca: String,
    /// Address of the sender.
    pub from: String,
    /// Addresses of those who get it.
    pub to: Vec<String>,
    /// Addresses of those who get it, too.
    pub cc: Vec<String>,
    /// Subject.
    pub subject: String,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    /// The text.
    pub body: String,
}

/// Sends a mail; when this returns the server has it.
pub async fn send(env: &Env, mail: &Mail) -> Result<(), Error> {
    let message = message(env, mail)?;
    match tokio::time::timeout(LIMIT, deliver(env, mail, &message)).await {
        Ok(done) => done,
        Err(_) => Err(Error::failed(format!("{} took too long", mail.server))),
    }
}

/// The address in `Name <address>`, or all of it.
fn address(text: &str) -> Result<&str, Error> {
    let inner = text.rsplit_once('<').and_then(|(_, a)| a.split_once('>')).map(|(a, _)| a);
    let address = inner.unwrap_or(text).trim();
    let wrong = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '<' | '>');
    match address.contains('@') && !address.contains(wrong) && !text.contains(char::is_control) {
        true => Ok(address),
        false => Err(Error::Arg(format!("{text} is no mail address"))),
    }
}

/// A header's value in one line, with other than ASCII encoded.
fn header(name: &str, value: &str) -> Result<String, Error> {
    if value.contains(['\r', '\n', '\0'])
        || !name.bytes().all(|b| b.is_ascii_graphic() && b != b':')
    {
        return Err(Error::Arg(format!("the header {name} is not one line")));
    }
    if value.is_ascii() {
        return Ok(format!("{name}: {value}\r\n"));
    }
    // Words of at most 75 characters, cut between characters.
    let (mut words, mut word) = (Vec::new(), String::new());
    for c in value.chars() {
        if word.len() + c.len_utf8() > 42 {
            words.push(std::mem::take(&mut word));
        }
        word.push(c);
    }
    words.push(word);
    let coded = words.iter().map(|w| format!("=?UTF-8?B?{}?=", BASE64_STANDARD.encode(w)));
    Ok(format!("{name}: {}\r\n", coded.collect::<Vec<_>>().join("\r\n ")))
}

fn message(env: &Env, mail: &Mail) -> Result<String, Error> {
    let now = vql::Time::try_from(env.clock.now()).unwrap_or(vql::Time::UNIX_EPOCH);
    let date = now.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string();
    let host = mail.from.rsplit('@').next().unwrap_or("localhost").trim_end_matches('>');
    let id = format!("<{:016x}{:016x}@{host}>", env.entropy.next_u64(), env.entropy.next_u64());
    let mut out = header("From", &mail.from)? + &header("To", &mail.to.join(", "))?;
    if !mail.cc.is_empty() {
        out += &header("Cc", &mail.cc.join(", "))?;
    }
    let own = [
        ("Subject", mail.subject.as_str()),
        ("Date", date.as_str()),
        ("Message-ID", id.as_str()),
        ("MIME-Version", "1.0"),
        ("Content-Type", "text/plain; charset=UTF-8"),
        ("Content-Transfer-Encoding", "8bit"),
    ];
    let given = |name: &str| mail.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    for (name, value) in own.into_iter().filter(|(n, _)| !given(n)) {
        out += &header(name, value)?;
    }
    for (name, value) in &mail.headers {
        out += &header(name, value)?;
    }
    out += "\r\n";
    for line in mail.body.lines() {
        // A line that is a dot would end it.
        if line.starts_with('.') {
            out.push('.');
        }
        out += line;
        out += "\r\n";
    }
    Ok(out + ".\r\n")
}

/// A conversation with a server.
struct Talk {
    io: BufReader<Conn>,
    secure: bool,
}

impl Talk {
    /// The server's answer: its code and lines.
    async fn answer(&mut self) -> Result<(u16, Vec<String>), Error> {
        let mut lines = Vec::new();
        while lines.len() < LINES {
            let mut line = Vec::new();
            let mut limited = (&mut self.io).take(LINE);
            limited.read_until(b'\n', &mut line).await.map_err(Error::failed)?;
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            let code: Option<u16> = text.get(..3).and_then(|c| c.parse().ok());
            let code = code.ok_or_else(|| Error::failed(format!("no mail server: {text}")))?;
            let more = text.as_bytes().get(3) == Some(&b'-');
            lines.push(text.get(4..).unwrap_or_default().to_owned());
            if !more {
                return Ok((code, lines));
            }
        }
        Err(Error::failed("the mail server does not come to an end"))
    }

    /// Says something; the answer must begin with this digit.
    async fn say(&mut self, text: &str, wanted: u16) -> Result<Vec<String>, Error> {
        self.io.get_mut().write_all(text.as_bytes()).await.map_err(Error::failed)?;
        self.io.get_mut().flush().await.map_err(Error::failed)?;
        self.expect(wanted).await
    }

    async fn expect(&mut self, wanted: u16) -> Result<Vec<String>, Error> {
        let (code, lines) = self.answer().await?;
        match code / 100 == wanted {
            true => Ok(lines),
            false => Err(Error::failed(format!("{code} {}", lines.join(" ")))),
        }
    }
}

async fn deliver(env: &Env, mail: &Mail, message: &str) -> Result<(), Error> {
    let from = address(&mail.from)?;
    let to = mail.to.iter().chain(&mail.cc).map(|a| address(a)).collect::<Result<Vec<_>, _>>()?;
    let trust =
        Trust { skip_verify: mail.skip_verify, root_ca: mail.root_ca.clone(), alpn: Vec::new() };
    let mut io = env.net.connect(&mail.server, mail.port).await.map_err(Error::failed)?;
    let secure = mail.port == SECURE;
    if secure {
        io = encrypt(env, io, &mail.server, &trust).await.map_err(Error::failed)?;
    }
    let mut talk = Talk { io: BufReader::new(io), secure };
    talk.expect(2).await?;
    let mut can = talk.say("EHLO localhost\r\n", 2).await?;
    let has = |can: &[String], what: &str| {
        can.iter()
            .any(|l| l.split_whitespace().next().is_some_and(|w| w.eq_ignore_ascii_case(what)))
    };
    if !talk.secure && has(&can, "STARTTLS") {
        talk.say("STARTTLS\r\n", 2).await?;
        // What came before the encryption does not count after it.
        let io = encrypt(env, talk.io.into_inner(), &mail.server, &trust)
            .await
            .map_err(Error::failed)?;
        talk = Talk { io: BufReader::new(io), secure: true };
        can = talk.say("EHLO localhost\r\n", 2).await?;
    }
    if !mail.user.is_empty() && has(&can, "AUTH") {
        let near = matches!(mail.server.as_str(), "localhost" | "127.0.0.1" | "::1");
        if !talk.secure && !near {
            return Err(Error::failed("the server does not encrypt: no password is given to it"));
        }
        let plain = format!("\0{}\0{}", mail.user, mail.password);
        let line = format!("AUTH PLAIN {}\r\n", BASE64_STANDARD.encode(plain));
        talk.say(&line, 2).await?;
    }
    talk.say(&format!("MAIL FROM:<{from}>\r\n"), 2).await?;
    for one in to {
        talk.say(&format!("RCPT TO:<{one}>\r\n"), 2).await?;
    }
    talk.say("DATA\r\n", 3).await?;
    talk.say(message, 2).await?;
    // It has it now; how it says good-bye does not matter.
    let _ = talk.say("QUIT\r\n", 2).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_writes_headers_through_a_value() {
        assert!(header("Subject", "a\r\nBcc: x@y").is_err());
        assert!(address("a@b\r\nRCPT TO:<x@y>").is_err());
        assert!(address("nobody").is_err());
        assert_eq!(address("Some One <a@b.c>").unwrap(), "a@b.c");
        assert_eq!(header("Subject", "plain").unwrap(), "Subject: plain\r\n");
        assert_eq!(header("Subject", "ä").unwrap(), "Subject: =?UTF-8?B?w6Q=?=\r\n");
        let long = header("Subject", &"ä".repeat(60)).unwrap();
        assert!(long.lines().all(|l| l.len() < 80), "{long}");
    }
}
