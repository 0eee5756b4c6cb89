//! Two API servers, of which one sees six seconds late what happens: no receipt names a time after which either of them takes
//! a token of the lease, whenever it was first shown.
//!
//! A group of all ServiceAccounts of the namespace has a right here, and that right is what tokens are used for: it stays when
//! a lease ends, and neither a proof nor its control may be mistaken about that.
//!
//! The second server costs its start, so all that needs it is one scenario with many cases at the same time.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use http::{Method, Request};
use integration_tests::admin::Admin;
use integration_tests::proxy::Seen as Sent;
use integration_tests::second_api_server::SecondApiServer;
use shorepass_core::receipt::Why;
use shorepass_core::time::after;
use tokio::task::JoinHandle;

use super::*;

/// How late the second server sees things.
const LAG: Duration = Duration::from_secs(6);
/// What the issuers are told of it, as they read it.
const LAG_BOUND: &str = "7s";
/// From this age on an anchor was seen by every server.
const SEASON: Duration = Duration::from_millis(7_200);
/// So old is a young lease when it is revoked: for that long the late server takes tokens that it has refused after the cut.
const YOUNG: Duration = Duration::from_millis(1_500);
/// Between two uses of a token at one server.
const PAUSE: Duration = Duration::from_millis(500);
/// After the cut tokens are used for the first time then: one before the late server has seen the creation of a young anchor,
/// one shortly before it sees the deletion.
const FIRST_USES: [Duration; 2] = [Duration::ZERO, Duration::from_secs(4)];
/// How long after its end every token is looked at.
const LOOKED_AT: Duration = Duration::from_secs(2);

/// Dropped in this order.
struct Stage {
    /// An issuer that knows both servers.
    both: Scene,
    /// What that issuer sends to the first server goes through here.
    proxy: Proxy,
    /// An issuer that knows nothing but the late server.
    late: Scene,
    second: SecondApiServer,
}

#[tokio::test(flavor = "multi_thread")]
async fn no_receipt_is_wrong_where_an_api_server_lags_by_six_seconds_or_cannot_read() -> Result<()> {
    let stage = Stage::set().await?;
    let mut cases = Vec::new();
    for (number, (scene, role, is_young)) in [
        (&stage.both, DEPLOY.name, false),
        (&stage.both, DEPLOY.name, true),
        (&stage.both, RELEASE.name, false),
        (&stage.both, RELEASE.name, true),
        (&stage.late, DEPLOY.name, false),
        (&stage.late, DEPLOY.name, true),
    ]
    .into_iter()
    .enumerate()
    {
        let platform = scene.issuer.platform(&format!("test-{number}"))?;
        let job = platform.start_job().await?;
        cases.push(Case { stage: &stage, scene, role, is_young, platform, job });
    }
    stage.second.etcd.lag(LAG);
    stage.reads_that_fail_leave_nothing_proved().await?;
    let [a, b, c, d, e, f] = cases.as_slice() else { bail!("six cases") };
    tokio::try_join!(a.is_true(), b.is_true(), c.is_true(), d.is_true(), e.is_true(), f.is_true())?;
    Ok(())
}

impl Stage {
    async fn set() -> Result<Self> {
        let admin = Admin::connect().await?;
        let (second, both, late) =
            tokio::try_join!(SecondApiServer::start(&admin), Site::with_modes("both"), Site::new("late"))?;
        for site in [&both, &late] {
            a_group_may_look(site, [&site.admin, &second.admin]).await?;
        }
        let proxy = Proxy::start(&both).await?;
        let first = both.server()?.trim_start_matches("https://").trim_end_matches('/').to_owned();
        let endpoints = vec![first, second.address().to_owned()];
        let knobs = |kubeconfig, endpoints| Knobs {
            kubeconfig: Some(kubeconfig),
            endpoints,
            lag_bound: LAG_BOUND,
            ..Knobs::default()
        };
        let by_second =
            second.admin.write_kubeconfig(late.identity.folder(), "late", &late.identity.token().await?)?;
        Ok(Self {
            both: Scene::with(both, knobs(proxy.kubeconfig(), endpoints)).await?,
            proxy,
            late: Scene::with(late, knobs(by_second, Vec::new())).await?,
            second,
        })
    }

