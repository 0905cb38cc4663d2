//! libFuzzer's way into `fuzz/targets/policy_answer.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| arqonbus_fuzz::policy_answer::policy_answer(data));
