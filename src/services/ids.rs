//! Identifiers: organisations, flows, sessions.

use data_encoding::BASE32HEX_NOPAD;

use crate::env::Env;

pub use crate::store::Org as OrgId;

/// The id under which a client of `org` is stored: `<client>` in the root
/// organisation, `<client>-<org>` elsewhere.
pub fn source(org: &OrgId, client: &str) -> String {
    if org.is_root() { client.to_owned() } else { format!("{client}-{}", org.id()) }
}

/// 13 base32hex digits: 32-bit seconds, then 32 random bits, as stock ids.
fn stamp(env: &Env) -> String {
    let mut b = [0; 8];
    env.entropy.fill(&mut b);
    b[..4].copy_from_slice(&(env.clock.unix() as u32).to_be_bytes());
    let mut s = BASE32HEX_NOPAD.encode(&b);
    s.truncate(13);
    s
}

/// A new flow id, `F.` and 13 digits.
pub fn new_flow_id(env: &Env) -> String {
    format!("F.{}", stamp(env))
}

/// A new client id, `C.` and 16 hex digits, as it is stored in `org`.
pub fn new_client_id(env: &Env, org: &OrgId) -> String {
    let mut b = [0; 8];
    env.entropy.fill(&mut b);
    source(org, &format!("C.{}", data_encoding::HEXLOWER.encode(&b)))
}

/// A new hunt id, `H.` and 13 digits.
pub fn new_hunt_id(env: &Env) -> String {
    format!("H.{}", stamp(env))
}

/// A new notebook id, `N.` and 13 digits.
pub fn new_notebook_id(env: &Env) -> String {
    format!("N.{}", stamp(env))
}

/// A new id of a notebook's cell, `NC.` and 13 digits.
pub fn new_cell_id(env: &Env) -> String {
    format!("NC.{}", stamp(env))
}

/// A new id of an attachment of a notebook, `NA.` and 13 digits.
pub fn new_attachment_id(env: &Env) -> String {
    format!("NA.{}", stamp(env))
}

/// A new version of a cell, 13 digits.
pub fn new_cell_version(env: &Env) -> String {
    stamp(env)
}

/// When a flow was made, seconds, as its id says; `None` for ids of another form.
pub fn flow_time(id: &str) -> Option<u64> {
    let digits = id.strip_prefix("F.")?.as_bytes().get(..13)?;
    let value = digits[..7].iter().try_fold(0u64, |n, d| {
        let digit = match d {
            b'0'..=b'9' => d - b'0',
            b'A'..=b'V' => d - b'A' + 10,
            _ => return None,
        };
        Some(n << 5 | u64::from(digit))
    })?;
    // Seven digits are 35 bits, of which 32 are the time.
    Some(value >> 3)
}

/// A new organisation id, `O` and 4 digits.
pub fn new_org_id(env: &Env) -> OrgId {
    let mut b = [0; 3];
    env.entropy.fill(&mut b);
    OrgId::new(format!("O{}", &BASE32HEX_NOPAD.encode(&b)[..4]))
}

/// Place of a run among those of its flow.
pub type Run = u64;

/// Most digits in the number of a run: it and two more fit a [`Run`].
const RUN_DIGITS: usize = 18;

/// A message's session: the flow it belongs to and which run of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Session {
    /// `F.…`, `F.Monitoring`, …
    pub flow: String,
    /// Empty for the first run; `S` or a number for child runs.
    pub child: String,
}

impl Session {
    /// Splits at the first `/`.
    pub fn parse(id: &str) -> Self {
        let (flow, child) = id.split_once('/').unwrap_or((id, ""));
        Self { flow: flow.to_owned(), child: child.to_owned() }
    }

    /// Order of runs: the plain id, then `S`, then children by number. Stock's shell
    /// numbers them by milliseconds since the epoch.
    pub fn run(&self) -> Run {
        match self.child.as_str() {
            "" => 0,
            "S" => 1,
            n => n.parse::<Run>().map_or(Run::MAX, |n| n.saturating_add(2)),
        }
    }

    /// Whether it is a further run of a flow, by a number that can be written in one way
    /// only: so no two ids are one run.
    pub fn is_numbered(&self) -> bool {
        let n = self.child.as_str();
        let digits =
            !n.is_empty() && n.len() <= RUN_DIGITS && n.bytes().all(|b| b.is_ascii_digit());
        digits && (n == "0" || !n.starts_with('0'))
    }

    /// The id that clients know it by.
    pub fn id(&self) -> String {
        match self.child.as_str() {
            "" => self.flow.clone(),
            child => format!("{}/{child}", self.flow),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_carry_the_organisation() {
        assert_eq!(source(&OrgId::new("root"), "C.1"), "C.1");
        assert_eq!(source(&OrgId::new("O123"), "C.1"), "C.1-O123");
        assert_eq!(OrgId::new("").to_string(), "root");
    }

    #[test]
    fn flow_ids_look_stock_and_carry_the_time() {
        let env = crate::env::real::env();
        let id = new_flow_id(&env);
        assert_eq!(id.len(), 15);
        let digits = &id[2..];
        assert!(digits.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'V').contains(&b)), "{id}");
        assert_ne!(id, new_flow_id(&env));
        let now = env.clock.unix();
        assert!((now - 5..=now).contains(&flow_time(&id).unwrap()), "{id}");
        assert_eq!(flow_time(&format!("{id}.H")), flow_time(&id));
        assert!(flow_time("F.Monitoring").is_none() && flow_time("F.1").is_none());
    }

    #[test]
    fn runs_are_ordered() {
        let ids = ["F.1", "F.1/S", "F.1/0", "F.1/1", "F.1/1795764261970", "F.1/1795764261971"];
        let runs: Vec<Run> = ids.iter().map(|s| Session::parse(s).run()).collect();
        assert!(runs.windows(2).all(|w| w[0] < w[1]), "{runs:?}");
        assert!(Session::parse("F.1/x").run() > runs[5]);
        assert!(ids.iter().all(|id| Session::parse(id).id() == *id));
        assert_eq!(Session::parse("F.1/2").flow, "F.1");
    }

    #[test]
    fn a_number_of_a_run_is_written_in_one_way() {
        let numbered = |id: &str| Session::parse(id).is_numbered();
        assert!(["F.1/0", "F.1/7", "F.1/1795764261970"].into_iter().all(numbered));
        let not = ["F.1", "F.1/", "F.1/S", "F.1/07", "F.1/+7", "F.1/7/8", "F.1/-1", "F.1/٣"];
        assert!(!not.into_iter().any(numbered));
        assert!(!numbered("F.1/1234567890123456789"), "one digit more than fits");
    }
}
