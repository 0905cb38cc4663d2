//! Starts nodes for tests and leaves nothing behind.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arqonbus::proto::claims::{Claims, Role};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use tempfile::TempDir;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running node; killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Node {
    child: Child,
    pub(crate) edge: SocketAddr,
    pub(crate) ops: SocketAddr,
    pub(crate) data: PathBuf,
    stderr: Option<JoinHandle<String>>,
    _dir: Option<TempDir>,
}

pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arqonbus"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // What the machine that runs the tests has set must not decide what they see.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ARQON") {
            command.env_remove(name);
        }
    }
    command
}

impl Node {
    /// In the development profile, on free ports.
    pub(crate) fn dev() -> Self {
        Self::dev_with(&[])
    }

    /// The same with settings from the environment.
    pub(crate) fn dev_with(settings: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = dir.path().join("data");
        let mut command = command(&[
            "serve",
            "--dev",
            "--listen",
            "127.0.0.1:0",
            "--ops",
            "127.0.0.1:0",
        ]);
        command
            .arg("--data")
            .arg(&data)
            .envs(settings.iter().copied());
        Self::started(command, data, Some(dir))
    }

    /// In the development profile, on a data directory that another node may have left.
    pub(crate) fn dev_on(data: &Path) -> Self {
        Self::dev_at(data, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// The same with settings from the environment.
    pub(crate) fn dev_on_with(data: &Path, settings: &[(&str, &str)]) -> Self {
        let mut command = command(&["serve", "--dev", "--ops", "127.0.0.1:0"]);
        command.args(["--listen", "127.0.0.1:0"]);
        command.arg("--data").arg(data);
        command.envs(settings.iter().copied());
        Self::started(command, data.to_owned(), None)
    }

    /// The same with a settings file, and more from the environment.
    pub(crate) fn configured(data: &Path, file: &Path, settings: &[(&str, &str)]) -> Self {
        let mut command = command(&["serve", "--dev", "--ops", "127.0.0.1:0"]);
        command.args(["--listen", "127.0.0.1:0"]);
        command.arg("--data").arg(data).arg("--config").arg(file);
        command.envs(settings.iter().copied());
        Self::started(command, data.to_owned(), None)
    }

    /// The same where clients of that other node look for it.
    pub(crate) fn dev_at(data: &Path, edge: SocketAddr) -> Self {
        Self::dev_at_with(data, edge, &[])
    }

    /// The same with settings from the environment.
    pub(crate) fn dev_at_with(data: &Path, edge: SocketAddr, settings: &[(&str, &str)]) -> Self {
        let mut command = command(&["serve", "--dev", "--ops", "127.0.0.1:0"]);
        command.arg("--listen").arg(edge.to_string());
        command.arg("--data").arg(data);
        command.envs(settings.iter().copied());
        Self::started(command, data.to_owned(), None)
    }

    /// In the production profile, with a settings file in `dir`, and projections without servers.
    pub(crate) fn production(dir: TempDir, settings: &str) -> Self {
        let embedded = ("ARQONBUS_PROJECTIONS__PRODUCTION", "embedded");
        Self::production_with(dir, settings, &[embedded])
    }

    /// The same with settings from the environment, and with the servers that production needs.
    pub(crate) fn production_with(
        dir: TempDir,
        settings: &str,
        environment: &[(&str, &str)],
    ) -> Self {
        let file = dir.path().join("arqonbus.toml");
        write(&file, settings.as_bytes());
        let mut command = command(&["serve", "--listen", "127.0.0.1:0", "--ops", "127.0.0.1:0"]);
        command.arg("--config").arg(&file);
        command.envs(environment.iter().copied());
        let data = dir.path().join("data");
        Self::started(command, data, Some(dir))
    }

    fn started(mut command: Command, data: PathBuf, dir: Option<TempDir>) -> Self {
        let mut child = command.spawn().expect("the node starts");
        let stderr = read_all(child.stderr.take().expect("a pipe"));
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        stdout.read_line(&mut line).expect("a line");
        // With TLS it says so, and the rest is the same.
        let line = line
            .replace("wss://", "ws://")
            .replace("https://", "http://");
        let address = |from: &str, to: char| {
            let rest = line.split_once(from).map(|(_, rest)| rest)?;
            rest.split(to).next()?.trim().parse().ok()
        };
        let (Some(edge), Some(ops)) = (address("edge=ws://", '/'), address("ops=http://", '\n'))
        else {
            drop(child.kill());
            panic!(
                "no ready line but {line:?}; {}",
                stderr.join().expect("its output")
            );
        };
        assert_eq!(
            line,
            format!("ready edge=ws://{edge}/v1/ws ops=http://{ops}\n")
        );
        Self {
            child,
            edge,
            ops,
            data,
            stderr: Some(stderr),
            _dir: dir,
        }
    }

    /// Of its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The admin token that the development profile writes.
    pub(crate) fn dev_token(&self) -> String {
        std::fs::read_to_string(self.data.join("dev-token")).expect("dev-token")
    }

    /// The secret that signs in the development profile.
    pub(crate) fn dev_secret(&self) -> Vec<u8> {
        std::fs::read(self.data.join("dev-secret")).expect("dev-secret")
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .status();
        assert!(status.expect("kill runs").success());
    }

    /// Waits for the end; the exit status and all of standard error.
    pub(crate) fn ended(mut self) -> (ExitStatus, String) {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a status") {
                break status;
            }
            assert!(started.elapsed() < PATIENCE, "the node does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        let stderr = self
            .stderr
            .take()
            .map(|thread| thread.join().expect("its output"));
        (status, stderr.unwrap_or_default())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn read_all(mut pipe: ChildStderr) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        pipe.read_to_string(&mut text).expect("text");
        text
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test's file need not survive a power cut"
)]
pub(crate) fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("a file");
}

pub(crate) fn now_s() -> u64 {
    use arqonbus::log::Clock as _;
    arqonbus::wall_clock::WallClock.now().as_millis() / 1000
}

/// Claims that every node of the tests accepts.
pub(crate) fn claims(tenant: &str, role: Role) -> Claims {
    Claims {
        iss: "arqonbus".into(),
        aud: vec!["arqonbus".into()],
        sub: "alice".into(),
        tenant: tenant.into(),
        role,
        exp: now_s() + 3600,
        iat: Some(now_s()),
        nbf: None,
        jti: None,
        publish: None,
        subscribe: None,
    }
}

pub(crate) fn signed(claims: &impl serde::Serialize, secret: &[u8]) -> String {
    let key = EncodingKey::from_secret(secret);
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key).expect("a token")
}
