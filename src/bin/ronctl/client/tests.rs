use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

/// Reads one request without a body and answers with `answer`; gives back the request.
async fn serve_one(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), answer: &str) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let byte = stream.read_u8().await.unwrap();
        request.push(byte);
    }
    stream.write_all(answer.as_bytes()).await.unwrap();
    String::from_utf8(request).unwrap()
}

#[tokio::test]
async fn a_connection_is_kept_and_a_closed_one_is_replaced() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let door = Door::Tcp(listener.local_addr().unwrap().to_string());
    let server = tokio::spawn(async move {
        let mut accepted = 0;
        for calls in [2, 1] {
            let (mut stream, _) = listener.accept().await.unwrap();
            accepted += 1;
            for left in (0..calls).rev() {
                let end = if left == 0 { "connection: close\r\n" } else { "" };
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n{end}\r\n{{}}");
                let seen = serve_one(&mut stream, &answer).await;
                assert!(seen.contains("authorization: Bearer ron1_x"), "{seen}");
            }
        }
        accepted
    });
    let mut client = Client::new(door).with_token("ron1_x");
    for _ in 0..3 {
        let answer: serde_json::Value = client.read(Call::get("/x")).await.unwrap();
        assert_eq!(answer, serde_json::json!({}));
    }
    assert_eq!(server.await.unwrap(), 2);
}

#[tokio::test]
async fn a_refusal_is_told_in_the_nodes_words() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ronctl.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let body = r#"{"error":"no such topic","reason":"NOT_FOUND","corr_id":"01ABCDEF"}"#;
    let answer = format!("HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        serve_one(&mut stream, &answer).await
    });
    let mut client = Client::new(Door::Unix(SocketPlace::Path(path)));
    let error = client.read::<serde_json::Value>(Call::get("/v1/acme/orders")).await.unwrap_err();
    assert_eq!(error.to_string(), "NOT_FOUND: no such topic (corr_id 01ABCDEF)");
    assert_eq!(error.code(), 1);
    assert!(server.await.unwrap().starts_with("GET /v1/acme/orders HTTP/1.1\r\n"));
}

#[tokio::test]
async fn no_node_is_code_69_and_says_where_it_looked() {
    let mut client = Client::new(Door::Unix(SocketPlace::Path("/nonexistent/ronctl.sock".into())));
    let error = Failure::from(client.call(Call::get("/ctl/status")).await.unwrap_err());
    assert_eq!(error.code(), 69);
    let text = error.to_string();
    assert!(text.contains("/nonexistent/ronctl.sock") && text.contains("ron-node --dev"), "{text}");
}

#[tokio::test]
async fn silence_is_a_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = Client::new(Door::Tcp(listener.local_addr().unwrap().to_string()));
    let mut call = Call::get("/x");
    call.timeout = Duration::from_millis(20);
    assert!(matches!(client.call(call).await, Err(CallError::Timeout { .. })));
}

#[test]
fn a_socket_of_another_user_is_no_stopped_node() {
    let of = |kind: io::ErrorKind| {
        let door = Door::Unix(SocketPlace::Path("/var/lib/ron/ronctl.sock".into()));
        Failure::from(CallError::Connect { door, source: kind.into() })
    };
    let refused = of(io::ErrorKind::PermissionDenied);
    assert!(refused.to_string().contains("as the user that the node runs as"), "{refused}");
    let gone = of(io::ErrorKind::NotFound);
    assert!(gone.to_string().contains("start one with"), "{gone}");
    assert_eq!((refused.code(), gone.code()), (69, 69));
}
