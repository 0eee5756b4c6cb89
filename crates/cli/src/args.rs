//! The command tree. Values are parsed here into the domain's types; what they mean is elsewhere.
//!
//! There is no option for the agent's socket: shorepass-exec, which a kubeconfig starts, is told it by SHOREPASS_SOCKET
//! alone, and an option here would make a kubeconfig that does not work there.

mod can_i;
mod role;
mod token;
mod values;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use shorepass_core::ban::BanKey;
use shorepass_core::id::{BlockId, JobId, LeaseId};
use shorepass_core::labels::parse_pair;
use shorepass_core::name::{Name, NamePattern};

pub(crate) use self::can_i::CanIArgs;
pub(crate) use self::role::{DocumentArgs, ExplainArgs, RoleCommand, TestArgs};
pub(crate) use self::token::TokenArgs;
pub(crate) use self::values::{Jti, Runner, ServiceAccount};
use self::values::{context_name, lifetime};

/// Short-lived Kubernetes credentials for CI jobs, for users and operators.
#[derive(Parser)]
#[command(name = "shorepass", version, disable_help_subcommand = true, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
Environment:
  SHOREPASS_SOCKET  the agent's socket, for kubeconfig, token, status, can-i and job
  SHOREPASS_CONFIG  the operator's config.yaml, for the commands that say (operators)
Exit codes: 1 failure, 2 usage, 3 denied, 4 unreachable, 5 lease ended or revoked, 6 degraded";

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Print a kubeconfig that gets its tokens from this machine's agent
    Kubeconfig(KubeconfigArgs),
    /// Print a token of a role whose tokens are for others than the API server
    Token(TokenArgs),
    /// Show how this machine's agent is (exit code 6 when it is degraded)
    Status(StatusArgs),
    /// Ask whether a job may do something, and if not, who says so: RBAC (exit code 1), the API server about the token (5), or
    /// shorepass (2, 3, 5)
    CanI(CanIArgs),
    /// Begin and end this machine's job sessions, for roles that ask for a job's token
    #[command(subcommand)]
    Job(JobCommand),
    /// List, show and revoke leases (operators)
    #[command(subcommand)]
    Lease(LeaseCommand),
    /// List runners (operators)
    #[command(subcommand)]
    Runner(RunnerCommand),
    /// Lift a block that a revocation has set (operators)
    Unblock(UnblockArgs),
    /// List blocks (operators)
    #[command(subcommand)]
    Block(BlockCommand),
    /// Shut somebody out: end its leases, close its connections, refuse it everything (operators)
    Ban(BanArgs),
    /// Lift a ban (operators)
    Unban(UnbanArgs),
    /// Find the lease and job behind a token's jti (operators)
    Whois(WhoisArgs),
    /// Create join tokens (operators)
    #[command(subcommand)]
    JoinToken(JoinTokenCommand),
    /// Explain and test role documents, for people who write them
    #[command(subcommand)]
    Role(RoleCommand),
    /// Print the completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Which kubeconfig.
#[derive(Args)]
pub(crate) struct KubeconfigArgs {
    /// The role whose tokens it uses
    #[arg(long, value_parser = Name::parse)]
    pub(crate) role: Name,
    /// Write it to this file (0600) and print the KUBECONFIG line; replaces only a file made by this command
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// The context's name [default: shorepass-ROLE]
    #[arg(long, value_name = "CONTEXT", value_parser = context_name)]
    pub(crate) name: Option<String>,
}

/// What to do with a job session.
#[derive(Subcommand)]
pub(crate) enum JobCommand {
    /// Open a session with the token that the CI system gave to this job; what was under its name before is over
    Start(JobStartArgs),
    /// End the session and give its leases back
    End(JobEndArgs),
}

/// Which session to open.
#[derive(Args)]
pub(crate) struct JobStartArgs {
    /// The file that holds the token, or - for standard input [default: the environment's SHOREPASS_JOB_TOKEN]
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The job's name on this machine [default: this user's job]
    #[arg(long, env = "SHOREPASS_JOB", default_value = "", hide_default_value = true)]
    pub(crate) job: String,
}

/// Which session to end.
#[derive(Args)]
pub(crate) struct JobEndArgs {
    /// The job's name on this machine [default: this user's job]
    #[arg(long, env = "SHOREPASS_JOB", default_value = "", hide_default_value = true)]
    pub(crate) job: String,
}

