//! Runners as operators see them.

use std::collections::BTreeMap;

use serde::Serialize;
use shorepass_core::time::Timestamp;
use shorepass_proto::v1;

use super::{document, short_caller, table, time, to_the_second};

/// A runner under one of its enrolments.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RunnerView {
    spiffe_id: String,
    enrolment: String,
    state: &'static str,
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
    enrol_time: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_time: Option<Timestamp>,
    #[serde(skip_serializing_if = "String::is_empty")]
    clone_cause: String,
}

impl RunnerView {
    /// From the wire.
    pub(crate) fn of(runner: v1::Runner) -> Self {
        let state = match runner.state() {
            v1::RunnerState::Live => "live",
            v1::RunnerState::Expired => "expired",
            v1::RunnerState::Replaced => "replaced",
            v1::RunnerState::Cloned => "cloned",
            v1::RunnerState::Unspecified => "unknown",
        };
        Self {
            state,
            enrolment: runner.enrolment_id,
            labels: runner.labels.into_iter().map(|label| (label.name, label.value)).collect(),
            generation: Some(runner.generation).filter(|generation| *generation > 0),
            enrol_time: time(runner.enrol_time),
            expires_at: time(runner.expires_at),
            end_time: time(runner.end_time),
            spiffe_id: runner.spiffe_id,
            clone_cause: runner.clone_cause,
        }
    }

    fn row(&self) -> [String; 7] {
        let state = if self.state == "cloned" { "CLONED" } else { self.state };
        let labels: Vec<_> = self.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let labels = if labels.is_empty() { "-".to_owned() } else { labels.join(",") };
        [
            short_caller(&self.spiffe_id),
            state.to_owned(),
            labels,
            self.generation.map_or_else(|| "-".to_owned(), |generation| generation.to_string()),
            to_the_second(self.enrol_time),
            to_the_second(self.expires_at),
            self.enrolment.clone(),
        ]
    }
}

/// A list for programs.
pub(crate) fn list_document(items: &[RunnerView]) -> String {
    #[derive(Serialize)]
    struct Body<'a> {
        items: &'a [RunnerView],
    }
    document("RunnerList", Body { items })
}

/// A list for people, and what to do about clones.
pub(crate) fn list_table(items: &[RunnerView]) -> String {
    let rows: Vec<_> = items.iter().map(RunnerView::row).collect();
    let headings = ["RUNNER", "STATE", "LABELS", "GENERATION", "ENROLLED", "CERTIFICATE UNTIL", "ENROLMENT"];
    let mut shown = table(headings, &rows);
    if items.iter().any(|runner| runner.state == "cloned") {
        shown.push_str(
            "CLONED: its identity was in use at two places, and both are shut out. Find out where the copy is, then \
             `shorepass join-token create --replace`\n",
        );
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::samples::at;

    fn runner(state: v1::RunnerState) -> v1::Runner {
        v1::Runner {
            spiffe_id: "spiffe://ci.example.org/runner/prod-1".to_owned(),
            enrolment_id: "0198c5a2-8f7e-7cc0-b1d2-3e4f5a6b7c8d".to_owned(),
            state: state.into(),
            labels: vec![v1::Label { name: "env".to_owned(), value: "prod".to_owned() }],
            generation: 3,
            enrol_time: at(0),
            expires_at: at(3_600),
            ..Default::default()
        }
    }

    #[test]
    fn a_list_for_people_and_for_programs() {
        let cloned = v1::Runner {
            end_time: at(60),
            clone_cause: "it was used".to_owned(),
            labels: Vec::new(),
            ..runner(v1::RunnerState::Cloned)
        };
        let runners = [RunnerView::of(runner(v1::RunnerState::Live)), RunnerView::of(cloned)];
        let shown = list_table(&runners);
        for part in ["LABELS", "env=prod", "live", "CLONED  -", "--replace", "0198c5a2"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert!(!list_table(&runners[..1]).contains("--replace"));
        let document: serde_json::Value = serde_json::from_str(&list_document(&runners)).unwrap();
        assert_eq!(document["kind"], "RunnerList");
        let [live, cloned] = [&document["items"][0], &document["items"][1]];
        assert_eq!((&live["labels"]["env"], &live["generation"]), (&"prod".into(), &3.into()));
        assert_eq!((&cloned["state"], &cloned["cloneCause"]), (&"cloned".into(), &"it was used".into()));
    }
}
