//! grok(): named patterns put together. `%{NAME}` stands for a pattern,
//! `%{NAME:field}` keeps what it matched.

use crate::error::Error;
use crate::registry::Registry;
use crate::signature::{ArgType, Signature};
use crate::value::{Dict, Key, Value};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Patterns in patterns in patterns.
const MAX_DEPTH: usize = 32;
/// Largest expression put together, in bytes.
const MAX_SIZE: usize = 256 << 10;

pub(super) fn register(registry: &mut Registry) {
    let grok = Signature::new(
        "grok",
        "The fields a pattern of named patterns finds; none without a match.",
    )
    .required("grok", ArgType::String, "The pattern.")
    .required("data", ArgType::String, "The text.")
    .arg("patterns", ArgType::Any, "Further patterns: a dict from name to pattern.")
    .arg("all_captures", ArgType::Bool, "Also keep what patterns without a field matched.");
    registry.function_sync(grok, |scope, args| {
        let own = match args.any("patterns") {
            Value::Dict(dict) => dict.iter().map(|(k, v)| (k.to_string(), v.to_text())).collect(),
            _ => BTreeMap::new(),
        };
        let put = put_together(&args.string("grok")?, &own, args.bool("all_captures")?)?;
        let caches = &scope.session().caches.exact_regexes;
        let (regex, _) =
            caches.get(put.text.as_bytes(), || crate::go_regex::compile(&put.text, false));
        let regex = regex.map_err(|e| Error::failed(format!("the pattern: {e}")))?;
        let data = args.bytes("data")?;
        let mut fields: BTreeMap<&str, Value> = BTreeMap::new();
        if let Some(found) = regex.on(data.as_bytes()).captures(data.as_bytes()) {
            let of = |name: &str| {
                found.name(name).map_or(Value::from(""), |m| Value::from(m.as_bytes()))
            };
            // A field may stand in several places or branches; the first that matched anything
            // counts. A group that the pattern names itself is a field too.
            let groups = put.fields.iter().map(|(group, field)| (field.as_str(), of(group)));
            for (field, value) in groups {
                let known = fields.entry(field).or_insert_with(|| value.clone());
                if known.to_text().is_empty() {
                    *known = value;
                }
            }
        }
        let dict = fields.into_iter().fold(Dict::new(), |d, (k, v)| d.with(Key::new(k), v));
        Ok(dict.into())
    });
}

/// An expression with a group of its own for each field.
struct Put {
    text: String,
    /// Groups and the fields they are, in the order of the expression.
    fields: Vec<(String, String)>,
}

impl Put {
    /// Opens a group for a field.
    fn open(&mut self, field: &str) {
        let group = format!("g{}", self.fields.len());
        let _ = write!(self.text, "(?P<{group}>");
        self.fields.push((group, field.to_owned()));
    }

    /// Takes in what stands between patterns. Groups named there get names of their own, for one
    /// name may be given twice.
    fn literal(&mut self, text: &str) {
        let mut rest = text;
        while let Some(at) = rest.find('(') {
            let escaped = rest[..at].bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1;
            let named = rest[at..].strip_prefix("(?P<").or_else(|| rest[at..].strip_prefix("(?<"));
            let named = named.and_then(|n| n.split_once('>')).filter(|(name, _)| is_name(name));
            match named.filter(|_| !escaped) {
                Some((name, after)) => {
                    self.text.push_str(&rest[..at]);
                    self.open(name);
                    rest = after;
                }
                None => {
                    self.text.push_str(&rest[..=at]);
                    rest = &rest[at + 1..];
                }
            }
        }
        self.text.push_str(rest);
    }
}

/// Whether a group may be called so. What follows `(?<` may also look behind.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn put_together(grok: &str, own: &BTreeMap<String, String>, all: bool) -> Result<Put, Error> {
    let mut put = Put { text: String::new(), fields: Vec::new() };
    expand(grok, own, all, 0, &mut put)?;
    Ok(put)
}

fn expand(
    pattern: &str,
    own: &BTreeMap<String, String>,
    all: bool,
    depth: usize,
    put: &mut Put,
) -> Result<(), Error> {
    if depth > MAX_DEPTH || put.text.len() > MAX_SIZE {
        return Err(Error::failed("the pattern refers to itself, or is too large"));
    }
    let mut rest = pattern;
    while let Some(at) = rest.find("%{") {
        let Some(length) = rest[at..].find('}') else { break };
        put.literal(&rest[..at]);
        let inner = &rest[at + 2..at + length];
        rest = &rest[at + length + 1..];
        // What a field is to become is of no use here: all are texts.
        let mut parts = inner.splitn(3, ':');
        let name = parts.next().unwrap_or_default();
        let field = parts.next().filter(|f| !f.is_empty());
        let known = own.get(name).map(String::as_str).or_else(|| library(name));
        let known = known.ok_or_else(|| Error::failed(format!("no pattern is called {name}")))?;
        match field.or(all.then_some(name)) {
            Some(field) => put.open(field),
            None => put.text.push_str("(?:"),
        }
        expand(known, own, all, depth + 1, put)?;
        put.text.push(')');
    }
    put.literal(rest);
    Ok(())
}

