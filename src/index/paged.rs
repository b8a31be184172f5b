//! Files of pages: reading them with each page verified once, and making them.
//!
//! A file is written under a temporary name, synced, then given its own: under its own name it is whole, and never
//! written again. What bits rot later is found by the checksum of the page, when the page is first read.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::fault::{DIRECTORY, IndexError, IndexFault, IndexFile, Result, TEMPORARY, Unreadable, refused};
use crate::format::bytes::{array_at, put, u32_at};
use crate::format::page::{CONTENT_BYTES, PAGE_BYTES, Section, is_whole, seal};
use crate::randomness::Randomness;
use crate::sabotage::{Sabotage, sabotaged};
use crate::storage::{Access, Disk, File, PublishedFile, ReadMode, is_shortage};
use crate::types::StoreId;

/// Pages that are kept where there is no map.
const CACHED_PAGES: usize = 16;
/// Pages of a section that are written at once.
const BATCH_PAGES: usize = 16;

/// The directory that the files of an index are in.
#[derive(Debug, Clone)]
pub(super) struct Files {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) store: StoreId,
    pub(super) mode: ReadMode,
    pub(super) randomness: Arc<dyn Randomness>,
}

/// Why a file that is there cannot be used.
#[derive(Debug)]
pub(super) enum Unusable {
    /// It is gone: another process replaced it since the directory was listed.
    Gone,
    /// It is damaged, of another version or of another store.
    Bad,
    /// The operating system refused. A sector that cannot be read is damage like any other: the file is rebuilt elsewhere.
    Unreadable(io::Error),
    /// The operating system has too little for it now. Nothing is wrong with the file.
    Refused(io::Error),
}

impl Files {
    /// The names in the directory.
    pub(super) fn list(&self) -> Result<Vec<String>> {
        self.disk.list(DIRECTORY).map_err(|source| refused("list", &self.disk.locate(DIRECTORY), source))
    }

    pub(super) fn create_directory(&self) -> Result<()> {
        let refused = |source| refused("create", &self.disk.locate(DIRECTORY), source);
        self.disk.create_dir(DIRECTORY).map_err(refused)
    }

    /// Makes the names in the directory durable.
    pub(super) fn sync_directory(&self) -> Result<()> {
        self.disk.sync_dir(DIRECTORY).map_err(|source| refused("sync", &self.disk.locate(DIRECTORY), source))
    }

    /// Removes a file that nobody needs. One that stays, because it is in use or the disk refuses, is recognised as
    /// superfluous at the next open.
    pub(super) fn discard(&self, name: &str) {
        let _ = self.disk.remove(&format!("{DIRECTORY}/{name}"));
    }

    pub(super) fn discard_file(&self, file: IndexFile) {
        let _ = self.disk.remove(&file.path());
    }

    /// The log ends before what is known of it.
    pub(super) fn missing(&self, segment: u64) -> IndexError {
        let path = self.disk.locate(&format!("log/{segment:010}.segment"));
        crate::Error::corrupt(path, 0, "the segment ends before the positions that it had").into()
    }

    /// Opens a file and verifies page 0, whose content `decode` takes apart, into a header and the number of pages that
    /// the file must have.
    pub(super) fn open<H>(
        &self,
        id: IndexFile,
        decode: impl FnOnce(&[u8]) -> Option<(H, u64)>,
    ) -> Result<(PagedFile, H), Unusable> {
        let path = id.path();
        let file = self.disk.open(&path, Access::Read).map_err(Unusable::of)?;
        let file = PublishedFile::open_immutable(file, self.mode).map_err(Unusable::of)?;
        let mut scratch = Vec::new();
        let page = file.read(0, PAGE_BYTES, &mut scratch).map_err(Unusable::of)?;
        if !is_whole(page, 0, 0) {
            return Err(Unusable::Bad);
        }
        let (header, pages) = decode(page).ok_or(Unusable::Bad)?;
        if pages.checked_mul(PAGE_BYTES as u64) != Some(file.published()) {
            return Err(Unusable::Bad);
        }
        let seed = u32_at(page, 12);
        Ok((PagedFile::new(Arc::clone(&self.disk), file, id, seed, pages), header))
    }

