//! Puts the layers of settings together: flags over environment over file over defaults.
//!
//! Owns where each value comes from and what is said when one is wrong; all that is wrong is said
//! at once. Must not know what a setting does.

use std::fmt;
use std::path::{Path, PathBuf};

use figment::providers::{Format as _, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::{Bound, Config, SECTIONS, SETTINGS, Setting};

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The table of settings.
    Default,
    /// A file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// A flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Variable(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// The settings in force, each with its origin.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// Origin of each of [`SETTINGS`], in that order.
    pub origins: Vec<Origin>,
    /// `ARQONBUS_*` variables that a container platform has made from the name of a service: not
    /// ours to refuse.
    pub ignored_variables: Vec<String>,
}

/// A value given on the command line.
#[derive(Clone, Debug)]
pub struct Flag {
    /// The flag as it is written, with its dashes.
    pub name: &'static str,
    /// The setting that it sets.
    pub key: &'static str,
    /// The value.
    pub value: String,
}

/// One thing that is wrong with a setting.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// No setting has this name.
    #[error("unknown setting {key} ({origin}){}", hint(.suggestion.as_deref()))]
    Unknown {
        /// The name given.
        key: String,
        /// Where.
        origin: Origin,
        /// The nearest name there is.
        suggestion: Option<String>,
    },
    /// Not what the setting may be.
    #[error("{key} = {found} ({origin}): {wanted}")]
    Value {
        /// The setting.
        key: String,
        /// Where it was set.
        origin: Origin,
        /// What was given.
        found: String,
        /// What is wanted.
        wanted: String,
    },
    /// Two settings contradict each other.
    #[error("{smaller} = {smaller_value} must not be more than {larger} = {larger_value}")]
    Contradiction {
        /// The setting that should be the smaller one.
        smaller: &'static str,
        /// Its value.
        smaller_value: u64,
        /// The setting that should be the larger one.
        larger: &'static str,
        /// Its value.
        larger_value: u64,
    },
}

fn hint(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(
        || "; `arqonbus config` lists all".to_owned(),
        |nearest| format!("; did you mean {nearest}?"),
    )
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the settings file {path}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("the settings file {path} is no TOML", path = path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<figment::Error>,
    },
    /// Settings are wrong.
    #[error("wrong settings:{}", problems.iter().map(|p| format!("\n  - {p}")).collect::<String>())]
    Settings {
        /// All of them.
        problems: Vec<Problem>,
    },
}

/// One value of one layer.
struct Given {
    key: String,
    origin: Origin,
    value: Value,
}

impl Provider for &Given {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.to_string())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let nested = figment::util::nest(&self.key, self.value.clone());
        let dict = nested.into_dict().unwrap_or_default();
        Ok(Profile::Default.collect(dict))
    }
}

/// Loads the settings. `file` must exist when it is given; `variables` is the environment.
///
/// # Errors
/// The file cannot be read, or settings are wrong: then all of them are named.
pub fn load(
    file: Option<&Path>,
    variables: impl IntoIterator<Item = (String, String)>,
    flags: &[Flag],
) -> Result<Loaded, Error> {
    let defaults = Figment::from(Serialized::defaults(Config::default()));
    let mut problems = Vec::new();
    let mut ignored_variables = Vec::new();
    let mut given = Vec::new();
    if let Some(path) = file {
        from_file(path, &mut given, &mut problems)?;
    }
    for (name, text) in variables {
        match variable(&defaults, name, &text) {
            Variable::Given(value) => given.push(value),
            Variable::Wrong(problem) => problems.push(problem),
            Variable::Ignored(name) => ignored_variables.push(name),
            Variable::NotOurs => {}
        }
    }
    for flag in flags {
        given.push(Given {
            key: flag.key.to_owned(),
            origin: Origin::Flag(flag.name),
            value: value_of(&defaults, flag.key, &flag.value),
        });
    }

    let figment = given.iter().fold(defaults, Figment::merge);
    let origins: Vec<Origin> = SETTINGS
        .iter()
        .map(|setting| origin_of(setting, &given))
        .collect();
    for (setting, origin) in SETTINGS.iter().zip(&origins) {
        problems.extend(out_of_bounds(&figment, setting, origin));
    }
    if !problems.is_empty() {
        return Err(Error::Settings { problems });
    }
    let mut config: Config = figment.extract().map_err(|error| Error::Settings {
        problems: error
            .into_iter()
            .map(|e| wrong_type(&e, &origins))
            .collect(),
    })?;
    if let Some(dir) = file.and_then(Path::parent) {
        anchor_paths(&mut config, &origins, dir);
    }
    let mut problems = contradictions(&config);
    problems.extend(super::projections::problems(&config, &origins));
    if !problems.is_empty() {
        return Err(Error::Settings { problems });
    }
    Ok(Loaded {
        config,
        origins,
        ignored_variables,
    })
}

