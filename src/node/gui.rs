//! The port for people: pages and the HTTP API on one listener.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::FutureExt;

use super::sockets::{self, Whose};
use super::{Node, address, tls_identity};
use crate::api::Api;
use crate::api::rest::{Rest, RestOptions, Uploads};
use crate::comms::server::{Serve, WebHandler, serve};
use crate::comms::tls::{self, Alpn, ClientAuth, ServerOptions};
use crate::config::model::Authenticator;
use crate::config::{Loaded, settings};
use crate::env::{Env, Side};
use crate::gui::{Entry, Gui, GuiOptions, Networks, Provider};
use crate::services::{notebooks, tables};

/// Limits of looking at result sets.
pub(super) fn table_limits(s: &settings::Gui) -> tables::Limits {
    tables::Limits {
        scan_rows: s.scan_rows,
        sort_rows: s.sort_rows,
        kept_rows: usize::try_from(s.kept_rows).unwrap_or(usize::MAX),
        event_rows: usize::try_from(s.event_rows).unwrap_or(usize::MAX),
    }
}

/// Limits of notebooks.
pub(super) fn notebook_limits(loaded: &Loaded) -> notebooks::Limits {
    let (d, s) = (&loaded.config.defaults, &loaded.settings.gui);
    notebooks::Limits {
        versions: size(d.notebook_versions()),
        rows: s.notebook_rows,
        cells: size(s.notebook_cells),
        timeout: d.notebook_cell_timeout(),
    }
}

fn options(loaded: &Loaded) -> anyhow::Result<GuiOptions> {
    let (c, s) = (&loaded.config, &loaded.settings.gui);
    let origin = url::Url::parse(&c.gui.public_url).ok().map(|u| u.origin().ascii_serialization());
    let behind_tls = origin.as_deref().is_some_and(|o| o.starts_with("https://"));
    let networks = Networks::new(&c.gui.allowed_cidr, &c.gui.forwarded_proxy_header);
    let minutes = match c.gui.authenticator.default_session_expiry_min {
        0 => s.session_minutes.max(1),
        stock => stock,
    };
    Ok(GuiOptions {
        base_path: c.gui.base_path.trim_end_matches('/').to_owned(),
        secure: !c.gui.use_plain_http || behind_tls,
        public_origin: origin,
        secret: c.frontend.private_key.clone(),
        session_seconds: minutes.saturating_mul(60),
        door: GuiOptions::lock(s.login_failures, s.login_lock_seconds),
        max_body: size(s.body_bytes),
        entry: entry(&c.gui.authenticator),
        networks: networks
            .map_err(|e| anyhow::anyhow!("GUI.allowed_cidr or forwarded_proxy_header: {e}"))?,
    })
}

/// How people sign in. What is no way to do so has stopped the start before.
fn entry(a: &Authenticator) -> Entry {
    match a.kind.to_lowercase().as_str() {
        "" | "basic" => Entry::Passwords,
        "certs" => Entry::Certificates(a.default_roles_for_unknown_user.clone()),
        "multi" => Entry::Providers(a.sub_authenticators.iter().map(provider).collect()),
        _ => Entry::Providers(vec![provider(a)]),
    }
}

/// The presets are those of the stock program.
fn provider(a: &Authenticator) -> Provider {
    let kind = a.kind.to_lowercase();
    let (title, issuer, pin) = match kind.as_str() {
        "google" => ("Google", "https://accounts.google.com".to_owned(), "sub"),
        // Azure's addresses are not called verified; its directory vouches for them.
        "azure" => ("Azure", format!("https://login.microsoftonline.com/{}/v2.0", a.tenant), "oid"),
        _ => ("OpenID Connect", a.oidc_issuer.clone(), "sub"),
    };
    let claim = if a.claims.username.is_empty() { "email" } else { &a.claims.username };
    let named = !a.oidc_name.is_empty();
    let (route, title) = match named {
        true => (format!("{kind}/{}", a.oidc_name), a.oidc_name.clone()),
        false => (kind.clone(), title.to_owned()),
    };
    Provider {
        route,
        title,
        issuer,
        client_id: a.oauth_client_id.clone(),
        client_secret: a.oauth_client_secret.clone(),
        parameters: a.oidc_auth_url_params.clone().into_iter().collect(),
        claim: claim.to_owned(),
        pin: (!a.disable_email_to_sub_pin).then(|| pin.to_owned()),
        unverified: a.claims.allow_unverified_email || kind == "azure",
    }
}

