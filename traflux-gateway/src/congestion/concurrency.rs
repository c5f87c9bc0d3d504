//! How many requests may be in flight to this backend and model?
//!
//! A [`ConcurrencyLimit`] counts them and holds them below a limit that follows latency and drops. For streams
//! the latency to report is the time to the first token: the rest of a stream depends on how much is said, not on
//! how busy the backend is. So the sample is given apart from the release:
//!
//! 1. [`try_acquire`](ConcurrencyLimit::try_acquire) before sending;
//! 2. [`observe`](ConcurrencyLimit::observe) at the first byte, or at a refusal or timeout;
//! 3. [`release`](ConcurrencyLimit::release) at the end, whatever came of it.
//!
//! Less important bands may use only a share of the limit, so that there is always room for those above.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, TryLockError};
use std::time::Duration;

use traflux_core::Timestamp;
use traflux_core::plan::congestion::{ConcurrencyPlan, MAX_BANDS};

use super::algorithm::{Controller, WindowSummary};
use super::baseline::{exponential, logarithm};
use super::by_band;
use crate::units::{duration_nanos, nanos};

/// The place of one request in flight. Give it back by [`ConcurrencyLimit::release`], once.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a slot that is not released is occupied for ever"]
pub struct Slot {
    in_flight: u32,
}

impl Slot {
    /// Requests in flight when it was taken, its own included.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }
}

/// No slot was free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// Requests in flight.
    pub in_flight: u32,
    /// The most that this band may have in flight.
    pub ceiling: u32,
    /// The limit over all bands.
    pub limit: u32,
}

/// What a request tells about its backend's load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sample {
    /// It was answered; time to the first byte of the answer.
    Latency(Duration),
    /// It was refused for lack of capacity, or timed out. A refusal because a quota is used up (a 429 of a
    /// hosted model) says nothing about concurrency: it belongs to the [`CoolDown`](super::CoolDown) and the
    /// [`Ceiling`](super::Ceiling) alone.
    Dropped,
}

/// An adaptive limit on requests in flight.
///
/// ```
/// use std::time::Duration;
/// use traflux_core::Timestamp;
/// use traflux_gateway::congestion::{ConcurrencyLimit, ConcurrencyPlan, Sample};
///
/// let limit = ConcurrencyLimit::new(&ConcurrencyPlan::fixed(10));
/// let slot = limit.try_acquire(0).unwrap();
/// limit.observe(Timestamp::ZERO, &slot, Sample::Latency(Duration::from_millis(300)));
/// limit.release(slot);
/// assert_eq!(limit.in_flight(), 0);
/// ```
#[derive(Debug)]
pub struct ConcurrencyLimit {
    /// Relaxed: the count guards no other memory, and read-modify-write operations of one atomic have one
    /// order, so that it is never exceeded nor lost.
    in_flight: AtomicU32,
    /// Relaxed: an old limit is as good as a moment earlier.
    limit: AtomicU32,
    /// Drops seen while the window was locked by another thread: rare, and too telling to be lost.
    missed_drops: AtomicU32,
    /// Share of the limit by band, in 1/65536.
    shares: [u32; MAX_BANDS],
    min: u32,
    max: u32,
    /// Nanoseconds.
    window: u64,
    window_samples: u32,
    window_state: Mutex<Window>,
}

#[derive(Debug)]
struct Window {
    controller: Controller,
    limit: f64,
    start: u64,
    count: u32,
    drops: u32,
    in_flight: u32,
    /// Of logarithms of latencies.
    sum: f64,
}

impl ConcurrencyLimit {
    /// A limit with nothing in flight. Settings out of range are moved into it.
    #[must_use]
    pub fn new(plan: &ConcurrencyPlan) -> Self {
        let min = plan.min.max(1);
        let max = plan.max.max(min);
        let limit = f64::from(plan.initial.clamp(min, max));
        let controller = Controller::new(&plan.algorithm);
        let effective = (controller.effective(limit) as u32).clamp(min, max);
        Self {
            in_flight: AtomicU32::new(0),
            limit: AtomicU32::new(effective),
            missed_drops: AtomicU32::new(0),
            shares: by_band(&plan.band_shares, 1.0)
                .map(|share| (share.clamp(0.0, 1.0) * 65_536.0).ceil() as u32),
            min,
            max,
            window: duration_nanos(plan.window).max(1),
            window_samples: plan.window_samples.max(1),
            window_state: Mutex::new(Window {
                controller,
                limit,
                start: 0,
                count: 0,
                drops: 0,
                in_flight: 0,
                sum: 0.0,
            }),
        }
    }

    /// Takes a slot for a request of a priority band, 0 being the most important.
    ///
    /// # Errors
    /// [`Full`] when the band's share of the limit is in flight.
    #[inline]
    pub fn try_acquire(&self, band: usize) -> Result<Slot, Full> {
        let limit = self.limit.load(Ordering::Relaxed);
        let ceiling = self.ceiling_of(band, limit);
        let mut in_flight = self.in_flight.load(Ordering::Relaxed);
        loop {
            if in_flight >= ceiling {
                return Err(Full { in_flight, ceiling, limit });
            }
            match self.in_flight.compare_exchange_weak(
                in_flight,
                in_flight + 1,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(Slot { in_flight: in_flight + 1 }),
                Err(now) => in_flight = now,
            }
        }
    }

