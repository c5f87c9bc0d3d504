//! Connections: TLS on both sides, and pools.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::ResolvesServerCertUsingSni;
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned, SupportedProtocolVersion,
    version,
};
use traflux_xds::requests::RequestOptions;

use crate::envoy_rig::{Backend, Envoy};

/// An authority, and certificates of it.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        // Of its own name: with the default a certificate would seem to be issued by itself.
        params.distinguished_name.push(DnType::CommonName, "authority of the tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("authority.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("authority.pem")
    }

    /// Files of a certificate for a name or address, and of its key.
    fn certify(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let at = |end: &str| self.folder.path().join(format!("{name}.{end}"));
        std::fs::write(at("pem"), certificate.pem()).unwrap();
        std::fs::write(at("key"), key.serialize_pem()).unwrap();
        (at("pem"), at("key"))
    }

    fn server(&self, name: &str) -> Arc<ServerConfig> {
        let (certificate, key) = read(&self.certify(name));
        let config = ServerConfig::builder().with_no_client_auth();
        Arc::new(config.with_single_cert(vec![certificate], key).unwrap())
    }
}

fn read((certificate, key): &(PathBuf, PathBuf)) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    (CertificateDer::from_pem_file(certificate).unwrap(), PrivateKeyDer::from_pem_file(key).unwrap())
}

/// The status of a request over TLS and the protocol that was agreed on, or nothing where it came to no answer.
fn status(
    envoy: &Envoy,
    authority: &Path,
    versions: &[&'static SupportedProtocolVersion],
    own: Option<&(PathBuf, PathBuf)>,
) -> Option<(u16, Vec<u8>)> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_protocol_versions(versions).with_root_certificates(roots);
    let mut config = match own.map(read) {
        Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from("gateway.test").unwrap();
    let socket = TcpStream::connect(("127.0.0.1", envoy.port())).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut stream = StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), socket);
    stream.write_all(b"GET / HTTP/1.1\r\nhost: gateway.test\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        answer.extend_from_slice(&buffer[..read]);
    }
    let protocol = stream.conn.alpn_protocol().unwrap_or_default().to_vec();
    let status = String::from_utf8_lossy(&answer).split(' ').nth(1)?.parse().ok()?;
    Some((status, protocol))
}

#[test]
#[ignore = "needs an Envoy: set ENVOY to its path"]
fn clients_meet_the_certificate_the_least_version_and_the_question_for_their_own() {
    let (authority, others) = (Authority::new(), Authority::new());
    let backend = Backend::start("a");
    let (certificate, key) = authority.certify("gateway.test");
    let start = |tls: Value| {
        let mut plan = json!({
            "routing": {"default": {"backend": "a"}},
            "backends": {"a": {"url": backend.url()}},
            "server": {"tls": {"certificate_file": certificate, "key_file": key}}
        });
        plan["server"]["tls"].as_object_mut().unwrap().extend(tls.as_object().unwrap().clone());
        Envoy::start(serde_json::from_value(plan).unwrap())
    };
    let (old, new) = (&[&version::TLS12][..], &[&version::TLS13][..]);
    let answered = Some((200, b"http/1.1".to_vec()));
    let trusted = authority.file();

    let plain = start(json!({}));
    assert_eq!(status(&plain, &trusted, old, None), answered);
    assert_eq!(status(&plain, &trusted, new, None), answered);
    assert_eq!(status(&plain, &others.file(), new, None), None, "its certificate is of this authority");

    let strict = start(json!({"tls13_only": true}));
    assert_eq!(status(&strict, &trusted, new, None), answered);
    assert_eq!(status(&strict, &trusted, old, None), None);

    let mutual = start(json!({"client_authority_file": trusted}));
    assert_eq!(status(&mutual, &trusted, new, Some(&authority.certify("client.test"))), answered);
    assert_eq!(status(&mutual, &trusted, new, Some(&others.certify("client.test"))), None);
    assert_eq!(status(&mutual, &trusted, new, None), None);
}

