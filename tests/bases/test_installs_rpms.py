"""The base ``dnf`` in the real appliance, with tiny mirrors: what becomes of the guest, and what is refused."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from sfvm.appliance.image import Image
from sfvm.appliance.machine import Appliance
from sfvm.downloads.access import Access
from sfvm.downloads.policy import Policy
from sfvm.downloads.store import Store
from sfvm.downloads.transfer import Transfers
from sfvm.events import ignore
from sfvm.guest import Command, CommandFailed
from tests.appliance.conftest import boot, disk
from tests.mirrors import rpm
from tests.mirrors.tiny import Signer, serve, signer
from tests.verbs import Maker, host

pytestmark = pytest.mark.vm


@dataclass(frozen=True)
class Mirror:
    """Repositories below *url*: ``good`` and, signed by others or by nobody, ``foreign``, ``expired`` and ``bare``;
    ``changed`` has other packages than its index says. The files of keys are in *directory*."""

    url: str
    directory: Path

    def base(self, make: Maker, repository: str, wanted: str, key: str = "good.asc") -> object:
        make.specs.mkdir(exist_ok=True)
        shutil.copy(self.directory / key, make.specs)
        where = f'url="{self.url}" repositories="tiny={repository}" mirror="{self.url}" keys="{key}"'
        return make(f'<dnf distribution="centos" release="9" {where} {wanted}/>', "bases")


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    root, work = tmp_path_factory.mktemp("tiny"), tmp_path_factory.mktemp("work")
    hello = rpm.Rpm(
        "hello", files={"/usr/share/hello": "hello\n", "/run/hello/": "", "/etc/yum.repos.d/x.repo": "[x]\n"}
    )
    with signer() as good, signer() as other, signer() as old:
        keys = {"good": good, "foreign": other, "expired": old, "bare": None, "changed": good}
        for name, key in keys.items():
            rpm.build(hello, work / name, root / name / "Packages", work)
            if key is not None:
                rpm.sign(root.glob(f"{name}/Packages/*.rpm"), key)
            rpm.index(root / name, good, {"greetings": ("hello",)}, {})
        for package in root.glob("changed/Packages/*.rpm"):
            content = bytearray(package.read_bytes())
            content[-1] ^= 1
            package.write_bytes(content)
        good.public(root / "good.asc")
        expire(old)
        old.public(root / "expired.asc")
    with serve(root) as url:
        yield Mirror(url, root)


def expire(key: Signer) -> None:
    """Let *key* expire in a second: much sooner than it is used."""
    key.gpg("--passphrase", "", "--quick-set-expire", key.fingerprint, "seconds=1")


@pytest.fixture(scope="module")
def appliance(image: Image, mirror: Mirror, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    home = tmp_path_factory.mktemp("disk")
    with (
        closing(Transfers(Store(home / "downloads"))) as transfers,
        boot(image, disk(home / "disk.qcow2"), []) as running,
    ):
        policy = Policy(named=frozenset({mirror.url.removeprefix("http://")}))
        running.supplied(Access(transfers, policy), home / "exchange", ignore)
        running.format("ext4")
        running.mount()
        yield running


def look(appliance: Appliance, script: str) -> str:
    command = Command(f"cd /sysroot\n{script}", place="appliance", network=False)
    return appliance.guest.capture(command).strip()


@pytest.mark.parametrize(
    ("repository", "wanted", "key", "message"),
    [
        ("foreign", 'include="hello"', "good.asc", "GPG check FAILED"),
        ("bare", 'include="hello"', "good.asc", "is not signed"),
        ("expired", 'include="hello"', "expired.asc", "a key has expired, or was revoked"),
        ("changed", 'include="hello"', "good.asc", "checksum doesn't match"),
        ("good", 'include="hello nonsense"', "good.asc", "Unable to find a match: nonsense"),
        ("good", 'groups="greetings nothing"', "good.asc", "Module or Group 'nothing' is not available"),
        ("nowhere", 'include="hello"', "good.asc", "Status code: 404 for"),
    ],
)
def test_what_cannot_be_trusted_or_had(
    mirror: Mirror, make: Maker, appliance: Appliance, repository: str, wanted: str, key: str, message: str
) -> None:
    base = mirror.base(make, repository, wanted, key)
    with pytest.raises(CommandFailed) as caught:
        base.populate(appliance.guest, host(make.home))
    assert message in "\n".join(caught.value.output)
    assert not appliance.guest.exists("/usr/share/hello")


def test_what_becomes_of_the_guest(mirror: Mirror, make: Maker, appliance: Appliance) -> None:
    mirror.base(make, "good", 'groups="greetings"').populate(appliance.guest, host(make.home))
    query = "HOME=/nowhere rpm --root /sysroot --dbpath /var/lib/rpm -qa --qf '%{NAME} '"
    assert sorted(look(appliance, query).split()) == ["gpg-pubkey", "hello"], "the guest's rpm trusts the key"
    files = look(appliance, "find . -type f ! -path './var/lib/*' | sort").split()
    wanted = ["./etc/pki/rpm-gpg/RPM-GPG-KEY-sfvm", "./etc/yum.repos.d/sfvm.repo", "./etc/yum.repos.d/x.repo"]
    assert files == [*wanted, "./usr/share/hello"], "neither caches nor logs"
    assert look(appliance, "ls -A dev proc run sys var/cache 2>/dev/null | grep -v :") == ""
    assert appliance.guest.read("/etc/yum.repos.d/sfvm.repo").startswith(b"[sfvm-tiny]\n")
