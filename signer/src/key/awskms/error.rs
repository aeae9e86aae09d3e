//! What AWS KMS says no to, in words that say what to do.

use mcpfs_trust::error::bounded;

/// Why a key in AWS KMS cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // Each message says what happened and what to do.
pub enum KmsError {
    #[error("AWS KMS refused {action} of the key {key}: {code}{said}. {advice}")]
    Refused { action: &'static str, key: String, code: String, said: String, advice: &'static str },
    #[error(
        "AWS KMS at {endpoint} did not answer {action} after {tries} tries: {last}. There is no new head, and hosts see \
             what they saw before; when KMS is there again, repeat the command"
    )]
    Unreachable { endpoint: String, action: &'static str, tries: u32, last: String },
    #[error("AWS KMS at {endpoint} gave an answer to {action} that cannot be used: {problem}")]
    Answer { endpoint: String, action: &'static str, problem: String },
    #[error(
        "the key {key} in AWS KMS is not fit to sign releases: {problem}. To make one: \
             aws kms create-key --key-spec ECC_NIST_P256 --key-usage SIGN_VERIFY"
    )]
    Unfit { key: String, problem: String },
    #[error(
        "no AWS credentials: {problem}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile of \
             ~/.aws/credentials in AWS_PROFILE, or give this machine or container a role"
    )]
    Credentials { problem: String },
    #[error("cannot ask AWS KMS at {endpoint}: {problem}")]
    Client { endpoint: String, problem: String },
}

impl KmsError {
    pub(super) fn refused(action: &'static str, key: &str, code: &str, message: &str) -> Self {
        let said = if message.is_empty() { String::new() } else { format!(": {}", bounded(message)) };
        Self::Refused { action, key: key.to_owned(), code: bounded(code), said, advice: advice(code) }
    }
}

fn advice(code: &str) -> &'static str {
    match code {
        "AccessDeniedException" => {
            "Whoever these credentials are needs kms:DescribeKey, kms:GetPublicKey and kms:Sign for this key"
        }
        "NotFoundException" => "See the key's id or alias, the region and the account",
        "DisabledException" | "KMSInvalidStateException" => "Enable the key, or use another one",
        "InvalidKeyUsageException" => "The key must be one for SIGN_VERIFY",
        "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "IncompleteSignatureException"
        | "ExpiredTokenException"
        | "MissingAuthenticationTokenException" => {
            "See that the credentials are the right ones and have not expired, and that this machine's clock is right"
        }
        _ => "See the message, correct it, then repeat the command",
    }
}
