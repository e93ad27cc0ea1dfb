"""From a node to images and archives for platforms: layouts, the finish overlay, one file per bundle verb."""

from __future__ import annotations

from collections.abc import Mapping

from sfvm.bundle.bundler import Bundler, bundle
from sfvm.bundle.format import FormatRequest
from sfvm.bundle.format import request as _request
from sfvm.config import Settings

__all__ = ["Bundler", "FormatRequest", "bundle", "request"]


def request(_settings: Settings, name: str, values: Mapping[str, str]) -> FormatRequest:
    """See :func:`sfvm.bundle.format.request`."""
    return _request(name, values)
