"""AMIs, published to moto's servers of EBS and EC2 by real clients; what is there is read back by others."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from click.testing import CliRunner, Result

from sfvm.cli.commands import cli
from sfvm.errors import PublishError, SfvmError
from sfvm.publish import amazon as clients
from sfvm.publish import ami
from sfvm.publish.bundle import opened
from sfvm.publish.snapshot import nonzero
from sfvm.publish.state import alone, beside
from tests.publish.conftest import BLOCK, DISK, SIZE, Proxy, made

REGION = "eu-central-1"


@pytest.fixture
def bundle(tmp_path: Path, disk: Path) -> Path:
    return made("ami", tmp_path / "web-ami", disk)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore waits no seconds between two attempts."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0)


def publish(bundle: Path, amazon: Proxy, name: str | None = None) -> ami.Published:
    return ami.publish(opened(bundle), clients.connect(REGION, amazon.url, None), name, lambda event: None)


def client(service: str, amazon: Proxy) -> Any:
    return boto3.client(service, region_name=REGION, endpoint_url=amazon.url)


def restored(amazon: Proxy, snapshot: str) -> bytes:
    """The disk, from the blocks of the snapshot, each of which has the checksum that was told."""
    ebs, data = client("ebs", amazon), bytearray(-(-SIZE // BLOCK) * BLOCK)
    for block in ebs.list_snapshot_blocks(SnapshotId=snapshot)["Blocks"]:
        index = block["BlockIndex"]
        answer = ebs.get_snapshot_block(SnapshotId=snapshot, BlockIndex=index, BlockToken=block["BlockToken"])
        content = answer["BlockData"].read()
        assert len(content) == BLOCK
        assert base64.b64decode(answer["Checksum"]) == hashlib.sha256(content).digest()
        data[index * BLOCK : (index + 1) * BLOCK] = content
    return bytes(data)


def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What CompleteSnapshot is told: moto looks at none of it."""
    found: list[dict[str, Any]] = []

    def connect(*words: Any) -> clients.Amazon:
        made = real(*words)
        made.ebs.meta.events.register(
            "provide-client-params.ebs.CompleteSnapshot", lambda params, **_: found.append(params)
        )
        return made

    real = clients.connect
    monkeypatch.setattr(clients, "connect", connect)
    return found


