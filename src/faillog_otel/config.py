"""The settings of a run, as one frozen tree of typed values, with their defaults.

Each part of the program receives its branch only. Names end with the unit. The settings that become these
values are declared in `settings` and read in `sources`.
"""

import math
import re
from typing import Literal
from urllib.parse import urlsplit

from msgspec import Struct, field

Signal = Literal["logs", "traces"]
SIGNALS: tuple[Signal, ...] = ("logs", "traces")

Bodies = Literal["none", "keys", "response", "all"]
Join = Literal["parent", "link", "off"]
FailOn = Literal["never", "discarded", "failure", "quarantined", "empty"]
NetworkProtocol = Literal["http/protobuf", "http/json", "grpc"]
MetricsProtocol = Literal["http/protobuf", "grpc"]
"""What the exporters of OpenTelemetry's SDK speak."""
Protocol = Literal["http/protobuf", "http/json", "grpc", "file", "console"]
Compression = Literal["gzip", "none"]
OutputFormat = Literal["text", "json"]
BackendName = Literal["tempo", "loki", "jaeger", "honeycomb", "datadog", "newrelic", "dynatrace"]

DEFAULT_HTTP_ENDPOINT = "http://localhost:4318"
DEFAULT_GRPC_PORT = 4317
DEFAULT_GRPC_ENDPOINT = f"http://localhost:{DEFAULT_GRPC_PORT}"
SEGMENT_URLS = {"us": "https://api.segmentapis.com", "eu": "https://eu1.api.segmentapis.com"}
RESPONSE_HEADERS = (
    "content-type",
    "retry-after",
    "server",
    "date",
    "x-request-id",
    "x-ratelimit-*",
)
"""The response headers that are sent by default; a `*` at the end matches any rest."""

MAX_WORKERS = 256

MIN_SECRET = 4
"""Characters of a word of a header's value: masking shorter ones would garble messages."""


class Secret:
    """A text that only `reveal()` shows: no repr, log, f-string or comparison does."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Returns the text."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"


def token_problem(text: str) -> str:
    """Returns why a text cannot be a token of Segment's API, and what to do; empty if it can be one."""
    if re.match(r"(authorization\s*:\s*)?bearer[\s:]", text, re.IGNORECASE):
        return 'begins with "Bearer"; write the token alone'
    if text.startswith(("'", '"')):
        return "begins with a quotation mark; write the token without quotation marks"
    if not re.fullmatch(r"[!-~]+", text):
        return "contains blanks or characters that no header can carry; copy it from Segment again"
    return ""


class TimePolicy(Struct, frozen=True):
    """The time of a record: `occurred`, `arrival`, or `clamp`, which is never older than `age_seconds`."""

    kind: Literal["occurred", "clamp", "arrival"] = "occurred"
    age_seconds: float = 0.0

    def __str__(self) -> str:
        """Returns the value of `--time-policy`."""
        return f"clamp:{self.age_seconds / 3600:g}h" if self.kind == "clamp" else self.kind


class Limits(Struct, frozen=True, kw_only=True):
    """How much a log record may contain. Sizes are bytes of UTF-8. Other texts are limited to 2,048."""

    body_bytes: int = 2048
    """Of the body of a request or a response."""
    extra_bytes: int = 2048
    """Of the value of a field without an attribute of its own (`segment.extra.*`)."""
    attributes: float = math.inf
    """Number of attributes of a log record; the last ones are dropped."""
    attribute_bytes: float = math.inf
    """Of the names and values of all attributes of a log record together."""


class MappingConfig(Struct, frozen=True, kw_only=True):
    """How events become records."""

    bodies: Bodies = "response"
    response_headers: tuple[str, ...] = RESPONSE_HEADERS
    time_policy: TimePolicy = TimePolicy()
    join: Join = "parent"
    """How failed deliveries join the application's own trace, if it is known."""
    destination_names: dict[str, str] = field(default_factory=dict)
    """Destination id → the name to show."""
    resource: tuple[tuple[str, str], ...] = (("service.name", "segment"),)
    limits: Limits = Limits()
    redaction_key: Secret | None = None
    """With it, equal redacted values stay comparable; without it, all look the same."""