/// How to show the status.
#[derive(Args)]
pub(crate) struct StatusArgs {
    /// For people or for programs
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// For people or for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Json,
    Table,
}

/// What all operators' commands have.
#[derive(Args)]
pub(crate) struct OperatorArgs {
    /// The config.yaml that `shorepass-issuer identity create` wrote, or its folder
    #[arg(long, env = "SHOREPASS_CONFIG", hide_env_values = true, value_name = "PATH")]
    pub(crate) config: Option<PathBuf>,
    /// For people or for programs
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// What to do with leases.
#[derive(Subcommand)]
pub(crate) enum LeaseCommand {
    /// List leases, newest first
    List(ListArgs),
    /// Show one lease with its tokens
    Show(ShowArgs),
    /// End leases now, and refuse their owners new ones of the same roles until the leases' deadlines
    Revoke(RevokeArgs),
}

/// Which leases; all conditions must hold.
#[derive(Args, Default)]
pub(crate) struct Conditions {
    /// Of this runner (its name, or a caller's whole SPIFFE ID)
    #[arg(long, value_name = "NAME|SPIFFE", value_parser = Runner::parse)]
    pub(crate) runner: Option<Runner>,
    /// Of this job session (its id, as `lease show` prints it)
    #[arg(long, value_name = "ID", value_parser = JobId::parse)]
    pub(crate) job: Option<JobId>,
    /// Of this role
    #[arg(long, value_parser = Name::parse)]
    pub(crate) role: Option<Name>,
    /// In this cluster
    #[arg(long, value_parser = Name::parse)]
    pub(crate) cluster: Option<Name>,
    /// Of this ServiceAccount
    #[arg(
        long, value_name = "CLUSTER/NAMESPACE/NAME", value_parser = ServiceAccount::parse, conflicts_with = "cluster"
    )]
    pub(crate) service_account: Option<ServiceAccount>,
}

/// Which leases to list.
#[derive(Args)]
pub(crate) struct ListArgs {
    /// Which.
    #[command(flatten)]
    pub(crate) conditions: Conditions,
    /// Ended leases too
    #[arg(long)]
    pub(crate) all: bool,
    /// What all operators' commands have.
    #[command(flatten)]
    pub(crate) operator: OperatorArgs,
}

/// Which lease to show.
#[derive(Args)]
pub(crate) struct ShowArgs {
    /// The lease's id
    #[arg(value_name = "LEASE", value_parser = LeaseId::parse)]
    pub(crate) lease: LeaseId,
    /// What all operators' commands have.
    #[command(flatten)]
    pub(crate) operator: OperatorArgs,
}

/// Which leases to revoke.
#[derive(Args)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true)
    .args(["lease", "runner", "job", "role", "cluster", "service_account", "all"]))]
pub(crate) struct RevokeArgs {
    /// The lease's id
    #[arg(value_name = "LEASE", value_parser = LeaseId::parse)]
    pub(crate) lease: Option<LeaseId>,
    /// All leases of this issuer
    #[arg(long, conflicts_with_all = ["lease", "runner", "job", "role", "cluster", "service_account"])]
    pub(crate) all: bool,
    /// Which.
    #[command(flatten)]
    pub(crate) conditions: Conditions,
    /// Why, for the record and for the message that the job gets
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    /// Only tell what would be revoked
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Prepare proofs before leases end, 10 s at most, wait for the receipts, 25 s more, and succeed only if every lease is proved to be dead
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) wait: bool,
    /// What all operators' commands have.
    #[command(flatten)]
    pub(crate) operator: OperatorArgs,
}

/// What to do with blocks.
#[derive(Subcommand)]
pub(crate) enum BlockCommand {
    /// List the blocks that are in force, newest first
    List(BlockListArgs),
}

/// Which blocks to list.
#[derive(Args)]
pub(crate) struct BlockListArgs {
    /// Of this runner (its name, or a caller's whole SPIFFE ID)
    #[arg(long, value_name = "NAME|SPIFFE", value_parser = Runner::parse)]
    pub(crate) runner: Option<Runner>,
    /// For this role
    #[arg(long, value_parser = Name::parse)]
    pub(crate) role: Option<Name>,
    /// Also blocks that were lifted or have ended
    #[arg(long)]
    pub(crate) all: bool,
    /// What all operators' commands have.
    #[command(flatten)]
    pub(crate) operator: OperatorArgs,
}

