//! The built `logdump` on the directories that `log_directory` fuzzes: whatever lies there, it
//! ends with an answer.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use arqonbus::log::segment;

use crate::dice::Dice;
use crate::mutation::{self, Mutator};
use crate::run::{self, inputs, number};
use crate::targets::archive;

/// Verbs with what stands before the path.
const VERBS: [&[&str]; 12] = [
    &["verify"],
    &["ls"],
    &["cat"],
    &["cat", "--output", "json"],
    &["cat", "--output", "hex"],
    &["stats"],
    &["index"],
    &["recover"],
    &["show", "3"],
    &["hexdump"],
    &["hexdump", "3"],
    &["grep", "payload"],
];

/// Puts the files of `input` into the empty directory `dir`; whether there is a segment.
fn lay_out(input: &[u8], dir: &Path) -> bool {
    let mut has_segment = false;
    for (path, bytes) in archive::unpack(input).files() {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.expect("file names are UTF-8");
        has_segment |= segment::base_of(name).is_some();
        #[expect(clippy::disallowed_methods, reason = "needs not survive a power cut")]
        fs::write(dir.join(name), bytes).expect("a temporary directory");
    }
    has_segment
}

fn look(dir: &Path, verb: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_logdump"));
    let output = command.args(verb).arg(dir).output();
    let output = output.expect("logdump runs");
    let text = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code();
    assert!(
        code.is_some_and(|code| code < 100) && !text.contains("panicked"),
        "{verb:?} ended with {:?}: {text}",
        output.status
    );
    assert!(
        code != Some(2),
        "{verb:?} is not how logdump is called: {text}"
    );
}

// LOG-20, REL-05: on any directory.
#[test]
fn logdump_never_panics() {
    let root = run::root();
    let mut corpus = inputs(&root.join("corpus/log_directory"));
    corpus.extend(inputs(&root.join("regressions/log_directory")));
    let corpus: Vec<Vec<u8>> = corpus.into_iter().map(|(_, input)| input).collect();
    let seed = number("ARQONBUS_FUZZ_SEED", 1);
    let lasts = Duration::from_secs(number("ARQONBUS_FUZZ_SECONDS", 2));
    let mut mutator = Mutator::new(
        Dice::new(seed),
        corpus.clone(),
        mutation::words("log_directory"),
    );
    let began = Instant::now();
    let mut waiting = corpus.into_iter();
    let mut verbs = VERBS.iter().cycle();
    for round in 0_u64.. {
        // The corpus first, then what comes of it.
        let input = match waiting.next() {
            Some(input) => input,
            None if began.elapsed() < lasts => mutator.next_input(),
            None => return,
        };
        let dir = tempfile::tempdir().expect("a temporary directory");
        if !lay_out(&input, dir.path()) {
            continue;
        }
        let verb = verbs.next().expect("a verb");
        let passed = std::panic::catch_unwind(|| look(dir.path(), verb)).is_ok();
        assert!(
            passed,
            "round {round} of seed {seed}, kept in {}",
            dir.keep().display()
        );
    }
}
