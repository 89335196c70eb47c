//! Packs: archives of definitions that are taken in together.

use regex::RegexBuilder;
use serde_json::json;
use tonic::Status;
use velociraptor_proto::proto::{
    LoadArtifactError, LoadArtifactPackRequest, LoadArtifactPackResponse,
};

use super::status::{status, store};
use super::{Api, Caller};
use crate::services::acl::Permission;
use crate::services::artifacts::writer_permission;
use crate::services::audit::audit;
use crate::services::repository::load::{Found, MAX_ARCHIVE, unpack};
use crate::store::path::{PathSpec, PathType};
use crate::store::{FilePath, Org};

/// Faults of single files that are told; of others only how many there are.
const FAULTS: usize = 10;

impl Api {
    /// Takes the definitions of an archive in, or says what would be taken. The archive
    /// is in the request, or where an upload put it before.
    pub(super) async fn load_pack(
        &self,
        caller: &Caller,
        r: LoadArtifactPackRequest,
    ) -> Result<LoadArtifactPackResponse, Status> {
        caller.require(Permission::ServerArtifactWriter)?;
        let filter = RegexBuilder::new(&r.filter).case_insensitive(true).build();
        let filter = filter.map_err(|e| Status::invalid_argument(format!("filter: {e}")))?;
        let (archive, vfs_path) = self.pack(caller, r.data, &r.vfs_path).await?;
        let unpacked = self.server.env.offload(move || unpack("", archive)).await;
        let unpacked = unpacked.ok_or_else(|| Status::unavailable("the server is stopping"))?;
        let found = unpacked.map_err(|e| Status::invalid_argument(e.to_string()))?;
        let (mut taken, mut errors, mut more) = (Vec::new(), Vec::new(), 0usize);
        for Found { path, text } in found {
            let one = match text {
                Ok(text) => {
                    self.one_of_pack(caller, &prefixed(&text, &r.prefix), &filter, r.really_do_it)
                        .await
                }
                Err(e) => Err(e),
            };
            match one {
                Ok(Some(name)) => taken.push(name),
                Ok(None) => {}
                Err(_) if errors.len() == FAULTS => more += 1,
                Err(error) => {
                    let filename = path.trim_start_matches('!').to_owned();
                    errors.push(LoadArtifactError { filename, error });
                }
            }
        }
        if more > 0 {
            let error = format!("and {more} more");
            errors.push(LoadArtifactError { error, ..Default::default() });
        }
        if r.really_do_it {
            if !r.tags.is_empty() {
                let tagged = self.server.tag_artifacts(&caller.org, &taken, &r.tags).await;
                tagged.map_err(|e| status(&e))?;
            }
            let details = json!({ "artifacts": taken, "refused": errors.len(), "tags": r.tags });
            audit(&self.server, &caller.org, &caller.name, "LoadArtifactPack", details).await;
        }
        Ok(LoadArtifactPackResponse { successful_artifacts: taken, errors, vfs_path })
    }

    /// The archive and where it is.
    async fn pack(
        &self,
        caller: &Caller,
        data: Vec<u8>,
        vfs_path: &[String],
    ) -> Result<(Vec<u8>, Vec<String>), Status> {
        let tree = &self.server.tree;
        let of = |org: &Org, c: &[&str]| FilePath(PathSpec::escaped(org, PathType::Any, c));
        if !data.is_empty() {
            let name = format!("pack-{:016x}", self.server.env.entropy.next_u64());
            let at = of(&caller.org.id, &["temp", &name]);
            tree.set_file(&at, &data).await.map_err(store)?;
            return Ok((data, at.0.components));
        }
        let given: Vec<&str> =
            vfs_path.iter().map(String::as_str).filter(|c| !c.is_empty()).collect();
        let at = match given.as_slice() {
            // Uploads of forms are the root organisation's, whoever made them.
            ["public", "temp", _, _] => of(&Org::root(), &given),
            ["temp", name] if name.starts_with("pack-") => of(&caller.org.id, &given),
            _ => {
                let text =
                    "vfs_path: upload the archive first (UploadFormFile), or give it as data";
                return Err(Status::invalid_argument(text));
            }
        };
        let data = tree.get_file(&at, MAX_ARCHIVE).await.map_err(store)?;
        let data = data.ok_or_else(|| Status::not_found("the uploaded archive is gone"))?;
        Ok((data, at.0.components))
    }

    /// Takes one definition in; `None` if the filter leaves it out.
    async fn one_of_pack(
        &self,
        caller: &Caller,
        text: &str,
        filter: &regex::Regex,
        really: bool,
    ) -> Result<Option<String>, String> {
        let artifact = caller.org.repository.check(text).map_err(|e| e.to_string())?;
        if !filter.is_match(&artifact.name) {
            return Ok(None);
        }
        caller.require(writer_permission(&artifact)).map_err(|e| e.message().to_owned())?;
        if really {
            let set = self.server.set_artifact(&caller.org, &caller.name, text).await;
            set.map_err(|e| e.to_string())?;
        }
        Ok(Some(artifact.name))
    }
}

/// The definition with a prefix before its name, unless it is there.
fn prefixed(text: &str, prefix: &str) -> String {
    let named = text.lines().find_map(|l| l.strip_prefix("name:").map(|v| (l, v)));
    let Some((line, value)) = named.filter(|_| !prefix.is_empty()) else { return text.to_owned() };
    let name = value.trim_start().trim_start_matches(['"', '\'']);
    if name.starts_with(prefix) {
        return text.to_owned();
    }
    let head = &line[..line.len() - name.len()];
    text.replacen(line, &format!("{head}{prefix}{name}"), 1)
}

#[cfg(test)]
mod tests {
    use super::prefixed;

    #[test]
    fn names_get_a_prefix_once() {
        let text = "# name: no\nname: A.B\ndescription: name: A.B\n";
        let want = "# name: no\nname: Custom.A.B\ndescription: name: A.B\n";
        assert_eq!(prefixed(text, "Custom."), want);
        assert_eq!(prefixed(want, "Custom."), want);
        assert_eq!(prefixed("name: 'A'\n", "X."), "name: 'X.A'\n");
        assert_eq!(prefixed("name:\"A\"\n", "X."), "name:\"X.A\"\n");
        assert_eq!(prefixed(text, ""), text);
        assert_eq!(prefixed("no definition", "X."), "no definition");
    }
}
