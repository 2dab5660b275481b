//! Encryption: the cryptography of rustls, and the certificates that are trusted.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::HubError;

/// Returns the settings of encrypted connections. The trusted certificates are those of the system, or of `SSL_CERT_FILE` and
/// `SSL_CERT_DIR`; if there are none, Mozilla's, which are a part of the program.
pub fn config() -> TlsConfig {
    let certificates: Vec<Certificate<'static>> = rustls_native_certs::load_native_certs()
        .certs
        .iter()
        .map(|certificate| Certificate::from_der(certificate).to_owned())
        .collect();
    let roots = match certificates.is_empty() {
        true => RootCerts::WebPki,
        false => RootCerts::Specific(Arc::new(certificates)),
    };
    let config = TlsConfig::builder().root_certs(roots);
    match provider() {
        Some(provider) => config.unversioned_rustls_crypto_provider(Arc::new(provider)).build(),
        None => config.build(),
    }
}

/// Checks that this CPU has the instructions of the cryptography, which panics without them.
///
/// # Errors
/// Returns [`HubError::Cpu`] with the names of the missing instructions.
pub fn check_cpu() -> Result<(), HubError> {
    lacking(&features()).map_or(Ok(()), |lacking| Err(HubError::Cpu { lacking }))
}

fn lacking(features: &[(&str, bool)]) -> Option<String> {
    let names: Vec<&str> = features.iter().filter(|(_, has)| !has).map(|(name, _)| *name).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn provider() -> Option<CryptoProvider> {
    Some(rustls_graviola::default_provider())
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn provider() -> Option<CryptoProvider> {
    None
}

/// The instructions that `graviola` needs on this architecture, and whether the CPU has them.
#[cfg(target_arch = "x86_64")]
fn features() -> [(&'static str, bool); 6] {
    [
        ("aes", is_x86_feature_detected!("aes")),
        ("pclmulqdq", is_x86_feature_detected!("pclmulqdq")),
        ("bmi1", is_x86_feature_detected!("bmi1")),
        ("bmi2", is_x86_feature_detected!("bmi2")),
        ("adx", is_x86_feature_detected!("adx")),
        ("avx2", is_x86_feature_detected!("avx2")),
    ]
}

#[cfg(target_arch = "aarch64")]
fn features() -> [(&'static str, bool); 4] {
    use std::arch::is_aarch64_feature_detected;
    [
        ("neon", is_aarch64_feature_detected!("neon")),
        ("aes", is_aarch64_feature_detected!("aes")),
        ("pmull", is_aarch64_feature_detected!("pmull")),
        ("sha2", is_aarch64_feature_detected!("sha2")),
    ]
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn features() -> [(&'static str, bool); 1] {
    [("those of x86-64 or AArch64", false)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_missing_instructions() {
        assert_eq!(lacking(&[("aes", true), ("avx2", true)]), None);
        assert_eq!(
            lacking(&[("aes", false), ("avx2", true), ("adx", false)]).as_deref(),
            Some("aes, adx")
        );
    }

    #[test]
    fn there_are_trusted_certificates() {
        match config().root_certs() {
            RootCerts::Specific(certificates) => assert!(!certificates.is_empty()),
            RootCerts::WebPki => {}
            other => panic!("{other:?}"),
        }
    }
}
