//! One Firecracker virtual machine: its directory, its process, its API (OPS-10).
//!
//! - [`Setup`]: what every machine of the node is made of.
//! - [`Home`]: a machine's directory, as the jailer lays it out or as the bare binary needs it.
//! - `order`: the command line. `api`: HTTP over the machine's socket. `console`: what it writes.
//! - [`Machine`]: a process that is at work, and how it goes down.
//!
//! Knows no tenant, no log and no substrate. A machine has no network; a socket to the host if that
//! is set. Whoever drops a [`Machine`] ends its process.

mod api;
mod console;
mod home;
mod machine;
mod order;

use std::path::{Path, PathBuf};

pub(super) use self::home::Home;
pub(super) use self::machine::{Identity, Machine, identity};

/// Longest path that a socket can have: the kernel's 108 bytes with the zero at the end.
pub(super) const SOCKET_PATH_MAX: usize = 107;
/// Of an id, in bytes: `omega-vm-` and 12 digits.
const ID_BYTES: usize = 21;

/// What machines are made of.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) binary: PathBuf,
    pub(super) jailer: Option<Jailer>,
    pub(super) kernel: PathBuf,
    pub(super) root: PathBuf,
    pub(super) overlay: Option<PathBuf>,
    pub(super) boot_args: String,
    pub(super) vsock: bool,
    pub(super) workspace: PathBuf,
    pub(super) console_bytes_max: u64,
}

/// What puts a machine into a place of its own.
#[derive(Clone, Debug)]
pub(super) struct Jailer {
    pub(super) binary: PathBuf,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// What one machine gets.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    pub(super) id: String,
    pub(super) vcpus: u64,
    pub(super) memory_mib: u64,
}

/// Why a machine does not work.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error("{what}: {source}")]
    Host {
        what: &'static str,
        source: std::io::Error,
    },
    #[error("{request}: {fault}")]
    Refused {
        request: &'static str,
        fault: String,
    },
    #[error("{request}: it answered what no Firecracker answers ({what})")]
    Unheard { request: &'static str, what: String },
    #[error("its process ended before it had started ({how})")]
    Died { how: String },
    #[error("it had not started after {after_ms} ms")]
    Late { after_ms: u128 },
    #[error("{0}")]
    Stopped(String),
}

impl Setup {
    /// Of the longest path to a socket of a machine.
    pub(super) fn longest_socket_path(&self) -> usize {
        let home = Home::of(self, &"x".repeat(ID_BYTES), self.jailer.is_some());
        home.api_socket().as_os_str().len()
    }
}

/// Where a program is: itself if it is a path, else the first of that name in `PATH`.
pub(super) fn program(named: &Path) -> Option<PathBuf> {
    let runs = |path: &Path| {
        use std::os::unix::fs::PermissionsExt as _;
        let about = std::fs::metadata(path);
        about.is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
    };
    if named.components().count() > 1 {
        return runs(named).then(|| named.to_owned());
    }
    let all = std::env::var_os("PATH")?;
    let mut candidates = std::env::split_paths(&all).map(|directory| directory.join(named));
    candidates.find(|path| path.is_absolute() && runs(path))
}