    /// Begins a file of so many pages.
    pub(super) fn draft(&self, id: IndexFile, pages: u64) -> Result<Draft> {
        let path = id.path();
        let temporary = format!("{path}{TEMPORARY}");
        let place = self.disk.locate(&temporary);
        let mut seed = [0; 4];
        self.randomness.fill(&mut seed);
        let file = self.disk.create(&temporary).map_err(|source| refused("create", &place, source))?;
        let target = Target { file, place, seed: u32::from_le_bytes(seed) };
        let draft = Draft { disk: Arc::clone(&self.disk), path, temporary, target, is_published: false };
        // Space is taken first, so that a full disk is found before anything is written.
        draft
            .target
            .file
            .allocate(pages * PAGE_BYTES as u64)
            .map_err(|source| draft.target.refused("allocate", source))?;
        Ok(draft)
    }
}

impl Unusable {
    fn of(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Unusable::Gone,
            io::ErrorKind::UnexpectedEof => Unusable::Bad,
            _ if is_shortage(&error) => Unusable::Refused(error),
            _ => Unusable::Unreadable(error),
        }
    }

    /// What it means of a file that was just written: nobody asks for its bytes again to find out whether it is damaged.
    pub(super) fn of_new_file(self, path: &Path) -> IndexError {
        match self {
            Unusable::Unreadable(error) | Unusable::Refused(error) => refused("read", path, error),
            Unusable::Gone => refused("open", path, io::ErrorKind::NotFound.into()),
            Unusable::Bad => crate::Error::corrupt(path, 0, "an index file that was just written is damaged").into(),
        }
    }
}

/// An immutable file of pages.
#[derive(Debug)]
pub(super) struct PagedFile {
    disk: Arc<dyn Disk>,
    file: Arc<PublishedFile>,
    id: IndexFile,
    path: PathBuf,
    seed: u32,
    pages: u64,
    /// A bit for each page that was verified in the map.
    verified: Box<[AtomicU64]>,
    /// Verified pages, each in the place that its number has, where there is no map.
    cache: Box<[Mutex<Option<CachedPage>>]>,
}

#[derive(Debug)]
struct CachedPage {
    number: u64,
    bytes: Vec<u8>,
}

impl PagedFile {
    fn new(disk: Arc<dyn Disk>, file: Arc<PublishedFile>, id: IndexFile, seed: u32, pages: u64) -> Self {
        let (bits, cached) = if file.is_mapped() { (pages, 0) } else { (0, CACHED_PAGES) };
        Self {
            path: disk.locate(&id.path()),
            disk,
            file,
            id,
            seed,
            pages,
            verified: (0..bits.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            cache: (0..cached).map(|_| Mutex::new(None)).collect(),
        }
    }

    pub(super) fn id(&self) -> IndexFile {
        self.id
    }

    pub(super) fn seed(&self) -> u32 {
        self.seed
    }

    /// Bytes of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.pages * PAGE_BYTES as u64
    }

    /// The element with this index, from a verified page.
    #[inline]
    pub(super) fn element<const N: usize>(&self, section: &Section<N>, index: u64) -> Result<[u8; N]> {
        if index >= section.count {
            return Err(self.fault(0, "an index beyond the end of an array"));
        }
        let (number, offset) = section.locate(index);
        let Some(page) = self.file.slice(number * PAGE_BYTES as u64, PAGE_BYTES) else {
            return self.element_by_read(number, offset);
        };
        if !self.is_verified(number) {
            self.verify_mapped(number, page)?;
        }
        Ok(array_at(page, offset))
    }

    /// The number with this index.
    #[inline]
    pub(super) fn number(&self, section: &Section<4>, index: u64) -> Result<u32> {
        self.element(section, index).map(u32::from_le_bytes)
    }

    /// Asks the processor for an element that will be read soon.
    #[inline]
    pub(super) fn prefetch<const N: usize>(&self, section: &Section<N>, index: u64) {
        if index < section.count {
            let (number, offset) = section.locate(index);
            self.file.prefetch(number * PAGE_BYTES as u64 + offset as u64, N);
        }
    }

    /// Every fault of every page, read from the disk by calls, so that a bad sector is an error even where files are
    /// mapped. None of a file that is gone, or in whose place another one is.
    pub(super) fn verify(&self) -> Vec<IndexFault> {
        let file = match self.opened() {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(_) => return vec![self.located_fault(0, "a file of the index cannot be opened")],
        };
        if self.is_replaced(&*file) {
            return Vec::new();
        }
        (0..self.pages).filter_map(|number| self.read_page(&*file, number).err()?.fault().cloned()).collect()
    }