fn from_file(
    path: &Path,
    given: &mut Vec<Given>,
    problems: &mut Vec<Problem>,
) -> Result<(), Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })?;
    let sections: Dict = Toml::from_str(&text)
        .map_err(|source| figment::Error::from(source.to_string()))
        .map_err(|source| Error::Syntax {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
    let origin = Origin::File(path.to_owned());
    for (section, value) in sections {
        let Some(names) = value.into_dict().filter(|_| is_section(&section)) else {
            problems.push(unknown(section, origin.clone()));
            continue;
        };
        for (name, value) in names {
            let key = format!("{section}.{name}");
            if SETTINGS
                .iter()
                .any(|s| s.section == section && s.name == name)
            {
                given.push(Given {
                    key,
                    origin: origin.clone(),
                    value,
                });
            } else {
                problems.push(unknown(key, origin.clone()));
            }
        }
    }
    Ok(())
}

enum Variable {
    Given(Given),
    Wrong(Problem),
    Ignored(String),
    NotOurs,
}

/// `ARQONBUS_SECTION_NAME` and `ARQONBUS_SECTION__NAME` mean the same.
fn variable(defaults: &Figment, name: String, text: &str) -> Variable {
    let Some(rest) = name.strip_prefix("ARQONBUS_").map(str::to_lowercase) else {
        return Variable::NotOurs;
    };
    let named = SETTINGS.iter().find(|setting| {
        rest.strip_prefix(setting.section).is_some_and(|rest| {
            rest.strip_prefix("__").or_else(|| rest.strip_prefix('_')) == Some(setting.name)
        })
    });
    if let Some(setting) = named {
        let key = setting.key();
        let value = value_of(defaults, &key, text);
        return Variable::Given(Given {
            key,
            origin: Origin::Variable(name),
            value,
        });
    }
    if OF_SCRIPTS.contains(&rest.as_str()) || name == super::MASTER_KEYS_VARIABLE {
        return Variable::NotOurs;
    }
    if is_made_by_platform(&rest, text) {
        return Variable::Ignored(name);
    }
    let key = match rest.split_once('_') {
        Some((section, in_section)) => format!("{section}.{}", in_section.trim_start_matches('_')),
        None => rest,
    };
    Variable::Wrong(unknown(key, Origin::Variable(name)))
}

/// Variables of the scripts, tests and benches, which may be set where a node is started.
const OF_SCRIPTS: [&str; 8] = [
    "bench_dir",
    "kill_rounds",
    "profile",
    "python",
    "seed",
    "seeds",
    "target_dir",
    "write_golden",
];

/// Whether a container platform makes such a variable for a service whose name begins with
/// `arqonbus`: `ARQONBUS_SERVICE_HOST`, `ARQONBUS_PORT=tcp://..`, `ARQONBUS_PORT_9100_TCP_ADDR`.
fn is_made_by_platform(rest: &str, text: &str) -> bool {
    let is_link = |(_, port): (&str, &str)| {
        let mut parts = port.split('_');
        parts
            .next()
            .is_some_and(|digits| digits.parse::<u16>().is_ok())
            && parts
                .next()
                .is_some_and(|protocol| ["tcp", "udp", "sctp"].contains(&protocol))
    };
    let rest = format!("_{rest}");
    rest.ends_with("_service_host")
        || rest.ends_with("_service_port")
        || rest.contains("_service_port_")
        || (rest.ends_with("_port") && text.contains("://"))
        || rest.split_once("_port_").is_some_and(is_link)
}

/// A text for what is a text by default, else what the text says: a number, a list, a table.
fn value_of(defaults: &Figment, key: &str, text: &str) -> Value {
    match defaults.find_value(key) {
        Ok(Value::String(..) | Value::Empty(..)) => Value::from(text),
        // The parser of variables panics over escapes after letters beyond ASCII; TOML has the
        // same escapes.
        Ok(_) | Err(_) if text.contains('\\') && !text.is_ascii() => {
            let named = Toml::from_str::<Dict>(&format!("value = {text}"));
            let value = named.ok().and_then(|mut named| named.remove("value"));
            value.unwrap_or_else(|| Value::from(text))
        }
        Ok(_) | Err(_) => text
            .parse()
            .unwrap_or_else(|_: std::convert::Infallible| Value::from(text)),
    }
}

fn is_section(name: &str) -> bool {
    SECTIONS.iter().any(|(section, _)| *section == name)
}

fn unknown(key: String, origin: Origin) -> Problem {
    let names = SETTINGS.iter().map(Setting::key);
    let sections = SECTIONS.iter().map(|(section, _)| (*section).to_owned());
    let suggestion = names
        .chain(sections)
        .map(|name| (strsim::jaro_winkler(&key, &name), name))
        .filter(|(similarity, _)| *similarity > 0.85)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name);
    Problem::Unknown {
        key,
        origin,
        suggestion,
    }
}

