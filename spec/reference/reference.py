"""A reference implementation of the sealwire envelope format, version 1, written from format.md alone.

It is SLOW and FOR TESTING ONLY: it holds everything in memory, it does not protect secrets, and it takes
ephemerals and DEKs from outside when a test asks it to. Read it next to the specification: the sections of
this file stand in the order of format.md, and a requirement id such as [BLK-3] stands beside the check that
keeps it.

Covered: suites 1 and 2, both X25519 slot layouts, externals (parsed; opened only with a DEK that the caller
supplies), all hint modes, padding, batches, channels, limits, key strings (12.1), fingerprints (12.4).
Not covered: suites 3 and 4 and sender proofs (refused as unsupported), PEM and key files (12.2, 12.3),
reuse of a DEK over time, kept DEKs and policies (10).

    reference.py serve                         one JSON request per line in, one JSON answer per line out
    reference.py seal swr1... [swr1...]        stdin to stdout
    reference.py open SW-SECRET-CMK-1... [...] stdin to stdout
"""
import hashlib
import hmac
import json
import os
import sys
import time
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

class Refused(Exception):
    """Input that a rule refuses. 11.2: the category is the answer, the text names field and offset."""

    def __init__(self, category, text):
        super().__init__(text)
        self.category, self.text = category, text

def refuse_if(condition, category, text):
    """A rule; the text begins with its id where it has one."""
    if condition:
        raise Refused(category, text)

def number(value, length):                        # 1: integers are unsigned and big-endian
    return value.to_bytes(length, "big")

# ==== 3.5 suites, 11.1 limits

KEM_X25519, KDF_HKDF_SHA256 = 0x0020, 0x0001

@dataclass(frozen=True)
class Suite:
    aead_id: int            # HPKE's identifier
    aead: type              # for payloads and for our HPKE sender
    hpke: hpke.Suite        # cryptography's own HPKE, which unwraps

SUITES = {
    1: Suite(0x0003, ChaCha20Poly1305,
             hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)),
    2: Suite(0x0002, AESGCM,
             hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)),
}

X_WING_SUITES, X_WING_ENC = (3, 4), 1120          # known to the registry and to 3.3, not implemented here
MAX_BLOCK, MAX_SLOTS, MAX_EXTERNALS, MAX_CONTEXT = 131_072, 1_024, 4, 8_192
MAX_PLAINTEXT, MAX_TRIALS, MAX_ENTRIES, MAX_CREATED_AT = 16_777_216, 64, 65_536, 253_402_300_799

def check_limit(value, maximum, what):
    """11.2: over a limit; the answer names limit, value and maximum."""
    refuse_if(value > maximum, "limit", f"{what}: {value} exceeds {maximum}")

class Reader:
    """Bytes and a position in them. Running out of them is `shortage`: truncated for a whole input,
    malformed inside a block, whose length is known to be there (11.2, [BLK-4], [BLK-17])."""

    def __init__(self, data, position=0, end=None, shortage="truncated"):
        self.data, self.at, self.shortage = data, position, shortage
        self.end = len(data) if end is None else end

    def left(self):
        return self.end - self.at

    def take(self, count, what):
        refuse_if(self.left() < count, self.shortage,
                  f"{what} at offset {self.at}: {count} bytes expected, {max(self.left(), 0)} there")
        self.at += count
        return self.data[self.at - count:self.at]

    def number(self, length, what):
        return int.from_bytes(self.take(length, what), "big")

    def refuse_if(self, condition, category, text):
        refuse_if(condition, category, f"{text}, before offset {self.at}")

# ==== 3 DEK block, as a reader sees it

MAGIC, VERSION, FOLLOW_UP = b"SWE", 1, 0x01
HINT_MODES = {"none": 0, "rotating": 1, "static": 2}
OPT_HINTS, OPT_PROOF, OPT_ENC_PER_SLOT, OPT_COVERS, OPT_UNKNOWN = 0x03, 0x04, 0x08, 0x10, 0xE0

@dataclass
class Slot:
    hint: bytes
    enc: bytes              # its own, or the shared one
    wrapped_dek: bytes

@dataclass
class Block:
    raw: bytes
    suite: int
    options: int
    created_at: int
    salt: bytes
    slots: list
    externals: list         # (provider, key_ref, blob)
    header_mac: bytes

    def check_implemented(self):                  # [SUI-1] [BLK-18]: judged when the structure is in order (11.3)
        refuse_if(self.suite not in SUITES, "unsupported", f"[SUI-1] suite {self.suite}")
        refuse_if(self.options & OPT_PROOF, "unsupported", "[BLK-18] a sender proof")

