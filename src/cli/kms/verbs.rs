//! A command for each verb of a key service.

use std::{
    io::{Cursor, Read},
    path::Path,
};

use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{
    args::{
        AskArgs, DecryptArgs, DecryptDataKeyArgs, DeletionArgs, EncryptArgs, GenerateArgs, KeyArgs, KmsCommand, ReEncryptArgs,
        SetAliasArgs,
    },
    data_key::{Door, Printed},
    service::Asking,
    unwrap::read_block,
};
use crate::{
    cli::{
        Failure,
        args::OutputArgs,
        copy::{Progress, copy},
        fail::{Code, Remark, print_line, remark, show},
        io::{Output, Source, check_secrets_apart, output_beside, output_path},
    },
    kms::{KeyId, KeyInfo, KeyState, PublicKey, SECRET_MAX, WrappedDek},
    platform::utc,
    wire::{Kem, len64},
};

pub(super) fn run(command: KmsCommand) -> Result<(), Failure> {
    match command {
        KmsCommand::CreateKey(args) => {
            let kem = if args.pq { Kem::XWing } else { Kem::X25519 };
            tell(args.ask.json, &Asking::new(&args.ask)?.ask(|service| service.create_key(kem, args.alias))?)?;
            remind(&args.ask);
            Ok(())
        }
        KmsCommand::ListKeys(args) => list(&args),
        KmsCommand::DescribeKey(args) => about(&args, |service, key| service.describe_key(key)),
        KmsCommand::EnableKey(args) => about(&args, |service, key| service.enable_key(key)),
        KmsCommand::DisableKey(args) => about(&args, |service, key| service.disable_key(key)),
        KmsCommand::RotateKey(args) => {
            about(&args, |service, key| service.rotate_key(key))?;
            remind(&args.ask);
            Ok(())
        }
        KmsCommand::CancelKeyDeletion(args) => about(&args, |service, key| service.cancel_key_deletion(key)),
        KmsCommand::ScheduleKeyDeletion(DeletionArgs { key, days }) => {
            about(&key, |service, key| service.schedule_key_deletion(key, days))
        }
        KmsCommand::SetAlias(SetAliasArgs { key, alias }) => about(&key, |service, key| service.set_alias(&alias, key)),
        KmsCommand::DeleteAlias(args) => Asking::new(&args.ask)?.ask(|service| service.delete_alias(&args.alias)),
        KmsCommand::GetPublicKey(args) => get_public_key(&args),
        KmsCommand::GenerateDataKey(args) => generate_data_key(&args),
        KmsCommand::DecryptDataKey(args) => decrypt_data_key(&args),
        KmsCommand::Encrypt(args) => encrypt(args),
        KmsCommand::Decrypt(args) => decrypt(&args),
        KmsCommand::ReEncrypt(args) => re_encrypt(&args),
        _ => Err(Failure::usage("this is no verb of a service")),
    }
}

/// A verb that tells of the CMK it is about.
fn about(
    args: &KeyArgs,
    verb: impl for<'a> FnOnce(&'a dyn crate::kms::KeyService, &crate::kms::KeyRef) -> crate::kms::Reply<'a, KeyInfo>,
) -> Result<(), Failure> {
    tell(args.ask.json, &Asking::new(&args.ask)?.ask(|service| verb(service, &args.key))?)
}

/// Whoever keeps the store himself is told that no backup has what was made just now.
fn remind(ask: &AskArgs) {
    if let Some(store) = ask.store.as_deref().filter(|_| !ask.json) {
        remark(Remark::Note, &format!("a backup is due, none has this key: sealwire kms backup --store {} -o FILE", show(store)));
    }
}

