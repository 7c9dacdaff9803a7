//! Requests as JSON, as the vectors of key services and the second implementation have them; and verdicts in their words.

use sealwire::{
    ParseError,
    kms::{Request, WrappedDek},
};
use serde_json::{Value, json};

use super::kit::kms::hex;

/// The fields of a request.
pub fn request(request: &Request) -> Value {
    let mut value = match request {
        Request::CreateKey { kem, alias } => json!({ "kem": kem.id(), "alias": alias.as_ref().map(ToString::to_string) }),
        Request::ListKeys { after } => json!({ "after": after.map(|id| hex(&id.0)) }),
        Request::DescribeKey(key)
        | Request::EnableKey(key)
        | Request::DisableKey(key)
        | Request::CancelKeyDeletion(key)
        | Request::RotateKey(key)
        | Request::GetPublicKey(key) => json!({ "key": key.to_string() }),
        Request::ScheduleKeyDeletion { key, days } => json!({ "key": key.to_string(), "days": days }),
        Request::SetAlias { alias, key } => json!({ "alias": alias.to_string(), "key": key.to_string() }),
        Request::DeleteAlias(alias) => json!({ "alias": alias.to_string() }),
        Request::GenerateDataKey { key, plaintext } => json!({ "key": key.to_string(), "plaintext": plaintext }),
        Request::DecryptDataKey(wrapped) => json!({ "wrapped": self::wrapped(wrapped) }),
        Request::Encrypt { key, secret, context } => {
            json!({ "key": key.to_string(), "context": hex(context), "secret": hex(secret) })
        }
        Request::Decrypt { ciphertext, context } => json!({ "context": hex(context), "ciphertext": hex(ciphertext) }),
        Request::ReEncrypt { ciphertext, context, to } => {
            json!({ "key": to.to_string(), "context": hex(context), "ciphertext": hex(ciphertext) })
        }
    };
    value["verb"] = request.verb().name().into();
    value
}

fn wrapped(wrapped: &WrappedDek) -> Value {
    match wrapped {
        WrappedDek::Block(block) => json!({ "form": "block", "block": hex(block) }),
        WrappedDek::Slot { suite, hints, salt, hint, enc, wrapped_dek } => json!({
            "form": "slot", "suite": suite.number(), "hint_mode": *hints as u8, "salt": hex(salt), "hint": hex(hint),
            "wrapped_dek": hex(wrapped_dek), "enc": hex(enc),
        }),
        WrappedDek::External { provider, key_ref, blob } => {
            json!({ "form": "external", "provider": provider, "key_ref": key_ref, "blob": hex(blob) })
        }
    }
}

pub fn refused(error: &ParseError) -> &'static str {
    match error {
        ParseError::Malformed { .. } => "malformed",
        ParseError::Unsupported { .. } => "unsupported",
        ParseError::LimitExceeded(_) => "limit",
        ParseError::TrailingBytes { .. } => "trailing",
        _ => "other",
    }
}
