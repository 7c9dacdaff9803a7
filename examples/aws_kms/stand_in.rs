//! A stand-in for AWS KMS on this machine, so that the example runs anywhere. It is not AWS KMS: it refuses requests that are not in the form
//! that AWS documents, signature included, and answers in that form; the cryptography behind it is `../stand_in`'s.

#[allow(dead_code, reason = "keys are not deleted here")]
#[path = "../stand_in/mod.rs"]
mod memory;

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use base64ct::{Base64, Encoding};
use bytes::Bytes;
use hkdf::hmac::{Hmac, KeyInit, Mac};
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request, Response,
    body::Incoming,
    header::{AUTHORIZATION, HeaderName},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

pub const REGION: &str = "eu-central-1";
pub const ACCESS_KEY_ID: &str = "AKIDSTANDIN";
pub const SECRET_ACCESS_KEY: &str = "the secret of the stand-in";
pub const SESSION_TOKEN: &str = "a token/of+the stand-in==";
pub const ALIAS: &str = "alias/orders";
pub const ARN: &str = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";

#[derive(Default)]
pub struct StandIn {
    keys: memory::Kms,
    /// The verbs that were asked, and refused or not.
    pub asked: Mutex<Vec<String>>,
    /// What it says instead of an answer: a status and a body.
    pub says: Mutex<Option<(u16, Vec<u8>)>>,
    /// Whether it accepts requests and answers none.
    pub hangs: Mutex<bool>,
}

impl StandIn {
    /// On a port of this machine, as long as the runtime lasts.
    pub async fn start() -> io::Result<(Arc<Self>, SocketAddr)> {
        let mut stand_in = Self::default();
        stand_in.keys.create_key(ARN);
        let stand_in = Arc::new(stand_in);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(serve(stand_in.clone(), listener));
        Ok((stand_in, address))
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        if *self.hangs.lock().unwrap() {
            std::future::pending::<()>().await;
        }
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let target = parts.headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
        self.asked.lock().unwrap().push(target.to_owned());
        let said = self.says.lock().unwrap().clone();
        let (status, body) = said.unwrap_or_else(|| {
            let answer = check_form(&parts.method, parts.uri.path_and_query().map_or("", |path| path.as_str()), &parts.headers)
                .and_then(|()| check_signature(&parts.headers, &body))
                .and_then(|()| self.act(target, &body));
            match answer {
                Ok(answer) => (200, answer.to_string().into()),
                Err(name) => (400, json!({ "__type": name, "message": "said by the stand-in" }).to_string().into()),
            }
        });
        Ok(Response::builder().status(status).body(Full::from(body)).unwrap())
    }

    fn act(&self, target: &str, body: &[u8]) -> Result<Value, &'static str> {
        let fields: HashMap<String, String> = serde_json::from_slice(body).map_err(|_| "SerializationException")?;
        let field = |name: &str| fields.get(name).map(String::as_str).ok_or("ValidationException");
        let arn = if field("KeyId")? == ALIAS { ARN } else { field("KeyId")? };
        if fields.len() != 2 {
            return Err("ValidationException");
        }
        let encode = |bytes: &[u8]| Base64::encode_string(bytes);
        match target {
            "TrentService.GenerateDataKey" | "TrentService.GenerateDataKeyWithoutPlaintext" => {
                if field("KeySpec")? != "AES_256" {
                    return Err("ValidationException");
                }
                let made = self.keys.generate_data_key(arn).ok_or("NotFoundException")?;
                let mut answer = json!({ "CiphertextBlob": encode(&made.ciphertext), "KeyId": arn });
                if target.ends_with("Key") {
                    answer["Plaintext"] = encode(&made.plaintext).into();
                }
                Ok(answer)
            }
            "TrentService.Decrypt" => {
                let blob = Base64::decode_vec(field("CiphertextBlob")?).map_err(|_| "SerializationException")?;
                let plaintext = self.keys.decrypt(arn, &blob).ok_or("InvalidCiphertextException")?;
                Ok(json!({ "Plaintext": encode(&plaintext), "KeyId": arn, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT" }))
            }
            _ => Err("UnknownOperationException"),
        }
    }
}

async fn serve(stand_in: Arc<StandIn>, listener: TcpListener) {
    while let Ok((socket, _)) = listener.accept().await {
        let stand_in = stand_in.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| stand_in.answer(request));
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).await
        });
    }
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Result<&'h str, &'static str> {
    let mut all = headers.get_all(name.parse::<HeaderName>().map_err(|_| "IncompleteSignature")?).iter();
    match (all.next().map(|value| value.to_str()), all.next()) {
        (Some(Ok(value)), None) => Ok(value),
        _ => Err("IncompleteSignature"),
    }
}

