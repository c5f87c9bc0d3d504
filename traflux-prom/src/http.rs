//! How is an HTTP source spoken to without leaking a secret, hanging, or filling the memory?
//!
//! One request at a time has one deadline for everything (connect, answer, body), a bounded body, no
//! redirects, and credentials that are read again from their files when those change.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};

use crate::error::PromError;

/// The longest foreign text that is repeated in an error.
const REASON_LIMIT: usize = 300;
/// The largest secret file that is read.
const SECRET_LIMIT: u64 = 64 * 1024;

/// A credential: given as text, or in a file that is read again for every request so that it can rotate.
///
/// `Debug` never shows it.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// The secret itself.
    Text(String),
    /// A file that holds it; white space around it is dropped.
    File(PathBuf),
}

impl Secret {
    fn read(&self) -> Result<String, PromError> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::File(path) => {
                let bytes = read_bounded(path, SECRET_LIMIT)?;
                let text = String::from_utf8(bytes).map_err(|_| PromError::SecretFile {
                    path: path.clone(),
                    reason: "it is not UTF-8 text".into(),
                })?;
                let text = text.trim();
                if text.is_empty() {
                    return Err(PromError::SecretFile { path: path.clone(), reason: "it is empty".into() });
                }
                Ok(text.to_owned())
            }
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Secret(hidden)"),
            Self::File(path) => write!(f, "Secret(file {})", path.display()),
        }
    }
}

/// How we say who we are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Auth {
    /// Not at all, or by client certificate only.
    #[default]
    None,
    /// HTTP basic authentication, as Prometheus itself offers.
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A bearer token, for proxies and for Thanos or Mimir. Prometheus itself does not know it.
    Bearer {
        /// The token.
        token: Secret,
    },
}

/// Whom we trust, and how we prove ourselves in the TLS handshake.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// PEM bundle of the only authorities to trust; without it the platform's.
    pub ca_file: Option<PathBuf>,
    /// PEM files of our certificate chain and its key, read once.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
}

/// Everything about one HTTP source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpOptions {
    /// Base URL; a path in it is kept (`https://mimir.example/prometheus`). Without user and password: those
    /// belong into `auth`, which is never printed.
    pub url: String,
    /// How we say who we are.
    pub auth: Auth,
    /// More headers, such as `X-Scope-OrgID`.
    pub headers: Vec<(String, Secret)>,
    /// Certificates.
    pub tls: TlsOptions,
    /// Time for one whole request.
    pub deadline: Duration,
    /// Largest answer accepted.
    pub max_response_bytes: usize,
}

impl HttpOptions {
    /// A source at `url`: no authentication, 5 s, 64 MiB.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            auth: Auth::None,
            headers: Vec::new(),
            tls: TlsOptions::default(),
            deadline: Duration::from_secs(5),
            max_response_bytes: 64 * 1024 * 1024,
        }
    }
}

