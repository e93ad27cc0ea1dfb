"""Container images: layouts and registries, made by us and by others, whole and hostile."""

import contextlib
import hashlib
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sfvm.bases.oci import TREE
from sfvm.errors import SfvmError, SpecError
from sfvm.sources import blobs
from tests.peers.tools import tool
from tests.sources.layouts import Layout, file, pack
from tests.verbs import Directory, Maker, host

HELLO = pack([file("etc/hello", "hello\n"), file("gone", "x")])
CHANGE = pack([file("etc/hello", "changed\n"), file(".wh.gone")])


@pytest.fixture
def layout(make: Maker) -> Layout:
    make.specs.mkdir()
    made = Layout(make.specs / "i.oci")
    made.index(made.image(HELLO, CHANGE))
    return made


def digest(layout: Layout, number: int = 0) -> str:
    manifests = json.loads((layout.root / "index.json").read_bytes())["manifests"]
    return str(manifests[number]["digest"])


def blob(layout: Layout, name: str) -> Path:
    return layout.root / "blobs" / "sha256" / name.removeprefix("sha256:")


def manifest(layout: Layout) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(blob(layout, digest(layout)).read_bytes())
    return found


def names(make: Maker, xml: str = '<oci from="i.oci"/>', **more: Any) -> dict[str, bytes]:
    """The files that the base makes."""
    base = make(xml, "bases")
    own = host(make.home / "work", **more)
    assert base.prepare(own) == ()
    assert not (own.work / "oci").exists()
    guest = Directory(make.home / "guest")
    base.populate(guest, own)
    assert not (own.work / TREE).exists()
    found = {str(path.relative_to(guest.root)): path.read_bytes() for path in guest.root.rglob("*") if path.is_file()}
    shutil.rmtree(guest.root)
    return found


def refused(make: Maker, xml: str = '<oci from="i.oci"/>', **more: Any) -> str:
    with pytest.raises(SpecError) as caught:
        names(make, xml, **more)
    assert caught.value.place is not None
    assert caught.value.hint
    assert not (make.home / "work" / "oci").exists()
    return f"{caught.value.what}: {caught.value.why}"


EXPECTED = {"etc/hello": b"changed\n"}


def test_a_directory(make: Maker, layout: Layout) -> None:
    assert names(make) == EXPECTED
    base = make('<oci src="i.oci" distribution="d" release="1"/>', "bases")
    known = {"distribution": "d", "release": "1"}
    assert base.inputs() == {"digest": digest(layout).removeprefix("sha256:"), "facts": known}
    assert (base.facts(), base.title()) == (known, "oci i.oci")


def packed(layout: Layout, prefix: str = "") -> Path:
    path = layout.root.with_suffix(".tar")
    with tarfile.open(path, "w") as tar:
        for child in sorted(layout.root.rglob("*")):
            tar.add(child, prefix + str(child.relative_to(layout.root)), recursive=False)
    return path


@pytest.mark.parametrize("prefix", ["", "./"])
def test_a_tar(make: Maker, layout: Layout, prefix: str) -> None:
    path = packed(layout, prefix)
    assert names(make, '<oci from="i.tar"/>') == EXPECTED
    assert make('<oci from="i.tar"/>', "bases").inputs() == make('<oci from="i.oci"/>', "bases").inputs()
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert names(make, f'<oci src="file://{path}" sha256="{sha256}"/>') == EXPECTED
    assert (make.home / "work" / "downloads" / "sha256" / sha256).exists()


def test_one_of_several(make: Maker, layout: Layout) -> None:
    layout.index(layout.image(HELLO), layout.image(CHANGE))
    assert "it has several images" in make.refused('<oci from="i.oci"/>', "bases").why  # type: ignore[operator]
    assert names(make, f'<oci from="i.oci" digest="{digest(layout, 1)}"/>') == EXPECTED


