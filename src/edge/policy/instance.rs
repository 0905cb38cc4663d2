//! One instance of a policy: its memory, and the calls into it.
//!
//! Owns the order of the calls, and that nothing which the guest says is used before it is checked.
//! After a failure an instance is not used again.

use std::fmt;
use std::time::Instant;

use wasmtime::{Memory, Store, Trap, TypedFunc};

use super::abi::{Level, VERSION};
use super::engine::{Engine, Seat, first_look};
use super::guest::{Guest, Stop};
use super::limits::{INSTANCE_CALLS_MAX, INSTANCE_LIFE, Limits};
use super::module::{Metering, Module};
use super::question::Question;
use super::verdict::{self, Denial, Failure, Ruling};

/// Where a payload begins behind its context.
const ALIGNMENT: usize = 8;

pub(super) struct Instance {
    store: Store<Guest>,
    memory: Memory,
    entry: Entry,
    first_look: u64,
    calls: u32,
    born: Instant,
    _node_seat: Seat,
    _policy_seat: Seat,
}

enum Entry {
    Zero(TypedFunc<(i32, i32), i32>),
    One {
        alloc: TypedFunc<i32, i32>,
        check: TypedFunc<(i32, i32, i32, i32), i64>,
        reset: Option<TypedFunc<(), ()>>,
    },
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instance")
            .field("calls", &self.calls)
            .finish_non_exhaustive()
    }
}

impl Instance {
    /// Makes one, and configures it.
    pub(super) fn new(
        engine: &Engine,
        module: &Module,
        config: &[u8],
        (node_seat, policy_seat): (Seat, Seat),
    ) -> Result<Self, Failure> {
        let limits = engine.limits();
        let mut store = Store::new(module.ready.module().engine(), Guest::new(limits));
        store.limiter(|guest| guest);
        store.epoch_deadline_callback(|mut context| Ok(context.data_mut().look()));
        let first_look = first_look(limits);
        begin(&mut store, engine, module, first_look, config.len())?;
        let (memory, entry) = match prepare(&mut store, limits, module, config) {
            Ok(prepared) => prepared,
            Err(Broken::Guest(error)) => {
                return Err(match stopped(&mut store, &error) {
                    Stop::Failed(failure) => failure,
                    Stop::Rejected(_) => Failure::Abi("arqon_init refused a message"),
                });
            }
            Err(Broken::Abi(what)) => return Err(Failure::Abi(what)),
        };
        Ok(Self {
            store,
            memory,
            entry,
            first_look,
            calls: 0,
            born: Instant::now(),
            _node_seat: node_seat,
            _policy_seat: policy_seat,
        })
    }

    /// Whether it has done enough.
    pub(super) fn is_worn(&self, now: Instant) -> bool {
        self.calls >= INSTANCE_CALLS_MAX || now.duration_since(self.born) >= INSTANCE_LIFE
    }

    /// Has the guest judge `body`. After an error the instance must be dropped.
    pub(super) fn judge(
        &mut self,
        engine: &Engine,
        module: &Module,
        question: &Question<'_>,
        context: &[u8],
        body: &[u8],
    ) -> Result<Ruling, Failure> {
        self.calls += 1;
        self.store.data_mut().face(module, question);
        begin(&mut self.store, engine, module, self.first_look, body.len())?;
        let ruled = match &self.entry {
            Entry::Zero(_) => self.ask_old(body),
            Entry::One { .. } => self.ask(engine.limits(), context, body),
        };
        match ruled {
            Ok(ruling) => Ok(ruling),
            Err(Broken::Abi(what)) => Err(Failure::Abi(what)),
            Err(Broken::Guest(error)) => match stopped(&mut self.store, &error) {
                Stop::Failed(failure) => Err(failure),
                Stop::Rejected(denial) => Ok(Ruling::Deny(denial)),
            },
        }
    }

    /// Has the guest forget what it was shown. Whether it may judge another message.
    pub(super) fn forget(&mut self) -> bool {
        let Entry::One {
            reset: Some(reset), ..
        } = &self.entry
        else {
            return false;
        };
        reset.call(&mut self.store, ()).is_ok()
    }

