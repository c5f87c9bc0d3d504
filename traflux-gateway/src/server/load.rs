//! How does a gateway fare under a load that does not wait for it?
//!
//! Open loop: requests leave at the times of a Poisson process, whether earlier ones have come back or not, and
//! latency counts from the time at which a request was due. A generator that waits for answers instead would send
//! less when the server is slow, and measure too little.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::watch;

use super::histogram::Histogram;
use crate::error::GatewayError;
use crate::rng::Rng;

/// A load.
#[derive(Debug, Clone)]
pub struct LoadSettings {
    /// Base URL of the target, plain HTTP.
    pub url: String,
    /// Mean rate over all classes.
    pub requests_per_second: f64,
    /// How long requests are sent.
    pub duration: Duration,
    /// What is sent.
    pub classes: Vec<LoadClass>,
    /// Requests in flight beyond which no more are sent; those are counted as not sent.
    pub most_in_flight: usize,
    /// How long an answer is waited for.
    pub timeout: Duration,
    /// Seed of arrivals.
    pub seed: u64,
}

/// Requests of one kind.
#[derive(Debug, Clone)]
pub struct LoadClass {
    /// Its name in the report.
    pub name: String,
    /// Share of all requests, relative to the others.
    pub weight: f64,
    /// Path and query.
    pub path: String,
    /// Headers.
    pub headers: Vec<(String, String)>,
    /// Body; without one it is a GET.
    pub body: Option<Bytes>,
}

impl LoadClass {
    /// Chat completions with a prompt of about `prompt_tokens` tokens and at most `max_tokens` of answer.
    #[must_use]
    pub fn chat(name: &str, model: &str, prompt_tokens: usize, max_tokens: u64, stream: bool) -> Self {
        let prompt = "word".repeat(prompt_tokens);
        let options = if stream { r#","stream_options":{"include_usage":true}"# } else { "" };
        let body = format!(
            r#"{{"model":"{model}","max_tokens":{max_tokens},"stream":{stream}{options},"messages":[{{"role":"user","content":"{prompt}"}}]}}"#
        );
        Self {
            name: name.to_owned(),
            weight: 1.0,
            path: "/v1/chat/completions".to_owned(),
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            body: Some(body.into()),
        }
    }

    /// The same with another header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with another weight.
    #[must_use]
    pub fn with_weight(self, weight: f64) -> Self {
        Self { weight, ..self }
    }
}

/// What came of one class.
#[derive(Debug, Default)]
pub struct ClassReport {
    /// Its name.
    pub name: String,
    /// Requests that were sent.
    pub sent: AtomicU64,
    /// Requests that were not, because too many were in flight.
    pub withheld: AtomicU64,
    /// Requests whose connection failed or broke, or that took too long.
    pub broken: AtomicU64,
    statuses: Mutex<BTreeMap<u16, u64>>,
    /// From when a request was due to the first piece of the body of an answer with 2xx.
    pub first_byte: Histogram,
    /// From when a request was due to the end of an answer with 2xx.
    pub total: Histogram,
}

impl ClassReport {
    /// Complete answers by status.
    #[must_use]
    pub fn statuses(&self) -> BTreeMap<u16, u64> {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Complete answers of a status.
    #[must_use]
    pub fn of_status(&self, status: u16) -> u64 {
        self.statuses().get(&status).copied().unwrap_or(0)
    }

    fn answered(&self, status: u16) {
        *self.statuses.lock().unwrap_or_else(PoisonError::into_inner).entry(status).or_default() += 1;
    }
}

/// A load that runs; dropping it stops sending.
#[derive(Debug)]
pub struct Load {
    reports: Arc<[ClassReport]>,
    late: Arc<Histogram>,
    in_flight: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    pacer: Option<JoinHandle<()>>,
    done: watch::Receiver<()>,
}

type Http = Client<HttpConnector, Full<Bytes>>;

/// All that one request needs.
#[derive(Debug)]
struct Prepared {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

impl Load {
    /// Starts to send. Must be called within a Tokio runtime, which receives the answers; a thread of its own keeps
    /// the times.
    ///
    /// # Errors
    /// [`GatewayError::Setting`] for a rate, weight, URL or header that is none.
    pub fn start(settings: &LoadSettings) -> Result<Self, GatewayError> {
        let wrong = |setting, value: &str| GatewayError::setting(setting, value, "one that can be sent");
        let rate = settings.requests_per_second;
        if !(rate > 0.0 && rate.is_finite()) {
            return Err(wrong("requests_per_second", &rate.to_string()));
        }
        let total: f64 = settings.classes.iter().map(|class| class.weight).sum();
        if !(total > 0.0 && total.is_finite()) || settings.classes.iter().any(|class| class.weight < 0.0) {
            return Err(wrong("weight", &total.to_string()));
        }
        let mut prepared = Vec::new();
        for class in &settings.classes {
            let url = format!("{}{}", settings.url.trim_end_matches('/'), class.path);
            let uri = url.parse::<Uri>().map_err(|_| wrong("url", &url))?;
            let mut headers = HeaderMap::new();
            for (name, value) in &class.headers {
                let parsed = name.parse::<HeaderName>().ok().zip(HeaderValue::from_str(value).ok());
                let (name, value) = parsed.ok_or_else(|| wrong("headers", name))?;
                headers.insert(name, value);
            }
            let method = if class.body.is_some() { Method::POST } else { Method::GET };
            prepared.push(Arc::new(Prepared {
                method,
                uri,
                headers,
                body: class.body.clone().unwrap_or_default(),
            }));
        }
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let http = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        let reports: Arc<[ClassReport]> = settings
            .classes
            .iter()
            .map(|class| ClassReport { name: class.name.clone(), ..ClassReport::default() })
            .collect();
        let (sender, done) = watch::channel(());
        let mut load = Self {
            reports,
            late: Arc::default(),
            in_flight: Arc::default(),
            stop: Arc::default(),
            pacer: None,
            done,
        };
        let pacer = Pacer {
            reports: Arc::clone(&load.reports),
            late: Arc::clone(&load.late),
            in_flight: Arc::clone(&load.in_flight),
            stop: Arc::clone(&load.stop),
            settings: settings.clone(),
            prepared,
            http,
            done: sender,
        };
        let runtime = tokio::runtime::Handle::current();
        load.pacer = Some(std::thread::spawn(move || pacer.run(&runtime)));
        Ok(load)
    }

