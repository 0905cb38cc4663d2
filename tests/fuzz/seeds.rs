//! The inputs that the committed corpus was made of: real files, and the nasty ones that people
//! think of.

use std::fs;
use std::path::{Path, PathBuf};

use arqonbus::log::Sequence;
use arqonbus::log::batch::BatchHeader;
use arqonbus::log::offline::Directory;
use arqonbus::log::scan::{Batch, Scanned};
use arqonbus::log::segment::{self, HEADER_COPY_AT, SegmentHeader};
use arqonbus::proto::v1::policy_verdict::Ruling;
use arqonbus::proto::v1::{
    PolicyAllow, PolicyDeny, PolicyRange, PolicyRedact, PolicyReplace, PolicyVerdict,
};
use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet, MessageOptions,
};

use crate::targets::archive::{DIR, Entry, Kind, Repairs, pack, raw_frame, unpack};
use crate::targets::disk::Disk;
use crate::targets::index_file::LATEST;
use crate::targets::opened::Opened;

type Seed = (String, Vec<u8>);

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// The inputs for `target` by file name.
pub(crate) fn of(target: &str) -> Vec<Seed> {
    match target {
        "client_frame" => frames(&["client_", "envelope_"]),
        "server_frame" => frames(&["server_", "record_"]),
        "record_json" => records(),
        "json_adapter" => json_messages(),
        "descriptors" => descriptors(),
        "policy_answer" => answers(),
        "log_directory" => directories(),
        "log_repair" => broken_directories(),
        "log_index" => indexes(),
        "topic_filter" => filters(),
        "config" => settings(),
        "token" => tokens(),
        _ => panic!("{target} has no seeds"),
    }
}

fn seed(name: &str, bytes: impl Into<Vec<u8>>) -> Seed {
    (name.to_owned(), bytes.into())
}

fn wire(starts: &[&str]) -> Vec<Seed> {
    let mut found = Vec::new();
    for entry in fs::read_dir(fixtures().join("wire/v1")).expect("the fixtures are there") {
        let path = entry.expect("readable").path();
        let name = path.file_stem().and_then(|name| name.to_str());
        let name = name.expect("file names are UTF-8");
        let is_wanted = path.extension().is_some_and(|end| end == "bin")
            && starts.iter().any(|start| name.starts_with(start));
        if is_wanted {
            found.push(seed(name, fs::read(&path).expect("readable")));
        }
    }
    found
}

fn frames(starts: &[&str]) -> Vec<Seed> {
    let mut seeds = wire(starts);
    let python = fs::read(fixtures().join("python_envelope.bin")).expect("readable");
    seeds.extend([
        seed("python_envelope", python),
        seed("group", [0xa3, 0x06, 0xa4, 0x06]),
        seed("nested_groups", [0x0b; 300]),
        seed(
            "endless_varint",
            [
                0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            ],
        ),
        seed(
            "length_beyond_the_end",
            [0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f],
        ),
        seed("field_number_0", [0x00, 0x00]),
        seed(
            "unknown_enum_value",
            [0x08, 0x01, 0x12, 0x04, 0x18, 0xff, 0xff, 0x7f],
        ),
    ]);
    seeds
}

