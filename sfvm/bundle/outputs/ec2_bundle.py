"""``ec2-bundle``: the disk in encrypted parts with a signed manifest, as S3-backed images of EC2 are."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from sfvm import __version__
from sfvm.bundle.compression import Sink, compressed
from sfvm.bundle.stage import Stage, Unfit
from sfvm.document import Element
from sfvm.errors import BundleError, Place

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

PART = 10 << 20
"""Bytes of a part; the last one is shorter (ec2-bundle-image(1))."""
MOST = 10 << 30
"""Bytes of the largest image (the same)."""
BLOCK = 1 << 20
RECORD = 10240
"""Bytes that a tar archive is a multiple of (tar(1), --blocking-factor)."""


@dataclass(frozen=True)
class Keys:
    """Whose image it is: the *user*'s RSA key and certificate, and the certificate of the *cloud*, which is the other
    one that may decrypt it."""

    private: RSAPrivateKey
    user: RSAPublicKey
    cloud: RSAPublicKey


@dataclass(frozen=True)
class Sent:
    """What the manifest tells of the parts: the SHA-1 of the tar archive, the *size* of the disk and that of all parts,
    names and SHA-1s of the parts, the key and initialization vector (secrets) as hexadecimal digits."""

    digest: str
    size: int
    bundled: int
    parts: tuple[tuple[str, str], ...]
    key: str
    vector: str


@dataclass(frozen=True)
class Ec2Bundle:
    """The disk as ``ec2-bundle-image`` makes it: packed by tar, gzip and AES-128 in parts ``NAME.part.00``, … of
    10 MiB, and ``NAME.manifest.xml``, signed by the user and telling the key of the parts to user and cloud alone.

    Example::

        <ec2-bundle as="${name}" user="123456789012" architecture="x86_64"
                    certificate="cert.pem" private-key="pk.pem" ec2-certificate="cert-ec2.pem"/>

    Certificates and the private key (RSA, PEM, without a passphrase) are files where sfvm is run. ``kernel`` and
    ``ramdisk`` are identifiers of the cloud's (``aki-…``, ``ari-…``). The key of the parts is random: two bundles of a
    node are not the same.
    """

    element: ClassVar[str] = "ec2-bundle"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="ec2-bundle">
      <attribute name="as"><ref name="name"/></attribute>
      <attribute name="user"><ref name="word"/></attribute>
      <attribute name="architecture"><ref name="word"/></attribute>
      <attribute name="certificate"><ref name="string"/></attribute>
      <attribute name="private-key"><ref name="string"/></attribute>
      <attribute name="ec2-certificate"><ref name="string"/></attribute>
      <optional><attribute name="kernel"><ref name="string"/></attribute></optional>
      <optional><attribute name="ramdisk"><ref name="string"/></attribute></optional>
    </element>"""

    name: str
    user: str
    architecture: str
    certificate: Path
    private_key: Path
    ec2_certificate: Path
    kernel: str
    ramdisk: str
    place: Place = field(compare=False)

    @classmethod
    def parse(cls, element: Element) -> Self:
        def file(name: str) -> Path:
            return Path(element.attributes[name]).expanduser()

        return cls(
            element.attributes["as"],
            element.attributes["user"],
            element.attributes["architecture"],
            file("certificate"),
            file("private-key"),
            file("ec2-certificate"),
            element.get("kernel") or "",
            element.get("ramdisk") or "",
            element.place,
        )

    def title(self) -> str:
        return "ec2-bundle"

    def inputs(self) -> Mapping[str, Any]:
        return {"as": self.name, "user": self.user, "architecture": self.architecture, "kernel": self.kernel,
                "ramdisk": self.ramdisk}  # fmt: skip

    def make(self, stage: Stage) -> None:
        """Write parts and manifest.

        :raises BundleError: the disk is too large; a key or certificate cannot be used, or they are not a pair
        """
        keys = self._keys()
        disk = stage.raw(self.place)
        if (size := disk.stat().st_size) > MOST:
            raise BundleError(
                "the disk is too large for an S3-backed image",
                place=self.place,
                why=f"it has {size >> 20} MiB, EC2 takes {MOST >> 20} MiB",
                hint="make the node's disk smaller, or use the format ami",
            )
        sent = self._send(stage, disk, size)
        target = stage.new(f"{self.name}.manifest.xml", self.place)
        target.write_bytes(self._manifest(sent, keys))

    def _send(self, stage: Stage, disk: Path, size: int) -> Sent:
        """Write the parts: tar, gzip, AES-128-CBC with PKCS #7 padding, cut."""
        key, vector = secrets.token_bytes(16), secrets.token_bytes(16)
        parts = _Parts(stage, self.name, self.place)
        digest = hashlib.sha1(usedforsecurity=False)
        with parts, _encrypted(parts, key, vector) as cipher, compressed("gzip", cipher) as packed:
            for block in _archive(self.name, disk, size, stage):
                digest.update(block)
                packed.write(block)
        found = tuple(parts.found)
        return Sent(digest.hexdigest(), size, parts.size, found, key.hex(), vector.hex())

    def _manifest(self, sent: Sent, keys: Keys) -> bytes:
        """The manifest, version 2007-10-10, without white space: the signature is over the bytes of two elements.

        Source: the manifest that euca2ools and ec2-ami-tools write.
        """
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding
        from lxml import etree
        from lxml.builder import E

        def locked(key: RSAPublicKey, secret: str) -> str:
            return key.encrypt(secret.encode(), padding.PKCS1v15()).hex()

        machine = E.machine_configuration(E.architecture("i386" if self.architecture == "i686" else self.architecture))
        machine.extend(
            E(name, value) for name, value in (("kernel_id", self.kernel), ("ramdisk_id", self.ramdisk)) if value
        )
        image = E.image(
            E.name(self.name),
            E.user(self.user),
            E.type("machine"),
            E.digest(sent.digest, algorithm="SHA1"),
            E.size(str(sent.size)),
            E.bundled_size(str(sent.bundled)),
            E.ec2_encrypted_key(locked(keys.cloud, sent.key), algorithm="AES-128-CBC"),
            E.user_encrypted_key(locked(keys.user, sent.key), algorithm="AES-128-CBC"),
            E.ec2_encrypted_iv(locked(keys.cloud, sent.vector)),
            E.user_encrypted_iv(locked(keys.user, sent.vector)),
            E.parts(
                *(
                    E.part(E.filename(name), E.digest(digest, algorithm="SHA1"), index=str(index))
                    for index, (name, digest) in enumerate(sent.parts)
                ),
                count=str(len(sent.parts)),
            ),
        )
        signed = etree.tostring(machine) + etree.tostring(image)
        signature = keys.private.sign(signed, padding.PKCS1v15(), hashes.SHA1())  # as the format wants it
        bundler = E.bundler(E.name("sfvm"), E.version(__version__), E.release(""))
        manifest = E.manifest(E.version("2007-10-10"), bundler, machine, image, E.signature(signature.hex()))
        text: bytes = etree.tostring(manifest, xml_declaration=True, encoding="UTF-8")
        assert signed in text
        return text

    def _keys(self) -> Keys:
        """:raises BundleError: one cannot be read, is not what it should be, or they are not a pair
        :raises Unfit: cryptography is not installed"""
        try:
            from cryptography import x509
            from cryptography.hazmat.primitives import serialization
            from cryptography.hazmat.primitives.asymmetric import rsa
        except ImportError as error:
            raise Unfit(
                "the Python package cryptography is not installed", place=self.place, hint="pip install sfvm[ec2]"
            ) from error

        def public(path: Path) -> RSAPublicKey:
            with self._reading(path, "a certificate (X.509, PEM) with an RSA key"):
                key = x509.load_pem_x509_certificate(path.read_bytes()).public_key()
                if not isinstance(key, rsa.RSAPublicKey):
                    raise ValueError("its key is not an RSA key")
                return key

        with self._reading(self.private_key, "a private RSA key (PEM) without a passphrase"):
            private = serialization.load_pem_private_key(self.private_key.read_bytes(), password=None)
            if not isinstance(private, rsa.RSAPrivateKey):
                raise ValueError("it is not an RSA key")
        keys = Keys(private, public(self.certificate), public(self.ec2_certificate))
        if keys.private.public_key().public_numbers() != keys.user.public_numbers():
            raise BundleError(
                "certificate and private key are not a pair",
                place=self.place,
                why=f"{self.certificate} has another public key than {self.private_key}",
                hint="name the certificate that was made for the key",
            )
        return keys

    @contextmanager
    def _reading(self, path: Path, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, TypeError) as error:  # TypeError: it has a passphrase
            why = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
            raise BundleError(
                f"{path} cannot be used", place=self.place, why=why, hint=f"it is to be {what}"
            ) from error


