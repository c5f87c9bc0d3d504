//! What runs, and how does it start, change and stop?

use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use traflux_core::plan::backend::KeySource;
use traflux_core::plan::requests::RequestPlan;

use super::attempts::Attempts;
use super::buffers::Buffers;
use super::keeper::{self, Keeper};
use super::live::Live;
use super::prepare::Prepared;
use super::recording::Recording;
use super::scraping::{self, Scrapes};
use super::settings::ServerSettings;
use super::tally::Tally;
use super::{admin, listener, probing};
use crate::adapter::{Clock, Waiters};
use crate::engine::Engine;
use crate::error::GatewayError;

/// How often requests that wait are looked after while there are any.
const QUEUE_TICK: Duration = Duration::from_millis(10);

/// A gateway that runs until it is [drained](Self::drain) or dropped; then its connections end at once.
#[derive(Debug)]
pub struct Gateway {
    state: Arc<State>,
    address: SocketAddr,
    admin: Option<SocketAddr>,
    drain: watch::Sender<bool>,
    serving: JoinHandle<Drained>,
    others: Vec<JoinHandle<()>>,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drained {
    /// Connections that ended by themselves.
    pub finished: usize,
    /// Connections that were cut off at the deadline.
    pub cut_off: usize,
}

/// What all requests share.
#[derive(Debug)]
pub(crate) struct State {
    pub(super) engine: Engine,
    pub(super) clock: Clock,
    pub(super) live: ArcSwap<Live>,
    pub(super) waiters: Arc<Waiters>,
    pub(super) tally: Tally,
    pub(super) scrapes: Scrapes,
    pub(super) buffers: Buffers,
    /// Plans that were to replace the one in force.
    pub(super) reloads: Attempts,
    /// Certificates and keys that changed.
    pub(super) renewals: Attempts,
    /// Wakes the listener after a change of plan.
    pub(super) changed: Notify,
    /// Of clients, open now.
    pub(super) connections: AtomicUsize,
    pub(super) settings: ServerSettings,
    /// What keeps levels over a restart.
    pub(super) keeper: Option<Arc<Keeper>>,
    /// What writes decisions down.
    pub(super) recording: Option<Recording>,
    /// Whether new requests should go elsewhere.
    pub(super) draining: watch::Receiver<bool>,
    /// Metrics of what runs beside the gateway.
    pub(super) shown: Shown,
    /// Reloads come one after another.
    reloading: Mutex<()>,
}

/// Texts in the format of Prometheus that somebody else makes.
#[derive(Default)]
pub(super) struct Shown(RwLock<Vec<Box<dyn Fn() -> String + Send + Sync>>>);

impl Shown {
    /// All of them now.
    pub(super) fn text(&self) -> String {
        self.0.read().unwrap_or_else(PoisonError::into_inner).iter().map(|metrics| metrics()).collect()
    }
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Shown").finish_non_exhaustive()
    }
}

impl Gateway {
    /// Starts to listen. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// As [`validate`](super::validate), and [`GatewayError`] for an address or a file of levels that another process has.
    pub async fn start(plan: &RequestPlan, settings: ServerSettings) -> Result<Self, GatewayError> {
        // Before they are read, so that a change in between is seen.
        let files = stamps(plan);
        let Prepared { clock, live, engine, listen, admin } = Prepared::new(plan, &settings)?;
        let recording = match &settings.decision_log {
            None => None,
            Some(file) => Some(Recording::start(engine.clone(), file.clone())?),
        };
        let keeper = Keeper::open(plan, &engine, clock.now())?;
        let (drain, draining) = watch::channel(false);
        let state = Arc::new(State {
            engine,
            clock,
            live: ArcSwap::from_pointee(live),
            waiters: Arc::default(),
            tally: Tally::default(),
            scrapes: Scrapes::default(),
            buffers: Buffers::default(),
            reloads: Attempts::of("reload"),
            renewals: Attempts::of("renewal"),
            changed: Notify::new(),
            connections: AtomicUsize::new(0),
            settings,
            keeper,
            recording,
            draining: draining.clone(),
            shown: Shown::default(),
            reloading: Mutex::new(()),
        });
        let (listener, address) = listener::bind(&plan.server.listen, &listen)?;
        let mut others = vec![tokio::spawn(look_after(Arc::clone(&state)))];
        let mut admin_address = None;
        if let Some((written, found)) = plan.server.admin.as_ref().zip(admin) {
            let (listener, address) = listener::bind(written, &found)?;
            admin_address = Some(address);
            others.push(tokio::spawn(admin::serve(listener, Arc::clone(&state))));
        }
        others.push(tokio::spawn(watch_files(Arc::clone(&state), files)));
        others.push(tokio::spawn(probing::probe(Arc::clone(&state))));
        others.push(tokio::spawn(scraping::scrape(Arc::clone(&state))));
        if let Some(keeper) = &state.keeper {
            others.push(tokio::spawn(keep_levels(Arc::clone(&state), Arc::clone(keeper))));
        }
        let serving = tokio::spawn(listener::serve(listener, Arc::clone(&state), draining));
        Ok(Self { state, address, admin: admin_address, drain, serving, others })
    }

