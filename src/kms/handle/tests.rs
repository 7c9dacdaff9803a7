use super::*;
use crate::{
    keys::{Cmk, Keyring, SenderKey, VerifyingKey},
    kms::{AccessPolicy, KeyInfo},
    open::Opener,
    seal::seal,
    wire::Suite,
};

const NOW: u64 = 1_800_000_000;

/// A service in memory: what it says takes effect at once.
#[derive(Default)]
struct Memory {
    keys: Keys,
    policy: AccessPolicy,
    now: u64,
}

impl Memory {
    fn new() -> Self {
        Self { now: NOW, ..Self::default() }
    }

    fn ask_as(&mut self, caller: Option<&VerifyingKey>, request: Request) -> Result<Answer, KmsError> {
        let rights = caller.map_or(Rights::LOCAL, |key| self.policy.rights(key, self.now));
        let Handled { answer, changes, .. } = handle(&self.keys, rights, request, self.now, &mut Entropy::default());
        // What a store would read back is what goes on.
        let kept = self.keys.encode_with(&changes);
        self.keys = Keys::decode(&kept).unwrap();
        assert_eq!(*self.keys.encode_with(&[]), *kept, "one encoding");
        answer
    }

    fn ask(&mut self, request: Request) -> Result<Answer, KmsError> {
        self.ask_as(None, request)
    }

    fn info(&mut self, request: Request) -> Result<KeyInfo, KmsError> {
        match self.ask(request)? {
            Answer::Key(info) => Ok(info),
            _ => panic!("another kind of answer"),
        }
    }

    fn create(&mut self, alias: &str) -> KeyInfo {
        self.info(Request::CreateKey { kem: Kem::X25519, alias: Some(alias.parse().unwrap()) }).unwrap()
    }

    fn recipient(&mut self, alias: &str) -> Recipient {
        match self.ask(Request::GetPublicKey(name(alias))).unwrap() {
            Answer::PublicKey(key) => key.recipient,
            _ => panic!("another kind of answer"),
        }
    }

    fn unwrap(&mut self, wrapped: WrappedDek) -> Result<Unwrapped, KmsError> {
        match self.ask(Request::DecryptDataKey(wrapped))? {
            Answer::Unwrapped(unwrapped) => Ok(unwrapped),
            _ => panic!("another kind of answer"),
        }
    }

    fn ciphertext(&mut self, request: Request) -> Vec<u8> {
        match self.ask(request).unwrap() {
            Answer::Ciphertext(bytes) => bytes,
            _ => panic!("another kind of answer"),
        }
    }

    fn encrypt(&mut self, alias: &str, secret: &[u8], context: &[u8]) -> Vec<u8> {
        let secret = Zeroizing::new(secret.to_vec());
        self.ciphertext(Request::Encrypt { key: name(alias), secret, context: context.into() })
    }

    fn decrypt(&mut self, ciphertext: &[u8], context: &[u8]) -> Result<Vec<u8>, KmsError> {
        match self.ask(Request::Decrypt { ciphertext: ciphertext.into(), context: context.into() })? {
            Answer::Secret(secret) => Ok(secret.to_vec()),
            _ => panic!("another kind of answer"),
        }
    }
}

type Ask = fn(KeyRef) -> Request;

fn name(text: &str) -> KeyRef {
    text.parse().unwrap()
}

fn block_of(envelope: &[u8]) -> Vec<u8> {
    DekBlock::parse(envelope, &Limits::default()).unwrap().0.to_vec()
}

/// Opens with a DEK and no key: it is the envelope's, or nothing is opened.
fn open_with(envelope: &[u8], dek: &Dek) -> Vec<u8> {
    let crate::open::Begun::NeedsDek(mut waiting) = Opener::new(Keyring::new()).begin(envelope).unwrap() else {
        panic!("there is no key")
    };
    waiting.supply(dek).unwrap().open().unwrap().payload.to_vec()
}

