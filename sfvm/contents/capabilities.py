"""File capabilities by name (capabilities(7))."""

from __future__ import annotations

import struct

XATTR = "security.capability"
NAMES = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
    "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
    "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
    "sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
    "mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
    "checkpoint_restore",
)  # fmt: skip
"""In the order of their bits (Linux, ``include/uapi/linux/capability.h``)."""


def named(value: str) -> tuple[str, ...]:
    """The capabilities, permitted or inheritable, in a value of :data:`XATTR` (hexadecimal): ``struct vfs_cap_data`` of
    the same header, a word, then pairs of both, 32 bits each. What is none, has none."""
    try:
        words = struct.unpack_from("<5I", bytes.fromhex(value))
    except (ValueError, struct.error):
        return ()
    bits = words[1] | words[2] | (words[3] | words[4]) << 32
    known = (NAMES[bit] if bit < len(NAMES) else str(bit) for bit in range(64) if bits >> bit & 1)
    return tuple(f"cap_{name}" for name in known)
