//! Stock calls that are not here: whoever asks for one is told so, in the shape in
//! which stock pages show errors.

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tonic::Code;

const SECRETS: &str = "it keeps no secrets";

/// Why a stock call is not here, by its name.
const ABSENT: [(&str, &str); 8] = [
    ("AddSecret", SECRETS),
    ("AnnotateTimeline", "timelines are worked with in queries (timeline_add, timeline)"),
    ("GetSecret", SECRETS),
    ("GetSecretDefinitions", SECRETS),
    ("GetUser", "GetUsers and GetUserRoles tell of users"),
    ("ModifySecret", SECRETS),
    ("ResumeFlow", "uploads that were broken off are collected again"),
    ("SearchDocs", "it holds no documentation to search"),
];

/// Answers any call that has no route.
pub(super) async fn call(Path(call): Path<String>) -> Response {
    let name: String = call.chars().filter(|c| c.is_ascii_graphic()).take(100).collect();
    let why = ABSENT.iter().find(|(n, _)| *n == name);
    let why = why.map(|(_, why)| format!(": {why}")).unwrap_or_default();
    // With a code stock pages do not ask again.
    let body = json!({
        "code": Code::Unimplemented as i32,
        "message": format!("this server does not offer the call {name}{why}"),
        "details": [],
    });
    (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, "application/json")], body.to_string())
        .into_response()
}
