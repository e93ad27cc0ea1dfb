"""What sfvm needs of its machine, one finding after the other. Nothing here may fail because something is missing."""

from __future__ import annotations

import getpass
import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sfvm.cli.output import plural, size
from sfvm.config import Settings
from sfvm.errors import SfvmError
from sfvm.events import Listener

OK, WARNING, MISSING = "ok", "warning", "missing"
LITTLE_ROOM = 5 << 30


@dataclass(frozen=True)
class Finding:
    """One thing looked at. *state* is ``ok``, ``warning`` (sfvm works, but) or ``missing`` (it does not); *fix* is a
    command or an advice."""

    need: str
    state: str
    detail: str
    fix: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Host:
    """The machine's distribution, as far as installing packages goes: *manager* is ``apt``, ``dnf`` or empty."""

    title: str
    manager: str

    def install(self, *, apt: str, dnf: str) -> str:
        """The command that installs packages under the names they have here."""
        sudo = "" if os.geteuid() == 0 else "sudo "
        if self.manager == "apt":
            return f"{sudo}apt-get install {apt}"
        if self.manager == "dnf":
            return f"{sudo}dnf install {dnf}"
        return f"install {apt} (the names are Debian's)"

    def installed(self, package: str) -> bool | None:
        """Whether *package* is installed; None when this host's package manager is not known."""
        if self.manager == "apt":
            answer = _output("dpkg-query", "-W", "-f", "${Status}", package)
            return answer is not None and answer.endswith(" installed")
        if self.manager == "dnf":
            return _output("rpm", "-q", "--whatprovides", package) is not None
        return None


def host() -> Host:
    """This machine (os-release(5))."""
    words: dict[str, str] = {}
    for path in (Path("/etc/os-release"), Path("/usr/lib/os-release")):
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            words = {name: value.strip("\"'") for name, _, value in (line.partition("=") for line in lines)}
            break
    kin = {words.get("ID", ""), *words.get("ID_LIKE", "").split()}
    manager = "apt" if kin & {"debian", "ubuntu"} else "dnf" if kin & {"fedora", "rhel", "centos"} else ""
    return Host(words.get("PRETTY_NAME", "an unknown distribution"), manager)


def examine(settings: Settings, listener: Listener, *, probe: bool = True) -> Iterator[Finding]:
    """Every finding, the quick ones first. With *probe* the appliance is booted where it is not known yet whether KVM
    runs it, but only when it is built already."""
    here = host()
    yield Finding("machine", OK, f"{here.title}, {plural(os.cpu_count() or 1, 'CPU')}, {_jobs(settings)}")
    yield from _user()
    complete = True
    for finding in (*_bindings(here, settings), *_programs(here), *_appliance_parts(here, settings)):
        complete &= finding.state != MISSING
        yield finding
    yield _connection(settings, listener)
    yield from _repository(settings)
    yield from _image(settings, listener, complete=complete, probe=probe)


