//! `trace`: uploads what this process is doing right now: its memory, its threads
//! and what each waits for, its open files.

use std::path::Path;

use vql::{Args, Dict, Error, Registry, Signature, Value};

use crate::plugins::common::{blocking, host};

/// Adds `trace`.
pub fn register(registry: &mut Registry) {
    let trace = Signature::new("trace", "Uploads what this process is doing.").version(1);
    registry.function_async(trace, |scope, _| async move {
        let upload = scope.function("upload");
        let upload = upload.ok_or_else(|| Error::failed("nothing can be uploaded here"))?;
        let own = host(&scope).proc.join("self");
        let now = scope.now();
        let ops = scope.ops_charged();
        let state = blocking(&scope, move || process(&own)).await?;
        let state =
            Dict::new().with("Time", Value::Time(now)).with("Ops", ops).with("Process", state);
        let name = format!("trace-{}.json", now.as_second());
        let args = Dict::new()
            .with("file", Value::from(state).to_json_indented())
            .with("accessor", "data")
            .with("name", name);
        upload.call(&scope, Args::from_dict("upload", &scope, args)).await
    });
}

/// The process of a directory of `/proc`.
fn process(dir: &Path) -> Dict {
    let mut threads: Vec<(u32, Dict)> = entries(&dir.join("task"))
        .into_iter()
        .filter_map(|id| {
            let number = id.parse().ok()?;
            Some((number, thread(&dir.join("task").join(id))))
        })
        .collect();
    threads.sort_by_key(|(id, _)| *id);
    let threads = threads.into_iter().map(|(id, t)| {
        let all = t.into_iter().fold(Dict::new().with("Id", id), |d, (name, v)| d.with(name, v));
        Value::from(all)
    });
    Dict::new()
        .with("Status", lines(&dir.join("status")))
        .with("Io", lines(&dir.join("io")))
        .with("OpenFiles", entries(&dir.join("fd")).len() as u64)
        .with("Threads", threads.collect::<Value>())
}

fn thread(dir: &Path) -> Dict {
    let text = |name: &str| {
        let text = std::fs::read_to_string(dir.join(name)).unwrap_or_default();
        text.trim().to_owned()
    };
    let stat = text("stat");
    // The name before may hold blanks; it ends with the last bracket.
    let rest = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |i: usize| fields.get(i).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    Dict::new()
        .with("Name", text("comm"))
        .with("State", fields.first().copied().unwrap_or_default())
        .with("UserTicks", number(11))
        .with("SystemTicks", number(12))
        .with("WaitsIn", text("wchan"))
}

fn entries(dir: &Path) -> Vec<String> {
    let Ok(found) = std::fs::read_dir(dir) else { return Vec::new() };
    found.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect()
}

/// A file of `Name: value` as a dict.
fn lines(path: &Path) -> Dict {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let pairs = text.lines().filter_map(|l| l.split_once(':'));
    pairs.fold(Dict::new(), |d, (name, value)| {
        d.with(vql::Key::new(name), value.split_whitespace().collect::<Vec<_>>().join(" "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process() {
        let state = process(Path::new("/proc/self"));
        let threads = state.get("Threads").unwrap().as_list().unwrap();
        assert!(!threads.is_empty());
        let first = threads[0].as_dict().unwrap();
        assert!(first.get("State").unwrap().to_text().len() == 1, "{first:?}");
        let status = state.get("Status").unwrap().as_dict().unwrap();
        assert!(status.get("VmRSS").unwrap().to_text().ends_with(" kB"));
    }
}