/// An answer with any status that is not an error of the transport.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// A reusable connection to one HTTP source.
#[derive(Clone)]
pub(crate) struct Http {
    client: reqwest::Client,
    base: Url,
    host: String,
    options: HttpOptions,
    headers: Vec<(HeaderName, Secret)>,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Http {
    pub(crate) fn new(options: HttpOptions) -> Result<Self, PromError> {
        let base = parse_url(&options.url)?;
        if options.deadline.is_zero() {
            return Err(PromError::Options { option: "deadline", reason: "must be positive, got 0".into() });
        }
        let mut headers = Vec::with_capacity(options.headers.len());
        for (name, secret) in &options.headers {
            let parsed = HeaderName::try_from(name.as_str()).map_err(|_| PromError::Options {
                option: "headers",
                reason: format!("`{name}` is not a header name"),
            })?;
            headers.push((parsed, secret.clone()));
        }
        let builder = reqwest::Client::builder()
            .user_agent(concat!("traflux/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(options.deadline)
            .pool_idle_timeout(Duration::from_secs(90));
        let client = with_tls(builder, &base, &options.tls)?.build().map_err(|error| PromError::Options {
            option: "tls",
            reason: chain_text(&error.without_url()),
        })?;
        let host = host_of(&base);
        Ok(Self { client, base, host, options, headers })
    }

    /// Host and port, for messages.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.options.deadline
    }

    /// Sends one request and reads the whole body. `path` is appended to the base URL.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        form: Option<&[(&str, &str)]>,
    ) -> Result<Reply, PromError> {
        let mut url = self.base.clone();
        if !path.is_empty() {
            let joined = format!("{}/{}", url.path().trim_end_matches('/'), path.trim_start_matches('/'));
            url.set_path(&joined);
        }
        let mut request = self.client.request(method, url).headers(self.secret_headers()?);
        if let Auth::Basic { username, password } = &self.options.auth {
            request = request.basic_auth(username, Some(password.read()?));
        }
        if let Some(form) = form {
            request = request.form(form);
        }
        let mut response = request.send().await.map_err(|error| self.transport(error))?;
        let status = response.status().as_u16();
        let limit = self.options.max_response_bytes;
        let too_large = || PromError::TooLarge { host: self.host.clone(), limit_bytes: limit };
        let announced = response.content_length().unwrap_or(0);
        if announced > limit as u64 {
            return Err(too_large());
        }
        let mut body = Vec::with_capacity(usize::try_from(announced).unwrap_or(0));
        while let Some(chunk) = response.chunk().await.map_err(|error| self.transport(error))? {
            if body.len() + chunk.len() > limit {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply { status, body })
    }

    /// The error that a status other than 2xx means on any source; `None` where it depends on the API.
    pub(crate) fn status_error(&self, status: u16, reason: &str) -> Option<PromError> {
        let host = self.host.clone();
        let reason = shortened(reason);
        match status {
            200..=299 => None,
            300..=399 => Some(PromError::Redirect { host, status }),
            401 | 403 => Some(PromError::Unauthorized { host, status }),
            404 | 405 => Some(PromError::NotFound { host, status, reason }),
            429 | 500..=599 => Some(PromError::Unavailable { host, status, reason }),
            _ => None,
        }
    }

    fn secret_headers(&self) -> Result<HeaderMap, PromError> {
        let mut map = HeaderMap::new();
        let mut insert = |name: HeaderName, option: &'static str, text: &str| {
            let mut value = HeaderValue::from_str(text).map_err(|_| PromError::Options {
                option,
                reason: "it holds a character that no header may hold".into(),
            })?;
            value.set_sensitive(true);
            map.insert(name, value);
            Ok(())
        };
        match &self.options.auth {
            Auth::None | Auth::Basic { .. } => {}
            Auth::Bearer { token } => insert(AUTHORIZATION, "auth", &format!("Bearer {}", token.read()?))?,
        }
        for (name, secret) in &self.headers {
            insert(name.clone(), "headers", &secret.read()?)?;
        }
        Ok(map)
    }

    fn transport(&self, error: reqwest::Error) -> PromError {
        let error = error.without_url();
        let host = self.host.clone();
        if error.is_timeout() {
            let limit_ms = u64::try_from(self.options.deadline.as_millis()).unwrap_or(u64::MAX);
            return PromError::Deadline { host, limit_ms };
        }
        let reason = chain_text(&error);
        if is_tls(&reason) {
            PromError::Tls { host, reason }
        } else if error.is_body() || error.is_decode() {
            PromError::BadAnswer { host, reason }
        } else {
            PromError::Unreachable { host, reason }
        }
    }
}

/// Reads a file of at most `limit` bytes.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, PromError> {
    use std::io::Read;
    let failed = |reason: String| PromError::SecretFile { path: path.to_owned(), reason };
    let file = std::fs::File::open(path).map_err(|e| failed(e.to_string()))?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| failed(e.to_string()))?;
    if bytes.len() as u64 > limit {
        return Err(failed(format!("it is larger than the limit of {limit} bytes")));
    }
    Ok(bytes)
}

