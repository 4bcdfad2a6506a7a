//! Which files make an identity, and what is said of those that make none.

use super::*;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use std::fs::Permissions;
use std::path::PathBuf;

/// A table's files in a directory of their own.
struct Files {
    dir: tempfile::TempDir,
    tls: Tls,
}

impl Files {
    fn new() -> Files {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let tls = Tls { cert: at("cert.pem"), key: at("key.pem"), client_ca: None };
        let (cert, key) = made((2001, 2002));
        let files = Files { tls, dir };
        files.put("cert.pem", &cert);
        files.put("key.pem", &key);
        files
    }

    fn put(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn refused(&self) -> BadTls {
        Identity::load(&self.tls).unwrap_err()
    }
}

/// A certificate of these years and its key, PEM.
fn made((from, until): (i32, i32)) -> (String, String) {
    let mut params = CertificateParams::new(vec!["node.example".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(until, 1, 1));
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

const YEAR_2001: Millis = Millis(978_307_200_000);
const YEAR_2002: Millis = Millis(1_009_843_200_000);
const DAY_MS: u64 = 86_400_000;

#[test]
fn an_identity_knows_its_time_and_gives_no_tickets() {
    let files = Files::new();
    let identity = Identity::load(&files.tls).unwrap();
    assert_eq!(identity.valid, Some((YEAR_2001, YEAR_2002)));
    let config = identity.config(&[b"h2", b"http/1.1"]).unwrap();
    assert_eq!(config.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    assert!(
        config.send_tls13_tickets == 0 && !config.session_storage.can_cache() && !config.ticketer.enabled()
    );
    assert!(identity.config(&[]).unwrap().alpn_protocols.is_empty());

    assert_eq!(Identity::load(&files.tls).unwrap().id, identity.id);
    let (cert, key) = made((2001, 2002));
    files.put("cert.pem", &cert);
    files.put("key.pem", &key);
    assert_ne!(Identity::load(&files.tls).unwrap().id, identity.id);
}

#[test]
fn who_is_asked_for_a_certificate_is_part_of_it() {
    let mut files = Files::new();
    let plain = Identity::load(&files.tls).unwrap();
    files.tls.client_ca = Some(files.put("ca.pem", &made((2001, 2002)).0));
    let asks = Identity::load(&files.tls).unwrap();
    assert!(asks.clients.client_auth_mandatory() && !plain.clients.offer_client_auth());
    assert_ne!(asks.id, plain.id);
    files.put("ca.pem", "");
    assert_eq!(files.refused().key, "client_ca");
}

#[test]
fn each_broken_file_is_named_and_none_is_quoted() {
    let files = Files::new();
    let other = made((2001, 2002));
    let whole = std::fs::read_to_string(&files.tls.key).unwrap();

    files.put("key.pem", &other.1);
    let refused = files.refused();
    assert!(refused.key == "key" && refused.text.contains("cert.pem"), "{refused}");

    files.put("key.pem", &whole.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"));
    assert!(files.refused().to_string().contains("not encrypted"));
    files.put("key.pem", "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n");
    let refused = files.refused().to_string();
    assert!(refused.contains("of no kind that is served") && !refused.contains("c2VjcmV0"), "{refused}");
    files.put("key.pem", "-----BEGIN PRIVATE KEY-----\nsecret!\n");
    let refused = files.refused().to_string();
    assert!(refused.contains("holds no private key") && !refused.contains("secret!"), "{refused}");
    files.put("key.pem", &"x".repeat(FILE_BYTES_MAX as usize + 1));
    assert!(files.refused().text.contains("larger than 1 MiB"));
    std::fs::remove_file(&files.tls.key).unwrap();
    assert!(files.refused().text.contains("cannot read"));

    files.put("key.pem", &whole);
    files.put("cert.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let refused = files.refused();
    assert!(refused.key == "cert" && refused.text.contains("no X.509"), "{refused}");
    files.put("cert.pem", "# nothing yet\n");
    assert_eq!(files.refused().key, "cert");
}

#[test]
fn a_key_is_for_its_owner_and_a_group_of_readers() {
    let files = Files::new();
    for (mode, taken) in [(0o400, true), (0o640, true), (0o644, false), (0o660, false), (0o601, false)] {
        std::fs::set_permissions(&files.tls.key, Permissions::from_mode(mode)).unwrap();
        let loaded = Identity::load(&files.tls);
        assert_eq!(loaded.is_ok(), taken, "{mode:o}");
        if let Err(bad) = loaded {
            assert!(bad.to_string().contains("run: chmod 600"), "{bad}");
        }
    }
}

#[test]
fn the_end_is_told_of_a_fortnight_ahead_or_a_quarter_of_a_short_life() {
    let identity = Identity::load(&Files::new().tls).unwrap();
    let said = |wall: u64| identity.warning(Millis(wall)).unwrap_or_default();
    assert!(said(YEAR_2001.0 - 1).starts_with("is not valid before 2001-01-01T00:00:00.000Z"));
    assert_eq!(said(YEAR_2001.0), "");
    assert_eq!(said(YEAR_2002.0 - 14 * DAY_MS), "");
    assert!(said(YEAR_2002.0 - 14 * DAY_MS + 1).starts_with("ends at 2002-01-01T00:00:00.000Z"));
    assert!(said(YEAR_2002.0).starts_with("ends at"));
    assert!(said(YEAR_2002.0 + 1).starts_with("ended at"));
    let day = Identity { valid: Some((YEAR_2001, Millis(YEAR_2001.0 + DAY_MS))), ..identity };
    assert_eq!(day.warning(Millis(YEAR_2001.0 + DAY_MS * 3 / 4)), None);
    assert!(day.warning(Millis(YEAR_2001.0 + DAY_MS * 3 / 4 + 1)).is_some());
}
