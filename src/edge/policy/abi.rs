//! Names and types of what passes between a policy and the host, and the check of a module against
//! them.
//!
//! Owns the contract of `docs/policy-abi.md`. Everything wrong with a module is said at once.

use wasmtime::{ExternType, ValType};

use super::limits::{Limits, TABLE_ELEMENTS_MAX};
use crate::broker::sandbox::{Signature, fits, written};

/// Module under which level 1 imports.
pub(super) const LEVEL_1: &str = "arqon";
/// Module under which level 0 imports.
pub(super) const LEVEL_0: &str = "env";
/// What `arqon_abi` must answer.
pub(super) const VERSION: i32 = 1;
/// Bytes of a page of linear memory.
const PAGE_BYTES: u64 = 64 << 10;

/// Which contract a module follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// `policy_check(ptr, len) -> i32`: allow or deny.
    Zero,
    /// `arqon_check(ctx_ptr, ctx_len, body_ptr, body_len) -> i64`: anything.
    One,
}

const I32: ValType = ValType::I32;
const I64: ValType = ValType::I64;

const IMPORTS_1: [Signature; 4] = [
    ("log", &[I32, I32, I32], &[]),
    ("tag", &[I32, I32], &[]),
    ("claim", &[I32, I32, I32, I32], &[I32]),
    ("header", &[I32, I32, I32, I32], &[I32]),
];
const IMPORTS_0: [Signature; 3] = [
    ("host_log", &[I32, I32, I32], &[I32]),
    ("host_get_header", &[I32, I32, I32], &[I32]),
    ("host_reject", &[I32, I32, I32], &[]),
];
const EXPORTS_1: [Signature; 3] = [
    ("arqon_abi", &[], &[I32]),
    ("arqon_alloc", &[I32], &[I32]),
    ("arqon_check", &[I32, I32, I32, I32], &[I64]),
];
const OPTIONAL_1: [Signature; 2] = [
    ("arqon_init", &[I32, I32], &[I32]),
    ("arqon_reset", &[], &[]),
];
const EXPORTS_0: [Signature; 1] = [("policy_check", &[I32, I32], &[I32])];

/// Which level a module follows, and everything that keeps it from it.
pub(super) fn check(module: &wasmtime::Module, limits: &Limits) -> (Level, Vec<String>) {
    let level = match module.get_export("arqon_check").is_none()
        && module.get_export("arqon_abi").is_none()
        && module.get_export("policy_check").is_some()
    {
        true => Level::Zero,
        false => Level::One,
    };
    let mut reasons = Vec::new();
    let (from, imports, exports, optional): (_, &[Signature], &[Signature], &[Signature]) =
        match level {
            Level::One => (LEVEL_1, &IMPORTS_1, &EXPORTS_1, &OPTIONAL_1),
            Level::Zero => (LEVEL_0, &IMPORTS_0, &EXPORTS_0, &[]),
        };
    check_imports(module, from, imports, &mut reasons);
    for signature in exports {
        check_export(module, signature, Need::Must, &mut reasons);
    }
    for signature in optional {
        check_export(module, signature, Need::May, &mut reasons);
    }
    check_memory(module, limits, &mut reasons);
    (level, reasons)
}

fn check_imports(
    module: &wasmtime::Module,
    from: &str,
    allowed: &[Signature],
    reasons: &mut Vec<String>,
) {
    for import in module.imports() {
        let shown = format!("{}.{}", import.module(), import.name());
        let known = allowed.iter().find(|known| known.0 == import.name());
        let known = known.filter(|_| import.module() == from);
        match (known, import.ty()) {
            (Some(known), ExternType::Func(found)) if fits(&found, known) => {}
            (Some(known), _) => {
                reasons.push(format!("imports {shown}, which must be {}", written(known)));
            }
            (None, _) if import.module().starts_with("wasi") => reasons.push(format!(
                "imports {shown}: a policy has no system to call; build it without WASI, for target wasm32-unknown-unknown"
            )),
            (None, _) => {
                let names: Vec<_> = allowed.iter().map(|(name, ..)| *name).collect();
                let names = names.join(", ");
                reasons.push(format!(
                    "imports {shown}, which there is not; there is {from}.{{{names}}}"
                ));
            }
        }
    }
}

enum Need {
    Must,
    May,
}

fn check_export(
    module: &wasmtime::Module,
    signature: &Signature,
    need: Need,
    reasons: &mut Vec<String>,
) {
    let name = signature.0;
    match (module.get_export(name), need) {
        (Some(ExternType::Func(found)), _) if fits(&found, signature) => {}
        (Some(_), _) => reasons.push(format!(
            "exports {name}, which must be {}",
            written(signature)
        )),
        (None, Need::Must) => reasons.push(format!("does not export {}", written(signature))),
        (None, Need::May) => {}
    }
}

fn check_memory(module: &wasmtime::Module, limits: &Limits, reasons: &mut Vec<String>) {
    match module.get_export("memory") {
        Some(ExternType::Memory(_)) => {}
        Some(_) => reasons.push("exports memory, which must be a memory".to_owned()),
        None => reasons.push("does not export its memory as memory".to_owned()),
    }
    let needs = module.resources_required();
    let pages_max = limits.memory_bytes_max as u64 / PAGE_BYTES;
    let pages = needs.max_initial_memory_size.unwrap_or(0);
    if pages > pages_max {
        reasons.push(format!(
            "begins with {pages} pages of memory, over the limit of {pages_max}"
        ));
    }
    let elements = needs.max_initial_table_size.unwrap_or(0);
    if elements > TABLE_ELEMENTS_MAX as u64 {
        reasons.push(format!(
            "begins with a table of {elements} elements, over the limit of {TABLE_ELEMENTS_MAX}"
        ));
    }
    if needs.num_tables > 1 {
        reasons.push(format!("has {} tables, and may have 1", needs.num_tables));
    }
}
