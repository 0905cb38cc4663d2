//! Each rule with a change that breaks it, and one beside it that does not.

use super::{Difference, Direction, Mode, compare};
use crate::edge::schema::definition::Definition;
use crate::edge::schema::tests::compiled;

fn differences(old: &str, new: &str) -> Vec<Difference> {
    let message = |text: &str| {
        let set = compiled(text);
        let definition = Definition::protobuf(&set, "t.M").expect("a definition");
        definition.descriptor().expect("a message")
    };
    compare(&message(old), &message(new))
}

const PROTO3: &str = "syntax = 'proto3'; package t; ";
const PROTO2: &str = "syntax = 'proto2'; package t; ";

/// What the change breaks, by rule.
fn broken(syntax: &str, old: &str, new: &str) -> Vec<(&'static str, Option<Direction>)> {
    let found = differences(&format!("{syntax}{old}"), &format!("{syntax}{new}"));
    for one in &found {
        assert!(!one.text.is_empty());
    }
    found
        .into_iter()
        .map(|one| (one.rule, one.breaks))
        .collect()
}

const BOTH: Option<Direction> = Some(Direction::Both);
const BACKWARD: Option<Direction> = Some(Direction::Backward);
const FORWARD: Option<Direction> = Some(Direction::Forward);

type Expected = &'static [(&'static str, Option<Direction>)];