    /// What the guest has said beside its answer.
    pub(super) fn said(&mut self) -> &mut Guest {
        self.store.data_mut()
    }

    /// What the last call has used up.
    pub(super) fn fuel_used(&self, engine: &Engine, module: &Module, body: &[u8]) -> Option<u64> {
        let given = engine.limits().fuel(body.len() as u64);
        let left = self.store.get_fuel().ok()?;
        (module.metering == Metering::Fuel).then(|| given.saturating_sub(left))
    }

    /// Level 1.
    fn ask(&mut self, limits: &Limits, context: &[u8], body: &[u8]) -> Result<Ruling, Broken> {
        let Entry::One { alloc, check, .. } = &self.entry else {
            return Err(Broken::Abi("it is of level 0"));
        };
        let before_body = context.len().next_multiple_of(ALIGNMENT);
        // One allocation for both: each call into the guest costs as much as copying a kilobyte.
        let total = before_body.saturating_add(body.len()).max(1);
        let at = unsigned(alloc.call(&mut self.store, signed(total)?)?);
        if at == 0 {
            return Err(Broken::Abi("arqon_alloc had no memory for the message"));
        }
        let room = at.checked_add(total);
        let room = room.and_then(|end| self.memory.data_mut(&mut self.store).get_mut(at..end));
        let Some((head, tail)) = room.and_then(|room| room.split_at_mut_checked(before_body))
        else {
            return Err(Broken::Abi("arqon_alloc answered out of its memory"));
        };
        let (head, tail) = (head.get_mut(..context.len()), tail.get_mut(..body.len()));
        let (Some(head), Some(tail)) = (head, tail) else {
            return Err(Broken::Abi("arqon_alloc answered out of its memory"));
        };
        head.copy_from_slice(context);
        tail.copy_from_slice(body);
        let parameters = (
            signed(at)?,
            signed(context.len())?,
            signed(at + before_body)?,
            signed(body.len())?,
        );
        let packed = check.call(&mut self.store, parameters)?;
        if packed == 0 {
            return Ok(Ruling::Allow);
        }
        let packed = packed.cast_unsigned();
        let (at, len) = ((packed >> 32) as usize, (packed & 0xffff_ffff) as usize);
        if len > limits.answer_bytes_max() {
            return Err(Broken::Abi("its answer is too long"));
        }
        let (bytes, guest) = self.memory.data_and_store_mut(&mut self.store);
        let answer = at.checked_add(len).and_then(|end| bytes.get(at..end));
        let Some(answer) = answer else {
            return Err(Broken::Abi("its answer lies out of its memory"));
        };
        let ruling = verdict::read(answer, body, limits.payload_bytes_max, &mut guest.tags);
        ruling.map_err(|failure| {
            guest.stopped = Some(Stop::Failed(failure));
            Broken::Guest(wasmtime::Error::msg("its answer is none"))
        })
    }

    /// Level 0: the payload is written to address 0.
    fn ask_old(&mut self, body: &[u8]) -> Result<Ruling, Broken> {
        let Entry::Zero(check) = &self.entry else {
            return Err(Broken::Abi("it is of level 1"));
        };
        let size = self.memory.data_size(&self.store);
        if body.len() > size {
            let pages = (body.len() - size).div_ceil(64 << 10) as u64;
            self.memory.grow(&mut self.store, pages)?;
        }
        match self.memory.data_mut(&mut self.store).get_mut(..body.len()) {
            Some(room) => room.copy_from_slice(body),
            None => return Err(Broken::Abi("its memory does not hold the payload")),
        }
        let answer = check.call(&mut self.store, (0, signed(body.len())?))?;
        Ok(match answer {
            0 => Ruling::Allow,
            code => Ruling::Deny(Denial {
                code: code.to_string(),
                message: String::new(),
            }),
        })
    }
}

