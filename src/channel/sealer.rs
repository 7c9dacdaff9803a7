use bytes::BytesMut;
use zeroize::Zeroize;

use super::Role;
use crate::{
    crypto::{Secret32, proof::Covers},
    keys::DataKey,
    payload::Plaintext,
    seal::{Epoch, Front, Lead, Message, SealError, Sealer, Started},
    wire::{Flags, check_context},
};

/// The sending end of a channel (spec 9): an envelope, follow-ups, renewals, and the last message.
///
/// ```
/// use bytes::BytesMut;
/// use sealwire::{ChannelOpener, ChannelSealer, Cmk, Keyring, Opener, Role, Sealer};
/// let cmk = Cmk::generate()?;
/// let sealer = Sealer::builder().to(cmk.recipient().clone()).build()?;
/// let mut sender = ChannelSealer::new(sealer, Role::Initiator, b"greeting");
/// let mut wire = BytesMut::new();
/// sender.seal(b"", b"one", &mut wire)?;
/// sender.seal_last(b"", b"two", &mut wire)?;
///
/// let mut receiver = ChannelOpener::new(Opener::new(Keyring::from(cmk)), Role::Acceptor, b"greeting");
/// assert_eq!(&receiver.next(&mut wire)?.expect("whole").payload[..], b"one");
/// assert_eq!(&receiver.next(&mut wire)?.expect("whole").payload[..], b"two");
/// receiver.end(&wire)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ChannelSealer {
    sealer: Sealer,
    role: Role,
    binding: Vec<u8>,
    epoch: Option<Epoch>,
    first_header_mac: Option<[u8; 32]>,
    /// DEKs that have been taken up.
    epochs: u64,
    renew: bool,
    state: State,
    aad: Vec<u8>,
}

/// A message that has its number and is sealed in parts: one for each segment.
#[derive(Clone, Copy)]
pub(crate) struct Sending {
    lead: Lead,
    flags: Flags,
    started: Started,
}

impl Sending {
    #[cfg(feature = "codec")]
    pub(crate) fn parts(&self) -> usize {
        self.started.plan.segments()
    }

    #[cfg(feature = "codec")]
    pub(crate) fn part_len(&self, i: usize) -> usize {
        self.started.part_len(i)
    }

    /// Bytes before the first segment.
    #[cfg(feature = "codec")]
    pub(crate) fn front_len(&self) -> usize {
        self.started.front
    }

    fn front<'a>(&self, context: &'a [u8]) -> Front<'a> {
        Front { lead: self.lead, flags: self.flags, context }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Closed,
    Failed,
}

impl ChannelSealer {
    /// A channel from `role`'s side, with recipients and settings of `sealer`, whatever its binding. It begins with a
    /// DEK of its own, whatever the sealer has used. [CHN-12]
    #[must_use]
    pub fn new(sealer: Sealer, role: Role, binding: &[u8]) -> Self {
        Self {
            sealer: sealer.without_epoch(),
            role,
            binding: binding.to_vec(),
            epoch: None,
            first_header_mac: None,
            epochs: 0,
            renew: false,
            state: State::Open,
            aad: Vec::new(),
        }
    }

    /// Appends a message to `out`.
    ///
    /// # Errors
    /// [`SealError`]; `out` is then as it was. After a message that was refused for its size the channel goes on;
    /// after everything that cost a sequence number it has failed.
    pub fn seal(&mut self, context: &[u8], payload: &[u8], out: &mut BytesMut) -> Result<(), SealError> {
        self.append(context, payload, Flags::default(), out)
    }

    /// Appends the channel's last message.
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
    pub fn seal_last(&mut self, context: &[u8], payload: &[u8], out: &mut BytesMut) -> Result<(), SealError> {
        let flags = Flags::LAST;
        if payload.is_empty() {
            // A last message with nothing in it is a notice and is not delivered; an empty one in a batch is. [CHN-13]
            return self.append(context, &[0; 4], flags | Flags::BATCH, out);
        }
        self.append(context, payload, flags, out)
    }

    /// Appends a notice that the channel ends, where the last message has been sent as an ordinary one.
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
    pub fn finish(&mut self, out: &mut BytesMut) -> Result<(), SealError> {
        self.append(&[], &[], Flags::LAST, out)
    }

    /// Makes the next message a renewal: a new DEK, wrapped anew.
    pub fn renew(&mut self) {
        self.renew = true;
    }

    /// Makes the next message a renewal under this data key ([`Sealer::renew_with`]).
    ///
    /// # Errors
    /// As [`Sealer::renew_with`].
    pub fn renew_with(&mut self, data_key: DataKey) -> Result<(), SealError> {
        self.sealer.renew_with(data_key)?;
        self.renew = true;
        Ok(())
    }

    /// The header_mac of the first block, once a message has been sealed: what replies bind
    /// ([`reply_binding`](super::reply_binding)).
    #[must_use]
    pub fn first_header_mac(&self) -> Option<&[u8; 32]> {
        self.first_header_mac.as_ref()
    }