fn origin_of(setting: &Setting, given: &[Given]) -> Origin {
    let key = setting.key();
    let last = given.iter().rev().find(|value| value.key == key);
    last.map_or(Origin::Default, |value| value.origin.clone())
}

fn out_of_bounds(figment: &Figment, setting: &Setting, origin: &Origin) -> Option<Problem> {
    let key = setting.key();
    let value = figment.find_value(&key).ok()?;
    let fits = match setting.bound {
        Bound::Within(first, last) => {
            let number = value
                .to_u128()
                .or_else(|| u128::try_from(value.to_i128()?).ok());
            number.is_some_and(|n| (u128::from(first)..=u128::from(last)).contains(&n))
        }
        Bound::OneOf(words) => value.as_str().is_some_and(|word| words.contains(&word)),
        Bound::Any(_) => true,
    };
    (!fits).then(|| Problem::Value {
        key,
        origin: origin.clone(),
        found: super::listing::shown(&value),
        wanted: format!("must be {}", setting.bound),
    })
}

fn wrong_type(error: &figment::Error, origins: &[Origin]) -> Problem {
    let at = SETTINGS.iter().position(|setting| {
        error
            .path
            .first()
            .is_some_and(|section| section == setting.section)
            && error.path.get(1).is_some_and(|name| name == setting.name)
    });
    Problem::Value {
        key: written(&error.path),
        origin: at
            .and_then(|at| origins.get(at))
            .cloned()
            .unwrap_or(Origin::Default),
        found: "?".to_owned(),
        wanted: error.kind.to_string(),
    }
}

/// A path as it is written: `projections.own[0].columns[1].type`.
fn written(path: &[String]) -> String {
    let mut text = String::new();
    for part in path {
        if part.bytes().all(|byte| byte.is_ascii_digit()) {
            text.push('[');
            text.push_str(part);
            text.push(']');
        } else {
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(part);
        }
    }
    text
}

/// A relative path in a file is meant from where the file is.
fn anchor_paths(config: &mut Config, origins: &[Origin], dir: &Path) {
    let in_file = |key: &str| {
        let mut settings = SETTINGS.iter().zip(origins);
        settings.any(|(s, origin)| s.key() == key && matches!(origin, Origin::File(_)))
    };
    if in_file("node.data_dir") {
        config.node.data_dir = config.node.data_dir.take().map(|path| dir.join(path));
    }
    for (key, file) in [
        ("log.master_key_file", &mut config.log.master_key_file),
        ("edge.tls_certificate", &mut config.edge.tls_certificate),
        ("edge.tls_key", &mut config.edge.tls_key),
        ("edge.client_ca", &mut config.edge.client_ca),
        ("postgres.ca", &mut config.postgres.ca),
        ("valkey.ca", &mut config.valkey.ca),
    ] {
        if in_file(key) {
            *file = file.take().map(|path| dir.join(path));
        }
    }
    if in_file("policy.files") {
        for policy in &mut config.policy.files {
            policy.file = dir.join(&policy.file);
        }
    }
    if in_file("auth.keys") {
        for key in &mut config.auth.keys {
            key.file = key.file.take().map(|path| dir.join(path));
        }
    }
    if in_file("auth.jwks") {
        for set in &mut config.auth.jwks {
            set.file = set.file.take().map(|path| dir.join(path));
            set.ca = set.ca.take().map(|path| dir.join(path));
        }
    }
    if in_file("schema.files") {
        for schema in &mut config.schema.files {
            schema.file = dir.join(&schema.file);
        }
    }
}

/// Whether settings that each are within their bounds fit together, as they have to when some were
/// taken over and others not.
///
/// # Errors
/// Which do not.
pub fn agree(config: &Config) -> Result<(), String> {
    match contradictions(config).first() {
        None => Ok(()),
        Some(problem) => Err(problem.to_string()),
    }
}

