//! Messages between two services over TCP: each knows the other's public key, every message is sealed, in order and complete, and neither
//! KMS nor certificate is asked on the way.
//!
//! `cargo run --example two_services`

use std::error::Error;

use futures_util::{SinkExt, StreamExt};
use sealwire::{
    ChannelOpener, ChannelSealer, Cmk, Keyring, Opener, Policy, Role, Sealer, SenderKey, Senders,
    connection::{OpenedStream, SealedSink},
};
use tokio::net::{TcpListener, TcpStream};

const BINDING: &[u8] = b"orders to billing, v1";

#[tokio::main(flavor = "current_thread")]
pub async fn main() -> Result<(), Box<dyn Error>> {
    // Keys are made once and kept in key files (`sealwire keygen`); only public halves change hands.
    let billing = Cmk::generate()?;
    let orders = SenderKey::generate()?;
    let (to, from) = (billing.recipient().clone(), *orders.verifying_key());

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;

    let receiver = async {
        let (socket, _) = listener.accept().await?;
        let policy = Policy { senders: Some(Senders::new([from])), ..Policy::default() };
        let opener = Opener::builder(Keyring::from(billing)).policy(policy).build();
        let mut messages = OpenedStream::new(ChannelOpener::new(opener, Role::Acceptor, BINDING), socket);
        let mut got = 0;
        while let Some(message) = messages.next().await {
            let message = message?;
            got += 1;
            println!("billing got {:?} from {}", String::from_utf8_lossy(&message.payload), message.sender.standing());
        }
        // The stream ends here only after the sender's last message: a connection that is cut is an error above.
        Ok::<_, Box<dyn Error>>(got)
    };
    let sender = async {
        let sealer = Sealer::builder().to(to).sign_with(orders).build()?;
        let channel = ChannelSealer::new(sealer, Role::Initiator, BINDING);
        let mut sink = SealedSink::new(channel, TcpStream::connect(address).await?);
        for order in 1..=3 {
            sink.send(format!("order {order}").into()).await?;
        }
        sink.close().await?;
        Ok::<_, Box<dyn Error>>(())
    };
    let (got, sent) = tokio::join!(receiver, sender);
    sent?;
    assert_eq!(got?, 3);
    Ok(())
}
