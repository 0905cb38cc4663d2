//! The commands of `docs/runbook.md`, run as they stand there, each page in the state that it is
//! about; and those of `docs/policies.md`.

use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::full_disk::SmallDisk;
use crate::servers::postgres::{Database, Server};
use crate::servers::redis::Redis;
use crate::shell::earthquakes;
use crate::support::write;
use crate::tls::Authority;

/// Starts and stops the node of a page; what a person's service does.
const SERVICE: &str = r#"#!/bin/bash
set -eu
alive() { [[ -e /proc/$1/status ]] && ! grep -q '^State:.Z' "/proc/$1/status"; }
case "$1" in
start)
  : > "$RUN/out"
  setsid arqonbus serve --dev --listen "$EDGE" --ops "${OPS_ADDRESS:-127.0.0.1:0}" --data "$DATA" \
    >> "$RUN/out" 2>> "$RUN/err" < /dev/null &
  echo $! > "$RUN/pid"
  for _ in $(seq 400); do
    if grep -q '^ready' "$RUN/out"; then exit 0; fi
    alive "$(cat "$RUN/pid")" || break
    sleep 0.05
  done
  cat "$RUN/err" >&2
  exit 1 ;;
reload)
  kill -HUP "$(cat "$RUN/pid")" ;;
stop | kill)
  pid=$(cat "$RUN/pid")
  if [[ $1 == stop ]]; then kill -TERM "$pid"; else kill -KILL "$pid"; fi
  for _ in $(seq 400); do
    alive "$pid" || { rm "$RUN/pid"; exit 0; }
    sleep 0.05
  done
  exit 1 ;;
esac
"#;

/// A machine with one node on it.
struct Machine {
    dir: TempDir,
    edge: String,
    settings: Vec<(&'static str, String)>,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let bin = dir.path().join("bin");
        for name in ["bin", "run", "disk", "backup"] {
            std::fs::create_dir(dir.path().join(name)).expect("a directory");
        }
        for (name, binary) in [
            ("arqon", env!("CARGO_BIN_EXE_arqon")),
            ("arqonbus", env!("CARGO_BIN_EXE_arqonbus")),
            ("logdump", env!("CARGO_BIN_EXE_logdump")),
        ] {
            symlink(binary, bin.join(name)).expect("a link");
        }
        let service = bin.join("systemctl");
        write(&service, SERVICE.as_bytes());
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&service, mode).expect("a mode");
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let edge = free.local_addr().expect("an address").to_string();
        Self {
            dir,
            edge,
            settings: Vec::new(),
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn data(&self) -> PathBuf {
        self.at("disk/data")
    }

    /// Runs `script` to success; what it says.
    fn run(&self, script: &str) -> String {
        let token = std::fs::read_to_string(self.data().join("dev-token")).unwrap_or_default();
        let path = std::env::var("PATH").unwrap_or_default();
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", script])
            .env_clear()
            .env("PATH", format!("{}:{path}", self.at("bin").display()))
            .env("DATA", self.data())
            .env("BACKUP", self.at("backup"))
            .env("KEYS", self.at("master.keys"))
            .env("RUN", self.at("run"))
            .env("EDGE", &self.edge)
            .env("ARQON_URL", format!("ws://{}/v1/ws", self.edge))
            .env("ARQON_TOKEN", token)
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .output()
            .expect("bash starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(
            output.status.success(),
            "{script}\n--- printed\n{stdout}\n--- said\n{stderr}"
        );
        stdout
    }

    fn with_earthquakes(self) -> Self {
        self.run("systemctl start arqonbus");
        let file = earthquakes();
        self.run(&format!(
            "arqon produce usgs.quake --file {} --key-field id",
            file.display()
        ));
        self
    }
}

impl Machine {
    fn kill(&self) {
        let pid = std::fs::read_to_string(self.at("run/pid"));
        let Ok(pid) = pid else { return };
        drop(Command::new("kill").args(["-KILL", pid.trim()]).status());
        // It is nobody's child, so it is gone when it says no more of itself.
        let state = format!("/proc/{}/status", pid.trim());
        while std::fs::read_to_string(&state).is_ok_and(|text| !text.contains("State:\tZ")) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Kills the node of a machine before its disk goes.
struct Ended<'a>(&'a Machine);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.kill();
    }
}

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runbook.md");
    std::fs::read_to_string(path).expect("the runbook")
}