fn tell(as_json: bool, info: &KeyInfo) -> Result<(), Failure> {
    if as_json {
        return print_line(&json_of(info).to_string());
    }
    let aliases = aliases(info);
    let mut lines = vec![format!("key:       {}", info.id)];
    if !aliases.is_empty() {
        lines.push(format!("aliases:   {aliases}"));
    }
    lines.push(format!("kind:      {}", info.kem));
    lines.push(format!("state:     {}", state(info.state)));
    lines.push(format!("created:   {}", utc(info.created_at)));
    lines.push(format!("version:   {}, made {}", info.version, utc(info.rotated_at)));
    print_line(&lines.join("\n"))
}

fn aliases(info: &KeyInfo) -> String {
    info.aliases.iter().map(|alias| alias.as_str()).collect::<Vec<_>>().join(" ")
}

fn state(state: KeyState) -> String {
    match state {
        KeyState::PendingDeletion { at } => format!("pending deletion, to be destroyed {}", utc(at)),
        KeyState::Destroyed { at } => format!("destroyed {}", utc(at)),
        state => state.to_string(),
    }
}

fn json_of(info: &KeyInfo) -> Value {
    let at = match info.state {
        KeyState::PendingDeletion { at } | KeyState::Destroyed { at } => Some(at),
        KeyState::Enabled | KeyState::Disabled => None,
    };
    json!({
        "key": info.id.to_string(),
        "aliases": info.aliases.iter().map(|alias| alias.as_str()).collect::<Vec<_>>(),
        "kem": info.kem.to_string(),
        "state": info.state.word(),
        "deletion_at": at,
        "created_at": info.created_at,
        "version": info.version,
        "rotated_at": info.rotated_at,
    })
}

fn list(args: &AskArgs) -> Result<(), Failure> {
    let asking = Asking::new(args)?;
    let mut after: Option<KeyId> = None;
    loop {
        let page = asking.ask(|service| service.list_keys(after))?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.id);
        for info in &page {
            let line = if args.json {
                json_of(info).to_string()
            } else {
                let line = format!(
                    "{}  {:<16}  {:<6}  v{:<3}  {}",
                    info.id,
                    info.state.to_string(),
                    info.kem,
                    info.version,
                    aliases(info)
                );
                line.trim_end().to_owned()
            };
            print_line(&line)?;
        }
    }
}

fn get_public_key(args: &KeyArgs) -> Result<(), Failure> {
    let PublicKey { id, version, recipient } = Asking::new(&args.ask)?.ask(|service| service.get_public_key(&args.key))?;
    if !args.ask.json {
        return print_line(&recipient.to_string());
    }
    let fingerprint = recipient.fingerprint().to_string();
    let said =
        json!({ "key": id.to_string(), "version": version, "recipient": recipient.to_string(), "fingerprint": fingerprint });
    print_line(&said.to_string())
}

fn generate_data_key(args: &GenerateArgs) -> Result<(), Failure> {
    // Before a service is asked: whether there is somewhere for what it gives.
    let door = if args.without_plaintext { None } else { Some(Door::open(&args.to)?) };
    let output = args.ciphertext.as_deref().map(|path| Output::file(path, false)).transpose()?;
    let asking = Asking::new(&args.key.ask)?;
    let pair = asking.ask(|service| service.generate_data_key(&args.key.key, door.is_some()))?;
    if let Some(mut output) = output {
        output.write(&pair.ciphertext)?;
        output.finish()?;
    }
    let text = Printed::from(&pair).text(args.key.ask.json);
    match door {
        Some(door) => door.say(&text),
        None => print_line(text.trim_end()),
    }
}

fn decrypt_data_key(args: &DecryptDataKeyArgs) -> Result<(), Failure> {
    let door = Door::open(&args.to)?;
    let block = read_block(&mut Source::of_envelope(&args.input)?).map_err(|failure| failure.about(show(&args.input)))?;
    let unwrapped = Asking::new(&args.ask)?.ask(|service| service.decrypt_data_key(WrappedDek::Block(block)))?;
    door.say(&Printed::from(&unwrapped).text(args.ask.json))
}

