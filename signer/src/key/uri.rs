//! Names of keys: RFC 7512 `pkcs11:` URIs, strictly read, `awskms:///KEY?region=…`, and `demo:NAME`.
//!
//! A URI ends up in argv, in shell history and in logs, so it may not carry a PIN. What is
//! not understood is refused rather than ignored: an ignored attribute could select another key.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use url::{Host, Url};

use super::KeyError;

/// Which key to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyUri {
    /// A key in a token.
    Pkcs11(Pkcs11Uri),
    /// A key in AWS KMS.
    AwsKms(AwsKmsUri),
    /// A worthless key for registries named `demo/…`.
    Demo(String),
}

/// A key in a token: `pkcs11:token=…;object=…?module-path=…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pkcs11Uri {
    /// The token's label.
    pub token: Option<String>,
    /// The token's serial number.
    pub serial: Option<String>,
    /// The key's label (CKA_LABEL).
    pub object: Option<String>,
    /// The key's CKA_ID.
    pub id: Option<Vec<u8>>,
    /// The module's file; absolute.
    pub module: PathBuf,
}

/// A key in AWS KMS: `awskms:///KEY?region=REGION`, KEY being an id, `alias/NAME` or an ARN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsKmsUri {
    /// Its id, alias or ARN.
    pub key: String,
    /// The region; of an ARN it is part of the name.
    pub region: String,
    /// Another address than the region's own: a private endpoint, a FIPS one, a test's.
    endpoint: Option<Url>,
}

impl FromStr for KeyUri {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bad = |problem: String| KeyError::BadUri { uri: without_query(text), problem };
        if let Some(name) = text.strip_prefix("demo:") {
            let fine = name.len() <= 32 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            return if fine {
                Ok(Self::Demo(name.to_owned()))
            } else {
                Err(bad("a demo key's name is 0-9 a-z -".to_owned()))
            };
        }
        if let Some(rest) = text.strip_prefix("awskms:") {
            return AwsKmsUri::parse(rest).map(Self::AwsKms).map_err(bad);
        }
        let rest = text
            .strip_prefix("pkcs11:")
            .ok_or_else(|| bad("it begins with none of pkcs11:, awskms: and demo:".to_owned()))?;
        Pkcs11Uri::parse(rest).map(Self::Pkcs11).map_err(bad)
    }
}

impl Pkcs11Uri {
    fn parse(rest: &str) -> Result<Self, String> {
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let [mut token, mut serial, mut object, mut id, mut module] = [None, None, None, None, None];
        for (pair, in_query) in
            path.split(';').map(|pair| (pair, false)).chain(query.split('&').map(|pair| (pair, true)))
        {
            if pair.is_empty() {
                continue;
            }
            let (name, value) = pair.split_once('=').ok_or("an attribute without '='")?;
            let value = decode(value)?;
            let slot = match (in_query, name) {
                (false, "token") => &mut token,
                (false, "serial") => &mut serial,
                (false, "object") => &mut object,
                (false, "id") => &mut id,
                (false, "type") if value == b"private" => continue,
                (true, "module-path") => &mut module,
                (true, "pin-value" | "pin-source") => {
                    return Err(format!(
                        "{name} is not accepted: command lines are seen by every process here; put the PIN into a file \
                         that only you can read and name that in MCPFS_PIN_FILE, or type it when asked"
                    ));
                }
                (_, other) => return Err(format!("the attribute {other:?} is not known here")),
            };
            if value.is_empty() || slot.replace(value).is_some() {
                return Err(format!("{name} is empty or given twice"));
            }
        }
        let text =
            |bytes: Option<Vec<u8>>| bytes.map(String::from_utf8).transpose().map_err(|_| "not UTF-8".to_owned());
        let module =
            PathBuf::from(text(module)?.ok_or("module-path, the file of the token's PKCS#11 module, is missing")?);
        if !module.is_absolute() {
            return Err("module-path must be absolute".to_owned());
        }
        let uri = Self { token: text(token)?, serial: text(serial)?, object: text(object)?, id, module };
        if uri.token.is_none() && uri.serial.is_none() {
            return Err("token= or serial= is missing".to_owned());
        }
        Ok(uri)
    }

    /// The token as people call it.
    pub fn token_name(&self) -> String {
        self.token.clone().or_else(|| self.serial.as_ref().map(|serial| format!("serial {serial}"))).unwrap_or_default()
    }

    /// The key as people call it.
    pub fn key_name(&self) -> String {
        match (&self.object, &self.id) {
            (Some(object), _) => object.clone(),
            (None, Some(id)) => format!("id {}", hex(id)),
            (None, None) => "without a label".to_owned(),
        }
    }
}