/// The patterns everybody uses, by the names everybody knows.
fn library(name: &str) -> Option<&'static str> {
    Some(match name {
        "USERNAME" => "[a-zA-Z0-9._-]+",
        "USER" => "%{USERNAME}",
        "HTTPDUSER" => "%{EMAILADDRESS}|%{USER}",
        "EMAILLOCALPART" => "[a-zA-Z0-9!#$%&'*+/=?^_`{|}~.-]+",
        "EMAILADDRESS" => "%{EMAILLOCALPART}@%{HOSTNAME}",
        "INT" => "[+-]?[0-9]+",
        "BASE10NUM" => r"[+-]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)",
        "NUMBER" => "%{BASE10NUM}",
        "BASE16NUM" => "[+-]?(?:0x)?[0-9A-Fa-f]+",
        "POSINT" => r"\b[1-9][0-9]*\b",
        "NONNEGINT" => r"\b[0-9]+\b",
        "WORD" => r"\b\w+\b",
        "NOTSPACE" => r"\S+",
        "SPACE" => r"\s*",
        "DATA" => ".*?",
        "GREEDYDATA" => ".*",
        "QUOTEDSTRING" | "QS" => r#""(?:\\.|[^\\"])*"|'(?:\\.|[^\\'])*'"#,
        "UUID" => "[A-Fa-f0-9]{8}-(?:[A-Fa-f0-9]{4}-){3}[A-Fa-f0-9]{12}",
        "MAC" => "%{CISCOMAC}|%{WINDOWSMAC}|%{COMMONMAC}",
        "CISCOMAC" => r"(?:[A-Fa-f0-9]{4}\.){2}[A-Fa-f0-9]{4}",
        "WINDOWSMAC" => "(?:[A-Fa-f0-9]{2}-){5}[A-Fa-f0-9]{2}",
        "COMMONMAC" => "(?:[A-Fa-f0-9]{2}:){5}[A-Fa-f0-9]{2}",
        "IPV4" => {
            r"(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3}(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
        }
        "IPV6" => r"(?:[0-9A-Fa-f]{0,4}:){2,7}(?:%{IPV4}|[0-9A-Fa-f]{0,4})(?:%[0-9A-Za-z]+)?",
        "IP" => "%{IPV6}|%{IPV4}",
        "HOSTNAME" | "HOST" => {
            r"\b(?:[0-9A-Za-z][0-9A-Za-z_-]{0,62})(?:\.(?:[0-9A-Za-z][0-9A-Za-z_-]{0,62}))*(?:\.?|\b)"
        }
        "IPORHOST" => "%{IP}|%{HOSTNAME}",
        "HOSTPORT" => "%{IPORHOST}:%{POSINT}",
        "PATH" => "%{UNIXPATH}|%{WINPATH}",
        "UNIXPATH" => r"(?:/[\w_%!$@:.,+~-]*)+",
        "WINPATH" => r"(?:[A-Za-z]+:|\\)(?:\\[^\\?*]*)+",
        "TTY" => r"/dev/(?:pts|tty(?:[pq])?)(?:\w+)?/?(?:[0-9]+)",
        "URIPROTO" => "[A-Za-z]+(?:[+][A-Za-z+]+)?",
        "URIHOST" => "%{IPORHOST}(?::%{POSINT:port})?",
        "URIPATH" => r"(?:/[A-Za-z0-9$.+!*'(){},~:;=@#%&_-]*)+",
        "URIPARAM" => r"\?[A-Za-z0-9$.+!*'|(){},~@#%&/=:;_?\[\]<>-]*",
        "URIPATHPARAM" => "%{URIPATH}(?:%{URIPARAM})?",
        "URI" => "%{URIPROTO}://(?:%{USER}(?::[^@]*)?@)?(?:%{URIHOST})?(?:%{URIPATHPARAM})?",
        "MONTH" => {
            r"\b(?:[Jj]an(?:uary)?|[Ff]eb(?:ruary)?|[Mm]ar(?:ch)?|[Aa]pr(?:il)?|[Mm]ay|[Jj]une?|[Jj]uly?|[Aa]ug(?:ust)?|[Ss]ep(?:tember)?|[Oo]ct(?:ober)?|[Nn]ov(?:ember)?|[Dd]ec(?:ember)?)\b"
        }
        "MONTHNUM" => "0?[1-9]|1[0-2]",
        "MONTHNUM2" => "0[1-9]|1[0-2]",
        "MONTHDAY" => "0[1-9]|[12][0-9]|3[01]|[1-9]",
        "DAY" => {
            "Mon(?:day)?|Tue(?:sday)?|Wed(?:nesday)?|Thu(?:rsday)?|Fri(?:day)?|Sat(?:urday)?|Sun(?:day)?"
        }
        "YEAR" => r"[0-9]{4}|[0-9]{2}",
        "HOUR" => "2[0-3]|[01]?[0-9]",
        "MINUTE" => "[0-5][0-9]",
        "SECOND" => "(?:[0-5]?[0-9]|60)(?:[:.,][0-9]+)?",
        "TIME" => "%{HOUR}:%{MINUTE}(?::%{SECOND})",
        "DATE_US" => "%{MONTHNUM}[/-]%{MONTHDAY}[/-]%{YEAR}",
        "DATE_EU" => "%{MONTHDAY}[./-]%{MONTHNUM}[./-]%{YEAR}",
        "DATE" => "%{DATE_US}|%{DATE_EU}",
        "DATESTAMP" => "%{DATE}[- ]%{TIME}",
        "TZ" => "[PMCE][SD]T|UTC|[A-Z]{3}",
        "ISO8601_TIMEZONE" => "Z|[+-]%{HOUR}(?::?%{MINUTE})",
        "TIMESTAMP_ISO8601" => {
            "%{YEAR}-%{MONTHNUM}-%{MONTHDAY}[T ]%{HOUR}:?%{MINUTE}(?::?%{SECOND})?(?:%{ISO8601_TIMEZONE})?"
        }
        "DATESTAMP_RFC822" => "%{DAY} %{MONTH} %{MONTHDAY} %{YEAR} %{TIME} %{TZ}",
        "ISO8601_SECOND" => "%{SECOND}|60",
        "DATESTAMP_RFC2822" => "%{DAY}, %{MONTHDAY} %{MONTH} %{YEAR} %{TIME} %{ISO8601_TIMEZONE}",
        "DATESTAMP_OTHER" => "%{DAY} %{MONTH} %{MONTHDAY} %{TIME} %{TZ} %{YEAR}",
        "DATESTAMP_EVENTLOG" => "%{YEAR}%{MONTHNUM2}%{MONTHDAY}%{HOUR}%{MINUTE}%{SECOND}",
        "HTTPDERROR_DATE" => "%{DAY} %{MONTH} %{MONTHDAY} %{TIME} %{YEAR}",
        "HTTPDATE" => "%{MONTHDAY}/%{MONTH}/%{YEAR}:%{TIME} %{INT}",
        "SYSLOGTIMESTAMP" => "%{MONTH} +%{MONTHDAY} %{TIME}",
        "PROG" => r"[\x21-\x5a\x5c\x5e-\x7e]+",
        "SYSLOGPROG" => r"%{PROG:program}(?:\[%{POSINT:pid}\])?",
        "SYSLOGHOST" => "%{IPORHOST}",
        "SYSLOGFACILITY" => "<%{NONNEGINT:facility}.%{NONNEGINT:priority}>",
        "SYSLOGBASE" => {
            "%{SYSLOGTIMESTAMP:timestamp} (?:%{SYSLOGFACILITY} )?%{SYSLOGHOST:logsource} %{SYSLOGPROG}:"
        }
        "LOGLEVEL" => {
            "(?i:alert|trace|debug|notice|info|warn(?:ing)?|err(?:or)?|crit(?:ical)?|fatal|severe|emerg(?:ency)?)"
        }
        "COMMONAPACHELOG" => {
            r#"%{IPORHOST:clientip} %{HTTPDUSER:ident} %{USER:auth} \[%{HTTPDATE:timestamp}\] "(?:%{WORD:verb} %{NOTSPACE:request}(?: HTTP/%{NUMBER:httpversion})?|%{DATA:rawrequest})" %{NUMBER:response} (?:%{NUMBER:bytes}|-)"#
        }
        "COMBINEDAPACHELOG" => r#"%{COMMONAPACHELOG} %{QS:referrer} %{QS:agent}"#,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::rows as run;

    #[test]
    fn every_pattern_of_the_library_is_one() {
        let text = include_str!("grok.rs");
        let body = text.split("fn library").nth(1).unwrap().split("#[cfg(test)]").next().unwrap();
        let names = regex::Regex::new(r#""([A-Z0-9_]+)"(?: \| "([A-Z0-9_]+)")? =>"#).unwrap();
        let mut count = 0;
        for name in names.captures_iter(body).flat_map(|c| [c.get(1), c.get(2)]).flatten() {
            let put = put_together(&format!("%{{{}:x}}", name.as_str()), &BTreeMap::new(), false);
            let put = put.unwrap_or_else(|e| panic!("{}: {e}", name.as_str()));
            crate::go_regex::compile(&put.text, false)
                .unwrap_or_else(|e| panic!("{}: {e}", name.as_str()));
            count += 1;
        }
        assert!(count > 60, "{count}");
    }

    #[test]
    fn fields_are_found() {
        let line =
            "Jan  2 03:04:05 web sshd[42]: Failed password for root from 10.0.0.1 port 22 ssh2";
        let pattern = "%{SYSLOGTIMESTAMP:Timestamp} %{SYSLOGHOST:host} %{SYSLOGPROG}: %{DATA:event} %{DATA:method} for %{DATA:user} from %{IPORHOST:ip} port %{NUMBER:port} ssh2";
        let text = format!("SELECT grok(grok='{pattern}', data='{line}') AS G FROM scope()");
        assert_eq!(
            run(&text),
            r#"[{"G":{"Timestamp":"Jan  2 03:04:05","event":"Failed","host":"web","ip":"10.0.0.1","method":"password","pid":"42","port":"22","program":"sshd","user":"root"}}]"#
        );
        let own = "SELECT grok(grok='%{N:a.b} %{WORD}', data='7x y', patterns=dict(N='[0-9]x')) AS G, \
                   grok(grok='%{INT:n}', data='none') AS Lost, \
                   grok(grok='%{INT} %{INT:n}', data='1 2', all_captures=TRUE) AS All FROM scope()";
        assert_eq!(run(own), r#"[{"G":{"a.b":"7x"},"Lost":{},"All":{"INT":"1","n":"2"}}]"#);
    }

    #[test]
    fn groups_named_in_the_pattern_are_fields() {
        let of = |grok: &str, data: &str| {
            run(&format!("SELECT grok(grok='{grok}', data='{data}') AS G FROM scope()"))
        };
        let found = r#"[{"G":{"day":"x","host":"y"}}]"#;
        assert_eq!(of("%{WORD:day} (?P<host>[a-z])", "x y"), found);
        assert_eq!(of("%{WORD:day} (?<host>[a-z])", "x y"), found);
        // One that is not there is empty; the first that matched anything counts.
        assert_eq!(of("(?P<q>b)?a", "a"), r#"[{"G":{"q":""}}]"#);
        assert_eq!(of("%{WORD:a} %{WORD:a}", "x y"), r#"[{"G":{"a":"x"}}]"#);
        assert_eq!(of("a%{WORD:x}?|b %{WORD:x}", "b q"), r#"[{"G":{"x":"q"}}]"#);
        assert_eq!(of("(?P<x>b) %{WORD:x}", "b q"), r#"[{"G":{"x":"b"}}]"#);
        assert_eq!(of("[(]%{WORD:x}[)]", "(q)"), r#"[{"G":{"x":"q"}}]"#);
    }

    #[test]
    fn patterns_of_the_library_that_name_others() {
        let of = |name: &str, data: &str| {
            run(&format!("SELECT grok(grok='%{{{name}:x}}', data='{data}').x AS X FROM scope()"))
        };
        for (name, text) in [
            ("HTTPDUSER", "frank"),
            ("CISCOMAC", "0011.2233.4455"),
            ("WINDOWSMAC", "00-11-22-33-44-55"),
            ("MAC", "00:11:22:33:44:55"),
            ("MONTHNUM2", "09"),
            ("ISO8601_SECOND", "59"),
            ("DATESTAMP_RFC2822", "Mon, 2 Jan 2020 12:34:56 +01:00"),
            ("DATESTAMP_OTHER", "Mon Jan 2 12:34:56 UTC 2020"),
            ("DATESTAMP_EVENTLOG", "20200102030405"),
            ("HTTPDERROR_DATE", "Mon Jan 02 12:34:56 2020"),
        ] {
            assert_eq!(of(name, text), format!(r#"[{{"X":"{text}"}}]"#), "{name}");
        }
        let port = "SELECT grok(grok='%{URIHOST:x}', data='a.b:80') AS G FROM scope()";
        assert_eq!(run(port), r#"[{"G":{"port":"80","x":"a.b:80"}}]"#);
    }

    #[test]
    fn patterns_that_go_round_are_refused() {
        let own = BTreeMap::from([("A".to_owned(), "%{A}".to_owned())]);
        assert!(put_together("%{A}", &own, false).is_err());
        assert!(put_together("%{NOBODY}", &BTreeMap::new(), false).is_err());
        assert_eq!(put_together("%{A", &own, false).unwrap().text, "%{A");
    }
}
