"""``sfvm doctor``: everything sfvm needs, found or missing, with the fix."""

from __future__ import annotations

import sys

import click

from sfvm.cli.options import Command, Options, pass_options
from sfvm.cli.output import style, write_json

MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "missing": ("✗", "red")}
WIDTH = 23


@click.command(cls=Command)
@click.option("--probe/--no-probe", default=True, help="Boot the appliance to see whether KVM runs it. [yes, if built]")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@pass_options
def doctor(options: Options, probe: bool, as_json: bool) -> int:
    """Check what sfvm needs, and say how to get it.

    Exit 1 when something is missing that sfvm cannot do without.

    \b
    Examples:
      sfvm doctor
      sfvm doctor --json | jq '.[] | select(.state != "ok")'
    """
    from sfvm.cli import needs
    from sfvm.cli.progress import Plain

    listener = Plain(sys.stderr, only_notices=options.quiet or as_json)
    findings = []
    for finding in needs.examine(options.settings(), listener, probe=probe):
        findings.append(finding)
        if not as_json:
            mark, color = MARKS[finding.state]
            click.echo(f"{style(mark, fg=color)} {finding.need:{WIDTH}} {finding.detail}")
            if finding.fix:
                click.echo(f"  {'':{WIDTH}} {style('fix:', bold=True)} {finding.fix}")
    if as_json:
        write_json([finding.to_json() for finding in findings])
    return 0 if needs.needed(findings) else 1
