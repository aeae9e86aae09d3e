//! Requests to AWS KMS: signed, bounded in size and time, and asked again when that may help.

use std::time::Duration;

use mcpfs_trust::error::bounded;
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{HttpRequest, HttpRequestBody};
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode, redirect};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::error::KmsError;
use crate::aws;
use crate::key::uri::AwsKmsUri;

/// One try, from its first byte to its last.
const TRY: Duration = Duration::from_secs(5);
/// Reaching the endpoint.
const CONNECT: Duration = Duration::from_secs(3);
/// Tries in all; the pauses between them grow from [`PAUSE`].
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);
/// The name of systemd's credential for keys.
const CREDENTIAL: &str = "mcpfs-kms";
/// Answers have a few kilobytes.
const ANSWER_BYTES: usize = 64 << 10;

/// One key's KMS.
pub(super) struct Client {
    http: reqwest::Client,
    runtime: Runtime,
    credentials: AwsCredentialProvider,
    endpoint: String,
    region: String,
    key: String,
}

/// Why one try gave nothing.
enum Failure {
    /// Asked again, it may answer.
    Passing(String),
    Final(KmsError),
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(rename = "__type", default)]
    code: String,
    #[serde(alias = "Message", default)]
    message: String,
}

impl Client {
    pub(super) fn new(uri: &AwsKmsUri) -> Result<Self, KmsError> {
        let endpoint = uri.endpoint();
        let failed = |problem: String| KmsError::Client { endpoint: endpoint.clone(), problem };
        crate::fetch::install_crypto();
        let http = reqwest::Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .https_only(endpoint.starts_with("https:"))
            .connect_timeout(CONNECT)
            .timeout(TRY)
            .user_agent(concat!("mcpfs-signer/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| failed(reason(&error)))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| failed(error.to_string()))?;
        let unknown = |problem: String| KmsError::Credentials { problem };
        let credentials = match aws::find(CREDENTIAL).map_err(unknown)?.provider() {
            Some(given) => given,
            None => aws::machine(&uri.region).map_err(unknown)?,
        };
        Ok(Self { http, runtime, credentials, endpoint, region: uri.region.clone(), key: uri.key.clone() })
    }

    /// The answer to an action, asked for as often as makes sense.
    pub(super) fn ask<T: DeserializeOwned>(&self, action: &'static str, request: &Value) -> Result<T, KmsError> {
        let body = request.to_string();
        let answer = self.runtime.block_on(self.tried(action, &body))?;
        serde_json::from_slice(&answer).map_err(|error| self.unusable(action, &error.to_string()))
    }

    async fn tried(&self, action: &'static str, body: &str) -> Result<Vec<u8>, KmsError> {
        let mut last = String::new();
        for attempt in 0..TRIES {
            if attempt > 0 {
                let pause = PAUSE * 2_u32.pow(attempt - 1);
                tracing::info!(action, reason = last, "AWS KMS is asked again");
                tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            }
            // The credentials may be asked for over the network too.
            match tokio::time::timeout(2 * TRY, self.once(action, body)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(Failure::Final(error))) => return Err(error),
                Ok(Err(Failure::Passing(why))) => last = why,
                Err(_) => last = format!("nothing within {} seconds", 2 * TRY.as_secs()),
            }
        }
        Err(KmsError::Unreachable { endpoint: self.endpoint.clone(), action, tries: TRIES, last })
    }

    async fn once(&self, action: &'static str, body: &str) -> Result<Vec<u8>, Failure> {
        let request = self.signed(action, body).await.map_err(Failure::Final)?;
        let passing = |error: reqwest::Error| Failure::Passing(reason(&error.without_url()));
        let mut response = self.http.execute(request).await.map_err(passing)?;
        let status = response.status();
        let mut answer = Vec::new();
        while let Some(bytes) = response.chunk().await.map_err(passing)? {
            answer.extend_from_slice(&bytes);
            if answer.len() > ANSWER_BYTES {
                return Err(Failure::Final(self.unusable(action, "it is too long")));
            }
        }
        if status == StatusCode::OK {
            return Ok(answer);
        }
        let refusal = serde_json::from_slice::<Refusal>(&answer).ok().filter(|refusal| !refusal.code.is_empty());
        match refusal {
            // The name may stand behind a namespace and '#'.
            Some(refusal) if status.is_client_error() || status.is_server_error() => {
                let code = refusal.code.rsplit('#').next().unwrap_or_default();
                if may_pass(code) || status.is_server_error() {
                    return Err(Failure::Passing(bounded(&format!("{code}: {}", refusal.message))));
                }
                Err(Failure::Final(KmsError::refused(action, &self.key, code, &refusal.message)))
            }
            _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(Failure::Passing(format!("HTTP {}", status.as_u16())))
            }
            _ => Err(Failure::Final(self.unusable(action, &format!("HTTP {}", status.as_u16())))),
        }
    }

    /// A request with its signature (AWS Signature Version 4).
    async fn signed(&self, action: &'static str, body: &str) -> Result<reqwest::Request, KmsError> {
        let failed = |problem: String| KmsError::Client { endpoint: self.endpoint.clone(), problem };
        let unknown = |problem: String| KmsError::Credentials { problem };
        let credential = self.credentials.get_credential().await;
        let credential = credential.map_err(|error| unknown(bounded(&error.to_string())))?;
        aws::usable(&credential).map_err(unknown)?;
        let mut request = HttpRequest::new(HttpRequestBody::from(body.to_owned()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.parse().map_err(|_| failed("not an address".to_owned()))?;
        let target = HeaderValue::from_str(&format!("TrentService.{action}"));
        let target = target.map_err(|error| failed(error.to_string()))?;
        request.headers_mut().insert(HeaderName::from_static("x-amz-target"), target);
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-amz-json-1.1"));
        let authorizer = AwsAuthorizer::new(&credential, "kms", &self.region);
        authorizer.try_authorize(&mut request, None).map_err(|error| failed(error.to_string()))?;
        let headers = request.headers().clone();
        let request = self.http.post(&self.endpoint).headers(headers).body(body.to_owned()).build();
        request.map_err(|error| failed(reason(&error)))
    }

    fn unusable(&self, action: &'static str, problem: &str) -> KmsError {
        KmsError::Answer { endpoint: self.endpoint.clone(), action, problem: bounded(problem) }
    }
}

/// Refusals that are gone a moment later.
fn may_pass(code: &str) -> bool {
    matches!(
        code,
        "ThrottlingException"
            | "Throttling"
            | "TooManyRequestsException"
            | "RequestLimitExceeded"
            | "KMSInternalException"
            | "DependencyTimeoutException"
            | "KeyUnavailableException"
            | "ServiceUnavailableException"
    )
}

/// An error with what caused it: reqwest's own words stop at "error sending request".
fn reason(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    bounded(&text)
}