/// What to do with runners.
#[derive(Subcommand)]
pub(crate) enum RunnerCommand {
    /// List runners whose certificate is good, and those whose identity was found in use at two places; newest first
    List(RunnerListArgs),
}

/// Which runners to list.
#[derive(Args)]
pub(crate) struct RunnerListArgs {
    /// Also enrolments that were replaced, or whose certificate has expired
    #[arg(long)]
    pub(crate) all: bool,
    /// What all operators' commands have.
    #[command(flatten)]
    pub(crate) operator: OperatorArgs,
}

/// Which block to lift.
#[derive(Args)]
pub(crate) struct UnblockArgs {
    /// The block's id, as `block list`, `lease show` and `lease revoke` print it
    #[arg(value_name = "BLOCK", value_parser = BlockId::parse)]
    pub(crate) block: BlockId,
    /// What all operators' commands have.
    #[command(flatten)]
    pub(crate) operator: OperatorArgs,
}

/// Whom to ban, or which bans to list.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct BanArgs {
    /// List bans instead.
    #[command(subcommand)]
    pub(crate) command: Option<BanCommand>,
    /// Everybody of this SPIFFE ID, also when it is enrolled anew; or one enrolment (its id, as the audit file has it)
    #[arg(value_name = "SPIFFE_ID|ENROLMENT", value_parser = BanKey::parse, required = true)]
    pub(crate) whom: Option<BanKey>,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", required = true)]
    pub(crate) reason: Option<String>,
    /// What all operators' commands have.
    #[command(flatten)]
    pub(crate) operator: OperatorArgs,
}

/// What else to do with bans.
#[derive(Subcommand)]
pub(crate) enum BanCommand {
    /// List the bans that are in force, newest first
    List(BanListArgs),
}

/// Which bans to list.
#[derive(Args)]
pub(crate) struct BanListArgs {
    /// Also bans that were lifted
    #[arg(long)]
    pub(crate) all: bool,
    /// What all operators' commands have.
    #[command(flatten)]
    pub(crate) operator: OperatorArgs,
}

/// Whose ban to lift.
#[derive(Args)]
pub(crate) struct UnbanArgs {
    /// The SPIFFE ID or enrolment that is banned
    #[arg(value_name = "SPIFFE_ID|ENROLMENT", value_parser = BanKey::parse)]
    pub(crate) whom: BanKey,
    /// What all operators' commands have.
    #[command(flatten)]
    pub(crate) operator: OperatorArgs,
}

/// Which token to find.
#[derive(Args)]
pub(crate) struct WhoisArgs {
    /// The token's jti, also as the audit log shows it: JTI=... (never the token itself)
    #[arg(value_name = "JTI", value_parser = Jti::parse)]
    pub(crate) jti: Jti,
    /// What all operators' commands have.
    #[command(flatten)]
    pub(crate) operator: OperatorArgs,
}

/// What to do with join tokens.
#[derive(Subcommand)]
pub(crate) enum JoinTokenCommand {
    /// Create a one-time join token and print it, once
    Create(CreateArgs),
}