def parse_block(reader):
    """3.1 to 3.4: reads one DEK block off the input. Checks are made in the order of the fields."""
    start = reader.at
    magic = reader.data[start:min(start + 3, reader.end)]
    reader.refuse_if(not MAGIC.startswith(magic), "malformed", f"[BLK-1] magic {magic.hex()}")
    reader.take(3, "magic")
    version = reader.number(1, "version")
    reader.refuse_if(version != VERSION, "unsupported", f"[BLK-2] version {version}")
    block_len = reader.number(4, "block_len")
    check_limit(block_len, MAX_BLOCK, "bytes of a block")                               # [BLK-3] [LIM-1]
    refuse_if(reader.end - start < block_len, "truncated",
              f"[BLK-17] block: {block_len} bytes expected, {reader.end - start} there")
    r = Reader(reader.data, reader.at, start + block_len, "malformed")                  # [BLK-4] overrun

    suite = r.number(1, "suite")
    x_wing = suite in X_WING_SUITES
    r.refuse_if(suite not in SUITES and not x_wing, "unsupported", f"[BLK-5] suite {suite}")
    options = r.number(1, "options")
    r.refuse_if(options & OPT_UNKNOWN, "unsupported", f"[BLK-6] options {options:02x}: bits 5 to 7")
    r.refuse_if(options & OPT_HINTS == 3, "unsupported", "[BLK-9] hint mode 3")
    r.refuse_if(options & OPT_COVERS and not options & OPT_PROOF, "malformed", "[BLK-7] bit 4 without bit 2")
    slot_count = r.number(2, "slot_count")
    check_limit(slot_count, MAX_SLOTS, "recipients")                                    # [LIM-1]
    external_count = r.number(1, "external_count")
    check_limit(external_count, MAX_EXTERNALS, "externals")                             # [LIM-1]
    r.refuse_if(slot_count == 0 and external_count == 0, "malformed", "[BLK-11] neither slot nor external")
    r.refuse_if(slot_count == 0 and options & (OPT_HINTS | OPT_ENC_PER_SLOT), "malformed",
                f"[BLK-10] options {options:02x} without slots")
    r.refuse_if(options & OPT_ENC_PER_SLOT and x_wing, "malformed", "[BLK-8] bit 3 under an X-Wing suite")
    created_at = r.number(8, "created_at")
    r.refuse_if(created_at > MAX_CREATED_AT, "malformed", f"[BLK-12] created_at {created_at}")
    salt = r.take(16, "salt")

    own_enc = bool(options & OPT_ENC_PER_SLOT)
    shared_enc = r.take(32, "enc") if slot_count and not own_enc and not x_wing else b""
    slots = []
    for _ in range(slot_count):                                                         # 3.3
        hint = r.take(4, "hint")
        r.refuse_if(options & OPT_HINTS == 0 and any(hint), "malformed", "[BLK-13] a hint in hint mode none")
        enc = r.take(X_WING_ENC if x_wing else 32, "slot enc") if own_enc or x_wing else shared_enc
        slots.append(Slot(hint, enc, r.take(48, "wrapped_dek")))
    externals = [parse_external(r) for _ in range(external_count)]
    r.take(128 if options & OPT_PROOF else 0, "sender_proof")
    header_mac = r.take(32, "header_mac")
    r.refuse_if(r.left(), "malformed", f"[BLK-4] {r.left()} bytes left over in the block")
    reader.at = r.at
    return Block(reader.data[start:r.at], suite, options, created_at, salt, slots, externals, header_mac)

def parse_external(r):                            # 3.4
    provider_len = r.number(1, "provider_len")
    r.refuse_if(not 1 <= provider_len <= 32, "malformed", f"[BLK-14] provider_len {provider_len}")
    provider = r.take(provider_len, "provider")
    r.refuse_if(provider.strip(b"abcdefghijklmnopqrstuvwxyz0123456789-"), "malformed", "[BLK-14] provider")
    key_ref_len = r.number(2, "key_ref_len")
    r.refuse_if(key_ref_len > 2048, "malformed", f"[BLK-15] key_ref_len {key_ref_len}")
    try:
        key_ref = r.take(key_ref_len, "key_ref").decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("malformed", "[BLK-15] key_ref is not UTF-8") from None
    blob_len = r.number(2, "blob_len")
    r.refuse_if(not 1 <= blob_len <= 6144, "malformed", f"[BLK-16] blob_len {blob_len}")
    return provider.decode(), key_ref, r.take(blob_len, "blob")

# ==== 4 heads

LAST, PADDED, BATCH, CHANNEL, ACCEPTOR, FLAGS_UNKNOWN = 0x01, 0x02, 0x04, 0x08, 0x10, 0xE0