// EDGE-13
#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn changes_break_what_the_table_says() {
    let table: &[(&str, &str, &str, Expected)] = &[
        // Fields come and go.
        (
            "added",
            "message M { int32 a = 1; }",
            "message M { int32 a = 1; string b = 2; }",
            &[],
        ),
        (
            "removed",
            "message M { int32 a = 1; string b = 2; }",
            "message M { int32 a = 1; }",
            &[("field.removed", BOTH)],
        ),
        (
            "reserved by number alone",
            "message M { string b = 2; }",
            "message M { reserved 2; }",
            &[("field.removed", BOTH)],
        ),
        (
            "reserved",
            "message M { string b = 2; }",
            "message M { reserved 2; reserved 'b'; }",
            &[],
        ),
        (
            "reservation lost",
            "message M { reserved 2, 4 to 6; reserved 'b'; }",
            "message M { reserved 2, 4; reserved 'b'; }",
            &[("reserved.removed", BOTH)],
        ),
        (
            "reservation reused",
            "message M { reserved 2; reserved 'b'; }",
            "message M { int64 b = 2; }",
            &[("reserved.removed", BOTH), ("reserved.removed", BOTH)],
        ),
        (
            "reservation rearranged",
            "message M { reserved 2 to 6; }",
            "message M { reserved 2 to 4, 5 to 9; }",
            &[],
        ),
        (
            "renumbered",
            "message M { int32 a = 1; }",
            "message M { int32 a = 2; }",
            &[("field.removed", BOTH), ("field.number", BOTH)],
        ),
        // Names.
        (
            "renamed",
            "message M { int32 a = 1; }",
            "message M { int32 b = 1; }",
            &[("field.name", BOTH)],
        ),
        (
            "renamed in JSON",
            "message M { int32 a = 1; }",
            "message M { int32 a = 1 [json_name = 'x']; }",
            &[("field.name", BOTH)],
        ),
        // Types.
        (
            "wider",
            "message M { int32 a = 1; }",
            "message M { int64 a = 1; }",
            &[("field.type", None)],
        ),
        (
            "unsigned",
            "message M { int32 a = 1; }",
            "message M { uint32 a = 1; }",
            &[("field.type", None)],
        ),
        (
            "zigzag",
            "message M { int32 a = 1; }",
            "message M { sint32 a = 1; }",
            &[("field.type", BOTH)],
        ),
        (
            "bool",
            "message M { int32 a = 1; }",
            "message M { bool a = 1; }",
            &[("field.type", BOTH)],
        ),
        (
            "fixed",
            "message M { fixed32 a = 1; }",
            "message M { sfixed32 a = 1; }",
            &[("field.type", None)],
        ),
        (
            "float",
            "message M { fixed32 a = 1; }",
            "message M { float a = 1; }",
            &[("field.type", BOTH)],
        ),
        (
            "bytes",
            "message M { string a = 1; }",
            "message M { bytes a = 1; }",
            &[("field.type", FORWARD)],
        ),
        (
            "text",
            "message M { bytes a = 1; }",
            "message M { string a = 1; }",
            &[("field.type", BACKWARD)],
        ),
        (
            "enum to number",
            "message M { E a = 1; } enum E { Z = 0; }",
            "message M { int32 a = 1; }",
            &[("field.type", BOTH)],
        ),
        (
            "type renamed",
            "message M { N a = 1; } message N { int32 b = 1; }",
            "message M { O a = 1; } message O { int32 b = 1; }",
            &[("field.type", BOTH)],
        ),
        (
            "unused type removed",
            "message M { int32 a = 1; } message N { int32 b = 1; }",
            "message M { int32 a = 1; }",
            &[],
        ),
        (
            "inside",
            "message M { N a = 1; } message N { int32 b = 1; }",
            "message M { N a = 1; } message N { string b = 1; }",
            &[("field.type", BOTH)],
        ),
        (
            "inside itself",
            "message M { M a = 1; int32 b = 2; }",
            "message M { M a = 1; string b = 2; }",
            &[("field.type", BOTH)],
        ),
        // How often.
        (
            "repeated",
            "message M { int32 a = 1; }",
            "message M { repeated int32 a = 1; }",
            &[("field.cardinality", BOTH)],
        ),
        (
            "map",
            "message M { map<string, int32> a = 1; }",
            "message M { repeated N a = 1; } message N { string key = 1; int32 value = 2; }",
            &[("field.cardinality", BOTH)],
        ),
        (
            "map value",
            "message M { map<string, int32> a = 1; }",
            "message M { map<string, string> a = 1; }",
            &[("field.type", BOTH)],
        ),
        (
            "map key",
            "message M { map<int32, int32> a = 1; }",
            "message M { map<int64, int32> a = 1; }",
            &[("field.type", BOTH)],
        ),
        (
            "packed",
            "message M { repeated int32 a = 1; }",
            "message M { repeated int32 a = 1 [packed = false]; }",
            &[("field.packed", None)],
        ),
        (
            "presence",
            "message M { int32 a = 1; }",
            "message M { optional int32 a = 1; }",
            &[("field.presence", BOTH)],
        ),
        // Oneofs.
        (
            "into a oneof",
            "message M { int32 a = 1; oneof o { int32 b = 2; } }",
            "message M { oneof o { int32 a = 1; int32 b = 2; } }",
            &[("field.oneof", BOTH)],
        ),
        (
            "out of a oneof",
            "message M { oneof o { int32 a = 1; int32 b = 2; } }",
            "message M { int32 a = 1; oneof o { int32 b = 2; } }",
            &[("field.oneof", BOTH)],
        ),
        (
            "alone into a new oneof",
            "message M { optional int32 a = 1; }",
            "message M { oneof o { int32 a = 1; int32 b = 2; } }",
            &[],
        ),
        (
            "oneof renamed",
            "message M { oneof o { int32 a = 1; int32 b = 2; } }",
            "message M { oneof p { int32 a = 1; int32 b = 2; } }",
            &[],
        ),
        (
            "oneof grown",
            "message M { oneof o { int32 a = 1; } }",
            "message M { oneof o { int32 a = 1; int32 b = 2; } }",
            &[],
        ),
        // Enums.
        (
            "value added",
            "message M { E a = 1; } enum E { Z = 0; }",
            "message M { E a = 1; } enum E { Z = 0; Y = 1; }",
            &[],
        ),
        (
            "value removed",
            "message M { E a = 1; } enum E { Z = 0; Y = 1; }",
            "message M { E a = 1; } enum E { Z = 0; }",
            &[("enum.removed", BOTH)],
        ),
        (
            "value reserved",
            "message M { E a = 1; } enum E { Z = 0; Y = 1; }",
            "message M { E a = 1; } enum E { reserved 1; reserved 'Y'; Z = 0; }",
            &[],
        ),
        (
            "value renumbered",
            "message M { E a = 1; } enum E { Z = 0; Y = 1; }",
            "message M { E a = 1; } enum E { Z = 0; Y = 2; }",
            &[("enum.number", BOTH)],
        ),
        (
            "value renamed",
            "message M { E a = 1; } enum E { Z = 0; Y = 1; }",
            "message M { E a = 1; } enum E { Z = 0; X = 1; }",
            &[("enum.name", BOTH)],
        ),
        (
            "zero renamed",
            "message M { E a = 1; } enum E { Z = 0; }",
            "message M { E a = 1; } enum E { NEW = 0; }",
            &[("enum.name", BOTH)],
        ),
    ];
    for (name, old, new, expected) in table {
        assert_eq!(&broken(PROTO3, old, new), expected, "{name}");
        assert_eq!(broken(PROTO3, old, old), [], "{name}");
    }
    let table: &[(&str, &str, &str, Expected)] = &[
        (
            "required added",
            "message M { }",
            "message M { required int32 a = 1; }",
            &[("field.required", BACKWARD)],
        ),
        (
            "required removed",
            "message M { required int32 a = 1; }",
            "message M { reserved 1; reserved 'a'; }",
            &[("field.required", FORWARD)],
        ),
        (
            "became required",
            "message M { optional int32 a = 1; }",
            "message M { required int32 a = 1; }",
            &[("field.required", BACKWARD)],
        ),
        (
            "no longer required",
            "message M { required int32 a = 1; }",
            "message M { optional int32 a = 1; }",
            &[("field.required", FORWARD)],
        ),
        (
            "default",
            "message M { optional int32 a = 1 [default = 1]; }",
            "message M { optional int32 a = 1 [default = 2]; }",
            &[("field.default", BOTH)],
        ),
        (
            "first value",
            "message M { optional E a = 1; } enum E { A = 1; B = 2; }",
            "message M { optional E a = 1; } enum E { B = 2; A = 1; }",
            &[("enum.zero", BOTH)],
        ),
    ];
    for (name, old, new, expected) in table {
        assert_eq!(&broken(PROTO2, old, new), expected, "{name}");
    }
}

// EDGE-13
#[test]
fn modes_forbid_their_directions() {
    use Direction::{Backward, Both, Forward};
    let forbidden = |mode: Mode| [Backward, Forward, Both].map(|one| mode.forbids(one));
    assert_eq!(forbidden(Mode::None), [false, false, false]);
    for mode in [Mode::Backward, Mode::BackwardTransitive] {
        assert_eq!(forbidden(mode), [true, false, true]);
    }
    for mode in [Mode::Forward, Mode::ForwardTransitive] {
        assert_eq!(forbidden(mode), [false, true, true]);
    }
    for mode in [Mode::Full, Mode::FullTransitive] {
        assert_eq!(forbidden(mode), [true, true, true]);
    }
    for mode in Mode::ALL {
        assert_eq!(Mode::parse(mode.as_str()), Some(mode));
        assert_eq!(Mode::of_stored(mode.stored().into()), Some(mode));
        assert_eq!(mode.is_transitive(), mode.as_str().ends_with("TRANSITIVE"));
    }
    assert_eq!(Mode::of_stored(0), None);
    assert_eq!(Mode::default(), Mode::FullTransitive);
}
