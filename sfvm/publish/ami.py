"""A bundle of the format ``ami`` becomes an image of Amazon EC2: a snapshot is written, then registered."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sfvm import safejson
from sfvm.errors import PublishError, SfvmError
from sfvm.events import Listener, Notice, Preparing
from sfvm.publish import snapshot
from sfvm.publish.amazon import Amazon, answering, code
from sfvm.publish.bundle import AGAIN, Bundle
from sfvm.publish.state import State, alone, beside, load

SAVE = 1.0
"""Seconds between two writings of the state, at least."""
GONE = ("InvalidAMIID.NotFound", "InvalidAMIID.Unavailable", "InvalidSnapshot.NotFound")
"""Amazon's codes for what is not there, or not any more."""
POLL, POLLS = 5, 720
"""Seconds between two looks at a snapshot that Amazon puts together, and how many."""


@dataclass(frozen=True)
class Published:
    """The *image* (AMI) called *name* in a *region*, and the *snapshot* it starts from."""

    image: str
    name: str
    snapshot: str
    region: str


def publish(bundle: Bundle, amazon: Amazon, name: str | None, listener: Listener) -> Published:
    """Upload the disk of *bundle* and register it as *name* (its own, when it is None). What a former attempt has done
    is not done again.

    :raises PublishError: the bundle is no AMI, or Amazon refuses; what is there by then is named
    """
    disk = bundle.only(".img", "a raw disk")
    request = _request(bundle, name)
    path = beside(bundle.directory, amazon.region)
    with alone(path):
        digest = bundle.check(disk, lambda fraction: listener(Preparing("checking the disk", fraction)))
        listener(Preparing("checking the disk", 1, done=True))
        work = _Publishing(amazon, disk, path, f"sfvm {bundle.node}", listener, load(path, digest))
        try:
            image = work.image(request)
        except SfvmError as error:
            if work.state.snapshot and not work.state.image:
                kept = f"the same command goes on with {work.state.snapshot}"
                remove = (
                    f"`aws ec2 delete-snapshot --region {amazon.region} --snapshot-id {work.state.snapshot}` removes it"
                )
                error.hint = "; ".join(hint for hint in (error.hint, kept, remove) if hint)
            raise
        return Published(image, str(request["Name"]), work.state.snapshot, amazon.region)


def _request(bundle: Bundle, name: str | None) -> dict[str, Any]:
    """The parameters of RegisterImage, as the bundle has them."""
    path = bundle.only("register-image.json", "the description of an AMI")
    wrong = PublishError(f"{path} does not describe an AMI with one disk", hint=AGAIN)
    try:
        request = safejson.loads(path.read_text(encoding="utf-8"))
        (mapping,) = request["BlockDeviceMappings"]
        if not request["Name"] or not mapping["Ebs"]["SnapshotId"]:
            raise wrong
    except (ValueError, LookupError, TypeError) as error:
        raise wrong from error
    return {**request, **({"Name": name} if name else {})}


