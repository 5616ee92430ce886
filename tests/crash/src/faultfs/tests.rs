//! The fault file system, seen by ordinary programs: it must do to a file what it says it does.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

use tempfile::TempDir;

use super::*;

const MIB: u64 = 1 << 20;

/// A mount, unless it cannot be done here.
fn mounted(capacity: u64) -> Option<(FaultFs, TempDir)> {
    if let Some(reason) = FaultFs::missing() {
        peers::skip(reason).unwrap();
        return None;
    }
    let directory = crate::place::directory().unwrap();
    Some((FaultFs::mount(&directory.path().join("disk"), capacity).unwrap(), directory))
}

/// Cuts the power and brings the machine back.
fn cut(disk: &mut FaultFs, survival: Survival) -> Cut {
    let cut = disk.cut(survival);
    disk.mount_again().unwrap();
    cut
}

fn sync_directory(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

fn error_of(error: &std::io::Error) -> Errno {
    Errno::from_i32(error.raw_os_error().unwrap())
}

#[test]
fn what_is_synced_survives_and_nothing_else() {
    let Some((mut disk, _directory)) = mounted(MIB) else { return };
    let path = disk.path().join("a");
    let mut file = File::create(&path).unwrap();
    file.write_all(b"synced").unwrap();
    file.sync_data().unwrap();
    sync_directory(disk.path());
    file.write_all(b" and not").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"synced and not", "programs see all of it");
    let handle = file;
    let first = disk.cut(Survival::Nothing);
    assert_eq!((first.pending, first.survived), (1, 0));
    // The old handle, while the power is away.
    assert_eq!(error_of(&handle.sync_all().unwrap_err()), Errno::EIO);
    drop(handle);
    disk.mount_again().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"synced");
}

#[test]
fn a_file_whose_directory_was_not_synced_is_lost() {
    let Some((mut disk, _directory)) = mounted(MIB) else { return };
    fs::create_dir(disk.path().join("d")).unwrap();
    sync_directory(disk.path());
    let path = disk.path().join("d/a");
    let mut file = File::create(&path).unwrap();
    file.write_all(b"all of it synced").unwrap();
    file.sync_all().unwrap();
    drop(file);
    cut(&mut disk, Survival::Nothing);
    assert!(disk.path().join("d").exists() && !path.exists());
    // And one in a directory that was synced is not.
    fs::write(&path, b"again").unwrap();
    File::open(&path).unwrap().sync_all().unwrap();
    sync_directory(&disk.path().join("d"));
    cut(&mut disk, Survival::Nothing);
    assert_eq!(fs::read(&path).unwrap(), b"again");
}

#[test]
fn renames_and_removals_need_a_sync_of_the_directory() {
    let Some((mut disk, _directory)) = mounted(MIB) else { return };
    let (a, b) = (disk.path().join("a"), disk.path().join("b"));
    fs::write(&a, b"x").unwrap();
    File::open(&a).unwrap().sync_all().unwrap();
    sync_directory(disk.path());
    fs::rename(&a, &b).unwrap();
    cut(&mut disk, Survival::Nothing);
    assert!(a.exists() && !b.exists());
    fs::rename(&a, &b).unwrap();
    sync_directory(disk.path());
    fs::remove_file(&b).unwrap();
    cut(&mut disk, Survival::Nothing);
    assert!(b.exists() && !a.exists());
    fs::remove_file(&b).unwrap();
    cut(&mut disk, Survival::Everything);
    assert!(!b.exists());
}

