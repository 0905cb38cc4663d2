//! Field numbers and types that never change, compared with the compiled contract.

use std::collections::BTreeMap;

use arqonbus::proto::DESCRIPTORS;
use prost_reflect::{DescriptorPool, MessageDescriptor};

/// Number, name and type.
type Field = (u32, &'static str, &'static str);

/// Message: number, name and type of each field. A number is never given to another field.
const FIXED: [(&str, &[Field]); 7] = [
    (
        "arqon.v1.Envelope",
        &[
            (1, "trace_id", "string"),
            (2, "tenant_id", "string"),
            (3, "room_id", "string"),
            (4, "timestamp", "int64"),
            (5, "twist_id", "string"),
            (6, "headers", "map"),
            (10, "signature", "bytes"),
            (20, "cmd", "arqon.v1.Command"),
            (21, "event", "arqon.v1.Event"),
            (22, "signal", "arqon.v1.SystemSignal"),
            (30, "id", "string"),
            (31, "topic", "string"),
            (32, "producer_id", "string"),
            (33, "reality_id", "string"),
            (34, "producer_sequence", "uint64"),
            (35, "clock", "arqon.v1.VectorClock"),
            (36, "key", "string"),
            (37, "schema", "string"),
            (38, "expires_at", "int64"),
            (39, "spectral", "arqon.v1.SpectralMetadata"),
            (40, "deliver_at", "int64"),
        ],
    ),
    (
        "arqon.v1.Command",
        &[(1, "type", "string"), (2, "data", "bytes")],
    ),
    (
        "arqon.v1.Event",
        &[(1, "type", "string"), (2, "data", "bytes")],
    ),
    (
        "arqon.v1.SystemSignal",
        &[
            (1, "type", "arqon.v1.SystemSignal.Type"),
            (2, "reason", "string"),
        ],
    ),
    ("arqon.v1.VectorClock", &[(1, "entries", "map")]),
    (
        "arqon.v1.SpectralMetadata",
        &[
            (1, "coherence", "float"),
            (2, "criticality", "float"),
            (3, "eigenvalues", "float"),
        ],
    ),
    (
        "arqon.v1.Record",
        &[
            (1, "sequence", "uint64"),
            (2, "appended_at", "fixed64"),
            (3, "clock", "arqon.v1.VectorClock"),
            (4, "topic", "string"),
            (5, "id", "bytes"),
            (6, "producer_id", "string"),
            (7, "verdict", "arqon.v1.Verdict"),
            (8, "envelope", "arqon.v1.Envelope"),
            (15, "crc", "fixed32"),
        ],
    ),
];

fn pool() -> DescriptorPool {
    DescriptorPool::decode(DESCRIPTORS).unwrap()
}

fn fields(message: &MessageDescriptor) -> Vec<(u32, String, String)> {
    let kind = |field: &prost_reflect::FieldDescriptor| match field.kind() {
        _ if field.is_map() => "map".to_owned(),
        prost_reflect::Kind::Message(message) => message.full_name().to_owned(),
        prost_reflect::Kind::Enum(values) => values.full_name().to_owned(),
        scalar => format!("{scalar:?}").to_lowercase(),
    };
    let mut fields: Vec<_> = message
        .fields()
        .map(|field| (field.number(), field.name().to_owned(), kind(&field)))
        .collect();
    fields.sort();
    fields
}

// MSG-01
#[test]
fn the_numbers_of_the_contract_are_the_fixed_ones() {
    let pool = pool();
    for (name, wanted) in FIXED {
        let message = pool
            .get_message_by_name(name)
            .unwrap_or_else(|| panic!("{name} is gone"));
        let wanted: Vec<_> = wanted
            .iter()
            .map(|&(n, name, kind)| (n, name.to_owned(), kind.to_owned()))
            .collect();
        assert_eq!(fields(&message), wanted, "{name}");
    }
}

// MSG-01
#[test]
fn signals_keep_their_values() {
    let signal = pool()
        .get_enum_by_name("arqon.v1.SystemSignal.Type")
        .unwrap();
    let values: BTreeMap<i32, String> = signal
        .values()
        .map(|value| (value.number(), value.name().to_owned()))
        .collect();
    let wanted = [(0, "UNKNOWN"), (1, "DISCONNECT"), (2, "BAN")];
    assert_eq!(
        values,
        wanted
            .map(|(number, name)| (number, name.to_owned()))
            .into()
    );
}
