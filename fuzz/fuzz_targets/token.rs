//! libFuzzer's way into `fuzz/targets/tokens.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| arqonbus_fuzz::tokens::token(data));
