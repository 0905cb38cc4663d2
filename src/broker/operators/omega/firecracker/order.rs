//! The command line of a machine: of the jailer, or of the bare binary.

use std::ffi::OsString;
use std::path::Path;

use super::home::Home;
use super::{Setup, Spec};

/// Memory that Firecracker itself takes, and its page tables, beside what the guest has.
const OVERHEAD_MIB: u64 = 64;
/// A control group's time, in microseconds.
const PERIOD_US: u64 = 100_000;

/// What is run, without the program itself: `binary` is the path of Firecracker.
pub(super) fn arguments(setup: &Setup, spec: &Spec, home: &Home, binary: &Path) -> Vec<OsString> {
    let mut line: Vec<OsString> = Vec::new();
    if let Some(jailer) = &setup.jailer {
        line.extend(["--id".into(), spec.id.as_str().into()]);
        line.extend(["--exec-file".into(), binary.into()]);
        line.extend(["--uid".into(), jailer.uid.to_string().into()]);
        line.extend(["--gid".into(), jailer.gid.to_string().into()]);
        line.extend(["--chroot-base-dir".into(), setup.workspace.as_path().into()]);
        line.extend(["--cgroup-version".into(), "2".into()]);
        let memory = spec.memory_mib.saturating_add(OVERHEAD_MIB) << 20;
        line.extend(["--cgroup".into(), format!("memory.max={memory}").into()]);
        // One more for Firecracker's own threads.
        let quota = spec.vcpus.saturating_add(1).saturating_mul(PERIOD_US);
        line.extend([
            "--cgroup".into(),
            format!("cpu.max={quota} {PERIOD_US}").into(),
        ]);
        // Its id the jailer hands on by itself.
        line.push("--".into());
        line.extend(["--api-sock".into(), home.named_socket().into()]);
    } else {
        line.extend(["--api-sock".into(), home.named_socket().into()]);
        line.extend(["--id".into(), spec.id.as_str().into()]);
    }
    line
}
