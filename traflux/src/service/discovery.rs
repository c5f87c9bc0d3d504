//! Which endpoints are there now?
//!
//! DNS names are resolved at the start and again every so often; a file with a list `services` replaces the
//! one of the configuration and is read again when its content changes. What cannot be read or resolved
//! leaves the last good state in place, with a warning.
//!
//! Both run in tasks of their own, and the loop takes what they [`Found`] between two ticks: a name server
//! that does not answer holds up no decision. Services that are to be taken over pass through the task that
//! knows the names, one after the other, so a later list never loses against an earlier one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};
use traflux_core::BoxFuture;

use super::command::{CommandError, Reply};
use crate::config::{Config, ConfigError, Resolved, ServiceConfig, dns_names};

/// A DNS answer takes at most this long. Two of them fit into the time that a command may take.
const DNS_LIMIT: Duration = Duration::from_secs(3);
/// Names that are looked up at a time.
const LOOKUPS: usize = 64;
/// Lists of services, and findings, that wait at most.
const WAITING: usize = 8;

/// What has been found since the loop last looked.
pub(super) enum Found {
    /// A list of services to take over, with the addresses of its names.
    Services {
        services: Vec<ServiceConfig>,
        addresses: Resolved,
        /// Who asked; `None`: the file.
        reply: Option<Reply<()>>,
    },
    /// Addresses that changed.
    Addresses(Resolved),
}

/// A list of services on its way through name resolution.
struct Ask {
    services: Vec<ServiceConfig>,
    reply: Option<Reply<()>>,
}

/// The tasks that look for changes; they end when this is dropped.
pub(super) struct Discovery {
    asks: mpsc::Sender<Ask>,
    names: watch::Sender<Vec<String>>,
    found: mpsc::Receiver<Found>,
    _tasks: JoinSet<()>,
}

impl Discovery {
    /// Starts looking, from what was known at the start.
    pub(super) fn start(config: &Config, file: Option<ServicesFile>, known: Names) -> Self {
        let (asks, inbox) = mpsc::channel(WAITING);
        let (names, in_force) = watch::channel(config.dns_names());
        let (finder, found) = mpsc::channel(WAITING);
        let mut tasks = JoinSet::new();
        if let Some(file) = file {
            let every = Duration::from_secs_f64(config.discovery.file_refresh_s);
            tasks.spawn(watch_file(file, every, asks.clone()));
        }
        let every = Duration::from_secs_f64(config.discovery.dns_refresh_s);
        tasks.spawn(watch_names(known, every, inbox, in_force, finder));
        Self { asks, names, found, _tasks: tasks }
    }

    /// Waits for the next finding.
    pub(super) async fn next(&mut self) -> Found {
        match self.found.recv().await {
            Some(found) => found,
            // The task that finds ends with this discovery only.
            None => std::future::pending().await,
        }
    }

    /// Has the names of services resolved; they come back as [`Found::Services`]. Never waits.
    pub(super) fn resolve(&self, services: Vec<ServiceConfig>, reply: Reply<()>) {
        let refused = match self.asks.try_send(Ask { services, reply: Some(reply) }) {
            Ok(()) => return,
            Err(mpsc::error::TrySendError::Full(ask) | mpsc::error::TrySendError::Closed(ask)) => ask,
        };
        if let Some(reply) = refused.reply {
            // A caller that no longer waits for its reply is no failure.
            let _ = reply.send(Err(CommandError::NoAnswer { limit_ms: 0 }));
        }
    }

    /// Tells which names are in force now: those are resolved again and again.
    pub(super) fn in_force(&self, config: &Config) {
        self.names.send_replace(config.dns_names());
    }
}

async fn watch_file(mut file: ServicesFile, every: Duration, asks: mpsc::Sender<Ask>) {
    let mut interval = tokio::time::interval(every);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        match file.look().await {
            Ok(Some(services)) => {
                if asks.send(Ask { services, reply: None }).await.is_err() {
                    return;
                }
            }
            Ok(None) => {}
            Err(problem) => warn!("discovery.file: {problem}; the endpoints in force stay"),
        }
    }
}

