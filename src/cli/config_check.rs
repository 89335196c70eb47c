//! `config check`: say what is wrong with a configuration.

use clap::{Args, ValueEnum};

use super::Context;
use crate::cli::print;
use crate::config::{Document, Level, Role, check, load};

/// Arguments of `config check`.
#[derive(Args, Debug)]
#[command(
    after_long_help = "Every finding is printed as FILE:LINE: KEY: what is wrong. Errors keep \
    the role from starting; warnings will become errors with time; notes name keys that have no \
    effect here.\n\nExit status: 0 without errors, 1 with."
)]
pub struct CheckArgs {
    /// For whom to check. Default: server if the file has a Frontend section,
    /// api_client if it has a client certificate, else agent.
    #[arg(long, value_enum)]
    role: Option<For>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum For {
    Server,
    Agent,
    ApiClient,
}

/// Prints all findings; an error makes it fail.
pub async fn run(args: CheckArgs, ctx: &Context) -> anyhow::Result<()> {
    let path = match (&ctx.global.config, &ctx.global.api_config) {
        (None, Some(api)) => api.as_str(),
        _ => ctx.config_path()?,
    };
    let text = super::read(&ctx.env, path).await?;
    let (settings, _, _) =
        load::load_settings(&ctx.env, path, ctx.global.settings.as_deref(), None).await?;
    let doc = Document::parse_api_client(&text, path)?;
    let role = match args.role {
        Some(For::Server) => Role::Server,
        Some(For::Agent) => Role::Agent,
        Some(For::ApiClient) => Role::ApiClient,
        None if doc.get("Frontend").is_some() => Role::Server,
        None if doc.get("api_config.client_cert").is_some() => Role::ApiClient,
        None => Role::Agent,
    };
    let findings = check::check(&doc, &settings, role, ctx.env.clock.now());
    let mut errors = 0;
    for f in &findings {
        let level = match f.level {
            Level::Error => {
                errors += 1;
                "error"
            }
            Level::Warning => "warning",
            Level::Note => "note",
        };
        print(&format!("{level}: {f}\n"))?;
    }
    match errors {
        0 => Ok(()),
        1 => anyhow::bail!("{path}: 1 error"),
        n => anyhow::bail!("{path}: {n} errors"),
    }
}