fn json_messages() -> Vec<Seed> {
    let text = |name: &str, text: &str| seed(name, [&[0], text.as_bytes()].concat());
    let mut seeds = wire(&["record_"]);
    for (_, bytes) in &mut seeds {
        bytes.insert(0, 1);
    }
    seeds.extend([
        text(
            "message",
            r#"{"id":"arq_1700000000000_1_0a1b2c","timestamp":"2026-01-31T12:00:00.25+02:00","type":"message","version":"1.0","room":"lab","channel":"a b","payload":{"n":5,"x":[0.5,null,true]},"metadata":{"sequence":9,"vector_clock":{"a":1},"causal_parent_id":"arq_1_2_00ffaa","twist_id":"w"}}"#,
        ),
        text(
            "command_legacy",
            r#"{"type":"command","payload":{"command":"history","parameters":{"limit":3}}}"#,
        ),
        text(
            "response",
            r#"{"type":"response","request_id":"q","status":"success","error_code":"X","from_client":"a","to_client":"b"}"#,
        ),
        text("telemetry", r#"{"type":"telemetry"}"#),
        text("payload_is_a_list", r#"{"type":"message","payload":[1,"a"]}"#),
        text(
            "whole_number_too_large",
            r#"{"type":"message","payload":{"a":[9007199254740993]}}"#,
        ),
        text(
            "numbers_at_the_edges",
            r#"{"type":"message","args":{"a":9007199254740992,"b":-0,"c":1e300,"d":5.0,"e":123456789012345678901234}}"#,
        ),
        text("twice", r#"{"type":"message","type":"error","error":"e"}"#),
        text("deep", &"[".repeat(200)),
        text("nan", r#"{"type":"message","payload":{"a":NaN}}"#),
        text("lone_surrogate", r#"{"type":"message","room":"\ud800"}"#),
        text(
            "all_wrong",
            r#"{"id":5,"timestamp":"soon","type":"event","version":2,"metadata":[]}"#,
        ),
    ]);
    seeds
}

fn records() -> Vec<Seed> {
    let mut seeds = wire(&["record_"]);
    for (_, bytes) in &mut seeds {
        bytes.insert(0, 0);
    }
    let payload = |name: &str, form: u8, bytes: &[u8]| seed(name, [&[form], bytes].concat());
    seeds.extend([
        payload(
            "json_lines",
            0x81,
            b"{\r\n \"a b\" : [1.50,\n \"x\\\" \\\\\" , true ]\n}",
        ),
        payload(
            "json_without_a_type",
            0x01,
            br#"{"z":1.10,"a":12345678901234567890123}"#,
        ),
        payload("json_deep", 0x81, &[b'['; 600]),
        payload(
            "json_deep_and_closed",
            0x81,
            &[[b'['; 200], [b']'; 200]].concat(),
        ),
        payload("json_lone_surrogate", 0x81, br#""\ud800""#),
        payload("json_not_utf8", 0x81, b"\"\xff\xfe\""),
        payload(
            "line_separators",
            0x81,
            "\"\u{2028}\u{2029}\u{85}\"\n".as_bytes(),
        ),
        payload(
            "bus_payload",
            0x03,
            b"\x0a\x0a\x0a\x01a\x12\x05\x12\x03abc\x12\x02\x08\x01",
        ),
        payload("frame_as_payload", 0x05, b"\x08\x01\x12\x02\x08\x03"),
        payload("descriptor_as_payload", 0x07, &descriptors()[0].1),
        payload("bytes", 0x01, &[0xff, 0xfe, 0x00]),
    ]);
    seeds
}

fn descriptors() -> Vec<Seed> {
    let field = |name: &str, number, kind: Type, type_name: Option<&str>| FieldDescriptorProto {
        name: Some(name.into()),
        number: Some(number),
        label: Some(Label::Repeated.into()),
        r#type: Some(kind.into()),
        type_name: type_name.map(str::to_owned),
        ..FieldDescriptorProto::default()
    };
    let file = |name: &str, imports: &[&str], fields: Vec<FieldDescriptorProto>| {
        let entry = DescriptorProto {
            name: Some("EEntry".into()),
            field: vec![
                FieldDescriptorProto {
                    label: Some(Label::Optional.into()),
                    ..field("key", 1, Type::String, None)
                },
                FieldDescriptorProto {
                    label: Some(Label::Optional.into()),
                    ..field("value", 2, Type::Message, Some(".a.M"))
                },
            ],
            options: Some(MessageOptions {
                map_entry: Some(true),
                ..MessageOptions::default()
            }),
            ..DescriptorProto::default()
        };
        FileDescriptorProto {
            name: Some(name.into()),
            package: Some("a".into()),
            dependency: imports.iter().map(|&name| name.to_owned()).collect(),
            message_type: vec![DescriptorProto {
                name: Some("M".into()),
                field: fields,
                nested_type: vec![entry],
                ..DescriptorProto::default()
            }],
            syntax: Some("proto3".into()),
            ..FileDescriptorProto::default()
        }
    };
    let set = |files: Vec<FileDescriptorProto>| FileDescriptorSet { file: files }.encode_to_vec();
    let all = || {
        vec![
            // The same numbers as in a FileDescriptorSet, which is what the payload is.
            field("m", 1, Type::Message, Some(".a.M")),
            field("n", 2, Type::String, None),
            field("b", 3, Type::Bytes, None),
            field("i", 4, Type::Sint64, None),
            field("e", 5, Type::Message, Some(".a.M.EEntry")),
            field("f", 8, Type::Float, None),
        ]
    };
    vec![
        seed("good", set(vec![file("a.proto", &[], all())])),
        seed(
            "import_is_missing",
            set(vec![file("a.proto", &["b.proto"], all())]),
        ),
        seed(
            "imports_itself",
            set(vec![file("a.proto", &["a.proto"], all())]),
        ),
        seed(
            "imports_in_a_ring",
            set(vec![
                file("a.proto", &["b.proto"], all()),
                file("b.proto", &["a.proto"], Vec::new()),
            ]),
        ),
        seed(
            "type_is_missing",
            set(vec![file(
                "a.proto",
                &[],
                vec![field("m", 1, Type::Message, Some(".a.Gone"))],
            )]),
        ),
        seed(
            "field_number_out_of_range",
            set(vec![file(
                "a.proto",
                &[],
                vec![field("m", i32::MIN, Type::Int32, None)],
            )]),
        ),
        seed(
            "the_same_field_twice",
            set(vec![file("a.proto", &[], [all(), all()].concat())]),
        ),
        seed(
            "replaces_a_known_file",
            set(vec![file("arqon/v1/envelope.proto", &[], all())]),
        ),
        seed("empty", Vec::new()),
    ]
}

/// The files of a log that `live` has used and, if `is_closed`, closed.
fn lived(is_closed: bool, live: impl FnOnce(&Opened)) -> Disk {
    let disk = Disk::default();
    let opened = Opened::new(&disk).expect("a sound disk");
    live(&opened);
    if is_closed {
        opened.close();
        return disk;
    }
    let copy = Disk::default();
    for (path, bytes) in disk.files() {
        copy.place(&path, bytes);
    }
    copy
}

/// `session` is what the session's file says; the one of the run names a process by chance.
fn packed(repairs: u8, disk: &Disk, session: &str) -> Vec<u8> {
    let mut entries = Vec::new();
    for (path, bytes) in disk.files() {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.expect("file names are UTF-8");
        let kind = match name.rsplit_once('.') {
            Some((_, "seg")) if segment::base_of(name).is_some() => Kind::Segment,
            Some((_, "idx")) => Kind::Index,
            Some((_, "json")) => Kind::Loss,
            _ => continue,
        };
        let digits: String = name.chars().filter(char::is_ascii_digit).collect();
        entries.push(Entry {
            kind,
            base: digits.parse().expect("a small number"),
            bytes,
        });
    }
    entries.push(Entry {
        kind: Kind::Session,
        base: 0,
        bytes: session.as_bytes().to_vec(),
    });
    pack(repairs, &entries)
}

fn some_appends(opened: &Opened) {
    for topic in ["a", "quake.ak", "a", "order.created", "quake.ak"] {
        opened.append(topic, b"some payload bytes");
    }
}

fn many_appends(opened: &Opened) {
    for _ in 0..12 {
        opened.append("a", &[0x5a; 700]);
        opened.append("b.c", &[0xa5; 300]);
    }
}

fn golden(ending: &str, wanted: &str) -> Disk {
    let disk = Disk::default();
    for entry in fs::read_dir(fixtures().join("log/v1").join(ending)).expect("readable") {
        let entry = entry.expect("readable");
        if entry.file_name().to_string_lossy().contains(wanted) {
            let bytes = fs::read(entry.path()).expect("readable");
            disk.place(&Path::new(DIR).join(entry.file_name()), bytes);
        }
    }
    disk
}

/// A copy of `disk` with the file of the segment at `base` changed.
fn changed(disk: &Disk, base: u64, change: impl Fn(&mut Vec<u8>)) -> Disk {
    let copy = Disk::default();
    let name = segment::file_name(Sequence::new(base).expect("a position"));
    for (path, mut bytes) in disk.files() {
        if path.ends_with(&name) {
            change(&mut bytes);
        }
        copy.place(&path, bytes);
    }
    copy
}

/// How the first segment of a log is written again.
#[derive(Clone, Copy)]
enum Form {
    /// Every second record is gone.
    Holes,
    /// The records of a batch are lost.
    Lost,
    /// One compressed batch, whose records can be seen in it.
    Compressed,
    /// The same without every second record.
    CompressedHoles,
    /// A body that claims, and is, far more than its bytes.
    Bomb,
    /// A key that nobody has.
    Encrypted,
}

const FLAG_HOLES: u16 = 4;
const FLAG_COMPRESSED: u16 = 8;
const FLAG_ENCRYPTED: u16 = 16;
const FLAG_LOST: u16 = 32;

/// A zstd frame of blocks that are one byte each, and zeros when they are decoded.
fn bomb(len: u32) -> Vec<u8> {
    const BLOCK_BYTES: u32 = 128 << 10;
    let blocks = len / BLOCK_BYTES;
    let mut body = raw_frame(&[]);
    body.truncate(body.len() - 3);
    body[..4].copy_from_slice(&len.to_le_bytes());
    let frame_len = body.len() - 4;
    body[frame_len..].copy_from_slice(&len.to_le_bytes());
    for block in 1..=blocks {
        let is_last = u32::from(block == blocks);
        let repeated = BLOCK_BYTES << 3 | 1 << 1 | is_last;
        body.extend_from_slice(&repeated.to_le_bytes()[..3]);
        body.push(0);
    }
    body
}

/// `disk` with its first segment written again; its checksums are made right when it is unpacked.
fn rewritten(disk: &Disk, form: Form) -> Disk {
    let directory = Directory::open(disk, Path::new(DIR)).expect("a sound disk");
    let first = &directory.segments[0];
    let batches: Vec<Batch> = first
        .scan()
        .filter_map(|scanned| match scanned {
            Scanned::Batch(batch) if !batch.header.is_mark() => Some(batch),
            Scanned::Batch(_) | Scanned::Damaged(_) | Scanned::End(_) => None,
        })
        .collect();
    let last = batches.last().expect("records");
    let end = last.header.end();
    let mut header = SegmentHeader {
        flags: 1,
        generation: 1,
        sealed_root: last.next_chain,
        end: end.get(),
        ..first.header.clone().expect("a good header")
    };
    let all: Vec<u8> = batches
        .iter()
        .flat_map(|batch| batch.body.to_vec())
        .collect();
    let half = |batches: &[Batch]| -> Vec<u8> {
        let kept = batches.iter().step_by(2);
        kept.flat_map(|batch| batch.body.to_vec()).collect()
    };
    let count = u32::try_from(end.since(header.base)).expect("few");
    let whole = |flags: u16, body: Vec<u8>| vec![(header.base, count, flags, body)];
    let contents = match form {
        Form::Holes => whole(FLAG_HOLES, half(&batches)),
        Form::Compressed => whole(FLAG_COMPRESSED, raw_frame(&all)),
        Form::CompressedHoles => whole(FLAG_COMPRESSED | FLAG_HOLES, raw_frame(&half(&batches))),
        Form::Bomb => whole(FLAG_COMPRESSED, bomb(32 << 20)),
        Form::Encrypted => whole(FLAG_ENCRYPTED, vec![0xc5; 300]),
        Form::Lost => batches
            .iter()
            .map(|batch| {
                let (base, count) = (batch.header.base, batch.header.count);
                if base.get() == 3 {
                    (
                        base,
                        count,
                        FLAG_LOST,
                        b"body checksum at byte 5000".to_vec(),
                    )
                } else {
                    (base, count, 0, batch.body.to_vec())
                }
            })
            .collect(),
    };
    match form {
        Form::Holes | Form::Lost => {}
        Form::Compressed | Form::CompressedHoles | Form::Bomb => header.flags |= 2,
        Form::Encrypted => (header.key_id, header.salt) = ([0xa5; 16], [0x5a; 16]),
    }
    let mut bytes = header.block();
    for (base, count, flags, body) in contents {
        let head = BatchHeader {
            body_len: u32::try_from(body.len()).expect("small"),
            base,
            count,
            flags,
            ..batches[0].header.clone()
        };
        bytes.extend_from_slice(&head.encode());
        bytes.extend_from_slice(&body);
    }
    let copy = disk.copy();
    copy.place(&first.path, bytes);
    copy
}

/// Its checksums are as they are on the disk.
fn damaged_first(disk: &Disk, damage: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    packed(Repairs::NONE, &changed(disk, 1, damage), PROCESS_DIED)
}

fn broken_directories() -> Vec<Seed> {
    let short = lived(false, some_appends);
    let long = lived(true, many_appends);
    let lost = rewritten(&long, Form::Lost);
    let without_first = Disk::default();
    for (path, bytes) in long.files().into_iter().skip(2) {
        without_first.place(&path, bytes);
    }
    let body = 4096 + 64 + 20;
    vec![
        seed("sound", packed(Repairs::ALL, &long, PROCESS_DIED)),
        seed("torn", damaged_first(&short, |bytes| bytes[body] ^= 1)),
        seed("body", damaged_first(&long, |bytes| bytes[body] ^= 1)),
        seed(
            "both_headers",
            damaged_first(&long, |bytes| {
                bytes[40] ^= 1;
                bytes[HEADER_COPY_AT + 40] ^= 1;
            }),
        ),
        seed(
            "shortened",
            damaged_first(&long, |bytes| bytes.truncate(5500)),
        ),
        seed(
            "only_segment_without_header",
            damaged_first(&short, |bytes| {
                bytes[..256].fill(0x11);
                bytes[HEADER_COPY_AT..HEADER_COPY_AT + 256].fill(0x11);
            }),
        ),
        seed(
            "closed_later",
            packed(
                Repairs::ALL,
                &short,
                "boot\n0000000000000001\nclosed at 900\n",
            ),
        ),
        seed(
            "rewritten_with_lost_records",
            packed(Repairs::ALL, &lost, PROCESS_DIED),
        ),
        seed(
            "without_its_first_segment",
            packed(Repairs::ALL, &without_first, PROCESS_DIED),
        ),
    ]
}

const PROCESS_DIED: &str = "boot\n0000000000000001\n";
const MACHINE_DIED: &str = "other\n0000000000000001\n";

fn directories() -> Vec<Seed> {
    let closed = lived(true, some_appends);
    let killed = lived(false, some_appends);
    let long = lived(true, many_appends);
    let all = Repairs::ALL;
    let again = |name: &str, form| {
        let disk = rewritten(&long, form);
        seed(
            &format!("rewritten_{name}"),
            packed(all, &disk, PROCESS_DIED),
        )
    };
    let body = 4096 + 64 + 20;
    vec![
        seed("nothing", [Repairs::NONE]),
        seed(
            "closed",
            packed(all, &closed, "boot\n0000000000000001\nclosed at 6\n"),
        ),
        seed(
            "closed_later",
            packed(all, &closed, "boot\n0000000000000001\nclosed at 9\n"),
        ),
        seed("killed", packed(all, &killed, PROCESS_DIED)),
        seed("power_cut", packed(Repairs::NONE, &killed, MACHINE_DIED)),
        seed("several_segments", packed(all, &long, PROCESS_DIED)),
        seed(
            "several_segments_as_they_are",
            packed(Repairs::NONE, &long, PROCESS_DIED),
        ),
        seed(
            "damaged_body",
            packed(
                Repairs::NONE,
                &changed(&killed, 1, |bytes| bytes[body] ^= 1),
                PROCESS_DIED,
            ),
        ),
        seed(
            "damaged_header",
            packed(
                Repairs::NONE,
                &changed(&long, 1, |bytes| {
                    bytes[40] ^= 1;
                    bytes[HEADER_COPY_AT + 40] ^= 1;
                }),
                PROCESS_DIED,
            ),
        ),
        seed(
            "a_sector_in_the_wrong_place",
            packed(
                Repairs::NONE,
                &changed(&long, 1, |bytes| bytes.copy_within(4608..5120, 5632)),
                PROCESS_DIED,
            ),
        ),
        seed(
            "shortened",
            packed(
                Repairs::NONE,
                &changed(&long, 1, |bytes| bytes.truncate(4352)),
                PROCESS_DIED,
            ),
        ),
        seed(
            "zeros_in_the_middle",
            packed(
                Repairs::NONE,
                &changed(&killed, 1, |bytes| bytes[4096 + 200..4096 + 500].fill(0)),
                MACHINE_DIED,
            ),
        ),
        seed(
            "first_header_is_mended_from_its_copy",
            damaged_first(&long, |bytes| bytes[40] ^= 1),
        ),
        seed(
            "copy_of_the_header_is_damaged",
            damaged_first(&long, |bytes| bytes[HEADER_COPY_AT + 40] ^= 1),
        ),
        again("holes", Form::Holes),
        again("lost", Form::Lost),
        again("compressed", Form::Compressed),
        again("compressed_with_holes", Form::CompressedHoles),
        again("compressed_bomb", Form::Bomb),
        again("encrypted_without_key", Form::Encrypted),
        seed(
            "version_1_closed_end",
            packed(all, &golden("closed", "109."), PROCESS_DIED),
        ),
        seed(
            "version_1_killed_end",
            packed(Repairs::NONE, &golden("killed", "109."), PROCESS_DIED),
        ),
        seed(
            "version_1_sealed",
            packed(all, &golden("closed", "055."), PROCESS_DIED),
        ),
    ]
}

fn indexes() -> Vec<Seed> {
    let path = fixtures().join("log/v1/closed/00000000000000000055.idx");
    let good = fs::read(path).expect("readable");
    let other = fixtures().join("log/v1/closed/00000000000000000001.idx");
    let other = fs::read(other).expect("readable");
    let with = |first: u8, bytes: &[u8]| [&[first], bytes].concat();
    let counts = [
        b"ARQONIDX\x01\x80\x80\x01\x6d\x80\x40\x00".as_slice(),
        &[0xff; 9],
        &[0x01; 8],
    ];
    vec![
        seed("good", with(1, &good)),
        seed("good_as_it_is", with(0, &good)),
        seed("of_another_segment", with(0, &other)),
        seed("half", with(1, &good[..good.len() / 2])),
        seed("version_2", with(3, &LATEST.index)),
        seed("version_2_as_it_is", with(2, &LATEST.index)),
        seed("version_1_of_a_segment_of_version_2", with(3, &good)),
        seed("more_points_than_bytes", with(1, &counts.concat())),
        seed("empty", with(1, &[])),
    ]
}

/// A payload of ten bytes, and what a policy answers to it.
fn answers() -> Vec<Seed> {
    let answer = |name: &str, ruling: Option<Ruling>, tags: &[&str]| {
        let tags = tags.iter().map(|&tag| tag.to_owned()).collect();
        let verdict = PolicyVerdict { ruling, tags };
        seed(
            name,
            [b"\x0a0123456789", &verdict.encode_to_vec()[..]].concat(),
        )
    };
    let deny = |code: &str, message: &str| {
        let (code, message) = (code.to_owned(), message.to_owned());
        Some(Ruling::Deny(PolicyDeny { code, message }))
    };
    let redact = |ranges: &[(u32, u32, &'static str)]| {
        let range = |&(start, end, with): &(u32, u32, &'static str)| PolicyRange {
            start,
            end,
            with: with.into(),
        };
        let ranges = ranges.iter().map(range).collect();
        Some(Ruling::Redact(PolicyRedact { ranges }))
    };
    let replace = |data: &'static str| Some(Ruling::Replace(PolicyReplace { data: data.into() }));
    vec![
        answer(
            "allow",
            Some(Ruling::Allow(PolicyAllow {})),
            &["a", "b:c", "a"],
        ),
        answer("no_ruling", None, &["a"]),
        answer("a_tag_that_is_none", None, &["with space"]),
        answer("deny", deny("malware", "no \u{1b}[31mway"), &[]),
        answer("a_code_that_is_none", deny("no spaces", ""), &[]),
        answer("mask", redact(&[(0, 2, ""), (9, 10, "")]), &["x"]),
        answer(
            "other_words",
            redact(&[(0, 2, "x"), (2, 2, "yz"), (4, 10, "w")]),
            &[],
        ),
        answer("beyond_the_end", redact(&[(9, 11, "")]), &[]),
        answer("backwards", redact(&[(4, 6, ""), (0, 1, "")]), &[]),
        answer("upside_down", redact(&[(6, 4, "")]), &[]),
        answer("no_range", redact(&[]), &[]),
        answer("replace", replace("another"), &[]),
        seed("no_verdict", *b"\x00not a verdict"),
    ]
}

fn filters() -> Vec<Seed> {
    let deep = |tokens: usize| vec!["a"; tokens].join(".");
    vec![
        seed(
            "usual",
            "quake.*.event\nquake.>\nquake.usgs.event\nquake.a\norder.created\nquake",
        ),
        seed("everything", ">\n*\na\nsys\nsys.log\na.sys.log"),
        seed("system", "sys.>\n*.log\nsys.log\nsys\nsys.a.b"),
        seed("wildcards_inside_tokens", "a.b*\na>.b\na.b"),
        seed("rest_in_the_middle", "a.>.b\n>.>\na.x.b"),
        seed("empty_tokens", ".a\na..b\na.\n.\n"),
        seed(
            "deepest",
            format!("{}\n{}.>\n{}", deep(32), deep(31), deep(32)),
        ),
        seed("too_deep", format!("{}\n*\n{}", deep(33), deep(33))),
        seed(
            "longest",
            format!("{}\n>\n{}", "x".repeat(255), "x".repeat(256)),
        ),
        seed("other_alphabets", "日本.*\na b\na\tb\n"),
    ]
}

fn settings() -> Vec<Seed> {
    vec![
        seed(
            "usual",
            "[node]\ndata_dir = \"/var/lib/arqonbus\"\n\n[log]\nsegment_bytes = 1048576\n\n\
             [[auth.keys]]\nid = \"k\"\nalgorithm = \"ES256\"\nfile = \"key.pem\"\n",
        ),
        seed(
            "environment",
            "\0ARQONBUS_LOG_FLUSH_AFTER_MS=5\nARQONBUS_TRACE_FORMAT=json\n",
        ),
        seed(
            "service_of_a_platform",
            "\0ARQONBUS_SERVICE_HOST=10.0.0.1\nARQONBUS_PORT=tcp://x\n",
        ),
        seed("typing_error", "[log]\nsegment_byte = 1\n[lgo]\n"),
        seed(
            "out_of_bounds",
            "[limits]\nmessage_bytes_max = 0\nsessions_max = -1\n",
        ),
        seed(
            "wrong_types",
            "[limits]\nmessage_bytes_max = \"8\"\n[edge]\nallowed_origins = 5\n",
        ),
        seed(
            "contradiction",
            "[log]\nsegment_bytes = 65536\nsegment_bytes_first = 1048576\n",
        ),
        seed(
            "largest_numbers",
            "[limits]\ncredit_bytes = 9223372036854775807\n",
        ),
        seed("no_table", "log = 5\nauth.keys = [1]\n\"\" = 1\n"),
        seed("not_toml", "[[[\n= =\n"),
        seed("twice", "[log]\n[log]\n"),
        seed(
            "deep",
            format!("a = {}{}\n", "[".repeat(200), "]".repeat(200)),
        ),
        seed("not_utf8", [0x5b, 0xff, 0xfe, 0x5d]),
        seed("port", "[ops]\nlisten = \"127.0.0.1:0\"\n"),
    ]
}

fn tokens() -> Vec<Seed> {
    let header = r#"{"alg":"HS256","kid":"hs","typ":"JWT"}"#;
    let claims = r#"{"iss":"arqonbus","aud":"arqonbus","sub":"alice","tenant":"acme","role":"user","iat":1799999990,"exp":1800003600}"#;
    let form = |name: &str, form: u8, header: &str, claims: &str| {
        seed(
            name,
            [&[form], header.as_bytes(), &[0], claims.as_bytes()].concat(),
        )
    };
    let text = |name: &str, text: &str| seed(name, [&[0], text.as_bytes()].concat());
    let lists = claims.replace(
        r#""aud":"arqonbus""#,
        r#""aud":["x","arqonbus"],"nbf":1800000000"#,
    );
    vec![
        form("good", 1, header, claims),
        form("lists", 1, header, &lists),
        form(
            "signed_by_a_public_key",
            2,
            &header.replace("hs", "rs"),
            claims,
        ),
        form("signed_by_nothing", 3, header, claims),
        form("none", 3, r#"{"alg":"none"}"#, claims),
        form(
            "critical",
            1,
            r#"{"alg":"HS256","kid":"hs","crit":["x"]}"#,
            claims,
        ),
        form(
            "largest_times",
            1,
            header,
            &claims.replace("1800003600", "18446744073709551615"),
        ),
        form(
            "negative_time",
            1,
            header,
            &claims.replace("1799999990", "-1"),
        ),
        form(
            "fraction",
            1,
            header,
            &claims.replace("1800003600", "1.8e9"),
        ),
        form(
            "twice",
            1,
            header,
            &claims.replace('}', r#","exp":1,"exp":1800003600}"#),
        ),
        form("deep", 1, header, &"[".repeat(500)),
        text("empty", ""),
        text("dots", "..."),
        text("not_base64", "!!!.???.==="),
        text(
            "header_only",
            "eyJhbGciOiJIUzI1NiIsImtpZCI6ImhzIn0.e30.AAAA",
        ),
        text(
            "elliptic_zero_signature",
            &format!("eyJhbGciOiJFUzI1NiIsImtpZCI6ImVzIn0.e30.{}", "A".repeat(86)),
        ),
        text(
            "edwards_zero_signature",
            &format!("eyJhbGciOiJFZERTQSIsImtpZCI6ImVkIn0.e30.{}", "A".repeat(86)),
        ),
    ]
}

// REL-05: the repairs lead mutations behind the checksums; without them a damaged copy of the same
// files is seen as damaged.
#[test]
fn repairs_make_every_checksum_right() {
    use arqonbus::log::offline::{Directory, IndexCheck};
    use arqonbus::log::scan::Scanned;

    let disk = lived(true, many_appends);
    let name = segment::file_name(Sequence::FIRST);
    let path = Path::new(DIR).join(&name);
    let mut damaged = disk.files()[&path].clone();
    // Checksums of the segment header, of the first batch header with its body and chain, and of
    // the first record.
    for at in [252, HEADER_COPY_AT + 252, 4096 + 4, 4096 + 12, 4096 + 56] {
        damaged[at] ^= 0xff;
    }
    disk.place(&path, damaged);
    let index = path.with_extension("idx");
    let mut bytes = disk.files()[&index].clone();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    disk.place(&index, bytes);

    for (repairs, is_good) in [(Repairs::ALL, true), (Repairs::NONE, false)] {
        let disk = unpack(&packed(repairs, &disk, "boot\n"));
        let directory = Directory::open(&disk, Path::new(DIR)).expect("a sound disk");
        let first = &directory.segments[0];
        let found: Vec<Scanned> = first.scan().collect();
        let damages = found.iter().filter(|s| matches!(s, Scanned::Damaged(_)));
        assert_eq!(first.header_damage.is_none(), is_good);
        assert_eq!(damages.count() == 0, is_good, "{found:?}");
        let check = first.check_index(&disk).expect("a sound disk");
        assert_eq!(
            matches!(check, IndexCheck::Damaged(_)),
            !is_good,
            "{check:?}"
        );
        let records = found.iter().any(|scanned| match scanned {
            Scanned::Batch(batch) => batch.records().all(|record| record.is_intact()),
            Scanned::Damaged(_) | Scanned::End(_) => false,
        });
        assert!(records);
    }
}