fn check_form(method: &Method, path: &str, headers: &HeaderMap) -> Result<(), &'static str> {
    let is_json = header(headers, "content-type")? == "application/x-amz-json-1.1";
    if method == Method::POST && path == "/" && is_json { Ok(()) } else { Err("UnknownOperationException") }
}

/// The signature once more, from what has arrived.
fn check_signature(headers: &HeaderMap, body: &[u8]) -> Result<(), &'static str> {
    let given = header(headers, AUTHORIZATION.as_str())?.strip_prefix("AWS4-HMAC-SHA256 ").ok_or("IncompleteSignature")?;
    let parts: HashMap<&str, &str> = given.split(", ").filter_map(|part| part.split_once('=')).collect();
    let part = |name: &str| parts.get(name).copied().ok_or("IncompleteSignature");
    let (names, time) = (part("SignedHeaders")?, header(headers, "x-amz-date")?);
    let scope = format!("{}/{REGION}/kms/aws4_request", time.get(..8).ok_or("IncompleteSignature")?);
    if part("Credential")? != format!("{ACCESS_KEY_ID}/{scope}") {
        return Err("UnrecognizedClientException");
    }
    check_time(time)?;
    check_names(names, headers)?;
    let mut request = String::from("POST\n/\n\n");
    for name in names.split(';') {
        request += &format!("{name}:{}\n", header(headers, name)?);
    }
    request += &format!("\n{names}\n{}", lower_hex(&Sha256::digest(body)));
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", lower_hex(&Sha256::digest(request)));
    let mut key = format!("AWS4{SECRET_ACCESS_KEY}").into_bytes();
    for part in scope.split('/').chain([&text[..]]) {
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
        mac.update(part.as_bytes());
        key = mac.finalize().into_bytes().to_vec();
    }
    if part("Signature")? == lower_hex(&key) { Ok(()) } else { Err("InvalidSignatureException") }
}

/// In their order, and none left out that matters.
fn check_names(names: &str, headers: &HeaderMap) -> Result<(), &'static str> {
    let names: Vec<_> = names.split(';').collect();
    let mut needed = vec!["content-type", "host", "x-amz-date", "x-amz-target"];
    if let Some(token) = headers.get("x-amz-security-token") {
        needed.push("x-amz-security-token");
        if token != SESSION_TOKEN {
            return Err("UnrecognizedClientException");
        }
    }
    let all = needed.iter().all(|name| names.contains(name)) && names.is_sorted();
    if all { Ok(()) } else { Err("IncompleteSignature") }
}

/// Within five minutes of this machine's.
fn check_time(time: &str) -> Result<(), &'static str> {
    let digits: String = time.chars().filter(char::is_ascii_digit).collect();
    let number =
        |from: usize, to: usize| digits.get(from..to).and_then(|text| text.parse::<u16>().ok()).ok_or("IncompleteSignature");
    let month = time::Month::try_from(number(4, 6)? as u8).map_err(|_| "IncompleteSignature")?;
    let date = time::Date::from_calendar_date(number(0, 4)?.into(), month, number(6, 8)? as u8);
    let clock = time::Time::from_hms(number(8, 10)? as u8, number(10, 12)? as u8, number(12, 14)? as u8);
    let (Ok(date), Ok(clock)) = (date, clock) else { return Err("IncompleteSignature") };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let then = date.with_time(clock).assume_utc().unix_timestamp().unsigned_abs();
    if now.abs_diff(then) <= 300 { Ok(()) } else { Err("InvalidSignatureException") }
}

fn lower_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
