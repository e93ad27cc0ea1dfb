"""Content at a URL, from any byte on: one function for each scheme."""

from __future__ import annotations

import contextlib
import http.client
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from sfvm.downloads.policy import Refused
from sfvm.verbs import Host

if TYPE_CHECKING:
    from sfvm.downloads.upstream import Answer

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
    parts = urlsplit(url)
    if parts.scheme == "file":
        return _file(url, offset, host)
    if host.policy.offline:
        raise Unavailable("offline: it is not in the download cache", "build once without --offline")
    if parts.scheme == "sftp":
        _check(parts.hostname or "", parts.port or 22, host)
        from sfvm.sources.sftp import open_sftp  # paramiko takes a third of a second

        return open_sftp(url, offset, host)
    return _http(url, offset, host)


def _check(name: str, port: int, host: Host) -> None:
    """:raises Unavailable: the policy does not let it go there"""
    try:
        host.policy.check(name, port)
    except Refused as refused:
        raise Unavailable(str(refused), "see docs/network.md") from None


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
    from sfvm.downloads.upstream import Line, Pool, Target  # few builds fetch

    headers = {"Range": f"bytes={offset}-"} if offset else {}
    line = Line()
    with contextlib.closing(Pool()) as pool, host.stop.killing(line.cut):
        try:
            target = Target.parse(url, host.policy)
            answer = pool.ask("GET", target, headers, host.policy, line)
        except Refused as refused:
            raise Unavailable(str(refused), "see docs/network.md") from None
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: no URL after all
            raise Unavailable(str(error) or type(error).__name__) from error
        with contextlib.closing(answer):
            if answer.status == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
                again = _http(url, 0, host)
            elif answer.status not in (200, 206):
                raise Unavailable(f"the server answers {answer.status} {answer.reason}")
            else:
                again = _body(answer, host)
            with again as remote:
                yield remote


@contextlib.contextmanager
def _body(answer: Answer, host: Host) -> Iterator[Remote]:
    begins = _begin(answer.headers.get("Content-Range", "")) if answer.status == 206 else 0
    blocks, rest = answer.blocks(), b""

    def read(count: int) -> bytes:
        nonlocal rest
        try:
            while len(rest) < count and (block := next(blocks, b"")):
                rest += block
        except http.client.IncompleteRead:
            pass  # what is missing the caller sees by the size
        except (OSError, http.client.HTTPException) as error:
            host.stop.check()
            raise Broken(f"the connection broke ({error})") from error
        found, rest = rest[:count], rest[count:]
        return found

    yield Remote(begins, None if answer.length is None else begins + answer.length, read)


def _begin(content_range: str) -> int:
    """The first byte of ``bytes 5-9/10`` (RFC 9110, section 14.4).

    :raises Unavailable: it is not that
    """
    first = content_range.removeprefix("bytes ").partition("-")[0].strip()
    if not first.isdecimal():
        raise Unavailable("the server answers with a part of the content that it does not name")
    return int(first)
