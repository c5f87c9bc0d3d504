//! TLS, and certificates that change.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use traflux_core::plan::backend::BackendTlsPlan;
use traflux_core::plan::server::TlsPlan;
use traflux_gateway::server::{Gateway, ServerSettings};

use crate::common::{PATIENCE, chat, mock, post, to};

/// Writes a self-signed certificate for `localhost`, and returns it.
pub(crate) fn certify(folder: &Path) -> CertificateDer<'static> {
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    // The key first: a certificate without its key is the state that is noticed.
    std::fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
    std::fs::write(folder.join("cert.pem"), certificate.pem()).unwrap();
    certificate.der().clone()
}

fn tls(folder: &Path) -> TlsPlan {
    TlsPlan {
        certificate_file: folder.join("cert.pem").to_str().unwrap().into(),
        key_file: folder.join("key.pem").to_str().unwrap().into(),
        client_authority_file: None,
        tls13_only: false,
    }
}

async fn connect(
    address: std::net::SocketAddr,
    trusted: &CertificateDer<'static>,
    alpn: &[&[u8]],
    version: &'static rustls::SupportedProtocolVersion,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let socket = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, socket).await
}

async fn get(stream: &mut TlsStream<TcpStream>) -> String {
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut buffer = [0; 1000];
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap().unwrap();
    String::from_utf8_lossy(&buffer[..read]).into_owned()
}

#[tokio::test]
async fn a_certificate_that_changes_is_served_to_new_connections_and_old_ones_go_on() {
    let mock = mock().await;
    let folder = tempfile::tempdir().unwrap();
    let first = certify(folder.path());
    let mut plan = to(&mock.url());
    plan.server.tls = Some(tls(folder.path()));
    let settings = ServerSettings { watch_interval: Duration::from_millis(20), ..ServerSettings::default() };
    let gateway = Gateway::start(&plan, settings).await.unwrap();
    let address = gateway.address();
    let tls13 = &rustls::version::TLS13;
    let mut old = connect(address, &first, &[b"http/1.1"], tls13).await.unwrap();
    assert!(get(&mut old).await.starts_with("HTTP/1.1 200"));
    let second = certify(folder.path());
    let renewed = async {
        while connect(address, &second, &[b"http/1.1"], tls13).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, renewed).await.unwrap();
    assert!(connect(address, &first, &[b"http/1.1"], tls13).await.is_err());
    assert!(get(&mut old).await.starts_with("HTTP/1.1 200"));
    // A file that holds none leaves the one in use.
    std::fs::write(folder.path().join("cert.pem"), "nothing").unwrap();
    assert!(gateway.renew().is_err_and(|e| e.code() == "gateway_certificate"));
    assert!(connect(address, &second, &[b"http/1.1"], tls13).await.is_ok());
}

