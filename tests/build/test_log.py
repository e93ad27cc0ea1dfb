"""A node's log."""

from sfvm.build.log import NodeLog


def test_lines_reach_the_file_and_the_listener(tmp_path):
    heard = []
    with NodeLog("web", tmp_path / "logs/web.log", heard.append) as log:
        log.line("one")
        log.line("two")
    assert (tmp_path / "logs/web.log").read_text() == "one\ntwo\n"
    assert [event.line for event in heard] == ["one", "two"]


def test_the_last_words_of_a_killed_machine_are_no_error(tmp_path):
    """They arrive from the appliance's thread, when the build has ended already."""
    heard = []
    with NodeLog("web", tmp_path / "web.log", heard.append) as log:
        log.line("one")
    log.line("too late")
    assert (tmp_path / "web.log").read_text() == "one\n"
    assert [event.line for event in heard] == ["one"]
