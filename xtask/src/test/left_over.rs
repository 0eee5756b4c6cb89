//! Processes that tests left behind.
//!
//! Ours are those that carry the run's mark in their environment and those that descend from us. Orphans come to us
//! and not to init, so a daemon with a cleaned environment whose parent is gone is found as well. Who adopts must also
//! reap: a test that waits for the end of such a process would wait for ever.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal};

use crate::environment;
use crate::signals;

/// From here on a process whose parent dies becomes our child, if it descends from us.
pub(super) fn adopt_orphans() -> Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("cannot adopt orphans")
}

/// Lets go of adopted orphans that ended. `spared` are the processes that somebody else waits for.
pub(super) fn reap(spared: &[u32]) {
    let us = rustix::process::getpid().as_raw_nonzero().get();
    for id in ids().filter(|id| !spared.iter().any(|spared| i32::try_from(*spared) == Ok(*id))) {
        if let (Some(('Z', parent)), Some(id)) = (status(id), Pid::from_raw(id))
            && parent == us
        {
            // It can only fail for one that is gone already.
            let _ = rustix::process::waitpid(Some(id), rustix::process::WaitOptions::NOHANG);
        }
    }
}

/// Tells this run from one of a process with the same number.
pub(super) fn started() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis())
}

/// Names and ends the processes of the run that are still there after `patience`. An end takes a moment, so a process
/// that is about to end is none that was left.
pub(super) fn end_processes(run: &str, patience: Duration) -> Result<Vec<String>> {
    let started = Instant::now();
    loop {
        let left = processes(run);
        if left.is_empty() {
            return Ok(Vec::new());
        }
        if started.elapsed() >= patience {
            return left.iter().map(end).collect();
        }
        signals::pause(Duration::from_millis(50))?;
    }
}

fn end(process: &Process) -> Result<String> {
    let id = Pid::from_raw(process.id).context("no such process")?;
    match rustix::process::kill_process(id, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => (),
        Err(cause) => return Err(cause).with_context(|| format!("cannot end process {}", process.id)),
    }
    Ok(format!("a test left process {} running: {}", process.id, process.command))
}

#[derive(Debug)]
struct Process {
    id: i32,
    parent: i32,
    command: String,
    marked: bool,
}

/// Our living descendants and everything that carries the mark of the run.
fn processes(run: &str) -> Vec<Process> {
    let mark = format!("{}={run}", environment::RUN);
    let us = rustix::process::getpid().as_raw_nonzero().get();
    let all: BTreeMap<i32, Process> = ids().filter_map(|id| Some((id, look_at(id, &mark)?))).collect();
    let descends = |process: &Process| {
        let parents = std::iter::successors(Some(process), |child| all.get(&child.parent));
        parents.take(all.len()).any(|ancestor| ancestor.parent == us)
    };
    let ours: Vec<i32> = all
        .values()
        .filter(|process| process.marked || descends(process))
        .map(|process| process.id)
        .collect();
    all.into_values().filter(|process| process.id != us && ours.contains(&process.id)).collect()
}

/// Of all processes.
fn ids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// None if it is gone, ended and only waits to be asked for, or hides from us.
fn look_at(id: i32, mark: &str) -> Option<Process> {
    let (state, parent) = status(id)?;
    if matches!(state, 'Z' | 'X') {
        return None;
    }
    let environ = fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
    let marked = environ.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes());
    let command = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).replace('\0', " ").trim().to_owned();
    Some(Process { id, parent, command, marked })
}

fn status(id: i32) -> Option<(char, i32)> {
    // Not as text: a name need not be UTF-8.
    let stat = fs::read(format!("/proc/{id}/stat")).ok()?;
    state_and_parent(&String::from_utf8_lossy(&stat))
}

/// `4711 (na) me) S 42 ...`: the name may hold anything, so the fields count from its last parenthesis.
fn state_and_parent(stat: &str) -> Option<(char, i32)> {
    let (_, behind) = stat.rsplit_once(')')?;
    let mut fields = behind.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn sleeper(run: &str) -> Child {
        Command::new("sleep").arg("600").env(environment::RUN, run).spawn().unwrap()
    }

    #[test]
    fn a_marked_process_is_named_and_ended() {
        let run = format!("self-test-{}", std::process::id());
        let mut child = sleeper(&run);
        let id = i32::try_from(child.id()).unwrap();
        let mark = format!("{}={run}", environment::RUN);
        while !look_at(id, &mark).is_some_and(|process| process.marked) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let process = look_at(id, &mark).unwrap();
        let complaint = end(&process).unwrap();
        assert!(complaint.contains("sleep 600"), "{complaint}");
        child.wait().unwrap();
        assert!(look_at(id, &mark).is_none());
    }

    #[test]
    fn descendants_are_found_without_a_mark() {
        let mut child = sleeper("another run");
        let id = i32::try_from(child.id()).unwrap();
        assert!(processes("no such run").iter().any(|process| process.id == id));
        child.kill().unwrap();
        while status(id).is_some_and(|(state, _)| state != 'Z') {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!processes("no such run").iter().any(|process| process.id == id));
        reap(&[child.id()]);
        assert!(status(id).is_some());
        child.wait().unwrap();
    }

    #[test]
    fn a_name_with_parentheses_confuses_nobody() {
        assert_eq!(state_and_parent("4711 (a) Z 1 (b) S 42 4711 0"), Some(('S', 42)));
        assert_eq!(state_and_parent("nonsense"), None);
    }
}