#[test]
fn a_senders_envelope_opens_through_the_service() {
    let mut service = Memory::new();
    let id = service.create("orders").id;
    let (recipient, other) = (service.recipient("orders"), Cmk::generate().unwrap());
    for to in [vec![recipient.clone()], vec![other.recipient().clone(), recipient.clone()]] {
        let envelope = seal(b"an order", &to).unwrap();
        let unwrapped = service.unwrap(WrappedDek::Block(block_of(&envelope))).unwrap();
        assert_eq!(open_with(&envelope, &unwrapped.dek), b"an order");
        assert_eq!((unwrapped.key, unwrapped.recipient), (KeyUsed::of(id, 1), Some(recipient.clone())));
        let (_, block) = DekBlock::parse(&envelope, &Limits::default()).unwrap();
        let slots: Vec<_> = block.slots.iter().collect();
        let slot = slots.last().unwrap();
        let wrapped = |hint| WrappedDek::Slot {
            suite: block.suite,
            hints: block.options.hints,
            salt: *block.salt,
            hint,
            enc: block.enc.map_or(slot.enc, |enc| &enc[..]).into(),
            wrapped_dek: *slot.wrapped_dek,
        };
        assert_eq!(open_with(&envelope, &service.unwrap(wrapped(slot.hint)).unwrap().dek), b"an order");
        assert!(matches!(service.unwrap(wrapped([9; 4])), Err(KmsError::CannotDecrypt)));
    }
    let external = |provider: &str, blob| WrappedDek::External { provider: provider.into(), key_ref: "orders".into(), blob };
    let envelope = seal(b"external", &[recipient]).unwrap();
    let unwrapped = service.unwrap(external("sealwire", block_of(&envelope))).unwrap();
    assert_eq!(open_with(&envelope, &unwrapped.dek), b"external");
    assert!(matches!(service.unwrap(external("aws", block_of(&envelope))), Err(KmsError::Invalid(_))));
}

#[test]
fn data_keys_come_back() {
    let kems: &[Kem] = if cfg!(feature = "pq") { &[Kem::X25519, Kem::XWing] } else { &[Kem::X25519] };
    for &kem in kems {
        let mut service = Memory::new();
        service.info(Request::CreateKey { kem, alias: Some("a".parse().unwrap()) }).unwrap();
        let mut generate = |plaintext| match service.ask(Request::GenerateDataKey { key: name("a"), plaintext }).unwrap() {
            Answer::DataKey(pair) => pair,
            _ => panic!("another kind of answer"),
        };
        let (pair, without) = (generate(true), generate(false));
        let dek = pair.plaintext.unwrap();
        let again = service.unwrap(WrappedDek::Block(pair.ciphertext)).unwrap();
        assert_eq!(again.dek.secret.bytes(), dek.secret.bytes());
        assert_eq!(again.recipient, pair.recipient);
        assert!(without.plaintext.is_none());
        assert_ne!(service.unwrap(WrappedDek::Block(without.ciphertext)).unwrap().dek.secret.bytes(), dek.secret.bytes());
    }
}

#[test]
fn old_versions_still_decrypt() {
    let mut service = Memory::new();
    service.create("a");
    let old = service.recipient("a");
    let (envelope, secret) = (seal(b"old", std::slice::from_ref(&old)).unwrap(), service.encrypt("a", b"pin", b""));
    let rotated = service.info(Request::RotateKey(name("a"))).unwrap();
    assert_eq!(rotated.version, 2);
    let new = service.recipient("a");
    assert_ne!(old, new);
    assert_eq!(service.unwrap(WrappedDek::Block(block_of(&envelope))).unwrap().key.version, 1);
    assert_eq!(service.decrypt(&secret, b"").unwrap(), b"pin");
    let envelope = seal(b"new", &[new]).unwrap();
    assert_eq!(service.unwrap(WrappedDek::Block(block_of(&envelope))).unwrap().key.version, 2);
}

/// Proves KMS-50, KMS-51 and KMS-52: what was encrypted comes back under its context, and with no byte changed.
#[test]
fn secrets_directly_under_a_cmk() {
    let mut service = Memory::new();
    service.create("a");
    for len in [0, 1, SECRET_LEN, 4096] {
        let secret: Vec<u8> = (0..len).map(|i| i as u8).collect();
        let ciphertext = service.encrypt("a", &secret, b"row 7");
        assert_eq!(service.decrypt(&ciphertext, b"row 7").unwrap(), secret);
        assert!(matches!(service.decrypt(&ciphertext, b"row 8"), Err(KmsError::CannotDecrypt)));
        assert!(service.decrypt(&[&ciphertext[..], b"x"].concat(), b"row 7").is_err());
        assert!(service.decrypt(&ciphertext[..ciphertext.len() - 1], b"row 7").is_err());
    }
    let ciphertext = service.encrypt("a", b"pin", b"");
    for at in 0..ciphertext.len() {
        let mut changed = ciphertext.clone();
        changed[at] ^= 1;
        assert!(service.decrypt(&changed, b"").is_err(), "byte {at}");
    }
    assert!(matches!(service.decrypt(&[0; 100], b""), Err(KmsError::Invalid(_))));
    let long = [&ciphertext[..57], &[0; 4096 + 17]].concat();
    assert!(matches!(service.decrypt(&long, b""), Err(KmsError::Invalid(_))));
}

