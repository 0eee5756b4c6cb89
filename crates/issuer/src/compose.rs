//! Joins the rooms: opens what the use cases stand on, binds the listeners, owns the tasks. It holds no rules.
//!
//! A connection goes through three hands: `daemon` accepts and counts it, `tls` finds out who is at its other end, `rpc`
//! serves it. They meet in [`peers`], and nowhere else.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use shorepass_cluster::KubeCluster;
use shorepass_config::IssuerConfig;
use shorepass_config::issuer::OnStoreFailure;
use shorepass_core::anchors::{FoundAnchor, Sealed};
use shorepass_core::caller::Caller;
use shorepass_core::cluster::Cluster;
use shorepass_core::lease::Lease;
use shorepass_core::ledger::Ledger;
use shorepass_core::name::Name;
use shorepass_core::policy::Policy;
use shorepass_core::role::Role;
use shorepass_core::security::SecurityState;
use shorepass_core::time::{Clock, Entropy};
use shorepass_daemon::admin::{self, Condition, Metrics, Readiness};
use shorepass_daemon::clock::{SystemClock, SystemEntropy};
use shorepass_daemon::listen::{self, Listener, Permit};
use shorepass_daemon::shutdown::{Tasks, on_hangups, on_signals};
use shorepass_daemon::telemetry::Chain;
use shorepass_rpc::connections::Connections;
use shorepass_rpc::limits::Limits;
use shorepass_rpc::server::{ListenerKind, Peered, Services, serve as serve_rpc};
use shorepass_store::{OnFailure, Options, Sealer, Store};
use shorepass_tls::{ApiAcceptor, Authority, EnrollAcceptor, HandshakeError, PeerStream, Serving, Trust};
use tokio::net::TcpStream;
use tokio::sync::{RwLock, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ban::list::BanList;
use crate::certificate_authority::Following;
use crate::clusters::{connect, first_looks, pod_rules, unclaimed};
use crate::coordination::Presence;
use crate::enrol::{Lifetimes, Ways};
use crate::follow::Follow;
use crate::follow::announce::Announcing;
use crate::follow::timer::Timer;
use crate::identities::{self, inbox::Inbox};
use crate::issue::attempts::Attempts;
use crate::issue::quotas::Quotas;
use crate::issue::turns::Turns;
use crate::job_issuers;
use crate::outside::{Outside, Seal};
use crate::records::{Begun, Records};
use crate::reviews::{self, Reviews};
use crate::revoke::sweeper::Sweeper;
use crate::roles::in_force::InForce;
use crate::roles::probes::probe;
use crate::roles::reload::{Reloading, warn_of_unbound};
use crate::services::UseCases;
use crate::serving_certificate::ServingCertificate;
use crate::state::StateDirectory;
use crate::trust_bundles;

/// From the first byte of a connection until who is at its other end is known.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// For tasks to end after SIGTERM; the RPCs' own drain is shorter.
const GRACE: Duration = Duration::from_secs(12);
/// For deletes that are on their way when everything else has ended: a little more than one may take.
const LAST_CUTS: Duration = Duration::from_secs(9);
/// How often the ledger's health is shown.
const HEALTH_EVERY: Duration = Duration::from_secs(2);
/// Handshaken connections that wait to be served.
const HANDOVER: usize = 16;

const API: listen::Limits = listen::Limits { connections: 8192, per_address: 1024, handshakes: 64 };
const ENROLL: listen::Limits = listen::Limits { connections: 256, per_address: 16, handshakes: 16 };
const ADMIN: listen::Limits = listen::Limits { connections: 32, per_address: 32, handshakes: 32 };

/// Runs until a signal, or until a task that should not end does.
pub(crate) async fn serve(config: IssuerConfig, roles: Vec<Role>) -> Result<()> {
    let metrics = Metrics::install()?;
    let readiness = Readiness::new();
    let stop = on_signals().context("cannot watch for signals")?;
    let hangups = on_hangups().context("cannot watch for SIGHUP")?;
    let mut tasks = Tasks::new(stop.clone());

    let listeners = Listeners::bind(&config).await?;
    let clusters = connect(&config).await?;
    let serving = readiness.condition("serving");
    serving.fails("starting");
    let parts = Parts::open(&config, roles, &clusters)?;
    let records = Records::begin(parts.use_cases.outside.clone())?;
    let presences = Presence::begin(&config.clusters, &clusters, &parts.holder, &readiness).await?;
    warn_of_unbound(&parts.use_cases.outside.policy.current());

    for cluster in clusters.keys() {
        let (ends, cluster) = (parts.use_cases.ends.clone(), cluster.clone());
        let sweep = |stop, _| async move { Sweeper::new(ends, cluster).run(stop).await };
        tasks.spawn("sweeper", records.clone().then(stop.clone(), sweep));
    }
    let timer = Timer::new(parts.use_cases.ends.clone());
    tasks.spawn("timer", records.clone().then(stop.clone(), |stop, _| timer.run(stop)));
    let listed = unclaimed(&config, &clusters, &parts.use_cases.outside).await?;
    for unclaimed in stop.run_until_cancelled(first_looks(listed)).await.unwrap_or_default() {
        let look = |stop, begun: Begun| unclaimed.began(begun.empty).run(stop);
        tasks.spawn("unclaimed-anchors", records.clone().then(stop.clone(), look));
    }
    let ends = parts.use_cases.ends.clone();
    crate::own_credential::keep(&config, &clusters, &readiness, &mut tasks)?;
    trust_bundles::keep(&config, &parts.use_cases.outside, &readiness, &mut tasks).await?;
    let reloading = Reloading::new(config, ends, readiness.condition("roles"));
    tasks.spawn("roles", records.clone().then(stop.clone(), |stop, _| reloading.run(hangups, stop)));
    let presence = keep(presences, &stop);
    let ledger = parts.use_cases.outside.ledger.clone();
    tasks.spawn("identities", Inbox::new(parts.identities.clone(), ledger.clone()).run(stop.clone()));
    tasks.spawn("ledger-health", watch(ledger, readiness.condition("ledger"), stop.clone()));
    let health = watch_clusters(parts.use_cases.outside.clone(), readiness.clone(), stop.clone());
    tasks.spawn("cluster-health", health);
    for (name, cluster) in clusters {
        let outside = parts.use_cases.outside.clone();
        tasks.spawn("reviews", reviews::keep(cluster.clone(), outside.clone(), stop.clone()));
        tasks.spawn("policy-probe", probe(name, cluster, outside, stop.clone()));
    }
    tasks.spawn("records", records.keep(serving.clone(), stop.clone()));
    parts.serve(listeners, &mut tasks, readiness.clone(), metrics, serving)?;
    let background = parts.use_cases.outside.background.clone();
    let proving = parts.use_cases.proving.clone();
    let ended = tasks.run(GRACE).await; // a task that died leaves no last delete undone
    proving.stop().await; // before the last deletes: those of its controls are among them
    background.close();
    if tokio::time::timeout(LAST_CUTS, background.wait()).await.is_err() {
        tracing::warn!("some anchors could not be deleted in time; the next start goes on");
    }
    Presence::end(presence.join_all().await).await;
    ended?;
    tracing::info!("stopped");
    Ok(())
}

/// Keeps the issuer's name in every cluster. They are given back when they end: it is given up last of all.
fn keep(presences: Vec<Presence>, stop: &CancellationToken) -> JoinSet<Presence> {
    let mut kept = JoinSet::new();
    for mut presence in presences {
        let stop = stop.clone();
        kept.spawn(async move {
            presence.keep(stop).await;
            presence
        });
    }
    kept
}

struct Listeners {
    api: Listener,
    enroll: Listener,
    admin: Listener,
}

impl Listeners {
    async fn bind(config: &IssuerConfig) -> Result<Self> {
        let bound = Self {
            api: Listener::bind("api", config.listen.api, API).await?,
            enroll: Listener::bind("enroll", config.listen.enroll, ENROLL).await?,
            admin: Listener::bind("admin", config.listen.admin, ADMIN).await?,
        };
        tracing::info!(api = %bound.api.address(), enroll = %bound.enroll.address(), admin = %bound.admin.address(), "listening");
        Ok(bound)
    }
}

/// What is opened once and shared.
struct Parts {
    use_cases: UseCases,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    authority: Arc<Authority>,
    identity: ServingCertificate,
    state_directory: PathBuf,
    /// The file in which `identity create` hands over what it made.
    identities: PathBuf,
    limits: shorepass_config::issuer::Limits,
    /// Who holds the issuer's name in the clusters.
    holder: String,
}

struct AnchorSeal(Sealer);

impl Seal for AnchorSeal {
    fn seal(&self, lease: &Lease) -> String {
        self.0.seal(lease)
    }

    fn open(&self, annotation: &str, cluster: &Name, found: &FoundAnchor) -> Option<Sealed> {
        self.0.open(annotation, cluster, &found.namespace, &found.name)
    }
}

impl Parts {
    fn open(
        config: &IssuerConfig,
        roles: Vec<Role>,
        clusters: &BTreeMap<Name, Arc<KubeCluster>>,
    ) -> Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
        let state = StateDirectory::open(&config.state_directory)?;
        let authority = Arc::new(state.authority(&config.trust_domain, clock.now(), entropy.clone())?);
        let store = Store::open(state.path(), ledger_options(config), clock.clone(), entropy.clone())?;
        let anchors = Sealer::open_or_create(state.path(), &config.name, entropy.as_ref())?;
        let holder = anchors.holder();
        let (identities, state_directory) = (state.join(identities::FILE), state.path().to_owned());
        let policy = Policy::new(roles)?;
        let follow = Arc::new(Follow::new(&policy, clock.clone(), entropy.as_ref()));
        let outside = Arc::new(Outside {
            ledger: Arc::new(Announcing::new(Arc::new(store), follow.clone())),
            clusters: clusters
                .iter()
                .map(|(name, cluster)| (name.clone(), cluster.clone() as Arc<dyn Cluster>))
                .collect(),
            policy: InForce::new(policy),
            job_issuers: job_issuers::known(config),
            job_tokens: job_issuers::verifier(config)?,
            seal: Box::new(AnchorSeal(anchors)),
            clock: clock.clone(),
            entropy: entropy.clone(),
            gate: RwLock::new(()),
            turns: Turns::new(
                clusters.keys().cloned(),
                usize::try_from(config.limits.mints_in_flight.get()).unwrap_or(usize::MAX),
                &clock,
            ),
            quotas: Quotas::new(clock.clone()),
            attempts: Attempts::default(),
            bans: BanList::default(),
            follow,
            reviews: Reviews::new(clock.clone()),
            connections: Connections::default(),
            trust: Trust::new(
                config.trust_domain.clone(),
                &authority.bundle_pem(),
                config.trust_bundles.iter().map(|configured| configured.bundle.clone()).collect(),
            )?,
            identities: Box::new(state),
            background: TaskTracker::new(),
        });
        let identity = ServingCertificate::of(config);
        let use_cases = UseCases::new(
            outside,
            authority.clone(),
            config.trust_domain.clone(),
            Lifetimes { certificate: config.certificate_lifetime, rejoin: config.enrolment.rejoin_window },
            Ways { pods: pod_rules(config, clusters), tokens: job_issuers::token_rules(config)? },
            config.receipts_one_in.get(),
        );
        let limits = config.limits;
        Ok(Self {
            use_cases,
            clock,
            entropy,
            authority,
            identity,
            state_directory,
            identities,
            limits,
            holder,
        })
    }

    fn serve(
        &self,
        listeners: Listeners,
        tasks: &mut Tasks,
        readiness: Readiness,
        metrics: Metrics,
        serving: Condition,
    ) -> Result<()> {
        let first = self.identity.make(&self.authority, self.clock.as_ref())?;
        let tls = Serving::new(first, self.use_cases.outside.trust.clone(), self.clock.clone());
        let stop = tasks.stop();
        let following = Following {
            directory: self.state_directory.clone(),
            authority: self.authority.clone(),
            certificate: self.identity.clone(),
            tls: tls.clone(),
            outside: self.use_cases.outside.clone(),
            condition: readiness.condition("certificate-authority"),
        };
        tasks.spawn("certificate-authority", following.run(stop.clone()));
        let renewal = self.identity.clone().renew(
            self.authority.clone(),
            self.clock.clone(),
            tls.clone(),
            stop.clone(),
        );
        tasks.spawn("serving-certificate", renewal);
        let mut limits = Limits::api();
        limits.calls_per_second = self.limits.calls_per_second;
        limits.calls_burst = self.limits.burst;
        self.listen("api", listeners.api, Door::Api(tls.api()), limits, tasks);
        self.listen("enroll", listeners.enroll, Door::Enroll(tls.enroll()), Limits::enroll(), tasks);
        let draining = stop.clone();
        tasks.spawn("drain", async move {
            draining.cancelled().await;
            serving.fails("shutting down"); // health goes red before anything else ends
        });
        tasks.spawn("admin", admin::serve(listeners.admin, readiness, metrics, stop));
        Ok(())
    }

    fn listen(&self, name: &'static str, listener: Listener, door: Door, limits: Limits, tasks: &mut Tasks) {
        let stop = tasks.stop();
        let kind = door.kind();
        let (sender, receiver) = mpsc::channel(HANDOVER);
        tasks.spawn(name, peers(listener, door, sender, stop.clone()));
        let use_cases = Arc::new(self.use_cases.clone());
        let services = Services {
            credentials: use_cases.clone(),
            enrolments: use_cases.clone(),
            following: use_cases.clone(),
            connections: use_cases.outside.connections.clone(),
            administration: use_cases,
        };
        let (clock, entropy) = (self.clock.clone(), self.entropy.clone());
        tasks.spawn(name, async move {
            let incoming = ReceiverStream::new(receiver);
            if let Err(cause) = serve_rpc(incoming, services, kind, limits, clock, entropy, stop).await {
                tracing::error!(listener = name, error = %Chain(&cause), "the listener ended");
            }
        });
    }
}

