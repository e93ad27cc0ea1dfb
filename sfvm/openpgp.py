"""OpenPGP keys, as far as their fingerprints (RFC 9580; ASCII armour in section 6, packets in section 4).

Nothing is verified here: package managers do that with the keys that they are given. What is told is which key a file
holds, so that a spec can name it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator

_ARMOR = re.compile(
    rb"-----BEGIN PGP PUBLIC KEY BLOCK-----[ \t]*\r?\n(?P<head>(?:[^\r\n:]+:[^\r\n]*\r?\n)*)[ \t]*\r?\n"
    rb"(?P<body>[A-Za-z0-9+/=\s]*?)(?:\r?\n=[A-Za-z0-9+/]{4}\s*)?-----END PGP PUBLIC KEY BLOCK-----"
)
PUBLIC_KEY = 6
"""The tag of a primary key's packet."""
SECRET = {5, 7}
"""The tags of secret keys and secret subkeys."""
PARTS = {2, PUBLIC_KEY, 10, 12, 13, 14, 17, 21}
"""The tags of what may be in a file of keys (section 5): signatures, keys, markers, trust, names, subkeys, pictures,
padding. No packet that holds others: GnuPG would take keys from it that we do not see."""


def dearmor(content: bytes) -> bytes:
    """The packets in *content*, which may be armoured, in one block or several, or not at all.

    :raises ValueError: an armour holds no base64
    """
    blocks = [match["body"] for match in _ARMOR.finditer(content)]
    if not blocks:
        return content
    try:
        return b"".join(base64.b64decode(b"".join(block.split()), validate=True) for block in blocks)
    except binascii.Error as error:
        raise ValueError(f"its armour is damaged ({error})") from None


def fingerprints(content: bytes) -> tuple[str, ...]:
    """The fingerprints, in capital hexadecimal, of the primary keys in *content*, armoured or not.

    :raises ValueError: there is none, there is a secret one, there is something else, or it is damaged; the message
        says which
    """
    found = []
    for tag, body in _packets(dearmor(content)):
        if tag in SECRET:
            raise ValueError("it holds a secret key")
        if tag not in PARTS:
            raise ValueError(f"it holds a packet with the tag {tag}, which belongs in no key")
        if tag == PUBLIC_KEY:
            found.append(_fingerprint(body))
    if not found:
        raise ValueError("it holds no OpenPGP key")
    return tuple(found)


def _fingerprint(body: bytes) -> str:
    """Section 5.5.4: over a header with the body's length and the body."""
    version = body[0] if body else None
    if version == 4:
        # The standard's digest for these keys, whatever one may think of SHA-1.
        return hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body, usedforsecurity=False).hexdigest().upper()
    if version == 6:
        return hashlib.sha256(b"\x9b" + len(body).to_bytes(4, "big") + body).hexdigest().upper()
    raise ValueError(f"it holds a key of version {version}; 4 and 6 are known")


def _packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and body of each packet (section 4.2)."""
    at = 0
    try:
        while at < len(data):
            head = data[at]
            if not head & 0x80:
                raise ValueError("it is no OpenPGP key")
            if head & 0x40:
                tag, (size, at) = head & 0x3F, _length(data, at + 1)
            else:
                tag, octets = head >> 2 & 0x0F, 1 << (head & 3)
                if octets == 8:
                    raise ValueError("it has a packet without an end")
                size, at = int.from_bytes(data[at + 1 : at + 1 + octets], "big"), at + 1 + octets
            if at + size > len(data):
                raise ValueError("it is truncated")
            yield tag, data[at : at + size]
            at += size
    except IndexError:
        raise ValueError("it is truncated") from None


def _length(data: bytes, at: int) -> tuple[int, int]:
    """A length of the OpenPGP format at *at* (section 4.2.1), and where the body begins."""
    first = data[at]
    if first < 192:
        return first, at + 1
    if first < 224:
        return (first - 192 << 8) + data[at + 1] + 192, at + 2
    if first == 255:
        return int.from_bytes(data[at + 1 : at + 5], "big"), at + 5
    raise ValueError("it has a packet in parts")  # section 4.2.1.4: for data only, never for keys
