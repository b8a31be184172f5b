//! Little-endian numbers in byte slices at fixed offsets.
//!
//! The callers pass slices of known size with constant offsets, so that the bounds checks vanish.

pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, offset))
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, offset))
}

pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, offset))
}

pub(crate) fn i64_at(bytes: &[u8], offset: usize) -> i64 {
    i64::from_le_bytes(array_at(bytes, offset))
}

pub(crate) fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[offset..offset + N]);
    array
}

pub(crate) fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    bytes[offset..offset + value.len()].copy_from_slice(value);
}

static ZEROS: [u8; 256] = [0; 256];

pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // Compared as memory: recovery asks this of whole megabytes.
    bytes.chunks(ZEROS.len()).all(|chunk| *chunk == ZEROS[..chunk.len()])
}

/// The next multiple of 8: where a frame ends.
pub(crate) const fn align8(length: usize) -> usize {
    (length + 7) & !7
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_byte_that_is_not_zero_hides_behind_others() {
        for length in [1, 63, 64, 65, 200] {
            let mut bytes = vec![0; length];
            assert!(is_zero(&bytes));
            for at in 0..length {
                bytes[at] = 1;
                assert!(!is_zero(&bytes), "byte {at} of {length}");
                bytes[at] = 0;
            }
            // Bytes that are alike do not cancel each other.
            assert!(!is_zero(&vec![7; length]), "{length} bytes");
        }
    }

    #[test]
    fn frames_end_at_multiples_of_8() {
        assert_eq!([0, 1, 7, 8, 9, 16].map(align8), [0, 8, 8, 8, 16, 16]);
    }
}