/// Why a call came to nothing.
enum Broken {
    /// The runtime or a host function ended it.
    Guest(wasmtime::Error),
    /// What it answered cannot be used.
    Abi(&'static str),
}

impl From<wasmtime::Error> for Broken {
    fn from(error: wasmtime::Error) -> Self {
        Self::Guest(error)
    }
}

/// Gives a call its time and its fuel.
fn begin(
    store: &mut Store<Guest>,
    engine: &Engine,
    module: &Module,
    first_look: u64,
    bytes: usize,
) -> Result<(), Failure> {
    engine.ticker().want();
    store.set_epoch_deadline(first_look);
    if module.metering == Metering::Fuel {
        let fuel = engine.limits().fuel(bytes as u64);
        let set = store.set_fuel(fuel);
        set.or(Err(Failure::Abi("it cannot be metered")))?;
    }
    Ok(())
}

fn prepare(
    store: &mut Store<Guest>,
    limits: &Limits,
    module: &Module,
    config: &[u8],
) -> Result<(Memory, Entry), Broken> {
    let instance = module.ready.instantiate(&mut *store)?;
    let memory = instance.get_memory(&mut *store, "memory");
    let memory = memory.ok_or(Broken::Abi("it exports no memory"))?;
    store.data_mut().memory = Some(memory);
    if module.level == Level::Zero {
        let check = instance.get_typed_func(&mut *store, "policy_check")?;
        return Ok((memory, Entry::Zero(check)));
    }
    let version = instance.get_typed_func::<(), i32>(&mut *store, "arqon_abi")?;
    if version.call(&mut *store, ())? != VERSION {
        return Err(Broken::Abi("arqon_abi does not answer 1"));
    }
    let alloc = instance.get_typed_func::<i32, i32>(&mut *store, "arqon_alloc")?;
    let check = instance.get_typed_func(&mut *store, "arqon_check")?;
    let reset = match module.resets {
        true => Some(instance.get_typed_func(&mut *store, "arqon_reset")?),
        false => None,
    };
    match instance.get_typed_func::<(i32, i32), i32>(&mut *store, "arqon_init") {
        Ok(init) => configure(store, memory, &alloc, &init, config)?,
        Err(_) if config.is_empty() => {}
        Err(_) => {
            return Err(Broken::Abi(
                "it is given a configuration, and exports no arqon_init",
            ));
        }
    }
    debug_assert!(memory.data_size(&*store) <= limits.memory_bytes_max);
    Ok((
        memory,
        Entry::One {
            alloc,
            check,
            reset,
        },
    ))
}

fn configure(
    store: &mut Store<Guest>,
    memory: Memory,
    alloc: &TypedFunc<i32, i32>,
    init: &TypedFunc<(i32, i32), i32>,
    config: &[u8],
) -> Result<(), Broken> {
    let at = match config.is_empty() {
        true => 0,
        false => unsigned(alloc.call(&mut *store, signed(config.len())?)?),
    };
    if !config.is_empty() {
        let end = at.checked_add(config.len());
        let room = end.and_then(|end| memory.data_mut(&mut *store).get_mut(at..end));
        match room.filter(|_| at != 0) {
            Some(room) => room.copy_from_slice(config),
            None => {
                return Err(Broken::Abi(
                    "arqon_alloc had no memory for its configuration",
                ));
            }
        }
    }
    match init.call(&mut *store, (signed(at)?, signed(config.len())?))? {
        0 => Ok(()),
        _ => Err(Broken::Abi("arqon_init refuses its configuration")),
    }
}

/// Why the guest was ended.
fn stopped(store: &mut Store<Guest>, error: &wasmtime::Error) -> Stop {
    if let Some(stop) = store.data_mut().stopped.take() {
        return stop;
    }
    Stop::Failed(match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt | Trap::OutOfFuel) => Failure::Timeout,
        Some(trap) => {
            let text = trap.to_string();
            Failure::Trap(text.trim_start_matches("wasm trap: ").to_owned())
        }
        None => Failure::Trap("the runtime gave it up".to_owned()),
    })
}

/// WebAssembly has no unsigned numbers; addresses are.
fn signed(number: usize) -> Result<i32, Broken> {
    let number = u32::try_from(number);
    let number = number.or(Err(Broken::Abi("the message is larger than its memory")))?;
    Ok(number.cast_signed())
}

const fn unsigned(number: i32) -> usize {
    number.cast_unsigned() as usize
}
