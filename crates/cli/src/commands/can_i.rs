//! Whether a job is allowed something, from its own point of view, and if not who says so.
//!
//! Three may say no: shorepass, which gives no token; the API server, which does not take the token that there is; and RBAC.
//! Each has another remedy. The question goes with the token that the agent would give to kubectl, and nothing is concluded
//! from it: what it says of itself only explains a refusal.

use std::io::Write;

use shorepass_cluster::{AsJob, Verdict};
use shorepass_core::cluster::Endpoint;
use shorepass_core::name::Name;
use shorepass_core::needs::Right;
use shorepass_core::time::Clock as _;
use shorepass_daemon::clock::SystemClock;
use shorepass_exec::{Agent, AskError};
use shorepass_proto::local::v1::{ErrorClass, RoleResponse};
use zeroize::Zeroizing;

use super::agent::ask;
use super::emit_as;
use crate::args::CanIArgs;
use crate::failure::Failure;
use crate::output::can_i::Answer;
use crate::progress;
use crate::token_claims::TokenClaims;

pub(super) async fn can_i(agent: Agent, args: CanIArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let answer = answer(&agent, &args).await;
    emit_as(out, args.output, || answer.document(&args), || answer.table())?;
    Ok(answer.outcome()?)
}

async fn answer(agent: &Agent, args: &CanIArgs) -> Answer {
    match question(agent, args).await {
        Ok(answer) => answer,
        Err(Failure::Agent(error)) => Answer::NoToken(error),
        Err(other) => Answer::Unanswered(other.to_string()),
    }
}

/// Fails where there is no token.
async fn question(agent: &Agent, args: &CanIArgs) -> Result<Answer, Failure> {
    let role = args.role.to_string();
    let place = match ask(agent.clone(), move |agent| agent.role(&role)).await {
        // There may be a token all the same.
        Err(Failure::Agent(AskError::Refused { class: ErrorClass::Unreachable, message, .. })) => {
            return Ok(Answer::Unanswered(format!(
                "the issuer does not say now where the role's cluster is: {message}"
            )));
        }
        place => place?,
    };
    let Ok(namespace) = Name::parse(&place.namespace) else {
        return Ok(Answer::Unanswered("the agent's answer names no namespace".to_owned()));
    };
    let right = args.right(&namespace);
    let server = match server(place).await {
        Ok(server) => server,
        Err(cause) => return Ok(Answer::Unanswered(cause)),
    };
    let token = token(agent, args).await?;
    let answer = show(&server, &token, &right).await;
    if !matches!(answer, Answer::NotLetIn(_)) {
        return Ok(answer);
    }
    // The agent may have learnt meanwhile that the lease has ended, or have the next token.
    let again = self::token(agent, args).await?;
    Ok(if again == token { answer } else { show(&server, &again, &right).await })
}

async fn token(agent: &Agent, args: &CanIArgs) -> Result<Zeroizing<String>, Failure> {
    let (role, job) = (args.role.to_string(), args.job.clone());
    Ok(ask(agent.clone(), move |agent| agent.credential(&role, &job)).await?.token)
}

/// The way to the role's API server.
async fn server(place: RoleResponse) -> Result<AsJob, String> {
    let name = Name::parse(&place.cluster).map_err(|_| "the agent's answer names no cluster".to_owned())?;
    AsJob::at(&Endpoint {
        name,
        server: place.server,
        ca_bundle_pem: place.ca_bundle_pem,
        tls_server_name: place.tls_server_name,
    })
    .await
}

async fn show(server: &AsJob, token: &str, right: &Right) -> Answer {
    let claims = TokenClaims::of(token);
    match progress::during("the API server", server.ask(token, right)).await {
        Ok(Verdict::Allowed) => Answer::Yes { right: right.clone() },
        Ok(Verdict::NotAllowed { because }) => {
            Answer::No { right: right.clone(), because, account: claims.account() }
        }
        Ok(Verdict::MayNotAsk) => Answer::MayNotAsk,
        Ok(Verdict::NotLetIn) => {
            let issuer = server.token_issuer().await;
            Answer::NotLetIn(claims.why_not_let_in(issuer.as_deref(), SystemClock.now()))
        }
        Err(cause) => Answer::Unanswered(format!("the API server gives no answer: {cause}")),
    }
}
