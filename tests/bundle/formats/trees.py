"""A node's tar with something of everything, made here, and stages for verbs that take it."""

from __future__ import annotations

import io
import tarfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sfvm import document
from sfvm.bundle.stage import Output, Stage
from sfvm.verbs import registry

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
"""cap_net_raw+ep, as the kernel stores it (capabilities(7))."""
ACL = {"SCHILY.acl.access": "user::rw-\nuser:4321:r--\ngroup::r--\nmask::r--\nother::r--\n"}
BIG = bytes(range(256)) * 5000
EPOCH = 1_700_000_000


def tree(path: Path, acl: Mapping[str, str] = {}) -> Path:  # it is not changed
    """The archive, as ``sfvm.bundle.finish`` has GNU tar write it; ``plain`` has *acl*."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", **more: Any) -> None:
            member = tarfile.TarInfo(name)
            member.type, member.size, member.mtime = kind, len(content), EPOCH + 5
            member.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
            for key, value in more.items():
                setattr(member, key, value)
            tar.addfile(member, io.BytesIO(content))

        capability = {"SCHILY.xattr.security.capability": CAPABILITY.decode("latin-1")}
        add(".", tarfile.DIRTYPE, mode=0o750, uid=3)
        add("./big", content=BIG)
        add("./dev", tarfile.DIRTYPE)
        add("./dev/null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666)
        add("./etc", tarfile.DIRTYPE)
        add("./etc/os-release", content=b"ID=tiny\n")
        add("./etc/pipe", tarfile.FIFOTYPE)
        add("./etc/setuid", content=b"s", mode=0o4755)
        add("./plain", content=b"plain\n", uid=1234, gid=5678, pax_headers=dict(acl))
        add("./same", tarfile.LNKTYPE, linkname="./plain", uid=1234, gid=5678)
        add("./soft", tarfile.SYMTYPE, linkname="plain")
        add("./tool", content=b"t", mode=0o755, pax_headers={"SCHILY.xattr.user.note": "kept"})
        add("./zcap", content=b"c", pax_headers={name: value for name, value in capability.items() if value.isascii()})
    return path


def stage(directory: Path, archive: Path, name: str = "out", **more: Any) -> Stage:
    """A stage that makes artifacts in *directory*/*name*."""
    (directory / name).mkdir()
    facts = {
        "name": "tiny",
        "settings": {},
        "facts": {"architecture": "x86_64", "distribution": "tiny"},
        "packages": [],
    }
    return Stage(
        directory / name, None, archive, lambda fraction: None, facts, epoch=EPOCH, identity=uuid.uuid4(), **more
    )


def verb(directory: Path, text: str) -> Output:
    """The verb that *text* says."""
    path = directory / "format.xml"
    path.write_text(text.replace(" ", ' xmlns="urn:sfvm:1" ', 1), encoding="utf-8")
    element = document.parse(path)
    return registry("bundle")[element.tag].parse(element)
