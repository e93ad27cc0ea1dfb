"""The entry point: runs a command and turns whatever ends it into one message and one exit status.

0: done; 1: an error; 2: wrong use; 128 + n: ended by signal n. A traceback never reaches the user.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import io
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import click

from sfvm.cli.signals import interruptible
from sfvm.errors import Interrupted, SfvmError, UsageError, suggestion
from sfvm.guest import CommandFailed

_ENVIRONMENT = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EMFILE,
    errno.ENFILE,
    errno.EIO,
    errno.ENAMETOOLONG,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.EFBIG,
}
"""The system's refusals that are no bug of ours."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name; None: the process's own) and return its exit status."""
    # Nearly all that a command makes lives until its end: looking for garbage is a tenth of a cached build.
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None when it was closed from the start
            stream.reconfigure(errors="backslashreplace")  # not every terminal has ✓, nor is every path UTF-8
    words = list(sys.argv[1:] if arguments is None else arguments)
    with interruptible():
        try:
            from sfvm.cli.commands import cli  # a tenth of a second: time enough for Ctrl-C

            if instruction := os.environ.get("_SFVM_COMPLETE"):
                from click.shell_completion import shell_complete

                return shell_complete(cli, {}, "sfvm", "_SFVM_COMPLETE", instruction)
            # Not cli.main(): it would take a broken pipe anywhere for one of ours.
            with cli.make_context("sfvm", words) as context:
                result = cli.invoke(context)
            if sys.stdout:  # None when it was closed from the start
                sys.stdout.flush()
        except BrokenPipeError as error:
            return _broken_pipe() if _unread(sys.stdout) or _unread(sys.stderr) else report(error)
        except BaseException as error:
            return report(error)
    return result if isinstance(result, int) else 0


def report(error: BaseException) -> int:
    """Tell the user of *error* on stderr; return the exit status."""
    match error:
        case click.exceptions.Exit():
            return error.exit_code
        case click.Abort() | KeyboardInterrupt():
            error = Interrupted(signal.SIGINT)
        case click.ClickException() if type(error).__name__ == "NoArgsIsHelpError":  # of click 8.2; before, no error
            with contextlib.suppress(OSError):
                error.show()
            return error.exit_code
        case click.ClickException():
            error = _usage(error)
        case FileNotFoundError() if not _is_somewhere():
            error = SfvmError("the working directory is not there any more", hint="cd to one that is")
        case OSError() if error.errno in _ENVIRONMENT:
            error = _refusal(error)
        case CommandFailed():
            error = SfvmError(
                "a command in the appliance failed", why=str(error), detail=error.output, hint="sfvm doctor"
            )
    if not isinstance(error, SfvmError):
        error = _bug(error)
    from sfvm.cli.output import say

    try:
        if sys.stderr:
            say(error)
            sys.stderr.flush()
    except OSError:
        pass  # nobody can be told; the exit status remains
    return error.exit_status


def _usage(error: click.ClickException) -> UsageError:
    """click's error in our words."""
    context = getattr(error, "ctx", None)
    hint = f"{context.command_path} --help" if context else "sfvm --help"
    what = error.format_message()
    if isinstance(error, click.NoSuchOption) and context:
        known = [name for parameter in context.command.get_params(context) for name in parameter.opts]
        close = suggestion(error.option_name, [name for name in known if name.startswith("--")])
        what = f"there is no option {error.option_name!r}"
        if context.info_name == "run":
            hint = "sfvm run NODE -- COMMAND: options of COMMAND stand behind --"
        hint = close if close and close.startswith("did") else hint
    elif isinstance(error, click.NoSuchOption):
        what = f"there is no option {error.option_name!r}"
    return UsageError(what.rstrip("."), hint=hint)


def _is_somewhere() -> bool:
    try:
        Path.cwd()
    except OSError:
        return False
    return True


def _refusal(error: OSError) -> SfvmError:
    where = " and ".join(str(name) for name in (error.filename, error.filename2) if name)
    hints = {
        errno.ENOSPC: "free some room; `sfvm gc` removes what no node needs",
        errno.EDQUOT: "free some room; `sfvm gc` removes what no node needs",
        errno.EMFILE: "raise the limit of open files (ulimit -n)",
    }
    what = f"{where} cannot be used" if where else "the system refused"
    return SfvmError(what, why=error.strerror, hint=hints.get(error.errno or 0))


def _bug(error: BaseException) -> SfvmError:
    """An error that nobody foresaw: its traceback goes to a file."""
    import tempfile
    import traceback

    from sfvm import __version__

    text = "".join(traceback.format_exception(error))
    head = f"sfvm {__version__}, Python {sys.version.split()[0]}, {time.strftime('%Y-%m-%d %H:%M:%S')}\n{sys.argv}\n\n"
    name = f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    hint = "report it, with what you did"
    try:
        import platformdirs

        path = platformdirs.user_state_path("sfvm") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head + text, encoding="utf-8", errors="backslashreplace")
        hint += f" and the file {path}"
    except OSError:
        try:
            handle, temporary = tempfile.mkstemp(prefix="sfvm-", suffix=f"-{name}")
            with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(head + text)
            hint += f" and the file {temporary}"
        except OSError as nowhere:
            hint += f" (no crash file could be written: {nowhere.strerror})"
    last = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    return SfvmError("this is a bug in sfvm", why=last, hint=hint)


def _unread(stream: IO[str] | None) -> bool:
    """Whether *stream* is a pipe that nobody reads any more (POLLERR, poll(2))."""
    if stream is None:
        return False
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _broken_pipe() -> int:
    """The reader of our output went away: say nothing, and let the interpreter's last flush go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        if _unread(stream):
            os.dup2(nowhere, stream.fileno())
    return 128 + signal.SIGPIPE