class Target(Struct, frozen=True, kw_only=True):
    """Where one signal is sent, and how."""

    url: str
    """For gRPC, the scheme decides about TLS, and the path means nothing."""
    protocol: NetworkProtocol = "http/protobuf"
    headers: tuple[tuple[str, Secret], ...] = ()
    compression: Compression = "gzip"
    timeout_seconds: float = 10.0
    certificate: str | None = None
    """PEM file of authorities to trust, besides the system's."""
    client_certificate: str | None = None
    client_key: str | None = None
    proxy: Secret | None = None
    """`environment`, or a URL, which may contain a password; None: no proxy."""

    def masked(self, text: str) -> str:
        """Returns the text without our header values: a server may repeat what it received."""
        for _, value in self.headers:
            for word in (value.reveal(), *value.reveal().split()):
                if len(word) >= MIN_SECRET:
                    text = text.replace(word, "***")
        return text

    @property
    def shown_url(self) -> str:
        """The URL for messages: without user, password and query."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


class DeliveryConfig(Struct, frozen=True, kw_only=True):
    """What a run sends, in which batches, and how long it continues without an acknowledgement."""

    signals: tuple[Signal, ...] = SIGNALS
    writes: Literal["file", "console"] | None = None
    """Records are written to a file or a terminal instead of sent to the targets."""
    targets: dict[Signal, Target] = field(default_factory=dict)
    output: str | None = None
    """The file that is written; None is standard output."""
    shows_all: bool = False
    """Whether the console shows all messages, not only one of each of the worst failure groups."""
    counts_only: bool = False
    """Whether records are counted as acknowledged without being sent, as `check` does."""
    batch_records: int = 512
    batch_bytes: int = 1024 * 1024
    wait_seconds: float = 30.0


class Moment(Struct, frozen=True):
    """A point in time: fixed, or relative to now."""

    at_ns: int | None = None
    ago_seconds: float = 0.0

    def ns(self, now_ns: int) -> int:
        """Returns nanoseconds since 1970."""
        return now_ns - int(self.ago_seconds * 1e9) if self.at_ns is None else self.at_ns


DEFAULT_SINCE = Moment(ago_seconds=7 * 86400.0)


class SegmentConfig(Struct, frozen=True, kw_only=True):
    """What a run without PATHs polls."""

    url: str = SEGMENT_URLS["us"]
    token: Secret | None = None
    token_file: str | None = None
    """Read for each request: tokens are rotated."""
    collections: tuple[str, ...] = ()
    since: Moment = DEFAULT_SINCE
    """Earlier hours are not requested; what an earlier run wanted stays wanted."""
    is_since_given: bool = False
    """Whether a person set `since`: then no hour is skipped because it is older than the collection."""
    until: Moment | None = None
    download_hosts: tuple[str, ...] = ()
    """HOST or HOST:PORT that presigned URLs may point to, besides S3."""
    certificate: str | None = None
    """PEM file of authorities to trust, besides the system's."""
    proxy: Secret | None = None
    """`environment`, or the URL of the proxy to Segment and S3; None: no proxy."""
    requests_per_day: int = 120
    """The quota, if Segment's headers report none."""
    max_requests: int | None = None
    """The requests that one run may spend."""
    names: bool = True
    """Whether names of destinations, sources and subscriptions are read from Segment."""
    counts: bool = True
    """Whether Segment's own counts of events are read."""
    collection_destinations: dict[str, str] = field(default_factory=dict)
    """Collection → the id of its destination; it is learned from the records otherwise."""
    audit: bool = False
    """Whether changes of the workspace are read from Segment."""
    audit_actors: bool = False
    """Whether people who made them are kept and shown."""


class TelemetryConfig(Struct, frozen=True, kw_only=True):
    """The program's own metrics and log events. `OTEL_*` variables and the targets of forwarded data do not
    affect them.
    """

    target: Target | None = None
    """None: no metrics are sent."""
    logs_target: Target | None = None
    """The same endpoint, for log events; None: none are sent."""
    interval_seconds: float = 60.0
    resource: tuple[tuple[str, str], ...] = ()
    """Besides `service.*`, which it may replace."""


class HealthConfig(Struct, frozen=True, kw_only=True):
    """How a polling run reports that it is alive."""

    address: tuple[str, int] | None = None
    """Host and port of `/healthz`, `/readyz` and the page; port 0 is any free one."""
    file: str | None = None
    """Touched while both loops beat."""
    page_messages: bool = False
    """Whether the page of failures shows message ids."""


class LinksConfig(Struct, frozen=True, kw_only=True):
    """What reports link to: URL templates, with placeholders that `links` replaces."""

    trace: str | None = None
    """The trace of a message, in a backend."""
    segment: str | None = None
    """A destination, in Segment's app."""
    workspace: str | None = None
    """The slug of the workspace."""


class FailureLimits(Struct, frozen=True, kw_only=True):
    """How many messages may fail before a run ends with exit code 1; None: any number."""

    destinations: tuple[str, ...] = ()
    """Ids or names, in any case: only messages to these count. Empty: to all."""
    discarded: int | None = None
    """Messages that are lost."""
    failed: int | None = None
    """Messages with a failed attempt, also if a later one succeeded."""

    @property
    def are_set(self) -> bool:
        """Whether there is a limit."""
        return self.discarded is not None or self.failed is not None


class RunConfig(Struct, frozen=True, kw_only=True):
    """All settings of a run."""

    mapping: MappingConfig
    backend: BackendName | None = None
    """The backend whose profile `mapping` follows, except for settings of its own."""
    delivery: DeliveryConfig
    segment: SegmentConfig = SegmentConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    health: HealthConfig = HealthConfig()
    links: LinksConfig = LinksConfig()
    state_dir: str
    """The folder that keeps the state of polling."""
    fail_on: tuple[FailOn, ...] = ()
    failure_limits: FailureLimits = FailureLimits()
    quarantine: str = "faillog-quarantine.jsonl"
    pending: str = "faillog-pending.jsonl"
    max_content_bytes: int = 16 * 1024**3
    """The size to which one compressed file may decompress."""
    workers: int | None = None
    """Number of processes that share the work of a run over PATHs; None: chosen by size."""
    summary: OutputFormat = "text"
    log_format: OutputFormat = "text"
    verbosity: int = 0
    """-1 is `-q`, 1 and more are `-v`."""
    config_file: str | None = None
    """The file with settings: not an input, even if a PATH contains it."""
    warnings: tuple[str, ...] = ()
    """Sentences that a run logs: ignored settings and possible mistakes."""
    ignored: tuple[str, ...] = ()
    """The warnings that concern every command: ignored variables."""
