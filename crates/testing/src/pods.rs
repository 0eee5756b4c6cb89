//! Pods' tokens that are known beforehand: what the cluster says of each is written down, not found out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use shorepass_core::name::Name;
use shorepass_core::pod::{Pod, ReviewError, Reviewed, TokenReviews};
use tokio::sync::Semaphore;

/// Answers about what it was told of, and counts how often it is asked.
#[derive(Debug)]
pub struct KnownPods {
    state: Mutex<State>,
    answers: Semaphore,
}

#[derive(Debug, Default)]
struct State {
    known: BTreeMap<String, (String, Result<Reviewed, ReviewError>)>,
    asked: usize,
}

impl KnownPods {
    /// None yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), answers: Semaphore::new(Semaphore::MAX_PERMITS) })
    }

    /// From now on a token says that it is for this audience, and the cluster says that of it.
    pub fn put(&self, token: &str, audience: &str, answer: Result<Reviewed, ReviewError>) {
        self.state().known.insert(token.to_owned(), (audience.to_owned(), answer));
    }

    /// From now on no question is answered.
    pub fn fall_silent(&self) {
        self.answers.forget_permits(Semaphore::MAX_PERMITS);
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.state().asked
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl TokenReviews for KnownPods {
    fn says_it_is_for(&self, token: &str, audience: &str) -> bool {
        self.state().known.get(token).is_some_and(|(known, _)| known == audience)
    }

    async fn review(&self, token: &str, _: &str) -> Result<Reviewed, ReviewError> {
        self.state().asked += 1;
        let _answered = self.answers.acquire().await;
        match self.state().known.get(token) {
            Some((_, answer)) => answer.clone(),
            None => Err(ReviewError::Rejected("it is not known".to_owned())),
        }
    }
}

/// What the cluster `staging` says of a token of ServiceAccount `ci/runner` that is bound to this pod on a node.
pub fn reviewed(name: &str, uid: &str) -> Result<Reviewed, ReviewError> {
    let parse = |text| Name::parse(text).expect("it is in the grammar of names");
    let pod =
        Pod { cluster: parse("staging"), namespace: parse("ci"), name: name.to_owned(), uid: uid.to_owned() };
    Ok(Reviewed { pod, service_account: "runner".to_owned() })
}
