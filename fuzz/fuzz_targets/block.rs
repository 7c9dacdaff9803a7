//! parse(x) = Ok(y)  =>  encode(y) = x
#![no_main]
use sealwire::{Limits, wire::DekBlock};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok((raw, block)) = DekBlock::parse(data, &Limits::default()) else { return };
    let mut again = Vec::new();
    block.encode(&mut again);
    assert_eq!(again, raw);
    assert_eq!((block.encoded_len(), &data[..raw.len()]), (raw.len(), raw));
    assert_eq!((block.slots.iter().count(), block.externals.iter().count()), (block.slots.len(), block.externals.len()));
});
