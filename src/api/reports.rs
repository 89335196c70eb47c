//! What stock pages show as a report: definitions, and where they start. Other
//! reports are not drawn here. Those pages show nothing else after an error, so that is
//! said in the place of the report.

use std::fmt::Write as _;

use tonic::Status;
use velociraptor_proto::proto::{Artifact, GetReportRequest, GetReportResponse};

use super::{Api, Caller};
use crate::services::acl::Permission;
use crate::services::notebooks::markdown::{escape, html, parse};

/// Where stock pages begin.
const WELCOME: &str = "# Velociraptor\n\nSearch for hosts above, or begin here:\n\n\
    - [All hosts](#/search/all)\n- [Hunts](#/hunts)\n- [Artifacts](#/artifacts)\n\
    - [Notebooks](#/notebooks)\n- [Events of the server](#/events/server)\n";

impl Api {
    pub(super) fn report(
        &self,
        caller: &Caller,
        r: &GetReportRequest,
    ) -> Result<GetReportResponse, Status> {
        caller.require(Permission::ReadResults)?;
        let found = caller.org.repository.get(&r.artifact);
        let template = match found {
            Some(a) if r.r#type == "ARTIFACT_DESCRIPTION" => described(&a),
            Some(_) => {
                format!("<p>{} has no report that this server draws.</p>", escape(&r.artifact))
            }
            None if r.artifact.ends_with("Server.Internal.Welcome") => html(&parse(WELCOME)),
            None => format!("<p>{} is not here.</p>", escape(&r.artifact)),
        };
        Ok(GetReportResponse { data: "{}".into(), template, ..Default::default() })
    }
}

/// A definition for people: what it does, its parameters, its queries.
fn described(a: &Artifact) -> String {
    let mut out = format!("<h1>{}</h1>\n", escape(&a.name));
    let _ = writeln!(out, "<p>Type: {}</p>", escape(&a.r#type.to_ascii_lowercase()));
    if !a.author.is_empty() {
        let _ = writeln!(out, "<p>Author: {}</p>", escape(&a.author));
    }
    out.push_str(&html(&parse(&a.description)));
    if !a.parameters.is_empty() {
        out.push_str(
            "<h3>Parameters</h3>\n<table class=\"table\"><thead><tr><th>Name</th><th>Type</th>\
             <th>Default</th><th>What it does</th></tr></thead><tbody>",
        );
        for p in &a.parameters {
            let _ = writeln!(
                out,
                "<tr><td>{}</td><td>{}</td><td><pre>{}</pre></td><td>{}</td></tr>",
                escape(&p.name),
                escape(&p.r#type),
                escape(&p.default),
                html(&parse(&p.description))
            );
        }
        out.push_str("</tbody></table>\n");
    }
    if !a.tools.is_empty() {
        // A mark that stock pages replace by what GetToolInfo says.
        out.push_str("<h3>Tools</h3>\n");
        for tool in &a.tools {
            let name: String = url::form_urlencoded::byte_serialize(tool.name.as_bytes()).collect();
            let name = name.replace('+', "%20");
            let _ = writeln!(out, "<velo-tool-viewer name=\"{name}\"></velo-tool-viewer>");
        }
    }
    // Those of a notebook's template have no query.
    for s in a.sources.iter().filter(|s| !s.query.trim().is_empty()) {
        let name = if s.name.is_empty() { "Source" } else { s.name.as_str() };
        let _ = writeln!(
            out,
            "<h3>{}</h3>\n{}<pre><code>{}</code></pre>",
            escape(name),
            html(&parse(&s.description)),
            escape(s.query.trim())
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use velociraptor_proto::proto::{ArtifactParameter, ArtifactSource, Tool};

    #[test]
    fn definitions_are_described_and_markup_in_them_is_text() {
        let a = Artifact {
            name: "Custom.<i>".into(),
            description: "Finds **all** <script>".into(),
            parameters: vec![ArtifactParameter {
                name: "Path".into(),
                default: "<b>".into(),
                ..Default::default()
            }],
            sources: vec![ArtifactSource { query: "SELECT 1 < 2".into(), ..Default::default() }],
            tools: vec![Tool { name: "a \"b\"+".into(), ..Default::default() }],
            ..Default::default()
        };
        let page = described(&a);
        for part in [
            "<h1>Custom.&lt;i&gt;</h1>",
            "<p>Finds <strong>all</strong> &lt;script&gt;</p>",
            "<td><pre>&lt;b&gt;</pre></td>",
            "<pre><code>SELECT 1 &lt; 2</code></pre>",
            "<velo-tool-viewer name=\"a%20%22b%22%2B\"></velo-tool-viewer>",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
    }
}
