//! if() and switch(): one of several queries.

use crate::registry::Registry;
use crate::signature::{ArgType, Signature};
use futures::StreamExt;

pub(super) fn register(registry: &mut Registry) {
    let conditional = Signature::new("if", "One of two queries.")
        .required("condition", ArgType::Bool, "What decides.")
        .required("then", ArgType::Lazy, "The query when true.")
        .arg("else", ArgType::Lazy, "The query when false.");
    registry.plugin_stream(conditional, |scope, args| {
        let branch = if args.bool("condition")? { "then" } else { "else" };
        Ok(args.lazy(branch).rows_in(&scope.child()))
    });

    let switch = Signature::new("switch", "The first of several queries which yields a row.");
    registry.plugin_async(switch.any_args(), |scope, args, emitter| async move {
        let names: Vec<_> = args.names().cloned().collect();
        for name in names {
            let mut rows = args.rows_in(&name, &scope.child());
            let mut any = false;
            while let Some(row) = rows.next().await {
                any = true;
                emitter.send(row).await?;
            }
            if any {
                break;
            }
        }
        Ok(())
    });
}