const SECRET_LEN: usize = 32;

/// `decrypt` is no way round the rights on data keys: a slot dressed up as a secret does not open.
#[test]
fn a_wrapped_dek_is_no_secret() {
    let mut service = Memory::new();
    let id = service.create("a").id;
    let envelope = seal(b"x", &[service.recipient("a")]).unwrap();
    let (_, block) = DekBlock::parse(&envelope, &Limits::default()).unwrap();
    let slot = block.slots.iter().next().unwrap();
    let dressed = [b"SWD\x01\x01", &id.0[..], &1u32.to_be_bytes(), block.enc.unwrap(), slot.wrapped_dek].concat();
    assert!(matches!(service.decrypt(&dressed, b""), Err(KmsError::CannotDecrypt)));
    // Nor the other way round.
    let secret = service.encrypt("a", &[7; 32], b"");
    let (enc, wrapped) = (secret[25..57].to_vec(), secret[57..].try_into().unwrap());
    let suite = Suite::X25519ChaCha20Poly1305;
    let slot = WrappedDek::Slot { suite, hints: HintMode::None, salt: [0; 16], hint: [0; 4], enc, wrapped_dek: wrapped };
    assert!(matches!(service.unwrap(slot), Err(KmsError::CannotDecrypt)));
}

#[test]
fn re_encryption() {
    let mut service = Memory::new();
    service.create("a");
    let b = service.create("b").id;
    let secret = service.encrypt("a", b"pin", b"row");
    let again = service.ciphertext(Request::ReEncrypt { ciphertext: secret, context: b"row".into(), to: name("b") });
    service.info(Request::DisableKey(name("a"))).unwrap();
    assert_eq!(service.decrypt(&again, b"row").unwrap(), b"pin");
    service.info(Request::EnableKey(name("a"))).unwrap();
    let envelope = seal(b"payload", &[service.recipient("a")]).unwrap();
    let block = block_of(&envelope);
    let new = service.ciphertext(Request::ReEncrypt { ciphertext: block.clone(), context: vec![], to: name("b") });
    assert_eq!(service.unwrap(WrappedDek::Block(new.clone())).unwrap().key, KeyUsed::of(b, 1));
    // The data goes on as they are.
    let moved = [&new[..], &envelope[block.len()..]].concat();
    assert_eq!(open_with(&moved, &service.unwrap(WrappedDek::Block(new)).unwrap().dek), b"payload");
}

/// Every verb in every state: it is done, or says which state. Proves KMS-43.
#[test]
fn states() {
    let verbs: [(&str, Ask); 10] = [
        ("describe", |key| Request::DescribeKey(key)),
        ("enable", |key| Request::EnableKey(key)),
        ("disable", |key| Request::DisableKey(key)),
        ("schedule", |key| Request::ScheduleKeyDeletion { key, days: 7 }),
        ("cancel", |key| Request::CancelKeyDeletion(key)),
        ("rotate", |key| Request::RotateKey(key)),
        ("alias", |key| Request::SetAlias { alias: "new".parse().unwrap(), key }),
        ("public", |key| Request::GetPublicKey(key)),
        ("generate", |key| Request::GenerateDataKey { key, plaintext: true }),
        ("encrypt", |key| Request::Encrypt { key, secret: Zeroizing::new(vec![1]), context: vec![] }),
    ];
    let allowed: [(&str, &[&str]); 4] = [
        ("enabled", &["describe", "disable", "schedule", "rotate", "alias", "public", "generate", "encrypt"]),
        ("disabled", &["describe", "enable", "schedule", "alias"]),
        ("pending-deletion", &["describe", "cancel", "alias"]),
        ("destroyed", &["describe"]),
    ];
    for (state, does) in allowed {
        for (verb, request) in verbs {
            let mut service = Memory::new();
            service.create("a");
            let (envelope, secret) = (seal(b"x", &[service.recipient("a")]).unwrap(), service.encrypt("a", b"pin", b""));
            match state {
                "disabled" => drop(service.info(Request::DisableKey(name("a"))).unwrap()),
                "pending-deletion" | "destroyed" => {
                    service.info(Request::ScheduleKeyDeletion { key: name("a"), days: 7 }).unwrap();
                    if state == "destroyed" {
                        service.now += 7 * DAY;
                    }
                }
                _ => {}
            }
            match service.ask(request(name("a"))) {
                Ok(_) => assert!(does.contains(&verb), "{verb} while {state}"),
                Err(error) => {
                    assert!(!does.contains(&verb), "{verb} while {state}: {error}");
                    assert_eq!(error.reason(), state, "{verb}");
                }
            }
            if state != "enabled" && does == ["describe"] {
                assert_eq!(service.unwrap(WrappedDek::Block(block_of(&envelope))).err().unwrap().reason(), state);
                assert_eq!(service.decrypt(&secret, b"").unwrap_err().reason(), state);
            }
        }
    }
}

