"""The API origin: listings under the day's quota, and the neighbours that cost nothing.

A listing is judged in this order: token, faults that come before counting, quota, form, arguments. All of
it but the 401 counts for what the server saw; all of it from the quota on costs a request.
"""

import hmac
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from faillog_otel.clock import HOUR_NS, Clock, hour_text, time_text
from faillog_otel.sandbox.bookkeeping import Asked, Journal, LimiterState, ServerQuota
from faillog_otel.sandbox.config import Faults, SimulatorConfig
from faillog_otel.sandbox.downloads import Manifest, Signer
from faillog_otel.sandbox.generator import DESTINATIONS
from faillog_otel.sandbox.http import (
    COUNTED_LISTINGS,
    UNCOUNTED_LISTINGS,
    Request,
    Response,
    json_answer,
    limit_headers,
    refusal,
    segment_error,
)
from faillog_otel.sandbox.world import World, parse_hour

LISTING_PATH = "/customer-insights/download"
VENDOR_JSON = "application/vnd.segment.v1alpha+json"
HUGE = 100_000

REDIRECTS = ("301", "302", "307")


class _Arguments(Struct, frozen=True):
    collection: str | None
    hour: str | None


class _Outcome(Struct, frozen=True):
    answer: Response
    counted: bool = False
    fault: str | None = None


