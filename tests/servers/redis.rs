//! A Redis server of the machine, for one test.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a server may take to come or go.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running server, which is killed when this goes.
pub(crate) struct Redis {
    directory: TempDir,
    port: u16,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Redis {
    /// One that keeps nothing on disk, and forgets all when it is killed.
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// One with further arguments of `redis-server`.
    pub(crate) fn with(arguments: &[&str]) -> Self {
        let mut server = Self {
            directory: tempfile::tempdir().expect("a directory"),
            port: free_port(),
            arguments: arguments.iter().map(|&text| text.to_owned()).collect(),
            child: None,
        };
        server.restart();
        server
    }

    /// Where its clients find it.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Where it keeps its files.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Kills it at once, as a loss of power would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it is ours to kill");
            child.wait().expect("it ends");
        }
    }

    /// Starts it again, with what it has on disk.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let mut command = Command::new("redis-server");
        command
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .args(["--repl-diskless-sync-delay", "0"])
            .arg("--dir")
            .arg(self.directory.path())
            .args(&self.arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn();
        self.child =
            Some(child.expect("redis-server is installed (Debian: apt-get install redis-server)"));
        let begin = Instant::now();
        while self.try_connect().is_err() {
            assert!(begin.elapsed() < PATIENCE, "redis-server does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn try_connect(&self) -> redis::RedisResult<redis::Connection> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(1))?;
        // What it refuses shows that it answers, unless it says that it will only later.
        match redis::cmd("PING").exec(&mut connection) {
            Err(error) if error.code().is_none_or(|code| code == "LOADING") => Err(error),
            _ => Ok(connection),
        }
    }

    /// A connection of the test itself.
    pub(crate) fn connection(&self) -> redis::Connection {
        self.try_connect().expect("the server answers")
    }

    /// Asks it something, by words.
    pub(crate) fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        let answer = command.query(&mut self.connection());
        answer.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// Changes one of its settings.
    pub(crate) fn set(&self, name: &str, value: &str) {
        self.ask::<()>(&["CONFIG", "SET", name, value]);
    }

    /// Makes it a replica of `primary`, which need not be there.
    pub(crate) fn follow(&self, primary: u16) {
        self.ask::<()>(&["REPLICAOF", "127.0.0.1", &primary.to_string()]);
    }

    /// Makes it a primary.
    pub(crate) fn lead(&self) {
        self.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
    }

    /// Cuts the connections of all clients but the one that asks for it.
    pub(crate) fn cut(&self) {
        self.ask::<i64>(&["CLIENT", "KILL", "TYPE", "normal"]);
    }

    /// All keys, in order.
    pub(crate) fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.ask(&["KEYS", "*"]);
        keys.sort();
        keys
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may be gone already; nothing is left to do about it.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// A port of loopback that nobody listens on now.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}
