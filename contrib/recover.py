#!/usr/bin/env python3
"""Restores a SQLite database from a Backstay repository without Backstay.

Needs Python 3.9 or later, the `age` program, and three public libraries:

    python3 -m venv venv && venv/bin/pip install cryptography zstandard blake3

    venv/bin/python recover.py --repo ./vault --key backstay.key --list
    venv/bin/python recover.py --repo ./vault --key backstay.key --source shop --out shop.db
    venv/bin/python recover.py --repo ./vault --key backstay.key --source shop --tx 1234 --out shop.db

It trusts nothing it reads: the configuration must be signed by the root key, the snapshot by a writer
the configuration enrols, every frame must pass its tag, and the whole must reproduce the digest that
was signed. What cannot be proven is an error, and then no file appears. The bytes are specified in
docs/formats/; this page follows them and shares no code with Backstay.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import hmac
import json
import os
import re
import struct
import subprocess
import sys
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

try:
    import blake3
    import zstandard
    from cryptography.exceptions import InvalidSignature, InvalidTag
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
except ImportError as missing:
    sys.exit(f"recover.py: {missing}. Run: python3 -m pip install cryptography zstandard blake3")

MAGIC, END_MAGIC = b"\x89BKS\r\n\x1a\n", b"BKSEND\r\n"
CONF, MANIFEST, PACK, LOG, MARK, ROLL_UP = 1, 3, 4, 5, 6, 11
SEALED, SIGNED = 1, 2
FLAGS = {CONF: SIGNED, MANIFEST: SEALED | SIGNED, PACK: SEALED, LOG: SEALED | SIGNED, MARK: SIGNED,
         ROLL_UP: SEALED | SIGNED}
FAN_OUT, LEVELS_MAX = 512, 4
WRAP_MAX, FACTS_MAX, TABLE_MAX = 4096, 1 << 20, 256 << 20
FRAME_RAW_MAX, FRAME_STORED_MAX, OBJECT_MAX = 1 << 20, 1057792, 512 << 20

HEADER = struct.Struct("<8sHBBIII16s16s32s32s32sQ32sIIII16s")
SIGNATURE = struct.Struct("<32s32s64s")
INDEX = struct.Struct("<II")
TRAILER = struct.Struct("<QII8s")
TABLE = struct.Struct("<II")
REFERENCE = struct.Struct("<16sQ32s32sHBBIII")
LEAF = struct.Struct("<HHHH")
RUN = struct.Struct("<HHHHIIII")
NODE = struct.Struct("<HHB3s")
CHILD = struct.Struct("<HHIIIIII")
RECORDS = struct.Struct("<II")
COMMIT = struct.Struct("<HBBIIIQq32s")
assert (HEADER.size, SIGNATURE.size, TRAILER.size, REFERENCE.size) == (224, 128, 24, 104)
assert (RECORDS.size, COMMIT.size) == (8, 64)
assert (LEAF.size, RUN.size, NODE.size, CHILD.size) == (8, 24, 8, 28)

# Where each stream of a snapshot goes: appended to the name given by --out.
SUFFIXES = {"main": "", "wal": "-wal", "journal": "-journal"}
HEX16, HEX32 = re.compile("[0-9a-f]{16}"), re.compile("[0-9a-f]{32}")
ROLLED = re.compile("[0-9a-f]{16}-[0-9a-f]{16}([.][0-9a-f]{16})?")


class Failure(Exception):
    """Something that ends the run, in words for a person."""


def need(holds: bool, what: str, why: str) -> None:
    if not holds:
        raise Failure(f"{what} is damaged or not genuine: {why}")


def digest(data: bytes) -> bytes:
    return blake3.blake3(data).digest()


class Cursor:
    """Reads a slice from front to back; running past its end is damage, not a crash."""

    def __init__(self, what: str, data: bytes):
        self.what, self.data, self.at = what, data, 0

    def take(self, count: int) -> bytes:
        part = self.data[self.at : self.at + count]
        need(len(part) == count, self.what, "it is cut short")
        self.at += count
        return part

    def unpack(self, form: struct.Struct) -> tuple:
        return form.unpack(self.take(form.size))

    def end(self) -> None:
        need(self.at == len(self.data), self.what, "bytes follow that nobody accounts for")


# --- Objects -----------------------------------------------------------------------------------


class Place(NamedTuple):
    """Where a frame lies in its object."""

    frame: int
    offset: int
    stored: int
    raw: int


class Header(NamedTuple):
    kind: int
    repo: bytes
    object: bytes
    salt: bytes
    commitment: bytes
    signer: bytes
    sequence: int
    previous: bytes
    wrap: bytes
    facts_len: int
    table_len: int
    digest: bytes


class Front(NamedTuple):
    """Header, facts and signature, already verified against the signer named in the header."""

    header: Header
    facts: dict
    table_digest: bytes
    body_digest: bytes
    digest: bytes
    length: int


def parse_header(what: str, cursor: Cursor, kind: int) -> Header:
    plain = cursor.take(HEADER.size)
    (magic, version, found, flags, incompatible, read_compatible, _, repo, object_id, salt, commitment,
     signer, sequence, previous, wrap_len, facts_len, table_len, zero, check) = HEADER.unpack(plain)
    need(magic == MAGIC, what, "it does not begin as an object does")
    if version != 1:
        raise Failure(f"{what} has format version {version}; this script reads version 1")
    need(wrap_len <= WRAP_MAX and facts_len <= FACTS_MAX and table_len <= TABLE_MAX, what, "a length is impossible")
    wrap = cursor.take(wrap_len)
    need(digest(plain[:208] + wrap)[:16] == check, what, "the header's checksum is wrong")
    if incompatible or read_compatible:
        raise Failure(f"{what} needs features this script does not know ({incompatible | read_compatible:#x})")
    need(found == kind and flags == FLAGS[kind], what, f"it is of type {found}, not {kind}")
    need(zero == 0, what, "reserved bytes are not zero")
    need(bool(wrap) == bool(flags & SEALED), what, "a wrapped key is where none belongs, or missing")
    return Header(found, repo, object_id, salt, commitment, signer, sequence, previous, wrap, facts_len, table_len,
                  digest(plain + wrap))


def parse_front(what: str, data: bytes, kind: int) -> Front:
    """Reads the front of a signed object and checks its signature."""
    cursor = Cursor(what, data)
    header = parse_header(what, cursor, kind)
    facts = cursor.take(header.facts_len)
    table_digest, body_digest, signature = cursor.unpack(SIGNATURE)
    message = b"backstay v1 signature\n" + header.digest + digest(facts) + table_digest + body_digest
    try:
        Ed25519PublicKey.from_public_bytes(header.signer).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise Failure(f"{what} is damaged or not genuine: its signature does not hold") from None
    return Front(header, json.loads(facts), table_digest, body_digest, digest(data[: cursor.at]), cursor.at)


def read_front(path: str, what: str, kind: int) -> Front:
    with open(path, "rb") as file:
        data = file.read(64 << 10)
        if len(data) >= HEADER.size:
            facts_len, wrap_len = struct.unpack_from("<I", data, 196)[0], struct.unpack_from("<I", data, 192)[0]
            wanted = HEADER.size + min(wrap_len, WRAP_MAX) + min(facts_len, FACTS_MAX) + SIGNATURE.size
            data += file.read(max(0, wanted - len(data)))
    return parse_front(what, data, kind)


def parse_body(what: str, data: bytes, front: Front) -> Tuple[bytes, List[Place]]:
    """The table and the frames of a whole object, after comparing both with what was signed."""
    need(front.length + front.header.table_len + TRAILER.size <= len(data) <= OBJECT_MAX, what, "it is cut short")
    frames_len, count, zero, magic = TRAILER.unpack(data[-TRAILER.size :])
    need(magic == END_MAGIC, what, "its end is missing")
    frames_at = front.length + front.header.table_len
    table, body = data[front.length : frames_at], data[frames_at : -TRAILER.size]
    need(zero == 0 and frames_len + count * INDEX.size == len(body), what, "its lengths do not add up")
    need(digest(table) == front.table_digest, what, "its table is not what was signed")
    need(digest(body) == front.body_digest, what, "its sealed body is not what was signed")
    places, offset = [], frames_at
    for frame, (stored, raw) in enumerate(INDEX.iter_unpack(body[frames_len:])):
        need(stored <= FRAME_STORED_MAX and raw <= FRAME_RAW_MAX, what, "a frame has an impossible length")
        places.append(Place(frame, offset, stored, raw))
        offset += stored
    need(offset == frames_at + frames_len, what, "its index does not add up")
    return table, places


# --- Keys --------------------------------------------------------------------------------------


class WrongKey(Failure):
    """age opens it, and not with what we have."""


class Keys:
    """Identities, for the `age` program to open things with, and the root's public half when it is known."""

    def __init__(self, path: Optional[str], passphrase: bool = False):
        self.identities: List[str] = []
        self.ssh: Optional[str] = None
        self.root: Optional[bytes] = None
        self.opened: Dict[bytes, bytes] = {}
        self.passphrase = passphrase
        if path is None:
            return
        with open(path, encoding="utf-8") as file:
            text = file.read(1 << 16)
        self.identities = re.findall(r"^AGE-SECRET-KEY-1\S+", text, re.M)
        self.ssh = text if text.lstrip().startswith("-----BEGIN OPENSSH PRIVATE KEY-----") else None
        seed = re.search(r"^# backstay-root-signing-key: ([0-9a-f]{64})\s*$", text, re.M)
        if seed:
            private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed.group(1)))
            self.root = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def unwrap(self, what: str, wrap: bytes) -> bytes:
        """The data key in an age file; each different file is opened once."""
        if wrap not in self.opened:
            self.opened[wrap] = self.ask_age(what, wrap)
        return self.opened[wrap]

    def ask_age(self, what: str, wrap: bytes) -> bytes:
        if not self.identities:
            raise Failure("the repository is sealed: give the key file that holds AGE-SECRET-KEY-1… with --key")
        data_key = run_age(what, wrap, self.identities)
        need(len(data_key) == 32, f"the data key of {what}", "it is not 32 bytes long")
        return data_key

    def unlock(self, conf: dict, read_wrap) -> None:
        """Finds the master identity through its wraps, and the masters before it."""
        if not self.identities and "published_identity" in conf:
            self.identities = [conf["published_identity"]]
        for recipient in conf.get("recipients", []):
            what = f"the key wrapped to {recipient['name']}"
            held = [self.ssh] if self.ssh else self.identities
            if "recipient" in recipient and held:
                try:
                    self.add(run_age(what, read_wrap(what, recipient["wrap"]), held))
                except WrongKey:
                    continue
            elif "recipient" not in recipient and self.passphrase:
                self.add(run_age(what, read_wrap(what, recipient["wrap"]), None))
        if self.identities and "older" in conf:
            what = "the keys of before"
            try:
                self.add(run_age(what, read_wrap(what, conf["older"]), self.identities))
            except Failure as failure:
                warn(str(failure))

    def add(self, text: bytes) -> None:
        found = re.findall(r"^AGE-SECRET-KEY-1\S+", text.decode(errors="replace"), re.M)
        self.identities += [identity for identity in found if identity not in self.identities]


