//! The web GUI in a real browser, with a real server and our agent: from an empty
//! folder to process rows, and each screen as somebody works it.
//!
//! `VELOCIRAPTOR_TEST_BROWSER` names the browser (`chromium`); where there is none,
//! these tests say so and test nothing. With `VELOCIRAPTOR_TEST_SHOTS=/folder` they
//! leave pictures of every screen there, light, dark and on a tablet:
//!
//!     VELOCIRAPTOR_TEST_SHOTS=/tmp/shots cargo test --workspace --test gui
#![allow(clippy::disallowed_methods, clippy::disallowed_types, missing_docs)]

mod browser;
mod deployment;
mod endpoint;
mod notebooks;
mod people;
#[path = "../common/ports.rs"]
mod ports;
mod provider;

use browser::Browser;
use deployment::Deployment;

/// A definition whose rows want to be more than text.
const HOSTILE: &str = r#"name: Custom.Hostile
description: Rows that want to be more than text.
parameters:
  - name: Word
    description: Only markup that matches.
    type: regex
    default: .
  - name: Loud
    type: bool
sources:
  - query: |
      SELECT _value AS N, "<img src=x onerror=alert(1)>" AS Markup, "=1+1" AS Formula,
             "\x1b[31mred" AS Colour, dict(deep="<script>alert(2)</script>") AS Deep
      FROM range(end=120) WHERE Markup =~ Word AND log(message="<b>line</b> %v", args=_value)
"#;

const SLOW: &str = r"name: Custom.Slow
sources:
  - query: SELECT _value AS N, sleep(time=1) AS Slept FROM range(end=900)
";

fn log_in(b: &mut Browser, user: &str, password: &str) {
    b.until(
        "the log-in",
        "document.activeElement?.id === 'user' || document.activeElement?.id === 'password'",
    );
    if b.eval("document.activeElement.id") == "user" {
        b.types(user);
        b.key("Tab");
        b.eval("document.getElementById('password').focus()");
    }
    b.types(password);
    b.press("Sign in");
}

/// Nothing on a screen keeps people out: contrast, names, structure, keys.
fn named(b: &mut Browser, screen: &str) {
    let wrong = b.eval(include_str!("accessible.js"));
    assert_eq!(wrong, serde_json::json!([]), "{screen}");
}

#[test]
fn from_an_empty_folder_to_process_rows_in_five_clicks() {
    let began = std::time::Instant::now();
    let d = Deployment::start();
    let Some(mut b) = Browser::start(&d.base) else { return };
    b.open("/app/clients");
    b.shot("login");
    log_in(&mut b, "admin", &d.password);
    b.click("tbody a[href*='/host/']");
    b.press("Processes");
    b.until("rows of processes", "document.querySelectorAll('.results tbody tr').length > 3");
    b.until(
        "our agent is among them",
        "+document.getElementById('rows').innerText.replace(/\\D/g, '') > 3",
    );
    assert!(b.clicks <= 5, "{} clicks", b.clicks);
    eprintln!("{} clicks, {:.1} s from an empty folder", b.clicks, began.elapsed().as_secs_f64());
    b.is_content();
}

#[test]
fn a_deployment_without_clients_says_what_to_do() {
    let d = Deployment::without_agent();
    let Some(mut b) = Browser::start(&d.base) else { return };
    b.open("/app/clients");
    log_in(&mut b, "admin", &d.password);
    b.shows("No client has enrolled yet");
    b.shows("client.config.yaml");
    named(&mut b, "first");
    b.shot("first-run");
    b.open("/app/host/C.0123456789abcdef");
    b.shows("No such client");
    b.complaints.clear();
    b.open("/app/nowhere");
    b.shows("No client has enrolled yet");
    b.is_content();
}

