//! What is wrong with a profile before anything is read by it: a structure that is half read
//! because of a slip of the pen looks like a broken file.

use serde_json::Value as Json;
use vql::Lambda;

use super::scalars;
use super::shape::{Field, Profile};

/// Types that are no structures and no numbers.
const TYPES: [&str; 13] = [
    "String",
    "Value",
    "Array",
    "leb128",
    "GUID",
    "Enumeration",
    "Flags",
    "BitField",
    "WinFileTime",
    "FatTimestamp",
    "Timestamp",
    "EpochTimestamp",
    "Union",
];

/// The first fault of a profile.
pub(super) fn check(profile: &Profile) -> Result<(), String> {
    for (name, shape) in profile.all() {
        for field in &shape.fields {
            field_of(name, field)?;
            let kind = field.kind.as_str();
            let known = TYPES.contains(&kind) || matches!(kind, "Profile" | "Pointer");
            if !known && scalars::find(kind).is_none() && profile.find(kind).is_none() {
                return Err(format!("Reference to undefined type {kind} in {name}.{}", field.name));
            }
        }
    }
    Ok(())
}

fn field_of(of: &str, field: &Field) -> Result<(), String> {
    if let Json::String(offset) = &field.offset {
        Lambda::parse(offset)
            .map_err(|e| format!("struct {of} field offset '{offset}': {}", first_line(&e)))?;
    }
    let option = |name: &str| field.options.get(name);
    let bit = |name: &str, default| option(name).map_or(Some(default), Json::as_i64);
    let fault = match field.kind.as_str() {
        "Value" if option("value").is_none() => "Value parser must specify a value".into(),
        "Array" if option("type").is_none() => "ArrayParser: Field type is required".into(),
        "Enumeration" if !of_numbers(option("map")) => {
            "Enumeration parser requires map to be a mapping between strings and numbers".into()
        }
        "BitField" => match (bit("start_bit", 0), bit("end_bit", 64)) {
            (Some(start), Some(end)) if end <= start => {
                format!("BitField end_bit ({end}) should be larger than start_bit ({start})")
            }
            _ => return Ok(()),
        },
        _ => return Ok(()),
    };
    Err(format!("struct {of} field '{}': {fault}", field.name))
}

fn of_numbers(map: Option<&Json>) -> bool {
    let map = map.and_then(Json::as_object);
    map.is_none_or(|map| map.values().all(Json::is_number))
}

fn first_line(error: &impl ToString) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_told_before_reading() {
        let cases = [
            (r#"["a", 0, "NoSuch"]"#, "Reference to undefined type NoSuch in H.a"),
            (r#"["a", "no lambda", "uint8"]"#, "struct H field offset 'no lambda': "),
            (r#"["a", 0, "Value", {}]"#, "struct H field 'a': Value parser"),
            (r#"["a", 0, "Array", {"count": 2}]"#, "struct H field 'a': ArrayParser"),
            (
                r#"["a", 0, "BitField", {"start_bit": 5, "end_bit": 2}]"#,
                "struct H field 'a': BitField end_bit (2)",
            ),
            (r#"["a", 0, "Enumeration", {"map": {"A": "0x1"}}]"#, "struct H field 'a': Enum"),
        ];
        for (field, expected) in cases {
            let profile = Profile::parse(&format!(r#"[["H", 0, [{field}]]]"#)).unwrap();
            let fault = check(&profile).unwrap_err();
            assert!(fault.starts_with(expected), "{fault}");
        }
    }

    #[test]
    fn numbers_may_have_a_large_x() {
        let text = r#"[["H", 0, [["a", 0, "Enumeration", {"map": {"A 0X1": 0X1F}}]]]]"#;
        let profile = Profile::parse(text).unwrap();
        check(&profile).unwrap();
        let options = &profile.find("H").unwrap().fields[0].options;
        assert_eq!(options["map"]["A 0X1"], 31);
    }

    #[test]
    fn a_profile_may_use_its_own_structures_and_lambdas() {
        let text = r#"[["H", "x=>x.a", [["a", 0, "uint16be"], ["b", "x=>x.a + 1", "S"],
            ["c", 0, "Array", {"type": "S", "count": "x=>x.a"}]]], ["S", 1, []]]"#;
        assert_eq!(check(&Profile::parse(text).unwrap()), Ok(()));
    }
}