#[test]
#[ignore = "needs an Envoy: set ENVOY to its path"]
fn a_backend_over_tls_must_bear_the_name_in_its_url() {
    let (authority, others) = (Authority::new(), Authority::new());
    let address = Backend::start_tls("address", Some(authority.server("127.0.0.1")));
    let named = Backend::start_tls("named", Some(authority.server("localhost")));
    let wrong = Backend::start_tls("wrong", Some(authority.server("elsewhere.test")));
    let foreign = Backend::start_tls("foreign", Some(others.server("127.0.0.1")));
    let url = |host: &str, backend: &Backend| format!("https://{host}:{}", backend.port());
    let plan = json!({
        "retry": {"max_attempts": 1},
        "routing": {"rules": [
            {"name": "address", "match": {"path": "/address"}, "route": {"backend": "address"}},
            {"name": "named", "match": {"path": "/named"}, "route": {"backend": "named"}},
            {"name": "wrong", "match": {"path": "/wrong"}, "route": {"backend": "wrong"}},
            {"name": "foreign", "match": {"path": "/foreign"}, "route": {"backend": "foreign"}}
        ]},
        "backends": {
            "address": {"url": url("127.0.0.1", &address)}, "named": {"url": url("localhost", &named)},
            "wrong": {"url": url("127.0.0.1", &wrong)}, "foreign": {"url": url("127.0.0.1", &foreign)}
        }
    });
    let authorities_file = authority.file().to_string_lossy().into_owned();
    let options = RequestOptions { authorities_file, ..RequestOptions::default() };
    let envoy = Envoy::start_by(serde_json::from_value(plan).unwrap(), &[], &options);
    // A name is looked up first.
    let mut tries = 0;
    while envoy.get("/named").status != 200 && tries < 50 {
        std::thread::sleep(Duration::from_millis(100));
        tries += 1;
    }
    for (path, expected) in [("/address", 200), ("/named", 200), ("/wrong", 503), ("/foreign", 503)] {
        let answer = envoy.get(path);
        assert_eq!(answer.status, expected, "{path}: {answer:?}");
    }
}

/// Shows the certificate of a name to who asks for that name, and none to others.
fn asked_for(authority: &Authority, name: &str) -> Arc<ServerConfig> {
    let (certificate, key) = read(&authority.certify(name));
    let config = ServerConfig::builder().with_no_client_auth();
    let certified = CertifiedKey::from_der(vec![certificate], key, config.crypto_provider()).unwrap();
    let mut names = ResolvesServerCertUsingSni::new();
    names.add(name, certified).unwrap();
    Arc::new(config.with_cert_resolver(Arc::new(names)))
}

#[test]
#[ignore = "needs an Envoy: set ENVOY to its path"]
fn a_backend_is_asked_for_the_name_that_the_plan_gives_it() {
    let authority = Authority::new();
    let backend = Backend::start_tls("a", Some(asked_for(&authority, "inside.test")));
    let other = Backend::start_tls("b", Some(authority.server("inside.test")));
    let url = |backend: &Backend| format!("https://127.0.0.1:{}", backend.port());
    let named = |name: Option<&str>, backend: &Backend| {
        let mut plan = json!({
            "retry": {"max_attempts": 1},
            "routing": {"default": {"backend": "a"}},
            "backends": {"a": {"url": url(backend), "tls": {"authority_file": authority.file()}}}
        });
        if let Some(name) = name {
            plan["backends"]["a"]["tls"]["server_name"] = json!(name);
        }
        Envoy::start(serde_json::from_value(plan).unwrap()).get("/").status
    };
    assert_eq!(named(Some("inside.test"), &backend), 200, "asked for by name, and known by it");
    assert_eq!(named(None, &backend), 503, "an address is no name to ask for");
    assert_eq!(named(Some("inside.test"), &other), 200);
    assert_eq!(named(Some("outside.test"), &other), 503, "its certificate bears another name");
    assert_eq!(named(None, &other), 503, "and not its address");
}

