"""``sfvm completion``: the script that makes a shell complete commands, options and node names."""

from __future__ import annotations

import click

from sfvm.cli.options import Command


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a completion script for a shell.

    \b
    Examples:
      source <(sfvm completion bash)
      sfvm completion zsh > ~/.zfunc/_sfvm
      sfvm completion fish > ~/.config/fish/completions/sfvm.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None  # click has these three
    click.echo(kind(context.find_root().command, {}, "sfvm", "_SFVM_COMPLETE").source())
