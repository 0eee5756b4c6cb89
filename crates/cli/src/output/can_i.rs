//! What `can-i` prints: the answer, who gave it, and what would mend a no.

use serde::Serialize;
use shorepass_core::needs::{Missing, Right};
use shorepass_exec::AskError;

use super::{document, printable};
use crate::args::CanIArgs;
use crate::failure::{FAILURE, LEASE_ENDED, UNREACHABLE};
use crate::token_claims::{Account, WhyNot};

/// The answer, by who gave it.
#[derive(Debug)]
pub(crate) enum Answer {
    /// RBAC allows it.
    Yes {
        /// What.
        right: Right,
    },
    /// RBAC does not.
    No {
        /// What.
        right: Right,
        /// What the API server says about it.
        because: String,
        /// As whom the job works.
        account: Account,
    },
    /// The token is good, and its bearer may not even ask.
    MayNotAsk,
    /// The API server does not take the token.
    NotLetIn(WhyNot),
    /// Shorepass gives no token.
    NoToken(AskError),
    /// There is no answer.
    Unanswered(String),
}

/// Why the command ends otherwise than after a yes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotYes {
    /// RBAC says no, and it is said already.
    #[error("no")]
    No,
    /// Shorepass gives the job no token to ask with.
    #[error("shorepass gives no token, so nothing was asked")]
    NoToken(#[source] AskError),
    /// The API server does not take the token.
    #[error("{message}")]
    NotLetIn {
        /// What is known about it.
        message: String,
        /// What to do.
        remedy: String,
    },
    /// Nobody says whether it is allowed.
    #[error("{message}")]
    Unanswered {
        /// Why.
        message: String,
        /// What to do.
        remedy: String,
    },
}

impl NotYes {
    /// 1 is the no of RBAC, and nothing else.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::No => FAILURE,
            Self::NoToken(error) if error.exit_code() == FAILURE => UNREACHABLE,
            Self::NoToken(error) => error.exit_code(),
            Self::NotLetIn { .. } => LEASE_ENDED,
            Self::Unanswered { .. } => UNREACHABLE,
        }
    }

    /// What to do about it.
    pub(crate) fn remedy(&self) -> Option<String> {
        match self {
            Self::No => None,
            Self::NoToken(error) => Some(error.remedy()).filter(|remedy| !remedy.is_empty()),
            Self::NotLetIn { remedy, .. } | Self::Unanswered { remedy, .. } => Some(remedy.clone()),
        }
    }
}

/// For programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct View<'a> {
    role: &'a str,
    question: Option<String>,
    /// Null where nobody knows.
    allowed: Option<bool>,
    decided_by: &'static str,
    cause: &'static str,
    message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    remedy: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    rules: String,
}

impl Answer {
    /// The exit code's reason; none for a yes.
    pub(crate) fn outcome(self) -> Result<(), NotYes> {
        let (message, remedy) = (self.message(), self.remedy());
        match self {
            Self::Yes { .. } => Ok(()),
            Self::No { .. } => Err(NotYes::No),
            Self::MayNotAsk | Self::Unanswered(_) => Err(NotYes::Unanswered { message, remedy }),
            Self::NotLetIn(_) => Err(NotYes::NotLetIn { message, remedy }),
            Self::NoToken(error) => Err(NotYes::NoToken(error)),
        }
    }

    /// For people: what is no answer is said on stderr, like every failure.
    pub(crate) fn table(&self) -> String {
        match self {
            Self::Yes { .. } => "yes\n".to_owned(),
            Self::No { .. } => format!("no\n{}\n{}\n{}", self.message(), self.remedy(), self.rules()),
            Self::MayNotAsk | Self::NotLetIn(_) | Self::NoToken(_) | Self::Unanswered(_) => String::new(),
        }
    }

    /// For programs.
    pub(crate) fn document(&self, args: &CanIArgs) -> String {
        let (allowed, decided_by) = match self {
            Self::Yes { .. } => (Some(true), "authorisation"),
            Self::No { .. } => (Some(false), "authorisation"),
            Self::MayNotAsk => (None, "authorisation"),
            Self::NotLetIn(_) => (Some(false), "authentication"),
            Self::NoToken(_) => (Some(false), "shorepass"),
            Self::Unanswered(_) => (None, "nobody"),
        };
        let question = match self {
            Self::Yes { right } | Self::No { right, .. } => Some(right.to_string()),
            Self::MayNotAsk | Self::NotLetIn(_) | Self::NoToken(_) | Self::Unanswered(_) => None,
        };
        let view = View {
            role: args.role.as_str(),
            question,
            allowed,
            decided_by,
            cause: self.cause(),
            message: self.message(),
            remedy: self.remedy(),
            rules: self.rules(),
        };
        document("AccessAnswer", view)
    }