def test_the_snapshot_is_the_disk_and_the_image_is_registered(
    bundle: Path, amazon: Proxy, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    completed = told(monkeypatch)
    done = publish(bundle, amazon)
    assert restored(amazon, done.snapshot)[:SIZE] == disk.read_bytes()
    assert sorted(amazon.puts()) == sorted(DISK)  # and no block of zeros
    digests = b"".join(hashlib.sha256(DISK[index].ljust(BLOCK, b"\0")).digest() for index in sorted(DISK))
    (told_of,) = completed
    assert told_of["ChangedBlocksCount"] == len(DISK)
    assert told_of["Checksum"] == base64.b64encode(hashlib.sha256(digests).digest()).decode()
    (image,) = client("ec2", amazon).describe_images(Owners=["self"])["Images"]
    assert (image["ImageId"], image["Name"]) == (done.image, "web-0123456789ab")
    (found,) = client("ec2", amazon).describe_snapshots(SnapshotIds=[done.snapshot])["Snapshots"]
    assert (found["VolumeSize"], found["State"]) == (1, "completed")


def test_the_image_that_is_asked_for_is_the_one_of_the_bundle(
    bundle: Path, amazon: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    real = clients.connect

    def connect(*words: Any) -> clients.Amazon:
        made = real(*words)
        made.ec2.meta.events.register(
            "provide-client-params.ec2.RegisterImage", lambda params, **_: asked.append(params)
        )
        return made

    monkeypatch.setattr(clients, "connect", connect)
    done = publish(bundle, amazon, "other name")
    expected = json.loads((bundle / "register-image.json").read_text().replace("SNAPSHOT", done.snapshot))
    assert asked == [{**expected, "Name": "other name"}]


def test_a_second_time_nothing_is_done(bundle: Path, amazon: Proxy) -> None:
    first = publish(bundle, amazon)
    amazon.seen.clear()
    assert publish(bundle, amazon) == first
    assert amazon.puts() == []
    assert len(client("ec2", amazon).describe_images(Owners=["self"])["Images"]) == 1


def described(bundle: Path, text: str) -> None:
    path = bundle / "register-image.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "Description": text}))


def test_another_name_is_another_image_of_the_same_snapshot(bundle: Path, amazon: Proxy) -> None:
    first = publish(bundle, amazon)
    amazon.seen.clear()
    second = publish(bundle, amazon, "other")
    assert second.image != first.image
    assert (second.name, second.snapshot) == ("other", first.snapshot)
    assert amazon.puts() == []
    images = client("ec2", amazon).describe_images(Owners=["self"])["Images"]
    assert {image["ImageId"]: image["Name"] for image in images} == {first.image: first.name, second.image: "other"}
    assert publish(bundle, amazon, "other") == second


def test_another_description_is_not_the_image_that_there_is(bundle: Path, amazon: Proxy) -> None:
    described(bundle, "one")
    first = publish(bundle, amazon)
    described(bundle, "two")
    amazon.seen.clear()
    for _ in range(2):  # the second time no more than the first
        with pytest.raises(PublishError) as caught:
            publish(bundle, amazon)
        message = caught.value.render()
        assert f"{first.image} is called {first.name!r} already" in message
        assert "--name" in message
        assert "delete-snapshot" not in message  # the image has it
    assert amazon.puts() == []
    second = publish(bundle, amazon, "other")
    (image,) = client("ec2", amazon).describe_images(ImageIds=[second.image])["Images"]
    assert image["Description"] == "two"


class Careful:
    """EC2 as Amazon has it, where moto is careless: names are taken once, and images know their snapshot. When *lost*,
    the answer of RegisterImage does not arrive."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.requests: dict[str, dict[str, Any]] = {}
        self.lost = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def register_image(self, **request: Any) -> Any:
        if request["Name"] in [known["Name"] for known in self.requests.values()]:
            raise ClientError({"Error": {"Code": "InvalidAMIName.Duplicate", "Message": "taken"}}, "RegisterImage")
        answer = self.real.register_image(**request)
        self.requests[answer["ImageId"]] = request
        if self.lost:
            raise EndpointConnectionError(endpoint_url="nowhere")
        return answer

    def describe_images(self, **which: Any) -> Any:
        answer = self.real.describe_images(**which)
        known = [image for image in answer["Images"] if image["ImageId"] in self.requests]
        return {"Images": [{**image, **self.requests[image["ImageId"]]} for image in known]}


def test_an_image_whose_answer_got_lost_is_found(bundle: Path, amazon: Proxy) -> None:
    real = clients.connect(REGION, amazon.url, None)
    ec2 = Careful(real.ec2)
    careful = clients.Amazon(real.region, ec2, real.ebs)
    ec2.lost = True
    with pytest.raises(PublishError, match="cannot be registered"):
        ami.publish(opened(bundle), careful, None, lambda event: None)
    ec2.lost = False
    (image,) = ec2.requests
    assert ami.publish(opened(bundle), careful, None, lambda event: None).image == image
    # But it is the answer to no other question.
    path = beside(bundle, REGION)
    path.write_text(json.dumps({**json.loads(path.read_text()), "image": ""}))
    described(bundle, "another")
    for _ in range(2):
        with pytest.raises(PublishError, match="cannot be registered"):
            ami.publish(opened(bundle), careful, None, lambda event: None)


def test_a_name_that_is_taken_is_said_before_the_upload(
    bundle: Path, amazon: Proxy, disk: Path, tmp_path: Path
) -> None:
    publish(bundle, amazon)
    other = made("ami", tmp_path / "other", disk)
    amazon.seen.clear()
    with pytest.raises(PublishError, match="is called 'web-0123456789ab' already"):
        publish(other, amazon)
    assert amazon.puts() == []


def test_a_state_of_before_requests_were_kept_is_understood(bundle: Path, amazon: Proxy) -> None:
    amazon.refuse = lambda method, path: 500 if "/blocks/100" in path else None
    with pytest.raises(PublishError):
        publish(bundle, amazon)
    amazon.refuse = lambda method, path: None
    path = beside(bundle, REGION)
    state = json.loads(path.read_text())
    del state["request"]
    path.write_text(json.dumps(state))
    assert publish(bundle, amazon).snapshot == state["snapshot"]


def test_what_fails_now_and_then_is_tried_again(bundle: Path, amazon: Proxy, disk: Path) -> None:
    failed: set[str] = set()

    def refuse(method: str, path: str) -> int | None:
        if method == "PUT" and path not in failed:
            failed.add(path)
            return 503
        return None

    amazon.refuse = refuse
    done = publish(bundle, amazon)
    assert len(failed) == len(DISK)
    assert restored(amazon, done.snapshot)[:SIZE] == disk.read_bytes()


def test_a_failed_upload_names_its_snapshot_and_goes_on_later(bundle: Path, amazon: Proxy, disk: Path) -> None:
    amazon.refuse = lambda method, path: 500 if "/blocks/100" in path else None
    with pytest.raises(PublishError) as caught:
        publish(bundle, amazon)
    state = json.loads(beside(bundle, REGION).read_text())
    assert state["below"] == 8
    assert state["snapshot"] in (caught.value.hint or "")
    assert "delete-snapshot" in (caught.value.hint or "")
    amazon.refuse = lambda method, path: None
    amazon.seen.clear()
    done = publish(bundle, amazon)
    assert done.snapshot == state["snapshot"]
    assert sorted(amazon.puts()) == [100, 131]
    assert restored(amazon, done.snapshot)[:SIZE] == disk.read_bytes()


def test_a_killed_upload_goes_on_with_the_same_snapshot(bundle: Path, amazon: Proxy, disk: Path) -> None:
    stuck, go_on = threading.Event(), threading.Event()

    def refuse(method: str, path: str) -> int | None:
        if "/blocks/100" in path:
            stuck.set()
            go_on.wait(30)
            return 503
        return None

    amazon.refuse = refuse
    words = ("publish", "ami", str(bundle), "--region", REGION, "--endpoint-url", amazon.url)
    with subprocess.Popen([sys.executable, "-m", "sfvm.cli", *words], stderr=subprocess.PIPE, text=True) as process:
        assert stuck.wait(30)
        process.kill()
        _, errors = process.communicate()
    go_on.set()
    amazon.refuse = lambda method, path: None
    snapshot = json.loads(beside(bundle, REGION).read_text())["snapshot"]
    assert snapshot in errors
    done = publish(bundle, amazon)
    assert done.snapshot == snapshot
    assert restored(amazon, snapshot)[:SIZE] == disk.read_bytes()


def test_an_image_that_cannot_be_registered_is_later(bundle: Path, amazon: Proxy) -> None:
    amazon.refuse = lambda method, path: 400 if (method, path) == ("POST", "/") and amazon.puts() else None
    with pytest.raises(PublishError, match="cannot be"):
        publish(bundle, amazon)
    amazon.refuse = lambda method, path: None
    snapshot = json.loads(beside(bundle, REGION).read_text())["snapshot"]
    amazon.seen.clear()
    assert publish(bundle, amazon).snapshot == snapshot
    assert amazon.puts() == []


def test_a_snapshot_that_is_gone_is_made_anew(bundle: Path, amazon: Proxy, disk: Path) -> None:
    first = publish(bundle, amazon)
    ec2 = client("ec2", amazon)
    ec2.deregister_image(ImageId=first.image)
    ec2.delete_snapshot(SnapshotId=first.snapshot)
    second = publish(bundle, amazon)
    assert second.snapshot != first.snapshot
    assert restored(amazon, second.snapshot)[:SIZE] == disk.read_bytes()


def test_a_damaged_disk_is_not_published(bundle: Path, amazon: Proxy) -> None:
    with (bundle / "web.img").open("r+b") as file:
        file.write(b"B")
    with pytest.raises(PublishError, match="is damaged"):
        publish(bundle, amazon)
    assert amazon.seen == []


def test_two_at_once_are_one_too_many(bundle: Path, amazon: Proxy) -> None:
    with alone(beside(bundle, REGION)), pytest.raises(PublishError, match="being published already"):
        publish(bundle, amazon)
    assert publish(bundle, amazon).image
    assert [path.name for path in bundle.parent.glob("web-ami.*")] == [f"web-ami.{REGION}.json"]


def test_another_disk_begins_anew(bundle: Path, amazon: Proxy, disk: Path, tmp_path: Path) -> None:
    first = publish(bundle, amazon)
    with disk.open("r+b") as file:
        file.write(b"BOOT")
    bundle.rename(tmp_path / "old")
    made("ami", bundle, disk)
    second = publish(bundle, amazon, "second")
    assert second.snapshot != first.snapshot
    assert restored(amazon, second.snapshot)[:SIZE] == disk.read_bytes()


def test_zeros_are_no_blocks(disk: Path) -> None:
    assert [index for index, _ in nonzero(disk)] == sorted(DISK)
    assert {len(data) for _, data in nonzero(disk)} == {BLOCK}


# The command.


def sfvm(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, ["publish", "ami", *map(str, words)])


def test_the_command_prints_the_image(bundle: Path, amazon: Proxy) -> None:
    done = sfvm(bundle, "--region", REGION, "--endpoint-url", amazon.url, "--json", "--quiet")
    assert done.exception is None
    answer = json.loads(done.stdout)
    assert re.fullmatch("ami-[0-9a-f]+", answer["image"])
    assert answer["region"] == REGION
    done = sfvm(bundle, "--region", REGION, "--endpoint-url", amazon.url, "--quiet")
    assert done.stdout == answer["image"] + "\n"
    assert "very-secret" not in json.dumps(amazon.headers) + beside(bundle, REGION).read_text()


def test_wrong_credentials_are_said_and_not_shown(
    bundle: Path, amazon: Proxy, moto: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", moto)
    connection.request("POST", "/moto-api/reset-auth", "0")
    assert connection.getresponse().status == 200
    try:
        done = sfvm(bundle, "--region", REGION, "--endpoint-url", amazon.url)
    finally:
        connection.request("POST", "/moto-api/reset-auth", "inf")
        connection.getresponse().read()
        connection.close()
    assert isinstance(done.exception, SfvmError)
    message = done.exception.render()
    assert "AWS was not able to validate the provided access credentials" in message
    assert "aws configure" in message
    assert "very-secret" not in message


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        ("AWS_ACCESS_KEY_ID", ("--region", REGION), "Unable to locate credentials"),
        ("", (), "no region"),
        ("", ("--profile", "nobody"), "nobody"),
        ("", ("--region", REGION, "--endpoint-url", "nonsense"), "nonsense"),
        ("", ("--region", REGION, "--endpoint-url", "http://127.0.0.1:9"), "127.0.0.1:9"),
    ],
)
def test_what_is_missing_is_said(
    bundle: Path, amazon: Proxy, monkeypatch: pytest.MonkeyPatch, change: str, words: tuple[str, ...], message: str
) -> None:
    if change:
        monkeypatch.delenv(change)
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    done = sfvm(
        bundle,
        *words,
        *(() if "--endpoint-url" in words or "--region" not in words else ("--endpoint-url", amazon.url)),
    )
    assert isinstance(done.exception, SfvmError), done.exception
    assert message in done.exception.render()


def test_boto3_is_asked_for_when_it_is_missing(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "boto3", None)
    done = sfvm(bundle)
    assert isinstance(done.exception, PublishError)
    assert "sfvm[ec2]" in done.exception.render()


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{}",
        '{"node": "web", "artifacts": {}}',
        '{"node": "web", "artifacts": []}',
        "[" * 200_000,
        '{"node": "web", "artifacts": {"below/web.img": {"sha256": "0"}, "register-image.json": {"sha256": "0"}}}',
    ],
)
def test_what_is_no_bundle_is_refused(tmp_path: Path, amazon: Proxy, text: str | None) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    done = sfvm(tmp_path, "--region", REGION, "--endpoint-url", amazon.url)
    assert isinstance(done.exception, PublishError)
    assert amazon.seen == []


@pytest.mark.parametrize("name", ["web.img", "register-image.json"])
def test_an_artifact_that_is_gone_is_said(bundle: Path, amazon: Proxy, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(PublishError, match=f"{name} is missing"):
        publish(bundle, amazon)
    assert amazon.seen == []
