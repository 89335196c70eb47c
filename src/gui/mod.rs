//! The web GUI. Thin: calls services.
//!
//! For now a plain status page that tells anyone nothing but that the server is
//! up; the screens come behind a log-in.

use std::sync::Arc;

use axum::Router;
use axum::http::header;
use axum::response::{Html, IntoResponse};
use axum::routing::get;

use crate::services::Server;

/// The pages, below `base_path`.
pub fn router(server: Arc<Server>, base_path: &str) -> Router {
    let page = move || {
        let held = server.sessions.len();
        async move {
            let csp = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
            ([(header::CONTENT_SECURITY_POLICY, csp)], Html(status(held))).into_response()
        }
    };
    let app = Router::new().route("/", get(page.clone())).route("/app/index.html", get(page));
    if base_path.is_empty() { app } else { Router::new().nest(base_path, app) }
}

fn status(held: usize) -> String {
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>{name}</title>\
         <style>body{{font:16px/1.5 system-ui;margin:4rem auto;max-width:40rem}}\
         code{{background:#8882;padding:.1em .3em}}</style>\
         <h1>{name}</h1><p>This server is running and holds {held} client{s}.</p>\
         <p>The web interface is not there yet. Work over the API:</p>\
         <p><code>{name} --api_config api.config.yaml query \"SELECT * FROM clients()\"</code></p>",
        name = crate::PRODUCT,
        s = if held == 1 { "" } else { "s" },
    )
}
