//! The Unix socket for `ronctl` (SPEC §2): in the data directory, or, in amnesia, where no file is made on disk.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener as StdListener};
use std::path::{Path, PathBuf};
use tokio::net::UnixListener;

/// Linux's magic number of tmpfs.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// Where the socket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketPlace {
    /// A file.
    Path(PathBuf),
    /// In the abstract namespace, without the leading NUL.
    Abstract(String),
}

impl SocketPlace {
    /// The place for a durable node.
    #[must_use]
    pub fn in_data_dir(data_dir: &Path) -> SocketPlace {
        SocketPlace::Path(data_dir.join("ronctl.sock"))
    }

    /// The place in amnesia: `$XDG_RUNTIME_DIR` if that is tmpfs, else abstract, named by uid and mailbox port.
    #[must_use]
    pub fn in_amnesia(runtime_dir: Option<&str>, mailbox_port: u16) -> SocketPlace {
        let uid = rustix::process::getuid().as_raw();
        let name = format!("ron-node.{uid}.{mailbox_port}");
        match runtime_dir.map(Path::new).filter(|dir| is_tmpfs(dir)) {
            Some(dir) => SocketPlace::Path(dir.join(format!("{name}.sock"))),
            None => SocketPlace::Abstract(name),
        }
    }

    /// Binds it. Nobody but this uid can open a path socket: umask 0177 in a directory of mode 0700.
    ///
    /// # Errors
    /// What the system says.
    pub fn bind(&self) -> io::Result<UnixListener> {
        let listener = match self {
            SocketPlace::Abstract(name) => {
                StdListener::bind_addr(&SocketAddr::from_abstract_name(name.as_bytes())?)?
            }
            SocketPlace::Path(path) => {
                // The store's lock is ours: a socket that lies here was left by a process that is gone.
                match std::fs::remove_file(path) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
                let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
                let bound = StdListener::bind(path);
                rustix::process::umask(before);
                bound?
            }
        };
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener)
    }

    /// Removes what binding left in the file system.
    pub fn remove(&self) {
        if let SocketPlace::Path(path) = self {
            // If it stays, the next start removes it.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl std::fmt::Display for SocketPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SocketPlace::Path(path) => write!(f, "{}", path.display()),
            SocketPlace::Abstract(name) => write!(f, "@{name}"),
        }
    }
}

/// Whether no disk is behind a directory.
pub(crate) fn is_tmpfs(dir: &Path) -> bool {
    rustix::fs::statfs(dir).is_ok_and(|found| found.f_type == TMPFS_MAGIC)
}

/// Makes the data directory for this uid alone; tightens one that is open to others.
///
/// # Errors
/// What the system says.
pub fn make_data_dir(dir: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mode = std::fs::metadata(dir)?.permissions().mode();
    if mode & 0o077 != 0 {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}