/// The commands of the page about `scenario`.
fn page(scenario: &str) -> String {
    let document = document();
    let mark = format!("<!-- scenario: {scenario} -->");
    let (_, rest) = document.split_once(&mark).expect("a page about it");
    let rest = rest.split("\n## ").next().unwrap_or_default();
    let mut script = String::new();
    let mut inside = false;
    for line in rest.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            command if inside => {
                script.push_str(command);
                script.push('\n');
            }
            _ => {}
        }
    }
    assert!(!script.is_empty(), "no commands about {scenario}");
    script
}

// TOOL-12
#[test]
fn every_page_of_the_runbook_is_run() {
    let document = document();
    let pages: Vec<_> = document
        .split("<!-- scenario: ")
        .skip(1)
        .filter_map(|rest| rest.split(" -->").next())
        .collect();
    assert_eq!(
        pages,
        [
            "full", "damaged", "power", "restore", "keys", "tls", "move", "migrate", "postgres",
            "lag", "rebuild", "another", "valkey", "embedded", "tenant", "group", "webhook",
            "letters"
        ]
    );
    let headings = document.lines().filter(|line| line.starts_with("## "));
    assert_eq!(headings.count(), pages.len(), "a page without a scenario");
}

// LOG-06, TOOL-12
#[test]
fn runbook_page_about_a_full_disk() {
    let machine = Machine::new();
    let disk = machine.at("disk");
    let Some(small) = SmallDisk::mounted_at(&disk) else {
        assert!(
            !rustix::process::geteuid().is_root(),
            "root cannot mount a tmpfs here"
        );
        return;
    };
    let ended = Ended(&machine);
    machine.run("systemctl start arqonbus");
    machine.run("arqon reality create scratch");
    let lines = format!("\"{}\"\n", "x".repeat(1000)).repeat(1000);
    write(&machine.at("lines"), lines.as_bytes());
    let lines = machine.at("lines");
    machine.run(&format!(
        "for _ in 1 2 3 4 5; do arqon produce fill --reality scratch --file {0}; done
         for _ in $(seq 40); do
           arqon produce fill --file {0} 2> \"$RUN/refused\" || exit 0
         done
         echo 'the disk does not fill up' >&2; exit 1",
        lines.display()
    ));
    machine.run(&page("full"));
    drop(ended);
    drop(small);
}

// LOG-03, LOG-08, LOG-16, TOOL-12
#[test]
fn runbook_page_about_a_damaged_segment() {
    let machine = Machine::new().with_earthquakes();
    machine.run("arqon backup \"$BACKUP/arqon\"; systemctl stop arqonbus");
    let segment = machine.data().join("dev/main/00000000000000000001.seg");
    let mut bytes = std::fs::read(&segment).expect("the first segment");
    for byte in &mut bytes[50_000..50_700] {
        *byte ^= 0x55;
    }
    write(&segment, &bytes);
    machine.run("systemctl start arqonbus");
    let before = machine.run("arqon replay '>' --from earliest --output json | wc -l || true");
    machine.run(&page("damaged"));
    let after = machine.run("arqon replay 'usgs.>' --from earliest --output json | wc -l || true");
    let count = |text: &str| text.trim().parse::<u64>().expect("a number");
    assert!(count(&after) > 1600 && count(&before) <= count(&after));
    assert!(count(&after) < 1707, "nothing was damaged");
    let quarantined = machine.run("ls \"$DATA/dev/main\" | grep -c quarantine");
    assert!(count(&quarantined) >= 1);
}

