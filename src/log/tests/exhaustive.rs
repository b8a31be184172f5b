//! Every bit of a small log that was closed.

use super::*;

/// Commits that fill two segments to a part.
fn closed_log() -> (MemoryDisk, Vec<String>) {
    let disk = MemoryDisk::new();
    let opened = open(&disk, small());
    let names = ["a", "b", "c", "d"];
    for name in &names[..2] {
        add(&opened, SYNCED, name);
    }
    opened.appender.turn().unwrap().roll(100, 0).unwrap();
    for name in &names[2..] {
        add(&opened, SYNCED, name);
    }
    opened.appender.close().unwrap();
    (copy_of(&disk), names.map(str::to_owned).to_vec())
}

/// Every bit of a file where anything stands, and one bit of each 32 bytes of zeros behind it.
fn bits(bytes: &[u8]) -> impl Iterator<Item = usize> {
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    (0..used * 8).chain((used..bytes.len()).step_by(32).map(|byte| byte * 8 + byte % 7))
}

#[test]
fn every_flipped_bit_gives_the_right_data_or_an_error() {
    let (disk, expected) = closed_log();
    let good = files(&disk);
    let mut refused = 0;
    let mut disk = disk;
    for (path, bytes) in &good {
        for bit in bits(bytes) {
            overwrite(&disk, path, bit as u64 / 8, &[bytes[bit / 8] ^ (1 << (bit % 8))]);
            let read = try_open(&disk, small()).and_then(|opened| read_upto(&opened.log, opened.log.visible()));
            match read {
                Ok(commits) => {
                    let texts: Vec<String> = commits.iter().map(|commit| text_of(&commit[0])).collect();
                    assert_eq!(texts, expected, "{path}, bit {bit}");
                    disk = disk_of(&good);
                }
                Err(Error::Corrupt { .. } | Error::Incompatible { .. }) => {
                    refused += 1;
                    overwrite(&disk, path, bit as u64 / 8, &bytes[bit / 8..=bit / 8]);
                }
                Err(error) => panic!("{path}, bit {bit}: {error}"),
            }
        }
    }
    assert!(refused > 5000, "{refused}");
}

#[test]
fn every_flipped_bit_is_noticed_by_a_follower_too() {
    let (disk, expected) = closed_log();
    for (path, bytes) in &files(&disk) {
        for bit in bits(bytes).step_by(5) {
            overwrite(&disk, path, bit as u64 / 8, &[bytes[bit / 8] ^ (1 << (bit % 8))]);
            let followed = follow(&disk, small()).map(Option::unwrap);
            match followed.and_then(|(follower, _)| read_upto(follower.log(), follower.log().visible())) {
                Ok(commits) => {
                    // Without the evidence of what is synced it serves less, and never anything else.
                    let texts: Vec<String> = commits.iter().map(|commit| text_of(&commit[0])).collect();
                    assert_eq!(texts, expected[..texts.len()], "{path}, bit {bit}");
                    assert!(texts.len() >= 3, "{path}, bit {bit}");
                }
                Err(Error::Corrupt { .. } | Error::Incompatible { .. }) => {}
                Err(error) => panic!("{path}, bit {bit}: {error}"),
            }
            overwrite(&disk, path, bit as u64 / 8, &bytes[bit / 8..=bit / 8]);
        }
    }
}
