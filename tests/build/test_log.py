"""A node's log."""

from sfvm.build.log import NodeLog


def test_lines_reach_the_file_and_the_listener_until_the_build_ends(tmp_path):
    """The last words of a killed VM may arrive, from the appliance's thread, when it has ended."""
    heard = []
    with NodeLog("web", tmp_path / "logs/web.log", heard.append) as log:
        log.line("one")
        log.line("two")
    log.line("too late")
    assert (tmp_path / "logs/web.log").read_text() == "one\ntwo\n"
    assert [event.line for event in heard] == ["one", "two"]
