"""Steps and the network, in a real build: who has which, what they fetched, and what is offered to the next try."""

from __future__ import annotations

import hashlib

import pytest

from tests.downloads.servers import serving

pytestmark = pytest.mark.vm
TOOL = hashlib.sha256(b"tool").hexdigest()
STEPS = (
    '<run network="yes">wget -q -O /etc/first "$mirror/first"</run>',
    f'<download url="${{mirror}}/tool" sha256="{TOOL}" to="/tool"/>',
    '<run network="example.org">wget -q -O /etc/second "$mirror/second"</run>',
)


def test_what_a_node_fetched(project):
    with serving() as mirror:
        for name in ("first", "second", "tool"):
            mirror.serve(f"/{name}", name.encode())
        project.write("node", "busybox", *STEPS)
        spec = project.specs / "node.xml"
        spec.write_text(
            spec.read_text().replace("<steps>", f'<param name="mirror" default="{mirror.url("")}"/><steps>')
        )
        unnamed = project.sfvm("build", "node", status=1)
        assert "step 1 of 3" in unnamed.stderr
        assert f"{mirror.place} is the host itself: name it with --allow-host {mirror.place}" in unnamed.stderr
        assert mirror.asked == []

        named = ("--param", f"mirror={mirror.url('')}")
        failed = project.sfvm("build", "node", *named, status=1)
        assert "step 3 of 3" in failed.stderr
        assert f'{mirror.place} is not in network="example.org" of this step' in failed.stderr
        assert mirror.paths() == ["/first", "/tool"]

        project.edit("node", ('network="example.org"', 'network="127.0.0.1 example.org"'))
        project.sfvm("build", "node", *named)
        repository = project.repository
        fetched = repository.manifest(repository.names()["node"]).fetched
        assert [(one.url, one.size, one.cached) for one in fetched] == [
            (mirror.url("/first"), 5, False),
            (mirror.url("/tool"), 4, False),
            (mirror.url("/second"), 6, False),
        ], "also what was fetched before the step that failed"
        assert fetched[1].sha256 == TOOL
        asked = len(mirror.asked)
        fetch = f"wget -q -O - {mirror.url('/first')} || echo none"
        assert "none\n" in project.sfvm("run", "node", "--", fetch).stdout, "there, too, it must be named"
        assert len(mirror.asked) == asked
        assert project.sfvm("run", "node", "--allow-host", mirror.place, "--", fetch).stdout.strip() == "first"
    project.sound()
