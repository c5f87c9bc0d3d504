//! How is one PromQL question asked?
//!
//! A thin client for instant queries: POST with a form, so that no proxy cuts a long query; a deadline that
//! the server is told as well, so that it does not go on computing; every way to fail as its own
//! [`PromError`].
//!
//! ```no_run
//! # async fn ask() -> Result<(), traflux_prom::PromError> {
//! use traflux_prom::{HttpOptions, PromClient};
//!
//! let client = PromClient::new(HttpOptions::new("http://127.0.0.1:9090"))?;
//! for sample in client.instant("sum by (job) (up)").await?.samples() {
//!     assert!(sample.labels.get("job").is_some());
//! }
//! # Ok(())
//! # }
//! ```

use reqwest::Method;
use serde::Deserialize;

use crate::answer::{Answer, Envelope};
use crate::error::PromError;
use crate::http::{Http, HttpOptions, Reply, shortened};

/// A client of the Prometheus HTTP API; cheap to clone, safe to share.
#[derive(Debug, Clone)]
pub struct PromClient {
    http: Http,
}

impl PromClient {
    /// A client for one server. Nothing is sent yet.
    ///
    /// # Errors
    /// [`PromError::Options`] for a URL, header or deadline that cannot be used, [`PromError::SecretFile`]
    /// for a certificate or key that cannot be read.
    pub fn new(options: HttpOptions) -> Result<Self, PromError> {
        Ok(Self { http: Http::new(options)? })
    }

    /// Host and port, as in the errors.
    #[must_use]
    pub fn host(&self) -> &str {
        self.http.host()
    }

    /// Evaluates a query at the server's own "now", so that clocks that differ do no harm.
    ///
    /// # Errors
    /// [`PromError`].
    pub async fn instant(&self, query: &str) -> Result<Answer, PromError> {
        let timeout = format!("{}ms", self.http.deadline().as_millis().max(1));
        let form = [("query", query), ("timeout", timeout.as_str())];
        let reply = self.http.send(Method::POST, "api/v1/query", Some(&form)).await?;
        let envelope = self.envelope(&reply, query)?;
        let Some(data) = envelope.data else {
            return Err(self.unreadable("status is success, but there is no data".into()));
        };
        Ok(Answer { value: data.into(), warnings: envelope.warnings, infos: envelope.infos })
    }

    /// The server's version, as proof that it is there, lets us in and speaks the API.
    ///
    /// # Errors
    /// [`PromError`].
    pub async fn version(&self) -> Result<String, PromError> {
        #[derive(Deserialize)]
        struct Build {
            data: Version,
        }
        #[derive(Deserialize)]
        struct Version {
            version: String,
        }
        let reply = self.http.send(Method::GET, "api/v1/status/buildinfo", None).await?;
        let text = String::from_utf8_lossy(&reply.body);
        if let Some(error) = self.http.status_error(reply.status, &text) {
            return Err(error);
        }
        if reply.status / 100 != 2 {
            return Err(self.unreadable(format!("status {}: {}", reply.status, shortened(&text))));
        }
        let build: Build =
            serde_json::from_slice(&reply.body).map_err(|error| self.unreadable(error.to_string()))?;
        Ok(build.data.version)
    }

    fn envelope(&self, reply: &Reply, query: &str) -> Result<Envelope, PromError> {
        let parsed = serde_json::from_slice::<Envelope>(&reply.body);
        let refused = |kind: &str, reason: &str| PromError::Query {
            host: self.host().to_owned(),
            status: reply.status,
            kind: kind.to_owned(),
            reason: shortened(reason),
            query: query.to_owned(),
        };
        match parsed {
            Ok(envelope) if reply.status / 100 == 2 && envelope.status == "success" => Ok(envelope),
            Ok(envelope) => {
                let Envelope { error_type, error, .. } = envelope;
                if let Some(by_status) = self.http.status_error(reply.status, &error) {
                    return Err(by_status);
                }
                // `timeout`, `canceled` and `unavailable` come with 503 from Prometheus itself, but with other
                // statuses from what stands before it.
                Err(match error_type.as_str() {
                    "timeout" | "canceled" | "unavailable" | "internal" => PromError::Unavailable {
                        host: self.host().to_owned(),
                        status: reply.status,
                        reason: shortened(&error),
                    },
                    kind => refused(kind, &error),
                })
            }
            // A server that is still starting, a proxy, a TLS port: plain text under an error status.
            Err(error) => {
                let text = String::from_utf8_lossy(&reply.body);
                match self.http.status_error(reply.status, &text) {
                    Some(by_status) => Err(by_status),
                    None if reply.status / 100 == 2 => Err(self.unreadable(error.to_string())),
                    None => Err(refused("plain", &text)),
                }
            }
        }
    }

    fn unreadable(&self, reason: String) -> PromError {
        PromError::BadAnswer { host: self.host().to_owned(), reason }
    }
}
