//! Finds the node's control socket, and trusts it only if its owner may be trusted (SPEC §2, §9).
//!
//! Whoever listens on the other side is handed messages and mint requests, so the peer must run under one's own uid
//! or root's; the node checks the same of us.

use crate::failure::Failure;
use std::fmt;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;

/// The socket's file name inside a data directory.
const SOCKET_NAME: &str = "ronctl.sock";

/// Where a control socket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A path in the file system.
    Path(PathBuf),
    /// A name in Linux's abstract namespace, without the `@`; what a node in amnesia listens on.
    Abstract(String),
}

impl Place {
    /// Reads `PATH` or `@name`.
    #[must_use]
    pub(crate) fn parse(text: &str) -> Place {
        match text.strip_prefix('@') {
            Some(name) => Place::Abstract(name.to_owned()),
            None => Place::Path(PathBuf::from(text)),
        }
    }

    /// Where the node of a command line is: `--socket` (or `RON_SOCKET`), else the data directory of `--config`, else
    /// `./data`.
    ///
    /// # Errors
    /// [`Failure::Config`] if the configuration file cannot be read.
    pub(crate) fn find(socket: Option<&str>, config: Option<&Path>) -> Result<Place, Failure> {
        match (socket, config) {
            (Some(socket), _) => Ok(Place::parse(socket)),
            (None, Some(file)) => Ok(Place::Path(data_dir(file)?.join(SOCKET_NAME))),
            (None, None) => Ok(Place::Path(Path::new("./data").join(SOCKET_NAME))),
        }
    }

    /// Connects, and checks whose socket it is.
    ///
    /// # Errors
    /// Whatever the connect says; `PermissionDenied` if another user listens there.
    pub(crate) async fn connect(&self) -> io::Result<UnixStream> {
        let stream = match self {
            Place::Path(path) => UnixStream::connect(path).await?,
            Place::Abstract(name) => {
                let stream = StdUnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?;
                stream.set_nonblocking(true)?;
                UnixStream::from_std(stream)?
            }
        };
        let peer = stream.peer_cred()?.uid();
        if peer != 0 && peer != rustix::process::geteuid().as_raw() {
            let text = format!("it belongs to uid {peer}, which is neither yours nor root");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        Ok(stream)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Path(path) => write!(f, "{}", path.display()),
            Place::Abstract(name) => write!(f, "@{name}"),
        }
    }
}

/// `node.data_dir` of a configuration file, as the node would read it.
fn data_dir(file: &Path) -> Result<PathBuf, Failure> {
    let bad = |why: String| Failure::Config(format!("{}: {why}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|err| bad(err.to_string()))?;
    let table: toml::Table = text.parse().map_err(|err: toml::de::Error| bad(err.to_string()))?;
    let dir = table.get("node").and_then(|node| node.get("data_dir")).and_then(toml::Value::as_str);
    Ok(PathBuf::from(dir.unwrap_or("./data")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_socket_then_config_then_default() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("node.toml");
        std::fs::write(&file, "[node]\ndata_dir = \"/var/lib/ron\"\n").unwrap();
        let find = |socket, config| Place::find(socket, config).unwrap();
        assert_eq!(find(Some("/run/x.sock"), Some(&file)), Place::Path("/run/x.sock".into()));
        assert_eq!(find(Some("@ron-node.0.9410"), None), Place::Abstract("ron-node.0.9410".into()));
        assert_eq!(find(None, Some(&file)), Place::Path("/var/lib/ron/ronctl.sock".into()));
        assert_eq!(find(None, None), Place::Path("./data/ronctl.sock".into()));
    }

    #[test]
    fn a_config_file_that_is_missing_is_a_config_error() {
        let error = Place::find(None, Some(Path::new("/nonexistent/node.toml"))).unwrap_err();
        assert_eq!(error.code(), 78);
        assert!(error.to_string().contains("/nonexistent/node.toml"));
    }
}
