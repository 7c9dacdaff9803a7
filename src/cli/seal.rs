//! seal.

use std::{
    io::{IsTerminal, Read, Seek, Write},
    path::Path,
};

use bytes::BytesMut;

use super::{
    Failure,
    args::SealArgs,
    copy::{CHUNK, Copying, Progress, copy, spool},
    fail::{note, show},
    io::{
        Output, check_apart, check_dek_apart, check_secrets_apart, cores, input, input_len, input_version, is_dash, lines,
        output_beside, output_path,
    },
    keys::{read_recipients, read_sender_key},
    kms::Pair,
    large,
    lines::next_line,
    replace::{Identity, Parked},
};
use crate::{
    armor::ArmorWriter,
    channel::{ChannelSealer, Role},
    seal::Sealer,
    stream::{DetachedWriter, SealWriter, StreamError},
};

pub(super) fn run(args: &SealArgs) -> Result<(), Failure> {
    check_dek_apart(args.dek.as_deref(), [&args.input].into_iter())?;
    let pair = args.dek.as_deref().map(Pair::read).transpose()?;
    let mut to = read_recipients(&args.to)?;
    if let Some(Pair { recipient, .. }) = &pair
        && !to.contains(recipient)
    {
        to.push(recipient.clone());
    }
    let suite = args.suite.for_messages_of(if args.channel { Some(0) } else { input_len(&args.input) }, &to);
    let mut sealer = Sealer::builder()
        .to_all(to)
        .suite(suite)
        .hints(args.hints.into())
        .enc_per_slot(args.enc_per_slot)
        .pad(args.pad)
        .segment_log2(args.segment_size);
    if let Some(Pair { dek, .. }) = pair {
        sealer = sealer.dek(dek);
    }
    if let Some(path) = &args.sign_with {
        let key = read_sender_key(path, &args.passphrase)?;
        sealer = if args.channel { sealer.sign_with(key) } else { sealer.sign_messages_with(key) };
    }
    let sealer = sealer.build()?;
    check_secrets_apart(output_path(&args.output), args.to.lists.iter().chain(&args.sign_with), &args.passphrase)?;
    if let Some(header) = &args.detached {
        check_secrets_apart(header, args.to.lists.iter().chain(&args.sign_with), &args.passphrase)?;
    }
    match &args.detached {
        _ if args.channel => seal_channel(args, sealer),
        Some(header) => seal_detached(args, header, sealer),
        None => seal_one(args, sealer),
    }
}

/// A payload on its way into a message.
struct Payload<'a> {
    bytes: Box<dyn Read>,
    path: &'a Path,
    version: Option<Identity>,
    name: String,
    progress: Progress,
}

impl<'a> Payload<'a> {
    fn new(args: &'a SealArgs, output: &Output) -> Result<Self, Failure> {
        let to_terminal = matches!(output, Output::Stream(..)) && std::io::stdout().is_terminal();
        let progress = Progress::of(input_len(&args.input)).hidden_if(to_terminal);
        let (path, version) = (args.input.as_path(), input_version(&args.input));
        Ok(Self { bytes: input(path)?, path, version, name: show(path), progress })
    }

    fn copy_to(&mut self, target: &mut dyn Write) -> Result<(), Copying> {
        copy(&mut self.bytes, target, &mut self.progress)
    }

    /// Seals it where it is a large file; gives the DEK block.
    fn seal_large(&mut self, args: &SealArgs, sealer: &mut Sealer, output: &Output) -> Option<Result<Vec<u8>, Copying>> {
        large::seal(sealer, args.context.as_bytes(), args.detached.is_some(), self.path, output, &mut self.progress)
    }

    /// Half of what was sealed may be of another version than the rest.
    fn warn_if_changed(&self) {
        if self.version.is_some() && input_version(self.path) != self.version {
            note(&format!("warning: {} was changed while it was read", self.name));
        }
    }
}

/// Seals the input as one message of any size, in the memory of some segments.
fn seal_one(args: &SealArgs, mut sealer: Sealer) -> Result<(), Failure> {
    let mut output = output_beside(&args.input, &args.output, !args.armor)?;
    let mut payload = Payload::new(args, &output)?;
    let large = if args.armor { None } else { payload.seal_large(args, &mut sealer, &output) };
    let sealed = match large {
        Some(sealed) => sealed.map(drop).map_err(|error| error.about(&payload.name, output.name())),
        None => seal_as_it_comes(args, &mut sealer, &mut payload, &mut output),
    };
    payload.warn_if_changed();
    sealed?;
    output.finish()
}

