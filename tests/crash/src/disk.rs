//! The disk under the queue: the fault file system itself, or an ext4 on a block device that is an
//! image file on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use ringpost_e2e::peers;

use crate::faultfs::{self, FaultFs};

/// The image file.
const IMAGE: &str = "disk.img";

/// What the queue directory lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// On the fault file system: a cut takes unsynced octets of files and unsynced names.
    File,
    /// On an ext4, loop-mounted from an image on the fault file system: a cut takes unsynced sectors
    /// of the block device, and the real journal of the real file system has to cope.
    Block,
}

impl Layer {
    /// Why it cannot be had here, if so.
    pub fn missing(self) -> Option<&'static str> {
        if let Some(reason) = FaultFs::missing() {
            return Some(reason);
        }
        if self == Self::File {
            return None;
        }
        if ["mkfs.ext4", "e2fsck", "losetup"].iter().any(|name| peers::program(name).is_none()) {
            return Some("mkfs.ext4, e2fsck or losetup is not installed");
        }
        if !Path::new("/dev/loop-control").exists() {
            return Some("there are no loop devices here (/dev/loop-control)");
        }
        None
    }
}

/// A disk that can lose its power.
#[derive(Debug)]
pub struct Disk {
    // In this order: what is mounted last goes first.
    block: Option<Block>,
    /// The fault file system.
    pub faults: FaultFs,
}

impl Disk {
    /// A new disk of `size` octets below `directory`.
    ///
    /// # Errors
    ///
    /// Fails when something cannot be made or mounted.
    pub fn new(directory: &Path, layer: Layer, size: u64) -> Result<Self> {
        let faults = FaultFs::mount(&directory.join("faults"), size)?;
        let mut disk = Self { block: None, faults };
        if layer == Layer::Block {
            disk.faults.make_file(IMAGE, size)?;
            let image = disk.faults.path().join(IMAGE);
            let block = Block::attach(&image, &directory.join("ext4"))?;
            // On the device, not on its image: asked for a file, it asks all loop devices whether
            // they have it in use, and waits for those whose disk hangs.
            peers::run(
                Command::new(program("mkfs.ext4")?)
                    .args(["-q", "-F", "-b", "4096", "-m", "0"])
                    .args(["-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"])
                    .arg(&block.device),
            )?;
            disk.block = Some(block.mount()?);
            // This file system alone: another one may be hanging, as a test wants it to.
            peers::run(Command::new("sync").arg("--file-system").arg(disk.path()))?;
        }
        disk.faults.with_image(faultfs::Image::sync_all);
        Ok(disk)
    }

    /// The root of the file system that the queue is on.
    pub fn path(&self) -> &Path {
        self.block.as_ref().map_or(self.faults.path(), |block| &block.mountpoint)
    }

    /// Whether the kernel's thread for the journal of this ext4 waits for the disk.
    ///
    /// # Errors
    ///
    /// Fails when there is none, as on the fault file system itself.
    pub fn journal_waits(&self) -> Result<bool> {
        let block = self.block.as_ref().context("a disk without a journal")?;
        let name = format!("jbd2/{}-8", block.device.trim_start_matches("/dev/"));
        for entry in fs::read_dir("/proc")?.flatten() {
            // Processes come and go while they are looked at.
            let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
            // `ID (name) state ...`, proc_pid_stat(5).
            if let Some((head, tail)) = stat.rsplit_once(") ")
                && head.ends_with(&format!("({name}"))
            {
                return Ok(tail.starts_with('D'));
            }
        }
        bail!("no thread {name}")
    }

    /// Brings the machine back after a cut. Nobody may have a file open on the disk.
    ///
    /// # Errors
    ///
    /// Fails when somebody has, and when the file system does not come back by itself.
    pub fn power_up(&mut self) -> Result<()> {
        let block = self.block.take();
        let mountpoint = block.as_ref().map(|block| block.mountpoint.clone());
        if let Some(block) = block {
            block.unmount()?;
        }
        self.faults.mount_again()?;
        if let Some(mountpoint) = mountpoint {
            let image = self.faults.path().join(IMAGE);
            self.block = Some(Block::attach(&image, &mountpoint)?.mount()?);
        }
        Ok(())
    }
}

/// An ext4 on a loop device.
#[derive(Debug)]
struct Block {
    device: String,
    mountpoint: PathBuf,
    is_mounted: bool,
}

impl Block {
    /// Attaches the image to a free device.
    fn attach(image: &Path, mountpoint: &Path) -> Result<Self> {
        fs::create_dir_all(mountpoint)?;
        let device = peers::run(
            Command::new(program("losetup")?)
                .args(["--find", "--show", "--direct-io=on"])
                .arg(image),
        )?;
        let device = device.trim().to_owned();
        Ok(Self { device, mountpoint: mountpoint.to_owned(), is_mounted: false })
    }

    /// Repairs what a restart of a machine would repair, and mounts it.
    fn mount(mut self) -> Result<Self> {
        let output = Command::new(program("e2fsck")?).arg("-p").arg(&self.device).output()?;
        // 1: errors were corrected. Anything worse would be a matter for an operator.
        ensure!(
            output.status.code().is_some_and(|code| code <= 1),
            "e2fsck: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let mut command = Command::new("mount");
        peers::run(command.args(["-t", "ext4"]).arg(&self.device).arg(&self.mountpoint))?;
        self.is_mounted = true;
        Ok(self)
    }

    fn unmount(mut self) -> Result<()> {
        self.release()
    }

    fn release(&mut self) -> Result<()> {
        if self.is_mounted {
            faultfs::unmount(&self.mountpoint)?;
            self.is_mounted = false;
        }
        let device = std::mem::take(&mut self.device);
        if !device.is_empty() {
            peers::run(Command::new(program("losetup")?).args(["--detach", &device]))?;
        }
        Ok(())
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            peers::tell(&format!("{}: {error:#}", self.mountpoint.display()));
        }
    }
}

fn program(name: &str) -> Result<PathBuf> {
    peers::program(name).with_context(|| format!("{name} is not installed"))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;
    use crate::faultfs::Survival;

    #[test]
    fn an_ext4_keeps_what_was_synced_over_a_cut_and_loses_the_rest() {
        if let Some(reason) = Layer::Block.missing() {
            return peers::skip(reason).unwrap();
        }
        let directory = crate::place::directory().unwrap();
        let mut disk = Disk::new(directory.path(), Layer::Block, 32 << 20).unwrap();
        let (kept, lost) = (disk.path().join("kept"), disk.path().join("lost"));
        fs::write(&kept, b"kept").unwrap();
        File::open(&kept).unwrap().sync_all().unwrap();
        File::open(disk.path()).unwrap().sync_all().unwrap();
        fs::write(&lost, b"lost").unwrap();
        disk.faults.cut(Survival::Nothing);
        disk.power_up().unwrap();
        assert_eq!(fs::read(&kept).unwrap(), b"kept");
        assert!(!lost.exists());
    }
}
