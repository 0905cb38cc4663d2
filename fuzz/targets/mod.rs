//! What is fuzzed: functions from any bytes to a panic if something is wrong.
//!
//! The root of the crate that cargo-fuzz builds, and a module of `tests/fuzz`, which replays the
//! corpus and mutates it in every test run. Knows the public interface of the library and nothing
//! of who makes the bytes.

pub mod archive;
pub mod configuration;
pub mod descriptor_set;
pub mod disk;
pub mod frames;
pub mod index_file;
pub mod json_adapter;
pub mod log_directory;
pub mod log_repair;
pub mod opened;
pub mod policy_answer;
pub mod record_json;
pub mod tokens;
pub mod topic_filter;

/// A function that is fuzzed.
pub type Target = fn(&[u8]);

/// Every target, by the name of its folder under `fuzz/corpus` and of its file under
/// `fuzz/fuzz_targets`.
pub const ALL: [(&str, Target); 12] = [
    ("client_frame", frames::client_frame),
    ("server_frame", frames::server_frame),
    ("record_json", record_json::record_json),
    ("json_adapter", json_adapter::json_adapter),
    ("descriptors", descriptor_set::descriptors),
    ("policy_answer", policy_answer::policy_answer),
    ("log_directory", log_directory::log_directory),
    ("log_repair", log_repair::log_repair),
    ("log_index", index_file::log_index),
    ("topic_filter", topic_filter::topic_filter),
    ("config", configuration::config),
    ("token", tokens::token),
];
