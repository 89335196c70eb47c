//! What is done on one host: its files, a shell, its events.

use crate::browser::Browser;
use crate::deployment::Deployment;
use crate::{log_in, named};

/// Reports at once and now and then.
const EVENTS: &str = r#"name: Custom.Events.Tick
type: CLIENT_EVENT
description: Says the time.
sources:
  - query: SELECT "<i>tick</i>" AS Word, Unix FROM clock(period=1)
"#;

/// Runs on the server itself.
const SERVER_EVENTS: &str = r#"name: Custom.Server.Tock
type: SERVER_EVENT
description: Says the time, here.
parameters:
  - name: Word
sources:
  - query: SELECT Word, Unix FROM clock(period=1)
"#;

fn write_definition(b: &mut Browser, text: &str) {
    b.open("/app/artifacts?view=edit");
    b.shows("The definition is valid.");
    b.eval("document.querySelector('.editor').focus(); document.querySelector('.editor').select()");
    b.types(text);
    b.until(
        "it is valid",
        "document.querySelector('.note.ok') && !document.querySelector('.note.err')",
    );
    b.press("Save");
    b.until("it is read", "location.search.includes('name=Custom.')");
}

/// What the server watches is chosen with its parameters.
fn server_table(b: &mut Browser) {
    b.press("What the server watches");
    b.until(
        "what may be added",
        "document.querySelector('select option[value=\"Custom.Server.Tock\"]')",
    );
    named(b, "server-monitoring");
    b.eval("(() => { const s = document.querySelector('main select'); s.value = 'Custom.Server.Tock'; s.dispatchEvent(new Event('change')) })()");
    b.click("[aria-label='Parameters of Custom.Server.Tock']");
    b.until("the dialog", "document.querySelector('dialog [name=Word]')");
    b.eval("document.querySelector('dialog [name=Word]').focus()");
    b.types("<b>tock</b>");
    b.press("Set");
    b.shows("Word=<b>tock</b>");
    b.shot("server-monitoring");
    b.press("Save");
    b.shows("Saved: the server runs these from now on");
    b.press("Server events");
}

fn open_host(b: &mut Browser, d: &Deployment) -> String {
    b.open("/app/clients");
    log_in(b, "admin", &d.password);
    b.click("tbody a[href*='/host/']");
    b.shows("Recent collections");
    b.eval("location.pathname.split('/')[3]").as_str().unwrap().to_owned()
}

