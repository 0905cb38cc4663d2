//! How WebAssembly runs in a node, wherever it does: what a module may use of the language, and
//! what is said of one that is none.
//!
//! Owns the settings of the runtime (nothing that depends on the machine or the moment). Knows
//! neither what modules are for nor how long they may compute.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};
use wasmtime::wasmparser::{Encoding, Parser, Payload};
use wasmtime::{FuncType, OptLevel, Strategy, ValType};

/// SHA-256 of a module's bytes.
pub type Digest = [u8; 32];

/// Size of a module.
pub const MODULE_BYTES_MAX: usize = 2 << 20;
/// Functions of a module.
pub const FUNCTIONS_MAX: u32 = 5_000;
/// Elements of a module's table.
pub const TABLE_ELEMENTS_MAX: usize = 10_000;
/// Stack of a call.
pub const STACK_BYTES_MAX: usize = 256 << 10;

/// A function that a module has or wants: its name, what it takes, what it gives.
pub type Signature = (&'static str, &'static [ValType], &'static [ValType]);

/// Fewer proposals leave less to attack, and nothing that an answer could differ by.
#[must_use]
pub fn settings() -> wasmtime::Config {
    let mut config = wasmtime::Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .wasm_multi_memory(false)
        .wasm_memory64(false)
        .wasm_custom_page_sizes(false)
        .wasm_wide_arithmetic(false)
        .max_wasm_stack(STACK_BYTES_MAX)
        .wasm_backtrace_max_frames(None);
    config
}

/// The digest of a module.
#[must_use]
pub fn digest(wasm: &[u8]) -> Digest {
    Sha256::digest(wasm).into()
}

/// As people write it.
#[must_use]
pub fn hex(digest: &[u8]) -> String {
    let mut text = String::with_capacity(2 * digest.len());
    for byte in digest {
        // A String takes any text.
        let written = write!(text, "{byte:02x}");
        debug_assert!(written.is_ok(), "a string takes any text");
    }
    text
}

/// What can be said of the bytes before they are compiled: everything that is wrong with a `role`,
/// whose work belongs into the call named `first_call`.
///
/// # Errors
/// The one reason for which it is not worth looking further.
pub fn check_form(wasm: &[u8], role: &str, first_call: &str) -> Result<Vec<String>, String> {
    if wasm.len() > MODULE_BYTES_MAX {
        let found = wasm.len();
        return Err(format!(
            "has {found} bytes, over the limit of {MODULE_BYTES_MAX}; strip it, and build it for size"
        ));
    }
    if !wasm.starts_with(b"\0asm") {
        return Err(
            "is no WebAssembly binary: it does not begin with \\0asm; text must be assembled first"
                .to_owned(),
        );
    }
    let mut reasons = Vec::new();
    for payload in Parser::new(0).parse_all(wasm) {
        match payload {
            Ok(Payload::Version {
                encoding: Encoding::Component,
                ..
            }) => return Err(format!("is a component; {role} is a core module")),
            Ok(Payload::StartSection { .. }) => reasons.push(format!(
                "has a start function, which would run before anything limits it; do its work in {first_call}"
            )),
            Ok(Payload::CodeSectionStart { count, .. }) if count > FUNCTIONS_MAX => {
                return Err(format!(
                    "has {count} functions, over the limit of {FUNCTIONS_MAX}: compiling them would take too long"
                ));
            }
            Ok(_) => {}
            // The compiler says it better.
            Err(_) => break,
        }
    }
    Ok(reasons)
}

/// Whether a function takes and gives what it should.
#[must_use]
pub fn fits(found: &FuncType, (_, parameters, results): &Signature) -> bool {
    let same = |found: &[ValType], wanted: &[ValType]| {
        found.len() == wanted.len() && found.iter().zip(wanted).all(|(a, b)| ValType::eq(a, b))
    };
    let (takes, gives): (Vec<_>, Vec<_>) = (found.params().collect(), found.results().collect());
    same(&takes, parameters) && same(&gives, results)
}

/// A function as authors write it: `name(i32, i32) -> i64`.
#[must_use]
pub fn written((name, parameters, results): &Signature) -> String {
    let list = |types: &[ValType]| {
        let names: Vec<_> = types.iter().map(ToString::to_string).collect();
        names.join(", ")
    };
    match results.is_empty() {
        true => format!("{name}({})", list(parameters)),
        false => format!("{name}({}) -> {}", list(parameters), list(results)),
    }
}