    /// In one word.
    fn cause(&self) -> &'static str {
        match self {
            Self::Yes { .. } => "allowed",
            Self::No { .. } => "not-allowed",
            Self::MayNotAsk => "may-not-ask",
            Self::NotLetIn(WhyNot::Expired) => "token-expired",
            Self::NotLetIn(WhyNot::IssuerUnknown { .. }) => "issuer-unknown",
            Self::NotLetIn(WhyNot::Audience { .. }) => "wrong-audience",
            Self::NotLetIn(WhyNot::Revoked { .. }) => "token-revoked",
            Self::NotLetIn(WhyNot::Unknown { .. }) => "token-refused",
            Self::NoToken(_) => "no-token",
            Self::Unanswered(_) => "no-answer",
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Yes { right } => format!("the job may {right}"),
            Self::No { right, because, account } => {
                let who = match account {
                    Account::Existing(account) => format!("ServiceAccount {}", printable(account)),
                    Account::Generated => "the lease's ServiceAccount".to_owned(),
                    Account::Unknown => "the job".to_owned(),
                };
                let because = printable(because);
                let said = if because.is_empty() { String::new() } else { format!(" ({because})") };
                format!("the token is good, and {who} may not {right}: authorisation, RBAC{said}")
            }
            Self::MayNotAsk => {
                "the token is good, and its bearer may not ask what it may (selfsubjectaccessreviews)"
                    .to_owned()
            }
            Self::NotLetIn(why) => {
                format!("the API server does not take the token: authentication, not RBAC; {}", why_not(why))
            }
            Self::NoToken(error) => printable(&error.to_string()),
            Self::Unanswered(cause) => printable(cause),
        }
    }

    fn remedy(&self) -> String {
        match self {
            Self::Yes { .. } => String::new(),
            Self::No { account: Account::Generated, .. } => {
                "add to spec.strict.bindings of the role, or to a Role that it names, and apply `shorepass-issuer rbac` again:".to_owned()
            }
            Self::No { .. } => "an administrator of the cluster adds:".to_owned(),
            Self::MayNotAsk => {
                "an administrator of the cluster binds ClusterRole system:basic-user to system:authenticated again, as it is by default".to_owned()
            }
            Self::NotLetIn(why) => remedy_of(why),
            Self::NoToken(error) => error.remedy(),
            Self::Unanswered(_) => {
                "again; if it stays so, check from this machine the server that `shorepass kubeconfig` names".to_owned()
            }
        }
    }

    /// The rules to add.
    fn rules(&self) -> String {
        match self {
            Self::No { right, .. } => {
                Missing::of(vec![right.clone()]).map(|missing| missing.yaml()).unwrap_or_default()
            }
            Self::NoToken(error) => error.rules().to_owned(),
            Self::Yes { .. } | Self::MayNotAsk | Self::NotLetIn(_) | Self::Unanswered(_) => String::new(),
        }
    }
}

fn why_not(why: &WhyNot) -> String {
    match why {
        WhyNot::Expired => "it has expired, by this machine's clock".to_owned(),
        WhyNot::IssuerUnknown { ours, server } => format!(
            "its issuer is {}, and the API server takes tokens of {}: it belongs to another cluster",
            printable(ours),
            printable(server)
        ),
        WhyNot::Audience { ours, server } => format!(
            "it is for {}, and the API server calls itself {}, unless it was told otherwise",
            printable(ours),
            printable(server)
        ),
        WhyNot::Revoked { jti } => format!(
            "it was revoked: what it was bound to is gone, the lease's Secret or the ServiceAccount (jti {})",
            printable(jti)
        ),
        WhyNot::Unknown { jti, issuer, audience } => format!(
            "it was revoked, or the API server is another cluster's (issuer {}, audience {}, jti {})",
            printable(issuer),
            printable(audience),
            printable(jti)
        ),
    }
}

