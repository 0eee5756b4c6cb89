//! Anchors of nobody's lease that live while proofs go on: one for each cluster and namespace, shared by the proofs there.
//!
//! Recorded before it is created and forgotten when it is gone, so that a crash leaves none for good. Who lets go last
//! deletes it; what that does not achieve, the sweeper does.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, Weak};

use shorepass_core::cluster::CutError;
use shorepass_core::lease::{AnchorName, Lease, Mode, Pins};
use shorepass_core::ledger::{Change, LedgerError};
use shorepass_core::name::Name;
use shorepass_core::receipt::{Bound, Control};
use shorepass_core::role::Target;
use shorepass_core::time::after;
use tokio::sync::Mutex as AsyncMutex;

use super::lock;
use crate::fail_points::{self, Point};
use crate::outside::Outside;
use crate::revoke::MINT_IN_FLIGHT;

/// Cluster, namespace, and whether a ServiceAccount is a part of it.
type Place = (Name, Name, bool);
/// The living control of a place; the lock is held while it is made.
type Living = Arc<AsyncMutex<Weak<Held>>>;

/// Those of one issuer.
#[derive(Clone)]
pub(super) struct Controls {
    outside: Arc<Outside>,
    places: Arc<Mutex<HashMap<Place, Living>>>,
    /// Those that this process takes care of.
    own: Arc<Mutex<HashSet<String>>>,
}

/// A control that lives as long as somebody has this.
pub(super) struct Held {
    control: Control,
    pins: Pins,
    controls: Controls,
}

impl Controls {
    pub(super) fn new(outside: Arc<Outside>) -> Self {
        Self { outside, places: Arc::default(), own: Arc::default() }
    }

    /// The control there, or a new one; in words why there is none.
    pub(super) async fn hold(&self, lease: &Lease) -> Result<Arc<Held>, String> {
        let Target { cluster, namespace, .. } = &lease.target;
        let with_account = matches!(lease.mode, Mode::Strict { .. });
        let place = (cluster.clone(), namespace.clone(), with_account);
        let place = lock(&self.places).entry(place).or_default().clone();
        let mut living = place.lock().await;
        if let Some(held) = living.upgrade() {
            return Ok(held);
        }
        let held = Arc::new(self.make(cluster, namespace, with_account).await?);
        *living = Arc::downgrade(&held);
        Ok(held)
    }

    async fn make(&self, cluster: &Name, namespace: &Name, with_account: bool) -> Result<Held, String> {
        let mut random = [0; 16];
        self.outside.entropy.fill(&mut random);
        let control = Control {
            anchor: AnchorName::from_random(random),
            cluster: cluster.clone(),
            namespace: namespace.clone(),
            with_account,
            created: self.outside.clock.now(),
        };
        let port = self.outside.cluster(cluster).map_err(|refused| refused.to_string())?;
        let own = Own::new(self, &control);
        let planned = Change::ControlPlanned { control: control.clone() };
        self.outside.ledger.commit(vec![planned]).await.map_err(|cause| cause.to_string())?;
        fail_points::reached(Point::ControlRecorded);
        // If this fails it may still be created later: the record stays, and the sweeper goes on looking.
        let pins = port.create_control(&control).await.map_err(|cause| cause.to_string())?;
        fail_points::reached(Point::ControlMade);
        own.keep();
        Ok(Held { control, pins, controls: self.clone() })
    }

    /// Deletes a recorded control that nobody here takes care of, and forgets it once it can no longer come into being.
    /// Gives why the cluster does not delete it, if so.
    pub(super) async fn settle(&self, control: &Control) -> Result<Option<CutError>, LedgerError> {
        if lock(&self.own).contains(control.anchor.as_str()) {
            return Ok(None);
        }
        let settled = self.outside.clock.now() >= after(control.created, MINT_IN_FLIGHT);
        match self.delete(control).await {
            Ok(()) if settled => self.forget(control).await.map(|()| None),
            Ok(()) => Ok(None),
            Err(cause) => Ok(Some(cause)),
        }
    }

    async fn delete(&self, control: &Control) -> Result<(), CutError> {
        let port = self.outside.cluster(&control.cluster);
        let port = port.map_err(|refused| CutError::Unreachable(refused.to_string()))?;
        let deleted = port.delete_control(control).await;
        match &deleted {
            Ok(()) => fail_points::reached(Point::ControlDeleted),
            Err(cause) => {
                tracing::warn!(anchor = control.anchor.as_str(), error = %cause, "a control could not be deleted yet");
            }
        }
        deleted
    }

    async fn forget(&self, control: &Control) -> Result<(), LedgerError> {
        let gone = Change::ControlGone { control: control.clone(), at: self.outside.clock.now() };
        self.outside.ledger.commit(vec![gone]).await.map(|_| ())
    }

    async fn finish(&self, control: &Control) {
        if self.delete(control).await.is_ok()
            && let Err(cause) = self.forget(control).await
        {
            tracing::warn!(error = %cause, "the end of a control was not recorded; the sweeper does it");
        }
        lock(&self.own).remove(control.anchor.as_str());
    }
}

impl Held {
    /// The same ServiceAccount, or that of the control, on the control's anchor.
    pub(super) fn instead_of(&self, bound: &Bound) -> Bound {
        bound.on(&self.control, &self.pins)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let (controls, control) = (self.controls.clone(), self.control.clone());
        // Without a runtime the process ends: the next start finds the record.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let background = self.controls.outside.background.clone();
            background.spawn_on(async move { controls.finish(&control).await }, &runtime);
        }
    }
}

/// While it lives the sweeper leaves the control alone.
struct Own<'a> {
    controls: &'a Controls,
    anchor: Option<String>,
}

impl<'a> Own<'a> {
    fn new(controls: &'a Controls, control: &Control) -> Self {
        let anchor = control.anchor.as_str().to_owned();
        lock(&controls.own).insert(anchor.clone());
        Self { controls, anchor: Some(anchor) }
    }

    /// From now on [`Held`] takes care.
    fn keep(mut self) {
        self.anchor = None;
    }
}

impl Drop for Own<'_> {
    fn drop(&mut self) {
        if let Some(anchor) = &self.anchor {
            lock(&self.controls.own).remove(anchor);
        }
    }
}
