//! Every setting once: name, type, default, bound, doc.
//!
//! Owns the table of settings and nothing that happens with them. Settings are read when the node
//! starts, and again when it is told so; those marked `live` are taken over then. What decides about
//! messages (policies, schemas, revocations) is none of them: it arrives as envelopes, so that every
//! node and every replay sees the same change. Must not know sockets,
//! the log's files or the command line.

pub mod layers;
pub mod listing;
pub mod projections;
mod secret;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::log::{MasterKeys, NewSegments, OsEntropy};

pub use layers::{Loaded, Origin};
pub use projections::{MessageEntry, ProjectionEntry};
pub use secret::Secret;

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

/// Whether a setting can change while the node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// It is taken over when the settings are read again.
    Live,
    /// The node has to be started again.
    Restart,
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
    /// Whether it can change while the node runs.
    pub reload: Reload,
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

/// A setting needs a restart unless it says `live`.
macro_rules! reload {
    () => {
        Reload::Restart
    };
    (live) => {
        Reload::Live
    };
}

/// Expands the table below into one struct a section, their defaults, [`Config`] and [`SETTINGS`],
/// so that a setting cannot have a second description.
macro_rules! sections {
    ($(
        $(#[doc = $section_doc:literal])+
        $section:ident: $Section:ident {
            $(
                $(#[doc = $doc:literal])+
                $name:ident: $type:ty = $default:expr, $bound:expr $(, $reload:ident)?;
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
                    reload: reload!($($reload)?),
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
        /// PEM file with the node's certificate, followed by those between it and its authority.
        /// With it the node speaks TLS 1.3, and nothing else. See docs/security.md.
        tls_certificate: Option<PathBuf> = None, Bound::Any("a file");
        /// PEM file with its private key; readable by the node alone.
        tls_key: Option<PathBuf> = None, Bound::Any("a file");
        /// How often the files of TLS are looked at; what has changed is taken over for new
        /// connections. On SIGHUP they are looked at, too.
        tls_check_ms: u64 = 5_000, Bound::Within(50, 3_600_000);
        /// Whether clients are asked for a certificate, which then says whose tenant they are in
        /// and may stand in for a token.
        client_certificates: String = "off".into(),
            Bound::OneOf(&["off", "optional", "required"]);
        /// PEM file with the authorities whose client certificates are taken.
        client_ca: Option<PathBuf> = None, Bound::Any("a file");
        /// Whether a client certificate can make an admin.
        client_certificate_admins: bool = false, Bound::Any("true or false");
        /// Statement that a proxy in front of the node terminates TLS; without it, and without a
        /// certificate, the node listens on loopback addresses only. `X-Forwarded-For` and its like
        /// are ignored all the same: anybody can send them, and nothing is decided by addresses.
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
        /// Speak HTTPS, with the certificate of `[edge]`; nobody is asked for one of their own.
        tls: bool = false, Bound::Any("true or false");
        /// Connections at a time; more are answered with 503.
        connections_max: usize = 256, Bound::Within(1, 65_536);
        /// A connection carries one request and is closed after this long; the request's header
        /// must be complete in half of it.
        timeout_ms: u64 = 10_000, Bound::Within(100, 120_000);
        /// Tenant whose admins may do what concerns the whole node: read its settings again, list
        /// its own audit. Without one nobody may over the network; in the development profile it is
        /// the tenant of that profile.
        tenant: String = String::new(), Bound::Any("a tenant");
    }

    /// Who may connect. There is no setting that turns authentication off.
    auth: Auth {
        /// The `iss` that a token must carry.
        issuer: String = "arqonbus".into(), Bound::Any("a text");
        /// The `aud` that a token must carry, alone or in a list.
        audience: String = "arqonbus".into(), Bound::Any("a text");
        /// Keys that verify tokens: `{ id = "2026-01", algorithm = "ES256", file = "key.pem" }`.
        /// The id is the token's `kid`; the algorithm is HS256 (at least 32 secret bytes), RS256,
        /// ES256 or EdDSA (the public key in PEM form). `env = "NAME"` instead of `file` names an
        /// environment variable that holds it, whose name must not begin with `ARQONBUS_`. Two keys
        /// may overlap while one replaces the other.
        keys: Vec<KeyEntry> = Vec::new(), Bound::Any("a list of tables; production needs this or `jwks`");
        /// Sets of keys (JWKS, RFC 7517): `{ file = "jwks.json" }`, or `{ url = "https://..", ca =
        /// "ca.pem", issuer = ".." }`, where `ca` names certificates to trust instead of the
        /// system's, and `issuer` whose tokens the set verifies, `auth.issuer` if it is left out.
        /// A file is read again when it changes. Plain HTTP is for loopback addresses only.
        jwks: Vec<JwksEntry> = Vec::new(), Bound::Any("a list of tables");
        /// How often the files of `jwks` are looked at.
        jwks_poll_ms: u64 = 2_000, Bound::Within(50, 3_600_000);
        /// How long a set from a URL is good; it is fetched again when four fifths of that are over.
        jwks_cache_s: u64 = 600, Bound::Within(1, DAY_S);
        /// How long the last good set is used when no newer one can be had. Then its tokens are
        /// refused.
        jwks_stale_s: u64 = 3_600, Bound::Within(1, 7 * DAY_S);
        /// A token of an unknown key has the set fetched again, but no sooner than this after the
        /// last time.
        jwks_refetch_s: u64 = 30, Bound::Within(1, 3_600);
        /// Seconds by which clocks may differ.
        leeway_s: u64 = 30, Bound::Within(0, 60);
        /// Longest life of a token, in seconds. Not in force in the development profile.
        lifetime_max_s: u64 = DAY_S, Bound::Within(60, 3650 * DAY_S);
        /// Whether a token must say when it was issued. One that does not counts as issued at the
        /// beginning where tokens are revoked.
        require_iat: bool = false, Bound::Any("true or false");
        /// A session is told so long before its token ends that it needs another.
        expiring_lead_s: u64 = 60, Bound::Within(0, 3_600);
    }

    /// JSON over WebSocket, for clients of the older system and for people. See docs/migration.md.
    json_adapter: JsonAdapter {
        /// Whether JSON is served. Left out, it is in the development profile and not in production.
        enabled: Switch = Switch::default(), Bound::Any("true or false");
        /// Answer each command a second time, by a `command_response` with the result `ok`, for
        /// clients that wait for it.
        legacy_acks: bool = false, Bound::Any("true or false");
        /// Whoever sends a message to a channel hears it from then on, as far as its token lets it
        /// subscribe there.
        join_on_send: bool = true, Bound::Any("true or false");
        /// Take a time without an offset for UTC, instead of refusing it.
        naive_times: bool = false, Bound::Any("true or false");
        /// Tell JSON clients who comes to the channels that they have joined, and who goes, by
        /// messages of the type `telemetry`.
        presence: bool = false, Bound::Any("true or false");
    }

    /// Rooms and channels, and who is in them. See docs/rooms.md.
    rooms: Rooms {
        /// Whether a room or channel can be joined and spoken in that nobody has created. Without
        /// it, only those are open that were created, and their `main`.
        free: bool = true, Bound::Any("true or false");
        /// Most rooms of a tenant that were created, and most that have members.
        rooms_max: usize = 10_000, Bound::Within(1, 1_000_000);
        /// Most channels of a room that were created, and most that have members.
        channels_max: usize = 1_000, Bound::Within(1, 100_000);
        /// Most members of a channel.
        members_max: usize = 10_000, Bound::Within(1, 1_000_000);
        /// Most channels that a session is a member of.
        joined_max: usize = 100, Bound::Within(1, 10_000);
        /// How often it is said who is in each channel, where presence is kept in Valkey: there a
        /// member is forgotten after three times this. 0: presence is not kept there.
        heartbeat_s: u64 = 60, Bound::Within(0, 3_600);
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
        compress_after_s: u64 = 0, Bound::Within(0, 36_500 * DAY_S), live;
        /// Level of zstd; higher is smaller and slower.
        compression_level: i32 = 3, Bound::Within(1, 19), live;
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
        topics: Vec<TopicEntry> = Vec::new(), Bound::Any("a list of tables"), live;
        /// Named consumers whose cursors hold records back, as patterns of their names
        /// (`["billing", ">"]`).
        hold_for: Vec<String> = Vec::new(), Bound::Any("a list of patterns"), live;
        /// Bytes of records that they can hold back in one reality; beyond that the oldest go.
        hold_bytes_max: u64 = GIB, Bound::Within(0, u64::MAX), live;
        /// Segments that must be written again to remove records from them are, as far as so much
        /// of them, in percent, is to go.
        dead_percent: u8 = 50, Bound::Within(1, 100), live;
        /// Records past their age, expired ones and tombstones go after this long even where they
        /// are few.
        overdue_s: u64 = 3_600, Bound::Within(0, 36_500 * DAY_S), live;
    }

    /// What was done to a tenant and by whom. It cannot be turned off. See docs/audit.md.
    audit: Audit {
        /// How long its entries are kept at least, whatever `retention.topics` says; without a rule
        /// that names `sys.audit` they are kept for ever.
        retain_s: u64 = 365 * DAY_S, Bound::Within(DAY_S, 36_500 * DAY_S), live;
    }

    /// What payloads must be. See docs/schema.md.
    schema: Schema {
        /// Refuse what is published on topics without a schema. A tenant can be strict where the
        /// node is not, and not the other way round.
        strict: bool = false, Bound::Any("true or false");
        /// Schemas that hold for every tenant, beside its own: `{ pattern = "orders.>", file =
        /// "shop.fds", message = "shop.v1.Order", version = 1, level = "reject", unknown =
        /// "reject", empty_allowed = false }`, all but pattern and file optional. The file is an
        /// encoded `FileDescriptorSet` with all imports, or, without a message, a JSON Schema
        /// document. One that is missing or broken stops the start.
        files: Vec<SchemaEntry> = Vec::new(), Bound::Any("a list of tables");
        /// Subjects of one tenant.
        subjects_max: usize = 2_000, Bound::Within(1, 100_000);
        /// Versions of one subject.
        versions_max: usize = 100, Bound::Within(1, 10_000);
        /// Topic patterns that one tenant binds to subjects.
        bindings_max: usize = 2_000, Bound::Within(1, 100_000);
        /// One descriptor set or JSON Schema document.
        document_bytes_max: usize = 256 << 10, Bound::Within(KIB, 4 * MIB);
        /// All of them of one tenant.
        tenant_bytes_max: usize = 32 << 20, Bound::Within(KIB, GIB);
    }

    /// Envelopes that are sent again, known by the ids that their producers gave them. See
    /// docs/protocol.md.
    dedup: Dedup {
        /// An id is known for at least so long after its envelope was stored, by the log's own time,
        /// and at most a fifth longer.
        window_ms: u64 = 600_000, Bound::Within(1_000, 7 * DAY_S * 1_000);
        /// Ids of one reality that are known at a time; at most a fifth more are. Beyond that the
        /// oldest go before their time. About 40 bytes of memory each, as many as are in the window,
        /// and none in realities whose producers give no ids. 0: an envelope that is sent again is
        /// stored again.
        ids_max: usize = 1_000_000, Bound::Within(0, 1 << 28);
    }

    /// The thread that keeps logs up: retention, compaction, compression.
    maintenance: Maintenance {
        /// From the end of one round over all open realities to the start of the next.
        interval_s: u64 = 60, Bound::Within(1, 36_500 * DAY_S), live;
        /// What it reads and writes.
        bytes_per_second: u64 = 16 * MIB, Bound::Within(64 * KIB, 64 * GIB), live;
        /// How often all of a log is read to find what has rotted.
        scrub_interval_s: u64 = 7 * DAY_S, Bound::Within(1, 36_500 * DAY_S), live;
        /// How often a reality that nobody uses is opened for its upkeep.
        visit_interval_s: u64 = DAY_S / 4, Bound::Within(1, 36_500 * DAY_S), live;
        /// Keys of the compacted topics of one log that it tells apart, at up to 60 bytes of memory
        /// each; records of those beyond are kept.
        keys_max: usize = 1_000_000, Bound::Within(1_000, 1_000_000_000), live;
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
        /// One encoded envelope on the topics `reflex.>`, where there are references only.
        reflex_bytes_max: usize = 4 << 10, Bound::Within(256, 64 * KIB);
        /// Headers of an envelope.
        headers_max: usize = 64, Bound::Within(0, 1024), live;
        /// Names and values of an envelope's headers together.
        header_bytes_max: usize = 8 << 10, Bound::Within(0, 64 * KIB), live;
        /// Objects and lists around each other in a JSON message, the message itself included.
        json_depth_max: usize = 32, Bound::Within(2, 32);
        /// Subscriptions of one session.
        subscriptions_max: usize = 1_000, Bound::Within(1, 100_000), live;
        /// Sessions on the node.
        sessions_max: usize = 20_000, Bound::Within(1, 1_000_000), live;
        /// Sessions of one tenant on the node.
        tenant_sessions_max: usize = 10_000, Bound::Within(1, 1_000_000), live;
        /// Tenants whose logs are open at a time; when one more comes, the one that nobody uses for
        /// longest is closed.
        tenants_max: usize = 1_000, Bound::Within(1, 100_000);
        /// Realities of one tenant.
        realities_max: usize = 256, Bound::Within(1, 10_000);
        /// Bytes of records that all realities of one tenant may store, framing included, beyond
        /// which Produce is refused; 0 for no limit.
        tenant_bytes_max: u64 = 0, Bound::Within(0, u64::MAX);
        /// Topics that all realities of one tenant may have, `_system` excepted, beyond which a
        /// Produce to another one is refused; 0 for no limit. Those of a reality count from when it
        /// is first opened after a start; a topic whose last record is gone counts no more.
        tenant_topics_max: u64 = 0, Bound::Within(0, 1 << 28);
        /// Messages that one session may produce in a second; 0 for no limit.
        session_messages_per_second: u64 = 0, Bound::Within(0, 1 << 40), live;
        /// Bytes of envelopes that one session may produce in a second; 0 for no limit.
        session_bytes_per_second: u64 = 0, Bound::Within(0, 1 << 40), live;
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
        /// Members of one group of competing consumers.
        group_members_max: usize = 1_000, Bound::Within(1, 100_000);
        /// Records that the members of one group together may have at a time.
        group_in_flight_max: u32 = 1_000, Bound::Within(1, 1_000_000);
        /// Records that one group holds in memory besides: those that wait for others of their key, or
        /// for their time. Beyond them it reads no further.
        group_ahead_max: usize = 1_000, Bound::Within(1, 1_000_000);
        /// Bytes of records that one group holds in memory; beyond them it reads no further.
        group_bytes_max: usize = 16 << 20, Bound::Within(KIB, GIB);
        /// Longest deadline, delay and back-off of a group.
        group_wait_max_ms: u64 = 12 * 60 * 60 * 1_000, Bound::Within(1_000, 7 * 24 * 60 * 60 * 1_000);
        /// Producers of one reality whose own clocks are remembered; the longest idle is forgotten.
        producers_max: usize = 65_536, Bound::Within(64, 1 << 24);
        /// Connections that have not finished their handshake.
        handshakes_max: usize = 16_384, Bound::Within(1, 1_000_000);
        /// From the connection's start to the end of its handshake; the request's header must be
        /// complete in half of it.
        handshake_timeout_ms: u64 = 10_000, Bound::Within(100, 120_000);
        /// The node pings a session that has been silent for this long.
        ping_after_ms: u64 = 25_000, Bound::Within(100, 3_600_000), live;
        /// A session that stays silent this long after the node's ping is closed.
        pong_timeout_ms: u64 = 10_000, Bound::Within(100, 3_600_000), live;
        /// Bytes of Produce that one session may have under way; beyond them the node stops
        /// reading from its socket.
        inflight_bytes_max: usize = 16 << 20, Bound::Within(KIB, GIB), live;
        /// Produce requests that one session may have under way.
        inflight_requests_max: usize = 4_096, Bound::Within(1, 1_000_000), live;
        /// Records that a subscription may be sent when it names no credit of its own.
        credit_records: u64 = 65_536, Bound::Within(1, u64::MAX), live;
        /// Bytes that a subscription may be sent when it names no credit of its own.
        credit_bytes: u64 = 8 * MIB, Bound::Within(KIB, u64::MAX), live;
        /// Most bytes of credit that a subscription can hold.
        credit_bytes_max: u64 = 64 * MIB, Bound::Within(KIB, u64::MAX), live;
        /// Records that one Deliver frame gathers.
        deliver_bytes_max: usize = 256 << 10, Bound::Within(KIB, 16 * MIB);
        /// A subscription that does not want to catch up (`on_lag`) is behind when more records than
        /// this stand between it and the end of the log.
        lag_records_max: u64 = 100_000, Bound::Within(2, u64::MAX), live;
        /// A session whose socket takes nothing for this long is closed as a slow consumer.
        write_timeout_ms: u64 = 10_000, Bound::Within(100, 600_000), live;
    }

    /// WebAssembly modules that judge payloads. See docs/policy-abi.md.
    policy: Policy {
        /// Policies of the node, for every tenant, which no tenant can take away:
        /// `{ name = "no-malware", file = "no-malware.wasm", topics = ["upload.>"], priority = 10,
        /// config = "text", metered = false, isolated = false, digest = "hex of its SHA-256" }`,
        /// each but the name, the file and the topics optional. They judge after those of the
        /// tenant. A file that is missing, broken or of another digest refuses the start.
        files: Vec<PolicyEntry> = Vec::new(), Bound::Any("a list of tables");
        /// Topics that must have a policy in force (`["payment.>"]`); without one, and where one of
        /// them is disabled, messages to them are refused.
        required: Vec<String> = Vec::new(), Bound::Any("a list of patterns");
        /// Time that one call may compute. Time in which its thread does not run does not count.
        deadline_ms: u64 = 5, Bound::Within(1, 1_000);
        /// Linear memory of one instance.
        memory_bytes_max: usize = 4 << 20, Bound::Within(64 * KIB, 256 * MIB);
        /// Instances of all policies of all tenants together. One that idles elsewhere goes for one
        /// that is needed.
        instances_max: usize = 512, Bound::Within(1, 10_000);
        /// Instances of one policy, and so calls of it at a time; beyond them messages are refused
        /// as busy.
        policy_instances_max: usize = 64, Bound::Within(1, 10_000);
        /// Policies of one tenant.
        policies_max: usize = 32, Bound::Within(1, 1_000);
        /// Modules of one tenant, of all versions that are kept, together.
        tenant_bytes_max: usize = 16 << 20, Bound::Within(64 * KIB, GIB);
        /// Compiled modules that are kept although no policy uses them.
        modules_kept: usize = 64, Bound::Within(1, 10_000);
        /// Fuel of a call of a metered policy, whatever the payload.
        fuel_base: u64 = 100_000, Bound::Within(1, u64::MAX);
        /// And for each byte of the payload.
        fuel_per_byte: u64 = 200, Bound::Within(0, u64::MAX);
        /// Write the lines that policies log to the node's own log, at level debug. They may quote
        /// payloads; without it they are only counted.
        log_lines: bool = false, Bound::Any("true or false");
    }

    /// Inspection of content, as long as a tenant's admin has not put anything else in force with
    /// `op.casil.reload`. See docs/casil.md.
    casil: Casil {
        /// Whether anything is inspected.
        enabled: bool = false, Bound::Any("true or false");
        /// `monitor` says what it finds, `enforce` acts on it.
        mode: String = "monitor".into(), Bound::OneOf(&["monitor", "enforce"]);
        /// What becomes, in mode enforce, of a payload that cannot be inspected to its end.
        default_decision: String = "block".into(), Bound::OneOf(&["allow", "block"]);
        /// Globs over `room:channel` for rooms and over topics for all; none means everything.
        scope_include: Texts = Texts::default(), Bound::Any("a list, or texts with commas between");
        /// Globs of what is not inspected; they win over `scope_include`.
        scope_exclude: Texts = Texts::default(), Bound::Any("a list, or texts with commas between");
        /// Largest payload, in mode enforce; 0 for no limit.
        max_payload_bytes: u64 = 256 * KIB, Bound::Within(0, u64::MAX);
        /// How far a payload is inspected.
        max_inspect_bytes: u64 = 256 * KIB, Bound::Within(1, 16 * MIB);
        /// Most of `redaction_patterns`.
        max_patterns: u64 = 32, Bound::Within(1, 256);
        /// In mode enforce, block what holds a probable secret instead of redacting it.
        block_on_probable_secret: bool = false, Bound::Any("true or false");
        /// Fields whose values are taken out, by name at any depth or by path (`user.password`).
        redaction_paths: Texts = Texts::of(&["password", "token", "secret"]), Bound::Any("a list, or texts with commas between");
        /// Regular expressions of what is secret beside what is known anyway.
        redaction_patterns: Texts = Texts::default(), Bound::Any("a list, or texts with commas between");
        /// In mode enforce, redact what is stored and delivered.
        transport_redaction: bool = true, Bound::Any("true or false");
        /// Say findings, never payloads, in the node's own log.
        metadata_to_logs: bool = true, Bound::Any("true or false");
        /// Sample findings into `sys.audit.edge`; what is blocked or changed always is.
        metadata_to_telemetry: bool = true, Bound::Any("true or false");
        /// Stamp the classification into records.
        metadata_to_envelope: bool = true, Bound::Any("true or false");
        /// What is done about personal data: nothing is looked for, or it is flagged, and in mode
        /// enforce redacted or blocked.
        personal_data: String = "flag".into(), Bound::OneOf(&["off", "flag", "redact", "block"]);
        /// Entropy, in hundredths of a bit a character, from which on a string of 20 to 128
        /// characters is taken for a random secret; 0 for never.
        entropy_centibits: u64 = 450, Bound::Within(0, 800);
    }

    /// What keeps tables of what the logs say. See docs/projections.md.
    projections: Projections {
        /// Whether there are any.
        enabled: bool = true, Bound::Any("true or false");
        /// Keep the episodes of the topic `continuum.episode.v1`.
        continuum: bool = true, Bound::Any("true or false");
        /// Keep every episode event, too, beside what the episodes have become.
        history: bool = true, Bound::Any("true or false");
        /// What the production profile asks for: `external`, that `postgres.url` and `valkey.url`
        /// are given and answer, or `embedded`, that the node's own tables are enough.
        production: String = "external".into(), Bound::OneOf(&["external", "embedded"]);
        /// Records that go into a sink at once.
        batch_records_max: usize = 2_000, Bound::Within(1, 100_000);
        /// Bytes of records that go into a sink at once; a larger record goes alone.
        batch_bytes_max: usize = 4 << 20, Bound::Within(4 * KIB, 64 * MIB);
        /// Logs that are projected at a time. Each takes memory for one batch.
        concurrency: usize = 4, Bound::Within(1, 256);
        /// A sink that has failed is tried again after this long, and after twice as long each time
        /// that it fails again.
        retry_min_ms: u64 = 100, Bound::Within(1, 60_000);
        /// The longest wait between two attempts.
        retry_max_ms: u64 = 30_000, Bound::Within(1, 3_600_000);
        /// A projection that meets more dead letters than this in a minute halts until somebody
        /// resumes it; 0 for never.
        poison_per_minute_max: u64 = 0, Bound::Within(0, 1_000_000);
        /// Projections of your own: `{ name = "quakes", topics = ["quake.>"], reality = "main", table
        /// = "quakes", key = ["id"], order_by = "updated", dead_letters = "dlq.projection.quakes",
        /// sinks = ["sled", "postgres"], columns = [{ name = "magnitude", from = "properties.mag",
        /// type = "float", required = true }] }`, all but name, topics, key, columns and their names
        /// and types optional. Types are text, integer, float, boolean, timestamp, timestamp_ms,
        /// timestamp_s, json and bytes.
        own: Vec<ProjectionEntry> = Vec::new(), Bound::Any("a list of tables");
        /// Messages kept as the older system kept its history: `{ name = "messages", topics = [">"],
        /// reality = "main", table = "arqonbus_message_history", proto = true, dead_letters =
        /// "dlq.projection.messages", sinks = ["sled", "postgres", "valkey"] }`, all but the topics
        /// optional; `proto` keeps the encoded envelope, too.
        messages: Vec<MessageEntry> = Vec::new(), Bound::Any("a list of tables");
    }

    /// PostgreSQL as a sink of projections.
    postgres: Postgres {
        /// `postgres://USER:PASSWORD@HOST:PORT/DATABASE`; without it there is no such sink. Best set
        /// by its variable. Never shown.
        url: Option<Secret> = None, Bound::Any("a URL");
        /// PEM file with the authorities that the server's certificate is trusted by, instead of the
        /// system's.
        ca: Option<PathBuf> = None, Bound::Any("a file");
        /// Connections at a time.
        pool_max: usize = 8, Bound::Within(1, 1_000);
        /// From the attempt to connect to the first answer.
        connect_timeout_ms: u64 = 5_000, Bound::Within(50, 120_000);
        /// One statement.
        statement_timeout_ms: u64 = 30_000, Bound::Within(50, 3_600_000);
        /// Waiting for a lock that somebody else holds.
        lock_timeout_ms: u64 = 5_000, Bound::Within(10, 3_600_000);
        /// A connection that says nothing to a query for this long is given up.
        silence_timeout_ms: u64 = 60_000, Bound::Within(50, 3_600_000);
    }

    /// Valkey, or Redis, as a sink of projections.
    valkey: Valkey {
        /// `valkey://:PASSWORD@HOST:PORT/0`, or `valkeys://` for TLS; without it there is no such
        /// sink. Best set by its variable. Never shown.
        url: Option<Secret> = None, Bound::Any("a URL");
        /// PEM file with the authorities that the server's certificate is trusted by, instead of the
        /// system's.
        ca: Option<PathBuf> = None, Bound::Any("a file");
        /// How long what is cached is kept.
        ttl_s: u64 = 300, Bound::Within(1, 30 * DAY_S);
        /// From the attempt to connect to the first answer.
        connect_timeout_ms: u64 = 5_000, Bound::Within(50, 120_000);
        /// One request.
        timeout_ms: u64 = 2_000, Bound::Within(10, 120_000);
        /// Entries that a stream of messages keeps, about.
        stream_entries_max: u64 = 10_000, Bound::Within(1, 100_000_000);
    }

    /// Events sent to URLs: `op.webhook`. See docs/operators/webhook.md.
    webhook: Webhook {
        /// Networks (`10.1.0.0/16`) that webhooks are sent to although they are not on the public
        /// internet. In the development profile loopback always is among them.
        allow: Texts = Texts::default(), Bound::Any("a list, or texts with commas between");
        /// Ports that webhooks are sent to. None named: 443 and 8443 in production, all in
        /// development.
        ports: Vec<u16> = Vec::new(), Bound::Any("a list of ports");
        /// Whether URLs may begin with `http://`. Left out, they may in the development profile and
        /// not in production.
        http: Switch = Switch::default(), Bound::Any("true or false");
        /// PEM file with the authorities that receivers' certificates are trusted by, instead of the
        /// system's.
        ca: Option<PathBuf> = None, Bound::Any("a file");
        /// Webhooks of one tenant.
        rules_max: usize = 100, Bound::Within(1, 10_000);
        /// From the connection to the end of the answer, where a webhook names no time of its own.
        timeout_ms: u64 = 15_000, Bound::Within(50, 120_000);
        /// Waits between the attempts of an event, give or take a fifth; the last one holds for all
        /// that follow. A webhook that names no number of attempts makes one more than there are.
        retry_ms: Vec<u64> = vec![5_000, 300_000, 1_800_000, 7_200_000, 18_000_000, 36_000_000, 50_400_000, 72_000_000, 86_400_000],
            Bound::Any("a list of 1 to 100 waits");
        /// The longest wait, whatever a receiver asks for with `Retry-After`.
        retry_max_ms: u64 = 86_400_000, Bound::Within(1, 7 * DAY_S * 1_000);
        /// A circuit breaker that has opened lets one attempt through after this long.
        breaker_open_ms: u64 = 30_000, Bound::Within(10, 3_600_000);
        /// Requests at a time to one host and port.
        endpoint_requests_max: usize = 4, Bound::Within(1, 256);
        /// Requests at a time of one tenant.
        tenant_requests_max: usize = 32, Bound::Within(1, 4_096);
    }

    /// Keys and values (`op.store`). See docs/operators/store.md.
    store: Store {
        /// Length of a key; its namespace, its key and what precedes them must fit into a topic, too.
        key_bytes_max: usize = 200, Bound::Within(1, 240);
        /// One value.
        value_bytes_max: usize = 256 << 10, Bound::Within(1, 16 * MIB);
        /// Keys of one namespace.
        namespace_keys_max: usize = 100_000, Bound::Within(1, 100_000_000);
        /// Keys of all namespaces of one reality. Their names are kept in memory while it is open
        /// and they are listed or added to.
        keys_max: usize = 1_000_000, Bound::Within(1, 100_000_000);
    }

    /// Messages that the node publishes at times (`op.cron`). See docs/operators/cron.md.
    cron: Cron {
        /// Jobs of one tenant.
        jobs_max: usize = 10_000, Bound::Within(1, 1_000_000);
        /// A time counts as missed when the job has not run so long after it.
        missed_after_ms: u64 = 60_000, Bound::Within(1_000, DAY_S * 1_000);
        /// Payload of one job.
        payload_bytes_max: usize = 64 << 10, Bound::Within(KIB, 4 * MIB);
    }

    /// The laboratory (`op.omega`), off unless it is turned on. See docs/operators/omega.md.
    omega: Omega {
        /// Whether there is one. Virtual machines left by a node that crashed are stopped anyway.
        enabled: bool = false, Bound::Any("true or false");
        /// Substrates of one tenant.
        substrates_max: usize = 128, Bound::Within(1, 100_000);
        /// Signals that are listed, the newest; the log of the reality `omega` keeps what it keeps.
        events_max: usize = 1_000, Bound::Within(1, 100_000);
        /// Payload of one signal, and what is said about one substrate.
        payload_bytes_max: usize = 64 << 10, Bound::Within(KIB, MIB);
        /// Virtual machines of all tenants at a time.
        vms_max: usize = 8, Bound::Within(1, 256);
        /// Virtual CPUs of a machine that asks for none in particular,
        vcpus: u64 = 1, Bound::Within(1, 32);
        /// and at most.
        vcpus_max: u64 = 2, Bound::Within(1, 32);
        /// Memory of a machine that asks for none in particular, in MiB,
        memory_mib: u64 = 256, Bound::Within(16, 64 << 10);
        /// and at most.
        memory_mib_max: u64 = 1_024, Bound::Within(16, 64 << 10);
        /// A machine that names no time is stopped after this long,
        lifetime_s: u64 = 3_600, Bound::Within(1, 30 * DAY_S);
        /// and any after this.
        lifetime_max_s: u64 = DAY_S, Bound::Within(1, 30 * DAY_S);
        /// A machine that has not started by then is given up.
        boot_timeout_ms: u64 = 10_000, Bound::Within(50, 600_000);
        /// How long a machine may take to go down before the next, harder step.
        stop_timeout_ms: u64 = 5_000, Bound::Within(10, 60_000);
        /// What a machine writes to its console is kept in a file up to this, while it runs.
        console_bytes_max: u64 = 1 << 20, Bound::Within(KIB, 64 * MIB);
        /// The `firecracker` binary: a path, or a name that is looked for in `PATH`.
        firecracker_bin: PathBuf = "firecracker".into(), Bound::Any("a file");
        /// The `jailer` binary. With it, machines run in a directory of their own, as
        /// `omega.jailer_uid`, in a control group with their bounds; without, as the node does.
        jailer_bin: Option<PathBuf> = None, Bound::Any("a file");
        /// User that the jailer has machines run as; not root.
        jailer_uid: u64 = 65_534, Bound::Within(1, u32::MAX as u64 - 1);
        /// And its group.
        jailer_gid: u64 = 65_534, Bound::Within(1, u32::MAX as u64 - 1);
        /// Image of the kernel.
        kernel_image: Option<PathBuf> = None, Bound::Any("a file");
        /// Image of the root file system; every machine has it to read only.
        rootfs_image: Option<PathBuf> = None, Bound::Any("a file");
        /// Image that every machine gets a copy of as its second drive, to write on.
        overlay_image: Option<PathBuf> = None, Bound::Any("a file");
        /// What the kernel is told.
        boot_args: String = "console=ttyS0 reboot=k panic=1 pci=off".into(), Bound::Any("a kernel command line");
        /// Whether machines get a socket to the host; never a network.
        vsock: bool = false, Bound::Any("true or false");
        /// Where machines have their directories; `_omega` in the data directory if left out.
        workspace_dir: Option<PathBuf> = None, Bound::Any("a directory");
        /// Device of the hypervisor.
        kvm_device: PathBuf = "/dev/kvm".into(), Bound::Any("a device");
    }

    /// Messages that wait for the time of their delivery. See docs/operators/delayed.md.
    delayed: Delayed {
        /// Messages that wait in one reality.
        waiting_max: usize = 100_000, Bound::Within(1, 10_000_000);
        /// How far ahead a message may be sent.
        ahead_max_s: u64 = 366 * DAY_S, Bound::Within(1, 36_500 * DAY_S);
    }

    /// How the node goes down.
    drain: Drain {
        /// From the signal to the end of the process.
        deadline_ms: u64 = 15_000, Bound::Within(100, 600_000), live;
        /// Clients are told to wait a random time up to this before they connect again.
        reconnect_after_ms: u64 = 5_000, Bound::Within(0, 600_000), live;
    }

    /// What the node writes to its standard error.
    trace: Trace {
        /// Form of the lines. The flag `--log-format` sets it too.
        format: String = "text".into(), Bound::OneOf(&["text", "json"]);
        /// What is written: a level (`info`), or levels by module
        /// (`warn,arqonbus::edge=debug`).
        filter: String = "info".into(), Bound::Any("a tracing filter"), live;
    }
}

/// Texts, written as a list or with commas between.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "ListOrText")]
pub struct Texts(pub Vec<String>);

impl Texts {
    fn of(texts: &[&str]) -> Self {
        Self(texts.iter().map(|text| (*text).to_owned()).collect())
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ListOrText {
    List(Vec<String>),
    Text(String),
}

impl From<ListOrText> for Texts {
    fn from(given: ListOrText) -> Self {
        match given {
            ListOrText::List(texts) => Self(texts),
            ListOrText::Text(text) => {
                let texts = text
                    .split(',')
                    .map(str::trim)
                    .filter(|text| !text.is_empty());
                Self(texts.map(str::to_owned).collect())
            }
        }
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

/// On, off, or left to the profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Option<Said>")]
pub struct Switch(pub Option<bool>);

/// The environment has texts only.
#[derive(Deserialize)]
#[serde(untagged, expecting = "true or false")]
enum Said {
    Flag(bool),
    Text(String),
}

impl TryFrom<Option<Said>> for Switch {
    type Error = std::str::ParseBoolError;

    fn try_from(said: Option<Said>) -> Result<Self, Self::Error> {
        Ok(Self(match said {
            None => None,
            Some(Said::Flag(flag)) => Some(flag),
            Some(Said::Text(text)) => Some(text.parse()?),
        }))
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Environment variable with the same, instead of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
}

/// A set of keys that verify tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwksEntry {
    /// File with the set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Where the set is fetched from, instead of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Certificates in PEM form that the URL's server is trusted by, instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// The `iss` of the tokens that it verifies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
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

/// A policy of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyEntry {
    /// What it is called.
    pub name: String,
    /// Its module.
    pub file: PathBuf,
    /// Topics whose messages it judges.
    pub topics: Vec<String>,
    /// Lower ones judge first.
    #[serde(default)]
    pub priority: u32,
    /// What it is configured with.
    #[serde(default)]
    pub config: String,
    /// Whether its work is limited by fuel, besides its time.
    #[serde(default)]
    pub metered: bool,
    /// Whether every message gets an instance of its own.
    #[serde(default)]
    pub isolated: bool,
    /// SHA-256 of the file, in hexadecimal digits.
    #[serde(default)]
    pub digest: Option<String>,
}

/// A schema of the node for the topics that a pattern matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchemaEntry {
    /// Which topics.
    pub pattern: String,
    /// A descriptor set or a JSON Schema document.
    pub file: PathBuf,
    /// Full name of the message, if it is a descriptor set.
    #[serde(default)]
    pub message: Option<String>,
    /// What records say that they were held against.
    #[serde(default = "SchemaEntry::first_version")]
    pub version: u64,
    /// What becomes of payloads that do not fit.
    #[serde(default)]
    pub level: SchemaLevel,
    /// What becomes of fields that the schema does not know.
    #[serde(default)]
    pub unknown: UnknownFields,
    /// Whether a payload may have no bytes.
    #[serde(default)]
    pub empty_allowed: bool,
}

impl SchemaEntry {
    const fn first_version() -> u64 {
        1
    }
}

/// What becomes of payloads that do not fit their schema.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SchemaLevel {
    /// They are refused.
    #[default]
    Reject,
    /// They are marked, counted and let through.
    Monitor,
}

/// What becomes of fields that a schema does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownFields {
    /// They are violations.
    #[default]
    Reject,
    /// They are let through.
    Keep,
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
