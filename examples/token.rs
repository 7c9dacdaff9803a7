//! A CMK that is made in a token and never leaves it: whoever has its public half seals, as to any other recipient, and the token
//! opens.
//!
//! `cargo run --example token --features pkcs11 -- MODULE TOKEN`, with the PIN on the standard input. docs/tokens.md has the
//! whole of it, with
//! SoftHSM2.

use std::{env, error::Error, io, sync::Arc};

use sealwire::{
    Keyring, Opener, Recipient,
    kms::pkcs11::{KeyName, Module, Pin, Token, TokenError, TokenKey, TokenName},
    seal,
};

pub fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let (Some(module), Some(label)) = (args.next(), args.next()) else { return Err("usage: token MODULE TOKEN < PIN".into()) };
    let mut pin = String::new();
    io::stdin().read_line(&mut pin)?;
    let token = Token::open(&Module::load(module)?, TokenName::Label(label), Pin::new(pin.trim_end())?)?;
    let key = found_or_made(&token)?;
    println!("{} ({}), never out of the token: {}", key.label(), key.recipient().fingerprint(), key.never_left());

    // Whoever seals has this string and nothing else.
    let recipient: Recipient = key.recipient().to_string().parse()?;
    let envelope = seal(b"an order", &[recipient])?;

    let keyring = Keyring::new();
    keyring.add_decapsulator(Arc::new(key));
    let opened = Opener::new(keyring).open(&envelope)?;
    println!("{}", String::from_utf8_lossy(&opened.payload));
    Ok(())
}

fn found_or_made(token: &Token) -> Result<TokenKey, TokenError> {
    match token.find(KeyName::Label("cmk 2026")) {
        Err(TokenError::NoKey) => token.generate("cmk 2026", b"\x01"),
        found => found,
    }
}
