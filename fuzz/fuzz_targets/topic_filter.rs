//! libFuzzer's way into `fuzz/targets/topic_filter.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| arqonbus_fuzz::topic_filter::topic_filter(data));
