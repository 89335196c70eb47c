//! Go time layouts as strftime patterns.

/// Translates a layout such as `2006-01-02 15:04:05`. With `parsing` fractions
/// of any length are accepted.
pub(super) fn to_strftime(layout: &str, parsing: bool) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts() {
        assert_eq!(to_strftime("2006-01-02 15:04:05", false), "%Y-%m-%d %H:%M:%S");
        assert_eq!(to_strftime("Mon, 2 Jan 2006 3:04PM MST", false), "%a, %-d %b %Y %-I:%M%p %Z");
        assert_eq!(to_strftime("15:04:05.000", false), "%H:%M:%S%.3f");
    }
}
