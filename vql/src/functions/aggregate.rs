//! count, sum, min, max, enumerate, rate: the value so far, per call site and bin.

use crate::eval::{equal, less};
use crate::registry::Registry;
use crate::signature::{ArgType, Signature};
use crate::value::Value;

pub(super) fn register(registry: &mut Registry) {
    let count = Signature::new("count", "Counts the rows so far.");
    registry.function_sync(count.arg("items", ArgType::Any, "Ignored."), |_, args| {
        Ok(args.aggregate(|old| Value::Int(1 + old.and_then(|v| v.as_int()).unwrap_or(0))))
    });

    let sum = Signature::new("sum", "Adds numbers up.");
    registry.function_sync(sum.required("item", ArgType::Int, "An integer."), |_, args| {
        let item = args.int("item")?;
        Ok(args.aggregate(|old| {
            Value::Int(item.wrapping_add(old.and_then(|v| v.as_int()).unwrap_or(0)))
        }))
    });

    let min = Signature::new("min", "The smallest value so far.");
    registry.function_sync(min.required("item", ArgType::Any, "A value."), |_, args| {
        Ok(extreme(args.any("item"), less, args))
    });

    let max = Signature::new("max", "The largest value so far.");
    registry.function_sync(max.required("item", ArgType::Any, "A value."), |_, args| {
        Ok(extreme(args.any("item"), |item, best| less(best, item), args))
    });

    let enumerate = Signature::new("enumerate", "Collects values into a list.");
    registry.function_sync(enumerate.arg("items", ArgType::Any, "A value."), |_, args| {
        let item = args.any("items");
        Ok(args.aggregate(|old| {
            let mut items = match old {
                Some(Value::List(items)) => items,
                _ => Default::default(),
            };
            std::sync::Arc::make_mut(&mut items).push(item);
            Value::List(items)
        }))
    });

    let rate = Signature::new("rate", "The change of x per change of y since the last row.")
        .required("x", ArgType::Float, "The value.")
        .required("y", ArgType::Float, "What it changes over, such as a time.");
    registry.function_sync(rate, |_, args| {
        let (x, y) = (args.float("x")?, args.float("y")?);
        let state = args.aggregate(|old| {
            let last = old
                .as_ref()
                .and_then(Value::as_list)
                .and_then(|state| Some((state.first()?.as_number()?, state.get(1)?.as_number()?)));
            let rate = match last {
                Some((last_x, last_y)) => Value::Float((x - last_x) / (y - last_y)),
                None => Value::Null,
            };
            Value::list(vec![x.into(), y.into(), rate])
        });
        Ok(state.as_list().and_then(|s| s.get(2)).cloned().unwrap_or_default())
    });
}

fn extreme(item: Value, better: fn(&Value, &Value) -> bool, args: &crate::Args) -> Value {
    args.aggregate(|old| match old {
        Some(best) if item.is_null() || equal(&item, &best) || !better(&item, &best) => best,
        _ => item,
    })
}