    /// The late server accepts a canary, as it can read etcd, and has not seen the anchor when the delete goes out. From then on
    /// it cannot read: it refuses the canaries of the lease, which is dead, and those of the control, which lives.
    async fn reads_that_fail_leave_nothing_proved(&self) -> Result<()> {
        let etcd = &self.second.etcd;
        for _ in 0..PATIENCE {
            let issued = self.both.lease().await?;
            let anchor = self.both.anchors().await?.pop().context("no anchor")?;
            let delayed = self.proxy.fault(Target::Cuts, Fault::Delay(Duration::from_millis(500)));
            let failing = async {
                wait::until("the delete", Duration::from_secs(10), async || {
                    let deletes = |seen: &Sent| seen.method == Method::DELETE && seen.path.ends_with(&anchor);
                    Ok(if self.proxy.seen().iter().any(deletes) {
                        Seen::Ready(())
                    } else {
                        Seen::NotYet("none".to_owned())
                    })
                })
                .await?;
                etcd.fail_reads(true);
                Ok(())
            };
            let (record, ()) = tokio::try_join!(self.both.revoke(&issued.lease.id), failing)?;
            etcd.fail_reads(false);
            drop(delayed);
            let receipt = record.receipt.clone().context("no receipt")?;
            assert_eq!(receipt.verdict(), ReceiptVerdict::Unproved, "{receipt:?}");
            if !was_late(&record) {
                let expected = format!("{}: {}", Why::ControlRefused.as_str(), self.second.address());
                assert_eq!(receipt.reason, expected);
                ensure!(etcd.failed_reads() > 0 && receipt.dead_by_time.is_none(), "{receipt:?}");
                return Ok(());
            }
        }
        bail!("no lease had its canaries in time")
    }
}

/// One lease, and who has it.
struct Case<'a> {
    stage: &'a Stage,
    scene: &'a Scene,
    role: &'static str,
    is_young: bool,
    platform: Client,
    job: String,
}

impl Case<'_> {
    async fn is_true(&self) -> Result<()> {
        let what = format!("{} of {}", self.role, self.scene.issuer.name());
        for _ in 0..PATIENCE {
            let proved = self.is_proved_and_true().await;
            if proved.with_context(|| format!("{what}, young: {}", self.is_young))? {
                return Ok(());
            }
        }
        bail!("{what}: no lease had its canaries in time")
    }

    /// False if the canaries were late.
    async fn is_proved_and_true(&self) -> Result<bool> {
        let issued = self.platform.issue(&self.job, self.role).await?;
        let id = &issued.lease.id;
        let mut more = Vec::new();
        for _ in 0..=FIRST_USES.len() {
            more.push(self.platform.refresh(id).await?.credential.token.clone());
        }
        let unused = more.pop().context("no token")?;
        let mut uses = self.at_each_server(&issued.credential.token, Duration::ZERO).await?;
        tokio::time::sleep(if self.is_young { YOUNG } else { SEASON }).await;
        let mut later = Vec::new();
        for (token, first_use) in more.iter().zip(FIRST_USES) {
            later.push((self.clients(token).await?, first_use));
        }
        let path = self.path();
        let start = || {
            for (clients, first_use) in later {
                uses.extend(clients.into_iter().map(|client| InUse::start(client, &path, first_use)));
            }
        };
        let record = self.scene.revoke_and(id, start).await?;
        if was_late(&record) {
            return Ok(false);
        }
        self.is_right(&record, uses, &unused).await?;
        Ok(true)
    }

    /// What the receipt says, and what both servers do with tokens that are in use since the lease began, since the cut, since
    /// shortly before the deletion is seen, and from the time on from which no new one is taken.
    async fn is_right(&self, record: &LeaseRecord, uses: Vec<InUse>, unused: &str) -> Result<()> {
        let receipt = record.receipt.as_ref().context("no receipt")?;
        let knows_both = std::ptr::eq(self.scene, &self.stage.both);
        let expected = if knows_both { ReceiptVerdict::Proved } else { ReceiptVerdict::Assumed };
        assert_eq!(receipt.verdict(), expected, "{receipt:?}");
        let (ending, dead_by) = (ending_of(record)?, moment(receipt.dead_by_time.as_ref())?);
        ensure!(until(ending, dead_by) <= DEAD_AFTER, "it ended at {ending}: {receipt:?}");
        sleep_until(moment(receipt.observe_time.as_ref())?).await;
        for client in self.clients(unused).await? {
            ensure!(!is_taken(&client, &self.path()).await?, "a new token is taken: {receipt:?}");
        }
        sleep_until(after(dead_by, LOOKED_AT)).await;
        let mut last_of_all = None;
        for (number, used) in uses.into_iter().enumerate() {
            let Some(last) = used.last_taken().await? else { continue };
            let server = number % 2;
            ensure!(last <= dead_by, "token {} was taken at {last} by {server}: {receipt:?}", number / 2);
            let lag = if server == 0 { Duration::ZERO } else { LAG };
            ensure!(until(ending, last) < lag + CACHED, "taken at {last} by {server}, it ended at {ending}");
            last_of_all = last_of_all.max(Some(last));
        }
        // Else the scenario shows nothing.
        let worst = last_of_all.context("no token was ever taken")?;
        ensure!(until(ending, worst) > Duration::from_secs(11), "no server lags: {worst}, ended at {ending}");
        assert_eq!(receipt.endpoints.len(), if knows_both { 2 } else { 1 }, "{receipt:?}");
        Ok(())
    }

    async fn at_each_server(&self, token: &str, first_use: Duration) -> Result<Vec<InUse>> {
        let clients = self.clients(token).await?;
        Ok(clients.into_iter().map(|client| InUse::start(client, &self.path(), first_use)).collect())
    }

    /// The first server, and the late one.
    async fn clients(&self, token: &str) -> Result<[kube::Client; 2]> {
        let admin = &self.scene.site.admin;
        Ok([admin.client_with(token).await?, self.stage.second.admin.client_with(token).await?])
    }

    fn path(&self) -> String {
        looking(&self.scene.site)
    }
}

