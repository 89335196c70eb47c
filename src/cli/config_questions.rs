//! The questions of `config generate -i`, in stock's order as far as they apply.

use std::io::{self, BufRead, Write};

use crate::config::generate::Choices;

/// What was answered.
#[derive(Debug)]
pub struct Answers {
    /// For the configuration.
    pub choices: Choices,
    /// Where to write it.
    pub output: String,
}

/// Questions on one stream, answers from another.
pub struct Session<'a> {
    /// Where answers come from.
    pub input: &'a mut dyn BufRead,
    /// Where questions go.
    pub out: &'a mut dyn Write,
}

impl Session<'_> {
    /// One answer, the default if it is empty, asked again until `parse` takes it.
    pub fn ask<T>(
        &mut self,
        question: &str,
        default: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> io::Result<T> {
        loop {
            if default.is_empty() {
                write!(self.out, "{question}: ")?;
            } else {
                write!(self.out, "{question} [{default}]: ")?;
            }
            self.out.flush()?;
            let line = self.line()?;
            let answer = if line.is_empty() { default } else { &line };
            match parse(answer) {
                Ok(v) => return Ok(v),
                Err(e) => writeln!(self.out, "  {e}")?,
            }
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.input.read_line(&mut line)? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answers ended early"));
        }
        Ok(line.trim().to_owned())
    }

    /// Yes or no.
    pub fn yes(&mut self, question: &str, default: bool) -> io::Result<bool> {
        self.ask(question, if default { "yes" } else { "no" }, |a| {
            match a.to_ascii_lowercase().as_str() {
                "y" | "yes" => Ok(true),
                "n" | "no" => Ok(false),
                _ => Err("yes or no".into()),
            }
        })
    }
}

fn path(a: &str) -> Result<String, String> {
    if a.starts_with('/') && a.len() > 1 {
        Ok(a.trim_end_matches('/').to_owned())
    } else {
        Err("an absolute path".into())
    }
}

/// A port number.
pub fn port(a: &str) -> Result<u16, String> {
    a.parse().ok().filter(|p| *p > 0).ok_or("a port from 1 to 65535".into())
}

/// A DNS name or an address.
pub fn host(a: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if !a.is_empty() && (a.chars().all(good) || a.parse::<std::net::IpAddr>().is_ok()) {
        Ok(a.to_owned())
    } else {
        Err("a DNS name or an address".into())
    }
}

/// Asks everything. With `hide`, passwords are not shown if this is a terminal.
pub fn ask(input: &mut dyn BufRead, out: &mut dyn Write, hide: bool) -> io::Result<Answers> {
    let mut s = Session { input, out };
    let d = Choices::default();
    writeln!(
        s.out,
        "A new deployment with its own CA. Press Enter for the answer in brackets.\n\
         (Certificates of a public CA and single sign-on are not offered.)\n"
    )?;
    let datastore = s.ask("Directory of the datastore", "/opt/velociraptor", path)?;
    let logs = s.ask("Directory of log files", &format!("{datastore}/logs"), path)?;
    let years =
        s.ask("Internal certificates are valid for 1, 2 or 10 years", "1", |a| match a {
            "1" => Ok(1),
            "2" => Ok(2),
            "10" => Ok(10),
            _ => Err("1, 2 or 10".to_owned()),
        })?;
    let registry_writeback =
        s.yes("Should agents on Windows keep their state in the registry", false)?;
    let hostname = s.ask("Public DNS name of the master frontend", &d.hostname, host)?;
    let websocket = s.yes("Should agents use WebSockets", false)?;
    let frontend_port = s.ask("Port agents connect to", &d.frontend_port.to_string(), port)?;
    let gui_port = loop {
        let p = s.ask("Port of the GUI", &d.gui_port.to_string(), port)?;
        if p != frontend_port {
            break p;
        }
        writeln!(s.out, "  agents use that one")?;
    };
    let mut users: Vec<(String, String)> = Vec::new();
    writeln!(s.out, "\nUsers with every right; an empty name ends the list.")?;
    loop {
        let name = s.ask("User name", "", |a| {
            if a.chars().all(|c| c.is_ascii_alphanumeric() || "@.-_#+".contains(c)) {
                Ok(a.to_owned())
            } else {
                Err("letters, digits and @ . - _ # +".into())
            }
        })?;
        if name.is_empty() {
            break;
        }
        if users.iter().any(|(n, _)| *n == name) {
            writeln!(s.out, "  there is one of that name already")?;
            continue;
        }
        let password = {
            let _hidden = hide.then(Hidden::start).flatten();
            s.ask("Password", "", |a| {
                if a.is_empty() { Err("must not be empty".into()) } else { Ok(a.to_owned()) }
            })?
        };
        if hide {
            writeln!(s.out)?;
        }
        users.push((name, password));
    }
    let output =
        s.ask("Where should the configuration be written", "./server.config.yaml", |a| {
            if a.ends_with('/') { Err("a file".to_owned()) } else { Ok(a.to_owned()) }
        })?;
    let choices = Choices {
        hostname,
        frontend_port,
        gui_port,
        websocket,
        datastore,
        logs,
        validity_days: years * 365,
        registry_writeback,
        users,
    };
    Ok(Answers { choices, output })
}

/// A terminal that does not show what is typed, until dropped.
struct Hidden(rustix::termios::Termios);

impl Hidden {
    fn start() -> Option<Self> {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        let tty = rustix::stdio::stdin();
        let before = tcgetattr(tty).ok()?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(tty, OptionalActions::Flush, &quiet).ok()?;
        Some(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        use rustix::termios::{OptionalActions, tcsetattr};
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(answers: &str) -> (io::Result<Answers>, String) {
        let mut out = Vec::new();
        let r = ask(&mut answers.as_bytes(), &mut out, false);
        (r, String::from_utf8(out).unwrap())
    }

    #[test]
    fn defaults_by_pressing_enter() {
        let (a, _) = run(&"\n".repeat(11));
        let a = a.unwrap();
        assert_eq!(a.output, "./server.config.yaml");
        let want = Choices {
            datastore: "/opt/velociraptor".into(),
            logs: "/opt/velociraptor/logs".into(),
            ..Choices::default()
        };
        assert_eq!(a.choices, want);
    }

    #[test]
    fn bad_answers_are_asked_again() {
        let (a, out) =
            run("data\n/srv/v/\n\n3\n10\nmaybe\ny\nbad host\nv.example.org\ny\n0\n443\n\
                            443\n8443\nmike\n\nsecret\nmike\nann\nx y\n\n/etc/\n/etc/v.yaml\n");
        let a = a.unwrap();
        assert_eq!(a.output, "/etc/v.yaml");
        let c = a.choices;
        assert_eq!((c.datastore.as_str(), c.logs.as_str()), ("/srv/v", "/srv/v/logs"));
        assert_eq!((c.validity_days, c.registry_writeback, c.websocket), (3650, true, true));
        assert_eq!((c.frontend_port, c.gui_port), (443, 8443));
        assert_eq!(c.hostname, "v.example.org");
        let want = [("mike", "secret"), ("ann", "x y")].map(|(a, b)| (a.into(), b.into()));
        assert_eq!(c.users, want);
        for part in ["absolute path", "1, 2 or 10", "yes or no", "agents use that", "already"] {
            assert!(out.contains(part), "{part}");
        }
        assert!(!out.contains("secret"));
    }

    #[test]
    fn an_early_end_is_an_error() {
        assert_eq!(run("/a\n").0.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
