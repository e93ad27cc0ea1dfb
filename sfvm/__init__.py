"""sfvm: trees of filesystems, built inside helper VMs without root, bundled for any platform."""

__version__ = "0.1.0"
