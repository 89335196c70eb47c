//! Whether `GUI.authenticator` names a way to sign in that is served, and is complete.

use serde_json::Value;

/// Kinds that are identity providers.
pub const PROVIDERS: [&str; 3] = ["oidc", "google", "azure"];

/// Azure directories that are not one organisation's: anybody could call themselves
/// anything in a directory of their own.
const SHARED: [&str; 3] = ["common", "organizations", "consumers"];

fn text<'a>(v: &'a Value, key: &str) -> &'a str {
    v[key].as_str().unwrap_or_default()
}

/// What is wrong with the section `gui`: path and message.
pub fn problems(gui: &Value) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let a = &gui["authenticator"];
    let kind = text(a, "type").to_lowercase();
    let at = "GUI.authenticator";
    match kind.as_str() {
        "" | "basic" => return out,
        "certs" => {
            if gui["use_plain_http"].as_bool().unwrap_or_default() {
                let message = "certificates need TLS: unset GUI.use_plain_http";
                out.push((format!("{at}.type"), message.into()));
            }
            return out;
        }
        "multi" => {
            let subs = a["sub_authenticators"].as_array().map_or(&[][..], Vec::as_slice);
            if subs.is_empty() {
                out.push((format!("{at}.type"), "no sub_authenticators are named".into()));
            }
            let mut routes = Vec::new();
            for (i, sub) in subs.iter().enumerate() {
                let path = format!("{at}.sub_authenticators[{i}]");
                provider(sub, &path, &mut out);
                let route = (text(sub, "type").to_lowercase(), text(sub, "oidc_name").to_owned());
                if routes.contains(&route) {
                    let message = "a second of this type: give each an oidc_name";
                    out.push((format!("{path}.type"), message.into()));
                }
                routes.push(route);
            }
        }
        _ => provider(a, at, &mut out),
    }
    if out.is_empty() && text(gui, "public_url").is_empty() {
        let message = "GUI.public_url must say where people come back to from the provider";
        out.push((format!("{at}.type"), message.into()));
    }
    out
}

fn provider(a: &Value, at: &str, out: &mut Vec<(String, String)>) {
    let kind = text(a, "type").to_lowercase();
    if !PROVIDERS.contains(&kind.as_str()) {
        let message = format!(
            "`{}` is not offered here; offered are Basic, Certs, OIDC, Google, Azure, and Multi of \
             the last three",
            text(a, "type")
        );
        out.push((format!("{at}.type"), message));
        return;
    }
    let mut needed = vec!["oauth_client_id", "oauth_client_secret"];
    match kind.as_str() {
        "oidc" => needed.push("oidc_issuer"),
        "azure" => needed.push("tenant"),
        _ => {}
    }
    for key in needed.into_iter().filter(|k| text(a, k).is_empty()) {
        out.push((format!("{at}.type"), format!("{at}.{key} is missing")));
    }
    if kind == "azure" && SHARED.contains(&text(a, "tenant").to_lowercase().as_str()) {
        let message = "name one directory: in a shared one anybody may have any name";
        out.push((format!("{at}.tenant"), message.into()));
    }
    let name = text(a, "oidc_name");
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
        let message = "it is part of an address: letters, digits, - and _";
        out.push((format!("{at}.oidc_name"), message.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wrong(authenticator: Value) -> String {
        let gui = json!({ "public_url": "https://x/", "authenticator": authenticator });
        let all = problems(&gui).into_iter().map(|(p, m)| format!("{p}: {m}"));
        all.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn what_is_not_served_or_not_whole_is_named() {
        let secrets = json!({ "oauth_client_id": "a", "oauth_client_secret": "b" });
        let with = |more: Value| {
            let mut v = secrets.clone();
            v.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            v
        };
        for good in [
            json!({ "type": "Basic" }),
            json!({ "type": "Certs" }),
            with(json!({ "type": "Google" })),
            with(json!({ "type": "OIDC", "oidc_issuer": "https://id" })),
            with(json!({ "type": "azure", "tenant": "7f" })),
            json!({ "type": "Multi", "sub_authenticators": [with(json!({ "type": "Google" }))] }),
        ] {
            assert_eq!(wrong(good.clone()), "", "{good}");
        }
        for (bad, named) in [
            (json!({ "type": "SAML" }), "`SAML` is not offered"),
            (with(json!({ "type": "GitHub" })), "`GitHub` is not offered"),
            (json!({ "type": "google" }), "oauth_client_id is missing"),
            (with(json!({ "type": "oidc" })), "oidc_issuer is missing"),
            (with(json!({ "type": "azure", "tenant": "common" })), "name one directory"),
            (with(json!({ "type": "google", "oidc_name": "a/b" })), "part of an address"),
            (json!({ "type": "multi" }), "no sub_authenticators"),
            (
                json!({ "type": "multi", "sub_authenticators": [{ "type": "Basic" }] }),
                "sub_authenticators[0].type: `Basic` is not offered",
            ),
        ] {
            assert!(wrong(bad.clone()).contains(named), "{bad}: {}", wrong(bad.clone()));
        }
        let plain = json!({ "use_plain_http": true, "authenticator": { "type": "certs" } });
        assert_eq!(problems(&plain).len(), 1);
        let nowhere = json!({ "authenticator": with(json!({ "type": "google" })) });
        assert!(problems(&nowhere)[0].1.contains("public_url"));
    }
}
