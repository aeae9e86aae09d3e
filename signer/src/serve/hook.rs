//! Who may wake the server: webhooks by the forge's own proof, hints by a bearer token.
//!
//! Whatever is proven, the message is only a reason to look: its body is hashed and thrown away.
//! Nobody can make the server sign, or look anywhere else, by what it says. The body is not even
//! kept: it goes through the digest as it comes.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// How a message proves itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// `X-Hub-Signature-256: sha256=<hex>`.
    Github,
    /// `X-Gitlab-Token: <secret>`.
    Gitlab,
    /// `X-Forgejo-Signature` or `X-Gitea-Signature: <hex>`.
    Gitea,
    /// `Authorization: Bearer <secret>`.
    Hint,
}

impl Way {
    /// By the path of a request.
    pub(super) fn of(path: &str) -> Option<Self> {
        match path {
            "/hooks/github" => Some(Self::Github),
            "/hooks/gitlab" => Some(Self::Gitlab),
            "/hooks/gitea" | "/hooks/forgejo" => Some(Self::Gitea),
            "/v1/hint" => Some(Self::Hint),
            _ => None,
        }
    }

    /// The headers that may carry the proof; the first that is there counts.
    pub(super) fn headers(self) -> &'static [&'static str] {
        match self {
            Self::Github => &["x-hub-signature-256"],
            Self::Gitlab => &["x-gitlab-token"],
            Self::Gitea => &["x-forgejo-signature", "x-gitea-signature"],
            Self::Hint => &["authorization"],
        }
    }
}

/// A message whose body is still coming.
pub(super) struct Pending {
    way: Way,
    secret: String,
    mac: Option<Hmac<Sha256>>,
}

impl Pending {
    pub(super) fn new(way: Way, secret: String) -> Self {
        let mac = keyed(secret.as_bytes());
        Self { way, secret, mac }
    }

    /// More of the body.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        if let Some(mac) = &mut self.mac {
            mac.update(bytes);
        }
    }

    /// Whether `proof` is right; compared in constant time.
    pub(super) fn proven_by(self, proof: &str) -> bool {
        let Some(mac) = self.mac else { return false };
        match self.way {
            Way::Github => {
                proof.strip_prefix("sha256=").and_then(unhex).is_some_and(|tag| mac.verify_slice(&tag).is_ok())
            }
            Way::Gitea => unhex(proof).is_some_and(|tag| mac.verify_slice(&tag).is_ok()),
            Way::Gitlab => is_same(&self.secret, proof),
            Way::Hint => proof.strip_prefix("Bearer ").is_some_and(|given| is_same(&self.secret, given)),
        }
    }
}

fn keyed(key: &[u8]) -> Option<Hmac<Sha256>> {
    // HMAC takes keys of any length.
    Hmac::new_from_slice(key).ok()
}

/// Two secrets, compared by their digests under a fixed message.
fn is_same(own: &str, given: &str) -> bool {
    let tag = |key: &str| keyed(key.as_bytes()).map(|mac| mac.chain_update(b"mcpfs hook").finalize().into_bytes());
    let (Some(mac), Some(given)) = (keyed(own.as_bytes()), tag(given)) else { return false };
    mac.chain_update(b"mcpfs hook").verify_slice(&given).is_ok()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    (text.len() == 64).then(|| text.as_bytes().chunks(2).map(pair).collect())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proven(way: Way, body: &[u8], proof: &str) -> bool {
        let mut pending = Pending::new(way, "It's a Secret to Everybody".to_owned());
        for part in body.chunks(3) {
            pending.update(part);
        }
        pending.proven_by(proof)
    }

    #[test]
    fn proofs_and_forgeries() {
        // The example of GitHub's documentation.
        let tag = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let body = b"Hello, World!";
        assert!(proven(Way::Github, body, &format!("sha256={tag}")));
        assert!(proven(Way::Gitea, body, tag));
        assert!(proven(Way::Gitlab, body, "It's a Secret to Everybody"));
        assert!(proven(Way::Hint, body, "Bearer It's a Secret to Everybody"));
        let flipped = tag.replacen('7', "8", 1);
        for (way, body, proof) in [
            (Way::Github, &body[..], tag.to_owned()),
            (Way::Github, body, format!("sha1={tag}")),
            (Way::Github, body, format!("sha256={flipped}")),
            (Way::Github, body, format!("sha256={}", &tag[..62])),
            (Way::Github, b"Hello, World?", format!("sha256={tag}")),
            (Way::Github, body, "sha256=".to_owned()),
            (Way::Gitea, body, flipped),
            (Way::Gitea, body, format!("{}é", &tag[..62])),
            (Way::Gitlab, body, "it's a secret to everybody".to_owned()),
            (Way::Gitlab, body, String::new()),
            (Way::Hint, body, "It's a Secret to Everybody".to_owned()),
            (Way::Hint, body, "Bearer ".to_owned()),
        ] {
            assert!(!proven(way, body, &proof), "{way:?} {proof}");
        }
    }
}