#[test]
fn each_screen_is_worked() {
    let d = Deployment::start();
    let Some(mut b) = Browser::start(&d.base) else { return };
    wrong_password(&mut b);
    log_in(&mut b, "admin", &d.password);
    clients(&mut b);
    host(&mut b);
    artifacts(&mut b);
    tools(&mut b);
    wizard(&mut b);
    results(&mut b);
    collection(&mut b);
    uploads(&mut b, &d);
    cancelled(&mut b);
    hunt(&mut b);
    cluster_and_help(&mut b);
    themes(&mut b);
    b.is_content();
    what_a_reader_sees(&mut b, &d);
    b.is_content();
}

fn wrong_password(b: &mut Browser) {
    // Where somebody wanted to go is where they come out.
    b.open("/app/clients?q=host%3A*");
    log_in(b, "admin", "wrong");
    b.shows("User name or password is wrong.");
    b.shot("login-wrong");
    // The browser notes the status itself.
    b.complaints.clear();
}

fn clients(b: &mut Browser) {
    b.until(
        "the search is kept",
        "location.search.includes('q=host') && document.querySelector('tbody tr')",
    );
    b.press("All");
    b.until("one client", "document.querySelectorAll('tbody tr').length === 1 && !location.search");
    named(b, "clients");
    b.click("tbody input[type=checkbox]");
    b.shows("1 selected");
    b.shot("clients-selected");
    b.press("Label");
    b.until("the dialog", "document.activeElement?.id === 'labels'");
    b.types("IR-7, <b>bold</b>");
    b.press("Apply");
    b.until(
        "labels are shown",
        "[...document.querySelectorAll('tbody .tag')].some(t => t.innerText === '<b>bold</b>')",
    );
    b.key("/");
    b.until("the search has the focus", "document.activeElement?.name === 'q'");
    b.types("label:nobody");
    b.key("Enter");
    b.shows("No client matches");
    b.press("All clients");
    b.until("the client is back", "document.querySelector('tbody a')");
    b.shot("clients");
}

fn host(b: &mut Browser) {
    b.click("tbody a[href*='/host/']");
    b.shows("Connected");
    b.shows("Recent collections");
    named(b, "host");
    b.click("[aria-label='Remove label <b>bold</b>']");
    b.until("it is gone", "!document.querySelector('.head').innerText.includes('bold')");
    b.click(".toast:last-child button");
    b.until("it is back", "document.querySelector('.head').innerText.includes('<b>bold</b>')");
    b.press("Add");
    b.until("the dialog", "document.querySelector('dialog [name=key]')");
    b.types("department");
    b.eval("document.querySelector('dialog [name=value]').focus()");
    b.types("sales");
    b.press("Save");
    b.until(
        "metadata is shown",
        "[...document.querySelectorAll('.kv dt')].some(e => e.innerText === 'department')",
    );
    b.shot("host");
}

fn artifacts(b: &mut Browser) {
    b.press("Artifacts");
    b.shows("definitions say what can be collected");
    b.eval("document.querySelector('.band input').focus()");
    b.types("pslist");
    b.press("Linux.Sys.Pslist");
    b.shows("only where");
    named(b, "artifacts");
    b.shot("artifact");
    for text in [HOSTILE, SLOW] {
        b.open("/app/artifacts?view=edit");
        b.until("the editor", "document.querySelector('.editor')?.value.includes('name:')");
        b.shows("The definition is valid.");
        b.eval(
            "document.querySelector('.editor').focus(); document.querySelector('.editor').select()",
        );
        b.types("name: [");
        b.until("what is wrong is said", "document.querySelector('.note.err')");
        if text == HOSTILE {
            b.shot("artifact-edit");
        }
        b.eval("document.querySelector('.editor').select()");
        b.types(text);
        b.until(
            "it is valid",
            "!document.querySelector('.note.err') && document.querySelector('.note.ok')",
        );
        b.press("Lay out");
        b.until("it stays valid", "document.querySelector('.note.ok')");
        b.press("Save");
        b.until("it is read", "location.search.includes('name=Custom.')");
    }
}