    /// Where clients are served.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where metrics, levels and explanations are served.
    #[must_use]
    pub const fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// The engine that decides.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.state.engine
    }

    /// The clock that it goes by.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.state.clock
    }

    /// Shows more metrics on the administrative side: a text in the format of Prometheus, made anew at each look.
    pub fn show(&self, metrics: impl Fn() -> String + Send + Sync + 'static) {
        self.state.shown.0.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(metrics));
    }

    /// What has passed so far.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.state.tally
    }

    /// Requests that wait in the queue.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.state.waiters.len()
    }

    /// Puts another plan in force, for requests that come from now on. Connections, levels and estimates stay.
    ///
    /// # Errors
    /// As [`start`](Self::start), and [`GatewayError::NeedsRestart`] for another address to listen on. The old plan
    /// then stays in force.
    pub fn reload(&self, plan: &RequestPlan) -> Result<(), GatewayError> {
        self.state.reload(plan)
    }

    /// The same for a plan that has been read, or could not be.
    pub(super) fn take_in(&self, read: Result<RequestPlan, GatewayError>) -> Result<(), GatewayError> {
        match read {
            Ok(plan) => self.state.reload(&plan),
            refused => {
                self.state.reloads.ended(&refused);
                refused.map(drop)
            }
        }
    }

    /// Why the last plan that was to replace the one in force did not; none where it did.
    #[must_use]
    pub fn reload_problem(&self) -> Option<GatewayError> {
        self.state.reloads.problem()
    }

    /// Why certificates and keys that have changed on disk are not in use; none where they are.
    #[must_use]
    pub fn renewal_problem(&self) -> Option<GatewayError> {
        self.state.renewals.problem()
    }

    /// Reads certificates and keys again.
    ///
    /// # Errors
    /// As [`start`](Self::start); those in use then stay.
    pub fn renew(&self) -> Result<(), GatewayError> {
        self.state.renew()
    }

    /// Takes no more connections and requests, waits for those at hand, at most for the plan's drain timeout, and
    /// keeps the levels of limits that are to be kept and the decision log.
    pub async fn drain(mut self) -> Drained {
        // Nobody listens any more only when serving has ended.
        let _ = self.drain.send(true);
        let drained = (&mut self.serving).await.unwrap_or_default();
        if let Some(keeper) = &self.state.keeper {
            save(&self.state, keeper).await;
        }
        if self.state.recording.is_some() {
            let state = Arc::clone(&self.state);
            // Writes the rest, which may take the disk a moment.
            let _ =
                tokio::task::spawn_blocking(move || state.recording.as_ref().map(Recording::finish)).await;
        }
        // The file of levels is free for a successor when nobody holds the state any more.
        for task in self.others.drain(..) {
            task.abort();
            let _ = task.await;
        }
        drained
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.serving.abort();
        for task in &self.others {
            task.abort();
        }
    }
}

impl State {
    /// Hands out decisions after something has ended.
    pub(super) fn pump(&self) {
        self.waiters.pump(&self.engine);
    }

    pub(super) fn reload(&self, plan: &RequestPlan) -> Result<(), GatewayError> {
        let result = self.put_in_force(plan);
        self.reloads.ended(&result);
        result
    }

    fn put_in_force(&self, plan: &RequestPlan) -> Result<(), GatewayError> {
        let _one_by_one = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.live.load_full();
        needs_restart("server.listen", &before.plan.server.listen, &plan.server.listen)?;
        let admin = |plan: &RequestPlan| plan.server.admin.clone().unwrap_or_else(|| "none".into());
        needs_restart("server.admin", &admin(&before.plan), &admin(plan))?;
        let tls = |plan: &RequestPlan| if plan.server.tls.is_some() { "TLS" } else { "none" }.to_owned();
        needs_restart("server.tls", &tls(&before.plan), &tls(plan))?;
        let levels = |plan: &RequestPlan| plan.server.levels_file.clone().unwrap_or_else(|| "none".into());
        needs_restart("server.levels_file", &levels(&before.plan), &levels(plan))?;
        keeper::check(plan)?;
        let live = Live::new(plan, &self.settings, Some(&before))?;
        // A request that began before this and is decided after it finds new backends by `settled`.
        self.engine.reload(plan, &self.settings.engine, self.clock.now())?;
        self.live.store(Arc::new(live));
        drop(_one_by_one);
        self.renewals.ended(&Ok(()));
        self.changed.notify_one();
        self.pump();
        Ok(())
    }

