//! Whom the client trusts, and how it proves itself.
#![cfg(feature = "tls")]
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Reply, Request, Server};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use traflux_prom::{HttpOptions, PromClient, PromError, TlsOptions};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Certificate and key for `name`, as PEM.
fn issued(by: &Authority, name: &str, usage: ExtendedKeyUsagePurpose) -> (String, String) {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.extended_key_usages = vec![usage];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, by).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn server_config(by: &Authority, name: &str, clients: Option<&Authority>) -> ServerConfig {
    let (certificate, key) = issued(by, name, ExtendedKeyUsagePurpose::ServerAuth);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der().clone()).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain = vec![PemObject::from_pem_slice(certificate.as_bytes()).unwrap()];
    builder.with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
}

fn written(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

async fn ask(server: &Server, tls: TlsOptions) -> Result<(), PromError> {
    let mut options = HttpOptions::new(format!("https://127.0.0.1:{}", server.address.port()));
    options.tls = tls;
    PromClient::new(options)?.instant("up").await.map(|_| ())
}

fn empty(_: &Request) -> Reply {
    Reply::vector("[]")
}

#[tokio::test]
async fn a_server_under_the_given_authority_is_trusted_and_no_other() {
    let (ours, theirs) = (authority(), authority());
    let directory = tempfile::tempdir().unwrap();
    let ca_file = Some(written(directory.path(), "ca.pem", &ours.pem()));
    let tls = TlsOptions { ca_file, client_certificate: None };

    let good = Server::start_tls(server_config(&ours, "127.0.0.1", None), empty).await;
    ask(&good, tls.clone()).await.unwrap();

    let unknown = Server::start_tls(server_config(&theirs, "127.0.0.1", None), empty).await;
    let error = ask(&unknown, tls.clone()).await.unwrap_err();
    assert_eq!((error.code(), error.is_transient()), ("prom_tls", false), "{error}");
    assert!(unknown.requests().is_empty());

    let misnamed = Server::start_tls(server_config(&ours, "10.9.9.9", None), empty).await;
    let error = ask(&misnamed, tls).await.unwrap_err();
    assert_eq!(error.code(), "prom_tls", "{error}");
}

#[tokio::test]
async fn a_self_made_authority_is_not_trusted_unless_given() {
    let server = Server::start_tls(server_config(&authority(), "127.0.0.1", None), empty).await;
    let error = ask(&server, TlsOptions::default()).await.unwrap_err();
    assert_eq!(error.code(), "prom_tls", "{error}");
}

#[tokio::test]
async fn a_client_certificate_opens_a_server_that_asks_for_one() {
    let ours = authority();
    let directory = tempfile::tempdir().unwrap();
    let ca_file = Some(written(directory.path(), "ca.pem", &ours.pem()));
    let server = Server::start_tls(server_config(&ours, "127.0.0.1", Some(&ours)), empty).await;

    let without = TlsOptions { ca_file: ca_file.clone(), client_certificate: None };
    let error = ask(&server, without).await.unwrap_err();
    assert_eq!(error.code(), "prom_tls", "{error}");

    let (certificate, key) = issued(&ours, "traflux", ExtendedKeyUsagePurpose::ClientAuth);
    let pair = (
        written(directory.path(), "client.pem", &certificate),
        written(directory.path(), "client.key", &key),
    );
    ask(&server, TlsOptions { ca_file, client_certificate: Some(pair) }).await.unwrap();
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_plain_server_behind_https_is_a_tls_error() {
    let server = Server::start(empty).await;
    let error = ask(&server, TlsOptions::default()).await.unwrap_err();
    assert_eq!(error.code(), "prom_tls", "{error}");
}

#[tokio::test]
async fn certificate_files_that_cannot_be_used_are_named_and_not_shown() {
    let directory = tempfile::tempdir().unwrap();
    let junk = written(directory.path(), "junk.pem", "-----BEGIN NOTHING-----\nhunter2\n");
    let server = Server::start(empty).await;
    let missing = directory.path().join("missing.pem");
    for tls in [
        TlsOptions { ca_file: Some(junk.clone()), client_certificate: None },
        TlsOptions { ca_file: Some(missing.clone()), client_certificate: None },
        TlsOptions { ca_file: None, client_certificate: Some((junk.clone(), junk.clone())) },
        TlsOptions { ca_file: None, client_certificate: Some((missing, junk)) },
    ] {
        let error = ask(&server, tls).await.unwrap_err();
        assert_eq!(error.code(), "prom_secret_file", "{error}");
        assert!(error.to_string().contains(".pem") && !error.to_string().contains("hunter2"), "{error}");
    }
}