fn size(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

impl Node {
    pub(super) async fn serve_gui(
        &mut self,
        env: &Env,
        loaded: &Loaded,
        api: Api,
    ) -> anyhow::Result<()> {
        let (c, s) = (&loaded.config, &loaded.settings.gui);
        let tls = if c.gui.use_plain_http {
            None
        } else {
            let (cert, key) = tls_identity(env, &c.frontend).await?;
            let identity = tls::Identity::from_pem(&cert, &key)?;
            let options = ServerOptions {
                allow_tls12: true,
                client_auth: match entry(&c.gui.authenticator) {
                    Entry::Certificates(_) => {
                        let ca = c.client.ca_certificate.as_str();
                        ClientAuth::Optional(tls::roots([ca])?.into())
                    }
                    _ => ClientAuth::None,
                },
                // A browser opens six connections to one HTTP/1 server, and each of
                // its pages keeps one.
                alpn: Alpn::Both,
            };
            Some(tls::server_config(env, &identity, &options)?)
        };
        let at = address(c.gui.bind_address(), c.gui.bind_port(), "GUI.bind_address")?;
        let listener = env.net.bind(at).await?;
        self.gui = Some(listener.local_addr()?);
        let what = Serve {
            tls,
            proxy_protocol: false,
            limits: sockets::limits(env, loaded, Whose::People),
            metrics: Arc::default(),
            side: Side::Gui,
            stop: self.stopping(),
        };
        let limits = RestOptions {
            max_body: size(s.body_bytes),
            max_upload: size(s.upload_bytes),
            public_base: c
                .client
                .server_urls
                .first()
                .map(|u| super::public_base(u))
                .unwrap_or_default(),
            live_streams: size(s.live_streams).min(tokio::sync::Semaphore::MAX_PERMITS),
            ..RestOptions::default()
        };
        let options = options(loaded)?;
        let limits = RestOptions { password_less: options.entry != Entry::Passwords, ..limits };
        let served = api.clone();
        let rest = Rest::new(api, limits, &options.base_path, self.stop.clone());
        let gui = Gui::new(self.server.clone(), options);
        let handler = Arc::new(WebHandler::new(gui.router(rest.router())));
        self.web = Some((gui, served, rest.uploads()));
        self.run(env, Side::Gui, serve(env.clone(), listener, what, handler).boxed());
        Ok(())
    }
}

/// What the metrics say of the GUI.
pub(super) fn metrics((gui, api, uploads): &(Gui, Api, Arc<Uploads>)) -> String {
    let (failed, refused) = gui.failed_log_ins();
    let (running, most) = api.notebook_cells();
    let most_bytes = usize::try_from(uploads.limit).unwrap_or(usize::MAX);
    let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
    let mut out = String::new();
    for (name, help, n) in [
        ("velociraptor_notebook_cells", "Cells of notebooks being worked out or waiting.", running),
        ("velociraptor_notebook_cells_limit", "Cells worked out at once.", most),
        ("velociraptor_gui_upload_limit_bytes", "Largest file that people upload.", most_bytes),
    ] {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {n}");
    }
    for (name, help, n) in [
        ("velociraptor_gui_login_failures_total", "Log-ins that failed.", failed),
        ("velociraptor_gui_login_refused_total", "Log-ins while locked out.", refused),
        ("velociraptor_gui_uploads_total", "Files that people uploaded.", load(&uploads.files)),
        ("velociraptor_gui_upload_bytes_total", "Bytes of those.", load(&uploads.bytes)),
        ("velociraptor_gui_uploads_refused_total", "Too large.", load(&uploads.refused)),
    ] {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {n}");
    }
    out
}
