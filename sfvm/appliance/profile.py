"""How the appliance is started with and without KVM: the one table of accelerators and CPU models.

Measured under TCG on two cores (Debian 12, QEMU 7.2): address-space randomisation makes QEMU translate code again for
every process, so fork + exec of ``/bin/true`` costs 28 ms with it and 5 ms without; a CPU model without AVX saves
another fifth of mmdebstrap. Neither changes a result. Also measured, and of no use: ``init_on_alloc=0``,
``hardened_usercopy=off``, ``lsm=``, ``kfence.sample_interval=0`` (within the noise of a job of forks, tar, xz and
sha256sum). Nor is there anything to gain from TCG's own settings: QEMU runs one thread per CPU by itself, and its
translation buffer has 1 GiB, of which a boot and 200 processes fill 85 MiB without a flush (``info jit``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

V2, V3 = "x86-64-v2", "x86-64-v3"
_V2 = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16,+lahf_lm"
CPUS = {V2: _V2, V3: f"{_V2},+avx,+avx2,+bmi1,+bmi2,+f16c,+fma,+abm,+movbe,+xsave,+xsaveopt,+fsgsbase"}
"""QEMU's CPU models without KVM, by what a guest's programs are compiled for (the levels of the x86-64 psABI). With
AVX, but neither xsaveopt nor fsgsbase, Linux hung early (6.1, QEMU 7.2)."""
NEEDS_V3 = {"rhel": 10, "centos": 10, "rocky": 10, "almalinux": 10, "ol": 10}
"""Distributions that are compiled for x86-64-v3, from which release on; everything else is content with v2."""


@dataclass(frozen=True)
class Profile:
    """*emulated*: the CPU is QEMU's to choose, else it is the host's; *kernel* is appended to the kernel command line,
    *boot_seconds* how long a boot may take before it counts as stuck, *restore_seconds* a restored VM."""

    name: str
    emulated: bool
    kernel: str
    boot_seconds: int
    restore_seconds: int

    def cpu(self, baseline: str = V2) -> str | None:
        """QEMU's ``-cpu`` for guests of *baseline*; None: as libguestfs chooses."""
        return CPUS[baseline] if self.emulated else None


KVM = Profile("kvm", False, "", 60, 20)
TCG = Profile("tcg", True, "norandmaps mitigations=off", 300, 60)


def baseline(facts: Mapping[str, str]) -> str:
    """What the programs of a guest with *facts* (``distribution``, ``release``) are compiled for."""
    release = re.match(r"\d+", facts.get("release", ""))
    least = NEEDS_V3.get(facts.get("distribution", ""))
    return V3 if least is not None and release is not None and int(release[0]) >= least else V2
