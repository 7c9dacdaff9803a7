//! CMKs in a token (SoftHSM2), each test with a token of its own in a process of its own: a module's state is its process's. Some
//! go
//! through a module that misbehaves as told (kit/token.c). Without SoftHSM2, or a C compiler, tests are reported as ignored,
//! never as passed.

mod kit;
#[path = "../examples/token.rs"]
mod token;

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use cryptoki::{
    context::Pkcs11,
    mechanism::Mechanism,
    object::{Attribute, AttributeInfo, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
};
use kit::Forge;
use libtest_mimic::{Arguments, Failed, Trial};
use sealwire::{
    CachePolicy, ChannelOpener, ChannelSealer, Cmk, DecapsulateError, Decapsulator, Dek, HintMode, Keyring, Limits, OpenError,
    Opener, Recipient, Reuse, Rewrap, Role, Sealer, Suite,
    kms::pkcs11::{KEYS_MAX, KeyName, Module, NAME_MAX, Pin, PinError, SESSIONS_MAX, Token, TokenError, TokenKey, TokenName},
    open, rewrap, seal,
    wire::{DekBlock, Kem},
};

const PIN: &str = "271828";
const LABEL: &str = "orders";

/// Where a library of SoftHSM2 is put; `SEALWIRE_SOFTHSM2` names another place.
const MODULES: [&str; 6] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
];

type Test = (&'static str, fn(&Place));

/// Tests with the token as it is.
const PLAIN: [Test; 14] = [
    ("a key is made, and found by another process", made_and_found),
    ("envelopes of ordinary senders", ordinary_senders),
    ("two keys in a keyring are rotated", rotated),
    ("a key does not come out", not_extractable),
    ("the same bytes as in memory", as_in_memory),
    ("names of tokens and keys", names),
    ("keys that are no CMKs", unsuitable),
    ("a public key of somebody else", other_public_key),
    ("a key that was exchanged", exchanged),
    ("a token that is taken away and put back", taken_away),
    ("eight threads", eight_threads),
    ("DEKs for channels", channels),
    ("a wrong PIN", wrong_pin),
    ("the session of docs/tokens.md", session_of_the_page),
];

/// Tests with a token that misbehaves.
const FAULTY: [Test; 14] = [
    ("a PIN is tried once", tried_once),
    ("a locked PIN", locked_pin),
    ("the last try", last_try),
    ("points of small order", small_order),
    ("forms of points", forms),
    ("a token as the standard has it", montgomery),
    ("keys that are not made as asked", not_as_asked),
    ("wrong answers", wrong_answers),
    ("a token that was removed", removed),
    ("sessions that were lost", lost),
    ("another token of the same label", other_token),
    ("a token whose keys have no end", endless),
    ("more threads than sessions", beyond_the_pool),
    ("a fork", forked),
];

fn main() {
    if let Ok(name) = env::var("SEALWIRE_TOKEN_TEST") {
        return child(&name);
    }
    let module =
        env::var_os("SEALWIRE_SOFTHSM2").map(PathBuf::from).into_iter().chain(MODULES.map(PathBuf::from)).find(|m| m.exists());
    let module = module.filter(|_| runs("softhsm2-util"));
    let folder = tempfile::tempdir().unwrap();
    let between = compile(folder.path());
    let plain = PLAIN.map(|(name, _)| trial(name, "softhsm2", module.clone().map(|module| (module, None))));
    let faulty = FAULTY.map(|(name, _)| trial(name, "softhsm2 or a C compiler", module.clone().zip(between.clone().map(Some))));
    let rate = module.clone().map(|module| move || run("rate", &module, None));
    let there = rate.is_some();
    let rate =
        Trial::bench("decapsulations", move |is_test| rate.filter(|_| !is_test).map_or(Ok(()), |rate| rate()).map(|()| None));
    let all = plain.into_iter().chain(faulty).chain([rate.with_ignored_flag(!there)]).collect();
    libtest_mimic::run(&Arguments::from_args(), all).exit();
}

fn trial(name: &'static str, needs: &str, with: Option<(PathBuf, Option<PathBuf>)>) -> Trial {
    let there = with.is_some();
    if !there {
        eprintln!("SKIPPED: {name}: {needs} is missing");
    }
    let run = move || with.map_or(Err("nothing was run".into()), |(module, between)| run(name, &module, between.as_deref()));
    Trial::test(name, run).with_ignored_flag(!there)
}

fn runs(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

fn compile(folder: &Path) -> Option<PathBuf> {
    let out = folder.join("token.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kit/token.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-w", "-o"]).arg(&out).arg(source).arg("-ldl").status();
    built.is_ok_and(|status| status.success()).then_some(out)
}

/// Runs one test in a process of its own, with a new token.
fn run(name: &str, module: &Path, between: Option<&Path>) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    fs::create_dir(place.join("tokens"))?;
    fs::write(place.join("conf"), format!("directories.tokendir = {}\nlog.level = ERROR\n", place.join("tokens").display()))?;
    init_token(place, LABEL)?;
    let mut command = Command::new(env::current_exe()?);
    command
        .env("SEALWIRE_TOKEN_TEST", name)
        .env("SEALWIRE_TOKEN_FOLDER", place)
        .env("SOFTHSM2_CONF", place.join("conf"))
        .env("SEALWIRE_TOKEN_MODULE", module)
        .env("SEALWIRE_TOKEN_FAULT", place.join("fault"))
        .env("SEALWIRE_TOKEN_COUNT", place.join("count"));
    if let Some(between) = between {
        command.env("SEALWIRE_TOKEN_BETWEEN", between);
    }
    let ended = command.output()?;
    print!("{}", String::from_utf8_lossy(&ended.stdout));
    if ended.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&ended.stderr).into_owned().into()) }
}