/// A token that is shown to one server again and again, from some time on.
struct InUse {
    last: Arc<Mutex<Option<Timestamp>>>,
    task: JoinHandle<Result<Infallible>>,
}

impl InUse {
    fn start(client: kube::Client, path: &str, first_use: Duration) -> Self {
        let last = Arc::new(Mutex::new(None));
        let (path, note) = (path.to_owned(), last.clone());
        let task = tokio::spawn(async move {
            tokio::time::sleep(first_use).await;
            loop {
                let sent = Timestamp::now();
                if is_taken(&client, &path).await? {
                    *note.lock().unwrap_or_else(PoisonError::into_inner) = Some(sent);
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Self { last, task }
    }

    /// When the last request was sent that was not refused. An error if there was another answer in between.
    async fn last_taken(mut self) -> Result<Option<Timestamp>> {
        if self.task.is_finished() {
            match (&mut self.task).await?? {}
        }
        Ok(*self.last.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether the server lets the token in; then the group's right counts.
async fn is_taken(client: &kube::Client, path: &str) -> Result<bool> {
    match client.request_text(Request::get(path).body(Vec::new())?).await {
        Err(kube::Error::Api(status)) if status.code == 401 => Ok(false),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(true),
        Ok(answer) => bail!("there is such a Pod: {answer}"),
        Err(error) => Err(error.into()),
    }
}

/// Something that is not there and that the group may look for.
fn looking(site: &Site) -> String {
    format!("/api/v1/namespaces/{}/pods/none", site.place.namespace)
}

/// Gives all ServiceAccounts of the site's namespaces a right by their groups, and waits until it counts at these servers.
async fn a_group_may_look(site: &Site, servers: [&Admin; 2]) -> Result<()> {
    let namespace = &site.place.namespace;
    let generated = site.strict.as_ref().map_or(namespace, |strict| &strict.namespace);
    let group = |namespace| {
        format!(
            "{{kind: Group, apiGroup: rbac.authorization.k8s.io, name: 'system:serviceaccounts:{namespace}'}}"
        )
    };
    site.admin.apply(&format!(
        "\
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: look, namespace: {namespace}}}
rules: [{{apiGroups: [''], resources: [pods], verbs: [get]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: look, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: look}}
subjects: [{}, {}]
",
        group(namespace),
        group(generated)
    ))?;
    let token = site.place.token_of(DEPLOY.service_account).await?;
    for server in servers {
        let client = server.client_with(&token).await?;
        wait::until("the group's right", Duration::from_secs(10), async || {
            let asked = is_taken(&client, &looking(site)).await;
            Ok(asked.map_or_else(|error| Seen::NotYet(error.to_string()), |_| Seen::Ready(())))
        })
        .await?;
    }
    Ok(())
}

async fn sleep_until(time: Timestamp) {
    tokio::time::sleep(until(Timestamp::now(), time)).await;
}
