//! A Python that has the packages of `tools/requirements.txt`, and how to run what needs it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Made in the cache when missing.
pub(crate) fn python() -> PathBuf {
    if let Some(chosen) = env::var_os("ARQONBUS_PYTHON").map(PathBuf::from)
        && has_packages(&chosen)
    {
        return chosen;
    }
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    let venv = cache
        .expect("HOME or XDG_CACHE_HOME is set")
        .join("arqonbus/python");
    let python = venv.join("bin/python");
    if !has_packages(&python) {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv));
        run(Command::new(&python)
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "-r",
            ])
            .arg(Path::new(ROOT).join("tools/requirements.txt")));
    }
    python
}

fn has_packages(python: &Path) -> bool {
    let check = Command::new(python)
        .args(["-c", "import google.protobuf, grpc_tools, websockets"])
        .output();
    check.is_ok_and(|output| output.status.success())
}

/// Runs to success; its standard output.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; tools/test installs it"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?} failed\n{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}
