//! A DEK that another tool has made, imported and wrapped to a CMK: from then on the message opens with the CMK, and nobody needs the DEK.
//!
//! ```text
//! openssl rand -out dek.bin 32
//! cargo run --example imported_key dek.bin
//! ```

use std::{error::Error, fs, path::Path};

use sealwire::{Cmk, Dek, Keyring, Reuse, Sealer, open};
use zeroize::Zeroizing;

pub fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: imported_key FILE, of 32 random bytes")?;
    run(Path::new(&path))
}

pub fn run(path: &Path) -> Result<(), Box<dyn Error>> {
    let cmk = Cmk::generate()?;
    let bytes = Zeroizing::new(fs::read(path)?);
    // Whoever made the DEK may still have it, and what is under it: it seals one message here.
    let dek = Dek::from_kms(&bytes)?;
    let envelope = Sealer::builder()
        .to(cmk.recipient().clone())
        .dek(dek)
        .reuse(Reuse::NEVER)
        .build()?
        .seal(b"", b"under an imported DEK")?;
    let opened = open(&envelope, &Keyring::from(cmk))?;
    assert_eq!(&opened.payload[..], b"under an imported DEK");
    println!("wrapped, sealed and opened: {} bytes", envelope.len());
    Ok(())
}
