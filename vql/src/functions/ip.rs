//! ip(): an address and what is known of it.

use crate::error::Error;
use crate::registry::Registry;
use crate::signature::{ArgType, Signature};
use crate::value::{Key, Object, Value};
use std::any::Any;
use std::net::{IpAddr, Ipv4Addr};

pub(super) fn register(registry: &mut Registry) {
    let ip = Signature::new("ip", "An IP address.")
        .refused(false)
        .arg("parse", ArgType::String, "The address as text.")
        .arg("netaddr4_le", ArgType::Int, "An IPv4 address as little endian number.")
        .arg("netaddr4_be", ArgType::Int, "An IPv4 address as big endian number.");
    registry.function_sync(ip, |_, args| {
        let number = |n: i64| u32::try_from(n).map_err(Error::failed);
        let address = if let Some(n) = args.opt_int("netaddr4_le")? {
            IpAddr::V4(Ipv4Addr::from(number(n)?.swap_bytes()))
        } else if let Some(n) = args.opt_int("netaddr4_be")? {
            IpAddr::V4(Ipv4Addr::from(number(n)?))
        } else {
            match args.string("parse")?.parse() {
                Ok(address) => address,
                Err(_) => return Ok(Value::Null),
            }
        };
        Ok(Value::object(Address(address.to_canonical())))
    });
}

#[derive(Debug)]
struct Address(IpAddr);

impl Object for Address {
    fn type_name(&self) -> &'static str {
        "net.IP"
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn members(&self) -> Vec<Key> {
        const NAMES: [&str; 7] = [
            "String",
            "IsPrivate",
            "IsLoopback",
            "IsMulticast",
            "IsUnspecified",
            "IsLinkLocalUnicast",
            "IsGlobalUnicast",
        ];
        NAMES.map(Key::from).to_vec()
    }
    fn member(&self, name: &str) -> Option<Value> {
        let ip = self.0;
        let link_local = match ip {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        let broadcast = ip == IpAddr::V4(Ipv4Addr::BROADCAST);
        Some(match name {
            "String" => ip.to_string().into(),
            "IsPrivate" => match ip {
                IpAddr::V4(v4) => v4.is_private(),
                IpAddr::V6(v6) => v6.is_unique_local(),
            }
            .into(),
            "IsLoopback" => ip.is_loopback().into(),
            "IsMulticast" => ip.is_multicast().into(),
            "IsUnspecified" => ip.is_unspecified().into(),
            "IsLinkLocalUnicast" => link_local.into(),
            "IsGlobalUnicast" => {
                let local = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast();
                (!local && !link_local && !broadcast).into()
            }
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
        other.downcast::<Address>().is_some_and(|o| o.0 == self.0)
    }
}
