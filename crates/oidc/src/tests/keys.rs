//! Where keys come from, and what happens when they do not: slow, huge, moved, changed or gone.
use shorepass_testing::oidc::{Answer, DISCOVERY, KEYS, key_set};

use super::*;

const HOUR: u64 = 60 * 60;

impl Bench {
    fn token(&self) -> String {
        // Long enough for the hours that these tests let pass.
        self.token_at(now())
    }

    fn token_at(&self, made: Timestamp) -> String {
        self.key.sign(&self.with(json!({"iat": made.as_second(), "exp": made.as_second() + 300})))
    }

    /// A good token of that moment, verified then.
    async fn verify_fresh(&self, seconds: u64) -> Result<VerifiedJob, JobTokenError> {
        self.verify_at(&self.token_at(later(seconds)), later(seconds)).await
    }

    /// How often the discovery document and the keys were asked for.
    fn requests(&self) -> (usize, usize) {
        (self.server.requests(DISCOVERY), self.server.requests(KEYS))
    }

    /// What is said of a good token when the issuer answers so.
    async fn with_answer(
        &self,
        path: &str,
        answer: Answer,
        deadline: Duration,
    ) -> Result<VerifiedJob, JobTokenError> {
        self.server.answer(path, answer);
        let trusted = vec![trusted(&self.server, &self.ca_pem)];
        let verifier = Verifier::at_pace(trusted, Pace::USUAL, deadline).unwrap();
        verifier.verify(&JobToken::new(self.token()), &runner("prod-1"), now()).await
    }
}

#[tokio::test]
async fn keys_are_fetched_once_an_hour_and_only_when_a_token_needs_them() {
    let bench = bench().await;
    assert_eq!(bench.requests(), (0, 0));
    for seconds in [0, 1, 60, HOUR - 1] {
        bench.verify_fresh(seconds).await.unwrap();
        assert_eq!(bench.requests(), (1, 1), "{seconds}");
    }
    bench.verify_fresh(HOUR).await.unwrap();
    assert_eq!(bench.requests(), (2, 2));
}

#[tokio::test]
async fn known_keys_go_on_for_a_day_while_the_issuer_does_not_answer() {
    let bench = bench().await;
    bench.verify_fresh(0).await.unwrap();
    bench.server.answer(KEYS, Answer::Status(503));
    for seconds in [HOUR, 2 * HOUR, 24 * HOUR - 1] {
        bench.verify_fresh(seconds).await.unwrap_or_else(|error| panic!("{seconds}: {error}"));
    }
    let (why, retry_after) = unavailable(bench.verify_fresh(24 * HOUR).await);
    assert!(why.contains("503"), "{why}");
    assert!(retry_after <= Duration::from_secs(10));
    bench.server.serve_keys(&[&bench.key]);
    bench.verify_fresh(24 * HOUR + 10).await.unwrap();
}

#[tokio::test]
async fn an_issuer_that_is_down_is_asked_once_in_ten_seconds() {
    let bench = bench().await;
    bench.server.answer(DISCOVERY, Answer::Status(500));
    for seconds in [0, 1, 5, 9] {
        let (why, retry_after) = unavailable(bench.verify_fresh(seconds).await);
        assert!(why.contains("500"), "{why}");
        assert!(retry_after <= Duration::from_secs(10), "{seconds}");
        assert_eq!(bench.requests(), (1, 0), "{seconds}");
    }
    unavailable(bench.verify_fresh(10).await);
    assert_eq!(bench.requests(), (2, 0));
}

