"""apt: Debian, Ubuntu and their kin."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from sfvm import apt
from sfvm.errors import StepError
from sfvm.guest import LOCKED
from sfvm.managers.manager import Addition, Manager, Source, in_the_open, placed

OURS = "/run/sfvm/sources"
APT = (
    "apt-get -q -y -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-unsafe-io -o Dpkg::Options::=--force-confdef "
    "-o Dpkg::Options::=--force-confold -o Acquire::Languages=none -o Acquire::Retries=3 -o Acquire::PDiffs=false "
    f"-o Dir::State::lists={apt.LISTS} -o Dir::Cache::pkgcache={apt.HOME}/pkgcache.bin "
    f"-o Acquire::Check-Valid-Until=${{{LOCKED}:+false}} "
    f"-o Dir::Cache::srcpkgcache={apt.HOME}/srcpkgcache.bin -o DPkg::Pre-Install-Pkgs::={shlex.quote(apt.UNPACKED)}"
)
COMMAND = f"{APT} -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts={OURS}"
"""What reads the repositories, from our copies of what the guest has."""
KEYRINGS = "/etc/apt/keyrings"
SOURCES = "/etc/apt/sources.list.d"
SECRETS = "cat /etc/apt/auth.conf /etc/apt/auth.conf.d/*.conf 2>/dev/null | grep -q ."
"""Whether there are passwords: apt sends them over https alone (apt_auth.conf(5))."""


def stanza(url: str, suites: Sequence[str], components: Sequence[str], signed_by: Sequence[str]) -> str:
    """A repository as sources.list(5) has it in its deb822 form."""
    fields = [("Types", "deb"), ("URIs", url), ("Suites", " ".join(suites))]
    fields += [("Components", " ".join(components))] if components else []
    fields += [("Signed-By", " ".join(signed_by))]
    return "".join(f"{name}: {value}\n" for name, value in fields)


def _add(source: Source, keys: Sequence[str]) -> Addition:
    flat = all(suite.endswith("/") for suite in source.suites)
    if not source.suites or bool(source.components) is flat:
        raise StepError(
            f"repository {source.name} has no place in apt's configuration",
            why="suites and components are wanted; components must be absent where a suite is a directory (its name "
            "ends with a slash)",
            hint='say suites="bookworm" components="main", or suites="./"',
        )
    if not source.index:
        raise StepError(
            "apt trusts no repository without a signed index",
            why="its packages carry no signatures of their own",
            hint='leave out signed="packages"',
        )
    paths, script = placed(source, keys, KEYRINGS)
    content = stanza(source.url, source.suites, source.components, paths)
    return Addition({f"{SOURCES}/{source.name}.sources": content}, script)


def _mark(what: str, names: Sequence[str]) -> str:
    return f"apt-mark -q {what} {' '.join(names)}"


REMOVE = f"""set --
for name in {{}}; do
    case $name in
        *[!A-Za-z0-9.:+-]*) ;; # a pattern
        *) dpkg-query -W -f '${{db:Status-Status}}\\n' "$name" 2>/dev/null | grep -qvx not-installed || continue ;;
    esac
    set -- "$@" "$name"
done
[ $# = 0 ] || {APT} --auto-remove purge "$@"
""".rstrip()
"""apt knows nothing of a package that is neither installed nor in the lists, and these may not be there."""

MANAGER = Manager(
    "apt",
    "/usr/bin/apt-get",
    in_the_open(f"/etc/apt/sources.list {SOURCES}/*.list {SOURCES}/*.sources", OURS, unless=SECRETS)
    # Without the option apt is content with the indexes that it could get.
    + "\n"
    + apt.refresh(f"{COMMAND} -o APT::Update::Error-Mode=any update"),
    # A version that a spec names may be an older one.
    f"{COMMAND} {{recommends}} --allow-downgrades install {{}}",
    REMOVE,
    f"{COMMAND} {{recommends}} dist-upgrade",
    "apt-get clean; rm -rf /var/lib/apt/lists/*_* /var/cache/apt/*.bin",
    hold=lambda names: _mark("hold", names),
    unhold=lambda names: _mark("unhold", names),
    add=_add,
    group="{}^",  # a task
    recommends="--install-recommends",
    plain="--no-install-recommends",
)