fn init_token(folder: &Path, label: &str) -> Result<(), Box<dyn Error>> {
    let mut command = Command::new("softhsm2-util");
    command.args(["--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "31415926"]);
    let made = command.env("SOFTHSM2_CONF", folder.join("conf")).output()?;
    if made.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&made.stderr).into()) }
}

fn child(name: &str) {
    let folder = PathBuf::from(env::var_os("SEALWIRE_TOKEN_FOLDER").unwrap());
    let real = PathBuf::from(env::var_os("SEALWIRE_TOKEN_MODULE").unwrap());
    let module = env::var_os("SEALWIRE_TOKEN_BETWEEN").map_or(real, PathBuf::from);
    let place = Place { folder, module };
    let others: [Test; 3] = [("found", found), ("rate", rate), ("example", |_| token::main().unwrap())];
    let (_, test) = PLAIN.into_iter().chain(FAULTY).chain(others).find(|(known, _)| *known == name).unwrap();
    test(&place);
}

/// A folder with a token in it, and the module that reaches it.
struct Place {
    folder: PathBuf,
    module: PathBuf,
}

impl Place {
    fn module(&self) -> Module {
        Module::load(&self.module).unwrap()
    }

    fn open_with(&self, pin: &str) -> Result<Token, TokenError> {
        Token::open(&self.module(), TokenName::Label(LABEL.into()), Pin::new(pin)?)
    }

    fn token(&self) -> Token {
        self.open_with(PIN).unwrap()
    }

    /// From now on the module misbehaves so; not at all where it is empty.
    fn fault(&self, fault: &str) {
        let (new, path) = (self.folder.join("fault.new"), self.folder.join("fault"));
        fs::write(&new, fault).unwrap();
        fs::rename(new, path).unwrap();
    }

    /// How often a call came: o, c, l, d for sessions opened and closed, logins, agreements; of these n with a point that is not
    /// canonical,
    /// y that ended well, x that did not; f for answers of endless keys.
    fn count(&self, what: char) -> usize {
        fs::read_to_string(self.folder.join("count")).unwrap_or_default().matches(what).count()
    }

    /// A session past our code.
    fn bare(&self) -> Session {
        let context = Pkcs11::new(&self.module).unwrap();
        let slots = context.get_slots_with_token().unwrap();
        let slot = slots.into_iter().find(|slot| context.get_token_info(*slot).unwrap().label() == LABEL).unwrap();
        let session = context.open_rw_session(slot).unwrap();
        // The login is the process's, and is there already.
        let _ = session.login(UserType::User, Some(&cryptoki::types::AuthPin::from(PIN)));
        session
    }
}

fn keyring(keys: &[&TokenKey]) -> Keyring {
    let keyring = Keyring::new();
    keys.iter().for_each(|key| keyring.add_decapsulator(Arc::new((*key).clone())));
    keyring
}

/// What opens every message anew, so that the token is asked for each.
fn uncached(keyring: Keyring) -> Opener {
    Opener::builder(keyring).cache(CachePolicy { deks: 0, ..CachePolicy::default() }).build()
}

fn token_error(error: OpenError) -> String {
    let OpenError::KeyUnavailable(error) = error else { panic!("{error}") };
    let DecapsulateError::Unavailable(error) = &*error else { panic!("{error}") };
    error.downcast_ref::<TokenError>().unwrap().to_string()
}

fn objects(session: &Session, class: ObjectClass) -> Vec<ObjectHandle> {
    session.find_objects(&[Attribute::Class(class), Attribute::Token(true)]).unwrap()
}

fn made_and_found(place: &Place) {
    let token = place.token();
    assert!(token.keys().unwrap().is_empty());
    let key = token.generate("cmk 1", &[1]).unwrap();
    assert!(key.never_left() && !key.is_mine_alone() && key.clone().mine_alone().is_mine_alone());
    assert_eq!((key.label(), key.id(), key.recipient().kem()), ("cmk 1", &[1][..], Kem::X25519));
    let other = token.generate("cmk 2", &[2]).unwrap();
    assert_ne!(key.recipient(), other.recipient());
    assert_eq!(token.keys().unwrap().len(), 2);
    assert_eq!(token.find(KeyName::Label("cmk 2")).unwrap().recipient(), other.recipient());

    fs::write(place.folder.join("serial"), token.serial()).unwrap();
    fs::write(place.folder.join("recipient"), key.recipient().to_string()).unwrap();
    let sealed = seal(b"kept", &[key.recipient().clone()]).unwrap();
    fs::write(place.folder.join("envelope"), sealed).unwrap();
    assert!(found_again());
}

fn found_again() -> bool {
    Command::new(env::current_exe().unwrap())
        .env("SEALWIRE_TOKEN_TEST", "found")
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
}

