//! libFuzzer's way into `fuzz/targets/index_file.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| arqonbus_fuzz::index_file::log_index(data));
