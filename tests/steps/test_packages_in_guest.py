"""apt in the real appliance: versions, holds, groups; and mirrors whose keys or contents are not as they should be."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from sfvm.appliance.image import Image
from sfvm.appliance.machine import Appliance
from sfvm.apt import HOME
from sfvm.downloads.access import Access
from sfvm.downloads.policy import Policy
from sfvm.downloads.store import Store
from sfvm.downloads.transfer import Transfers
from sfvm.events import ignore
from sfvm.guest import Command, CommandFailed
from tests.appliance.conftest import boot, disk
from tests.guests.apt import apt_guest
from tests.mirrors.small import Mirror, small
from tests.verbs import Maker, host

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    with small(tmp_path_factory.mktemp("mirror")) as made:
        yield made


@pytest.fixture(scope="module")
def appliance(image: Image, mirror: Mirror, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    home = tmp_path_factory.mktemp("apt")
    archive, _ = apt_guest(home)
    transfers = Transfers(Store(home / "downloads"))
    access = Access(transfers, Policy(named=frozenset({mirror.url.removeprefix("http://")})))
    with boot(image, disk(home / "disk.qcow2"), []) as running:
        running.format("ext4")
        running.mount()
        running.guest.unpack(archive, "/")
        running.supplied(access, home / "exchange", ignore)
        yield running
    transfers.close()


@pytest.fixture
def do(make: Maker, appliance: Appliance, mirror: Mirror) -> Iterator[Do]:
    shutil.copytree(mirror.keys, make.specs)
    yield Do(make, appliance, mirror)
    mirror.faults.clear()
    appliance.guest.remove("/etc/apt/sources.list.d")
    appliance.guest.run(Command(f"rm -rf {HOME}", place="appliance", packages=True, network=False))


@dataclass
class Do:
    make: Maker
    appliance: Appliance
    mirror: Mirror

    def add(self, name: str, key: str = "good.asc") -> None:
        """Tell the guest of the suite *name*, signed by *key*."""
        self.make(self.mirror.repository(name, key)).run(self.appliance.guest)

    def packages(self, attributes: str) -> None:
        self.make(f"<packages {attributes}/>").run(self.appliance.guest)

    def fails(self, attributes: str) -> str:
        """What apt says when it cannot do this."""
        with pytest.raises(CommandFailed) as caught:
            self.packages(attributes)
        return "\n".join(caught.value.output)

    def versions(self) -> str:
        script = "dpkg-query -W -f '${db:Status-Abbrev}${Package}=${Version}\\n' | sed -n 's/^.i //p'"
        return " ".join(self.appliance.guest.capture(Command(script, network=False)).split())


def test_versions_groups_and_holds(do: Do) -> None:
    do.add("one")
    do.add("two")
    do.packages('install="some=1" groups="set"')
    assert do.versions() == "other=2 some=1"
    do.packages('install="other=1" hold="some"')
    assert do.versions() == "other=1 some=1", "an older one than there was"
    do.packages('upgrade="yes"')
    assert do.versions() == "other=2 some=1", "what is held stays"
    do.packages('upgrade="yes" unhold="some"')
    assert do.versions() == "other=2 some=2"
    do.packages('remove="some other"')
    assert do.versions() == ""
    left = do.appliance.guest.capture(Command("find /var/lib/apt/lists /var/cache/apt -type f; ls /run", network=False))
    assert "_" not in left
    assert ".deb" not in left


@pytest.mark.parametrize(
    ("suite", "key", "said"),
    [
        ("one", "expired.asc", "NO_PUBKEY"),
        ("old", "expired.asc", "EXPKEYSIG"),
        ("three", "good.asc", "404"),
    ],
)
def test_a_repository_that_cannot_be_trusted(do: Do, suite: str, key: str, said: str) -> None:
    do.add(suite, key)
    assert said in do.fails('install="some"')
    assert do.versions() == ""


def test_an_unknown_package(do: Do) -> None:
    do.add("one")
    assert "Unable to locate package nothing" in do.fails('install="some nothing"')
    assert "Version '7' for 'some' was not found" in do.fails('install="some=7"')
    assert do.versions() == ""


@pytest.mark.parametrize(
    ("fault", "said"), [(404, "404"), (500, "500"), ("short", "Failed to fetch"), ("other", "Hash Sum mismatch")]
)
def test_a_package_that_does_not_come_as_it_should(do: Do, fault: int | str, said: str) -> None:
    """Once the mirror is right again, so is the next attempt: what was wrong is not kept."""
    do.add("one")
    do.mirror.faults[f"/bad-{fault}_1"] = fault
    assert said in do.fails(f'install="bad-{fault}"')
    assert do.versions() == ""
    do.mirror.faults.clear()
    do.packages(f'install="bad-{fault}"')
    assert do.versions() == f"bad-{fault}=1"
    do.packages(f'remove="bad-{fault}"')


@pytest.mark.parametrize("fault", [500, "short", "other"])
def test_an_index_that_does_not_come_as_it_should(do: Do, fault: int | str) -> None:
    do.add("two")
    do.mirror.faults["/Packages"] = fault
    assert "Failed to fetch" in do.fails('install="some"')
    do.mirror.faults.clear()
    do.packages('install="some"')
    assert do.versions() == "some=2"
    do.packages('remove="some"')


@pytest.mark.parametrize(("suite", "key", "said"), [("one", "expired.asc", "NO_PUBKEY"), ("three", "good.asc", "404")])
def test_a_base_that_cannot_be_had(do: Do, suite: str, key: str, said: str) -> None:
    """The last ones here: they write into the guest."""
    base = do.make(f'<mmdebstrap suite="{suite}" mirror="{do.mirror.url}" keys="{key}"/>', "bases")
    do.appliance.guest.remove("/dev")  # the last attempt's
    with pytest.raises(CommandFailed) as caught:
        base.populate(do.appliance.guest, host(do.make.home))
    assert said in "\n".join(caught.value.output)