/// The other process.
fn found(place: &Place) {
    let serial = fs::read_to_string(place.folder.join("serial")).unwrap();
    let token = Token::open(&place.module(), TokenName::Serial(serial.clone()), Pin::new(PIN).unwrap()).unwrap();
    assert_eq!(token.serial(), serial);
    let recipient: Recipient = fs::read_to_string(place.folder.join("recipient")).unwrap().parse().unwrap();
    for name in [KeyName::Label("cmk 1"), KeyName::Id(&[1])] {
        let key = token.find(name).unwrap();
        assert_eq!(key.recipient(), &recipient);
        let envelope = fs::read(place.folder.join("envelope")).unwrap();
        assert_eq!(&open(&envelope, &keyring(&[&key])).unwrap().payload[..], b"kept");
    }
}

/// The shell of the page, with this program in place of the example's, and twice: the key is made, and found.
fn session_of_the_page(place: &Place) {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tokens.md")).unwrap();
    let session = page.split("\n```sh\n").nth(1).and_then(|rest| rest.split("\n```").next()).unwrap();
    let (before, call) = session.rsplit_once('\n').unwrap();
    let call = call.replace("cargo run --quiet --example token --features pkcs11 --", "SEALWIRE_TOKEN_TEST=example \"$EXAMPLE\"");
    assert!(call.contains("$EXAMPLE"));
    let call = call.replace("/usr/lib/softhsm/libsofthsm2.so", place.module.to_str().unwrap());
    let script = format!("set -e\nmkdir page\ncd page\n{before}\n{call}\n{call}\n");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).current_dir(&place.folder).env("EXAMPLE", env::current_exe().unwrap());
    let ended = shell.output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout).into_owned() + &String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{said}");
    assert_eq!(said.lines().filter(|line| *line == "an order").count(), 2, "{said}");
    assert_eq!(said.matches("never out of the token: true").count(), 2, "{said}");
}

fn ordinary_senders(place: &Place) {
    let key = place.token().generate("cmk", &[1]).unwrap();
    let keyring = keyring(&[&key]);
    let others: Vec<_> = (0..99).map(|_| Cmk::generate().unwrap().recipient().clone()).collect();
    for suite in [Suite::X25519ChaCha20Poly1305, Suite::X25519Aes256Gcm] {
        for hints in [HintMode::None, HintMode::Rotating, HintMode::Static] {
            for (readers, apart) in [(0, false), (0, true), (99, false), (30, true)] {
                let sealer = Sealer::builder().suite(suite).hints(hints).enc_per_slot(apart);
                let sealer = sealer.to_all(others[..readers].iter().cloned()).to(key.recipient().clone());
                let envelope = sealer.build().unwrap().seal(b"context", b"payload").unwrap();
                let opened = open(&envelope, &keyring).unwrap();
                assert_eq!((&opened.payload[..], opened.key), (&b"payload"[..], Some(key.recipient().fingerprint())));
            }
        }
    }
    let to_others = seal(b"payload", &others).unwrap();
    assert!(matches!(open(&to_others, &keyring), Err(OpenError::NoMatchingKey)));
}

fn rotated(place: &Place) {
    let token = place.token();
    let old = token.generate("cmk 2025", &[1]).unwrap();
    let before = seal(b"before", &[old.recipient().clone()]).unwrap();
    let opener = Opener::new(keyring(&[&old]));
    let new = token.generate("cmk 2026", &[2]).unwrap();
    let keyring = keyring(&[&old, &new]);
    let after = seal(b"after", &[new.recipient().clone()]).unwrap();
    assert!(opener.open(&after).is_err());
    for (envelope, payload) in [(&before, &b"before"[..]), (&after, b"after")] {
        assert_eq!(&open(envelope, &keyring).unwrap().payload[..], payload);
    }
    let change = Rewrap::new().to(new.recipient().clone()).without(old.recipient().clone());
    let moved = rewrap(&before, &keyring, &change).unwrap();
    assert!(keyring.remove(&old.recipient().fingerprint()));
    assert!(open(&before, &keyring).is_err());
    assert_eq!(&open(&moved, &keyring).unwrap().payload[..], b"before");
}

fn not_extractable(place: &Place) {
    let token = place.token();
    token.generate("cmk", &[1]).unwrap();
    let session = place.bare();
    let [key] = objects(&session, ObjectClass::PRIVATE_KEY)[..] else { panic!("one key") };
    assert!(matches!(session.get_attribute_info(key, &[AttributeType::Value]).unwrap()[..], [AttributeInfo::Sensitive]));
    assert!(session.get_attributes(key, &[AttributeType::Value]).unwrap().is_empty());
    for (attribute, value) in [(Attribute::Extractable(true), true), (Attribute::Sensitive(false), false)] {
        assert!(session.update_attributes(key, &[attribute]).is_err(), "{value}");
    }
    let wrapping = [Attribute::Token(false), Attribute::Wrap(true), Attribute::ValueLen(32.into())];
    let wrapping = session.generate_key(&Mechanism::AesKeyGen, &wrapping).unwrap();
    assert!(session.wrap_key(&Mechanism::AesKeyWrapPad, wrapping, key).is_err());
    // What was agreed on is gone from the token: no secret key is left but that one.
    let secrets = session.find_objects(&[Attribute::Class(ObjectClass::SECRET_KEY)]).unwrap();
    assert_eq!(secrets, [wrapping]);
}

/// Puts a secret that is known into the token, so that both can be asked.
fn import(session: &Session, label: &str, id: &[u8], secret: &[u8; 32], flags: &[Attribute]) -> ObjectHandle {
    let template = [
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::KeyType(KeyType::EC_EDWARDS),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::EcParams(vec![0x06, 0x03, 0x2b, 0x65, 0x6e]),
        Attribute::Value(secret.to_vec()),
        Attribute::Label(label.into()),
        Attribute::Id(id.into()),
    ];
    session.create_object(&[&template[..], flags].concat()).unwrap()
}

