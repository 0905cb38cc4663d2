//! libFuzzer's way into `fuzz/targets/frames.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| arqonbus_fuzz::frames::client_frame(data));
