//! The ledger, with ears: tells [`Follow`] what every commit did to leases, once it is durable.
//!
//! So no way of ending a lease can be forgotten, and no use case knows who is told.

use std::sync::Arc;

use async_trait::async_trait;
use shorepass_core::lease::Lease;
use shorepass_core::ledger::{Change, Layer, Ledger, LedgerError, Recorded};

use super::Follow;

/// A ledger that tells.
pub struct Announcing {
    inner: Arc<dyn Ledger>,
    follow: Arc<Follow>,
}

impl Announcing {
    /// Over the ledger that records.
    pub fn new(inner: Arc<dyn Ledger>, follow: Arc<Follow>) -> Self {
        Self { inner, follow }
    }
}

enum News {
    Begins(Lease),
    Ends(Lease),
}

fn news(change: &Change) -> Option<News> {
    match change {
        Change::LeasePending { lease, .. } => Some(News::Begins(lease.clone())),
        // Begins to be known here; and once more when it is known whom to hear of.
        Change::LeaseAdopted { lease } | Change::LeaseRecognised { lease, .. } => {
            Some(News::Begins(lease.clone()))
        }
        Change::LeaseEnding { lease } => Some(News::Ends(lease.clone())),
        _ => None, // nothing else begins or ends a lease
    }
}

#[async_trait]
impl Layer for Announcing {
    fn below(&self) -> &dyn Ledger {
        self.inner.as_ref()
    }

    async fn pass_on(&self, changes: Vec<Change>) -> Result<Recorded, LedgerError> {
        let news: Vec<News> = changes.iter().filter_map(news).collect();
        let recorded = self.inner.commit(changes).await?;
        for new in news {
            match new {
                News::Begins(lease) => self.follow.begins(&lease),
                News::Ends(lease) => self.follow.ends(&lease),
            }
        }
        Ok(recorded)
    }
}
