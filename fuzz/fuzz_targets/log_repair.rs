//! libFuzzer's way into `fuzz/targets/log_repair.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| arqonbus_fuzz::log_repair::log_repair(data));
