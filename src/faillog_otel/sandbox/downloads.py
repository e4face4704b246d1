"""The second origin: objects behind presigned URLs, as S3 answers them.

A URL is signed for GET, for two hours by the simulator's clock, and anew in each listing.
Errors are S3's XML; Range and conditions are RFC 9110's.
"""

import hashlib
import hmac
import re
import secrets
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from urllib.parse import quote, urlencode

from msgspec import Struct

from faillog_otel.clock import SECOND_NS, Clock, hour_text, time_text
from faillog_otel.sandbox.bookkeeping import Asked, Journal
from faillog_otel.sandbox.config import Faults
from faillog_otel.sandbox.http import DOWNLOADS, Request, Response, no_such_key, s3_error
from faillog_otel.sandbox.world import URL_SECONDS, StoredObject, World, parse_hour

# -- manifest ------------------------------------------------------------------------------------------------
#
# What was promised: every record of every object that was listed, for whoever checks a forwarder.
#
# One line per record and place where it stood, as an independent checker needs it: a record is the SHA-256
# of its bytes within its collection-hour. What has `listed_at` must come out at the other end (or, where
# `damaged`, in a quarantine); what has only `served_at` may: its object grew, or was packed anew, between
# listing and download. Nothing else must ever come out.


class Promise(Struct, frozen=True):
    """One record in one version of one object; times are RFC 3339, by the simulator's clock."""

    collection: str
    hour: str
    sha256: str
    available_at: str
    damaged: bool
    object: str
    etag: str
    line: int
    """Its place in the object, from 1."""
    listed_at: str | None
    """When this version was first listed in a whole, good answer."""
    served_at: str | None
    """When it was first sent, whole or in part."""


class Manifest:
    """Remembers versions only; their records are made up again when they are asked for.

    Safe to use from several threads.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._lock = threading.Lock()
        self._listed: dict[tuple[str, str], int] = {}  # (key, ETag) → when first
        self._served: dict[tuple[str, str], int] = {}

    def listed(self, stored: StoredObject, now_ns: int) -> None:
        """Notes that a version's URL was given out."""
        with self._lock:
            self._listed.setdefault((stored.key, stored.etag), now_ns)

    def served(self, stored: StoredObject, now_ns: int) -> None:
        """Notes that a version was sent."""
        with self._lock:
            self._served.setdefault((stored.key, stored.etag), now_ns)

    def promises(self) -> Iterator[Promise]:
        """All of them, in the order of the object's names."""
        with self._lock:
            listed, served = dict(self._listed), dict(self._served)
        for key, etag in sorted({*listed, *served}):
            listed_ns, served_ns = listed.get((key, etag)), served.get((key, etag))
            at_ns = listed_ns if listed_ns is not None else served_ns
            assert at_ns is not None  # noqa: S101  # it stands in one of the two
            stored = self._world.find(key, at_ns)
            if stored is None:
                continue
            if stored.etag != etag:
                stored = stored.rotated()  # the fault `download:changed`
            for line, record in enumerate(stored.records, 1):
                yield Promise(
                    stored.collection,
                    hour_text(stored.hour),
                    record.sha256,
                    time_text(record.available_ns),
                    record.damaged,
                    key,
                    etag,
                    line,
                    None if listed_ns is None else time_text(listed_ns),
                    None if served_ns is None else time_text(served_ns),
                )


# -- downloads -----------------------------------------------------------------------------------------------


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_AMZ_DATE = "%Y%m%dT%H%M%SZ"
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_TYPES = {"gzip": "application/gzip", "zstd": "application/zstd", "array": "application/json"}


