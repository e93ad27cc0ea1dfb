"""boto3, and what may go wrong with it, in our words. Credentials are its own affair: they are never seen here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sfvm.errors import PublishError
from sfvm.publish.snapshot import WORKERS

ATTEMPTS = 6
"""How often a call is made before it fails: botocore waits longer each time, 20 s at most."""
CREDENTIALS = "`aws configure`, AWS_PROFILE or --profile; credentials are looked for where boto3 does"
HINTS = {
    "AuthFailure": CREDENTIALS,
    "ExpiredToken": CREDENTIALS,
    "ExpiredTokenException": CREDENTIALS,
    "InvalidClientTokenId": CREDENTIALS,
    "InvalidSignatureException": CREDENTIALS,
    "SignatureDoesNotMatch": CREDENTIALS,
    "UnrecognizedClientException": CREDENTIALS,
    "AccessDeniedException": "the permissions that this needs are in docs/formats/ami.md",
    "UnauthorizedOperation": "the permissions that this needs are in docs/formats/ami.md",
    "InvalidAMIName.Duplicate": "give the image another name with --name",
}
"""What to do, by the code of Amazon's answer."""


@dataclass(frozen=True)
class Amazon:
    """Clients of EC2 and of EBS's direct APIs in a *region*."""

    region: str
    ec2: Any
    ebs: Any


def connect(region: str | None, endpoint: str | None, profile: str | None) -> Amazon:
    """The clients; nothing is sent yet. *endpoint* is another address than Amazon's own, *profile* one of
    ``~/.aws/config``.

    :raises PublishError: boto3 is not installed, there is no such profile, or no region
    """
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import NoCredentialsError
    except ImportError as error:
        raise PublishError(
            "the Python package boto3 is not installed", why=str(error), hint="pip install 'sfvm[ec2]'"
        ) from error
    config = Config(
        retries={"mode": "standard", "max_attempts": ATTEMPTS},
        max_pool_connections=WORKERS,
        connect_timeout=10,
        read_timeout=60,
    )
    with answering("Amazon cannot be asked"):
        session = boto3.Session(profile_name=profile, region_name=region)
        if session.get_credentials() is None:  # said now, not once the disk is read
            raise NoCredentialsError
        ec2 = session.client("ec2", endpoint_url=endpoint, config=config)
        ebs = session.client("ebs", endpoint_url=endpoint, config=config)
    return Amazon(str(ec2.meta.region_name), ec2, ebs)


@contextmanager
def answering(what: str) -> Iterator[None]:
    """Say *what* failed when boto3 raises.

    :raises PublishError: then
    """
    from botocore import exceptions
    from botocore.parsers import ResponseParserError

    try:
        yield
    except exceptions.ClientError as error:
        answer = error.response.get("Error", {})
        reason = f"{answer.get('Code', '?')}: {answer.get('Message', '')}".rstrip(": ")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        otherwise = CREDENTIALS if status in (401, 403) else None
        raise PublishError(what, why=reason, hint=HINTS.get(code(error), otherwise)) from error
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.ProfileNotFound) as error:
        raise PublishError(what, why=str(error), hint=CREDENTIALS) from error
    except exceptions.NoRegionError as error:
        raise PublishError(
            what, why="no region is named", hint="--region eu-central-1, or AWS_DEFAULT_REGION"
        ) from error
    except (exceptions.BotoCoreError, ResponseParserError, ValueError) as error:  # ValueError: of an odd endpoint
        raise PublishError(what, why=str(error)) from error


def code(error: Any) -> str:
    """Amazon's code for a ClientError."""
    return str(error.response.get("Error", {}).get("Code", ""))
