"""A reference implementation of the sealwire envelope format, version 1, written from format.md alone, and of the key service, from
kms.md and store.md.

It is SLOW and FOR TESTING ONLY: it holds everything in memory, it does not protect secrets, and it takes ephemerals and DEKs from
outside when a test asks it to (which so states that nobody else holds them [PRF-5]). Read it next to the specification: its
sections stand in the order of format.md, and a requirement id such as [BLK-3] stands beside the check that keeps it.

Covered: all suites and slot layouts, externals (with what a KMS answers), hint modes, detached
messages, parts of payloads, sender proofs, padding, batches, channels, rewrapping, limits, key strings (12.1, 12.6, 12.7),
fingerprints (12.4), armor (12.5); of the key service requests and answers, secrets directly under a CMK, what is kept, recorded
connections, stores with their audit log. Not covered: PEM and key files (12.2, 12.3), reuse of a DEK over time, kept DEKs, replay
windows, and policies (10) but the list of senders. A secret of 32 bytes is tried as an X25519 key or as an X-Wing seed, as the suite has it.

    reference.py serve                         one JSON request per line in, one JSON answer per line out
    reference.py seal swr1... [swr1...]        stdin to stdout
    reference.py open SW-SECRET-CMK-1... [...] stdin to stdout
"""
import base64, hashlib, hmac, json, os, re, sys, time
from collections import namedtuple

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

class Refused(Exception):
    """Input that a rule refuses. 11.2: the category is the answer, the text names field and offset."""
    category, text = property(lambda self: self.args[0]), property(lambda self: self.args[1])
def refuse_if(condition, category, text):         # a rule; the text begins with its id where it has one
    if condition:
        raise Refused(category, text)
def number(value, length):                        # 1: integers are unsigned and big-endian
    return value.to_bytes(length, "big")

# ==== 3.5 suites, 11.1 limits
Kem = namedtuple("Kem", "id hpke public_len enc_len")   # id and hpke: HPKE's identifier, and cryptography's
X25519, X_WING = Kem(0x0020, hpke.KEM.X25519, 32, 32), Kem(0x647A, hpke.KEM.MLKEM768_X25519, 1216, 1120)
KEMS, KDF_HKDF_SHA256 = {kem.id: kem for kem in (X25519, X_WING)}, 0x0001
Suite = namedtuple("Suite", "kem aead_id aead hpke")   # aead: for payloads and our HPKE sender; hpke: cryptography's, to unwrap
def suite_of(kem, aead_id, aead, hpke_aead):
    return Suite(kem, aead_id, aead, hpke.Suite(kem.hpke, hpke.KDF.HKDF_SHA256, hpke_aead))
CHACHA, AES = (0x0003, ChaCha20Poly1305, hpke.AEAD.CHACHA20_POLY1305), (0x0002, AESGCM, hpke.AEAD.AES_256_GCM)
SUITES = {1: suite_of(X25519, *CHACHA), 2: suite_of(X25519, *AES), 3: suite_of(X_WING, *CHACHA), 4: suite_of(X_WING, *AES)}
MAX_BLOCK, MAX_SLOTS, MAX_EXTERNALS, MAX_CONTEXT, MAX_SEGMENT = 131_072, 1_024, 4, 8_192, 1_048_576
MAX_PLAINTEXT, MAX_TRIALS, MAX_ENTRIES, MAX_CREATED_AT = 16_777_216, 64, 65_536, 253_402_300_799
def check_limit(value, maximum, what):            # 11.2: the answer names limit, value and maximum
    refuse_if(value > maximum, "limit", f"{what}: {value} exceeds {maximum}")

class Reader:
    """Bytes and a position in them. Running out is `shortage`: truncated, malformed inside a block (11.2, [BLK-4], [BLK-17])."""
    def __init__(self, data, position=0, end=None, shortage="truncated"):
        self.data, self.at, self.shortage = data, position, shortage
        self.end = len(data) if end is None else end
    def left(self):
        return self.end - self.at
    def take(self, count, what):
        self.refuse_if(self.left() < count, self.shortage, f"{what}: {count} bytes expected, {self.left()} there")
        self.at += count
        return self.data[self.at - count:self.at]
    def number(self, length, what):
        return int.from_bytes(self.take(length, what), "big")
    def refuse_if(self, condition, category, text):
        refuse_if(condition, category, f"{text}, at or before offset {self.at}")

# ==== 3 DEK block, as a reader sees it
MAGIC, VERSION, FOLLOW_UP = b"SWE", 1, 0x01
HINT_MODES = {"none": 0, "rotating": 1, "static": 2}
OPT_HINTS, OPT_PROOF, OPT_ENC_PER_SLOT, OPT_COVERS, OPT_UNKNOWN = 0x03, 0x04, 0x08, 0x10, 0xE0
OPT_OF_SLOTS = OPT_HINTS | OPT_ENC_PER_SLOT
Slot = namedtuple("Slot", "hint enc wrapped_dek")               # enc: its own, or the shared one
Block = namedtuple("Block", "raw suite options created_at salt slots externals recipients proof header_mac")
# externals: (provider, key_ref, blob); recipients: the bytes of 6.5; proof: masked, empty without options bit 2

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
    reader.refuse_if(reader.end - start < block_len, "truncated", f"[BLK-17] block: {block_len} bytes expected")
    r = Reader(reader.data, reader.at, start + block_len, "malformed")                  # [BLK-4] overrun
    suite = r.number(1, "suite")
    r.refuse_if(suite not in SUITES, "unsupported", f"[BLK-5] suite {suite}")          # [SUI-1]: all of them
    kem = SUITES[suite].kem
    options = r.number(1, "options")
    r.refuse_if(options & OPT_UNKNOWN, "unsupported", f"[BLK-6] options {options:02x}: bits 5 to 7")
    r.refuse_if(options & OPT_HINTS == 3, "unsupported", "[BLK-9] hint mode 3")
    r.refuse_if(options & OPT_COVERS and not options & OPT_PROOF, "malformed", "[BLK-7] bit 4 without bit 2")
    slot_count = r.number(2, "slot_count")
    check_limit(slot_count, MAX_SLOTS, "recipients")                                    # [LIM-1]
    external_count = r.number(1, "external_count")
    check_limit(external_count, MAX_EXTERNALS, "externals")                             # [LIM-1]
    r.refuse_if(slot_count == 0 and external_count == 0, "malformed", "[BLK-11] neither slot nor external")
    r.refuse_if(slot_count == 0 and options & OPT_OF_SLOTS, "malformed", f"[BLK-10] options {options:02x}, no slot")
    r.refuse_if(options & OPT_ENC_PER_SLOT and kem is X_WING, "malformed", "[BLK-8] bit 3 under an X-Wing suite")
    created_at = r.number(8, "created_at")
    r.refuse_if(created_at > MAX_CREATED_AT, "malformed", f"[BLK-12] created_at {created_at}")
    salt = r.take(16, "salt")
    own_enc, after_salt, slots = options & OPT_ENC_PER_SLOT or kem is X_WING, r.at, []
    shared_enc = r.take(32, "enc") if slot_count and not own_enc else b""
    for _ in range(slot_count):                                                         # 3.3
        hint = r.take(4, "hint")
        r.refuse_if(options & OPT_HINTS == 0 and any(hint), "malformed", "[BLK-13] a hint in hint mode none")
        enc = r.take(kem.enc_len, "slot enc") if own_enc else shared_enc
        slots.append(Slot(hint, enc, r.take(48, "wrapped_dek")))
    externals = [parse_external(r) for _ in range(external_count)]
    recipients = r.data[start + 9:start + 13] + r.data[after_salt:r.at]                 # options, counts, and these
    proof = r.take(128 if options & OPT_PROOF else 0, "sender_proof")
    header_mac = r.take(32, "header_mac")
    r.refuse_if(r.left(), "malformed", f"[BLK-4] {r.left()} bytes left over in the block")
    reader.at = r.at
    return Block(r.data[start:r.at], suite, options, created_at, salt, slots, externals, recipients, proof, header_mac)
def parse_external(r):                            # 3.4
    def field(size, least, most, what):
        length = r.number(size, f"{what}_len")
        r.refuse_if(not least <= length <= most, "malformed", f"{what}_len {length}")
        return r.take(length, what)
    provider = field(1, 1, 32, "[BLK-14] provider")
    r.refuse_if(provider.strip(b"abcdefghijklmnopqrstuvwxyz0123456789-"), "malformed", "[BLK-14] provider")
    try:
        key_ref = field(2, 0, 2048, "[BLK-15] key_ref").decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("malformed", "[BLK-15] key_ref is not UTF-8") from None
    return provider.decode(), key_ref, field(2, 1, 6144, "[BLK-16] blob")

# ==== 4 heads
LAST, PADDED, BATCH, CHANNEL, ACCEPTOR, FLAGS_UNKNOWN = 0x01, 0x02, 0x04, 0x08, 0x10, 0xE0

class Head(namedtuple("Head", "seq segment_log2 flags context")):
    def message_bytes(self):                      # 4.1
        return number(self.seq, 8) + bytes([self.segment_log2]) + self.follow_up_bytes()[1:]
    def follow_up_bytes(self):                    # 4.2
        return bytes([FOLLOW_UP, self.flags]) + number(len(self.context), 2) + self.context

def parse_head(reader, follows=None):
    """4.1, 4.2: the fixed part is read whole, then checked. follows: seq and segment_log2 of a follow-up, which has them not."""
    fixed = Reader(reader.take(4 if follows else 12, "head"), 1 if follows else 0)
    seq, segment_log2 = follows or (fixed.number(8, "seq"), fixed.number(1, "segment_log2"))
    reader.refuse_if(not 12 <= segment_log2 <= 24, "malformed", f"[HEAD-2] segment_log2 {segment_log2}")
    flags, context_len = fixed.number(1, "flags"), fixed.number(2, "context_len")
    reader.refuse_if(flags & FLAGS_UNKNOWN, "unsupported", f"[HEAD-3] flags {flags:02x}: bits 5 to 7")
    reader.refuse_if(flags & (LAST | BATCH | ACCEPTOR) and not flags & CHANNEL, "malformed", "[HEAD-4] flags")
    check_limit(context_len, MAX_CONTEXT, "bytes of a context")                         # [LIM-2]
    return Head(seq, segment_log2, flags, reader.take(context_len, "context"))
