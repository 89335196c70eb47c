//! `config generate`: a new server configuration with fresh keys.

use std::io::{self, BufRead};

use clap::Args;

use super::{Changes, Context, questions, write_private};
use crate::cli::print;
use crate::config::generate::{self, Choices};
use crate::config::{Document, document};

/// Arguments of `config generate`.
#[derive(Args, Debug)]
#[command(after_long_help = "Without -i the configuration is for one machine on which everything \
    runs (https://localhost:8000/) and is printed. With -i questions are asked on standard error \
    and the file is written where the last answer says, readable by its owner only.\n\n\
    The output holds the CA's private key. It may be taken out (CA.private_key) and kept offline; \
    it is needed to make API clients and new certificates.")]
pub struct GenerateArgs {
    /// Ask for the choices that shape the deployment.
    #[arg(short, long)]
    interactive: bool,

    #[command(flatten)]
    changes: Changes,
}

/// Makes the configuration and prints or writes it.
pub async fn run(args: GenerateArgs, ctx: &Context) -> anyhow::Result<()> {
    let (choices, output) = if args.interactive {
        let mut input = io::stdin().lock();
        let answers = questions::ask(&mut input as &mut dyn BufRead, &mut io::stderr(), true)?;
        (answers.choices, Some(answers.output))
    } else {
        (Choices::default(), None)
    };
    let value = generate::server(&*ctx.env.entropy, ctx.env.clock.now(), &choices)?;
    let doc = Document::from_value(value, "the new configuration")?;
    let text = document::to_yaml(&args.changes.apply(&ctx.env, doc).await?.value);
    match output {
        None => print(&text),
        Some(path) => {
            write_private(&ctx.env, &path, &text).await?;
            eprintln!("written to {path}");
            Ok(())
        }
    }
}
