//! Runs a module on one record: checked, compiled, within bounds, the same on every machine.
//!
//! Owns the contract of `docs/operators/wasm.md`. An instance lives for one record, so that nothing
//! is remembered but what the module answers as its state: whatever was killed in between, the next
//! answer is the same. Its work is measured in fuel and never in time. Knows no log.

use std::fmt;

use prost::Message as _;
use wasmtime::{
    ExternType, InstancePre, Linker, Memory, Store, StoreLimits, StoreLimitsBuilder, Trap,
    TypedFunc, ValType,
};

use crate::broker::sandbox::{self, Digest, Signature, TABLE_ELEMENTS_MAX, fits, written};
use crate::proto::v1::{OperatorInput, OperatorOutput};

/// Linear memory of an instance.
pub const MEMORY_BYTES_MAX: usize = 16 << 20;
/// Fuel of a call, whatever the record.
pub const FUEL_BASE: u64 = 20_000_000;
/// And for each byte of what it is given.
pub const FUEL_PER_BYTE: u64 = 2_000;
/// Length of an answer.
pub const OUTPUT_BYTES_MAX: usize = 1 << 20;
/// What `arqon_operator` must answer.
const VERSION: i32 = 1;
/// Bytes of a page of linear memory.
const PAGE_BYTES: u64 = 64 << 10;

const EXPORTS: [Signature; 3] = [
    ("arqon_operator", &[], &[ValType::I32]),
    ("arqon_alloc", &[ValType::I32], &[ValType::I32]),
    (
        "arqon_apply",
        &[ValType::I32, ValType::I32],
        &[ValType::I64],
    ),
];

/// Everything that keeps bytes from being an operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the module is no operator: {}", reasons.join("; "))]
pub struct Unfit {
    /// One for each thing that is wrong.
    pub reasons: Vec<String>,
}

impl Unfit {
    fn one(reason: impl Into<String>) -> Self {
        Self {
            reasons: vec![reason.into()],
        }
    }
}

/// Why there is no answer to a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It trapped.
    #[error("it trapped: {0}")]
    Trap(String),
    /// It computed for longer than a record may take.
    #[error("it used up its fuel")]
    Fuel,
    /// It broke the contract.
    #[error("{0}")]
    Abi(&'static str),
    /// It answered what it may not.
    #[error("{0}")]
    Answer(String),
}

impl Failure {
    /// For programs.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Trap(_) => "trap",
            Self::Fuel => "fuel",
            Self::Abi(_) => "abi",
            Self::Answer(_) => "answer",
        }
    }
}

/// Compiles modules.
pub struct Host {
    engine: wasmtime::Engine,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

/// A compiled module.
pub struct Module {
    digest: Digest,
    ready: InstancePre<StoreLimits>,
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module")
            .field("digest", &sandbox::hex(&self.digest))
            .finish_non_exhaustive()
    }
}

impl Host {
    /// Makes ready what compiles.
    ///
    /// # Errors
    /// No module can run on this machine.
    pub fn open() -> Result<Self, Unfit> {
        let mut settings = sandbox::settings();
        settings.consume_fuel(true);
        let engine = wasmtime::Engine::new(&settings);
        let engine =
            engine.map_err(|error| Unfit::one(format!("cannot be run here: {error:#}")))?;
        Ok(Self { engine })
    }

    /// Checks and compiles a module, and makes one instance of it. Takes its time.
    ///
    /// # Errors
    /// Everything that keeps it from being an operator.
    pub fn compile(&self, wasm: &[u8]) -> Result<Module, Unfit> {
        let form = sandbox::check_form(wasm, "an operator", "arqon_apply");
        let mut reasons = form.map_err(Unfit::one)?;
        let compiled = match wasmtime::Module::new(&self.engine, wasm) {
            Ok(compiled) => compiled,
            Err(error) => {
                reasons.push(format!("does not compile: {error:#}"));
                return Err(Unfit { reasons });
            }
        };
        check(&compiled, &mut reasons);
        if !reasons.is_empty() {
            return Err(Unfit { reasons });
        }
        let linked = Linker::new(&self.engine).instantiate_pre(&compiled);
        let ready = linked.map_err(|error| Unfit::one(format!("cannot be linked: {error:#}")))?;
        let module = Module {
            digest: sandbox::digest(wasm),
            ready,
        };
        module
            .begin(0)
            .map_err(|failure| Unfit::one(failure.to_string()))?;
        Ok(module)
    }
}