class Signer:
    """Signs and checks URLs with a key that nobody else has."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(32)

    def url(self, host: str, key: str) -> str:
        """A URL for GET; no two are the same."""
        query = {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": "SIMULATED/us-west-2/s3/aws4_request",
            "X-Amz-Date": _at(self._clock.now_ns()).strftime(_AMZ_DATE),
            "X-Amz-Expires": str(URL_SECONDS),
            "X-Amz-Security-Token": secrets.token_hex(16),
            "X-Amz-SignedHeaders": "host",
        }
        query["X-Amz-Signature"] = self._signature(key, query)
        return f"http://{host}/{quote(key)}?{urlencode(query)}"

    def refusal(self, key: str, request: Request) -> Response | None:
        """Why a request may not have an object; None when it may."""
        query = dict(request.query)
        given = query.pop("X-Amz-Signature", None)
        if given is None:
            return s3_error(403, "AccessDenied", "Access Denied")
        expected = self._signature(key, query)
        if request.method != "GET" or not hmac.compare_digest(given.encode(), expected.encode()):
            return s3_error(
                403,
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided.",
            )
        signed = datetime.strptime(query["X-Amz-Date"], _AMZ_DATE).replace(tzinfo=UTC)
        if _at(self._clock.now_ns()) >= signed + timedelta(seconds=int(query["X-Amz-Expires"])):
            return self.expired()
        return None

    def expired(self) -> Response:
        """What S3 answers when the time of a URL is over."""
        now = time_text(self._clock.now_ns())
        more = f"<X-Amz-Expires>{URL_SECONDS}</X-Amz-Expires><ServerTime>{now}</ServerTime>"
        return s3_error(403, "AccessDenied", "Request has expired", more)

    def _signature(self, key: str, query: dict[str, str]) -> str:
        text = "\n".join(("GET", key, urlencode(sorted(query.items()))))
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()


class Downloads:
    """Answers the requests of the download origin. `elsewhere` is where redirects lead."""

    def __init__(
        self,
        *,
        world: World,
        signer: Signer,
        faults: Faults,
        manifest: Manifest,
        journal: Journal,
        clock: Clock,
        elsewhere: str,
        slow_seconds: float,
    ) -> None:
        self._world = world
        self._signer = signer
        self._faults = faults
        self._manifest = manifest
        self._journal = journal
        self._clock = clock
        self._elsewhere = elsewhere
        self._slow_seconds = slow_seconds

    def answer(self, request: Request) -> Response:
        """One request."""
        key, now_ns = request.path.removeprefix("/"), self._clock.now_ns()
        refusal = self._signer.refusal(key, request)
        stored = None if refusal else self._world.find(key, now_ns)
        collection, hour = _owner(key)
        fault = None
        if refusal is not None:
            answer = refusal
        elif stored is None:
            answer = no_such_key()
        elif fault := self._faults.pick("download", collection, hour, key) or self._world.death(stored):
            answer = self._faulty(fault, stored, request)
        else:
            answer = self._object(stored, request)
        self._journal.note(
            Asked(
                at=time_text(now_ns),
                origin="downloads",
                method=request.method,
                path=request.path,
                collection=collection,
                hour=hour,
                status=answer.status,
                fault=fault and f"download:{fault}",
                authorized="authorization" in request.headers,
            )
        )
        return answer

    def _object(self, stored: StoredObject, request: Request) -> Response:
        """The object, a part of it, or that it is as the client knows it."""
        headers = {
            "ETag": stored.etag,
            "Last-Modified": format_datetime(_at(stored.modified_ns), usegmt=True),
            "Accept-Ranges": "bytes",
            "Server": "AmazonS3",
        }
        if _matches(request.headers.get("if-none-match"), stored.etag):
            return Response(304, headers=headers)
        self._manifest.served(stored, self._clock.now_ns())
        headers["Content-Type"] = _TYPES.get(stored.format, "binary/octet-stream")
        size = len(stored.content)
        wanted = request.headers.get("range", "")
        if request.headers.get("if-range", stored.etag) not in (stored.etag, headers["Last-Modified"]):
            wanted = ""
        part = _part(wanted, size)
        if part is None:
            return Response(200, stored.content, headers)
        if not part:
            answer = s3_error(416, "InvalidRange", "The requested range is not satisfiable")
            answer.headers["Content-Range"] = f"bytes */{size}"
            return answer
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
        return Response(206, stored.content[part.start : part.stop], headers)

    def _faulty(self, fault: str, stored: StoredObject, request: Request) -> Response:
        if fault in DOWNLOADS:
            return DOWNLOADS[fault]
        if fault in ("301", "302", "307"):
            return Response(int(fault), headers={"Location": f"{self._elsewhere}/{quote(stored.key)}"})
        if fault == "expired":
            return self._signer.expired()
        if fault == "changed":
            return self._object(stored.rotated(), request)
        good = self._object(stored, request)
        half = len(good.body) // 2
        if fault == "no-etag":
            unnamed = {k: v for k, v in good.headers.items() if k not in ("ETag", "Last-Modified")}
            return Response(good.status, good.body, unnamed)
        return Response(
            good.status,
            good.body,
            good.headers,
            told_bytes=half if fault == "wrong-length" else None,
            sent_bytes=half if fault in ("reset", "truncated", "wrong-length") else None,
            resets=fault == "reset",
            slow_seconds=self._slow_seconds if fault == "slow" else 0.0,
        )


def _owner(key: str) -> tuple[str | None, str | None]:
    """The collection and hour that an object's name tells."""
    collection, slash, rest = key.partition("/")
    hour = parse_hour(f"{rest.partition('/')[0]}:00:00Z") if slash else None
    return (None, None) if hour is None else (collection, hour_text(hour))


def _matches(if_none_match: str | None, etag: str) -> bool:
    """RFC 9110, section 13.1.2: weak comparison with any of a list."""
    if if_none_match is None:
        return False
    given = [each.strip().removeprefix("W/") for each in if_none_match.split(",")]
    return given == ["*"] or etag in given


def _part(wanted: str, size: int) -> range | None:
    """RFC 9110, section 14.1.2: one range of bytes; None is all of them, an empty one cannot be had.

    Several ranges and what cannot be read are ignored, as they may be.
    """
    found = _RANGE.fullmatch(wanted.strip())
    if found is None:
        return None
    first, last = found.groups()
    if not first:
        return range(max(0, size - int(last)), size) if last else None
    if last and int(last) < int(first):
        return None
    return range(int(first), min(int(last) + 1, size) if last else size)


def _at(ns: int) -> datetime:
    return _EPOCH + timedelta(seconds=ns // SECOND_NS)
