"""Object stores that cannot be used from here: what the cause is, and what to do about it, in one line.

The clients of object stores raise errors of several libraries, some with a traceback of their own as message.
`access_errors` stands around whatever opens a path or URI and names the causes that a user can do something
about; everything else passes.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hilbert_ray.errors import HilbertError
from hilbert_ray.storage.uri import is_local, is_s3

_NO_CREDENTIALS = frozenset(
    (
        "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound",
        "TokenRetrievalError", "SSOTokenLoadError", "UnauthorizedSSOTokenError", "DefaultCredentialsError",
    )
)  # fmt: skip
"""Exceptions, by name: their libraries are not imported where nothing needs them."""
_NO_ANSWER = frozenset(
    (
        "EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError",
        "ProxyConnectionError", "SSLError", "HTTPClientError", "ClientConnectorError", "ServerTimeoutError",
    )
)  # fmt: skip
_LIBRARIES = frozenset(("botocore", "aiobotocore", "aiohttp", "google"))
_REJECTED = frozenset(
    (
        "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired",
        "RequestTimeTooSkewed", "InvalidSecurity", "AuthFailure",
    )
)  # fmt: skip
"""Codes of S3's answers."""
_DENIED = frozenset(("AccessDenied", "AllAccessDisabled", "AccountProblem", "403"))
_ELSEWHERE = frozenset(
    ("PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")
)
_CHECK = "check AWS_ENDPOINT_URL, and that this machine reaches it"
_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, on every machine of the run"
_DEEPEST = 8
"""Errors behind an error that are looked at: clients wrap what they catch once or twice."""


class StorageError(HilbertError, RuntimeError):
    """Bytes at a path or URI that cannot be read or written."""


class AccessError(StorageError):
    """An object store that cannot be used from here, or an object that may not be.

    `place` begins the URIs of all that is concerned: `s3://` where no bucket can be used, `s3://bucket` where
    that one cannot; empty where it is one object.
    """

    def __init__(self, message: str, place: str = "") -> None:
        super().__init__(message, place)
        self.place = place

    def __str__(self) -> str:
        return str(self.args[0])


@contextmanager
def access_errors(uri: str) -> Iterator[None]:
    """Turn what says that an object store cannot be used into one error that names the cause.

    Raises:
        AccessError: without credentials, bucket or answer, or when access is denied.
    """
    try:
        yield
    except Exception as error:
        named = access_error(error, uri)
        if named is None:
            raise
        raise named from error


def access_error(error: BaseException, uri: str) -> AccessError | None:
    """Return what an exception says about access to a URI; None if it says nothing about that."""
    if is_local(uri):
        return None
    links = 0
    current: BaseException | None = error
    while current is not None and links < _DEEPEST:
        if isinstance(current, AccessError):
            return current
        if (cause := _cause(current, uri)) is not None:
            return cause
        current = current.__cause__ or current.__context__
        links += 1
    return None


def place_of(uri: str) -> str:
    """Return the server or bucket of a URI, such as `s3://bucket`; empty for local files."""
    if is_local(uri):
        return ""
    scheme, _, rest = uri.rpartition("::")[2].partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


def is_everywhere(place: str) -> bool:
    """Whether a place is all that a client reaches, not one bucket: no document is to blame then."""
    return place.endswith("://")


def _cause(error: BaseException, uri: str) -> AccessError | None:
    """Return what one exception says, without those behind it."""
    place, name = place_of(uri), type(error).__name__
    # One endpoint and one pair of credentials serve all buckets; other protocols have a server in the URI.
    everywhere = "s3://" if is_s3(place) else place
    is_of_client = type(error).__module__.partition(".")[0] in _LIBRARIES
    if is_of_client and name in _NO_CREDENTIALS:
        remedy = _CREDENTIALS if is_s3(uri) else "log in, or name a key file as its client documents"
        return AccessError(
            f"{place} cannot be used: there are no credentials for it here ({error}); {remedy}", everywhere
        )
    if is_of_client and name in _NO_ANSWER:
        return AccessError(
            f"{place} cannot be used: {_endpoint(uri)} does not answer ({name}); "
            + (_CHECK if is_s3(place) else "correct the URI, or check that this machine reaches it"),
            everywhere,
        )
    if isinstance(error, ValueError) and str(error).startswith("Invalid endpoint"):
        return AccessError(
            f"{place} cannot be used: {_endpoint(uri)} is no URL of a server; write AWS_ENDPOINT_URL with "
            "its protocol, such as https://minio.example.org:9000",
            everywhere,
        )
    response: Any = getattr(error, "response", None)
    details = response.get("Error") if isinstance(response, dict) else None
    return _refusal(str(details.get("Code")), uri) if isinstance(details, dict) else None


def _refusal(code: str, uri: str) -> AccessError | None:
    """Return what the code of a server's answer says."""
    place = place_of(uri)
    if code == "NoSuchBucket":
        return AccessError(
            f"{place} cannot be used: there is no such bucket at {_endpoint(uri)}; correct the URI, or "
            "AWS_ENDPOINT_URL if the bucket is on another server",
            place,
        )
    if code in _REJECTED:
        return AccessError(
            f"{place} cannot be used: {_endpoint(uri)} does not accept the credentials ({code}); renew "
            "them, or choose others with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE",
            "s3://",
        )
    if code in _ELSEWHERE:
        return AccessError(
            f"{place} cannot be used: the bucket is in another region or on another server ({code}); set "
            "AWS_DEFAULT_REGION or AWS_ENDPOINT_URL",
            place,
        )
    if code in _DENIED:
        return AccessError(
            f"access to {uri} is denied by {_endpoint(uri)}: these credentials may not use it, or are wrong; "
            "check AWS_ACCESS_KEY_ID or AWS_PROFILE, and what the bucket allows them"
        )
    return None


def _endpoint(uri: str) -> str:
    """Return where the requests for a URI go."""
    if not is_s3(uri):
        return "the server"
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return endpoint or "Amazon S3 (AWS_ENDPOINT_URL is not set)"
