"""Content at a URL, from any byte on: one function for each scheme."""

from __future__ import annotations

import contextlib
import http.client
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sfvm.downloads.access import Access
from sfvm.downloads.policy import Refused
from sfvm.downloads.upstream import BLOCK, Answer, Line, Target


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
    read: Callable[[], bytes]
    """Some more of it; nothing at the end.

    :raises Broken: the connection is gone
    """


def connect(url: str, offset: int, access: Access) -> AbstractContextManager[Remote]:
    """What *url* has, from *offset* on if it can be had so, else from its beginning.

    :raises Unavailable: it cannot be had
    :raises Broken: the connection is gone
    :raises Cancelled: *access* stops
    """
    scheme = urlsplit(url).scheme
    if scheme == "file":
        return _file(url, offset, access)
    if scheme == "sftp":
        from sfvm.sources.sftp import open_sftp  # paramiko takes a third of a second

        return open_sftp(url, offset, access)
    return _http(url, offset, access)


@contextlib.contextmanager
def _file(url: str, offset: int, access: Access) -> Iterator[Remote]:
    path = Path(unquote(urlsplit(url).path))
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO would block
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}", "correct the path") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Unavailable(f"{path} is not a regular file", "correct the path")
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        offset = offset if offset <= size else 0  # what is there was another file's
        file.seek(offset)

        def read() -> bytes:
            try:
                return file.read(BLOCK)
            except OSError as error:
                raise Unavailable(f"{path}: {error.strerror}") from error

        yield Remote(offset, size, read)


@contextlib.contextmanager
def _http(url: str, offset: int, access: Access) -> Iterator[Remote]:
    line = Line()
    with contextlib.ExitStack() as stack:
        stack.enter_context(access.stop.killing(line.cut))
        answer = _answer(url, offset, access, line)
        if answer.status == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
            answer.close()
            answer = _answer(url, 0, access, line)
        stack.callback(answer.close)
        if answer.status not in (200, 206):
            raise Unavailable(f"the server answers {answer.status} {answer.reason}")
        if answer.start is None:
            raise Unavailable("the server answers with a part of the content that it does not name")
        blocks = answer.blocks()

        def read() -> bytes:
            try:
                return next(blocks, b"")
            except http.client.IncompleteRead as error:
                access.stop.check()
                raise Broken(f"the connection ended {error.expected} bytes too early") from error
            except (OSError, http.client.HTTPException) as error:
                access.stop.check()
                raise Broken(f"the connection broke ({error})") from error

        yield Remote(answer.start, answer.total, read)


def _answer(url: str, offset: int, access: Access, line: Line) -> Answer:
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    try:
        target = Target.parse(url, access.policy)
        return access.transfers.pool.ask("GET", target, headers, access.policy, line)
    except Refused as error:
        raise Unavailable(str(error), "see docs/network.md") from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: headers that are none
        access.stop.check()
        raise Unavailable(str(error) or type(error).__name__) from error
