"""Programs that read descriptions of virtual machines."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from lxml import etree

from tests.peers.tools import tool

SCHEMAS = Path(os.environ.get("SFVM_OVF_XSD", "/work/shared/data/ovf-xsd"))
"""DMTF's own schemas of OVF, which are no part of the project."""


class Refused(Exception):
    """A description is not taken; the text is what is said."""


def check_ovf(path: Path) -> None:
    """Validate against DSP8023 1.1.1.

    :raises Refused: it is not valid
    """
    if not SCHEMAS.is_dir():
        pytest.skip(f"{SCHEMAS} has no schemas of OVF")
    schema = etree.XMLSchema(etree.parse(str(SCHEMAS / "dsp8023_1.1.1.xsd")))
    if not schema.validate(etree.parse(str(path))):
        raise Refused(str(schema.error_log))


def cot(package: Path) -> str:
    """What COT (Common OVF Tool) tells of an OVF package.

    :raises Refused: it finds something wrong
    """
    done = subprocess.run([tool("cot"), "info", "--verbose", package], capture_output=True, text=True, check=False)
    told = done.stdout + done.stderr
    if done.returncode or "ERROR" in told or "WARNING" in told:
        raise Refused(told)
    return told


def domain(vmx: Path, work: Path) -> etree._Element:
    """The domain that libvirt's parser makes of a VMX file. It wants to see VMware's programs, of which *work* gets
    imitations.

    :raises Refused: it makes none
    """
    for name in ("vmware", "vmplayer", "vmrun"):
        stub = work / "bin" / name
        stub.parent.mkdir(exist_ok=True)
        stub.write_text("#!/bin/sh\necho VMware Workstation 17.0.0 build-1\n")
        stub.chmod(0o755)
    words = [tool("virsh"), "-c", "vmwarews:///session", "domxml-from-native", "vmware-vmx", vmx]
    environment = {**os.environ, "PATH": f"{work / 'bin'}:{os.environ['PATH']}", "LC_ALL": "C"}
    done = subprocess.run(words, env=environment, capture_output=True, check=False)
    if done.returncode:
        raise Refused(done.stderr.decode())
    return etree.fromstring(done.stdout)


def add_box(box: Path, home: Path, provider: str) -> Path:
    """Add a box to a Vagrant of its own below *home*; return the directory that it is unpacked in.

    :raises Refused: Vagrant does not take it
    """
    environment = {**os.environ, "VAGRANT_HOME": str(home), "VAGRANT_CHECKPOINT_DISABLE": "1", "LC_ALL": "C.UTF-8"}
    words = [tool("vagrant"), "box", "add", "--name", "test", "--provider", provider, box]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(done.stdout + done.stderr)
    return home / "boxes" / "test" / "0" / provider


def v2v(kind: str, source: Path) -> str:
    """What virt-v2v understands of a machine, an OVF package or VMX file (*kind*: ``ova``, ``vmx``), once the digests
    of its manifest are right.

    :raises Refused: it does not take it
    """
    words = [tool("virt-v2v"), "--print-source", "-i", kind, source, "-o", "null"]
    done = subprocess.run(words, env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, check=False)
    if done.returncode or "warning" in done.stderr:
        raise Refused(done.stderr)
    return done.stdout
