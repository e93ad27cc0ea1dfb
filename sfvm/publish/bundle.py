"""A bundle's directory, as it is published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sfvm import safejson
from sfvm.bundle.hashing import digests
from sfvm.errors import PublishError

AGAIN = "make the bundle again (sfvm bundle … --force)"
"""What to do with one that is not what it was."""


@dataclass(frozen=True)
class Bundle:
    """The complete bundle in *directory* of the node *node*; *digests* are the SHA-256 of its artifacts by name."""

    directory: Path
    node: str
    digests: Mapping[str, str]

    def only(self, suffix: str, what: str) -> Path:
        """The one artifact whose name ends in *suffix*; *what* it is, in words.

        :raises PublishError: there is none, or more than one, or its file is gone
        """
        found = [name for name in self.digests if name.endswith(suffix)]
        if len(found) != 1:
            raise PublishError(
                f"{self.directory} is no bundle that can be published so",
                why=f"it has {', '.join(found) or 'no artifact'} where {what} (*{suffix}) is wanted",
                hint="sfvm formats lists the formats; make the bundle again",
            )
        path = self.directory / found[0]
        if not path.is_file():
            raise PublishError(f"{path} is missing", why="manifest.json names it", hint=AGAIN)
        return path

    def check(self, path: Path, progress: Callable[[float], None]) -> str:
        """The SHA-256 of an artifact, which is read: what was damaged is not published.

        :raises PublishError: it is not what it was
        """
        digest = digests(path, ("sha256",), progress)["sha256"]
        if digest != self.digests[path.name]:
            raise PublishError(
                f"{path} is damaged",
                why="its SHA-256 is not that of manifest.json",
                hint=AGAIN,
            )
        return digest


def opened(directory: Path) -> Bundle:
    """The bundle in *directory*.

    :raises PublishError: it is none
    """
    path = directory / "manifest.json"
    try:
        manifest = safejson.loads(path.read_text(encoding="utf-8"))
        found = {str(name): str(artifact["sha256"]) for name, artifact in manifest["artifacts"].items()}
        node = str(manifest["node"])
        if any(Path(name).name != name for name in found):
            raise ValueError("an artifact elsewhere")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        why = error.strerror if isinstance(error, OSError) else "manifest.json is not what sfvm writes"
        raise PublishError(
            f"{directory} is no bundle", why=why, hint="`sfvm bundle` makes one, and prints its directory"
        ) from error
    return Bundle(directory, node, found)
