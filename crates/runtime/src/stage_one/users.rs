//! User namespaces: the container's own, and those that only serve to map the owners of files.

use crate::error::{Context, StartError};
use crate::spec::{Container, IdMap, IdMaps, id_map_lines};
use crisp_sys::namespace::{Kind, open_namespace};
use crisp_sys::process::{self, SingleThreaded, Spawn, Spawned};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, pipe2, read};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

/// The user namespace of a container; none: the caller's.
pub(crate) fn namespace(
    container: &Container,
    witness: &SingleThreaded,
) -> Result<Option<OwnedFd>, StartError> {
    let namespaces = &container.namespaces;
    if !namespaces.has(Kind::User) {
        return Ok(None);
    }
    if container.id_maps.uids.is_empty() || container.id_maps.gids.is_empty() {
        return Err(StartError::invalid(
            "linux.uidMappings, linux.gidMappings: a user namespace needs both",
        ));
    }
    if let Some(path) = namespaces.joined(Kind::User) {
        let opened = open_namespace(path, Kind::User).step("open the user namespace", path)?;
        return Ok(Some(opened));
    }
    new_namespace(&container.id_maps, witness).map(Some)
}

/// A user namespace with these mappings. It is made for a child that waits until its mappings are
/// written and the namespace is opened: that keeps it alive after the child has ended.
pub(super) fn new_namespace(
    maps: &IdMaps,
    witness: &SingleThreaded,
) -> Result<OwnedFd, StartError> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).step("make a pipe", "")?;
    let options = Spawn {
        namespaces: Some(Kind::User.flag()),
        ..Spawn::default()
    };
    let holder = process::spawn(&options, witness, |child| {
        let closed = child.close_all_but(&[reader.as_fd()]);
        // Nothing is ever written: the read ends when the other side is closed.
        let _ = closed.and_then(|()| read(&reader, &mut [0]));
        0
    })
    .step("make a user namespace", "")?;
    drop(reader);
    let opened = map_and_open(&holder, maps);
    drop(writer);
    waitid(Id::PIDFd(holder.pidfd.as_fd()), WaitPidFlag::WEXITED)
        .step("wait for the holder of a user namespace", "")?;
    opened
}

fn map_and_open(holder: &Spawned, maps: &IdMaps) -> Result<OwnedFd, StartError> {
    let number = number_in_proc(&holder.pidfd)?;
    let file = |name: &str| PathBuf::from(format!("/proc/{number}/{name}"));
    for (name, maps) in [("uid_map", &maps.uids), ("gid_map", &maps.gids)] {
        let path = file(name);
        fs::write(&path, id_map_lines(maps)).step("write", &path)?;
    }
    let path = file("ns/user");
    open_namespace(&path, Kind::User).step("open", &path)
}

/// What a process is called in /proc, the host's: to who was born in a pid namespace it is another number.
fn number_in_proc(pidfd: &OwnedFd) -> Result<String, StartError> {
    let path = PathBuf::from(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()));
    let info = fs::read_to_string(&path).step("read", &path)?;
    let number = info.lines().find_map(|line| line.strip_prefix("Pid:"));
    match number.map(str::trim).filter(|number| *number != "-1") {
        Some(number) => Ok(number.to_owned()),
        None => Err(Errno::ESRCH).step("find a process by", path),
    }
}

/// The mappings of the user namespace of a process, as seen from the caller's.
pub(crate) fn maps_of(process: Pid) -> Result<IdMaps, StartError> {
    let read = |name: &str| {
        let path = PathBuf::from(format!("/proc/{process}/{name}"));
        let text = fs::read_to_string(&path).step("read", &path)?;
        Ok(text.lines().filter_map(IdMap::parse).collect())
    };
    Ok(IdMaps {
        uids: read("uid_map")?,
        gids: read("gid_map")?,
    })
}