def test_the_image_for_this_machine(make: Maker, layout: Layout) -> None:
    def image(content: str, architecture: str) -> dict[str, Any]:
        platform = {"os": "linux", "architecture": architecture}
        return layout.image(pack([file("a", content)]), architecture=architecture, platform=platform)

    attestation = layout.image(HELLO, platform={"os": "unknown", "architecture": "unknown"})
    several = {"schemaVersion": 2, "manifests": [attestation, image("arm", "arm64"), image("amd", "amd64")]}
    layout.index(layout.json(several, "index.v1+json"))
    assert names(make) == {"a": b"amd"}
    assert names(make, architecture="aarch64") == {"a": b"arm"}
    assert "it is not for linux/riscv64, but for linux/amd64, linux/arm64" in refused(make, architecture="riscv64")
    layout.index(layout.image(HELLO, architecture="arm64"))
    assert "it is for linux/arm64, not for linux/amd64" in refused(make)


def test_blobs_that_were_changed(make: Maker, layout: Layout) -> None:
    before = manifest(layout)
    for descriptor in (before["layers"][1], before["config"], {"digest": digest(layout)}):
        path = blob(layout, descriptor["digest"])
        content = path.read_bytes()
        path.write_bytes(content[:-1] + b"x")
        assert "has the sha256" in refused(make)
        path.write_bytes(content + b"x")
        assert "has" in refused(make)
        path.unlink()
        assert "it has no blob" in refused(make)
        os.mkfifo(path)
        assert "blob" in refused(make), "and it does not wait for a writer"
        path.unlink()
        path.write_bytes(content)
    assert names(make) == EXPECTED


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[]", "is no JSON object"),
        (b"{", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"{}", "has no layers"),
        (b'{"layers": []}', "malformed"),
        (b'{"config": {"digest": "sha512:x", "size": 1}, "layers": []}', "no SHA-256"),
        (b'{"config": {"digest": "sha256:../../../etc/passwd", "size": 1}, "layers": []}', "no SHA-256"),
        (b'{"config": 1, "layers": []}', "malformed"),
        (b'{"manifests": []}', "for nothing"),
        (b'{"manifests": 1}', "has no manifests"),
        (b" " * (5 << 20), "too large"),
    ],
)
def test_manifests_that_are_none(make: Maker, layout: Layout, content: bytes, why: str) -> None:
    layout.index(layout.blob(content, "manifest.v1+json"))
    assert re.search(why, refused(make))


def test_an_index_in_an_index_for_ever(make: Maker, layout: Layout) -> None:
    inner = layout.image(HELLO)
    for _ in range(6):
        inner = layout.json({"manifests": [inner]}, "index.v1+json")
    layout.index(inner)
    assert "is not the image" in refused(make)


def test_a_size_that_is_another(make: Maker, layout: Layout) -> None:
    changed = manifest(layout)
    changed["layers"][0]["size"] += 1
    layout.index(layout.json(changed, "manifest.v1+json"))
    assert "bytes, not" in refused(make)


def test_very_many_layers(make: Maker, layout: Layout) -> None:
    changed = manifest(layout)
    changed["layers"] *= 300
    layout.index(layout.json(changed, "manifest.v1+json"))
    assert "more than 512 layers" in refused(make)


def test_hostile_layers_are_told(make: Maker, layout: Layout) -> None:
    layout.index(layout.image(HELLO, pack([file("../x")])))
    assert refused(make) == "i.oci is refused: member '../x' of layer 2: it would be written outside"
    layout.index(layout.image(pack([file("x", "x" * (2 << 20))])))
    assert "unpacks to more than 1 MiB" in refused(make, size=1 << 20)


def test_a_sparse_blob(make: Maker, layout: Layout) -> None:
    """A terabyte of zeros in a tar of a few bytes is not written out."""
    path = layout.root.with_suffix(".tar")
    first = digest(layout).removeprefix("sha256:")
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(layout.root / "index.json", "index.json")
        info = tarfile.TarInfo(f"blobs/sha256/{first}")
        info.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": str(1 << 40),
                            "GNU.sparse.map": "0,0"}  # fmt: skip
        tar.addfile(info)
    assert f"it has no blobs/sha256/{first}" in refused(make, '<oci from="i.tar"/>')