/// A tool that no definition has an address for is uploaded, and then clients get it here.
fn tools(b: &mut Browser) {
    b.open("/app/artifacts?view=edit");
    b.until("the editor", "document.querySelector('.editor')?.value.includes('name:')");
    b.eval("document.querySelector('.editor').focus(); document.querySelector('.editor').select()");
    b.types(
        "name: Custom.Tool\ntools:\n- name: Helper\nsources:\n- query: SELECT Tool_Helper_HASH FROM scope()\n",
    );
    b.until(
        "it is valid",
        "document.querySelector('.note.ok') && !document.querySelector('.note.err')",
    );
    b.press("Save");
    b.shows("nowhere yet");
    b.shows("not known: it is fetched when it is first needed");
    b.eval(
        "(() => { const t = new DataTransfer(); t.items.add(new File(['hello'], 'helper.sh')); \
         const i = document.querySelector('input[type=file]'); i.files = t.files; \
         i.dispatchEvent(new Event('change')); })()",
    );
    b.shows("2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
    b.shows("helper.sh");
    b.shows("set by hand");
    b.shot("artifact-tools");
}

fn wizard(b: &mut Browser) {
    b.press("Clients");
    b.click("tbody a[href*='/host/']");
    b.shows("Recent collections");
    b.press("Collect");
    b.until(
        "the search has the focus",
        "document.activeElement?.placeholder?.includes('what it does')",
    );
    b.types("Custom.Hostile");
    b.until("one is left", "document.querySelectorAll('.list .it').length === 1");
    b.key("Enter");
    b.shows("1 chosen");
    named(b, "collect");
    b.shot("collect-artifacts");
    b.press("Next: parameters");
    b.until("fields", "document.querySelector('.field input.mono')");
    b.eval("document.querySelector('.field input.mono').focus(); document.activeElement.select()");
    b.types("img(");
    b.shows("1 field to fix");
    b.until("it cannot be launched", "document.getElementById('launch').disabled");
    b.shot("collect-parameters");
    b.eval("document.activeElement.select()");
    b.types("img");
    b.shows("1 changed from default");
    named(b, "parameters");
    b.press("Next: limits");
    b.until("limits", "document.getElementById('l-max_rows')");
    b.eval("document.getElementById('l-max_rows').focus()");
    b.types("5000");
    b.shot("collect-limits");
    b.press("Next: review");
    b.until(
        "the request",
        "document.querySelector('pre.code')?.innerText.includes('\"max_rows\": 5000')",
    );
    b.until(
        "and its value",
        "document.querySelector('pre.code').innerText.includes('\"value\": \"img\"')",
    );
    b.shot("collect-review");
    b.press("Launch");
}

fn results(b: &mut Browser) {
    b.until("rows", "document.querySelectorAll('.results tbody tr').length === 50");
    b.shows("Finished");
    // Markup is text, and nothing of it ran.
    b.until("text", "[...document.querySelectorAll('.results td')].some(t => t.innerText === '<img src=x onerror=alert(1)>')");
    assert_eq!(
        b.eval("document.querySelectorAll('.results img, .results script, .results b').length"),
        0
    );
    assert_eq!(b.eval("document.querySelector('.results .odd')?.innerText"), "\\x1b");
    named(b, "results");
    b.shot("results");
    // Sorted, largest first, on the server.
    b.press("N");
    b.until("ascending", "document.querySelector('th[aria-sort=ascending]')");
    b.press("N");
    b.until("descending", "document.querySelector('.results tbody td').innerText === '119'");
    b.key("f");
    b.until("filters", "document.activeElement?.dataset?.column === 'N'");
    b.types("!^1");
    b.key("Enter");
    b.until("fewer", "document.querySelector('.results tbody td')?.innerText === '99'");
    b.shows("before filters");
    b.shot("results-filtered");
    assert_eq!(b.eval("location.search.includes('sort=-N')"), true, "the view is an address");
    b.click(".results tbody tr:nth-child(2)");
    b.shows("Row 99");
    assert_eq!(b.eval("document.querySelectorAll('aside.pane img, aside.pane script').length"), 0);
    b.shot("results-row");
    b.eval("document.activeElement.blur()");
    b.key("j");
    b.shows("Row 98");
    b.press("Count");
    b.press("Markup");
    b.shows("1 different in 89 rows");
    b.shot("results-count");
    // What is exported passes the same filters; formulas are text.
    let csv =
        b.eval("fetch([...document.querySelectorAll('a[download]')][0].href).then(r => r.text())");
    let csv = csv.as_str().unwrap();
    assert_eq!(csv.lines().count(), 90, "{csv}");
    assert!(
        csv.starts_with("N,Markup,Formula,Colour,Deep\r\n98,")
            || csv.starts_with("N,Markup,Formula,Colour,Deep\r\n99,"),
        "{csv}"
    );
    assert!(csv.contains(",'=1+1,"), "{csv}");
}

fn collection(b: &mut Browser) {
    b.press("Overview");
    b.shows("Course");
    named(b, "overview");
    b.shot("collection-overview");
    zip(b);
    b.press("Logs");
    b.until(
        "lines",
        "[...document.querySelectorAll('.log li')].some(l => l.innerText.includes('<b>line</b>'))",
    );
    assert_eq!(b.eval("document.querySelectorAll('.log b').length"), 0);
    named(b, "logs");
    b.shot("collection-logs");
    b.press("Request");
    b.until(
        "the request",
        "document.querySelector('pre.code')?.innerText.includes('VQLClientAction')",
    );
    b.press("Uploads");
    b.shows("No files were uploaded");
    b.press("Collections");
    b.until("both are listed", "document.querySelectorAll('.flows tbody tr').length >= 2");
    named(b, "collections");
    b.shot("collections");
}

/// A locked zip is asked for, made and taken away.
fn zip(b: &mut Browser) {
    b.press("Make a zip");
    b.until("the dialog", "document.querySelector('dialog [name=csv_format]')");
    b.click("dialog [name=csv_format]");
    b.eval("document.querySelector('dialog [name=password]').focus()");
    b.types("hush");
    named(b, "zip");
    b.shot("zip");
    b.press("Make it");
    b.until("it is whole", "document.querySelector('a[download][href*=DownloadVFSFile]')");
    b.shows("SHA-256");
    let zip = b.eval(
        "fetch(document.querySelector('a[download][href*=DownloadVFSFile]').href).then(r => r.arrayBuffer())\
         .then(a => String.fromCharCode(...new Uint8Array(a).slice(0, 2)) + a.byteLength)",
    );
    let zip = zip.as_str().unwrap();
    assert!(zip.starts_with("PK") && zip[2..].parse::<u64>().unwrap() > 500, "{zip}");
    let sum = "fetch(document.querySelector('a[download][href*=DownloadVFSFile]').href).then(r => r.arrayBuffer())\
               .then(a => crypto.subtle.digest('SHA-256', a))\
               .then(d => [...new Uint8Array(d)].map(b => b.toString(16).padStart(2, '0')).join(''))";
    let sum = b.eval(sum);
    b.shows(sum.as_str().unwrap());
}

fn uploads(b: &mut Browser, d: &Deployment) {
    std::fs::create_dir_all(d.path("evidence")).unwrap();
    std::fs::write(d.path("evidence/note.html"), "<script>alert(3)</script>\nplain\n").unwrap();
    std::fs::write(
        d.path("evidence/data.bin"),
        (0..10_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>(),
    )
    .unwrap();
    let client = b.eval("location.pathname.split('/')[3]");
    b.open(&format!(
        "/app/collect?c={}&a=Linux.Search.FileFinder&step=parameters",
        client.as_str().unwrap()
    ));
    b.until("fields", "document.querySelector('.field input.in')");
    b.eval("document.querySelector('.field input.in').focus(); document.activeElement.select()");
    b.types(&format!("{}/*", d.path("evidence").display()));
    b.eval("[...document.querySelectorAll('.field')].find(f => f.innerText.startsWith('Upload_File')).querySelector('input').click()");
    b.shows("2 changed from default");
    b.press("Launch");
    b.shows("Finished");
    b.press("Uploads");
    b.until("two files", "document.querySelectorAll('table.grid tbody tr').length === 2");
    named(b, "uploads");
    b.eval("[...document.querySelectorAll('button.link')].find(l => l.innerText.endsWith('note.html')).click()");
    b.until(
        "its text",
        "document.querySelector('aside pre')?.innerText.includes('<script>alert(3)</script>')",
    );
    b.eval("[...document.querySelectorAll('button.link')].find(l => l.innerText.endsWith('data.bin')).click()");
    b.until(
        "its bytes",
        "document.querySelector('.hex')?.innerText.startsWith('00000000  00 00 00 00 01 00 00 00')",
    );
    b.shot("collection-uploads");
    b.press("After");
    b.until("further bytes", "document.querySelector('.hex')?.innerText.startsWith('00001000')");
    let length = b.eval("fetch([...document.querySelectorAll('a[download]')].find(a => a.title === 'Download' && a.getAttribute('aria-label').endsWith('data.bin')).href).then(r => r.arrayBuffer()).then(a => a.byteLength)");
    assert_eq!(length, 40_000);
}

fn cancelled(b: &mut Browser) {
    let client = b.eval("location.pathname.split('/')[3]");
    b.open(&format!("/app/collect?c={}&a=Custom.Slow", client.as_str().unwrap()));
    b.press("Launch");
    b.until("it runs", "document.querySelector('.head .state').innerText.match(/Running|Waiting/)");
    b.press("Cancel");
    b.shows("Stop this collection");
    b.shot("dialog");
    b.press("Stop it");
    b.until("it is over", "document.querySelector('.head .state').innerText.includes('Cancelled')");
}

fn hunt(b: &mut Browser) {
    b.press("Hunts");
    b.shows("No hunt yet");
    b.press("New hunt");
    b.shows("1 of the hosts known now match");
    b.eval("document.getElementById('w-text').focus()");
    b.types("Who has <b>accounts</b>?");
    b.press("By system");
    b.until("systems", "document.getElementById('w-os')?.value === 'LINUX'");
    named(b, "where");
    b.shot("hunt-where");
    b.press("Next: artifacts");
    b.until(
        "the search has the focus",
        "document.activeElement?.placeholder?.includes('what it does')",
    );
    b.types("Linux.Sys.Users");
    b.until("one is left", "document.querySelectorAll('.list .it').length === 1");
    b.key("Enter");
    b.shows("1 chosen");
    b.press("Start hunt");
    b.until(
        "its description is text",
        "document.querySelector('h1').innerText === 'Who has <b>accounts</b>?'",
    );
    b.until(
        "the host has done it",
        "[...document.querySelectorAll('tbody .state')].some(s => s.innerText === 'Finished')",
    );
    named(b, "hunt");
    b.shot("hunt");
    hunt_results(b);
    b.press("Overview");
    b.press("Stop");
    b.until(
        "it is stopped",
        "document.querySelector('.head .state').innerText.includes('Stopped')",
    );
    b.press("Hunts");
    b.until("it is listed", "document.querySelectorAll('tbody tr').length === 1");
    b.shot("hunts");
}

/// What all hosts found, as one table that says whose each row is.
fn hunt_results(b: &mut Browser) {
    b.press("Results");
    b.until("rows", "document.querySelectorAll('.results tbody tr').length > 3");
    b.until(
        "the host comes first",
        "document.querySelector('.results th').innerText.trim() === 'Fqdn'",
    );
    named(b, "hunt-results");
    b.shot("hunt-results");
    let all = b.eval(
        "+document.querySelector('.tbl-foot').innerText.match(/of ([\\d,]+)/)[1].replace(',', '')",
    );
    b.key("f");
    b.until("filters", "document.querySelector('tr.filters input[data-column=User]')");
    b.eval("document.querySelector('tr.filters input[data-column=User]').focus()");
    b.types("^root$");
    b.key("Enter");
    b.until("one row", "document.querySelectorAll('.results tbody tr').length === 1");
    b.shows("before filters");
    let csv =
        b.eval("fetch([...document.querySelectorAll('a[download]')][0].href).then(r => r.text())");
    let csv = csv.as_str().unwrap();
    assert_eq!(csv.lines().count(), 2, "{csv}");
    assert!(csv.lines().next().unwrap().ends_with("FlowId,ClientId,_OrgId,Fqdn"), "{csv}");
    let whole = b.eval("fetch([...document.querySelectorAll('a[download]')][1].href.replace(/&f=[^&]*/, '')).then(r => r.text()).then(t => t.trim().split('\\n').length)");
    assert_eq!(whole, all);
    // A row leads to its host and its collection.
    assert_eq!(b.eval("!!document.querySelector('.results a[href*=\"/flow/C.\"]')"), true);
    b.press("Notebook");
    b.shows("No notebook yet");
    b.press("Begin a notebook");
    b.until("its rows", "document.querySelectorAll('.cell-rows .results tbody tr').length > 3");
    named(b, "hunt-notebook");
    b.shot("hunt-notebook");
}

fn cluster_and_help(b: &mut Browser) {
    b.press("Cluster");
    b.shows("All well");
    named(b, "cluster");
    b.shot("cluster");
    b.click("a[title='Keyboard and help']");
    b.shows("host name; begins with it");
    named(b, "help");
    b.shot("help");
}

fn themes(b: &mut Browser) {
    b.click("button[title='Theme: auto']");
    b.click("button[title='Theme: light']");
    b.until("dark", "document.documentElement.dataset.theme === 'dark'");
    b.open("/app/clients");
    b.until(
        "still",
        "document.documentElement.dataset.theme === 'dark' && document.querySelector('tbody a')",
    );
    b.size(900, 1100);
    b.click("tbody a[href*='/host/']");
    b.shows("Recent collections");
    assert_eq!(
        b.eval("document.documentElement.scrollWidth <= innerWidth"),
        true,
        "the page is as wide as the window"
    );
    b.size(1280, 800);
}

fn what_a_reader_sees(b: &mut Browser, d: &Deployment) {
    d.command(&[
        "--config",
        "server.config.yaml",
        "user",
        "add",
        "rob",
        "rob-secret",
        "--role",
        "reader",
    ]);
    b.click("summary.me");
    b.press("Sign out");
    log_in(b, "rob", "rob-secret");
    b.click("tbody input[type=checkbox]");
    b.shows("1 selected");
    assert!(!b.text().contains("Collect from"), "{}", b.text());
    b.click("tbody a[href*='/host/']");
    b.shows("Recent collections");
    let buttons =
        b.eval("[...document.querySelectorAll('main .btn')].map(e => e.innerText).join('\\n')");
    for button in ["Processes", "Shell", "Collect", "Ask again"] {
        assert!(!buttons.as_str().unwrap().contains(button), "{button}: {buttons}");
    }
    b.shot("reader-host");
    // The page has no button; the server has the right.
    let status = b.eval(
        "fetch('/api/v1/CollectArtifact', {method: 'POST', headers: {'x-csrf-token': document.documentElement.dataset.token}, \
         body: JSON.stringify({client_id: location.pathname.split('/')[3], artifacts: ['Linux.Sys.Pslist']})}).then(r => r.status)",
    );
    assert_eq!(status, 403);
    let forged =
        b.eval("fetch('/api/v1/LabelClients', {method: 'POST', body: '{}'}).then(r => r.status)");
    assert_eq!(forged, 403);
    b.complaints.clear();
    let audit = d.query("SELECT operation, principal FROM monitoring(artifact='Server.Audit.Logs', client_id='server')");
    for (operation, principal) in [
        ("LoginFailed", ""),
        ("Login", "admin"),
        ("ScheduleFlow", "admin"),
        ("CancelFlow", "admin"),
        ("SetClientMetadata", "admin"),
        ("ExportTable", "admin"),
        ("DownloadFile", "admin"),
        ("Logoff", "admin"),
        ("Login", "rob"),
        ("ForgedRequest", "rob"),
    ] {
        let found =
            audit.iter().any(|r| r["operation"] == operation && r["principal"] == principal);
        assert!(found, "{operation} {principal}: {audit:?}");
    }
}
