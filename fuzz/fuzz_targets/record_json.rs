//! libFuzzer's way into `fuzz/targets/record_json.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| arqonbus_fuzz::record_json::record_json(data));