@pytest.mark.parametrize(("kind", "size"), [(tarfile.XHDTYPE, 1 << 30), (tarfile.GNUTYPE_LONGNAME, 1 << 30),
                                            (tarfile.REGTYPE, 1 << 70), (tarfile.REGTYPE, -512)])  # fmt: skip
def test_a_hostile_tar(make: Maker, kind: bytes, size: int) -> None:
    """A header that says it has a gigabyte (of holes) is not read, and none twice."""
    make.specs.mkdir()
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, size
    with (make.specs / "i.tar").open("wb") as tar:
        tar.write(info.tobuf(tarfile.GNU_FORMAT))
        tar.truncate((1 << 30) + 4096)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "it is no plain tar" in str(make.refused('<oci from="i.tar"/>', "bases").why)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10, "KiB"


@pytest.mark.parametrize(
    ("xml", "what"),
    [
        ('<oci src="docker://alpine@sha256:{0}"/>', "does not say which image"),
        ('<oci src="docker://library/alpine@sha256:{0}"/>', "does not say which image"),
        ('<oci src="docker://h.invalid/x:latest"/>', "does not say which image"),
        ('<oci src="docker://h.invalid/x@sha256:12"/>', "does not say which image"),
        ('<oci src="docker://h.invalid/x y@sha256:{0}"/>', "does not say which image"),
        ('<oci src="http://h/x.tar"/>', "oci has no sha256"),
        ('<oci src="x"/>', "does not exist"),
        ('<oci from="../x"/>', "leaves the spec's directory"),
        ('<oci from="i.oci" digest="sha512:1"/>', "is none"),
        (f'<oci src="docker://h.org/i@sha256:{"0" * 64}" digest="sha256:{"1" * 64}"/>', "is not the digest in src"),
        (f'<oci src="docker://h.org/i@sha256:{"0" * 64}" sha256="{"1" * 64}"/>', "is not the digest in src"),
        ('<oci from="."/>', "is not the image"),
        ('<oci from="spec.xml"/>', "is not the image"),
    ],
)
def test_what_cannot_be(make: Maker, layout: Layout, xml: str, what: str) -> None:
    (make.home / "x").write_bytes(b"")
    assert what in make.refused(xml.format("0" * 64), "bases").what


def run(*words: str | Path) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True)


def test_what_skopeo_and_umoci_make(make: Maker, layout: Layout) -> None:
    """umoci adds a layer with a whiteout, skopeo copies the image, and packs it."""
    skopeo, umoci = tool("skopeo"), tool("umoci")
    one, two = make.specs / "one", make.specs / "two"
    run(skopeo, "--insecure-policy", "copy", f"oci:{layout.root}", f"oci:{one}:first")
    bundle = make.home / "bundle"
    run(umoci, "unpack", "--rootless", "--image", f"{one}:first", bundle)
    assert (bundle / "rootfs" / "etc" / "hello").read_text() == "changed\n", "it reads our layout as we do"
    (bundle / "rootfs" / "etc" / "hello").unlink()
    (bundle / "rootfs" / "etc" / "more").write_text("more\n")
    run(umoci, "repack", "--image", f"{one}:second", bundle)
    run(skopeo, "--insecure-policy", "copy", f"oci:{one}:second", f"oci:{two}")
    assert names(make, '<oci from="two"/>') == {"etc/more": b"more\n"}
    run(skopeo, "--insecure-policy", "copy", f"oci:{one}:second", f"oci-archive:{make.specs}/three.tar")
    assert names(make, '<oci from="three.tar"/>') == {"etc/more": b"more\n"}


