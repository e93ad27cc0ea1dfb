"""A bundle of the format ``libvirt`` becomes a volume of a storage pool and a domain."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfvm import qcow2
from sfvm.errors import PublishError
from sfvm.events import Listener, Preparing
from sfvm.publish.bundle import AGAIN, Bundle


@dataclass(frozen=True)
class Published:
    """The *domain* with its *volume* in a *pool*, at a *connection*."""

    domain: str
    volume: str
    pool: str
    connection: str


def publish(bundle: Bundle, uri: str, pool: str, name: str | None, listener: Listener) -> Published:
    """Upload the image of *bundle* into *pool* at the connection *uri* and define its domain, both called *name* (the
    node's, when it is None). If that fails, nothing of it stays.

    :raises PublishError: the bundle is no domain, something has the name already, or libvirt refuses
    :raises SfvmError: the image does not stand alone
    """
    from lxml import etree

    image = bundle.only(".qcow2", "a qcow2 image")
    path = bundle.only(".xml", "a domain")
    try:
        domain = etree.fromstring(path.read_bytes(), etree.XMLParser(resolve_entities=False, no_network=True))
    except etree.XMLSyntaxError as error:
        raise PublishError(f"{path} describes no domain", why=str(error), hint=AGAIN) from error
    title, source = domain.find("name"), domain.find("devices/disk/source")
    if domain.tag != "domain" or title is None or source is None:
        raise PublishError(f"{path} describes no domain with a disk", hint=AGAIN)
    capacity = qcow2.require_standalone(image).size
    called = name or title.text or bundle.node
    volume = f"{called}.qcow2"
    title.text = called
    source.set("pool", pool)
    source.set("volume", volume)
    with _connected(uri) as connection:
        into = _pool(connection, pool)
        _require_free(connection, into, called, volume)
        bundle.check(image, lambda fraction: listener(Preparing("checking the image", fraction)))
        listener(Preparing("checking the image", 1, done=True))
        with _refusals(f"the volume {volume} cannot be made"):
            made = into.createXML(_volume(volume, capacity))
        try:
            with _refusals(f"the volume {volume} cannot be written"):
                _upload(connection, made, image, listener)
            with _refusals(f"the domain {called} cannot be defined"):
                connection.defineXMLFlags(etree.tostring(domain, encoding="unicode"), _validate())
        except BaseException:
            with _refusals(f"the volume {volume} is there, not complete, and cannot be deleted"):
                made.delete()
            raise
    return Published(called, volume, pool, uri)


def _volume(name: str, capacity: int) -> str:
    from lxml import etree
    from lxml.builder import E

    target = E.target(E.format(type="qcow2"))
    return str(etree.tostring(E.volume(E.name(name), E.capacity(str(capacity)), target), encoding="unicode"))


def _upload(connection: Any, volume: Any, image: Path, listener: Listener) -> None:
    """Send the file *image* to *volume*, over the connection itself."""
    size, sent = image.stat().st_size, 0
    stream = connection.newStream()
    volume.upload(stream, 0, size)
    with image.open("rb") as file:

        def more(_stream: Any, count: int, _opaque: None) -> bytes:
            nonlocal sent
            data = file.read(count)
            sent += len(data)
            listener(Preparing("uploading", sent / size))
            return data

        stream.sendAll(more, None)
    stream.finish()
    listener(Preparing("uploading", 1, done=True))


def _pool(connection: Any, name: str) -> Any:
    """:raises PublishError: there is no such pool, or it is not active"""
    with _refusals(f"the storage pool {name!r} cannot be used", hint="virsh pool-list --all; virsh pool-start"):
        found = connection.storagePoolLookupByName(name)
        if not found.isActive():
            raise PublishError(f"the storage pool {name!r} is not active", hint=f"virsh pool-start {name}")
        found.refresh()
    return found


def _require_free(connection: Any, pool: Any, domain: str, volume: str) -> None:
    """:raises PublishError: a domain or a volume has the name already"""
    taken = [f"a domain {found.name()}" for found in connection.listAllDomains() if found.name() == domain]
    taken += [f"a volume {found} in the pool {pool.name()}" for found in pool.listVolumes() if found == volume]
    if taken:
        raise PublishError(f"there is {' and '.join(taken)} already", hint="--name gives it another name")


def _validate() -> int:
    import libvirt

    return int(libvirt.VIR_DOMAIN_DEFINE_VALIDATE)


@contextmanager
def _connected(uri: str) -> Iterator[Any]:
    """An open connection; libvirt's own messages stay off stderr.

    :raises PublishError: the binding is missing, or nothing answers
    """
    try:
        import libvirt
    except ImportError as error:
        raise PublishError("the Python binding libvirt is not installed", hint="./bootstrap installs it") from error
    libvirt.registerErrorHandler(lambda context, error: None, None)
    with _refusals(f"no libvirt daemon answers at {uri}", hint="start it, or name another with --connect"):
        connection = libvirt.open(uri)
    try:
        yield connection
    finally:
        connection.close()


@contextmanager
def _refusals(what: str, hint: str | None = None) -> Iterator[None]:
    """Say *what* failed when libvirt raises."""
    import libvirt

    try:
        yield
    except libvirt.libvirtError as error:
        raise PublishError(what, why=str(error), hint=hint) from error