/// Which join token.
#[derive(Args)]
pub(crate) struct CreateArgs {
    /// Which runner names it may enrol: a name, or at least three characters and a final '*'
    #[arg(long, value_name = "PATTERN", value_parser = NamePattern::parse)]
    pub(crate) runners: NamePattern,
    /// How long it may be used, from 1m to 7d
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = lifetime)]
    pub(crate) lifetime: Duration,
    /// Let it replace a live enrolment of the same name, which ends that one's leases
    #[arg(long)]
    pub(crate) replace: bool,
    /// What role documents may ask of the runner that is enrolled with it, such as env=prod; at most 16
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse_pair)]
    pub(crate) labels: Vec<(String, String)>,
    /// What all operators' commands have.
    #[command(flatten)]
    pub(crate) operator: OperatorArgs,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    use shorepass_core::caller::SpiffeId;

    use super::*;

    const ID: &str = "0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d";

    fn parse(line: &str) -> Result<Command, ErrorKind> {
        Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command).map_err(|error| error.kind())
    }

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_revocation_means_everything_only_when_told_so() {
        let missing = |line| parse(line).err() == Some(ErrorKind::MissingRequiredArgument);
        let contrary = |line: &str| parse(line).err() == Some(ErrorKind::ArgumentConflict);
        assert!(parse("shorepass lease revoke --all --reason leaked").is_ok());
        assert!(missing("shorepass lease revoke --all"));
        assert!(contrary("shorepass lease revoke --all --runner prod-1 --reason leaked"));
        assert!(contrary(&format!("shorepass lease revoke {ID} --all --reason leaked")));
        assert!(contrary("shorepass lease revoke --service-account c/web/sa --cluster d --reason leaked"));
        assert!(missing("shorepass lease revoke --reason leaked"));
        assert!(missing("shorepass lease revoke --runner prod-1"));
        assert!(parse(&format!("shorepass lease revoke {ID} --reason leaked")).is_ok());
        assert!(parse("shorepass lease revoke --runner prod-1 --role web --reason leaked").is_ok());
    }

    #[test]
    fn a_runner_is_a_name_or_a_spiffe_id() {
        assert_eq!(Runner::parse("prod-1").unwrap(), Runner::Named(Name::parse("prod-1").unwrap()));
        let id = "spiffe://ci.example.org/platform/builder";
        assert_eq!(Runner::parse(id).unwrap(), Runner::Caller(SpiffeId::parse(id).unwrap()));
        assert!(Runner::parse("spiffe://ci.example.org/runner").is_err());
        assert!(Runner::parse("Prod").is_err());
    }

    #[test]
    fn a_service_account_is_named_with_its_cluster_and_namespace() {
        let parsed = ServiceAccount::parse("staging/web/deployer.v2").unwrap();
        let (cluster, namespace) = (Name::parse("staging").unwrap(), Name::parse("web").unwrap());
        assert_eq!(parsed, ServiceAccount { cluster, namespace, name: "deployer.v2".to_owned() });
        for bad in ["deployer", "web/deployer", "staging/web/", "/web/deployer", "Staging/web/deployer"] {
            assert!(ServiceAccount::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bans_are_set_and_listed_by_the_same_word() {
        let id = "spiffe://ci.example.org/platform/builder";
        for whom in [id, ID] {
            let Ok(Command::Ban(args)) = parse(&format!("shorepass ban {whom} --reason stolen")) else {
                panic!("{whom}")
            };
            assert_eq!(args.whom.unwrap().to_string(), whom);
            assert!(args.command.is_none());
            assert!(parse(&format!("shorepass unban {whom}")).is_ok());
        }
        let Ok(Command::Ban(args)) = parse("shorepass ban list --all -o json") else { panic!("a list") };
        assert!(args.whom.is_none() && matches!(args.command, Some(BanCommand::List(list)) if list.all));
        assert_eq!(parse(&format!("shorepass ban {id}")).err(), Some(ErrorKind::MissingRequiredArgument));
        assert_eq!(parse("shorepass ban --reason x").err(), Some(ErrorKind::MissingRequiredArgument));
        assert_eq!(parse("shorepass ban prod-1 --reason x").err(), Some(ErrorKind::ValueValidation));
    }

    #[test]
    fn a_jti_is_taken_as_the_audit_log_shows_it() {
        let jti = "7ee52be0-9045-4653-aa5e-0da57b8dccdc";
        assert_eq!(Jti::parse(&format!("JTI={jti}")).unwrap().0, jti);
        assert_eq!(Jti::parse(jti).unwrap().0, jti);
        for bad in ["", "JTI=", "a b", &"a".repeat(129)] {
            assert!(Jti::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lifetimes_are_a_number_and_a_unit() {
        assert_eq!(lifetime("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(lifetime("7d"), Ok(Duration::from_secs(604_800)));
        for bad in [
            "",
            "h",
            "1",
            "-1h",
            "+1h",
            "1.5h",
            "1h30m",
            "1 h",
            "1ä",
            "99999999999999999999d",
            "9999999999999999999d",
        ] {
            assert!(lifetime(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_output_is_a_table_unless_json_is_asked_for() {
        let format = |line| match parse(line) {
            Ok(Command::Status(args)) => args.output,
            _ => panic!("{line}"),
        };
        assert_eq!(format("shorepass status"), Format::Table);
        assert_eq!(format("shorepass status -o json"), Format::Json);
        assert_eq!(parse("shorepass status -o yaml").err(), Some(ErrorKind::InvalidValue));
    }
}
