//! Users and roles as an administrator works them, and what they then may do.

use crate::browser::Browser;
use crate::deployment::Deployment;
use crate::{log_in, named};

/// Writes a value into a field as somebody who types.
fn field(b: &mut Browser, selector: &str, text: &str) {
    b.until(selector, &format!("document.querySelector({selector:?})"));
    b.eval(&format!("document.querySelector({selector:?}).focus()"));
    b.types(text);
}

#[test]
fn users_are_made_given_rights_and_sent_away() {
    let d = Deployment::without_agent();
    let Some(mut b) = Browser::start(&d.base) else { return };
    b.open("/app/users");
    log_in(&mut b, "admin", &d.password);
    b.until("the administrator", "document.querySelector('tr[data-name=admin]')");
    b.shows("What roles give");
    named(&mut b, "users");
    b.press("Add user");
    field(&mut b, "dialog [name=name]", "<b>eve@x.org");
    field(&mut b, "dialog [name=password]", "first one");
    b.eval("document.querySelector('dialog [name=role]').value = 'reader'");
    b.shot("users-add");
    b.click("dialog .btn.primary");
    b.until(
        "the name is text",
        "[...document.querySelectorAll('tbody td .link')].some(t => t.innerText === '<b>eve@x.org')",
    );
    b.shows("read results");
    // A right beside the role.
    b.click("aside input[name=investigator]");
    b.press("Save rights");
    b.until("it is saved", "document.getElementById('save-rights').disabled && document.querySelector('tr.cur').innerText.includes('investigator')");
    named(&mut b, "rights");
    b.shot("users");
    // What is in the store is what was chosen.
    let rows = d.query("SELECT name, roles FROM gui_users() WHERE name =~ 'eve'");
    assert_eq!(rows[0]["roles"], serde_json::json!(["reader", "investigator"]));
    // Nobody takes their own administration away.
    b.click("tr[data-name=admin] .link");
    b.until("their roles", "document.querySelector('aside input[name=administrator]')?.checked");
    b.click("aside input[name=administrator]");
    b.click("aside input[name=reader]");
    b.press("Save rights");
    b.shows("nobody takes their own administration away");
    b.complaints.clear();
    assert_eq!(
        b.eval(
            "[...document.querySelectorAll('aside button')].some(x => x.innerText === 'Delete')"
        ),
        false
    );

    own_password(&mut b);
    what_the_new_user_may(&mut b, &d);
    gone(&mut b, &d);
    b.is_content();
}

/// Somebody changes their own password and stays signed in.
fn own_password(b: &mut Browser) {
    b.click("summary.me");
    b.press("Change password");
    field(b, "dialog [name=password]", "a longer one");
    field(b, "dialog [name=again]", "another");
    b.click("dialog .btn.primary");
    b.shows("The two are not the same.");
    b.eval("document.querySelector('dialog [name=again]').select()");
    b.types("a longer one");
    b.click("dialog .btn.primary");
    b.shows("Your password was changed");
    b.open("/app/users");
    b.until("still signed in", "document.querySelector('tr[data-name=admin]')");
    // And may still change things: the page has the new session's token.
    let status = b.eval("fetch('/api/v1/SetPassword', {method: 'POST', headers: {'x-csrf-token': document.documentElement.dataset.token}, body: JSON.stringify({password: 'a'})}).then(r => r.status)");
    assert_eq!(status, 400);
    b.complaints.clear();
}

fn what_the_new_user_may(b: &mut Browser, d: &Deployment) {
    b.click("summary.me");
    b.press("Sign out");
    log_in(b, "admin", &d.password);
    b.shows("User name or password is wrong.");
    b.complaints.clear();
    b.open("/app/users");
    log_in(b, "<b>eve@x.org", "first one");
    b.shows("You see who shares an organisation with you.");
    let text = b.text();
    for button in ["Add user", "Save rights", "Delete"] {
        assert!(!text.contains(button), "{button}");
    }
    // The page offers nothing; the server refuses it too.
    for (call, body) in [
        ("v1/SetUserRoles", "{name: 'admin', org: 'root', roles: ['reader']}"),
        ("v1/CreateUser", "{name: 'x', orgs: ['root'], roles: ['reader'], add_new_user: true}"),
        ("v1/SetPassword", "{username: 'admin', password: 'xxxx'}"),
        ("fleet/users/delete", "{name: 'admin'}"),
        ("fleet/users/lock", "{name: 'admin', locked: true}"),
    ] {
        let status = b.eval(&format!("fetch('/api/{call}', {{method: 'POST', headers: {{'x-csrf-token': document.documentElement.dataset.token}}, body: JSON.stringify({body})}}).then(r => r.status)"));
        assert_eq!(status, 403, "{call}");
    }
    b.complaints.clear();
}

fn gone(b: &mut Browser, d: &Deployment) {
    b.click("summary.me");
    b.press("Sign out");
    b.until("the log-in", "document.getElementById('user')");
    b.open("/app/users");
    log_in(b, "admin", "a longer one");
    b.until("both", "document.querySelectorAll('tbody tr').length >= 2");
    b.press("<b>eve@x.org");
    b.press("Lock");
    b.shows("Locked: whatever their rights");
    b.press("Delete");
    b.shows("Their account and their rights in every organisation go.");
    b.press("Delete user");
    b.until(
        "they are gone",
        "![...document.querySelectorAll('tbody td .link')].some(t => t.innerText.includes('eve'))",
    );
    let audit = d.query(
        "SELECT operation FROM monitoring(artifact='Server.Audit.Logs', client_id='server')",
    );
    for operation in
        ["CreateUser", "GrantPolicy", "SetPassword", "SetPasswordDenied", "LockUser", "DeleteUser"]
    {
        assert!(audit.iter().any(|r| r["operation"] == operation), "{operation}: {audit:?}");
    }
}
