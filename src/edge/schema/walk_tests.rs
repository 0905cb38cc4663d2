//! The walk against the library that decodes, and against payloads made to deceive it.

use proptest::prelude::*;
use prost::Message as _;
use prost_reflect::{DynamicMessage, Kind, MapKey, MessageDescriptor, ReflectMessage as _, Value};

use super::definition::{Definition, Form};
use super::tests::{EVERYTHING, compiled};
use super::walk::DEPTH_MAX;
use crate::config::UnknownFields::{self, Keep, Reject};

struct Held {
    definition: Definition,
    message: MessageDescriptor,
}

impl Held {
    fn new(text: &str) -> Self {
        let definition = Definition::protobuf(&compiled(text), "t.M").expect("a definition");
        let message = definition.descriptor().expect("a message");
        Self {
            definition,
            message,
        }
    }

    /// Path and rule of what is wrong; both walks must agree.
    fn wrong(&self, data: &[u8], unknown: UnknownFields) -> Vec<(String, String)> {
        let Form::Protobuf { table, .. } = &self.definition.form else {
            panic!("not protobuf");
        };
        let violations = table.violations(data, unknown);
        assert_eq!(table.fits(data, unknown), violations.is_empty(), "{data:?}");
        assert!(violations.len() <= super::violation::TOLD_MAX);
        let pairs = violations.into_iter().map(|one| (one.path, one.rule));
        pairs.collect()
    }
}

/// Small numbers drawn from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 11
    }

    fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    fn value(&mut self, kind: &Kind, depth: u64) -> Value {
        let number = self.roll() >> self.below(50);
        let sign = if self.below(2) == 0 { 1 } else { -1 };
        let small = i32::try_from(number & 0x7fff_ffff).expect("31 bits") * sign;
        let wide = i64::from(small) << self.below(20);
        match kind {
            Kind::Bool => Value::Bool(number & 1 == 1),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(small),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(wide),
            Kind::Uint32 | Kind::Fixed32 => Value::U32(small.unsigned_abs()),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(number),
            Kind::Float => Value::F32(1.5),
            Kind::Double => Value::F64(-2.5),
            Kind::String => Value::String("aé".repeat(usize::try_from(self.below(90)).unwrap())),
            Kind::Bytes => Value::Bytes(vec![0xff; usize::try_from(self.below(9)).unwrap()].into()),
            Kind::Enum(of) => {
                let numbers: Vec<i32> = of.values().map(|value| value.number()).collect();
                let at = usize::try_from(self.below(numbers.len() as u64)).unwrap();
                Value::EnumNumber(numbers[at])
            }
            Kind::Message(of) => Value::Message(self.message(of, depth + 1)),
        }
    }

    fn message(&mut self, of: &MessageDescriptor, depth: u64) -> DynamicMessage {
        let mut message = DynamicMessage::new(of.clone());
        for field in of.fields() {
            if self.below(3 + depth * 4) > 1 || message.has_field(&field) {
                continue;
            }
            let value = if field.is_map() {
                let Kind::Message(entry) = field.kind() else {
                    panic!("a map without entries");
                };
                let value = self.value(&entry.map_entry_value_field().kind(), depth);
                let key = match entry.map_entry_key_field().kind() {
                    Kind::String => MapKey::String("k".to_owned()),
                    _ => MapKey::I32(-7),
                };
                Value::Map(std::iter::once((key, value)).collect())
            } else if field.is_list() {
                let count = self.below(4);
                Value::List(
                    (0..count)
                        .map(|_| self.value(&field.kind(), depth))
                        .collect(),
                )
            } else {
                self.value(&field.kind(), depth)
            };
            message.set_field(&field, value);
        }
        message
    }
}

