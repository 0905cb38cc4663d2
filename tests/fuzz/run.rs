//! One test a target, so that they run beside each other.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, fs};

use crate::dice::Dice;
use crate::mutation::{self, Mutator};
use crate::seeds;
use crate::targets::{ALL, Target};

/// Far above what any input takes, also on a busy machine without optimisation.
const INPUT_TIME_MAX: Duration = Duration::from_secs(20);

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

pub(crate) fn number(variable: &str, default: u64) -> u64 {
    env::var(variable).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is no number"))
    })
}

/// The files of a folder by name; none if there is no such folder.
pub(crate) fn inputs(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("readable").path())
        .collect();
    paths.sort();
    let read = |path: PathBuf| {
        let bytes = fs::read(&path).expect("readable");
        (path, bytes)
    };
    paths.into_iter().map(read).collect()
}

/// Runs the target, and says how to repeat it if it fails.
fn attempt(name: &str, target: Target, input: &[u8], from: &str) {
    let started = Instant::now();
    let passed = catch_unwind(AssertUnwindSafe(|| target(input))).is_ok();
    let took = started.elapsed();
    if passed && took < INPUT_TIME_MAX {
        return;
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    fs::create_dir_all(&folder).expect("the build directory can be written");
    let path = folder.join(format!("{name}-{:08x}", crc32fast::hash(input)));
    #[expect(clippy::disallowed_methods, reason = "for a person to look at")]
    fs::write(&path, input).expect("the build directory can be written");
    let what = if passed { "took too long" } else { "failed" };
    panic!(
        "{name} {what} ({took:?}) on an input from {from}; to repeat it:\n  \
         ARQONBUS_FUZZ_INPUT={} cargo test --test fuzz {name}\n\
         once mended, keep it as fuzz/regressions/{name}/WHAT_WAS_WRONG",
        path.display()
    );
}

fn run(name: &str) {
    let target = ALL.iter().find(|(known, _)| *known == name);
    let (_, target) = *target.expect("a target");
    if let Some(path) = env::var_os("ARQONBUS_FUZZ_INPUT") {
        let input = fs::read(&path).expect("the input can be read");
        target(&input);
        return;
    }
    let mut corpus = inputs(&root().join("corpus").join(name));
    assert!(!corpus.is_empty(), "fuzz/corpus/{name} is empty");
    corpus.extend(inputs(&root().join("regressions").join(name)));
    for (path, input) in &corpus {
        attempt(name, target, input, &path.display().to_string());
    }

    let seed = number("ARQONBUS_FUZZ_SEED", 1);
    let lasts = Duration::from_secs(number("ARQONBUS_FUZZ_SECONDS", 2));
    let inputs = corpus.into_iter().map(|(_, input)| input).collect();
    let mut mutator = Mutator::new(Dice::new(seed), inputs, mutation::words(name));
    let began = Instant::now();
    let mut round = 0_u64;
    while began.elapsed() < lasts {
        round += 1;
        let input = mutator.next_input();
        attempt(
            name,
            target,
            &input,
            &format!("round {round} of seed {seed}"),
        );
    }
    assert!(round > 0, "no time for a single mutation");
}

// REL-05, MSG-16, REL-10: no frame of a client panics the node, or means two things.
#[test]
fn client_frame() {
    run("client_frame");
}

// REL-05, MSG-16: nor a frame of a node its clients.
#[test]
fn server_frame() {
    run("server_frame");
}

// REL-05, MSG-15: whatever a record holds, it is shown as one line of valid JSON.
#[test]
fn record_json() {
    run("record_json");
}

// REL-05: whatever a JSON client says is refused by name, or comes back as it was.
#[test]
fn json_adapter() {
    run("json_adapter");
}

// REL-05: descriptors are accepted or refused, and then used, without panic.
#[test]
fn descriptors() {
    run("descriptors");
}

// REL-05, EDGE-15: whatever a policy answers is refused, or a ruling within its bounds.
#[test]
fn policy_answer() {
    run("policy_answer");
}

// REL-05, LOG-20, LOG-03, REL-10: any directory is looked at and recovered without panic, as the
// forecast says; what is salvaged is intact; a log that takes writes keeps them.
#[test]
fn log_directory() {
    run("log_directory");
}

// REL-05, LOG-03: whatever is wrong with a log, a repair loses nothing that can be read, and leaves a
// log that takes writes.
#[test]
fn log_repair() {
    run("log_repair");
}

// REL-05, LOG-20: a wrong index brings up no wrong records.
#[test]
fn log_index() {
    run("log_index");
}

// REL-05, REL-06, BRK-01: filters agree with the plain rule.
#[test]
fn topic_filter() {
    run("topic_filter");
}

// REL-05: settings load within their bounds, or all that is wrong is named.
#[test]
fn config() {
    run("config");
}

// REL-05, EDGE-02: no token gets in without a good signature and good claims.
#[test]
fn token() {
    run("token");
}

// REL-05: each target has a corpus, a way into it for libFuzzer, and a test above.
#[test]
fn corpus_is_there_for_every_target() {
    if env::var_os("ARQONBUS_WRITE_CORPUS").is_some() {
        write_missing();
    }
    let names: BTreeSet<String> = ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    let folder = |folder: &str, end: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(root().join(folder)).expect("readable");
        let names = entries.map(|entry| entry.expect("readable").file_name());
        names
            .map(|name| name.into_string().expect("file names are UTF-8"))
            .map(|name| name.trim_end_matches(end).to_owned())
            .collect()
    };
    assert_eq!(folder("corpus", ""), names);
    assert_eq!(folder("fuzz_targets", ".rs"), names);
    assert!(folder("regressions", "").is_subset(&names));
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("readable");
    for name in &names {
        assert!(
            manifest.contains(&format!(
                "name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\""
            )),
            "{name} is not in fuzz/Cargo.toml"
        );
        let test = format!("fn {name}() {{\n    run(\"{name}\");");
        assert!(include_str!("run.rs").contains(&test), "{name} has no test");
    }
    let bytes: usize = names
        .iter()
        .flat_map(|name| inputs(&root().join("corpus").join(name)))
        .map(|(_, input)| input.len())
        .sum();
    assert!(bytes < 1 << 20, "the corpus has {bytes} bytes");
}

fn write_missing() {
    for (target, _) in ALL {
        let folder = root().join("corpus").join(target);
        fs::create_dir_all(&folder).expect("the source tree can be written");
        for (name, input) in seeds::of(target) {
            let path = folder.join(name);
            if !path.exists() {
                #[expect(clippy::disallowed_methods, reason = "a file of the source tree")]
                fs::write(path, input).expect("the source tree can be written");
            }
        }
    }
}
