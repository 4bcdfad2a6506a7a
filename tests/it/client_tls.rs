//! `ron-client` over TLS: what it sends arrives, whom it does not trust it sends nothing.

use crate::harness::{SOON, Setup, ronctl};
use crate::mailbox::depths;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use ron_client::{Client, Error, Message, Tls, Want};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for 127.0.0.1 and its key.
fn issue(authority: &Authority) -> (rcgen::Certificate, KeyPair) {
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, authority).unwrap(), key)
}

/// A door with TLS before a listener without; with `members`, only for those whom that authority signed.
async fn door(authority: &Authority, members: Option<&Authority>, behind: SocketAddr) -> String {
    let (cert, key) = issue(authority);
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = match members {
        None => builder.with_no_client_auth(),
        Some(members) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(members.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let acceptor =
        TlsAcceptor::from(Arc::new(builder.with_single_cert(vec![cert.der().clone()], key).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut inside) = acceptor.accept(socket).await else { return };
                let mut node = TcpStream::connect(behind).await.unwrap();
                let _ = copy_bidirectional(&mut inside, &mut node).await; // ends with its connection
            });
        }
    });
    address
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { timeout(SOON, test).await.expect("a test that comes to its end") })
}

#[test]
fn what_is_sent_over_tls_arrives_and_comes_back() {
    let node = Setup::new().start();
    run(async {
        let authority = authority();
        let tls = || Tls::trusting(authority.pem().as_bytes()).unwrap();
        let (oap, http) =
            (door(&authority, None, node.oap()).await, door(&authority, None, node.bare().addr()).await);
        let oap = Client::builder().tls(tls()).connect(&oap, &node.token()).await.unwrap();
        let http = Client::builder().tls(tls()).http(&format!("https://{http}"), &node.token()).unwrap();
        for (client, topic) in [(oap, "oap"), (http, "http")] {
            // larger than what any buffer between takes at once
            let long = vec![7; 1_000_000];
            let sent = client.send(topic, Message::new(long.clone())).await.unwrap();
            let many = (0..300).map(|n| Message::new(format!("{n}"))).collect();
            assert!(client.send_all(topic, many).await.iter().all(Result::is_ok));
            assert_eq!(depths(&node.mailbox(), topic), [301, 0, 0, 0]);
            let got = client.recv(topic, Want::up_to(1).visibility(SOON)).await.unwrap();
            assert_eq!((got[0].msg_id, got[0].payload == long), (sent.msg_id, true));
            assert_eq!(client.ack(topic, &[got[0].receipt]).await.unwrap(), [Ok(())]);
            assert_eq!(depths(&node.mailbox(), topic), [300, 0, 0, 0]);
        }
    });
}

#[test]
fn strangers_are_told_nothing_and_members_show_who_they_are() {
    let node = Setup::new().start();
    run(async {
        let (ours, theirs) = (authority(), authority());
        let oap = door(&ours, Some(&ours), node.oap()).await;
        let token = node.token();
        let with = async |tls: Tls| Client::builder().tls(tls).connect(&oap, &token).await;
        let trusts_others = with(Tls::trusting(theirs.pem().as_bytes()).unwrap()).await;
        assert!(matches!(&trusts_others, Err(Error::Io(_))), "{trusts_others:?}");
        assert!(trusts_others.unwrap_err().to_string().contains("certificate"));
        let shows_nothing = with(Tls::trusting(ours.pem().as_bytes()).unwrap()).await;
        assert!(matches!(shows_nothing, Err(Error::Io(_))), "{shows_nothing:?}");
        let (cert, key) = issue(&ours);
        let (chain, key) = (cert.pem(), key.serialize_pem());
        let member = Tls::trusting_as(ours.pem().as_bytes(), chain.as_bytes(), key.as_bytes()).unwrap();
        let client = with(member).await.unwrap();
        client.send("t", Message::new("x")).await.unwrap();
        assert_eq!(depths(&node.mailbox(), "t"), [1, 0, 0, 0]);
        // nothing is sent in the clear by mistake, either way
        let builder = || Client::builder().patience(Duration::from_millis(300));
        assert!(matches!(builder().http("https://127.0.0.1:1", &token), Err(Error::Invalid(_))));
        let tls = Tls::trusting(ours.pem().as_bytes()).unwrap();
        assert!(matches!(builder().tls(tls).http("http://127.0.0.1:1", &token), Err(Error::Invalid(_))));
    });
}

#[test]
fn the_bench_measures_what_is_behind_tls() {
    let node = Setup::new().start();
    let token = node.mint(&serde_json::json!({"tenant": "bench", "ops": ["enqueue", "recv", "ack"]}));
    let (authority, stranger) = (authority(), authority());
    let file = |name: &str, authority: &Authority| {
        let path = node.setup.dir().join(name);
        std::fs::write(&path, authority.pem()).unwrap();
        path.display().to_string()
    };
    let (ours, theirs) = (file("ours.pem", &authority), file("theirs.pem", &stranger));
    run(async {
        let door = format!("oap://{}", door(&authority, None, node.oap()).await);
        let bench = async |cacert: &str| {
            let (setup, door, token, cacert) =
                (node.setup.clone(), door.clone(), token.clone(), cacert.to_owned());
            let common =
                "--json bench cycle --connections 2 --rate 50 --duration 400ms --warmup 100ms --proto oap";
            let running = tokio::task::spawn_blocking(move || {
                let more = ["--url", &door, "--token", &token, "--cacert", &cacert];
                ronctl(&setup, &common.split(' ').chain(more).collect::<Vec<_>>())
            });
            running.await.unwrap()
        };
        let (code, out, said) = bench(&ours).await;
        assert!(code == 0 && out.contains("\"done\":20"), "{said}{out}");
        let (code, _, said) = bench(&theirs).await;
        assert!(code == 69 && said.contains("certificate"), "{said}");
        let (code, _, said) = bench("/nowhere").await;
        assert!(code == 1 && said.contains("--cacert"), "{said}");
    });
}
