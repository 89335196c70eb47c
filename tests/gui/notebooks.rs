//! Notebooks as somebody writes them: texts, queries and their rows, one of its own and
//! that of a collection and a hunt.

use crate::browser::Browser;
use crate::deployment::Deployment;
use crate::{log_in, named};

const QUERY: &str = "/* # Who is <b>here</b>? */\nSELECT _value AS N, \"<i>x</i>\" AS Markup\nFROM range(end=120)\nSELECT os_info.hostname AS Host FROM clients()";

fn write(b: &mut Browser, text: &str) {
    b.until("the input", "document.activeElement?.classList.contains('editor')");
    b.eval("document.activeElement.select()");
    b.types(text);
}

#[test]
fn a_notebook_is_written_and_read_by_others() {
    let d = Deployment::start();
    let Some(mut b) = Browser::start(&d.base) else { return };
    b.open("/app/notebooks");
    log_in(&mut b, "admin", &d.password);
    b.shows("No notebook yet");
    named(&mut b, "notebooks-empty");
    b.shot("notebooks-empty");
    b.press("New notebook");
    b.until("the dialog", "document.querySelector('dialog [name=name]')");
    b.eval("document.querySelector('dialog [name=name]').focus()");
    b.types("Case <b>7</b>");
    b.shot("notebook-new");
    b.press("Create");
    b.until("its name is text", "document.querySelector('h1').innerText === 'Case <b>7</b>'");
    b.until(
        "its first cell",
        "document.querySelector('.cell.nb .prose h2')?.innerText === 'Case <b>7</b>'",
    );
    own_text(&mut b);
    own_query(&mut b);
    versions(&mut b);
    order(&mut b);
    b.press("Settings");
    b.until("the dialog", "document.querySelector('dialog [name=public]')");
    b.click("dialog [name=public]");
    b.press("Save");
    b.until("it is closed", "!document.querySelector('dialog')");
    b.press("Notebooks");
    b.shows("everybody");
    named(&mut b, "notebooks");
    b.shot("notebooks");
    b.is_content();
    from_a_template(&mut b);
    files(&mut b);
    of_a_collection(&mut b);
    what_a_reader_sees(&mut b, &d);
    b.is_content();
}

fn own_text(b: &mut Browser) {
    b.press("Text");
    write(
        b,
        "## What\n\n- **bold** and `code`\n- [a link](https://example.org/x)\n\n<img src=x onerror=alert(1)>\n\n| A | B |\n|---|---|\n| 1 | 2 |\n",
    );
    b.eval("document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', ctrlKey: true, bubbles: true, cancelable: true}))");
    b.until(
        "it is drawn",
        "[...document.querySelectorAll('.prose strong')].some(e => e.innerText === 'bold')",
    );
    assert_eq!(b.eval("document.querySelectorAll('.notebook img').length"), 0, "markup is text");
    assert_eq!(b.eval("document.querySelector('.prose a').rel"), "noopener noreferrer");
    assert_eq!(b.eval("document.querySelector('.prose table td').innerText"), "1");
}

fn own_query(b: &mut Browser) {
    b.press("Query");
    write(b, "SELECT FROM");
    b.is_content();
    b.press("Lay out");
    b.until("where it is wrong", "document.querySelector('.nb-edit .note.err')");
    // The browser notes the status itself.
    b.complaints.clear();
    write(b, QUERY);
    b.press("Lay out");
    b.until(
        "it is laid out, its comment kept",
        "(v => v.includes('Markup FROM range') && v.startsWith('/* #'))(document.querySelector('.editor').value)",
    );
    named(b, "notebook-edit");
    b.shot("notebook-edit");
    b.press("Run");
    b.until("its text", "[...document.querySelectorAll('.prose h2')].some(e => e.innerText === 'Who is <b>here</b>?')");
    b.until(
        "both tables",
        "document.querySelectorAll('.cell-rows .results tbody tr').length === 51",
    );
    b.until(
        "rows are text",
        "document.querySelector('.cell-rows td:nth-child(2)').innerText === '<i>x</i>'",
    );
    // A table in a cell is the table of everywhere: pages, order, filters.
    b.eval("document.querySelector('.cell-rows th button').focus()");
    b.click(".cell-rows th button");
    b.until("ascending", "document.querySelector('.cell-rows th[aria-sort=ascending]')");
    b.click(".cell-rows th[aria-sort=ascending] button");
    b.until("largest first", "document.querySelector('.cell-rows tbody td').innerText === '119'");
    assert_eq!(b.eval("location.search"), "", "the view of one of several tables is no address");
    let csv = b.eval("fetch(document.querySelector('.cell-rows a[download]').href).then(r => r.text()).then(t => t.trim().split('\\n').length)");
    assert_eq!(csv, 121);
    named(b, "notebook");
    b.shot("notebook");
}

fn versions(b: &mut Browser) {
    let last = ".cell.nb:last-child";
    b.click(&format!("{last} header .btn.ghost:not(.sq):nth-of-type(2)"));
    write(b, "SELECT * FROM nowhere(");
    b.press("Run");
    b.until(
        "what is wrong is said",
        "document.querySelector('.cell.nb:last-child .note.err')?.innerText.includes('VQL')",
    );
    named(b, "notebook-wrong");
    b.shot("notebook-wrong");
    b.click(&format!("{last} header summary"));
    b.press("Version before");
    b.until(
        "it is back",
        "document.querySelectorAll('.cell.nb:last-child .results tbody tr').length === 51",
    );
}