#[tokio::test]
async fn http2_is_negotiated_and_an_old_version_refused_where_the_plan_says_so() {
    let mock = mock().await;
    let folder = tempfile::tempdir().unwrap();
    let certificate = certify(folder.path());
    for tls13_only in [false, true] {
        let mut plan = to(&mock.url());
        plan.server.tls = Some(TlsPlan { tls13_only, ..tls(folder.path()) });
        let gateway = Gateway::start(&plan, ServerSettings::default()).await.unwrap();
        let stream =
            connect(gateway.address(), &certificate, &[b"h2", b"http/1.1"], &rustls::version::TLS13).await;
        assert_eq!(stream.unwrap().get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let old = connect(gateway.address(), &certificate, &[], &rustls::version::TLS12).await;
        assert_eq!(old.is_ok(), !tls13_only);
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused_where_one_is_asked_for() {
    let mock = mock().await;
    let folder = tempfile::tempdir().unwrap();
    let certificate = certify(folder.path());
    let mut plan = to(&mock.url());
    let authority = folder.path().join("cert.pem").to_str().unwrap().to_owned();
    plan.server.tls = Some(TlsPlan { client_authority_file: Some(authority), ..tls(folder.path()) });
    let gateway = Gateway::start(&plan, ServerSettings::default()).await.unwrap();
    // With TLS 1.3 the client learns of it when it reads.
    let refused = match connect(gateway.address(), &certificate, &[], &rustls::version::TLS13).await {
        Err(_) => true,
        Ok(mut stream) => {
            let _ = stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
            let mut buffer = [0; 10];
            !matches!(stream.read(&mut buffer).await, Ok(read) if read > 0)
        }
    };
    assert!(refused);
    assert_eq!(mock.requests(), 0);
}

#[tokio::test]
async fn whoever_does_not_finish_the_handshake_is_cut_off() {
    let mock = mock().await;
    let folder = tempfile::tempdir().unwrap();
    certify(folder.path());
    let mut plan = to(&mock.url());
    plan.server.tls = Some(tls(folder.path()));
    plan.server.header_timeout = Duration::from_millis(100);
    let gateway = Gateway::start(&plan, ServerSettings::default()).await.unwrap();
    assert_eq!(crate::common::raw(gateway.address(), b"\x16\x03\x01").await, "");
}

/// A backend that wants a certificate of its clients and answers over TLS.
async fn tls_backend(folder: &Path, clients: &Path) -> std::net::SocketAddr {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(clients.join("cert.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_file(folder.join("cert.pem")).unwrap()],
            PrivateKeyDer::from_pem_file(folder.join("key.pem")).unwrap(),
        )
        .unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // Whoever is not let in goes away.
                let Ok(mut stream) = acceptor.accept(socket).await else { return };
                let mut buffer = [0; 4096];
                while !matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_backend_is_recognised_by_its_own_authority_and_recognises_the_gateway() {
    let (server, client, other) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for folder in [&server, &client, &other] {
        certify(folder.path());
    }
    let address = tls_backend(server.path(), client.path()).await;
    let file =
        |folder: &tempfile::TempDir, name: &str| Some(folder.path().join(name).to_str().unwrap().to_owned());
    let ours = tempfile::tempdir().unwrap();
    for name in ["cert.pem", "key.pem"] {
        std::fs::copy(client.path().join(name), ours.path().join(name)).unwrap();
    }
    let right = BackendTlsPlan {
        authority_file: file(&server, "cert.pem"),
        certificate_file: file(&ours, "cert.pem"),
        key_file: file(&ours, "key.pem"),
        server_name: Some("localhost".into()),
    };
    let mut plan = to(&format!("https://{address}"));
    plan.retry.max_attempts = 1;
    let settings = ServerSettings { watch_interval: Duration::from_millis(20), ..ServerSettings::default() };
    for (what, tls, status) in [
        ("authority", BackendTlsPlan { authority_file: file(&other, "cert.pem"), ..right.clone() }, 502),
        ("name", BackendTlsPlan { server_name: None, ..right.clone() }, 502),
        ("no certificate", BackendTlsPlan { certificate_file: None, key_file: None, ..right.clone() }, 502),
        ("all right", right, 200),
    ] {
        plan.backends.get_mut("only").unwrap().tls = Some(tls);
        let gateway = Gateway::start(&plan, settings.clone()).await.unwrap();
        assert_eq!(post(gateway.address(), &[], &chat(1)).await.status, status, "{what}");
    }
    // A certificate that changes is shown from then on: here one that the backend does not know, and back.
    let gateway = Gateway::start(&plan, settings).await.unwrap();
    for (shown, status) in [(&other, 502), (&client, 200)] {
        for name in ["key.pem", "cert.pem"] {
            std::fs::copy(shown.path().join(name), ours.path().join(name)).unwrap();
        }
        let mut seen = std::collections::BTreeMap::<String, u32>::new();
        let changed = async {
            loop {
                let answer = post(gateway.address(), &[], &chat(1)).await;
                if answer.status == status {
                    break;
                }
                *seen.entry(format!("{} {}", answer.status, answer.body)).or_default() += 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let came = tokio::time::timeout(PATIENCE, changed).await;
        assert!(came.is_ok(), "{status}: {seen:?}, {:?}", gateway.renewal_problem());
    }
}
