//! Commands of this program, run as a visitor would run them, and the list of
//! them for whoever wants to repeat that by hand.

use std::process::Stdio;

use anyhow::Context as _;
use tokio::process::Command;

/// Runs commands in one directory and remembers them.
#[derive(Debug)]
pub struct Commands {
    program: std::path::PathBuf,
    dir: String,
    list: Vec<String>,
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

impl Commands {
    /// To be run in `dir`.
    pub fn new(dir: &str) -> anyhow::Result<Commands> {
        let program = std::env::current_exe().context("this program's own file")?;
        let list = vec![
            format!("# {} is {}", crate::PRODUCT, program.display()),
            format!("cd {}", quoted(dir)),
        ];
        Ok(Commands { program, dir: dir.to_owned(), list })
    }

    /// All so far, as lines for a shell.
    pub fn list(&self) -> &[String] {
        &self.list
    }

    /// Remembers a line that something else than a child process did.
    pub fn note(&mut self, line: String) {
        self.list.push(line);
    }

    /// The text of a call of this program.
    pub fn text(args: &[&str]) -> String {
        let words: Vec<String> = args.iter().map(|a| quoted(a)).collect();
        format!("{} {}", crate::PRODUCT, words.join(" "))
    }

    /// A call of this program, not started; remembered.
    pub fn prepare(&mut self, args: &[&str], more: &str) -> Command {
        self.list.push(Self::text(args) + more);
        self.silent(args)
    }

    /// A call of this program, not started and not remembered.
    pub fn silent(&self, args: &[&str]) -> Command {
        let mut c = Command::new(&self.program);
        // A group of its own: Ctrl-C at the terminal is for this process.
        c.args(args).current_dir(&self.dir).stdin(Stdio::null()).process_group(0);
        c.kill_on_drop(true);
        for name in ["CONFIG", "API_CONFIG", "SETTINGS"] {
            c.env_remove(format!("VELOCIRAPTOR_{name}"));
        }
        c
    }

    /// Runs a call to its end; its standard output.
    pub async fn run(&mut self, args: &[&str], more: &str) -> anyhow::Result<String> {
        let mut command = self.prepare(args, more);
        finished(&mut command, &Self::text(args)).await
    }

    /// Runs another program to its end.
    pub async fn other(&mut self, words: &[&str]) -> anyhow::Result<()> {
        let (Some(program), rest) = (words.first(), words.get(1..).unwrap_or_default()) else {
            return Ok(());
        };
        let text = words.iter().map(|w| quoted(w)).collect::<Vec<_>>().join(" ");
        self.list.push(text.clone());
        let mut c = Command::new(program);
        c.args(rest).current_dir(&self.dir).stdin(Stdio::null()).kill_on_drop(true);
        finished(&mut c, &text).await.map(drop)
    }
}

async fn finished(command: &mut Command, text: &str) -> anyhow::Result<String> {
    let out = command.output().await.with_context(|| text.to_owned())?;
    if !out.status.success() {
        anyhow::bail!("{text}: {}: {}", out.status, String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_for_a_shell() {
        let text = Commands::text(&["query", "SELECT 'a' FROM scope()", "--config=x.yaml", ""]);
        assert_eq!(text, r"velociraptor query 'SELECT '\''a'\'' FROM scope()' --config=x.yaml ''");
    }
}