async fn watch_names(
    mut names: Names,
    every: Duration,
    mut asks: mpsc::Receiver<Ask>,
    in_force: watch::Receiver<Vec<String>>,
    found: mpsc::Sender<Found>,
) {
    // The first refresh is one interval away: everything has just been resolved.
    let mut interval = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let finding = tokio::select! {
            _ = interval.tick() => {
                let wanted = in_force.borrow().clone();
                let changed = names.refresh(&wanted).await;
                if changed.is_empty() {
                    continue;
                }
                Found::Addresses(changed)
            }
            ask = asks.recv() => {
                let Some(Ask { services, reply }) = ask else { return };
                let addresses = names.addresses_of(&dns_names(&services)).await;
                Found::Services { services, addresses, reply }
            }
        };
        if found.send(finding).await.is_err() {
            return;
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileContent {
    services: Vec<ServiceConfig>,
}

/// A file with services that may change.
pub(super) struct ServicesFile {
    path: PathBuf,
    content: Option<String>,
    complaint: Option<ConfigError>,
}

impl ServicesFile {
    /// The file that the configuration names.
    pub(super) fn of(config: &Config) -> Option<Self> {
        config.discovery.file.clone().map(|path| Self { path, content: None, complaint: None })
    }

    /// Reads the file: the services it now names, where its content changed.
    ///
    /// # Errors
    /// What is wrong with the file, the first time that it is.
    pub(super) async fn look(&mut self) -> Result<Option<Vec<ServiceConfig>>, ConfigError> {
        let text = match tokio::fs::read_to_string(&self.path).await {
            Ok(text) => text,
            Err(error) => {
                let (path, reason) = (self.path.display().to_string(), error.to_string());
                return self.complain(ConfigError::Io { path, reason });
            }
        };
        if self.content.as_ref() == Some(&text) {
            return Ok(None);
        }
        let read = crate::config::read_yaml::<FileContent>(&text);
        self.content = Some(text);
        match read {
            Ok(content) => {
                self.complaint = None;
                Ok(Some(content.services))
            }
            Err(problem) => self.complain(problem),
        }
    }

    fn complain(&mut self, problem: ConfigError) -> Result<Option<Vec<ServiceConfig>>, ConfigError> {
        if self.complaint.as_ref() == Some(&problem) {
            return Ok(None);
        }
        self.complaint = Some(problem.clone());
        Err(problem)
    }
}

/// Finds the addresses of a name, or says why there are none.
type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, Result<Vec<String>, String>> + Send + Sync>;

/// Names and their addresses.
pub(super) struct Names {
    lookup: Lookup,
    known: Resolved,
    /// Why a name could not be resolved when it was last tried.
    failing: BTreeMap<String, String>,
}

impl Names {
    /// Names asked of the system's resolver.
    pub(super) fn of_system() -> Self {
        Self::with(Arc::new(|name| Box::pin(look_up(name))))
    }

    fn with(lookup: Lookup) -> Self {
        Self { lookup, known: Resolved::new(), failing: BTreeMap::new() }
    }

    /// Addresses of names; only those that are not known yet are looked up.
    pub(super) async fn addresses_of(&mut self, names: &[String]) -> Resolved {
        let new: Vec<String> = names.iter().filter(|name| !self.known.contains_key(*name)).cloned().collect();
        self.look_up(&new).await;
        names.iter().filter_map(|name| Some((name.clone(), self.known.get(name)?.clone()))).collect()
    }

    /// Looks all names up again, forgets every other, and gives back those whose addresses changed. A name
    /// that is no longer answered keeps its addresses.
    async fn refresh(&mut self, names: &[String]) -> Resolved {
        self.known.retain(|name, _| names.contains(name));
        self.failing.retain(|name, _| names.contains(name));
        self.look_up(names).await
    }

    /// Looks names up, many at a time, and gives back what is new.
    async fn look_up(&mut self, names: &[String]) -> Resolved {
        let lookup = Arc::clone(&self.lookup);
        let mut answers = futures_util::stream::iter(names.iter().cloned())
            .map(|name| {
                let answer = lookup(name.clone());
                async move { (name, answer.await) }
            })
            .buffer_unordered(LOOKUPS);
        let mut changed = Resolved::new();
        while let Some((name, answer)) = answers.next().await {
            match answer {
                Ok(addresses) => {
                    if self.failing.remove(&name).is_some() {
                        info!(name, "is resolved again");
                    }
                    if self.known.get(&name) != Some(&addresses) {
                        self.known.insert(name.clone(), addresses.clone());
                        changed.insert(name, addresses);
                    }
                }
                Err(reason) => {
                    if self.failing.get(&name) != Some(&reason) {
                        let kept =
                            if self.known.contains_key(&name) { "its last addresses" } else { "no host" };
                        warn!("{name} cannot be resolved: {reason}; it has {kept} until it can");
                        self.failing.insert(name, reason);
                    }
                }
            }
        }
        changed
    }
}

async fn look_up(name: String) -> Result<Vec<String>, String> {
    match tokio::time::timeout(DNS_LIMIT, tokio::net::lookup_host((name, 0))).await {
        Ok(Ok(addresses)) => {
            let mut addresses: Vec<String> = addresses.map(|a| a.ip().to_string()).collect();
            addresses.sort();
            addresses.dedup();
            if addresses.is_empty() { Err("it has no address".to_owned()) } else { Ok(addresses) }
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", DNS_LIMIT.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const ONE: &str =
        "services: [{ name: s, endpoints: [{ name: a, address: \"10.0.0.1:80\", capacity_rps: 1 }] }]\n";

    fn services_file() -> (tempfile::TempDir, ServicesFile) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("services.yaml");
        (directory, ServicesFile { path, content: None, complaint: None })
    }

    type Shared<T> = Arc<Mutex<T>>;

    /// A resolver whose answers are a table, and the names that it was asked for.
    fn table() -> (Names, Shared<Resolved>, Shared<Vec<String>>) {
        let (answers, asked) = (Arc::new(Mutex::new(Resolved::new())), Arc::new(Mutex::new(Vec::new())));
        let (served, noted) = (Arc::clone(&answers), Arc::clone(&asked));
        let names = Names::with(Arc::new(move |name| {
            noted.lock().unwrap().push(name.clone());
            let answer = served.lock().unwrap().get(&name).cloned().ok_or("unknown".to_owned());
            Box::pin(async move { answer })
        }));
        (names, answers, asked)
    }

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[tokio::test]
    async fn a_file_is_taken_over_once_for_each_content() {
        let (_directory, mut file) = services_file();
        std::fs::write(&file.path, ONE).unwrap();
        assert_eq!(file.look().await.unwrap().unwrap()[0].endpoints[0].name, "a");
        assert_eq!(file.look().await, Ok(None));
        std::fs::write(&file.path, ONE.replace("name: a", "name: b")).unwrap();
        assert_eq!(file.look().await.unwrap().unwrap()[0].endpoints[0].name, "b");
    }

    #[tokio::test]
    async fn a_file_that_breaks_is_complained_of_once_and_taken_over_when_it_is_whole_again() {
        let (_directory, mut file) = services_file();
        std::fs::write(&file.path, ONE).unwrap();
        assert!(file.look().await.unwrap().is_some());
        std::fs::write(&file.path, ONE.replace("capacity_rps", "capacity")).unwrap();
        let problem = file.look().await.unwrap_err().to_string();
        assert!(problem.starts_with("services[0].endpoints[0]"), "{problem}");
        assert_eq!(file.look().await, Ok(None));
        std::fs::remove_file(&file.path).unwrap();
        assert_eq!(file.look().await.unwrap_err().code(), "config_io");
        assert_eq!(file.look().await, Ok(None));
        std::fs::write(&file.path, ONE).unwrap();
        assert!(file.look().await.unwrap().is_some());
    }

    #[tokio::test]
    async fn only_names_that_are_new_are_looked_up_for_new_services() {
        let (mut names, answers, asked) = table();
        answers.lock().unwrap().insert("a".into(), owned(&["10.0.0.1"]));
        let found = names.addresses_of(&owned(&["a", "b"])).await;
        assert_eq!(found, Resolved::from([("a".to_owned(), owned(&["10.0.0.1"]))]));
        asked.lock().unwrap().clear();
        answers.lock().unwrap().insert("b".into(), owned(&["10.0.0.2"]));
        assert_eq!(names.addresses_of(&owned(&["a", "b"])).await.len(), 2);
        assert_eq!(*asked.lock().unwrap(), ["b"]);
    }

    #[tokio::test]
    async fn a_refresh_gives_back_what_changed_and_a_lost_name_keeps_its_addresses() {
        let (mut names, answers, _) = table();
        answers.lock().unwrap().insert("a".into(), owned(&["10.0.0.1"]));
        answers.lock().unwrap().insert("b".into(), owned(&["10.0.0.2"]));
        names.addresses_of(&owned(&["a", "b"])).await;
        assert_eq!(names.refresh(&owned(&["a", "b"])).await, Resolved::new());
        answers.lock().unwrap().remove("a");
        answers.lock().unwrap().insert("b".into(), owned(&["10.0.0.3"]));
        let changed = names.refresh(&owned(&["a", "b"])).await;
        assert_eq!(changed, Resolved::from([("b".to_owned(), owned(&["10.0.0.3"]))]));
        assert_eq!(names.addresses_of(&owned(&["a"])).await["a"], ["10.0.0.1"]);
    }

    #[tokio::test]
    async fn a_name_that_left_is_forgotten() {
        let (mut names, answers, asked) = table();
        answers.lock().unwrap().insert("a".into(), owned(&["10.0.0.1"]));
        names.addresses_of(&owned(&["a", "b"])).await;
        names.refresh(&[]).await;
        assert!(names.known.is_empty() && names.failing.is_empty());
        asked.lock().unwrap().clear();
        names.refresh(&[]).await;
        assert_eq!(*asked.lock().unwrap(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn names_are_looked_up_at_the_same_time() {
        // Each lookup ends only when all of them have begun.
        let together = Arc::new(tokio::sync::Barrier::new(3));
        let mut names = Names::with(Arc::new(move |name| {
            let together = Arc::clone(&together);
            Box::pin(async move {
                together.wait().await;
                Ok(vec![name])
            })
        }));
        assert_eq!(names.addresses_of(&owned(&["a", "b", "c"])).await.len(), 3);
    }
}
