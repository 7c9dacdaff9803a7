//! Nothing opens that was not sealed.
#![no_main]
use bytes::BytesMut;
use sealwire_fuzz::{edit, envelopes, opener};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    let (genuine, payload) = &envelopes()[usize::from(*kind) % 3];
    let bytes = if kind & 0x80 != 0 { rest.to_vec() } else { edit(genuine, rest) };
    let opened = opener().open(&bytes);
    match &opened {
        Ok(opened) => assert!(&bytes == genuine && opened.payload == payload && &opened.context[..] == b"ctx"),
        Err(_) => assert_ne!(&bytes, genuine),
    }
    let in_place = opener().open_in_place(BytesMut::from(&bytes[..]));
    assert_eq!(format!("{opened:?}"), format!("{in_place:?}"));
});