@dataclass
class Head:
    seq: int
    segment_log2: int
    flags: int
    context: bytes

    def message_bytes(self):                      # 4.1
        return (number(self.seq, 8) + bytes([self.segment_log2, self.flags])
                + number(len(self.context), 2) + self.context)

    def follow_up_bytes(self):                    # 4.2
        return bytes([FOLLOW_UP, self.flags]) + number(len(self.context), 2) + self.context

def parse_message_head(reader):
    """4.1: the fixed part is read whole, then its fields are checked in their order."""
    fixed = Reader(reader.take(12, "message head"))
    seq = fixed.number(8, "seq")
    segment_log2 = fixed.number(1, "segment_log2")
    reader.refuse_if(not 12 <= segment_log2 <= 24, "malformed", f"[HEAD-2] segment_log2 {segment_log2}")
    flags = fixed.number(1, "flags")
    return Head(seq, segment_log2, flags, finish_head(reader, flags, fixed.number(2, "context_len")))

def parse_follow_up_head(reader, seq, segment_log2):  # 4.2: seq and segment_log2 are not sent
    fixed = Reader(reader.take(4, "follow-up head"), 1)
    flags = fixed.number(1, "flags")
    return Head(seq, segment_log2, flags, finish_head(reader, flags, fixed.number(2, "context_len")))

def finish_head(reader, flags, context_len):      # 4.3 and the context
    reader.refuse_if(flags & FLAGS_UNKNOWN, "unsupported", f"[HEAD-3] flags {flags:02x}: bits 5 to 7")
    reader.refuse_if(flags & (LAST | BATCH | ACCEPTOR) and not flags & CHANNEL, "malformed", "[HEAD-4] flags")
    check_limit(context_len, MAX_CONTEXT, "bytes of a context")                         # [LIM-2]
    return reader.take(context_len, "context")

# ==== 5 segments

def nonce_of(seq, i, final):                      # 5.3 [KEY-7]
    return number(seq, 8) + number(i * 2 + final, 4)

def aad_of(head, chain, binding):
    """5.4: of segment 0, in envelopes and follow-ups; chain is empty but in a renewal."""
    return head.message_bytes() + chain + binding

