//! The terminal: keys without Enter, and a picture drawn over the last one.
//! Put back as it was when this is dropped.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::env::Env;

/// How often a key is looked for.
const LOOK: Duration = Duration::from_millis(50);

/// A terminal that was taken over.
pub struct Terminal {
    before: Termios,
}

impl std::fmt::Debug for Terminal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Terminal")
    }
}

impl Terminal {
    /// Takes it over; `None` when standard input or output is something else.
    pub fn open() -> Option<Terminal> {
        if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
            return None;
        }
        let before = tcgetattr(std::io::stdin()).ok()?;
        let mut now = before.clone();
        now.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        // A read returns at once, with a key or without.
        now.special_codes[SpecialCodeIndex::VMIN] = 0;
        now.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(std::io::stdin(), OptionalActions::Now, &now).ok()?;
        let t = Terminal { before };
        t.write("\x1b[?1049h\x1b[?25l");
        Some(t)
    }

    /// Keys as they are pressed, until the process ends.
    pub fn keys(&self, env: &Env) -> mpsc::Receiver<char> {
        let (tx, rx) = mpsc::channel(16);
        env.spawn(async move {
            let mut byte = [0u8];
            while let Ok(n) = rustix::io::read(std::io::stdin(), &mut byte) {
                if n == 0 {
                    sleep(LOOK).await;
                } else if tx.send(char::from(byte[0])).await.is_err() {
                    return;
                }
            }
        });
        rx
    }

    /// Draws, cut to what fits.
    pub fn draw(&self, lines: &[String]) {
        let size = tcgetwinsize(std::io::stdout()).map(|s| (s.ws_row, s.ws_col));
        let (rows, columns) = match size {
            Ok((r, c)) if r > 1 && c > 1 => (usize::from(r), usize::from(c)),
            _ => (24, 80),
        };
        let mut text = String::from("\x1b[H");
        for line in lines.iter().take(rows - 1) {
            text.extend(line.chars().take(columns));
            text.push_str("\x1b[K\n");
        }
        text.push_str("\x1b[J");
        self.write(&text);
    }

    fn write(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.write("\x1b[?25h\x1b[?1049l");
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}