/// All of a small input. `instead` is what larger ones are for.
fn small(path: &Path, what: &str, most: usize, instead: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    // As large as it can get: a buffer that grows leaves copies of a secret behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(most + 1));
    let source = crate::cli::io::input(path)?;
    let read = source.take(len64(most) + 1).read_to_end(&mut bytes);
    read.map_err(|error| Failure::io(show(path), &error))?;
    if bytes.len() > most {
        return Err(Failure::usage(format!("{} has more than {most} bytes, and no {what} has; {instead}", show(path))));
    }
    Ok(bytes)
}

/// Where a command writes: over no key, and over no store, also when it is told to replace what is there.
fn output_of(ask: &AskArgs, input: &Path, output: &OutputArgs, binary: bool) -> Result<Output, Failure> {
    check_secrets_apart(output_path(output), &ask.secrets(), &ask.root.passphrase)?;
    output_beside(input, output, binary)
}

fn encrypt(args: EncryptArgs) -> Result<(), Failure> {
    let output = OutputArgs { output: args.output, force: args.force };
    let mut out = output_of(&args.key.ask, &args.input, &output, true)?;
    let secret = small(&args.input, "secret", SECRET_MAX, "seal it instead (sealwire seal)")?;
    let asking = Asking::new(&args.key.ask)?;
    let ciphertext = asking.ask(|service| service.encrypt(&args.key.key, &secret, args.context.as_bytes()))?;
    out.write(&ciphertext)?;
    out.finish()
}

/// Bytes of a ciphertext beside its secret: head, encapsulated key, tag.
const DIRECT_MAX: usize = SECRET_MAX + 25 + 1120 + 16;

fn decrypt(args: &DecryptArgs) -> Result<(), Failure> {
    let mut out = output_of(&args.ask, &args.input, &args.output, false)?.secret();
    let ciphertext = small(&args.input, "secret encrypted under a CMK", DIRECT_MAX, "open envelopes with sealwire open")?;
    let asking = Asking::new(&args.ask)?;
    let secret = asking.ask(|service| service.decrypt(&ciphertext, args.context.as_bytes())).map_err(or_another_context)?;
    out.write(&secret)?;
    out.finish()
}

/// A context that was mistyped is the likeliest reason, and the service does not tell which it was.
fn or_another_context(failure: Failure) -> Failure {
    match failure.code {
        Code::NoMatchingKey => {
            Failure { message: format!("{}, or its context is another (--context)", failure.message), ..failure }
        }
        _ => failure,
    }
}

/// A secret under a CMK; or a DEK block, with its message behind it, perhaps, which is copied.
fn re_encrypt(args: &ReEncryptArgs) -> Result<(), Failure> {
    let mut out = output_of(&args.ask, &args.input, &args.output, true)?;
    let mut source = Source::new(&args.input)?;
    let about = |failure: Failure| failure.about(show(&args.input));
    let mut front = Vec::new();
    let begun = (&mut source).take(len64(MAGIC_LEN)).read_to_end(&mut front);
    begun.map_err(|error| Failure::io(show(&args.input), &error))?;
    let is_secret = front == DIRECT_MAGIC;
    if is_secret {
        let read = (&mut source).take(len64(DIRECT_MAX)).read_to_end(&mut front);
        read.map_err(|error| Failure::io(show(&args.input), &error))?;
    } else {
        front = read_block(&mut Cursor::new(front).chain(&mut source)).map_err(about)?;
    }
    let asking = Asking::new(&args.ask)?;
    let new = asking.ask(|service| service.re_encrypt(&front, args.context.as_bytes(), &args.to));
    let new = if is_secret { new.map_err(or_another_context)? } else { new? };
    out.write(&new)?;
    let target = out.name().to_owned();
    let copied = copy(&mut source, out.writer(), &mut Progress::of(None).hidden_if(true));
    copied.map_err(|error| error.about(&show(&args.input), &target))?;
    out.finish()
}

/// How a secret that is encrypted directly under a CMK begins.
const DIRECT_MAGIC: &[u8; MAGIC_LEN] = b"SWD";
const MAGIC_LEN: usize = 3;
