//! AWS KMS as a [`KeyService`]: `GenerateDataKey` and `Decrypt` over its JSON interface ("AWS Key Management Service API Reference"), for CMKs
//! that are symmetric. All that sealing and opening need; the CMKs' life is managed with AWS's own tools.

use std::sync::Arc;

use base64ct::{Base64, Encoding};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::{
    client::legacy::{Client, connect::Connect},
    rt::TokioExecutor,
};
use sealwire::{
    Dek,
    kms::{DataKeyPair, KeyRef, KeyService, KeyUsed, KmsError, Reply, Unwrapped, WrappedDek},
};
use serde_json::{Value, json};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::sigv4::{Credentials, Scope, authorization};

/// What envelopes call it.
pub const PROVIDER: &str = "aws";
/// Bytes of the longest answer: a ciphertext of 6 KiB and a data key, in base64.
const ANSWER_MAX: usize = 16 * 1024;
/// Characters of the longest name of an error that is passed on.
const ERROR_MAX: usize = 64;

/// The KMS of one region. Data keys are in its answers, so the connector is one with TLS wherever the endpoint is not this machine.
pub struct AwsKms<C> {
    client: Client<C, Full<Bytes>>,
    endpoint: Uri,
    region: String,
    credentials: Credentials,
}

impl<C: Connect + Clone + Send + Sync + 'static> AwsKms<C> {
    /// `endpoint` as `https://kms.eu-central-1.amazonaws.com/`.
    pub fn new(connector: C, endpoint: Uri, region: &str, credentials: Credentials) -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build(connector), endpoint, region: region.into(), credentials }
    }

    /// One verb: what it answers, or why not.
    async fn call(&self, verb: &str, body: Value) -> Result<Value, KmsError> {
        let request = self.signed(verb, body.to_string(), OffsetDateTime::now_utc())?;
        let response = self.client.request(request).await.map_err(|error| KmsError::Unreachable(Arc::new(error)))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        let body = body.map_err(|error| KmsError::Unreachable(error.into()))?.to_bytes();
        let answer = serde_json::from_slice(&body);
        match status {
            StatusCode::OK => answer.map_err(|_| KmsError::Protocol("the answer is not JSON")),
            _ => Err(refused(status, &answer.unwrap_or_default())),
        }
    }

    fn signed(&self, verb: &str, body: String, now: OffsetDateTime) -> Result<Request<Full<Bytes>>, KmsError> {
        let host = self.endpoint.authority().map(ToString::to_string).unwrap_or_default();
        let (time, target) = (stamp(now), format!("TrentService.{verb}"));
        let mut headers = vec![
            ("content-type", "application/x-amz-json-1.1"),
            ("host", &host),
            ("x-amz-date", &time),
            ("x-amz-target", &target),
        ];
        if let Some(token) = &self.credentials.session_token {
            headers.insert(3, ("x-amz-security-token", token));
        }
        let scope = Scope { time: &time, region: &self.region, service: "kms" };
        let signature = authorization(&self.credentials, &scope, "POST", &headers, body.as_bytes());
        let request = Request::post(self.endpoint.clone()).header(header::AUTHORIZATION, signature);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.body(Full::from(body)).map_err(|_| KmsError::Invalid("the endpoint or the token is none".into()))
    }
}

impl<C: Connect + Clone + Send + Sync + 'static> KeyService for AwsKms<C> {
    /// `key` as AWS names it: `alias/orders`, or the id of a key.
    fn generate_data_key(&self, key: &KeyRef, plaintext: bool) -> Reply<'_, DataKeyPair> {
        let verb = if plaintext { "GenerateDataKey" } else { "GenerateDataKeyWithoutPlaintext" };
        let request = json!({ "KeyId": key.to_string(), "KeySpec": "AES_256" });
        Box::pin(async move {
            let mut answer = self.call(verb, request).await?;
            let plaintext = plaintext.then(|| dek(&mut answer)).transpose()?;
            let ciphertext = bytes(&mut answer, "CiphertextBlob")?.to_vec();
            Ok(DataKeyPair { plaintext, ciphertext, key: used(&mut answer)?, recipient: None })
        })
    }

    fn decrypt_data_key(&self, wrapped: WrappedDek) -> Reply<'_, Unwrapped> {
        Box::pin(async move {
            let WrappedDek::External { provider, key_ref, blob } = wrapped else {
                return Err(KmsError::Unsupported("way of unwrapping DEK blocks".into()));
            };
            if provider != PROVIDER {
                return Err(KmsError::Invalid(format!("it is for {provider}")));
            }
            // The key is named so that nobody's ciphertext is decrypted under another key of ours.
            let request = json!({ "KeyId": key_ref, "CiphertextBlob": Base64::encode_string(&blob) });
            let mut answer = self.call("Decrypt", request).await?;
            Ok(Unwrapped { dek: dek(&mut answer)?, key: used(&mut answer)?, recipient: None })
        })
    }
}

fn stamp(now: OffsetDateTime) -> String {
    let (year, month, day) = (now.year(), u8::from(now.month()), now.day());
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", now.hour(), now.minute(), now.second())
}

/// What an error says, by its name alone: the rest is for people, and not ours.
fn refused(status: StatusCode, answer: &Value) -> KmsError {
    let name = answer["__type"].as_str().and_then(|name| name.rsplit('#').next()).unwrap_or_default();
    match name {
        "AccessDeniedException" => KmsError::Denied,
        "NotFoundException" => KmsError::NotFound,
        "InvalidCiphertextException" | "IncorrectKeyException" => KmsError::CannotDecrypt,
        _ => {
            let name: String = name.chars().filter(char::is_ascii_alphanumeric).take(ERROR_MAX).collect();
            KmsError::FailedThere(format!("AWS KMS answers {} {name}", status.as_u16()))
        }
    }
}

fn dek(answer: &mut Value) -> Result<Dek, KmsError> {
    Dek::from_kms(&bytes(answer, "Plaintext")?).map_err(|_| KmsError::Protocol("the data key is not one of 256 bits"))
}

fn bytes(answer: &mut Value, field: &str) -> Result<Zeroizing<Vec<u8>>, KmsError> {
    let decoded = Base64::decode_vec(&text(answer, field)?);
    decoded.map(Zeroizing::new).map_err(|_| KmsError::Protocol("a field of the answer is not base64"))
}

fn used(answer: &mut Value) -> Result<KeyUsed, KmsError> {
    Ok(KeyUsed { id: text(answer, "KeyId")?.to_string(), version: 0 })
}

fn text(answer: &mut Value, field: &str) -> Result<Zeroizing<String>, KmsError> {
    match answer.get_mut(field).map(Value::take) {
        Some(Value::String(text)) => Ok(Zeroizing::new(text)),
        _ => Err(KmsError::Protocol("a field of the answer is missing")),
    }
}
