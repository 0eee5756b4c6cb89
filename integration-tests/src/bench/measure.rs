//! What was measured: pairs of the thing and its yardstick, and how they are told.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// One number of one benchmark over all rounds.
pub(crate) struct Measured {
    /// Such as `mint throughput, 16 callers`.
    pub(crate) name: String,
    /// Of what ours and the yardstick are, such as `leases/s`.
    pub(crate) unit: &'static str,
    /// What the ratio should be.
    pub(crate) goal: Goal,
    /// Ours and the yardstick, of each round.
    pub(crate) rounds: Vec<(f64, f64)>,
    /// What explains the ratio, such as CPU seconds; means over the rounds.
    pub(crate) besides: Vec<(&'static str, f64)>,
}

/// What a ratio should be.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
    /// It is only told.
    None,
}

impl Measured {
    fn ratios(&self) -> impl Iterator<Item = f64> {
        self.rounds.iter().map(|(ours, yardstick)| ours / yardstick)
    }

    fn ratio(&self) -> f64 {
        median(self.ratios())
    }

    fn spread(&self) -> (f64, f64) {
        // `min` and `max` prefer a number to NaN.
        (self.ratios().fold(f64::NAN, f64::min), self.ratios().fold(f64::NAN, f64::max))
    }

    fn absolute(&self) -> (f64, f64) {
        let (ours, yardstick): (Vec<f64>, Vec<f64>) = self.rounds.iter().copied().unzip();
        (median(ours), median(yardstick))
    }

    fn goal(&self) -> String {
        match self.goal {
            Goal::AtLeast(least) => {
                format!(">= {least} {}", if self.ratio() >= least { "met" } else { "MISSED" })
            }
            Goal::AtMost(most) => {
                format!("<= {most} {}", if self.ratio() <= most { "met" } else { "MISSED" })
            }
            Goal::None => "-".to_owned(),
        }
    }
}

/// NaN of nothing.
pub(crate) fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = numbers.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => (sorted[even / 2 - 1] + sorted[even / 2]) / 2.0,
    }
}

/// For people.
pub(crate) fn table(all: &[Measured]) -> Result<String> {
    let mut text = format!("{}\n", machine()?);
    writeln!(
        text,
        "{:<44} {:>6}  {:<13} {:<14} {:>11} {:>11}  UNIT",
        "WHAT", "RATIO", "SPREAD", "GOAL", "OURS", "YARDSTICK"
    )?;
    for measured in all {
        let ((least, most), (ours, yardstick)) = (measured.spread(), measured.absolute());
        let spread = format!("{least:.2} - {most:.2}");
        writeln!(
            text,
            "{:<44} {:>6.2}  {spread:<13} {:<14} {ours:>11.2} {yardstick:>11.2}  {}",
            measured.name,
            measured.ratio(),
            measured.goal(),
            measured.unit
        )?;
        for (what, value) in &measured.besides {
            writeln!(text, "    {what}: {value:.2}")?;
        }
    }
    Ok(text)
}

/// For scripts.
pub(crate) fn json(all: &[Measured]) -> Result<Value> {
    let machine = machine()?;
    Ok(all
        .iter()
        .map(|measured| {
            let ((least, most), (ours, yardstick)) = (measured.spread(), measured.absolute());
            let goal = match measured.goal {
                Goal::AtLeast(least) => json!({"atLeast": least, "met": measured.ratio() >= least}),
                Goal::AtMost(most) => json!({"atMost": most, "met": measured.ratio() <= most}),
                Goal::None => Value::Null,
            };
            let besides: serde_json::Map<_, _> =
                measured.besides.iter().map(|(what, value)| ((*what).to_owned(), json!(value))).collect();
            json!({
                "name": measured.name,
                "ratio": measured.ratio(),
                "spread": [least, most],
                "goal": goal,
                "rounds": measured.rounds.len(),
                "absolute": {"unit": measured.unit, "ours": ours, "yardstick": yardstick, "besides": besides},
                "machine": machine,
            })
        })
        .collect())
}

fn machine() -> Result<String> {
    let cpus = std::thread::available_parallelism()?;
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let kib = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"));
    let gib = kib.context("no MemTotal")?.parse::<f64>()? / 1024.0 / 1024.0;
    // Not every benchmark has one.
    let kubernetes = std::env::var("SHOREPASS_TEST_KUBERNETES")
        .map_or_else(|_| String::new(), |version| format!("Kubernetes {version}, "));
    let apart = match std::env::var_os("SHOREPASS_BENCH_APART") {
        Some(_) => ", and others for API server and etcd",
        None => "",
    };
    Ok(format!("{cpus} CPUs{apart}, {gib:.0} GiB, {kubernetes}release build"))
}