#[tokio::test]
async fn tokens_with_unknown_keys_make_one_request_in_ten_seconds_however_many_they_are() {
    let bench = bench().await;
    bench.verify_fresh(0).await.unwrap();
    for number in 0..50 {
        let stranger = SigningKey::generate(&format!("unknown-{number}"));
        let token = stranger.sign(&bench.claims());
        let (_, retry_after) = unavailable(bench.verify_at(&token, later(3)).await);
        assert_eq!(retry_after, Duration::from_secs(7));
    }
    assert_eq!(bench.requests(), (1, 1));
    let stranger = SigningKey::generate("unknown").sign(&bench.claims());
    let (_, explanation) = rejected(bench.verify_at(&stranger, later(10)).await);
    assert_eq!(explanation, r#"its issuer has no key "unknown""#);
    unavailable(bench.verify_at(&stranger, later(11)).await);
    assert_eq!(bench.requests(), (2, 2));
    bench.verify_fresh(11).await.unwrap();
}

#[tokio::test]
async fn a_new_key_is_found_when_a_token_names_it_and_a_withdrawn_one_is_gone_within_the_hour() {
    let mut bench = bench().await;
    bench.verify_fresh(0).await.unwrap();
    let old = std::mem::replace(&mut bench.key, SigningKey::generate("two"));
    bench.server.serve_keys(&[&bench.key]);
    bench.verify_fresh(20).await.unwrap();
    let withdrawn = old.sign(&bench.claims());
    let (_, explanation) = rejected(bench.verify_at(&withdrawn, later(40)).await);
    assert_eq!(explanation, r#"its issuer has no key "one""#);
}

#[tokio::test]
async fn a_withdrawn_key_that_nobody_misses_is_gone_after_the_hour() {
    let bench = bench().await;
    bench.verify_fresh(0).await.unwrap();
    bench.server.serve_keys(&[&SigningKey::generate("two")]);
    bench.verify_fresh(HOUR - 1).await.unwrap();
    let (_, explanation) = rejected(bench.verify_fresh(HOUR).await);
    assert_eq!(explanation, r#"its issuer has no key "one""#);
}

#[tokio::test]
async fn keys_fetched_by_a_clock_that_was_ahead_are_fetched_again() {
    let bench = bench().await;
    bench.verify_fresh(365 * 24 * HOUR).await.unwrap();
    bench.verify_fresh(0).await.unwrap();
    assert_eq!(bench.requests(), (2, 2));
}

#[tokio::test]
async fn a_hundred_tokens_at_once_make_one_request() {
    let bench = Arc::new(bench().await);
    bench.server.answer(KEYS, Answer::Late(Duration::from_millis(200), key_set(&[&bench.key]).to_string()));
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move { bench.verify_fresh(0).await.map(drop) })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), Ok(()));
    }
    assert_eq!(bench.requests(), (1, 1));
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_take_the_fetch_along() {
    let bench = Arc::new(bench().await);
    bench.server.answer(KEYS, Answer::Late(Duration::from_millis(300), key_set(&[&bench.key]).to_string()));
    let first = tokio::spawn({
        let bench = Arc::clone(&bench);
        async move { bench.verify_fresh(0).await.map(drop) }
    });
    while bench.requests().1 == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    bench.verify_fresh(0).await.unwrap();
    assert_eq!(bench.requests(), (1, 1));
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let bench = bench().await;
    for path in [DISCOVERY, KEYS] {
        let inward = format!("{}/inward", bench.server.url());
        let (why, _) = unavailable(bench.with_answer(path, Answer::Redirect(inward), DEADLINE).await);
        assert!(why.contains("redirects are not followed"), "{why}");
        bench.server.answer(DISCOVERY, Answer::Body(bench.server.discovery().to_string()));
    }
    assert_eq!(bench.server.requests("/inward"), 0);
}