def run_age(what: str, wrapped: bytes, identities: Optional[List[str]]) -> bytes:
    """What the `age` program makes of an age file. Without identities it asks for a passphrase itself."""
    command, end = ["age", "-d"], None
    if identities is not None:
        # They reach age through a pipe, so that no file is needed for them.
        end, other = os.pipe()
        os.write(other, "".join(identity + "\n" for identity in identities).encode())
        os.close(other)
        command += ["-i", f"/dev/fd/{end}"]
    try:
        done = subprocess.run(command, input=wrapped, capture_output=True, check=False,
                              pass_fds=[] if end is None else [end])
    except FileNotFoundError:
        raise Failure("the program `age` is not installed (https://age-encryption.org)") from None
    finally:
        if end is not None:
            os.close(end)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        if any("no identity matched" in line or "No matching keys" in line for line in said):
            raise WrongKey(f"wrong key: this identity does not open {what}; it was sealed to another one")
        raise Failure(f"age cannot open {what}: {said[0] if said else 'no reason given'}")
    return done.stdout


def hkdf_sha256(ikm: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869, from the standard library."""
    prk, block, out, number = hmac.digest(salt, ikm, hashlib.sha256), b"", b"", 1
    while len(out) < length:
        block = hmac.digest(prk, block + info + bytes([number]), hashlib.sha256)
        out, number = out + block, number + 1
    return out[:length]


def derive(data_key: bytes, repo: bytes, kind: int, object_id: bytes, salt: bytes) -> Tuple[bytes, bytes]:
    """An object's frame key and its commitment."""
    info = b"backstay v1 object" + repo + bytes([kind]) + object_id
    both = hkdf_sha256(data_key, salt, info, 64)
    return both[:32], both[32:]


class Opener:
    """Opens the frames of one object, after its commitment was compared."""

    def __init__(self, what: str, keys: Keys, header: Header):
        data_key = keys.unwrap(what, header.wrap)
        key, commitment = derive(data_key, header.repo, header.kind, header.object, header.salt)
        if not hmac.compare_digest(commitment, header.commitment):
            raise Failure(f"wrong key: {what} commits to another data key than the one it carries")
        self.what, self.cipher, self.header_digest = what, AESGCM(key), header.digest

    def open(self, place: Place, last: bool, sealed: bytes) -> bytes:
        what = f"frame {place.frame} of {self.what}"
        nonce = struct.pack("<I", place.frame) + bytes(8)
        context = self.header_digest + struct.pack("<IB", place.frame, last)
        try:
            packed = self.cipher.decrypt(nonce, sealed, context)
        except InvalidTag:
            raise Failure(f"{what} is damaged: the key is right, its tag is not") from None
        try:
            need(zstandard.get_frame_parameters(packed).content_size == place.raw, what, "its raw length is wrong")
            stream = zstandard.ZstdDecompressor().decompressobj()
            raw = stream.decompress(packed)
        except zstandard.ZstdError as error:
            raise Failure(f"{what} is damaged: {error}") from None
        need(len(raw) == place.raw and stream.eof and not stream.unused_data, what, "its raw length is wrong")
        return raw


# --- The repository: who is trusted, which snapshots there are ---------------------------------


class Snapshot(NamedTuple):
    name: str
    path: str
    sequence: int
    id: str
    front: Optional[Front]
    # The front of its first manifest, which stands in the chain; the same one unless it was rewritten.
    first: Optional[Front]
    problem: Optional[str]
    marks: List[str]

    def good(self) -> bool:
        return self.front is not None and self.front.facts["quality"] == "whole" and "quarantined" not in self.marks


class Repository:
    def __init__(self, folder: str, keys: Keys, root: Optional[bytes], any_root: bool):
        self.folder, self.keys = folder, keys
        names = self.names("ctl/conf", HEX16)
        if not names:
            raise Failure(f"{folder} is not a Backstay repository: it has no ctl/conf")
        fronts = [read_front(self.path("ctl/conf", name), f"ctl/conf/{name}", CONF) for name in names]
        for older, newer in zip(fronts, fronts[1:]):
            dense = newer.header.sequence == older.header.sequence + 1 and newer.header.previous == older.digest
            need(dense, "the configuration", f"generation {newer.facts['generation']} does not follow the one before")
        newest, what = fronts[-1], f"ctl/conf/{names[-1]}"
        if root is None and not any_root:
            raise Failure("nothing says which root key to trust: the key file has none, so give it with --root "
                          "(backstay.toml holds it), or accept whoever signed with --trust-any-root")
        need(root is None or all(front.header.signer == root for front in fronts), what,
             f"it is signed by {newest.header.signer.hex()}, not by the root key")
        need(newest.facts["generation"] == int(names[-1], 16), what, "its generation is not the one its name says")
        self.root, self.id, self.conf = newest.header.signer, newest.header.repo, newest.facts
        keys.unlock(self.conf, self.read_wrap)

    def path(self, *parts: str) -> str:
        return os.path.join(self.folder, *(piece for part in parts for piece in part.split("/")))

    def names(self, prefix: str, shape: re.Pattern) -> List[str]:
        try:
            return sorted(name for name in os.listdir(self.path(prefix)) if shape.fullmatch(name))
        except FileNotFoundError:
            return []

    def read_wrap(self, what: str, wrapped: dict) -> bytes:
        name = f"ctl/master/{self.conf['master']}/{wrapped['id']}.age"
        need(re.fullmatch("age1[a-z0-9]+", self.conf["master"]) and HEX32.fullmatch(wrapped["id"]), what, "its name")
        with open(self.path(name), "rb") as file:
            data = file.read(1 << 20)
        need(digest(data).hex() == wrapped["digest"], what, f"{name} is not what was signed")
        return data

    def accepts(self, name: str, front: Front, *roles: str) -> bool:
        """Whether its signer was enrolled for it: is still, or was until later in the same chain."""
        signer, place = front.header.signer.hex(), front.header.sequence
        for one in self.conf["signers"]:
            if one["key"] != signer or not set(roles) & set(one["roles"]):
                continue
            ends = [end for end in one.get("retired", {}).get("until", []) if name.startswith(end["below"])]
            if "retired" not in one or any(
                    place < end["sequence"] or (place, front.digest.hex()) == (end["sequence"], end["digest"])
                    for end in ends):
                return True
        return False

    def sources(self) -> List[str]:
        names = self.names("data", re.compile("[a-z0-9][a-z0-9_-]{0,63}"))
        return [name for name in names if os.path.isdir(self.path("data", name, "snap"))]

    def trusted(self, name: str, what: str, kind: int, *roles: str) -> Front:
        front = read_front(self.path(name), what, kind)
        need(front.header.repo == self.id, what, "it belongs to another repository")
        need(self.accepts(name, front, *roles), what, f"{front.header.signer.hex()} may not sign it")
        return front

    def snapshots(self, source: str) -> List[Snapshot]:
        """All snapshots of a source, newest first. One that cannot be trusted keeps its reason."""
        found: List[Snapshot] = []
        shape = re.compile(r"[0-9a-f]{16}-[0-9a-f]{32}(\.[0-9a-f]{16})?")
        # The newest manifest of a snapshot stands for it; one that cannot be trusted leaves it to the one before.
        by_snapshot: Dict[str, List[str]] = collections.OrderedDict()
        for name in self.names(f"data/{source}/snap", shape):
            by_snapshot.setdefault(name[:49], []).insert(0, name)
        for plain, names in by_snapshot.items():
            sequence, object_id = (1 << 64) - 1 - int(plain[:16], 16), plain[17:]
            path, front, first, problem = "", None, None, None
            for name in names:
                path = self.path("data", source, "snap", name)
                try:
                    front, first = self.manifest(source, name)
                    break
                except (Failure, KeyError, ValueError, TypeError) as error:
                    problem = problem or str(error)
                    if len(names) > 1:
                        warn(str(error))
            marks = [] if front is None else self.marks(source, object_id, front)
            found.append(Snapshot(plain, path, sequence, object_id, front, first, None if front else problem, marks))
        return found

    def manifest(self, source: str, name: str) -> Tuple[Front, Front]:
        """A manifest's front, and that of the first manifest of its snapshot: a later one (.n) carries it."""
        plain, _, generation = name.partition(".")
        sequence, object_id, folder = (1 << 64) - 1 - int(plain[:16], 16), plain[17:], f"data/{source}/snap"
        what = f"snapshot {object_id}"
        if not generation:
            first = front = self.trusted(f"{folder}/{plain}", what, MANIFEST, "writer")
        else:
            front = read_front(self.path(f"{folder}/{name}"), what, MANIFEST)
            need(front.header.repo == self.id, what, "it belongs to another repository")
            for role in ("keeper", "reader"):
                need(self.accepts(f"data/{source}/rewritten/", front, role), what, "its signer may not rewrite it")
            first = parse_front(what, bytes.fromhex(front.facts["rewritten"]["front"]), MANIFEST)
            need(first.header.repo == self.id and self.accepts(f"{folder}/{plain}", first, "writer"), what,
                 f"{first.header.signer.hex()} may not sign what it stands for")
            said = {key: value for key, value in front.facts.items() if key != "rewritten"}
            own = (front.header.previous, front.header.sequence, front.header.object)
            need(said == first.facts and own == (first.digest, int(generation, 16), first.header.object), what,
                 "it does not say what the manifest it stands for said")
        named = (first.header.sequence, first.header.object.hex(), first.facts["source"])
        need(named == (sequence, object_id, source) and "rewritten" not in first.facts, what,
             "it is not the snapshot its name says")
        return front, first

    def marks(self, source: str, snapshot: str, front: Front) -> List[str]:
        kinds = []
        for name in self.names(f"ctl/mark/{source}/{snapshot}", re.compile("[a-z]+-[0-9a-f]{32}")):
            kind, object_id = name.rsplit("-", 1)
            try:
                mark = self.trusted(f"ctl/mark/{source}/{snapshot}/{name}", f"mark {name}", MARK,
                                    "reader", "keeper")
                says = (mark.facts["source"], mark.facts["snapshot"], mark.facts["kind"], mark.facts["root"])
                need(says == (source, snapshot, kind, front.facts["root"]) and mark.header.object.hex() == object_id,
                     f"mark {name}", "it is about something else")
                kinds.append(kind)
            except (Failure, KeyError, ValueError) as error:
                warn(str(error))
                # A warning nobody can verify still warns; praise nobody can verify is none.
                if kind == "quarantined":
                    kinds.append(kind)
        return kinds


def chain_remarks(snapshots: List[Snapshot]) -> List[str]:
    """What the chain of signatures says about snapshots that should be there."""
    remarks = []
    for newer, older in zip(snapshots, snapshots[1:]):
        if newer.first is None or older.first is None:
            continue
        if newer.sequence == older.sequence:
            remarks.append(f"{newer.id} and {older.id} are rivals: both are number {newer.sequence}")
        elif newer.sequence > older.sequence + 1:
            remarks.append(f"numbers {older.sequence + 1} to {newer.sequence - 1} are absent: deleted, or withheld")
        elif newer.first.header.previous != older.first.digest:
            remarks.append(f"{newer.id} was not made after {older.id}, which stands before it")
    if snapshots and snapshots[-1].sequence > 1:
        remarks.append(f"numbers 1 to {snapshots[-1].sequence - 1} are absent: deleted, or withheld")
    return remarks


# --- One snapshot ------------------------------------------------------------------------------


class Run(NamedTuple):
    first: int
    count: int
    object: bytes
    slot: int
    place: Place


class Child(NamedTuple):
    object: bytes
    place: Place
    at: int
    length: int


class Reference(NamedTuple):
    stored: int
    salt: bytes
    wrap: bytes


def check_place(what: str, place: Place) -> Place:
    fits = place.raw <= FRAME_RAW_MAX and 0 < place.stored <= FRAME_STORED_MAX
    need(fits and place.offset + place.stored <= OBJECT_MAX, what, "a frame has an impossible length or place")
    return place


def parse_ids(what: str, cursor: Cursor, count: int) -> List[bytes]:
    ids = [cursor.take(16) for _ in range(count)]
    need(all(a < b for a, b in zip(ids, ids[1:])), what, "its objects are not sorted")
    return ids


def parse_leaf(what: str, data: bytes, units: int, unit: int) -> List[Run]:
    cursor = Cursor(what, data)
    count, objects, runs_len, zero = cursor.unpack(LEAF)
    need(count == units and zero == 0, what, "it does not map the units that stand at its place")
    ids, runs, following = parse_ids(what, cursor, objects), [], 0
    for _ in range(runs_len):
        first, length, object_at, slot, *place = cursor.unpack(RUN)
        need(first == following and length > 0 and object_at < objects, what, "its runs leave a gap or overlap")
        run = Run(first, length, ids[object_at], slot, check_place(what, Place(*place)))
        need((slot + length - 1) * unit < run.place.raw, what, "a run leaves its frame")
        runs.append(run)
        following += length
    need(following == units, what, "its runs do not cover its units")
    cursor.end()
    return runs


def parse_node(what: str, data: bytes, level: int, units: int) -> List[Child]:
    cursor = Cursor(what, data)
    count, objects, found, zero = cursor.unpack(NODE)
    need(found == level and zero == bytes(3), what, "it is not of the level that stands at its place")
    need(count == -(-units // FAN_OUT**level), what, "it does not have the children its units need")
    ids, children = parse_ids(what, cursor, objects), []
    for _ in range(count):
        object_at, zero, *rest = cursor.unpack(CHILD)
        need(object_at < objects and zero == 0, what, "a child names no object")
        child = Child(ids[object_at], check_place(what, Place(*rest[:4])), rest[4], rest[5])
        need(child.at + child.length <= child.place.raw, what, "a child leaves its frame")
        children.append(child)
    cursor.end()
    return children


def parse_table(what: str, data: bytes) -> Dict[bytes, Reference]:
    cursor = Cursor(what, data)
    refs_len, wraps_len = cursor.unpack(TABLE)
    rows = [cursor.unpack(REFERENCE) for _ in range(refs_len)]
    wraps = []
    for _ in range(wraps_len):
        (length,) = struct.unpack("<I", cursor.take(4))
        need(length <= WRAP_MAX, what, "a wrapped key is too long")
        wraps.append(cursor.take(length))
    cursor.end()
    table: Dict[bytes, Reference] = {}
    for object_id, stored, _digest, salt, wrap, kind, zero, live, total, _nodes in rows:
        need(kind == PACK and zero == 0 and live <= total and wrap < len(wraps), what, "a row breaks the rules")
        need(object_id not in table, what, "an object occurs twice")
        table[object_id] = Reference(stored, salt, wraps[wrap])
    return table


def levels_for(units: int) -> int:
    leaves, levels = -(-units // FAN_OUT), 0
    while leaves > 1:
        leaves, levels = -(-leaves // FAN_OUT), levels + 1
    return levels


class Contents:
    """An opened snapshot: its streams, and their units in order."""

    CACHED_FRAMES = 64

    def __init__(self, repository: Repository, source: str, snapshot: Snapshot):
        what = f"snapshot {snapshot.id}"
        self.repository, self.source = repository, source
        with open(snapshot.path, "rb") as file:
            data = file.read(OBJECT_MAX + 1)
        # The file may have changed since it was listed: what was verified is what is used.
        front = parse_front(what, data, MANIFEST)
        need(snapshot.front is not None and front.digest == snapshot.front.digest, what, "it changed while being read")
        self.facts = front.facts
        table, places = parse_body(what, data, front)
        self.table = parse_table(f"the refs table of {what}", table)
        opener = Opener(what, repository.keys, front.header)
        frames = [opener.open(place, place is places[-1], data[place.offset : place.offset + place.stored])
                  for place in places]
        need(bool(frames), what, "it has no body")
        self.sealed = json.loads(frames[0])
        self.roots = frames[1:]
        need(len(self.roots) == len(self.sealed["streams"]), what, "it does not have one root per stream")
        self.files: Dict[bytes, tuple] = {}
        self.frames: "collections.OrderedDict[tuple, bytes]" = collections.OrderedDict()

    def pack(self, object_id: bytes) -> tuple:
        """The open file and the opener of a pack. Its header is read once, and must follow from the refs table."""
        if object_id not in self.files:
            what = f"pack {object_id.hex()}"
            need(object_id in self.table, what, "the snapshot's refs table does not list it")
            row = self.table[object_id]
            path = self.repository.path("data", self.source, "pack", object_id.hex())
            try:
                file = open(path, "rb")
            except FileNotFoundError:
                raise Failure(f"{what} is missing: {path}") from None
            need(os.fstat(file.fileno()).st_size == row.stored, what, "it does not have the length the snapshot says")
            header = parse_header(what, Cursor(what, file.read(HEADER.size + WRAP_MAX)), PACK)
            told = (header.repo, header.object, header.salt, header.wrap)
            need(told == (self.repository.id, object_id, row.salt, row.wrap), what, "it is not the pack the snapshot means")
            need(header.facts_len == header.table_len == header.sequence == 0, what, "its header breaks the rules")
            if len(self.files) >= 200:
                self.files.pop(next(iter(self.files)))[0].close()
            self.files[object_id] = (file, Opener(what, self.repository.keys, header), row)
        return self.files[object_id]

    def frame(self, object_id: bytes, place: Place) -> bytes:
        key = (object_id, place)
        if key not in self.frames:
            file, opener, row = self.pack(object_id)
            need(place.offset + place.stored <= row.stored, opener.what, "a frame lies outside of it")
            file.seek(place.offset)
            # The last frame of a pack is its directory, so no frame of units or nodes is the last.
            self.frames[key] = opener.open(place, False, file.read(place.stored))
            if len(self.frames) > self.CACHED_FRAMES:
                self.frames.popitem(last=False)
        self.frames.move_to_end(key)
        return self.frames[key]

    def leaves(self, data: bytes, level: int, units: int, unit: int) -> Iterator[List[Run]]:
        """The leaves below a node, left to right. Levels only go down, so this ends."""
        if level == 0:
            yield parse_leaf("a map leaf", data, units, unit)
            return
        span = FAN_OUT**level
        for number, child in enumerate(parse_node("a map node", data, level, units)):
            below = self.frame(child.object, child.place)[child.at : child.at + child.length]
            yield from self.leaves(below, level - 1, min(span, units - number * span), unit)

    def units(self, stream: dict, root: bytes) -> Iterator[bytes]:
        unit, length, levels = stream["unit"], stream["length"], stream["levels"]
        what = f"stream {stream['name']}"
        need(unit in (4096, 8192, 16384, 32768, 65536), what, f"units cannot have {unit} bytes")
        total = -(-length // unit)
        need(levels == levels_for(total) <= LEVELS_MAX, what, "its map is not as deep as its units need")
        if total == 0:
            need(root == b"", what, "it is empty, but its root is not")
            return
        done = 0
        for runs in self.leaves(root, levels, total, unit):
            for run in runs:
                raw = self.frame(run.object, run.place)
                for slot in range(run.slot, run.slot + run.count):
                    wanted = min(unit, length - done * unit)
                    data = raw[slot * unit : slot * unit + wanted]
                    need(len(data) == wanted, what, f"unit {done} is cut short")
                    yield data
                    done += 1
        need(done == total, what, "its map does not cover every unit")


# --- The log of a followed source ----------------------------------------------------------------


class Link(NamedTuple):
    """One object of the log, and its commits of this source."""

    name: str
    front: Front
    span: int


class Record(NamedTuple):
    span: int
    part: int
    page_size: int
    page_count: int
    tx: int
    time: int
    digest: bytes
    pages: Tuple[int, ...]

    def begins(self) -> bool:
        return self.part in (0, 1)

    def completes(self) -> bool:
        return self.part in (0, 3)


class Log:
    """What can be restored behind a snapshot: the objects from its place on, by name alone, without a hole."""

    STREAMS_MAX = 1 << 16

    def __init__(self, repository: Repository, source: str, snapshot: Snapshot):
        following = snapshot.front.facts["following"]
        self.repository, self.first, self.rolled = repository, following["tx"], {}
        self.tx, self.until, self.links, self.problem = self.first, snapshot.front.facts["taken"], [], None
        # One that was made of the log stands inside it: what follows names the object before, not the snapshot.
        made = following.get("made")
        branch, after = snapshot.front.facts["branch"], made["after"] if made else {"snapshot": snapshot.id}
        self.chain = bytes.fromhex(made["chain"] if made else snapshot.front.facts["root"])
        stream, slot, previous, streams = following["stream"], following["sequence"], None, 0
        while True:
            need(isinstance(slot, int) and HEX32.fullmatch(stream), "the log", "a place in it")
            try:
                found = self.at(stream, slot, previous)
            except (Failure, KeyError, ValueError) as error:
                self.problem = str(error)
                return
            if found is None:
                return
            name, front = found
            facts = front.facts
            if "next" in facts:
                # A source may leave those it shared a stream with.
                left = {one["source"]: one["next"] for one in facts.get("leaves", [])}
                stream, slot, previous, streams = left.get(source, facts["next"]), 1, bytes(32), streams + 1
                need(streams <= self.STREAMS_MAX, "the log", "its streams go round in a circle")
                continue
            for number, span in enumerate(facts["spans"]):
                if span["source"] != source:
                    continue
                if "snapshot" in span["after"] and span["after"] != after:
                    return
                part = self.links and self.span(self.links[-1]).get("unfinished") and span["first"] == self.span(self.links[-1])["last"]
                if span["after"] != after or not part and (span["branch"], span["first"]) != (branch, self.tx + 1):
                    self.problem = f"{name} does not follow what is before it"
                    return
                self.links.append(Link(name, front, number))
                complete = span["last"] - bool(span.get("unfinished"))
                if complete > self.tx:
                    self.tx, self.until = complete, span["to"]
                end = facts["ends"][number] if "ends" in facts else {"sequence": slot, "digest": front.digest.hex()}
                after = {"log": {"stream": stream, **end}}
            previous, slot = end_of(front), facts.get("last", slot) + 1

    def at(self, stream: str, slot: int, previous: Optional[bytes]) -> Optional[Tuple[str, Front]]:
        """The longest roll-up that begins at a slot, or what is in it: slots may go once a roll-up has them."""
        if stream not in self.rolled:
            folder = self.repository.path(f"data/log/{stream}/rolled")
            listed = os.listdir(folder) if os.path.isdir(folder) else []
            self.rolled[stream] = sorted((one for one in listed if ROLLED.fullmatch(one)), reverse=True)
        names = [f"data/log/{stream}/rolled/{one}" for one in self.rolled[stream] if int(one[:16], 16) == slot]
        problem: Optional[Exception] = None
        for name in names + [f"data/log/{stream}/{slot:016x}"]:
            if not os.path.exists(self.repository.path(name)):
                continue
            try:
                front = self.trusted(name)
                need(previous in (None, front.header.previous), name, "it does not follow the object before it")
                return name, front
            except (Failure, KeyError, ValueError) as error:
                problem = problem or error
        if problem is not None:
            raise problem
        return None

    def trusted(self, name: str) -> Front:
        """What a log object says of itself, if it is the one its name says."""
        parts = name.split("/")
        rolled, stream, slot = "/rolled/" in name, parts[2], int(parts[-1][:16], 16)
        if "." in name:
            front = self.resealed(name, stream)
        else:
            front = self.repository.trusted(name, f"log object {name}", ROLL_UP if rolled else LOG, "writer")
        facts = front.facts
        need(facts["stream"] == stream and front.header.sequence == slot, name, "it is not what its name says")
        if rolled:
            again = facts.get("generation", 0)
            says = f"{facts['first']:016x}-{facts['last']:016x}" + (f".{again:016x}" if again else "")
            several = facts["first"] < facts["last"] + (1 if again else 0)
            need(name.endswith("/" + says) and slot == facts["first"] and several, name, "it is not what its name says")
            need(len(facts["ends"]) == len(facts["spans"]), name, "its spans have no ends")
        return front

    def resealed(self, name: str, stream: str) -> Front:
        """A roll-up that was sealed again: by somebody who keeps and reads, and in a chain of its own."""
        repository, what = self.repository, f"log object {name}"
        front = read_front(repository.path(name), what, ROLL_UP)
        need(front.header.repo == repository.id, what, "it belongs to another repository")
        chain = f"data/log/resealed/{stream}/"
        may = repository.accepts(chain, front, "keeper") and repository.accepts(chain, front, "reader")
        need(may, what, f"{front.header.signer.hex()} may not sign it")
        return front

    @staticmethod
    def span(link: Link) -> dict:
        return link.front.facts["spans"][link.span]

    def apply(self, tx: int, path: str, secret: bytes) -> int:
        """Writes every commit up to a state over the snapshot. Each must have the digest it was captured under."""
        key = blake3.blake3(secret, derive_key_context="backstay v1 log commit digest").digest()
        whole, running, reached, length = self.chain, self.chain, self.first, os.path.getsize(path)
        with open(path, "r+b") as file:
            for link in self.links:
                if self.span(link)["first"] > tx:
                    break
                for record, images in self.commits(link):
                    if record.tx > tx:
                        continue
                    need(record.tx == reached + 1, link.name, "its states do not follow one another")
                    hasher = blake3.blake3(key=key)
                    hasher.update((whole if record.begins() else running) + struct.pack(
                        "<QqBIII", record.tx, record.time, record.part, record.page_size, record.page_count,
                        len(record.pages)))
                    for page, image in zip(record.pages, images):
                        hasher.update(struct.pack("<I", page) + image)
                        file.seek((page - 1) * record.page_size)
                        file.write(image)
                    running = hasher.digest()
                    need(running == record.digest, link.name, f"state {record.tx} does not have its digest")
                    if record.completes():
                        whole, reached, length = running, record.tx, record.page_count * record.page_size
            need(reached == tx, "the log", f"it leads to state {reached}, not to {tx}")
            file.truncate(length)
            file.flush()
            os.fsync(file.fileno())
        return length

    def commits(self, link: Link) -> List[Tuple[Record, List[bytes]]]:
        """Its commits of this source; those of a damaged roll-up from what it was made of."""
        try:
            return self.of_span(link, link.name, link.front)
        except (Failure, OSError) as failure:
            if link.front.header.kind != ROLL_UP:
                raise
            facts, found = link.front.facts, []
            slot = facts["first"]
            while slot <= facts["last"]:
                for name in self.within(facts, slot):
                    try:
                        front = self.trusted(name)
                        part, slot = self.of_span(link, name, front), front.facts.get("last", slot) + 1
                        break
                    except (Failure, OSError, KeyError, ValueError):
                        continue
                else:
                    raise failure
                found += part
            warn(f"{failure}; what it was made of is used")
            return found

    def within(self, facts: dict, slot: int) -> List[str]:
        """A slot of a roll-up, and the smaller roll-ups that begin there, the smallest first."""
        stream, found = facts["stream"], []
        itself = (facts["first"], facts["last"], facts.get("generation", 0))
        for one in self.rolled[stream]:
            first, last, again = int(one[:16], 16), int(one[17:33], 16), int(one[34:] or "0", 16)
            if first == slot and last <= facts["last"] and (first, last, again) != itself:
                found.append((last, again, f"data/log/{stream}/rolled/{one}"))
        return [f"data/log/{stream}/{slot:016x}"] + [name for _, _, name in sorted(found)]

    def of_span(self, link: Link, name: str, front: Front) -> List[Tuple[Record, List[bytes]]]:
        """What an object has of the commits that a link names."""
        wanted, found = self.span(link), []
        same = [at for at, span in enumerate(front.facts["spans"])
                if (span["source"], span["branch"]) == (wanted["source"], wanted["branch"])]
        for record, images in list(self.records(name, front)):
            if record.span in same and wanted["first"] <= record.tx <= wanted["last"]:
                found.append((record, images))
        return found

    def records(self, name: str, known: Front) -> Iterator[Tuple[Record, List[bytes]]]:
        what = f"log object {name}"
        with open(self.repository.path(name), "rb") as file:
            data = file.read(OBJECT_MAX + 1)
        front = parse_front(what, data, known.header.kind)
        need(front.digest == known.digest, what, "it changed while being read")
        _, places = parse_body(what, data, front)
        opener = Opener(what, self.repository.keys, front.header)
        need(bool(places), what, "it has no body")
        frames = [opener.open(place, place is places[-1], data[place.offset : place.offset + place.stored])
                  for place in places]
        images = Cursor(what, b"".join(frames[:-1]))
        cursor = Cursor(f"the records of {what}", frames[-1])
        count, zero = cursor.unpack(RECORDS)
        need(zero == 0, what, "reserved bytes are not zero")
        for _ in range(count):
            span, part, zero, pages, page_size, page_count, tx, time, record_digest = cursor.unpack(COMMIT)
            numbers = struct.unpack(f"<{pages}I", cursor.take(4 * pages))
            inside = all(a < b for a, b in zip((0,) + numbers, numbers)) and (not numbers or numbers[-1] <= page_count)
            need(zero == 0 and part <= 3 and inside, what, "a record breaks the rules")
            need(512 <= page_size <= 65536 and page_size & (page_size - 1) == 0, what, "a page size is impossible")
            record = Record(span, part, page_size, page_count, tx, time, record_digest, numbers)
            yield record, [images.take(page_size) for _ in numbers]
        cursor.end()
        images.end()


def end_of(front: Front) -> bytes:
    """The digest that what follows names: of a roll-up, that of the last slot it stands for."""
    return bytes.fromhex(front.facts["digest"]) if "ends" in front.facts else front.digest


def followed(snapshots: List[Snapshot]) -> List[Snapshot]:
    return [one for one in snapshots if one.good() and "following" in one.front.facts]


def choose_state(repository: Repository, source: str, snapshots: List[Snapshot],
                 wanted: Optional[int]) -> Tuple[Snapshot, Optional[Log], int]:
    """A snapshot and how far to follow its log: to a state by its number, or to the newest there is."""
    if wanted is None:
        newest = choose(snapshots, None)
        branch, sequence = newest.front.facts["branch"], newest.sequence
        line = [one for one in followed(snapshots) if (one.front.facts["branch"], one.sequence <= sequence) == (branch, True)]
        if not line:
            return newest, None, 0
        log = Log(repository, source, line[0])
        if line[0] is not newest and newest.front.facts["taken"] >= log.until:
            return newest, None, 0
        if log.problem:
            warn(f"newer commits may exist that cannot be used: {log.problem}")
        return line[0], log, log.tx
    line = followed(snapshots)
    if not line:
        raise Failure("it is not followed: no snapshot has a log behind it")
    branch = max(one.front.facts["branch"] for one in line)
    for one in line:
        if one.front.facts["branch"] == branch and one.front.facts["following"]["tx"] <= wanted:
            log = Log(repository, source, one)
            if log.tx < wanted:
                raise Failure(f"no log holds state {wanted}: what can be restored ends at {log.tx}")
            return one, log, wanted
    raise Failure(f"no log holds state {wanted}")


# --- Restoring ---------------------------------------------------------------------------------


def restore(contents: Contents, out: str, log: Optional[Log] = None, tx: int = 0) -> List[Tuple[str, int]]:
    """Writes every stream under a temporary name, checks the whole, then gives the files their names."""
    streams = contents.sealed["streams"]
    for stream in streams:
        if stream["name"] not in SUFFIXES:
            raise Failure(f"the snapshot has a stream {stream['name']!r} that this script does not know")
    targets = [out + SUFFIXES[stream["name"]] for stream in streams]
    need(len(set(targets)) == len(targets), "the snapshot", "two streams have one name")
    refuse_existing([out + suffix for suffix in SUFFIXES.values()])
    secret = bytes.fromhex(contents.sealed["fingerprint"]["key"])
    unit_key = blake3.blake3(secret, derive_key_context="backstay v1 unit fingerprint").digest()
    root_key = blake3.blake3(secret, derive_key_context="backstay v1 logical root digest").digest()
    root, partial = blake3.blake3(key=root_key), []
    try:
        for stream, target, node in zip(streams, targets, contents.roots):
            name = stream["name"].encode()
            root.update(struct.pack("<I", len(name)) + name + struct.pack("<IQ", stream["unit"], stream["length"]))
            temporary = f"{target}.partial-{os.getpid()}"
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                partial.append(temporary)
                for data in contents.units(stream, node):
                    root.update(blake3.blake3(data, key=unit_key).digest()[:16])
                    file.write(data)
                file.flush()
                os.fsync(file.fileno())
        need(root.digest().hex() == contents.facts["root"], "the restored content", "its root digest is not the signed one")
        lengths = [stream["length"] for stream in streams]
        if log is not None:
            lengths[0] = log.apply(tx, partial[0], secret)
        # The database comes last: it never stands without the log that belongs to it.
        for temporary, target in sorted(zip(partial, targets), key=lambda pair: pair[1] == out):
            place(temporary, target)
    finally:
        for temporary in partial:
            if os.path.exists(temporary):
                os.unlink(temporary)
    return list(zip(targets, lengths))


def refuse_existing(targets: List[str]) -> None:
    for target in targets:
        if os.path.lexists(target):
            raise Failure(f"{target} exists, and nothing is ever overwritten: choose another --out")


def place(temporary: str, target: str) -> None:
    """Gives a finished file its name, without replacing one that appeared meanwhile."""
    try:
        os.link(temporary, target)
        os.unlink(temporary)
    except FileExistsError:
        raise Failure(f"{target} appeared meanwhile, and nothing is ever overwritten") from None
    except OSError:
        refuse_existing([target])
        os.rename(temporary, target)
    folder = os.open(os.path.dirname(os.path.abspath(target)), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


# --- The command line --------------------------------------------------------------------------


def warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def choose(snapshots: List[Snapshot], wanted: Optional[str]) -> Snapshot:
    if wanted is None:
        # Old copies that were brought in later are no part of the living history, unless there is nothing else.
        living = [one for one in snapshots if one.front is None or not one.front.facts.get("imported")]
        snapshots = living or snapshots
        good = [snapshot for snapshot in snapshots if snapshot.good()]
        if not good:
            raise Failure("no snapshot is both verified and free of doubt: look at --list and name one with --snapshot")
        if good[0].sequence != snapshots[0].sequence:
            warn(f"the newest snapshot is passed over: {snapshots[0].problem or 'it is quarantined'}")
        if len(good) > 1 and good[1].sequence == good[0].sequence:
            raise Failure(f"{good[0].id} and {good[1].id} are both the newest: name one with --snapshot")
        return good[0]
    found = [snapshot for snapshot in snapshots if snapshot.id.startswith(wanted.lower())]
    if len(found) != 1:
        raise Failure(f"{len(found)} snapshots have an id that begins with {wanted!r}")
    if found[0].front is None:
        raise Failure(str(found[0].problem))
    return found[0]


def list_all(repository: Repository, sources: List[str]) -> None:
    for source in sources:
        snapshots = repository.snapshots(source)
        print(f"{source}: {len(snapshots)} snapshots, newest first")
        for snapshot in snapshots:
            if snapshot.front is None:
                print(f"  {snapshot.id}  BAD: {snapshot.problem}")
                continue
            facts = snapshot.front.facts
            words = [facts["quality"]] * (facts["quality"] != "whole") + snapshot.marks
            if "label" in facts:
                words.append(f"label {facts['label']!r}")
            print(f"  {snapshot.id}  {facts['taken']}  {facts['length']:>14,} bytes  {' '.join(words)}".rstrip())
        for remark in chain_remarks(snapshots):
            warn(f"{source}: {remark}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], epilog="See docs/recover-without-backstay.md.")
    parser.add_argument("--repo", required=True, metavar="DIR", help="the repository: the folder with ctl/ and data/")
    parser.add_argument("--key", metavar="FILE", help="backstay.key, another age identity, or a key of SSH; not needed for an "
                        "unsealed repository")
    parser.add_argument("--passphrase", action="store_true", help="let age ask for a passphrase that opens the repository")
    parser.add_argument("--root", metavar="HEX", help="the root's public key, when the key file does not hold the root")
    parser.add_argument("--trust-any-root", action="store_true", help="accept whoever signed the configuration")
    parser.add_argument("--source", metavar="NAME", help="which source; needed when there are several")
    parser.add_argument("--snapshot", metavar="ID", help="a snapshot's id or its beginning; otherwise the newest good one")
    parser.add_argument("--tx", metavar="N", type=int, help="this state of a followed source, by its number")
    parser.add_argument("--list", action="store_true", help="list the snapshots and stop")
    parser.add_argument("--out", metavar="FILE", help="the file to write; must not exist")
    chosen = parser.parse_args()
    if not chosen.list and not chosen.out:
        parser.error("give --out FILE, or --list")
    if chosen.snapshot is not None and chosen.tx is not None:
        parser.error("give --snapshot or --tx")
    return chosen


def run(chosen: argparse.Namespace) -> None:
    keys = Keys(chosen.key, chosen.passphrase)
    if chosen.root is not None and not re.fullmatch("[0-9a-f]{64}", chosen.root):
        raise Failure("--root takes 64 lower-case hexadecimal digits")
    root = bytes.fromhex(chosen.root) if chosen.root else keys.root
    repository = Repository(chosen.repo, keys, root, chosen.trust_any_root)
    if root is None:
        warn(f"the configuration is taken on trust: it is signed by {repository.root.hex()}")
    sources = repository.sources()
    if chosen.source is not None:
        if chosen.source not in sources:
            raise Failure(f"there is no source {chosen.source!r}; there is: {', '.join(sources) or 'none'}")
        sources = [chosen.source]
    if chosen.list:
        return list_all(repository, sources)
    if len(sources) != 1:
        raise Failure(f"choose one with --source: {', '.join(sources) or 'the repository has no source'}")
    snapshots = repository.snapshots(sources[0])
    for remark in chain_remarks(snapshots):
        warn(remark)
    log, tx = None, 0
    if chosen.snapshot is None:
        snapshot, log, tx = choose_state(repository, sources[0], snapshots, chosen.tx)
    else:
        snapshot = choose(snapshots, chosen.snapshot)
    if not snapshot.good():
        warn(f"snapshot {snapshot.id} is in doubt: {' '.join([snapshot.front.facts['quality']] + snapshot.marks)}")
    for target, length in restore(Contents(repository, sources[0], snapshot), chosen.out, log, tx):
        print(f"{target}: {length:,} bytes")
    print(f"snapshot {snapshot.id}, taken {snapshot.front.facts['taken']}: "
          "signatures, tags, fingerprints and root digest hold")
    if log is not None:
        print(f"state {tx} of the log behind it, which holds states {log.first} to {log.tx}: every commit's digest holds")


def main() -> int:
    chosen = arguments()
    try:
        run(chosen)
    except Failure as failure:
        print(f"recover.py: {failure}", file=sys.stderr)
        return 1
    except (KeyError, TypeError, ValueError) as error:
        print(f"recover.py: facts in the repository are not what they should be: {error!r}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"recover.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
