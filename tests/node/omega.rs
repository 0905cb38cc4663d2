//! The laboratory from outside: machines that are launched through Firecracker's API, end, are
//! stopped, are left by a node that is killed; and a reality that clients only read.
//!
//! The machines are a program that speaks the API and runs no guest. A real one is booted where the
//! host can: `ARQON_TEST_FIRECRACKER`, `ARQON_TEST_KERNEL` and `ARQON_TEST_ROOTFS` name its parts.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use arqonbus::proto::claims::Role;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Node, PATIENCE, claims, signed, write};

/// A host that has all that machines need, as far as these tests go.
struct Host {
    dir: TempDir,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, text) in [
            (
                "firecracker",
                include_str!("../fixtures/firecracker/firecracker.py"),
            ),
            ("jailer", include_str!("../fixtures/firecracker/jailer.py")),
        ] {
            let path = dir.path().join(name);
            write(&path, text.as_bytes());
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(&path, mode).expect("a program");
        }
        for image in ["kernel", "rootfs", "overlay"] {
            write(&dir.path().join(image), b"image");
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn mode(&self, mode: &str) {
        write(&self.path("mode"), mode.as_bytes());
    }

    fn requests(&self) -> String {
        std::fs::read_to_string(self.path("requests")).unwrap_or_default()
    }

    fn settings(&self, more: &[(&str, &str)]) -> Vec<(String, String)> {
        let path = |name: &str| self.path(name).to_string_lossy().into_owned();
        let mut all: Vec<(String, String)> = [
            ("ENABLED", "true".to_owned()),
            ("FIRECRACKER_BIN", path("firecracker")),
            ("KERNEL_IMAGE", path("kernel")),
            ("ROOTFS_IMAGE", path("rootfs")),
            ("WORKSPACE_DIR", path("w")),
            // Nothing is asked of it but to be there.
            ("KVM_DEVICE", "/dev/null".to_owned()),
            ("BOOT_TIMEOUT_MS", "5000".to_owned()),
            ("STOP_TIMEOUT_MS", "400".to_owned()),
            ("VMS_MAX", "2".to_owned()),
        ]
        .map(|(name, value)| (format!("ARQONBUS_OMEGA_{name}"), value))
        .into();
        for (name, value) in more {
            let name = format!("ARQONBUS_OMEGA_{name}");
            all.retain(|(known, _)| *known != name);
            all.push((name, (*value).to_owned()));
        }
        all
    }

    fn node(&self, more: &[(&str, &str)]) -> Node {
        let settings = self.settings(more);
        let settings: Vec<_> = settings.iter().map(|(n, v)| (&**n, &**v)).collect();
        Node::dev_on_with(&self.path("data"), &settings)
    }

    /// Ids of the machines whose directories there are.
    fn homes(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("w"));
        let names = entries.into_iter().flatten().flatten();
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("omega-vm-")).collect()
    }
}

fn omega(node: &Node, arguments: &[&str]) -> Value {
    let arguments = [&["omega"], arguments, &["--output", "json"]].concat();
    let text = node.ok(&arguments);
    // A list is one object a line.
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    match &*lines {
        [one] => one.clone(),
        _ => Value::Array(lines),
    }
}

fn refused(node: &Node, arguments: &[&str]) -> String {
    let ran = node.run(&[&["omega"], arguments].concat());
    assert_ne!(ran.code, 0, "{}", ran.stdout);
    ran.stderr
}

fn text(value: &Value, field: &str) -> String {
    value[field]
        .as_str()
        .unwrap_or_else(|| panic!("{field} of {value}"))
        .to_owned()
}

fn registered(node: &Node) -> String {
    text(&omega(node, &["register", "bench", "sim"]), "substrate_id")
}

fn vms(node: &Node) -> Value {
    omega(node, &["vm", "list"])
}

