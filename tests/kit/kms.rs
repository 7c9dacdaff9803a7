//! What a key service says and keeps (spec/kms.md), right and wrong, written by the page's tables and without the crate's own code.

use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit,
    aead::{Aead, Payload},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{EPHEMERAL, Forge, expand, extract, keys, labeled, labeled_info, pq, public, verifying_key};

/// Bytes, what they are, and what a reader makes of them.
pub struct Entry {
    pub name: String,
    pub shows: String,
    /// `request`, `answer`, `state`, `direct` or `connection`.
    pub read_as: &'static str,
    pub bytes: Vec<u8>,
    /// Of a direct secret and of a connection: what is read with; of others, the fields.
    pub more: Value,
    /// `opens`, or why not.
    pub answer: &'static str,
}

/// All of `spec/vectors/kms.json`.
pub fn all() -> Vec<Entry> {
    let mut kit = Kit(Vec::new());
    requests(&mut kit);
    answers(&mut kit);
    states(&mut kit);
    cuts(&mut kit);
    direct(&mut kit);
    connections(&mut kit);
    kit.0
}

struct Kit(Vec<Entry>);

impl Kit {
    fn put(&mut self, read_as: &'static str, name: &str, shows: &str, bytes: Vec<u8>, more: Value, answer: &'static str) {
        let name = format!("{read_as}-{name}");
        self.0.push(Entry { name, shows: shows.into(), read_as, bytes, more, answer });
    }

    fn opens(&mut self, read_as: &'static str, name: &str, bytes: Vec<u8>, more: Value) {
        self.put(read_as, name, name, bytes, more, "opens");
    }