const KEPT: [Attribute; 3] = [Attribute::Sensitive(true), Attribute::Extractable(false), Attribute::Derive(true)];

/// A secret, and what openers in memory and in the token make of messages to it.
fn as_in_memory(place: &Place) {
    let token = place.token();
    let session = place.bare();
    let secret = [0x21; 32];
    import(&session, "imported", &[7], &secret, &KEPT);
    let key = token.find(KeyName::Label("imported")).unwrap();
    // It was outside once, and the token knows.
    assert!(!key.never_left());
    assert_eq!(key.recipient(), Cmk::from_x25519(&secret).recipient());

    let public = *key.recipient().as_x25519().unwrap();
    let keyring = keyring(&[&key]);
    // One ephemeral in 65,536 has a public half that looks like DER.
    let ephemerals = (0u32..).map(|i| [&i.to_be_bytes()[..], &[3; 28]].concat().try_into().unwrap());
    let ambiguous = ephemerals.into_iter().find(|secret| kit::public(secret).starts_with(&[4, 0x1e])).unwrap();
    for ephemeral in [[1; 32], [2; 32], ambiguous] {
        let mut forge = Forge::to(&[]);
        forge.enc = None;
        forge.options |= 1 << 3;
        forge.slots = vec![forge.own_slot(&ephemeral, &public, &forge.dek)];
        let envelope = forge.envelope(0, 0, b"", b"the same");
        let in_memory = Keyring::from(Cmk::from_x25519(&secret));
        assert_eq!(open(&envelope, &in_memory).unwrap(), open(&envelope, &keyring).unwrap());
    }
}

fn names(place: &Place) {
    let token = place.token();
    let module = place.module();
    let open = |name| Token::open(&module, name, Pin::new(PIN).unwrap()).map(|_| ());
    assert!(matches!(open(TokenName::Label("other".into())), Err(TokenError::NoToken(_))));
    assert!(matches!(open(TokenName::Serial("0".into())), Err(TokenError::NoToken(_))));
    assert!(matches!(token.find(KeyName::Label("cmk")), Err(TokenError::NoKey)));
    token.generate("cmk", &[1]).unwrap();
    for (label, id) in [("cmk", 2), ("other", 1), ("cmk", 1)] {
        assert!(matches!(token.generate(label, &[id]), Err(TokenError::KeyExists)));
    }
    let long = "x".repeat(NAME_MAX + 1);
    for (label, id) in [("", &b"\x03"[..]), ("x", b""), (&long, b"\x03"), ("x", long.as_bytes())] {
        assert!(matches!(token.generate(label, id), Err(TokenError::KeyName)));
    }
    assert!(matches!(token.find(KeyName::Id(b"")), Err(TokenError::KeyName)));
    token.generate(&long[1..], &long.as_bytes()[1..]).unwrap();
    assert_eq!(token.keys().unwrap().len(), 2);
    let session = place.bare();
    import(&session, "cmk", &[9], &[9; 32], &KEPT);
    assert!(matches!(token.find(KeyName::Label("cmk")), Err(TokenError::SeveralKeys)));
    assert!(token.find(KeyName::Id(&[9])).is_ok());
}

fn unsuitable(place: &Place) {
    let token = place.token();
    let session = place.bare();
    let bad = [
        [Attribute::Sensitive(true), Attribute::Extractable(true), Attribute::Derive(true)],
        [Attribute::Sensitive(false), Attribute::Extractable(false), Attribute::Derive(true)],
        [Attribute::Sensitive(true), Attribute::Extractable(false), Attribute::Derive(false)],
    ];
    for (i, flags) in (1..).zip(&bad) {
        import(&session, "bad", &[i], &[i; 32], flags);
        assert!(matches!(token.find(KeyName::Id(&[i])), Err(TokenError::Unsuitable(_))), "{i}");
    }
    // A key of another curve, Ed25519, is none of ours.
    let named = [Attribute::Token(true), Attribute::Label(b"ed25519".into()), Attribute::Id(vec![8])];
    let public = [&named[..], &[Attribute::EcParams(vec![0x06, 0x03, 0x2b, 0x65, 0x70])]].concat();
    session.generate_key_pair(&Mechanism::EccEdwardsKeyPairGen, &public, &named).unwrap();
    assert!(matches!(token.find(KeyName::Label("ed25519")), Err(TokenError::NoKey)));
    // Nor one whose curve is spelt out at length; a label that is no text is as none.
    let long = [
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::KeyType(KeyType::EC),
        Attribute::Token(true),
        Attribute::EcParams(vec![0x30; 300]),
        Attribute::Value(vec![1; 32]),
        Attribute::Label(vec![0xff; 300]),
    ];
    session.create_object(&long).unwrap();
    let good = token.generate("good", &[9]).unwrap();
    let [only] = &token.keys().unwrap()[..] else { panic!("one key serves") };
    assert_eq!(only.recipient(), good.recipient());
}

/// However many a token says that it has, so many are looked through.
fn endless(place: &Place) {
    let token = place.token();
    token.generate("cmk", &[1]).unwrap();
    place.fault("endless keys");
    assert!(matches!(token.keys(), Err(TokenError::TooManyKeys)));
    assert!(place.count('f') > KEYS_MAX / 10 && place.count('f') < KEYS_MAX / 5, "{}", place.count('f'));
    place.fault("");
    assert_eq!(token.keys().unwrap().len(), 1);
}

