"""Sealed overlays, manifests, names, unfinished work, and their care."""

from sfvm.repository.collection import Removed
from sfvm.repository.files import LockCancelled
from sfvm.repository.manifest import Manifest, StepRecord
from sfvm.repository.store import Repository
from sfvm.repository.verification import Problem
from sfvm.repository.work import Work

__all__ = ["LockCancelled", "Manifest", "Problem", "Removed", "Repository", "StepRecord", "Work"]