def _archive(name: str, disk: Path, size: int, stage: Stage) -> Iterator[bytes]:
    """A tar archive with the *disk* as its one member *name*, owned by root."""
    import tarfile

    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, stage.epoch, 0o644
    info.uname = info.gname = "root"
    head = info.tobuf(tarfile.GNU_FORMAT)
    yield head
    done = 0
    with disk.open("rb") as file:
        while block := file.read(BLOCK):
            yield block
            done += len(block)
            stage.progress(done / size)
    total = len(head) + size + -size % 512 + 1024  # two blocks of zeros end it
    yield bytes(total - len(head) - size + -total % RECORD)


@contextmanager
def _encrypted(sink: Sink, key: bytes, vector: bytes) -> Iterator[Sink]:
    """What is written goes to *sink* as ``openssl enc -aes-128-cbc`` would write it; complete at the end."""
    from cryptography.hazmat.primitives import padding
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    cipher = Cipher(algorithms.AES(key), modes.CBC(vector)).encryptor()
    padder = padding.PKCS7(128).padder()

    class Encryptor:
        def write(self, data: bytes) -> int:
            sink.write(cipher.update(padder.update(data)))
            return len(data)

    yield Encryptor()
    sink.write(cipher.update(padder.finalize()) + cipher.finalize())


class _Parts:
    """A sink that cuts what it gets into artifacts; *found* are the names and SHA-1s of those that are complete."""

    def __init__(self, stage: Stage, prefix: str, place: Place) -> None:
        self.stage, self.prefix, self.place = stage, prefix, place
        self.found: list[tuple[str, str]] = []
        self.size = self.room = 0
        self._open = ExitStack()
        self._name = ""
        self._digest = hashlib.sha1(usedforsecurity=False)
        self._file: Sink | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        while view:
            if self._file is None:
                self._next()
            assert self._file is not None
            piece = bytes(view[: self.room])
            self._file.write(piece)
            self._digest.update(piece)
            self.size, self.room, view = self.size + len(piece), self.room - len(piece), view[len(piece) :]
            if not self.room:
                self._close()
        return len(data)

    def _next(self) -> None:
        self._name = f"{self.prefix}.part.{len(self.found):02d}"
        self._file = self._open.enter_context(self.stage.writing(self.stage.new(self._name, self.place)))
        self._digest, self.room = hashlib.sha1(usedforsecurity=False), PART

    def _close(self) -> None:
        if self._file is not None:
            self._open.close()
            self.found.append((self._name, self._digest.hexdigest()))
            self._file = None
