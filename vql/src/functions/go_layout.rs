//! Go time layouts as strftime patterns.

/// Translates a layout such as `2006-01-02 15:04:05`. With `parsing` fractions
/// of any length are accepted.
pub(super) fn to_strftime(layout: &str, parsing: bool) -> String {
    let layout = named(layout).unwrap_or(layout);
    const PARTS: [(&str, &str); 26] = [
        ("January", "%B"),
        ("Monday", "%A"),
        ("-07:00", "%:z"),
        ("Z07:00", "%:z"),
        ("-0700", "%z"),
        ("Z0700", "%z"),
        ("2006", "%Y"),
        ("002", "%j"),
        ("Jan", "%b"),
        ("Mon", "%a"),
        ("MST", "%Z"),
        ("01", "%m"),
        ("02", "%d"),
        ("03", "%I"),
        ("04", "%M"),
        ("05", "%S"),
        ("06", "%y"),
        ("15", "%H"),
        ("_2", "%e"),
        ("PM", "%p"),
        ("pm", "%P"),
        ("1", "%-m"),
        ("2", "%-d"),
        ("3", "%-I"),
        ("4", "%-M"),
        ("5", "%-S"),
    ];
    let mut out = String::new();
    let mut rest = layout;
    while let Some(c) = rest.chars().next() {
        let digits = |set: &[char]| rest[1..].chars().take_while(|c| set.contains(c)).count();
        if (c == '.' || c == ',') && digits(&['0']) + digits(&['9']) > 0 {
            let (zeros, nines) = (digits(&['0']), digits(&['9']));
            match (parsing, nines > 0) {
                (true, _) | (_, true) => out.push_str("%.f"),
                (false, false) => out.push_str(&format!("%.{zeros}f")),
            }
            rest = &rest[1 + zeros.max(nines)..];
            continue;
        }
        if let Some((part, code)) = PARTS.iter().find(|(part, _)| rest.starts_with(part)) {
            out.push_str(code);
            rest = &rest[part.len()..];
            continue;
        }
        out.push_str(if c == '%' { "%%" } else { &rest[..c.len_utf8()] });
        rest = &rest[c.len_utf8()..];
    }
    if parsing { out.replace("%S", "%S%.f").replace("%S%.f%.f", "%S%.f") } else { out }
}

/// Layouts that have a name.
fn named(layout: &str) -> Option<&'static str> {
    Some(match layout {
        "ANSIC" => "Mon Jan _2 15:04:05 2006",
        "UnixDate" => "Mon Jan _2 15:04:05 MST 2006",
        "RubyDate" => "Mon Jan 02 15:04:05 -0700 2006",
        "RFC822" => "02 Jan 06 15:04 MST",
        "RFC822Z" => "02 Jan 06 15:04 -0700",
        "RFC850" => "Monday, 02-Jan-06 15:04:05 MST",
        "RFC1123" => "Mon, 02 Jan 2006 15:04:05 MST",
        "RFC1123Z" => "Mon, 02 Jan 2006 15:04:05 -0700",
        "Kitchen" => "3:04PM",
        "Stamp" => "Jan _2 15:04:05",
        "StampMilli" => "Jan _2 15:04:05.000",
        "StampMicro" => "Jan _2 15:04:05.000000",
        "StampNano" => "Jan _2 15:04:05.000000000",
        "DateTime" => "2006-01-02 15:04:05",
        "DateOnly" => "2006-01-02",
        "TimeOnly" => "15:04:05",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts() {
        assert_eq!(to_strftime("2006-01-02 15:04:05", false), "%Y-%m-%d %H:%M:%S");
        assert_eq!(to_strftime("Mon, 2 Jan 2006 3:04PM MST", false), "%a, %-d %b %Y %-I:%M%p %Z");
        assert_eq!(to_strftime("15:04:05.000", false), "%H:%M:%S%.3f");
        assert_eq!(to_strftime("Kitchen", false), "%-I:%M%p");
    }
}
