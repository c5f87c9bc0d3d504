//! How is one stream kept going?
//!
//! The loop around [`XdsStream`]: it reads requests, watches the group's publications, writes responses,
//! and ends a stream that does not answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Status, Streaming};

use crate::group::Publication;
use crate::hub::{Hub, Membership, Rejection};
use crate::node::NodeIdentity;
use crate::server::ServerOptions;
use crate::stream::{Outcome, XdsStream};
use crate::wire::{Outgoing, Wire};

/// Responses in the channel to the transport: at most one per kind can be in flight, and one final status.
pub(crate) const OUTBOX: usize = 8;

/// Whose certificate the client showed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peer {
    pub address: String,
    /// Names in its certificate; `None` when names are not to be checked.
    pub certified: Option<Vec<String>>,
}

impl Peer {
    /// Whether the certificate bears the node's id: as a DNS name, as a URI, or as the last part of a URI.
    fn bears(&self, id: &str) -> bool {
        let last = |name: &str| name.contains("://") && name.rsplit('/').next() == Some(id);
        self.certified
            .as_ref()
            .is_none_or(|names| !id.is_empty() && names.iter().any(|name| name == id || last(name)))
    }
}

/// Serves one stream until it ends, then says why.
pub(crate) async fn drive<W: Wire>(
    hub: Arc<Hub>,
    options: ServerOptions,
    peer: Peer,
    mut incoming: Streaming<W::In>,
    outbox: mpsc::Sender<Outgoing<W>>,
    mut draining: watch::Receiver<bool>,
) {
    let end = serve::<W>(&hub, &options, peer, &mut incoming, &outbox, &mut draining).await;
    if let Err(status) = end {
        // The client may be gone, and then nobody reads it.
        let _ = outbox.try_send(Err(status));
    }
}

async fn serve<W: Wire>(
    hub: &Arc<Hub>,
    options: &ServerOptions,
    peer: Peer,
    incoming: &mut Streaming<W::In>,
    outbox: &mpsc::Sender<Outgoing<W>>,
    draining: &mut watch::Receiver<bool>,
) -> Result<(), Status> {
    let Ok(first) = timeout(options.ack_deadline, incoming.message()).await else {
        return Err(Status::deadline_exceeded("no request"));
    };
    let Some(mut message) = first? else { return Ok(()) };
    let node = W::node(&mut message).map(NodeIdentity::of).unwrap_or_default();
    let mut membership = admit::<W>(hub, node, peer)?;
    let mut stream = XdsStream::new(W::PROTOCOL, options.stream);
    let mut current: Option<Publication> = None;
    take::<W>(hub, &membership, &mut stream, message);
    let mut drain_by: Option<Instant> = None;
    loop {
        while let Some(response) = stream.next_response(hub.clock.now()) {
            membership.responded(response.kind);
            if outbox.try_send(Ok(W::response(response))).is_err() {
                membership.reason = "it does not read".to_owned();
                return Err(Status::resource_exhausted("responses are not read"));
            }
        }
        membership.report(&stream, current.as_ref());
        if drain_by.is_some() && stream.oldest_in_flight().is_none() {
            membership.reason = "server is draining".to_owned();
            return Ok(());
        }
        let wake = wake_at(hub, options, &stream, drain_by);
        tokio::select! {
            message = incoming.message() => match message {
                Ok(Some(message)) => take::<W>(hub, &membership, &mut stream, message),
                Ok(None) => return Ok(()),
                Err(status) => {
                    membership.reason = format!("{}: {}", status.code(), status.message());
                    return Ok(());
                }
            },
            Ok(()) = membership.updates.changed(), if drain_by.is_none() => {
                current.clone_from(&membership.updates.borrow_and_update());
                if let Some(publication) = &current {
                    stream.set_snapshot(Arc::clone(&publication.snapshot));
                }
            }
            _ = draining.wait_for(|draining| *draining), if drain_by.is_none() => {
                drain_by = Some(Instant::now() + options.drain_grace);
            }
            () = sleep_until(wake.at) => match wake.reason {
                Wake::Slow => {
                    membership.reason = "it does not answer".to_owned();
                    hub.count(|counters| counters.slow_streams += 1);
                    return Err(Status::deadline_exceeded("a response was not answered in time"));
                }
                Wake::Drained => {
                    membership.reason = "server is draining".to_owned();
                    return Ok(());
                }
                Wake::Ordering => {}
            },
        }
    }
}

