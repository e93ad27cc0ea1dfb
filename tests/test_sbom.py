"""Bills of materials, judged by the validators of SPDX and CycloneDX and by the purl library."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import uuid

import pytest
from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from spdx_tools.spdx.model import ActorType, RelationshipType
from spdx_tools.spdx.parser.error import SPDXParsingError
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from sfvm import __version__
from sfvm.repository import Manifest
from sfvm.sbom import FORMATS, PURL_TYPES, cyclonedx, dump, purl, spdx

EPOCH = 1700000000
DEBIAN = {"distribution": "debian", "release": "bookworm", "architecture": "x86_64"}

PACKAGES = (
    ("adduser", "3.134", "all"),
    ("g++", "4:12.2.0-3", "amd64"),
    ("libc6", "2.36-9+deb12u10", "amd64"),
    ("libc6", "2.36-9+deb12u10", "i386"),
    ("libc6", "2.36-9+deb12u10", "i386"),
    ("libstdc++6", "12.2.0-14", "amd64"),
    ("libstdc--6", "12.2.0-14", "amd64"),
    ("linux-image", "6.1~rc3+dfsg-1~exp1", "amd64"),
    ("naïve", "1", ""),
    ("nothing", "", "all"),
)


def manifest(**changes):
    parent = "b" * 64
    made = Manifest(
        key="a" * 64,
        name="web",
        parent=parent,
        parent_name="root",
        inputs={},
        spec="<filesystem/>",
        steps=(),
        digest="c" * 64,
        size=1,
        disk=1,
        filesystem="ext4",
        facts=DEBIAN,
        packages=PACKAGES,
        created=float(EPOCH),
        seconds=1.0,
        provenance={},
        depth=1,
    )
    return dataclasses.replace(made, **changes)


MANIFESTS = {
    "child": manifest(),
    "root": manifest(parent=None, parent_name=None, depth=0),
    "no packages": manifest(packages=(), facts={"distribution": "busybox"}),
    "no facts": manifest(facts={}),
    **{name: manifest(facts={"distribution": name, "release": "9.3"}) for name in ("rocky", "arch", "alpine")},
}


def spdx_problems(document, path):
    """What SPDX's validator finds, and the document as it reads it."""
    file = path / "document.spdx.json"
    file.write_bytes(dump(document))
    try:
        parsed = parse_file(str(file))
    except SPDXParsingError as error:
        return error.get_messages(), None
    return [message.validation_message for message in validate_full_spdx_document(parsed, "SPDX-2.3")], parsed


def cyclonedx_problem(document):
    """What CycloneDX's validator finds, or None."""
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(dump(document).decode("ascii"))


@pytest.mark.parametrize("name", MANIFESTS)
def test_spdx_is_valid(name, tmp_path):
    made = MANIFESTS[name]
    problems, parsed = spdx_problems(spdx(made, EPOCH), tmp_path)
    assert problems == []
    (creator,) = parsed.creation_info.creators
    assert (creator.actor_type, creator.name) == (ActorType.TOOL, f"sfvm-{__version__}")
    assert parsed.creation_info.created.isoformat() == "2023-11-14T22:13:20"
    node, *members = parsed.packages
    packages = [(member.name, member.version) for member in members if "-Package-" in member.spdx_id]
    assert packages == [(name, version or None) for name, version, _ in dict.fromkeys(made.packages)]
    relations = [(r.spdx_element_id, r.relationship_type, r.related_spdx_element_id) for r in parsed.relationships]
    assert relations == [
        ("SPDXRef-DOCUMENT", RelationshipType.DESCRIBES, node.spdx_id),
        *((node.spdx_id, RelationshipType.CONTAINS, member.spdx_id) for member in members),
    ]


@pytest.mark.parametrize("name", MANIFESTS)
def test_cyclonedx_is_valid(name):
    made = MANIFESTS[name]
    document = cyclonedx(made, EPOCH)
    assert document["specVersion"] == "1.6"
    assert cyclonedx_problem(document) is None
    bom = Bom.from_json(document)
    assert bom.validate()  # every dependency has its component
    assert (bom.metadata.component.name, bom.metadata.component.version) == (made.name, made.key)
    packages = [(c["name"], c.get("version", "")) for c in document["components"] if c["type"] == "library"]
    assert packages == [(name, version) for name, version, _ in dict.fromkeys(made.packages)]
    (graph,) = document["dependencies"]
    assert graph["dependsOn"] == [component["bom-ref"] for component in document["components"]]
    ancestors = bom.metadata.component.pedigree.ancestors if made.parent else ()
    assert [ancestor.version for ancestor in ancestors] == ([made.parent] if made.parent else [])


def _incomplete(document):
    del document["packages"][2]["downloadLocation"]


def _odd_identifier(document):
    document["packages"][2]["SPDXID"] = "SPDXRef-libstdc++6"


def _dangling(document):
    document["relationships"][1]["relatedSpdxElement"] = "SPDXRef-nowhere"


def _relative(document):
    document["documentNamespace"] = "web"


def _twice(document):
    document["packages"].append(copy.deepcopy(document["packages"][2]))


@pytest.mark.parametrize("spoil", [_incomplete, _odd_identifier, _dangling, _relative, _twice])
def test_the_validator_refuses_broken_spdx(spoil, tmp_path):
    document = spdx(manifest(), EPOCH)
    spoil(document)
    assert spdx_problems(document, tmp_path)[0]


