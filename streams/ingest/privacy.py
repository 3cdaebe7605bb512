"""What keeps people out of the data: keyed pseudonyms, keyed digests, sealed originals."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable
from typing import TypeAlias

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from streams.errors import CodecError
from streams.records.outside import DeadLetter

DIGEST_BYTES = 16
Primed: TypeAlias = hashlib.blake2b
_FRAMES = msgspec.msgpack.Encoder()
MAX_KEY_BYTES = 65_536  # a longer record key is not kept in a dead letter


class Keyring:
    """Keys derived from one secret (HKDF-SHA256, RFC 5869), each for one purpose."""

    def __init__(self, secret: bytes) -> None:
        self._pseudonyms = _derive(secret, b"trendstream pseudonym 1", 32)
        self._digest = hashlib.blake2b(digest_size=DIGEST_BYTES, key=_derive(secret, b"trendstream digest 1", 32))
        self._sealing = AESSIV(_derive(secret, b"trendstream sealing 1", 64))

    def pseudonym(self, kind: str, platform: str, identifier: str) -> str:
        """Stable name for a buyer or user (`kind`) that only the holder of the secret can link; 64 hex digits."""
        return hmac.new(self._pseudonyms, _framed(kind, platform, identifier), hashlib.sha256).hexdigest()

    def primed(self, *kind: str) -> Primed:
        """What `digests` of one kind begin with: hashed once, copied for each."""
        primed = self._digest.copy()
        primed.update(_framed(*kind))
        return primed

    def digest(self, *parts: str) -> bytes:
        """16 bytes that stand for an id in the state; the last part is the id, the others its kind."""
        return digests([self.primed(*parts[:-1])], parts[-1:])[0]

    def seal(self, original: bytes, associated: str) -> str:
        """AES-SIV (RFC 5297) without a nonce, so equal originals give equal letters; base64."""
        return base64.b64encode(self._sealing.encrypt(original, [associated.encode()])).decode()

    def unseal(self, sealed: str, associated: str) -> bytes:
        """The inverse of `seal`. Raises CodecError if the secret or the associated text is another one."""
        try:
            return self._sealing.decrypt(base64.b64decode(sealed), [associated.encode()])
        except (InvalidTag, ValueError) as error:
            raise CodecError(f"{associated}: cannot be opened; was it sealed with another secret?") from error


def digests(kinds: Iterable[Primed], identifiers: Iterable[str]) -> list[bytes]:
    """`Keyring.digest` of many ids, each with its kind."""
    found = []
    for primed, identifier in zip(kinds, identifiers, strict=False):
        digest = primed.copy()
        digest.update(identifier.encode())
        found.append(digest.digest())
    return found


def unseal(letter: DeadLetter, secret: bytes) -> tuple[bytes | None, bytes]:
    """Key and value of a dead letter's original; a tombstone's value is empty."""
    keyring = Keyring(secret)
    key = None if letter.key is None else keyring.unseal(letter.key, key_label(letter.dead_letter_id))
    return key, keyring.unseal(letter.sealed, letter.dead_letter_id)


def key_label(dead_letter_id: str) -> str:
    """Associated data of a sealed record key; the value's is the dead letter's id itself."""
    return dead_letter_id + "#key"


def _derive(secret: bytes, purpose: bytes, length: int) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=None, info=purpose).derive(secret)


def _framed(*parts: str) -> bytes:
    # msgpack puts lengths first: ("a", "bc") and ("ab", "c") must not meet.
    return _FRAMES.encode(parts)