fn remedy_of(why: &WhyNot) -> String {
    match why {
        WhyNot::Expired => {
            "see `shorepass status`: the agent could not refresh; and compare this machine's clock".to_owned()
        }
        WhyNot::IssuerUnknown { .. } => {
            "have an operator correct the cluster's `advertise.server` in the issuer's config".to_owned()
        }
        WhyNot::Audience { .. } => {
            "have an operator compare the API server's --api-audiences with the token's audience".to_owned()
        }
        WhyNot::Revoked { jti } | WhyNot::Unknown { jti, .. } => format!(
            "ask an operator what became of the lease (`shorepass whois {}`); a new job session gets a new one",
            printable(jti)
        ),
    }
}

#[cfg(test)]
mod tests {
    use shorepass_core::name::Name;
    use shorepass_core::needs::Scope;
    use shorepass_proto::local::v1::ErrorClass;

    use super::*;
    use crate::failure::Failure;

    fn right() -> Right {
        let scope = Scope::Namespace(Name::parse("web").unwrap());
        let word = str::to_owned;
        Right { scope, group: word("apps"), resource: word("deployments"), name: None, verb: word("patch") }
    }

    fn no(account: Account) -> Answer {
        Answer::No { right: right(), because: String::new(), account }
    }

    #[test]
    fn a_no_of_rbac_says_whose_it_is_and_which_rule_to_add() {
        let told = no(Account::Existing("web/deployer".to_owned())).table();
        let expected = "no\nthe token is good, and ServiceAccount web/deployer may not patch deployments.apps in namespace web: \
                        authorisation, RBAC\nan administrator of the cluster adds:\n# rules of a Role in namespace web\n\
                        - {apiGroups: [\"apps\"], resources: [\"deployments\"], verbs: [\"patch\"]}\n";
        assert_eq!(told, expected);
        assert!(no(Account::Generated).table().contains("spec.strict.bindings"));
    }

    #[test]
    fn each_of_the_three_who_can_say_no_has_its_exit_code() {
        let code = |answer: Answer| answer.outcome().map_or_else(|failure| failure.exit_code(), |()| 0);
        assert_eq!(code(Answer::Yes { right: right() }), 0);
        assert_eq!(code(no(Account::Unknown)), 1);
        let refused = |class| {
            Answer::NoToken(AskError::Refused {
                class,
                message: String::new(),
                remedy: String::new(),
                request_id: String::new(),
                rules: String::new(),
            })
        };
        assert_eq!(code(refused(ErrorClass::Denied)), 3);
        assert_eq!(code(refused(ErrorClass::LeaseEnded)), 5);
        // 1 is RBAC's no alone.
        assert_eq!(code(refused(ErrorClass::Failure)), 4);
        assert_eq!(code(Answer::NotLetIn(WhyNot::Expired)), 5);
        assert_eq!(code(Answer::MayNotAsk), 4);
        assert_eq!(code(Answer::Unanswered("x".to_owned())), 4);
    }

    #[test]
    fn what_the_roles_needs_lack_is_printed_as_rules_where_shorepass_gives_no_token() {
        let rules = "# rules of a Role in namespace web\n- {verbs: [\"get\"]}\n";
        let refused = || AskError::Refused {
            class: ErrorClass::Failure,
            message: "ServiceAccount web/deployer is not allowed all that the role needs".to_owned(),
            remedy: "an administrator of the cluster adds these rules:".to_owned(),
            request_id: String::new(),
            rules: rules.to_owned(),
        };
        assert_eq!(Answer::NoToken(refused()).rules(), rules);
        let report = Failure::from(Answer::NoToken(refused()).outcome().unwrap_err()).report();
        assert!(report.ends_with(&format!("adds these rules:\n{rules}")), "{report}");
    }

    #[test]
    fn what_a_token_says_stays_in_its_line() {
        let why = WhyNot::IssuerUnknown { ours: "a\nb\u{1b}".to_owned(), server: "s".to_owned() };
        let report = Failure::from(Answer::NotLetIn(why).outcome().unwrap_err()).report();
        assert!(
            report.contains("authentication, not RBAC") && report.contains("advertise.server"),
            "{report}"
        );
        assert_eq!(report.lines().count(), 2, "{report}");
        assert!(!report.contains('\u{1b}'));
    }
}
