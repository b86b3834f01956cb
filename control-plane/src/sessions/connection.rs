//! The record that an instance's agent is connected, and by which session.

use jiff::Timestamp;

use super::admit::Peer;
use crate::model::Connection;
use crate::state;
use crate::store;

/// Why the record cannot be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("get a lease for the connection")]
    Lease(#[source] store::Error),
    #[error(transparent)]
    State(#[from] state::Error),
}

/// Whose the instance's connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    Ours,
    Others,
    /// The instance is inactive or gone.
    Nobodys,
}

pub(super) fn key(peer: &Peer) -> String {
    Connection::key_of(&peer.region, &peer.cluster, &peer.instance)
}

/// Makes the instance's connection the session's; from another session only with `by_force`.
pub(super) async fn claim(peer: &Peer, since: Timestamp, by_force: bool) -> Result<Claim, Error> {
    let sessions = peer.state.sessions();
    let lease = sessions.lease(&peer.state).await.map_err(Error::Lease)?;
    match put(peer, since, by_force, lease).await {
        // It has ended since: with a new one it goes better.
        Err(state::Error::Commit(store::Error::NoLease(_))) => {
            sessions.lost(lease);
            let lease = sessions.lease(&peer.state).await.map_err(Error::Lease)?;
            Ok(put(peer, since, by_force, lease).await?)
        }
        claimed => Ok(claimed?),
    }
}

async fn put(
    peer: &Peer,
    since: Timestamp,
    by_force: bool,
    lease: store::LeaseId,
) -> Result<Claim, state::Error> {
    let key = key(peer);
    peer.state
        .transact(|view, edit| {
            let Some(instance) = peer.instance(view) else { return Ok(Claim::Nobodys) };
            match view.connections.get(&key) {
                Some(connection) if connection.session == peer.session => return Ok(Claim::Ours),
                Some(_) if !by_force => return Ok(Claim::Others),
                Some(other) => edit.depend(other),
                None => edit.depend_on_absence(key.clone()),
            }
            edit.depend(instance);
            let connection = Connection {
                region: peer.region.clone(),
                cluster: peer.cluster.clone(),
                instance: peer.instance.clone(),
                session: peer.session.clone(),
                since,
            };
            edit.put_leased(&connection, lease);
            Ok(Claim::Ours)
        })
        .await
}

/// Deletes the record if it is still the session's.
pub(super) async fn release(peer: &Peer) -> Result<(), state::Error> {
    let key = key(peer);
    peer.state
        .transact(|view, edit| {
            let own = view.connections.get(&key);
            if let Some(own) = own.filter(|own| own.session == peer.session) {
                edit.delete(own);
            }
            Ok(())
        })
        .await
}
