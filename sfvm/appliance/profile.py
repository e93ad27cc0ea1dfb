"""How the appliance is started with and without KVM: the one table of accelerators.

Measured under TCG on two cores (Debian 12, QEMU 7.2): address-space randomisation makes QEMU translate code again for
every process, so fork + exec of ``/bin/true`` costs 28 ms with it and 5 ms without; a CPU model without AVX saves
another fifth of mmdebstrap. Neither changes a result. The model must cover what guests are compiled for: x86-64-v2.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """*cpu* is QEMU's ``-cpu`` (None: as libguestfs chooses), *kernel* what is appended to the kernel command line,
    *boot_seconds* how long a boot may take before it counts as stuck, *restore_seconds* a restored VM."""

    name: str
    cpu: str | None
    kernel: str
    boot_seconds: int
    restore_seconds: int


KVM = Profile("kvm", None, "", 60, 20)
TCG = Profile("tcg", "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16,+lahf_lm", "norandmaps mitigations=off", 300, 60)
PROFILES = {profile.name: profile for profile in (KVM, TCG)}
