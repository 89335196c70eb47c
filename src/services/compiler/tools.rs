//! What an artifact's tools become: variables that say where to fetch each
//! one. There is no tool inventory here, so only tools with a public address
//! of their own can be used.

use velociraptor_proto::proto::{Artifact, Tool};

use super::{CompileError, CompileOptions};

/// `Tool_<name>_…` variables for all tools of an artifact.
pub(super) fn environment(
    artifact: &Artifact,
    options: &CompileOptions<'_>,
) -> Result<Vec<(String, String)>, CompileError> {
    let mut env = Vec::new();
    for tool in &artifact.tools {
        if !options.any_tool && (tool.url.is_empty() || tool.serve_locally) {
            return Err(CompileError::ToolUnavailable {
                artifact: artifact.name.clone(),
                tool: tool.name.clone(),
            });
        }
        let variable = |suffix: &str| format!("Tool_{}_{suffix}", tool.name);
        let hash = if tool.hash.is_empty() { &tool.expected_hash } else { &tool.hash };
        env.push((variable("HASH"), hash.clone()));
        env.push((variable("FILENAME"), filename(tool)));
        env.push((variable("VERSION"), tool.version.clone()));
        env.push((variable("URL"), tool.url.clone()));
        env.push((variable("URLs"), serde_json::json!([tool.url]).to_string()));
    }
    Ok(env)
}

fn filename(tool: &Tool) -> String {
    if !tool.filename.is_empty() {
        return tool.filename.clone();
    }
    let path = tool.url.split(['?', '#']).next().unwrap_or_default();
    path.rsplit('/').next().unwrap_or_default().to_owned()
}
