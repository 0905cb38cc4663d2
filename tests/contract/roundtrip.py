"""The Python half of the contract tests: MSG-01.

    roundtrip.py GENERATED write DIR    writes messages for Rust to read
    roundtrip.py GENERATED check DIR    checks messages that Rust wrote

GENERATED holds the modules compiled from proto/. The values stand here a second time on purpose:
see samples.rs.
"""

import pathlib
import sys
import zlib

generated, mode, folder = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
sys.path.insert(0, generated)

from arqon.pybus.v1 import bus_payload_pb2  # noqa: E402
from arqon.v1 import envelope_pb2, frames_pb2, record_pb2  # noqa: E402

U64_MAX = 2**64 - 1

event = envelope_pb2.Envelope(
    trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
    tenant_id="acme",
    room_id="ops",
    timestamp=1771545600123,
    twist_id="tw-1",
    headers={
        "content-type": "application/json",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "ünïcode": "日本 🌋",
    },
    signature=bytes(range(64)),
    event=envelope_pb2.Event(
        type="quake.usgs.event",
        data=b'{"mag":0.31,"place":"Amboy"}\x00\xff',
    ),
    id="01977e5a-0000-7000-8000-00000000002a",
    topic="quake.usgs.event",
    producer_id="seismometer-7",
    reality_id="main",
    producer_sequence=U64_MAX,
    clock=envelope_pb2.VectorClock(entries={"node/main": 41, "seismometer-7": U64_MAX}),
    key="uw61345682",
    schema="arqon.pybus.v1.BusPayload",
    expires_at=-1,
    spectral=envelope_pb2.SpectralMetadata(
        coherence=0.5, criticality=-2.25, eigenvalues=[1.0, 0.125, -3.5]
    ),
)
command = envelope_pb2.Envelope(
    trace_id="arq_1", timestamp=-(2**63), cmd=envelope_pb2.Command(type="status")
)
signal = envelope_pb2.Envelope(
    timestamp=2**63 - 1,
    signal=envelope_pb2.SystemSignal(type=envelope_pb2.SystemSignal.BAN, reason="flooding"),
)
envelopes = {
    "event": event,
    "command": command,
    "signal": signal,
    "empty": envelope_pb2.Envelope(),
}

# Field 200, a varint; field 201, text; and a payload of a kind that does not exist yet (23).
unknown = b"\xc0\x0c\x2a" + b"\xca\x0c\x05later" + b"\xba\x01\x02hi"


def bus_payload():
    payload = bus_payload_pb2.BusPayload(
        envelope_id="arq_1", envelope_type="message", sender="svc", channel="control"
    )
    payload.payload.update({"text": "ünïcode", "n": 5, "list": [1, None, {"deep": True}]})
    payload.args.update({"limit": 10})
    payload.metadata.update({"tenant_id": "acme"})
    return payload


def record_of(sequence, envelope):
    record = record_pb2.Record(
        sequence=sequence,
        appended_at=1771545600123456,
        clock=envelope_pb2.VectorClock(entries={"node/main": sequence, "seismometer-7": 9}),
        topic="quake.usgs.event",
        id=bytes.fromhex("01977e5a00007000800000000000002a"),
        producer_id="token-subject",
        verdict=record_pb2.Verdict(
            policy_digest=b"\x01\x02", policy_version=3, schema_version=4, flags=["clean"]
        ),
        envelope=envelope,
    )
    return record


def expect(what, found, wanted):
    if found != wanted:
        sys.exit(f"{what}: expected\n{wanted}\nfound\n{found}")


def write():
    for name, envelope in envelopes.items():
        (folder / f"{name}.bin").write_bytes(envelope.SerializeToString(deterministic=True))
    (folder / "unknown.bin").write_bytes(event.SerializeToString(deterministic=True) + unknown)
    (folder / "bus_payload.bin").write_bytes(bus_payload().SerializeToString())
    frame = frames_pb2.ClientFrame(
        request_id=7,
        produce=frames_pb2.Produce(
            reality="main", durability=frames_pb2.WRITTEN, envelopes=[event, command]
        ),
    )
    (folder / "produce.bin").write_bytes(frame.SerializeToString(deterministic=True))


def check():
    for name, wanted in envelopes.items():
        found = envelope_pb2.Envelope.FromString((folder / f"{name}.bin").read_bytes())
        expect(name, found, wanted)

    # What this contract does not know passes through Rust untouched, in a batch and in a record.
    frame = frames_pb2.ClientFrame.FromString((folder / "produce_unknown.bin").read_bytes())
    carried = frame.produce.envelopes[0].SerializeToString()
    if not carried.endswith(unknown):
        sys.exit(f"unknown fields were lost in a batch: {carried[-32:]!r}")
    expect("fields beside the unknown", frame.produce.envelopes[0].key, event.key)

    raw = (folder / "record_unknown.bin").read_bytes()
    record = record_pb2.Record.FromString(raw)
    expect("checksum of the record", record.crc, zlib.crc32(raw[:-5]))
    if not record.envelope.SerializeToString().endswith(unknown):
        sys.exit("unknown fields were lost in a record")

    raw = (folder / "deliver.bin").read_bytes()
    deliver = frames_pb2.ServerFrame.FromString(raw).deliver
    expect("number of records", len(deliver.records), 2)
    for sequence, record in enumerate(deliver.records, start=1):
        crc, record.crc = record.crc, 0
        expect("record", record, record_of(sequence, event))
        expect("checksum", crc, zlib.crc32(record.SerializeToString(deterministic=True)))


{"write": write, "check": check}[mode]()
print(mode, "ok")
