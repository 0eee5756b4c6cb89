//! Abuse of tokens: each test is a lesson that somebody else paid for.
use shorepass_core::claims::Claim;
use shorepass_testing::jwt::{encoded, sign_with_secret};
use shorepass_testing::oidc::{Answer, DISCOVERY, KEYS};

use super::*;

fn header(alg: &str) -> String {
    json!({"alg": alg, "kid": "one", "typ": "JWT"}).to_string()
}

#[tokio::test]
async fn a_good_token_gives_its_claims_and_what_it_is_known_by() {
    for key in [SigningKey::generate("one"), SigningKey::ed25519("one"), SigningKey::rsa("one")] {
        let bench = bench_with(key).await;
        let job = bench.verify(&bench.key.sign(&bench.claims())).await.unwrap();
        assert_eq!((job.issuer.as_str(), job.id.as_str(), job.system), ("ci", "42", System::Generic));
        assert_eq!((job.issued, job.spent_until), (now(), later(360)));
        let claims: Vec<_> = job.claims.iter().map(|(name, claim)| format!("{name}={claim}")).collect();
        assert_eq!(claims, [r#"job="42""#, r#"project="17""#, r#"sub="project:17""#]);
    }
}

#[tokio::test]
async fn a_token_without_a_signature_or_signed_with_the_public_key_as_a_secret_is_refused() {
    let bench = bench().await;
    let claims = bench.claims().to_string();
    for alg in ["none", "None", "NONE", ""] {
        let unsigned = format!("{}.{}.", encoded(header(alg).as_bytes()), encoded(claims.as_bytes()));
        bench.check_refused(&unsigned, "which is not taken").await;
    }
    let jwk = bench.key.jwk().to_string();
    for secret in [bench.key.public_bytes(), jwk.as_bytes(), b""] {
        bench.check_refused(&sign_with_secret(secret, &header("HS256"), &claims), r#"alg is "HS256""#).await;
        // The same under the name of the key's own algorithm.
        bench.check_refused(&sign_with_secret(secret, &header("ES256"), &claims), "signature is wrong").await;
    }
    for alg in ["HS384", "HS512", "ES512", "ES256K", "RS1", "es256", "dir"] {
        bench.check_refused(&bench.key.sign_spelt(&header(alg), &claims), "which is not taken").await;
    }
}

#[tokio::test]
async fn the_key_says_which_algorithm_fits_it_and_never_the_token() {
    let bench = bench().await;
    let claims = bench.claims().to_string();
    for alg in ["RS256", "PS256", "ES384", "EdDSA"] {
        bench.check_refused(&bench.key.sign_spelt(&header(alg), &claims), "its key is for [ES256]").await;
    }
    for bad in [r#"{"kid":"one"}"#, r#"{"alg":["ES256"],"kid":"one"}"#, r#"{"alg":null,"kid":"one"}"#] {
        bench.check_refused(&bench.key.sign_spelt(bad, &claims), "has no alg").await;
    }
}

#[tokio::test]
async fn extensions_that_are_not_known_and_keys_that_a_token_brings_along_do_not_count() {
    let bench = bench().await;
    let claims = bench.claims().to_string();
    for extension in
        [r#""crit":["exp"],"exp":1"#, r#""crit":[]"#, r#""crit":null"#, r#""b64":false"#, r#""b64":true"#]
    {
        let header = format!(r#"{{"alg":"ES256","kid":"one",{extension}}}"#);
        bench.check_refused(&bench.key.sign_spelt(&header, &claims), "no extension is known here").await;
    }
    for typ in [r#""at+jwt""#, r#""JWE""#, "1", r#"["JWT"]"#] {
        let header = format!(r#"{{"alg":"ES256","kid":"one","typ":{typ}}}"#);
        bench.check_refused(&bench.key.sign_spelt(&header, &claims), "typ is not JWT").await;
    }
    let forger = SigningKey::generate("forged");
    let jku = format!("{}/forged", bench.server.url());
    let own = json!({"alg": "ES256", "kid": "one", "jwk": forger.jwk(), "jku": jku, "x5u": jku});
    bench.check_refused(&forger.sign_spelt(&own.to_string(), &claims), "signature is wrong").await;
    assert_eq!(bench.server.requests("/forged"), 0);
}

#[tokio::test]
async fn a_kid_names_a_key_and_nothing_else() {
    let bench = bench().await;
    let claims = bench.claims().to_string();
    bench.verify(&bench.key.sign(&bench.claims())).await.unwrap();
    for kid in
        ["../../keys", "/dev/null", "https://evil.example.org/key", "one\u{0}", "", "ONE", "' OR 1=1 --"]
    {
        let header = json!({"alg": "ES256", "kid": kid}).to_string();
        let refused = bench.verify_at(&bench.key.sign_spelt(&header, &claims), later(20)).await;
        // Others of them come within the floor of the first.
        assert!(
            matches!(refused, Err(JobTokenError::Rejected { .. } | JobTokenError::Unavailable { .. })),
            "{kid}"
        );
    }
    for kid in ["1", r#"["one"]"#, r#"{"a":"one"}"#] {
        let header = format!(r#"{{"alg":"ES256","kid":{kid}}}"#);
        bench.check_refused(&bench.key.sign_spelt(&header, &claims), "header's kid is").await;
    }
}

#[tokio::test]
async fn a_token_that_names_no_key_is_taken_where_there_is_one_key_only() {
    let bench = bench().await;
    let token = bench.key.sign_spelt(r#"{"alg":"ES256"}"#, &bench.claims().to_string());
    bench.verify(&token).await.unwrap();
    let other = SigningKey::generate("two");
    bench.server.serve_keys(&[&bench.key, &other]);
    let fresh = Verifier::new(vec![trusted(&bench.server, &bench.ca_pem)]).unwrap();
    let (_, explanation) = rejected(fresh.verify(&JobToken::new(token), &runner("prod-1"), now()).await);
    assert!(explanation.contains("it names no key, and its issuer has 2"), "{explanation}");
}

#[tokio::test]
async fn keys_that_are_weak_costly_or_for_something_else_are_not_used() {
    let bits = |bits: usize| {
        let mut modulus = vec![0xff; bits / 8];
        modulus[0] = 0x80;
        encoded(&modulus)
    };
    let rsa = |n: String| json!({"kty": "RSA", "kid": "one", "n": n, "e": "AQAB"});
    let p256 = SigningKey::generate("one");
    let changed = |name: &str, value: Value| {
        let mut jwk = p256.jwk();
        jwk[name] = value;
        jwk
    };
    for (jwk, alg, part) in [
        (rsa(bits(1024)), "RS256", "it has 1024 bits"),
        (rsa(bits(2040)), "RS256", "it has 2040 bits"),
        (rsa(format!("AAAA{}", bits(1536))), "RS256", "it has 1536 bits"),
        (rsa(bits(4104)), "RS256", "it has 4104 bits"),
        (rsa(bits(16384)), "RS256", "it has 16384 bits"),
        (json!({"kty": "RSA", "kid": "one", "n": bits(2048), "e": "AQ"}), "RS256", "exponent"),
        (json!({"kty": "RSA", "kid": "one", "n": bits(2048), "e": "AA"}), "RS256", "exponent"),
        (json!({"kty": "oct", "kid": "one", "k": "c2VjcmV0"}), "ES256", r#"type "oct""#),
        (changed("crv", json!("secp256k1")), "ES256", "only the curves"),
        (changed("crv", json!("P-384")), "ES384", "length of its curve"),
        (changed("x", json!("AAAA")), "ES256", "length of its curve"),
        (changed("x", json!(7)), "ES256", "it has no x"),
        (changed("use", json!("enc")), "ES256", "not for signatures"),
        (changed("key_ops", json!(["sign"])), "ES256", "not for verifying"),
        (changed("alg", json!("HS256")), "ES256", "its alg does not fit its type"),
        (changed("alg", json!("ES384")), "ES256", "its alg does not fit its type"),
        // Not on the curve.
        (changed("y", p256.jwk()["x"].clone()), "ES256", "signature is wrong"),
    ] {
        let bench = bench_with(SigningKey::generate("one")).await;
        bench.server.answer(KEYS, Answer::Body(json!({"keys": [jwk]}).to_string()));
        bench.check_refused(&p256.sign_spelt(&header(alg), &bench.claims().to_string()), part).await;
    }
}

#[tokio::test]
async fn two_keys_of_one_name_are_not_guessed_between() {
    let bench = bench().await;
    let twin = SigningKey::generate("one");
    bench.server.serve_keys(&[&bench.key, &twin]);
    bench.check_refused(&bench.key.sign(&bench.claims()), r#"has 2 keys "one""#).await;
}

#[tokio::test]
async fn a_token_of_an_issuer_that_nobody_trusts_is_refused_without_asking_anybody() {
    let bench = bench().await;
    let own = bench.server.url().to_owned();
    for iss in [
        "https://evil.example.org".to_owned(),
        format!("{own}/"),
        own.to_uppercase(),
        format!("{own}/.."),
        own.replace("localhost", "127.0.0.1"),
        format!("{own}#"),
        format!(" {own}"),
        String::new(),
    ] {
        bench.check_refused(&bench.key.sign(&bench.with(json!({"iss": iss}))), "its iss is").await;
    }
    bench.check_refused(&bench.key.sign(&bench.with(json!({"iss": null}))), "it has no iss").await;
    bench.check_refused(&bench.key.sign(&bench.with(json!({"iss": [own]}))), "its iss is a list").await;
    assert_eq!((bench.server.requests(DISCOVERY), bench.server.requests(KEYS)), (0, 0));
}

#[tokio::test]
async fn one_issuer_cannot_speak_for_another() {
    let (one, other) = (bench().await, bench().await);
    let mut second = trusted(&other.server, &other.ca_pem);
    second.issuer = issuer_at(other.server.url(), "other", RunnerBinding::FirstUse);
    let verifier = Verifier::new(vec![trusted(&one.server, &one.ca_pem), second]).unwrap();
    let both = Bench { verifier, ..one };
    let (own, theirs) = (both.key.sign(&both.claims()), other.key.sign(&other.claims()));
    let (own, theirs) = (both.verify(&own).await.unwrap(), both.verify(&theirs).await.unwrap());
    assert_eq!((own.issuer.as_str(), theirs.issuer.as_str()), ("ci", "other"));
    assert_ne!(own.replay, theirs.replay, "the same jti at two issuers");
    both.check_refused(&other.key.sign(&both.claims()), "signature is wrong").await;
    both.check_refused(&both.key.sign(&other.claims()), "signature is wrong").await;
}

/// Vault CVE-2024-5798.
#[tokio::test]
async fn an_audience_is_exactly_ours_and_nobody_elses() {
    let bench = bench().await;
    for good in [json!(AUDIENCE), json!([AUDIENCE])] {
        bench.verify(&bench.key.sign(&bench.with(json!({"aud": good})))).await.unwrap();
    }
    for bad in [
        json!([AUDIENCE, "https://other.example.org"]),
        json!(["https://other.example.org", AUDIENCE]),
        json!([AUDIENCE, AUDIENCE]),
        json!([]),
        json!([[AUDIENCE]]),
        json!(""),
        json!("https://shorepass.example.org"),
        json!(format!("{AUDIENCE}/")),
        json!(format!("{AUDIENCE}/prod-1")),
        json!(AUDIENCE.to_uppercase()),
        json!(format!("{AUDIENCE} ")),
        json!({AUDIENCE: true}),
        json!(7),
        json!("*"),
        Value::Null,
    ] {
        let mut claims = bench.with(json!({"aud": null}));
        claims["aud"] = bad;
        bench.check_refused(&bench.key.sign(&claims), "aud").await;
    }
    bench.check_refused(&bench.key.sign(&bench.with(json!({"aud": null}))), "it has no aud").await;
}

#[tokio::test]
async fn a_token_that_names_its_runner_in_the_audience_is_for_that_runner() {
    let bench = bench().await;
    let issuer = issuer_at(bench.server.url(), "ci", RunnerBinding::Audience);
    let bound = Trusted { issuer, ca_pem: Some(bench.ca_pem.clone()), places: Places::default() };
    let bench = Bench { verifier: Verifier::new(vec![bound]).unwrap(), ..bench };
    let token = |audience: String| bench.key.sign(&bench.with(json!({"aud": audience})));
    bench.verify(&token(format!("{AUDIENCE}/prod-1"))).await.unwrap();
    for other in ["/prod-2", "", "/prod-1/", "/prod-11", "//prod-1"] {
        bench.check_refused(&token(format!("{AUDIENCE}{other}")), "its aud is").await;
    }
}

/// hashicorp/cap CVE-2026-19194.
#[tokio::test]
async fn claim_names_that_another_parser_would_take_for_known_ones_are_refused() {
    let bench = bench().await;
    let claims = bench.claims().to_string();
    let adding = |more: &str| format!("{},{more}}}", claims.strip_suffix('}').unwrap());
    for (payload, part) in [
        (adding(r#""aud":"https://other.example.org""#), r#""aud" stands in it twice"#),
        (adding(r#""project":"18""#), r#""project" stands in it twice"#),
        (adding(r#""p\u0072oject":"18""#), r#""project" stands in it twice"#),
        (adding(r#""Project":"18""#), "differ in case only"),
        (adding(r#""ISS":"https://evil.example.org""#), "differ in case only"),
        (adding("\"\u{17f}ub\":\"x\""), "differ in case only"),
        (adding(r#""other":{"a":1,"a":2}"#), r#""a" stands in it twice"#),
        (adding(r#""other":[{"a":1,"A":2}]"#), "differ in case only"),
        (claims.replace(r#""sub""#, r#""Sub""#), r#"it has "Sub" for sub"#),
        (claims.replace(r#""exp""#, r#""EXP""#), r#"it has "EXP" for exp"#),
        (adding(r#""Attempt":1"#), r#"it has "Attempt" for attempt"#),
        (adding(r#""NBF":1"#), r#"it has "NBF" for nbf"#),
    ] {
        bench.check_refused(&bench.key.sign_spelt(&header("ES256"), &payload), part).await;
    }
    for twice in
        [r#"{"alg":"none","alg":"ES256","kid":"one"}"#, r#"{"alg":"ES256","ALG":"none","kid":"one"}"#]
    {
        bench.check_refused(&bench.key.sign_spelt(twice, &claims), "its header cannot be read").await;
    }
    bench
        .check_refused(&bench.key.sign_spelt(r#"{"alg":"ES256","Kid":"one"}"#, &claims), r#""Kid" for kid"#)
        .await;
}

/// SPIRE 1.12.3, Pinniped CVE-2022-31677.
#[tokio::test]
async fn times_are_all_there_whole_and_those_of_a_token_made_just_now() {
    let bench = bench().await;
    let at = |offset: i64| now().as_second() + offset;
    for good in [
        json!({"iat": at(59), "exp": at(200)}),
        json!({"iat": at(-200), "exp": at(-59)}),
        json!({"nbf": at(59)}),
        json!({"nbf": at(-3600)}),
        json!({"exp": at(24 * 3600)}),
        json!({"iat": at(-24 * 3600 + 60), "exp": at(60)}),
    ] {
        bench.verify(&bench.key.sign(&bench.with(good.clone()))).await.unwrap_or_else(|_| panic!("{good}"));
    }
    for (bad, part) in [
        (json!({"exp": null}), "it has no exp"),
        (json!({"iat": null}), "it has no iat"),
        (json!({"sub": null}), "it has no sub"),
        (json!({"sub": ""}), "its sub is empty"),
        (json!({"sub": ["a"]}), "its sub is a list"),
        (json!({"iat": at(61)}), "in the future"),
        (json!({"iat": at(3600), "exp": at(7200)}), "in the future"),
        (json!({"nbf": at(61)}), "it is not valid before"),
        (json!({"exp": at(24 * 3600 + 1)}), "it lives 86401 s"),
        (json!({"exp": at(0)}), "it lives 0 s"),
        (json!({"exp": at(-10), "iat": at(0)}), "it lives -10 s"),
        (json!({"exp": i64::MAX}), "its exp is no time"),
        (json!({"iat": i64::MIN}), "its iat is no time"),
        (json!({"exp": u64::MAX}), "its exp is a number that is not whole, or too great"),
        (json!({"exp": at(300).to_string()}), "its exp is text"),
        (json!({"iat": 1.79e9}), "its iat is a number that is not whole"),
        (json!({"nbf": "now"}), "its nbf is text"),
        (json!({"exp": true}), "its exp is true or false"),
    ] {
        bench.check_refused(&bench.key.sign(&bench.with(bad)), part).await;
    }
    for exp in [-60, -61, -100] {
        let token = bench.key.sign(&bench.with(json!({"iat": at(-200), "exp": at(exp)})));
        let expired = Timestamp::from_second(at(exp)).unwrap();
        assert_eq!(bench.verify(&token).await, Err(JobTokenError::Expired(expired)), "{exp}");
    }
}

#[tokio::test]
async fn tokens_that_are_long_deep_or_in_another_form_are_refused() {
    let bench = bench().await;
    let good = bench.key.sign(&bench.claims());
    let parts: Vec<&str> = good.split('.').collect();
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
    for (bad, part) in [
        ("a".repeat(1 << 20), "longer than 16384 bytes"),
        (bench.key.sign(&bench.with(json!({"pad": "a".repeat(16_000)}))), "longer than 16384 bytes"),
        (bench.key.sign_spelt(&header("ES256"), &deep), "nested more than 16 deep"),
        (String::new(), "it has 1 parts"),
        (format!("{}.{}", parts[0], parts[1]), "it has 2 parts"),
        (format!("{good}.{}", parts[2]), "it has 4 parts"),
        (format!("{good}.."), "it has 5 parts"),
        (format!("{}=.{}.{}", parts[0], parts[1], parts[2]), "its header is not base64url"),
        (format!("{}.{}==.{}", parts[0], parts[1], parts[2]), "its payload is not base64url"),
        (format!(" {good}"), "its header is not base64url"),
        (format!("Bearer {good}"), "its header is not base64url"),
        (good.replace('.', ". "), "its payload is not base64url"),
        (format!("{good}\n"), "its signature is wrong"),
        (format!("{good}="), "its signature is wrong"),
        (format!("{}.{}.", parts[0], parts[1]), "its signature is wrong"),
        (format!("größer.{}.{}", parts[1], parts[2]), "its header is not base64url"),
        (bench.key.sign_spelt("[]", "{}"), "its header cannot be read: it is a list"),
        (bench.key.sign_spelt(&header("ES256"), "\"text\""), "its payload cannot be read: it is text"),
        (bench.key.sign_spelt(&header("ES256"), ""), "its payload cannot be read: it is not JSON"),
    ] {
        bench.check_refused(&bad, part).await;
    }
}

#[tokio::test]
async fn what_was_signed_is_what_is_read() {
    let bench = bench().await;
    let (good, other) =
        (bench.key.sign(&bench.claims()), bench.key.sign(&bench.with(json!({"project": "18"}))));
    let (good, other): (Vec<&str>, Vec<&str>) = (good.split('.').collect(), other.split('.').collect());
    let mixed = format!("{}.{}.{}", good[0], other[1], good[2]);
    bench.check_refused(&mixed, "its signature is wrong").await;
}

#[tokio::test]
async fn claims_are_of_their_kind_or_the_token_is_refused() {
    let bench = bench().await;
    let good = json!({
        "attempt": 2, "trusted": true, "scopes": ["a", "b"], "kubernetes.io": {"pod": {"name": "p", "uid": 7}},
        "not known": {"deep": [1.5]},
    });
    let job = bench.verify(&bench.key.sign(&bench.with(good))).await.unwrap();
    assert_eq!(job.claims.get("attempt"), Some(&Claim::Number(2)));
    assert_eq!(job.claims.get("trusted"), Some(&Claim::Flag(true)));
    assert_eq!(job.claims.get("scopes"), Some(&Claim::Texts(vec!["a".to_owned(), "b".to_owned()])));
    assert_eq!(job.claims.get("pod"), Some(&Claim::Text("p".to_owned())));
    assert_eq!(job.claims.get("not known"), None);
    for (bad, part) in [
        (json!({"project": ["17"]}), "its claim project is a list, and must be text"),
        (json!({"project": 17}), "its claim project is a number, and must be text"),
        (json!({"project": {"id": "17"}}), "its claim project is an object"),
        (json!({"attempt": "2"}), "its claim attempt is text, and must be number"),
        (json!({"attempt": 2.0}), "not whole"),
        (json!({"attempt": 9_300_000_000_000_000_000_u64}), "too great"),
        (json!({"trusted": "true"}), "its claim trusted is text, and must be flag"),
        (json!({"trusted": 1}), "its claim trusted is a number"),
        (json!({"scopes": "a"}), "its claim scopes is text, and must be texts"),
        (json!({"scopes": ["a", 1]}), "its claim scopes is a list"),
        (json!({"scopes": [["a"]]}), "its claim scopes is a list"),
        (json!({"kubernetes.io": {"pod": {"name": 1}}}), "its claim kubernetes.io.pod.name is a number"),
        (json!({"project": "a".repeat(1025)}), "longer than 1024 bytes"),
        (json!({"scopes": vec!["a"; 300]}), "is a list of more than"),
        (json!({"jti": 7}), "its jti is no text"),
        (json!({"jti": ""}), "its jti is no text, empty"),
        (json!({"job": null}), "it has no job, which tells the jobs of ci apart"),
        (json!({"job": ""}), "it has no job"),
    ] {
        bench.check_refused(&bench.key.sign(&bench.with(bad)), part).await;
    }
}

#[tokio::test]
async fn claims_that_a_person_would_read_as_something_else_are_refused() {
    let bench = bench().await;
    for text in ["ma\u{0}in", "main\nrefs", "\u{202e}niam", "ma\u{200b}in", "\u{feff}main"] {
        let claims = bench.with(json!({"project": text}));
        bench.check_refused(&bench.key.sign(&claims), "changes how text is shown").await;
        bench
            .check_refused(
                &bench.key.sign(&bench.with(json!({"scopes": ["a", text]}))),
                "changes how text is shown",
            )
            .await;
    }
}

#[tokio::test]
async fn a_claim_that_is_null_is_not_there() {
    let bench = bench().await;
    let mut claims = bench.claims();
    claims["attempt"] = Value::Null;
    claims["kubernetes.io"] = Value::Null;
    let job = bench.verify(&bench.key.sign(&claims)).await.unwrap();
    assert_eq!((job.claims.get("attempt"), job.claims.get("pod")), (None, None));
    claims["exp"] = Value::Null;
    bench.check_refused(&bench.key.sign(&claims), "it has no exp").await;
}

#[tokio::test]
async fn a_token_that_comes_again_is_known_however_its_signature_is_spelt() {
    let bench = bench().await;
    let digest = async |claims: &Value| bench.verify(&bench.key.sign(claims)).await.unwrap().replay;
    let first = digest(&bench.claims()).await;
    assert_eq!(first, digest(&bench.with(json!({"exp": now().as_second() + 200}))).await, "the same jti");
    assert_ne!(first, digest(&bench.with(json!({"jti": "token-2"}))).await);

    let anonymous = bench.with(json!({"jti": null}));
    let (one, other) = (bench.key.sign(&anonymous), bench.key.sign(&anonymous));
    assert_ne!(one, other, "two signatures of one token");
    let (one, other) = (bench.verify(&one).await.unwrap().replay, bench.verify(&other).await.unwrap().replay);
    assert_eq!(one, other);
    assert_ne!(one, digest(&bench.with(json!({"jti": null, "job": "43"}))).await);
}

#[tokio::test]
async fn no_error_quotes_a_token() {
    let bench = bench().await;
    let secret = "canary".repeat(40);
    for token in [
        bench.key.sign(&bench.with(json!({"exp": secret, "pad": secret}))),
        bench.key.sign_spelt(&header("ES256"), &format!("{{\"a\":{secret}}}")),
        secret.clone(),
        format!("{secret}.{secret}.{secret}"),
        bench.key.sign(&bench.with(json!({"iss": secret}))),
        bench.key.sign(&bench.with(json!({"aud": secret}))),
    ] {
        let (told, explanation) = rejected(bench.verify(&token).await);
        for text in [told, explanation] {
            assert!(!text.contains(&secret) && !text.contains(&token), "{text}");
        }
    }
}

#[tokio::test]
async fn other_uses_have_another_audience_and_the_same_rules() {
    let bench = bench().await;
    let enrolment = "https://shorepass.example.org/enrol";
    let token = bench.key.sign(&bench.with(json!({"aud": enrolment, "job": null})));
    let verified = bench.verifier.claims_of(&token, |_| enrolment.to_owned(), now()).await.unwrap();
    assert_eq!((verified.issuer.name().as_str(), verified.expires), ("ci", later(300)));
    bench.check_refused(&token, "its aud is").await;
    let job = bench.key.sign(&bench.claims());
    assert!(bench.verifier.claims_of(&job, |_| enrolment.to_owned(), now()).await.is_err());
    assert_eq!(bench.verifier.audiences().collect::<Vec<_>>(), [AUDIENCE]);
}
