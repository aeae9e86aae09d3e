//! Which hosts and addresses may be asked.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use url::{Host, Url};

/// One host an operator listed: `example.com`, `example.com:8443`, `http://127.0.0.1:8080`.
/// Without a scheme it is https; without a port it is the scheme's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedHost {
    scheme: String,
    host: Host,
    port: u16,
}

/// A network in CIDR form, such as `10.20.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// A text that is not such a host or network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadHost {
    /// Not a host.
    #[error("{0:?} is not a host such as example.com, example.com:8443 or http://127.0.0.1:8080")]
    Host(String),
    /// Not a network.
    #[error("{0:?} is not a network such as 10.20.0.0/16")]
    Network(String),
}

impl AllowedHost {
    /// Whether `url` goes to this host, by this scheme and port.
    pub fn covers(&self, url: &Url) -> bool {
        url.scheme() == self.scheme
            && url.host().is_some_and(|host| host.to_owned() == self.host)
            && url.port_or_known_default() == Some(self.port)
    }

    /// Whether the operator wrote this very address, which allows it even if it is private.
    pub(super) fn is_address(&self, address: IpAddr) -> bool {
        match (&self.host, address) {
            (Host::Ipv4(own), IpAddr::V4(address)) => *own == address,
            (Host::Ipv6(own), IpAddr::V6(address)) => *own == address,
            (Host::Domain(name), address) => name == "localhost" && address.is_loopback(),
            _ => false,
        }
    }
}

impl FromStr for AllowedHost {
    type Err = BadHost;

    fn from_str(text: &str) -> Result<Self, BadHost> {
        let bad = || BadHost::Host(text.chars().take(80).collect());
        let full = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        let url = Url::parse(&full).map_err(|_| bad())?;
        let only_host = matches!(url.path(), "" | "/") && url.query().is_none() && url.username().is_empty();
        match (url.host(), url.port_or_known_default(), url.scheme()) {
            (Some(host), Some(port), scheme @ ("http" | "https")) if only_host && !text.ends_with('/') => {
                Ok(Self { scheme: scheme.to_owned(), host: host.to_owned(), port })
            }
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for AllowedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.scheme, self.host, self.port)
    }
}

impl Network {
    /// Whether `address` lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(address) => (u128::from(u32::from(address)) << 96, 32),
            IpAddr::V6(address) => (u128::from(address), 128),
        };
        let ((own, own_width), (other, width)) = (bits(self.address), bits(address));
        let same = self.bits == 0 || (own ^ other) >> (128 - u32::from(self.bits)) == 0;
        own_width == width && same
    }
}

impl FromStr for Network {
    type Err = BadHost;

    fn from_str(text: &str) -> Result<Self, BadHost> {
        let parse = || {
            let (address, bits) = text.split_once('/')?;
            let (address, bits): (IpAddr, u8) = (address.parse().ok()?, bits.parse().ok()?);
            (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some(Self { address, bits })
        };
        parse().ok_or_else(|| BadHost::Network(text.chars().take(80).collect()))
    }
}

/// Whether an address is on the public Internet: not loopback, private, link-local, shared,
/// documentation, multicast or reserved, in any of the forms that carry IPv4 in IPv6.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => match embedded(address) {
            Some(inner) => is_public_v4(inner),
            None => is_public_v6(address),
        },
    }
}

/// The IPv4 address inside a mapped, compatible, NAT64 or 6to4 address.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let low = |segments: [u16; 8]| Ipv4Addr::from(u32::from(segments[6]) << 16 | u32::from(segments[7]));
    match address.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, _] if high != 0 => Some(low(address.segments())),
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] => Some(low(address.segments())),
        [0x2002, high, low, ..] => Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))),
        _ => None,
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_unspecified()
        || a == 0
        || address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_broadcast()
        || address.is_documentation()
        || address.is_multicast()
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (b == 18 || b == 19));
    !special
}

/// Global unicast is 2000::/3; within it Teredo, ORCHID and documentation are not hosts.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    let special = (first == 0x2001 && (second < 0x200 || second == 0xdb8)) || first == 0x3fff;
    first & 0xe000 == 0x2000 && !special
}