/// Proves KMS-44, and that cancelling keeps the key.
#[test]
fn deletion() {
    let mut service = Memory::new();
    service.create("a");
    let envelope = seal(b"x", &[service.recipient("a")]).unwrap();
    for days in [0, 6, 31, 255] {
        assert!(matches!(service.ask(Request::ScheduleKeyDeletion { key: name("a"), days }), Err(KmsError::Invalid(_))));
    }
    let pending = service.info(Request::ScheduleKeyDeletion { key: name("a"), days: 30 }).unwrap();
    assert_eq!(pending.state, KeyState::PendingDeletion { at: NOW + 30 * DAY });
    service.now = NOW + 30 * DAY - 1;
    assert!(service.keys.due(service.now).is_empty());
    assert_eq!(service.info(Request::CancelKeyDeletion(name("a"))).unwrap().state, KeyState::Disabled);
    service.info(Request::EnableKey(name("a"))).unwrap();
    service.unwrap(WrappedDek::Block(block_of(&envelope))).unwrap();
    service.info(Request::ScheduleKeyDeletion { key: name("a"), days: 7 }).unwrap();
    service.now += 7 * DAY;
    let secret = service.keys.find(&name("a")).unwrap().newest().1.cmk.as_ref().unwrap().secret_bytes().to_owned();
    let due: Vec<_> = service.keys.due(service.now).into_iter().map(|(_, change)| change).collect();
    assert_eq!(due.len(), 1);
    let kept = service.keys.encode_with(&due);
    assert!(!kept.windows(32).any(|window| window == secret), "the secret half is gone from the store");
    service.keys = Keys::decode(&kept).unwrap();
    assert!(service.keys.due(service.now).is_empty());
    assert_eq!(service.unwrap(WrappedDek::Block(block_of(&envelope))).err().unwrap().reason(), "destroyed");
    assert_eq!(service.info(Request::DescribeKey(name("a"))).unwrap().state, KeyState::Destroyed { at: service.now });
}

#[test]
fn aliases() {
    let mut service = Memory::new();
    let (a, b) = (service.create("a").id, service.create("b").id);
    let taken = Request::CreateKey { kem: Kem::X25519, alias: Some("a".parse().unwrap()) };
    assert!(matches!(service.ask(taken), Err(KmsError::AliasTaken)));
    assert_eq!(service.keys.len(), 2);
    let moved = service.info(Request::SetAlias { alias: "a".parse().unwrap(), key: b.into() }).unwrap();
    assert_eq!(moved.aliases, ["a", "b"].map(|alias| alias.parse().unwrap()));
    assert_eq!(service.info(Request::DescribeKey(name("a"))).unwrap().id, b);
    assert!(service.info(Request::DescribeKey(a.into())).unwrap().aliases.is_empty());
    service.ask(Request::DeleteAlias("a".parse().unwrap())).unwrap();
    assert!(matches!(service.ask(Request::DescribeKey(name("a"))), Err(KmsError::NotFound)));
    for i in 1..ALIASES_MAX {
        service.info(Request::SetAlias { alias: format!("b{i}").parse().unwrap(), key: b.into() }).unwrap();
    }
    let one_more = Request::SetAlias { alias: "more".parse().unwrap(), key: b.into() };
    assert!(matches!(service.ask(one_more), Err(KmsError::Full(_))));
}

