//! Server frames as bytes.
//!
//! A Deliver is put together by hand around records that are encoded already: one copy, no
//! decoding. Everything else is small and goes through prost.

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{encode_varint, encoded_len_varint};

use crate::broker::scan::Lost;
use crate::proto::v1::{Delivery, LostRange, ServerFrame, server_frame::Body};

const REQUEST_ID_TAG: u8 = 1 << 3;
const DELIVER_TAG: u8 = 5 << 3 | 2;
const SUBSCRIPTION_TAG: u8 = 2 << 3;
const NEXT_TAG: u8 = 3 << 3;
const END_OF_LOG_TAG: u8 = 4 << 3;
const FINISHED_TAG: u8 = 5 << 3;
const LOST_TAG: u8 = 6 << 3 | 2;
const DELIVERIES_TAG: u8 = 7 << 3 | 2;

/// Room before the records for what cannot be known before them: two tags, a request id and a
/// length.
pub(super) const HEAD_BYTES: usize = 1 + 10 + 1 + 10;

/// What stands beside the records of a Deliver.
#[derive(Debug, Default)]
pub(super) struct Deliver<'a> {
    pub(super) request_id: u64,
    pub(super) subscription: u64,
    pub(super) next: u64,
    pub(super) end_of_log: bool,
    pub(super) finished: bool,
    pub(super) lost: Option<&'a Lost>,
    pub(super) deliveries: Vec<Delivery>,
}

/// Encodes a frame that is not a Deliver with records.
pub(super) fn encode(request_id: u64, body: Body, out: &mut BytesMut) -> Bytes {
    let frame = ServerFrame {
        request_id,
        body: Some(body),
    };
    out.reserve(frame.encoded_len());
    let encoded = frame.encode(out);
    assert!(encoded.is_ok(), "room was reserved for the frame");
    out.split().freeze()
}

/// Begins a Deliver in the empty `out`; encoded records go behind.
pub(super) fn begin(out: &mut BytesMut) {
    assert!(out.is_empty(), "a frame is begun in an empty buffer");
    out.resize(HEAD_BYTES, 0);
}

/// Ends the Deliver begun in `out`.
pub(super) fn end(deliver: &Deliver<'_>, out: &mut BytesMut) -> Bytes {
    let mut number = |tag: u8, value: u64| {
        if value != 0 {
            out.extend_from_slice(&[tag]);
            encode_varint(value, out);
        }
    };
    number(SUBSCRIPTION_TAG, deliver.subscription);
    number(NEXT_TAG, deliver.next);
    number(END_OF_LOG_TAG, u64::from(deliver.end_of_log));
    number(FINISHED_TAG, u64::from(deliver.finished));
    if let Some(lost) = deliver.lost {
        let range = LostRange {
            first: lost.first.get(),
            last: lost.last.get(),
            reason: lost.reason.clone(),
        };
        out.extend_from_slice(&[LOST_TAG]);
        encode_varint(range.encoded_len() as u64, out);
        out.extend_from_slice(&range.encode_to_vec());
    }
    for delivery in &deliver.deliveries {
        out.extend_from_slice(&[DELIVERIES_TAG]);
        encode_varint(delivery.encoded_len() as u64, out);
        out.extend_from_slice(&delivery.encode_to_vec());
    }
    let body_len = (out.len() - HEAD_BYTES) as u64;

    let mut head = [0; HEAD_BYTES];
    let mut rest = &mut head[..];
    if deliver.request_id != 0 {
        bytes::BufMut::put_u8(&mut rest, REQUEST_ID_TAG);
        encode_varint(deliver.request_id, &mut rest);
    }
    bytes::BufMut::put_u8(&mut rest, DELIVER_TAG);
    encode_varint(body_len, &mut rest);
    let head_len = HEAD_BYTES - rest.len();
    let start = HEAD_BYTES - head_len;
    out[start..HEAD_BYTES].copy_from_slice(&head[..head_len]);
    assert!(
        head_len > encoded_len_varint(body_len),
        "the head of a frame holds its length"
    );
    out.split().freeze().slice(start..)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Sequence;
    use crate::proto::v1::{self, Pong};

    fn delivery((sequence, attempt): (u64, u32)) -> Delivery {
        Delivery {
            sequence,
            attempt,
            deadline_ms: 1 << 41,
        }
    }

    #[test]
    fn a_deliver_by_hand_is_what_prost_reads() {
        let records = [vec![1_u8; 3], vec![2; 300]];
        let mut out = BytesMut::new();
        for request_id in [0, 1, u64::MAX] {
            begin(&mut out);
            for record in &records {
                out.extend_from_slice(&[0x0a]);
                encode_varint(record.len() as u64, &mut out);
                out.extend_from_slice(record);
            }
            let lost = Lost {
                first: Sequence::FIRST,
                last: Sequence::FIRST.next(),
                reason: "why".into(),
            };
            let deliver = Deliver {
                request_id,
                subscription: 7,
                next: 1 << 40,
                end_of_log: true,
                finished: true,
                lost: Some(&lost),
                deliveries: [(1, 2), (3, 0)].map(delivery).into(),
            };
            let bytes = end(&deliver, &mut out);
            let expected = ServerFrame {
                request_id,
                body: Some(Body::Deliver(v1::Deliver {
                    records: records.iter().cloned().map(Bytes::from).collect(),
                    subscription: 7,
                    next: 1 << 40,
                    end_of_log: true,
                    finished: true,
                    lost: Some(LostRange {
                        first: 1,
                        last: 2,
                        reason: "why".into(),
                    }),
                    deliveries: [(1, 2), (3, 0)].map(delivery).into(),
                })),
            };
            assert_eq!(ServerFrame::decode(bytes).unwrap(), expected);
        }
    }

    #[test]
    fn small_frames_share_a_buffer() {
        let mut out = BytesMut::new();
        let data = Bytes::from_static(b"x");
        let first = encode(3, Body::Pong(Pong { data: data.clone() }), &mut out);
        let second = encode(0, Body::Pong(Pong { data }), &mut out);
        assert_eq!(ServerFrame::decode(first).unwrap().request_id, 3);
        assert_eq!(ServerFrame::decode(second).unwrap().request_id, 0);
    }
}