fn contradictions(config: &Config) -> Vec<Problem> {
    let limits = &config.limits;
    [
        (
            "log.segment_bytes_first",
            config.log.segment_bytes_first,
            "log.segment_bytes",
            config.log.segment_bytes,
        ),
        (
            "limits.envelope_bytes_max",
            limits.envelope_bytes_max as u64,
            "limits.message_bytes_max",
            limits.message_bytes_max as u64,
        ),
        (
            "limits.message_bytes_max",
            limits.message_bytes_max as u64,
            "limits.inflight_bytes_max",
            limits.inflight_bytes_max as u64,
        ),
        (
            "limits.tenant_sessions_max",
            limits.tenant_sessions_max as u64,
            "limits.sessions_max",
            limits.sessions_max as u64,
        ),
        (
            "limits.credit_bytes",
            limits.credit_bytes,
            "limits.credit_bytes_max",
            limits.credit_bytes_max,
        ),
        (
            "auth.jwks_cache_s",
            config.auth.jwks_cache_s,
            "auth.jwks_stale_s",
            config.auth.jwks_stale_s,
        ),
        (
            "projections.retry_min_ms",
            config.projections.retry_min_ms,
            "projections.retry_max_ms",
            config.projections.retry_max_ms,
        ),
    ]
    .into_iter()
    .filter(|(_, smaller, _, larger)| smaller > larger)
    .map(
        |(smaller, smaller_value, larger, larger_value)| Problem::Contradiction {
            smaller,
            smaller_value,
            larger,
            larger_value,
        },
    )
    .collect()
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Within(first, u64::MAX) => write!(f, "{first} or more"),
            Self::Within(first, last) => write!(f, "{first} to {last}"),
            Self::OneOf(words) => f.write_str(&words.join(" or ")),
            Self::Any(what) => f.write_str(what),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    fn origin(loaded: &Loaded, key: &str) -> Origin {
        let at = SETTINGS
            .iter()
            .position(|s| s.key() == key)
            .expect("a setting");
        loaded.origins[at].clone()
    }

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("arqonbus.toml");
        #[expect(
            clippy::disallowed_methods,
            reason = "a test's file need not survive a power cut"
        )]
        std::fs::write(&path, text).expect("a file");
        (dir, path)
    }

    #[test]
    fn a_later_layer_wins_and_is_named() {
        let (_dir, path) = file(
            "[edge]\nlisten = '127.0.0.1:1'\n[limits]\nheaders_max = 7\n[drain]\ndeadline_ms = 900\n",
        );
        let flags = [Flag {
            name: "--listen",
            key: "edge.listen",
            value: "127.0.0.1:3".into(),
        }];
        let variables = env(&[
            ("ARQONBUS_EDGE_LISTEN", "127.0.0.1:2"),
            ("ARQONBUS_LIMITS__HEADERS_MAX", "8"),
        ]);
        let loaded = load(Some(&path), variables, &flags).expect("settings");
        assert_eq!(loaded.config.edge.listen.0.port(), 3);
        assert_eq!(origin(&loaded, "edge.listen"), Origin::Flag("--listen"));
        assert_eq!(loaded.config.limits.headers_max, 8);
        assert_eq!(
            origin(&loaded, "limits.headers_max"),
            Origin::Variable("ARQONBUS_LIMITS__HEADERS_MAX".into())
        );
        assert_eq!(loaded.config.drain.deadline_ms, 900);
        assert_eq!(origin(&loaded, "drain.deadline_ms"), Origin::File(path));
        assert_eq!(origin(&loaded, "ops.listen"), Origin::Default);
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let (_dir, path) =
            file("[edge]\nlisten_adress = 1\n[lmits]\nx = 1\n[limits]\nheaders_max = -1\n");
        let variables = env(&[
            ("ARQONBUS_LOG_SEGMENT_BYTE", "1"),
            ("ARQONBUS_TRACE_FORMAT", "xml"),
        ]);
        let error = load(Some(&path), variables, &[])
            .expect_err("wrong settings")
            .to_string();
        for part in [
            "unknown setting edge.listen_adress",
            "did you mean edge.listen?",
            "unknown setting lmits",
            "did you mean limits?",
            "limits.headers_max = -1",
            "must be 0 to 1024",
            "ARQONBUS_LOG_SEGMENT_BYTE",
            "did you mean log.segment_bytes?",
            "trace.format = xml",
            "must be text or json",
        ] {
            assert!(error.contains(part), "{part:?} is missing in {error}");
        }
    }

    #[test]
    fn a_value_of_the_wrong_type_names_the_setting() {
        let error =
            load(None, env(&[("ARQONBUS_EDGE_LISTEN", "nowhere")]), &[]).expect_err("no address");
        let error = error.to_string();
        assert!(
            error.contains("edge.listen") && error.contains("ARQONBUS_EDGE_LISTEN"),
            "{error}"
        );
    }

    #[test]
    fn contradictions_are_refused() {
        let error = load(
            None,
            env(&[("ARQONBUS_LIMITS_ENVELOPE_BYTES_MAX", "9000000")]),
            &[],
        );
        let error = error.expect_err("larger than a message").to_string();
        assert!(
            error.contains("limits.envelope_bytes_max = 9000000"),
            "{error}"
        );
    }

    #[test]
    fn a_misspelt_section_in_the_environment_is_an_error() {
        for name in ["ARQONBUS_EGDE_LISTEN", "ARQONBUS_EGDE__LISTEN"] {
            let error = load(None, env(&[(name, "127.0.0.1:1")]), &[]);
            let error = error.expect_err("no such section").to_string();
            for part in [name, "did you mean edge.listen?"] {
                assert!(error.contains(part), "{part:?} is missing in {error}");
            }
        }
        for name in [
            "ARQONBUS_LISTEN",
            "ARQONBUS_EDGE",
            "ARQONBUS_",
            "ARQONBUS_PORT",
        ] {
            assert!(load(None, env(&[(name, "1")]), &[]).is_err(), "{name}");
        }
    }

    #[test]
    fn variables_of_scripts_and_platforms_are_no_settings() {
        let made = env(&[
            ("ARQONBUS_SERVICE_PORT", "9100"),
            ("ARQONBUS_SERVICE_PORT_EDGE", "9100"),
            ("ARQONBUS_EDGE_SERVICE_HOST", "10.0.0.1"),
            ("ARQONBUS_PORT", "tcp://10.0.0.1:9100"),
            ("ARQONBUS_EDGE_PORT_9100_TCP", "tcp://10.0.0.1:9100"),
            ("ARQONBUS_PORT_9100_TCP_ADDR", "10.0.0.1"),
        ]);
        let loaded = load(None, made.clone(), &[]).expect("settings");
        assert_eq!(loaded.ignored_variables.len(), made.len());
        let scripts = env(&[
            ("ARQONBUS_PYTHON", "python3"),
            ("ARQONBUS_TARGET_DIR", "/tmp/target"),
            ("ARQONBUS_PROFILE", "release"),
            ("ARQONBUS_SEEDS", "7"),
        ]);
        let loaded = load(None, scripts, &[]).expect("settings");
        assert!(loaded.ignored_variables.is_empty());
    }

    #[test]
    fn variables_of_others_are_ignored() {
        let variables = env(&[
            ("ARQONBUS_SERVICE_HOST", "10.0.0.1"),
            ("PATH", "/bin"),
            ("ARQONBUS_AUTH_ISSUER", "123"),
        ]);
        let loaded = load(None, variables, &[]).expect("settings");
        assert_eq!(loaded.ignored_variables, ["ARQONBUS_SERVICE_HOST"]);
        assert_eq!(loaded.config.auth.issuer, "123");
    }

    #[test]
    fn keys_come_from_the_file_and_from_the_environment() {
        let (dir, path) =
            file("[auth]\nkeys = [{ id = 'a', algorithm = 'EdDSA', file = 'a.pem' }]\n");
        let loaded = load(Some(&path), [], &[]).expect("settings");
        let file = loaded.config.auth.keys[0].file.as_deref();
        assert_eq!(file, Some(dir.path().join("a.pem").as_path()));
        let text = "[{id=b,algorithm=HS256,file=/b}]";
        let loaded = load(None, env(&[("ARQONBUS_AUTH_KEYS", text)]), &[]).expect("settings");
        assert_eq!(loaded.config.auth.keys[0].id, "b");
        let text = r#"[{id="é\tb",algorithm="HS256",file="/b"}]"#;
        let loaded = load(None, env(&[("ARQONBUS_AUTH_KEYS", text)]), &[]).expect("settings");
        assert_eq!(loaded.config.auth.keys[0].id, "é\tb");
        let text = "[{id=b,algorithm=none,file=/b}]";
        let error =
            load(None, env(&[("ARQONBUS_AUTH_KEYS", text)]), &[]).expect_err("no algorithm");
        assert!(error.to_string().contains("auth.keys"), "{error}");
    }
}
