//! Is the connection private, and is the node who it says it is?
//!
//! Certificates are read again when their files change: a new connection then gets the new one, and those
//! that are open stay. A pair that cannot be used (half written, say) is logged, and the old one stays.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Extensions;
use tonic::transport::server::{TcpConnectInfo, TcpIncoming, TlsConnectInfo};

use crate::drive::Peer;
use crate::error::XdsError;
use crate::server::text;

/// How long a client may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Handshakes at a time; more wait in the kernel's queue.
const HANDSHAKES: usize = 256;

/// Encryption of the discovery server. All files are PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    /// The server's certificate, and those that lead to its root.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Roots of client certificates. With them only clients with a certificate get in.
    pub client_ca: Option<PathBuf>,
    /// Lets a node in only when a name in its certificate (DNS, or URI or its last part) is its `node.id`.
    /// Has effect with `client_ca` only, which [`XdsActuator::bind`](crate::XdsActuator::bind) checks.
    pub authorize_node_id: bool,
}

impl TlsOptions {
    fn files(&self) -> impl Iterator<Item = &Path> {
        [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
    }

    fn stamps(&self) -> Vec<Option<SystemTime>> {
        self.files().map(|path| path.metadata().and_then(|m| m.modified()).ok()).collect()
    }

    fn load(&self) -> Result<ServerConfig, XdsError> {
        let certificates = read_certificates(&self.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| problem(&self.key, &error))?;
        let builder = ServerConfig::builder();
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for root in read_certificates(path)? {
                    roots.add(root).map_err(|error| problem(path, &error))?;
                }
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
                    .build()
                    .map_err(|error| problem(path, &error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder
            .with_single_cert(certificates, key)
            .map_err(|error| problem(&self.certificate, &error))?;
        config.alpn_protocols.push(b"h2".to_vec());
        Ok(config)
    }
}

fn problem(path: &Path, error: &dyn std::fmt::Display) -> XdsError {
    XdsError::Tls { path: path.display().to_string(), reason: error.to_string() }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, XdsError> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<_, _>>)
        .map_err(|error| problem(path, &error))?;
    if certificates.is_empty() {
        return Err(problem(path, &"it holds no certificate"));
    }
    Ok(certificates)
}

/// Makes TLS connections of plain ones.
#[derive(Clone)]
pub(crate) struct Acceptor {
    options: Arc<TlsOptions>,
    loaded: Arc<Mutex<Loaded>>,
}

struct Loaded {
    config: Arc<ServerConfig>,
    stamps: Vec<Option<SystemTime>>,
}

impl Acceptor {
    pub(crate) fn new(options: TlsOptions) -> Result<Self, XdsError> {
        if options.authorize_node_id && options.client_ca.is_none() {
            return Err(XdsError::Tls {
                path: options.certificate.display().to_string(),
                reason: "authorize_node_id needs client_ca: without it nobody shows a certificate".into(),
            });
        }
        let stamps = options.stamps();
        let config = Arc::new(options.load()?);
        Ok(Self { options: Arc::new(options), loaded: Arc::new(Mutex::new(Loaded { config, stamps })) })
    }

    /// The certificates as the files are now, or as they were last usable.
    fn config(&self) -> Arc<ServerConfig> {
        let stamps = self.options.stamps();
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.stamps != stamps {
            match self.options.load() {
                Ok(config) => {
                    tracing::info!("certificates read again");
                    loaded.config = Arc::new(config);
                }
                Err(error) => tracing::error!(%error, "certificates not taken, the old ones stay"),
            }
            loaded.stamps = stamps;
        }
        Arc::clone(&loaded.config)
    }

    /// Handshakes run beside each other, so that a client that stalls holds up nobody.
    pub(crate) fn accept(
        self,
        mut incoming: TcpIncoming,
    ) -> ReceiverStream<std::io::Result<TlsStream<TcpStream>>> {
        let (ready, connections) = mpsc::channel(HANDSHAKES);
        tokio::spawn(async move {
            loop {
                // Room for the result first: no more handshakes than can be taken.
                let Ok(room) = ready.clone().reserve_owned().await else { return };
                let connection = tokio::select! {
                    connection = incoming.next() => connection,
                    () = ready.closed() => return,
                };
                match connection {
                    None => return,
                    Some(Err(error)) => {
                        tracing::warn!(%error, "accept failed");
                        // Too many open files passes only with time.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    Some(Ok(connection)) => {
                        let acceptor = TlsAcceptor::from(self.config());
                        tokio::spawn(async move {
                            match timeout(HANDSHAKE, acceptor.accept(connection)).await {
                                Ok(Ok(stream)) => {
                                    room.send(Ok(stream));
                                }
                                Ok(Err(error)) => tracing::warn!(%error, "handshake failed"),
                                Err(_) => tracing::warn!("handshake took too long"),
                            }
                        });
                    }
                }
            }
        });
        ReceiverStream::new(connections)
    }
}

/// The other end of a TLS connection.
pub(crate) fn peer(options: &TlsOptions, extensions: &Extensions) -> Peer {
    let info = extensions.get::<TlsConnectInfo<TcpConnectInfo>>();
    let address = text(info.and_then(|info| info.get_ref().remote_addr()));
    if !options.authorize_node_id {
        return Peer { address, certified: None };
    }
    let certificates = info.and_then(TlsConnectInfo::peer_certs).unwrap_or_default();
    Peer { address, certified: Some(certificates.first().map(names).unwrap_or_default()) }
}

/// The DNS names and URIs that a certificate was issued for; none when it cannot be read.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else { return Vec::new() };
    let dns = certificate.valid_dns_names();
    dns.chain(certificate.valid_uri_names()).map(str::to_owned).collect()
}
