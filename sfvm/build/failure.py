"""What a failing step becomes: one error that names the step, shows its last lines, and says how to go on."""

from __future__ import annotations

import shutil
from pathlib import Path

from sfvm.errors import ApplianceError, SfvmError, StepError
from sfvm.guest import CommandFailed
from sfvm.tree import Node
from sfvm.verbs import Base, Step

TIMED_OUT = 124
"""The exit status of a command that ran out of time, as timeout(1) has it."""
LITTLE_ROOM = 16 << 20


def describe(error: CommandFailed | SfvmError, node: Node, index: int, verb: Step | Base, work: Path) -> StepError:
    """The error for *verb*, step number *index* of *node* (0: its base), whose overlays are below *work*."""
    where = f"step {index} of {len(node.steps)}" if index else "base"
    what = f"{where} failed: {verb.title()}"
    resume = "the next `sfvm build` resumes at this step" if index else "the next `sfvm build` begins it again"
    detail: tuple[str, ...]
    if isinstance(error, CommandFailed):
        timed_out = error.status == TIMED_OUT
        why = "it did not end within its timeout" if timed_out else f"exit status {error.status}"
        detail = error.output
        hint = f"look: sfvm shell {node.name} --failed; all output: sfvm log {node.name}; {resume}"
    else:
        why = error.what if error.why is None else f"{error.what}: {error.why}"
        detail = error.detail
        hint = error.hint or f"all output: sfvm log {node.name}; {resume}"
    if shutil.disk_usage(work).free < LITTLE_ROOM:
        why = f"the disk that holds {work} is full ({why})"
        hint = f"free some room (`sfvm gc` may help); nothing is lost: {resume}"
    elif isinstance(error, ApplianceError):
        hint = f"more memory may help (SFVM_MEMORY, in MiB); {resume}"
    return StepError(what, place=verb.place, node=node.name, why=why, hint=hint, detail=detail)
