"""What is locked of what was fetched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sfvm import tree
from sfvm.downloads.fetched import Fetched
from sfvm.errors import SfvmError
from sfvm.guest import Package
from sfvm.lock import model
from sfvm.lock.model import Content, Section
from sfvm.lock.names import package_of
from sfvm.spec.library import Library
from tests.lock.conftest import fetched, manifest, sha


@pytest.mark.parametrize(
    ("path", "package"),
    [
        ("pool/main/liba/liba1_1.0-2+b1_amd64.deb", ("liba1", "1.0-2+b1", "amd64")),
        ("pool/main/g/g++_4%3a12.2.0-3_all.deb", ("g++", "4:12.2.0-3", "all")),
        ("installer/some_1_amd64.udeb", ("some", "1", "amd64")),
        ("os/Packages/p/python3-libs-3.9.18-1.el9.x86_64.rpm", ("python3-libs", "3.9.18-1.el9", "x86_64")),
        ("v3.20/main/x86_64/busybox-binsh-1.36.1-r29.apk", ("busybox-binsh", "1.36.1-r29", "x86_64")),
        ("core/os/x86_64/iana-etc-20240612-1-any.pkg.tar.zst", ("iana-etc", "20240612-1", "any")),
        ("core/os/x86_64/shadow-1:4.16-1-x86_64.pkg.tar.zst", ("shadow", "1:4.16-1", "x86_64")),
        ("core/os/x86_64/shadow-1:4.16-1-x86_64.pkg.tar.zst.sig", None),
        ("dists/some/InRelease", None),
        ("repodata/0123-primary.xml.gz", None),
        ("x86_64/APKINDEX.tar.gz", None),
        ("pool/odd%0Aname_1_amd64.deb", None),
        ("some.deb", None),
        ("", None),
    ],
)
def test_names_of_packages(path: str, package: tuple[str, str, str] | None) -> None:
    expected = Package(*package) if package else None
    assert package_of(f"http://mirror.test/{path}") == expected
    assert package_of(f"http://mirror.test/{path}?token=_1_amd64.deb") == expected


def test_a_version_has_its_epoch_from_the_guest() -> None:
    got = [fetched("a_1.0_amd64.deb", 1), fetched("b_2.0_amd64.deb", 2), fetched("c-1-1.x86_64.rpm", 3)]
    known = [("a", "2:1.0", "amd64"), ("b", "1:3.0", "amd64"), ("c", "7:1-1", "x86_64"), ("a", "9:1.0", "i386")]
    found = model.contents(manifest(got=got, packages=known))
    assert [content.package and content.package.version for content in found] == ["2:1.0", "2.0", "7:1-1"]


def test_each_url_once_and_nothing_but_its_content_counts() -> None:
    got = [fetched("dists/InRelease", 1), fetched("a_1_all.deb", 2), fetched("dists/InRelease", 1)]
    section = Section("n", sha(0), {}, model.contents(manifest(got=got)))
    assert [file.url for file in section.files] == ["http://mirror.test/dists/InRelease"]
    assert [(package.name, content.sha256) for package, content in section.packages] == [("a", sha(2))]
    same = Section("m", sha(1), {"x": "y"}, section.contents[::-1])
    assert same.digest == section.digest
    assert replace(section, contents=section.contents[:1]).digest != section.digest
    assert replace(section, contents=(replace(section.contents[0], sha256=sha(3)),)).digest != section.digest
    assert replace(section, contents=()).digest not in ("", section.digest)


@pytest.mark.parametrize(
    ("got", "why"),
    [
        ([Fetched("https://host.test:443", "", 5, 1.0, False)], "tunnel"),
        ([fetched("InRelease", 1), fetched("InRelease", 2)], "two contents"),
        ([fetched("a\nb", 1)], "no plain URL"),
        ([fetched("ä", 1)], "no plain URL"),
    ],
)
def test_what_cannot_be_locked(got: list[Fetched], why: str) -> None:
    with pytest.raises(SfvmError) as error:
        model.contents(manifest(got=got))
    assert error.value.node == "some"
    assert why in (error.value.why or "")
    assert error.value.hint


def test_a_lock_of_a_chain(specs: Path) -> None:
    nodes = tree.resolve(Library([specs]), ["leaf"], {})
    built = {
        "root": manifest(nodes[0]),
        "middle": manifest(nodes[1], [fetched("a_1_all.deb", 1)]),
        "leaf": manifest(nodes[2], [fetched("a_1_all.deb", 2)]),
    }
    lock = model.make(nodes, built)
    assert [(section.node, section.key) for section in lock.sections] == [(node.name, node.key) for node in nodes]
    assert lock.by_node["root"].arguments == {"suite": "one"}
    assert lock.digests == {sha(1), sha(2)}
    assert lock.by_node["leaf"].contents == (
        Content("http://mirror.test/a_1_all.deb", sha(2), 1, Package("a", "1", "all")),
    )
