//! A server that speaks as much of Redis as the benchmark asks for, and remembers what it was asked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// What it says of itself, and does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Persistence {
    Always,
    EverySecond,
    /// Has no room: refuses every message.
    Full,
}

/// What it was asked so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) added: u64,
    pub(crate) payload_bytes: u64,
    pub(crate) delivered: u64,
    pub(crate) acked: u64,
    pub(crate) deleted: u64,
    /// Streams that are there.
    pub(crate) streams: usize,
}

#[derive(Debug, Default)]
struct Stream {
    ready: VecDeque<String>,
    pending: BTreeSet<String>,
    kept: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct State {
    seen: Seen,
    streams: BTreeMap<String, Stream>,
}

#[derive(Debug)]
pub(crate) struct FakeRedis {
    port: u16,
    state: Arc<(Mutex<State>, Condvar)>,
}

impl FakeRedis {
    pub(crate) fn start(persistence: Persistence) -> FakeRedis {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::<(Mutex<State>, Condvar)>::default();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(socket, persistence, &shared));
            }
        });
        FakeRedis { port, state }
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn seen(&self) -> Seen {
        let state = self.state.0.lock().unwrap();
        Seen { streams: state.streams.len(), ..state.seen.clone() }
    }
}

fn serve(socket: TcpStream, persistence: Persistence, state: &(Mutex<State>, Condvar)) {
    socket.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(socket.try_clone().unwrap());
    let mut writer = socket;
    while let Some(command) = command(&mut reader) {
        let mut reply = answer(&command, persistence, state);
        // replies to what came together go together
        while reader.buffer().starts_with(b"*") && reply.len() < 60_000 {
            let Some(next) = self::command(&mut reader) else { break };
            reply.push_str(&answer(&next, persistence, state));
        }
        if writer.write_all(reply.as_bytes()).is_err() {
            return;
        }
    }
}

fn command(reader: &mut impl BufRead) -> Option<Vec<Vec<u8>>> {
    let number = |sign: char, reader: &mut dyn BufRead| {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|len| *len > 0)?;
        line.trim_end().strip_prefix(sign).map(|count| count.parse::<usize>().unwrap())
    };
    let count = number('*', reader)?;
    let part = |reader: &mut dyn BufRead| {
        let mut bytes = vec![0; number('$', reader)? + 2];
        reader.read_exact(&mut bytes).ok()?;
        bytes.truncate(bytes.len() - 2);
        Some(bytes)
    };
    (0..count).map(|_| part(reader)).collect()
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

fn answer(command: &[Vec<u8>], persistence: Persistence, (state, came): &(Mutex<State>, Condvar)) -> String {
    let text = |at: usize| String::from_utf8_lossy(&command[at]).into_owned();
    let mut state = state.lock().unwrap();
    let State { seen, streams } = &mut *state;
    match text(0).as_str() {
        "CONFIG" if text(2) == "appendonly" => format!("*2\r\n{}{}", bulk("appendonly"), bulk("yes")),
        "CONFIG" => {
            let how = if persistence == Persistence::EverySecond { "everysec" } else { "always" };
            format!("*2\r\n{}{}", bulk("appendfsync"), bulk(how))
        }
        "INFO" => bulk(&format!(
            "# x\r\nredis_version:7.0.fake\r\nprocess_id:1\r\naof_current_size:{}\r\n",
            seen.payload_bytes
        )),
        "XGROUP" => {
            streams.insert(text(2), Stream::default());
            "+OK\r\n".to_owned()
        }
        "XADD" if persistence == Persistence::Full => "-OOM no room\r\n".to_owned(),
        "XADD" => {
            seen.added += 1;
            seen.payload_bytes += command[4].len() as u64;
            let id = format!("{}-0", seen.added);
            let stream = streams.get_mut(&text(1)).unwrap();
            stream.ready.push_back(id.clone());
            stream.kept.insert(id.clone());
            came.notify_all();
            bulk(&id)
        }
        "XREADGROUP" => {
            let (count, key) = (text(5).parse::<usize>().unwrap(), text(9));
            let empty = |state: &mut State| state.streams[&key].ready.is_empty();
            let (mut state, _) = came.wait_timeout_while(state, Duration::from_secs(5), empty).unwrap();
            let State { seen, streams } = &mut *state;
            let stream = streams.get_mut(&key).unwrap();
            let ids: Vec<String> = stream.ready.drain(..count.min(stream.ready.len())).collect();
            seen.delivered += ids.len() as u64;
            stream.pending.extend(ids.iter().cloned());
            if ids.is_empty() {
                return "*-1\r\n".to_owned();
            }
            let entry = |id: &String| format!("*2\r\n{}*2\r\n{}{}", bulk(id), bulk("m"), bulk("payload"));
            let entries: String = ids.iter().map(entry).collect();
            format!("*1\r\n*2\r\n{}*{}\r\n{entries}", bulk(&key), ids.len())
        }
        "XACK" => {
            let stream = streams.get_mut(&text(1)).unwrap();
            let ended = (3..command.len()).filter(|at| stream.pending.remove(&text(*at))).count();
            seen.acked += ended as u64;
            format!(":{ended}\r\n")
        }
        "XDEL" => {
            let stream = streams.get_mut(&text(1)).unwrap();
            let gone = (2..command.len()).filter(|at| stream.kept.remove(&text(*at))).count();
            seen.deleted += gone as u64;
            format!(":{gone}\r\n")
        }
        "UNLINK" => format!(":{}\r\n", usize::from(streams.remove(&text(1)).is_some())),
        other => format!("-ERR unknown command '{other}'\r\n"),
    }
}
