//! The few protobuf primitives that the record layout needs. Knows no message.
//!
//! The log writes and finds fields by hand because it stamps a record in place, once, between the
//! producer's bytes and the disk; a generated encoder would copy the envelope first.

/// Wire type of varints.
pub(super) const VARINT: u8 = 0;
/// Wire type of 64-bit little-endian values.
pub(super) const FIXED64: u8 = 1;
/// Wire type of length-prefixed bytes.
pub(super) const BYTES: u8 = 2;
/// Wire type of 32-bit little-endian values.
pub(super) const FIXED32: u8 = 5;

/// Tag byte of a field with a number below 16.
pub(super) const fn tag(field: u8, wire_type: u8) -> u8 {
    assert!(
        field < 16,
        "the field number does not fit into one tag byte"
    );
    field << 3 | wire_type
}

/// Bytes that `value` takes as a varint.
pub(super) const fn varint_len(value: u64) -> usize {
    // One byte per started group of seven bits; 0 takes one.
    ((64 - (value | 1).leading_zeros()) as usize).div_ceil(7)
}

/// Appends `value` as a varint.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "below 0x80")]
    out.push(value as u8);
}

/// Reads a varint at the start of `bytes`: its value and its length.
pub(super) fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0_u64;
    for (index, &byte) in bytes.iter().take(10).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if index == 9 && byte > 1 {
            return None;
        }
        value |= bits << (7 * index);
        if byte < 0x80 {
            return Some((value, index + 1));
        }
    }
    None
}

/// Reads a length-prefixed value at the start of `bytes`: the value and how much it took in all.
pub(super) fn length_prefixed(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (len, prefix) = varint(bytes)?;
    let end = prefix.checked_add(usize::try_from(len).ok()?)?;
    Some((bytes.get(prefix..end)?, end))
}

/// The four bytes at `at` of a fixed layout, which must be that long.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..]
        .first_chunk()
        .copied()
        .map_or(0, u32::from_le_bytes)
}

/// The eight bytes at `at` of a fixed layout, which must be that long.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..]
        .first_chunk()
        .copied()
        .map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_round_trip_at_every_length() {
        for shift in 0..64 {
            for value in [1_u64 << shift, (1_u64 << shift) - 1, u64::MAX >> shift] {
                let mut out = Vec::new();
                put_varint(&mut out, value);
                assert_eq!(out.len(), varint_len(value), "length of {value}");
                assert_eq!(varint(&out), Some((value, out.len())));
                assert_eq!(varint(&out[..out.len() - 1]), None, "cut short: {value}");
            }
        }
    }

    #[test]
    fn a_varint_beyond_64_bits_is_refused() {
        assert_eq!(varint(&[0xff; 11]), None);
        assert_eq!(
            varint(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 2]),
            None
        );
    }
}