    /// What has come of each class so far.
    #[must_use]
    pub fn reports(&self) -> &[ClassReport] {
        &self.reports
    }

    /// How much later than due requests left.
    #[must_use]
    pub fn late(&self) -> &Histogram {
        &self.late
    }

    /// Requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Waits until everything has been sent and answered.
    pub async fn finish(&mut self) {
        // An error means that every sender has gone: the pacer's and those of all requests.
        while self.done.changed().await.is_ok() {}
    }

    /// From when requests were due to the end of their answers, over all classes.
    #[must_use]
    pub fn total(&self) -> Histogram {
        let all = Histogram::new();
        self.reports.iter().for_each(|report| all.merge(&report.total));
        all
    }

    /// Requests that got no answer, or one that is no 2xx.
    #[must_use]
    pub fn errors(&self) -> u64 {
        let of = |report: &ClassReport| {
            let refused: u64 = report
                .statuses()
                .iter()
                .filter(|(status, _)| !(200..300).contains(*status))
                .map(|(_, n)| n)
                .sum();
            refused + report.broken.load(Ordering::Relaxed) + report.withheld.load(Ordering::Relaxed)
        };
        self.reports.iter().map(of).sum()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(pacer) = self.pacer.take() {
            // It looks at the flag at least every 50 ms, and does not panic.
            let _ = pacer.join();
        }
    }
}

struct Pacer {
    reports: Arc<[ClassReport]>,
    late: Arc<Histogram>,
    in_flight: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    settings: LoadSettings,
    prepared: Vec<Arc<Prepared>>,
    http: Http,
    done: watch::Sender<()>,
}

impl Pacer {
    fn run(self, runtime: &tokio::runtime::Handle) {
        let mut rng = Rng::new(self.settings.seed);
        let weights: Vec<f64> = self.settings.classes.iter().map(|class| class.weight).collect();
        let all: f64 = weights.iter().sum();
        let started = Instant::now();
        let mut due = Duration::ZERO;
        loop {
            due += Duration::from_secs_f64(rng.exponential() / self.settings.requests_per_second);
            if due >= self.settings.duration {
                return;
            }
            loop {
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
                let left = due.saturating_sub(started.elapsed());
                if left.is_zero() {
                    break;
                }
                std::thread::sleep(left.min(Duration::from_millis(50)));
            }
            let at = started + due;
            self.late.record(at.elapsed());
            let mut mark = rng.uniform() * all;
            let class = weights.iter().position(|weight| {
                mark -= weight;
                mark < 0.0
            });
            let class = class.unwrap_or(weights.len() - 1);
            if self.in_flight.load(Ordering::Relaxed) >= self.settings.most_in_flight {
                self.reports[class].withheld.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            self.in_flight.fetch_add(1, Ordering::Relaxed);
            runtime.spawn(one(
                self.http.clone(),
                Arc::clone(&self.prepared[class]),
                Arc::clone(&self.reports),
                class,
                at,
                self.settings.timeout,
                Arc::clone(&self.in_flight),
                self.done.clone(),
            ));
        }
    }
}

async fn one(
    http: Http,
    prepared: Arc<Prepared>,
    reports: Arc<[ClassReport]>,
    class: usize,
    due: Instant,
    timeout: Duration,
    in_flight: Arc<AtomicUsize>,
    _done: watch::Sender<()>,
) {
    let report = &reports[class];
    report.sent.fetch_add(1, Ordering::Relaxed);
    if tokio::time::timeout(timeout, exchange(&http, &prepared, report, due)).await != Ok(true) {
        report.broken.fetch_add(1, Ordering::Relaxed);
    }
    in_flight.fetch_sub(1, Ordering::Relaxed);
}

/// Sends a request and reads its answer to the end; `false` when the connection broke.
async fn exchange(http: &Http, prepared: &Prepared, report: &ClassReport, due: Instant) -> bool {
    let mut request = Request::new(Full::new(prepared.body.clone()));
    *request.method_mut() = prepared.method.clone();
    *request.uri_mut() = prepared.uri.clone();
    *request.headers_mut() = prepared.headers.clone();
    let Ok(response) = http.request(request).await else { return false };
    let status = response.status();
    let mut body = response.into_body();
    let mut begun = false;
    while let Some(frame) = body.frame().await {
        if frame.is_err() {
            return false;
        }
        if !std::mem::replace(&mut begun, true) && status.is_success() {
            report.first_byte.record(due.elapsed());
        }
    }
    if status.is_success() {
        report.total.record(due.elapsed());
    }
    report.answered(status.as_u16());
    true
}
