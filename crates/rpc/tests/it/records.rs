//! A lease with everything that belongs to it, as the fake answers it.

use std::time::Duration;

use shorepass_core::escape::Escapes;
use shorepass_rpc::api::LeaseView;

use crate::fake::{block, job, lease, minted, second};

pub(crate) fn view() -> LeaseView {
    LeaseView {
        lease: lease(),
        job: Some(job()),
        tokens: vec![minted()],
        block: Some(block()),
        silence: Some(Duration::from_secs(900)),
        escapes: Some(Escapes::Found { rights: vec!["create pods".to_owned()], at: second(0) }),
    }
}
