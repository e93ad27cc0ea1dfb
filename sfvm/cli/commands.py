"""The command ``sfvm`` with all its commands."""

from __future__ import annotations

import click

from sfvm import __version__
from sfvm.cli import (
    building,
    completion,
    contents,
    doctor,
    formats,
    inspecting,
    locking,
    publishing,
    specs,
    storage,
    visiting,
)
from sfvm.cli.options import Group

SECTIONS = {
    "Build": (building.build, building.plan, building.bundle, publishing.publish),
    "Keep": (locking.lock, locking.update, locking.refresh),
    "Look": (
        inspecting.tree,
        inspecting.why,
        inspecting.show,
        inspecting.sbom,
        contents.inspect,
        contents.diff,
        inspecting.log,
        visiting.shell,
        visiting.run,
    ),
    "Repository": (storage.rm, storage.gc, storage.verify, storage.export, storage.import_),
    "Specs": (specs.validate, specs.schema, specs.spec),
    "Formats": (formats.formats, formats.format_),
    "sfvm itself": (doctor.doctor, completion.completion),
}


class Sfvm(Group):
    """The outermost group: its help lists the commands by what they are for."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, members in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(str(member.name), member.get_short_help_str(90)) for member in members])


@click.group(cls=Sfvm, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", message="sfvm %(version)s")
def cli() -> None:
    """Build trees of filesystems inside helper VMs, without root, and bundle any of them for any platform.

    \b
    Examples:
      sfvm build busybox                          the smallest first step
      sfvm build debian --bundle qcow2            a disk image that boots
      sfvm tree                                   what is built, stale, missing
      sfvm doctor                                 what sfvm needs, found or missing
    """


for _members in SECTIONS.values():
    for _member in _members:
        cli.add_command(_member)