    /// The file, for reading by calls: one that is mapped is not kept open.
    fn opened(&self) -> io::Result<Arc<dyn File>> {
        match self.file.file() {
            Some(file) => Ok(Arc::clone(file)),
            None => self.disk.open(&self.id.path(), Access::Read),
        }
    }

    /// Whether a whole page 0 says that it is another file, which has taken the place of this one.
    fn is_replaced(&self, file: &dyn File) -> bool {
        let mut page = vec![0; PAGE_BYTES];
        matches!(file.read_at(&mut page, 0), Ok(PAGE_BYTES)) && is_whole(&page, 0, 0) && u32_at(&page, 12) != self.seed
    }

    pub(super) fn fault(&self, offset: u64, reason: &'static str) -> IndexError {
        IndexError::Damaged(Box::new(self.located_fault(offset, reason)))
    }

    #[cold]
    fn located_fault(&self, offset: u64, reason: &'static str) -> IndexFault {
        IndexFault { file: self.id, path: self.path.clone(), offset, reason, seed: self.seed }
    }

    #[inline]
    fn is_verified(&self, number: u64) -> bool {
        // Relaxed, since the page itself never changes.
        self.verified[(number / 64) as usize].load(Ordering::Relaxed) & (1 << (number % 64)) != 0
    }

    #[cold]
    fn verify_mapped(&self, number: u64, page: &[u8]) -> Result<()> {
        if !is_whole(page, self.seed, number) && !sabotaged(Sabotage::TrustIndexPage) {
            return Err(self.fault(number * PAGE_BYTES as u64, "the checksum of an index page does not match"));
        }
        self.verified[(number / 64) as usize].fetch_or(1 << (number % 64), Ordering::Relaxed);
        Ok(())
    }

    fn element_by_read<const N: usize>(&self, number: u64, offset: usize) -> Result<[u8; N]> {
        let mut slot = self.cache[number as usize % CACHED_PAGES].lock();
        match &mut *slot {
            Some(page) if page.number == number => Ok(array_at(&page.bytes, offset)),
            slot => {
                let file = self.opened().map_err(|source| self.unreadable(number, source))?;
                let bytes = self.read_page(&*file, number)?;
                let element = array_at(&bytes, offset);
                *slot = Some(CachedPage { number, bytes });
                Ok(element)
            }
        }
    }

    fn read_page(&self, file: &dyn File, number: u64) -> Result<Vec<u8>> {
        let offset = number * PAGE_BYTES as u64;
        let mut bytes = vec![0; PAGE_BYTES];
        match file.read_at(&mut bytes, offset) {
            Ok(PAGE_BYTES) if is_whole(&bytes, self.seed, number) || sabotaged(Sabotage::TrustIndexPage) => Ok(bytes),
            Ok(PAGE_BYTES) => Err(self.fault(offset, "the checksum of an index page does not match")),
            Ok(_) => Err(self.fault(offset, "an index file is shorter than it was")),
            Err(source) => Err(self.unreadable(number, source)),
        }
    }

    fn unreadable(&self, number: u64, source: io::Error) -> IndexError {
        let fault = self.located_fault(number * PAGE_BYTES as u64, "a page of the index cannot be read");
        IndexError::Unreadable(Box::new(Unreadable { fault, source: source.into() }))
    }
}

/// A file that is being made. Dropped before it is published, it leaves nothing.
#[derive(Debug)]
pub(super) struct Draft {
    disk: Arc<dyn Disk>,
    path: String,
    temporary: String,
    target: Target,
    is_published: bool,
}

impl Draft {
    /// The page seed, which belongs into the header.
    pub(super) fn seed(&self) -> u32 {
        self.target.seed
    }

    /// A writer of one of the file's arrays. Those of one file work side by side.
    pub(super) fn section<const N: usize>(&self, section: Section<N>) -> SectionWriter<N> {
        SectionWriter {
            target: self.target.clone(),
            section,
            next_page: section.first_page,
            pushed: 0,
            batch: Vec::new(),
        }
    }

    /// Writes page 0, syncs the file and gives it its name, which is durable once the directory is synced.
    pub(super) fn publish(mut self, header: &[u8; CONTENT_BYTES]) -> Result<()> {
        let mut page = [0; PAGE_BYTES];
        put(&mut page, 0, header);
        seal(&mut page, self.target.seed, 0);
        let target = &self.target;
        target.file.write_at(&page, 0).map_err(|source| target.refused("write", source))?;
        if !sabotaged(Sabotage::IndexBeforeSync) {
            target.file.sync().map_err(|source| target.refused("sync", source))?;
        }
        let rename = self.disk.rename(&self.temporary, &self.path);
        rename.map_err(|source| target.refused("rename", source))?;
        self.is_published = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_published {
            // What stays is removed at the next open.
            let _ = self.disk.remove(&self.temporary);
        }
    }
}