#[test]
fn files_are_listed_fetched_and_read() {
    let d = Deployment::start();
    let Some(mut b) = Browser::start(&d.base) else { return };
    let folder = d.path("evidence");
    std::fs::create_dir_all(folder.join("in <b>bold/deeper")).unwrap();
    std::fs::create_dir_all(folder.join("nothing")).unwrap();
    std::fs::write(folder.join("note.txt"), "<script>alert(9)</script>\nplain\n").unwrap();
    std::fs::write(folder.join("in <b>bold/deeper/x.bin"), [0u8; 5000]).unwrap();
    let client = open_host(&mut b, &d);
    b.press("Files");
    b.shows("Not listed yet");
    named(&mut b, "files-empty");
    b.press("List this folder");
    b.until(
        "the root is listed",
        "[...document.querySelectorAll('.results a')].some(a => a.innerText === 'etc')",
    );
    b.until(
        "and in the tree",
        "[...document.querySelectorAll('.tree a')].some(a => a.innerText.trim() === 'etc')",
    );
    named(&mut b, "files");
    b.shot("files");
    // Somewhere else, by its address.
    let mut at = String::from("at=auto");
    for part in folder.to_str().unwrap().split('/').filter(|p| !p.is_empty()) {
        at += &format!("&at={part}");
    }
    b.open(&format!("/app/host/{client}/files?{at}"));
    b.shows("Not listed yet");
    b.click("summary[aria-label=More]");
    b.press("List with 5 levels below");
    b.until("three", "document.querySelectorAll('.results tbody tr').length === 3");
    b.until(
        "names are text",
        "[...document.querySelectorAll('.results a')].some(a => a.innerText === 'in <b>bold')",
    );
    assert_eq!(b.eval("document.querySelectorAll('.results b, .tree b').length"), 0);
    // Fetched, and read here.
    b.eval("[...document.querySelectorAll('.results tbody tr')].find(r => r.innerText.startsWith('note.txt')).querySelector('td:nth-child(2)').click()");
    b.press("Fetch from the host");
    b.until("its text", "document.querySelector('aside pre.value')?.innerText.includes('<script>alert(9)</script>')");
    b.shows("SHA-256");
    b.until("it is marked", "[...document.querySelectorAll('.results tbody tr')].some(r => r.innerText.includes('note.txt') && r.innerText.includes('fetched'))");
    named(&mut b, "files-fetched");
    b.shot("files-fetched");
    let length = b.eval("fetch([...document.querySelectorAll('aside a[download]')][0].href).then(r => r.arrayBuffer()).then(a => a.byteLength)");
    assert_eq!(length, 32);
    // Below, without asking the host again.
    b.eval("[...document.querySelectorAll('.results a')].find(a => a.innerText === 'in <b>bold').click()");
    b.until(
        "one folder",
        "[...document.querySelectorAll('.results a')].some(a => a.innerText === 'deeper')",
    );
    b.eval("document.activeElement?.blur()");
    b.key("u");
    b.until("above", "document.querySelectorAll('.results tbody tr').length === 3");
    // An empty folder is one, once it was listed.
    b.eval(
        "[...document.querySelectorAll('.results a')].find(a => a.innerText === 'nothing').click()",
    );
    b.shows("Not listed yet");
    b.press("List this folder");
    b.shows("This folder is empty");
    // What the host cannot do is said.
    b.open(&format!("/app/host/{client}/files?at=auto&at=no&at=such"));
    b.press("List this folder");
    b.until(
        "it ends",
        "document.querySelector('#list') && !document.querySelector('#list').disabled",
    );
    b.is_content();
    // Stock's names of these calls give the same.
    let listed = b.eval(&format!("fetch('/api/v1/VFSListDirectory/{client}?vfs_components=auto').then(r => r.json()).then(r => JSON.parse(r.Response).map(x => x.Name).includes('etc'))"));
    assert_eq!(listed, true);
}

/// One shell for several commands, as in a terminal, until it is ended.
fn kept_shell(b: &mut Browser) {
    b.types("cd /usr; word=kept");
    b.key("Enter");
    b.until("the shell is open", "document.querySelector('.shell .state')?.innerText === 'Open'");
    b.until("its command", "document.querySelector('.term b')?.innerText.includes('cd /usr')");
    b.types("pwd; echo $word >&2");
    b.key("Enter");
    b.until("where it is", "document.querySelector('.term')?.innerText.includes('\\n/usr\\n')");
    b.until("what it knows", "document.querySelector('.term .t-err')?.innerText === 'kept\\n'");
    assert_eq!(b.eval("document.querySelectorAll('.shell > li').length"), 1, "one collection");
    b.press("End");
    b.until("it is ended", "document.querySelector('.shell .state').innerText === 'Ended'");
}

#[test]
fn a_shell_keeps_its_history() {
    let d = Deployment::start();
    let Some(mut b) = Browser::start(&d.base) else { return };
    let client = open_host(&mut b, &d);
    b.open(&format!("/app/host/{client}/shell"));
    b.shows("Nothing was run here yet");
    b.until("the prompt has the focus", "document.activeElement?.name === 'command'");
    named(&mut b, "shell-empty");
    kept_shell(&mut b);
    b.click("[name=keep]");
    b.eval("document.querySelector('[name=command]').focus()");
    b.types("echo '<b>one</b>'; echo bad >&2; exit 3");
    b.key("Enter");
    b.until(
        "what it wrote",
        "document.querySelectorAll('.term')[1]?.innerText.includes('<b>one</b>\\n')",
    );
    b.until(
        "and its errors",
        "document.querySelectorAll('.term')[1]?.querySelector('.t-err')?.innerText.includes('bad')",
    );
    b.shows("exit 3");
    b.until(
        "it is over",
        "document.querySelectorAll('.shell .state')[1].innerText.includes('Finished')",
    );
    b.types("printf '\\033[31mred\\033[0m\\007'");
    b.key("Enter");
    b.until(
        "colours are left out",
        "document.querySelectorAll('.term')[2]?.innerText === 'red\\\\x07'",
    );
    // The arrow brings commands back.
    b.key("ArrowUp");
    b.until("the last", "document.activeElement.value.startsWith('printf')");
    b.key("ArrowUp");
    b.until("the first", "document.activeElement.value.startsWith('echo')");
    b.eval("document.activeElement.value = ''");
    b.types("sleep 600");
    b.key("Enter");
    b.until("a fourth", "document.querySelectorAll('.shell > li').length === 4");
    b.press("Stop");
    b.until(
        "it is stopped",
        "document.querySelector('.shell > li:last-child .state').innerText.includes('Cancelled')",
    );
    named(&mut b, "shell");
    b.shot("shell");
    // Another day, the same history.
    b.open(&format!("/app/host/{client}/shell"));
    b.until("four", "document.querySelectorAll('.shell > li').length === 4");
    b.is_content();
}

