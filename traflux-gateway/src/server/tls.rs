//! How is TLS terminated, and spoken to backends, with certificates that change while it runs?

use std::path::Path;
use std::sync::Arc;

use hyper_rustls::ConfigBuilderExt;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sha2::{Digest, Sha256};
use tokio_rustls::rustls;
use traflux_core::plan::backend::BackendTlsPlan;
use traflux_core::plan::server::TlsPlan;

use crate::error::GatewayError;

/// Reads certificate, key and authorities.
///
/// # Errors
/// [`GatewayError::Certificate`] for a file that cannot be read or does not fit the others.
pub(super) fn config(plan: &TlsPlan) -> Result<Arc<ServerConfig>, GatewayError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions: &[_] = if plan.tls13_only { &[&rustls::version::TLS13] } else { rustls::DEFAULT_VERSIONS };
    let chain = certificates(&plan.certificate_file)?;
    let key = PrivateKeyDer::from_pem_file(&plan.key_file).map_err(|e| wrong(&plan.key_file, e))?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|e| wrong(&plan.certificate_file, e))?;
    let builder = match &plan.client_authority_file {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(file)?), provider)
                    .build()
                    .map_err(|e| wrong(file, e))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|e| wrong(&plan.certificate_file, e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// How backends are spoken to. `uses_tls` says whether authorities will be needed.
///
/// # Errors
/// As [`config`].
pub(super) fn client_config(plan: &BackendTlsPlan, uses_tls: bool) -> Result<ClientConfig, GatewayError> {
    const SYSTEM: &str = "authorities of the system";
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| wrong(SYSTEM, e))?;
    let builder = match &plan.authority_file {
        Some(file) => builder.with_root_certificates(authorities(file)?),
        None if uses_tls => builder.with_native_roots().map_err(|e| wrong(SYSTEM, e))?,
        None => builder.with_root_certificates(RootCertStore::empty()),
    };
    match plan.certificate_file.as_ref().zip(plan.key_file.as_ref()) {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key_file)) => {
            let key = PrivateKeyDer::from_pem_file(key_file).map_err(|e| wrong(key_file, e))?;
            builder.with_client_auth_cert(certificates(certificate)?, key).map_err(|e| wrong(certificate, e))
        }
    }
}

/// What tells one state of the files from another.
pub(super) fn fingerprint(plan: &BackendTlsPlan) -> [u8; 32] {
    let mut hash = Sha256::new();
    for file in [&plan.authority_file, &plan.certificate_file, &plan.key_file] {
        let bytes = file.as_ref().map(|file| std::fs::read(file).unwrap_or_default());
        hash.update(Sha256::digest(bytes.unwrap_or_default()));
    }
    hash.update(plan.server_name.as_deref().unwrap_or_default());
    hash.finalize().into()
}

fn authorities(file: &str) -> Result<RootCertStore, GatewayError> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(file)? {
        roots.add(authority).map_err(|e| wrong(file, e))?;
    }
    Ok(roots)
}

fn certificates(file: &str) -> Result<Vec<CertificateDer<'static>>, GatewayError> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(Path::new(file))
        .and_then(Iterator::collect)
        .map_err(|e| wrong(file, e))?;
    if chain.is_empty() {
        return Err(wrong(file, "holds no certificate"));
    }
    Ok(chain)
}

fn wrong(file: &str, reason: impl ToString) -> GatewayError {
    GatewayError::Certificate { file: file.to_owned(), reason: reason.to_string() }
}
