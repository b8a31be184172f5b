//! Media that cannot be written: a file system that is mounted for reading. Where nobody may mount one, files and
//! directories that the process may not write to.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use annals::{Error, ExpectedVersion, NewEvent, ReadMode};

use super::alone::{Held, pass};
use super::support::{files, options, put_files};
use super::torture::Files;
use super::torture::bench::{SYNCED, Sample, answers, append, text};

/// Says to the process that reads where the media are, in its environment.
const MEDIA: &str = "ANNALS_LIMITS_MEDIA";
/// Where that process may write.
const ROOM: &str = "ANNALS_LIMITS_ROOM";
const NAME: &str = "media::a_store_on_media_that_cannot_be_written_is_read_whole_and_not_opened_for_writing";

/// Mounts the media anew, for reading, where only the process that follows sees it. Flags that the system insists on where
/// it is mounted already must be among those that are given.
const MOUNTED: &str = r#"
    mount --bind "$ANNALS_LIMITS_MEDIA" "$ANNALS_LIMITS_MEDIA" &&
    mount -o remount,bind,ro,nosuid,nodev,noexec "$ANNALS_LIMITS_MEDIA" &&
    exec "$0" "$@"
"#;

/// A user who owns nothing.
const NOBODY: u32 = 65_534;

#[test]
fn a_store_on_media_that_cannot_be_written_is_read_whole_and_not_opened_for_writing() {
    if let (Ok(media), Ok(room)) = (std::env::var(MEDIA), std::env::var(ROOM)) {
        return look_at(Path::new(&media), Path::new(&room));
    }
    let directory = tempfile::tempdir().unwrap();
    let (media, room) = (directory.path().join("media"), directory.path().join("room"));
    for (what, files) in samples() {
        put_files(&media.join(what), &files);
    }
    let before = files(&media);
    std::fs::create_dir(&room).unwrap();
    if mounted("true", &media, &room).stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        println!("mounted for reading");
        pass(&mut mounted(text(&std::env::current_exe().unwrap()), &media, &room), NAME);
    } else {
        println!("not to be mounted by this user: without the permission to write");
        pass(&mut forbidden(directory.path(), &media, &room), NAME);
        change_mode("u+w", &media);
    }
    assert_eq!(files(&media), before);
}

/// A program that sees the media mounted for reading.
fn mounted(program: &str, media: &Path, room: &Path) -> Command {
    let mut reader = Command::new("unshare");
    reader.args(["--user", "--map-root-user", "--mount", "sh", "-c", MOUNTED, program]);
    reader.env(MEDIA, media).env(ROOM, room);
    reader
}

/// This program, for somebody who may not write to the media: nobody, where it is run by one who may write to all.
fn forbidden(directory: &Path, media: &Path, room: &Path) -> Command {
    change_mode("a-w", media);
    let program = directory.join("reader");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    for (path, mode) in [(directory, 0o755), (room, 0o777), (&program, 0o755)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut reader = Command::new(program);
    reader.env(MEDIA, media).env(ROOM, room);
    if rustix::process::geteuid().is_root() {
        reader.uid(NOBODY).gid(NOBODY);
    }
    reader
}

fn change_mode(mode: &str, media: &Path) {
    assert!(Command::new("chmod").args(["-R", mode, text(media)]).status().unwrap().success());
}

/// Closed, without an index, without what says how far it is synced, and as a kill leaves it.
fn samples() -> Vec<(&'static str, Files)> {
    let closed = Sample::small().files;
    let without = |is_gone: &dyn Fn(&str) -> bool| {
        closed.clone().into_iter().filter(|(path, _)| !is_gone(text(path))).collect::<Files>()
    };
    let directory = tempfile::tempdir().unwrap();
    let store = options().open(directory.path()).unwrap();
    append(&store, 0..12, 100, SYNCED);
    store.state().unwrap().put("key", "value").unwrap();
    let killed = files(directory.path());
    vec![
        ("without-an-index", without(&|path| path.contains("index/"))),
        ("without-the-synced-head", without(&|path| path == "synced-head")),
        ("closed", closed.clone()),
        ("killed", killed),
    ]
}

/// What a process does that cannot write to the media, with copies beside it to compare them with.
fn look_at(media: &Path, room: &Path) {
    for entry in std::fs::read_dir(media).unwrap() {
        let path = entry.unwrap().path();
        let what = text(&path).to_owned();
        let refused = std::fs::write(path.join("file"), "").unwrap_err().kind();
        assert!(matches!(refused, ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied), "{refused:?}");

        let copy = room.join(path.file_name().unwrap());
        put_files(&copy, &files(&path));
        let expected = answers(&options().open(&copy).unwrap());
        let held = Held::now(media);
        for (mode, backup) in [(ReadMode::Map, "maps"), (ReadMode::Pread, "reads")] {
            let store = options().read_mode(mode).open_read_only(&path).unwrap();
            answers(&store).assert_equal(&expected, &what);
            let deposited = NewEvent::raw("Deposited", "1");
            let error = store.append("account-1", ExpectedVersion::Any, [deposited]).unwrap_err();
            assert!(matches!(error.error(), Error::ReadOnly), "{what}: {error:?}");
            let backup = copy.with_extension(backup);
            store.backup(&backup).unwrap();
            let backed_up = answers(&options().open(&backup).unwrap());
            assert_eq!(backed_up.events, expected.events, "{what}, backed up");
            store.close().unwrap();
        }
        assert_eq!(annals::verify(&path, &mut |_| {}).unwrap().problems, [], "{what}");
        match options().open(&path) {
            Err(Error::Io { source, .. }) => assert_eq!(source.kind(), refused, "{what}"),
            other => panic!("{what}, for writing: {other:?}"),
        }
        held.assert_again(media, &what);
    }
}
