//! A PostgreSQL server from the system's packages, thrown away afterwards.
//!
//! Whoever holds it may stop it, kill it and start it again. A process beside it waits for the end
//! of the test, however it comes, and then stops the server and removes its directory.

use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::{OpenOptionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(60);

/// Stops the server in the directory `$0` and removes it, once nobody holds the other end of its
/// input. The directory stands in the server's command line, so that no other process is taken for
/// it.
const KEEPER: &str = r#"
cat >/dev/null
pid=$(head -n 1 "$0/data/postmaster.pid" 2>/dev/null)
left=200
while [ -n "$pid" ] && grep -aqs -- "$0" "/proc/$pid/cmdline" && [ $left -gt 0 ]; do
  [ $left -eq 200 ] && kill -QUIT "$pid"
  [ $left -eq 100 ] && kill -KILL "$pid"
  left=$((left - 1))
  sleep 0.05
done
[ -d "$0/small" ] && umount -l "$0/small"
rm -rf "$0"
"#;

/// A server.
#[derive(Debug)]
pub(crate) struct Server {
    bin: PathBuf,
    dir: PathBuf,
    pub(crate) port: u16,
    settings: Vec<String>,
    postmaster: Mutex<Option<Child>>,
    keeper: Child,
}

/// A database of its own, whose owner is a role of its own that is no superuser.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    pub(crate) name: String,
    pub(crate) owner: String,
    /// With the owner's password.
    pub(crate) url: String,
}