#[test]
fn a_prefix_keeps_the_order_and_sectors_do_not() {
    let Some((mut disk, _directory)) = mounted(MIB) else { return };
    let path = disk.path().join("a");
    fs::write(&path, vec![b'0'; 8 * SECTOR]).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.sync_all().unwrap();
    sync_directory(disk.path());
    disk.seed(3);
    let (mut prefixes, mut torn, mut noisy) = (0, 0, 0);
    let mut file = Some(file);
    for survival in [Survival::Prefix, Survival::Sectors, Survival::Damaged].repeat(12) {
        let open =
            file.take().unwrap_or_else(|| OpenOptions::new().write(true).open(&path).unwrap());
        for at in 0..4_u8 {
            let bytes = [b'1' + at; 2 * SECTOR];
            open.write_all_at(&bytes, u64::from(at) * 2 * SECTOR as u64).unwrap();
        }
        drop(open);
        disk.cut(survival);
        disk.mount_again().unwrap();
        let found = fs::read(&path).unwrap();
        assert_eq!(found.len(), 8 * SECTOR);
        let sectors: Vec<u8> = found
            .chunks(SECTOR)
            .map(|sector| if sector.iter().all(|one| one == &sector[0]) { sector[0] } else { b'?' })
            .collect();
        let old = |at: usize| sectors[at] == b'0';
        match survival {
            Survival::Prefix => {
                assert!(sectors.chunks(2).all(|pair| pair[0] == pair[1]), "{sectors:?}");
                assert!((2..8).all(|at| old(at) || !old(at - 2)), "in order: {sectors:?}");
                prefixes += usize::from(old(7) && !old(0));
            }
            _ => torn += usize::from(sectors.chunks(2).any(|pair| pair[0] != pair[1])),
        }
        noisy += usize::from(sectors.contains(&b'?'));
        assert!(survival == Survival::Damaged || !sectors.contains(&b'?'), "{sectors:?}");
        disk.with_image(|image| {
            let node = image.lookup(image::ROOT, "a".as_ref()).unwrap();
            image.damage(node, &mut |bytes| bytes.fill(b'0')).unwrap();
        });
    }
    assert!(prefixes > 0 && torn > 0 && noisy > 0, "{prefixes} {torn} {noisy}");
}

#[test]
fn the_nth_write_and_the_nth_sync_fail() {
    let Some((mut disk, _directory)) = mounted(MIB) else { return };
    let path = disk.path().join("a");
    let file = File::create(&path).unwrap();
    sync_directory(disk.path());
    disk.fault(Fault::nth(Operation::Write, 2, Effect::Fail(Errno::EIO)));
    file.write_all_at(b"1", 0).unwrap();
    assert_eq!(error_of(&file.write_all_at(b"2", 1).unwrap_err()), Errno::EIO);
    file.write_all_at(b"3", 1).unwrap();
    disk.clear_faults();
    disk.fault(Fault::nth(Operation::Sync, 1, Effect::Fail(Errno::EIO)));
    assert_eq!(error_of(&file.sync_data().unwrap_err()), Errno::EIO);
    // The trap: it succeeds now, and the data is gone.
    file.sync_data().unwrap();
    assert_eq!(disk.counts().struck, 2);
    drop(file);
    assert_eq!(fs::read(&path).unwrap(), b"13");
    cut(&mut disk, Survival::Everything);
    assert_eq!(fs::read(&path).unwrap(), b"");
}

#[test]
fn a_full_disk_takes_what_fits() {
    let Some((disk, _directory)) = mounted(1_000) else { return };
    let path = disk.path().join("a");
    let mut file = File::create(&path).unwrap();
    assert_eq!(file.write(&[1; 900]).unwrap(), 900);
    assert_eq!(file.write(&[2; 200]).unwrap(), 100, "to the exact octet");
    assert_eq!(error_of(&file.write(&[3; 200]).unwrap_err()), Errno::ENOSPC);
    // What is there can be written again.
    file.write_all_at(&[4; 1_000], 0).unwrap();
    disk.with_image(|image| image.set_capacity(1_200));
    assert_eq!(file.write(&[3; 200]).unwrap(), 200);
    assert_eq!(fs::metadata(&path).unwrap().len(), 1_200);
    // What is removed leaves room, but not while it is open.
    fs::remove_file(&path).unwrap();
    let other = disk.path().join("b");
    assert!(fs::write(&other, [5; 10]).is_err());
    drop(file);
    wait::wait_until("room", wait::SOON, || Ok(fs::write(&other, [5; 10]).is_ok())).unwrap();
}

