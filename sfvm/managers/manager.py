"""What a package manager is, what a step wants of one, and the repositories that it is told of."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sfvm.errors import StepError

OPEN = r"s,https://([^][/:@[:space:]]+)(:443)?(/|[[:space:]]|$),http://\1:443\3,g"
"""What :func:`sfvm.downloads.policy.plain` does, as a command of sed -E."""


@dataclass(frozen=True)
class Change:
    """What one step wants. Words of *install* are names, or ``name=version`` whatever the manager."""

    install: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    hold: tuple[str, ...] = ()
    unhold: tuple[str, ...] = ()
    upgrade: bool = False
    recommends: bool = False


@dataclass(frozen=True)
class Source:
    """A repository: *name* is that of its file or section, *suites* and *components* are apt's. *index* says whether
    the index must be signed where the manager checks the packages themselves, too (all but apt and apk). *rsa* are
    apk's keys, by the names of their files; all others know keys of OpenPGP."""

    name: str
    url: str
    suites: tuple[str, ...] = ()
    components: tuple[str, ...] = ()
    index: bool = True
    rsa: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Addition:
    """What adds a repository to a guest: *files* of the guest by path, then a *script* of the guest."""

    files: Mapping[str, str]
    script: str


@dataclass(frozen=True)
class Manager:
    """A package manager: *program* shows that a guest has it; the scripts take quoted words for ``{}``."""

    name: str
    program: str
    refresh: str
    install: str
    remove: str
    upgrade: str
    clean: str
    hold: Callable[[Sequence[str]], str]
    """A script that keeps packages (names, which no shell needs quoted) at the version they have."""
    unhold: Callable[[Sequence[str]], str]
    """A script that ends this; what is not held is no error."""
    add: Callable[[Source, Sequence[str]], Addition]
    """From a repository and the OpenPGP keys that sign it (paths that the guest sees while the script runs).

    :raises StepError: this manager cannot have such a repository
    """
    group: str = ""
    """How a group is written among packages; empty where there are none."""
    version: str = "{name}={version}"
    """How a package of one version is written."""
    recommends: str = ""
    """What scripts get in place of ``{recommends}`` when recommended packages are wanted."""
    plain: str = ""
    """The same when they are not."""

    def script(self, change: Change) -> str:
        """The commands for one ``packages`` step.

        :raises StepError: groups are wanted of a manager that has none
        """
        if change.groups and not self.group:
            raise StepError(
                f"{self.name} has no groups of packages",
                why=f"wanted is {' '.join(change.groups)}",
                hint="install the packages by their names",
            )
        weak = self.recommends if change.recommends else self.plain
        words = [self._word(word) for word in change.install]
        words += [self.group.replace("{}", group) for group in change.groups]
        lines = [self.unhold(change.unhold)] if change.unhold else []
        if words or change.upgrade:
            lines.append(self.refresh)
        if change.upgrade:
            lines.append(self.upgrade.replace("{recommends}", weak))
        if words:
            lines.append(self.install.replace("{recommends}", weak).replace("{}", shlex.join(words)))
        if change.remove:
            lines.append(self.remove.replace("{}", shlex.join(change.remove)))
        if change.hold:
            lines += [self.unhold(change.hold), self.hold(change.hold)]
        return "\n".join([*lines, self.clean]) + "\n"

    def _word(self, word: str) -> str:
        name, equals, version = word.partition("=")
        if not equals or name.endswith(("<", ">", "!", "~")):  # no version, or a condition that some managers know
            return word
        return self.version.format(name=name, version=version)


def in_the_open(files: str, directory: str, edit: str = OPEN, unless: str = "false") -> str:
    """A script: *directory* has copies of *files* (words of the shell) in which https is written so that what is
    fetched passes the proxy in the open, and can be kept and locked; where *unless*, a command about ``$file``, is
    true, as they are. The guest's own configuration stays as it is."""
    return f"""mkdir -p {directory}
for file in {files}; do
    [ -f "$file" ] || continue
    if {unless}; then cat "$file"; else sed -E '{edit}' "$file"; fi >"{directory}/${{file##*/}}"
done"""


def placed(source: Source, keys: Sequence[str], directory: str) -> tuple[list[str], str]:
    """The paths below *directory* for the *keys* of a repository, and a script that copies them there.

    :raises StepError: there is none
    """
    paths = [f"{directory}/{source.name}{f'-{number}' if number else ''}.asc" for number in range(len(keys))]
    lines = [f"mkdir -p {directory}"]
    lines += [f"cp {key} {path}; chmod 644 {path}" for key, path in zip(given(source, keys), paths, strict=True)]
    return paths, "\n".join(lines) + "\n"


def given(source: Source, keys: Sequence[str]) -> Sequence[str]:
    """The *keys* of a repository.

    :raises StepError: there is none
    """
    if not keys:
        raise StepError(
            f"repository {source.name} has no key that this guest's package manager knows",
            why="it checks signatures of OpenPGP",
            hint='say keys="FILE", or key-url and fingerprint',
        )
    return keys


def literal(name: str) -> str:
    """The name of a package as a regular expression of sed -E."""
    return re.sub(r"[.+]", r"[\g<0>]", name)
