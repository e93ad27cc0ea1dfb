"""A virtual machine as XenServer's toolstack xapi describes it in an export: the ``ova.xml`` of an XVA.

Sources: xapi-project/xen-api, ``ocaml/xapi/{export,import,importexport}.ml`` (which objects, how they refer to each
other) and the data model of its API (the fields); an importer gives those that are left out their defaults, if they
have any.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lxml import etree

from sfvm import __version__

VM, SR, VDI, VBD, NETWORK, VIF = (f"Ref:{number:03d}" for number in range(6))
"""What the objects are called inside of the file. Disks come in the order of these names as text: hence the zeros."""
NULL = "OpaqueRef:NULL"
DEVICE_MODELS = {"bios": "qemu-upstream-compat", "uefi": "qemu-upstream-uefi"}
"""What emulates the devices, by firmware (``ocaml/xapi/vm_platform.ml``)."""


@dataclass(frozen=True)
class Machine:
    """A virtual machine with one disk and one network card.

    *memory* and *disk* are bytes, *firmware* is ``bios`` or ``uefi``, *network* the label of a network of the host's;
    *unique* makes an identifier for a purpose, *epoch* is the time of the export in seconds.
    """

    label: str
    description: str
    memory: int
    vcpus: int
    firmware: str
    network: str
    disk: int
    unique: Callable[[str], uuid.UUID]
    epoch: int


def ova_xml(machine: Machine) -> bytes:
    """The content of ``ova.xml``."""
    records = {
        VM: ("VM", _vm(machine)),
        SR: ("SR", _sr(machine)),
        VDI: ("VDI", _vdi(machine)),
        VBD: ("VBD", _vbd(machine)),
        NETWORK: ("network", _network(machine)),
        VIF: ("VIF", _vif(machine)),
    }
    content = {
        "version": _version(machine.epoch),
        "objects": [{"class": kind, "id": name, "snapshot": record} for name, (kind, record) in records.items()],
    }
    return bytes(etree.tostring(_value(content), xml_declaration=False, encoding="UTF-8"))


def _value(value: object) -> Any:
    """An XML-RPC value as xapi writes it: strings have no type, and integers, of 64 bits, are strings."""
    element = etree.Element("value")
    if isinstance(value, bool):
        etree.SubElement(element, "boolean").text = str(int(value))
    elif isinstance(value, time.struct_time):
        etree.SubElement(element, "dateTime.iso8601").text = time.strftime("%Y%m%dT%H:%M:%SZ", value)
    elif isinstance(value, Mapping):
        struct = etree.SubElement(element, "struct")
        for name, content in value.items():
            member = etree.SubElement(struct, "member")
            etree.SubElement(member, "name").text = name
            member.append(_value(content))
    elif isinstance(value, list):
        etree.SubElement(etree.SubElement(element, "array"), "data").extend(_value(content) for content in value)
    else:
        element.text = str(value)
    return element


def _version(epoch: int) -> dict[str, object]:
    """Who has exported; a host whose API is older than 1.20 (XenServer 8, XCP-ng 8) refuses it. An export of version 2
    has a checksum after every chunk of a disk."""
    return {
        "hostname": "sfvm",
        "date": time.strftime("%Y-%m-%d", time.gmtime(epoch)),
        "product_version": __version__,
        "product_brand": "sfvm",
        "build_number": "0",
        "xapi_major": 1,
        "xapi_minor": 20,
        "export_vsn": 2,
    }


def _vm(machine: Machine) -> dict[str, object]:
    memory = machine.memory
    return {
        **_common(machine, "vm", machine.label, machine.description),
        "user_version": 1,
        "is_a_template": False,
        "is_default_template": False,
        "is_control_domain": False,
        "power_state": "Halted",
        "memory_overhead": 0,
        "memory_target": 0,
        "memory_static_max": memory,
        "memory_dynamic_max": memory,
        "memory_dynamic_min": memory,
        "memory_static_min": memory,
        "VCPUs_params": {},
        "VCPUs_max": machine.vcpus,
        "VCPUs_at_startup": machine.vcpus,
        "actions_after_shutdown": "destroy",
        "actions_after_reboot": "restart",
        "actions_after_crash": "restart",
        "domain_type": "hvm",
        "HVM_boot_policy": "BIOS order",
        "HVM_boot_params": {"order": "cd", "firmware": machine.firmware},
        "HVM_shadow_multiplier": 1,
        **dict.fromkeys(
            ("PV_kernel", "PV_ramdisk", "PV_args", "PV_bootloader", "PV_bootloader_args", "PV_legacy_args"), ""
        ),
        "platform": {
            "device-model": DEVICE_MODELS[machine.firmware],
            "acpi": "1",
            "apic": "true",
            "pae": "true",
            "nx": "true",
            "hpet": "true",
            "viridian": "false",  # for Windows
            "secureboot": "false",
            "timeoffset": "0",
            "vga": "std",
            "videoram": "8",
        },
        "PCI_bus": "",
        "other_config": {
            "base_template_name": "Other install media",
            "mac_seed": str(machine.unique("xapi mac_seed")),
        },
        "blocked_operations": {},
        "domid": -1,
        "domarch": "",
        "last_boot_CPU_flags": {},
        "last_booted_record": "",
        **dict.fromkeys(("resident_on", "affinity", "metrics", "guest_metrics", "suspend_VDI", "suspend_SR"), NULL),
        "VBDs": [VBD],
        "VIFs": [VIF],
        **{name: [] for name in ("consoles", "crash_dumps", "VTPMs", "VGPUs", "VUSBs", "attached_PCIs", "children")},
        "blobs": {},
        "is_a_snapshot": False,
        "snapshots": [],
        "snapshot_of": NULL,
        "snapshot_time": time.gmtime(0),
        "snapshot_info": {},
        "snapshot_metadata": "",
        "transportable_snapshot_id": "",
        "parent": NULL,
        "xenstore_data": {},
        "recommendations": "",
        "ha_always_run": False,
        "ha_restart_priority": "",
        "is_snapshot_from_vmpp": False,
        "is_vmss_snapshot": False,
        "order": 0,
        "start_delay": 0,
        "shutdown_delay": 0,
        "version": 0,
        "generation_id": "",
        "hardware_platform_version": 0,
        "has_vendor_device": False,
        "requires_reboot": False,
        "reference_label": "other-install-media",
        "bios_strings": {},
        "NVRAM": {},
    }


def _sr(machine: Machine) -> dict[str, object]:
    """Where the disk was; the importer puts it where the user says."""
    return {
        **_common(machine, "sr", "sfvm", ""),
        "VDIs": [VDI],
        "PBDs": [],
        "virtual_allocation": machine.disk,
        "physical_utilisation": machine.disk,
        "physical_size": machine.disk,
        "type": "ext",
        "content_type": "user",
        "shared": False,
        "sm_config": {},
        "blobs": {},
        "local_cache_enabled": False,
        "introduced_by": NULL,
    }


def _vdi(machine: Machine) -> dict[str, object]:
    return {
        **_common(machine, "vdi", machine.label, machine.description),
        "SR": SR,
        "VBDs": [VBD],
        "crash_dumps": [],
        "virtual_size": machine.disk,
        "physical_utilisation": machine.disk,
        "type": "user",
        "sharable": False,
        "read_only": False,
        "storage_lock": False,
        "location": str(machine.unique("xapi vdi")),
        "managed": True,
        "missing": False,
        "parent": NULL,
        "xenstore_data": {},
        "sm_config": {},
        "is_a_snapshot": False,
        "snapshot_of": NULL,
        "snapshots": [],
        "snapshot_time": time.gmtime(0),
        "allow_caching": False,
        "on_boot": "persist",
        "metadata_of_pool": NULL,
        "metadata_latest": False,
        "cbt_enabled": False,
    }


def _vbd(machine: Machine) -> dict[str, object]:
    return {
        **_device(machine, "vbd"),
        "VDI": VDI,
        "device": "xvda",
        "userdevice": "0",
        "bootable": True,
        "mode": "RW",
        "type": "Disk",
        "unpluggable": False,
        "storage_lock": False,
        "empty": False,
    }


def _network(machine: Machine) -> dict[str, object]:
    """The importer looks for a network with this label, then for this bridge, and makes one if there is neither."""
    return {
        **_common(machine, "network", machine.network, ""),
        "VIFs": [VIF],
        "PIFs": [],
        "MTU": 1500,
        "bridge": "xenbr0",
        "managed": True,
        "blobs": {},
        "default_locking_mode": "unlocked",
    }


def _vif(machine: Machine) -> dict[str, object]:
    """The importer makes up the address, unless it restores a backup."""
    address = b"\x02" + machine.unique("xapi mac").bytes[:5]  # of a unicast card, locally administered (IEEE 802)
    return {
        **_device(machine, "vif"),
        "network": NETWORK,
        "device": "0",
        "MAC": address.hex(":"),
        "MAC_autogenerated": True,
        "MTU": 1500,
        "locking_mode": "network_default",
        **{f"ipv{version}_{kind}": [] for version in (4, 6) for kind in ("allowed", "addresses")},
        **{f"ipv{version}_configuration_mode": "None" for version in (4, 6)},
        **{f"ipv{version}_gateway": "" for version in (4, 6)},
    }


def _common(machine: Machine, kind: str, label: str, description: str) -> dict[str, object]:
    return {
        "uuid": str(machine.unique(f"xapi {kind}")),
        "name_label": label,
        "name_description": description,
        "allowed_operations": [],
        "current_operations": {},
        "other_config": {},
        "tags": [],
    }


def _device(machine: Machine, kind: str) -> dict[str, object]:
    return {
        "uuid": str(machine.unique(f"xapi {kind}")),
        "allowed_operations": [],
        "current_operations": {},
        "VM": VM,
        "other_config": {},
        "currently_attached": False,
        "status_code": 0,
        "status_detail": "",
        "runtime_properties": {},
        "qos_algorithm_type": "",
        "qos_algorithm_params": {},
        "qos_supported_algorithms": [],
        "metrics": NULL,
    }