fn order(b: &mut Browser) {
    b.click(".cell.nb:last-child header summary");
    b.press("Move up");
    b.until("it is above", "document.querySelector('.cell.nb:nth-child(2) pre.code')");
    b.click(".cell.nb:first-child header summary");
    b.press("Delete cell");
    b.shows("Its versions and the rows of its queries go with it.");
    b.click("dialog .btn.danger");
    b.until("two are left", "document.querySelectorAll('.cell.nb').length === 2");
}

/// A notebook that begins with what a definition says.
fn from_a_template(b: &mut Browser) {
    b.press("New notebook");
    b.until("the choice", "document.querySelector('dialog [name=template]')");
    b.eval("document.querySelector('dialog [name=name]').focus()");
    b.types("From a template");
    b.eval("document.querySelector('dialog [name=template]').value = 'Notebooks.Default'");
    named(b, "notebook-new");
    b.press("Create");
    b.until("its text", "[...document.querySelectorAll('.prose h2')].some(e => e.innerText === 'What is looked into')");
    b.until("its rows", "document.querySelectorAll('.cell-rows .results tbody tr').length === 1");
}

/// A picture of one dot.
const DOT: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

/// A picture is pasted into a text; a file is attached and removed; an export is made.
fn files(b: &mut Browser) {
    b.press("Text");
    write(b, "Seen: ");
    let file = format!(
        "new DataTransfer(); const bytes = Uint8Array.from(atob('{DOT}'), c => c.charCodeAt(0)); \
         d.items.add(new File([bytes], 'dot.png', {{ type: 'image/png' }}));"
    );
    b.eval(&format!(
        "(() => {{ const d = {file} const e = document.activeElement; e.setSelectionRange(6, 6); \
         e.dispatchEvent(new ClipboardEvent('paste', {{ clipboardData: d, bubbles: true, cancelable: true }})); }})()"
    ));
    b.until("it is in the text", "document.activeElement.value.startsWith('Seen: ![NA.')");
    b.press("Save");
    b.until(
        "the picture",
        "document.querySelector('.prose img.shown')?.complete && document.querySelector('.prose img.shown').naturalWidth === 1",
    );
    b.press("Files and exports");
    b.until("what is attached", "document.querySelectorAll('dialog tbody tr').length === 1");
    b.eval(&format!(
        "(() => {{ const d = {} const i = document.querySelector('dialog input[type=file]'); i.files = d.files; \
         i.dispatchEvent(new Event('change')); }})()",
        file.replace("dot.png", "a <b>.png")
    ));
    b.until("the file", "document.querySelectorAll('dialog tbody tr').length === 2");
    b.shows("a <b>.png");
    for kind in ["Archive", "Page"] {
        b.press(kind);
        let ended = if kind == "Page" { 2 } else { 1 };
        b.until(kind, &format!("document.querySelectorAll('dialog li a').length === {ended}"));
    }
    named(b, "notebook-files");
    b.shot("notebook-files");
    b.click("dialog tbody tr:last-child button");
    b.shows("Cells that show it show it no more.");
    b.click("dialog:last-of-type .btn.danger");
    b.until("one is left", "document.querySelectorAll('dialog tbody tr').length === 1");
    b.press("Close");
    b.until("it is closed", "!document.querySelector('dialog')");
    b.eval("document.querySelector('.prose img.shown').scrollIntoView()");
    b.shot("notebook-picture");
}

/// The notebook of a collection begins with its rows.
fn of_a_collection(b: &mut Browser) {
    b.press("Clients");
    b.click("tbody a[href*='/host/']");
    b.until("the host", "location.pathname.includes('/host/')");
    // One that ends soon, however large the programs are that run here.
    let flow = b.eval(
        "(async () => { const main = [...document.scripts].find(s => s.src.endsWith('/main.js')).src; \
         const { post } = await import(main.replace('/main.js', '/lib/api.js')); \
         const client_id = location.pathname.split('/').pop(); \
         const made = await post('/v1/CollectArtifact', { client_id, artifacts: ['Linux.Sys.Users'] }); \
         return `/app/flow/${client_id}/${made.flow_id}`; })()",
    );
    b.open(flow.as_str().expect("a flow"));
    b.until("rows", "document.querySelectorAll('.results tbody tr').length > 3");
    b.shows("Finished");
    b.click(".tabs a[href*='tab=notebook']");
    b.shows("No notebook yet");
    b.press("Begin a notebook");
    b.until("its rows", "document.querySelectorAll('.cell-rows .results tbody tr').length > 3");
    named(b, "collection-notebook");
    b.shot("collection-notebook");
}

fn what_a_reader_sees(b: &mut Browser, d: &Deployment) {
    let user = ["user", "add", "rob", "rob-secret", "--role", "reader"];
    let mut args = vec!["--config", "server.config.yaml"];
    args.extend(user);
    d.command(&args);
    b.click("summary.me");
    b.press("Sign out");
    b.until("the log-in", "document.getElementById('user')");
    b.open("/app/notebooks");
    log_in(b, "rob", "rob-secret");
    b.press("Case <b>7</b>");
    b.until("its rows", "document.querySelectorAll('.cell-rows .results tbody tr').length === 51");
    let text = b.text();
    for button in ["Run", "Edit", "Settings", "Delete"] {
        assert!(!text.contains(button), "{button}");
    }
    b.shot("notebook-reader");
}
