"""Executes a plan: chains of nodes, each in one appliance, independent ones side by side."""

from sfvm.build.builder import Visitor, build

__all__ = ["Visitor", "build"]
