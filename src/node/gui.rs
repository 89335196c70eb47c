//! The port for people: pages and the HTTP API on one listener.

use std::fmt::Write as _;
use std::sync::Arc;

use futures::future::FutureExt;

use super::{Node, accept_limits, address, tls_identity};
use crate::api::Api;
use crate::api::rest::{Rest, RestOptions};
use crate::comms::server::{Serve, WebHandler, serve};
use crate::comms::tls::{self, Alpn, ClientAuth, ServerOptions};
use crate::config::{Loaded, settings};
use crate::env::{Env, Side};
use crate::gui::{Gui, GuiOptions};
use crate::services::tables;

/// Limits of looking at result sets.
pub(super) fn table_limits(s: &settings::Gui) -> tables::Limits {
    tables::Limits {
        scan_rows: s.scan_rows,
        sort_rows: s.sort_rows,
        kept_rows: usize::try_from(s.kept_rows).unwrap_or(usize::MAX),
    }
}

fn options(loaded: &Loaded) -> GuiOptions {
    let (c, s) = (&loaded.config, &loaded.settings.gui);
    let origin = url::Url::parse(&c.gui.public_url).ok().map(|u| u.origin().ascii_serialization());
    let behind_tls = origin.as_deref().is_some_and(|o| o.starts_with("https://"));
    GuiOptions {
        base_path: c.gui.base_path.trim_end_matches('/').to_owned(),
        secure: !c.gui.use_plain_http || behind_tls,
        public_origin: origin,
        secret: c.frontend.private_key.clone(),
        session_seconds: s.session_minutes.max(1) * 60,
        door: GuiOptions::lock(s.login_failures, s.login_lock_seconds),
        max_body: size(s.body_bytes),
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
                client_auth: ClientAuth::None,
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
            limits: accept_limits(env, loaded),
            metrics: Arc::default(),
            side: Side::Gui,
            stop: self.stopping(),
        };
        let limits = RestOptions {
            max_body: size(s.body_bytes),
            live_streams: size(s.live_streams).min(tokio::sync::Semaphore::MAX_PERMITS),
        };
        let options = options(loaded);
        let rest = Rest::new(api, limits, &options.base_path, self.stop.clone());
        let gui = Gui::new(self.server.clone(), options);
        let handler = Arc::new(WebHandler::new(gui.router(rest.router())));
        self.web = Some(gui);
        self.run(env, Side::Gui, serve(env.clone(), listener, what, handler).boxed());
        Ok(())
    }
}

/// What the metrics say of the GUI.
pub(super) fn metrics(gui: &Gui) -> String {
    let (failed, refused) = gui.failed_log_ins();
    let mut out = String::new();
    for (name, help, n) in [
        ("velociraptor_gui_login_failures_total", "Log-ins that failed.", failed),
        ("velociraptor_gui_login_refused_total", "Log-ins while locked out.", refused),
    ] {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {n}");
    }
    out
}
