"""What may be downloaded, and from where: the rules as such."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from sfvm.config import Settings
from sfvm.downloads.policy import Policy, Refused, authority, plain
from sfvm.downloads.upstream import Target
from sfvm.errors import UsageError


def settings(*hosts: str) -> Settings:
    return Settings(Path(), Path(), allow_hosts=hosts)


def allows(policy: Policy, host: str, port: int = 80, *, tunnel: bool = False) -> bool:
    try:
        policy.check(host, port, tunnel=tunnel)
    except Refused:
        return False
    return True


@pytest.mark.parametrize("host", ["example.org", "10.1.2.3", "192.168.1.1", "2001:4860:4860::8888", "fd00::1"])
def test_where_everybody_may_go(host: str) -> None:
    """Mirrors in the user's own network, too."""
    assert allows(Policy(), host)


OURS = [
    "127.0.0.1", "127.1.2.3", "localhost", "LOCALHOST.", "x.localhost", "::1", "0.0.0.0", "169.254.2.2",
    "169.254.169.254", "fe80::1", "::ffff:127.0.0.1", "2002:7f00:1::", "224.0.0.1", "240.0.0.1",
    "2130706433", "0x7f.1", "127.1", "0251.0376.0251.0376",
]  # fmt: skip


@pytest.mark.parametrize("host", OURS)
def test_the_host_itself_must_be_named(host: str) -> None:
    assert not allows(Policy(), host, 8000)
    assert not allows(Policy(allowed=(host,), asked=(host,)), host, 8000), "by its port, too"
    named = Policy(named=frozenset({authority(host, 8000)}))
    assert allows(named, host, 8000)
    assert not allows(named, host, 8001)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "169.254.2.2"])
def test_loopback_has_one_name(host: str) -> None:
    """Whichever a guest knows it by, and the user."""
    policy = Policy.of(settings(), [f"http://{host}:8000/debian", "bookworm", "http://[", "ftp://127.0.0.1:21/"])
    assert policy.named == {"127.0.0.1:8000"}
    assert all(allows(policy, other, 8000) for other in ("127.0.0.1", "localhost", "169.254.2.2"))


def test_a_name_that_stands_for_the_host_is_not_the_host() -> None:
    policy = Policy.of(settings(), ["http://mirror.example.org:8000/"])
    assert policy.named == frozenset()
    assert policy.may_connect("mirror.example.org", 8000, "93.184.216.34")
    for address in ("127.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1"):
        assert not policy.may_connect("mirror.example.org", 8000, address)


@pytest.mark.parametrize(
    ("pattern", "host", "port", "matches"),
    [
        ("example.org", "example.org", 80, True),
        ("example.org", "EXAMPLE.org.", 8080, True),
        ("example.org", "sub.example.org", 80, False),
        ("example.org", "example.org.evil", 80, False),
        ("*.example.org", "a.b.example.org", 443, True),
        ("*.example.org", "example.org", 443, False),
        ("*.example.org", "evilexample.org", 443, False),
        ("example.org:8080", "example.org", 8080, True),
        ("example.org:8080", "example.org", 80, False),
        ("*.example.org:8080", "a.example.org", 8080, True),
        ("*.example.org:8080", "a.example.org", 80, False),
        ("[2001:db8::1]:80", "2001:db8::1", 80, True),
        ("[2001:db8::1]", "2001:db8::1", 81, True),
    ],
)
def test_patterns(pattern: str, host: str, port: int, matches: bool) -> None:
    assert allows(Policy(asked=(pattern,)), host, port) == matches
    assert allows(Policy.of(settings(pattern)), host, port) == matches


def test_both_must_allow_it() -> None:
    policy = Policy.of(settings("a.org", "b.org")).asking(("b.org", "c.org"))
    assert [host for host in ("a.org", "b.org", "c.org") if allows(policy, host)] == ["b.org"]


def test_a_mirror_that_is_named_is_allowed() -> None:
    policy = Policy.of(settings("a.org"), ["http://127.0.0.1:8000/"])
    assert allows(policy, "127.0.0.1", 8000)
    assert not allows(policy, "b.org")
    assert not allows(policy.asking(("a.org",)), "127.0.0.1", 8000), "a step that lists others did not ask for it"
    assert allows(Policy.of(settings("127.0.0.1:8000")), "127.0.0.1", 8000)


@pytest.mark.parametrize("host", ["http://a.org", "a.org/x", "*", "", "a b", "*.*.org", ":80", "a.org:port"])
def test_what_is_no_host(host: str) -> None:
    with pytest.raises(UsageError):
        Policy.of(settings(host))


def test_tunnels_go_to_https() -> None:
    assert allows(Policy(), "example.org", 443, tunnel=True)
    assert not allows(Policy(), "example.org", 22, tunnel=True)
    assert not allows(Policy(asked=("example.org",)), "example.org", 22, tunnel=True)
    assert allows(Policy(asked=("example.org:22",)), "example.org", 22, tunnel=True)
    assert not allows(Policy(asked=("example.org:22", "other.org")), "other.org", 22, tunnel=True)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://a.org/x?y", "http://a.org:443/x?y"),
        ("https://a.org", "http://a.org:443"),
        ("HTTPS://a.org:443/", "http://a.org:443/"),
        ("https://[2001:db8::1]/", "http://[2001:db8::1]:443/"),
        ("https://a.org:8443/", "https://a.org:8443/"),
        ("https://me@a.org/", "https://me@a.org/"),
        ("http://a.org/", "http://a.org/"),
        ("mirror", "mirror"),
    ],
)
def test_in_the_open(url: str, told: str) -> None:
    assert plain(url) == told
    if told.startswith("http://a.org:443/x"):
        target = Target.parse(told, Policy())
        assert (target.url, target.scheme, target.netloc) == (url, "https", "a.org")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a.org/", "file:///etc/passwd", "/", "http:///", "http://a:port/", "http://a:99999/", "http://a/b c",
        "http://a/é", "http://me:word@a.org/", "http://a\r\n.org/", "http://[::1/",
    ],
)  # fmt: skip
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(Refused):
        Target.parse(url, Policy())


def test_of_settings_that_name_nothing() -> None:
    assert Policy.of(settings()) == Policy()
    assert dataclasses.replace(Policy(), offline=True).offline