/// Where the pages of a draft go.
#[derive(Debug, Clone)]
struct Target {
    file: Arc<dyn File>,
    place: PathBuf,
    seed: u32,
}

impl Target {
    fn refused(&self, operation: &'static str, source: io::Error) -> IndexError {
        refused(operation, &self.place, source)
    }
}

/// Writes an array, element by element, a batch of pages at a time.
#[derive(Debug)]
pub(super) struct SectionWriter<const N: usize> {
    target: Target,
    section: Section<N>,
    /// The page that the batch begins at.
    next_page: u64,
    pushed: u64,
    /// Whole pages, and the content of the last one so far.
    batch: Vec<u8>,
}

impl<const N: usize> SectionWriter<N> {
    /// Elements written so far.
    pub(super) fn pushed(&self) -> u64 {
        self.pushed
    }

    pub(super) fn push(&mut self, element: &[u8; N]) -> Result<()> {
        assert!(self.pushed < self.section.count, "more elements than were counted");
        if self.pushed.is_multiple_of(Section::<N>::PER_PAGE) {
            self.end_page();
            if self.batch.len() >= BATCH_PAGES * PAGE_BYTES {
                self.flush()?;
            }
        }
        self.batch.extend_from_slice(element);
        self.pushed += 1;
        Ok(())
    }

    /// Writes what is left. Every element that was announced is there.
    pub(super) fn finish(mut self) -> Result<()> {
        assert_eq!(self.pushed, self.section.count, "fewer elements than were counted");
        self.end_page();
        self.flush()
    }

    /// Fills the last page up; its checksum follows when it is written.
    fn end_page(&mut self) {
        self.batch.resize(self.batch.len().next_multiple_of(PAGE_BYTES), 0);
    }