/// How long an answer took and whether all of it came.
fn taken(envoy: &Envoy, target: &str) -> (u16, u128, bool) {
    let start = Instant::now();
    let answer = envoy.get(target);
    let length = answer.head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    (answer.status, start.elapsed().as_millis(), length == Some(answer.body.len()))
}

#[test]
#[ignore = "needs an Envoy: set ENVOY to its path"]
fn a_silent_stream_is_ended_and_a_slow_head_is_not() {
    let backend = Backend::start("a");
    let start = |silence: u32, head: u32| {
        let plan = json!({
            "retry": {"max_attempts": 1},
            "server": {"stream_idle_timeout_ms": silence, "request_timeout_ms": head},
            "routing": {"default": {"backend": "a"}},
            "backends": {"a": {"url": backend.url()}}
        });
        Envoy::start(serde_json::from_value(plan).unwrap())
    };
    let envoy = start(600, 600);
    let (status, millis, whole) = taken(&envoy, "/drip");
    assert!(status == 200 && whole, "it says something ten times a second: {status} after {millis} ms");
    let (status, millis, whole) = taken(&envoy, "/stalled");
    eprintln!("a stream that says no more is ended after {millis} ms");
    assert!(status == 200 && !whole && (595..2500).contains(&millis), "{status} after {millis} ms");
    // A head may take longer than a stream may be silent.
    let (status, millis, whole) = taken(&start(300, 5000), "/slow");
    assert!(status == 200 && whole, "{status} after {millis} ms");
}

#[test]
#[ignore = "needs an Envoy: set ENVOY to its path"]
fn pools_bound_connections_waiting_requests_and_what_one_connection_serves() {
    let [bounded, counted, worn, idle] = ["bounded", "counted", "worn", "idle"].map(Backend::start);
    let start = |pool: Value, backend: &Backend| {
        let plan = json!({
            "retry": {"max_attempts": 1},
            "pool": pool,
            "routing": {"default": {"backend": "a"}},
            "backends": {"a": {"url": backend.url()}}
        });
        Envoy::start(serde_json::from_value(plan).unwrap())
    };
    let statuses = |envoy: &Envoy, requests: usize| {
        let sent: Vec<_> = (0..requests)
            .map(|_| {
                let thread = envoy.in_background("/slow");
                // A request whose connection is not there yet counts as waiting.
                std::thread::sleep(Duration::from_millis(100));
                thread
            })
            .collect();
        sent.into_iter().map(|thread| thread.join().unwrap().status).collect::<Vec<_>>()
    };
    let count = |statuses: &[u16], status: u16| statuses.iter().filter(|s| **s == status).count();

    // Two at work and one waiting; who comes beyond that is sent away.
    let envoy = start(json!({"max_connections": 2, "max_pending": 1}), &bounded);
    let found = statuses(&envoy, 6);
    assert_eq!((count(&found, 200), count(&found, 503)), (3, 3), "{found:?}");
    assert_eq!(bounded.connections(), 2);

    // Requests at work are bounded apart from connections.
    let envoy = start(json!({"max_requests": 2}), &counted);
    let found = statuses(&envoy, 5);
    assert_eq!((count(&found, 200), count(&found, 503)), (2, 3), "{found:?}");

    let envoy = start(json!({"max_requests_per_connection": 2, "max_connections": 1}), &worn);
    assert!((0..6).all(|_| envoy.get("/").status == 200));
    assert_eq!(worn.connections(), 3, "two requests over each");

    let envoy = start(json!({"idle_timeout_ms": 300, "max_connections": 1}), &idle);
    assert!((0..5).all(|_| envoy.get("/").status == 200));
    assert_eq!(idle.connections(), 1, "connections are kept");
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(envoy.get("/").status, 200);
    assert_eq!(idle.connections(), 2, "it was closed after its time");
}
