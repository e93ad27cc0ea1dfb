"""sftp://, as ssh does it: the user's known_hosts, configuration, agent and keys. Nothing is asked, nothing added."""

from __future__ import annotations

import contextlib
import getpass
import logging
import socket
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import paramiko

from sfvm.downloads.access import Access
from sfvm.downloads.policy import Policy, Refused
from sfvm.downloads.upstream import BLOCK, STALLED, Target, reach
from sfvm.sources.remote import Broken, Remote, Unavailable

SYSTEM_HOSTS = Path("/etc/ssh/ssh_known_hosts")
REQUEST = paramiko.SFTPFile.MAX_REQUEST_SIZE
REQUESTS = 64
"""Reads on their way at once, of :data:`REQUEST` bytes (32 KiB) each."""
logging.getLogger("paramiko").addHandler(logging.NullHandler())  # it would tell the terminal what we tell
LOST = (OSError, EOFError, paramiko.SSHException)


@contextlib.contextmanager
def open_sftp(url: str, offset: int, access: Access) -> Iterator[Remote]:
    """What *url* has; its path is absolute, or begins with ``/~/``.

    :raises Unavailable: the server is unknown or another, lets nobody in, or has no such file
    """
    parts = urlsplit(url)
    path = unquote(parts.path).removeprefix("/~/")
    with paramiko.SSHClient() as client, access.stop.killing(client.close):
        _connect(client, parts.hostname or "", parts.port, parts.username, access.policy)
        try:
            sftp = client.open_sftp()
            channel = sftp.get_channel()
            if channel is not None:
                channel.settimeout(STALLED)
            file = sftp.open(path, "rb")
            size = file.stat().st_size
        except LOST as error:
            raise Unavailable(f"{path}: {getattr(error, 'strerror', None) or error}") from error
        if size is None:
            raise Unavailable(f"{path}: the server does not tell its size")
        offset = offset if offset <= size else 0  # what is there was another file's
        with file:
            file.seek(offset)
            asked = offset

            def read() -> bytes:
                nonlocal asked
                try:
                    asked = _ask(file, asked, min(file.tell() + REQUESTS * REQUEST, size))
                    return bytes(file.read(BLOCK))
                except LOST as error:
                    access.stop.check()
                    raise Broken(f"the connection broke ({error or type(error).__name__})") from error

            yield Remote(offset, size, read)


def _ask(file: Any, start: int, end: int) -> int:
    """Ask for these bytes of *file*, ahead of reading them; return *end*. As SFTPFile.prefetch does, but that has a
    thread, which tells the terminal of a connection that is lost, or polls for ever."""
    if chunks := [(place, min(REQUEST, end - place)) for place in range(start, end, REQUEST)]:
        file._prefetching, file._prefetch_done = True, False
        file._prefetch_thread(chunks, None)
    return end


def _connect(client: paramiko.SSHClient, name: str, port: int | None, user: str | None, policy: Policy) -> None:
    configured = _configuration(name)
    host = str(configured.get("hostname", name))
    keys: Any = [str(Path(key).expanduser()) for key in configured.get("identityfile", [])]  # the stubs want one
    try:
        port = port or int(configured.get("port", 22))
        user = user or str(configured.get("user", "")) or getpass.getuser()
        client.set_missing_host_key_policy(_Refuse(name, port))
        client.load_system_host_keys()
        if SYSTEM_HOSTS.exists():
            client.load_system_host_keys(str(SYSTEM_HOSTS))
        client.connect(
            host, port, user, key_filename=keys or None, sock=_reach(policy, host, port),
            timeout=STALLED, banner_timeout=STALLED, auth_timeout=STALLED,
        )  # fmt: skip
    except paramiko.BadHostKeyException as error:
        raise Unavailable(
            f"the host key of {name} is not the one in known_hosts: it is {_fingerprint(error.key)}",
            "somebody may stand in between; if the key was changed on purpose, correct ~/.ssh/known_hosts",
        ) from error
    except paramiko.AuthenticationException as error:
        raise Unavailable(
            f"{user}@{name} is not let in ({error})",
            f"`ssh {user}@{name}` must work without a question: ssh-add the key, or name the user in the URL",
        ) from error
    except (*LOST, ValueError, KeyError) as error:  # KeyError: nobody knows the user's name
        raise Unavailable(f"{name} port {port or 22}: {getattr(error, 'strerror', None) or error}") from error


def _reach(policy: Policy, host: str, port: int) -> socket.socket:
    """:raises Unavailable: *policy* does not let anybody go there"""
    try:
        if policy.offline:
            raise Refused("offline: it is not in the download cache")
        policy.check(host, port)
        return reach(Target("", "sftp", host, port, ""), policy)
    except Refused as error:
        raise Unavailable(str(error), "see docs/network.md") from error


def _configuration(name: str) -> Any:
    """What ~/.ssh/config says of the host *name*."""
    path = Path("~/.ssh/config").expanduser()
    try:
        return paramiko.SSHConfig.from_path(str(path)).lookup(name) if path.exists() else {}
    except (OSError, paramiko.SSHException, ValueError) as error:
        raise Unavailable(f"{path} cannot be read: {error}", "correct it") from error


class _Refuse(paramiko.MissingHostKeyPolicy):
    """A host that known_hosts does not know is never taken for the right one."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.port = port

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        word = self.name if self.port == 22 else f"-p {self.port} {self.name}"
        raise Unavailable(
            f"known_hosts does not have the host {self.name}, whose key is {_fingerprint(key)}",
            f"compare that with what its owner says, then connect once with `ssh {word}`",
        )


def _fingerprint(key: paramiko.PKey) -> str:
    """As ssh-keygen -l shows it."""
    return f"{key.get_name()} SHA256:{b64encode(sha256(key.asbytes()).digest()).decode().rstrip('=')}"
