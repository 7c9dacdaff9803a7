//! A file at rest, under a KMS that you already have: create a CMK, generate a data key, encrypt here, keep the ciphertext DEK and the
//! ciphertext together, and the way back. With the CMK deleted, the file is gone for good.
//!
//! `cargo run --example local_file`

use std::{
    error::Error,
    fs::File,
    io::{Read, Write},
};

use sealwire::{
    DataKey, Dek, Keyring, KmsKey, Opener, Policy, Sealer,
    stream::{OpenReader, SealWriter},
    wire::{DekBlock, Limits},
};
use zeroize::Zeroize;

#[path = "stand_in/mod.rs"]
mod stand_in;

const PROVIDER: &str = "stand-in";
const CMK: &str = "alias/backups";

pub fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("ledger.swe");
    let mut kms = stand_in::Kms::default();
    kms.create_key(CMK);

    // Encrypt: the KMS makes the data key, the payload never leaves this machine, the plaintext key is wiped as soon as it was used.
    let payload = b"12 Nov  paid  40.00\n".repeat(50_000);
    let mut generated = kms.generate_data_key(CMK).ok_or("the KMS has no such key")?;
    let data_key = DataKey::from_kms(PROVIDER, CMK, &generated.plaintext, &generated.ciphertext)?;
    generated.plaintext.zeroize();
    let mut sealer = Sealer::builder().data_key(data_key).build()?;
    let mut writer = SealWriter::new(&mut sealer, b"ledger 2026", File::create(&path)?)?;
    writer.write_all(&payload)?;
    writer.finish()?.sync_all()?;
    println!("sealed {} bytes into one file of {}", payload.len(), path.metadata()?.len());

    // And back: the file says whom to ask and with what; the policy says whom we are willing to ask.
    let policy = Policy { kms_keys: vec![KmsKey::new(PROVIDER, CMK)], context: Some(b"ledger 2026".into()), ..Policy::default() };
    let opener = Opener::builder(Keyring::new()).policy(policy).build();
    let mut front = Vec::new();
    File::open(&path)?.take(Limits::default().block).read_to_end(&mut front)?;
    let (block, parsed) = DekBlock::parse(&front, &Limits::default())?;
    for external in opener.policy().named(&parsed) {
        if let Some(mut plaintext) = kms.decrypt(external.key_ref, external.blob) {
            opener.learn(block, &Dek::from_kms(&plaintext)?)?;
            plaintext.zeroize();
        }
    }
    let mut opened = Vec::new();
    OpenReader::new(&opener, File::open(&path)?)?.read_to_end(&mut opened)?;
    assert_eq!(opened, payload);
    println!("opened {} bytes through {PROVIDER}, {CMK}", opened.len());

    kms.delete_key(CMK);
    let external = parsed.externals.iter().next().ok_or("no external")?;
    assert!(kms.decrypt(external.key_ref, external.blob).is_none());
    println!("the CMK is deleted: nobody opens this file any more");
    Ok(())
}