/// Proves KMS-42, KMS-45, KMS-46, KMS-47 and KMS-48: who may not learns nothing, not even whether there is such a key.
#[test]
fn who_may_not_learns_nothing() {
    let mut service = Memory::new();
    let (mine, theirs) = (service.create("mine").id, service.create("theirs").id);
    let caller = *SenderKey::generate().unwrap().verifying_key();
    let verbs = "describe-key\", \"rotate-key\", \"generate-data-key\", \"encrypt\", \"decrypt\", \"re-encrypt\", \"set-alias\", \"list-keys";
    let text = format!(
        "[[caller]]\nname = \"a\"\nkey = \"{caller}\"\nallow = [{{ verbs = [\"{verbs}\"], keys = [\"mine\", \"later\"] }}]"
    );
    service.policy = AccessPolicy::from_toml(&text).unwrap();
    let nowhere = KeyId([9; 16]);
    let secret = |key: KeyRef| Request::Encrypt { key, secret: Zeroizing::new(vec![1]), context: vec![] };
    let asks: [fn(KeyRef) -> Request; 4] =
        [Request::DescribeKey, Request::RotateKey, |key| Request::GenerateDataKey { key, plaintext: false }, Request::EnableKey];
    for ask in asks {
        for key in [theirs.into(), name("theirs"), nowhere.into(), name("nowhere")] {
            assert!(matches!(service.ask_as(Some(&caller), ask(key)), Err(KmsError::Denied)));
        }
    }
    let own = |key: KeyRef| Request::DescribeKey(key);
    service.ask_as(Some(&caller), own(name("mine"))).unwrap();
    service.ask_as(Some(&caller), own(mine.into())).unwrap();
    // He is named for it, so he may know that it is not there yet.
    assert!(matches!(service.ask_as(Some(&caller), own(name("later"))), Err(KmsError::NotFound)));
    // A plaintext DEK is for who may decrypt.
    let generate = |plaintext| Request::GenerateDataKey { key: name("mine"), plaintext };
    assert!(matches!(service.ask_as(Some(&caller), generate(true)), Err(KmsError::Denied)));
    let Ok(Answer::DataKey(pair)) = service.ask_as(Some(&caller), generate(false)) else { panic!("allowed") };
    // What he may not unwrap is to him what does not open, whoever's it is.
    let envelope = seal(b"x", &[service.recipient("theirs")]).unwrap();
    for block in [pair.ciphertext, block_of(&envelope)] {
        let unwrapped = service.ask_as(Some(&caller), Request::DecryptDataKey(WrappedDek::Block(block)));
        assert!(matches!(unwrapped, Err(KmsError::CannotDecrypt)));
    }
    let Ok(Answer::Ciphertext(own)) = service.ask_as(Some(&caller), secret(name("mine"))) else { panic!("allowed") };
    let foreign = service.encrypt("theirs", b"pin", b"");
    let decrypt = |ciphertext: &[u8]| Request::Decrypt { ciphertext: ciphertext.into(), context: vec![] };
    service.ask_as(Some(&caller), decrypt(&own)).unwrap();
    service.info(Request::DisableKey(name("theirs"))).unwrap();
    let mut unknown = foreign.clone();
    unknown[5] ^= 1;
    for ciphertext in [&foreign, &unknown] {
        assert!(matches!(service.ask_as(Some(&caller), decrypt(ciphertext)), Err(KmsError::CannotDecrypt)));
    }
    let re_encrypt = |ciphertext: &[u8], to| Request::ReEncrypt { ciphertext: ciphertext.into(), context: vec![], to };
    assert!(matches!(service.ask_as(Some(&caller), re_encrypt(&own, name("theirs"))), Err(KmsError::Denied)));
    assert!(matches!(service.ask_as(Some(&caller), re_encrypt(&foreign, name("mine"))), Err(KmsError::CannotDecrypt)));
    let alias = |alias: &str, key| Request::SetAlias { alias: alias.parse().unwrap(), key };
    assert!(matches!(service.ask_as(Some(&caller), alias("theirs", name("mine"))), Err(KmsError::Denied)));
    assert!(matches!(service.ask_as(Some(&caller), alias("mine", name("theirs"))), Err(KmsError::Denied)));
    let Ok(Answer::Keys(seen)) = service.ask_as(Some(&caller), Request::ListKeys { after: None }) else { panic!("allowed") };
    assert_eq!(seen.iter().map(|info| info.id).collect::<Vec<_>>(), [mine]);
    let create = Request::CreateKey { kem: Kem::X25519, alias: None };
    assert!(matches!(service.ask_as(Some(&caller), create), Err(KmsError::Denied)));
}