/// What a load did.
pub(crate) struct Load {
    took: Duration,
    calls: Vec<Duration>,
}

impl Load {
    /// Calls per second.
    pub(crate) fn throughput(&self) -> f64 {
        per_second(self.calls.len(), self.took)
    }

    /// How many calls there were.
    pub(crate) fn count(&self) -> f64 {
        self.calls.len() as f64
    }

    /// The middle call, in milliseconds.
    pub(crate) fn p50(&self) -> f64 {
        median(self.calls.iter().map(|took| took.as_secs_f64() * 1_000.0))
    }
}

/// How often something was done in a second.
pub(crate) fn per_second(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// So many callers that call one after the other, until the time is over.
pub(crate) async fn load<F>(
    callers: usize,
    time: Duration,
    call: impl Fn(usize) -> F + Send + Sync + 'static,
) -> Result<Load>
where
    F: Future<Output = Result<()>> + Send,
{
    let call = Arc::new(call);
    let started = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let call = call.clone();
            tokio::spawn(async move {
                let mut calls = Vec::new();
                while started.elapsed() < time {
                    let begun = Instant::now();
                    call(caller).await?;
                    calls.push(begun.elapsed());
                }
                anyhow::Ok(calls)
            })
        })
        .collect();
    let mut calls = Vec::new();
    for task in tasks {
        calls.extend(task.await.context("a caller panicked")??);
    }
    let took = started.elapsed();
    ensure!(!calls.is_empty(), "nothing was done in {time:?}");
    Ok(Load { took, calls })
}

/// How often in a second a line of an audit file's length is appended and synced, one after the other.
pub(crate) fn syncs(folder: &Path, time: Duration) -> Result<f64> {
    let mut file = OpenOptions::new().create(true).append(true).open(folder.join("yardstick"))?;
    let line = [b'x'; 600];
    let (started, mut count) = (Instant::now(), 0);
    while started.elapsed() < time {
        file.write_all(&line)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(per_second(count, started.elapsed()))
}

/// CPU seconds: user and system.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cpu {
    pub(crate) issuer: f64,
    pub(crate) loader: f64,
    /// Of all processes, and of the kernel: API server and etcd among them.
    pub(crate) machine: f64,
}

/// The ticks of proc(5): USER_HZ, the same on all architectures that we run on.
const TICKS: f64 = 100.0;

impl Cpu {
    /// What has been used up to now.
    pub(crate) fn used(issuer: u32) -> Result<Self> {
        Ok(Self {
            issuer: seconds_of(issuer)?,
            loader: seconds_of(std::process::id())?,
            machine: seconds_of_all()?,
        })
    }

    /// What was used since then.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            issuer: self.issuer - before.issuer,
            loader: self.loader - before.loader,
            machine: self.machine - before.machine,
        }
    }

    /// Together with that.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            issuer: self.issuer + other.issuer,
            loader: self.loader + other.loader,
            machine: self.machine + other.machine,
        }
    }

    /// For each of so many calls, in milliseconds.
    pub(crate) fn per_call(self, calls: f64) -> Self {
        let each = |seconds: f64| seconds * 1_000.0 / calls;
        Self { issuer: each(self.issuer), loader: each(self.loader), machine: each(self.machine) }
    }
}

/// Of one process: proc(5), `stat` fields 14 and 15.
fn seconds_of(process: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).context("cannot read /proc")?;
    let (_, rest) = stat.rsplit_once(") ").context("no process name")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks =
        |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok()).context("no CPU time");
    Ok((ticks(11)? + ticks(12)?) / TICKS)
}

/// Of all CPUs, without what was idle, waited for disks or was taken by other machines: proc(5), first line of `/proc/stat`.
fn seconds_of_all() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let fields: Vec<f64> =
        stat.lines().next().unwrap_or_default().split_whitespace().flat_map(str::parse).collect();
    let [user, nice, system, _idle, _waited, hard, soft, ..] = fields[..] else {
        anyhow::bail!("/proc/stat begins otherwise than proc(5) says")
    };
    Ok((user + nice + system + hard + soft) / TICKS)
}