impl AwsKmsUri {
    fn parse(rest: &str) -> Result<Self, String> {
        let rest = rest.strip_prefix("///").ok_or("after awskms: there are three slashes and the key")?;
        let (key, query) = rest.split_once('?').unwrap_or((rest, ""));
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/_:-".contains(&byte);
        if key.is_empty() || key.len() > 256 || !key.bytes().all(allowed) {
            return Err("the key is an id, alias/NAME or an ARN".to_owned());
        }
        let (mut region, mut endpoint) = (None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or("an attribute without '='")?;
            let value = String::from_utf8(decode(value)?).map_err(|_| "not UTF-8")?;
            let slot = match name {
                "region" => &mut region,
                "endpoint" => &mut endpoint,
                other => return Err(format!("the attribute {other:?} is not known here")),
            };
            if value.is_empty() || slot.replace(value).is_some() {
                return Err(format!("{name} is empty or given twice"));
            }
        }
        // arn:aws:kms:REGION:ACCOUNT:key/ID
        let named = key.strip_prefix("arn:").map(|arn| arn.split(':').nth(2).unwrap_or_default().to_owned());
        if named.is_some() && region.is_some() && named != region {
            return Err("region= is not the region of the ARN".to_owned());
        }
        let region = named.or(region).ok_or("region= is missing")?;
        let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if region.is_empty() || region.len() > 32 || !region.bytes().all(letters) {
            return Err("region is such as eu-central-1".to_owned());
        }
        let endpoint = endpoint.map(|text| address(&text)).transpose()?;
        Ok(Self { key: key.to_owned(), region, endpoint })
    }

    /// Where its KMS is asked.
    pub fn endpoint(&self) -> String {
        let domain = if self.region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        match &self.endpoint {
            Some(endpoint) => endpoint.to_string(),
            None => format!("https://kms.{}.{domain}/", self.region),
        }
    }
}

/// An endpoint: https, or http on this machine, and nothing but host and port.
fn address(text: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|_| "endpoint is not an address")?;
    let here = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(_)) | None => false,
    };
    let bare = url.username().is_empty() && url.password().is_none() && url.path() == "/";
    match url.scheme() {
        "https" | "http" if !bare || url.query().is_some() || url.fragment().is_some() => {
            Err("endpoint is more than https://HOST or https://HOST:PORT".to_owned())
        }
        "https" => Ok(url),
        "http" if here => Ok(url),
        _ => Err("endpoint is not https:// (http:// only to 127.0.0.1)".to_owned()),
    }
}

/// What may be echoed: a query part can hold a PIN that somebody put there.
fn without_query(text: &str) -> String {
    let shown = text.split('?').next().unwrap_or_default();
    shown.split(';').filter(|part| !part.contains("pin")).collect::<Vec<_>>().join(";").chars().take(120).collect()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn decode(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
                let (Some(high), Some(low)) = (digit(), digit()) else {
                    return Err("'%' without two hexadecimal digits".to_owned());
                };
                out.push((high << 4 | low) as u8);
            }
            0..=b' ' | 0x7f.. => return Err("a byte that must be written as %XX".to_owned()),
            other => out.push(other),
        }
    }
    Ok(out)
}

fn encode(f: &mut fmt::Formatter<'_>, bytes: &[u8], all: bool) -> fmt::Result {
    for &byte in bytes {
        let plain = byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte);
        if plain && !all { write!(f, "{}", char::from(byte))? } else { write!(f, "%{byte:02X}")? }
    }
    Ok(())
}

impl fmt::Display for KeyUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pkcs11(uri) => uri.fmt(f),
            Self::AwsKms(uri) => uri.fmt(f),
            Self::Demo(name) => write!(f, "demo:{name}"),
        }
    }
}

impl fmt::Display for AwsKmsUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "awskms:///{}?region={}", self.key, self.region)?;
        if let Some(endpoint) = &self.endpoint {
            f.write_str("&endpoint=")?;
            encode(f, endpoint.as_str().as_bytes(), false)?;
        }
        Ok(())
    }
}