fn check(module: &wasmtime::Module, reasons: &mut Vec<String>) {
    for import in module.imports() {
        let shown = format!("{}.{}", import.module(), import.name());
        reasons.push(format!(
            "imports {shown}: an operator has nothing to call; build it without WASI, for target wasm32-unknown-unknown"
        ));
    }
    for signature in &EXPORTS {
        let name = signature.0;
        match module.get_export(name) {
            Some(ExternType::Func(found)) if fits(&found, signature) => {}
            Some(_) => reasons.push(format!(
                "exports {name}, which must be {}",
                written(signature)
            )),
            None => reasons.push(format!("does not export {}", written(signature))),
        }
    }
    match module.get_export("memory") {
        Some(ExternType::Memory(_)) => {}
        Some(_) | None => reasons.push("does not export its memory as memory".to_owned()),
    }
    let needs = module.resources_required();
    let pages_max = MEMORY_BYTES_MAX as u64 / PAGE_BYTES;
    let pages = needs.max_initial_memory_size.unwrap_or(0);
    if pages > pages_max {
        reasons.push(format!(
            "begins with {pages} pages of memory, over the limit of {pages_max}"
        ));
    }
    if needs.num_tables > 1 {
        reasons.push(format!("has {} tables, and may have 1", needs.num_tables));
    }
}

/// An instance that was asked nothing yet.
struct Fresh {
    store: Store<StoreLimits>,
    memory: Memory,
    alloc: TypedFunc<i32, i32>,
    apply: TypedFunc<(i32, i32), i64>,
}

impl Module {
    /// SHA-256 of its bytes.
    #[must_use]
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// What it makes of a record.
    ///
    /// # Errors
    /// It gave no answer, or none that can be read.
    pub fn apply(&self, input: &OperatorInput) -> Result<OperatorOutput, Failure> {
        let given = input.encode_to_vec();
        let Fresh {
            mut store,
            memory,
            alloc,
            apply,
        } = self.begin(given.len())?;
        let len = signed(given.len())?;
        let at = alloc
            .call(&mut store, len)
            .map_err(|error| stopped(&error))?;
        let start = unsigned(at);
        let end = start.checked_add(given.len());
        let room = end.and_then(|end| memory.data_mut(&mut store).get_mut(start..end));
        match room.filter(|_| start != 0) {
            Some(room) => room.copy_from_slice(&given),
            None => return Err(Failure::Abi("arqon_alloc had no memory for the record")),
        }
        let packed = apply
            .call(&mut store, (at, len))
            .map_err(|error| stopped(&error))?;
        if packed == 0 {
            return Ok(OperatorOutput::default());
        }
        let packed = packed.cast_unsigned();
        let (start, len) = ((packed >> 32) as usize, (packed & 0xffff_ffff) as usize);
        if len > OUTPUT_BYTES_MAX {
            return Err(Failure::Abi("its answer is longer than 1 MiB"));
        }
        let answer = start.checked_add(len);
        let answer = answer.and_then(|end| memory.data(&store).get(start..end));
        let answer = answer.ok_or(Failure::Abi("its answer lies out of its memory"))?;
        let undecodable = Failure::Abi("its answer is no arqon.v1.OperatorOutput");
        OperatorOutput::decode(answer).or(Err(undecodable))
    }

    /// An instance with the fuel for so many bytes.
    fn begin(&self, bytes: usize) -> Result<Fresh, Failure> {
        let limits = StoreLimitsBuilder::new()
            .memory_size(MEMORY_BYTES_MAX)
            .table_elements(TABLE_ELEMENTS_MAX)
            .instances(1)
            .tables(1)
            .memories(1)
            .build();
        let mut store = Store::new(self.ready.module().engine(), limits);
        store.limiter(|limits| limits);
        let fuel = FUEL_BASE.saturating_add(FUEL_PER_BYTE.saturating_mul(bytes as u64));
        store
            .set_fuel(fuel)
            .or(Err(Failure::Abi("it cannot be metered")))?;
        let instance = self.ready.instantiate(&mut store);
        let instance = instance.map_err(|error| stopped(&error))?;
        let not_there = |_: wasmtime::Error| Failure::Abi("an export is not what it was");
        let version = instance
            .get_typed_func::<(), i32>(&mut store, "arqon_operator")
            .map_err(not_there)?;
        let found = version
            .call(&mut store, ())
            .map_err(|error| stopped(&error))?;
        if found != VERSION {
            return Err(Failure::Abi("arqon_operator does not answer 1"));
        }
        let memory = instance.get_memory(&mut store, "memory");
        Ok(Fresh {
            memory: memory.ok_or(Failure::Abi("it exports no memory"))?,
            alloc: instance
                .get_typed_func(&mut store, "arqon_alloc")
                .map_err(not_there)?,
            apply: instance
                .get_typed_func(&mut store, "arqon_apply")
                .map_err(not_there)?,
            store,
        })
    }
}

/// Why the module was ended.
fn stopped(error: &wasmtime::Error) -> Failure {
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => Failure::Fuel,
        Some(trap) => {
            let text = trap.to_string();
            Failure::Trap(text.trim_start_matches("wasm trap: ").to_owned())
        }
        None => Failure::Trap("the runtime gave it up".to_owned()),
    }
}

/// WebAssembly has no unsigned numbers; addresses are.
fn signed(number: usize) -> Result<i32, Failure> {
    let number = u32::try_from(number);
    let number = number.or(Err(Failure::Abi("the record is larger than its memory")))?;
    Ok(number.cast_signed())
}

const fn unsigned(number: i32) -> usize {
    number.cast_unsigned() as usize
}
