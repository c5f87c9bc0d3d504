//! Which public keys stand in a PEM?
//!
//! Blocks `PUBLIC KEY` (RFC 7468, section 13), which hold the kind of the key beside its bits (RFC 5280, section 4.1.2.7;
//! RFC 5480, section 2; RFC 8410, section 4). The kind says which signatures the key may verify.

use jsonwebtoken::{Algorithm, DecodingKey};
use tokio_rustls::rustls::pki_types::pem::{PemObject, SectionKind};

/// Algorithms of RSA keys.
pub(super) const RSA: [Algorithm; 6] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];
/// Bytes of their modulus.
const MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;

// Kinds of keys as they are written.
const RSA_KIND: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
const P256_KIND: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
const P384_KIND: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22";
const ED25519_KIND: &[u8] = b"\x06\x03\x2b\x65\x70";

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;
const INTEGER: u8 = 0x02;

/// A public key and the algorithms that it may verify.
pub(super) type PublicKey = (DecodingKey, Vec<Algorithm>);

/// Whether a text is a PEM.
pub(super) fn is_pem(text: &str) -> bool {
    text.contains("-----BEGIN ")
}

/// The public keys of a PEM.
///
/// # Errors
/// What is wrong with it: no public key, a private one, a kind that is not known.
pub(super) fn public_keys(text: &str) -> Result<Vec<PublicKey>, &'static str> {
    let mut keys = Vec::new();
    for block in <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes()) {
        match block {
            Ok((SectionKind::PublicKey, der)) => keys.push(public_key(&der)?),
            Ok((SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey, _)) => {
                return Err("a private key, which belongs to the issuer alone; expected public ones");
            }
            Ok(_) => {}
            Err(_) => return Err("no PEM that can be read"),
        }
    }
    if keys.is_empty() {
        return Err("no `-----BEGIN PUBLIC KEY-----` stands there (openssl pkey -pubout writes it)");
    }
    Ok(keys)
}

fn public_key(der: &[u8]) -> Result<PublicKey, &'static str> {
    let parts = || {
        let (info, rest) = value(SEQUENCE, der)?;
        let (kind, bits) = value(SEQUENCE, info)?;
        let (bits, more) = value(BIT_STRING, bits)?;
        // Whole bytes, and nothing behind them.
        Some((kind, bits.strip_prefix(&[0])?)).filter(|_| rest.is_empty() && more.is_empty())
    };
    let (kind, bits) = parts().ok_or("a public key that cannot be read")?;
    let is_point = |length: usize| bits.first() == Some(&4) && bits.len() == length;
    match kind {
        RSA_KIND if modulus(bits).is_none_or(|bytes| !MODULUS.contains(&bytes)) => {
            Err("an RSA key that has not 2,048 to 8,192 bits")
        }
        RSA_KIND => Ok((DecodingKey::from_rsa_der(bits), RSA.to_vec())),
        P256_KIND if is_point(65) => Ok((DecodingKey::from_ec_der(bits), vec![Algorithm::ES256])),
        P384_KIND if is_point(97) => Ok((DecodingKey::from_ec_der(bits), vec![Algorithm::ES384])),
        ED25519_KIND if bits.len() == 32 => Ok((DecodingKey::from_ed_der(bits), vec![Algorithm::EdDSA])),
        _ => Err("a public key of another kind than RSA, P-256, P-384 and Ed25519"),
    }
}

/// Bytes of the modulus of an RSA key (RFC 8017, appendix A.1.1).
fn modulus(bits: &[u8]) -> Option<usize> {
    let (key, _) = value(SEQUENCE, bits)?;
    let (modulus, _) = value(INTEGER, key)?;
    // A zero before the first bit says that the number is positive.
    Some(modulus.strip_prefix(&[0]).unwrap_or(modulus).len())
}