#[test]
fn lists_have_pages() {
    let mut service = Memory::new();
    for _ in 0..LIST_MAX + 3 {
        service.ask(Request::CreateKey { kem: Kem::X25519, alias: None }).unwrap();
    }
    let (mut after, mut ids) = (None, Vec::new());
    loop {
        let Ok(Answer::Keys(page)) = service.ask(Request::ListKeys { after }) else { panic!("allowed") };
        let Some(last) = page.last() else { break };
        assert!(page.len() <= LIST_MAX);
        after = Some(last.id);
        ids.extend(page.iter().map(|info| info.id));
    }
    assert_eq!(ids.len(), LIST_MAX + 3);
    assert!(ids.is_sorted());
}

/// Proves KMS-60, KMS-61, KMS-62, KMS-63 and KMS-64: a state that was changed is refused or reads as another, and never ends the program.
#[test]
fn states_that_were_changed() {
    let mut service = Memory::new();
    service.create("a");
    service.create("b");
    service.info(Request::RotateKey(name("a"))).unwrap();
    let state = service.keys.encode_with(&[]);
    for at in 0..state.len() {
        for bit in [1, 0x80] {
            let mut changed = state.to_vec();
            changed[at] ^= bit;
            if let Ok(keys) = Keys::decode(&changed) {
                assert_eq!(*keys.encode_with(&[]), changed);
            }
        }
        assert!(Keys::decode(&state[..at]).is_err());
    }
    let field = |keys: &[u8]| match Keys::decode(keys) {
        Err(ParseError::Malformed { field, .. } | ParseError::Unsupported { field, .. }) => field,
        other => panic!("{:?}", other.err()),
    };
    assert_eq!(field(&[2]), "version");
    let one = |versions: u32, half: u8| {
        let head = [&[1, 0, 0, 0, 1][..], &[5; 16], &[0, 0x20, 1], &[0; 8], &[0; 8], &versions.to_be_bytes()].concat();
        [&head[..], &[0; 8], &[half], &[9; 32], &[0; 4]].concat()
    };
    assert!(Keys::decode(&one(1, 1)).is_ok());
    assert_eq!(field(&one(0, 1)), "version_count");
    assert_eq!(field(&one(1, 0)), "half");
    let entry = &one(1, 1)[5..][..80];
    let twice = [&[1, 0, 0, 0, 2][..], entry, entry, &[0; 4]].concat();
    assert_eq!(field(&twice), "id");
    let alias = [&one(1, 1)[..85], &[0, 0, 0, 1, 1, b'a'], &[6; 16]].concat();
    assert_eq!(field(&alias), "alias");
}

/// Proves KMS-37: what is full says which limit, and stays as it is.
#[test]
fn there_is_an_end_to_everything() {
    fn full(answer: Result<Answer, KmsError>) -> (&'static str, u64) {
        match answer {
            Err(KmsError::Full(limit)) => (limit.limit, limit.maximum),
            _ => panic!("there is room"),
        }
    }
    let mut service = Memory::new();
    let id = service.create("a0").id;
    let alias = |i: usize| Request::SetAlias { alias: format!("a{i}").parse().unwrap(), key: id.into() };
    (1..16).for_each(|i| drop(service.info(alias(i)).unwrap()));
    assert_eq!(full(service.ask(alias(16))), ("aliases", 16));
    // One that it has already is no other one.
    assert_eq!(service.info(alias(15)).unwrap().aliases.len(), 16);

    let mut entry = service.keys.find(&id.into()).unwrap().clone();
    entry.versions = vec![entry.versions[0].clone(); VERSIONS_MAX - 1];
    service.keys.apply(Change::Key(entry.clone()));
    assert_eq!(service.info(Request::RotateKey(id.into())).unwrap().version, 1024);
    assert_eq!(full(service.ask(Request::RotateKey(id.into()))), ("versions", 1024));

    entry.versions.truncate(1);
    for i in 0..KEYS_MAX - 2 {
        service.keys.apply(Change::Key(Entry { id: KeyId((i as u128).to_be_bytes()), ..entry.clone() }));
    }
    let ask = |keys: &mut Keys| {
        let create = Request::CreateKey { kem: Kem::X25519, alias: None };
        let Handled { answer, changes, .. } = handle(keys, Rights::LOCAL, create, NOW, &mut Entropy::default());
        changes.into_iter().for_each(|change| keys.apply(change));
        answer
    };
    assert!(ask(&mut service.keys).is_ok());
    assert_eq!((full(ask(&mut service.keys)), service.keys.len()), (("keys", 65_536), 65_536));
}