/// The first line of a foreign text, cut to a bounded length.
pub(crate) fn shortened(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or("");
    match line.char_indices().nth(REASON_LIMIT) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

fn parse_url(text: &str) -> Result<Url, PromError> {
    // The text itself is not repeated: it may hold a password.
    let refuse = |reason: &str| PromError::Options { option: "url", reason: reason.to_owned() };
    let url = Url::parse(text).map_err(|error| refuse(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refuse("it must start with http:// or https://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("credentials belong into `auth`, not into the URL"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("a query or fragment has no place in a base URL"));
    }
    Ok(url)
}

fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or("?");
    match url.port_or_known_default() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

#[cfg(feature = "tls")]
fn with_tls(
    mut builder: reqwest::ClientBuilder,
    base: &Url,
    tls: &TlsOptions,
) -> Result<reqwest::ClientBuilder, PromError> {
    if base.scheme() == "http" {
        // Without redirects there is never a handshake, and reading the platform's authorities is not free.
        builder = builder.tls_certs_only([]);
    }
    let unusable = |path: &Path, reason: String| PromError::SecretFile { path: path.to_owned(), reason };
    if let Some(path) = &tls.ca_file {
        let pem = read_bounded(path, 1024 * 1024)?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem)
            .map_err(|error| unusable(path, chain_text(&error)))?;
        if certificates.is_empty() {
            return Err(unusable(path, "it holds no certificate".into()));
        }
        builder = builder.tls_certs_only(certificates);
    }
    if let Some((certificate, key)) = &tls.client_certificate {
        let mut pem = read_bounded(certificate, 1024 * 1024)?;
        pem.push(b'\n');
        pem.extend(read_bounded(key, SECRET_LIMIT)?);
        let identity = reqwest::Identity::from_pem(&pem)
            .map_err(|_| unusable(key, "certificate and key are no PEM pair".into()))?;
        builder = builder.identity(identity);
    }
    Ok(builder)
}

#[cfg(not(feature = "tls"))]
fn with_tls(
    builder: reqwest::ClientBuilder,
    base: &Url,
    tls: &TlsOptions,
) -> Result<reqwest::ClientBuilder, PromError> {
    if base.scheme() == "https" {
        return Err(PromError::Options {
            option: "url",
            reason: "this build has no TLS (feature `tls`)".into(),
        });
    }
    if *tls == TlsOptions::default() {
        Ok(builder)
    } else {
        Err(PromError::Options { option: "tls", reason: "this build has no TLS (feature `tls`)".into() })
    }
}

/// An error with everything that caused it; reqwest's own text alone names no cause.
fn chain_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let part = inner.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = inner.source();
    }
    shortened(&text)
}

/// Whether a transport failed in the TLS handshake. The layers between hide the type, not the words.
fn is_tls(reason: &str) -> bool {
    let reason = reason.to_ascii_lowercase();
    ["certificate", "tls", "handshake", "fatal alert", "corrupt message", "invalidcontenttype"]
        .iter()
        .any(|word| reason.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown() {
        let mut options = HttpOptions::new("http://127.0.0.1:9");
        options.auth = Auth::Basic { username: "u".into(), password: Secret::Text("hunter2".into()) };
        options.headers = vec![("X-Key".into(), Secret::Text("hunter3".into()))];
        let shown = format!("{options:?} {:?}", Http::new(options.clone()).unwrap());
        assert!(!shown.contains("hunter"), "{shown}");
    }

    #[test]
    fn a_password_in_the_url_is_refused_without_repeating_it() {
        let error = Http::new(HttpOptions::new("http://u:hunter2@127.0.0.1/")).unwrap_err();
        assert_eq!(error.code(), "prom_options");
        assert!(!error.to_string().contains("hunter2"));
        assert!(Http::new(HttpOptions::new("ftp://127.0.0.1/")).is_err());
        assert!(Http::new(HttpOptions::new("not a url")).is_err());
    }

    #[test]
    fn a_long_foreign_text_is_cut_to_its_first_line_and_a_bounded_length() {
        assert_eq!(shortened("one\ntwo"), "one");
        assert_eq!(shortened(&"é".repeat(1000)).chars().count(), REASON_LIMIT + 1);
    }
}
