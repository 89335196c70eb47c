//! The artifact file format: strict, and with scalars as they were spelled.
//!
//! `default: Y`, `default: 010` and `default: 2020-01-01` mean just those
//! texts. An unknown key is an error. Knows nothing of repositories or VQL.

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny};
use velociraptor_proto::proto;

use super::preprocess::prepare;

/// Why an artifact file could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct YamlError {
    /// Line in the file as written (from 1); 0 when it cannot be told.
    pub line: usize,
    /// Column there (from 1); 0 when it cannot be told.
    pub column: usize,
    /// What is wrong there.
    pub message: String,
}

/// Reads one artifact. Names, types and queries are not judged here.
pub fn decode(text: &str) -> Result<proto::Artifact, YamlError> {
    let prepared = prepare(text);
    let decoded: Document = yaml_serde::from_str(&prepared.yaml).map_err(|e| {
        let line = e.location().map_or(0, |l| prepared.source_line(l.line()));
        let column = e.location().map_or(0, |l| l.column());
        YamlError { line, column, message: without_position(&e.to_string()) }
    })?;
    Ok(decoded.into_artifact(text))
}

/// Drops the parser's own `at line x column y`, which counts rewritten lines.
fn without_position(message: &str) -> String {
    message.split(" at line ").next().unwrap_or(message).to_owned()
}

/// A scalar as spelled; null is empty.
#[derive(Default)]
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Text, D::Error> {
        Ok(Text(Option::<String>::deserialize(d)?.unwrap_or_default()))
    }
}

/// A list; null is empty.
struct Many<T>(Vec<T>);

