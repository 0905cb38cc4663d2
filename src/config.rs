//! Every setting once: name, type, default, bound, doc.
//!
//! Owns the table of settings and nothing that happens with them. Settings are read when the node
//! starts and never again: what must change while it runs (policies, schemas, revocations) arrives
//! as envelopes, so that every node and every replay sees the same change. Must not know sockets,
//! the log's files or the command line.

pub mod layers;
pub mod listing;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::log::{MasterKeys, NewSegments, OsEntropy};

pub use layers::{Loaded, Origin};

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// A whole number from the first to the last, both allowed.
    Within(u64, u64),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Whatever the type admits; said in these words.
    Any(&'static str),
}

/// One setting, as the reference and the checks see it.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Table of the file it stands in.
    pub section: &'static str,
    /// Its name there.
    pub name: &'static str,
    /// What its value may be.
    pub bound: Bound,
    /// What it does.
    pub doc: &'static str,
}

impl Setting {
    /// `section.name`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The environment variable that sets it.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("ARQONBUS_{}_{}", self.section, self.name).to_uppercase()
    }
}

/// Expands the table below into one struct a section, their defaults, [`Config`] and [`SETTINGS`],
/// so that a setting cannot have a second description.
macro_rules! sections {
    ($(
        $(#[doc = $section_doc:literal])+
        $section:ident: $Section:ident {
            $(
                $(#[doc = $doc:literal])+
                $name:ident: $type:ty = $default:expr, $bound:expr;
            )+
        }
    )+) => {
        $(
            $(#[doc = $section_doc])+
            #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
            #[serde(deny_unknown_fields)]
            pub struct $Section {
                $(
                    $(#[doc = $doc])+
                    pub $name: $type,
                )+
            }

            impl Default for $Section {
                fn default() -> Self {
                    Self { $($name: $default,)+ }
                }
            }
        )+

        /// Everything that can be set.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Config {
            $(
                $(#[doc = $section_doc])+
                pub $section: $Section,
            )+
        }

        /// The sections, with what each is about.
        pub const SECTIONS: &[(&str, &str)] = &[
            $((stringify!($section), concat!($($section_doc,)+)),)+
        ];

        /// Every setting, in the order of the reference.
        pub const SETTINGS: &[Setting] = &[
            $($(
                Setting {
                    section: stringify!($section),
                    name: stringify!($name),
                    bound: $bound,
                    doc: concat!($($doc,)+),
                },
            )+)+
        ];
    };
}

/// Holds master keys itself, for those who keep no file of them. Never shown.
pub const MASTER_KEYS_VARIABLE: &str = "ARQONBUS_MASTER_KEYS";

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const DAY_S: u64 = 24 * 60 * 60;

sections! {
    /// The node itself.
    node: Node {
        /// Directory of the logs, the node's id and, in the development profile, its secret.
        /// The flag `--data` sets it too.
        data_dir: Option<PathBuf> = None, Bound::Any("a directory; required");
    }

    /// The listener for clients.
    edge: Edge {
        /// Address for WebSocket connections; port 0 takes a free one. The flag `--listen` sets it
        /// too.
        listen: Address = Address::loopback(9100), Bound::Any("HOST:PORT");
        /// Statement that a proxy in front of the node terminates TLS; without it the node listens
        /// on loopback addresses only.
        proxy_terminates_tls: bool = false, Bound::Any("true or false");
        /// Origins from which browsers may connect, exactly as the browser sends them
        /// (`https://app.example.com`). Clients that send no Origin are not browsers and pass, if
        /// they bring their token in the Authorization header or as a subprotocol.
        allowed_origins: Vec<String> = Vec::new(), Bound::Any("a list of origins");
    }

    /// The listener for operations: health, status, metrics.
    ops: Ops {
        /// Address; port 0 takes a free one. The flag `--ops` sets it too.
        listen: Address = Address::loopback(8080), Bound::Any("HOST:PORT");
        /// Connections at a time; more are answered with 503.
        connections_max: usize = 256, Bound::Within(1, 65_536);
        /// A connection carries one request and is closed after this long; the request's header
        /// must be complete in half of it.
        timeout_ms: u64 = 10_000, Bound::Within(100, 120_000);
    }

    /// Who may connect. There is no setting that turns authentication off.
    auth: Auth {
        /// The `iss` that a token must carry.
        issuer: String = "arqonbus".into(), Bound::Any("a text");
        /// The `aud` that a token must carry, alone or in a list.
        audience: String = "arqonbus".into(), Bound::Any("a text");
        /// Keys that verify tokens: `{ id = "2026-01", algorithm = "ES256", file = "key.pem" }`.
        /// The id is the token's `kid`; the algorithm is HS256 (a file of at least 32 secret
        /// bytes), RS256, ES256 or EdDSA (a file with the public key in PEM form). Two keys may
        /// overlap while one replaces the other.
        keys: Vec<KeyEntry> = Vec::new(), Bound::Any("a list of tables; required in production");
        /// Seconds by which clocks may differ.
        leeway_s: u64 = 30, Bound::Within(0, 60);
        /// Longest life of a token, in seconds.
        lifetime_max_s: u64 = DAY_S, Bound::Within(60, 3650 * DAY_S);
    }

    /// The logs. See docs/log-format.md and docs/durability.md.
    log: Log {
        /// Size of a full-grown segment file.
        segment_bytes: u64 = 64 * MIB, Bound::Within(64 * KIB, 2 * GIB);
        /// Size of a log's first segment file; each later one is four times as large, up to
        /// `segment_bytes`.
        segment_bytes_first: u64 = 256 * KIB, Bound::Within(64 * KIB, 2 * GIB);
        /// Appends that wait together are written and flushed together up to this size.
        group_bytes_max: usize = 1 << 20, Bound::Within(4 * KIB, 64 * MIB);
        /// Appends that wait for the writer of one log, beyond which they are refused as busy.
        waiting_bytes_max: usize = 64 << 20, Bound::Within(MIB, 4 * GIB);
        /// Encoded records that one log keeps in memory for live readers.
        tail_bytes: usize = 16 << 20, Bound::Within(64 * KIB, 4 * GIB);
        /// Encoded records that all logs together keep in memory for live readers; beyond it those of
        /// the log used longest ago go first.
        tail_bytes_total: usize = 256 << 20, Bound::Within(64 * KIB, 1 << 40);
        /// A log that no session, subscription or request has used for this long is closed, and
        /// opened again when it is next used.
        idle_close_ms: u64 = 300_000, Bound::Within(50, 7 * DAY_S * 1_000);
        /// Distance between two entries of the sparse index.
        index_interval_bytes: u32 = 16 << 10, Bound::Within(512, MIB);
        /// A write that nobody waits to see flushed is flushed after this long.
        flush_after_ms: u64 = 25, Bound::Within(1, 60_000);
        /// Threads that write and flush, shared by all logs.
        commit_threads: usize = 2, Bound::Within(1, 64);
        /// Segments whose records are all older than this are compressed; 0: none are.
        compress_after_s: u64 = 0, Bound::Within(0, 36_500 * DAY_S);
        /// Level of zstd; higher is smaller and slower.
        compression_level: i32 = 3, Bound::Within(1, 19);
        /// Encrypt new segments. Takes effect in each log with its next append, and needs master
        /// keys. See docs/security.md.
        encrypt: bool = false, Bound::Any("true or false");
        /// File with the master keys, one `NAME:KEY` a line as `arqonbus keygen NAME` prints them:
        /// the first wraps the data keys of the logs, the others only unwrap them. Readable by the
        /// node alone. Instead of it, the lines can be in the variable `ARQONBUS_MASTER_KEYS`.
        master_key_file: Option<PathBuf> = None, Bound::Any("a file");
    }

    /// What is kept of which topics. See docs/durability.md.
    retention: Retention {
        /// Rules by topic: `{ pattern = "quake.>", retain_age_s = 86400, retain_bytes = 1000000,
        /// retain_records = 1000, compacted = true, tombstone_grace_s = 3600 }`, each but the
        /// pattern optional. The first whose pattern matches a topic decides for it; what lies
        /// beyond any of its limits goes. In a compacted topic the newest record of each key stays;
        /// one with a key and without data is a tombstone, which stays for its grace (a day if it
        /// is not given).
        topics: Vec<TopicEntry> = Vec::new(), Bound::Any("a list of tables");
        /// Named consumers whose cursors hold records back, as patterns of their names
        /// (`["billing", ">"]`).
        hold_for: Vec<String> = Vec::new(), Bound::Any("a list of patterns");
        /// Bytes of records that they can hold back in one reality; beyond that the oldest go.
        hold_bytes_max: u64 = GIB, Bound::Within(0, u64::MAX);
        /// Segments that must be written again to remove records from them are, as far as so much
        /// of them, in percent, is to go.
        dead_percent: u8 = 50, Bound::Within(1, 100);
        /// Records past their age, expired ones and tombstones go after this long even where they
        /// are few.
        overdue_s: u64 = 3_600, Bound::Within(0, 36_500 * DAY_S);
    }

    /// The thread that keeps logs up: retention, compaction, compression.
    maintenance: Maintenance {
        /// From the end of one round over all open realities to the start of the next.
        interval_s: u64 = 60, Bound::Within(1, 36_500 * DAY_S);
        /// What it reads and writes.
        bytes_per_second: u64 = 16 * MIB, Bound::Within(64 * KIB, 64 * GIB);
        /// How often all of a log is read to find what has rotted.
        scrub_interval_s: u64 = 7 * DAY_S, Bound::Within(1, 36_500 * DAY_S);
        /// How often a reality that nobody uses is opened for its upkeep.
        visit_interval_s: u64 = DAY_S / 4, Bound::Within(1, 36_500 * DAY_S);
        /// Keys of the compacted topics of one log that it tells apart, at up to 60 bytes of memory
        /// each; records of those beyond are kept.
        keys_max: usize = 1_000_000, Bound::Within(1_000, 1_000_000_000);
    }

    /// What one client, tenant or node may use up.
    limits: Limits {
        /// One WebSocket message.
        message_bytes_max: usize = 8 << 20, Bound::Within(KIB, 64 * MIB);
        /// One encoded envelope.
        envelope_bytes_max: usize = 1 << 20, Bound::Within(KIB, 16 * MIB);
        /// Envelopes of one Produce.
        batch_records_max: usize = 10_000, Bound::Within(1, 1_000_000);
        /// Length of a topic.
        topic_bytes_max: usize = 255, Bound::Within(16, 255);
        /// Tokens of a topic.
        topic_depth_max: usize = 32, Bound::Within(1, 32);
        /// Headers of an envelope.
        headers_max: usize = 64, Bound::Within(0, 1024);
        /// Names and values of an envelope's headers together.
        header_bytes_max: usize = 8 << 10, Bound::Within(0, 64 * KIB);
        /// Subscriptions of one session.
        subscriptions_max: usize = 1_000, Bound::Within(1, 100_000);
        /// Sessions on the node.
        sessions_max: usize = 20_000, Bound::Within(1, 1_000_000);
        /// Sessions of one tenant on the node.
        tenant_sessions_max: usize = 10_000, Bound::Within(1, 1_000_000);
        /// Tenants whose logs are open at a time; when one more comes, the one that nobody uses for
        /// longest is closed.
        tenants_max: usize = 1_000, Bound::Within(1, 100_000);
        /// Realities of one tenant.
        realities_max: usize = 256, Bound::Within(1, 10_000);
        /// Bytes of records that all realities of one tenant may store, framing included, beyond
        /// which Produce is refused; 0 for no limit.
        tenant_bytes_max: u64 = 0, Bound::Within(0, u64::MAX);
        /// Messages that one session may produce in a second; 0 for no limit.
        session_messages_per_second: u64 = 0, Bound::Within(0, 1 << 40);
        /// Bytes of envelopes that one session may produce in a second; 0 for no limit.
        session_bytes_per_second: u64 = 0, Bound::Within(0, 1 << 40);
        /// Messages that all sessions of one tenant together may produce in a second; 0 for no
        /// limit.
        tenant_messages_per_second: u64 = 0, Bound::Within(0, 1 << 40);
        /// Bytes of envelopes that all sessions of one tenant together may produce in a second; 0
        /// for no limit.
        tenant_bytes_per_second: u64 = 0, Bound::Within(0, 1 << 40);
        /// As much may be produced at once as these rates let through in this time. A batch that
        /// is larger never passes.
        rate_burst_ms: u64 = 1_000, Bound::Within(1, 60_000);
        /// Handshakes that may begin in a second from one address (IPv6: from one /64 network); as
        /// many at once as in ten seconds. 0 for no limit.
        address_connections_per_second: u32 = 0, Bound::Within(0, 1_000_000);
        /// Sessions that one tenant may open in a second; as many at once as in ten seconds. 0 for
        /// no limit.
        tenant_connections_per_second: u32 = 0, Bound::Within(0, 1_000_000);
        /// WebSocket frames of one session in a second that carry next to nothing: pings, pongs,
        /// and fragments of less than 1 KiB. As many may come at once as in ten seconds; beyond
        /// that the session is closed.
        small_frames_per_second: u32 = 1_000, Bound::Within(1, 1_000_000);
        /// Named consumers of one tenant.
        consumers_max: usize = 10_000, Bound::Within(1, 1_000_000);
        /// Producers of one reality whose own clocks are remembered; the longest idle is forgotten.
        producers_max: usize = 65_536, Bound::Within(64, 1 << 24);
        /// Connections that have not finished their handshake.
        handshakes_max: usize = 16_384, Bound::Within(1, 1_000_000);
        /// From the connection's start to the end of its handshake; the request's header must be
        /// complete in half of it.
        handshake_timeout_ms: u64 = 10_000, Bound::Within(100, 120_000);
        /// The node pings a session that has been silent for this long.
        ping_after_ms: u64 = 25_000, Bound::Within(100, 3_600_000);
        /// A session that stays silent this long after the node's ping is closed.
        pong_timeout_ms: u64 = 10_000, Bound::Within(100, 3_600_000);
        /// Bytes of Produce that one session may have under way; beyond them the node stops
        /// reading from its socket.
        inflight_bytes_max: usize = 16 << 20, Bound::Within(KIB, GIB);
        /// Produce requests that one session may have under way.
        inflight_requests_max: usize = 4_096, Bound::Within(1, 1_000_000);
        /// Records that a subscription may be sent when it names no credit of its own.
        credit_records: u64 = 65_536, Bound::Within(1, u64::MAX);
        /// Bytes that a subscription may be sent when it names no credit of its own.
        credit_bytes: u64 = 8 * MIB, Bound::Within(KIB, u64::MAX);
        /// Most bytes of credit that a subscription can hold.
        credit_bytes_max: u64 = 64 * MIB, Bound::Within(KIB, u64::MAX);
        /// Records that one Deliver frame gathers.
        deliver_bytes_max: usize = 256 << 10, Bound::Within(KIB, 16 * MIB);
        /// A subscription that does not want to catch up (`on_lag`) is behind when more records than
        /// this stand between it and the end of the log.
        lag_records_max: u64 = 100_000, Bound::Within(2, u64::MAX);
        /// A session whose socket takes nothing for this long is closed as a slow consumer.
        write_timeout_ms: u64 = 10_000, Bound::Within(100, 600_000);
    }

    /// How the node goes down.
    drain: Drain {
        /// From the signal to the end of the process.
        deadline_ms: u64 = 15_000, Bound::Within(100, 600_000);
        /// Clients are told to wait a random time up to this before they connect again.
        reconnect_after_ms: u64 = 5_000, Bound::Within(0, 600_000);
    }

    /// What the node writes to its standard error.
    trace: Trace {
        /// Form of the lines. The flag `--log-format` sets it too.
        format: String = "text".into(), Bound::OneOf(&["text", "json"]);
        /// What is written: a level (`info`), or levels by module
        /// (`warn,arqonbus::edge=debug`).
        filter: String = "info".into(), Bound::Any("a tracing filter");
    }
}

/// An address to listen on, written `HOST:PORT`; a host's name means the first of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address(pub SocketAddr);

impl Address {
    const fn loopback(port: u16) -> Self {
        Self(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))
    }
}

/// Not `HOST:PORT`.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no HOST:PORT of this machine, such as 127.0.0.1:9100")]
pub struct NoAddress {
    text: String,
}

impl TryFrom<String> for Address {
    type Error = NoAddress;

    fn try_from(text: String) -> Result<Self, NoAddress> {
        let found = text.to_socket_addrs().ok().and_then(|mut all| all.next());
        found.map(Self).ok_or(NoAddress { text })
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.0.to_string()
    }
}

/// A key that verifies tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    /// The `kid` of tokens signed by it.
    pub id: String,
    /// The only algorithm it serves.
    pub algorithm: KeyAlgorithm,
    /// File with the secret or the public key.
    pub file: PathBuf,
}

/// Algorithms that tokens may be signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyAlgorithm {
    /// HMAC with SHA-256.
    HS256,
    /// RSA PKCS#1 v1.5 with SHA-256.
    RS256,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// Ed25519.
    EdDSA,
}

/// What is kept of the topics that a pattern matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicEntry {
    /// Which topics.
    pub pattern: String,
    /// Records older than this go.
    #[serde(default)]
    pub retain_age_s: Option<u64>,
    /// The newest records stay as far as they take no more than this.
    #[serde(default)]
    pub retain_bytes: Option<u64>,
    /// So many of the newest records stay.
    #[serde(default)]
    pub retain_records: Option<u64>,
    /// The newest record of each key stays.
    #[serde(default)]
    pub compacted: bool,
    /// How long a tombstone stays.
    #[serde(default)]
    pub tombstone_grace_s: Option<u64>,
}

