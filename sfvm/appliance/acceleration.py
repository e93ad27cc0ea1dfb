"""Whether KVM really runs the appliance: proven by a boot, not by the existence of ``/dev/kvm``.

Nested and paravirtual hosts have a ``/dev/kvm`` that opens and answers, and no ordinary kernel runs. The answer is
remembered per boot of the host, QEMU and appliance.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import filelock

from sfvm import safejson
from sfvm.appliance.image import Image
from sfvm.appliance.machine import Drive, Shape, start
from sfvm.appliance.profile import KVM, TCG, Profile
from sfvm.config import Settings
from sfvm.errors import ApplianceError
from sfvm.events import Listener, Notice, Preparing

DEVICE = Path("/dev/kvm")
PROOF_SECONDS = 30
"""How long the appliance may take to boot with KVM: ten times what it needs."""
COST = "builds take 10 to 18 times longer"


@dataclass(frozen=True)
class Acceleration:
    """*profile* to start with, and why KVM is or is not used."""

    profile: Profile
    reason: str


def prove(image: Image, settings: Settings, listener: Listener) -> Profile:
    """The profile that works here."""
    return probe(image, settings, listener).profile


def probe(image: Image, settings: Settings, listener: Listener) -> Acceleration:
    """The same with the reason. Boots the appliance once when it is not known yet; says so when KVM fails."""
    if not DEVICE.exists():
        return Acceleration(TCG, f"there is no {DEVICE}: {COST}")
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return Acceleration(TCG, f"{DEVICE} may not be opened by this user (group kvm?): {COST}")
    store = settings.cache / "acceleration.json"
    settings.cache.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(settings.cache / "acceleration.lock"):
        known = _remembered(store)
        question = _question(image)
        if question not in known:
            listener(Preparing("a proof that KVM works"))
            # Answers of this boot of the host stay: several appliances (versions of sfvm) may be in use.
            known = {asked: told for asked, told in known.items() if asked.split()[0] == question.split()[0]}
            known[question] = _boots(image)
            _remember(store, known)
            listener(Preparing("a proof that KVM works", done=True))
            if known[question]:
                listener(Notice(f"KVM does not run the appliance, so QEMU emulates: {COST} ({known[question]})"))
    failure = known[question]
    if failure:
        return Acceleration(TCG, f"KVM is there, but does not run the appliance: {failure}; {COST}")
    return Acceleration(KVM, "KVM runs the appliance")


def _question(image: Image) -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    qemu = shutil.which("qemu-system-x86_64")
    version = Path(qemu).stat().st_mtime_ns if qemu else 0
    return f"{boot} {version} {image.digest} {os.geteuid()}"


def _boots(image: Image) -> str:
    """Why the appliance does not boot with KVM; empty when it does."""
    try:
        with tempfile.TemporaryDirectory(prefix="sfvm-proof-") as directory:
            scratch = Path(directory) / "scratch.img"
            with scratch.open("wb") as file:
                file.truncate(1 << 20)
            shape = Shape(memory=768, cpus=1, network=False)
            proof = replace(KVM, boot_seconds=PROOF_SECONDS)
            start(image, [Drive(scratch, "raw")], shape, "direct", proof, log=lambda line: None).close()
    except ApplianceError as error:
        return error.detail[-1] if error.detail else (error.why or error.what).splitlines()[0]
    return ""


def _remembered(store: Path) -> dict[str, str]:
    try:
        content = safejson.loads(store.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _remember(store: Path, known: dict[str, str]) -> None:
    with tempfile.NamedTemporaryFile("w", dir=store.parent, delete=False, encoding="utf-8") as file:
        json.dump(known, file)
    Path(file.name).replace(store)