@contextlib.contextmanager
def registry(layout: Layout) -> Iterator[tuple[str, list[str]]]:
    """The blobs of *layout* as ``t/image``; yields host and port, and the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            asked.append(self.path)
            path = blob(layout, self.path.rpartition("/")[2])
            if not path.is_file() and self.path != "/v2/":
                self.send_error(404)
                return
            content = path.read_bytes() if path.is_file() else b"{}"
            self.send_response(200)
            if "/manifests/" in self.path:
                kind = json.loads(content).get("mediaType", "application/vnd.oci.image.index.v1+json")
                self.send_header("Content-Type", kind)
                self.send_header("Docker-Content-Digest", self.path.rpartition("/")[2])
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=[0.05])
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("index", [False, True])
def test_a_registry_is_asked_once(make: Maker, layout: Layout, index: bool) -> None:
    tool("skopeo")
    platform = {"os": "linux", "architecture": "amd64"}
    image = layout.image(HELLO, CHANGE, platform=platform)
    first = layout.json({"schemaVersion": 2, "manifests": [image]}, "index.v1+json") if index else image
    with registry(layout) as (place, asked):
        xml = f'<oci src="docker://{place}/t/image:tag@{first["digest"]}"/>'
        base = make(xml, "bases")
        assert base.inputs() == {"digest": first["digest"].removeprefix("sha256:"), "facts": {}}
        assert asked == [], "a plan asks nobody"
        with pytest.raises(SfvmError, match="may not be asked"):  # a spec cannot name the host itself
            base.prepare(host(make.home / "work"))
        assert asked == []
        allowed = {"named": frozenset({place})}
        assert names(make, xml, **allowed) == EXPECTED
        assert asked
        asked.clear()
        assert names(make, xml) == EXPECTED
        assert asked == [], "the store has it all"
    assert {path.name for path in (make.home / "work").iterdir()} == {"downloads"}
    own = host(make.home / "work", offline=True)
    base.prepare(own)
    fetched = own.access.ledger.take()
    assert len(fetched) == (5 if index else 4), "index, manifest, configuration, layers: what gc keeps for the node"
    assert all(one.cached and one.url.startswith(f"docker://{place}/t/image@sha256:") for one in fetched)


def test_a_registry_whose_name_stands_for_the_host_itself(
    make: Maker, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    loopback = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: loopback)
    monkeypatch.setattr(subprocess, "Popen", None)  # nobody is asked
    base = make(f'<oci src="docker://images.example/t/image@{digest(layout)}"/>', "bases")
    with pytest.raises(SfvmError, match="may not be asked") as caught:
        base.prepare(host(make.home / "work"))
    assert "images.example is a name of the host itself" in str(caught.value.why)


def test_layers_that_are_too_large_are_not_fetched(make: Maker, layout: Layout) -> None:
    tool("skopeo")
    changed = manifest(layout)
    changed["layers"][0]["size"] = 1 << 40
    image = layout.json(changed, "manifest.v1+json")
    with registry(layout) as (place, asked):
        allowed = {"named": frozenset({place})}
        error = refused(make, f'<oci src="docker://{place}/t/image@{image["digest"]}"/>', **allowed)
        assert "its layers have more than 1024 MiB" in error
        assert not [path for path in asked if "/blobs/" in path]


def test_a_registry_that_has_it_not(make: Maker, layout: Layout) -> None:
    tool("skopeo")
    with registry(layout) as (place, _):
        allowed = {"named": frozenset({place})}
        assert "manifest" in refused(make, f'<oci src="docker://{place}/t/image@sha256:{"0" * 64}"/>', **allowed)
        gone = manifest(layout)["layers"][0]["digest"]
        blob(layout, gone).unlink()
        assert "skopeo copy" in refused(make, f'<oci src="docker://{place}/t/image@{digest(layout)}"/>', **allowed)
        assert {path.name for path in (make.home / "work").iterdir()} == {"downloads"}


def test_a_registry_that_has_another(make: Maker, layout: Layout) -> None:
    tool("skopeo")
    path = blob(layout, digest(layout))
    path.write_bytes(path.read_bytes() + b" ")
    with registry(layout) as (place, _):
        allowed = {"named": frozenset({place})}
        assert "is not the image" in refused(make, f'<oci src="docker://{place}/t/image@{digest(layout)}"/>', **allowed)
        assert not list((make.home / "work").glob("downloads/sha256/*"))


def test_without_skopeo(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs.shutil, "which", lambda name: None)
    base = make(f'<oci src="docker://h.invalid/x@sha256:{"0" * 64}"/>', "bases")
    with pytest.raises(SfvmError, match="skopeo cannot be run") as caught:
        base.prepare(host(make.home / "work"))
    assert "install it" in str(caught.value.hint)
