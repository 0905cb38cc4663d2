//! Compiles `proto/` with protox, so that no system `protoc` is needed.
//!
//! Two things differ from a plain prost build. Payload-carrying `bytes` become `bytes::Bytes`, so
//! that decoding a frame shares the buffer that the socket filled. And the fields named in
//! [`UNDECODED`] are generated as bytes: the wire form of a message field and of a bytes field is
//! the same, and an envelope must pass through the broker exactly as its producer encoded it.

use std::path::PathBuf;
use std::{env, error::Error, fs};

use prost::Message as _;
use prost_build::Config;
use protox::prost_reflect::prost_types::FileDescriptorSet;
use protox::prost_reflect::prost_types::field_descriptor_proto::Type;

const FILES: &[&str] = &[
    "arqon/v1/envelope.proto",
    "arqon/v1/record.proto",
    "arqon/v1/frames.proto",
    "arqon/v1/cursor.proto",
    "arqon/v1/group.proto",
    "arqon/v1/letter.proto",
    "arqon/v1/backup.proto",
    "arqon/v1/edge.proto",
    "arqon/v1/revocation.proto",
    "arqon/v1/policy.proto",
    "arqon/v1/operator.proto",
    "arqon/v1/casil.proto",
    "arqon/v1/schema.proto",
    "arqon/v1/mirror.proto",
    "arqon/v1/signature.proto",
    "arqon/v1/rate.proto",
    "arqon/v1/audit.proto",
    "arqon/v1/reflex.proto",
    "arqon/pybus/v1/bus_payload.proto",
    "arqon/continuum/v1/episode.proto",
];

/// (message, field) pairs of package `arqon.v1` that Rust code keeps encoded.
const UNDECODED: [(&str, &str); 5] = [
    ("Produce", "envelopes"),
    ("Deliver", "records"),
    ("Record", "envelope"),
    ("Task", "record"),
    ("DeadLetter", "envelope"),
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    #[expect(
        clippy::disallowed_methods,
        reason = "a build artefact need not survive a power cut"
    )]
    fs::write(out.join("arqonbus.fds"), descriptors.encode_to_vec())?;

    keep_undecoded(&mut descriptors);
    Config::new()
        .bytes([".arqon"])
        .btree_map([".arqon"])
        .enum_attribute(
            "arqon.v1.WasmOperatorEvent.change",
            r#"#[expect(clippy::large_enum_variant, reason = "the large one holds a module, beside which it is small")]"#,
        )
        .compile_fds(descriptors)?;
    Ok(())
}

fn keep_undecoded(descriptors: &mut FileDescriptorSet) {
    let messages = descriptors
        .file
        .iter_mut()
        .filter(|file| file.package() == "arqon.v1")
        .flat_map(|file| &mut file.message_type);
    let mut changed = 0;
    for message in messages {
        let name = message.name().to_owned();
        for field in &mut message.field {
            if UNDECODED.contains(&(name.as_str(), field.name())) {
                field.set_type(Type::Bytes);
                field.type_name = None;
                changed += 1;
            }
        }
    }
    assert_eq!(
        changed,
        UNDECODED.len(),
        "a field of UNDECODED is gone from proto/"
    );
}
