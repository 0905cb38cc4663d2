//! Which addresses a webhook may be sent to (OPS-05).
//!
//! Owns the table of addresses that are not of the public internet, and the networks that the
//! node's settings allow all the same. An address is judged as what it leads to: one that wraps an
//! IPv4 address is judged as that address. Knows no name and no socket.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Networks of IPv4 that nothing public answers from: RFC 6890 and its successors, and the address
/// at which one large hoster answers its guests.
const IPV4_CLOSED: [Ipv4Net; 17] = [
    v4([0, 0, 0, 0], 8),
    v4([10, 0, 0, 0], 8),
    v4([100, 64, 0, 0], 10),
    v4([127, 0, 0, 0], 8),
    v4([168, 63, 129, 16], 32),
    v4([169, 254, 0, 0], 16),
    v4([172, 16, 0, 0], 12),
    v4([192, 0, 0, 0], 24),
    v4([192, 0, 2, 0], 24),
    v4([192, 31, 196, 0], 24),
    v4([192, 52, 193, 0], 24),
    v4([192, 88, 99, 0], 24),
    v4([192, 168, 0, 0], 16),
    v4([198, 18, 0, 0], 15),
    v4([198, 51, 100, 0], 24),
    v4([203, 0, 113, 0], 24),
    // Multicast, what is reserved, and the broadcast address.
    v4([224, 0, 0, 0], 3),
];

/// Of IPv6, only this is public at all.
const IPV6_OPEN: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// And these parts of it are not: Teredo, benchmarks and identifiers; documentation; 6to4, which
/// wraps IPv4.
const IPV6_CLOSED: [Ipv6Net; 4] = [
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32),
    v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16),
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),
];

const fn v4([a, b, c, d]: [u8; 4], bits: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), bits)
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], bits: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), bits)
}

/// An entry of the allow-list that is no network.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no network such as \"10.1.0.0/16\", nor an address")]
pub struct NoNetwork {
    text: String,
}

/// Decides about addresses.
#[derive(Clone, Debug, Default)]
pub(super) struct Guard {
    allowed: Vec<IpNet>,
}

impl Guard {
    /// Lets through what is public, and what lies in one of `networks`.
    pub(super) fn new<'a>(networks: impl Iterator<Item = &'a str>) -> Result<Self, NoNetwork> {
        let parse = |text: &str| {
            let network = text.parse::<IpNet>();
            let network = network.or_else(|_no_network| text.parse::<IpAddr>().map(IpNet::from));
            network.map_err(|_neither| NoNetwork { text: text.into() })
        };
        let allowed = networks.map(parse).collect::<Result<_, _>>()?;
        Ok(Self { allowed })
    }

    /// Whether a connection to `address` may be made.
    pub(super) fn admits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        is_public(address)
            || self
                .allowed
                .iter()
                .any(|network| network.contains(&address))
    }
}

/// Whether something public answers at `address`.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !IPV4_CLOSED.iter().any(|closed| closed.contains(&address)),
        IpAddr::V6(address) => {
            // Mapped, compatible, NAT64 and unique local ones are all outside the open part.
            IPV6_OPEN.contains(&address)
                && !IPV6_CLOSED.iter().any(|closed| closed.contains(&address))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // OPS-05
    #[test]
    fn what_is_not_public_is_refused_in_every_form() {
        let guard = Guard::default();
        for closed in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.8.9.10",
            "168.63.129.16",
            "169.254.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.0.170",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            // mapped, compatible, translated
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "::ffff:0:10.0.0.1",
            // NAT64, the well-known prefix and the local one
            "64:ff9b::127.0.0.1",
            "64:ff9b::8.8.8.8",
            "64:ff9b:1::1",
            "100::1",
            // Teredo, benchmarks, ORCHID
            "2001::1",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            // 6to4 of 127.0.0.1 and of a public address
            "2002:7f00:1::",
            "2002:808:808::1",
            "3fff::1",
            "5f00::1",
            // unique local, among them that of a metadata service; link-local; site-local
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "ff0e::1",
        ] {
            assert!(!guard.admits(closed.parse().unwrap()), "{closed}");
        }
        for open in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.1",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.1",
            "192.167.255.255",
            "192.169.0.1",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "2606:4700:4700::1111",
            "2a00:1450:4001::200e",
            "2001:4860:4860::8888",
        ] {
            assert!(guard.admits(open.parse().unwrap()), "{open}");
        }
    }

    // OPS-05
    #[test]
    fn what_the_settings_allow_passes_and_nothing_beside_it() {
        let guard = Guard::new(["127.0.0.0/8", "10.1.0.0/16", "fd12::/16", "::1"].into_iter());
        let guard = guard.unwrap();
        for open in [
            "127.0.0.1",
            "::ffff:127.0.0.1",
            "10.1.2.3",
            "fd12::1",
            "::1",
            "8.8.8.8",
        ] {
            assert!(guard.admits(open.parse().unwrap()), "{open}");
        }
        for closed in ["10.2.0.1", "fd13::1", "169.254.169.254", "::2"] {
            assert!(!guard.admits(closed.parse().unwrap()), "{closed}");
        }
        for wrong in ["", "10.0.0.0/33", "localhost", "10.0.0.0-10.0.0.9"] {
            assert!(Guard::new([wrong].into_iter()).is_err(), "{wrong}");
        }
    }
}
