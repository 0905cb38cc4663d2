//! MSG-01 against Python's protobuf package: both sides write, both sides read.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use arqonbus::proto::pybus::BusPayload;
use arqonbus::proto::v1::{
    ClientFrame, Deliver, Envelope, Produce, ServerFrame, client_frame, server_frame,
};
use arqonbus::proto::view::{EnvelopeView, Payload, RecordView};
use bytes::Bytes;
use prost::Message as _;
use prost_types::value::Kind;

use crate::interpreter::{python, run};
use crate::samples;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Every file of the contract.
fn proto_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(proto_files(&path));
        } else if path.extension().is_some_and(|end| end == "proto") {
            files.push(path);
        }
    }
    files
}

/// A directory with the modules that `grpc_tools.protoc` makes of `proto/`.
fn compile(python: &Path) -> tempfile::TempDir {
    let generated = tempfile::tempdir().unwrap();
    let proto = Path::new(ROOT).join("proto");
    run(Command::new(python)
        .args(["-m", "grpc_tools.protoc"])
        .arg(format!("--proto_path={}", proto.display()))
        .arg(format!("--python_out={}", generated.path().display()))
        .args(proto_files(&proto)));
    generated
}

#[expect(
    clippy::disallowed_methods,
    reason = "files of a test need not survive a power cut"
)]
fn write(dir: &Path, name: &str, bytes: &[u8]) {
    fs::write(dir.join(name), bytes).unwrap();
}

// MSG-01
#[test]
fn python_and_rust_read_each_other() {
    let python = python();
    let generated = compile(&python);
    let script = Path::new(ROOT).join("tests/contract/roundtrip.py");
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let call = |mode: &str| {
        run(Command::new(&python)
            .arg(&script)
            .arg(generated.path())
            .arg(mode)
            .arg(dir));
    };
    let read = |name: &str| Bytes::from(fs::read(dir.join(name)).unwrap());

    call("write");
    for (name, wanted) in samples::envelopes() {
        let bytes = read(&format!("{name}.bin"));
        assert_eq!(
            Envelope::decode(bytes.clone()).unwrap(),
            wanted,
            "{name} from Python"
        );
        assert_view(&EnvelopeView::parse(&bytes).unwrap(), &wanted);
    }
    let unknown = read("unknown.bin");
    assert_eq!(Envelope::decode(unknown.clone()).unwrap(), samples::event());
    assert_eq!(EnvelopeView::parse(&unknown).unwrap().encoded, &unknown[..]);
    assert_batch(&read("produce.bin"));
    assert_bus_payload(&BusPayload::decode(read("bus_payload.bin")).unwrap());

    for (name, envelope) in samples::envelopes() {
        write(dir, &format!("{name}.bin"), &envelope.encode_to_vec());
    }
    let produce = Produce {
        envelopes: vec![unknown.clone()],
        ..Produce::default()
    };
    let frame = ClientFrame {
        request_id: 1,
        body: Some(client_frame::Body::Produce(produce)),
    };
    write(dir, "produce_unknown.bin", &frame.encode_to_vec());
    write(dir, "record_unknown.bin", &samples::record(1, unknown));
    let event: Bytes = samples::event().encode_to_vec().into();
    let records = (1..=2).map(|sequence| samples::record(sequence, event.clone()).into());
    let deliver = Deliver {
        records: records.collect(),
        next: 3,
        ..Deliver::default()
    };
    let frame = ServerFrame {
        request_id: 0,
        body: Some(server_frame::Body::Deliver(deliver)),
    };
    write(dir, "deliver.bin", &frame.encode_to_vec());
    RecordView::parse(&samples::record(1, event))
        .unwrap()
        .verify()
        .unwrap();
    call("check");
}

fn assert_view(view: &EnvelopeView<'_>, wanted: &Envelope) {
    let Envelope {
        trace_id,
        tenant_id,
        room_id,
        timestamp,
        twist_id,
        headers,
        signature,
        id,
        topic,
        producer_id,
        reality_id,
        producer_sequence,
        clock,
        key,
        schema,
        expires_at,
        spectral,
        deliver_at,
        payload: _,
    } = wanted;
    assert_eq!(
        (view.trace_id, view.tenant_id, view.room_id),
        (&**trace_id, &**tenant_id, &**room_id)
    );
    assert_eq!((view.timestamp, view.twist_id), (*timestamp, &**twist_id));
    assert_eq!(view.headers.len(), headers.len());
    for (name, value) in headers {
        assert_eq!(view.headers.get(name), Some(&**value));
    }
    assert_eq!(view.signature, &signature[..]);
    assert_eq!(
        (view.id, view.topic, view.producer_id),
        (&**id, &**topic, &**producer_id)
    );
    assert_eq!(
        (view.reality_id, view.producer_sequence),
        (&**reality_id, *producer_sequence)
    );
    assert_eq!(view.clock.map(|clock| clock.to_message()), *clock);
    assert_eq!(
        (view.key, view.schema, view.expires_at),
        (&**key, &**schema, *expires_at)
    );
    assert_eq!(view.spectral.is_some(), spectral.is_some());
    assert_eq!(view.deliver_at, *deliver_at);
    assert_eq!(view.payload == Payload::Empty, wanted.payload.is_none());
}

fn assert_batch(bytes: &Bytes) {
    let frame = ClientFrame::decode(bytes.clone()).unwrap();
    assert_eq!(frame.request_id, 7);
    let Some(client_frame::Body::Produce(produce)) = frame.body else {
        panic!("{frame:?}")
    };
    assert_eq!(produce.reality, "main");
    let envelopes: Vec<Envelope> = produce
        .envelopes
        .iter()
        .map(|bytes| Envelope::decode(bytes.clone()).unwrap())
        .collect();
    assert_eq!(envelopes, [samples::event(), samples::command()]);
}

fn assert_bus_payload(payload: &BusPayload) {
    assert_eq!(
        (&*payload.envelope_id, &*payload.envelope_type),
        ("arq_1", "message")
    );
    let fields = &payload.payload.as_ref().unwrap().fields;
    assert_eq!(
        fields["text"].kind,
        Some(Kind::StringValue("ünïcode".into()))
    );
    assert_eq!(fields["n"].kind, Some(Kind::NumberValue(5.0)));
    let Some(Kind::ListValue(list)) = &fields["list"].kind else {
        panic!("{fields:?}")
    };
    assert_eq!(list.values.len(), 3);
    assert_eq!(
        payload.args.as_ref().unwrap().fields["limit"].kind,
        Some(Kind::NumberValue(10.0))
    );
}
