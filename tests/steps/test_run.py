"""Scripts: what runs, with which environment, and what of it counts for the key."""

import pytest

from tests.verbs import Directory, Maker


def test_the_script_is_the_text_without_common_indentation(make: Maker, guest: Directory) -> None:
    step = make("<run>\n    if true; then\n      echo $HOME ${x}\n    fi\n\n  </run>", x="1")
    step.run(guest)
    (command,) = guest.commands
    assert command.script == "if true; then\n  echo $HOME ${x}\nfi\n"
    assert (command.shell, command.cwd, command.user) == ("/bin/sh -e", "/", None)
    assert (command.env, command.timeout, command.network, command.place) == ({"x": "1"}, None, False, "guest")


@pytest.mark.parametrize(
    ("words", "network"),
    [
        ("no", False),
        ("yes", True),
        ("", False),
        ("a.org *.b.net:8443", ("a.org", "*.b.net:8443")),
    ],
)
def test_who_may_use_the_network(make: Maker, guest: Directory, words: str, network: object) -> None:
    step = make(f'<run network="{words}">x</run>')
    step.run(guest)
    assert guest.commands[0].network == network
    assert make("<run>x</run>").inputs() == make('<run network="no">x</run>').inputs()


def test_attributes(make: Maker, guest: Directory) -> None:
    environment = "env=\"A=1 B='two words' C=\""
    xml = f'<run shell="/bin/bash -eu" cwd="/srv/" user="www" {environment} timeout="7" network="no">x</run>'
    make(xml, A="0", site="s").run(guest)
    (command,) = guest.commands
    assert command.env == {"A": "1", "B": "two words", "C": "", "site": "s"}
    assert (command.shell, command.cwd, command.user) == ("/bin/bash -eu", "/srv", "www")
    assert (command.timeout, command.network) == (7.0, False)


@pytest.mark.parametrize(
    ("script", "shell"),
    [("#!/usr/bin/env python3\nprint(1)", "/usr/bin/env python3"), ("\n  #! /bin/bash -x\n  ls", "/bin/bash -x")],
)
def test_a_script_names_its_interpreter(make: Maker, script: str, shell: str) -> None:
    assert make(f"<run>{script}</run>").shell == shell


def test_every_input_but_the_timeout_counts(make: Maker) -> None:
    def key(xml: str, **variables: str) -> object:
        return make(xml, **variables).inputs()

    plain = key("<run>ls</run>")
    assert key("<run>\n  ls\n</run>") == plain
    assert key('<run timeout="5">ls</run>') == plain
    others = ['shell="/bin/bash"', 'cwd="/srv"', 'user="www"', 'env="A=1"', 'network="yes"', 'network="a.org"']
    different = [key(f"<run {attribute}>ls</run>") for attribute in others]
    different += [key("<run>ls </run>"), key("<run>ls</run>", a="1"), key("<run>ls</run>", a="2")]
    assert all(plain != one for one in different)
    assert all(one != other for at, one in enumerate(different) for other in different[:at])


@pytest.mark.parametrize(
    ("xml", "what"),
    [
        ("<run> \n </run>", "run has no script"),
        ('<run env="A">x</run>', "'A' is not NAME=VALUE"),
        ('<run env="1A=x">x</run>', "'1A=x' is not NAME=VALUE"),
        ('<run env="A=\'x">x</run>', "env cannot be read"),
        ('<run timeout="0">x</run>', "timeout must be 1 or more"),
        ('<run shell="bash">x</run>', "'bash' is no absolute path"),
        ("<run>#!python3\nx</run>", "'python3' is no absolute path"),
        ('<run network="a.org/x">x</run>', "'a.org/x' is no host"),
        ('<run network="http://a.org">x</run>', "'http://a.org' is no host"),
        ('<run network="yes a.org">x</run>', "'yes' is no host"),
        ('<run network="*">x</run>', "'*' is no host"),
        ('<run cwd="srv">x</run>', "no absolute path of the guest"),
    ],
)
def test_refused(make: Maker, xml: str, what: str) -> None:
    assert what in make.refused(xml).what


@pytest.mark.parametrize(
    ("script", "title"),
    [
        ("ls", "run ls"),
        ("\n  ls\n  pwd\n", "run ls …"),
        ("#!/bin/bash\nls", "run ls"),
        ("#!/bin/true", "run "),
        ("x" * 70, f"run {'x' * 60} …"),
    ],
)
def test_title(make: Maker, script: str, title: str) -> None:
    assert make(f"<run>{script}</run>").title() == title
