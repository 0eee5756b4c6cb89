//! Leases as they are printed.

use super::*;
use crate::output::samples::{active, adopted, at, revoked, strict, token, unbound};

fn view(record: v1::LeaseRecord) -> LeaseView {
    LeaseView::of(record).unwrap()
}

#[test]
fn a_list_for_people() {
    let shown = list_table(&[view(active()), view(revoked())]);
    assert_eq!(shown, include_str!("../golden/lease-list.txt"));
}

#[test]
fn a_list_for_programs() {
    let shown = list_document(&[view(active()), view(revoked())]);
    assert_eq!(shown, include_str!("../golden/lease-list.json"));
}

#[test]
fn a_token_that_outlives_its_lease_without_an_issuer_is_told_in_every_listing() {
    let mut record = active();
    record.lease = record.lease.map(|lease| v1::Lease { deadline: at(60), ..lease });
    let lease = view(record);
    assert!(lease_table(&lease).contains("WITHOUT ISSUER"), "{}", lease_table(&lease));
    assert!(lease_document(&lease).contains("\"withoutIssuerUntil\": \"2026-"));
    assert!(list_table(&[lease]).contains("1 lease has a token that outlives"));
    assert!(!list_table(&[view(active())]).contains("outlives"));
}

#[test]
fn an_unbound_lease_is_not_said_to_have_an_anchor_that_an_issuer_deletes() {
    let mut record = v1::LeaseRecord { anchor: String::new(), ..active() };
    let unbound = v1::LeaseMode::Unbound.into();
    record.lease = record.lease.map(|lease| v1::Lease { deadline: at(60), mode: unbound, ..lease });
    let lease = view(record);
    let (show, document) = (lease_table(&lease), lease_document(&lease));
    assert!(!show.contains("WITHOUT ISSUER") && !document.contains("withoutIssuerUntil"), "{show}");
    assert!(
        show.contains("PAST DEADLINE   token until 2026-09-21T14:44:31Z: nothing can end it\n"),
        "{show}"
    );
    let list = list_table(&[lease]);
    assert!(
        list.contains("1 UNBOUND lease has a token that outlives the deadline, and nothing ends it"),
        "{list}"
    );
    assert!(!list.contains("anchor"), "{list}");
}

#[test]
fn one_lease_for_people() {
    assert_eq!(lease_table(&view(revoked())), include_str!("../golden/lease-show.txt"));
}

#[test]
fn a_strict_lease_names_all_that_exists_for_it() {
    assert_eq!(lease_table(&view(strict())), include_str!("../golden/lease-show-strict.txt"));
    let document: serde_json::Value = serde_json::from_str(&lease_document(&view(strict()))).unwrap();
    assert_eq!(
        (&document["mode"], &document["bindings"][0]["roleName"]),
        (&"strict".into(), &"deployer".into())
    );
}

#[test]
fn what_the_end_of_a_lease_leaves_is_told_with_it_and_with_its_receipt() {
    let rights = v1::NotRemovedRights {
        rights: vec!["get,list pods in namespace web".to_owned(), "get URL /metrics".to_owned()],
        others: 3,
    };
    let record = v1::LeaseRecord { not_removed: Some(rights), ..revoked() };
    let (lease, plain) = (view(record), view(revoked()));
    let show = lease_table(&lease);
    assert!(
        show.contains("NOT REMOVED     get,list pods in namespace web: it has this from elsewhere"),
        "{show}"
    );
    assert!(show.contains("NOT REMOVED     and 3 more\n"), "{show}");
    let receipt = "said; not removed: get,list pods in namespace web; get URL /metrics; and 3 more\n";
    assert!(show.contains(receipt), "{show}");
    assert!(!lease_table(&plain).to_lowercase().contains("not removed"));
    let document: serde_json::Value = serde_json::from_str(&lease_document(&lease)).unwrap();
    for told in [&document["notRemoved"], &document["receipt"]["notRemoved"]] {
        assert_eq!((&told["rights"][1], &told["others"]), (&"get URL /metrics".into(), &3.into()));
    }
    assert!(!lease_document(&plain).contains("notRemoved"));
}

#[test]
fn for_whom_a_leases_tokens_are_is_told_where_that_is_not_the_api_server() {
    let mut record = active();
    let audiences = vec!["registry".to_owned(), "https://vault.example.org".to_owned()];
    record.lease = record.lease.map(|lease| v1::Lease { audiences: audiences.clone(), ..lease });
    let lease = view(record);
    let line = "AUDIENCES       registry, https://vault.example.org: who verifies offline does not see a revocation\n";
    assert!(lease_table(&lease).contains(line), "{}", lease_table(&lease));
    let document: serde_json::Value = serde_json::from_str(&lease_document(&lease)).unwrap();
    assert_eq!(document["audiences"], serde_json::json!(audiences));
    assert!(!lease_table(&view(active())).contains("AUDIENCES"));
    assert!(!lease_document(&view(active())).contains("audiences"));
}

