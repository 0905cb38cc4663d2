//! libFuzzer's way into `fuzz/targets/log_directory.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| arqonbus_fuzz::log_directory::log_directory(data));