#[test]
fn events_are_chosen_and_seen_as_they_come() {
    let d = Deployment::start();
    let Some(mut b) = Browser::start(&d.base) else { return };
    std::fs::write(d.path("tick.yaml"), EVENTS).unwrap();
    let client = open_host(&mut b, &d);
    write_definition(&mut b, EVENTS);
    write_definition(&mut b, SERVER_EVENTS);
    b.open(&format!("/app/host/{client}/events"));
    b.press("What hosts report");
    b.until(
        "what may be added",
        "document.querySelector('select option[value=\"Custom.Events.Tick\"]')",
    );
    named(&mut b, "monitoring");
    b.eval("(() => { const s = document.querySelector('main select'); s.value = 'Custom.Events.Tick'; s.dispatchEvent(new Event('change')) })()");
    b.shows("Not saved yet.");
    b.shot("monitoring");
    b.press("Save");
    b.shows("Saved: hosts that are connected are told at once");
    b.open(&format!("/app/host/{client}/events?name=Custom.Events.Tick"));
    b.until(
        "rows come",
        "[...document.querySelectorAll('.results td')].some(t => t.innerText === '<i>tick</i>')",
    );
    let before = b.eval(
        "+document.querySelector('.tbl-foot').innerText.match(/of ([\\d,]+)/)[1].replace(',', '')",
    );
    b.until("and more, by themselves", &format!("+document.querySelector('.tbl-foot').innerText.match(/of ([\\d,]+)/)[1].replace(',', '') > {before}"));
    named(&mut b, "events");
    b.shot("events");
    // The server's own: who did what.
    b.press("Server events");
    server_table(&mut b);
    b.until(
        "the audit log",
        "[...document.querySelectorAll('.tree a')].some(a => a.innerText === 'Server.Audit.Logs')",
    );
    b.eval("[...document.querySelectorAll('.tree a')].find(a => a.innerText === 'Server.Audit.Logs').click()");
    b.until("its rows", "[...document.querySelectorAll('.results td')].some(t => t.innerText === 'SetClientMonitoringState')");
    b.eval("document.activeElement?.blur()");
    b.key("f");
    b.until("filters", "document.querySelector('tr.filters input[data-column=operation]')");
    b.eval("document.querySelector('tr.filters input[data-column=operation]').focus()");
    b.types("^Login$");
    b.key("Enter");
    b.until("one kind", "document.querySelector('.tbl-foot').innerText.includes('before filters')");
    named(&mut b, "server-events");
    b.shot("server-events");
    b.is_content();
    b.until(
        "rows of what the server watches",
        "[...document.querySelectorAll('.tree a')].some(a => a.innerText === 'Custom.Server.Tock')",
    );
    let stock = b.eval(&format!("fetch('/api/v1/ListAvailableEventResults', {{method: 'POST', headers: {{'x-csrf-token': document.documentElement.dataset.token}}, body: JSON.stringify({{client_id: '{client}', artifact: 'Custom.Events.Tick'}})}}).then(r => r.json()).then(r => r.logs[0].row_timestamps.length)"));
    assert_eq!(stock, 1);
}