fn admit<W: Wire>(hub: &Arc<Hub>, node: NodeIdentity, peer: Peer) -> Result<Membership, Status> {
    if !peer.bears(&node.id) {
        let reason = "its certificate does not bear its id";
        hub.reject(&node.id, reason, Rejection::Unauthorized);
        return Err(Status::permission_denied(format!("node `{}`: {reason}", node.id)));
    }
    let id = node.id.clone();
    hub.join(node, peer.address, W::PROTOCOL).ok_or_else(|| {
        let reason = "no rule gives it a group";
        hub.reject(&id, reason, Rejection::UnknownNode);
        Status::permission_denied(format!("node `{id}`: {reason}"))
    })
}

fn take<W: Wire>(hub: &Arc<Hub>, membership: &Membership, stream: &mut XdsStream, message: W::In) {
    let request = match W::request(message) {
        Ok(request) => request,
        Err(type_url) => {
            // Not an error of the client: it may ask many servers for many kinds.
            tracing::debug!(node = %membership.node, type_url, "kind is not served");
            hub.count(|counters| counters.unknown_kinds += 1);
            return;
        }
    };
    let kind = request.kind;
    match stream.on_request(request) {
        Outcome::Stale => hub.count(|counters| counters.stale_requests += 1),
        Outcome::Subscribed => {}
        Outcome::Acknowledged { sent_at, .. } => membership.acknowledged(kind, sent_at),
        Outcome::Refused { version, reason, suspects, .. } => {
            membership.refused(kind, version, &reason, &suspects);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wake {
    Slow,
    Ordering,
    Drained,
}

struct Alarm {
    at: Instant,
    reason: Wake,
}

/// The next moment at which something must be done although nothing happens.
fn wake_at(hub: &Hub, options: &ServerOptions, stream: &XdsStream, drain_by: Option<Instant>) -> Alarm {
    let now = hub.clock.now();
    let instant = Instant::now();
    let at = |moment: traflux_core::Timestamp| instant + moment.since(now);
    let slow = stream.oldest_in_flight().map(|sent| (at(sent + options.ack_deadline), Wake::Slow));
    let ordering = stream.deadline().map(|deadline| (at(deadline), Wake::Ordering));
    let drained = drain_by.map(|at| (at, Wake::Drained));
    let idle = (instant + Duration::from_secs(3600), Wake::Ordering);
    let soonest = [slow, ordering, drained].into_iter().flatten().min_by_key(|(at, _)| *at);
    let (at, reason) = soonest.unwrap_or(idle);
    Alarm { at, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_bears_a_node_by_name_or_by_the_end_of_a_uri() {
        let peer = |names: &[&str]| Peer {
            address: String::new(),
            certified: Some(names.iter().map(|n| (*n).to_owned()).collect()),
        };
        assert!(peer(&["edge-1"]).bears("edge-1"));
        assert!(peer(&["spiffe://mesh/ns/edge-1"]).bears("edge-1"));
        assert!(!peer(&["spiffe://mesh/ns/edge-10"]).bears("edge-1"));
        assert!(!peer(&["a/edge-1"]).bears("edge-1"));
        assert!(!peer(&[]).bears("edge-1"));
        assert!(!peer(&["spiffe://mesh/"]).bears(""));
        assert!(Peer::default().bears("anyone"));
    }
}
