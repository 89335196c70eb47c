//! `artifacts import`: takes definitions of a stock release, a pack or an
//! exchange into a server.

use anyhow::bail;
use clap::Args;
use velociraptor_proto::proto::{SetArtifactRequest, set_artifact_request::Operation};

use super::{Context, print};
use crate::api::client::connect;
use crate::config::{Role, load};
use crate::services::ids::OrgId;
use crate::services::repository::custom::{self, CustomError};
use crate::services::repository::load::{Found, find};
use crate::services::repository::{ArtifactError, parse};
use crate::store::{StoreRoot, Tree, paths};

/// Arguments of `artifacts import`.
#[derive(Args, Debug)]
#[command(after_long_help = "With --api_config the definitions go to the running server and are \
    used at once. With --config they are written to its datastore, in the stock layout; a server \
    that runs uses them after its next start. A definition whose name is built in is left out and \
    reported; one that exists already is replaced.\n\nExit status: 0 when every file was taken or \
    left out for being built in, 1 otherwise.")]
pub struct ImportArgs {
    /// A directory of definitions, a zip archive, or a YAML file.
    #[arg(required = true, value_name = "DIR|ZIP")]
    paths: Vec<String>,
    /// Only names that match this regular expression.
    #[arg(long)]
    filter: Option<String>,
}

/// What became of one file.
enum Done {
    Taken,
    BuiltIn,
    Refused(String),
}

/// Runs the command.
pub(super) async fn run(args: ImportArgs, ctx: &Context) -> anyhow::Result<()> {
    let filter = args.filter.as_deref().unwrap_or(".");
    let filter = regex::RegexBuilder::new(filter).case_insensitive(true).build()?;
    let mut found = Vec::new();
    for path in &args.paths {
        found.extend(find(&ctx.env, &crate::config::load::absolute(path)?).await?);
    }
    // A file that is no artifact goes on: it shall be reported, not passed over.
    found.retain(|f| match f.text.as_deref().map(parse) {
        Ok(Ok(artifact)) => filter.is_match(&artifact.name),
        _ => true,
    });
    let done = match &ctx.global.api_config {
        Some(path) => remotely(ctx, path, &found).await?,
        None => into_datastore(ctx, &found).await?,
    };
    let (mut taken, mut built_in, mut refused) = (0, 0, 0);
    for (file, done) in found.iter().zip(done) {
        match done {
            Done::Taken => taken += 1,
            Done::BuiltIn => built_in += 1,
            Done::Refused(reason) => {
                refused += 1;
                eprintln!("{}: {reason}", file.path);
            }
        }
    }
    print(&format!("{taken} taken, {built_in} built in already, {refused} refused\n"))?;
    if refused > 0 {
        bail!("{refused} of {} files were refused", found.len());
    }
    Ok(())
}

async fn into_datastore(ctx: &Context, found: &[Found]) -> anyhow::Result<Vec<Done>> {
    let loaded = load(&ctx.env, ctx.config_path()?, None, Role::Tool).await?;
    let store = &loaded.config.datastore;
    anyhow::ensure!(!store.location().is_empty(), "Datastore.location is not set");
    let tree = Tree::new(&ctx.env, StoreRoot::new(store.location(), store.filestore_directory()));
    let org = OrgId::new(ctx.global.org.as_deref().unwrap_or_default());
    if !org.is_root() && tree.get(&paths::org_record(org.id())).await?.is_none() {
        bail!("there is no organisation {org}");
    }
    // What the server knows already decides what may be replaced.
    let repository = super::repository(ctx).await?;
    let mut done = Vec::new();
    for file in found {
        done.push(match &file.text {
            Err(reason) => Done::Refused(reason.clone()),
            Ok(text) => match custom::set(&tree, &org, &repository, text).await {
                Ok(_) => Done::Taken,
                Err(CustomError::Artifact(ArtifactError::BuiltIn(_))) => Done::BuiltIn,
                Err(e @ CustomError::Artifact(_)) => Done::Refused(e.to_string()),
                Err(e @ CustomError::Store(_)) => return Err(e.into()),
            },
        });
    }
    Ok(done)
}

async fn remotely(ctx: &Context, path: &str, found: &[Found]) -> anyhow::Result<Vec<Done>> {
    let loaded = load(&ctx.env, path, None, Role::ApiClient).await?;
    let mut api = connect(&ctx.env, &loaded.config.api_config).await?;
    let mut done = Vec::new();
    for file in found {
        let artifact = match &file.text {
            Ok(text) => text.clone(),
            Err(reason) => {
                done.push(Done::Refused(reason.clone()));
                continue;
            }
        };
        let request =
            SetArtifactRequest { artifact, op: Operation::Set.into(), ..Default::default() };
        let answer = api.set_artifact_file(request).await?.into_inner();
        done.push(match answer.error_message.as_str() {
            "" => Done::Taken,
            text if text.contains("is built in") => Done::BuiltIn,
            text => Done::Refused(text.to_owned()),
        });
    }
    Ok(done)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;
    use crate::cli::{Context, Globals};
    use crate::env::real;

    fn config(dir: &std::path::Path) -> String {
        let path = dir.join("server.config.yaml");
        let text = format!(
            "Datastore:\n  implementation: FileBaseDataStore\n  location: {0}/ds\n  \
             filestore_directory: {0}/ds\n",
            dir.display()
        );
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn a_pack_goes_into_the_datastore() {
        let dir = tempfile::tempdir().unwrap();
        let query = "sources:\n- query: SELECT 1 AS A FROM scope()\n";
        let good = format!("name: Packs.A\n{query}");
        let built_in = format!("name: Generic.Client.Info\n{query}");
        let members: [(&str, &[u8]); 3] = [
            ("a.yaml", good.as_bytes()),
            ("info.yaml", built_in.as_bytes()),
            ("bad.yaml", b"name: Packs.B\nsources:\n- query: SELEC\n"),
        ];
        let zip = dir.path().join("pack.zip");
        std::fs::write(&zip, crate::store::zip::archive(&members)).unwrap();
        let global = Globals { config: Some(config(dir.path())), ..Globals::default() };
        let ctx = Context { env: real::env(), global };
        let args = |filter: Option<&str>| ImportArgs {
            paths: vec![zip.to_str().unwrap().to_owned()],
            filter: filter.map(str::to_owned),
        };
        let error = run(args(None), &ctx).await.unwrap_err().to_string();
        assert_eq!(error, "1 of 3 files were refused");
        let stored = dir.path().join("ds/artifact_definitions/Packs/A.yaml");
        assert_eq!(std::fs::read_to_string(stored).unwrap(), good);
        assert!(!dir.path().join("ds/artifact_definitions/Generic").exists());
        run(args(Some("^(Packs.A|Generic)")), &ctx).await.unwrap();
        let known = crate::cli::artifacts::repository(&ctx).await.unwrap();
        assert!(known.get("Packs.A").is_some_and(|a| !a.built_in));
    }
}
