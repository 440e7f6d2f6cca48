//! A file system that stops to answer, as that of a dead NFS server does: a FUSE server of the test's own
//! (fuse(4), and the structures of linux/fuse.h).
//!
//! Its root has a directory `dir` and a file `file` of a page. Nothing of it is cached, so that each
//! look-up and each read asks the server.

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Room for a request; the kernel wants so much (FUSE_MIN_READ_BUFFER) and 4 KiB of data.
const REQUEST_BYTES: usize = 16 << 10;
/// How often the server looks whether it is to end, in milliseconds.
const STEP_MS: u16 = 20;

/// Operations (enum fuse_opcode).
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const RELEASE: u32 = 18;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const RELEASEDIR: u32 = 29;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

/// Nodes.
const ROOT: u64 = 1;
const DIR: u64 = 2;
const FILE: u64 = 3;

/// FOPEN_DIRECT_IO: no page cache.
const DIRECT_IO: u32 = 1;

/// A mounted file system, unmounted when dropped; whoever waits for it gets an error then.
#[derive(Debug)]
pub struct Fuse {
    dir: PathBuf,
    switches: Arc<Switches>,
    server: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Switches {
    hangs: AtomicBool,
    ends: AtomicBool,
}

impl Fuse {
    /// Mounts one that answers, on a directory that is made for it.
    ///
    /// # Errors
    /// The kernel has no FUSE.
    pub fn mount(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let device = File::options()
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open("/dev/fuse")
            .context("/dev/fuse")?;
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
            device.as_raw_fd()
        );
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(
            Some("e2e"),
            dir,
            Some("fuse"),
            flags,
            Some(options.as_str()),
        )
        .context("mount FUSE")?;
        let switches = Arc::new(Switches::default());
        let told = switches.clone();
        Ok(Self {
            dir: dir.to_owned(),
            switches,
            server: Some(std::thread::spawn(move || serve(device, &told))),
        })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// From now on requests are taken and not answered: who has made one cannot even be killed.
    pub fn hang(&self) {
        self.switches.hangs.store(true, Ordering::Release);
    }

    /// Answers all, those first that came meanwhile.
    pub fn recover(&self) {
        self.switches.hangs.store(false, Ordering::Release);
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        // The server's end aborts what waits; before that nothing can be unmounted but lazily.
        self.switches.ends.store(true, Ordering::Release);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
        let _ = umount2(&self.dir, MntFlags::MNT_DETACH);
    }
}

/// Serves until it is to end. The kernel aborts the connection when the device is closed.
fn serve(mut device: File, switches: &Switches) {
    let mut buffer = vec![0; REQUEST_BYTES];
    let mut waiting: Vec<Vec<u8>> = Vec::new();
    while !switches.ends.load(Ordering::Acquire) {
        let mut ready = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut ready, PollTimeout::from(STEP_MS));
        match device.read(&mut buffer) {
            Ok(bytes) => waiting.push(buffer[..bytes].to_vec()),
            Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => return,
            Err(_) => {}
        }
        if switches.hangs.load(Ordering::Acquire) {
            continue;
        }
        for request in waiting.drain(..) {
            if let Some(answer) = Request::parse(&request).and_then(|r| answer(&r)) {
                // A request that was interrupted meanwhile wants no answer.
                let _ = device.write_all(&answer);
            }
        }
    }
}

/// struct fuse_in_header, and what follows it.
struct Request<'a> {
    operation: u32,
    id: u64,
    node: u64,
    rest: &'a [u8],
}

impl<'a> Request<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let long = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        Some(Self {
            operation: word(4)?,
            id: long(8)?,
            node: long(16)?,
            rest: bytes.get(40..)?,
        })
    }
}

/// None: it wants no answer.
fn answer(request: &Request<'_>) -> Option<Vec<u8>> {
    let body = match request.operation {
        FORGET | BATCH_FORGET | INTERRUPT => return None,
        INIT => Ok(init()),
        GETATTR => Ok(attributes_answer(request.node)),
        LOOKUP => match request.rest {
            b"dir\0" => Ok(entry(DIR)),
            b"file\0" => Ok(entry(FILE)),
            _ => Err(Errno::ENOENT),
        },
        OPEN | OPENDIR => Ok(opened()),
        // Of struct fuse_read_in: behind the file's handle is where to read.
        READ => match request.rest.get(8..16) {
            Some([0, 0, 0, 0, 0, 0, 0, 0]) => Ok(b"answered\n".to_vec()),
            _ => Ok(Vec::new()),
        },
        RELEASE | RELEASEDIR => Ok(Vec::new()),
        _ => Err(Errno::ENOSYS),
    };
    Some(framed(request.id, body))
}

/// struct fuse_out_header before a body.
fn framed(id: u64, body: Result<Vec<u8>, Errno>) -> Vec<u8> {
    let (error, body) = match body {
        Ok(body) => (0, body),
        Err(errno) => (-(errno as i32), Vec::new()),
    };
    let length = u32::try_from(16 + body.len()).expect("answers are short");
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(error.to_ne_bytes());
    bytes.extend(id.to_ne_bytes());
    bytes.extend(body);
    bytes
}

/// struct fuse_init_out of protocol 7.31, without any feature.
fn init() -> Vec<u8> {
    let mut body = [7_u32, 31, 0, 0].map(u32::to_ne_bytes).concat();
    // max_background and congestion_threshold; max_write; time_gran; the rest is zero.
    body.extend([12_u16, 9].map(u16::to_ne_bytes).concat());
    body.extend([4096_u32, 1].map(u32::to_ne_bytes).concat());
    body.resize(64, 0);
    body
}

/// struct fuse_attr.
fn attributes(node: u64) -> Vec<u8> {
    let (mode, size) = match node {
        FILE => (0o100_644_u32, 4096_u64),
        _ => (0o040_755, 0),
    };
    // ino, size, blocks, and three times.
    let mut bytes = [node, size, 0, 0, 0, 0].map(u64::to_ne_bytes).concat();
    // Nanoseconds of the times; mode, nlink, uid, gid, rdev, blksize, flags.
    let words = [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0];
    bytes.extend(words.map(u32::to_ne_bytes).concat());
    bytes
}

/// struct fuse_attr_out, valid for no time.
fn attributes_answer(node: u64) -> Vec<u8> {
    [vec![0; 16], attributes(node)].concat()
}

/// struct fuse_entry_out, valid for no time.
fn entry(node: u64) -> Vec<u8> {
    debug_assert_ne!(node, ROOT);
    [node.to_ne_bytes().to_vec(), vec![0; 32], attributes(node)].concat()
}

/// struct fuse_open_out.
fn opened() -> Vec<u8> {
    let mut body = 0_u64.to_ne_bytes().to_vec();
    body.extend([DIRECT_IO, 0].map(u32::to_ne_bytes).concat());
    body
}
