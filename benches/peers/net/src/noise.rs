//! Noise transport messages as a codec: two bytes of length before each, and a message of 65,535 bytes is followed by more
//! of the same payload.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use snow::TransportState;
use tokio_util::codec::{Decoder, Encoder};

const MOST: usize = 65_535;
const TAG: usize = 16;

pub struct NoiseCodec {
    state: TransportState,
    opened: BytesMut,
}

impl NoiseCodec {
    pub fn new(state: TransportState) -> Self {
        Self { state, opened: BytesMut::new() }
    }

    /// Opens one Noise message to the end of what has been opened.
    fn open(&mut self, sealed: &[u8]) -> io::Result<()> {
        let at = self.opened.len();
        self.opened.resize(at + sealed.len(), 0);
        let len = self.state.read_message(sealed, &mut self.opened[at..]).map_err(io::Error::other)?;
        self.opened.truncate(at + len);
        Ok(())
    }
}

impl Encoder<Bytes> for NoiseCodec {
    type Error = io::Error;

    fn encode(&mut self, mut payload: Bytes, out: &mut BytesMut) -> io::Result<()> {
        loop {
            let piece = payload.split_to(payload.len().min(MOST - TAG));
            let len = piece.len() + TAG;
            out.put_u16(len as u16);
            let at = out.len();
            out.resize(at + len, 0);
            self.state.write_message(&piece, &mut out[at..]).map_err(io::Error::other)?;
            if len < MOST {
                return Ok(());
            }
        }
    }
}

impl Decoder for NoiseCodec {
    type Item = BytesMut;
    type Error = io::Error;

    fn decode(&mut self, input: &mut BytesMut) -> io::Result<Option<BytesMut>> {
        while let Some((len, rest)) = input.split_first_chunk() {
            let len = usize::from(u16::from_be_bytes(*len));
            if rest.len() < len {
                input.reserve(2 + len - input.len());
                return Ok(None);
            }
            input.advance(2);
            self.open(&input.split_to(len))?;
            if len < MOST {
                return Ok(Some(self.opened.split()));
            }
        }
        Ok(None)
    }
}