#[tokio::test]
async fn answers_that_are_endless_late_or_cut_short_are_bounded() {
    let bench = bench().await;
    let keys = key_set(&[&bench.key]).to_string();
    let second = Duration::from_secs(1);
    for (answer, part) in [
        (Answer::Endless, "longer than 262144 bytes"),
        (Answer::Body(format!("{}{keys}", " ".repeat(262_144))), "longer than 262144 bytes"),
        (Answer::Late(Duration::from_secs(60), keys.clone()), "no answer within 1 s"),
        (Answer::CutShort(keys), ""),
        (Answer::Status(404), "404"),
        (Answer::Body("<html>".to_owned()), "its key set: it is not JSON"),
        (Answer::Body("{}".to_owned()), "it has no list `keys`"),
        (Answer::Body(r#"{"keys":[],"KEYS":[]}"#.to_owned()), "differ in case only"),
        (Answer::Body(json!({"keys": vec![json!({}); 101]}).to_string()), "more than 100 keys"),
        (Answer::Body(r#"{"keys":["one"]}"#.to_owned()), "one of its keys is text"),
    ] {
        let deadline = if matches!(answer, Answer::Late(..)) { second } else { DEADLINE };
        let (why, _) = unavailable(bench.with_answer(KEYS, answer, deadline).await);
        assert!(why.contains(part), "{why}\n  should say {part}");
    }
}

#[tokio::test]
async fn a_discovery_document_is_of_the_issuer_itself_and_its_keys_are_at_its_own_host() {
    let bench = bench().await;
    let own = bench.server.url().to_owned();
    let port = own.rsplit(':').next().unwrap().to_owned();
    let changed = |name: &str, value: Value| {
        let mut document = bench.server.discovery();
        document[name] = value;
        document.to_string()
    };
    for (document, part) in [
        (changed("issuer", json!("https://evil.example.org")), r#"of issuer "https://evil.example.org""#),
        (changed("issuer", json!(format!("{own}/"))), "it is of issuer"),
        (changed("issuer", json!([own])), "it names no issuer"),
        (changed("jwks_uri", json!(null)), "it has no jwks_uri"),
        (
            changed("jwks_uri", json!(format!("http://localhost:{port}{KEYS}"))),
            "does not begin with https://",
        ),
        (changed("jwks_uri", json!(format!("https://127.0.0.1:{port}{KEYS}"))), "may only be at"),
        (changed("jwks_uri", json!("https://169.254.169.254/latest/meta-data")), "may only be at"),
        (changed("jwks_uri", json!(format!("https://localhost{KEYS}"))), "may only be at"),
        (changed("jwks_uri", json!(format!("https://localhost:{port}@evil.example.org/"))), "has a user"),
        (changed("jwks_uri", json!("file:///etc/passwd")), "\"file:///etc/passwd\""),
        (changed("jwks_uri", json!("/keys")), "does not begin with https://"),
        ("[]".to_owned(), "it is a list, not an object"),
    ] {
        let (why, _) = unavailable(bench.with_answer(DISCOVERY, Answer::Body(document), DEADLINE).await);
        assert!(why.contains(part), "{why}\n  should say {part}");
    }
    assert_eq!(bench.requests().1, 0);
}

#[tokio::test]
async fn keys_at_another_host_are_taken_where_the_configuration_names_it() {
    let (bench, elsewhere) = (bench().await, bench().await);
    let mut document = bench.server.discovery();
    document["jwks_uri"] = json!(format!("{}{KEYS}", elsewhere.server.url()));
    bench.server.answer(DISCOVERY, Answer::Body(document.to_string()));
    elsewhere.server.serve_keys(&[&bench.key]);
    let mut trusted = trusted(&bench.server, &[bench.ca_pem.clone(), elsewhere.ca_pem.clone()].concat());
    trusted.places.keys_host = elsewhere.server.url().strip_prefix("https://").map(str::to_owned);
    let verifier = Verifier::new(vec![trusted]).unwrap();
    verifier.verify(&JobToken::new(bench.token()), &runner("prod-1"), now()).await.unwrap();
}

/// An issuer whose `iss` is a name that leads nowhere, as that of a cluster is, with its documents at this server.
fn elsewhere(bench: &Bench, places: Places) -> Trusted {
    let issuer = issuer_at(INSIDE, "cluster", RunnerBinding::FirstUse);
    Trusted { issuer, places, ..trusted(&bench.server, &bench.ca_pem) }
}

const INSIDE: &str = "https://kubernetes.default.svc";

/// What is said of a good token of that issuer.
async fn verify_inside(bench: &Bench, places: Places) -> Result<VerifiedJob, JobTokenError> {
    let verifier = Verifier::new(vec![elsewhere(bench, places)]).unwrap();
    let token = bench.key.sign(&bench.with(json!({"iss": INSIDE})));
    verifier.verify(&JobToken::new(token), &runner("prod-1"), now()).await
}

fn discovery_of(bench: &Bench, changes: &[(&str, Value)]) -> Answer {
    let mut document = bench.server.discovery();
    for (name, value) in changes {
        document[*name] = value.clone();
    }
    Answer::Body(document.to_string())
}

#[tokio::test]
async fn a_discovery_document_elsewhere_is_still_of_the_issuer_and_its_keys_beside_it() {
    let bench = bench().await;
    let at = |path: &str| Some(format!("{}{path}", bench.server.url()));
    let places = Places { discovery_url: at("/discovery"), ..Places::default() };
    bench.server.answer("/discovery", discovery_of(&bench, &[("issuer", json!(INSIDE))]));
    verify_inside(&bench, places.clone()).await.unwrap();
    assert_eq!((bench.server.requests("/discovery"), bench.requests()), (1, (0, 1)));

    // What is true of the token stays so: its `iss` is that of the configuration and not the place of the document.
    let verifier = Verifier::new(vec![elsewhere(&bench, places.clone())]).unwrap();
    let (_, explanation) =
        rejected(verifier.verify(&JobToken::new(bench.token()), &runner("prod-1"), now()).await);
    assert!(explanation.contains("its iss is"), "{explanation}");

    for (changes, part) in [
        (vec![], "it is of issuer \"https://localhost"),
        (vec![("issuer", json!(INSIDE)), ("jwks_uri", json!(format!("{INSIDE}{KEYS}")))], "may only be at"),
    ] {
        bench.server.answer("/discovery", discovery_of(&bench, &changes));
        let (why, _) = unavailable(verify_inside(&bench, places.clone()).await);
        assert!(why.contains(part), "{why}\n  should say {part}");
    }
    bench.server.answer("/discovery", Answer::Redirect(format!("{}{DISCOVERY}", bench.server.url())));
    let (why, _) = unavailable(verify_inside(&bench, places).await);
    assert!(why.contains("redirects are not followed"), "{why}");
    assert_eq!(bench.requests(), (0, 1));
}

#[tokio::test]
async fn keys_at_a_url_of_their_own_are_fetched_there_whatever_the_document_says() {
    let bench = bench().await;
    let at = |path: &str| Some(format!("{}{path}", bench.server.url()));
    let places = Places { discovery_url: at(DISCOVERY), keys_url: at("/set"), keys_host: None };
    bench.server.answer("/set", Answer::Body(key_set(&[&bench.key]).to_string()));
    let unreachable = ("jwks_uri", json!("https://10.0.0.1:6443/openid/v1/jwks"));
    bench.server.answer(DISCOVERY, discovery_of(&bench, &[("issuer", json!(INSIDE)), unreachable.clone()]));
    verify_inside(&bench, places.clone()).await.unwrap();
    assert_eq!((bench.requests(), bench.server.requests("/set")), ((1, 0), 1));

    bench.server.answer(DISCOVERY, discovery_of(&bench, &[unreachable]));
    let (why, _) = unavailable(verify_inside(&bench, places).await);
    assert!(why.contains("it is of issuer"), "{why}");
    assert_eq!(bench.server.requests("/set"), 1);
}

#[tokio::test]
async fn a_server_that_nobody_vouches_for_is_not_asked() {
    let (bench, other) = (bench().await, bench().await);
    let stranger = trusted(&bench.server, &other.ca_pem);
    for ca_pem in [stranger.ca_pem.clone(), None] {
        let Ok(verifier) = Verifier::new(vec![Trusted { ca_pem, ..stranger.clone() }]) else {
            // This machine has no authorities of its own.
            continue;
        };
        let verified = verifier.verify(&JobToken::new(bench.token()), &runner("prod-1"), now()).await;
        let (why, _) = unavailable(verified);
        assert!(why.contains("certificate"), "{why}");
    }
    assert_eq!(bench.requests(), (0, 0));
}

#[test]
fn what_cannot_be_trusted_is_no_verifier() {
    let trusted = |url: &str, ca_pem: &str, keys_host: Option<&str>| Trusted {
        issuer: issuer_at(url, "ci", RunnerBinding::FirstUse),
        ca_pem: Some(ca_pem.as_bytes().to_vec()),
        places: Places { keys_host: keys_host.map(str::to_owned), ..Places::default() },
    };
    let ca = TestCa::new(&runner("oidc").trust_domain);
    for (one, part) in [
        (trusted("https://ci.example.org", "", None), "certificates"),
        (
            trusted(
                "https://ci.example.org",
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                None,
            ),
            "certificates",
        ),
        (trusted("http://ci.example.org", ca.certificate_pem(), None), "https://"),
        (trusted("https://user@ci.example.org", ca.certificate_pem(), None), "has a user"),
        (trusted("https://ci.example.org", ca.certificate_pem(), Some("a b")), "is not a URL"),
    ] {
        let error = Verifier::new(vec![one]).err().unwrap().to_string();
        assert!(error.contains(part), "{error}");
    }
}
