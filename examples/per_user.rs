//! A DEK for each user, reused for a period: a server that seals many small records for many users pays for a DEK once in a while, and no
//! two users ever share one.
//!
//! `cargo run --example per_user`

use std::{collections::HashMap, error::Error, time::Duration};

use sealwire::{Cmk, Keyring, Reuse, Sealer, SealerPool, block_name, open};

const PERIOD: Reuse = Reuse { messages: 1000, bytes: 1 << 30, age: Duration::from_secs(600) };

pub fn main() -> Result<(), Box<dyn Error>> {
    let (mut recipients, mut keyrings) = (HashMap::new(), HashMap::new());
    for user in ["ada", "bob", "cyd"] {
        let cmk = Cmk::generate()?;
        recipients.insert(user, cmk.recipient().clone());
        keyrings.insert(user, Keyring::from(cmk));
    }

    // At most two users have a DEK in memory here, and none who was away for ten minutes.
    let pool = SealerPool::new(2, PERIOD.age, move |user: &&str| {
        Sealer::builder().to_all(recipients.get(user).cloned()).reuse(PERIOD).build()
    });
    let (mut deks, mut sealed) = (HashMap::<&str, Vec<_>>::new(), Vec::new());
    for (i, user) in ["ada", "bob", "ada", "bob", "cyd", "ada"].into_iter().enumerate() {
        // The context holds a record in its place, and under its user.
        let context = format!("{user}/{i}");
        let envelope = pool.seal(&user, context.as_bytes(), format!("record {i}").as_bytes())?;
        let names = deks.entry(user).or_default();
        let name = block_name(&envelope).ok_or("no block")?;
        if !names.contains(&name) {
            names.push(name);
        }
        sealed.push((user, envelope));
    }
    for (user, envelope) in &sealed {
        let opened = open(envelope, &keyrings[user])?;
        println!("{user} reads {:?}", String::from_utf8_lossy(&opened.payload));
    }
    assert!(open(&sealed[0].1, &keyrings["bob"]).is_err());
    // Ada's sealer was let go when cyd came; her next record has another DEK.
    assert_eq!((deks["ada"].len(), deks["bob"].len(), deks["cyd"].len(), pool.len()), (2, 1, 1, 2));
    println!("{} records, {} DEKs", sealed.len(), deks.values().map(Vec::len).sum::<usize>());
    Ok(())
}
