//! libFuzzer's way into `fuzz/targets/configuration.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| arqonbus_fuzz::configuration::config(data));
