//! Which clients a hunt is for. Pure.

use velociraptor_proto::proto::hunt_condition::UnionField;
use velociraptor_proto::proto::hunt_os_condition::Os;
use velociraptor_proto::proto::{ClientInfo, HuntCondition, HuntLabelCondition};

fn has_any(info: &ClientInfo, labels: &HuntLabelCondition) -> bool {
    let has = |l: &String| info.labels.iter().any(|h| h.eq_ignore_ascii_case(l));
    labels.label.iter().any(has)
}

/// Whether a client is one of those the condition names, as far as is known of
/// it now: a client of which the system is not known yet has none.
pub fn matches(condition: Option<&HuntCondition>, info: &ClientInfo) -> bool {
    let Some(c) = condition else { return true };
    if c.excluded_labels.as_ref().is_some_and(|l| has_any(info, l)) {
        return false;
    }
    match &c.union_field {
        None => true,
        Some(UnionField::Labels(l)) => l.label.is_empty() || has_any(info, l),
        Some(UnionField::Os(os)) => {
            let system = match os.os() {
                Os::All => return true,
                Os::Windows => "windows",
                Os::Linux => "linux",
                Os::Osx => "darwin",
            };
            info.system.eq_ignore_ascii_case(system)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use velociraptor_proto::proto::HuntOsCondition;

    fn labels(of: &[&str]) -> HuntLabelCondition {
        HuntLabelCondition { label: of.iter().map(|s| (*s).to_owned()).collect() }
    }

    fn client(system: &str, of: &[&str]) -> ClientInfo {
        ClientInfo { system: system.into(), labels: labels(of).label, ..Default::default() }
    }

    #[test]
    fn all_systems_labels_and_exceptions() {
        let plain = client("linux", &[]);
        assert!(matches(None, &plain) && matches(Some(&HuntCondition::default()), &plain));
        let with = |field, not: &[&str]| HuntCondition {
            union_field: field,
            excluded_labels: (!not.is_empty()).then(|| labels(not)),
        };
        let os = |os: Os| Some(UnionField::Os(HuntOsCondition { os: os.into() }));
        let linux = with(os(Os::Linux), &[]);
        assert!(matches(Some(&linux), &plain));
        assert!(!matches(Some(&linux), &client("windows", &[])));
        assert!(!matches(Some(&linux), &client("", &[])), "not known yet");
        assert!(matches(Some(&with(os(Os::All), &[])), &client("", &[])));
        assert!(matches(Some(&with(os(Os::Osx), &[])), &client("darwin", &[])));
        let either = with(Some(UnionField::Labels(labels(&["a", "B"]))), &["quiet"]);
        assert!(matches(Some(&either), &client("", &["b"])));
        assert!(!matches(Some(&either), &plain));
        assert!(!matches(Some(&either), &client("", &["a", "Quiet"])));
        assert!(!matches(Some(&with(os(Os::Linux), &["quiet"])), &client("linux", &["quiet"])));
        assert!(matches(Some(&with(None, &["quiet"])), &plain));
    }
}