def parse_envelope(reader):                       # 2: the block and the head of an envelope
    block, head = parse_block(reader), parse_head(reader)
    wrong = block.options & OPT_COVERS and (head.seq or head.flags & CHANNEL)
    reader.refuse_if(wrong, "malformed", f"[HEAD-5] seq {head.seq}, flags {head.flags:02x} under a block of one message")
    return block, head
def join(block, message):                         # 4.5: answers the envelope that they are [DET-1]
    reader = Reader(block)
    parse_block(reader)
    reader.refuse_if(reader.left(), "trailing", f"[DET-2] {reader.left()} bytes behind the block")
    return block + message

# ==== 5 segments
def nonce_of(seq, i, final):                      # 5.3 [KEY-7]
    return number(seq, 8) + number(i * 2 + final, 4)
def aad_of(head, chain, binding):                 # 5.4: of segment 0; chain is empty but in a renewal
    return head.message_bytes() + chain + binding

def seal_segments(keys, head, aad, plaintext):  # 5.1, 5.2: answers [(nonce, segment)]
    size = 1 << head.segment_log2
    check_limit(len(plaintext), MAX_PLAINTEXT, "plaintext bytes")                       # [LIM-4], hence [SEG-5]
    count, aead, segments = max(1, -(-len(plaintext) // size)), SUITES[keys.suite].aead(keys.payload_key), []
    for i in range(count):
        final = int(i == count - 1)
        nonce = nonce_of(head.seq, i, final)
        sealed = aead.encrypt(nonce, plaintext[i * size:(i + 1) * size], aad if i == 0 else b"")
        segments.append((nonce, number(final << 31 | len(sealed), 4) + sealed))
    return segments
def take_segment(reader, head, i, total=0, most=MAX_PLAINTEXT):
    """5.1, 5.2: answers final, ciphertext and tag. total: the plaintext bytes before."""
    size, prefix = 1 << head.segment_log2, reader.number(4, f"prefix of segment {i}")
    final, length = prefix >> 31, prefix & 0x7FFFFFFF
    reader.refuse_if(length < 16, "malformed", f"[SEG-1] segment {i} of {length} bytes")
    reader.refuse_if(length - 16 > size, "malformed", f"[SEG-2] segment {i}: {length - 16} plaintext bytes")
    reader.refuse_if(not final and length - 16 < size, "malformed", f"[SEG-3] segment {i} is short")
    reader.refuse_if(final and i > 0 and length == 16, "malformed", f"[SEG-4] final segment {i} is empty")
    check_limit(total + length - 16, most, "plaintext bytes")                           # [LIM-3], hence [SEG-5]
    return final, reader.take(length, f"segment {i}")
def scan_segments(reader, head, most=MAX_PLAINTEXT):    # answers (i, final, ciphertext and tag) one after another, without a key
    i = final = 0
    while not final:
        final, sealed = take_segment(reader, head, i, i << head.segment_log2, most)
        yield i, final, sealed
        i += 1
def open_segment(keys, head, aad, i, final, sealed):    # 5.3, 5.4
    try:
        return SUITES[keys.suite].aead(keys.payload_key).decrypt(nonce_of(head.seq, i, final), sealed, b"" if i else aad)
    except InvalidTag:
        raise Refused("tag", f"the tag of segment {i} does not hold") from None
def open_segments(segments, keys, head, aad):           # the whole payload, after every tag held [SEG-6]; padding comes last (8)
    plaintext = b"".join([open_segment(keys, head, aad, *segment) for segment in segments])
    return unpad(plaintext) if head.flags & PADDED else plaintext

def open_part(body, keys, head, aad, start, end):
    """5.5: what there is of these bytes of a payload. But for segment 0 [SEG-9] and the final one [SEG-10] no others are opened."""
    first, size = body.at, 1 << head.segment_log2
    count, length = max(1, -(-body.left() // (size + 20))), body.left()                 # 14
    def segment(i):
        body.at = first + i * (size + 20)
        final, sealed = take_segment(body, head, i)
        body.refuse_if(final and body.left(), "trailing", f"[SEG-10] {body.left()} bytes after the final segment {i}")
        body.refuse_if(not final and i == count - 1, "truncated", "[SEG-10] the final segment is missing")
        return open_segment(keys, head, aad, i, final, sealed)
    def plaintext(a, b):                                # to the end of the segment in which byte b - 1 stands
        return b"".join(map(segment, range(a // size, -(-b // size))))[a % size:] if a < b else b""
    segment(0)
    segment(count - 1)
    length -= 20 * count                                # of the plaintext
    if head.flags & PADDED:
        length = payload_len(plaintext(max(length - 8, 0), length), length)             # [PAD-4]: the length alone
    return plaintext(start, min(end, length))[:max(min(end, length) - start, 0)]

# ==== 6.1 wrapping a DEK: our own HPKE base-mode sender (RFC 9180), since slots may share one ephemeral key; cryptography's unwraps
def extract(salt, ikm):                           # RFC 5869
    return hmac.digest(salt, ikm, "sha256")
def expand(prk, info, length):                    # RFC 5869
    out = part = b""
    while len(out) < length:
        part = hmac.digest(prk, part + info + bytes([len(out) // 32 + 1]), "sha256")
        out += part
    return out[:length]
def labeled_extract(suite_id, salt, label, ikm):                # RFC 9180, 4
    return extract(salt, b"HPKE-v1" + suite_id + label + ikm)
def labeled_expand(suite_id, prk, label, info, length):         # RFC 9180, 4
    return expand(prk, number(length, 2) + b"HPKE-v1" + suite_id + label + info, length)
def hpke_info(suite):                             # 6.1
    return b"sealwire v1 dek" + bytes([suite])
def key_pair(kem, secret):                        # the private key as cryptography has it, and the public key's bytes
    if kem is X25519:
        private = X25519PrivateKey.from_private_bytes(secret)
        return private, private.public_key().public_bytes_raw()
    expanded = hashlib.shake_256(secret).digest(96)                     # X-Wing: a seed of ML-KEM, a secret of X25519
    mlkem, (x25519, x25519_public) = MLKEM768PrivateKey.from_seed_bytes(expanded[:64]), key_pair(X25519, expanded[64:])
    return hpke.MLKEM768X25519PrivateKey(mlkem, x25519), mlkem.public_key().public_bytes_raw() + x25519_public

def dhkem(dh, enc, public):                       # RFC 9180, 4.1: the end of Encap and of Decap
    kem_id = b"KEM" + number(X25519.id, 2)
    eae_prk = labeled_extract(kem_id, b"", b"eae_prk", dh)
    return labeled_expand(kem_id, eae_prk, b"shared_secret", enc + public, 32)
def key_schedule(suite, shared_secret, info):     # RFC 9180, 5.1, of mode_base
    suite_id = b"HPKE" + number(SUITES[suite].kem.id, 2) + number(KDF_HKDF_SHA256, 2) + number(SUITES[suite].aead_id, 2)
    psk_id_hash = labeled_extract(suite_id, b"", b"psk_id_hash", b"")
    context = b"\0" + psk_id_hash + labeled_extract(suite_id, b"", b"info_hash", info)
    secret = labeled_extract(suite_id, shared_secret, b"secret", b"")
    return {"key_schedule_context": context, "secret": secret, "key": labeled_expand(suite_id, secret, b"key", context, 32),
            "base_nonce": labeled_expand(suite_id, secret, b"base_nonce", context, 12)}
def hpke_seal(suite, ephemeral, public, dek):
    """RFC 9180: Encap (4.1), KeySchedule of mode_base (5.1), Seal (5.2). X-Wing is cryptography's, which takes no ephemeral."""
    kem, aead = SUITES[suite].kem, SUITES[suite].aead
    x25519 = X25519PublicKey.from_public_bytes(public[-32:])
    if kem is X_WING:
        both = hpke.MLKEM768X25519PublicKey(MLKEM768PublicKey.from_public_bytes(public[:-32]), x25519)
        sealed = SUITES[suite].hpke.encrypt(dek, both, info=hpke_info(suite))
        return {"enc": sealed[:kem.enc_len], "wrapped_dek": sealed[kem.enc_len:]}
    private, enc = key_pair(kem, ephemeral)
    dh = private.exchange(x25519)                       # [WRAP-1]: raises where it gives zero
    shared_secret = dhkem(dh, enc, public)
    schedule = key_schedule(suite, shared_secret, hpke_info(suite))
    return {"enc": enc, "dh": dh, "shared_secret": shared_secret, **schedule,
            "wrapped_dek": aead(schedule["key"]).encrypt(schedule["base_nonce"], dek, b"")}
def unwrap(suite, private, slot):
    """6.1: the candidate DEK of a slot, or None. cryptography takes enc as received [WRAP-4], and no result of zero [WRAP-1]."""
    try:
        return SUITES[suite].hpke.decrypt(slot.enc + slot.wrapped_dek, private, info=hpke_info(suite))
    except (InvalidTag, ValueError):
        return None
def check_public_key(kem, public):
    """6.1 [WRAP-2], of X-Wing's X25519 half too: a scalar is a multiple of 8, so just small orders give zero."""
    refuse_if(len(public) != kem.public_len, "malformed", f"a public key of {len(public)} bytes")
    refuse_if(int.from_bytes(public[-32:], "little") >= P, "malformed", "[WRAP-2] the public key is not canonical")
    try:
        X25519PrivateKey.from_private_bytes(b"\x55" * 32).exchange(X25519PublicKey.from_public_bytes(public[-32:]))
        if kem is X_WING:
            MLKEM768PublicKey.from_public_bytes(public[:-32])
    except ValueError:
        raise Refused("malformed", "[WRAP-2] the public key is zero, of small order or no ML-KEM key") from None

# ==== 6.2 key schedule, 6.3 hints, 6.4 finding the DEK
class Keys:                                       # 6.2: what follows from DEK, salt and suite
    def __init__(self, dek, salt, suite, opener=None):
        self.dek, self.salt, self.suite, self.opener = dek, salt, suite, opener         # opener: the CMK that found it
        self.prk = extract(salt, dek)
        names = b"payload", b"header", b"commit", b"chain"
        derived = (expand(self.prk, b"sealwire v1 " + name + bytes([suite]), 32) for name in names)
        self.payload_key, self.header_key, self.dek_commitment, self.chain = derived
    def header_mac(self, before):
        return hmac.digest(self.header_key, before, "sha256")
    def mask(self, proof, recipients_hash):       # 6.5: on, and off
        mask = expand(self.prk, b"sealwire v1 sender" + bytes([self.suite]) + recipients_hash, 128)
        return bytes(a ^ b for a, b in zip(proof, mask, strict=True))
    def signed(self, created_at, original, message):  # 6.5: what a sender signs
        fixed = b"sealwire v1 sender proof" + bytes([self.suite]) + number(created_at, 8) + self.salt
        return fixed + original + self.dek_commitment + message
def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()
def fingerprint(kem, public):                     # 6.3
    return sha256(b"sealwire v1 key", number(kem.id, 2), public)
def human_fingerprint(kem, public):                   # 12.4
    print_ = fingerprint(kem, public)
    return " ".join(f"{int.from_bytes(print_[5 * i:5 * i + 5], 'big') % 100_000:05d}" for i in range(6))
def hint_of(mode, kem, salt, public):             # 6.3
    rotating = sha256(b"sealwire v1 hint", salt, fingerprint(kem, public))
    return (bytes(4), rotating[:4], fingerprint(kem, public)[:4])[mode]

def find_keys(block, secrets, kms=None):
    """6.4: keys in the order given, each on the slots in theirs [WRAP-7]; then externals. kms: what is answered to the pairs of provider
    and key_ref that the user has named [EXT-1]."""
    kem, found, trials, wrong = SUITES[block.suite].kem, [], set(), 0
    for secret in secrets:
        private, public = key_pair(kem, secret)
        hint = hint_of(block.options & OPT_HINTS, kem, block.salt, public)
        found += [(secret, slot.enc, private, slot) for slot in block.slots if slot.hint == hint]
    answers = [(kms or {}).get((provider, key_ref)) for provider, key_ref, _ in block.externals]
    found += [(None, i, None, None) for i, answer in enumerate(answers) if answer is not None]
    for secret, place, private, slot in found:
        trials.add((secret, place))
        check_limit(len(trials) + wrong, MAX_TRIALS, "trials")                          # [WRAP-6]
        dek = unwrap(block.suite, private, slot) if slot else answers[place] if len(answers[place]) == 32 else None   # [EXT-2]
        if dek is not None:
            keys = Keys(dek, block.salt, block.suite, secret)
            if hmac.compare_digest(keys.header_mac(block.raw[:-32]), block.header_mac):  # [KEY-1]
                return keys
            wrong += 1
            check_limit(len(trials) + wrong, MAX_TRIALS, "trials")
    refuse_if(wrong, "header_mac", "[KEY-2] a slot opened, but header_mac holds under no candidate")
    raise Refused("nokey", "no matching key")

# ==== 6.5 sender proofs, 6.6 who has written it
P, ORDER = 2 ** 255 - 19, 2 ** 252 + 27742317777372353535851937790883648493     # of the field, and of the base point
D = -121665 * pow(121666, -1, P) % P

def point_fault(encoded):
    """What keeps an Ed25519 point from being a key or an R, or None: OpenSSL minds neither y >= P nor a small order. Eight times
    the point is the neutral one, y = 1, if its order is small; y and the square of x tell."""
    y = int.from_bytes(encoded, "little") % 2 ** 255
    if y >= P:
        return "not canonical"
    for _ in range(3):
        x2 = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
        if pow(x2, (P - 1) // 2, P) == P - 1:           # no square
            return "not on the curve"
        y = (y * y + x2) * pow(1 - D * x2 * y * y, -1, P) % P
    return "of small order" if y == 1 else None
def verify(key, signature, signed):               # [PRF-2]
    for name, point in ("verifying_key", key), ("R", signature[:32]):
        refuse_if(point_fault(point), "proof", f"[PRF-2] {name} is {point_fault(point)}")
    refuse_if(int.from_bytes(signature[32:], "little") >= ORDER, "proof", "[PRF-2] S is not below the order")
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, signed)       # OpenSSL's is without the cofactor
    except InvalidSignature:
        raise Refused("proof", "[PRF-1] the signature does not hold") from None
def proof_message(options, head, raw, binding):
    """6.5 [PRF-3]: `message` of what is signed; raw is message head and segments, as they were sent"""
    if options & OPT_COVERS:
        return sha256(raw, binding)
    acceptor = bytes([head.flags & ACCEPTOR != 0])
    return sha256(b"sealwire v1 channel", acceptor, binding) if head.flags & CHANNEL else b""

def sender_of(block, keys, message, allowed):
    """Who took up the DEK, in the order of 11.3: is it allowed (None, or keys and standings), then its proof [PRF-1] [PRF-4]."""
    key, standing = None, "anonymous"
    if block.proof:
        now = sha256(block.recipients)
        proof = keys.mask(block.proof, now)
        key, original, signature = proof[:32], proof[32:64], proof[64:]
        alone = len(block.slots) == 1 and not block.externals and keys.opener is not None       # [PRF-6]
        of_message = "signed" if original == now else "signed-rewrapped"
        of_dek = "origin" if original != now else "verified" if alone else "group"
        standing = of_message if block.options & OPT_COVERS else of_dek
    if allowed:                                                                         # [PRF-7]
        refuse_if(key not in allowed[0], "policy", "[PRF-7] the sender is not in the list")
        refuse_if(standing not in allowed[1], "policy", f"[PRF-7] the standing {standing}")
    if block.proof:
        verify(key, signature, keys.signed(block.created_at, original, message))
    return {"standing": standing, "key": key}

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
def padme(n):                                     # 8: n < 2 comes out as it is
    e = n.bit_length() - 1                        # floor(log2 n); and e.bit_length() is s, floor(log2 e) + 1
    unit = 1 << max(e - e.bit_length(), 0)
    return -(-n // unit) * unit
def pad(payload):                                 # 8 [PAD-1]
    return payload.ljust(padme(len(payload) + 8) - 8, b"\0") + number(len(payload), 8)
def payload_len(end, length):                     # 8: end is the end, at least, of a plaintext of this length
    refuse_if(length < 8, "content", "[PAD-2] a padded plaintext of fewer than 8 bytes")
    says = int.from_bytes(end[-8:], "big")
    refuse_if(length != padme(says + 8), "content", f"[PAD-3] payload_len {says}")
    return says
def unpad(plaintext):                             # 8
    says = payload_len(plaintext, len(plaintext))
    refuse_if(any(plaintext[says:-8]), "content", "[PAD-4] padding that is not zero")
    return plaintext[:says]

# ==== 3 and 6 again, as a writer sees them
def from_hex(request, name, default=b""):
    return bytes.fromhex(request[name]) if request.get(name) is not None else default
def external_bytes(provider, key_ref, blob):      # 3.4
    return b"".join(number(len(x), n) + x for n, x in ((1, provider.encode()), (2, key_ref.encode()), (2, blob)))
def slot_bytes(slot, own_enc):                    # 3.3
    return slot.hint + (slot.enc if own_enc else b"") + slot.wrapped_dek
def make_block(options, created_at, slots, externals, keys, prove):
    """3: the bytes of a block; prove(original) answers what its proof holds"""
    check_limit(len(slots), MAX_SLOTS, "recipients")                                    # [LIM-4]
    check_limit(len(externals), MAX_EXTERNALS, "externals")                             # [LIM-4]
    encs, own_enc = {slot.enc for slot in slots}, options & OPT_ENC_PER_SLOT or SUITES[keys.suite].kem is X_WING
    refuse_if(options & OPT_HINTS == 0 and len(encs) > MAX_TRIALS, "limit", f"[HINT-1] {len(encs)} encs without hints")
    counts = bytes([options]) + number(len(slots), 2) + number(len(externals), 1)
    parts = [b"" if own_enc else b"".join(encs), *(slot_bytes(slot, own_enc) for slot in slots)]
    parts = b"".join(parts + [external_bytes(*external) for external in externals])
    original = sha256(counts, parts)
    proof = keys.mask(prove(original), original) if options & OPT_PROOF else b""
    body = bytes([keys.suite]) + counts + number(created_at, 8) + keys.salt + parts + proof
    before = MAGIC + bytes([VERSION]) + number(8 + len(body) + 32, 4) + body
    block = before + keys.header_mac(before)
    parse_block(Reader(block))                          # [LIM-4]: what we would refuse, we do not send
    return block
def wrap(request, options, to, keys):
    """6.1: answers the slots, and what HPKE did for each. A test may give the ephemerals, of X25519."""
    kem, own_enc = SUITES[keys.suite].kem, options & OPT_ENC_PER_SLOT
    for public in to:
        check_public_key(kem, public)                                                   # [WRAP-2]
    count = 0 if kem is X_WING else len(to) if own_enc else min(len(to), 1)
    ephemerals = [bytes.fromhex(e) for e in request.get("ephemerals") or []] or [os.urandom(32) for _ in range(count)]  # [WRAP-5]
    refuse_if(len(ephemerals) != count, "malformed", f"{count} ephemerals are needed")
    each = ephemerals if own_enc else (ephemerals or [None]) * len(to)
    steps = [hpke_seal(keys.suite, ephemeral, public, keys.dek) for ephemeral, public in zip(each, to)]
    hints = [hint_of(options & OPT_HINTS, kem, keys.salt, public) for public in to]
    return [Slot(hint, step["enc"], step["wrapped_dek"]) for hint, step in zip(hints, steps)], steps, ephemerals
Epoch = namedtuple("Epoch", "segment_log2 options keys make_block notes")   # make_block(message): its proof may cover it

def take_up_dek(request):
    """3, 6.1, 6.2: a DEK for request["to"], fresh as its salt [KEY-6] unless a test gives them."""
    suite, segment_log2 = request.get("suite", 1), request.get("segment_log2", 16)
    refuse_if(suite not in SUITES, "unsupported", f"[BLK-5] suite {suite}")
    refuse_if(not 12 <= segment_log2 <= 24, "malformed", f"[HEAD-2] segment_log2 {segment_log2}")
    kem, to = SUITES[suite].kem, [bytes.fromhex(pk) for pk in request.get("to", [])]
    externals = [(e["provider"], e.get("key_ref", ""), from_hex(e, "blob")) for e in request.get("externals") or []]
    refuse_if(len(set(to)) != len(to), "malformed", "[WRAP-3] a recipient is given twice")
    options = HINT_MODES[request.get("hints", "none")] | (OPT_ENC_PER_SLOT if request.get("enc_per_slot") else 0)
    sign_with = from_hex(request, "sign_with", None)
    if sign_with is not None:
        options |= {"dek": OPT_PROOF, "message": OPT_PROOF | OPT_COVERS}[request.get("proof") or "dek"]
    dek, salt = from_hex(request, "dek", os.urandom(32)), from_hex(request, "salt", os.urandom(16))
    refuse_if(len(dek) != 32 or len(salt) != 16, "malformed", "a DEK has 32 bytes, a salt 16")
    created_at = int(time.time()) if request.get("created_at") is None else request["created_at"]
    keys = Keys(dek, salt, suite)
    slots, steps, ephemerals = wrap(request, options, to, keys)
    def block_for(message):
        def prove(original):
            signer = Ed25519PrivateKey.from_private_bytes(sign_with)
            signature = signer.sign(keys.signed(created_at, original, message))
            return signer.public_key().public_bytes_raw() + original + signature
        return make_block(options, created_at, slots, externals, keys, prove)
    own_enc = options & OPT_ENC_PER_SLOT
    notes = {"slots": [slot_bytes(slot, own_enc) for slot in slots], "hpke": steps, "hints": [s.hint for s in slots], **vars(keys),
             "enc": [step["enc"] for step in (steps if own_enc else steps[:1])], "ephemerals": ephemerals, "info": hpke_info(suite),
             "fingerprints": [fingerprint(kem, public) for public in to],
             "human_fingerprints": [human_fingerprint(kem, public) for public in to]}
    return Epoch(segment_log2, options, keys, block_for, notes)

def seal_message(epoch, seq, flags, context, payload, binding, chain=b"", follow_up=False):
    """2: an envelope, or a follow-up of the epoch. Answers the bytes and their intermediate values."""
    check_limit(len(context), MAX_CONTEXT, "bytes of a context")                        # [LIM-4]
    refuse_if(not 0 <= seq < 2 ** 64, "malformed", f"[KEY-4] seq {seq}")
    refuse_if(epoch.options & OPT_COVERS and (seq or flags & CHANNEL), "malformed", "[HEAD-5] a block of one message")
    plaintext = pad(payload) if flags & PADDED else payload
    head = Head(seq, epoch.segment_log2, flags, context)
    head_bytes = head.follow_up_bytes() if follow_up else head.message_bytes()
    aad = aad_of(head, chain, binding)
    segments = seal_segments(epoch.keys, head, aad, plaintext)
    message = head_bytes + b"".join(segment for _, segment in segments)
    block = b"" if follow_up else epoch.make_block(proof_message(epoch.options, head, message, binding))
    return block + message, {"envelope": block + message, "block": block, "head": head_bytes, "aad": aad,
                             "nonces": [nonce for nonce, _ in segments], "plaintext": plaintext,
                             "segments": [segment for _, segment in segments], "header_mac": block[-32:], **epoch.notes}
def seal(request):                                # one self-contained message
    return seal_message(take_up_dek(request), request.get("seq", 0), PADDED if request.get("pad") else 0,
                        from_hex(request, "context"), from_hex(request, "payload"), from_hex(request, "binding"))

def open_(data, secrets, binding, kms=None, allowed=None, part=None):
    """One self-contained message, in the order of 11.3 [ERR-2]. part: from where to where its payload is read (5.5)."""
    reader = Reader(data)
    block, head = parse_envelope(reader)
    reader.refuse_if(head.flags & CHANNEL, "malformed", "[CHN-2] flag channel outside of a channel")
    check_limit(1 << head.segment_log2 if part else 0, MAX_SEGMENT, "plaintext bytes of a segment")     # [LIM-5]
    body, aad = Reader(data, reader.at), aad_of(head, b"", binding)
    if not part or block.options & OPT_COVERS:    # [PRF-8]: all of it is verified before any part; it is held, not read twice
        segments = list(scan_segments(reader, head, 2 ** 64 if part else MAX_PLAINTEXT))
        reader.refuse_if(reader.left(), "trailing", f"[SEG-8] {reader.left()} bytes after the final segment")
    keys = find_keys(block, secrets, kms)
    sender = sender_of(block, keys, proof_message(block.options, head, data[len(block.raw):], binding), allowed)
    payload = open_part(body, keys, head, aad, *part) if part else open_segments(segments, keys, head, aad)
    return {"payload": payload, "context": head.context, "seq": head.seq, "created_at": block.created_at, "sender": sender}

# ==== 9 channels
def seal_channel(request):
    """9: the bytes of a whole channel. What a message has of its own, "to", "suite" and so on, counts where it begins an epoch."""
    out, epoch, closed, binding = [], None, False, from_hex(request, "binding")
    side = CHANNEL | (ACCEPTOR if request.get("role") == "acceptor" else 0)
    messages = request["messages"] + ([{"notice": True, "last": True}] if request.get("notice") else [])    # [CHN-15]
    for seq, message in enumerate(messages):
        refuse_if(closed, "malformed", "[CHN-8] nothing follows a message with the flag last")
        closed = bool(message.get("last"))
        payload, batch = from_hex(message, "payload"), message.get("batch")
        if batch is None and closed and not payload and not message.get("notice"):      # [CHN-13]
            batch = [""]
        flags = side | (LAST if closed else 0) | (PADDED if message.get("pad") else 0)
        if batch is not None:
            flags, payload = flags | BATCH, make_batch([bytes.fromhex(entry) for entry in batch])
        chain, follow_up = b"", True
        if epoch is None or message.get("renew"):                                       # [CHN-3] [CHN-12]
            chain, follow_up, old = (epoch.keys.chain if epoch else b""), False, epoch  # [CHN-7]
            epoch = take_up_dek({**request, **message})
            refuse_if(old and old.keys.salt == epoch.keys.salt, "malformed", "[CHN-5] the salt of the epoch before")
        out.append(seal_message(epoch, seq, flags, from_hex(message, "context"), payload, binding, chain, follow_up)[0])
    return b"".join(out)

def open_channel(data, secrets, role, binding, allowed, kem=None):
    """9: yields payload, context and sender of each message, in order; an exception ends the channel [CHN-14]."""
    reader, seq, block, keys, sender, segment_log2 = Reader(data), 0, None, None, None, 0
    while True:
        reader.refuse_if(not reader.left(), "truncated", "[CHN-9] the channel ends without a last message")
        kind, chain = data[reader.at], b""
        refuse_if(kind not in (FOLLOW_UP, MAGIC[0]), "unsupported", f"[HEAD-1] type {kind:02x} at offset {reader.at}")
        if kind == FOLLOW_UP:
            refuse_if(block is None, "malformed", "[CHN-3] a channel begins with an envelope")
            head = parse_head(reader, (seq, segment_log2))
        else:
            old, (block, head) = block, parse_envelope(reader)
            reader.refuse_if(old and old.salt == block.salt, "malformed", "[CHN-5] the salt of the epoch before")
        refuse_if(not head.flags & CHANNEL, "malformed", f"[CHN-1] message {seq}: no flag channel")
        refuse_if(bool(head.flags & ACCEPTOR) == (role == "acceptor"), "malformed", f"[CHN-10] message {seq}: from our own side")
        refuse_if(head.seq != seq, "malformed", f"[CHN-3] [CHN-4] seq {head.seq} instead of {seq}")
        if kind != FOLLOW_UP:
            refuse_if(kem and SUITES[block.suite].kem is not kem, "policy", "[KMS-8] a suite of another KEM")
            chain, before, segment_log2 = (keys.chain if keys else b""), sender, head.segment_log2      # [CHN-7]
            keys = find_keys(block, secrets)
            sender = sender_of(block, keys, proof_message(block.options, head, b"", binding), allowed)
            refuse_if(before not in (None, sender), "proof", "[CHN-6] the sender is not that of the epoch before")
        payload = open_segments(scan_segments(reader, head), keys, head, aad_of(head, chain, binding))      # opened as they arrive
        for entry in split_batch(payload) if head.flags & BATCH else [payload]:
            if head.flags & BATCH or payload or not head.flags & LAST:                  # [CHN-15]
                yield entry, head.context, sender
        if head.flags & LAST:
            reader.refuse_if(reader.left(), "trailing", f"[CHN-8] {reader.left()} bytes after the last message")
            return
        seq += 1

# ==== 10.5 rewrapping
def rewrap(request, secrets):
    """The block for other recipients [RWP-1]. Its proof is not verified, for want of the message. Externals stay as slots do."""
    reader = Reader(from_hex(request, "block"))
    block = parse_block(reader)
    reader.refuse_if(reader.left(), "trailing", f"{reader.left()} bytes after the block")
    add, remove = ([bytes.fromhex(pk) for pk in request.get(name) or []] for name in ("add", "remove"))
    refuse_if(len(set(add)) != len(add), "usage", "[WRAP-3] a recipient is added twice")
    weaker = add and block.proof and not (block.options & OPT_COVERS or request.get("weaken"))
    refuse_if(weaker, "usage", "[RWP-3] whoever is added can then write as origin")
    keys, kem, mode = find_keys(block, secrets), SUITES[block.suite].kem, block.options & OPT_HINTS
    kept, externals, hint = block.slots, block.externals, lambda public: hint_of(mode, kem, block.salt, public)
    if request.get("replace_all"):
        kept, externals, remove = [], [], []
    refuse_if(mode == 0 and remove, "usage", "[RWP-4] slots without hints cannot be told apart")
    gone, hints = set(map(hint, remove)), [slot.hint for slot in kept]
    refuse_if(any(hints.count(h) != 1 for h in gone), "usage", "[RWP-4] none or several carry the hint to be removed")
    kept = [slot for slot in kept if slot.hint not in gone]
    refuse_if(mode and {slot.hint for slot in kept} & set(map(hint, add)), "usage", "[WRAP-3] added is there already")
    refuse_if(not (kept or add or externals), "usage", "nobody is left")
    options = block.options | (OPT_ENC_PER_SLOT if add and kem is X25519 else 0)        # [RWP-2]
    options |= HINT_MODES["rotating"] if add and not block.slots else 0
    options &= ~0 if kept or add else ~OPT_OF_SLOTS                                       # [BLK-10]
    proof = keys.mask(block.proof, sha256(block.recipients)) if block.proof else b""
    slots = kept + wrap(request, options, add, keys)[0]
    return make_block(options, block.created_at, slots, externals, keys, lambda original: proof)

# ==== 12.1 key strings, 12.6 protected keys, 12.7 keys of age
BECH32, BECH32M = "qpzry9x8gf2tvdw0s3jn54khce6mua7l", 0x2BC830A3
KEY_KINDS = {"recipient": "swr", "cmk": "sw-secret-cmk-", "sender": "sws", "sender-secret": "sw-secret-sender-",
             "protected": "sw-protected-key-"}
AGE_KINDS = {"age": "recipient", "age-secret-key-": "cmk"}     # 12.7; in Bech32, all others in Bech32m
KEM_KINDS, SECRET_KINDS = ("recipient", "cmk"), ("cmk", "sender-secret")

def bech32_checksum(hrp, groups):                 # BIP-173: 1 for a whole string that is right; BIP-350: BECH32M
    check = 1
    for value in [ord(c) >> 5 for c in hrp] + [0] + [ord(c) & 31 for c in hrp] + groups:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for i, g in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= g if top >> i & 1 else 0
    return check
def write_key(kind, key, kem=X25519):             # 12.1
    data, hrp = (number(kem.id, 2) if kind in KEM_KINDS else b"") + key, KEY_KINDS[kind]
    bits = "".join(f"{byte:08b}" for byte in data)
    groups = [int(bits[i:i + 5].ljust(5, "0"), 2) for i in range(0, len(bits), 5)]
    check = bech32_checksum(hrp, groups + [0] * 6) ^ BECH32M
    groups += [check >> 5 * (5 - i) & 31 for i in range(6)]
    string = hrp + "1" + "".join(BECH32[g] for g in groups)
    return string.upper() if kind in (*SECRET_KINDS, "protected") else string
def read_bech32(string):                          # answers the human-readable part and the data
    refuse_if(string.lower() != string and string.upper() != string, "malformed", "[TXT-4] mixed case")
    hrp, one, rest = string.lower().rpartition("1")
    right = one and len(rest) >= 6 and set(rest) <= set(BECH32) and string.isascii()
    refuse_if(not right, "malformed", "not Bech32m")
    groups, wanted = [BECH32.index(c) for c in rest], 1 if hrp in AGE_KINDS else BECH32M
    refuse_if(bech32_checksum(hrp, groups) != wanted, "malformed", "the checksum does not hold")
    bits = "".join(f"{group:05b}" for group in groups[:-6])
    end = len(bits) // 8 * 8
    refuse_if(len(bits) - end >= 5 or "1" in bits[end:], "malformed", "[TXT-4] padding bits that are not zero")
    return hrp, bytes(int(bits[i:i + 8], 2) for i in range(0, end, 8))
def read_key(string, passphrase=None):            # answers kind, key and kem, which senders have not
    hrp, key = read_bech32(string)                                                      # [TXT-9]: age's too
    kind = AGE_KINDS.get(hrp) or next((k for k, h in KEY_KINDS.items() if h == hrp), None)
    refuse_if(kind is None, "malformed", f"[TXT-1] [TXT-10] a string of {hrp!r}, no key")
    if kind == "protected":
        return read_protected(key, passphrase)
    kem = X25519 if hrp in AGE_KINDS else None
    if kem is None and kind in KEM_KINDS:
        refuse_if(len(key) < 2, "malformed", "no kem id")
        kem, key = KEMS.get(int.from_bytes(key[:2], "big")), key[2:]
        refuse_if(kem is None, "unsupported", "[TXT-2] kem id")
    refuse_if(len(key) != (kem.public_len if kind == "recipient" else 32), "malformed", f"[TXT-3] {len(key)} bytes")
    if kind == "recipient":
        check_public_key(kem, key)                                                      # [WRAP-2]
    refuse_if(kind == "sender" and point_fault(key), "malformed", f"[TXT-8] a verifying key: {point_fault(key)}")
    return kind, key, kem

def stretch(passphrase, salt, t, m, p):           # 12.6: answers key and commitment
    refuse_if(passphrase is None or not 1 <= len(passphrase) <= 1024, "usage", "[PASS-5] no passphrase")
    no_passphrase = re.search(rb"[\r\n]|sw-secret-|sw-protected-key-1|age-secret-key-", passphrase, re.IGNORECASE)
    refuse_if(no_passphrase, "usage", "[PASS-5] lines, or a key")
    okm = Argon2id(salt=salt, length=64, iterations=t, lanes=p, memory_cost=m).derive(passphrase)
    return okm[:32], okm[32:]
def write_protected(string, passphrase, t=3, m=65_536, p=4):
    salt = os.urandom(16)                                                               # [PASS-3]
    key, commitment = stretch(passphrase, salt, t, m, p)
    head = b"\x01" + number(t, 4) + number(m, 4) + number(p, 1) + salt + commitment
    return write_key("protected", head + ChaCha20Poly1305(key).encrypt(bytes(12), string.encode(), head))
def read_protected(data, passphrase):             # as read_key
    r = Reader(data, shortage="malformed")
    refuse_if(r.number(1, "version") != 1, "unsupported", "[PASS-1] version")
    t, m, p = (r.number(size, name) for size, name in ((4, "t"), (4, "m"), (1, "p")))
    salt, commitment, head = r.take(16, "salt"), r.take(32, "commitment"), data[:r.at]
    bounded = 1 <= t <= 10 and 1 <= p <= 16 and 8 * p <= m <= 98_304 and t * m <= 393_216
    refuse_if(not bounded, "limit", f"[PASS-1] t {t}, m {m}, p {p}")
    refuse_if(r.left() < 16, "malformed", "[PASS-1] no tag")
    refuse_if(not 1 <= r.left() - 16 <= 1024, "limit", f"[PASS-1] a ciphertext of {r.left() - 16} bytes")
    key, expected = stretch(passphrase, salt, t, m, p)
    refuse_if(not hmac.compare_digest(expected, commitment), "passphrase", "[PASS-2] the passphrase is wrong")
    try:
        string = ChaCha20Poly1305(key).decrypt(bytes(12), r.take(r.left(), "ciphertext"), head).decode()
        refuse_if(string.upper() != string or string[:10] != "SW-SECRET-", "content", "[PASS-4] no secret key of 12.1")
        return read_key(string)
    except InvalidTag:
        raise Refused("tag", "[PASS-2] the protected key was changed") from None
    except (UnicodeDecodeError, Refused) as e:
        raise Refused("content", f"[PASS-4] {e}") from None

# ==== 12.5 armor
BEGIN, END, BLANKS = rb"-----BEGIN SEALWIRE ENVELOPE-----", rb"-----END SEALWIRE ENVELOPE-----", rb"[ \t\n\f\r]{0,1024}"
LINES = rb"\r?\n((?:Q{64}\r?\n)*(?:(?:Q{4}){0,15}(?:Q{4}|Q{3}=|Q{2}==)\r?\n)?)".replace(b"Q", rb"[0-9A-Za-z+/]")
UP_TO_END = BLANKS + BEGIN + LINES
WHOLE, CUT = re.compile(UP_TO_END + END + rb"(?:\r?\n)?" + BLANKS), re.compile(UP_TO_END + rb"(?!" + END + rb")[^\n]*")
def write_armor(data):
    return b"\n".join([BEGIN, *(base64.b64encode(data[i:i + 48]) for i in range(0, len(data), 48)), END, b""])
def read_armor(text):                             # the line in which a text is cut may be anything
    whole, cut = WHOLE.fullmatch(text), CUT.fullmatch(text) or (BEGIN + b"\r").startswith(re.sub(rb"\A" + BLANKS, b"", text))
    refuse_if(not whole, "truncated" if cut else "malformed", "[ARM-1] [ARM-2] lines, or what stands around them")
    data = base64.b64decode(whole[1])             # which passes over the ends of lines
    canonical = base64.b64encode(data) == b"".join(whole[1].split())
    refuse_if(not data or not canonical, "malformed", "[ARM-1] no line, or bits of the last character that are not zero")
    return data

# ==== kms.md 5 requests and answers: what is read is JSON, and what is written from it are the same bytes
MAX_REQUEST, MAX_ANSWER, MAX_SECRET, MAX_DIRECT_CONTEXT, MAX_WHY, MAX_ALIASES = 163_840, 1_048_576, 4_096, 1_024, 512, 16
Codec = namedtuple("Codec", "read write")
def as_bytes(value):
    return bytes.fromhex(value) if isinstance(value, str) else value
def whole(codec, data):
    r = Reader(data, shortage="malformed")
    value = codec.read(r)
    r.refuse_if(r.left(), "trailing", f"[KMS-33] {r.left()} bytes behind the end")
    return value
def raw(length, what):
    return Codec(lambda r: r.take(length, what), as_bytes)
def integer(length, what, known=None):
    def read(r):
        value = r.number(length, what)
        r.refuse_if(known and value not in known, "unsupported", f"[KMS-31] {what} {value}")
        return value
    return Codec(read, lambda value: number(value, length))
def sized(length, most, what):
    def read(r):
        size = r.number(length, what)
        check_limit(size, most, f"[KMS-32] bytes of {what}")
        return r.take(size, what)
    def write(value):
        check_limit(len(as_bytes(value)), most, f"[KMS-32] bytes of {what}")
        return number(len(as_bytes(value)), length) + as_bytes(value)
    return Codec(read, write)
def text(codec):
    def read(r):
        try:
            return codec.read(r).decode("utf-8")
        except UnicodeDecodeError:
            raise Refused("malformed", "[KMS-34] text that is not UTF-8") from None
    return Codec(read, lambda value: codec.write(value.encode()))
def record(**codecs):
    return Codec(lambda r: {name: codec.read(r) for name, codec in codecs.items()},
                 lambda value: b"".join(codec.write(value[name]) for name, codec in codecs.items()))
def tagged(tag, forms):                           # forms: number -> (name, codec)
    numbers = {name: n for n, (name, _) in forms.items()}
    def read(r):
        name, codec = forms[integer(1, tag, forms).read(r)]
        return {tag: name, **codec.read(r)}
    def write(value):
        n = numbers[value[tag]]
        return bytes([n]) + forms[n][1].write(value)
    return Codec(read, write)
def many(length, most, codec, what, order=None):
    def read(r):
        count = r.number(length, what)
        check_limit(count, most, f"[KMS-32] {what}")
        values = [codec.read(r) for _ in range(count)]
        ordered = order is None or all(order(a) < order(b) for a, b in zip(values, values[1:]))
        r.refuse_if(not ordered, "malformed", f"[KMS-61] {what} that do not ascend")
        return values
    return Codec(read, lambda values: number(len(values), length) + b"".join(map(codec.write, values)))
def read_flag(r):
    value = r.number(1, "flag")
    r.refuse_if(value > 1, "malformed", f"[KMS-35] a flag of {value}")
    return bool(value)
def optional(codec):
    return Codec(lambda r: codec.read(r) if read_flag(r) else None, lambda v: b"\0" if v is None else b"\1" + codec.write(v))
def read_alias(r):
    alias = r.take(r.number(1, "alias len"), "alias")
    r.refuse_if(not re.fullmatch(rb"(?!cmk-)[a-z0-9._/-]{1,64}", alias), "malformed", f"[KMS-30] alias {alias}")
    return alias.decode()
def read_key_name(r):                             # an id as text, or an alias
    if r.data[r.at:min(r.at + 1, r.end)] != b"\0":
        return ALIAS.read(r)
    return "cmk-" + r.take(17, "id")[1:].hex()
def write_key_name(name):
    return b"\0" + bytes.fromhex(name[4:]) if name.startswith("cmk-") else ALIAS.write(name)
def read_public(r):
    kem = integer(2, "kem", {0, *KEMS}).read(r)
    if kem:
        return {"kem": kem, "key": read_public_key(r, KEMS[kem])}
def read_this_public(r):                          # where there must be one
    public = read_public(r)
    r.refuse_if(public is None, "malformed", "no public key")
    return public
def read_public_key(r, kem):
    public = r.take(kem.public_len, "public key")
    check_public_key(kem, public)                                                       # [KMS-36]
    return public
def read_state(r):
    state = {"number": integer(1, "state", (1, 2, 3, 4)).read(r), "at": r.number(8, "at")}
    r.refuse_if(state["number"] < 3 and state["at"], "malformed", "a time of a state that has none")
    return state
FLAG, NOTHING = Codec(read_flag, lambda value: bytes([value])), record()
KEM, ID, TIME, VERSION_OF_KEY, DEK = integer(2, "kem", KEMS), raw(16, "id"), integer(8, "time"), integer(4, "version"), raw(32, "DEK")
ALIAS = Codec(read_alias, lambda alias: bytes([len(alias)]) + alias.encode())
NO_ALIAS = Codec(lambda r: None if r.data[r.at:min(r.at + 1, r.end)] == b"\0" and r.take(1, "") else ALIAS.read(r),
                 lambda alias: ALIAS.write(alias or ""))
KEY = Codec(read_key_name, write_key_name)
PUBLIC = Codec(read_public, lambda public: number(public["kem"], 2) + as_bytes(public["key"]) if public else bytes(2))
THIS_PUBLIC = Codec(read_this_public, PUBLIC.write)
STATE = Codec(read_state, lambda state: bytes([state["number"]]) + number(state["at"], 8))
INFO = record(id=ID, kem=KEM, state=STATE, created_at=TIME, version=VERSION_OF_KEY, rotated_at=TIME,
              aliases=many(1, MAX_ALIASES, ALIAS, "aliases"))
USED = record(key=text(sized(1, 255, "key")), version=VERSION_OF_KEY, public=PUBLIC)
CONTEXT, SECRET = sized(4, MAX_DIRECT_CONTEXT, "context"), sized(4, MAX_SECRET, "secret")
BLOCK, CIPHERTEXT, BLOB = (sized(4, 131_072, what) for what in ("block", "ciphertext", "blob"))
WHY = text(sized(4, MAX_WHY, "reason"))
WRAPPED = tagged("form", {
    1: ("block", record(block=BLOCK)),
    2: ("slot", record(suite=integer(1, "suite", SUITES), hint_mode=integer(1, "hint mode", (0, 1, 2)), salt=raw(16, "salt"),
                       hint=raw(4, "hint"), wrapped_dek=raw(48, "wrapped_dek"), enc=sized(4, 1_120, "enc"))),
    3: ("external", record(provider=text(sized(1, 255, "provider")), key_ref=text(sized(4, 2_048, "key_ref")), blob=BLOB)),
})
OF_KEY = record(key=KEY)
REQUEST = tagged("verb", {
    1: ("create-key", record(kem=KEM, alias=NO_ALIAS)), 2: ("list-keys", record(after=optional(ID))),
    3: ("describe-key", OF_KEY), 4: ("enable-key", OF_KEY), 5: ("disable-key", OF_KEY),
    6: ("schedule-key-deletion", record(key=KEY, days=integer(1, "days"))), 7: ("cancel-key-deletion", OF_KEY), 8: ("rotate-key", OF_KEY),
    9: ("set-alias", record(alias=ALIAS, key=KEY)), 10: ("delete-alias", record(alias=ALIAS)), 11: ("get-public-key", OF_KEY),
    12: ("generate-data-key", record(key=KEY, plaintext=FLAG)), 13: ("decrypt-data-key", record(wrapped=WRAPPED)),
    14: ("encrypt", record(key=KEY, context=CONTEXT, secret=SECRET)), 15: ("decrypt", record(context=CONTEXT, ciphertext=CIPHERTEXT)),
    16: ("re-encrypt", record(key=KEY, context=CONTEXT, ciphertext=CIPHERTEXT)),
})
ANSWER = tagged("answer", {
    1: ("done", NOTHING), 2: ("key", record(info=INFO)), 3: ("keys", record(keys=many(2, 256, INFO, "keys"))),
    4: ("public-key", record(id=ID, version=VERSION_OF_KEY, public=THIS_PUBLIC)),
    5: ("data-key", record(used=USED, dek=optional(DEK), block=BLOCK)), 6: ("unwrapped", record(used=USED, dek=DEK)),
    7: ("ciphertext", record(ciphertext=CIPHERTEXT)), 8: ("secret", record(secret=SECRET)), 0x80: ("denied", NOTHING),
    0x81: ("not-found", NOTHING), 0x82: ("wrong-state", record(id=ID, state=STATE)), 0x83: ("cannot-be-decrypted", NOTHING),
    0x84: ("refused", record(why=WHY)), 0x85: ("alias-taken", NOTHING), 0x86: ("full", record(why=WHY)), 0x87: ("read-only", NOTHING),
    0x88: ("failed", record(why=WHY)), 0x89: ("unsupported", record(why=WHY)),
})
def read_request(data):
    check_limit(len(data), MAX_REQUEST, "[KMS-9] bytes of a request")
    return whole(REQUEST, data)
def read_answer(data):
    check_limit(len(data), MAX_ANSWER, "[KMS-9] bytes of an answer")
    return whole(ANSWER, data)

# ==== kms.md 7 secrets directly under a CMK: HPKE with AAD, which cryptography's has not
DIRECT_SUITES = {1: X25519, 3: X_WING}
def decap(kem, secret, enc):                      # the shared secret of an enc
    private, public = key_pair(kem, secret)
    if kem is X25519:
        return dhkem(private.exchange(X25519PublicKey.from_public_bytes(enc)), enc, public)
    expanded, ct_x, pk_x = hashlib.shake_256(secret).digest(96), enc[-32:], public[-32:]
    ss_m = MLKEM768PrivateKey.from_seed_bytes(expanded[:64]).decapsulate(enc[:-32])
    ss_x = X25519PrivateKey.from_private_bytes(expanded[64:]).exchange(X25519PublicKey.from_public_bytes(ct_x))
    return hashlib.sha3_256(ss_m + ss_x + ct_x + pk_x + bytes.fromhex("5c2e2f2f5e5c")).digest()
def encap(kem, public):                           # answers the shared secret and enc
    check_public_key(kem, public)
    ephemeral, pk_x = X25519PrivateKey.generate(), public[-32:]
    ct_x, ss_x = ephemeral.public_key().public_bytes_raw(), ephemeral.exchange(X25519PublicKey.from_public_bytes(pk_x))
    if kem is X25519:
        return dhkem(ss_x, ct_x, public), ct_x
    ss_m, ct_m = MLKEM768PublicKey.from_public_bytes(public[:-32]).encapsulate()
    return hashlib.sha3_256(ss_m + ss_x + ct_x + pk_x + bytes.fromhex("5c2e2f2f5e5c")).digest(), ct_m + ct_x
def direct_cipher(suite, shared_secret):
    schedule = key_schedule(suite, shared_secret, b"sealwire v1 direct" + bytes([suite]))
    return ChaCha20Poly1305(schedule["key"]), schedule["base_nonce"]
def encrypt_direct(kem, public, key_id, version, context, secret):
    check_limit(len(secret), MAX_SECRET, "[KMS-32] bytes of secret")
    check_limit(len(context), MAX_DIRECT_CONTEXT, "[KMS-32] bytes of context")
    suite = next(suite for suite, of in DIRECT_SUITES.items() if of is kem)
    head, (shared_secret, enc) = b"SWD\x01" + bytes([suite]) + key_id + number(version, 4), encap(kem, public)
    cipher, nonce = direct_cipher(suite, shared_secret)
    return head + enc + cipher.encrypt(nonce, secret, head + context)
def decrypt_direct(data, secrets, context):       # secrets: {(id, version): (kem, secret)}
    r = Reader(data, shortage="malformed")
    r.refuse_if(r.take(4, "magic") != b"SWD\x01", "malformed", "[KMS-50] magic or version")
    suite = integer(1, "[KMS-50] suite", DIRECT_SUITES).read(r)
    name, kem = (r.take(16, "id"), r.number(4, "version")), DIRECT_SUITES[suite]
    head, enc = data[:r.at], r.take(kem.enc_len, "enc")
    r.refuse_if(r.left() < 16, "malformed", "[KMS-51] less than a tag")
    r.refuse_if(r.left() - 16 > MAX_SECRET, "malformed", "[KMS-51] more than any secret")
    check_limit(len(context), MAX_DIRECT_CONTEXT, "[KMS-32] bytes of context")
    try:
        of, secret = secrets[name]
        cipher, nonce = direct_cipher(suite, decap(kem, secret, enc))
        refuse_if(of is not kem, "tag", "[KMS-52] it cannot be decrypted")
        return cipher.decrypt(nonce, data[r.at:], head + context)
    except (KeyError, InvalidTag, ValueError):
        raise Refused("tag", "[KMS-52] it cannot be decrypted") from None

# ==== kms.md 8 what a service keeps
def read_kept_key(r):
    key = record(id=ID, kem=KEM, state=STATE, created_at=TIME).read(r)
    count = r.number(4, "version_count")
    check_limit(count, 1_024, "[KMS-37] versions")
    r.refuse_if(count == 0, "malformed", "[KMS-62] a key without a version")
    return {**key, "versions": [read_kept_version(r, key) for _ in range(count)]}
def read_kept_version(r, key):
    created_at, kind = r.number(8, "created_at"), r.number(1, "kind of version")
    r.refuse_if(kind != (key["state"]["number"] != 4), "malformed", "[KMS-63] a secret of a destroyed key, or none of another")
    return {"created_at": created_at, **({"secret": r.take(32, "secret")} if kind else {"public": read_public_key(r, KEMS[key["kem"]])})}
def write_kept_key(key):
    versions = [number(v["created_at"], 8) + (b"\1" + as_bytes(v["secret"]) if "secret" in v else b"\0" + as_bytes(v["public"]))
                for v in key["versions"]]
    head = record(id=ID, kem=KEM, state=STATE, created_at=TIME).write(key)
    return head + number(len(versions), 4) + b"".join(versions)
KEPT = record(version=integer(1, "[KMS-60] version", (1,)),
              keys=many(4, 65_536, Codec(read_kept_key, write_kept_key), "keys", lambda key: key["id"]),
              aliases=many(4, 65_536 * MAX_ALIASES, record(alias=ALIAS, id=ID), "aliases", lambda entry: entry["alias"].encode()))
def read_kept(data):
    state = whole(KEPT, data)
    ids = {key["id"] for key in state["keys"]}
    refuse_if(any(entry["id"] not in ids for entry in state["aliases"]), "malformed", "[KMS-64] an alias of a key that is not there")
    return state

# ==== kms.md 2 to 4 a recorded connection
def open_connection(request):
    """What a server and a client make of the bytes of both directions; each answers what it took, and why it stopped. keys: of the
    server's CMK and, for what it answers, of the recipient in hello; as strings of 12.1, as are the callers that the server knows."""
    (_, server, kem), (_, signer, _) = (read_key(request[name]) for name in ("server", "signer"))
    (_, answers_to, answers_kem), callers = read_key(request["answers_to"]), [read_key(caller)[1] for caller in request["callers"]]
    binding = from_hex(request, "greeting") + sha256(b"sealwire v1 kms", number(kem.id, 2), key_pair(kem, server)[1], signer)
    requests, answers = [], []
    def first(data):                              # [KMS-5]
        r = Reader(data, shortage="malformed")
        version = r.number(1, "version")
        hello = {"version": version, "recipient": read_public_key(r, KEMS[integer(2, "kem", KEMS).read(r)])}
        r.refuse_if(version == 1 and r.left(), "malformed", "[KMS-5] bytes behind hello")
        r.refuse_if(len(hello["recipient"]) != kem.public_len, "malformed", "[KMS-5] a recipient of another KEM")
        return hello
    def welcome(data):                            # [KMS-7]
        r = Reader(data, shortage="malformed")
        version, status = r.number(1, "version"), r.number(1, "status")
        r.refuse_if(status > 3, "malformed", f"[KMS-7] status {status}")
        r.refuse_if(version == 1 and r.left(), "malformed", "[KMS-7] bytes behind welcome")
        return {"version": version, "status": status}
    def follow(out, read_first, least, most, *channel):
        for message, context, _ in open_channel(*channel):
            refuse_if(context, "limit", "[KMS-9] messages have no context")
            if not out:
                out.append(read_first(message))
                continue
            refuse_if(len(message) < least, "malformed", "[KMS-9] an empty request")
            check_limit(len(message), most, "[KMS-9] bytes of a message")
            refuse_if(out is answers and len(answers) == len(requests), "malformed", "[KMS-10] an answer to nothing")
            refuse_if(out is answers and answers[0] != {"version": 1, "status": 0}, "malformed", "[KMS-7] an answer after no")
            out.append(message)
    def outcome(out, *rest):
        try:
            follow(out, *rest)
            return {"delivered": out, "refused": None}
        except Refused as e:
            return {"delivered": out, "refused": e.category, "text": e.text}
    to_server, to_client, verified = from_hex(request, "to_server"), from_hex(request, "to_client"), ["verified"]     # [KMS-3]
    served = outcome(requests, first, 1, MAX_REQUEST, to_server, [server], "acceptor", binding, (callers, verified), kem)     # [KMS-2] [KMS-4]
    if not requests:
        refuse_if(to_client, "malformed", "[KMS-4] a byte after the greeting, for a stranger")
        return {"server": served, "client": None}
    begun = parse_block(Reader(to_server)).header_mac
    mine = key_pair(answers_kem, answers_to)[1] == requests[0]["recipient"]
    refuse_if(not mine, "usage", "the recipient in hello is another one's")
    asked = outcome(answers, welcome, 0, MAX_ANSWER, to_client, [answers_to], "initiator", begun + binding, ([signer], verified), kem)
    return {"server": served, "client": asked}                                          # [KMS-6] [KMS-8]

# ==== store.md the state file and the audit log of a store
MAX_STATE, MAX_LINE = 67_108_864, 16_384
Anchor = namedtuple("Anchor", "log_secret log_id seq mac line generation")
def open_store(data, key=None, passphrase=None):
    """The state file: answers what the log must fit, and the state."""
    r = Reader(data, shortage="malformed")
    refuse_if(r.take(8, "magic") != b"SWSTORE\n", "malformed", "[STO-1] magic")
    integer(1, "[STO-1] version", (1,)).read(r)
    root, t, m, p = (r.number(size, what) for size, what in ((1, "root"), (4, "t"), (4, "m"), (1, "p")))
    root_salt, generation, salt = r.take(16, "root_salt"), r.number(8, "generation"), r.take(32, "salt")
    sealed_len, commitment = r.number(8, "sealed_len"), r.take(32, "commitment")
    refuse_if(r.take(32, "checksum") != sha256(data[:r.at - 32]), "damaged", "[STO-4] the checksum does not hold")
    refuse_if(root not in (1, 2), "unsupported", f"[STO-1] root {root}")
    refuse_if(root == 2 and (t or m or p or any(root_salt)), "malformed", "[STO-2] parameters of a passphrase under a key file")
    bounded = root == 2 or 1 <= t <= 10 and 1 <= p <= 16 and 8 * p <= m <= 98_304 and t * m <= 393_216
    refuse_if(not bounded, "limit", f"[STO-2] t {t}, m {m}, p {p}")
    check_limit(sealed_len, MAX_STATE + MAX_LINE + 92, "[STO-3] sealed_len")
    refuse_if(r.left() != sealed_len + 16, "damaged", "[STO-3] the file is shorter or longer than its head says")
    refuse_if((key if root == 2 else passphrase) is None, "usage", "a root key of another kind")
    ikm = key.upper().encode() if root == 2 else b"".join(stretch(passphrase, root_salt, t, m, p))
    prk = extract(salt, extract(b"sealwire store v1 root", ikm))
    right = hmac.compare_digest(expand(prk, b"sealwire store v1 commitment", 32), commitment)
    refuse_if(not right, "root", "[STO-5] the root key is wrong")
    try:
        cipher = ChaCha20Poly1305(expand(prk, b"sealwire store v1 state", 32))
        sealed = cipher.decrypt(bytes(12), data[r.at:], data[:r.at])
    except InvalidTag:
        raise Refused("damaged", "[STO-5] the tag does not hold") from None
    s = Reader(sealed, shortage="malformed")
    log_secret, log_id, seq, mac = s.take(32, "log_secret"), s.take(16, "log_id"), s.number(8, "anchor_seq"), s.take(32, "anchor_mac")
    line = sized(4, MAX_LINE, "line").read(s)
    check_limit(s.left(), MAX_STATE, "bytes of state")
    return Anchor(log_secret, log_id, seq, mac, line, generation), sealed[s.at:]

STRING = r'("(?:[^"\\]|\\.)*")'
HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
def quoted(text):                                 # [STO-14]
    text = json.dumps(text, ensure_ascii=False)   # which escapes quotes, backslashes, and b t n f r by their letters
    return HIDDEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
NUMBER, HEX = r"(0|[1-9][0-9]*)", '"([0-9a-f]{%d})"'
MAC = ',"mac":' + HEX % 64 + "}"
LOG_HEAD = re.compile('{"log":' + HEX % 32 + ',"file":' + NUMBER + ',"after":' + NUMBER + ',"chain":' + HEX % 64 + MAC)
LOG_RECORD = re.compile(f'{{"seq":{NUMBER},"at":{NUMBER},"caller":{STRING},"action":{STRING},"key":(?:null|{STRING}),"result":{STRING}'
                        f'(?:,"generation":{NUMBER})?{MAC}')
class Log:
    """store.md, audit log: the lines of its files one after another."""
    def __init__(self, anchor):
        self.anchor, self.seq, self.mac, self.file, self.generation, self.torn, self.records = anchor, 0, bytes(32), 0, 0, False, 0
        self.key = expand(extract(anchor.log_id, anchor.log_secret), b"sealwire store v1 log", 32)
    def read_file(self, data, last):
        lines, tail = data.split(b"\n"), b""
        lines, tail = lines[:-1], lines[-1]
        torn = last and (len(tail) <= MAX_LINE or not any(tail))
        refuse_if(tail and not torn, "malformed", "[STO-13] bytes behind the last line")
        refuse_if(not lines, "malformed", "[STO-10] a file without a head")
        self.torn = bool(tail)
        self.read_head(lines[0])
        for line in lines[1:]:
            self.read_record(line)
    def spelled(self, form, line):
        try:
            match = form.fullmatch(line.decode("utf-8"))
        except UnicodeDecodeError:
            match = None
        refuse_if(not match, "malformed", "[STO-10] a line that is not spelled so")
        return match.groups()
    def check_mac(self, before, line, mac):
        right = hmac.digest(self.key, before + line[:-len(',"mac":""}') - 64], "sha256").hex() == mac
        refuse_if(not right, "mac", f"[STO-10] the mac of the line after {self.seq} does not hold")
    def read_head(self, line):
        log, file, after, chain, mac = self.spelled(LOG_HEAD, line)
        self.check_mac(bytes(32), line, mac)
        refuse_if(bytes.fromhex(log) != self.anchor.log_id, "malformed", "a head of another log")
        if self.file == 0:                        # the oldest files may be gone
            self.seq, self.mac = int(after), bytes.fromhex(chain)
            refuse_if(self.seq > self.anchor.seq, "anchor", "[STO-11] the log begins behind anchor_seq")
        else:
            goes_on = (int(file), int(after), chain) == (self.file + 1, self.seq, self.mac.hex())
            refuse_if(not goes_on, "malformed", "[STO-18] a head that does not go on")
        self.file = int(file)
        self.meets_anchor()
    def read_record(self, line):
        check_limit(len(line), MAX_LINE, "bytes of a line")
        seq, at, caller, action, key, result, generation, mac = self.spelled(LOG_RECORD, line)
        for string, most in (caller, 512), (action, 64), (key or '""', 512), (result, 512):
            try:
                text = json.loads(string)
                wrong = quoted(text) != string or len(text.encode()) > most
            except ValueError:
                wrong = True
            refuse_if(wrong, "malformed", f"[STO-10] {string} is not spelled so, or too long")
        refuse_if(any(int(n or 0) >= 2 ** 64 for n in (seq, at, generation)), "malformed", "[STO-10] a number of more than 8 bytes")
        refuse_if(int(seq) != self.seq + 1, "malformed", f"[STO-10] seq {seq} after {self.seq}")
        self.check_mac(self.mac, line, mac)
        self.seq, self.mac, self.records = int(seq), bytes.fromhex(mac), self.records + 1
        self.generation = max(self.generation, int(generation or 0))
        self.meets_anchor()
    def meets_anchor(self):
        other = self.seq == self.anchor.seq and self.mac != self.anchor.mac
        refuse_if(other, "anchor", "[STO-11] another line stands at anchor_seq")
    def end(self):
        if self.seq == self.anchor.seq - 1 and self.anchor.line:        # what a crash kept out of the log
            refuse_if(not self.anchor.line.endswith(b"\n"), "malformed", "the line of the state has no end")
            self.read_record(self.anchor.line[:-1])
        refuse_if(self.seq < self.anchor.seq, "anchor", "[STO-11] the log ends before anchor_seq")
        refuse_if(self.generation > self.anchor.generation, "older", "[STO-12] an older state was put back")
def read_store(request):
    anchor, state = open_store(from_hex(request, "state"), request.get("key"), from_hex(request, "passphrase", None))
    log, files = Log(anchor), [bytes.fromhex(file) for file in request.get("files", [])]
    for i, file in enumerate(files):
        log.read_file(file, i == len(files) - 1)
    if files:
        log.end()
    return {"generation": anchor.generation, "state": state, "records": log.records, "torn": log.torn, "anchor": anchor._asdict()}

# ==== The entries: serve for tests, seal and open for people
def answer(request):
    op, binding, bytes_ = request["op"], from_hex(request, "binding"), from_hex(request, "bytes")
    bytes_ = read_armor(bytes_) if request.get("armored") else bytes_
    bytes_ = join(from_hex(request, "block"), bytes_) if request.get("detached") else bytes_
    secrets, allowed = [bytes.fromhex(k) for k in request.get("keys") or []], None
    if request.get("senders") is not None:
        accept = ["signed", "verified"] if request.get("accept") is None else request["accept"]
        allowed = [bytes.fromhex(k) for k in request["senders"]], accept
    kms = {(provider, key_ref): bytes.fromhex(answer) for provider, key_ref, answer in request.get("kms", [])}
    def parsed(codec, value):
        return {"value": value, "again": codec.write(value)}
    def direct_keys(request):
        return {(bytes.fromhex(id_), version): (KEMS[kem], bytes.fromhex(key)) for id_, version, kem, key in request["secrets"]}
    def as_answer(kind, key, kem):
        return {"kind": kind, "key": key, **({"kem": kem.id} if kem is X_WING else {})}
    answers = {
        "seal": lambda: seal(request)[0], "explain": lambda: seal(request)[1],
        "channel-seal": lambda: seal_channel(request), "rewrap": lambda: rewrap(request, secrets),
        "open": lambda: open_(bytes_, secrets, binding, kms, allowed, request.get("part")),
        "armor": lambda: write_armor(bytes_),
        "key": lambda: as_answer(*read_key(request["string"], from_hex(request, "passphrase", None))),
        "protect": lambda: write_protected(request["string"], from_hex(request, "passphrase")),
        "request": lambda: parsed(REQUEST, read_request(bytes_)), "answer": lambda: parsed(ANSWER, read_answer(bytes_)),
        "kept": lambda: parsed(KEPT, read_kept(bytes_)),
        "write-request": lambda: REQUEST.write(request["value"]), "write-answer": lambda: ANSWER.write(request["value"]),
        "write-kept": lambda: KEPT.write(request["value"]),
        "encrypt-direct": lambda: encrypt_direct(KEMS[request["kem"]], from_hex(request, "public"), from_hex(request, "id"),
                                                 request["version"], from_hex(request, "context"), from_hex(request, "secret")),
        "decrypt-direct": lambda: decrypt_direct(bytes_, direct_keys(request), from_hex(request, "context")),
        "connection": lambda: open_connection(request), "store": lambda: read_store(request),
        "key-string": lambda: write_key(request["kind"], from_hex(request, "key"), KEMS[request.get("kem", X25519.id)]),
    }
    if op != "channel-open":
        return {"ok": answers[op]()}
    delivered, refused = [], (None, "")
    try:
        for payload, context, sender in open_channel(bytes_, secrets, request["role"], binding, allowed):
            delivered.append({"payload": payload, "context": context, "sender": sender})
    except Refused as e:
        refused = e.args
    return {"delivered": delivered, "refused": refused[0], "text": refused[1]}

def serve():
    for line in sys.stdin.buffer:
        try:
            reply = answer(json.loads(line))
        except Refused as e:
            reply = {"refused": e.category, "text": e.text}
        except Exception as e:                          # the server answers whatever happens
            reply = {"error": f"{type(e).__name__}: {e}"}
        print(json.dumps(reply, default=bytes.hex), flush=True)

def main(arguments):
    if arguments == ["serve"]:
        return serve()
    wanted = {"seal": "recipient", "open": "cmk"}.get(arguments[0] if arguments[1:] else "")
    keys = [read_key(string) for string in arguments[1:]]
    if wanted is None or any(kind != wanted for kind, _, _ in keys):
        sys.exit(__doc__)
    data, keys, suite = sys.stdin.buffer.read(), [key for _, key, _ in keys], 1 if keys[0][2] is X25519 else 3
    to_seal = {"to": [key.hex() for key in keys], "suite": suite, "payload": data.hex()}
    data = read_armor(data) if wanted == "cmk" and data[:1] in (b"-", b" ", b"\t", b"\n", b"\f", b"\r") else data      # 12.5
    sys.stdout.buffer.write(open_(data, keys, b"")["payload"] if wanted == "cmk" else seal(to_seal)[0])

if __name__ == "__main__":
    main(sys.argv[1:])