// LOG-03, LOG-04, TOOL-12
#[test]
fn runbook_page_about_power_loss() {
    let machine = Machine::new().with_earthquakes();
    machine.run("systemctl kill arqonbus");
    let said = machine.run(&page("power"));
    assert!(said.contains("loss-"), "{said}");
    assert!(said.contains("durable_through"), "{said}");
}

// LOG-16, TOOL-12
#[test]
fn runbook_page_about_restoring() {
    let machine = Machine::new().with_earthquakes();
    machine.run(&page("restore"));
    let records = machine.run("arqon replay '>' --from earliest --output json | wc -l");
    assert_eq!(records.trim(), "1707");
}

// LOG-14, TOOL-12
#[test]
fn runbook_page_about_keys() {
    let mut machine = Machine::new();
    let keys = machine.at("master.keys").display().to_string();
    machine.settings = vec![
        ("ARQONBUS_LOG__ENCRYPT", "true".to_owned()),
        ("ARQONBUS_LOG__MASTER_KEY_FILE", keys),
    ];
    machine.run("(umask 077; arqonbus keygen 2026-01 > \"$KEYS\")");
    let machine = machine.with_earthquakes();
    machine.run(&page("keys"));
    let records = machine.run("arqon replay 'usgs.>' --from earliest --output json | wc -l");
    assert_eq!(records.trim(), "1707");
}

// EDGE-08, TOOL-12
#[test]
fn runbook_page_about_tls() {
    let authority = Authority::new();
    let files = authority.server("node");
    authority.server("new");
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let ops = free.local_addr().expect("an address").to_string();
    drop(free);
    let mut machine = Machine::new();
    machine.settings = vec![
        ("ARQONBUS_EDGE__TLS_CERTIFICATE", text(&files.certificate)),
        ("ARQONBUS_EDGE__TLS_KEY", text(&files.key)),
        ("ARQON_URL", format!("wss://{}/v1/ws", machine.edge)),
        ("ARQON_CA", text(&authority.ca())),
        ("TLS", text(authority.directory())),
        ("OPS_ADDRESS", ops.clone()),
        ("OPS", format!("http://{ops}")),
    ];
    machine.run("systemctl start arqonbus");
    let said = machine.run(&page("tls"));
    assert!(said.contains("arqon_edge_tls_days_left"), "{said}");
}

// TOOL-12
#[test]
fn runbook_page_about_moving() {
    let machine = Machine::new().with_earthquakes();
    machine.run(&page("move"));
    let records = machine.run("arqon replay 'usgs.>' --from earliest --output json | wc -l");
    assert_eq!(records.trim(), "1707");
}

// TOOL-12
#[test]
fn runbook_page_about_a_group_that_stands_still() {
    let machine = Machine::new().with_earthquakes();
    machine.run("arqon consume 'usgs.>' --group triage --limit 5; arqon groups pause triage");
    let said = machine.run(&page("group"));
    assert!(
        said.contains("\"paused\":true"),
        "nothing stood still: {said}"
    );
    let done = machine.run(
        "for _ in $(seq 200); do
           arqon groups show triage --output json > \"$RUN/group\"
           if grep -q '\"lag\":0,' \"$RUN/group\"; then exit 0; fi
           sleep 0.05
         done
         cat \"$RUN/group\"",
    );
    assert_eq!(done, "", "there is work left");
}

