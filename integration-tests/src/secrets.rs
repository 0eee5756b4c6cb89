//! Searching everything that was written for every secret that existed.
//!
//! A secret is searched whole and by the part that is enough to use it: a JWT's signature, a join token's secret, the
//! inside of a private key. The files whose purpose it is to hold a secret are named with it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use data_encoding::{BASE64, BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};

/// Something that must not be found.
pub struct Secret {
    /// What it is, for the report; nothing of it.
    pub what: String,
    needles: Vec<String>,
    homes: Vec<PathBuf>,
}

impl Secret {
    /// A JWT.
    pub fn jwt(what: impl Into<String>, jwt: &str) -> Result<Self> {
        let signature = jwt.rsplit('.').next().context("it is no JWT")?;
        Ok(Self::of(what, &[jwt, signature]))
    }

    /// A join token.
    pub fn join_token(what: impl Into<String>, text: &str) -> Result<Self> {
        let text = text.trim();
        let secret = text.split('.').nth(1).context("it is no join token")?;
        let bytes = BASE64URL_NOPAD.decode(secret.as_bytes())?;
        let mut found = Self::of(what, &[text, secret]);
        found.needles.extend(spellings(&bytes));
        Ok(found)
    }

    /// A private key in PEM, alone or with certificates.
    pub fn private_key(what: impl Into<String>, pem: &str) -> Result<Self> {
        let start = pem.find("PRIVATE KEY-----").context("there is no private key")?;
        let inside = pem[start..].split("-----").nth(1).context("the private key has no end")?;
        let lines: Vec<&str> = inside.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let der = BASE64.decode(lines.concat().as_bytes())?;
        let mut found = Self::of(what, &[lines.concat().as_str(), lines[0]]);
        found.needles.extend(spellings(&der));
        // A P-256 key in PKCS #8 or SEC 1 has its 32 secret bytes behind this (RFC 5915, section 3).
        let scalar = der.windows(5).position(|window| window == [2, 1, 1, 4, 32]).map(|at| at + 5);
        let scalar = scalar.and_then(|at| der.get(at..at + 32)).context("it is no P-256 key")?;
        found.needles.extend(spellings(scalar));
        Ok(found)
    }

    /// A key of a few bytes.
    pub fn bytes(what: impl Into<String>, bytes: &[u8]) -> Self {
        Self { what: what.into(), needles: spellings(bytes), homes: Vec::new() }
    }

    /// With a file that is there to hold it.
    pub fn at_home_in(mut self, file: impl Into<PathBuf>) -> Self {
        self.homes.push(file.into());
        self
    }

    fn of(what: impl Into<String>, texts: &[&str]) -> Self {
        Self {
            what: what.into(),
            needles: texts.iter().map(|text| (*text).to_owned()).collect(),
            homes: Vec::new(),
        }
    }

    fn is_in(&self, hay: &str) -> bool {
        self.needles.iter().any(|needle| hay.contains(needle))
    }
}

/// The bytes themselves, and as people print them.
fn spellings(bytes: &[u8]) -> Vec<String> {
    let debug = format!("{bytes:?}");
    vec![
        characters(bytes),
        debug.trim_matches(['[', ']']).to_owned(),
        BASE64_NOPAD.encode(bytes),
        BASE64URL_NOPAD.encode(bytes),
        HEXLOWER.encode(bytes),
        HEXUPPER.encode(bytes),
    ]
}

/// One character for each byte. The standard library searches strings fast and bytes not at all.
fn characters(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// Where secrets were found: `what in where`.
pub fn leaks(secrets: &[Secret], place: &str, content: &[u8]) -> Vec<String> {
    let content = characters(content);
    let found = secrets.iter().filter(|secret| secret.is_in(&content));
    found.map(|secret| format!("{} in {place}", secret.what)).collect()
}

/// The same for all files in a folder and below. Sockets and the like have no content.
pub fn leaks_in_folder(secrets: &[Secret], folder: &Path) -> Result<Vec<String>> {
    let mut leaks = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            leaks.extend(leaks_in_folder(secrets, &path)?);
        } else if kind.is_file() {
            let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let content = characters(&content);
            let found =
                secrets.iter().filter(|secret| !secret.homes.contains(&path) && secret.is_in(&content));
            leaks.extend(found.map(|secret| format!("{} in {}", secret.what, path.display())));
        }
    }
    Ok(leaks)
}

#[cfg(test)]
mod tests {
    use shorepass_core::name::TrustDomain;
    use shorepass_testing::certificates::TestCa;

    use super::*;

    const JWT: &str = "eyJhbGciOiJFUzI1NiJ9.eyJqdGkiOiIxIn0.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg";

    fn found(secret: &Secret, text: &str) -> bool {
        !leaks(std::slice::from_ref(secret), "log", text.as_bytes()).is_empty()
    }

    #[test]
    fn a_planted_token_is_found_whole_and_by_its_signature() {
        let secret = Secret::jwt("token", JWT).unwrap();
        assert!(found(&secret, &format!("level=trace body={JWT} end")));
        assert!(found(&secret, "sig c2lnbmF0dXJlLW9mLXRoZS10b2tlbg"));
        assert!(!found(
            &secret,
            "sig c2lnbmF0dXJlLW9mLXRoZS10b2tl and eyJhbGciOiJFUzI1NiJ9.eyJqdGkiOiIxIn0."
        ));
    }

    #[test]
    fn a_planted_key_is_found_in_every_spelling() {
        let pem = TestCa::new(&TrustDomain::parse("test").unwrap()).key_pem().to_owned();
        let secret = Secret::private_key("key", &pem).unwrap();
        let inside: Vec<&str> = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let der = BASE64.decode(inside.concat().as_bytes()).unwrap();
        for planted in [pem.clone(), inside.concat(), format!("{der:?}"), HEXUPPER.encode(&der)] {
            assert!(found(&secret, &planted), "{planted}");
        }
        assert!(!leaks(&[secret], "dump", &der).is_empty());
    }

    #[test]
    fn a_planted_join_token_is_found_by_its_secret() {
        let part = BASE64URL_NOPAD.encode(&[7; 32]);
        let secret = Secret::join_token("join token", &format!("spjt1.{part}.{part}.abcdef")).unwrap();
        assert!(found(&secret, &format!("secret {part}")) && found(&secret, &HEXLOWER.encode(&[7; 32])));
        assert!(!found(&secret, "spjt1."));
    }

    #[test]
    fn only_the_home_of_a_secret_may_hold_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("below")).unwrap();
        for file in ["home", "below/copy", "nothing"] {
            let content = if file == "nothing" { b"x".to_vec() } else { vec![9; 40] };
            fs::write(folder.path().join(file), content).unwrap();
        }
        let secret = Secret::bytes("key", &[9; 32]).at_home_in(folder.path().join("home"));
        let leaks = leaks_in_folder(&[secret], folder.path()).unwrap();
        assert!(leaks.len() == 1 && leaks[0].ends_with("below/copy"), "{leaks:?}");
    }
}
