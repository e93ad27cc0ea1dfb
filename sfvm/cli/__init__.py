"""The command line: parses options, calls the parts below, renders what they return. No logic of its own."""

from sfvm.cli.entry import main

__all__ = ["main"]