fn seal_as_it_comes(args: &SealArgs, sealer: &mut Sealer, payload: &mut Payload<'_>, output: &mut Output) -> Result<(), Failure> {
    let target = output.name().to_owned();
    // The proof stands at the front and is made last: where nobody can go back, such a message waits on the disk, sealed.
    let waits = args.sign_with.is_some() && (args.armor || matches!(output, Output::Stream(..)));
    let sealed = match output {
        _ if waits => {
            let mut spool = spool()?;
            let began = SealWriter::seekable(sealer, args.context.as_bytes(), &mut spool);
            seal_into(began, payload)
                .map(drop)
                .and_then(|()| spool.rewind().map_err(Copying::Writing))
                .and_then(|()| pass_on(&mut spool, args.armor, output.writer()))
        }
        Output::File(file, _) if !args.armor => {
            seal_into(SealWriter::seekable(sealer, args.context.as_bytes(), &mut file.temporary), payload).map(drop)
        }
        output if args.armor => {
            armored(output.writer(), |armor| seal_into(SealWriter::new(sealer, args.context.as_bytes(), armor), payload))
        }
        output => seal_into(SealWriter::new(sealer, args.context.as_bytes(), output.writer()), payload).map(drop),
    };
    sealed.map_err(|error| error.about(&payload.name, &target))
}

fn seal_into<W: Write>(began: Result<SealWriter<W>, StreamError>, payload: &mut Payload<'_>) -> Result<W, Copying> {
    let mut writer = began.map_err(Copying::ending)?.threads(cores());
    payload.copy_to(&mut writer)?;
    writer.finish().map_err(Copying::ending)
}

fn armored<W: Write>(out: W, write: impl FnOnce(ArmorWriter<W>) -> Result<ArmorWriter<W>, Copying>) -> Result<(), Copying> {
    let armor = ArmorWriter::new(out).map_err(Copying::Writing)?;
    write(armor)?.finish().map(drop).map_err(Copying::Writing)
}

/// What has waited, to where it goes.
fn pass_on(sealed: &mut dyn Read, armor: bool, out: &mut dyn Write) -> Result<(), Copying> {
    let mut unseen = Progress::of(None).hidden_if(true);
    if !armor {
        return copy(sealed, out, &mut unseen);
    }
    armored(out, |mut armor| copy(sealed, &mut armor, &mut unseen).map(|()| armor))
}

/// Seals the input as one message whose DEK block has a file of its own. Both appear when both are whole.
fn seal_detached(args: &SealArgs, header: &Path, mut sealer: Sealer) -> Result<(), Failure> {
    if is_dash(header) {
        return Err(Failure::usage("--detached: the DEK block needs a file of its own; name it"));
    }
    check_apart("--detached", header, &args.input, &args.output)?;
    let mut output = output_beside(&args.input, &args.output, true)?;
    let mut block_output = Output::file(header, args.output.force)?;
    let mut payload = Payload::new(args, &output)?;
    let target = output.name().to_owned();
    let sealed = payload.seal_large(args, &mut sealer, &output).unwrap_or_else(|| {
        let writer = DetachedWriter::new(&mut sealer, args.context.as_bytes(), output.writer()).map_err(Copying::ending)?;
        let mut writer = writer.threads(cores());
        payload.copy_to(&mut writer)?;
        writer.finish().map(|(_, block)| block).map_err(Copying::ending)
    });
    payload.warn_if_changed();
    block_output.write(&sealed.map_err(|error| error.about(&payload.name, &target))?)?;
    match (output.park()?, block_output.park()?) {
        (Some(message), Some(block)) => message.finish_both(block),
        (message, block) => Parked::finish_all([message, block].into_iter().flatten().collect()).into_iter().try_for_each(Err),
    }
}

fn seal_channel(args: &SealArgs, sealer: Sealer) -> Result<(), Failure> {
    let mut output = output_beside(&args.input, &args.output, true)?;
    let mut channel = ChannelSealer::new(sealer, Role::Initiator, b"");
    let mut reader = lines(&args.input)?;
    let mut sealed = BytesMut::new();
    while let Some(line) = next_line(&mut reader).map_err(|failure| failure.about(show(&args.input)))? {
        channel.seal(args.context.as_bytes(), &line.content, &mut sealed)?;
        if sealed.len() >= CHUNK || reader.buffer().is_empty() {
            output.write(&sealed)?;
            output.flush()?;
            sealed.clear();
        }
    }
    channel.finish(&mut sealed)?;
    output.write(&sealed)?;
    output.finish()
}