fn mutated(data: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut data = data.to_vec();
    for _ in 0..=dice.below(3) {
        let at = usize::try_from(dice.below(data.len() as u64 + 1)).unwrap();
        let byte = u8::try_from(dice.below(256)).unwrap();
        match dice.below(4) {
            0 => data.truncate(at),
            1 => data.insert(at, byte),
            2 if at < data.len() => data[at] = byte,
            _ if at < data.len() => data[at] ^= 1 << dice.below(8),
            _ => data.push(byte),
        }
    }
    data
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    // EDGE-13
    #[test]
    fn what_an_encoder_writes_fits(seed in any::<u64>()) {
        let held = held();
        let message = Dice(seed).message(&held.message, 0);
        let data = message.encode_to_vec();
        prop_assert_eq!(held.wrong(&data, Reject), vec![]);
        prop_assert_eq!(held.wrong(&data, Keep), vec![]);
    }

    /// Whatever the walk lets through, a decoder reads, and writes again with the same meaning and
    /// nothing left over.
    // EDGE-13
    #[test]
    fn what_fits_decodes_to_the_same_fields(seed in any::<u64>()) {
        let held = held();
        let mut dice = Dice(seed);
        let data = dice.message(&held.message, 0).encode_to_vec();
        let data = mutated(&data, &mut dice);
        let decoded = DynamicMessage::decode(held.message.clone(), data.as_slice());
        if held.wrong(&data, Reject).is_empty() {
            let decoded = decoded.expect("what fits decodes");
            prop_assert_eq!(unknown_fields(&decoded), 0);
            let again = decoded.encode_to_vec();
            prop_assert_eq!(held.wrong(&again, Reject), vec![]);
            let twice = DynamicMessage::decode(held.message.clone(), again.as_slice());
            prop_assert_eq!(twice.expect("what was encoded decodes").encode_to_vec(), again);
        } else if let Err(error) = decoded {
            // What no decoder reads is refused whatever becomes of unknown fields.
            prop_assert!(!held.wrong(&data, Keep).is_empty(), "{error}");
        }
    }
}

fn held() -> &'static Held {
    static HELD: std::sync::LazyLock<Held> = std::sync::LazyLock::new(|| Held::new(EVERYTHING));
    &HELD
}

fn unknown_fields(message: &DynamicMessage) -> usize {
    let inside = |value: &Value| match value {
        Value::Message(inner) => unknown_fields(inner),
        Value::List(items) => items
            .iter()
            .filter_map(Value::as_message)
            .map(unknown_fields)
            .sum(),
        Value::Map(items) => items
            .values()
            .filter_map(Value::as_message)
            .map(unknown_fields)
            .sum(),
        _ => 0,
    };
    let own = message.unknown_fields().count();
    own + message
        .fields()
        .map(|(_, value)| inside(value))
        .sum::<usize>()
}

// EDGE-13
#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn what_a_decoder_lets_through_is_caught() {
    let held = held();
    let line = b"\x8a\x01\x05\x0a\x01\xff\x10\x01";
    let table: &[(&str, &[u8], &str, &str)] = &[
        (
            "unknown field",
            b"\x98\x06\x01",
            "field 99",
            "field.unknown",
        ),
        (
            "unknown inside",
            b"\x8a\x01\x02\x78\x01",
            "line.field 15",
            "field.unknown",
        ),
        (
            "unknown in an element",
            b"\xf2\x01\x00\xf2\x01\x02\x78\x01",
            "lines[1].field 15",
            "field.unknown",
        ),
        ("bool of 2", b"\x08\x02", "flag", "number.range"),
        (
            "int32 of 33 bits",
            b"\x10\x80\x80\x80\x80\x10",
            "i32",
            "number.range",
        ),
        (
            "uint32 of 33 bits",
            b"\x20\x80\x80\x80\x80\x10",
            "u32",
            "number.range",
        ),
        (
            "sint32 of 33 bits",
            b"\x30\x80\x80\x80\x80\x10",
            "s32",
            "number.range",
        ),
        ("singular twice", b"\x10\x01\x10\x01", "i32", "field.once"),
        (
            "message twice",
            b"\x8a\x01\x00\x8a\x01\x00",
            "line",
            "field.once",
        ),
        (
            "two of a oneof",
            b"\xa2\x01\x01a\xb0\x01\x01",
            "shade",
            "oneof.once",
        ),
        (
            "one of a oneof twice",
            b"\xa2\x01\x01a\xa2\x01\x01b",
            "word",
            "oneof.once",
        ),
        ("no enum value", b"\x80\x01\x04", "colour", "enum.unknown"),
        (
            "no enum value, packed",
            b"\x9a\x02\x02\x01\x04",
            "colours[1]",
            "enum.unknown",
        ),
        ("not UTF-8", line, "line.sku", "string.utf8"),
        (
            "not UTF-8 in an element",
            b"\x8a\x02\x00\x8a\x02\x01\xff",
            "words[1]",
            "string.utf8",
        ),
        (
            "wrong wire type",
            b"\x09\x01\x00\x00\x00\x00\x00\x00\x00",
            "flag",
            "wire.type",
        ),
        ("text as number", b"\x70\x01", "text", "wire.type"),
        ("packed singular", b"\x12\x01\x01", "i32", "wire.type"),
        ("group", b"\x13\x14", "i32", "wire.type"),
        (
            "unknown group",
            b"\x9b\x06\x9c\x06",
            "field 99",
            "field.unknown",
        ),
        ("end of a group", b"\x8c\x01", "line", "wire.type"),
        ("truncated varint", b"\x10\x80", "i32", "wire.truncated"),
        ("truncated text", b"\x72\x05ab", "text", "wire.truncated"),
        ("truncated fixed", b"\x45\x01", "f32", "wire.truncated"),
        (
            "length of 2^63",
            b"\x72\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
            "text",
            "wire.truncated",
        ),
        (
            "varint of 70 bits",
            b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
            "i64",
            "wire.varint",
        ),
        ("field 0", b"\x00\x01", "", "wire.key"),
        (
            "key of 33 bits",
            b"\x88\x80\x80\x80\x80\x01\x01",
            "",
            "wire.key",
        ),
        ("wire type 7", b"\x17\x01", "i32", "wire.type"),
        (
            "packed fixed broken",
            b"\x92\x02\x03\x01\x02\x03",
            "points",
            "packed.length",
        ),
        (
            "packed varint broken",
            b"\xfa\x01\x01\x80",
            "numbers[0]",
            "wire.truncated",
        ),
        (
            "map key twice",
            b"\xc2\x02\x06\x0a\x01a\x0a\x01b",
            "counts[0].key",
            "field.once",
        ),
        (
            "map value of another type",
            b"\xc2\x02\x05\x0a\x01a\x12\x00",
            "counts[0].value",
            "wire.type",
        ),
        (
            "unknown in a map entry",
            b"\xc2\x02\x05\x0a\x01a\x18\x01",
            "counts[0].field 3",
            "field.unknown",
        ),
    ];
    for (name, data, path, rule) in table {
        let wrong = held.wrong(data, Reject);
        let first = wrong.first().unwrap_or_else(|| panic!("{name} fits"));
        assert_eq!(
            (first.0.as_str(), first.1.as_str()),
            (*path, *rule),
            "{name}: {wrong:?}"
        );
    }
    // What may be kept is let through, and nothing else.
    for (name, data, _, rule) in table {
        let kept = match *rule {
            "field.unknown" => *name != "unknown group",
            "enum.unknown" => true,
            _ => false,
        };
        assert_eq!(held.wrong(data, Keep).is_empty(), kept, "{name}");
    }
}

