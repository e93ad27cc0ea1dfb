"""Content at a URL, from any byte on: one function for each scheme."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sfvm import __version__
from sfvm.verbs import Host

STALLED = 60.0
"""Seconds without a byte after which a server counts as gone."""


class Unavailable(Exception):
    """The content cannot be had; *hint* says what to do."""

    def __init__(self, why: str, hint: str = "check the URL, or try again later") -> None:
        super().__init__(why)
        self.hint = hint


class Broken(Exception):
    """The transfer has ended too early: another attempt may go on from there."""


@dataclass(frozen=True)
class Remote:
    """Content from the byte *offset* on; *size* is that of all of it, where that is known."""

    offset: int
    size: int | None
    read: Callable[[int], bytes]
    """At most so many bytes; none at the end.

    :raises Broken: the connection is gone
    """


def connect(url: str, offset: int, host: Host) -> AbstractContextManager[Remote]:
    """What *url* has, from *offset* on if it can be had so, else from its beginning.

    :raises Unavailable: it cannot be had
    :raises Broken: the connection is gone
    :raises Cancelled: *host* stops
    """
    scheme = urlsplit(url).scheme
    if scheme == "file":
        return _file(url, offset, host)
    if scheme == "sftp":
        from sfvm.sources.sftp import open_sftp  # paramiko takes a third of a second

        return open_sftp(url, offset, host)
    return _http(url, offset, host)


@contextlib.contextmanager
def _file(url: str, offset: int, host: Host) -> Iterator[Remote]:
    path = Path(unquote(urlsplit(url).path))
    try:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb")  # a FIFO would block
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}", "correct the path") from error
    with file:
        if not path.is_file():
            raise Unavailable(f"{path} is not a regular file", "correct the path")
        file.seek(offset)

        def read(count: int) -> bytes:
            try:
                return file.read(count)
            except OSError as error:
                raise Unavailable(f"{path}: {error.strerror}") from error

        yield Remote(offset, os.fstat(file.fileno()).st_size, read)


@contextlib.contextmanager
def _http(url: str, offset: int, host: Host) -> Iterator[Remote]:
    headers = {"User-Agent": f"sfvm/{__version__}"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=STALLED)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
                again = _http(url, 0, host)
            else:
                raise Unavailable(f"the server answers {error.code} {error.reason}") from error
        with again as remote:
            yield remote
        return
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: no URL after all
        raise Unavailable(str(getattr(error, "reason", error))) from error
    with response:
        begins = _begin(response.headers.get("Content-Range", "")) if response.status == 206 else 0
        length = response.headers.get("Content-Length", "")

        def read(count: int) -> bytes:
            try:
                return bytes(response.read(count))
            except (OSError, http.client.HTTPException) as error:
                host.stop.check()
                raise Broken(f"the connection broke ({error})") from error

        size = begins + int(length) if length.isdecimal() else None
        with host.stop.killing(_ender(response)):
            yield Remote(begins, size, read)


def _begin(content_range: str) -> int:
    """The first byte of ``bytes 5-9/10`` (RFC 9110, section 14.4).

    :raises Unavailable: it is not that
    """
    first = content_range.removeprefix("bytes ").partition("-")[0].strip()
    if not first.isdecimal():
        raise Unavailable("the server answers with a part of the content that it does not name")
    return int(first)


def _ender(response: Any) -> Callable[[], None]:
    """What makes a thread that reads *response* go on at once."""

    def end() -> None:
        with contextlib.suppress(OSError, ValueError), socket.socket(fileno=os.dup(response.fileno())) as connection:
            connection.shutdown(socket.SHUT_RDWR)

    return end