    /// Takes a slot whether or not one is free: for a request that was let in before and gave its slot back for a
    /// while.
    pub fn reenter(&self) -> Slot {
        Slot { in_flight: self.in_flight.fetch_add(1, Ordering::Relaxed).saturating_add(1) }
    }

    /// Takes in what a request tells; at most once per slot. Never waits: a latency that comes while another
    /// thread is at it is left out.
    #[inline]
    pub fn observe(&self, now: Timestamp, slot: &Slot, sample: Sample) {
        let mut window = match self.window_state.try_lock() {
            Ok(window) => window,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                if sample == Sample::Dropped {
                    self.missed_drops.fetch_add(1, Ordering::Relaxed);
                }
                return;
            }
        };
        let now = nanos(now);
        if window.count == 0 {
            window.start = now;
        }
        window.count += 1;
        window.in_flight = window.in_flight.max(slot.in_flight);
        match sample {
            Sample::Latency(latency) if !window.controller.is_drop(latency) => {
                let latency = logarithm(duration_nanos(latency));
                window.sum += latency;
                let limit = window.limit;
                window.controller.observe(now, slot.in_flight, limit, latency);
            }
            _ => window.drops += 1,
        }
        let age = now.saturating_sub(window.start);
        let full = age >= self.window && window.count >= self.window_samples;
        if full || age >= self.window.saturating_mul(20) {
            self.close(&mut window, now);
        }
    }

    /// Gives a slot back.
    #[inline]
    pub fn release(&self, slot: Slot) {
        let _ = slot;
        // Saturating: a slot of another limit must not make the count wrap.
        let _ = self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |in_flight| {
            Some(in_flight.saturating_sub(1))
        });
    }

    /// Requests in flight.
    #[inline]
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The limit now.
    #[inline]
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// The most that a band may have in flight now.
    #[must_use]
    pub fn ceiling(&self, band: usize) -> u32 {
        self.ceiling_of(band, self.limit())
    }

    /// Requests in flight as a share of the limit; above 1 after the limit fell.
    #[inline]
    #[must_use]
    pub fn utilization(&self) -> f64 {
        f64::from(self.in_flight()) / f64::from(self.limit().max(1))
    }

    #[inline]
    fn ceiling_of(&self, band: usize, limit: u32) -> u32 {
        let share = u64::from(self.shares[band.min(MAX_BANDS - 1)]);
        (((u64::from(limit) * share) >> 16) as u32).max(1)
    }

    #[cold]
    fn close(&self, window: &mut Window, now: u64) {
        let drops = window.drops + self.missed_drops.swap(0, Ordering::Relaxed);
        let answered = window.count - window.drops;
        let summary = WindowSummary {
            latency: (answered > 0).then(|| exponential(window.sum / f64::from(answered))),
            in_flight: window.in_flight,
            drops,
        };
        let limit = window.controller.next(now, summary, window.limit);
        window.limit = limit.clamp(f64::from(self.min), f64::from(self.max));
        let effective = window.controller.effective(window.limit);
        self.limit.store((effective as u32).clamp(self.min, self.max), Ordering::Relaxed);
        (window.count, window.drops, window.in_flight, window.sum) = (0, 0, 0, 0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_kept_for_the_bands_above_and_one_request_always_fits() {
        let plan = ConcurrencyPlan { band_shares: vec![1.0, 0.8, 0.5], ..ConcurrencyPlan::fixed(10) };
        let limit = ConcurrencyLimit::new(&plan);
        let mut slots: Vec<Slot> = (0..5).map(|_| limit.try_acquire(2).unwrap()).collect();
        assert_eq!(limit.try_acquire(7), Err(Full { in_flight: 5, ceiling: 5, limit: 10 }));
        slots.extend((0..3).map(|_| limit.try_acquire(1).unwrap()));
        assert!(limit.try_acquire(1).is_err());
        slots.extend((0..2).map(|_| limit.try_acquire(0).unwrap()));
        assert!(limit.try_acquire(0).is_err());
        slots.into_iter().for_each(|slot| limit.release(slot));
        assert_eq!(limit.in_flight(), 0);
        let one = ConcurrencyLimit::new(&ConcurrencyPlan::fixed(1));
        assert!(one.try_acquire(7).is_ok());
    }

    #[test]
    fn settings_survive_a_round_trip_and_unknown_keys_are_refused() {
        let plan = ConcurrencyPlan::default();
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<ConcurrencyPlan>(&text).unwrap(), plan);
        let vegas = r#"{"algorithm": {"kind": "vegas", "probe_interval_ms": 1500}, "window_ms": 0.5}"#;
        let plan: ConcurrencyPlan = serde_json::from_str(vegas).unwrap();
        assert_eq!(plan.window, Duration::from_micros(500));
        assert!(plan.validate().is_ok());
        assert!(serde_json::from_str::<ConcurrencyPlan>(r#"{"maximum": 5}"#).is_err());
        let invalid = ConcurrencyPlan { min: 30, ..ConcurrencyPlan::default() };
        assert_eq!(invalid.validate().unwrap_err().code(), "plan_key");
    }
}