def _output(*command: str) -> str | None:
    """What a command prints; None when it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _jobs(settings: Settings) -> str:
    from sfvm.build.scheduler import available_memory, limit

    memory = size(available_memory() << 20)
    return f"{memory} of memory free: {plural(limit(settings), 'appliance')} at once, {settings.memory} MiB each"


def _user() -> Iterator[Finding]:
    yield Finding("user", OK, f"{getpass.getuser()} (uid {os.geteuid()})")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK):
        yield Finding("XDG_RUNTIME_DIR", OK, runtime)
    elif os.geteuid() != 0:
        detail = f"{runtime} cannot be written" if runtime else "not set"
        yield Finding(
            "XDG_RUNTIME_DIR",
            WARNING,
            f"{detail}: libvirt's session may not start",
            "log in through systemd (ssh, machinectl), or --connection direct",
        )


def _bindings(here: Host, settings: Settings) -> Iterator[Finding]:
    for module, dnf, needed in (
        ("guestfs", "python3-libguestfs", True),
        ("libvirt", "python3-libvirt", "://" in settings.connection),
    ):
        try:
            imported = importlib.import_module(module)
        except ImportError as error:
            state = MISSING if needed else WARNING
            more = "" if needed else "; without it QEMU is started directly"
            fix = here.install(apt=f"python3-{module}", dnf=dnf)
            if sys.prefix != sys.base_prefix and not _system_site_packages():
                fix += "; and make this environment with --system-site-packages (./bootstrap does)"
            yield Finding(f"Python binding {module}", state, f"{error}{more}", fix)
        else:
            yield Finding(f"Python binding {module}", OK, _version(module, imported))


def _system_site_packages() -> bool:
    """Whether this virtual environment sees the packages of the system (pyvenv.cfg, PEP 405)."""
    try:
        text = (Path(sys.prefix) / "pyvenv.cfg").read_text(encoding="utf-8")
    except OSError:
        return False
    return "include-system-site-packages = true" in text


def _version(module: str, imported: Any) -> str:
    if module == "libvirt":
        number = imported.getVersion()
        return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
    version = imported.GuestFS(python_return_dict=True).version()
    return f"{version['major']}.{version['minor']}.{version['release']}"


def _programs(here: Host) -> Iterator[Finding]:
    for program, arguments, apt, dnf in (
        ("qemu-system-x86_64", ["--version"], "qemu-system-x86", "qemu-system-x86-core"),
        ("qemu-img", ["--version"], "qemu-utils", "qemu-img"),
        ("supermin", ["--version"], "supermin", "supermin"),
        ("mcopy", ["--version"], "mtools", "mtools"),
    ):
        path = shutil.which(program)
        if path is None:
            yield Finding(program, MISSING, "not found", here.install(apt=apt, dnf=dnf))
        else:
            lines = (_output(path, *arguments) or "does not say its version").splitlines()
            yield Finding(program, OK, f"{path}: {lines[0]}")
    for program, package, formats in (
        ("tar2sqfs", "squashfs-tools-ng", "squashfs, netboot, iso"),
        ("xorriso", "xorriso", "iso"),
    ):
        if (path := shutil.which(program)) is None:
            fix = here.install(apt=package, dnf=package)
            yield Finding(program, WARNING, f"not found: the formats {formats} need it", fix)
        else:
            yield Finding(program, OK, path)


def _appliance_parts(here: Host, settings: Settings) -> Iterator[Finding]:
    from sfvm.appliance import image, kernel

    if any((Path(place) / "supermin.d" / "daemon.tar.gz").exists() for place in image.STOCK):
        yield Finding("libguestfs", OK, "the parts of its appliance are here")
    else:
        fix = here.install(apt="libguestfs0 guestfs-tools", dnf="libguestfs guestfs-tools")
        yield Finding("libguestfs", MISSING, "no supermin.d directory was found", fix)
    absent = [package for package in image.packages() if here.installed(package) is False]
    if absent:
        fix = here.install(apt=" ".join(absent), dnf=" ".join(absent))
        yield Finding("appliance packages", MISSING, "not installed: " + " ".join(absent), fix)
    else:
        yield Finding("appliance packages", OK, f"{len(image.packages())} installed")
    sudo = "" if os.geteuid() == 0 else "sudo "
    if not Path("/lib/modules").is_dir():
        yield Finding(
            "kernel", MISSING, "there is no /lib/modules, which supermin wants", f"{sudo}mkdir -p /lib/modules"
        )
        return
    found = kernel.present(settings.cache)
    if found is not None:
        yield Finding("kernel", OK, f"{found.path}")
    elif here.manager:
        yield Finding("kernel", OK, "none that can be read; one is downloaded when the appliance is built")
    else:
        fix = "install a kernel package, or make one readable: chmod a+r /boot/vmlinuz-*"
        yield Finding("kernel", MISSING, "none in /boot that can be read", fix)


def _connection(settings: Settings, listener: Listener) -> Finding:
    from sfvm.appliance.hypervisor import choose

    try:
        chosen = choose(settings.connection, listener)
    except (SfvmError, ImportError) as error:
        why = f"{error.what}: {error.why}" if isinstance(error, SfvmError) and error.why else str(error)
        return Finding("connection", MISSING, why, "--connection direct")
    told = "" if settings.connection == "auto" else " (as told)"
    what = "QEMU is started directly" if chosen == "direct" else f"libvirt, {chosen}"
    return Finding("connection", OK, what + told)


def _repository(settings: Settings) -> Iterator[Finding]:
    from sfvm.repository import Repository

    for need, path in (("repository", settings.repository), ("cache", settings.cache)):
        present = next(place for place in (path, *path.parents) if place.exists())
        if not os.access(present, os.W_OK | os.X_OK) or not present.is_dir():
            yield Finding(need, MISSING, f"{path} cannot be written", "name another: --repository DIR, or SFVM_HOME")
            continue
        free = shutil.disk_usage(present).free
        detail = f"{path}, {size(free)} free"
        if need == "repository":
            detail += f", {plural(len(Repository(path).names()), 'node')}"
        if free < LITTLE_ROOM:
            yield Finding(need, WARNING, detail, "a Debian takes a few GiB: free some room (`sfvm gc` may help)")
        else:
            yield Finding(need, OK, detail)


def _image(settings: Settings, listener: Listener, *, complete: bool, probe: bool) -> Iterator[Finding]:
    from sfvm.appliance import acceleration, image

    if not complete:
        yield Finding("appliance", WARNING, "cannot be built before what is missing is there", "see above")
        yield _device(acceleration.DEVICE)
        return
    if not image.exists(settings.cache):
        yield Finding("appliance", OK, "not built yet: the first build does it, in about a minute")
        yield _device(acceleration.DEVICE)
        return
    if not probe:
        yield Finding("appliance", OK, f"built, in {settings.cache / 'appliance'}")
        yield _device(acceleration.DEVICE)
        return
    try:
        built = image.ensure(settings.cache, listener)
        yield Finding("appliance", OK, f"built, {built.directory}")
        answer = acceleration.probe(built, settings, listener)
    except SfvmError as error:
        yield Finding("appliance", MISSING, f"{error.what}: {error.why}" if error.why else error.what, error.hint or "")
        return
    kvm = answer.profile.name == "kvm"
    fix = "" if kvm else _device(acceleration.DEVICE).fix or "a machine with usable KVM is faster"
    yield Finding("KVM", OK if kvm else WARNING, answer.reason, fix)
    yield _warm(settings)


def _warm(settings: Settings) -> Finding:
    from sfvm.appliance import warm

    if not settings.warm:
        return Finding("warm start", OK, "off, as told: every helper VM boots")
    store = warm.Store(settings.saved_appliances)
    states = store.states()
    told = f"{plural(len(states), 'saved appliance')}, {size(sum(path.stat().st_size for path in states))}"
    if refusals := store.refusals():
        return Finding("warm start", WARNING, f"{told}; {refusals[0]}", "`sfvm gc` lets it be tried again")
    return Finding("warm start", OK, told if states else "nothing saved yet: the first launch does it")


def _device(device: Path) -> Finding:
    """What can be said of KVM without a boot."""
    if not device.exists():
        return Finding("KVM", WARNING, f"there is no {device}: QEMU emulates, 10 to 18 times slower")
    if not os.access(device, os.R_OK | os.W_OK):
        fix = f"sudo usermod -aG kvm {getpass.getuser()}, then log in again"
        return Finding("KVM", WARNING, f"{device} may not be opened by this user", fix)
    return Finding("KVM", OK, f"{device} opens; whether it runs the appliance is tried when that is built and booted")


def needed(findings: Sequence[Finding]) -> bool:
    """Whether everything that sfvm cannot do without is there."""
    return all(finding.state != MISSING for finding in findings)