    fn refuses(&mut self, read_as: &'static str, name: &str, shows: &str, bytes: Vec<u8>, answer: &'static str) {
        self.put(read_as, name, shows, bytes, Value::Null, answer);
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn cat(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// Bytes with their length before them, and with a length that is claimed.
fn sized(bytes: &[u8]) -> Vec<u8> {
    claimed(bytes.len() as u32, bytes)
}

fn claimed(len: u32, bytes: &[u8]) -> Vec<u8> {
    cat(&[&len.to_be_bytes(), bytes])
}

fn text(text: &str) -> Vec<u8> {
    cat(&[&[text.len() as u8], text.as_bytes()])
}

const ID: [u8; 16] = [0x1d; 16];
const ID_NAME: &str = "cmk-1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d";
const LATER: [u8; 16] = [0x2d; 16];
const SECRET: [u8; 32] = [0x11; 32];
const X25519: [u8; 2] = [0x00, 0x20];
const X_WING: [u8; 2] = [0x64, 0x7a];

fn id() -> Vec<u8> {
    cat(&[&[0], &ID])
}

fn slot(suite: u8, hints: u8, enc: &[u8]) -> Vec<u8> {
    cat(&[&[13, 2, suite, hints], &[0x5a; 16], &[0x4a; 4], &[0x3d; 48], &sized(enc)])
}

fn slot_value(suite: u8, hints: u8, enc: &[u8]) -> Value {
    let (salt, hint, dek) = (hex(&[0x5a; 16]), hex(&[0x4a; 4]), hex(&[0x3d; 48]));
    json!({ "verb": "decrypt-data-key", "wrapped": { "form": "slot", "suite": suite, "hint_mode": hints, "salt": salt, "hint": hint,
        "wrapped_dek": dek, "enc": hex(enc) } })
}

fn external(provider: &[u8], key_ref: &[u8], blob: &[u8]) -> Vec<u8> {
    cat(&[&[13, 3, provider.len() as u8], provider, &sized(key_ref), &sized(blob)])
}

fn external_value(provider: &str, key_ref: &str, blob: &[u8]) -> Value {
    json!({ "verb": "decrypt-data-key", "wrapped": { "form": "external", "provider": provider, "key_ref": key_ref, "blob": hex(blob) } })
}

fn requests(kit: &mut Kit) {
    let mut opens = |name: &str, bytes: Vec<u8>, value: Value| kit.opens("request", name, bytes, value);
    let create = |kem: u16, alias| json!({ "verb": "create-key", "kem": kem, "alias": alias });
    opens("create", cat(&[&[1], &X25519, &[0]]), create(0x20, Value::Null));
    opens("create-pq", cat(&[&[1], &X_WING, &text("orders/eu-1.a_b")]), create(0x647a, json!("orders/eu-1.a_b")));
    opens("list", vec![2, 0], json!({ "verb": "list-keys", "after": null }));
    opens("list-after", cat(&[&[2, 1], &ID]), json!({ "verb": "list-keys", "after": hex(&ID) }));
    for (number, verb) in [
        (3, "describe-key"),
        (4, "enable-key"),
        (5, "disable-key"),
        (7, "cancel-key-deletion"),
        (8, "rotate-key"),
        (11, "get-public-key"),
    ] {
        opens(verb, cat(&[&[number], &id()]), json!({ "verb": verb, "key": ID_NAME }));
    }
    let longest = "z".repeat(64);
    opens("longest-alias", cat(&[&[3], &text(&longest)]), json!({ "verb": "describe-key", "key": longest }));
    let schedule = json!({ "verb": "schedule-key-deletion", "key": "a", "days": 255 });
    opens("schedule", cat(&[&[6], &text("a"), &[255]]), schedule);
    opens("set-alias", cat(&[&[9], &text("new"), &text("old")]), json!({ "verb": "set-alias", "alias": "new", "key": "old" }));
    opens("delete-alias", cat(&[&[10], &text("old")]), json!({ "verb": "delete-alias", "alias": "old" }));
    for plaintext in [false, true] {
        let value = json!({ "verb": "generate-data-key", "key": "a", "plaintext": plaintext });
        opens(&format!("generate-{plaintext}"), cat(&[&[12], &text("a"), &[plaintext.into()]]), value);
    }
    let block = Forge::to(&[public(&SECRET)]).block();
    let value = json!({ "verb": "decrypt-data-key", "wrapped": { "form": "block", "block": hex(&block) } });
    opens("unwrap-block", cat(&[&[13, 1], &sized(&block)]), value);
    opens("unwrap-slot", slot(1, 0, &[9; 32]), slot_value(1, 0, &[9; 32]));
    opens("unwrap-slot-pq", slot(4, 2, &[9; 1120]), slot_value(4, 2, &[9; 1120]));
    opens("unwrap-external", external(b"sealwire", "\u{e4}".as_bytes(), &block), external_value("sealwire", "\u{e4}", &block));
    let encrypt = json!({ "verb": "encrypt", "key": "a", "context": hex(b"row"), "secret": hex(b"pin") });
    opens("encrypt", cat(&[&[14], &text("a"), &sized(b"row"), &sized(b"pin")]), encrypt);
    let decrypt = json!({ "verb": "decrypt", "context": "", "ciphertext": hex(&[7; 90]) });
    opens("decrypt", cat(&[&[15], &sized(b""), &sized(&[7; 90])]), decrypt);
    let again = json!({ "verb": "re-encrypt", "key": ID_NAME, "context": "", "ciphertext": hex(&[7; 90]) });
    opens("re-encrypt", cat(&[&[16], &id(), &sized(b""), &sized(&[7; 90])]), again);
    wrong_requests(kit);
    limits(kit);
}

fn wrong_requests(kit: &mut Kit) {
    let mut refuses = |name: &str, shows: &str, bytes: Vec<u8>, answer| kit.refuses("request", name, shows, bytes, answer);
    refuses("empty", "no verb", vec![], "malformed");
    for verb in [0u8, 17, 32, 64, 127, 128, 255] {
        refuses(&format!("verb-{verb}"), "KMS-31: verb", cat(&[&[verb], &text("a")]), "unsupported");
    }
    for kem in [0u16, 0x10, 0x21, 0x2000, 0x7a64, 0xffff] {
        refuses(&format!("kem-{kem:04x}"), "KMS-31: kem", cat(&[&[1], &kem.to_be_bytes(), &[0]]), "unsupported");
    }
    for form in [0u8, 4, 255] {
        refuses(&format!("form-{form}"), "KMS-31: form", cat(&[&[13, form], &sized(b"x")]), "unsupported");
    }
    for suite in [0u8, 5, 128] {
        refuses(&format!("suite-{suite}"), "KMS-31: suite", slot(suite, 0, &[9; 32]), "unsupported");
    }
    for hints in [3u8, 255] {
        refuses(&format!("hints-{hints}"), "KMS-31: hint mode", slot(1, hints, &[9; 32]), "unsupported");
    }
    for flag in [2u8, 128, 255] {
        let list = cat(&[&[2, flag], &ID]);
        refuses(&format!("list-flag-{flag}"), "KMS-35: flag", list, "malformed");
        let generate = cat(&[&[12], &text("a"), &[flag]]);
        refuses(&format!("generate-flag-{flag}"), "KMS-35: flag", generate, "malformed");
    }
    let long = "a".repeat(65);
    for (name, alias) in [
        ("upper-case", "A"),
        ("space", "a b"),
        ("nul", "a\0"),
        ("line-end", "a\n"),
        ("not-ascii", "\u{e4}"),
        ("colon", "a:b"),
        ("like-an-id", ID_NAME),
        ("prefix", "cmk-"),
        ("65-bytes", &long),
    ] {
        let shows = "KMS-30: alias";
        refuses(&format!("alias-{name}"), shows, cat(&[&[10], &text(alias)]), "malformed");
        refuses(&format!("key-{name}"), shows, cat(&[&[3], &text(alias)]), "malformed");
        refuses(&format!("create-{name}"), shows, cat(&[&[1], &X25519, &text(alias)]), "malformed");
    }
    refuses("alias-empty", "KMS-30: alias", vec![10, 0], "malformed");
    refuses("alias-not-utf-8", "KMS-34: alias", vec![10, 2, b'a', 0xff], "malformed");
    refuses("set-alias-id", "KMS-30: an id in the place of an alias", cat(&[&[9], &id(), &text("a")]), "malformed");
    for (name, bad) in
        [("continuation", &[0x80][..]), ("overlong", &[0xc0, 0xaf]), ("surrogate", &[0xed, 0xa0, 0x80]), ("cut", &[0xe2, 0x82])]
    {
        refuses(&format!("provider-{name}"), "KMS-34: provider", external(bad, b"", b"x"), "malformed");
        refuses(&format!("key-ref-{name}"), "KMS-34: key_ref", external(b"aws", bad, b"x"), "malformed");
    }
}

/// Each length at its limit, and one more. What is claimed is not there: the limit comes first.
fn limits(kit: &mut Kit) {
    let fill = |len: usize| vec![0x66; len];
    let encrypt = |context: &[u8], secret: &[u8]| cat(&[&[14], &text("a"), &sized(context), &sized(secret)]);
    let value = |context: usize, secret: usize| json!({ "verb": "encrypt", "key": "a", "context": hex(&fill(context)), "secret": hex(&fill(secret)) });
    kit.opens("request", "secret-4096", encrypt(b"", &fill(4096)), value(0, 4096));
    kit.opens("request", "context-1024", encrypt(&fill(1024), b""), value(1024, 0));
    let most = "r".repeat(2048);
    kit.opens("request", "key-ref-2048", external(b"aws", most.as_bytes(), b"x"), external_value("aws", &most, b"x"));
    let longest = "p".repeat(255);
    kit.opens("request", "provider-255", external(longest.as_bytes(), b"", b""), external_value(&longest, "", b""));
    let blob = fill(131_072);
    let request = external(b"aws", most.as_bytes(), &blob);
    kit.opens("request", "blob-131072", request, external_value("aws", &most, &blob));
    let mut refuses = |name: &str, field: &str, bytes: Vec<u8>| {
        kit.refuses("request", name, &format!("KMS-32: {field}"), bytes, "limit");
    };
    refuses("secret-4097", "secret", encrypt(b"", &fill(4097)));
    refuses("context-1025", "context", encrypt(&fill(1025), b""));
    refuses("key-ref-2049", "key_ref", external(b"aws", &fill(2049), b"x"));
    refuses("enc-1121", "enc", slot(3, 0, &fill(1121)));
    refuses("block-131073", "block", cat(&[&[13, 1], &sized(&fill(131_073))]));
    refuses("blob-131073", "blob", external(b"aws", b"", &fill(131_073)));
    refuses("ciphertext-131073", "ciphertext", cat(&[&[15], &sized(b""), &sized(&fill(131_073))]));
    refuses("re-encrypt-131073", "ciphertext", cat(&[&[16], &text("a"), &sized(b""), &sized(&fill(131_073))]));
    for len in [0x2_0001, 0x8000_0000, u32::MAX] {
        refuses(&format!("secret-says-{len:08x}"), "secret", cat(&[&[14], &text("a"), &sized(b""), &claimed(len, b"x")]));
        refuses(&format!("context-says-{len:08x}"), "context", cat(&[&[15], &claimed(len, b"x")]));
        refuses(&format!("block-says-{len:08x}"), "block", cat(&[&[13, 1], &claimed(len, b"x")]));
        refuses(&format!("blob-says-{len:08x}"), "blob", cat(&[&[13, 3, 0], &sized(b""), &claimed(len, b"x")]));
    }
}

fn info(kem: [u8; 2], state: u8, at: u64, aliases: &[&str]) -> Vec<u8> {
    let times = cat(&[&7u64.to_be_bytes(), &2u32.to_be_bytes(), &9u64.to_be_bytes()]);
    let aliases: Vec<u8> = aliases.iter().flat_map(|alias| text(alias)).collect::<Vec<_>>();
    cat(&[&ID, &kem, &[state], &at.to_be_bytes(), &times, &aliases])
}

/// The same with the count of aliases in its place.
fn told(kem: [u8; 2], state: u8, at: u64, aliases: &[&str]) -> Vec<u8> {
    let mut bytes = info(kem, state, at, aliases);
    bytes.insert(16 + 2 + 9 + 20, aliases.len() as u8);
    bytes
}

fn info_value(kem: u16, state: u8, at: u64, aliases: &[&str]) -> Value {
    let state = json!({ "number": state, "at": at });
    json!({ "id": hex(&ID), "kem": kem, "state": state, "created_at": 7, "version": 2, "rotated_at": 9, "aliases": aliases })
}

fn recipient() -> Vec<u8> {
    cat(&[&X25519, &public(&SECRET)])
}

fn used(public: &[u8]) -> Vec<u8> {
    cat(&[&text(ID_NAME), &2u32.to_be_bytes(), public])
}

fn used_value(public: &Value) -> Value {
    json!({ "key": ID_NAME, "version": 2, "public": public })
}

fn answers(kit: &mut Kit) {
    let mut opens = |name: &str, bytes: Vec<u8>, value: Value| kit.opens("answer", name, bytes, value);
    opens("done", vec![1], json!({ "answer": "done" }));
    for (state, at) in [(1, 0), (2, 0), (3, 1_800_000_000), (4, 1), (4, 0)] {
        let aliases = if state == 1 { &["a", "b"][..] } else { &[] };
        let value = json!({ "answer": "key", "info": info_value(0x20, state, at, aliases) });
        opens(&format!("key-{state}-at-{at}"), cat(&[&[2], &told(X25519, state, at, aliases)]), value);
    }
    let names: Vec<String> = (b'a'..b'q').map(|c| char::from(c).into()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let value = json!({ "answer": "key", "info": info_value(0x647a, 1, 0, &names) });
    opens("key-16-aliases", cat(&[&[2], &told(X_WING, 1, 0, &names)]), value);
    opens("keys-none", vec![3, 0, 0], json!({ "answer": "keys", "keys": [] }));
    let one = info_value(0x20, 1, 0, &["a"]);
    opens("keys-two", cat(&[&[3, 0, 2], &told(X25519, 1, 0, &["a"]).repeat(2)]), json!({ "answer": "keys", "keys": [one, one] }));
    let public_value = json!({ "kem": 0x20, "key": hex(&public(&SECRET)) });
    let value = json!({ "answer": "public-key", "id": hex(&ID), "version": 2, "public": public_value });
    opens("public-key", cat(&[&[4], &ID, &2u32.to_be_bytes(), &recipient()]), value);
    let value = json!({ "answer": "public-key", "id": hex(&ID), "version": 2,
        "public": { "kem": 0x647a, "key": hex(&pq::public(&SECRET)) } });
    opens("public-key-pq", cat(&[&[4], &ID, &2u32.to_be_bytes(), &X_WING, &pq::public(&SECRET)]), value);
    let block = sized(b"a block");
    for (name, public, public_value) in [("", recipient(), public_value.clone()), ("-without-public", vec![0, 0], Value::Null)] {
        let value =
            json!({ "answer": "data-key", "used": used_value(&public_value), "dek": hex(&[0xd1; 32]), "block": hex(b"a block") });
        opens(&format!("data-key{name}"), cat(&[&[5], &used(&public), &[1], &[0xd1; 32], &block]), value);
        let value = json!({ "answer": "data-key", "used": used_value(&public_value), "dek": null, "block": hex(b"a block") });
        opens(&format!("data-key{name}-alone"), cat(&[&[5], &used(&public), &[0], &block]), value);
        let value = json!({ "answer": "unwrapped", "used": used_value(&public_value), "dek": hex(&[0xd1; 32]) });
        opens(&format!("unwrapped{name}"), cat(&[&[6], &used(&public), &[0xd1; 32]]), value);
    }
    opens("ciphertext", cat(&[&[7], &sized(b"SWD")]), json!({ "answer": "ciphertext", "ciphertext": hex(b"SWD") }));
    opens("secret", cat(&[&[8], &sized(b"pin")]), json!({ "answer": "secret", "secret": hex(b"pin") }));
    opens("secret-4096", cat(&[&[8], &sized(&[1; 4096])]), json!({ "answer": "secret", "secret": hex(&[1; 4096]) }));
    for (number, name) in
        [(0x80, "denied"), (0x81, "not-found"), (0x83, "cannot-be-decrypted"), (0x85, "alias-taken"), (0x87, "read-only")]
    {
        opens(name, vec![number], json!({ "answer": name }));
    }
    let value = json!({ "answer": "wrong-state", "id": hex(&ID), "state": { "number": 3, "at": 5 } });
    opens("wrong-state", cat(&[&[0x82], &ID, &[3], &5u64.to_be_bytes()]), value);
    let long = "w".repeat(512);
    for (number, name) in [(0x84, "refused"), (0x86, "full"), (0x89, "unsupported")] {
        opens(name, cat(&[&[number], &sized("w\u{e4}".as_bytes())]), json!({ "answer": name, "why": "w\u{e4}" }));
        opens(&format!("{name}-512"), cat(&[&[number], &sized(long.as_bytes())]), json!({ "answer": name, "why": long }));
    }
    wrong_answers(kit);
}

fn wrong_answers(kit: &mut Kit) {
    let mut refuses = |name: &str, shows: &str, bytes: Vec<u8>, answer| kit.refuses("answer", name, shows, bytes, answer);
    refuses("empty", "no kind", vec![], "malformed");
    for kind in [0u8, 9, 0x10, 0x40, 0x7f, 0x8a, 0xc0, 0xff] {
        refuses(&format!("kind-{kind:02x}"), "KMS-31: kind", vec![kind], "unsupported");
    }
    for state in [0u8, 5, 255] {
        let shows = "KMS-31: state";
        refuses(&format!("key-state-{state}"), shows, cat(&[&[2], &told(X25519, state, 0, &[])]), "unsupported");
        refuses(&format!("wrong-state-{state}"), shows, cat(&[&[0x82], &ID, &[state], &[0; 8]]), "unsupported");
    }
    for state in [1, 2] {
        refuses(
            &format!("key-{state}-with-time"),
            "one encoding: at is 0",
            cat(&[&[2], &told(X25519, state, 1, &[])]),
            "malformed",
        );
    }
    for kem in [0u16, 0x21, 0x7a64] {
        refuses(&format!("key-kem-{kem:04x}"), "KMS-31: kem", cat(&[&[2], &told(kem.to_be_bytes(), 1, 0, &[])]), "unsupported");
    }
    let names = vec!["a"; 17];
    refuses("key-17-aliases", "KMS-32: aliases", cat(&[&[2], &told(X25519, 1, 0, &names)]), "limit");
    let mut many = told(X25519, 1, 0, &[]);
    *many.last_mut().unwrap() = 255;
    refuses("key-says-255-aliases", "KMS-32: aliases", cat(&[&[2], &many]), "limit");
    refuses("keys-257", "KMS-32: keys of a list", cat(&[&[3, 1, 1], &told(X25519, 1, 0, &[]).repeat(257)]), "limit");
    refuses("keys-says-65535", "KMS-32: keys of a list", vec![3, 0xff, 0xff], "limit");
    refuses("keys-fewer", "a key is missing", cat(&[&[3, 0, 2], &told(X25519, 1, 0, &[])]), "malformed");
    refuses("secret-4097", "KMS-32: secret", cat(&[&[8], &sized(&[1; 4097])]), "limit");
    refuses("ciphertext-131073", "KMS-32: ciphertext", cat(&[&[7], &sized(&[1; 131_073])]), "limit");
    refuses("data-key-131073", "KMS-32: block", cat(&[&[5], &used(&[0, 0]), &[0], &sized(&[1; 131_073])]), "limit");
    for flag in [2u8, 255] {
        let bytes = cat(&[&[5], &used(&[0, 0]), &[flag], &[0xd1; 32], &sized(b"x")]);
        refuses(&format!("data-key-flag-{flag}"), "KMS-35: flag", bytes, "malformed");
    }
    for (number, name) in [(0x84u8, "refused"), (0x86, "full"), (0x88, "failed"), (0x89, "unsupported")] {
        refuses(&format!("{name}-513"), "KMS-32: reason", cat(&[&[number], &sized(&[b'w'; 513])]), "limit");
        refuses(&format!("{name}-says-4-gib"), "KMS-32: reason", cat(&[&[number], &claimed(u32::MAX, b"w")]), "limit");
        refuses(&format!("{name}-not-utf-8"), "KMS-34: reason", cat(&[&[number], &sized(&[0xff])]), "malformed");
    }
    refuses(
        "used-not-utf-8",
        "KMS-34: id of a CMK",
        cat(&[&[6, 1, 0xff], &2u32.to_be_bytes(), &[0, 0], &[0xd1; 32]]),
        "malformed",
    );
    let public_key = |public: &[u8]| cat(&[&[4], &ID, &2u32.to_be_bytes(), public]);
    refuses("public-key-none", "no public key where there must be one", public_key(&[0, 0]), "malformed");
    refuses("public-key-kem", "KMS-31: kem", public_key(&cat(&[&[0, 0x21], &public(&SECRET)])), "unsupported");
    let weak = |first: u8, last: u8| {
        let mut key = [0; 32];
        (key[0], key[31]) = (first, last);
        key
    };
    let p = cat(&[&[0xed], &[0xff; 30], &[0x7f]]);
    for (name, key) in [
        ("zero", weak(0, 0).to_vec()),
        ("one", weak(1, 0).to_vec()),
        ("top-bit", weak(9, 0x80).to_vec()),
        ("p", p),
        ("ff", vec![0xff; 32]),
    ] {
        let shows = "KMS-36: public key";
        refuses(&format!("public-key-{name}"), shows, public_key(&cat(&[&X25519, &key])), "malformed");
        let bytes = cat(&[&[6], &used(&cat(&[&X25519, &key])), &[0xd1; 32]]);
        refuses(&format!("unwrapped-{name}"), shows, bytes, "malformed");
        let half = cat(&[&X_WING, &pq::public(&SECRET)[..1184], &key]);
        refuses(&format!("public-key-pq-{name}"), shows, public_key(&half), "malformed");
    }
    let mut large = pq::public(&SECRET);
    (large[0], large[1]) = (0xff, 0xff);
    refuses("public-key-pq-coefficient", "KMS-36: public key", public_key(&cat(&[&X_WING, &large])), "malformed");
}

/// A key of a state.
fn kept(id: [u8; 16], kem: [u8; 2], state: u8, at: u64, versions: &[Vec<u8>]) -> Vec<u8> {
    let count = (versions.len() as u32).to_be_bytes();
    cat(&[&id, &kem, &[state], &at.to_be_bytes(), &7u64.to_be_bytes(), &count, &versions.concat()])
}

fn version(half: u8, bytes: &[u8]) -> Vec<u8> {
    cat(&[&8u64.to_be_bytes(), &[half], bytes])
}

fn state(keys: &[Vec<u8>], aliases: &[(&str, [u8; 16])]) -> Vec<u8> {
    let named: Vec<u8> = aliases.iter().flat_map(|(alias, id)| cat(&[&text(alias), id])).collect();
    let (k, a) = ((keys.len() as u32).to_be_bytes(), (aliases.len() as u32).to_be_bytes());
    cat(&[&[1], &k, &keys.concat(), &a, &named])
}

fn states(kit: &mut Kit) {
    let secret = || version(1, &SECRET);
    let (one, two) = (|| kept(ID, X25519, 1, 0, &[secret()]), || kept(LATER, X_WING, 2, 0, &[secret(), secret()]));
    let value = |keys: Value, aliases: Value| json!({ "version": 1, "keys": keys, "aliases": aliases });
    let half = json!({ "created_at": 8, "secret": hex(&SECRET) });
    let key = |id: &[u8], kem: u16, state: Value, versions: Value| json!({ "id": hex(id), "kem": kem, "state": state, "created_at": 7, "versions": versions });
    let first = key(&ID, 0x20, json!({ "number": 1, "at": 0 }), json!([half]));
    let second = key(&LATER, 0x647a, json!({ "number": 2, "at": 0 }), json!([half, half]));
    kit.opens("state", "empty", state(&[], &[]), value(json!([]), json!([])));
    let aliases =
        json!([{ "alias": "a", "id": hex(&LATER) }, { "alias": "aa", "id": hex(&ID) }, { "alias": "b", "id": hex(&ID) }]);
    let bytes = state(&[one(), two()], &[("a", LATER), ("aa", ID), ("b", ID)]);
    kit.opens("state", "two-keys", bytes, value(json!([first, second]), aliases));
    let gone = kept(ID, X25519, 4, 5, &[version(0, &public(&SECRET))]);
    let wanted = key(&ID, 0x20, json!({ "number": 4, "at": 5 }), json!([{ "created_at": 8, "public": hex(&public(&SECRET)) }]));
    kit.opens("state", "destroyed", state(&[gone], &[]), value(json!([wanted]), json!([])));
    let pending = key(&ID, 0x20, json!({ "number": 3, "at": 5 }), json!([half]));
    kit.opens("state", "pending", state(&[kept(ID, X25519, 3, 5, &[secret()])], &[]), value(json!([pending]), json!([])));

    let mut refuses = |name: &str, shows: &str, bytes: Vec<u8>, answer| kit.refuses("state", name, shows, bytes, answer);
    refuses("nothing", "no version", vec![], "malformed");
    for version in [0u8, 2, 255] {
        refuses(&format!("version-{version}"), "KMS-60: version", cat(&[&[version], &[0; 8]]), "unsupported");
    }
    refuses("keys-swapped", "KMS-61: keys", state(&[two(), one()], &[]), "malformed");
    refuses("key-twice", "KMS-61: keys", state(&[one(), one()], &[]), "malformed");
    for (name, aliases) in [("swapped", ["b", "a"]), ("twice", ["a", "a"]), ("by-length", ["b", "aa"])] {
        refuses(&format!("aliases-{name}"), "KMS-61: aliases", state(&[one()], &aliases.map(|alias| (alias, ID))), "malformed");
    }
    refuses("no-version-of-a-key", "KMS-62", state(&[kept(ID, X25519, 1, 0, &[])], &[]), "malformed");
    refuses("no-version-of-a-destroyed-key", "KMS-62", state(&[kept(ID, X25519, 4, 5, &[])], &[]), "malformed");
    for number in [1u8, 2, 3] {
        let at = if number == 3 { 5 } else { 0 };
        let shows = "KMS-63: no secret of a key that is not destroyed";
        let key = kept(ID, X25519, number, at, &[version(0, &public(&SECRET))]);
        refuses(&format!("public-half-of-{number}"), shows, state(&[key], &[]), "malformed");
    }
    refuses("secret-of-destroyed", "KMS-63", state(&[kept(ID, X25519, 4, 5, &[secret()])], &[]), "malformed");
    let mixed = kept(ID, X25519, 1, 0, &[secret(), version(0, &public(&SECRET))]);
    refuses("second-version-public", "KMS-63", state(&[mixed], &[]), "malformed");
    for half in [2u8, 255] {
        refuses(&format!("half-{half}"), "KMS-63", state(&[kept(ID, X25519, 1, 0, &[version(half, &SECRET)])], &[]), "malformed");
    }
    refuses("alias-of-nothing", "KMS-64", state(&[one()], &[("a", LATER)]), "malformed");
    refuses("alias-without-keys", "KMS-64", state(&[], &[("a", ID)]), "malformed");
    refuses("alias-like-an-id", "KMS-30", state(&[one()], &[(ID_NAME, ID)]), "malformed");
    refuses("kem", "KMS-31: kem", state(&[kept(ID, [0, 0x21], 1, 0, &[secret()])], &[]), "unsupported");
    refuses("state", "KMS-31: state", state(&[kept(ID, X25519, 5, 0, &[secret()])], &[]), "unsupported");
    refuses("destroyed-weak", "KMS-36: public key", state(&[kept(ID, X25519, 4, 5, &[version(0, &[0; 32])])], &[]), "malformed");
    for count in [65_537u32, u32::MAX] {
        let bytes = cat(&[&[1], &count.to_be_bytes()]);
        refuses(&format!("says-{count}-keys"), "KMS-37: keys", bytes, "limit");
    }
    let head = &kept(ID, X25519, 1, 0, &[])[..35];
    for count in [1025u32, u32::MAX] {
        let bytes = cat(&[&[1, 0, 0, 0, 1], head, &count.to_be_bytes(), &secret()]);
        refuses(&format!("says-{count}-versions"), "KMS-37: versions", bytes, "limit");
    }
    refuses("says-4-gib-aliases", "KMS-37: aliases", cat(&[&[1], &[0; 4], &[0xff; 4]]), "limit");
}

/// Whatever is read is read to its last byte, and not without it.
fn cuts(kit: &mut Kit) {
    let good = kit.0.iter().filter(|entry| entry.answer == "opens");
    let good: Vec<_> = good.map(|entry| (entry.read_as, entry.name.clone(), entry.bytes.clone())).collect();
    for (read_as, name, bytes) in good.into_iter().filter(|(.., bytes)| bytes.len() < 4000) {
        let name = name.strip_prefix(&format!("{read_as}-")).unwrap();
        kit.refuses(read_as, &format!("{name}-and-a-byte"), "KMS-33", cat(&[&bytes, &[0]]), "trailing");
        let cuts = [("its-last-byte", bytes.len() - 1), ("its-second-half", bytes.len() / 2 + 1), ("all-but-a-byte", 1)];
        let mut before = bytes.len();
        for (what, len) in cuts.into_iter().filter(|(_, len)| *len > 0) {
            let is_new = !kit.0.iter().any(|entry| entry.read_as == read_as && entry.bytes == bytes[..len]);
            if len < before && is_new {
                kit.refuses(read_as, &format!("{name}-without-{what}"), "the end is missing", bytes[..len].to_vec(), "malformed");
            }
            before = len.min(before);
        }
    }
}

const CONTEXT: &[u8] = b"row 7";

/// HPKE, base mode, with this info and AAD.
fn hpke_seal(suite: u8, shared: &[u8], info: &[u8], aad: &[u8], msg: &[u8]) -> Vec<u8> {
    let kem = if suite == 3 { X_WING } else { X25519 };
    let suite = &[b"HPKE", &kem[..], &[0, 1, 0, 3]].concat()[..];
    let psk_id = extract(b"", &labeled(suite, b"psk_id_hash", b""));
    let context = [&[0][..], &psk_id, &extract(b"", &labeled(suite, b"info_hash", info))].concat();
    let secret = extract(shared, &labeled(suite, b"secret", b""));
    let key = expand(&secret, &labeled_info(32, suite, b"key", &context), 32);
    let nonce: [u8; 12] = expand(&secret, &labeled_info(12, suite, b"base_nonce", &context), 12).try_into().unwrap();
    ChaCha20Poly1305::new(key[..].try_into().unwrap()).encrypt((&nonce).into(), Payload { msg, aad }).unwrap()
}

/// A secret directly under SECRET's key, every part open to the test.
struct Direct {
    magic: [u8; 4],
    suite: u8,
    id: [u8; 16],
    version: u32,
    info: &'static [u8],
    context: &'static [u8],
    secret: Vec<u8>,
}

impl Direct {
    fn of(suite: u8, secret: &[u8]) -> Self {
        let info = b"sealwire v1 direct";
        Self { magic: *b"SWD\x01", suite, id: ID, version: 2, info, context: CONTEXT, secret: secret.to_vec() }
    }

    fn bytes(&self) -> Vec<u8> {
        let head = cat(&[&self.magic, &[self.suite], &self.id, &self.version.to_be_bytes()]);
        let (enc, shared): (Vec<u8>, Vec<u8>) = if self.suite == 3 {
            use x_wing::Decapsulate;
            let enc = pq::enc(&pq::public(&SECRET), 5);
            (enc.to_vec(), pq::secret(&SECRET).decapsulate((&enc).into()).to_vec())
        } else {
            let (to, enc) = (public(&SECRET), public(&EPHEMERAL));
            let dh = x25519_dalek::StaticSecret::from(EPHEMERAL).diffie_hellman(&to.into()).to_bytes();
            let kem = b"KEM\x00\x20";
            let eae = extract(b"", &labeled(kem, b"eae_prk", &dh));
            (enc.to_vec(), expand(&eae, &labeled_info(32, kem, b"shared_secret", &[enc, to].concat()), 32))
        };
        let info = cat(&[self.info, &[self.suite]]);
        cat(&[&head, &enc, &hpke_seal(self.suite, &shared, &info, &cat(&[&head, self.context]), &self.secret)])
    }
}

fn direct(kit: &mut Kit) {
    // What is given: the CMK of ID's version 2, of either kind, and a context.
    let with = |context: &[u8], secret: &[u8]| json!({ "context": hex(context), "secret": hex(secret) });
    for suite in [1, 3] {
        for len in [0, 3, 4096] {
            let secret = vec![0x70; len];
            let name = format!("suite-{suite}-{len}-bytes");
            kit.opens("direct", &name, Direct::of(suite, &secret).bytes(), with(CONTEXT, &secret));
        }
    }
    let mut refuses = |name: &str, shows: &str, bytes: Vec<u8>, context: &[u8], answer| {
        kit.put("direct", name, shows, bytes, with(context, b""), answer);
    };
    let good = Direct::of(1, b"pin").bytes();
    for at in 0..3 {
        let mut bytes = good.clone();
        bytes[at] ^= 0x20;
        refuses(&format!("magic-{at}"), "KMS-50: magic", bytes, CONTEXT, "malformed");
    }
    for version in [0u8, 2, 255] {
        let bytes = Direct { magic: [b'S', b'W', b'D', version], ..Direct::of(1, b"pin") }.bytes();
        refuses(&format!("version-{version}"), "KMS-50: version", bytes, CONTEXT, "malformed");
    }
    for suite in [0u8, 2, 4, 5, 255] {
        refuses(&format!("suite-{suite}"), "KMS-50: suite", Direct::of(suite, b"pin").bytes(), CONTEXT, "unsupported");
    }
    refuses("secret-4097", "KMS-51: too long", Direct::of(1, &[0; 4097]).bytes(), CONTEXT, "malformed");
    for (name, len) in [("nothing", 0), ("magic-cut", 3), ("id-cut", 12), ("enc-cut", 40), ("no-tag", 57), ("tag-cut", 72)] {
        refuses(name, "KMS-51: too short", good[..len].to_vec(), CONTEXT, "malformed");
    }
    for (name, context) in [("other", &b"row 8"[..]), ("none", b""), ("longer", b"row 77"), ("shorter", b"row ")] {
        refuses(&format!("context-{name}"), "KMS-52: context", good.clone(), context, "tag");
    }
    for suite in [1, 3] {
        let good = Direct::of(suite, b"pin").bytes();
        let enc = if suite == 1 { 57 } else { 25 + 1120 };
        for (name, at) in [
            ("id", 5),
            ("key-version", 24),
            ("enc-first", 25),
            ("enc-last", enc - 1),
            ("enc-middle", (25 + enc) / 2),
            ("text", enc),
            ("text-last", enc + 2),
            ("tag", good.len() - 1),
        ] {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            refuses(&format!("changed-{suite}-{name}"), "KMS-52: it was changed", bytes, CONTEXT, "tag");
        }
        let longer = cat(&[&good, &[0]]);
        refuses(&format!("longer-{suite}"), "KMS-52: it was changed", longer, CONTEXT, "tag");
    }
    let dek = Direct { info: b"sealwire v1 dek", ..Direct::of(1, &[7; 32]) }.bytes();
    refuses("info-of-deks", "the info of wrapped DEKs", dek, CONTEXT, "tag");
    let moved = Direct { version: 1, ..Direct::of(1, b"pin") }.bytes();
    refuses("version-not-there", "KMS-52: no such version", moved, CONTEXT, "tag");
}

const GREETING: [u8; 32] = [0x67; 32];
const SERVER: [u8; 32] = [0x51; 32];
const SIGNER: [u8; 32] = [0x52; 32];
const CALLER: [u8; 32] = [0x53; 32];
const ANSWERS_TO: [u8; 32] = [0x54; 32];
const STRANGER: [u8; 32] = [0x55; 32];
const LAST: u8 = 1;
const CHANNEL: u8 = 8;
const ACCEPTOR: u8 = 16;

/// One connection, every part open to the test.
#[derive(Clone)]
struct Connection {
    pq: bool,
    greeting: [u8; 32],
    /// Whom the client means.
    means: ([u8; 32], [u8; 32]),
    caller: Option<[u8; 32]>,
    signer: Option<[u8; 32]>,
    suites: (u8, u8),
    /// With another reader beside: the standing is not verified.
    with: bool,
    hello: Vec<u8>,
    requests: Vec<Vec<u8>>,
    welcome: Vec<u8>,
    answers: Vec<Vec<u8>>,
    context: &'static [u8],
    reply_bound: bool,
}

fn key_of(pq: bool, secret: &[u8; 32]) -> Vec<u8> {
    if pq { cat(&[&X_WING, &super::pq::public(secret)]) } else { cat(&[&X25519, &public(secret)]) }
}

impl Connection {
    fn good(pq: bool) -> Self {
        let suite = if pq { 3 } else { 1 };
        Self {
            pq,
            greeting: GREETING,
            means: (SERVER, SIGNER),
            caller: Some(CALLER),
            signer: Some(SIGNER),
            suites: (suite, suite),
            with: false,
            hello: cat(&[&[1], &key_of(pq, &ANSWERS_TO)]),
            requests: vec![vec![2, 0], vec![10, 1, b'a']],
            welcome: vec![1, 0],
            answers: vec![vec![3, 0, 0], vec![1]],
            context: b"",
            reply_bound: true,
        }
    }

    fn forge(&self, suite: u8, to: &[u8; 32], salt: u8) -> Forge {
        let mut others = vec![*to];
        others.extend(self.with.then_some(STRANGER));
        let to_x25519 = |forge: Forge| {
            let mut forge = Forge { salt: [salt; 16], ..forge };
            forge.slots = others.iter().map(|secret| forge.slot(&public(secret), &forge.dek)).collect();
            forge
        };
        if suite < 3 {
            return to_x25519(Forge::under(suite, &[]));
        }
        let mut forge = Forge { salt: [salt; 16], ..Forge::pq(suite, &[]) };
        let slots = others.iter().zip(1..).map(|(seed, i)| forge.pq_slot(seed, &super::pq::enc(&super::pq::public(seed), i)));
        forge.slots = slots.collect();
        forge
    }

    fn send(&self, forge: &Forge, side: u8, messages: &[Vec<u8>], binding: &[u8]) -> Vec<u8> {
        let (mut out, last) = (Vec::new(), messages.len() - 1);
        for (i, message) in messages.iter().enumerate() {
            let flags = CHANNEL | side | if i == last { LAST } else { 0 };
            out.extend(match i {
                0 => forge.envelope_bound(0, flags, self.context, message, b"", binding),
                i => forge.follow_up(i as u64, flags, self.context, message, binding),
            });
        }
        out
    }

    /// Greeting, what goes to the server and what comes from it, each behind its length; and what they are read with.
    fn recorded(&self) -> (Vec<u8>, Value) {
        let service = |(recipient, sender): ([u8; 32], [u8; 32])| {
            Sha256::digest(cat(&[b"sealwire v1 kms", &key_of(self.pq, &recipient), &verifying_key(&sender)]))
        };
        let binding = cat(&[&self.greeting, &service(self.means)]);
        let sign = |forge: Forge, seed: Option<[u8; 32]>, acceptor: bool, binding: &[u8]| match seed {
            Some(seed) => forge.signed(&seed, &super::channel(acceptor, binding)),
            None => forge,
        };
        let asks = sign(self.forge(self.suites.0, &SERVER, 0x61), self.caller, false, &binding);
        let requests: Vec<_> = [&[self.hello.clone()][..], &self.requests].concat();
        let to_server = self.send(&asks, 0, &requests, &binding);
        let begun = if self.reply_bound { asks.header_mac().to_vec() } else { vec![0; 32] };
        let reply = cat(&[&begun, &binding]);
        let says = sign(self.forge(self.suites.1, &ANSWERS_TO, 0x62), self.signer, true, &reply);
        let answers: Vec<_> = [&[self.welcome.clone()][..], &self.answers].concat();
        let to_client = self.send(&says, ACCEPTOR, &answers, &reply);
        let secret = |secret: &[u8; 32]| keys::cmk_string(self.pq, secret);
        let read_with = json!({ "greeting": hex(&GREETING), "server": secret(&SERVER), "answers_to": secret(&ANSWERS_TO),
            "signer": keys::sender_string(&verifying_key(&SIGNER)), "callers": [keys::sender_string(&verifying_key(&CALLER))],
            "to_server": hex(&to_server), "to_client": hex(&to_client) });
        (vec![], read_with)
    }
}

fn connections(kit: &mut Kit) {
    let mut put = |name: &str, shows: &str, connection: &Connection, answer: &'static str, server: usize, client: usize| {
        let (bytes, mut more) = connection.recorded();
        (more["requests"], more["answers"]) = (server.into(), client.into());
        kit.put("connection", name, shows, bytes, more, answer);
    };
    // How many messages, the first included, each side takes.
    for (name, pq) in [("x25519", false), ("pq", true)] {
        let good = Connection::good(pq);
        put(name, "KMS-2: two requests and their answers", &good, "opens", 3, 3);
        let none = Connection { requests: vec![], answers: vec![], ..good.clone() };
        put(&format!("{name}-nothing-asked"), "hello and welcome alone", &none, "opens", 1, 1);
    }
    let good = Connection::good(false);
    let later = Connection {
        hello: cat(&[&[2], &key_of(false, &ANSWERS_TO), b"more"]),
        requests: vec![],
        answers: vec![],
        welcome: vec![1, 1],
        ..good.clone()
    };
    put("later-version", "KMS-7: hello of another version", &later, "opens", 1, 1);

    let mut server = |name: &str, shows: &str, connection: Connection| {
        put(name, shows, &Connection { requests: vec![vec![2, 0]], ..connection }, "server", 0, 0);
    };
    server("another-greeting", "KMS-2: a connection that is played again", Connection { greeting: [0x68; 32], ..good.clone() });
    server("another-recipient", "KMS-2: meant for another recipient", Connection { means: (STRANGER, SIGNER), ..good.clone() });
    server("another-signer", "KMS-2: meant for another signer", Connection { means: (SERVER, STRANGER), ..good.clone() });
    server("anonymous-caller", "KMS-3: nobody signs", Connection { caller: None, ..good.clone() });
    server("group", "KMS-3: the standing is group", Connection { with: true, ..good.clone() });
    server("stranger", "KMS-4: a caller who is not known", Connection { caller: Some(STRANGER), ..good.clone() });
    server("no-hello", "KMS-5: the first message is a request", Connection { hello: vec![2, 0], ..good.clone() });
    server("hello-empty", "KMS-5: the first message is empty", Connection { hello: vec![], ..good.clone() });
    server("hello-longer", "KMS-5: a byte behind hello", Connection { hello: cat(&[&good.hello, &[0]]), ..good.clone() });
    server("hello-shorter", "KMS-5: hello is cut", Connection { hello: good.hello[..34].to_vec(), ..good.clone() });
    let other = cat(&[&[1], &key_of(true, &ANSWERS_TO)]);
    server("hello-other-kem", "KMS-5: a recipient of another KEM", Connection { hello: other, ..good.clone() });
    let weak = cat(&[&[1], &X25519, &[0; 32]]);
    server("hello-weak", "KMS-5, WRAP-2: a recipient of small order", Connection { hello: weak, ..good.clone() });
    server("context", "KMS-9: a context", Connection { context: b"c", ..good.clone() });
    let pq = Connection::good(true);
    server("pq-under-suite-1", "KMS-8: requests under suite 1", Connection { suites: (1, 3), ..pq.clone() });

    put(
        "request-empty",
        "KMS-9: an empty request",
        &Connection { requests: vec![vec![], vec![2, 0]], ..good.clone() },
        "server",
        1,
        1,
    );
    let mut client = |name: &str, shows: &str, connection: Connection| put(name, shows, &connection, "client", 3, 0);
    client("answers-unbound", "KMS-2, CHN-11: answers of another connection", Connection { reply_bound: false, ..good.clone() });
    client("answers-anonymous", "KMS-3: nobody signs the answers", Connection { signer: None, ..good.clone() });
    client("answers-of-another", "KMS-6: another key signs the answers", Connection { signer: Some(STRANGER), ..good.clone() });
    client("pq-answers-under-suite-1", "KMS-8: answers under suite 1", Connection { suites: (3, 1), ..pq });
    client("no-welcome", "KMS-7: the first message is an answer", Connection { welcome: vec![0x80], ..good.clone() });
    client("welcome-empty", "KMS-7: an empty first message", Connection { welcome: vec![], ..good.clone() });
    client("welcome-status-4", "KMS-7: a status that there is not", Connection { welcome: vec![1, 4], ..good.clone() });
    client("welcome-longer", "KMS-7: a byte behind welcome", Connection { welcome: vec![1, 0, 0], ..good.clone() });
    let more = Connection { answers: vec![vec![1]; 3], ..good.clone() };
    put("answer-to-nothing", "KMS-10: more answers than requests", &more, "client", 3, 3);
    let list = Connection { welcome: vec![3, 0, 0], ..good.clone() };
    put("answer-after-later-version", "KMS-7: an answer of a version that the client does not speak", &list, "client", 3, 1);
    for status in 1..4u8 {
        let refused = Connection { welcome: vec![1, status], ..good.clone() };
        put(&format!("answer-after-status-{status}"), "KMS-7: an answer though the status is not 0", &refused, "client", 3, 1);
    }
}
