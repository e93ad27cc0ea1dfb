"""A bill of materials of a built node, made from its manifest alone: SPDX 2.3 and CycloneDX 1.6, as JSON. Pure.

The packages are what the guest's own database told when the node was built. Nothing is known of licenses, suppliers and
of what depends on what, so nothing is said of it: ``NOASSERTION`` in SPDX, left out in CycloneDX. The same manifest and
time give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from sfvm import __version__
from sfvm.repository.manifest import Manifest

Document = dict[str, Any]
Package = tuple[str, str, str]
"""Name, version, architecture; the latter may be empty."""

NO = "NOASSERTION"

PURL_TYPES: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("debian", "devuan", "kali", "linuxmint", "raspbian", "ubuntu"), "deb"),
        **dict.fromkeys(("almalinux", "amzn", "centos", "fedora", "mageia", "ol", "openeuler", "rhel", "rocky"), "rpm"),
        **dict.fromkeys(("opensuse", "opensuse-leap", "opensuse-tumbleweed", "sled", "sles"), "rpm"),
        **dict.fromkeys(("arch", "archarm", "manjaro"), "alpm"),
        **dict.fromkeys(("alpine", "postmarketos", "wolfi"), "apk"),
    }
)
"""By the fact ``distribution`` (the ID of os-release), which is the purl's namespace, too."""


def spdx(manifest: Manifest, epoch: int) -> Document:
    """An SPDX 2.3 document, its fields as in the JSON schema of that version; *epoch* is when it was made, in seconds
    since 1970. It describes the node, which contains the packages."""
    node = {
        **_spdx_package("Node", manifest.name, manifest.key),
        "primaryPackagePurpose": "FILE",
        "comment": f"A filesystem built by sfvm; its version is its key{_on(manifest)}.",
    }
    members = []
    if (distribution := _fact(manifest, "distribution")) is not None:
        system = _spdx_package("OperatingSystem", distribution, _fact(manifest, "release"))
        members.append({**system, "primaryPackagePurpose": "OPERATING-SYSTEM"})
    for package in _packages(manifest):
        member = _spdx_package(_reference(package), *package[:2])
        if (found := purl(package, manifest.facts)) is not None:
            kinds = {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl"}
            member["externalRefs"] = [{**kinds, "referenceLocator": found}]
        members.append(member)
    described = _relationship("SPDXRef-DOCUMENT", "DESCRIBES", node)
    contained = [_relationship(node["SPDXID"], "CONTAINS", member) for member in members]
    content = {
        "creationInfo": {"created": _time(epoch), "creators": [f"Tool: sfvm-{__version__}"]},
        "packages": [node, *members],
        "relationships": [described, *contained],
    }
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": manifest.name,
        "documentNamespace": _unique(manifest, content).urn,
        **content,
    }


def cyclonedx(manifest: Manifest, epoch: int) -> Document:
    """A CycloneDX 1.6 document, its fields as in the JSON schema of that version; *epoch* is when it was made, in
    seconds since 1970. It is about the node; which package depends on which is left unknown."""
    node: Document = {"type": "file", "bom-ref": "Node", "name": manifest.name, "version": manifest.key}
    if manifest.parent is not None:
        parent = {"type": "file", "name": manifest.parent_name or manifest.parent, "version": manifest.parent}
        node["pedigree"] = {"ancestors": [parent]}
    members = []
    if (distribution := _fact(manifest, "distribution")) is not None:
        system = {"type": "operating-system", "bom-ref": "OperatingSystem", "name": distribution}
        members.append(_with(system, version=_fact(manifest, "release")))
    for package in _packages(manifest):
        name, version, _ = package
        member = {"type": "library", "bom-ref": _reference(package), "name": name}
        members.append(_with(member, version=version, purl=purl(package, manifest.facts)))
    tool = {"type": "application", "name": "sfvm", "version": __version__}
    content = {
        "metadata": {"timestamp": _time(epoch), "tools": {"components": [tool]}, "component": node},
        "components": members,
        "dependencies": [{"ref": node["bom-ref"], "dependsOn": [member["bom-ref"] for member in members]}],
    }
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": _unique(manifest, content).urn,
        "version": 1,
        **content,
    }


