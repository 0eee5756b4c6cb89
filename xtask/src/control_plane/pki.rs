//! Fresh keys and certificates for one control plane.
//!
//! One authority signs the server's certificate and the clients' alike, and its key is forgotten. Nothing is
//! renewed: the certificates outlive every test, and are worth nothing outside the loopback interface.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// Where the parts lie.
#[derive(Debug)]
pub(super) struct Pki {
    /// Verifies the API server and its clients.
    pub(super) authority: PathBuf,
    /// What the API server shows.
    pub(super) server: Pair,
    /// A member of `system:masters`.
    pub(super) admin: Pair,
    /// kube-controller-manager.
    pub(super) controllers: Pair,
    /// Signs ServiceAccount tokens: P-256, so ES256, which mints about twice as fast as RSA.
    pub(super) signing_key: PathBuf,
    /// Verifies ServiceAccount tokens.
    pub(super) verification_key: PathBuf,
}

/// A certificate and its key.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

impl Pki {
    /// Makes everything new in `folder`.
    pub(super) fn create(folder: &Path) -> Result<Self> {
        let signing = KeyPair::generate().context("cannot make a key")?;
        let issuer = authority().context("cannot make an authority")?;
        let client = ExtendedKeyUsagePurpose::ClientAuth;
        let server_names = ["127.0.0.1", "localhost", "kubernetes.default.svc", "10.0.0.1"];
        Ok(Self {
            authority: write(folder, "ca.crt", &issuer.pem())?,
            server: Leaf { name: "kube-apiserver", group: None, usage: ExtendedKeyUsagePurpose::ServerAuth }
                .create(folder, &issuer, &server_names)?,
            admin: Leaf {
                name: "shorepass-test-admin",
                group: Some("system:masters"),
                usage: client.clone(),
            }
            .create(folder, &issuer, &[])?,
            controllers: Leaf { name: "system:kube-controller-manager", group: None, usage: client }.create(
                folder,
                &issuer,
                &[],
            )?,
            signing_key: write(folder, "service-account.key", &signing.serialize_pem())?,
            verification_key: write(folder, "service-account.pub", &signing.public_key_pem())?,
        })
    }
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "shorepass test control plane");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

/// What distinguishes one certificate from another. Kubernetes reads the name as user and the group as group.
struct Leaf {
    name: &'static str,
    group: Option<&'static str>,
    usage: ExtendedKeyUsagePurpose,
}

impl Leaf {
    fn create(self, folder: &Path, issuer: &CertifiedIssuer<'_, KeyPair>, names: &[&str]) -> Result<Pair> {
        let (certificate, key) = self
            .sign(issuer, names)
            .with_context(|| format!("cannot make a certificate for {}", self.name))?;
        let file = self.name.trim_start_matches("system:");
        Ok(Pair {
            certificate: write(folder, &format!("{file}.crt"), &certificate)?,
            key: write(folder, &format!("{file}.key"), &key)?,
        })
    }

    fn sign(&self, issuer: &CertifiedIssuer<'_, KeyPair>, names: &[&str]) -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let mut params =
            CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, self.name);
        if let Some(group) = self.group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![self.usage.clone()];
        let certificate = params.signed_by(&key, issuer)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }
}

fn write(folder: &Path, name: &str, content: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(content.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