/// The value of this kind with which some DER begins, and what is behind it.
fn value(kind: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = der.strip_prefix(&[kind])?;
    let (length, rest) = match *rest.first()? {
        short if short < 0x80 => (usize::from(short), &rest[1..]),
        0x81 => (usize::from(*rest.get(1)?), &rest[2..]),
        0x82 => (usize::from(u16::from_be_bytes([*rest.get(1)?, *rest.get(2)?])), &rest[3..]),
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
pub(super) mod tests {
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    use super::*;

    /// Made with `openssl genrsa 2048`; the private key was not kept.
    pub(in crate::server) const RSA_PEM: &str = "-----BEGIN PUBLIC KEY-----\n\
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAsiZYlFNAn/CXCyBuotVa\n\
If2udprTiDSRTxwP8k6hbt3ntiHAJDOcudwtF6CtN77AoAcvn5FPAdJxuQovMrLd\n\
qzr/asTGpHvjiovHjK6QjEuyXmXnlLS4RO+IQen5tCvuEsyaJHZLWIAJ1zD992LP\n\
S4BFf8H6ikzHlQMWTD8gLy+YWx88frkz7o35c2uG0QJDePdfIpHTivhSbRwCaSvR\n\
YPX7Iw3b1lzDEM/se4fzBz7bADmJjjerwwbVfOJBi7Ff/q+pwvxV8k4aq9Bwa9lI\n\
YehzcIL4Q3uEyCdFI+gljqzrBrIbbmUYKHdRiHx3V9pkd5FkR4/ARo/5MkpAXNal\n\
uQIDAQAB\n\
-----END PUBLIC KEY-----";
    /// A token signed with it by `openssl dgst -sha256 -sign`, for the tier gold and until the year 2100.
    pub(in crate::server) const RSA_TOKEN: &str = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjQxMDI0NDQ4MDAsInBsYW4iOnsidGllciI6ImdvbGQifX0.G6vKfyMFIXEPprH-2\
XJch8gsAVpuWuXVNYz8crVf0x5I6lhgQWYZHtTcXNYIEfNhN_ocXFhaZvZHQJYJF_uwxMncGLzGj86TyiONk5S8F1b0S8LzLIVCzbNjeu6oOj4\
44pNA8-OWbEdN_S6I1OOumpolwiVzbifvY0kBzvSHmy41PnVVgycuv4KeynUxDQzCVe9DGDNeyxTkw79sUINto1iaRZhArx4Mx_GxjOLUUlLJq\
neopNqOjaosowiF0djJQZjXeHDAQMkP4625sqLkd3KZntgEfI9KmWHZWc2BH0-g7uRzvXIX0x-hzUJ7GeNAgGxFSgTSLGTzJLYk086tgA";
    /// Of 1,024 bits.
    const SMALL: &str = "-----BEGIN PUBLIC KEY-----\n\
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDMxVuLFRVkNSpuKatlMDPI/itr\n\
3+crt3cuzzHhIX0+ftphViTibU0S9XWW5PmAIsoYQtd7ZJSmIzeEUXatxuh1Q3s5\n\
sauHVsGrpc+qPtDOjJah5gZdO9Lx9/PDl9LBVCDRJmq8RHKN3vxaAYFqtbW4pq/0\n\
8yZBPDqa6YRcsINQSQIDAQAB\n\
-----END PUBLIC KEY-----";

    #[test]
    fn the_kind_of_a_key_says_what_it_verifies() {
        let mut all = String::from(RSA_PEM);
        for kind in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
            let pair = KeyPair::generate_for(kind).unwrap_or_else(|e| panic!("{e}"));
            all = format!("{all}\n# the next one\n{}", pair.public_key_pem());
        }
        let keys = public_keys(&all).unwrap_or_else(|e| panic!("{e}"));
        let algorithms: Vec<_> = keys.iter().map(|(_, algorithms)| algorithms.as_slice()).collect();
        let expected: [&[Algorithm]; 4] =
            [&RSA, &[Algorithm::ES256], &[Algorithm::ES384], &[Algorithm::EdDSA]];
        assert_eq!(algorithms, expected);
        for (key, algorithms) in &keys {
            assert!(algorithms.iter().all(|algorithm| algorithm.family() == key.family()));
        }
    }

    #[test]
    fn what_is_no_public_key_is_refused() {
        let private = KeyPair::generate_for(&PKCS_ED25519)
            .map(|pair| pair.serialize_pem())
            .unwrap_or_else(|e| panic!("{e}"));
        let cut = RSA_PEM.replace("MIIBIjANBgkq", "MIIBIjANBgkr");
        for (text, expected) in [
            (
                "-----BEGIN RSA PUBLIC KEY-----\nAAAA\n-----END RSA PUBLIC KEY-----\n",
                "no `-----BEGIN PUBLIC KEY-----`",
            ),
            ("-----BEGIN PUBLIC KEY-----\nAAAA\n", "no PEM"),
            ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "cannot be read"),
            (&private, "a private key"),
            (&format!("{RSA_PEM}\n{private}"), "a private key"),
            (SMALL, "2,048"),
            (&cut, "of another kind"),
        ] {
            let error = public_keys(text).err().unwrap_or_else(|| panic!("{text} was taken"));
            assert!(error.contains(expected), "{error}, expected {expected}");
        }
    }

    #[test]
    fn der_that_ends_early_says_nothing() {
        for der in [
            &b""[..],
            b"\x30",
            b"\x30\x81",
            b"\x30\x82\x01",
            b"\x30\x02\x00",
            b"\x30\x84\0\0\0\0",
            b"\x02\x00",
        ] {
            assert_eq!(value(SEQUENCE, der), None, "{der:?}");
        }
        assert_eq!(value(SEQUENCE, b"\x30\x01a\x02"), Some((&b"a"[..], &b"\x02"[..])));
        assert_eq!(value(SEQUENCE, b"\x30\x81\x01a"), Some((&b"a"[..], &b""[..])));
    }
}