impl fmt::Display for Pkcs11Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pkcs11:")?;
        let texts = [("token", &self.token), ("serial", &self.serial), ("object", &self.object)];
        let texts = texts.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?.as_bytes(), false)));
        let id = self.id.iter().map(|id| ("id", id.as_slice(), true));
        for (index, (name, value, all)) in texts.chain(id).enumerate() {
            write!(f, "{}{name}=", if index == 0 { "" } else { ";" })?;
            encode(f, value, all)?;
        }
        f.write_str("?module-path=")?;
        encode(f, self.module.as_os_str().as_encoded_bytes(), false)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn round_trips() {
        for text in [
            "pkcs11:token=mcpfs;object=release?module-path=/usr/lib/softhsm/libsofthsm2.so",
            "pkcs11:serial=00af%20;id=%01%AB?module-path=/m.so",
            "awskms:///alias/mcpfs-release?region=eu-central-1",
            "awskms:///0a-1b?region=us-east-1&endpoint=http://127.0.0.1:4566/",
            "demo:head",
        ] {
            assert_eq!(text.parse::<KeyUri>().unwrap().to_string(), text);
        }
        let KeyUri::Pkcs11(uri) = "pkcs11:token=a%3Bb;object=%C3%A9;type=private?module-path=/m".parse().unwrap()
        else {
            panic!()
        };
        assert_eq!((uri.token.as_deref(), uri.object.as_deref()), (Some("a;b"), Some("é")));
    }

    #[test]
    fn regions_and_endpoints() {
        let uri = |text: &str| match text.parse().unwrap() {
            KeyUri::AwsKms(uri) => uri,
            other => panic!("{other}"),
        };
        let arn = uri("awskms:///arn:aws:kms:eu-west-1:111122223333:key/0a-1b");
        assert_eq!(
            (arn.region.as_str(), arn.endpoint().as_str()),
            ("eu-west-1", "https://kms.eu-west-1.amazonaws.com/")
        );
        assert_eq!(arn.to_string().parse::<KeyUri>().unwrap(), KeyUri::AwsKms(arn));
        assert_eq!(uri("awskms:///k?region=cn-north-1").endpoint(), "https://kms.cn-north-1.amazonaws.com.cn/");
        let private = uri("awskms:///k?region=eu-west-1&endpoint=https://kms.example.com");
        assert_eq!(private.endpoint(), "https://kms.example.com/");
    }

    #[test]
    fn refused() {
        for bad in [
            "",
            "release",
            "file:/key.pem",
            "demo:../x",
            "awskms:alias/x?region=eu-west-1",
            "awskms://host/alias/x?region=eu-west-1",
            "awskms:///?region=eu-west-1",
            "awskms:///alias/x",
            "awskms:///alias/x?region=",
            "awskms:///alias/x?region=a.example.com/",
            "awskms:///alias/x?region=eu-west-1&region=eu-west-1",
            "awskms:///alias/x?region=eu-west-1&secret-key=x",
            "awskms:///alias/x?region=eu-west-1&endpoint=http://kms.example.com",
            "awskms:///alias/x?region=eu-west-1&endpoint=http://localhost.example.com",
            "awskms:///alias/x?region=eu-west-1&endpoint=https://a:b@kms.example.com",
            "awskms:///alias/x?region=eu-west-1&endpoint=https://kms.example.com/path",
            "awskms:///alias/x?region=eu-west-1&endpoint=ftp://kms.example.com",
            "awskms:///arn:aws:kms:eu-west-1:1:key/x?region=eu-west-2",
            "awskms:///arn:aws:kms",
            "awskms:///a b?region=eu-west-1",
            "pkcs11:",
            "pkcs11:token=a;object=b",
            "pkcs11:object=b?module-path=/m",
            "pkcs11:token=a?module-path=m.so",
            "pkcs11:token=a;token=b?module-path=/m",
            "pkcs11:token=a;slot-id=1?module-path=/m",
            "pkcs11:token=a;type=public?module-path=/m",
            "pkcs11:token=%zz?module-path=/m",
            "pkcs11:token=%FF?module-path=/m",
            "pkcs11:token=a b?module-path=/m",
            "pkcs11:token?module-path=/m",
        ] {
            assert!(matches!(bad.parse::<KeyUri>(), Err(KeyError::BadUri { .. })), "{bad}");
        }
    }

    #[test]
    fn a_pin_is_refused_and_never_echoed() {
        for text in [
            "pkcs11:token=a?module-path=/m&pin-value=4711",
            "pkcs11:token=a?pin-source=file:4711&module-path=/m",
            "pkcs11:token=a;pin-value=4711?module-path=/m",
        ] {
            let error = text.parse::<KeyUri>().unwrap_err().to_string();
            assert!(!error.contains("4711"), "{error}");
        }
        let error = "pkcs11:token=a?module-path=/m&pin-value=4711".parse::<KeyUri>().unwrap_err().to_string();
        assert!(error.contains("MCPFS_PIN_FILE"), "{error}");
    }
}
