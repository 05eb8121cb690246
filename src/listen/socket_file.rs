//! The file of a unix socket: made by one server at a time, and removed by the server that made it.
//!
//! bind(2) makes the file, and fails if there is one. A file that no process listens on any more is
//! removed first, which is a step of its own: of two servers that find such a file, the slower one
//! would remove the file that the faster one has just made. And a socket that is bound but does not
//! listen yet looks to others as if nobody listened on it. So a server holds a lock on the directory
//! (flock(2)) from before bind(2) until it listens. A lock on the directory leaves no file behind.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix};

use crate::sys::socket::stream_socket;
use crate::sys::waker::wait_for;

/// The longest time for which a server waits for the lock. Another server holds it for the time of
/// a few system calls. A program that holds it longer is none of ours, and must not keep us from
/// starting or from stopping.
const LOCK_TRIES: u32 = 200;
/// The pause between two attempts to get the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// The file of a unix socket that we have bound.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// The file's device and inode. As long as the socket is open the kernel keeps the inode, so no
    /// other file has these numbers.
    identity: (u64, u64),
}

impl SocketFile {
    /// Binds `socket` to `path`. A socket file that no process listens on any more is replaced.
    ///
    /// The caller holds a [`DirectoryLock`] until the socket listens.
    pub(super) fn bind(socket: &OwnedFd, path: &Path) -> io::Result<Self> {
        let addr = SocketAddrUnix::new(path)?;
        match rustix::net::bind(socket, &addr) {
            Err(Errno::ADDRINUSE) if is_abandoned(path, &addr) => {
                std::fs::remove_file(path)?;
                rustix::net::bind(socket, &addr)?;
            }
            bound => bound?,
        }
        Ok(Self {
            // The program may change its working directory before it removes the file.
            path: std::path::absolute(path)?,
            identity: identity(&std::fs::symlink_metadata(path)?),
        })
    }

    /// Removes the file, unless it is gone or another one is in its place. The caller still holds
    /// the socket.
    pub(super) fn remove(self) -> io::Result<()> {
        // Without the lock the file could be replaced between the two calls.
        let _lock = DirectoryLock::take(&self.path);
        let removed = std::fs::symlink_metadata(&self.path).and_then(|file| {
            if identity(&file) == self.identity {
                std::fs::remove_file(&self.path)
            } else {
                Ok(())
            }
        });
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Keeps other servers from making or removing socket files in a directory until it is dropped.
#[derive(Debug)]
pub(super) struct DirectoryLock(#[allow(dead_code, reason = "it is there to be dropped")] File);

impl DirectoryLock {
    /// Locks the directory that `path` is in. Returns `None` where that cannot be done: the
    /// directory may not be read, its file system knows no such locks, or another program holds the
    /// lock for longer than a second.
    pub(super) fn take(path: &Path) -> Option<Self> {
        let directory = path.parent().filter(|path| !path.as_os_str().is_empty());
        let directory = File::open(directory.unwrap_or(Path::new("."))).ok()?;
        for _ in 0..LOCK_TRIES {
            match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Some(Self(directory)),
                Err(Errno::WOULDBLOCK | Errno::INTR) => wait_for(&[], Some(LOCK_PAUSE)),
                Err(_) => return None,
            };
        }
        None
    }
}

/// Returns whether the file at `path` is a unix socket that no process listens on. The type of the
/// file is looked at because a file that is no socket refuses connections too.
fn is_abandoned(path: &Path, addr: &SocketAddrUnix) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let refuses = || {
        stream_socket(AddressFamily::UNIX).is_ok_and(|probe| {
            // A server whose accept backlog is full would have a blocking probe wait.
            rustix::io::ioctl_fionbio(&probe, true).is_ok()
                && rustix::net::connect(&probe, addr) == Err(Errno::CONNREFUSED)
        })
    };
    is_socket && refuses()
}
