//! Target: the settings, from the text of a file and of environment variables.
//!
//! Either they load within their bounds, or everything that is wrong is named.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use arqonbus::config::layers::{Error, load};
use arqonbus::config::{Bound, SETTINGS};

/// The input is the file; behind a NUL follow lines `NAME=value` of the environment.
///
/// # Panics
/// Something does not hold.
pub fn config(data: &[u8]) {
    if could_ask_a_name_server(data) {
        return;
    }
    let mut parts = data.splitn(2, |&byte| byte == 0);
    let file = parts.next().unwrap_or_default();
    let environment = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let variables = environment.lines().filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    });
    let path = own_file();
    #[expect(clippy::disallowed_methods, reason = "read back at once, never kept")]
    std::fs::write(path, file).expect("a file of our own");
    match load(Some(path), variables, &[]) {
        Ok(loaded) => {
            assert_eq!(loaded.origins.len(), SETTINGS.len());
            let values = serde_json::to_value(&loaded.config).expect("settings have a text form");
            for setting in SETTINGS {
                let value = &values[setting.section][setting.name];
                let fits = match setting.bound {
                    Bound::Within(first, last) => {
                        value.as_u64().is_some_and(|n| (first..=last).contains(&n))
                    }
                    Bound::OneOf(words) => value.as_str().is_some_and(|word| words.contains(&word)),
                    Bound::Any(_) => true,
                };
                assert!(fits, "{} = {value}", setting.key());
            }
        }
        Err(Error::Settings { problems }) => {
            assert!(!problems.is_empty(), "refused without a reason");
            let named = problems
                .iter()
                .all(|problem| !problem.to_string().is_empty());
            assert!(named, "a problem without words");
        }
        Err(error @ (Error::Syntax { .. } | Error::File { .. })) => {
            assert!(!error.to_string().is_empty());
        }
    }
}

/// An address to listen on may be the name of a host, and a fuzzer has no business with a network:
/// such an input is left out unless every line about listening is beyond doubt.
fn could_ask_a_name_server(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data).to_lowercase();
    if text.contains("\\u") {
        return true;
    }
    text.lines()
        .filter(|line| line.contains("listen"))
        .any(|line| {
            let value = line.split_once('=').map_or("", |(_, value)| value.trim());
            let value = value.trim_matches('"');
            let is_open = value.contains(['"', '\'', '{', '=']);
            is_open || (value.contains(':') && value.parse::<SocketAddr>().is_err())
        })
        || text.contains("\"\"\"")
        || text.contains("'''")
}

/// One for each thread, so that tests beside each other do not meet in it; written again by every
/// input, and left in the temporary directory of the system.
fn own_file() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        std::env::temp_dir().join(format!("arqonbus-fuzz-{}.toml", std::process::id()))
    })
}
