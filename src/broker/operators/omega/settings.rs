//! What the node's settings say about the laboratory, checked before it starts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::firecracker;
use crate::config;

/// Directory of the machines in the data directory.
const WORKSPACE: &str = "_omega";

/// How the laboratory works.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(super) enabled: bool,
    pub(super) substrates_max: usize,
    pub(super) events_max: usize,
    pub(super) payload_bytes_max: usize,
    pub(super) vms_max: usize,
    pub(super) vcpus: u64,
    pub(super) vcpus_max: u64,
    pub(super) memory_mib: u64,
    pub(super) memory_mib_max: u64,
    pub(super) lifetime_s: u64,
    pub(super) lifetime_max_s: u64,
    pub(super) boot_timeout: Duration,
    pub(super) stop_timeout: Duration,
    pub(super) kvm_device: PathBuf,
    pub(super) setup: firecracker::Setup,
}

/// Why the laboratory cannot work as the settings say.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// A default lies above its limit.
    #[error(
        "omega.{name} is {value}, more than omega.{limit_name}, {limit}; lower the one or raise the other"
    )]
    AboveLimit {
        /// The default.
        name: &'static str,
        /// It.
        value: u64,
        /// The limit.
        limit_name: &'static str,
        /// It.
        limit: u64,
    },
    /// The path of a machine's socket would be too long.
    #[error(
        "omega.workspace_dir: sockets of machines would have paths of {found} bytes, and the system allows {max}; name a shorter directory"
    )]
    PathTooLong {
        /// Its length.
        found: usize,
        /// Most that there may be.
        max: usize,
    },
}

impl Settings {
    /// What `config` says, for a node whose data are in `data`.
    ///
    /// # Errors
    /// A setting cannot be used.
    pub fn of(config: &config::Omega, data: &Path) -> Result<Self, Unusable> {
        let workspace = config.workspace_dir.clone();
        let workspace = workspace.unwrap_or_else(|| data.join(WORKSPACE));
        let workspace = std::path::absolute(&workspace).unwrap_or(workspace);
        let settings = Self {
            enabled: config.enabled,
            substrates_max: config.substrates_max,
            events_max: config.events_max,
            payload_bytes_max: config.payload_bytes_max,
            vms_max: config.vms_max,
            vcpus: config.vcpus,
            vcpus_max: config.vcpus_max,
            memory_mib: config.memory_mib,
            memory_mib_max: config.memory_mib_max,
            lifetime_s: config.lifetime_s,
            lifetime_max_s: config.lifetime_max_s,
            boot_timeout: Duration::from_millis(config.boot_timeout_ms),
            stop_timeout: Duration::from_millis(config.stop_timeout_ms),
            kvm_device: config.kvm_device.clone(),
            setup: firecracker::Setup {
                binary: config.firecracker_bin.clone(),
                jailer: config.jailer_bin.clone().map(|binary| firecracker::Jailer {
                    binary,
                    uid: u32::try_from(config.jailer_uid).unwrap_or(u32::MAX - 1),
                    gid: u32::try_from(config.jailer_gid).unwrap_or(u32::MAX - 1),
                }),
                kernel: config.kernel_image.clone().unwrap_or_default(),
                root: config.rootfs_image.clone().unwrap_or_default(),
                overlay: config.overlay_image.clone(),
                boot_args: config.boot_args.clone(),
                vsock: config.vsock,
                workspace,
                console_bytes_max: config.console_bytes_max,
            },
        };
        if config.enabled {
            settings.check()?;
        }
        Ok(settings)
    }

    fn check(&self) -> Result<(), Unusable> {
        for (name, value, limit_name, limit) in [
            ("vcpus", self.vcpus, "vcpus_max", self.vcpus_max),
            (
                "memory_mib",
                self.memory_mib,
                "memory_mib_max",
                self.memory_mib_max,
            ),
            (
                "lifetime_s",
                self.lifetime_s,
                "lifetime_max_s",
                self.lifetime_max_s,
            ),
        ] {
            if value > limit {
                return Err(Unusable::AboveLimit {
                    name,
                    value,
                    limit_name,
                    limit,
                });
            }
        }
        // Where no machine can be launched anyway, nobody need shorten a path.
        let (found, max) = (
            self.setup.longest_socket_path(),
            firecracker::SOCKET_PATH_MAX,
        );
        if found > max && !self.setup.kernel.as_os_str().is_empty() {
            return Err(Unusable::PathTooLong { found, max });
        }
        Ok(())
    }
}

impl Default for Settings {
    fn default() -> Self {
        let data = Path::new("");
        let off = Self::of(&config::Omega::default(), data);
        off.unwrap_or_else(|_| unreachable!("what is turned off is not checked"))
    }
}