/// How much the node insists on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Loopback only, with a secret and a token of its own making.
    Development,
    /// Refuses to start with anything missing.
    Production,
}

/// Why there are no master keys although some are wanted.
#[derive(Debug, thiserror::Error)]
pub enum NoMasterKeys {
    /// Those that were given cannot be used.
    #[error(transparent)]
    Bad(#[from] crate::log::MasterKeyError),
    /// Nothing says which of them are meant.
    #[error("log.master_key_file and {MASTER_KEYS_VARIABLE} are both set; leave one of them out")]
    Both,
    /// None were given.
    #[error(
        "log.encrypt = true needs master keys: set log.master_key_file, or {MASTER_KEYS_VARIABLE}; `arqonbus keygen NAME` makes one"
    )]
    None,
}

impl Log {
    /// What logs need to be encrypted and read again; `variable` is the value of
    /// [`MASTER_KEYS_VARIABLE`]. `None` if no master keys were given, and none are wanted.
    ///
    /// # Errors
    /// The keys are missing or cannot be used.
    pub fn encryption(
        &self,
        variable: Option<&str>,
    ) -> Result<Option<crate::log::Encryption>, NoMasterKeys> {
        let masters = match (&self.master_key_file, variable) {
            (Some(_), Some(_)) => return Err(NoMasterKeys::Both),
            (Some(file), None) => MasterKeys::read(file)?,
            (None, Some(text)) => {
                // A variable of several lines is hard to set in some places.
                MasterKeys::parse(MASTER_KEYS_VARIABLE, &text.replace(',', "\n"))?
            }
            (None, None) if self.encrypt => return Err(NoMasterKeys::None),
            (None, None) => return Ok(None),
        };
        Ok(Some(crate::log::Encryption {
            masters: Arc::new(masters),
            new_segments: if self.encrypt {
                NewSegments::Encrypted
            } else {
                NewSegments::Plain
            },
            entropy: Arc::new(OsEntropy),
        }))
    }

    /// As the log wants them, without keys.
    #[must_use]
    pub fn options(&self) -> crate::log::Options {
        crate::log::Options {
            segment_bytes: self.segment_bytes,
            segment_bytes_first: self.segment_bytes_first,
            group_bytes_max: self.group_bytes_max,
            waiting_bytes_max: self.waiting_bytes_max,
            tail_bytes: self.tail_bytes,
            index_interval_bytes: self.index_interval_bytes,
            flush_after: Duration::from_millis(self.flush_after_ms),
            encryption: None,
        }
    }
}
