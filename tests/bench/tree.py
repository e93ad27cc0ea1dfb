"""Trees: branches side by side, and an edit in a leaf that ends as an image."""

from __future__ import annotations

import itertools
import statistics

from tests.bench.debian import ground
from tests.bench.measure import Bench, Result, alternately, command, sfvm

HEAD = '<filesystem xmlns="urn:sfvm:1" name="{}" parent="{}"><param name="text" default="a"/><steps>'
TAIL = "</steps></filesystem>"


def siblings(bench: Bench) -> list[Result]:
    """Ten leaves of one parent, and one of them."""
    names = [f"leaf{number}" for number in range(10)]
    # The names are in the content: what is equal is one node.
    steps = '<file path="/etc/{}">${{text}}</file><run network="no">sha256sum /bin/busybox >/etc/sum</run>'
    specs = bench.specs(**{n: HEAD.format(n, "busybox") + steps.format(n) + TAIL for n in names})

    def build(text: str, *wanted: str) -> tuple[float, float]:
        arguments = [word for name in wanted for word in ("--param", f"{name}:text={text}")]
        run = sfvm("build", *wanted, *arguments, "--specs", str(specs), repository=bench.repository)
        return run.seconds, run.peak

    build("first", names[0])  # with the parent, untimed
    build("two", *names[:2])  # appliances that run at once have another shape: it boots here
    one = statistics.median(build(text, names[0])[0] for text in "xyz")
    ten, peak = build("all", *names)
    return [
        Result("ten sibling leaves / one leaf", ten, one, 6),
        Result("ten sibling leaves, memory of sfvm", peak, None, 120, "MiB"),
    ]


def edit(bench: Bench) -> list[Result]:
    """A changed file in the leaf of a tree five deep, to a new qcow2 that boots; and the same by virt-customize."""
    chain = {f"e{n}": HEAD.format(f"e{n}", f"e{n - 1}" if n > 1 else "debian") for n in range(1, 5)}
    repository, texts, more = ground(bench)
    texts |= {name: f'{head}<file path="/srv/{name}">${{text}}</file>{TAIL}' for name, head in chain.items()}
    specs = bench.specs(**texts)
    output = bench.home / "out"

    numbers = itertools.count()

    def image() -> None:
        sfvm(
            "build", "e4", "--specs", str(specs), "--param", f"e4:text={next(numbers)}", "--bundle", "qcow2", "--force",
            "--output", str(output), *more, repository=repository,
        )  # fmt: skip

    image()  # the tree, untimed
    start, copy, result = bench.home / "start.qcow2", bench.home / "copy.qcow2", bench.home / "result.qcow2"
    (output / "e4-qcow2" / "e4.qcow2").rename(start)

    def clear() -> None:
        for path in (copy, result):
            path.unlink(missing_ok=True)

    def customize() -> None:
        command(["qemu-img", "create", "-q", "-f", "qcow2", "-b", start, "-F", "qcow2", copy])()
        words = ["virt-customize", "-q", "--no-network", "--format", "qcow2", "-a", copy, "--write", "/srv/e4:c"]
        command(words, LIBGUESTFS_BACKEND="direct")()
        command(["qemu-img", "convert", "-O", "qcow2", copy, result])()

    ours, theirs = alternately([image, customize], 3, clear)
    return [Result("edit in a leaf to a qcow2 that boots / virt-customize", ours, theirs, 0.35)]
