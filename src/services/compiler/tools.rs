//! What an artifact's tools become: variables that say where to fetch each
//! one, and what its hash is. Where they are is found by whoever compiles.

use velociraptor_proto::proto::{Artifact, Tool};

use super::{CompileError, CompileOptions};

/// Finds the tool that a definition names; `None` when clients cannot be told of it yet.
pub type FindTool<'a> = dyn Fn(&Tool) -> Option<Tool> + Send + Sync + 'a;

/// `Tool_<name>_…` variables for all tools of an artifact.
pub(super) fn environment(
    artifact: &Artifact,
    options: &CompileOptions<'_>,
) -> Result<Vec<(String, String)>, CompileError> {
    let mut env = Vec::new();
    for definition in &artifact.tools {
        let found = match options.find_tool {
            Some(find) => find(definition),
            None => Some(as_defined(definition)).filter(|t| !t.url.is_empty()),
        };
        let tool = match found {
            Some(tool) => tool,
            None if options.any_tool => as_defined(definition),
            None => {
                return Err(CompileError::ToolUnavailable {
                    artifact: artifact.name.clone(),
                    tool: Box::new(definition.clone()),
                });
            }
        };
        env.extend(variables(&definition.name, &tool));
    }
    Ok(env)
}

/// The variables of one tool.
pub fn variables(name: &str, tool: &Tool) -> [(String, String); 5] {
    let variable = |suffix: &str| format!("Tool_{name}_{suffix}");
    [
        (variable("HASH"), tool.hash.clone()),
        (variable("FILENAME"), tool.filename.clone()),
        (variable("VERSION"), tool.version.clone()),
        (variable("URL"), tool.serve_url.clone()),
        (variable("URLs"), serde_json::json!(tool.serve_urls).to_string()),
    ]
}

/// A tool without a name for its file gets that of its address.
pub fn name_file(tool: &mut Tool) {
    if tool.filename.is_empty() {
        let path = tool.url.split(['?', '#']).next().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default().clone_into(&mut tool.filename);
    }
}

/// A tool as its definition has it, for those who keep no tools: at its own address.
fn as_defined(definition: &Tool) -> Tool {
    let mut tool = definition.clone();
    if tool.hash.is_empty() {
        tool.hash.clone_from(&tool.expected_hash);
    }
    name_file(&mut tool);
    tool.serve_url.clone_from(&tool.url);
    tool.serve_urls = vec![tool.url.clone()];
    tool
}
