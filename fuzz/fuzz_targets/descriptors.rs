//! libFuzzer's way into `fuzz/targets/descriptor_set.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| arqonbus_fuzz::descriptor_set::descriptors(data));