/// What is denied takes as long whether the key is there or not, however many aliases there are.
#[test]
fn a_key_that_is_there_is_denied_as_fast() {
    let mut service = Memory::new();
    let mut ids = Vec::new();
    for n in 0..4000_u32 {
        let versions = vec![Version::generate(Kem::X25519, 0, &mut Entropy::default()).unwrap()];
        let mut id = [0; 16];
        id[..4].copy_from_slice(&n.to_be_bytes());
        let entry = Entry { id: KeyId(id), kem: Kem::X25519, state: KeyState::Enabled, created_at: 0, versions };
        service.keys.apply(Change::Key(entry));
        for m in 0..ALIASES_MAX {
            service.keys.apply(Change::Alias(format!("a{n}/{m}").parse().unwrap(), Some(KeyId(id))));
        }
        ids.push(KeyId(id));
    }
    let caller = *SenderKey::generate().unwrap().verifying_key();
    let text = format!("[[caller]]\nname = \"a\"\nkey = \"{caller}\"\nallow = [{{ verbs = [\"decrypt\"], keys = [\"mine\"] }}]");
    service.policy = AccessPolicy::from_toml(&text).unwrap();
    let time = |service: &Memory, key: KeyRef| {
        let rights = service.policy.rights(&caller, NOW);
        let mut times: Vec<_> = (0..101)
            .map(|_| {
                let began = std::time::Instant::now();
                let handled = handle(&service.keys, rights, Request::DescribeKey(key.clone()), NOW, &mut Entropy::default());
                assert!(matches!(handled.answer, Err(KmsError::Denied)));
                began.elapsed()
            })
            .collect();
        times.sort();
        times[50]
    };
    let (there, nowhere) = (time(&service, ids[7].into()), time(&service, KeyId([9; 16]).into()));
    assert!(there < nowhere + std::time::Duration::from_micros(50), "{there:?} {nowhere:?}");
}

/// Proves KMS-37: a store that can be written stays one. What is destroyed is longer, and has its room from the beginning.
#[cfg(feature = "pq")]
#[test]
fn there_is_room_for_what_will_be_destroyed() {
    let mut service = Memory::new();
    let mut versions = Vec::new();
    let cmk = std::sync::Arc::new(Cmk::generate_pq().unwrap());
    versions.resize_with(VERSIONS_MAX, || Version { created_at: 0, recipient: cmk.recipient().clone(), cmk: Some(cmk.clone()) });
    let state = KeyState::PendingDeletion { at: NOW };
    let full = |n: u8| Entry { id: KeyId([n; 16]), kem: Kem::XWing, state, created_at: 0, versions: versions.clone() };
    let mut refused = 0;
    for n in 0..60 {
        let mut entry = full(n);
        entry.state = KeyState::Enabled;
        entry.versions.pop();
        service.keys.apply(Change::Key(entry));
        let rights = Rights::LOCAL;
        let handled = handle(&service.keys, rights, Request::RotateKey(KeyId([n; 16]).into()), NOW, &mut Entropy::default());
        refused += u8::from(matches!(handled.answer, Err(KmsError::Full(_))));
        let kept = if handled.answer.is_ok() { full(n) } else { break };
        service.keys.apply(Change::Key(kept));
    }
    let due: Vec<_> = service.keys.due(NOW).into_iter().map(|(_, change)| change).collect();
    let len = service.keys.encode_with(&due).len() as u64;
    assert!(len <= crate::kms::store::STATE_MAX, "{len}");
    assert_eq!(refused, 1);
}

/// Aliases that are together as long as this in a state.
#[cfg(feature = "pq")]
fn fillers(mut len: usize) -> Vec<Alias> {
    let mut fillers = Vec::new();
    while len > 0 {
        // An alias has 18 to 81 bytes there.
        let next = if len > 160 { 81 } else { len.div_ceil(1 + len / 82) };
        let name = format!("f{:05}{}", fillers.len(), "x".repeat(next));
        fillers.push(name[..next - 17].parse().unwrap());
        len -= next;
    }
    fillers
}