/// What a connection has to show.
#[derive(Clone)]
enum Door {
    /// A client certificate.
    Api(ApiAcceptor),
    /// Nothing.
    Enroll(EnrollAcceptor),
}

impl Door {
    fn kind(&self) -> ListenerKind {
        match self {
            Self::Api(_) => ListenerKind::Api,
            Self::Enroll(_) => ListenerKind::Enroll,
        }
    }

    async fn accept<G>(
        &self,
        stream: TcpStream,
        deadline: Duration,
        turn: impl Future<Output = G>,
    ) -> Result<(PeerStream, Option<Caller>), HandshakeError> {
        match self {
            Self::Api(acceptor) => {
                acceptor.accept(stream, deadline, turn).await.map(|(stream, caller)| (stream, Some(caller)))
            }
            Self::Enroll(acceptor) => {
                acceptor.accept(stream, deadline, turn).await.map(|stream| (stream, None))
            }
        }
    }
}

/// The one place where a TCP stream becomes a peer that is served.
async fn peers(
    mut listener: Listener,
    door: Door,
    sender: mpsc::Sender<Peered<PeerStream, Permit>>,
    stop: CancellationToken,
) {
    while let Some((stream, peer, permit)) = stop.run_until_cancelled(listener.accept()).await {
        let (door, sender) = (door.clone(), sender.clone());
        tokio::spawn(async move {
            match door.accept(stream, HANDSHAKE, permit.handshake()).await {
                Ok((io, caller)) => {
                    // A closed channel means that we are shutting down: the connection is closed with it.
                    let _ = sender.send(Peered { io, caller, peer, permit }).await;
                }
                Err(cause) => tracing::info!(%peer, error = %Chain(&cause), "handshake refused"),
            }
        });
    }
    // Until everything is drained the sender must live: a closed channel is an accept loop that died.
    sender.closed().await;
}

