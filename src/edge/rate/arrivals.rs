//! How often somebody may connect: by address and by tenant (EDGE-10, EDGE-22).
//!
//! An address is counted before its token is looked at, since that is what costs; a tenant after,
//! since nobody else may use up what is its. Bounded: whoever has not come for a while is forgotten.

use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};

use governor::clock::DefaultClock;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter};

use crate::broker::Tenant;
use crate::config::Limits;

/// Between two looks at who may be forgotten.
const ARRIVALS_BETWEEN: usize = 4_096;
/// As many may come at once as in so many seconds.
const BURST_S: u32 = 10;

struct Counted<K: Hash + Eq + Clone> {
    limiter: RateLimiter<K, DefaultKeyedStateStore<K>, DefaultClock>,
    since: AtomicUsize,
}

impl<K: Hash + Eq + Clone> Counted<K> {
    fn new(per_second: u32) -> Option<Self> {
        let per_second = NonZeroU32::new(per_second)?;
        let at_once = per_second.saturating_mul(NonZeroU32::new(BURST_S)?);
        let quota = Quota::per_second(per_second).allow_burst(at_once);
        Some(Self {
            limiter: RateLimiter::keyed(quota),
            since: AtomicUsize::new(0),
        })
    }

    fn take(&self, key: &K) -> bool {
        if self.since.fetch_add(1, Ordering::Relaxed) >= ARRIVALS_BETWEEN {
            self.since.store(0, Ordering::Relaxed);
            self.limiter.retain_recent();
        }
        self.limiter.check_key(key).is_ok()
    }
}

/// Who has come lately.
pub struct Arrivals {
    addresses: Option<Counted<IpAddr>>,
    tenants: Option<Counted<Tenant>>,
}

impl fmt::Debug for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrivals").finish_non_exhaustive()
    }
}

impl Arrivals {
    /// Nobody yet.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self {
            addresses: Counted::new(limits.address_connections_per_second),
            tenants: Counted::new(limits.tenant_connections_per_second),
        }
    }

    /// Whether someone at this address may come now.
    #[must_use]
    pub fn take_address(&self, address: IpAddr) -> bool {
        let counted = self.addresses.as_ref();
        counted.is_none_or(|counted| counted.take(&neighbourhood(address)))
    }

    /// Whether someone of this tenant may come now.
    #[must_use]
    pub fn take_tenant(&self, tenant: &Tenant) -> bool {
        let counted = self.tenants.as_ref();
        counted.is_none_or(|counted| counted.take(tenant))
    }
}

/// A host has all addresses of its IPv6 network to come from.
fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(address: u32, tenant: u32) -> Limits {
        Limits {
            address_connections_per_second: address,
            tenant_connections_per_second: tenant,
            ..Limits::default()
        }
    }

    // EDGE-10
    #[test]
    fn one_who_comes_too_often_does_not_keep_out_another() {
        let arrivals = Arrivals::new(&limits(1, 2));
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let came = (0..1_000).filter(|_| arrivals.take_address(address("2001:db8::1")));
        assert!((10..20).contains(&came.count()));
        assert!(
            !arrivals.take_address(address("2001:db8::2")),
            "the same network"
        );
        assert!(arrivals.take_address(address("2001:db8:0:1::1")));
        assert!(arrivals.take_address(address("127.0.0.1")));
        let (a, b) = (Tenant::new("a").unwrap(), Tenant::new("b").unwrap());
        let came = (0..1_000).filter(|_| arrivals.take_tenant(&a));
        assert!((20..40).contains(&came.count()));
        assert!(arrivals.take_tenant(&b));
    }

    // EDGE-10
    #[test]
    fn nobody_is_counted_where_nothing_is_limited() {
        let arrivals = Arrivals::new(&limits(0, 0));
        let address = "127.0.0.1".parse().unwrap();
        assert!((0..10_000).all(|_| arrivals.take_address(address)));
    }
}