@dataclass
class _Publishing:
    """One attempt; *state* is how far it is, and always what the file *path* says."""

    amazon: Amazon
    disk: Path
    path: Path
    description: str
    listener: Listener
    state: State

    def _advance(self, **changes: Any) -> None:
        self.state = replace(self.state, **changes)
        self.state.save(self.path)

    def image(self, request: dict[str, Any]) -> str:
        """The identifier of the AMI.

        :raises PublishError: another image has its name, which is said before anything is uploaded
        """
        asked = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        if self.state.image and self.state.request == asked:
            if self._there("describe_images", ImageIds=[self.state.image]):
                return self.state.image
            self.state = replace(self.state, image="", request="")
        if self.state.request != asked:
            self._require_free(request["Name"])
        if self.state.snapshot and not self._there("describe_snapshots", SnapshotIds=[self.state.snapshot]):
            self.listener(Notice(f"{self.state.snapshot} is gone: the upload begins anew"))
            self.state = State(self.state.digest)
        if not self.state.complete:
            self._write()
        self._await()
        self._advance(image="", request=asked)  # before it is asked for: the answer may get lost
        with answering("the image cannot be registered"):
            self._advance(image=self._register(request))
        return self.state.image

    def _there(self, operation: str, **which: Any) -> bool:
        """Whether Amazon still knows an image or a snapshot."""
        from botocore.exceptions import ClientError

        with answering("Amazon cannot be asked"):
            try:
                answer = getattr(self.amazon.ec2, operation)(**which)
            except ClientError as error:
                if code(error) in GONE:
                    return False
                raise
        return bool(answer.get("Images") or answer.get("Snapshots"))

    def _write(self) -> None:
        """Write the snapshot, from where it is, to its end."""
        size = self.disk.stat().st_size
        ebs = self.amazon.ebs
        if not self.state.snapshot:
            self.state.save(self.path)  # the token, before it is used: a snapshot that is begun is always known
            with answering("a snapshot cannot be begun"):
                self._advance(snapshot=snapshot.start(ebs, size, self.description, self.state.token))
        self.listener(Notice(f"snapshot {self.state.snapshot} is being written"))
        below, saved = self.state.below, time.monotonic()

        def done(index: int) -> None:
            nonlocal below, saved
            below = max(below, index)
            self.listener(Preparing("uploading", min(index * snapshot.BLOCK / size, 1)))
            if time.monotonic() - saved > SAVE:
                saved = time.monotonic()
                self._advance(below=below)

        try:
            with answering(f"{self.state.snapshot} cannot be written"):
                sent = snapshot.upload(ebs, self.state.snapshot, self.disk, self.state.below, done)
        finally:
            self._advance(below=below)
        with answering(f"{self.state.snapshot} cannot be completed"):
            self._complete(sent)
        self._advance(complete=True)
        self.listener(Preparing("uploading", 1, done=True))

    def _complete(self, sent: snapshot.Sent) -> None:
        """Say that the snapshot is whole; a former attempt may have done so, and not have heard the answer."""
        from botocore.exceptions import ClientError

        try:
            snapshot.complete(self.amazon.ebs, self.state.snapshot, sent)
        except ClientError as error:
            if code(error) not in ("ConflictException", "ValidationException"):
                raise
            (found,) = self.amazon.ec2.describe_snapshots(SnapshotIds=[self.state.snapshot])["Snapshots"]
            if found["State"] != "completed":
                raise

    def _await(self) -> None:
        """Wait until the snapshot can be used."""
        from botocore.exceptions import WaiterError

        what = f"{self.state.snapshot} cannot be used"
        self.listener(Preparing("waiting for the snapshot"))
        with answering(what):
            waiter = self.amazon.ec2.get_waiter("snapshot_completed")
            try:
                waiter.wait(SnapshotIds=[self.state.snapshot], WaiterConfig={"Delay": POLL, "MaxAttempts": POLLS})
            except WaiterError as error:
                raise PublishError(what, why=str(error)) from error
        self.listener(Preparing("waiting for the snapshot", 1, done=True))

    def _register(self, request: dict[str, Any]) -> str:
        """The AMI; one of that name and snapshot is what a former attempt has registered: before the first one the name
        was free."""
        from botocore.exceptions import ClientError

        (mapping,) = request["BlockDeviceMappings"]
        mapping = {**mapping, "Ebs": {**mapping["Ebs"], "SnapshotId": self.state.snapshot}}
        try:
            answer = self.amazon.ec2.register_image(**{**request, "BlockDeviceMappings": [mapping]})
        except ClientError as error:
            if code(error) == "InvalidAMIName.Duplicate":
                for image in self._called(request["Name"]):
                    used = [device.get("Ebs", {}).get("SnapshotId") for device in image.get("BlockDeviceMappings", ())]
                    if self.state.snapshot in used:
                        return str(image["ImageId"])
            raise
        return str(answer["ImageId"])

    def _require_free(self, name: str) -> None:
        """:raises PublishError: an image of this account has the *name*"""
        with answering("Amazon cannot be asked"):
            taken = [str(image["ImageId"]) for image in self._called(name)]
        if taken:
            raise PublishError(
                "the image cannot be registered",
                why=f"{', '.join(taken)} is called {name!r} already, and is not this one",
                hint=f"give the image another name with --name, or deregister {taken[0]}",
            )

    def _called(self, name: str) -> list[dict[str, Any]]:
        answer = self.amazon.ec2.describe_images(Owners=["self"], Filters=[{"Name": "name", "Values": [name]}])
        return list(answer["Images"])
