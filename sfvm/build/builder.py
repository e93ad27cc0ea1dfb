"""The build of a plan: leases what it needs, prepares the appliance, and hands the chains to the schedule."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sfvm.build.scheduler import Job, Schedule, limit, raise_first
from sfvm.cancellation import Cancellation
from sfvm.config import Settings
from sfvm.downloads.policy import Policy
from sfvm.downloads.store import Store
from sfvm.errors import RepositoryError, SfvmError, StepError, UsageError
from sfvm.events import Listener, NodeFailed, Planned, phase
from sfvm.repository import Repository
from sfvm.tree import Node, Plan

if TYPE_CHECKING:
    from sfvm.appliance.machine import Appliance
    from sfvm.build.chain import Chain

Visitor = Callable[[Node, "Appliance", StepError], None]
ON_ERROR = ("stop", "shell", "keep-going")
ROOM = 256 << 20
"""Bytes that must be free beyond what history says the nodes will take."""


def build(
    plan: Plan,
    repository: Repository,
    settings: Settings,
    listener: Listener,
    *,
    on_error: str = "stop",
    shell: Visitor | None = None,
    also: Sequence[Job] = (),
    policy: Callable[[Node], Policy] | None = None,
) -> None:
    """Build every node of *plan* that is not in the repository.

    *on_error* says what a failing step does: ``stop`` the build, open a ``shell`` (by calling *shell* while the
    appliance still runs) and stop, or ``keep-going`` with the nodes that do not depend on it. Safe to be killed at any
    instant: a later build resumes at the last checkpoint. *also* are jobs that use nodes of the plan: each begins as
    soon as its node is sealed, and counts as an appliance like the chains; their errors are errors of the build.
    *policy* says what a node's steps may download; without it that follows from *settings*.

    :raises StepError: the first step that failed
    :raises BaseException: what a job of *also* has raised first
    :raises SfvmError: the repository is full, the appliance cannot be started, …
    """
    if on_error not in ON_ERROR:
        raise UsageError(f"unknown reaction {on_error!r} to errors", hint="known: " + ", ".join(ON_ERROR))
    nodes = [entry.node for entry in plan.entries]
    listener(
        Planned(
            nodes=tuple(node.name for node in nodes),
            cached=tuple(entry.node.name for entry in plan.entries if entry.action == "hit"),
            parents={node.name: node.parent.name if node.parent else None for node in nodes},
            expected={entry.node.name: entry.seconds for entry in plan.entries},
        )
    )
    with repository.lease(node.key for node in nodes):
        there = repository.built_keys()
        gone = [entry.node for entry in plan.entries if entry.action == "hit" and entry.node.key not in there]
        if gone:  # between the plan and the lease
            raise RepositoryError(
                f"{gone[0].name} was removed by another process just now", hint="run the same command again"
            )
        for entry in plan.entries:
            node = entry.node
            if entry.action == "hit" and not node.pin.trial and repository.current(node.name) != node.key:
                repository.point(node.name, node.key)
        if plan.chains:
            repository.require_space(ROOM + (plan.bytes or 0), "the build")
        if plan.chains or also:
            rules = policy or (lambda node: Policy.of(settings))
            _run(plan.chains, also, repository, settings, listener, on_error=on_error, shell=shell, policy=rules)


def _run(
    chains: Sequence[Chain],
    also: Sequence[Job],
    repository: Repository,
    settings: Settings,
    listener: Listener,
    *,
    on_error: str,
    shell: Visitor | None,
    policy: Callable[[Node], Policy],
) -> None:
    from sfvm.appliance import image as appliance_image  # a build of what is built needs no appliance
    from sfvm.build.chain import ChainBuilder
    from sfvm.downloads.transfer import Transfers

    with phase(listener, "", "appliance image"):
        image = appliance_image.ensure(settings.cache, listener)  # once, before several look for it

    def job(chain: Chain) -> Job:
        first = chain[0]
        return Job(first.name, first.parent.key if first.parent else None, functools.partial(work, chain))

    def work(chain: Chain, stop: Cancellation, at_once: int) -> None:
        builder = ChainBuilder(
            chain,
            repository,
            image,
            replace(settings, cpus=settings.cpus_each(at_once)),
            listener,
            sealed=schedule.sealed,
            stop=stop,
            transfers=transfers,
            policy=policy,
            shell=shell if on_error == "shell" else None,
        )
        try:
            builder.run()
        except SfvmError as error:
            listener(NodeFailed(error.node or chain[0].name, error.render()))
            raise

    missing = [node.key for chain in chains for node in chain]
    # What uses a node comes before chains that could begin, too: it was sealed just now, and is in memory.
    todo = [*also, *(job(chain) for chain in chains)]
    transfers = Transfers(Store(repository.downloads))
    schedule = Schedule(todo, limit(settings), missing, keep_going=on_error == "keep-going")
    try:
        raise_first(schedule.run(), listener)
    finally:
        transfers.close()