/// Who may write to the token may put his own public key beside a private one, and wait to be sealed to.
fn other_public_key(place: &Place) {
    let token = place.token();
    token.generate("cmk", &[1]).unwrap();
    let session = place.bare();
    let [public] = objects(&session, ObjectClass::PUBLIC_KEY)[..] else { panic!("one key") };
    session.destroy_object(public).unwrap();
    // Without one nothing is missing: the private key is asked.
    assert!(token.find(KeyName::Label("cmk")).is_ok());
    let planted = [
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::KeyType(KeyType::EC_EDWARDS),
        Attribute::Token(true),
        Attribute::EcParams(vec![0x06, 0x03, 0x2b, 0x65, 0x6e]),
        Attribute::EcPoint([&[4, 32][..], &kit::public(&[6; 32])].concat()),
        Attribute::Label(b"cmk".into()),
        Attribute::Id(vec![1]),
    ];
    session.create_object(&planted).unwrap();
    assert!(matches!(token.find(KeyName::Label("cmk")), Err(TokenError::OtherPublicKey)));
}

/// Under the same name there is another key: it is not asked in the name of the first.
fn exchanged(place: &Place) {
    let token = place.token();
    let key = token.generate("cmk", &[1]).unwrap();
    let opener = uncached(keyring(&[&key]));
    let envelope = seal(b"payload", &[key.recipient().clone()]).unwrap();
    opener.open(&envelope).unwrap();
    let session = place.bare();
    for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
        objects(&session, class).into_iter().for_each(|object| session.destroy_object(object).unwrap());
    }
    assert_eq!(token_error(opener.open(&envelope).unwrap_err()), TokenError::NoKey.to_string());
    token.generate("cmk", &[1]).unwrap();
    assert_eq!(token_error(opener.open(&envelope).unwrap_err()), TokenError::OtherKey.to_string());
}

/// SoftHSM2 does not see that a token's folder is back before its module is started again, so that is another process; `removed`
/// shows what
/// this one does with tokens that are seen.
fn taken_away(place: &Place) {
    made_and_found(place);
    let key = place.token().find(KeyName::Label("cmk 1")).unwrap();
    let opener = uncached(keyring(&[&key]));
    let envelope = fs::read(place.folder.join("envelope")).unwrap();
    opener.open(&envelope).unwrap();
    let (tokens, away) = (place.folder.join("tokens"), place.folder.join("away"));
    fs::rename(&tokens, &away).unwrap();
    for _ in 0..3 {
        let said = token_error(opener.open(&envelope).unwrap_err());
        assert!(said.contains("plug it in"), "{said}");
        assert!(matches!(place.open_with(PIN), Err(TokenError::NoToken(_))));
    }
    assert!(!found_again());
    fs::rename(&away, &tokens).unwrap();
    assert!(found_again());
}

fn eight_threads(place: &Place) {
    let token = place.token();
    let keys: Vec<_> = (1..=2).map(|i| token.generate(&format!("cmk {i}"), &[i]).unwrap()).collect();
    let opener = uncached(keyring(&[&keys[0], &keys[1]]));
    let began = Instant::now();
    thread::scope(|scope| {
        for n in 0..8 {
            let (opener, key) = (&opener, &keys[n % 2]);
            scope.spawn(move || {
                let mut sealer = Sealer::builder().to(key.recipient().clone()).reuse(Reuse::NEVER).build().unwrap();
                for i in 0..200 {
                    let payload = format!("{n}/{i}");
                    let envelope = sealer.seal(b"", payload.as_bytes()).unwrap();
                    assert_eq!(opener.open(&envelope).unwrap().payload, payload);
                }
            });
        }
    });
    println!("eight threads: 1600 messages in {:?}", began.elapsed());
}

/// A child of a fork asks nothing through what its parent has, and closes nothing of it.
fn forked(place: &Place) {
    use nix::{
        sys::wait::{WaitStatus, waitpid},
        unistd::{ForkResult, fork},
    };
    let key = place.token().generate("cmk", &[1]).unwrap();
    let envelope = seal(b"payload", &[key.recipient().clone()]).unwrap();
    let opener = uncached(keyring(&[&key]));
    opener.open(&envelope).unwrap();
    let closed = place.count('c');
    // SAFETY: one thread.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let refused = token_error(opener.open(&envelope).unwrap_err()) == TokenError::Forked.to_string();
            drop((opener, key));
            // SAFETY: ends the child without what the parent has registered for its end.
            unsafe { nix::libc::_exit(if refused { 0 } else { 1 }) }
        }
        ForkResult::Parent { child } => {
            assert!(matches!(waitpid(child, None).unwrap(), WaitStatus::Exited(_, 0)));
        }
    }
    assert_eq!(place.count('c'), closed);
    opener.open(&envelope).unwrap();
}

