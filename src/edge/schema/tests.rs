//! What the tests of the registry share: schemas from the text of `.proto` files.

use prost::Message as _;
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};

use super::journal::Change;
use crate::broker::journal::Event;
use crate::edge::shield::Rules;
use crate::log::{Micros, Sequence};
use crate::proto::v1::{
    SchemaBound, SchemaMessage, SchemaRegistered, schema_bound, schema_registered,
};

struct Text(String);

impl FileResolver for Text {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        if name == "t.proto" {
            return File::from_source(name, &self.0);
        }
        Err(protox::Error::file_not_found(name))
    }
}

/// An encoded descriptor set of a file with this text.
pub(super) fn compiled(text: &str) -> Vec<u8> {
    let mut resolver = ChainFileResolver::new();
    resolver.add(Text(text.to_owned()));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = Compiler::with_file_resolver(resolver);
    compiler.include_imports(true);
    compiler.open_file("t.proto").expect(text);
    compiler.file_descriptor_set().encode_to_vec()
}

/// A message with every kind of field.
pub(super) const EVERYTHING: &str = r#"
syntax = "proto3"; package t;
message M {
  bool flag = 1; int32 i32 = 2; int64 i64 = 3; uint32 u32 = 4; uint64 u64 = 5;
  sint32 s32 = 6; sint64 s64 = 7; fixed32 f32 = 8; fixed64 f64 = 9; sfixed32 sf32 = 10;
  sfixed64 sf64 = 11; float f = 12; double d = 13; string text = 14; bytes raw = 15;
  Colour colour = 16; Line line = 17; optional string maybe = 18;
  oneof choice { string word = 20; Line other = 21; Colour shade = 22; }
  repeated Line lines = 30; repeated int32 numbers = 31; repeated int32 loose = 32 [packed = false];
  repeated string words = 33; repeated double points = 34; repeated Colour colours = 35;
  map<string, int64> counts = 40; map<int32, Line> by_number = 41;
  M inner = 300;
}
message Line { string sku = 1; uint32 quantity = 2; repeated bool flags = 3; }
enum Colour { NONE = 0; RED = 1; BLUE = 5; BELOW = -3; }
"#;

/// Puts a change in force, by way of its event.
pub(super) fn applied(rules: &mut Rules, change: &Change) {
    let event = change.event();
    let event = Event {
        sequence: Sequence::FIRST,
        at: Micros(1),
        topic: &event.topic,
        kind: event.kind,
        data: &event.data,
    };
    rules.apply(&event).expect("it can be put in force");
}

/// The event of a version of `subject`, the message `t.M` of `descriptors`.
pub(super) fn registered(subject: &str, version: u64, descriptors: &[u8]) -> Change {
    let form = SchemaMessage {
        descriptors: descriptors.to_vec().into(),
        message: "t.M".into(),
    };
    let change = SchemaRegistered {
        version,
        mode: super::Mode::default().stored().into(),
        form: Some(schema_registered::Form::Protobuf(form)),
    };
    Change::Registered(subject.to_owned(), change)
}

/// The event that binds `pattern` to `subject`.
pub(super) fn bound(pattern: &str, subject: &str) -> Change {
    Change::Bound(SchemaBound {
        pattern: pattern.to_owned(),
        subject: subject.to_owned(),
        level: schema_bound::Level::Reject.into(),
        unknown: schema_bound::Unknown::Reject.into(),
        ..SchemaBound::default()
    })
}