    /// Whether the last message has been sealed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    fn append(&mut self, context: &[u8], payload: &[u8], flags: Flags, out: &mut BytesMut) -> Result<(), SealError> {
        let plaintext = self.plaintext(payload)?;
        let sending = self.start(context, plaintext.len(), flags.with(Flags::PADDED, plaintext.is_padded()))?;
        self.put(&sending, |epoch, aad| epoch.append(&sending.started, sending.front(context), &plaintext, aad, out))
    }

    /// A payload as it is sealed here.
    pub(crate) fn plaintext<'a>(&self, payload: &'a [u8]) -> Result<Plaintext<'a>, SealError> {
        Ok(Plaintext::new(payload, self.sealer.settings.pad, &self.sealer.settings.limits)?)
    }

    /// DEKs that have been taken up.
    #[cfg(feature = "codec")]
    pub(crate) fn epochs(&self) -> u64 {
        self.epochs
    }

    #[cfg(feature = "codec")]
    pub(crate) fn check_process(&self) -> Result<(), SealError> {
        self.sealer.check_process()
    }

    #[cfg(feature = "codec")]
    pub(crate) fn settings(&self) -> &crate::SealerBuilder {
        &self.sealer.settings
    }

    /// Whether a message of `len` bytes of plaintext has a DEK: asked before anything is done that cannot be taken back.
    #[cfg(feature = "codec")]
    pub(crate) fn check_dek(&self, len: usize) -> Result<(), SealError> {
        self.sealer.check_next_dek().or_else(|spent| match &self.epoch {
            Some(epoch) if self.goes_on(epoch, len) => Ok(()),
            _ => Err(spent),
        })
    }

    /// Whether a message of `len` bytes of plaintext is sealed under the DEK in use.
    fn goes_on(&self, epoch: &Epoch, len: usize) -> bool {
        !self.renew && !self.sealer.is_spent(epoch, len)
    }

    /// Gives a message of `len` bytes of plaintext its number. From here on the channel has failed unless all its parts follow.
    #[inline(always)]
    pub(crate) fn start(&mut self, context: &[u8], len: usize, flags: Flags) -> Result<Sending, SealError> {
        match self.state {
            State::Open => {}
            // [CHN-8]
            State::Closed => return Err(SealError::Closed),
            // [CHN-14]
            State::Failed => return Err(SealError::Failed),
        }
        self.sealer.check_process()?;
        // [LIM-4]
        check_context(context, &self.sealer.settings.limits)?;
        let (lead, chain) = self.ready_epoch(len)?;
        let flags = (flags | Flags::CHANNEL).with(Flags::ACCEPTOR, self.role == Role::Acceptor);
        let front = Front { lead, flags, context };
        let message = Message { front, chain: chain.as_ref(), binding: &self.binding };
        let epoch = self.epoch.as_mut().ok_or(SealError::Failed)?;
        self.state = State::Failed;
        let started = epoch.begin(&message, len, self.sealer.settings.segment_log2, &mut self.aad)?;
        self.state = if flags.last() { State::Closed } else { State::Open };
        Ok(Sending { lead, flags, started })
    }

    /// Seals part `i` of a message into `out`, which is as long as that part.
    #[cfg(feature = "codec")]
    pub(crate) fn put_part(
        &mut self,
        sending: &Sending,
        context: &[u8],
        plaintext: &Plaintext<'_>,
        i: usize,
        out: &mut [u8],
    ) -> Result<(), SealError> {
        self.put(sending, |epoch, aad| epoch.put_part(&sending.started, sending.front(context), plaintext, i, aad, out))
    }

    /// Seals a message of one segment, whose plaintext stands in `out` where its ciphertext is to be.
    #[cfg(feature = "codec")]
    pub(crate) fn put_around(&mut self, sending: &Sending, context: &[u8], out: &mut [u8]) -> Result<(), SealError> {
        self.put(sending, |epoch, aad| epoch.put_around(&sending.started, sending.front(context), aad, out))
    }

    #[inline]
    fn put(&mut self, sending: &Sending, put: impl FnOnce(&Epoch, &[u8]) -> Result<(), SealError>) -> Result<(), SealError> {
        let sealed = put(self.epoch.as_ref().ok_or(SealError::Failed)?, &self.aad);
        // It may hold the chain, and is needed for the first segment alone.
        if sending.lead == Lead::Envelope {
            self.aad.zeroize();
        }
        if sealed.is_err() {
            self.state = State::Failed;
        }
        sealed
    }

    /// Makes sure that there is an epoch that may seal `len` bytes more; tells how the message begins, and the chain
    /// of the epoch before where it renews one.
    #[inline]
    fn ready_epoch(&mut self, len: usize) -> Result<(Lead, Option<Secret32>), SealError> {
        let covers = Covers::Channel { acceptor: self.role == Role::Acceptor, binding: &self.binding };
        if self.sealer.settings.signs_messages {
            return Err(SealError::ChannelOfSignedMessages);
        }
        let Some(epoch) = &self.epoch else {
            let first = self.sealer.fresh_epoch(0, covers)?;
            self.first_header_mac = first.header_mac();
            self.epoch = Some(first);
            self.epochs = 1;
            return Ok((Lead::Envelope, None));
        };
        // [KEY-4] [CHN-4]
        let next_seq = epoch.next_seq.ok_or(SealError::SequenceExhausted)?;
        if self.goes_on(epoch, len) {
            return Ok((Lead::FollowUp, None));
        }
        // [CHN-7]
        let chain = epoch.schedule.chain()?;
        self.epoch = Some(self.sealer.fresh_epoch(next_seq, covers)?);
        self.epochs = self.epochs.saturating_add(1);
        self.renew = false;
        Ok((Lead::Envelope, Some(chain)))
    }

    #[cfg(feature = "testing")]
    pub(crate) fn skip_to_seq(&mut self, seq: u64) {
        if let Some(epoch) = &mut self.epoch {
            epoch.next_seq = Some(seq);
        }
    }
}