    /// The plan in force, after a change that is under way. Between two plans the engine is the first to go by the new
    /// one, so that it may name backends that a request which began before does not know.
    pub(super) fn settled(&self) -> Arc<Live> {
        let _no_change = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        self.live.load_full()
    }

    pub(super) fn renew(&self) -> Result<(), GatewayError> {
        let _one_by_one = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.live.load_full();
        let live = Live::new(&before.plan, &self.settings, Some(&before));
        self.renewals.ended(&live);
        self.live.store(Arc::new(live?));
        Ok(())
    }
}

fn needs_restart(setting: &'static str, before: &str, after: &str) -> Result<(), GatewayError> {
    if before == after {
        return Ok(());
    }
    Err(GatewayError::NeedsRestart { setting, before: before.to_owned(), after: after.to_owned() })
}

/// How often health and weights are looked after; those who wait are more often.
const UPKEEP: Duration = Duration::from_millis(250);

/// How often connections that nobody needs are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// Does for the engine and for idle connections what time alone brings.
async fn look_after(state: Arc<State>) {
    let mut since = Duration::ZERO;
    let mut swept = Instant::now();
    loop {
        tokio::time::sleep(QUEUE_TICK).await;
        since += QUEUE_TICK;
        let now = Instant::now();
        if now.duration_since(swept) >= SWEEP {
            swept = now;
            state.live.load().upstreams.sweep(now);
        }
        if !state.waiters.is_empty() || since >= UPKEEP {
            since = Duration::ZERO;
            state.engine.upkeep(state.clock.now());
            state.pump();
        }
    }
}

/// Writes levels now and then.
async fn keep_levels(state: Arc<State>, keeper: Arc<Keeper>) {
    loop {
        tokio::time::sleep(keeper::SAVE_EVERY).await;
        save(&state, &keeper).await;
    }
}

/// Writes levels off the threads that serve. A failure is counted, and the next save tries again.
async fn save(state: &Arc<State>, keeper: &Arc<Keeper>) {
    let (state, keeper) = (Arc::clone(state), Arc::clone(keeper));
    let _ = tokio::task::spawn_blocking(move || keeper.save(&state.engine, state.clock.now())).await;
}

/// Bytes and time of change of files by name; `None` of one that is not there.
type Stamps = Vec<(String, Option<super::run::Stamp>)>;

/// Reads certificates and keys again when their files are others than those `seen`.
async fn watch_files(state: Arc<State>, mut seen: Stamps) {
    loop {
        tokio::time::sleep(state.settings.watch_interval).await;
        let now = stamps(&state.live.load().plan);
        // Files that are half written do not fit together: those in use stay, and the next change is tried again.
        if now != seen && state.renew().is_ok() {
            seen = now;
        }
    }
}

/// Bytes and time of change of each file that a plan names.
fn stamps(plan: &RequestPlan) -> Stamps {
    let tls = plan.server.tls.iter().flat_map(|tls| {
        [Some(&tls.certificate_file), Some(&tls.key_file), tls.client_authority_file.as_ref()]
    });
    let tokens = plan.identity.jwt.iter().flat_map(|jwt| [jwt.keys.as_ref(), jwt.secret.as_ref()]);
    let keys = plan.backends.values().map(|backend| backend.key.as_ref());
    let keys = tokens.chain(keys).chain([plan.server.admin_key.as_ref()]).map(|key| match key {
        Some(KeySource::File(file)) => Some(file),
        _ => None,
    });
    let backends =
        plan.backends.values().filter_map(|backend| backend.tls.as_ref()).flat_map(|tls| {
            [tls.authority_file.as_ref(), tls.certificate_file.as_ref(), tls.key_file.as_ref()]
        });
    let files = tls.chain(keys).chain(backends).flatten();
    files.map(|file| (file.clone(), super::run::Stamp::of(file.as_ref()))).collect()
}

/// Listens on an address, with room for many connections at once.
pub(super) fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket =
        if address.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(4096)
}
