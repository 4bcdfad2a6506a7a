//! What a client says: whole frames, on one channel.

use super::{END, HEAD_LEN, Id};
use bytes::{BufMut, BytesMut};

/// The channel of all that is not said about the connection.
const CHANNEL: u16 = 1;

/// Takes the login: PLAIN, and what this client can hear of.
pub(in super::super) fn start_ok(user: &str, password: &str, to: &mut BytesMut) {
    // with the third a wrong password is answered, with the fourth a full disk is said
    let can = ["basic.nack", "consumer_cancel_notify", "authentication_failure_close", "connection.blocked"];
    method(0, (10, 11), to, |to| {
        long(to, |to| {
            short(to, "product");
            to.put_u8(b'S');
            long(to, |to| to.put_slice(b"ronctl"));
            short(to, "capabilities");
            to.put_u8(b'F');
            long(to, |to| {
                for name in can {
                    short(to, name);
                    to.put_slice(b"t\x01");
                }
            });
        });
        short(to, "PLAIN");
        long(to, |to| to.put_slice(format!("\0{user}\0{password}").as_bytes()));
        short(to, "en_US");
    });
}

/// Agrees to these limits, without heartbeats: a connection that only asks now and then may be silent.
pub(in super::super) fn tune_ok(channels_max: u16, frame_max: u32, to: &mut BytesMut) {
    method(0, (10, 31), to, |to| {
        to.put_u16(channels_max);
        to.put_u32(frame_max);
        to.put_u16(0);
    });
}

/// `connection.open`
pub(in super::super) fn open(vhost: &str, to: &mut BytesMut) {
    method(0, (10, 40), to, |to| {
        short(to, vhost);
        to.put_slice(&[0, 0]);
    });
}

/// `connection.close`: all is well.
pub(in super::super) fn close(to: &mut BytesMut) {
    method(0, (10, 50), to, |to| {
        to.put_u16(200);
        short(to, "");
        to.put_u32(0); // no method is to blame
    });
}

/// `channel.open`
pub(in super::super) fn channel_open(to: &mut BytesMut) {
    method(CHANNEL, (20, 10), to, |to| to.put_u8(0));
}

/// `confirm.select`
pub(in super::super) fn confirm_select(to: &mut BytesMut) {
    method(CHANNEL, (85, 10), to, |to| to.put_u8(0));
}

/// `queue.declare`: durable, replicated by a log, of one member in a cluster, too.
pub(in super::super) fn declare_quorum(queue: &str, to: &mut BytesMut) {
    const DURABLE: u8 = 2;
    method(CHANNEL, (50, 10), to, |to| {
        to.put_u16(0);
        short(to, queue);
        to.put_u8(DURABLE);
        long(to, |to| {
            short(to, "x-queue-type");
            to.put_u8(b'S');
            long(to, |to| to.put_slice(b"quorum"));
            short(to, "x-quorum-initial-group-size");
            to.put_u8(b'I');
            to.put_u32(1);
        });
    });
}

/// `queue.declare` of a queue that must be there: asks it.
pub(in super::super) fn declare_passive(queue: &str, to: &mut BytesMut) {
    method(CHANNEL, (50, 10), to, |to| {
        to.put_u16(0);
        short(to, queue);
        to.put_u8(1);
        to.put_u32(0);
    });
}

/// `queue.delete`
pub(in super::super) fn delete(queue: &str, to: &mut BytesMut) {
    method(CHANNEL, (50, 40), to, |to| {
        to.put_u16(0);
        short(to, queue);
        to.put_u8(0);
    });
}

/// `basic.qos`: how many deliveries of each consumer may wait for their acks.
pub(in super::super) fn qos(count: u16, to: &mut BytesMut) {
    method(CHANNEL, (60, 10), to, |to| {
        to.put_u32(0);
        to.put_u16(count);
        to.put_u8(0);
    });
}

/// `basic.consume`
pub(in super::super) fn consume(queue: &str, to: &mut BytesMut) {
    method(CHANNEL, (60, 20), to, |to| {
        to.put_u16(0);
        short(to, queue);
        short(to, "ronctl");
        to.put_u8(0);
        to.put_u32(0);
    });
}

