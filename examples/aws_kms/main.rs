//! A KMS that wraps DEKs: AWS KMS's data keys seal, and each is decrypted once by who opens. `adapter.rs` is the part to take away, and to do
//! the like for another cloud (docs/clouds.md).
//!
//! `cargo run --features kms --example aws_kms`
//!
//! It talks to a stand-in on this machine, which is not AWS KMS and checks what is asked. For the real one take the region's endpoint, your
//! credentials, and a connector with TLS.

pub mod adapter;
pub mod sigv4;
pub mod stand_in;

use std::{error::Error, net::SocketAddr, sync::Arc};

use adapter::{AwsKms, PROVIDER};
use hyper_util::client::legacy::connect::HttpConnector;
use sealwire::{
    Keyring, KmsKey, Opener, Policy, Sealer,
    kms::{DataKeys, Resolver},
};
use sigv4::Credentials;
use stand_in::{ACCESS_KEY_ID, ALIAS, ARN, REGION, SECRET_ACCESS_KEY, SESSION_TOKEN, StandIn};

#[tokio::main(flavor = "current_thread")]
pub async fn main() -> Result<(), Box<dyn Error>> {
    let (stand_in, address) = StandIn::start().await?;
    let kms = Arc::new(connect(address, credentials())?);

    // The sender: a data key seals as many messages as `Reuse` lets it, and then the next is asked for.
    let keys = DataKeys::new(kms.clone(), PROVIDER, ALIAS.parse()?);
    let mut sealer = Sealer::builder().data_key(keys.another().await?).build()?;
    let mut envelopes = Vec::new();
    for order in ["one", "two", "three"] {
        envelopes.push(keys.seal(&mut sealer, b"orders", order.as_bytes()).await?);
    }

    // The receiver names the key that may be asked for: what an envelope says is its sender's choice.
    let policy = Policy { kms_keys: vec![KmsKey::new(PROVIDER, ARN)], ..Policy::default() };
    let opener = Opener::builder(Keyring::new()).policy(policy).build();
    let resolver = Resolver::builder(opener).provider(PROVIDER, kms).build();
    for envelope in &envelopes {
        let opened = resolver.open(envelope).await?;
        println!("order {}", String::from_utf8_lossy(&opened.payload));
    }

    let asked = stand_in.asked.lock().unwrap().clone();
    println!("the stand-in for AWS KMS was asked: {}", asked.join(", "));
    assert_eq!(asked, ["TrentService.GenerateDataKey", "TrentService.Decrypt"]);
    Ok(())
}

/// Without TLS, which is for a stand-in on this machine and for nothing else.
pub fn connect(address: SocketAddr, credentials: Credentials) -> Result<AwsKms<HttpConnector>, Box<dyn Error>> {
    Ok(AwsKms::new(HttpConnector::new(), format!("http://{address}/").parse()?, REGION, credentials))
}

pub fn credentials() -> Credentials {
    Credentials {
        access_key_id: ACCESS_KEY_ID.into(),
        secret_access_key: SECRET_ACCESS_KEY.to_owned().into(),
        session_token: Some(SESSION_TOKEN.to_owned().into()),
    }
}