/// A channel whose opener has no key waits, and goes on with the DEK that the token gave.
fn channels(place: &Place) {
    let key = place.token().generate("cmk", &[1]).unwrap();
    let sealer = Sealer::builder().to(key.recipient().clone()).build().unwrap();
    let mut channel = ChannelSealer::new(sealer, Role::Initiator, b"bound");
    let mut bytes = bytes::BytesMut::new();
    channel.seal(b"", b"first", &mut bytes).unwrap();
    channel.seal_last(b"", b"second", &mut bytes).unwrap();
    let mut opener = ChannelOpener::new(Opener::new(Keyring::new()), Role::Acceptor, b"bound").waiting_for_deks();
    assert!(opener.next(&mut bytes).unwrap().is_none());
    let block = opener.needs_dek(&bytes).unwrap().to_vec();
    let other = Sealer::builder().to(Cmk::generate().unwrap().recipient().clone()).build().unwrap().seal(b"", b"").unwrap();
    let (other, _) = DekBlock::parse(&other, &Limits::default()).unwrap();
    assert!(matches!(key.unwrap_dek(other, &Limits::default()), Err(OpenError::NoMatchingKey)));
    assert!(matches!(key.unwrap_dek(&block[1..], &Limits::default()), Err(OpenError::Parse(_))));
    let few = Limits { block: 64, ..Limits::default() };
    assert!(matches!(key.unwrap_dek(&block, &few), Err(OpenError::Parse(_))));
    let dek: Dek = unwrapped(&key, block);
    opener.supply(&mut bytes, &dek).unwrap();
    for payload in ["first", "second"] {
        assert_eq!(opener.next(&mut bytes).unwrap().unwrap().payload, payload);
    }
}

/// By way of a thread for what blocks, where there is tokio; the runtime's one thread goes on meanwhile.
fn unwrapped(key: &TokenKey, block: Vec<u8>) -> Dek {
    #[cfg(feature = "codec")]
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let damaged = [&block[..block.len() - 1], &[0]].concat();
        runtime.block_on(async {
            assert!(matches!(key.unwrap_dek_async(damaged, Limits::default()).await, Err(OpenError::HeaderMac)));
            key.unwrap_dek_async(block, Limits::default()).await.unwrap()
        })
    }
    #[cfg(not(feature = "codec"))]
    key.unwrap_dek(&block, &Limits::default()).unwrap()
}

fn is_pin<T>(result: Result<T, TokenError>, error: PinError) -> bool {
    matches!(result, Err(TokenError::Pin(pin)) if pin == error)
}

fn wrong_pin(place: &Place) {
    assert!(is_pin(place.open_with("000000"), PinError::Wrong));
    assert_eq!(Pin::new(&"1".repeat(256)).err(), Some(PinError::Length));
    assert!(is_pin(place.open_with("1"), PinError::Wrong));
    place.token().generate("cmk", &[1]).unwrap();
}

/// The PIN was changed while the token was away: it is tried once, by whichever thread, and then not before another one is given.
fn tried_once(place: &Place) {
    let token = place.token();
    let key = token.generate("cmk", &[1]).unwrap();
    let opener = uncached(keyring(&[&key]));
    let envelope = seal(b"payload", &[key.recipient().clone()]).unwrap();
    place.bare().set_pin(&cryptoki::types::AuthPin::from(PIN), &cryptoki::types::AuthPin::from("161803")).unwrap();
    opener.open(&envelope).unwrap();
    let logins = place.count('l');
    place.fault("lost");
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(token_error(opener.open(&envelope).unwrap_err()), PinError::Wrong.to_string()));
        }
    });
    assert_eq!(place.count('l'), logins + 1);
    assert!(is_pin(token.use_pin(Pin::new(PIN).unwrap()), PinError::Wrong));
    assert!(matches!(opener.open(&envelope), Err(OpenError::KeyUnavailable(_))));
    assert_eq!(place.count('l'), logins + 2);
    token.use_pin(Pin::new("161803").unwrap()).unwrap();
    opener.open(&envelope).unwrap();
    assert_eq!(place.count('l'), logins + 3);
}

fn locked_pin(place: &Place) {
    place.fault("pin locked");
    assert!(is_pin(place.open_with(PIN), PinError::Locked));
    place.fault("");
    let token = place.token();
    let key = token.generate("cmk", &[1]).unwrap();
    let opener = uncached(keyring(&[&key]));
    let envelope = seal(b"payload", &[key.recipient().clone()]).unwrap();
    let lose = place.bare();
    place.fault("pin locked");
    drop(lose);
    assert!(is_pin(logged_out(place, &token), PinError::Locked));
    let logins = place.count('l');
    // Unlocked meanwhile, and nobody has said so.
    place.fault("");
    assert_eq!(token_error(opener.open(&envelope).unwrap_err()), PinError::Locked.to_string());
    assert_eq!(place.count('l'), logins);
    token.use_pin(Pin::new(PIN).unwrap()).unwrap();
    opener.open(&envelope).unwrap();
}

/// Logs the process out, so that the next call needs a login.
fn logged_out(place: &Place, token: &Token) -> Result<TokenKey, TokenError> {
    let session = place.bare();
    session.logout().unwrap();
    drop(session);
    token.find(KeyName::Label("cmk"))
}

/// When the token says that one more wrong PIN locks it, a login needs somebody who asks for it.
fn last_try(place: &Place) {
    place.fault("last try");
    let token = place.token();
    let key = token.generate("cmk", &[1]).unwrap();
    let logins = place.count('l');
    assert!(is_pin(logged_out(place, &token), PinError::LastTry));
    // One login: that of the test itself, past our code.
    assert_eq!(place.count('l'), logins + 1);
    token.use_pin(Pin::new(PIN).unwrap()).unwrap();
    assert_eq!(token.find(KeyName::Label("cmk")).unwrap().recipient(), key.recipient());
}