class Api:
    """Answers the requests of the API origin. `download_host` is where objects lie, `HOST:PORT`."""

    def __init__(
        self,
        *,
        config: SimulatorConfig,
        token: str,
        world: World,
        signer: Signer,
        quota: ServerQuota,
        faults: Faults,
        manifest: Manifest,
        journal: Journal,
        clock: Clock,
        download_host: str,
    ) -> None:
        self._config = config
        self._token = token
        self._world = world
        self._signer = signer
        self._quota = quota
        self._faults = faults
        self._manifest = manifest
        self._journal = journal
        self._clock = clock
        self._download_host = download_host
        self._refused = 0

    def answer(self, request: Request) -> Response:
        """One request."""
        now_ns = self._clock.now_ns()
        given = _given(request)
        if not self._is_authorized(request):
            outcome = _Outcome(segment_error(401, "Unauthorized"))
        elif request.path == LISTING_PATH:
            outcome = self._list(request, given, now_ns)
        else:
            outcome = _Outcome(self._neighbour(request))
        self._journal.note(
            Asked(
                at=time_text(now_ns),
                origin="api",
                method=request.method,
                path=request.path,
                collection=given.collection,
                hour=given.hour,
                status=None if outcome.answer.resets else outcome.answer.status,
                counted=outcome.counted,
                fault=outcome.fault and f"listing:{outcome.fault}",
                authorized="authorization" in request.headers,
            )
        )
        return outcome.answer

    def _is_authorized(self, request: Request) -> bool:
        expected = f"Bearer {self._token}".encode()
        return hmac.compare_digest(request.headers.get("authorization", "").encode(), expected)

    # -- listings --------------------------------------------------------------------------------------

    def _list(self, request: Request, given: _Arguments, now_ns: int) -> _Outcome:
        if request.method != "POST":
            return _Outcome(segment_error(405, "Method not allowed"))
        fault = self._faults.pick("listing", given.collection, given.hour)
        if fault != "reset":
            self._quota.saw(now_ns)
        if (refusal := self._uncounted(fault, now_ns)) is not None:
            return _Outcome(refusal, fault=fault)
        standing = self._quota.take(now_ns)
        if not standing.granted:
            return _Outcome(self._too_many(standing, now_ns), fault=fault)
        asked = self._asked(request)
        if isinstance(asked, Response):
            return _Outcome(asked, counted=True, fault=fault)
        answer = self._listing(*asked, standing, fault, now_ns)
        return _Outcome(answer, counted=True, fault=fault)

    def _asked(self, request: Request) -> tuple[str, int] | Response:
        """The collection and hour of a listing, or why there are none."""
        form, query = self._config.form, request.query
        is_wrong_type = request.headers.get("content-type", "").partition(";")[0].strip() != VENDOR_JSON
        if form == "body-only" and query:
            return segment_error(self._config.refusal, "Query parameters are not accepted")
        if form in ("query", "either") and {"collectionId", "hour"} <= query.keys():
            arguments: Any = query
        elif form == "query" or (form == "either" and not request.body):
            return segment_error(self._config.refusal, "collectionId and hour are required")
        elif is_wrong_type:
            return segment_error(self._config.refusal, f"Content-Type must be {VENDOR_JSON}")
        else:
            try:
                arguments = msgspec.json.decode(request.body)
            except (msgspec.DecodeError, RecursionError):
                return segment_error(400, "The body is not JSON")
        return self._checked(arguments)

    def _checked(self, arguments: Any) -> tuple[str, int] | Response:
        if not isinstance(arguments, dict):
            return segment_error(400, "The body is no object")
        collection, hour = arguments.get("collectionId"), arguments.get("hour")
        if not isinstance(collection, str) or not collection:
            return segment_error(422, "collectionId is required", field="collectionId")
        number = parse_hour(hour) if isinstance(hour, str) else None
        if number is None:
            return segment_error(422, "hour must be a whole hour: 2025-05-07T23:00:00Z", field="hour")
        if collection not in self._world.config.collections:
            return segment_error(404, "Collection not found", field="collectionId")
        return collection, number

    def _listing(
        self, collection: str, hour: int, standing: LimiterState, fault: str | None, now_ns: int
    ) -> Response:
        if fault in COUNTED_LISTINGS:
            return COUNTED_LISTINGS[fault]
        objects = () if fault == "empty" else self._world.objects(collection, hour, now_ns)
        urls = [self._signer.url(self._download_host, stored.key) for stored in objects]
        if fault == "huge":
            urls += self._made_up(collection, hour, HUGE - len(urls))
        headers = {}
        if self._config.quota.headers:
            headers = limit_headers(standing)
            if not standing.remaining:
                self._quota.told(now_ns, standing.reset_ns)
        answer = json_answer(200, {"data": {"download": {"urls": urls}}}, **headers)
        if fault == "truncated":
            return Response(200, answer.body, answer.headers, sent_bytes=len(answer.body) // 2)
        if fault == "slow":
            answer = Response(200, answer.body, answer.headers, slow_seconds=self._config.slow_seconds)
        if fault != "huge":  # whoever refuses so many URLs is right: nothing was promised
            for stored in objects:
                if self._world.death(stored) is None:
                    self._manifest.listed(stored, now_ns)
        return answer

    def _made_up(self, collection: str, hour: int, count: int) -> Iterator[str]:
        """URLs of objects that are not there; one signature has to do."""
        name = f"{collection}/{hour_text(hour)[:13]}/nothing"
        query = self._signer.url(self._download_host, name).partition("?")[2]
        return (f"http://{self._download_host}/{name}-{number}?{query}" for number in range(count))

    # -- refusals --------------------------------------------------------------------------------------

    def _too_many(self, standing: LimiterState, now_ns: int) -> Response:
        refusals = self._config.quota.refusals
        shape = refusals[self._refused % len(refusals)]
        self._refused += 1
        if shape == "body" and self._config.quota.retry_after:
            shape = "both"
        if shape not in ("none", "html"):
            self._quota.told(now_ns, standing.reset_ns)
        return refusal(shape, standing, now_ns)

    def _uncounted(self, fault: str | None, now_ns: int) -> Response | None:
        """Faults that come before the request is counted."""
        if fault in REDIRECTS:
            return Response(int(fault), headers={"Location": f"http://{self._download_host}{LISTING_PATH}"})
        if fault == "429-headers":
            reset_ns = (now_ns // HOUR_NS + 1) * HOUR_NS
            consumed = self._config.quota.per_day + 1
            none_left = LimiterState(granted=False, consumed=consumed, remaining=0, reset_ns=reset_ns)
            return Response(429, headers=limit_headers(none_left))
        return UNCOUNTED_LISTINGS.get(fault or "")

    # -- neighbours ------------------------------------------------------------------------------------

    def _neighbour(self, request: Request) -> Response:
        if request.method != "GET":
            return segment_error(404, "Not found")
        if request.path == "/":
            workspace = {"id": "9aQ1Lj62S4bomZKLF4DPqW", "slug": "simulated", "name": "Simulated"}
            return json_answer(200, {"data": {"workspace": workspace}})
        place, _, found_id = request.path.rpartition("/")
        for destination in DESTINATIONS:
            if place == "/destinations" and destination.id == found_id:
                slug = destination.name.partition(" ")[0].lower()
                metadata = {"id": destination.id, "name": destination.name, "slug": slug}
                found = {"id": found_id, "name": destination.name, "enabled": True, "metadata": metadata}
                return json_answer(200, {"data": {"destination": found}})
        return segment_error(404, "Not found")


def _given(request: Request) -> _Arguments:
    """What a listing seems to be about, for the script of faults and the journal."""
    given: Any = request.query
    if request.body and not given.keys() & {"collectionId", "hour"}:
        try:
            given = msgspec.json.decode(request.body)
        except (msgspec.DecodeError, RecursionError):
            given = None
    if not isinstance(given, dict):
        given = {}
    collection, hour = given.get("collectionId"), given.get("hour")
    return _Arguments(
        collection if isinstance(collection, str) else None, hour if isinstance(hour, str) else None
    )
