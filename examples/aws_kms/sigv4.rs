//! A request to AWS -> its `Authorization` header: Signature Version 4, as "Create a signed AWS API request" in the user guide of AWS IAM has
//! it. For what KMS takes: the path is `/`, and there is no query.

use hkdf::hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Who asks.
pub struct Credentials {
    pub access_key_id: String,
    pub secret_access_key: Zeroizing<String>,
    /// For those that last a while only.
    pub session_token: Option<Zeroizing<String>>,
}

/// When a request is made, as `20150830T123600Z`, and of whom.
pub struct Scope<'a> {
    pub time: &'a str,
    pub region: &'a str,
    pub service: &'a str,
}

impl Scope<'_> {
    fn date(&self) -> &str {
        self.time.split('T').next().unwrap_or_default()
    }

    fn text(&self) -> String {
        format!("{}/{}/{}/aws4_request", self.date(), self.region, self.service)
    }
}

/// The header's value. The names of `headers` are in lower case and in their order, and `host` and `x-amz-date` are among them.
pub fn authorization(who: &Credentials, scope: &Scope<'_>, method: &str, headers: &[(&str, &str)], body: &[u8]) -> String {
    let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{}\n", plain(value))).collect();
    let request = format!("{method}\n/\n\n{lines}\n{names}\n{}", hex(&Sha256::digest(body)));
    let text = format!("AWS4-HMAC-SHA256\n{}\n{}\n{}", scope.time, scope.text(), hex(&Sha256::digest(request)));
    let signature = hex(&*hmac(&*signing_key(who, scope), &text));
    format!("AWS4-HMAC-SHA256 Credential={}/{}, SignedHeaders={names}, Signature={signature}", who.access_key_id, scope.text())
}

fn signing_key(who: &Credentials, scope: &Scope<'_>) -> Zeroizing<[u8; 32]> {
    let secret = Zeroizing::new(format!("AWS4{}", *who.secret_access_key));
    let parts = [scope.region, scope.service, "aws4_request"];
    parts.iter().fold(hmac(secret.as_bytes(), scope.date()), |key, part| hmac(&*key, part))
}

/// Without spaces around it, and with one at a time inside.
fn plain(value: &str) -> String {
    value.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

fn hmac(key: &[u8], text: &str) -> Zeroizing<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("every length is one of a key");
    mac.update(text.as_bytes());
    Zeroizing::new(mac.finalize().into_bytes().into())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
