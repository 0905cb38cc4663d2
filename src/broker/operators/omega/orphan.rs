//! Machines that a node has left behind that crashed: stopped, if they are still there, and never
//! another process that has got their number since.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::firecracker::{Home, Identity, Setup, identity};
use super::lane::{Process, Vm};

const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long a process may take to end after it was killed.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// What is to be done about a process that was recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// It is the machine: it is stopped.
    Stop,
    /// It has ended.
    Gone,
    /// Its number is another's by now, which is let alone.
    Another,
}

/// By what was recorded, and by what has its number on this start of the host.
fn judge(recorded: &Process, boot: &str, found: Option<Identity>) -> Verdict {
    // Ticks of another start of the host say nothing, and no process survives that.
    if recorded.boot.is_empty() || recorded.boot != boot {
        return Verdict::Gone;
    }
    match found {
        None => Verdict::Gone,
        Some(found) if found.ticks != recorded.ticks => Verdict::Another,
        Some(found) if found.ended => Verdict::Gone,
        Some(_) => Verdict::Stop,
    }
}

/// Which start of the host this is; empty if that cannot be known. Blocks.
pub(super) fn boot() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    boot.map_or_else(|_| String::new(), |boot| boot.trim().to_owned())
}

/// The process `pid`, as it is recorded; `None` if it has ended. Blocks.
pub(super) fn process(pid: u32) -> Option<Process> {
    let ticks = identity(pid)?.ticks;
    let boot = boot();
    Some(Process { pid, ticks, boot })
}

/// Sees to it that `vm` is gone, its directory too; how it ended. Blocks.
pub(super) fn sweep(setup: &Setup, vm: &Vm, time: Duration) -> &'static str {
    // The node may have crashed between the launch and the record of it.
    let recorded = vm.process.clone().or_else(|| find(&vm.id));
    let how = match &recorded {
        None => "was never launched: the node went down before",
        Some(recorded) => match end(recorded, time) {
            Ended::Stopped => "was left by a node that crashed, and stopped",
            Ended::Gone => "had ended when the node came back",
            Ended::Another => "had ended when the node came back; its number is another process's",
            Ended::Stubborn => "was left by a node that crashed, and does not end",
        },
    };
    tracing::warn!(vm = vm.id, how, "a machine was left behind");
    Home::of(setup, &vm.id, vm.jailed).remove();
    how
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ended {
    Stopped,
    Gone,
    Another,
    Stubborn,
}

fn end(recorded: &Process, time: Duration) -> Ended {
    // Taken before anything is compared: whatever it leads to cannot become another meanwhile.
    let handle = i32::try_from(recorded.pid)
        .ok()
        .and_then(Pid::from_raw)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let boot = boot();
    match judge(recorded, &boot, identity(recorded.pid)) {
        Verdict::Gone => return Ended::Gone,
        Verdict::Another => return Ended::Another,
        Verdict::Stop => {}
    }
    let Some(handle) = handle else {
        return Ended::Gone;
    };
    for (signal, time) in [(Signal::TERM, time), (Signal::KILL, KILL_WAIT)] {
        if pidfd_send_signal(&handle, signal).is_err() {
            return Ended::Gone;
        }
        let until = Instant::now() + time;
        while Instant::now() < until {
            if judge(recorded, &boot, identity(recorded.pid)) != Verdict::Stop {
                return Ended::Stopped;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
    Ended::Stubborn
}

/// The process that was started with `--id` and this id, which no other machine has.
fn find(id: &str) -> Option<Process> {
    let all = fs::read_dir("/proc").ok()?;
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        is_of(&line, id)
    })
    .find_map(process)
}

/// Whether a command line, with zeros between its arguments, is of the machine `id`.
fn is_of(line: &[u8], id: &str) -> bool {
    let arguments: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let pairs = arguments.windows(2);
    pairs
        .into_iter()
        .any(|pair| pair[0] == b"--id" && pair[1] == id.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    // OPS-10
    #[test]
    fn only_the_machine_itself_is_stopped() {
        let recorded = |boot: &str| Process {
            pid: 7,
            ticks: 100,
            boot: boot.into(),
        };
        let found = |ticks, ended| Some(Identity { ticks, ended });
        for (recorded, found, verdict) in [
            (recorded("b1"), found(100, false), Verdict::Stop),
            (recorded("b1"), found(101, false), Verdict::Another),
            (recorded("b1"), found(99, true), Verdict::Another),
            (recorded("b1"), found(100, true), Verdict::Gone),
            (recorded("b1"), None, Verdict::Gone),
            (recorded("b0"), found(100, false), Verdict::Gone),
            (recorded("b0"), None, Verdict::Gone),
            (recorded(""), found(100, false), Verdict::Gone),
        ] {
            assert_eq!(
                judge(&recorded, "b1", found),
                verdict,
                "{recorded:?} {found:?}"
            );
        }
    }

    // OPS-10
    #[test]
    fn a_machine_is_found_by_its_id_and_nothing_else() {
        assert!(is_of(
            b"firecracker\0--api-sock\0/a\0--id\0omega-vm-1\0",
            "omega-vm-1"
        ));
        assert!(is_of(b"jailer\0--id\0omega-vm-1\0--uid\0", "omega-vm-1"));
        assert!(!is_of(b"firecracker\0--id\0omega-vm-12\0", "omega-vm-1"));
        assert!(!is_of(b"vim\0omega-vm-1\0", "omega-vm-1"));
        assert!(!is_of(b"", "omega-vm-1"));
    }

    // OPS-10
    #[test]
    fn a_process_with_the_number_of_a_machine_lives_on() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let known = process(child.id()).unwrap();
        let other = Process {
            ticks: known.ticks + 1,
            ..known.clone()
        };
        assert_eq!(end(&other, Duration::from_millis(50)), Ended::Another);
        assert!(child.try_wait().unwrap().is_none());
        assert_eq!(end(&known, Duration::from_secs(5)), Ended::Stopped);
        child.wait().unwrap();
        assert_eq!(end(&known, Duration::from_millis(50)), Ended::Gone);
    }
}