fn stop(node: Node) {
    node.signal("TERM");
    let (status, said) = node.ended();
    assert!(status.success(), "{said}");
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a process is there and has not ended.
fn lives(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(") ")
        .map(|(_, rest)| rest.starts_with('Z'));
    state == Some(false)
}

fn pid(vm: &Value) -> u64 {
    vm["pid"].as_u64().unwrap_or_else(|| panic!("pid of {vm}"))
}

fn ended(node: &Node, id: &str) -> Option<String> {
    let all = vms(node);
    assert!(all["ended"].is_array(), "{all}");
    let ended = all["ended"]
        .as_array()?
        .iter()
        .find(|one| one["vm_id"] == id)?;
    Some(text(ended, "how"))
}

/// Says in the report why something was not tested.
fn skipped(why: &str) {
    let said = writeln!(std::io::stderr(), "skipped: {why}");
    said.expect("standard error");
}

// OPS-10
#[test]
fn a_machine_is_launched_listed_and_stopped() {
    let host = Host::new();
    let overlay = host.path("overlay").to_string_lossy().into_owned();
    let node = host.node(&[("OVERLAY_IMAGE", &overlay), ("VSOCK", "true")]);
    let status = omega(&node, &["status"]);
    assert_eq!(
        (&status["enabled"], &status["runtime"]),
        (&json!(true), &json!("firecracker"))
    );
    assert_eq!(omega(&node, &["vm", "probe"])["ready"], true);
    let substrate = registered(&node);
    let vm = omega(
        &node,
        &[
            "vm", "launch", &substrate, "--vcpus", "2", "--memory", "300",
        ],
    );
    let (id, pid) = (text(&vm, "vm_id"), pid(&vm));
    assert_eq!(
        (&vm["status"], &vm["substrate_id"]),
        (&json!("running"), &json!(substrate))
    );
    assert!(lives(pid));
    let asked = host.requests();
    let at = |what: &str| {
        asked
            .find(what)
            .unwrap_or_else(|| panic!("{what} in {asked}"))
    };
    let order = [
        "started",
        "PUT /machine-config",
        "PUT /boot-source",
        "PUT /drives/rootfs",
        "PUT /drives/overlay",
        "PUT /vsock",
        r#"PUT /actions {"action_type":"InstanceStart"}"#,
    ];
    assert!(order.map(at).is_sorted(), "{asked}");
    assert!(asked.contains(r#""vcpu_count":2"#) && asked.contains(r#""mem_size_mib":300"#));
    assert!(asked.contains(r#""is_read_only":true"#) && asked.contains(r#""smt":false"#));
    assert!(
        asked.contains("environment []"),
        "nothing of the node's is handed on: {asked}"
    );
    let home = host.path("w").join(&id);
    assert!(home.join("overlay").exists());
    let console = || std::fs::read_to_string(home.join("console.log")).unwrap_or_default();
    until("its console", || {
        console().contains("guest: hello").then_some(())
    });
    assert_eq!(vms(&node)["vms"][0]["vm_id"], id);
    // Another who is no admin sees it, and nothing of the host.
    let secret = node.dev_secret();
    let user = signed(&claims("dev", Role::User), &secret);
    let seen = node.ok(&["omega", "vm", "list", "--output", "json", "--token", &user]);
    assert!(
        seen.contains(&id) && !seen.contains("api_socket") && !seen.contains("pid"),
        "{seen}"
    );
    let stopping = node.run(&["omega", "vm", "stop", &id, "--token", &user]);
    assert!(stopping.stderr.contains("FORBIDDEN"), "{}", stopping.stderr);
    let stopped = omega(&node, &["vm", "stop", &id]);
    assert_eq!(stopped["stopped"], true, "{stopped}");
    assert!(host.requests().contains("SendCtrlAltDel") == cfg!(target_arch = "x86_64"));
    assert!(!lives(pid) && host.homes().is_empty());
    assert_eq!(vms(&node)["count"], 0);
    assert!(
        ended(&node, &id)
            .expect("it has ended")
            .starts_with("stopped by ")
    );
    assert_eq!(omega(&node, &["vm", "stop", &id])["reason"], "not_found");
}

// OPS-10
#[test]
fn a_machine_that_does_not_start_is_cleared_away_and_said_why() {
    let host = Host::new();
    host.mode("silent");
    let node = host.node(&[("BOOT_TIMEOUT_MS", "400"), ("VMS_MAX", "1")]);
    let substrate = registered(&node);
    let error = refused(&node, &["vm", "launch", &substrate]);
    assert!(
        error.contains("NOT_YET") && error.contains("400 ms"),
        "{error}"
    );
    host.mode("fault");
    let error = refused(&node, &["vm", "launch", &substrate]);
    assert!(
        error.contains("InstanceStart: Cannot create KVM VM"),
        "{error}"
    );
    assert!(host.homes().is_empty());
    assert_eq!(vms(&node)["count"], 0);
    // Neither counts any more.
    host.mode("dies");
    let vm = omega(&node, &["vm", "launch", &substrate]);
    let how = until("it ends by itself", || ended(&node, &text(&vm, "vm_id")));
    assert!(
        how.contains("ended by itself") && how.contains('7'),
        "{how}"
    );
    assert!(host.homes().is_empty());
    host.mode("");
    let vm = omega(&node, &["vm", "launch", &substrate, "--lifetime", "1s"]);
    let how = until("its time is over", || ended(&node, &text(&vm, "vm_id")));
    assert!(how.starts_with("its time was over"), "{how}");
    assert!(!lives(pid(&vm)));
}

// OPS-10
#[test]
fn there_are_no_more_machines_than_allowed_and_none_outlives_its_substrate() {
    let host = Host::new();
    let node = host.node(&[]);
    let substrate = registered(&node);
    host.mode("stubborn");
    let one = omega(&node, &["vm", "launch", &substrate]);
    host.mode("");
    let two = omega(&node, &["vm", "launch", &substrate]);
    let error = refused(&node, &["vm", "launch", &substrate]);
    assert!(
        error.contains("TOO_LARGE") && error.contains("machines"),
        "{error}"
    );
    let error = refused(&node, &["vm", "launch", &substrate, "--vcpus", "64"]);
    assert!(error.contains("vcpus"), "{error}");
    let gone = omega(&node, &["unregister", &substrate]);
    assert_eq!(gone["stopped_vms"], 2, "{gone}");
    assert!(!lives(pid(&one)) && !lives(pid(&two)));
    let how = ended(&node, &text(&one, "vm_id")).expect("it has ended");
    assert!(how.contains("was killed"), "{how}");
    assert!(refused(&node, &["vm", "launch", &substrate]).contains("NOT_FOUND"));
}

// OPS-10, OPS-14
#[test]
fn what_a_killed_node_leaves_is_stopped_and_nothing_else() {
    let host = Host::new();
    let node = host.node(&[]);
    let substrate = registered(&node);
    let (one, two) = (
        omega(&node, &["vm", "launch", &substrate]),
        omega(&node, &["vm", "launch", &substrate]),
    );
    // Killed.
    drop(node);
    assert!(lives(pid(&one)) && lives(pid(&two)));
    // One ends while nobody looks. Its number is free for others.
    let killed = Command::new("kill")
        .args(["-9", &pid(&two).to_string()])
        .status();
    assert!(killed.expect("kill runs").success());
    // An innocent with the same words on its line, but for the flag.
    let mut bystander = Command::new("sleep")
        .arg("60")
        .stdin(Stdio::null())
        .spawn()
        .expect("sleep");
    std::fs::remove_dir_all(host.path("data").join("_state")).expect("the caches");
    // Cleared up although there is no laboratory any more.
    let node = host.node(&[("ENABLED", "false")]);
    until("the orphan is stopped", || {
        (!lives(pid(&one))).then_some(())
    });
    until("its directory is removed", || {
        host.homes().is_empty().then_some(())
    });
    assert!(lives(u64::from(bystander.id())));
    bystander.kill().expect("it lives");
    bystander.wait().expect("it has ended");
    assert!(refused(&node, &["vm", "list"]).contains("FEATURE_DISABLED"));
    until("both have ended", || {
        (omega(&node, &["status"])["vm_count"] == 0).then_some(())
    });
    stop(node);
    let node = host.node(&[]);
    let how = |vm: &Value| ended(&node, &text(vm, "vm_id")).expect("it has ended");
    assert!(how(&one).contains("crashed, and stopped"), "{}", how(&one));
    assert!(how(&two).contains("had ended"), "{}", how(&two));
    assert_eq!(
        text(&omega(&node, &["substrates"]), "substrate_id"),
        substrate
    );
    // A node that is asked to go takes its machines along.
    let vm = omega(&node, &["vm", "launch", &substrate]);
    stop(node);
    assert!(!lives(pid(&vm)) && host.homes().is_empty());
    let node = host.node(&[]);
    let how = ended(&node, &text(&vm, "vm_id")).expect("it has ended");
    assert!(how.starts_with("the node went down"), "{how}");
}

// OPS-10
#[test]
fn a_jailed_machine_gets_its_files_in_its_jail() {
    let host = Host::new();
    let (jailer, overlay) = (host.path("jailer"), host.path("overlay"));
    let (jailer, overlay) = (jailer.to_string_lossy(), overlay.to_string_lossy());
    let node = host.node(&[("JAILER_BIN", &jailer), ("OVERLAY_IMAGE", &overlay)]);
    let substrate = registered(&node);
    if !rustix::process::geteuid().is_root() {
        let error = refused(&node, &["vm", "launch", &substrate]);
        assert!(error.contains("the jailer works for root alone"), "{error}");
        skipped("a jailed machine is launched by root alone");
        return;
    }
    let vm = omega(&node, &["vm", "launch", &substrate]);
    let id = text(&vm, "vm_id");
    let root = host.path("w").join("firecracker").join(&id).join("root");
    assert!(root.join("kernel").exists() && root.join("api.sock").exists());
    let asked = host.requests();
    for path in [r#""/kernel""#, r#""/rootfs""#, r#""/overlay""#] {
        assert!(asked.contains(path), "{path} in {asked}");
    }
    assert_eq!(omega(&node, &["vm", "stop", &id])["stopped"], true);
    assert!(!root.exists() && host.path("kernel").exists());
}

// OPS-09
#[test]
fn the_laboratory_is_off_unless_turned_on_and_clients_only_read_it() {
    let host = Host::new();
    let node = host.node(&[("ENABLED", "false")]);
    assert_eq!(omega(&node, &["status"])["enabled"], false);
    let error = refused(&node, &["register", "a", "sim"]);
    assert!(
        error.contains("FEATURE_DISABLED") && error.contains("omega.enabled"),
        "{error}"
    );
    stop(node);
    let node = host.node(&[]);
    let substrate = registered(&node);
    let emitted = omega(&node, &["emit", &substrate, "drift", r#"{"n":1}"#]);
    omega(&node, &["emit", &substrate, "spike", r#"{"n":2}"#]);
    assert!(text(&emitted, "event_id").starts_with("omega_evt_"));
    let listed = omega(&node, &["events", "--signal", "drift"]);
    assert_eq!(listed["payload"], json!({"n": 1}), "{listed}");
    // Whoever may subscribe reads them like any records.
    let read = node.ok(&[
        "--reality",
        "omega",
        "consume",
        "omega.>",
        "--from",
        "earliest",
        "--stop-at-end",
        "--output",
        "json",
    ]);
    assert!(read.contains("drift") && read.contains("spike"), "{read}");
    let writing = node.run_with_input(&["--reality", "omega", "produce", "omega.x"], "{\"n\":3}\n");
    assert!(writing.stderr.contains("FORBIDDEN"), "{}", writing.stderr);
    let cleared = omega(&node, &["clear", "--signal", "drift"]);
    assert_eq!(
        (&cleared["removed_count"], &cleared["remaining_count"]),
        (&json!(1), &json!(1))
    );
    // Killed.
    drop(node);
    std::fs::remove_dir_all(host.path("data").join("_state")).expect("the caches");
    let node = host.node(&[]);
    let listed = omega(&node, &["events"]);
    assert_eq!(listed["payload"], json!({"n": 2}), "{listed}");
    let user = signed(&claims("dev", Role::User), &node.dev_secret());
    let emitting = node.run(&["omega", "emit", &substrate, "drift", "--token", &user]);
    assert!(emitting.stderr.contains("FORBIDDEN"), "{}", emitting.stderr);
    let other = signed(&claims("rival", Role::Admin), &node.dev_secret());
    let seen = node.ok(&["omega", "substrates", "--output", "json", "--token", &other]);
    assert!(!seen.contains(&substrate), "{seen}");
}

// OPS-10
#[test]
fn a_real_machine_boots_where_the_host_can() {
    let parts = ["FIRECRACKER", "KERNEL", "ROOTFS"]
        .map(|name| std::env::var_os(format!("ARQON_TEST_{name}")).map(PathBuf::from));
    let [Some(binary), Some(kernel), Some(root)] = parts else {
        skipped("ARQON_TEST_FIRECRACKER, ARQON_TEST_KERNEL and ARQON_TEST_ROOTFS are not set");
        return;
    };
    if let Err(error) = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
    {
        skipped(&format!("/dev/kvm cannot be opened: {error}"));
        return;
    }
    let host = Host::new();
    let shown = |path: &Path| path.to_string_lossy().into_owned();
    let node = host.node(&[
        ("FIRECRACKER_BIN", &shown(&binary)),
        ("KERNEL_IMAGE", &shown(&kernel)),
        ("ROOTFS_IMAGE", &shown(&root)),
        ("KVM_DEVICE", "/dev/kvm"),
    ]);
    let substrate = registered(&node);
    let vm = omega(&node, &["vm", "launch", &substrate]);
    let id = text(&vm, "vm_id");
    let console = host.path("w").join(&id).join("console.log");
    let console = || std::fs::read_to_string(&console).unwrap_or_default();
    until("the kernel speaks", || {
        console().contains("Linux version").then_some(())
    });
    assert_eq!(omega(&node, &["vm", "stop", &id])["stopped"], true);
    assert!(!lives(pid(&vm)));
}