/// Proves WRAP-1: points of small order, canonical or not, are refused and the token is not even asked.
fn small_order(place: &Place) {
    let key = place.token().generate("cmk", &[1]).unwrap();
    let order_8 = "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800";
    let other_8 = "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157";
    let hex = |s: &str| -> [u8; 32] { std::array::from_fn(|i| u8::from_str_radix(&s[2 * i..2 * i + 2], 16).unwrap()) };
    let le = |first, middle, last| {
        let mut point = [middle; 32];
        (point[0], point[31]) = (first, last);
        point
    };
    let small = [
        [0; 32],
        le(1, 0, 0),
        hex(order_8),
        hex(other_8),
        le(0xec, 0xff, 0x7f),
        le(0xed, 0xff, 0x7f),
        le(0xee, 0xff, 0x7f),
        le(0, 0, 0x80),
        le(0xec, 0xff, 0xff),
    ];
    let asked = place.count('d');
    for enc in small {
        assert!(matches!(key.decapsulate(&enc), Err(DecapsulateError::Refused)), "{enc:02x?}");
    }
    for len in [0, 31, 33] {
        assert!(matches!(key.decapsulate(&vec![9; len]), Err(DecapsulateError::Refused)));
    }
    assert_eq!(place.count('d'), asked);
    // Nor does it close its session, or log in again.
    let (opened, logins) = (place.count('o'), place.count('l'));
    assert!(key.decapsulate(&le(9, 0, 0)).is_ok());
    assert_eq!((place.count('o'), place.count('l')), (opened, logins));
}

/// Tokens that take points raw, those that take them wrapped, and what they would not take: a point that is not canonical.
fn forms(place: &Place) {
    let token = place.token();
    let key = token.generate("cmk", &[1]).unwrap();
    let public = *key.recipient().as_x25519().unwrap();
    let envelope = seal(b"payload", &[key.recipient().clone()]).unwrap();
    for fault in ["wrapped points", "raw points", ""] {
        place.fault(fault);
        let key = token.find(KeyName::Label("cmk")).unwrap();
        assert_eq!(key.recipient().as_x25519(), Some(&public));
        // On a session that has found it in another form it is found anew.
        let opener = uncached(keyring(&[&key]));
        assert_eq!(&opener.open(&envelope).unwrap().payload[..], b"payload", "{fault}");
        // Once the form is known, nothing is asked twice.
        let asked = place.count('d');
        opener.open(&envelope).unwrap();
        assert_eq!(place.count('d'), asked + 1, "{fault}");
    }
    // A point that looks like DER, at a token that takes both: it is sent wrapped. Nothing else is sent twice.
    place.fault("either form");
    let ambiguous = [&[4, 0x1e][..], &[5; 30]].concat();
    assert!(key.decapsulate(&ambiguous).is_ok());
    let refused = place.count('x');
    let high: [u8; 32] = std::array::from_fn(|i| if i == 0 { 0xf6 } else { 0xff });
    assert!(key.decapsulate(&high).is_ok());
    assert_eq!((place.count('x'), place.count('n')), (refused, 0));
}

fn montgomery(place: &Place) {
    let token = place.token();
    for (i, fault) in [(1, "montgomery by identifier"), (2, "montgomery by name")] {
        place.fault(fault);
        let key = token.generate(fault, &[i]).unwrap();
        assert!(key.never_left());
        let envelope = seal(b"payload", &[key.recipient().clone()]).unwrap();
        open(&envelope, &keyring(&[&key])).unwrap();
    }
    place.fault("no x25519");
    assert!(matches!(token.generate("other", &[3]), Err(TokenError::NoX25519(_))));
}

/// A token that makes a key other than asked for: it is noticed, and nothing of it stays.
fn not_as_asked(place: &Place) {
    let token = place.token();
    for fault in ["extractable", "not sensitive"] {
        place.fault(fault);
        assert!(matches!(token.generate("cmk", &[1]), Err(TokenError::Unsuitable(_))), "{fault}");
        let session = place.bare();
        assert!(objects(&session, ObjectClass::PRIVATE_KEY).is_empty() && objects(&session, ObjectClass::PUBLIC_KEY).is_empty());
    }
    place.fault("");
    token.generate("cmk", &[1]).unwrap();
}

fn wrong_answers(place: &Place) {
    let token = place.token();
    let key = token.generate("cmk", &[1]).unwrap();
    let opener = uncached(keyring(&[&key]));
    let envelope = seal(b"payload", &[key.recipient().clone()]).unwrap();
    opener.open(&envelope).unwrap();
    place.fault("zero");
    assert!(matches!(key.decapsulate(&kit::public(&[5; 32])), Err(DecapsulateError::Refused)));
    assert!(matches!(opener.open(&envelope), Err(OpenError::NoMatchingKey)));
    place.fault("wrong");
    assert!(matches!(opener.open(&envelope), Err(OpenError::NoMatchingKey)));
    assert!(matches!(token.find(KeyName::Label("cmk")), Err(TokenError::OtherPublicKey)));
    place.fault("zero");
    assert!(matches!(token.find(KeyName::Label("cmk")), Err(TokenError::Answer(_))));
    place.fault("short");
    assert!(matches!(opener.open(&envelope), Err(OpenError::KeyUnavailable(_))));
    place.fault("");
    opener.open(&envelope).unwrap();
    // Whatever it answered, what was agreed on was destroyed.
    let secrets = place.bare().find_objects(&[Attribute::Class(ObjectClass::SECRET_KEY)]).unwrap();
    assert!(secrets.is_empty(), "{secrets:?}");
}

