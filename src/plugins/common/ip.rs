//! `ip`: internet addresses as values with members.

use std::any::Any;
use std::net::{IpAddr, Ipv4Addr};

use vql::{ArgType, Key, Object, Registry, Signature, Value};

/// An address.
#[derive(Clone, Debug)]
struct Ip(IpAddr);

/// Adds `ip`.
pub fn register(registry: &mut Registry) {
    let signature = Signature::new("ip", "Format or parse an IP address.")
        .refused(false)
        .arg("parse", ArgType::String, "The text of an address.")
        .arg("netaddr4_le", ArgType::Int, "An IPv4 address, low byte first.")
        .arg("netaddr4_be", ArgType::Int, "An IPv4 address, high byte first.");
    registry.function_sync(signature, |_scope, args| {
        let address = if let Some(text) = args.opt_string("parse")? {
            match text.trim().parse() {
                Ok(a) => a,
                Err(_) => return Ok(Value::Null),
            }
        } else if let Some(n) = args.opt_int("netaddr4_le")? {
            IpAddr::V4(Ipv4Addr::from((n as u32).to_le_bytes()))
        } else if let Some(n) = args.opt_int("netaddr4_be")? {
            IpAddr::V4(Ipv4Addr::from((n as u32).to_be_bytes()))
        } else {
            return Ok(Value::Null);
        };
        Ok(Value::object(Ip(address.to_canonical())))
    });
}

impl Object for Ip {
    fn type_name(&self) -> &'static str {
        "net.IP"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn members(&self) -> Vec<Key> {
        Vec::new()
    }

    fn member(&self, name: &str) -> Option<Value> {
        Some(match name {
            "String" => self.0.to_string().into(),
            "IsPrivate" => match self.0 {
                IpAddr::V4(a) => a.is_private(),
                IpAddr::V6(a) => a.segments()[0] & 0xfe00 == 0xfc00,
            }
            .into(),
            "IsLoopback" => self.0.is_loopback().into(),
            "IsMulticast" => self.0.is_multicast().into(),
            "IsUnspecified" => self.0.is_unspecified().into(),
            _ => return None,
        })
    }

    fn text(&self) -> Option<String> {
        Some(self.0.to_string())
    }

    fn truth(&self) -> bool {
        true
    }

    fn equals(&self, other: &Value) -> bool {
        other.downcast::<Ip>().is_some_and(|o| o.0 == self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members() {
        let ip = Ip("10.1.2.3".parse().unwrap());
        assert_eq!(ip.member("IsPrivate").unwrap().to_json(), "true");
        assert_eq!(ip.text().as_deref(), Some("10.1.2.3"));
        assert_eq!(Ipv4Addr::from(0x0100_007f_u32.to_le_bytes()).to_string(), "127.0.0.1");
    }
}
