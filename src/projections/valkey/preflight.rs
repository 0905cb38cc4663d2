//! Whether a Valkey or Redis server is fit to be a sink (PRJ-15). Every finding has a name.

use super::server::{Address, Server};
use crate::projections::sink::SinkError;

/// The oldest Redis whose scripts and streams do what is asked of them. Every Valkey is newer.
const VERSION_MIN: (u64, u64) = (6, 2);

/// What the node's user must be allowed to do, in the words of `ACL SETUSER`, and no more.
pub const RIGHTS: &str = "~tenant:* +ping +info +evalsha +script|load +multi +exec +hmget +hset \
    +del +exists +pexpire +time +xadd +xinfo|stream +xrevrange";

/// What was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Check {
    /// The URL can be read.
    Url,
    /// The server answers, and lets the node in.
    Reachable,
    /// It says what it is.
    Readable,
    /// Its version is supported.
    Version,
    /// It is one server, and no cluster.
    Single,
    /// It is no replica.
    Role,
    /// It takes what a projection writes, under the names that it writes.
    Writable,
    /// What it does when its memory is full.
    Memory,
}

impl Check {
    /// Its name in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Url => "valkey.url",
            Self::Reachable => "valkey.reachable",
            Self::Readable => "valkey.readable",
            Self::Version => "valkey.version",
            Self::Single => "valkey.single",
            Self::Role => "valkey.role",
            Self::Writable => "valkey.writable",
            Self::Memory => "valkey.memory",
        }
    }
}

/// How much a finding matters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Weight {
    /// A projection cannot work so.
    Failure,
    /// It works, and somebody should know.
    Hint,
}

/// Something that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What was looked at.
    pub check: Check,
    /// How much it matters.
    pub weight: Weight,
    /// What is wrong and what to try, without secrets.
    pub text: String,
}

impl Finding {
    fn failure(check: Check, text: impl Into<String>) -> Self {
        Self {
            check,
            weight: Weight::Failure,
            text: text.into(),
        }
    }

    fn hint(check: Check, text: impl Into<String>) -> Self {
        Self {
            weight: Weight::Hint,
            ..Self::failure(check, text)
        }
    }
}

/// Looks at a server; nothing found is fit. Takes as long as a few answers may take.
pub async fn preflight(address: &Address) -> Vec<Finding> {
    let server = match Server::new(address) {
        Ok(server) => server,
        Err(fault) => {
            return vec![Finding::failure(Check::Url, fault.to_string())];
        }
    };
    if let Err(error) = server.ping().await {
        let text = format!("{error}; check that it runs, and the URL, user and password");
        return vec![Finding::failure(Check::Reachable, text)];
    }
    let mut findings = Vec::new();
    match about(&server).await {
        Ok(about) => findings.extend(about.findings()),
        Err(error) => {
            let text = format!("{error}; let the node's user run INFO");
            findings.push(Finding::failure(Check::Readable, text));
        }
    }
    if let Err(error) = server.probe().await {
        let text = format!("{error}; the node's user must be allowed {RIGHTS}");
        findings.push(Finding::failure(Check::Writable, text));
    }
    findings
}

/// What a server says of itself.
struct About(Vec<(String, String)>);

async fn about(server: &Server) -> Result<About, SinkError> {
    let mut lines = Vec::new();
    for section in ["server", "replication", "cluster", "memory"] {
        lines.extend(server.info(section).await?);
    }
    Ok(About(lines))
}

impl About {
    fn get(&self, name: &str) -> Option<&str> {
        let mut lines = self.0.iter();
        let line = lines.find(|(found, _)| found == name);
        line.map(|(_, value)| value.as_str())
    }

    fn findings(&self) -> Vec<Finding> {
        let all = [self.version(), self.role(), self.single(), self.memory()];
        all.into_iter().flatten().collect()
    }

    fn version(&self) -> Option<Finding> {
        if self.get("valkey_version").is_some() {
            return None;
        }
        let found = self.get("redis_version").unwrap_or("unknown");
        let mut parts = found.split('.').map(|part| part.parse().ok());
        let version = parts.next().flatten().zip(parts.next().flatten());
        if version.is_some_and(|version| version >= VERSION_MIN) {
            return None;
        }
        let (major, minor) = VERSION_MIN;
        let text =
            format!("its version is {found}; use Valkey, or Redis {major}.{minor} or a later one");
        Some(Finding::failure(Check::Version, text))
    }

    fn role(&self) -> Option<Finding> {
        let role = self.get("role").unwrap_or("unknown");
        let text = format!("its role is {role}; use the address of the primary");
        (role != "master").then(|| Finding::failure(Check::Role, text))
    }

    fn single(&self) -> Option<Finding> {
        let text = "it is a cluster, and a batch is taken by one server; use one that is none";
        let cluster = self.get("cluster_enabled").is_some_and(|flag| flag != "0");
        cluster.then(|| Finding::failure(Check::Single, text))
    }

    fn memory(&self) -> Option<Finding> {
        let hint = |text| Some(Finding::hint(Check::Memory, text));
        let policy = self.get("maxmemory_policy").unwrap_or_default();
        match (self.get("maxmemory"), policy) {
            (None | Some("0"), _) => hint(
                "maxmemory is not set, so that it grows until the machine is full; set a bound"
                    .to_owned(),
            ),
            (Some(_), "noeviction") => hint(
                "maxmemory_policy is noeviction: projections wait while it is full; volatile-ttl makes room"
                    .to_owned(),
            ),
            (Some(_), policy) if policy.starts_with("allkeys") => hint(format!(
                "maxmemory_policy is {policy}, which also removes streams; volatile-ttl keeps them"
            )),
            (Some(_), _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(lines: &[(&str, &str)]) -> Vec<Check> {
        let lines = lines.iter();
        let lines = lines.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let findings = About(lines.collect()).findings();
        findings.iter().map(|finding| finding.check).collect()
    }

    // PRJ-15
    #[test]
    fn each_fault_has_its_name() {
        let fit = [
            ("role", "master"),
            ("maxmemory", "1"),
            ("maxmemory_policy", "volatile-ttl"),
        ];
        let with = |more: &[(&'static str, &'static str)]| checks(&[more, &fit].concat());
        assert_eq!(with(&[("redis_version", "6.2.0")]), []);
        assert_eq!(with(&[("redis_version", "10.0")]), []);
        assert_eq!(
            with(&[("valkey_version", "8.1.0"), ("redis_version", "1.0")]),
            []
        );
        for version in ["6.0.16", "5.9", "six"] {
            assert_eq!(with(&[("redis_version", version)]), [Check::Version]);
        }
        let cluster = [("redis_version", "7.0.15"), ("cluster_enabled", "1")];
        assert_eq!(with(&cluster), [Check::Single]);
        let all = [Check::Version, Check::Role, Check::Memory];
        assert_eq!(checks(&[("role", "slave")]), all);
    }
}
