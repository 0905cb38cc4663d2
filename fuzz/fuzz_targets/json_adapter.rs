//! libFuzzer's way into `fuzz/targets/json_adapter.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| arqonbus_fuzz::json_adapter::json_adapter(data));