FORMATS: Mapping[str, Callable[[Manifest, int], Document]] = MappingProxyType({"spdx": spdx, "cyclonedx": cyclonedx})


def dump(document: Document) -> bytes:
    """The content of a document's file: ASCII, whatever the packages are called."""
    return json.dumps(document, indent=2).encode("ascii") + b"\n"


def purl(package: Package, facts: Mapping[str, str]) -> str | None:
    """The package URL (ECMA-427) of *package* in a guest with *facts*; None when the distribution is unknown.

    An RPM's epoch is a qualifier, others' belongs to the version (the definitions of the types deb, rpm, alpm and apk).
    ``distro`` is the distribution and its release, joined by a hyphen as scanners expect it.
    """
    name, version, architecture = package
    distribution = facts.get("distribution", "").lower()
    if (kind := PURL_TYPES.get(distribution)) is None:
        return None
    epoch = ""
    if kind == "rpm":
        epoch, _, version = version.rpartition(":")
    else:
        name = name.lower()  # of the four, only RPM's names are case-sensitive
    release = facts.get("release", "")
    # Sorted by key, and none without a value: the canonical form.
    qualifiers = {"arch": architecture, "distro": f"{distribution}-{release}" if release else "", "epoch": epoch}
    words = "&".join(f"{key}={_encoded(value)}" for key, value in qualifiers.items() if value)
    at = f"@{_encoded(version)}" if version else ""
    return f"pkg:{kind}/{_encoded(distribution)}/{_encoded(name)}{at}" + (f"?{words}" if words else "")


def _encoded(text: str) -> str:
    """Percent-encoded but for letters, digits, ``.-_~`` and the colon (ECMA-427, "Character encoding")."""
    return quote(text, safe=":")


def _packages(manifest: Manifest) -> tuple[Package, ...]:
    return tuple(dict.fromkeys(manifest.packages))


def _reference(package: Package) -> str:
    """The identifier of *package* in both documents: one name may be there in several versions and architectures. SPDX
    allows letters, digits, ``.`` and ``-`` (2.3, 7.2)."""
    digest = hashlib.sha256("\0".join(package).encode()).hexdigest()
    return f"Package-{re.sub('[^A-Za-z0-9.-]', '-', package[0])}-{digest[:16]}"


def _unique(manifest: Manifest, content: Document) -> uuid.UUID:
    """An identifier that follows from the node's key and the rest of the document. The key alone would not do: a node
    can be built again with newer packages, and two documents must not have one name (SPDX 2.3, 6.5)."""
    digest = hashlib.sha256(dump(content)).hexdigest()
    return uuid.uuid5(uuid.NAMESPACE_OID, f"sfvm sbom {manifest.key} {digest}")


def _spdx_package(reference: str, name: str, version: str | None) -> Document:
    return {
        "SPDXID": f"SPDXRef-{reference}",
        "name": name,
        **({"versionInfo": version} if version else {}),
        "supplier": NO,
        "downloadLocation": NO,
        "filesAnalyzed": False,
        "licenseConcluded": NO,
        "licenseDeclared": NO,
        "copyrightText": NO,
    }


def _relationship(of: str, kind: str, to: Document) -> Document:
    return {"spdxElementId": of, "relationshipType": kind, "relatedSpdxElement": to["SPDXID"]}


def _on(manifest: Manifest) -> str:
    return f", its parent {manifest.parent_name} {manifest.parent}" if manifest.parent is not None else ""


def _fact(manifest: Manifest, name: str) -> str | None:
    return manifest.facts.get(name) or None


def _with(document: Document, **more: str | None) -> Document:
    """*document*, and those of *more* that there are."""
    return {**document, **{name: value for name, value in more.items() if value}}


def _time(epoch: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))