#[test]
fn a_lying_disk_says_it_has_synced() {
    let Some((mut disk, _directory)) = mounted(MIB) else { return };
    let path = disk.path().join("a");
    fs::write(&path, b"old").unwrap();
    File::open(&path).unwrap().sync_all().unwrap();
    sync_directory(disk.path());
    disk.fault(Fault::every(Operation::Sync, Effect::Lie));
    fs::write(&path, b"new").unwrap();
    File::open(&path).unwrap().sync_all().unwrap();
    cut(&mut disk, Survival::Nothing);
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

#[test]
fn a_direct_write_with_o_dsync_is_a_write_and_a_sync() {
    // This is how the server writes its log. Were the sync not asked for, a cut would take away what
    // it has acknowledged, and be no fault of its own.
    let Some((mut disk, _directory)) = mounted(MIB) else { return };
    let path = disk.path().join("a");
    fs::write(&path, vec![0; 8192]).unwrap();
    File::open(&path).unwrap().sync_all().unwrap();
    sync_directory(disk.path());
    // O_DSYNC and O_DIRECT. Direct I/O wants an aligned buffer.
    let file = OpenOptions::new().write(true).custom_flags(0o10000 | 0o40000).open(&path).unwrap();
    let buffer = vec![7_u8; 8192];
    let aligned = buffer.as_ptr().align_offset(4096);
    let before = disk.counts();
    file.write_all_at(&buffer[aligned..aligned + 4096], 4096).unwrap();
    let after = disk.counts();
    assert_eq!((after.writes - before.writes, after.syncs - before.syncs), (1, 1));
    drop(file);
    cut(&mut disk, Survival::Nothing);
    assert_eq!(fs::read(&path).unwrap()[4096..], [7; 4096]);
}

#[test]
fn what_hangs_is_let_go_by_a_cut_and_what_is_slow_is_done() {
    let Some((mut disk, _directory)) = mounted(MIB) else { return };
    let path = disk.path().join("a");
    fs::write(&path, b"x").unwrap();
    File::open(&path).unwrap().sync_all().unwrap();
    sync_directory(disk.path());
    disk.fault(Fault::nth(Operation::Sync, 1, Effect::Delay(Duration::from_millis(50))));
    fs::write(&path, b"slow").unwrap();
    File::open(&path).unwrap().sync_all().unwrap();
    disk.fault(Fault::anything(Effect::Hang));
    // Another process: a thread of this one could not be ended if this test failed.
    let child = Command::new("cat").arg(&path).stdout(std::process::Stdio::piped()).spawn();
    let mut child = child.unwrap();
    disk.wait_hanging(wait::SOON).unwrap();
    assert!(child.try_wait().unwrap().is_none());
    disk.cut(Survival::Nothing);
    assert!(!child.wait().unwrap().success());
    let mut read = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut read).unwrap();
    assert_eq!(read, b"");
    disk.mount_again().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"slow");
}

#[test]
fn a_cut_can_be_aimed_at_a_write_or_a_sync() {
    let Some((mut disk, _directory)) = mounted(MIB) else { return };
    let path = disk.path().join("a");
    fs::write(&path, b"old").unwrap();
    File::open(&path).unwrap().sync_all().unwrap();
    sync_directory(disk.path());
    for (operation, survival, left) in [
        (Operation::Write, Survival::Everything, "new"),
        (Operation::Write, Survival::Nothing, "old"),
        (Operation::Sync, Survival::Nothing, "old"),
    ] {
        disk.damage("a", &mut |bytes| *bytes = b"old".to_vec()).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        disk.cut_at(operation, 1, survival);
        let written = file.write_all_at(b"new", 0);
        assert_eq!(error_of(&written.and(file.sync_all()).unwrap_err()), Errno::EIO);
        drop(file);
        assert_eq!(disk.wait_cut(wait::SOON, Survival::Nothing).pending, 1);
        disk.mount_again().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), left);
    }
}

#[test]
fn a_slow_sync_does_not_cover_what_came_later() {
    let Some((mut disk, _directory)) = mounted(MIB) else { return };
    let path = disk.path().join("a");
    fs::write(&path, b"0").unwrap();
    File::open(&path).unwrap().sync_all().unwrap();
    sync_directory(disk.path());
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"1", 0).unwrap();
    disk.fault(Fault::every(Operation::Sync, Effect::Delay(Duration::from_millis(300))));
    let other = file.try_clone().unwrap();
    let before = disk.counts().syncs;
    let sync = std::thread::spawn(move || other.sync_all().unwrap());
    wait::wait_until("the sync", wait::SOON, || Ok(disk.counts().syncs > before)).unwrap();
    file.write_all_at(b"2", 0).unwrap();
    sync.join().unwrap();
    drop(file);
    cut(&mut disk, Survival::Nothing);
    assert_eq!(fs::read(&path).unwrap(), b"1");
}

#[test]
fn a_snapshot_is_everything() {
    let Some((mut disk, _directory)) = mounted(MIB) else { return };
    disk.make_file("a", 10).unwrap();
    let whole = disk.snapshot();
    disk.damage("a", &mut |bytes| bytes[3] ^= 1).unwrap();
    assert_eq!(fs::read(disk.path().join("a")).unwrap()[3], 1);
    disk.restore(whole).unwrap();
    assert_eq!(fs::read(disk.path().join("a")).unwrap(), [0; 10]);
    assert!(disk.damage("b", &mut |_| {}).is_err());
}
