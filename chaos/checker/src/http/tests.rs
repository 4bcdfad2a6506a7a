//! The client against a server of a few lines that says exactly what it is told to say.

use super::*;
use std::net::TcpListener;
use std::thread::JoinHandle;

/// A server that reads one request per answer on one connection, sends the answers as they are, and closes.
/// It gives back what it read.
fn serve(answers: Vec<Vec<u8>>) -> (Client, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(socket);
        let mut seen = Vec::new();
        for answer in answers {
            let mut length = 0;
            loop {
                let mut line = Vec::new();
                reader.read_until(b'\n', &mut line).unwrap();
                let text = String::from_utf8_lossy(&line).to_ascii_lowercase();
                if let Some(value) = text.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                seen.extend_from_slice(&line);
                if line == b"\r\n" || line.is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            seen.extend_from_slice(&body);
            reader.get_mut().write_all(&answer).unwrap();
        }
        seen
    });
    (Client::new(Target::Tcp(addr), Duration::from_secs(10)), server)
}

fn post<'a>(path: &'a str, body: &'a [u8]) -> Request<'a> {
    Request { method: "POST", path, headers: &[("X-A", "b")], body }
}

#[test]
fn keeps_the_connection_and_sends_what_it_was_given() {
    let first = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Effect: none\r\n\r\nhi".to_vec();
    let second =
        b"HTTP/1.1 202 Accepted\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
    let (mut client, server) = serve(vec![first, second.to_vec()]);
    let answer = client.call(&post("/one", b"\0\xff")).unwrap();
    assert_eq!(
        (answer.status, answer.body.as_slice(), answer.header("x-effect")),
        (200, &b"hi"[..], Some("none"))
    );
    let answer = client.call(&post("/two", b"")).unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (202, &b"abcde"[..]));
    let expected = b"POST /one HTTP/1.1\r\nHost: node\r\nX-A: b\r\nContent-Length: 2\r\n\r\n\0\xff\
        POST /two HTTP/1.1\r\nHost: node\r\nX-A: b\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(server.join().unwrap(), expected);
}

#[test]
fn an_answer_cut_short_is_unknown_wherever_it_is_cut() {
    let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    for cut in 0..whole.len() {
        let (mut client, server) = serve(vec![whole[..cut].to_vec()]);
        let failure = client.call(&post("/", b"x")).unwrap_err();
        assert!(matches!(failure, Failure::Unknown(_)), "cut at {cut}: {failure:?}");
        server.join().unwrap();
    }
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
    for cut in 0..chunked.len() {
        let (mut client, server) = serve(vec![chunked[..cut].to_vec()]);
        assert!(matches!(client.call(&post("/", b"x")), Err(Failure::Unknown(_))), "cut at {cut}");
        server.join().unwrap();
    }
}

#[test]
fn a_refused_connection_was_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let mut client = Client::new(Target::Tcp(addr), Duration::from_secs(1));
    assert!(matches!(client.call(&post("/", b"x")), Err(Failure::NotSent(_))));
}

#[test]
fn close_ends_the_connection_and_a_body_without_length_ends_with_it() {
    let close = b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_vec();
    let (mut client, server) = serve(vec![close]);
    assert_eq!(client.call(&post("/", b"")).unwrap().status, 503);
    assert!(client.connection.is_none());
    server.join().unwrap();

    let (mut client, server) = serve(vec![b"HTTP/1.1 200 OK\r\n\r\nto the end".to_vec()]);
    assert_eq!(client.call(&post("/", b"")).unwrap().body, b"to the end");
    assert!(client.connection.is_none());
    server.join().unwrap();
}

#[test]
fn interim_answers_are_skipped_and_bodiless_ones_have_none() {
    let bytes = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n".to_vec();
    let (mut client, server) = serve(vec![bytes]);
    let answer = client.call(&post("/", b"x")).unwrap();
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    server.join().unwrap();
}

#[test]
fn speaks_over_an_abstract_socket() {
    let name = format!("ron-checker-test.{}", std::process::id());
    let addr = std::os::unix::net::SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
    let listener = std::os::unix::net::UnixListener::bind_addr(&addr).unwrap();
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut seen = [0; 4];
        socket.read_exact(&mut seen).unwrap();
        socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        seen
    });
    let mut client = Client::new(Target::UnixAbstract(name), Duration::from_secs(10));
    assert_eq!(client.raw(b"GET ").unwrap().status, 200);
    assert_eq!(&server.join().unwrap(), b"GET ");
}
