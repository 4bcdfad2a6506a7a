//! Finds the node's control socket, and trusts it only if its owner may be trusted (SPEC §2, §9).
//!
//! Whoever listens on the other side is handed messages and mint requests, so the peer must run under one's
//! own uid or root's; the node checks the same of us.

use crate::failure::Failure;
use ron_node::socket::SocketPlace;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;

/// The mailbox listener's port unless the configuration says otherwise (SPEC §2).
const MAILBOX_PORT: u16 = 9410;

/// Where the node of a command line is: `--socket` (or `RON_SOCKET`; `@NAME` is in the abstract namespace),
/// else the data directory of `--config`, else `./data`.
///
/// # Errors
/// [`Failure::Config`] if the configuration file cannot be read.
pub(crate) fn find(socket: Option<&str>, config: Option<&Path>) -> Result<SocketPlace, Failure> {
    match (socket, config) {
        (Some(socket), _) => Ok(match socket.strip_prefix('@') {
            Some(name) => SocketPlace::Abstract(name.to_owned()),
            None => SocketPlace::Path(PathBuf::from(socket)),
        }),
        (None, Some(file)) => of_config(file),
        (None, None) => Ok(SocketPlace::in_data_dir(Path::new("./data"))),
    }
}

/// Connects, and checks whose socket it is.
///
/// # Errors
/// Whatever the connect says; `PermissionDenied` if another user listens there.
pub(crate) async fn connect(place: &SocketPlace) -> io::Result<UnixStream> {
    let stream = match place {
        SocketPlace::Path(path) => UnixStream::connect(path).await?,
        SocketPlace::Abstract(name) => {
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

/// Where a node with this configuration file listens. Only the keys that say so are read, so that whoever
/// runs ronctl needs none of the node's secrets.
fn of_config(file: &Path) -> Result<SocketPlace, Failure> {
    let bad = |why: String| Failure::Config(format!("{}: {why}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|err| bad(err.to_string()))?;
    let table: toml::Table = text.parse().map_err(|err: toml::de::Error| bad(err.to_string()))?;
    let key = |section: &str, key: &str| table.get(section).and_then(|section| section.get(key)).cloned();
    let amnesia = key("node", "amnesia").and_then(|value| value.as_bool());
    let micronode = key("node", "profile").is_some_and(|value| value.as_str() == Some("micronode"));
    if amnesia.unwrap_or(micronode) {
        let listen = key("mailbox", "listen").and_then(|value| value.as_str().map(str::to_owned));
        let port = listen.as_deref().map_or(Some(MAILBOX_PORT), |at| at.rsplit_once(':')?.1.parse().ok());
        let port = port.ok_or_else(|| bad("mailbox.listen: write IP:PORT".to_owned()))?;
        let runtime_dir = std::env::var("XDG_RUNTIME_DIR").ok();
        return Ok(SocketPlace::in_amnesia(runtime_dir.as_deref(), port));
    }
    let dir = key("node", "data_dir").and_then(|value| value.as_str().map(str::to_owned));
    Ok(SocketPlace::in_data_dir(Path::new(dir.as_deref().unwrap_or("./data"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_socket_then_config_then_default() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("node.toml");
        std::fs::write(&file, "[node]\ndata_dir = \"/var/lib/ron\"\n").unwrap();
        let find = |socket, config| find(socket, config).unwrap();
        assert_eq!(find(Some("/run/x.sock"), Some(&file)), SocketPlace::Path("/run/x.sock".into()));
        assert_eq!(find(Some("@ron-node.0.9410"), None), SocketPlace::Abstract("ron-node.0.9410".into()));
        assert_eq!(find(None, Some(&file)), SocketPlace::Path("/var/lib/ron/ronctl.sock".into()));
        assert_eq!(find(None, None), SocketPlace::Path("./data/ronctl.sock".into()));
    }

    #[test]
    fn a_node_in_amnesia_is_found_by_its_mailbox_port() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("node.toml");
        let place = |text: &str| {
            std::fs::write(&file, text).unwrap();
            find(None, Some(&file)).unwrap().to_string()
        };
        assert!(place("[node]\namnesia = true\n[mailbox]\nlisten = \"[::1]:7000\"\n").contains(".7000"));
        assert!(place("[node]\nprofile = \"micronode\"\n").contains(".9410"));
        assert_eq!(place("[node]\nprofile = \"micronode\"\namnesia = false\n"), "./data/ronctl.sock");
    }

    #[test]
    fn a_config_file_that_is_missing_is_a_config_error() {
        let error = find(None, Some(Path::new("/nonexistent/node.toml"))).unwrap_err();
        assert_eq!(error.code(), 78);
        assert!(error.to_string().contains("/nonexistent/node.toml"));
    }
}
