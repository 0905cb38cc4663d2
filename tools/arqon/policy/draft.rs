//! `arqon policy new`: a directory to begin with.

use std::io;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use crate::failure::Failure;
use crate::table;

/// A language of which there is a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Language {
    /// Rust without its standard library
    Rust,
    /// WebAssembly's own text form: nothing to compile
    Wat,
}

/// Begin a policy: source, test vectors, and how to build it
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  arqon policy new no-malware --lang wat")]
pub(super) struct New {
    /// Its name, which becomes that of the directory
    name: String,

    /// What it is written in
    #[arg(long, value_enum, default_value = "rust")]
    lang: Language,
}

/// A file of a template; `NAME` in it becomes the policy's name.
type File = (&'static str, &'static str);

const RUST: &[File] = &[
    ("Cargo.toml", include_str!("templates/rust/Cargo.toml.txt")),
    ("src/lib.rs", include_str!("templates/rust/src/lib.rs.txt")),
    ("src/abi.rs", include_str!("templates/rust/src/abi.rs.txt")),
    ("vectors.json", include_str!("templates/vectors.json")),
];
const WAT: &[File] = &[
    ("policy.wat", include_str!("templates/wat/policy.wat")),
    ("vectors.json", include_str!("templates/vectors.json")),
];

pub(super) fn run(new: &New) -> anyhow::Result<()> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let begins = new
        .name
        .starts_with(|first: char| first.is_ascii_lowercase());
    if !begins || !new.name.bytes().all(good) || new.name.len() > 64 {
        let text = format!(
            "{:?} cannot be a policy's name: it takes a-z 0-9 and -, begins with a letter, and has at most 64 of them",
            new.name
        );
        return Err(Failure::usage(text).into());
    }
    let directory = PathBuf::from(&new.name);
    let files = match new.lang {
        Language::Rust => RUST,
        Language::Wat => WAT,
    };
    if directory.exists() {
        let text = format!(
            "{} is there already; choose another name",
            directory.display()
        );
        return Err(Failure::usage(text).into());
    }
    for (path, text) in files {
        let path = directory.join(path);
        let text = text.replace("NAME", &new.name);
        let write = || -> io::Result<()> {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            write_new(&path, text.as_bytes())
        };
        write().with_context(|| format!("writing {}", path.display()))?;
    }
    let name = &new.name;
    let next = match new.lang {
        Language::Rust => format!(
            "Build and test it:\n  cargo build --release --target wasm32-unknown-unknown --manifest-path {name}/Cargo.toml\n  \
             arqon policy test {name}/target/wasm32-unknown-unknown/release/policy.wasm --vectors {name}/vectors.json\n\
             (the target is there after `rustup target add wasm32-unknown-unknown`)"
        ),
        Language::Wat => {
            format!("Test it:\n  arqon policy test {name}/policy.wat --vectors {name}/vectors.json")
        }
    };
    table::print_text(&format!("{name}/ is there. {next}"))
}

fn write_new(path: &std::path::Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)?;
    file.write_all(bytes)
}
