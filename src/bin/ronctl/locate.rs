//! Finds the node's control socket, and trusts it only if its owner may be trusted (SPEC §2, §9).
//!
//! Whoever listens on the other side is handed messages and mint requests, so the peer must run under one's
//! own uid or root's; the node checks the same of us.

use crate::failure::Failure;
use ron_node::socket::SocketPlace;
use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;

/// The mailbox listener's port unless the configuration says otherwise (SPEC §2).
const MAILBOX_PORT: u16 = 9410;

/// What a command line says of where its node is, or else its environment. Who names a node with a flag means that
/// one, whatever variables are set: `--config` comes before `RON_SOCKET`, and that before `RON_CONFIG`.
pub(crate) fn named(
    socket: Option<String>,
    config: Option<PathBuf>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> (Option<String>, Option<PathBuf>) {
    if socket.is_some() || config.is_some() {
        return (socket, config);
    }
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    match set("RON_SOCKET") {
        Some(socket) => (Some(socket.to_string_lossy().into_owned()), None),
        None => (None, set("RON_CONFIG").map(PathBuf::from)),
    }
}

/// Where the node is that [`named`] found: at the socket (`@NAME` is in the abstract namespace), else in the data
/// directory of the configuration, else in `./data`.
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

/// Where a stopped node keeps its files.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Places {
    /// The data directory.
    pub(crate) data_dir: PathBuf,
    /// Its snapshots.
    pub(crate) snapshot_dir: PathBuf,
}

/// The directories of a command line: `data_dir`, else `RON_NODE__DATA_DIR`, else those of `--config`, else the
/// directory of the control socket, else `./data`.
///
/// # Errors
/// [`Failure::Config`] if the configuration file cannot be read, or says that the node keeps no files.
pub(crate) fn places(
    data_dir: Option<&Path>,
    socket: Option<&str>,
    config: Option<&Path>,
) -> Result<Places, Failure> {
    let table = config.map(read).transpose()?.unwrap_or_default();
    if config.is_some() && in_amnesia(&table) {
        let text = "the configuration says node.amnesia: such a node writes no file";
        return Err(Failure::Config(text.to_owned()));
    }
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let beside = |socket: &str| match socket.starts_with('@') {
        true => None,
        false => Path::new(socket).parent().map(Path::to_owned),
    };
    let in_file = |section: &str, key: &str| text_of(&table, section, key).map(PathBuf::from);
    let by_socket = || socket.filter(|_| config.is_none()).and_then(beside);
    let data_dir = data_dir
        .map(Path::to_owned)
        .or_else(|| variable("RON_NODE__DATA_DIR"))
        .or_else(|| in_file("node", "data_dir"))
        .or_else(by_socket)
        .unwrap_or_else(|| PathBuf::from("./data"));
    let snapshot_dir = variable("RON_STORE__SNAPSHOT_DIR").or_else(|| in_file("store", "snapshot_dir"));
    let snapshot_dir = snapshot_dir.unwrap_or_else(|| data_dir.join("snapshots"));
    Ok(Places { data_dir, snapshot_dir })
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
    let table = read(file)?;
    if in_amnesia(&table) {
        let bad = |why: String| Failure::Config(format!("{}: {why}", file.display()));
        let listen = text_of(&table, "mailbox", "listen");
        let port = listen.as_deref().map_or(Some(MAILBOX_PORT), |at| at.rsplit_once(':')?.1.parse().ok());
        let port = port.ok_or_else(|| bad("mailbox.listen: write IP:PORT".to_owned()))?;
        let runtime_dir = std::env::var("XDG_RUNTIME_DIR").ok();
        return Ok(SocketPlace::in_amnesia(runtime_dir.as_deref(), port));
    }
    let dir = text_of(&table, "node", "data_dir");
    Ok(SocketPlace::in_data_dir(Path::new(dir.as_deref().unwrap_or("./data"))))
}

fn read(file: &Path) -> Result<toml::Table, Failure> {
    let bad = |why: String| Failure::Config(format!("{}: {why}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|err| bad(err.to_string()))?;
    text.parse().map_err(|err: toml::de::Error| bad(err.to_string()))
}

fn key<'t>(table: &'t toml::Table, section: &str, key: &str) -> Option<&'t toml::Value> {
    table.get(section)?.get(key)
}

fn text_of(table: &toml::Table, section: &str, name: &str) -> Option<String> {
    Some(key(table, section, name)?.as_str()?.to_owned())
}

fn in_amnesia(table: &toml::Table) -> bool {
    let amnesia = key(table, "node", "amnesia").and_then(toml::Value::as_bool);
    let micronode = key(table, "node", "profile").and_then(toml::Value::as_str) == Some("micronode");
    amnesia.unwrap_or(micronode)
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
    fn flags_come_before_variables() {
        let both = |name: &str| match name {
            "RON_SOCKET" => Some("@env".into()),
            "RON_CONFIG" => Some("/etc/env.toml".into()),
            _ => None,
        };
        let flag = || Some(PathBuf::from("/flag.toml"));
        assert_eq!(named(None, flag(), both), (None, flag()), "a node that is named is meant");
        assert_eq!(named(Some("/s".into()), flag(), both), (Some("/s".into()), flag()));
        assert_eq!(named(None, None, both), (Some("@env".into()), None));
        let config_alone = |name: &str| both(name).filter(|_| name == "RON_CONFIG");
        assert_eq!(named(None, None, config_alone), (None, Some("/etc/env.toml".into())));
        let empty = |_: &str| Some(OsString::new());
        assert_eq!(named(None, None, empty), (None, None), "set and empty is not set");
    }

    #[test]
    fn a_stopped_node_is_found_by_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("node.toml");
        let text = "[node]\ndata_dir = \"/var/lib/ron\"\n[store]\nsnapshot_dir = \"/backup\"\n";
        std::fs::write(&file, text).unwrap();
        let found = |data_dir: &str, snapshots: &str| Places {
            data_dir: data_dir.into(),
            snapshot_dir: snapshots.into(),
        };
        assert_eq!(places(None, None, Some(&file)).unwrap(), found("/var/lib/ron", "/backup"));
        let explicit = places(Some(Path::new("/x")), Some("/run/a.sock"), None).unwrap();
        assert_eq!(explicit, found("/x", "/x/snapshots"));
        assert_eq!(places(None, Some("/run/a.sock"), None).unwrap(), found("/run", "/run/snapshots"));
        assert_eq!(places(None, Some("@ron"), None).unwrap(), found("./data", "./data/snapshots"));
        std::fs::write(&file, "[node]\namnesia = true\n").unwrap();
        assert_eq!(places(None, None, Some(&file)).unwrap_err().code(), 78);
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
