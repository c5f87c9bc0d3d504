//! How is TLS terminated, with certificates that change while it runs?

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::rustls;
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
            let mut roots = RootCertStore::empty();
            for authority in certificates(file)? {
                roots.add(authority).map_err(|e| wrong(file, e))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|e| wrong(file, e))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|e| wrong(&plan.certificate_file, e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
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
