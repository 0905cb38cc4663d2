//! Modules as the host meets them: good ones, and each way of being none.

use super::host::{Failure, Host, Module};
use crate::proto::v1::{OperatorInput, OperatorOutput};

const COUNT: &str = include_str!("../../../../examples/operators/count.wat");

fn compiled(text: &str) -> Result<Module, String> {
    let wasm = wat::parse_str(text).unwrap();
    let host = Host::open().unwrap();
    host.compile(&wasm).map_err(|unfit| unfit.to_string())
}

fn input(payload: &'static [u8], state: &[u8]) -> OperatorInput {
    OperatorInput {
        topic: "in.a".into(),
        id: "x".into(),
        payload: payload.into(),
        time_ms: 1_700_000_000_000,
        state: bytes::Bytes::copy_from_slice(state),
        ..OperatorInput::default()
    }
}

/// A module that does `body` with a record.
fn applying(body: &str) -> String {
    format!(
        "(module (memory (export \"memory\") 1) (global $n (mut i32) (i32.const 0))
        (func (export \"arqon_operator\") (result i32) i32.const 1)
        (func (export \"arqon_alloc\") (param i32) (result i32) i32.const 1024)
        (func (export \"arqon_apply\") (param i32 i32) (result i64) {body}))"
    )
}

// OPS-11
#[test]
fn a_module_answers_the_same_to_the_same_and_remembers_only_its_state() {
    let module = compiled(COUNT).unwrap();
    let first = module.apply(&input(b"hello", b"")).unwrap();
    let emission = &first.emissions[0];
    assert_eq!(emission.topic, "out.seen");
    assert_eq!(&emission.payload[..], b"hello\x01\0\0\0\0\0\0\0");
    let state = first.state.clone().unwrap();
    assert_eq!(module.apply(&input(b"hello", b"")), Ok(first));
    let second = module.apply(&input(b"", &state)).unwrap();
    assert_eq!(&second.emissions[0].payload[..], b"\x02\0\0\0\0\0\0\0");

    // What it keeps in its memory is gone with the record.
    let keeps = applying(
        "(global.set $n (i32.add (global.get $n) (i32.const 1)))
        (if (i32.gt_u (global.get $n) (i32.const 1)) (then unreachable)) i64.const 0",
    );
    let keeps = compiled(&keeps).unwrap();
    for _ in 0..3 {
        assert_eq!(keeps.apply(&input(b"", b"")), Ok(OperatorOutput::default()));
    }
}

// OPS-11
#[test]
fn a_module_that_fails_says_how() {
    let module = compiled(COUNT).unwrap();
    let failed = |payload| module.apply(&input(payload, b"")).unwrap_err();
    assert!(matches!(failed(b"P"), Failure::Trap(text) if text.contains("unreachable")));
    assert_eq!(failed(b"L"), Failure::Fuel);
    for (body, said) in [
        ("i64.const -1", "its answer is longer than 1 MiB"),
        (
            "i64.const 0x7fffffff00000010",
            "its answer lies out of its memory",
        ),
        (
            "(i32.store8 (i32.const 8) (i32.const 255)) i64.const 0x800000001",
            "its answer is no arqon.v1.OperatorOutput",
        ),
        (
            "(if (i32.eq (memory.grow (i32.const 10000)) (i32.const -1)) (then unreachable)) i64.const 0",
            "it trapped: wasm `unreachable` instruction executed",
        ),
    ] {
        let module = compiled(&applying(body)).unwrap();
        assert_eq!(
            module.apply(&input(b"", b"")).unwrap_err().to_string(),
            said
        );
    }
    let small = applying("i64.const 0").replace("i32.const 1024)", "i32.const 0)");
    let failure = compiled(&small).unwrap().apply(&input(b"x", b""));
    assert_eq!(
        failure,
        Err(Failure::Abi("arqon_alloc had no memory for the record"))
    );
}

// OPS-11
#[test]
fn what_is_no_operator_is_refused_with_every_reason() {
    let refused = |text: &str| compiled(text).unwrap_err();
    let nothing = refused("(module)");
    for said in ["arqon_operator", "arqon_alloc", "arqon_apply", "memory"] {
        assert!(nothing.contains(said), "{nothing}");
    }
    let imports = applying("i64.const 0").replace(
        "(module",
        "(module (import \"wasi_snapshot_preview1\" \"clock_time_get\" (func (param i32 i64 i32) (result i32)))",
    );
    assert!(refused(&imports).contains("an operator has nothing to call"));
    let other =
        applying("i64.const 0").replace("(result i32) i32.const 1)", "(result i32) i32.const 2)");
    assert!(
        refused(&other).contains("does not answer 1"),
        "{}",
        refused(&other)
    );
    let huge = applying("i64.const 0").replace("\"memory\") 1", "\"memory\") 300");
    assert!(refused(&huge).contains("begins with 300 pages"));
    let starts = applying("i64.const 0").replace("(global", "(func $s) (start $s) (global");
    assert!(refused(&starts).contains("has a start function"));
    let host = Host::open().unwrap();
    for bad in [b"".as_slice(), b"\0asm", b"\0asm\x01\0\0\0\xff"] {
        assert!(host.compile(bad).is_err());
    }
}
