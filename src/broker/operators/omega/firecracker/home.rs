//! A machine's directory: what is in it, and what the machine calls it.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::{Failed, Jailer, Setup, program};

const SOCKET: &str = "api.sock";
const VSOCK: &str = "v.sock";
const KERNEL: &str = "kernel";
const ROOT: &str = "rootfs";
const OVERLAY: &str = "overlay";
const CONSOLE: &str = "console.log";
/// Where the host has control groups of version 2.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Where a machine lives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in super::super) struct Home {
    /// All of it; removed with the machine.
    directory: PathBuf,
    /// What the machine sees as `/`, if it is in a jail.
    jail: Option<PathBuf>,
}

impl Home {
    /// Of the machine `id`, which Firecracker has of letters, digits and hyphens. The jailer puts it in `<base>/<name of the binary>/<id>`, whose `root`
    /// is all that it sees.
    pub(in super::super) fn of(setup: &Setup, id: &str, jailed: bool) -> Self {
        if !jailed {
            let directory = setup.workspace.join(id);
            return Self {
                directory,
                jail: None,
            };
        }
        let directory = setup.workspace.join(name_in_jail(setup)).join(id);
        let jail = Some(directory.join("root"));
        Self { directory, jail }
    }

    fn inside(&self) -> &Path {
        self.jail.as_deref().unwrap_or(&self.directory)
    }

    /// The API's socket, for the host.
    pub(in super::super) fn api_socket(&self) -> PathBuf {
        self.inside().join(SOCKET)
    }

    pub(super) fn console(&self) -> PathBuf {
        self.directory.join(CONSOLE)
    }

    /// What the machine calls a file of its own.
    fn named(&self, file: &str, outside: &Path) -> PathBuf {
        match &self.jail {
            Some(_) => Path::new("/").join(file),
            None => outside.to_owned(),
        }
    }

    pub(super) fn named_socket(&self) -> PathBuf {
        self.named(SOCKET, &self.directory.join(SOCKET))
    }

    pub(super) fn named_vsock(&self) -> PathBuf {
        self.named(VSOCK, &self.directory.join(VSOCK))
    }

    pub(super) fn named_kernel(&self, setup: &Setup) -> PathBuf {
        self.named(KERNEL, &setup.kernel)
    }

    pub(super) fn named_root(&self, setup: &Setup) -> PathBuf {
        self.named(ROOT, &setup.root)
    }

    pub(super) fn named_overlay(&self) -> PathBuf {
        self.named(OVERLAY, &self.directory.join(OVERLAY))
    }

    /// Makes it, with all that the machine needs. Blocks.
    pub(super) fn furnish(&self, setup: &Setup) -> Result<(), Failed> {
        let make = |path: &Path, mode| {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(path)
        };
        make(&setup.workspace, 0o700).map_err(host("its workspace cannot be made"))?;
        // Its own id alone knows the name: what is there already is nobody's that is needed.
        make(self.inside(), 0o700).map_err(host("its directory cannot be made"))?;
        let owner = setup.jailer.as_ref().filter(|_| self.jail.is_some());
        if let Some(jailer) = owner {
            give(self.inside(), jailer)?;
            for (from, name) in [(&setup.kernel, KERNEL), (&setup.root, ROOT)] {
                let to = self.inside().join(name);
                shared(from, &to).map_err(host("an image cannot be put into its jail"))?;
            }
        }
        if let Some(overlay) = &setup.overlay {
            let to = self.inside().join(OVERLAY);
            fs::copy(overlay, &to).map_err(host("its own drive cannot be copied"))?;
            let private = fs::set_permissions(&to, Permissions::from_mode(0o600));
            private.map_err(host("its own drive cannot be copied"))?;
            if let Some(jailer) = owner {
                give(&to, jailer)?;
            }
        }
        Ok(())
    }

    pub(super) fn open_console(&self) -> Result<File, Failed> {
        File::create(self.console()).map_err(host("its console cannot be kept"))
    }

    /// Removes it. What is not there is removed. Blocks.
    pub(in super::super) fn remove(&self) {
        if let Err(error) = fs::remove_dir_all(&self.directory)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, directory = %self.directory.display(), "a machine's directory is left");
        }
        // Of the jailer's making, with the same last names.
        let mut names = self.directory.iter().rev();
        if let (Some(_), Some(id), Some(binary)) = (&self.jail, names.next(), names.next()) {
            // There is none where no jailer got so far.
            let _none = fs::remove_dir(Path::new(CGROUPS).join(binary).join(id));
        }
    }
}

/// What the jailer calls its machines' directory: the binary's own name, whatever link leads to it.
fn name_in_jail(setup: &Setup) -> OsString {
    let own = program(&setup.binary).and_then(|binary| fs::canonicalize(binary).ok());
    let own = own.as_deref().unwrap_or(&setup.binary);
    own.file_name().unwrap_or_default().to_owned()
}

pub(super) fn host(what: &'static str) -> impl Fn(io::Error) -> Failed {
    move |source| Failed::Host { what, source }
}

fn give(path: &Path, jailer: &Jailer) -> Result<(), Failed> {
    let given = std::os::unix::fs::chown(path, Some(jailer.uid), Some(jailer.gid));
    given.map_err(host(
        "its files cannot be given to the jail's user; the node must run as root",
    ))
}

/// The same file under another name, or a copy where there can be no such: on another file system.
/// Whoever gets it may not write it.
fn shared(from: &Path, to: &Path) -> io::Result<()> {
    if fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    fs::copy(from, to)?;
    fs::set_permissions(to, Permissions::from_mode(0o444))
}