/// How the ledger is kept.
pub(crate) fn ledger_options(config: &IssuerConfig) -> Options {
    Options {
        on_failure: match config.on_store_failure {
            OnStoreFailure::Continue => OnFailure::Continue,
            OnStoreFailure::Stop => OnFailure::Stop,
        },
        retention: config.history_retention,
    }
}

/// Shows on the admin port whether anything can be recorded, and what somebody should look at all the same.
async fn watch(ledger: Arc<dyn Ledger>, condition: Condition, stop: CancellationToken) {
    let mut tick = tokio::time::interval(HEALTH_EVERY);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        match (ledger.health(), ledger.alarm()) {
            (Err(cause), _) => condition.fails(cause.to_string()),
            (Ok(()), Some(alarm)) => condition.holds_but(alarm),
            (Ok(()), None) => condition.holds(),
        }
        let flag = |raised: bool| if raised { 1.0 } else { 0.0 };
        let lost = ledger.security() != SecurityState::Whole;
        metrics::gauge!("shorepass_store_alarm").set(flag(ledger.alarm().is_some()));
        metrics::gauge!("shorepass_store_security_state_lost").set(flag(lost));
        if let Some(took) = ledger.last_commit() {
            metrics::gauge!("shorepass_store_last_commit_seconds").set(took.as_secs_f64());
        }
    }
}

/// Shows on the admin port which clusters are left alone. It makes no issuer unready: the others work.
async fn watch_clusters(outside: Arc<Outside>, readiness: Readiness, stop: CancellationToken) {
    let condition = |name: &Name| readiness.condition(format!("cluster {name}"));
    let conditions: Vec<Condition> = outside.clusters.keys().map(condition).collect();
    let mut tick = tokio::time::interval(HEALTH_EVERY);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        for ((name, why), condition) in outside.turns.left_alone().zip(&conditions) {
            let gauge = metrics::gauge!("shorepass_cluster_left_alone", "cluster" => name.to_string());
            gauge.set(if why.is_some() { 1.0 } else { 0.0 });
            match why {
                Some(why) => condition.holds_but(why.to_string()),
                None => condition.holds(),
            }
        }
    }
}
