//! What machines need of the host, and what of it is missing.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::firecracker::program;
use super::settings::Settings;

/// One thing that machines need.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Check {
    pub(super) name: &'static str,
    /// For admins alone.
    pub(super) path: Option<PathBuf>,
    /// What is wrong, and what to do.
    pub(super) problem: Option<String>,
}

impl Check {
    fn of(name: &'static str, path: &Path, found: Result<(), String>) -> Self {
        Self {
            name,
            path: Some(path)
                .filter(|path| !path.as_os_str().is_empty())
                .map(Path::to_owned),
            problem: found.err(),
        }
    }
}

/// All of them. Blocks.
pub(super) fn probe(settings: &Settings) -> Vec<Check> {
    let setup = &settings.setup;
    let mut checks = vec![
        Check::of(
            "kvm",
            &settings.kvm_device,
            hypervisor(&settings.kvm_device),
        ),
        Check::of(
            "firecracker",
            &setup.binary,
            binary(
                &setup.binary,
                "set omega.firecracker_bin to it, or install it in a directory of PATH",
            ),
        ),
    ];
    if let Some(jailer) = &setup.jailer {
        let mut found = binary(
            &jailer.binary,
            "set omega.jailer_bin to it, or leave that out to run machines without one",
        );
        if found.is_ok() && !rustix::process::geteuid().is_root() {
            found = Err("the jailer works for root alone; run the node as root, or leave omega.jailer_bin out".into());
        }
        checks.push(Check::of("jailer", &jailer.binary, found));
    }
    let kernel = image(
        &setup.kernel,
        "set omega.kernel_image to an uncompressed kernel (vmlinux)",
    );
    checks.push(Check::of("kernel", &setup.kernel, kernel));
    let root = image(
        &setup.root,
        "set omega.rootfs_image to an image of a root file system",
    );
    checks.push(Check::of("rootfs", &setup.root, root));
    if let Some(overlay) = &setup.overlay {
        let found = image(
            overlay,
            "set omega.overlay_image to an image, or leave it out",
        );
        checks.push(Check::of("overlay", overlay, found));
    }
    checks
}

fn hypervisor(device: &Path) -> Result<(), String> {
    match OpenOptions::new().read(true).write(true).open(device) {
        Ok(_device) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(
            "there is no such device: the host has no KVM; load the module kvm_intel or kvm_amd, turn virtualization on in the firmware, or use a host that allows nested virtualization".into(),
        ),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(
            "the node may not open it; add its user to the group kvm".into(),
        ),
        Err(error) => Err(format!("it cannot be opened ({})", error.kind())),
    }
}

fn binary(named: &Path, remedy: &str) -> Result<(), String> {
    match program(named) {
        Some(_) => Ok(()),
        None => Err(format!(
            "there is no such program that can be run; {remedy}"
        )),
    }
}

fn image(path: &Path, remedy: &str) -> Result<(), String> {
    if path.as_os_str().is_empty() {
        return Err(format!("none is set; {remedy}"));
    }
    let opened = File::open(path).and_then(|file| file.metadata());
    match opened {
        Ok(about) if about.is_file() && about.len() > 0 => Ok(()),
        Ok(_) => Err(format!("it is empty, or no file; {remedy}")),
        Err(error) => Err(format!("it cannot be read ({}); {remedy}", error.kind())),
    }
}