fn removed(place: &Place) {
    let token = place.token();
    let key = token.generate("cmk", &[1]).unwrap();
    let opener = uncached(keyring(&[&key]));
    let envelope = seal(b"payload", &[key.recipient().clone()]).unwrap();
    for _ in 0..SESSIONS_MAX + 1 {
        place.fault("removed");
        for _ in 0..2 {
            let said = token_error(opener.open(&envelope).unwrap_err());
            assert!(said.contains("plug it in") || said.contains("removed"), "{said}");
            assert!(matches!(token.find(KeyName::Label("cmk")), Err(TokenError::NoToken(_) | TokenError::Gone(_))));
            assert!(matches!(token.generate("other", &[2]), Err(TokenError::NoToken(_) | TokenError::Gone(_))));
        }
        place.fault("");
        opener.open(&envelope).unwrap();
    }
    // Every session that was opened was closed, but the one that is kept.
    assert_eq!(place.count('o'), place.count('c') + 1);
}

/// The PIN is for the token that it was given for, as its serial number tells.
fn other_token(place: &Place) {
    let token = place.token();
    token.generate("cmk", &[1]).unwrap();
    let logins = place.count('l');
    place.fault("other token");
    assert!(matches!(logged_out(place, &token), Err(TokenError::NoToken(_))));
    // That of the test.
    assert_eq!(place.count('l'), logins + 1);
    place.fault("");
    token.find(KeyName::Label("cmk")).unwrap();
}

/// All sessions are closed under us, which also logs out: nobody who opens messages notices. They are closed while one message is opened: what
/// SoftHSM2 does where others use their sessions at that moment is anything, up to never answering.
fn lost(place: &Place) {
    let token = place.token();
    let key = token.generate("cmk", &[1]).unwrap();
    let opener = uncached(keyring(&[&key]));
    let envelope = seal(b"payload", &[key.recipient().clone()]).unwrap();
    let open = || assert_eq!(&opener.open(&envelope).unwrap().payload[..], b"payload");
    let all_at_once = || {
        thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(|| (0..10).for_each(|_| open())))));
    };
    for _ in 0..3 {
        all_at_once();
        let logins = place.count('l');
        place.fault("lost");
        open();
        all_at_once();
        assert_eq!(place.count('l'), logins + 1);
    }
}

fn beyond_the_pool(place: &Place) {
    let token = place.token();
    let key = token.generate("cmk", &[1]).unwrap();
    let opener = uncached(keyring(&[&key]));
    let envelope = seal(b"payload", &[key.recipient().clone()]).unwrap();
    let together = |threads: usize| {
        thread::scope(|scope| {
            let opening: Vec<_> = (0..threads).map(|_| scope.spawn(|| opener.open(&envelope))).collect();
            opening.into_iter().map(|opening| opening.join().unwrap().map(|_| ())).collect::<Vec<_>>()
        })
    };
    place.fault("slow");
    assert!(together(4 * SESSIONS_MAX).into_iter().all(|opened| opened.is_ok()));
    let open_now = || place.count('o') - place.count('c');
    assert_eq!(open_now(), SESSIONS_MAX);
    // One that writes takes the place of one that is idle.
    token.generate("other", &[2]).unwrap();
    assert_eq!(open_now(), SESSIONS_MAX - 1);

    place.fault("stuck");
    let began = Instant::now();
    let opened = together(SESSIONS_MAX + 4);
    assert!(began.elapsed() < Duration::from_secs(30));
    let (opened, refused): (Vec<_>, Vec<_>) = opened.into_iter().partition(Result::is_ok);
    assert_eq!((opened.len(), refused.len()), (SESSIONS_MAX, 4));
    for error in refused {
        assert_eq!(token_error(error.unwrap_err()), TokenError::Busy.to_string());
    }

    // A token that has two is asked on two.
    place.fault("two sessions");
    let small = place.token();
    let opener = uncached(keyring(&[&small.find(KeyName::Label("cmk")).unwrap()]));
    let before = open_now();
    place.fault("slow");
    thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(|| opener.open(&envelope).unwrap()))));
    assert!(open_now() <= before + 1, "{} after {before}", open_now());
    small.generate("another", &[3]).unwrap();
    // One that says of a sudden that there are no more.
    place.fault("no more sessions");
    assert!(matches!(small.generate("more", &[4]), Err(TokenError::Call { .. })));
}

/// Decapsulations a second, beside a key in memory.
fn rate(place: &Place) {
    let key = place.token().generate("cmk", &[1]).unwrap();
    let memory = Cmk::generate().unwrap();
    let enc = kit::public(&[5; 32]);
    let per_second = |key: &dyn Decapsulator, threads: u32| {
        let (began, each) = (Instant::now(), 2000);
        thread::scope(|scope| {
            (0..threads).for_each(|_| drop(scope.spawn(|| (0..each).for_each(|_| drop(key.decapsulate(&enc).unwrap())))));
        });
        f64::from(each * threads) / began.elapsed().as_secs_f64()
    };
    for threads in [1, 2, 8] {
        println!(
            "{threads} threads: {:.0}/s in the token, {:.0}/s in memory",
            per_second(&key, threads),
            per_second(&memory, threads)
        );
    }
}