/// `basic.publish` to the queue of that name; persistent, and sent back if there is none.
pub(in super::super) fn publish(queue: &str, body: &[u8], frame_max: u32, to: &mut BytesMut) {
    const MANDATORY: u8 = 1;
    const DELIVERY_MODE: u16 = 1 << 12;
    const PERSISTENT: u8 = 2;
    method(CHANNEL, (60, 40), to, |to| {
        to.put_u16(0);
        short(to, ""); // the exchange that routes by queues' names
        short(to, queue);
        to.put_u8(MANDATORY);
    });
    frame(2, CHANNEL, to, |to| {
        to.put_u16(60);
        to.put_u16(0);
        to.put_u64(body.len() as u64);
        to.put_u16(DELIVERY_MODE);
        to.put_u8(PERSISTENT);
    });
    for part in body.chunks(frame_max as usize - HEAD_LEN - 1) {
        frame(3, CHANNEL, to, |to| to.put_slice(part));
    }
}

/// `basic.ack` of all deliveries up to this one.
pub(in super::super) fn ack_up_to(tag: u64, to: &mut BytesMut) {
    method(CHANNEL, (60, 80), to, |to| {
        to.put_u64(tag);
        to.put_u8(1);
    });
}

fn method(channel: u16, id: Id, to: &mut BytesMut, fields: impl FnOnce(&mut BytesMut)) {
    frame(1, channel, to, |to| {
        to.put_u16(id.0);
        to.put_u16(id.1);
        fields(to);
    });
}

fn frame(kind: u8, channel: u16, to: &mut BytesMut, payload: impl FnOnce(&mut BytesMut)) {
    to.put_u8(kind);
    to.put_u16(channel);
    long(to, payload);
    to.put_u8(END);
}

/// What has its length before it, in four bytes.
fn long(to: &mut BytesMut, content: impl FnOnce(&mut BytesMut)) {
    let at = to.len();
    to.put_u32(0);
    content(to);
    let len = (to.len() - at - 4) as u32;
    to[at..at + 4].copy_from_slice(&len.to_be_bytes());
}

/// A short string; callers keep to 255 bytes.
fn short(to: &mut BytesMut, text: &str) {
    to.put_u8(text.len() as u8);
    to.put_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;

    /// As RabbitMQ 3.10.8 took them from another client.
    #[test]
    fn requests_are_frames() {
        let written = |write: &dyn Fn(&mut BytesMut)| {
            let mut to = BytesMut::new();
            write(&mut to);
            HEXLOWER.encode(&to)
        };
        let logged_in = "010000000000a3000a000b0000007f0770726f647563745300000006726f6e63746c\
            0c6361706162696c6974696573460000005a0a62617369632e6e61636b7401\
            16636f6e73756d65725f63616e63656c5f6e6f746966797401\
            1c61757468656e7469636174696f6e5f6661696c7572655f636c6f73657401\
            12636f6e6e656374696f6e2e626c6f636b65647401\
            05504c41494e0000000c00677565737400677565737405656e5f5553ce";
        assert_eq!(written(&|to| start_ok("guest", "guest", to)), logged_in);
        assert_eq!(written(&|to| tune_ok(2047, 131_072, to)), "0100000000000c000a001f07ff000200000000ce");
        assert_eq!(written(&|to| open("/", to)), "01000000000008000a0028012f0000ce");
        assert_eq!(written(&close), "0100000000000b000a003200c80000000000ce");
        assert_eq!(written(&channel_open), "010001000000050014000a00ce");
        assert_eq!(written(&confirm_select), "010001000000050055000a00ce");
        let declared = "010001000000470032000a000002713102000000390c782d71756575652d747970655300000006\
            71756f72756d1b782d71756f72756d2d696e697469616c2d67726f75702d73697a654900000001ce";
        assert_eq!(written(&|to| declare_quorum("q1", to)), declared);
        assert_eq!(written(&|to| declare_passive("q1", to)), "0100010000000e0032000a00000271310100000000ce");
        assert_eq!(written(&|to| delete("q1", to)), "0100010000000a00320028000002713100ce");
        assert_eq!(written(&|to| qos(3, to)), "0100010000000b003c000a00000000000300ce");
        let consumed = "01000100000015003c0014000002713106726f6e63746c0000000000ce";
        assert_eq!(written(&|to| consume("q1", to)), consumed);
        assert_eq!(written(&|to| ack_up_to(3, to)), "0100010000000d003c0050000000000000000301ce");
        // a body is cut to the longest frame
        let published = "0100010000000b003c002800000002713101ce\
            0200010000000f003c00000000000000000005100002ce\
            03000100000003616263ce030001000000026465ce";
        assert_eq!(written(&|to| publish("q1", b"abcde", 8 + 3, to)), published);
    }
}
