//! Which request goes next, which is not worth waiting, and how long will it take?
//!
//! A [`RequestQueue`] holds requests while the service behind it has no room. It has no clock, does no I/O and
//! decides in this order:
//!
//! 1. **At the door** ([`enqueue`](RequestQueue::enqueue)): is there room (items, bytes, tokens; each band and each
//!    tenant has a part of its own), and will it start in time? If not, the answer comes at once, with the time
//!    after which a retry makes sense. A better band may push out requests of a lower one.
//! 2. **Between bands**: strict priority, with a minimum share `σ` for each band: while `W` tokens leave, a band
//!    that waits all the time sends at least `σ·W − (B + 1)·M` of them (`B` bands, `M` the largest cost).
//! 3. **Between tenants of a band**: deficit round robin in tokens, weighted, over organisation, team and key. Two
//!    tenants that wait all the time differ by less than `2·Q + M/wᵢ + M/wⱼ` in tokens per weight, over any window
//!    (`Q` the quantum).
//! 4. **Inside a tenant**: an [`Order`]: arrival, deadline, laxity, value density, or newest first under overload.
//!    The orders that have a key hold across tenants too, inside one round of the round robin: fairness decides how
//!    much each tenant sends per round, the key decides when in the round. With [`BandPlan::fair`] off the order
//!    holds over the whole band.
//! 5. **Before dispatch** ([`dequeue`](RequestQueue::dequeue)): what cannot start in time any more is dropped and
//!    reported, never sent.
//!
//! The queue is work-conserving: while anything waits that can still start in time, `dequeue` gives a request,
//! unless the one whose turn it is costs more than the budget of the caller.
//!
//! Every request leaves exactly once: dispatched, dropped (reported with its reason) or cancelled. Each operation is
//! O(1), or O(log n) amortised where the order has a key; none allocates once all tenants were
//! seen and as many waited before.
//!
//! Costs and service times are expectations. What a request really cost is told with
//! [`settle`](RequestQueue::settle), so that a tenant pays for what it used; a service time should be a high
//! percentile, because a request that takes longer than expected is late after all.
//!
//! ```
//! use std::time::Duration;
//! use traflux_core::Timestamp;
//! use traflux_gateway::queue::{Admission, Dequeued, Item, QueuePlan, RequestQueue};
//!
//! let plan = QueuePlan::default();
//! let (interactive, batch) = (plan.band_of("free", "interactive"), plan.band_of("free", "batch"));
//! let mut queue = RequestQueue::new(&plan)?;
//! let (now, mut dropped) = (Timestamp::ZERO, Vec::new());
//!
//! queue.enqueue(now, &Item { band: batch, tenant: 1, cost_tokens: 900, payload: 10, ..Item::default() }, &mut dropped);
//! let deadline = Some(now + Duration::from_secs(2));
//! let item = Item { band: interactive, tenant: 2, cost_tokens: 300, deadline, payload: 11, ..Item::default() };
//! let Admission::Waits { ticket, outlook } = queue.enqueue(now, &item, &mut dropped) else { panic!() };
//! assert_eq!(outlook.position, 0);
//!
//! let Dequeued::Request(next) = queue.dequeue(now, u64::MAX, &mut dropped) else { panic!() };
//! assert_eq!((next.ticket, next.payload), (ticket, 11));
//! # Ok::<(), traflux_gateway::GatewayError>(())
//! ```

mod bands;
mod fair;
mod forecast;
mod link;
mod patience;
mod rate;
mod request_queue;
mod room;
mod ticket;

pub use request_queue::RequestQueue;
pub use room::Bound;
pub use ticket::{
    Admission, Dequeued, Dispatched, DropReason, Dropped, Item, Outlook, QueueLoad, Refusal, Ticket, Waits,
};
pub use traflux_core::plan::queue::{BandPlan, Order, QueuePlan, TenantShare, ValueOrder};