    fn flush(&mut self) -> Result<()> {
        let pages = self.batch.chunks_exact_mut(PAGE_BYTES);
        for (number, page) in (self.next_page..).zip(pages) {
            seal(page, self.target.seed, number);
        }
        let offset = self.next_page * PAGE_BYTES as u64;
        let written = self.target.file.write_at(&self.batch, offset);
        written.map_err(|source| self.target.refused("write", source))?;
        self.next_page += (self.batch.len() / PAGE_BYTES) as u64;
        self.batch.clear();
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::randomness::SeededRandomness;
    use crate::storage::{Call, Fault, FaultyDisk, MemoryDisk};

    /// An index directory in memory.
    pub(in crate::index) fn files(mode: ReadMode) -> (MemoryDisk, Files) {
        let disk = MemoryDisk::new();
        let files = files_on(&disk, mode);
        files.create_directory().unwrap();
        (disk, files)
    }

    /// The same on a disk that fails when it is told to.
    pub(in crate::index) fn faulty_files(mode: ReadMode) -> (FaultyDisk, Files) {
        let disk = FaultyDisk::new(MemoryDisk::new());
        let files = files_on(&disk, mode);
        files.create_directory().unwrap();
        (disk, files)
    }

    fn files_on(disk: &(impl Disk + Clone + 'static), mode: ReadMode) -> Files {
        let randomness = Arc::new(SeededRandomness::new(7));
        Files { disk: Arc::new(disk.clone()), store: StoreId::from_bytes([5; 16]), mode, randomness }
    }

    /// The bytes of a file.
    pub(in crate::index) fn contents(disk: &MemoryDisk, path: &str) -> Vec<u8> {
        let file = disk.open(path, Access::Read).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
        bytes
    }

    /// Puts a file in the place of another, as rot would: what has the old one open keeps it.
    pub(in crate::index) fn replace(disk: &MemoryDisk, path: &str, bytes: &[u8]) {
        disk.remove(path).unwrap();
        disk.create(path).unwrap().write_at(bytes, 0).unwrap();
    }

    const FILE: IndexFile = IndexFile::Positions { segment: 1 };
    const NUMBERS: Section<4> = Section::new(1, 40_000);
    const ENTRIES: Section<24> = Section::new(41, 171);
    const PAGES: u64 = 43;

    fn entry(index: u64) -> [u8; 24] {
        [index as u8; 24]
    }

    fn write(files: &Files) -> u32 {
        let draft = files.draft(FILE, PAGES).unwrap();
        let (mut numbers, mut entries) = (draft.section(NUMBERS), draft.section(ENTRIES));
        for index in 0..NUMBERS.count {
            numbers.push(&(index as u32).to_le_bytes()).unwrap();
            if index < ENTRIES.count {
                entries.push(&entry(index)).unwrap();
            }
        }
        numbers.finish().unwrap();
        entries.finish().unwrap();
        let seed = draft.seed();
        let mut header = [0; CONTENT_BYTES];
        put(&mut header, 12, &seed.to_le_bytes());
        draft.publish(&header).unwrap();
        seed
    }

    fn open(files: &Files) -> Result<PagedFile, Unusable> {
        files.open(FILE, |_| Some(((), PAGES))).map(|(file, ())| file)
    }

    #[test]
    fn what_is_written_is_read_with_and_without_a_map() {
        for mode in [ReadMode::Map, ReadMode::Pread] {
            let (disk, files) = files(mode);
            let seed = write(&files);
            assert_eq!(disk.list(DIRECTORY).unwrap(), ["0000000001.positions"]);
            let file = open(&files).unwrap();
            assert_eq!((file.seed(), file.verify()), (seed, vec![]));
            for _ in 0..2 {
                (0..NUMBERS.count).for_each(|index| assert_eq!(file.number(&NUMBERS, index).unwrap(), index as u32));
                (0..ENTRIES.count).for_each(|index| assert_eq!(file.element(&ENTRIES, index).unwrap(), entry(index)));
            }
            assert!(file.number(&NUMBERS, NUMBERS.count).is_err());
        }
    }

    /// A page is verified when it is first read, and never again; which were, is kept in a bit of each.
    #[test]
    fn each_page_of_a_map_is_verified_once() {
        const MANY: Section<4> = Section::new(1, 130 * 1023);
        let (_, files) = files(ReadMode::Map);
        let draft = files.draft(FILE, 131).unwrap();
        let mut numbers = draft.section(MANY);
        (0..MANY.count).for_each(|index| numbers.push(&(index as u32).to_le_bytes()).unwrap());
        numbers.finish().unwrap();
        let mut header = [0; CONTENT_BYTES];
        put(&mut header, 12, &draft.seed().to_le_bytes());
        draft.publish(&header).unwrap();
        let (file, ()) = files.open(FILE, |_| Some(((), 131))).unwrap();
        let read = [1, 2, 63, 64, 65, 127, 128, 130];
        for page in read {
            assert!(!file.is_verified(page), "page {page}");
            assert_eq!(u64::from(file.number(&MANY, (page - 1) * 1023).unwrap()), (page - 1) * 1023);
            assert!(file.is_verified(page), "page {page}");
        }
        assert!((1..=130).all(|page| file.is_verified(page) == read.contains(&page)));
    }

    #[test]
    fn without_a_map_a_page_is_read_once_as_long_as_none_takes_its_place() {
        let (disk, files) = faulty_files(ReadMode::Pread);
        write(&files);
        let file = open(&files).unwrap();
        let before = disk.calls(Call::Read);
        let reads = |pages: &[u64]| {
            let all_right = pages
                .iter()
                .map(|page| (page - 1) * 1023)
                .all(|index| u64::from(file.number(&NUMBERS, index).unwrap()) == index);
            assert!(all_right);
            disk.calls(Call::Read) - before
        };
        let sixteen: Vec<u64> = (1..=16).collect();
        assert_eq!([reads(&sixteen), reads(&sixteen)], [16, 16]);
        assert_eq!([reads(&[17]), reads(&[17]), reads(&[1]), reads(&[2])], [17, 17, 18, 18]);
    }

    #[test]
    fn pages_are_written_many_at_a_time() {
        let (disk, files) = faulty_files(ReadMode::Map);
        let before = disk.calls(Call::Write);
        write(&files);
        // Forty pages of numbers in three, two of entries in one, and the header.
        assert_eq!(disk.calls(Call::Write) - before, 3 + 1 + 1);
    }

    #[test]
    fn a_damaged_page_is_a_fault_and_the_others_can_be_read() {
        for mode in [ReadMode::Map, ReadMode::Pread] {
            let (disk, files) = files(mode);
            write(&files);
            let mut bytes = contents(&disk, &FILE.path());
            bytes[3 * PAGE_BYTES + 77] ^= 4;
            replace(&disk, &FILE.path(), &bytes);
            let file = open(&files).unwrap();
            assert_eq!(file.number(&NUMBERS, 0).unwrap(), 0);
            let fault = file.number(&NUMBERS, 2 * 1023).unwrap_err();
            let IndexError::Damaged(fault) = fault else { panic!("{fault:?}") };
            assert_eq!((fault.file, fault.offset), (FILE, 3 * PAGE_BYTES as u64));
            assert_eq!(file.verify(), [*fault]);
        }
    }

    /// A map is not kept open, and its file is opened again to be verified: another one may have its name by then.
    #[test]
    fn what_took_the_place_of_a_mapped_file_is_not_its_damage() {
        let (disk, files) = files(ReadMode::Map);
        let seed = write(&files);
        let file = open(&files).unwrap();
        disk.remove(&FILE.path()).unwrap();
        assert_eq!(file.verify(), []);
        let seed_of_other = write(&files);
        assert_ne!(seed, seed_of_other);
        assert_eq!(file.verify(), []);
        assert_eq!(file.number(&NUMBERS, 39_999).unwrap(), 39_999);
        let mut bytes = contents(&disk, &FILE.path());
        bytes[3 * PAGE_BYTES + 77] ^= 4;
        replace(&disk, &FILE.path(), &bytes);
        assert_eq!(file.verify(), []);
        assert_eq!(open(&files).unwrap().verify().len(), 1);
    }

    /// By its seed, which says which file it is, it would be another one.
    #[test]
    fn a_mapped_file_with_a_damaged_first_page_is_not_taken_for_another_one() {
        let (disk, files) = files(ReadMode::Map);
        write(&files);
        let file = open(&files).unwrap();
        let mut bytes = contents(&disk, &FILE.path());
        bytes[12] ^= 1;
        replace(&disk, &FILE.path(), &bytes);
        assert_eq!(file.verify().iter().map(|fault| fault.offset).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn what_the_system_refuses_is_told_with_its_place_and_a_shortage_as_such() {
        let (disk, files) = faulty_files(ReadMode::Map);
        write(&files);
        for call in [Call::Open, Call::Map] {
            disk.inject(Fault::next(call));
            assert!(matches!(open(&files), Err(Unusable::Unreadable(_))), "{call:?}");
            disk.inject(Fault::next(call).kind(io::ErrorKind::OutOfMemory));
            assert!(matches!(open(&files), Err(Unusable::Refused(_))), "{call:?}");
        }
        let file = open(&files).unwrap();
        disk.inject(Fault::next(Call::Open));
        assert_eq!(file.verify().iter().map(|fault| fault.offset).collect::<Vec<_>>(), [0]);

        let file = open(&Files { mode: ReadMode::Pread, ..files }).unwrap();
        disk.inject(Fault::next(Call::Read));
        let error = file.number(&NUMBERS, 2 * 1023).unwrap_err();
        let IndexError::Unreadable(unreadable) = error else { panic!("{error:?}") };
        assert_eq!((unreadable.fault.file, unreadable.fault.offset), (FILE, 3 * PAGE_BYTES as u64));
    }

    #[test]
    fn a_file_with_a_damaged_header_or_of_another_length_is_unusable() {
        let (disk, files) = files(ReadMode::Map);
        assert!(matches!(open(&files), Err(Unusable::Gone)));
        write(&files);
        let bytes = contents(&disk, &FILE.path());
        for cut in [0, 1, PAGE_BYTES, bytes.len() - 1] {
            replace(&disk, &FILE.path(), &bytes[..cut]);
            assert!(matches!(open(&files), Err(Unusable::Bad)), "{cut} bytes");
        }
        let mut flipped = bytes.clone();
        flipped[20] ^= 1;
        replace(&disk, &FILE.path(), &flipped);
        assert!(matches!(open(&files), Err(Unusable::Bad)));
    }

    #[test]
    fn a_full_disk_is_an_error_that_leaves_nothing() {
        let (disk, files) = files(ReadMode::Map);
        for left in [100, PAGES * PAGE_BYTES as u64 - 1] {
            disk.set_budget(left);
            let error = files.draft(FILE, PAGES).unwrap_err();
            assert!(matches!(error, IndexError::Failed(error) if matches!(*error, crate::Error::Full { .. })));
            assert_eq!(disk.list(DIRECTORY).unwrap(), Vec::<String>::new());
        }
    }
}
