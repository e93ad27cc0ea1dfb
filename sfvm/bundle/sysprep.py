"""What must not be the same in two machines made from one node: removed from every bundle."""

from __future__ import annotations

from collections.abc import Mapping

from sfvm.guest import Guest

GONE = (
    "/var/lib/dbus/machine-id",
    "/var/lib/systemd/random-seed",
    "/var/lib/systemd/credential.secret",
    "/var/lib/urandom/random-seed",
    "/var/lib/dhcp/dhclient.leases",
    "/var/lib/NetworkManager/secret_key",
    "/etc/udev/rules.d/70-persistent-net.rules",
    "/root/.bash_history",
)
SSH_KEYS = ("rsa", "dsa", "ecdsa", "ed25519")
SSH_UNIT = "/etc/systemd/system/sfvm-ssh-host-keys.service"
SSH_SERVICE = """\
[Unit]
Description=SSH host keys of this machine
Before=ssh.service sshd.service ssh.socket sshd.socket
ConditionPathExistsGlob=!/etc/ssh/ssh_host_*_key

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A

[Install]
WantedBy=multi-user.target
"""


def sysprep(guest: Guest) -> None:
    """No machine-id (systemd makes one at the first boot), no SSH host keys (a unit makes them at the first boot), no
    random seed, no leases. machine-id(5), random-seed(8)."""
    if guest.exists("/etc/machine-id") or guest.exists("/usr/lib/systemd/systemd"):
        guest.write("/etc/machine-id", b"", mode=0o444)
    for path in GONE:
        guest.remove(path)
    keys = [f"/etc/ssh/ssh_host_{kind}_key" for kind in SSH_KEYS]
    for key in keys:
        guest.remove(key)
        guest.remove(f"{key}.pub")
    if guest.exists("/usr/sbin/sshd") and guest.exists("/usr/lib/systemd/systemd"):
        guest.write(SSH_UNIT, SSH_SERVICE.encode())
        guest.symlink(f"/etc/systemd/system/multi-user.target.wants/{SSH_UNIT.rpartition('/')[2]}", SSH_UNIT)


def crypttab(text: str, locked: Mapping[str, str]) -> str:
    """crypttab(5) *text* with lines for what is *locked* (UUIDs by names), whose passphrase is asked for, in place of
    those with the same names; everything else stays."""
    kept = [line for line in text.splitlines() if line.split()[:1] not in [[name] for name in locked]]
    return "\n".join([*kept, *(f"{name} UUID={own} none luks" for name, own in locked.items())]) + "\n"


def fstab(text: str, entries: tuple[tuple[str, str, str, str, int], ...]) -> str:
    """fstab(5) *text* with *entries* (device, mount point, type, options, pass) in place of those for the same mount
    points; everything else stays."""
    # getmntent(3): a blank ends a field.
    wanted = [
        (device, point.replace(" ", r"\040"), kind, options, order) for device, point, kind, options, order in entries
    ]
    points = {point for _, point, _, _, _ in wanted}
    kept = []
    for line in text.splitlines():
        fields = line.split()
        if line.startswith("# UNCONFIGURED") or (len(fields) >= 2 and not line.startswith("#") and fields[1] in points):
            continue
        kept.append(line)
    kept += [f"{device} {point} {kind} {options} 0 {order}" for device, point, kind, options, order in wanted]
    return "\n".join(kept) + "\n"