#[test]
fn what_a_job_may_have_left_is_told_with_its_lease_and_with_the_receipt() {
    let found = |rights: &[&str]| v1::EscapeRights {
        rights: rights.iter().map(|right| (*right).to_owned()).collect(),
        review_time: at(0),
        unknown: String::new(),
    };
    let told = |escapes| view(v1::LeaseRecord { escape_rights: Some(escapes), ..revoked() });
    let lease = told(found(&["create,patch secrets", "create pods"]));
    let show = lease_table(&lease);
    let line = "ESCAPE RIGHTS   create,patch secrets; create pods (by a review at 2026-09-21T14:13:20Z): what is made";
    assert!(show.contains(line), "{show}");
    assert!(show.contains("said; may have left something by: create,patch secrets; create pods\n"), "{show}");
    let document: serde_json::Value = serde_json::from_str(&lease_document(&lease)).unwrap();
    for told in [&document["escapeRights"], &document["receipt"]["mayHaveLeft"]] {
        assert_eq!(told["rights"][1], "create pods");
    }
    let none = lease_table(&told(found(&[])));
    assert!(
        none.contains("ESCAPE RIGHTS   none, by a review at 2026") && !none.contains("may have left"),
        "{none}"
    );
    let unknown = v1::EscapeRights { unknown: "the cluster forbids it".to_owned(), ..found(&[]) };
    assert!(lease_table(&told(unknown)).contains("ESCAPE RIGHTS   not known: the cluster forbids it\n"));
    assert!(!lease_table(&view(revoked())).contains("ESCAPE"));
}

#[test]
fn a_lease_that_silence_does_not_end_says_so_while_it_lives() {
    let endless = view(v1::LeaseRecord { silence_limit: None, ..active() });
    assert!(lease_table(&endless).contains("SILENCE         ends nothing\n"), "{}", lease_table(&endless));
    assert!(!lease_document(&endless).contains("silenceLimitSeconds"));
    assert!(!lease_table(&view(revoked())).contains("SILENCE"));
}

#[test]
fn an_unbound_lease_is_marked_in_every_listing() {
    let list = list_table(&[view(unbound())]);
    assert!(list.contains("  UNBOUND  "), "{list}");
    let show = lease_table(&view(unbound()));
    assert!(show.contains("UNBOUND: nothing ends its tokens before they expire"), "{show}");
    assert!(show.contains("TOKENS WORK") && !show.contains("ANCHOR"), "{show}");
    let document: serde_json::Value = serde_json::from_str(&lease_document(&view(unbound()))).unwrap();
    assert_eq!((&document["mode"], document.get("anchor")), (&"unbound".into(), None));
    assert_eq!(document["tokensUntil"], "2026-09-21T14:44:31.25Z");
}

#[test]
fn one_lease_for_programs_is_an_item_of_the_list_under_its_own_kind() {
    let mut lease: serde_json::Value = serde_json::from_str(&lease_document(&view(active()))).unwrap();
    let list: serde_json::Value = serde_json::from_str(&list_document(&[view(active())])).unwrap();
    assert_eq!(lease["kind"], "Lease");
    for key in ["kind", "apiVersion"] {
        lease.as_object_mut().unwrap().remove(key);
    }
    assert_eq!(lease, list["items"][0]);
}

#[test]
fn an_adopted_lease_says_so_and_what_is_not_known_of_it() {
    let list = list_table(&[view(adopted()), view(active())]);
    let row: Vec<_> = list.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[2..7], ["unknown", "unknown", "unknown", "staging", "web/unknown"], "{list}");
    assert!(list.ends_with("1 lease was adopted from the cluster, because its record had been lost; see `shorepass lease show`\n"), "{list}");
    let show = lease_table(&view(adopted()));
    for said in ["not known by name", "made again from its anchor", "web/unknown"] {
        assert!(show.contains(said), "{said}: {show}");
    }
    assert!(!show.contains("JOB SESSION"), "{show}");
    let document: serde_json::Value = serde_json::from_str(&lease_document(&view(adopted()))).unwrap();
    assert_eq!(document["adopted"], true);
    for absent in ["caller", "job", "role", "serviceAccount"] {
        assert_eq!(document.get(absent), None, "{absent}");
    }
    let known = v1::LeaseRecord { caller: active().caller, ..adopted() };
    assert_eq!(view(known).runner(), "prod-1");
    assert!(
        lease_document(&view(active())).contains("\"role\"")
            && !list_document(&[view(active())]).contains("adopted")
    );
}

#[test]
fn the_owner_of_a_token() {
    let found = v1::FindTokenResponse { token: Some(token()), lease: Some(active()) };
    let owner = TokenOwner::of(found).unwrap();
    assert_eq!(owner.table(), include_str!("../golden/whois.txt"));
    let document: serde_json::Value = serde_json::from_str(&owner.document()).unwrap();
    assert_eq!(document["kind"], "TokenOwner");
    assert_eq!(document["token"]["jti"], document["lease"]["tokens"][0]["jti"]);
}

#[test]
fn a_platform_is_not_shown_as_a_runner() {
    let caller = "spiffe://ci.example.org/platform/builder".to_owned();
    assert_eq!(view(v1::LeaseRecord { caller, ..active() }).runner(), "platform/builder");
}

#[test]
fn an_answer_without_its_lease_is_refused() {
    let missing = |record| LeaseView::of(record).map(|_| ()).unwrap_err();
    assert_eq!(missing(v1::LeaseRecord { lease: None, ..active() }), Incomplete("a lease"));
    assert_eq!(missing(v1::LeaseRecord { job: None, ..active() }), Incomplete("a lease's job"));
}