// EDGE-13
#[test]
fn required_fields_must_be_there() {
    let held = Held::new(
        "syntax = 'proto2'; package t; message M { required int32 a = 1; optional N n = 2; }
         message N { required string b = 1; }",
    );
    let pair = |path: &str| (path.to_owned(), "field.required".to_owned());
    assert_eq!(held.wrong(b"\x08\x01", Reject), []);
    assert_eq!(held.wrong(b"\x12\x00", Reject), [pair("n.b"), pair("a")]);
    assert_eq!(held.wrong(b"\x08\x01\x12\x02\x0a\x00", Reject), []);
}

// EDGE-13
#[test]
fn messages_go_so_deep_and_no_deeper() {
    let held = held();
    let nested = |levels: usize| {
        let mut data = Vec::new();
        for _ in 1..levels {
            let mut outer = Vec::new();
            prost::encoding::encode_key(
                300,
                prost::encoding::WireType::LengthDelimited,
                &mut outer,
            );
            prost::encoding::encode_varint(data.len() as u64, &mut outer);
            outer.append(&mut data);
            data = outer;
        }
        data
    };
    assert_eq!(held.wrong(&nested(DEPTH_MAX), Reject), []);
    let wrong = held.wrong(&nested(DEPTH_MAX + 1), Reject);
    assert_eq!(wrong.len(), 1);
    assert_eq!(wrong[0].1, "message.depth");
    // A long way down costs no stack.
    assert_eq!(held.wrong(&nested(20_000), Reject).len(), 1);
}

// EDGE-13
#[test]
fn messages_of_many_fields_are_walked_too() {
    let fields: String = (1..=500)
        .map(|n| format!("int32 f{n} = {};", n * 7))
        .collect();
    let held = Held::new(&format!(
        "syntax = 'proto3'; package t; message M {{ {fields} }}"
    ));
    let mut data = Vec::new();
    for n in 1..=500_u32 {
        prost::encoding::int32::encode(n * 7, &1, &mut data);
    }
    assert_eq!(held.wrong(&data, Reject), []);
    prost::encoding::int32::encode(499 * 7, &1, &mut data);
    assert_eq!(
        held.wrong(&data, Reject),
        [("f499".to_owned(), "field.once".to_owned())]
    );
    prost::encoding::int32::encode(499 * 7 + 1, &1, &mut data);
    assert_eq!(held.wrong(&data, Reject).len(), 2);
}

// EDGE-13
#[test]
fn at_most_twenty_violations_are_told() {
    let data = b"\x98\x06\x01".repeat(100);
    assert_eq!(held().wrong(&data, Reject).len(), 20);
    assert!(
        held().message.full_name() == "t.M"
            && DynamicMessage::new(held().message.clone()).descriptor() == held().message
    );
}
