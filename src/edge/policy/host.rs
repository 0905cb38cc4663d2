//! The functions that a policy may import, all of them.
//!
//! Whatever a guest passes is checked: a pointer that leads out of its memory ends the call.

use wasmtime::{Caller, Linker};

use super::abi::{LEVEL_0, LEVEL_1};
use super::guest::{Guest, Stop};
use super::limits::{OLD_HEADER_BYTES_MAX, TEXT_BYTES_MAX};
use super::verdict::{self, Denial, Failure};

/// What a guest is told of something that is not there.
const ABSENT: i32 = -1;
/// And of something that is longer than it can be handed over.
const TOO_LONG: i32 = -2;

/// A linker with all of them, for an engine.
pub(super) fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    linker.func_wrap(LEVEL_1, "log", log)?;
    linker.func_wrap(LEVEL_1, "tag", tag)?;
    linker.func_wrap(LEVEL_1, "claim", claim)?;
    linker.func_wrap(LEVEL_1, "header", header)?;
    linker.func_wrap(LEVEL_0, "host_log", old_log)?;
    linker.func_wrap(LEVEL_0, "host_get_header", old_header)?;
    linker.func_wrap(LEVEL_0, "host_reject", old_reject)?;
    Ok(linker)
}

type Guested<'a> = Caller<'a, Guest>;

fn log(mut caller: Guested<'_>, _level: i32, at: i32, len: i32) -> wasmtime::Result<()> {
    with(&mut caller, (at, len), |guest, line| guest.log(line))
}

fn tag(mut caller: Guested<'_>, at: i32, len: i32) -> wasmtime::Result<()> {
    with(&mut caller, (at, len), |guest, text| {
        let text = std::str::from_utf8(text);
        let text = text.or(Err(Failure::Abi("a tag is no UTF-8")))?;
        verdict::tag(&mut guest.tags, text)
    })
}

fn claim(
    mut caller: Guested<'_>,
    name: i32,
    name_len: i32,
    out: i32,
    room: i32,
) -> wasmtime::Result<i32> {
    let found = |guest: &mut Guest, name: &[u8]| Ok(guest.claim(name).map(str::to_owned));
    let value = with(&mut caller, (name, name_len), found)?;
    hand_over(&mut caller, value, out, size(room))
}

fn header(
    mut caller: Guested<'_>,
    name: i32,
    name_len: i32,
    out: i32,
    room: i32,
) -> wasmtime::Result<i32> {
    let found = |guest: &mut Guest, name: &[u8]| Ok(guest.header(name).map(str::to_owned));
    let value = with(&mut caller, (name, name_len), found)?;
    hand_over(&mut caller, value, out, size(room))
}

fn old_log(mut caller: Guested<'_>, _level: i32, at: i32, len: i32) -> wasmtime::Result<i32> {
    with(&mut caller, (at, len), |guest, line| guest.log(line))?;
    Ok(0)
}

fn old_header(
    mut caller: Guested<'_>,
    name: i32,
    name_len: i32,
    out: i32,
) -> wasmtime::Result<i32> {
    let found = |guest: &mut Guest, name: &[u8]| Ok(guest.header(name).map(str::to_owned));
    let value = with(&mut caller, (name, name_len), found)?;
    hand_over(&mut caller, value, out, OLD_HEADER_BYTES_MAX)
}

fn old_reject(mut caller: Guested<'_>, code: i32, at: i32, len: i32) -> wasmtime::Result<()> {
    let message = with(&mut caller, (at, len), |_, text| {
        let text = text.get(..text.len().min(TEXT_BYTES_MAX));
        let text = String::from_utf8_lossy(text.unwrap_or_default());
        Ok(verdict::printable(&text))
    })?;
    let denial = Denial {
        code: code.to_string(),
        message,
    };
    caller.data_mut().stopped = Some(Stop::Rejected(denial));
    Err(wasmtime::Error::msg("refused by the guest"))
}

/// Addresses and lengths are unsigned, whatever the type of WebAssembly says.
const fn size(number: i32) -> usize {
    number.cast_unsigned() as usize
}

/// Shows a piece of the guest's memory, and the guest. A failure ends the call.
fn with<T>(
    caller: &mut Guested<'_>,
    (at, len): (i32, i32),
    read: impl FnOnce(&mut Guest, &[u8]) -> Result<T, Failure>,
) -> wasmtime::Result<T> {
    let done = match caller.data().memory {
        None => Err(Failure::Abi("it exports no memory")),
        Some(memory) => {
            let (bytes, guest) = memory.data_and_store_mut(&mut *caller);
            let (at, len) = (size(at), size(len));
            match at.checked_add(len).and_then(|end| bytes.get(at..end)) {
                None => Err(Failure::Abi("it passed a pointer out of its memory")),
                Some(piece) => read(guest, piece),
            }
        }
    };
    done.map_err(|failure| stop(caller, failure))
}

/// Writes a value to `out` and answers its length.
fn hand_over(
    caller: &mut Guested<'_>,
    value: Option<String>,
    out: i32,
    room: usize,
) -> wasmtime::Result<i32> {
    let Some(value) = value else {
        return Ok(ABSENT);
    };
    let Ok(len) = i32::try_from(value.len()) else {
        return Ok(TOO_LONG);
    };
    if value.len() > room {
        return Ok(TOO_LONG);
    }
    let target = caller.data().memory.and_then(|memory| {
        let at = size(out);
        let end = at.checked_add(value.len())?;
        memory.data_mut(&mut *caller).get_mut(at..end)
    });
    match target {
        Some(target) => {
            target.copy_from_slice(value.as_bytes());
            Ok(len)
        }
        None => {
            let failure = Failure::Abi("it passed a pointer out of its memory");
            Err(stop(caller, failure))
        }
    }
}

fn stop(caller: &mut Guested<'_>, failure: Failure) -> wasmtime::Error {
    let error = wasmtime::Error::new(failure.clone());
    caller.data_mut().stopped = Some(Stop::Failed(failure));
    error
}
