//! Pages of the index files (FORMAT, section 8): 4092 bytes of content and a checksum bound to the page's place.
//!
//! Arrays start on a page of their own and no element crosses the end of a page, so that one verified page is enough to
//! read any element.

use super::bytes::{put, u32_at};
use super::checksum::{crc, page_start};

/// Bytes of a page, its checksum included.
pub(crate) const PAGE_BYTES: usize = 4096;
/// Bytes of a page that hold content.
pub(crate) const CONTENT_BYTES: usize = PAGE_BYTES - 4;

/// Writes the checksum of a page whose content is in place.
pub(crate) fn seal(page: &mut [u8], seed: u32, number: u64) {
    let checksum = checksum(&page[..CONTENT_BYTES], seed, number);
    put(page, CONTENT_BYTES, &checksum.to_le_bytes());
}

/// Whether these bytes are page `number` of the file with this seed, undamaged.
pub(crate) fn is_whole(page: &[u8], seed: u32, number: u64) -> bool {
    page.len() == PAGE_BYTES && u32_at(page, CONTENT_BYTES) == checksum(&page[..CONTENT_BYTES], seed, number)
}

/// Page 0 carries the seed of the others, and so cannot depend on it.
fn checksum(content: &[u8], seed: u32, number: u64) -> u32 {
    crc(page_start(if number == 0 { 0 } else { seed }, number), content)
}

/// An array of `count` elements of `BYTES` bytes that begins on page `first_page`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Section<const BYTES: usize> {
    pub(crate) first_page: u64,
    pub(crate) count: u64,
}

impl<const BYTES: usize> Section<BYTES> {
    /// Elements on a page.
    pub(crate) const PER_PAGE: u64 = (CONTENT_BYTES / BYTES) as u64;

    pub(crate) const fn new(first_page: u64, count: u64) -> Self {
        Self { first_page, count }
    }

    /// The page behind the array; `None` if that is no number.
    pub(crate) fn end_page(&self) -> Option<u64> {
        self.first_page.checked_add(self.count.div_ceil(Self::PER_PAGE))
    }

    /// The page and the offset in it of the element with this index, which must exist.
    #[inline]
    pub(crate) fn locate(&self, index: u64) -> (u64, usize) {
        debug_assert!(index < self.count);
        (self.first_page + index / Self::PER_PAGE, (index % Self::PER_PAGE) as usize * BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_a_page_is_noticed() {
        let mut page = [7; PAGE_BYTES];
        seal(&mut page, 5, 3);
        assert!(is_whole(&page, 5, 3));
        // An interpreter takes a minute for what else takes a millisecond.
        let step = if cfg!(miri) { 997 } else { 1 };
        for bit in (0..PAGE_BYTES * 8).step_by(step) {
            page[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_whole(&page, 5, 3), "bit {bit}");
            page[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_page_has_4092_bytes_of_content_and_whole_elements() {
        assert_eq!(CONTENT_BYTES, 4092);
        assert_eq!((Section::<8>::PER_PAGE, Section::<32>::PER_PAGE), (511, 127));
    }

    #[test]
    fn a_page_holds_only_at_its_place() {
        let mut page = [7; PAGE_BYTES];
        seal(&mut page, 5, 3);
        assert!(!is_whole(&page, 6, 3) && !is_whole(&page, 5, 4) && !is_whole(&page[..4000], 5, 3));
        seal(&mut page, 5, 0);
        assert!(is_whole(&page, 9, 0), "page 0 does not depend on the seed that it carries");
    }

    #[test]
    fn no_element_crosses_the_end_of_a_page() {
        assert_eq!([Section::<4>::PER_PAGE, Section::<24>::PER_PAGE], [1023, 170]);
        assert_eq!([Section::<16>::PER_PAGE, Section::<32>::PER_PAGE], [255, 127]);
        let section = Section::<24>::new(2, 171);
        assert_eq!([section.locate(0), section.locate(169), section.locate(170)], [(2, 0), (2, 169 * 24), (3, 0)]);
        assert_eq!((section.end_page(), Section::<24>::new(2, 0).end_page()), (Some(4), Some(2)));
    }
}
