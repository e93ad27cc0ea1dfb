"""Settings: where things are and how much of the machine sfvm may use."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from sfvm.errors import UsageError, suggestion

MOST_CPUS = 4
"""Package managers and their scripts have no use for more."""

LAST_SECOND = 253402300799
"""Of the year 9999: later times have no form in RFC 3339."""


@dataclass(frozen=True)
class Settings:
    """*connection* is ``auto``, ``direct`` or a libvirt URI; *jobs* is how many appliances may run at once (None: as
    the machine allows); *memory* is MiB and *cpus* virtual CPUs of one appliance (None:
    :meth:`cpus_each` says); *specs* are searched in order; *warm* lets appliances be restored from a saved state;
    *allow_hosts* are the only hosts from which anything is downloaded (none: any), and *offline* lets nothing be, see
    :mod:`sfvm.downloads.policy`."""

    repository: Path
    cache: Path
    connection: str = "auto"
    jobs: int | None = None
    memory: int = 1024
    cpus: int | None = None
    specs: tuple[Path, ...] = ()
    warm: bool = True
    allow_hosts: tuple[str, ...] = ()
    offline: bool = False

    def cpus_each(self, at_once: int = 1) -> int:
        """Virtual CPUs of an appliance, of which *at_once* run: unless the user has set a number, they share the
        machine's. Emulated, guests that have more together wait for each other's: an initramfs takes 120 s in each of
        two that have one CPU of two, 200 s where both have two."""
        return self.cpus or max(1, min((os.cpu_count() or 1) // at_once, MOST_CPUS))

    @property
    def saved_appliances(self) -> Path:
        """Where booted appliances are saved: this user's, and of no other machine."""
        return self.cache / "warm"


def data(kind: str) -> Path:
    """The directory of what ships with sfvm: ``specs``, ``formats`` or ``appliance``."""
    installed = Path(__file__).parent / "data" / kind
    return installed if installed.is_dir() else Path(__file__).parent.parent / kind


def load(
    *,
    repository: Path | None = None,
    connection: str | None = None,
    jobs: int | None = None,
    specs: Sequence[Path] = (),
    warm: bool | None = None,
    allow_hosts: Sequence[str] = (),
    offline: bool | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Settings:
    """Options first, then ``SFVM_HOME``, ``SFVM_CONNECTION``, ``SFVM_JOBS``, ``SFVM_MEMORY``, ``SFVM_CPUS``,
    ``SFVM_WARM`` and ``SFVM_OFFLINE`` (yes or no), ``SFVM_ALLOW_HOSTS`` (words), then ``config.toml`` with the same
    names in lower case (``repository connection jobs memory cpus warm offline allow_hosts``), then defaults.

    :raises UsageError: for a value of the wrong kind, or an unknown name in config.toml
    """
    configuration = platformdirs.user_config_path("sfvm")
    stored = _stored(configuration / "config.toml")

    def number(name: str, default: int | None) -> int | None:
        value = environment.get(f"SFVM_{name.upper()}", stored.get(name, default))
        if value is None:
            return None
        try:
            result = int(value)
        except (TypeError, ValueError, OverflowError):  # OverflowError: TOML's inf
            result = 0
        if result < 1:
            raise UsageError(f"{name} must be a whole number above 0, not {value!r}")
        return result

    def truth(name: str, default: bool) -> bool:
        value = str(environment.get(f"SFVM_{name.upper()}", stored.get(name, default))).lower()
        if value not in ("yes", "no", "true", "false", "1", "0"):
            raise UsageError(f"{name} must be yes or no, not {value!r}")
        return value in ("yes", "true", "1")

    def words(name: str) -> tuple[str, ...]:
        value = environment.get(f"SFVM_{name.upper()}", stored.get(name, ()))
        found = value.split() if isinstance(value, str) else value
        if not isinstance(found, list | tuple) or not all(isinstance(word, str) for word in found):
            raise UsageError(f"{name} must be words, not {value!r}")
        return tuple(found)

    def text(name: str, value: Any) -> str:
        if not isinstance(value, str) or "\0" in value:
            raise UsageError(f"{name} must be a text, not {value!r}")
        return value

    home = repository or environment.get("SFVM_HOME") or text("repository", stored.get("repository", ""))
    try:
        place = Path(home).expanduser().absolute() if home else platformdirs.user_data_path("sfvm")
    except RuntimeError as error:  # ~ of a user that there is not
        raise UsageError(f"the repository cannot be {str(home)!r}", why=str(error), hint="name a directory") from error
    return Settings(
        repository=place,
        cache=platformdirs.user_cache_path("sfvm"),
        connection=connection
        or environment.get("SFVM_CONNECTION")
        or text("connection", stored.get("connection", "auto")),
        jobs=jobs or number("jobs", None),
        memory=number("memory", 1024) or 1024,
        cpus=number("cpus", None),
        specs=(*specs, Path("specs"), configuration / "specs", data("specs")),
        warm=truth("warm", True) if warm is None else warm,
        offline=truth("offline", False) if offline is None else offline,
        allow_hosts=tuple(allow_hosts) or words("allow_hosts"),
    )


def source_date_epoch(otherwise: float, environment: Mapping[str, str] = os.environ) -> int:
    """The time that ``$SOURCE_DATE_EPOCH`` (reproducible-builds.org) gives to all that is made, in whole seconds since
    1970; *otherwise* when it is unset, no number, or beyond the year 9999."""
    given = environment.get("SOURCE_DATE_EPOCH", "")
    valid = given.isdecimal() and len(given) <= 12 and int(given) <= LAST_SECOND
    return int(given if valid else otherwise)


def _stored(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read", why=str(error)) from error
    import tomllib  # few have such a file

    try:
        content = tomllib.loads(text)
    except ValueError as error:
        raise UsageError(f"{path} cannot be read", why=str(error)) from error
    known = {"repository", "connection", "jobs", "memory", "cpus", "warm", "offline", "allow_hosts"}
    for name in content:
        if name not in known:
            raise UsageError(f"{path}: unknown setting {name!r}", hint=suggestion(name, known))
    return content