impl<T> Default for Many<T> {
    fn default() -> Self {
        Many(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Many<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Many<T>, D::Error> {
        Ok(Many(Option::<Vec<T>>::deserialize(d)?.unwrap_or_default()))
    }
}

impl Many<Text> {
    fn texts(self) -> Vec<String> {
        self.0.into_iter().map(|t| t.0).collect()
    }
}

/// A yes or no in any spelling YAML 1.1 knows.
#[derive(Default)]
struct Flag(bool);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Flag, D::Error> {
        let text = Text::deserialize(d)?.0.to_ascii_lowercase();
        match text.as_str() {
            "y" | "yes" | "true" | "on" => Ok(Flag(true)),
            "" | "n" | "no" | "false" | "off" => Ok(Flag(false)),
            other => Err(D::Error::custom(format!("`{other}` is not a boolean"))),
        }
    }
}

/// A number that is 0 when left out.
#[derive(Default)]
struct Number<T>(T);

impl<'de, T: std::str::FromStr + Default> Deserialize<'de> for Number<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Number<T>, D::Error> {
        let text = Text::deserialize(d)?.0;
        if text.is_empty() {
            return Ok(Number(T::default()));
        }
        let bad = |_| D::Error::custom(format!("`{text}` is not a number that fits here"));
        text.parse().map(Number).map_err(bad)
    }
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Document {
    name: Text,
    aliases: Many<Text>,
    description: Text,
    author: Text,
    reference: Many<Text>,
    references: Many<Text>,
    r#type: Text,
    precondition: Text,
    parameters: Many<Parameter>,
    sources: Many<Source>,
    export: Text,
    imports: Many<Text>,
    tools: Many<Tool>,
    required_permissions: Many<Text>,
    implied_permissions: Many<Text>,
    impersonate: Text,
    resources: Option<Resources>,
    column_types: Many<ColumnType>,
    reports: Many<Report>,
    // What servers add when they hand an artifact out; meaningless in a file.
    raw: IgnoredAny,
    compiled: IgnoredAny,
    built_in: IgnoredAny,
    compiled_in: IgnoredAny,
    is_alias: IgnoredAny,
    is_inherited: IgnoredAny,
    metadata: IgnoredAny,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Parameter {
    name: Text,
    default: Text,
    description: Text,
    r#type: Text,
    friendly_name: Text,
    choices: Many<Text>,
    validating_regex: Text,
    artifact_type: Text,
    sources: Flag,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Source {
    name: Text,
    description: Text,
    precondition: Text,
    query: Text,
    queries: Many<Text>,
    notebook: Many<Cell>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Cell {
    r#type: Text,
    template: Text,
    name: Text,
    output: Text,
    env: Many<EnvItem>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct EnvItem {
    key: Text,
    value: Text,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Tool {
    name: Text,
    url: Text,
    version: Text,
    serve_locally: Flag,
    github_project: Text,
    github_asset_regex: Text,
    expected_hash: Text,
    filename: Text,
    hash: Text,
    admin_override: Flag,
    materialize: Flag,
    serve_url: Text,
    serve_urls: Many<Text>,
    // Set by servers, never by authors.
    filestore_path: IgnoredAny,
    serve_path: IgnoredAny,
    artifact: IgnoredAny,
    versions: IgnoredAny,
    invalid_hash: IgnoredAny,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Resources {
    timeout: Number<u64>,
    max_rows: Number<u64>,
    max_upload_bytes: Number<u64>,
    ops_per_second: Number<f32>,
    cpu_limit: Number<f32>,
    iops_limit: Number<f32>,
    max_batch_wait: Number<u64>,
    max_batch_rows: Number<u64>,
    max_batch_rows_buffer: Number<u64>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct ColumnType {
    name: Text,
    r#type: Text,
    description: Text,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Report {
    name: Text,
    r#type: Text,
    template: Text,
    parameters: Many<Parameter>,
    timeout: Number<u64>,
}

impl Document {
    fn into_artifact(self, raw: &str) -> proto::Artifact {
        proto::Artifact {
            name: self.name.0,
            aliases: self.aliases.texts(),
            description: self.description.0,
            author: self.author.0,
            reference: self.reference.texts(),
            references: self.references.texts(),
            r#type: self.r#type.0,
            precondition: self.precondition.0,
            parameters: self.parameters.0.into_iter().map(Parameter::into_proto).collect(),
            sources: self.sources.0.into_iter().map(Source::into_proto).collect(),
            export: self.export.0,
            imports: self.imports.texts(),
            tools: self.tools.0.into_iter().map(Tool::into_proto).collect(),
            required_permissions: self.required_permissions.texts(),
            implied_permissions: self.implied_permissions.texts(),
            impersonate: self.impersonate.0,
            resources: self.resources.map(Resources::into_proto),
            column_types: self.column_types.0.into_iter().map(ColumnType::into_proto).collect(),
            reports: self.reports.0.into_iter().map(Report::into_proto).collect(),
            raw: raw.to_owned(),
            ..Default::default()
        }
    }
}

impl Parameter {
    fn into_proto(self) -> proto::ArtifactParameter {
        proto::ArtifactParameter {
            name: self.name.0,
            default: self.default.0,
            description: self.description.0,
            r#type: self.r#type.0,
            friendly_name: self.friendly_name.0,
            choices: self.choices.texts(),
            validating_regex: self.validating_regex.0,
            artifact_type: self.artifact_type.0,
            sources: self.sources.0,
        }
    }
}

impl Source {
    fn into_proto(self) -> proto::ArtifactSource {
        let cell = |c: Cell| proto::NotebookSourceCell {
            template: c.template.0,
            r#type: c.r#type.0,
            name: c.name.0,
            output: c.output.0,
            env: (c.env.0.into_iter())
                .map(|e| proto::ArtifactEnv { key: e.key.0, value: e.value.0 })
                .collect(),
        };
        proto::ArtifactSource {
            name: self.name.0,
            description: self.description.0,
            precondition: self.precondition.0,
            query: self.query.0,
            queries: self.queries.texts(),
            notebook: self.notebook.0.into_iter().map(cell).collect(),
        }
    }
}

impl Tool {
    fn into_proto(self) -> proto::Tool {
        proto::Tool {
            name: self.name.0,
            url: self.url.0,
            version: self.version.0,
            serve_locally: self.serve_locally.0,
            github_project: self.github_project.0,
            github_asset_regex: self.github_asset_regex.0,
            expected_hash: self.expected_hash.0,
            filename: self.filename.0,
            hash: self.hash.0,
            admin_override: self.admin_override.0,
            materialize: self.materialize.0,
            serve_url: self.serve_url.0,
            serve_urls: self.serve_urls.texts(),
            ..Default::default()
        }
    }
}

impl Resources {
    fn into_proto(self) -> proto::Resources {
        proto::Resources {
            timeout: self.timeout.0,
            max_rows: self.max_rows.0,
            max_upload_bytes: self.max_upload_bytes.0,
            ops_per_second: self.ops_per_second.0,
            cpu_limit: self.cpu_limit.0,
            iops_limit: self.iops_limit.0,
            max_batch_wait: self.max_batch_wait.0,
            max_batch_rows: self.max_batch_rows.0,
            max_batch_rows_buffer: self.max_batch_rows_buffer.0,
        }
    }
}

impl ColumnType {
    fn into_proto(self) -> proto::ColumnType {
        proto::ColumnType {
            name: self.name.0,
            r#type: self.r#type.0,
            description: self.description.0,
        }
    }
}

impl Report {
    fn into_proto(self) -> proto::Report {
        proto::Report {
            name: self.name.0,
            r#type: self.r#type.0,
            template: self.template.0,
            parameters: self.parameters.0.into_iter().map(Parameter::into_proto).collect(),
            timeout: self.timeout.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_keep_their_spelling() {
        let a = decode(
            "name: Custom.A\nparameters:\n  - name: A\n    default: Y\n  - name: B\n    \
             default: 010\n  - name: C\n    default: 2020-01-01\n  - name: D\n    default:\n  \
             - name: E\n    default: null\n  - name: F\n    default: 'null'\n  - name: G\n    \
             default: 1.50\n    type: int\n    sources: Y\n    choices: [1, no, 0x10]\n",
        )
        .unwrap();
        let defaults: Vec<_> = a.parameters.iter().map(|p| p.default.as_str()).collect();
        assert_eq!(defaults, ["Y", "010", "2020-01-01", "", "", "null", "1.50"]);
        assert_eq!(a.parameters[6].choices, ["1", "no", "0x10"]);
        assert!(a.parameters[6].sources);
    }

    #[test]
    fn blocks_may_lack_their_bar() {
        let a = decode(
            "name: Custom.A\nsources:\n- precondition:\n    SELECT OS From info() where OS = \
             'linux'\n\n  query:\n    SELECT *: FROM x\n- queries:\n    - LET a = b\n    \
             - SELECT a: FROM b\n      WHERE c\n",
        )
        .unwrap();
        assert_eq!(a.sources[0].query, "\nSELECT *: FROM x\n");
        assert_eq!(a.sources[1].queries[0], "LET a = b\n");
        assert_eq!(a.sources[1].queries[1].trim(), "SELECT a: FROM b\n WHERE c");
    }

    #[test]
    fn errors_name_the_line_as_written() {
        let e = decode("name: A\nsources:\n- query:\n    SELECT\n  colour: red\n").unwrap_err();
        assert_eq!(e.line, 5, "{e}");
        assert!(e.message.contains("colour"), "{e}");
        let e = decode("name: A\nparameters:\n  - name: [x\n").unwrap_err();
        assert!(e.line >= 3, "{e}");
        assert!(decode("name: A\nname: B\n").unwrap_err().message.contains("duplicate"));
        assert!(decode("name: A\nresources:\n  timeout: soon\n").is_err());
    }

    #[test]
    fn an_empty_list_or_section_is_none() {
        let a = decode("name: A\nparameters:\nsources: ~\nresources:\n").unwrap();
        assert!(a.parameters.is_empty() && a.sources.is_empty() && a.resources.is_none());
    }
}
