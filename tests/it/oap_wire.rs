//! A client of OAP/1 that writes and reads frames, and can be made to send whatever a test wants.

use crate::harness::{SOON, TestNode};
use bytes::BytesMut;
use ron_core::oap::{
    self, END, EVENT, Error, Frame, Header, Hello, PROTO_HELLO, PROTO_MAILBOX, REQ, RESP, Request, START,
};
use serde_json::Value;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;

/// A connection.
pub(crate) struct Oap<S = TcpStream> {
    pub(crate) socket: S,
    read: BytesMut,
    /// What a subscription brought while an answer was waited for.
    brought: VecDeque<Came>,
    next: u64,
}

/// What came: the frames of one answer or event, put together.
#[derive(Debug)]
pub(crate) struct Came {
    pub(crate) header: Header,
    pub(crate) payload: Vec<u8>,
}

impl Oap {
    pub(crate) fn connect(node: &TestNode) -> Oap {
        let socket = TcpStream::connect(node.oap()).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket.set_nodelay(true).unwrap();
        Oap::over(socket)
    }

    /// A connection that has shown a capability.
    pub(crate) fn open(node: &TestNode, token: &str) -> Oap {
        let mut oap = Oap::connect(node);
        let answer = oap.start(token);
        assert_eq!((answer.header.code, answer.payload.len()), (200, 0), "{answer:?}");
        oap
    }
}

impl<S: Read + Write> Oap<S> {
    /// A connection over a socket of one's own.
    pub(crate) fn over(socket: S) -> Oap<S> {
        Oap { socket, read: BytesMut::new(), brought: VecDeque::new(), next: 1 }
    }

    /// What the node says of itself.
    pub(crate) fn hello(&mut self) -> Value {
        let header = Header { app_proto_id: PROTO_HELLO, ..header(self.corr_id()) };
        self.send(&header, &[], &Hello { ua: None }.to_json());
        let came = self.came();
        assert_eq!(came.header.code, 200);
        serde_json::from_slice(&came.payload).unwrap()
    }

    pub(crate) fn start(&mut self, token: &str) -> Came {
        let corr_id = self.corr_id();
        self.send(&Header { flags: REQ | START, ..header(corr_id) }, token.as_bytes(), &[]);
        self.came()
    }

    pub(crate) fn corr_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(crate) fn send(&mut self, header: &Header, cap: &[u8], payload: &[u8]) {
        let mut frame = BytesMut::new();
        oap::encode(header, cap, payload, &mut frame);
        self.socket.write_all(&frame).unwrap();
        self.socket.flush().unwrap();
    }

    /// Sends a request; its `corr_id`.
    pub(crate) fn ask(&mut self, request: &Request<'_>) -> u64 {
        let corr_id = self.corr_id();
        self.send(&header(corr_id), &[], &request.to_vec());
        corr_id
    }

    /// The answer to a request, which is the next that comes but for events.
    pub(crate) fn call(&mut self, request: &Request<'_>) -> Came {
        let corr_id = self.ask(request);
        let came = loop {
            let came = self.came();
            if !came.header.has(EVENT) {
                break came;
            }
            self.brought.push_back(came);
        };
        assert_eq!((came.header.corr_id, came.header.flags & RESP), (corr_id, RESP), "{came:?}");
        came
    }

    pub(crate) fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = oap::decode(&mut self.read).unwrap() {
                return Some(frame);
            }
            let mut some = [0; 65_536];
            match self.socket.read(&mut some).unwrap() {
                0 => return None,
                n => self.read.extend_from_slice(&some[..n]),
            }
        }
    }

    /// The next answer or event; nothing else may come between its parts.
    pub(crate) fn came(&mut self) -> Came {
        let first = self.frame().expect("the node closed the connection");
        let mut came = Came { header: first.header, payload: first.payload.to_vec() };
        if !first.header.has(START) {
            return came;
        }
        loop {
            let part = self.frame().expect("the node closed the connection");
            assert_eq!(part.header.corr_id, came.header.corr_id);
            came.payload.extend_from_slice(&part.payload);
            if part.header.has(END) {
                return came;
            }
        }
    }

    /// The next of what a subscription brings.
    pub(crate) fn event(&mut self) -> Came {
        self.brought.pop_front().unwrap_or_else(|| self.came())
    }

    /// Whether the node has closed the connection.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.frame().is_none()
    }
}

impl Came {
    pub(crate) fn read<'a, T: serde::Deserialize<'a>>(&'a self) -> T {
        assert!(matches!(self.header.code, 0 | 200), "{:?}", self.error());
        let (value, rest) = postcard::take_from_bytes(&self.payload).unwrap();
        assert!(rest.is_empty(), "{} bytes more", rest.len());
        value
    }

    pub(crate) fn error(&self) -> Error {
        postcard::from_bytes(&self.payload).unwrap()
    }

    /// The text of a refusal with this code and reason.
    pub(crate) fn refused(&self, code: u16, reason: &str) -> String {
        let error = self.error();
        assert_eq!((self.header.code, error.reason.as_str()), (code, reason), "{error:?}");
        error.text
    }
}

pub(crate) fn header(corr_id: u64) -> Header {
    Header { flags: REQ, app_proto_id: PROTO_MAILBOX, corr_id, ..Header::default() }
}