def seal_segments(suite, payload_key, head, aad, plaintext):  # 5.1, 5.2: answers [(nonce, segment)]
    size = 1 << head.segment_log2
    check_limit(len(plaintext), MAX_PLAINTEXT, "plaintext bytes")                       # [LIM-4], hence [SEG-5]
    count = max(1, -(-len(plaintext) // size))
    aead = SUITES[suite].aead(payload_key)
    segments = []
    for i in range(count):
        final = int(i == count - 1)
        nonce = nonce_of(head.seq, i, final)
        sealed = aead.encrypt(nonce, plaintext[i * size:(i + 1) * size], aad if i == 0 else b"")
        segments.append((nonce, number(final << 31 | len(sealed), 4) + sealed))
    return segments

def scan_segments(reader, head):
    """5.1, 5.2: answers (i, final, ciphertext and tag) one after another, without a key."""
    size = 1 << head.segment_log2
    total, i, final = 0, 0, 0
    while not final:
        prefix = reader.number(4, f"prefix of segment {i}")
        final, length = prefix >> 31, prefix & 0x7FFFFFFF
        reader.refuse_if(length < 16, "malformed", f"[SEG-1] segment {i} of {length} bytes")
        reader.refuse_if(length - 16 > size, "malformed", f"[SEG-2] segment {i}: {length - 16} plaintext bytes")
        reader.refuse_if(not final and length - 16 < size, "malformed", f"[SEG-3] segment {i} is short")
        reader.refuse_if(final and i > 0 and length == 16, "malformed", f"[SEG-4] final segment {i} is empty")
        total += length - 16
        check_limit(total, MAX_PLAINTEXT, "plaintext bytes")                            # [LIM-3], hence [SEG-5]
        yield i, final, reader.take(length, f"segment {i}")
        i += 1

def open_segments(segments, suite, payload_key, head, aad):
    """5.3, 5.4: answers the whole plaintext, after every tag held [SEG-6]."""
    aead, plaintext = SUITES[suite].aead(payload_key), bytearray()
    for i, final, sealed in segments:
        try:
            plaintext += aead.decrypt(nonce_of(head.seq, i, final), sealed, aad if i == 0 else b"")
        except InvalidTag:
            raise Refused("tag", f"the tag of segment {i} does not hold") from None
    return bytes(plaintext)

# ==== 6.1 wrapping a DEK: our own HPKE base-mode sender (RFC 9180), since slots may share one ephemeral key.
# Unwrapping is left to cryptography's HPKE.

def extract(salt, ikm):                     # RFC 5869
    return hmac.digest(salt, ikm, "sha256")

def expand(prk, info, length):              # RFC 5869; nothing here needs more than the first 32 bytes
    assert length <= 32
    return hmac.digest(prk, info + b"\1", "sha256")[:length]

def labeled_extract(suite_id, salt, label, ikm):        # RFC 9180, 4
    return extract(salt, b"HPKE-v1" + suite_id + label + ikm)

def labeled_expand(suite_id, prk, label, info, length):     # RFC 9180, 4
    return expand(prk, number(length, 2) + b"HPKE-v1" + suite_id + label + info, length)

def hpke_info(suite):                             # 6.1
    return b"sealwire v1 dek" + bytes([suite])

def public_of(secret):
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()

def hpke_seal(suite, ephemeral, enc, public, dek):
    """RFC 9180: Encap (4.1), KeySchedule of mode_base (5.1), Seal (5.2) at sequence number 0. enc is the
    public half of ephemeral; it is an argument so that a test can send other bytes for the same point."""
    try:
        dh = X25519PrivateKey.from_private_bytes(ephemeral).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:                                                                  # [WRAP-1]
        raise Refused("malformed", "[WRAP-1] X25519 gave zero") from None
    kem_id = b"KEM" + number(KEM_X25519, 2)
    eae_prk = labeled_extract(kem_id, b"", b"eae_prk", dh)
    shared_secret = labeled_expand(kem_id, eae_prk, b"shared_secret", enc + public, 32)

    suite_id = b"HPKE" + number(KEM_X25519, 2) + number(KDF_HKDF_SHA256, 2) + number(SUITES[suite].aead_id, 2)
    context = (b"\0" + labeled_extract(suite_id, b"", b"psk_id_hash", b"")
               + labeled_extract(suite_id, b"", b"info_hash", hpke_info(suite)))
    secret = labeled_extract(suite_id, shared_secret, b"secret", b"")
    key = labeled_expand(suite_id, secret, b"key", context, 32)
    base_nonce = labeled_expand(suite_id, secret, b"base_nonce", context, 12)
    wrapped = SUITES[suite].aead(key).encrypt(base_nonce, dek, b"")
    return {"dh": dh, "shared_secret": shared_secret, "key_schedule_context": context, "secret": secret,
            "key": key, "base_nonce": base_nonce, "wrapped_dek": wrapped}

def unwrap(suite, secret, slot):
    """6.1: the candidate DEK of a slot, or None. cryptography takes enc as received [WRAP-4], and refuses an
    all-zero X25519 result as it refuses a wrong tag [WRAP-1]."""
    try:
        return SUITES[suite].hpke.decrypt(slot.enc + slot.wrapped_dek, X25519PrivateKey.from_private_bytes(secret),
                                          info=hpke_info(suite))
    except (InvalidTag, ValueError):
        return None

def check_public_key(public):
    """6.1 [WRAP-2]: a scalar is a multiple of 8, so exactly the points of small order give zero."""
    refuse_if(len(public) != 32, "malformed", f"a public key of {len(public)} bytes")
    refuse_if(int.from_bytes(public, "little") >= 2 ** 255 - 19, "malformed", "[WRAP-2] the public key is not canonical")
    try:
        X25519PrivateKey.from_private_bytes(b"\x55" * 32).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise Refused("malformed", "[WRAP-2] the public key is zero or of small order") from None

# ==== 6.2 key schedule, 6.3 hints, 6.4 finding the DEK

class Keys:
    """6.2: what follows from DEK, salt and suite"""

    def __init__(self, dek, salt, suite):
        self.prk = extract(salt, dek)
        self.payload_key, self.header_key, self.dek_commitment, self.chain = (
            expand(self.prk, b"sealwire v1 " + name + bytes([suite]), 32)
            for name in (b"payload", b"header", b"commit", b"chain"))

    def header_mac(self, before):
        return hmac.digest(self.header_key, before, "sha256")

def fingerprint(public):                          # 6.3
    return hashlib.sha256(b"sealwire v1 key" + number(KEM_X25519, 2) + public).digest()

def human_fingerprint(public):                    # 12.4
    print_ = fingerprint(public)
    return " ".join(f"{int.from_bytes(print_[5 * i:5 * i + 5], 'big') % 100_000:05d}" for i in range(6))

def hint_of(mode, salt, public):                  # 6.3
    if mode == HINT_MODES["none"]:
        return bytes(4)
    if mode == HINT_MODES["static"]:
        return fingerprint(public)[:4]
    return hashlib.sha256(b"sealwire v1 hint" + salt + fingerprint(public)).digest()[:4]

def find_keys(block, secrets, external_dek=None):
    """6.4: keys in the order given, each on the slots in theirs [WRAP-7], then externals, for which
    external_dek stands in for what a KMS would answer."""
    def candidates():
        trials = set()                                  # (key, enc), or the position of an external
        for secret in secrets:
            hint = hint_of(block.options & OPT_HINTS, block.salt, public_of(secret))
            for slot in block.slots:
                if slot.hint == hint:
                    trials.add((secret, slot.enc))
                    check_limit(len(trials), MAX_TRIALS, "trials")                      # [WRAP-6]
                    yield unwrap(block.suite, secret, slot)
        for i in range(len(block.externals) if external_dek else 0):
            trials.add(i)
            check_limit(len(trials), MAX_TRIALS, "trials")                              # [WRAP-6]
            yield external_dek

    seen = False
    for dek in candidates():
        if dek is not None:
            seen = True
            keys = Keys(dek, block.salt, block.suite)
            if hmac.compare_digest(keys.header_mac(block.raw[:-32]), block.header_mac):  # [KEY-1]
                return keys
    refuse_if(seen, "header_mac", "[KEY-2] a slot opened, but header_mac holds under no candidate")
    raise Refused("nokey", "no matching key")

# ==== 7 batches, 8 padding

def make_batch(entries):                          # 7
    refuse_if(not entries, "malformed", "[BAT-1] a batch needs an entry")
    check_limit(len(entries), MAX_ENTRIES, "entries of a batch")                        # [LIM-4]
    return b"".join(number(len(e), 4) + e for e in entries)

def split_batch(payload):                         # 7 [BAT-3]: all entries, or none
    r, entries = Reader(payload, shortage="content"), []                                # [BAT-1] filled exactly
    while r.left():
        refuse_if(len(entries) == MAX_ENTRIES, "content", "[BAT-2] entries of a batch")
        entries.append(r.take(r.number(4, "batch len"), "batch entry"))
    refuse_if(not entries, "content", "[BAT-1] a batch without entry")
    return entries

def padme(n):                                     # 8
    if n < 2:
        return n
    e = n.bit_length() - 1                  # floor(log2 n)
    s = e.bit_length()                      # floor(log2 e) + 1
    unit = 1 << max(e - s, 0)
    return -(-n // unit) * unit

def pad(payload):                                 # 8 [PAD-1]
    return payload.ljust(padme(len(payload) + 8) - 8, b"\0") + number(len(payload), 8)

def unpad(plaintext):                             # 8
    refuse_if(len(plaintext) < 8, "content", "[PAD-2] a padded plaintext of fewer than 8 bytes")
    payload_len = int.from_bytes(plaintext[-8:], "big")
    refuse_if(len(plaintext) != padme(payload_len + 8), "content", f"[PAD-3] payload_len {payload_len}")
    refuse_if(any(plaintext[payload_len:-8]), "content", "[PAD-4] padding that is not zero")
    return plaintext[:payload_len]

# ==== 3 and 6 again, as a writer sees them

@dataclass
class Epoch:
    """A DEK that was taken up: its block, and what follows from it"""
    suite: int
    segment_log2: int
    block: bytes
    keys: Keys
    salt: bytes
    notes: dict             # intermediate values, for op explain

def from_hex(request, name, default=b""):
    return bytes.fromhex(request[name]) if request.get(name) is not None else default

def take_up_dek(request):
    """3, 6.1, 6.2: a DEK block for request["to"], under a fresh DEK and salt [KEY-6] unless a test gives them."""
    suite, segment_log2 = request.get("suite", 1), request.get("segment_log2", 16)
    refuse_if(suite not in SUITES, "unsupported", f"[BLK-5] [SUI-1] suite {suite}")
    refuse_if(not 12 <= segment_log2 <= 24, "malformed", f"[HEAD-2] segment_log2 {segment_log2}")
    to = [bytes.fromhex(pk) for pk in request.get("to", [])]
    externals = request.get("externals") or []
    check_limit(len(to), MAX_SLOTS, "recipients")                                       # [LIM-4]
    check_limit(len(externals), MAX_EXTERNALS, "externals")                             # [LIM-4]
    for public in to:
        check_public_key(public)                                                        # [WRAP-2]
    refuse_if(len(set(to)) != len(to), "malformed", "[WRAP-3] a recipient is given twice")
    own_enc, mode = bool(request.get("enc_per_slot")), HINT_MODES[request.get("hints", "none")]
    enc_count = len(to) if own_enc else min(len(to), 1)
    refuse_if(mode == 0 and enc_count > MAX_TRIALS, "limit", f"[HINT-1] {enc_count} encs without hints")

    dek, salt = from_hex(request, "dek", os.urandom(32)), from_hex(request, "salt", os.urandom(16))
    refuse_if(len(dek) != 32 or len(salt) != 16, "malformed", "a DEK has 32 bytes, a salt 16")
    created_at = int(time.time()) if request.get("created_at") is None else request["created_at"]
    ephemerals = [bytes.fromhex(e) for e in request.get("ephemerals") or []]
    ephemerals = ephemerals or [os.urandom(32) for _ in range(enc_count)]               # [WRAP-5]
    refuse_if(len(ephemerals) != enc_count, "malformed", f"{enc_count} ephemerals are needed")
    encs = [public_of(e) for e in ephemerals]

    slots, steps, hints = [], [], [hint_of(mode, salt, public) for public in to]
    for i, public in enumerate(to):
        steps.append(hpke_seal(suite, ephemerals[i * own_enc], encs[i * own_enc], public, dek))
        slots.append(hints[i] + (encs[i] if own_enc else b"") + steps[i]["wrapped_dek"])
    body = bytes([suite, mode | (OPT_ENC_PER_SLOT if own_enc else 0)]) + number(len(to), 2)
    body += number(len(externals), 1) + number(created_at, 8) + salt + (b"" if own_enc else b"".join(encs))
    body += b"".join(slots) + b"".join(map(external_bytes, externals))
    keys = Keys(dek, salt, suite)
    before = MAGIC + bytes([VERSION]) + number(8 + len(body) + 32, 4) + body
    block = before + keys.header_mac(before)
    parse_block(Reader(block))                          # [LIM-4]: what we would refuse, we do not send
    notes = {"dek": dek, "salt": salt, "enc": encs, "slots": slots, "hpke": steps, "hints": hints,
             "ephemerals": ephemerals, "fingerprints": [fingerprint(public) for public in to],
             "human_fingerprints": [human_fingerprint(public) for public in to],
             "header_mac": block[-32:], "info": hpke_info(suite), **vars(keys)}
    return Epoch(suite, segment_log2, block, keys, salt, notes)

def external_bytes(external):
    """3.4: {"provider": str, "key_ref": str, "blob": hex}"""
    provider, key_ref = external["provider"].encode(), external.get("key_ref", "").encode()
    blob = bytes.fromhex(external["blob"])
    return b"".join(number(len(x), n) + x for n, x in ((1, provider), (2, key_ref), (2, blob)))

def seal_message(epoch, seq, flags, context, payload, binding, chain=b"", follow_up=False):
    """2: an envelope, or a follow-up of the epoch. Answers the bytes and their intermediate values."""
    check_limit(len(context), MAX_CONTEXT, "bytes of a context")                        # [LIM-4]
    refuse_if(not 0 <= seq < 2 ** 64, "malformed", f"[KEY-4] seq {seq}")
    plaintext = pad(payload) if flags & PADDED else payload
    head = Head(seq, epoch.segment_log2, flags, context)
    head_bytes = head.follow_up_bytes() if follow_up else head.message_bytes()
    aad = aad_of(head, chain, binding)
    segments = seal_segments(epoch.suite, epoch.keys.payload_key, head, aad, plaintext)
    message = (b"" if follow_up else epoch.block) + head_bytes + b"".join(s for _, s in segments)
    return message, {"envelope": message, "block": epoch.block, "head": head_bytes, "aad": aad,
                     "nonces": [nonce for nonce, _ in segments], "plaintext": plaintext,
                     "segments": [segment for _, segment in segments], **epoch.notes}

def seal(request):
    """One self-contained message"""
    flags = PADDED if request.get("pad") else 0
    return seal_message(take_up_dek(request), request.get("seq", 0), flags, from_hex(request, "context"),
                        from_hex(request, "payload"), from_hex(request, "binding"))

def open_(data, secrets, binding, external_dek=None):
    """One self-contained message, in the order of 11.3 [ERR-2]."""
    reader = Reader(data)
    block = parse_block(reader)
    head = parse_message_head(reader)
    reader.refuse_if(head.flags & CHANNEL, "malformed", "[CHN-2] flag channel outside of a channel")
    segments = list(scan_segments(reader, head))
    reader.refuse_if(reader.left(), "trailing", f"[SEG-8] {reader.left()} bytes after the final segment")
    block.check_implemented()
    keys = find_keys(block, secrets, external_dek)
    plaintext = open_segments(segments, block.suite, keys.payload_key, head, aad_of(head, b"", binding))
    payload = unpad(plaintext) if head.flags & PADDED else plaintext
    return payload, head, block

# ==== 9 channels

def seal_channel(request):
    """9: the bytes of a whole channel. A message may carry "to", "suite", "segment_log2", "hints" and
    "enc_per_slot" of its own, which count where it begins an epoch (9.2)."""
    out, epoch, closed = [], None, False
    side = CHANNEL | (ACCEPTOR if request.get("role") == "acceptor" else 0)
    messages = list(request["messages"])
    if request.get("notice"):                                                           # [CHN-15]
        messages.append({"notice": True, "last": True})
    for seq, message in enumerate(messages):
        refuse_if(closed, "malformed", "[CHN-8] nothing follows a message with the flag last")
        closed = bool(message.get("last"))
        payload, batch = from_hex(message, "payload"), message.get("batch")
        if batch is not None:
            batch = [bytes.fromhex(entry) for entry in batch]
        elif closed and not payload and not message.get("notice"):                      # [CHN-13]
            batch = [b""]
        flags = side | (LAST if closed else 0) | (PADDED if message.get("pad") else 0)
        if batch is not None:
            flags, payload = flags | BATCH, make_batch(batch)
        chain, follow_up = b"", True
        if epoch is None or message.get("renew"):                                       # [CHN-3] [CHN-12]
            chain, follow_up, old = (epoch.keys.chain if epoch else b""), False, epoch  # [CHN-7]
            epoch = take_up_dek({**request, **message})
            refuse_if(old and old.salt == epoch.salt, "malformed", "[CHN-5] the salt of the epoch before")
        out.append(seal_message(epoch, seq, flags, from_hex(message, "context"), payload,
                                from_hex(request, "binding"), chain, follow_up)[0])
    return b"".join(out)

def open_channel(data, secrets, role, binding, deliver):
    """9: gives deliver(payload, context) each message, in order, until the channel ends or is refused; an
    exception ends the channel [CHN-14]."""
    reader, seq, block, keys, segment_log2 = Reader(data), 0, None, None, 0
    while True:
        reader.refuse_if(not reader.left(), "truncated", "[CHN-9] the channel ends without a last message")
        kind, chain = data[reader.at], b""
        if kind == FOLLOW_UP:
            refuse_if(block is None, "malformed", "[CHN-3] a channel begins with an envelope")
            head = parse_follow_up_head(reader, seq, segment_log2)
            check_channel_head(head, seq, role)
        elif kind == MAGIC[0]:
            old, block = block, parse_block(reader)
            reader.refuse_if(old and old.salt == block.salt, "malformed", "[CHN-5] the salt of the epoch before")
            head = parse_message_head(reader)
            check_channel_head(head, seq, role)
            chain = keys.chain if keys else b""                                         # [CHN-7]
            block.check_implemented()
            keys, segment_log2 = find_keys(block, secrets), head.segment_log2
        else:                                                                           # [HEAD-1]
            raise Refused("unsupported", f"type {kind:02x} at offset {reader.at}")
        segments = scan_segments(reader, head)                                          # opened as they arrive
        plaintext = open_segments(segments, block.suite, keys.payload_key, head, aad_of(head, chain, binding))
        payload = unpad(plaintext) if head.flags & PADDED else plaintext                # 8: padding comes last
        last = head.flags & LAST
        if head.flags & BATCH:
            for entry in split_batch(payload):
                deliver(entry, head.context)
        elif payload or not last:                                                       # [CHN-15]
            deliver(payload, head.context)
        if last:
            reader.refuse_if(reader.left(), "trailing", f"[CHN-8] {reader.left()} bytes after the last message")
            return
        seq += 1

def check_channel_head(head, seq, role):          # 9, 9.1: the rules of a channel on any head
    refuse_if(not head.flags & CHANNEL, "malformed", f"[CHN-1] message {seq}: no flag channel")
    own_side = bool(head.flags & ACCEPTOR) == (role == "acceptor")
    refuse_if(own_side, "malformed", f"[CHN-10] message {seq} comes from the reader's own side")
    refuse_if(head.seq != seq, "malformed", f"[CHN-3] [CHN-4] seq {head.seq} instead of {seq}")

# ==== 12.1 key strings

BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
KEY_KINDS = {"recipient": "swr", "cmk": "sw-secret-cmk-"}

def bech32m_checksum(hrp, groups):
    """BIP-350: 1 for a whole string that is right"""
    check = 1
    for value in [ord(c) >> 5 for c in hrp] + [0] + [ord(c) & 31 for c in hrp] + groups:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for i, g in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= g if top >> i & 1 else 0
    return check ^ 0x2BC830A3 ^ 1

def write_key(kind, key):                         # 12.1
    data, hrp = number(KEM_X25519, 2) + key, KEY_KINDS[kind]
    width = -(-len(data) * 8 // 5)
    bits = int.from_bytes(data, "big") << (width * 5 - len(data) * 8)
    groups = [bits >> 5 * (width - 1 - i) & 31 for i in range(width)]
    check = bech32m_checksum(hrp, groups + [0] * 6) ^ 1
    groups += [check >> 5 * (5 - i) & 31 for i in range(6)]
    string = hrp + "1" + "".join(BECH32[g] for g in groups)
    return string.upper() if kind == "cmk" else string

def read_key(string):                             # 12.1: answers (kind, key)
    refuse_if(string.lower() != string and string.upper() != string, "malformed", "[TXT-4] mixed case")
    hrp, one, rest = string.lower().rpartition("1")
    right = one and len(rest) >= 6 and set(rest) <= set(BECH32) and string.isascii()
    refuse_if(not right, "malformed", "not Bech32m")
    groups = [BECH32.index(c) for c in rest]
    refuse_if(bech32m_checksum(hrp, groups) != 1, "malformed", "the checksum does not hold")
    kind = next((k for k, h in KEY_KINDS.items() if h == hrp), None)
    refuse_if(kind is None, "malformed", f"[TXT-1] a string of {hrp!r}, not a recipient or CMK")
    bits = 0
    for group in groups[:-6]:
        bits = bits << 5 | group
    count, spare = divmod(5 * len(groups[:-6]), 8)
    refuse_if(spare >= 5 or bits & (1 << spare) - 1, "malformed", "[TXT-4] padding bits that are not zero")
    data = number(bits >> spare, count)
    refuse_if(len(data) < 2, "malformed", "no kem id")
    refuse_if(data[:2] != number(KEM_X25519, 2), "unsupported", f"[TXT-2] kem id {data[:2].hex()}")
    refuse_if(len(data) != 34, "malformed", f"[TXT-3] a key of {len(data) - 2} bytes")
    if kind == "recipient":
        check_public_key(data[2:])                                                      # [WRAP-2]
    return kind, data[2:]

# ==== The entries: serve for tests, seal and open for people

def as_json(value):
    """bytes as hex, all the way down"""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {k: as_json(v) for k, v in value.items()}
    return [as_json(v) for v in value] if isinstance(value, list) else value

def answer(request):
    op = request["op"]
    if op == "seal":
        return {"ok": seal(request)[0]}
    if op == "explain":
        return {"ok": seal(request)[1]}
    if op == "channel-seal":
        return {"ok": seal_channel(request)}
    if op == "key":
        kind, key = read_key(request["string"])
        return {"ok": {"kind": kind, "key": key}}
    if op == "key-string":
        return {"ok": write_key(request["kind"], bytes.fromhex(request["key"]))}
    if op not in ("open", "channel-open"):
        raise ValueError(f"no such op: {op}")
    secrets, binding = [bytes.fromhex(k) for k in request["keys"]], from_hex(request, "binding")
    if op == "open":
        payload, head, block = open_(from_hex(request, "bytes"), secrets, binding, from_hex(request, "dek", None))
        return {"ok": {"payload": payload, "context": head.context, "seq": head.seq, "created_at": block.created_at}}
    delivered, refused, text = [], None, ""
    try:
        open_channel(from_hex(request, "bytes"), secrets, request["role"], binding,
                     lambda payload, context: delivered.append({"payload": payload, "context": context}))
    except Refused as e:
        refused, text = e.category, e.text
    return {"delivered": delivered, "refused": refused, "text": text}

def serve():
    for line in sys.stdin.buffer:
        try:
            reply = as_json(answer(json.loads(line)))
        except Refused as e:
            reply = {"refused": e.category, "text": e.text}
        except Exception as e:                          # the server answers whatever happens
            reply = {"error": f"{type(e).__name__}: {e}"}
        print(json.dumps(reply), flush=True)

def main(arguments):
    if arguments == ["serve"]:
        return serve()
    if len(arguments) < 2 or arguments[0] not in ("seal", "open"):
        sys.exit(__doc__)
    wanted = {"seal": "recipient", "open": "cmk"}[arguments[0]]
    try:
        keys = [read_key(string) for string in arguments[1:]]
        if any(kind != wanted for kind, _ in keys):
            sys.exit(f"{arguments[0]} takes keys of kind {wanted}")
        data = sys.stdin.buffer.read()
        if wanted == "cmk":
            sys.stdout.buffer.write(open_(data, [key for _, key in keys], b"")[0])
        else:
            sys.stdout.buffer.write(seal({"to": [key.hex() for _, key in keys], "payload": data.hex()})[0])
    except Refused as e:
        sys.exit(f"refused: {e.category}: {e.text}")

if __name__ == "__main__":
    main(sys.argv[1:])
