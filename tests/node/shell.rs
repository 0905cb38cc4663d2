//! Runs `arqon` as a shell would.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;
use serde_json::value::RawValue;

use crate::support::Node;

pub(crate) const EVENTS: usize = 1707;

/// What a run left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A record as `--output json` prints it, with the payload's text untouched.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Printed {
    pub(crate) sequence: u64,
    pub(crate) topic: String,
    pub(crate) key: Option<String>,
    pub(crate) payload: Box<RawValue>,
    #[serde(flatten)]
    pub(crate) rest: HashMap<String, Value>,
}

pub(crate) fn earthquakes() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/earthquakes.ndjson")
}

pub(crate) fn earthquake_lines() -> Vec<String> {
    let text = std::fs::read_to_string(earthquakes()).expect("the fixture");
    text.lines().map(str::to_owned).collect()
}

/// `arqon`, with nothing around it but what is given.
pub(crate) fn arqon(url: &str, token: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arqon"));
    command
        .args(arguments)
        .env_clear()
        .env("ARQON_URL", url)
        .env("ARQON_TOKEN", token)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

pub(crate) fn finished(child: Child) -> Ran {
    let output = child.wait_with_output().expect("it ends");
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}

impl Node {
    pub(crate) fn url(&self) -> String {
        format!("ws://{}/v1/ws", self.edge)
    }

    pub(crate) fn arqon(&self, arguments: &[&str]) -> Command {
        arqon(&self.url(), &self.dev_token(), arguments)
    }

    /// Runs to the end, whatever that is.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        finished(self.arqon(arguments).spawn().expect("arqon starts"))
    }

    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &str) -> Ran {
        let mut child = self
            .arqon(arguments)
            .stdin(Stdio::piped())
            .spawn()
            .expect("arqon starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(input.as_bytes()).expect("it reads");
        drop(stdin);
        finished(child)
    }

    /// Runs to success; its standard output.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.stderr);
        ran.stdout
    }

    /// Runs to success with `--output json`; the records it prints.
    pub(crate) fn records(&self, arguments: &[&str]) -> Vec<Printed> {
        let arguments = [arguments, &["--output", "json"]].concat();
        let text = self.ok(&arguments);
        text.lines()
            .map(|line| serde_json::from_str(line).expect("a record"))
            .collect()
    }

    /// The sample data, on topic `usgs.quake`, keyed by event id.
    pub(crate) fn with_earthquakes(self) -> Self {
        let file = earthquakes();
        let file = file.to_str().expect("a path of text");
        let arguments = [
            "produce",
            "usgs.quake",
            "--file",
            file,
            "--key-field",
            "id",
            "--output",
            "json",
        ];
        let result: Value = serde_json::from_str(&self.ok(&arguments)).expect("one object");
        assert_eq!(
            result,
            serde_json::json!({"count": EVENTS, "first": 1, "last": EVENTS})
        );
        self
    }
}

/// A consumer that stays, and the records it prints.
pub(crate) fn follower(node: &Node, arguments: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let arguments = [arguments, &["--output", "json"]].concat();
    let mut child = node.arqon(&arguments).spawn().expect("arqon starts");
    let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    (child, stdout)
}

/// The next record it prints; waits for it.
pub(crate) fn next(stdout: &mut BufReader<ChildStdout>) -> Printed {
    let mut line = String::new();
    stdout.read_line(&mut line).expect("a line");
    serde_json::from_str(&line).expect("a record")
}