// TOOL-12
#[test]
fn runbook_page_about_a_webhook_that_does_not_deliver() {
    let machine = Machine::new();
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let receiver = free.local_addr().expect("an address");
    drop(free);
    let secret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
    let listen = |rest: &str| {
        machine.run(&format!(
            "setsid arqon webhooks listen --listen {receiver} --secret {secret} {rest} 2>&1 &
             for _ in $(seq 200); do
               (exec 3<> /dev/tcp/{}/{}) 2> /dev/null && exit 0; sleep 0.05
             done
             exit 1",
            receiver.ip(),
            receiver.port()
        ))
    };
    machine.run("systemctl start arqonbus");
    machine.run(&format!(
        "arqon webhooks add http://{receiver}/ --topic 'orders.>' --name orders --secret {secret}"
    ));
    // Its receiver wants no more: the webhook is disabled, and what comes stays where it is.
    listen("--answer 410 --limit 1 > \"$RUN/gone\"");
    machine.run(
        "for n in 1 2; do echo \"{\\\"n\\\":$n}\" | arqon produce orders.new; done
         for _ in $(seq 200); do
           if arqon webhooks show orders --output json | grep -q '\"enabled\":false'; then exit 0; fi
           sleep 0.05
         done
         exit 1",
    );
    // The test event, the two that waited, and these once more.
    listen("--limit 5 > \"$RUN/told\"");
    let said = machine.run(&page("webhook"));
    assert!(said.contains("410 Gone"), "{said}");
    let told = machine.run(
        "for _ in $(seq 400); do
           if [[ $(grep -c '^verified' \"$RUN/told\") == 5 ]]; then break; fi
           sleep 0.05
         done
         cat \"$RUN/told\"",
    );
    assert_eq!(
        told.matches("\"n\":1}").count(),
        2,
        "once, and once more: {told}"
    );
    assert_eq!(told.matches("\"n\":2}").count(), 2, "{told}");
}

// TOOL-12
#[test]
fn runbook_page_about_dead_letters() {
    let machine = Machine::new();
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let nobody = free.local_addr().expect("an address");
    drop(free);
    machine.run("systemctl start arqonbus");
    machine.run(&format!(
        "arqon webhooks add http://{nobody}/ --topic 'orders.>' --name orders --max-attempts 1
         for n in 1 2 3; do echo \"{{\\\"n\\\":$n}}\" | arqon produce orders.new; done
         for _ in $(seq 200); do
           if arqon dlq list --output json | grep -q '\"open\":3'; then exit 0; fi
           sleep 0.05
         done
         exit 1"
    ));
    machine.run(&page("letters"));
    let again = machine.run("arqon consume 'orders.>' --stop-at-end --output json | wc -l");
    assert_eq!(again.trim(), "4", "three, and the one that was sent again");
    // The one that was sent again fails again, as long as its receiver is not there.
    let left = machine.run("arqon dlq list --output json");
    assert!(!left.contains("\"open\":3"), "{left}");
}

// OPS-02, TOOL-12
#[test]
fn a_task_that_is_replayed_from_its_letter_is_done() {
    let machine = Machine::new();
    machine.run("systemctl start arqonbus");
    let work = |exec: &str, then: &str| {
        machine.run(&format!(
            "arqon operators work --group upper --exec '{exec}' > \"$RUN/work\" 2>&1 & worker=$!
             for _ in $(seq 200); do
               if arqon operators list --output json | grep -q '\"ready\"'; then break; fi
               sleep 0.05
             done
             {then}
             kill $worker; wait $worker"
        ))
    };
    work(
        "exit 65",
        "arqon dispatch --group upper hello --wait 10s || true",
    );
    let told = work(
        "tr a-z A-Z",
        "arqon dlq replay upper --all
         for _ in $(seq 200); do
           arqon consume op.result.upper --stop-at-end > \"$RUN/results\"
           if grep -q HELLO \"$RUN/results\"; then break; fi
           sleep 0.05
         done
         cat \"$RUN/results\"; arqon dlq list upper",
    );
    assert!(told.contains("HELLO") && told.contains("none"), "{told}");
}

/// A machine whose node keeps its projections in servers beside it.
struct Station<'a> {
    machine: Machine,
    server: &'a Server,
    database: Database,
    valkey: Redis,
}

impl<'a> Station<'a> {
    fn new(server: &'a Server) -> Self {
        let database = server.database();
        let valkey = Redis::start();
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let ops = free.local_addr().expect("an address").to_string();
        drop(free);
        let mut machine = Machine::new();
        let host = server.host().to_str().expect("text");
        machine.settings = vec![
            ("ARQONBUS_POSTGRES_URL", database.url.clone()),
            ("ARQONBUS_VALKEY_URL", valkey.url()),
            ("DATABASE", database.name.clone()),
            ("OWNER", database.owner.clone()),
            ("PGHOST", host.to_owned()),
            ("PGPORT", server.port.to_string()),
            ("PGUSER", "postgres".to_owned()),
            ("OPS_ADDRESS", ops.clone()),
            ("OPS", format!("http://{ops}")),
        ];
        Self {
            machine,
            server,
            database,
            valkey,
        }
    }

    /// With `count` episodes of the tenant `dev`, and the node running.
    fn with_episodes(server: &'a Server, count: u32) -> Self {
        let station = Self::new(server);
        station.machine.run("systemctl start arqonbus");
        station.produce(0..count, "ram://1");
        for sink in ["postgres", "sled", "valkey"] {
            station.caught_up(sink);
        }
        assert_eq!(station.rows().lines().count(), count as usize);
        station
    }

    fn produce(&self, numbers: std::ops::Range<u32>, content: &str) {
        self.produce_for("dev", numbers, content, "");
    }

    fn produce_for(&self, tenant: &str, numbers: std::ops::Range<u32>, content: &str, with: &str) {
        let events: String = numbers
            .map(|number| {
                let event = serde_json::json!({
                    "event_id": format!("01J9ZQ6T2N8W4V5X6Y7Z8A{number:04}"),
                    "event_type": "episode.created", "tenant_id": tenant, "agent_id": "planner",
                    "episode_id": format!("01J9ZQ6T2N8W4V5X6Y7Z8B{number:04}"),
                    "source_ts": "2026-01-31T12:00:00Z", "schema_version": 1,
                    "payload": { "content_ref": content },
                });
                format!("{event}\n")
            })
            .collect();
        write(&self.machine.at("events"), events.as_bytes());
        let file = self.machine.at("events");
        let file = file.display();
        self.machine.run(&format!(
            "{with} arqon produce continuum.episode.v1 --file {file}"
        ));
    }

    fn caught_up(&self, sink: &str) {
        self.machine.run(&format!(
            "last=$(echo '{{}}' | arqon produce runbook.mark --output json | grep -o '[0-9]*' | tail -n 1)
             arqon projector wait \"$last\" --sink {sink} --timeout-ms 20000"
        ));
    }

    /// All rows of episodes, whoever's.
    fn rows(&self) -> String {
        self.rows_of(&self.database.name)
    }

    fn rows_of(&self, database: &str) -> String {
        let all = "SELECT * FROM arqonbus_continuum_projection ORDER BY tenant_id, episode_id";
        self.server.sql(database, all)
    }

    fn count(&self, sink: &str) -> usize {
        let rows = format!("arqon projector rows --sink {sink} --limit 1000 --output json");
        self.machine.run(&rows).lines().count()
    }
}

// PRJ-10, PRJ-12, PRJ-15, TOOL-12
#[test]
fn runbook_page_about_migrating() {
    // Not the one of all tests, which has the role already.
    let server = Server::start(&[]);
    let station = Station::new(&server);
    let said = station.machine.run(&page("migrate"));
    assert!(said.contains("pending: arqonbus migrate up"), "{said}");
    assert!(said.contains("up to date"), "{said}");
    assert!(said.contains("postgres.migrated"), "{said}");
    assert!(!said.contains("failed"), "{said}");
    assert_eq!(station.rows(), "");
}

// PRJ-12, PRJ-18, TOOL-12
#[test]
fn runbook_page_about_the_database_of_projections() {
    let station = Station::with_episodes(Server::of_all(), 60);
    let commands = page("postgres");
    let (backup, rest) = commands.split_once("createdb").expect("two parts");
    station.machine.run(backup);
    station.produce(60..90, "ram://2");
    station.caught_up("postgres");
    let before = station.rows();
    assert_eq!(before.lines().count(), 90);
    // What the backup does not have comes from the log again.
    station.server.sql(
        &station.database.name,
        "DELETE FROM arqonbus_continuum_projection",
    );
    station.machine.run(&format!("createdb{rest}"));
    assert_eq!(station.rows(), before);
}

// PRJ-04, PRJ-05, PRJ-09, TOOL-12
#[test]
fn runbook_page_about_a_projection_that_fails() {
    let mut station = Station::new(Server::of_all());
    let few = (
        "ARQONBUS_PROJECTIONS__POISON_PER_MINUTE_MAX",
        "2".to_owned(),
    );
    station.machine.settings.push(few);
    station.machine.run("systemctl start arqonbus");
    station.produce(0..20, "ram://1");
    station.produce(20..24, "");
    station.produce(24..30, "ram://1");
    station.machine.run(
        "for _ in $(seq 200); do
           halted=$(arqon projector status --output json | (grep -ow halted || true) | wc -l)
           if [[ $halted == 3 ]]; then exit 0; fi
           sleep 0.05
         done
         arqon projector status; exit 1",
    );
    let said = station.machine.run(&page("lag"));
    assert!(
        said.contains("halted") && said.contains("arqon_projection_state"),
        "{said}"
    );
    assert!(
        said.contains("still_failing") && said.contains("discarded"),
        "{said}"
    );
    station.caught_up("postgres");
    assert_eq!(station.rows().lines().count(), 26);
    let left = station
        .machine
        .run("arqon projector dlq list --output json");
    assert_eq!(left, "", "letters are left");
}

// PRJ-07, PRJ-18, TOOL-12
#[test]
fn runbook_page_about_rebuilding() {
    let station = Station::with_episodes(Server::of_all(), 60);
    let before = station.rows();
    station.server.sql(
        &station.database.name,
        "UPDATE arqonbus_continuum_projection SET content_ref = 'by hand'
          WHERE episode_id LIKE '%7'",
    );
    assert_ne!(station.rows(), before);
    let said = station.machine.run(&page("rebuild"));
    assert_eq!(said.matches("they differ").count(), 2, "{said}");
    assert_eq!(station.rows(), before);
}

// PRJ-07, PRJ-18, TOOL-12
#[test]
fn runbook_page_about_another_postgres() {
    let mut station = Station::with_episodes(Server::of_all(), 60);
    let new = station.server.database();
    station.machine.settings.push(("NEW", new.url.clone()));
    station.machine.run(&page("another"));
    assert_eq!(station.rows_of(&new.name), station.rows());
    assert_eq!(station.rows().lines().count(), 60);
}

// PRJ-11, PRJ-13, TOOL-12
#[test]
fn runbook_page_about_valkey() {
    let mut station = Station::with_episodes(Server::of_all(), 20);
    let keys = station.valkey.keys();
    assert!(keys.len() > 20, "{keys:?}");
    station.valkey.restart();
    assert_eq!(station.valkey.keys(), [""; 0]);
    station.machine.run(&page("valkey"));
    assert_eq!(station.valkey.keys(), keys);
}

// PRJ-07, TOOL-12
#[test]
fn runbook_page_about_embedded_tables() {
    let station = Station::with_episodes(Server::of_all(), 20);
    let tables = "arqon projector rows --sink sled --limit 1000 --output json";
    let before = station.machine.run(tables);
    assert_eq!(before.lines().count(), 20);
    station.machine.run(&page("embedded"));
    assert_eq!(station.machine.run(tables), before);
}

// LOG-13, PRJ-10, TOOL-12
#[test]
fn runbook_page_about_a_tenant() {
    let mut station = Station::with_episodes(Server::of_all(), 20);
    let token = "ARQON_TOKEN=$(arqon token mint --secret-file \"$DATA/dev-secret\" --tenant gone --sub bot --role admin)";
    station.produce_for("gone", 0..10, "ram://1", token);
    station.machine.run(&format!(
        "export {token}
         for sink in sled postgres valkey; do
           arqon projector wait 10 --sink $sink --timeout-ms 20000
         done"
    ));
    assert_eq!(station.rows().lines().count(), 30);
    let of_it = |station: &Station<'_>| {
        let keys = station.valkey.keys();
        keys.iter().filter(|key| key.contains("gone")).count()
    };
    assert!(of_it(&station) >= 10);
    station.machine.settings.push(("TENANT", "gone".to_owned()));
    station.machine.run(&page("tenant"));
    station.caught_up("sled");
    let rows = station.rows();
    assert!(
        !rows.contains("gone") && rows.lines().count() == 20,
        "{rows}"
    );
    assert_eq!(of_it(&station), 0);
    assert_eq!(station.count("sled"), 20);
    let left = station.machine.run(&format!(
        "export {token}; arqon projector rows --sink sled --output json"
    ));
    assert_eq!(left, "");
}

// EDGE-16
#[test]
fn every_command_about_policies_is_run() {
    let machine = Machine::new();
    machine.run("systemctl start arqonbus");
    machine.run("printf '{\"text\":\"%s\"}\\n' hello malware good | arqon produce chat.lobby");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/policies.md");
    let document = std::fs::read_to_string(path).expect("the page");
    let commands: Vec<&str> = document
        .lines()
        .filter_map(|line| line.strip_prefix("$ "))
        .collect();
    assert_eq!(commands.len(), document.matches("\n$ ").count());
    assert!(commands.len() >= 11, "{commands:?}");
    // What it calls a better policy is the reader's own.
    write(
        &machine.at("better.wat"),
        include_bytes!("../fixtures/policy/malware.wat"),
    );
    let mut said = Vec::new();
    for command in &commands {
        said.push((*command, machine.run(command)));
    }
    let of = |begins: &str| {
        let found = said.iter().find(|(command, _)| command.contains(begins));
        found.map(|(_, said)| said.as_str()).unwrap_or_default()
    };
    for (command, text) in [
        ("policy test", "passed"),
        ("policy run", "deny"),
        ("policy rehearse", "malware"),
        ("policy list", "no-malware"),
        ("policy show", "no-malware"),
    ] {
        assert!(of(command).contains(text), "{command}: {}", of(command));
    }
    // What the page ends with is in force.
    let refused =
        machine.run("printf '{\"text\":\"malware\"}\\n' | arqon produce chat.lobby 2>&1 || true");
    assert!(refused.contains("malware: not here"), "{refused}");
}

// OPS-11
#[test]
fn every_command_about_operators_in_webassembly_is_run() {
    let machine = Machine::new();
    machine.run("systemctl start arqonbus");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operators/wasm.md");
    let document = std::fs::read_to_string(path).expect("the page");
    let commands: Vec<&str> = document
        .lines()
        .filter_map(|line| line.strip_prefix("$ "))
        .collect();
    assert!(commands.len() >= 14, "{commands:?}");
    // What it calls a better operator is the reader's own.
    write(
        &machine.at("better.wat"),
        include_bytes!("../../examples/operators/count.wat"),
    );
    let mut listed = String::new();
    for command in &commands {
        let said = machine.run(command);
        let expected = match *command {
            "arqon wasm test count.wat --payload hello" => "out.seen",
            "arqon wasm list" => "working",
            "arqon wasm replay count --into again --verify" => "true",
            _ => "",
        };
        assert!(said.contains(expected), "{command}: {said}");
        listed.push_str(&said);
    }
    assert!(listed.contains("removed"), "{listed}");
}
