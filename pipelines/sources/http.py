"""Downloads of bounded size: only http and https, a few retries, and every outcome named."""

import http.client
import re
import string
import tempfile
import time
import urllib.error
import urllib.request
from email.message import Message
from typing import IO, Any, BinaryIO
from urllib.parse import quote, urlsplit

import unipart
from unipart.errors import Reject

_ATTEMPTS = 4
_BACK_OFF_SECONDS = 0.5
"""Wait before the second attempt; doubled before each further one."""
_LONGEST_WAIT_SECONDS = 30.0
"""Most that a server's Retry-After is obeyed."""
_SILENCE_SECONDS = 30.0
"""How long a connection may say nothing."""
_TOTAL_SECONDS = 600.0
"""How long one attempt may take."""
_CHUNK = 1 << 16
_IN_MEMORY = 32 << 20
"""Larger downloads go to a temporary file."""
_REFUSALS = {401: "forbidden", 403: "forbidden", 404: "not_found", 410: "not_found"}
_TRANSIENT = {408, 425, 429}
_GITHUB_BLOB = re.compile(r"^https?://github\.com/([^/]+)/([^/]+)/blob/([^/]+)/(.+)$")


class DownloadError(OSError):
    """A download that failed for now (a busy server, a broken connection): worth another try, unlike a `Reject`."""


class _HttpRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https alone."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        if not is_http(newurl):
            raise Reject("unsafe_redirect", f"{req.full_url} redirects to {newurl[:120]!r}; only http and https are followed")
        fp.close()  # or urllib would read the body of the redirect to its end, however long it is
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # pyright: ignore[reportArgumentType]


def is_http(url: str) -> bool:
    """Tells whether the address begins with http:// or https://."""
    return url[:7].lower() == "http://" or url[:8].lower() == "https://"


def quoted_address(url: str) -> str:
    """Returns an address in ASCII: lists of files have spaces and letters beyond it.

    Raises:
        Reject: ``bad_uri`` when it does not parse, names no host or a port that does not exist.
    """
    try:
        address = quote(url, safe=string.punctuation)
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port  # an impossible port raises
    except ValueError as error:
        raise Reject("bad_uri", f"{url[:200]!r} is no address: {error}") from None
    if not host:
        raise Reject("bad_uri", f"{url[:200]!r} names no host")
    return address


def raw_address(uri: str) -> str:
    """Returns where the file of a uri lies: GitHub's page of a file (``/blob/``, as in Objaverse-XL) becomes the file itself.

    ``https://github.com/ORG/REPO/blob/COMMIT/PATH`` maps to ``https://github.com/ORG/REPO/raw/COMMIT/PATH``, which redirects to the
    file, a git-LFS file included. Every other uri stays.
    """
    found = _GITHUB_BLOB.match(uri)
    if found is None:
        return uri
    owner, repository, commit, path = found.groups()
    return f"https://github.com/{owner}/{repository}/raw/{commit}/{quote(path, safe='/%')}"


def download(url: str, max_bytes: int, back_off: float = _BACK_OFF_SECONDS) -> BinaryIO:
    """Downloads a file of at most max_bytes into a temporary file, large ones on disk; the caller closes it.

    Args:
        url: http:// or https:// address.
        max_bytes: reading stops once the body is longer.
        back_off: seconds before the second attempt.

    Raises:
        Reject: ``not_found`` (404, 410), ``forbidden`` (401, 403), ``http_error`` (other refusals), ``file_too_large``,
            ``unsafe_redirect``, ``bad_uri``.
        DownloadError: still failing after a few attempts: 408, 425, 429, 5xx, a connection that fails, breaks or is too slow.
    """
    address = quoted_address(url)
    wait = back_off
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _attempt(address, max_bytes)
        except _Transient as problem:
            if attempt == _ATTEMPTS:
                raise DownloadError(f"{url}: {problem} ({_ATTEMPTS} attempts)") from None
            time.sleep(max(wait, problem.retry_after))
            wait *= 2
    raise AssertionError("the last attempt returns or raises")


class _Transient(Exception):
    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def _attempt(url: str, max_bytes: int) -> BinaryIO:
    try:
        with _open(url) as response:
            return _read_body(response, max_bytes)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in _TRANSIENT or error.code >= 500:
            raise _Transient(f"HTTP {error.code} {error.reason}", _retry_after(error)) from None
        if 300 <= error.code < 400:
            raise Reject("unsafe_redirect", f"{url}: {error.msg[:200]}") from None
        raise Reject(_REFUSALS.get(error.code, "http_error"), f"{url}: HTTP {error.code} {error.reason}") from None
    except Reject:
        raise
    except (http.client.InvalidURL, ValueError, OverflowError) as error:  # of a redirect too; OverflowError: the port
        raise Reject("bad_uri", f"{url[:200]!r} is no address, or leads to none: {error}") from None
    except (OSError, http.client.HTTPException) as error:  # URLError and time-outs are OSErrors
        reason = getattr(error, "reason", error)
        raise _Transient(f"{type(reason).__name__}: {reason}") from None


def _open(url: str) -> Any:
    opener = urllib.request.OpenerDirector()  # nothing but HTTP: build_opener would add file:, ftp: and data:
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _HttpRedirects(),
    ):
        opener.add_handler(handler)
    headers = {"User-Agent": f"unipart/{unipart.__version__}", "Accept-Encoding": "identity"}
    return opener.open(urllib.request.Request(url, headers=headers), timeout=_SILENCE_SECONDS)  # noqa: S310 - see the handlers


def _read_body(response: Any, max_bytes: int) -> BinaryIO:
    expected: int | None = response.length  # as it is declared; None where it is not, or not as a number
    if expected is not None and expected > max_bytes:
        raise Reject("file_too_large", f"{response.url} has {expected} bytes, the limit is {max_bytes}")
    deadline = time.monotonic() + _TOTAL_SECONDS
    body = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - handed to the caller
    size = 0
    try:
        while chunk := response.read1(_CHUNK):  # what has come: `read` would wait for all of it, and the deadline with it
            size += len(chunk)
            if size > max_bytes:
                raise Reject("file_too_large", f"{response.url} has more than {max_bytes} bytes, the limit")
            if time.monotonic() > deadline:
                raise _Transient(f"no end after {_TOTAL_SECONDS:g} s")
            body.write(chunk)
        if expected is not None and size < expected:
            raise _Transient(f"the connection broke after {size} of {expected} bytes")
    except BaseException:
        body.close()
        raise
    body.seek(0)
    return body  # pyright: ignore[reportReturnType] - typeshed does not call it a BinaryIO


def _retry_after(error: urllib.error.HTTPError) -> float:
    """Returns the seconds that a server asks to wait; dates are not read."""
    text = error.headers.get("Retry-After", "") if error.headers else ""
    return min(float(text), _LONGEST_WAIT_SECONDS) if text.isdecimal() else 0.0