/// Proves KMS-37 to the byte: what needs all of the room that is left has it, and what needs one byte more has not.
#[cfg(feature = "pq")]
#[test]
fn room_is_counted_to_the_byte() {
    use crate::kms::store::STATE_MAX;
    let mut service = Memory::new();
    let old = service.create("old").id;
    let cmk = std::sync::Arc::new(Cmk::generate_pq().unwrap());
    let version = Version { created_at: 0, recipient: cmk.recipient().clone(), cmk: Some(cmk) };
    let left = |service: &Memory| usize::try_from(STATE_MAX).unwrap() - service.keys.longest();
    for n in 0..=u8::MAX {
        // One less than the most: it is the room that is wanting.
        let versions = (VERSIONS_MAX - 1).min(left(&service).saturating_sub(10_000) / 1225);
        if versions == 0 {
            break;
        }
        let versions = vec![version.clone(); versions];
        let entry = Entry { id: KeyId([n; 16]), kem: Kem::XWing, state: KeyState::Enabled, created_at: 0, versions };
        service.keys.apply(Change::Key(entry));
    }
    let alias = |name: &str| Some(name.parse().unwrap());
    // An entry has 39 bytes, a version 9 and its public half, an alias 17 and its name.
    for (request, needs) in [
        (Request::CreateKey { kem: Kem::X25519, alias: None }, 39 + 9 + 32),
        (Request::CreateKey { kem: Kem::X25519, alias: alias("new") }, 39 + 9 + 32 + 17 + 3),
        (Request::CreateKey { kem: Kem::XWing, alias: alias("b") }, 39 + 9 + 1216 + 17 + 1),
        (Request::RotateKey(old.into()), 9 + 32),
        (Request::RotateKey(KeyId([0; 16]).into()), 9 + 1216),
        (Request::SetAlias { alias: "second".parse().unwrap(), key: old.into() }, 17 + 6),
    ] {
        for missing in [0, 1] {
            let fillers = fillers(left(&service) - needs + missing);
            fillers.iter().for_each(|alias| service.keys.apply(Change::Alias(alias.clone(), Some(KeyId([1; 16])))));
            let rights = Rights::LOCAL;
            let Handled { answer, .. } = handle(&service.keys, rights, request.clone(), NOW, &mut Entropy::default());
            let is_full = matches!(&answer, Err(KmsError::Full(limit)) if limit.limit == "state");
            assert_eq!(
                (answer.is_ok(), is_full),
                (missing == 0, missing == 1),
                "{needs} with {missing} missing: {:?}",
                answer.err()
            );
            fillers.into_iter().for_each(|alias| service.keys.apply(Change::Alias(alias, None)));
        }
    }
}

/// Proves KMS-53: what an external says of its key is what it is asked for, so that who goes by that is not led to another.
#[test]
fn an_external_is_of_the_key_that_it_names() {
    let mut service = Memory::new();
    let (allowed, other) = (service.create("allowed").id, service.create("other").id);
    let envelope = seal(b"x", &[service.recipient("other")]).unwrap();
    let external =
        |key_ref: &str| WrappedDek::External { provider: PROVIDER.into(), key_ref: key_ref.into(), blob: block_of(&envelope) };
    for names_it in [other.to_string(), "other".into()] {
        assert_eq!(service.unwrap(external(&names_it)).unwrap().key.id, other.to_string());
    }
    for names_another in [allowed.to_string(), "allowed".into(), "nowhere".into(), "No Name".into(), String::new()] {
        assert!(matches!(service.unwrap(external(&names_another)), Err(KmsError::CannotDecrypt)), "{names_another}");
    }
}

/// A CMK of a service is asked for by whoever the policy lets: what comes out of it is nobody's alone.
#[test]
fn an_unwrapped_dek_is_not_mine_alone() {
    let mut service = Memory::new();
    service.create("a");
    let block = block_of(&seal(b"x", &[service.recipient("a")]).unwrap());
    assert!(!service.unwrap(WrappedDek::Block(block)).unwrap().dek.mine_alone);
}

/// Proves KMS-44 under a clock that begins in 1970: what it schedules would be due when it is set right.
#[test]
fn a_clock_that_is_behind_schedules_nothing() {
    let mut service = Memory::new();
    service.create("a");
    let schedule = || Request::ScheduleKeyDeletion { key: name("a"), days: 7 };
    service.now = 60;
    let early = service.info(schedule());
    service.now = NOW;
    assert_eq!(service.info(Request::DescribeKey(name("a"))).unwrap().state, KeyState::Enabled);
    assert!(matches!(early, Err(KmsError::Invalid(_))));
    assert_eq!(service.info(schedule()).unwrap().state, KeyState::PendingDeletion { at: NOW + 7 * DAY });
}
