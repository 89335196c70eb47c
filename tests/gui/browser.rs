//! A browser without a screen, worked as a person works it: clicks go where an
//! element is seen, text is typed, keys are pressed. It speaks the DevTools protocol.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

/// How long anything may take to show: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub struct Browser {
    child: Child,
    socket: WebSocket<TcpStream>,
    session: String,
    next: u64,
    base: String,
    _profile: tempfile::TempDir,
    /// What scripts and the browser itself complained about.
    pub complaints: Vec<String>,
    /// Clicks so far.
    pub clicks: usize,
    events: VecDeque<Value>,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Browser {
    /// Starts one for the pages at `base`; `None`, and a word about it, where there
    /// is no browser.
    pub fn start(base: &str) -> Option<Browser> {
        let program =
            std::env::var("VELOCIRAPTOR_TEST_BROWSER").unwrap_or_else(|_| "chromium".into());
        if Command::new(&program).arg("--version").output().is_err() {
            eprintln!("not run: there is no {program} on this machine");
            return None;
        }
        let profile = tempfile::tempdir().unwrap();
        let mut child = Command::new(program)
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"])
            .args(["--disable-dev-shm-usage", "--remote-debugging-port=0"])
            .args(["--ignore-certificate-errors", "--lang=en-GB", "about:blank"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .env("TZ", "Europe/Oslo")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let url = lines
            .map_while(Result::ok)
            .find_map(|l| l.strip_prefix("DevTools listening on ").map(str::to_owned));
        let url = url.expect("the browser says where it listens");
        let address = url.strip_prefix("ws://").unwrap().split('/').next().unwrap();
        let stream = TcpStream::connect(address).unwrap();
        let (socket, _) = client(url.as_str(), stream).unwrap();
        socket.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        let mut b = Browser {
            child,
            socket,
            session: String::new(),
            next: 0,
            base: base.to_owned(),
            _profile: profile,
            complaints: Vec::new(),
            clicks: 0,
            events: VecDeque::new(),
        };
        let target = b.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = b.call("Target.attachToTarget", attach);
        b.session = session["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log"] {
            b.call(&format!("{domain}.enable"), json!({}));
        }
        b.size(1280, 800);
        Some(b)
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let id = self.next;
        let mut message = json!({ "id": id, "method": method, "params": params });
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        self.socket.send(Message::text(message.to_string())).unwrap();
        loop {
            let Message::Text(text) = self.socket.read().unwrap() else { continue };
            let answer: Value = serde_json::from_str(text.as_str()).unwrap();
            if answer["id"] == id {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
            self.heard(answer);
        }
    }

    fn heard(&mut self, event: Value) {
        let p = &event["params"];
        match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => {
                self.complaints.push(p["exceptionDetails"].to_string());
            }
            Some("Log.entryAdded") if p["entry"]["level"] == "error" => {
                self.complaints.push(format!("{} {}", p["entry"]["text"], p["entry"]["url"]));
            }
            Some("Page.javascriptDialogOpening") => {
                self.complaints.push(format!("a dialog of a script: {}", p["message"]));
            }
            _ => {}
        }
        self.events.push_back(event);
        self.events.truncate(100);
    }

    /// The window's size.
    pub fn size(&mut self, width: u32, height: u32) {
        let p =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", p);
    }

    /// Opens an address.
    pub fn open(&mut self, path: &str) {
        let url = format!("{}{path}", self.base);
        self.call("Page.navigate", json!({ "url": url }));
        self.until("the document is there", "document.readyState === 'complete'");
    }

    /// The value of an expression in the page.
    pub fn eval(&mut self, script: &str) -> Value {
        let p = json!({ "expression": script, "awaitPromise": true, "returnByValue": true });
        let r = self.call("Runtime.evaluate", p);
        assert!(r["exceptionDetails"].is_null(), "{script}: {}", r["exceptionDetails"]);
        r["result"]["value"].clone()
    }

    /// The text of the page, as it is seen.
    pub fn text(&mut self) -> String {
        self.eval("document.body.innerText").as_str().unwrap_or_default().to_owned()
    }

    /// Waits until a condition holds.
    pub fn until(&mut self, what: &str, condition: &str) {
        let end = Instant::now() + PATIENCE;
        let script =
            format!("(() => {{ try {{ return !!({condition}) }} catch {{ return false }} }})()");
        while self.eval(&script) != true {
            if Instant::now() > end {
                let (text, said) = (self.text(), self.complaints.join("\n"));
                panic!("never: {what} ({condition}); the page says:\n{text}\n{said}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the page shows a text.
    pub fn shows(&mut self, text: &str) {
        let wanted = Value::from(text).to_string();
        self.until(text, &format!("document.body.innerText.includes({wanted})"));
    }

    /// Clicks the middle of an element that a script finds, where it is seen.
    fn click_at(&mut self, what: &str, finder: &str) {
        self.until(what, &format!("({finder}) && !({finder}).disabled"));
        let place = self.eval(&format!(
            "(() => {{ const e = {finder}; e.scrollIntoView({{block: 'nearest'}}); \
             const r = e.getBoundingClientRect(); const x = r.x + r.width / 2, y = r.y + r.height / 2; \
             const top = document.elementFromPoint(x, y); \
             return [x, y, !!top && (e.contains(top) || top.contains(e) || !!top.closest('label')?.contains(e))] }})()"
        ));
        assert_eq!(place[2], true, "{what} is covered by something else");
        for kind in ["mousePressed", "mouseReleased"] {
            let p = json!({ "type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", p);
        }
        self.clicks += 1;
    }

    /// Clicks what a selector finds first.
    pub fn click(&mut self, selector: &str) {
        let finder = format!("document.querySelector({})", Value::from(selector));
        self.click_at(selector, &finder);
    }

    /// Clicks the first visible button or link with this text, or one that begins so.
    pub fn press(&mut self, text: &str) {
        let finder = format!(
            "(() => {{ const all = [...document.querySelectorAll('button, a, summary, label')]\
             .filter(e => e.checkVisibility()); \
             return all.find(e => e.innerText.trim().split('\\n')[0] === {t}) ?? \
             all.find(e => e.innerText.trim().startsWith({t}) || (e.title || '').startsWith({t})) }})()",
            t = Value::from(text)
        );
        self.click_at(text, &finder);
    }

    /// Types into what has the focus.
    pub fn types(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text }));
    }

    /// Presses a key.
    pub fn key(&mut self, key: &str) {
        let text = match key {
            "Enter" => "\r",
            k if k.len() == 1 => k,
            _ => "",
        };
        for kind in ["keyDown", "keyUp"] {
            let mut p = json!({ "type": kind, "key": key });
            if kind == "keyDown" && !text.is_empty() {
                p["text"] = text.into();
            }
            if key == "Enter" {
                p["windowsVirtualKeyCode"] = 13.into();
            }
            self.call("Input.dispatchKeyEvent", p);
        }
    }

    /// Pictures of the page, if a folder for them is named: as it is, dark, and on a
    /// tablet held upright.
    pub fn shot(&mut self, name: &str) {
        let Ok(folder) = std::env::var("VELOCIRAPTOR_TEST_SHOTS") else { return };
        std::fs::create_dir_all(&folder).unwrap();
        let dark = |on: bool| json!({ "features": [{ "name": "prefers-color-scheme", "value": if on { "dark" } else { "light" } }] });
        for (kind, is_dark, (width, height)) in [
            ("", false, (1280, 800)),
            ("-dark", true, (1280, 800)),
            ("-tablet", false, (900, 1100)),
        ] {
            self.call("Emulation.setEmulatedMedia", dark(is_dark));
            self.size(width, height);
            std::thread::sleep(Duration::from_millis(400));
            let picture = self.call("Page.captureScreenshot", json!({ "format": "png" }));
            let data = picture["data"].as_str().unwrap();
            let data = base64::engine::general_purpose::STANDARD.decode(data).unwrap();
            std::fs::write(format!("{folder}/{name}{kind}.png"), data).unwrap();
        }
        self.size(1280, 800);
    }

    /// Nothing went wrong in the page so far.
    pub fn is_content(&mut self) {
        assert!(self.complaints.is_empty(), "{}", self.complaints.join("\n"));
    }
}