impl Server {
    /// The one that the tests of this program share. Nobody stops it.
    pub(crate) fn of_all() -> &'static Self {
        static SERVER: OnceLock<Server> = OnceLock::new();
        SERVER.get_or_init(|| {
            let server = Self::start(&["max_connections=100"]);
            server.sql("postgres", "CREATE ROLE arqonbus_reader NOLOGIN");
            server
        })
    }

    /// A new one, with settings as `name=value`.
    pub(crate) fn start(settings: &[&str]) -> Self {
        let bin = programs();
        let dir = tempfile::Builder::new()
            .prefix("arqonbus-postgres-")
            .tempdir()
            .expect("a temporary directory")
            .keep();
        if let Some((user, group)) = somebody_else() {
            chown(&dir, Some(user), Some(group)).expect("the directory becomes the server's");
        }
        let keeper = Command::new("sh")
            .args(["-c", KEEPER])
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("a shell");
        let made = as_server(&bin.join("initdb"))
            .args([
                "--username=postgres",
                "--auth-local=trust",
                "--no-instructions",
            ])
            .args([
                "--auth-host=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
            ])
            .arg("--no-sync")
            .arg(dir.join("data"))
            .output()
            .expect("initdb runs");
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "initdb: {said}");
        let server = Self {
            bin,
            port: free_port(),
            settings: settings.iter().map(|&setting| setting.to_owned()).collect(),
            dir,
            postmaster: Mutex::new(None),
            keeper,
        };
        server.start_again(&[]);
        server
    }

    /// Starts it after [`Self::stop`] or [`Self::kill`], with further settings.
    pub(crate) fn start_again(&self, settings: &[&str]) {
        let until = Instant::now() + PATIENCE;
        // After a kill, the processes that were left keep the memory for a moment.
        while !self.try_start(settings) {
            assert!(Instant::now() < until, "no server: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn try_start(&self, settings: &[&str]) -> bool {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("log"))
            .expect("its log");
        let mut command = as_server(&self.bin.join("postgres"));
        command.arg("-D").arg(self.dir.join("data"));
        command.arg("-k").arg(&self.dir);
        let port = format!("port={}", self.port);
        let fixed = ["listen_addresses=127.0.0.1", &port];
        let own = self.settings.iter().map(String::as_str);
        for setting in fixed.into_iter().chain(own).chain(settings.iter().copied()) {
            command.args(["-c", setting]);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("postgres starts");
        let pid_file = self.dir.join("data/postmaster.pid");
        let pid = child.id().to_string();
        while child.try_wait().expect("its state").is_none() {
            let text = std::fs::read_to_string(&pid_file).unwrap_or_default();
            let is_there = ["ready", "standby"].contains(&text.lines().last().unwrap_or("").trim());
            if text.lines().next() == Some(&pid) && is_there {
                *self.postmaster.lock().expect("unpoisoned") = Some(child);
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// Stops it as its keepers do: whoever is connected is cut off, and what they did not commit is
    /// undone.
    pub(crate) fn stop(&self) {
        self.end(Signal::INT);
    }

    /// Makes it a standby of nobody, which answers and takes no writes.
    pub(crate) fn follow(&self) {
        self.stop();
        let signal = std::fs::File::create(self.dir.join("data/standby.signal"));
        signal.expect("a file in its directory");
        self.start_again(&[]);
    }

    /// Where its socket is: how whoever keeps it reaches it.
    pub(crate) fn host(&self) -> &Path {
        &self.dir
    }

    /// Kills it. What was not on disk is lost.
    pub(crate) fn kill(&self) {
        let mut postmaster = self.postmaster.lock().expect("unpoisoned");
        let mut child = postmaster.take().expect("a server that runs");
        let processes = children(child.id());
        child.kill().expect("killed");
        for pid in processes {
            // One that is gone already is as good.
            let _gone = kill_process(pid, Signal::KILL);
        }
        child.wait().expect("it ends");
    }

    fn end(&self, signal: Signal) {
        let mut postmaster = self.postmaster.lock().expect("unpoisoned");
        let mut child = postmaster.take().expect("a server that runs");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("a pid");
        kill_process(pid, signal).expect("signalled");
        child.wait().expect("it ends");
    }

    /// What `statements` answer, run by a superuser: a line for each row.
    pub(crate) fn sql(&self, database: &str, statements: &str) -> String {
        self.try_sql(database, statements)
            .unwrap_or_else(|said| panic!("{statements}: {said}"))
    }

    /// The same, or what the server said.
    pub(crate) fn try_sql(&self, database: &str, statements: &str) -> Result<String, String> {
        let mut command = self.psql("postgres", database, statements);
        answered(command.arg("-h").arg(&self.dir))
    }

    /// The same in a session that takes its time, for a thread of its own.
    pub(crate) fn session(
        &self,
        database: &str,
        statements: &str,
    ) -> impl FnOnce() -> Result<String, String> + Send + 'static {
        let mut command = self.psql("postgres", database, statements);
        command.arg("-h").arg(&self.dir);
        move || answered(&mut command)
    }

    /// The same by another role.
    pub(crate) fn try_sql_as(
        &self,
        database: &str,
        role: &str,
        password: &str,
        statements: &str,
    ) -> Result<String, String> {
        let mut command = self.psql(role, database, statements);
        answered(
            command
                .args(["-h", "127.0.0.1"])
                .env("PGPASSWORD", password),
        )
    }

    fn psql(&self, role: &str, database: &str, statements: &str) -> Command {
        let mut command = Command::new(self.bin.join("psql"));
        command
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1"])
            .args(["-U", role, "-d", database])
            .args(["-p", &self.port.to_string(), "-c", statements])
            .env_remove("PGOPTIONS")
            .stdin(Stdio::null());
        command
    }

    /// A new database.
    pub(crate) fn database(&self) -> Database {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let (name, owner) = (format!("test_{number}"), format!("owner_{number}"));
        self.sql(
            "postgres",
            &format!("CREATE ROLE {owner} LOGIN NOCREATEROLE PASSWORD 'first'"),
        );
        self.sql("postgres", &format!("CREATE DATABASE {name} OWNER {owner}"));
        let url = self.url(&owner, "first", &name);
        Database { name, owner, url }
    }

    /// How a role reaches a database.
    pub(crate) fn url(&self, role: &str, password: &str, database: &str) -> String {
        let port = self.port;
        format!("postgres://{role}:{password}@127.0.0.1:{port}/{database}?sslmode=disable")
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Runs a script of bash as whoever keeps the server would, with its programs.
    pub(crate) fn script(&self, script: &str, variables: &[(&str, &str)]) {
        let path = std::env::var("PATH").unwrap_or_default();
        let answer = Command::new("bash")
            .args(["-euo", "pipefail", "-c", script])
            .env("PATH", format!("{}:{path}", self.bin.display()))
            .env("PGHOST", &self.dir)
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .output()
            .expect("bash runs");
        let said = String::from_utf8_lossy(&answer.stderr);
        assert!(answer.status.success(), "{script}\n{said}");
    }

    /// A file that it alone can read.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.join(name);
        let mut file = std::fs::File::options()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .expect("a new file");
        file.write_all(text.as_bytes()).expect("written");
        if let Some((user, group)) = somebody_else() {
            chown(&path, Some(user), Some(group)).expect("the file becomes the server's");
        }
        path
    }

    /// A file system of a few mebibytes that it can write to, gone with it; `None` where nobody may
    /// mount one.
    pub(crate) fn small_disk(&self) -> Option<PathBuf> {
        let path = self.dir.join("small");
        std::fs::create_dir(&path).expect("a directory");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=6m", "tmpfs"])
            .arg(&path)
            .stderr(Stdio::null())
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            assert!(somebody_else().is_none(), "root cannot mount a tmpfs here");
            std::fs::remove_dir(&path).expect("removed");
            return None;
        }
        let (user, group) = somebody_else()?;
        chown(&path, Some(user), Some(group)).expect("the disk becomes the server's");
        Some(path)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let waited = self.keeper.wait();
        if let Ok(postmaster) = self.postmaster.get_mut()
            && let Some(mut child) = postmaster.take()
        {
            drop(child.wait());
        }
        drop(waited);
    }
}

/// The processes that a server has made.
fn children(postmaster: u32) -> Vec<Pid> {
    let path = format!("/proc/{postmaster}/task/{postmaster}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|pid| Pid::from_raw(pid.parse().ok()?))
        .collect()
}

fn answered(command: &mut Command) -> Result<String, String> {
    let answer = command.output().expect("psql runs");
    let text = |bytes| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if answer.status.success() {
        Ok(text(&answer.stdout))
    } else {
        Err(text(&answer.stderr))
    }
}

/// The newest installed server's programs.
fn programs() -> PathBuf {
    let installed = std::fs::read_dir("/usr/lib/postgresql");
    let versions = installed.into_iter().flatten().filter_map(Result::ok);
    let newest = versions
        .filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            let bin = entry.path().join("bin");
            bin.join("postgres").exists().then_some((version, bin))
        })
        .max();
    newest
        .expect("PostgreSQL is not installed: `tools/test install` installs it (Debian's package postgresql)")
        .1
}

/// The server refuses to run as root; its package brings a user for it.
fn somebody_else() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let mut fields = line
        .expect("the user postgres, which Debian's package makes: `tools/test install`")
        .split(':')
        .skip(2)
        .map(|field| field.parse().expect("a number"));
    Some((fields.next()?, fields.next()?))
}

fn as_server(program: &Path) -> Command {
    let mut command = Command::new(program);
    if let Some((user, group)) = somebody_else() {
        command.uid(user).gid(group);
    }
    // What the machine that runs the tests has set must not decide what they see.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command.current_dir("/");
    command
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}