@pytest.mark.parametrize(
    "change",
    [
        {"serialNumber": "urn:uuid:web"},
        {"components": [{"name": "nginx"}]},
        {"components": [{"type": "library", "name": "nginx", "unheard": "of"}]},
        {"dependencies": [{"ref": "Node", "dependsOn": ["a", "a"]}]},
        {"metadata": {"timestamp": "yesterday"}},
    ],
    ids=str,
)
def test_the_validator_refuses_broken_cyclonedx(change):
    assert cyclonedx_problem({**cyclonedx(manifest(), EPOCH), **change}) is not None


@pytest.mark.parametrize(
    ("distribution", "package", "expected"),
    [
        # The first of each type is the example of its definition, the release apart.
        ("debian-", ("attr", "1:2.4.47-2+b1", "amd64"), "pkg:deb/debian/attr@1:2.4.47-2%2Bb1?arch=amd64"),
        (
            "fedora-25",
            ("curl", "7.50.3-1.fc25", "i386"),
            "pkg:rpm/fedora/curl@7.50.3-1.fc25?arch=i386&distro=fedora-25",
        ),
        (
            "arch-",
            ("containers-common", "1:0.47.4-4", "x86_64"),
            "pkg:alpm/arch/containers-common@1:0.47.4-4?arch=x86_64",
        ),
        ("alpine-", ("apk", "2.12.9-r3", "x86"), "pkg:apk/alpine/apk@2.12.9-r3?arch=x86"),
        ("debian-sid", ("g++", "4:12~rc1+x", "all"), "pkg:deb/debian/g%2B%2B@4:12~rc1%2Bx?arch=all&distro=debian-sid"),
        ("Ubuntu-24.04", ("A", "1", ""), "pkg:deb/ubuntu/a@1?distro=ubuntu-24.04"),
        (
            "rocky-9",
            ("PyYAML", "2:5^git-1.el9", "noarch"),
            "pkg:rpm/rocky/PyYAML@5%5Egit-1.el9?arch=noarch&distro=rocky-9&epoch=2",
        ),
        ("arch-", ("pacman", "6.0.1-1", ""), "pkg:alpm/arch/pacman@6.0.1-1"),
        ("debian-", ("a?c#d@e f%", "1&2=3", "all"), "pkg:deb/debian/a%3Fc%23d%40e%20f%25@1%262%3D3?arch=all"),
        ("debian-", ("naïve", "", ""), "pkg:deb/debian/na%C3%AFve"),
        ("hannah-1", ("a", "1", "all"), None),
        ("-", ("a", "1", "all"), None),
    ],
)
def test_purl(distribution, package, expected):
    name, _, release = distribution.partition("-")
    assert purl(package, {"distribution": name, "release": release}) == expected
    if expected is not None:
        assert PackageURL.from_string(expected).to_string() == expected


@pytest.mark.parametrize("distribution", PURL_TYPES)
def test_purls_are_read_as_they_were_meant(distribution):
    facts = {"distribution": distribution, "release": "1~+ &x"}
    for package in PACKAGES:
        found = PackageURL.from_string(purl(package, facts))
        name, version, architecture = package
        epoch = found.qualifiers.get("epoch")
        assert (found.type, found.namespace) == (PURL_TYPES[distribution], distribution)
        assert found.name == name
        assert (f"{epoch}:" if epoch else "") + (found.version or "") == version
        assert found.qualifiers.get("arch", "") == architecture
        assert found.qualifiers["distro"] == f"{distribution}-1~+ &x"


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_unknown_has_no_purl(kind):
    assert b"pkg:" in dump(FORMATS[kind](manifest(), EPOCH))
    assert b"pkg:" not in dump(FORMATS[kind](manifest(facts={}), EPOCH))


def identifier(document):
    return document.get("documentNamespace") or document["serialNumber"]


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_node_gives_the_same_bytes(kind):
    make = FORMATS[kind]
    again = Manifest.parse(dataclasses.replace(manifest(), origin="d" * 64, parent_origin="e" * 64).dump())
    assert dump(make(again, EPOCH)) == dump(make(manifest(), EPOCH))


@pytest.mark.parametrize("kind", FORMATS)
def test_what_differs_is_named_differently(kind):
    documents = [
        FORMATS[kind](manifest(), EPOCH),
        FORMATS[kind](manifest(), EPOCH + 1),
        FORMATS[kind](manifest(key="f" * 64), EPOCH),
        FORMATS[kind](manifest(packages=PACKAGES[:-1]), EPOCH),
    ]
    names = [identifier(document) for document in documents]
    assert len(set(names)) == len(names)
    assert {uuid.UUID(name.removeprefix("urn:uuid:")).version for name in names} == {5}


def test_every_element_has_a_name_of_its_own():
    document = spdx(manifest(), EPOCH)
    names = [package["SPDXID"] for package in document["packages"]]
    assert len(set(names)) == len(names) == 2 + len(set(PACKAGES))
    assert all(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", name) for name in names)
    told = [component["bom-ref"] for component in cyclonedx(manifest(), EPOCH)["components"]]
    assert told == [name.removeprefix("SPDXRef-") for name in names[1:]]


def test_no_license_is_claimed():
    document = spdx(manifest(), EPOCH)
    for package in document["packages"]:
        fields = ("licenseConcluded", "licenseDeclared", "copyrightText", "downloadLocation", "supplier")
        assert {package[field] for field in fields} == {"NOASSERTION"}
    assert "licenses" not in json.dumps(cyclonedx(manifest(), EPOCH))
