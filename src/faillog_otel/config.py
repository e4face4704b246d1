"""Settings: flag > environment > config file > default, as one frozen tree.

Each part of the program is handed its branch only. Units are in the names. Where a setting comes from is
`settings.py`'s business.
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
Protocol = Literal["http/protobuf", "http/json", "grpc", "file", "console"]
Compression = Literal["gzip", "none"]
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
"""The response headers that leave by default; a `*` at the end stands for any rest."""


MAX_WORKERS = 256

MIN_SECRET = 4
"""Characters of a header value's word: to mask shorter ones would garble all messages."""


class Secret:
    """A text that shows itself only to who calls `reveal()`: not in a repr, log, f-string or comparison."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"


def token_problem(text: str) -> str:
    """Returns why a text cannot be a token of Segment's API, and what to do; empty where it can be one."""
    if re.match(r"(authorization\s*:\s*)?bearer[\s:]", text, re.IGNORECASE):
        return 'begins with "Bearer"; give the token alone'
    if text.startswith(("'", '"')):
        return "begins with a quotation mark; give the token without any"
    if not re.fullmatch(r"[!-~]+", text):
        return "holds blanks or characters that no header can carry; copy it from Segment again"
    return ""


class TimePolicy(Struct, frozen=True):
    """Which time a record carries: `occurred`; `arrival`; or `clamp`, never older than `age_seconds`."""

    kind: Literal["occurred", "clamp", "arrival"] = "occurred"
    age_seconds: float = 0.0

    def __str__(self) -> str:
        """As `--time-policy` takes it."""
        return f"clamp:{self.age_seconds / 3600:g}h" if self.kind == "clamp" else self.kind


class Limits(Struct, frozen=True, kw_only=True):
    """How much a log record takes along; sizes are bytes of UTF-8. Other texts have 2,048 at most."""

    body_bytes: int = 2048
    """Of a request's or a response's body."""
    extra_bytes: int = 2048
    """Of the value of a field that has no place of its own (`segment.extra.*`)."""
    attributes: float = math.inf
    """All attributes of a log record; of the last ones, those go that are too many."""
    attribute_bytes: float = math.inf
    """The names and values of all attributes of a log record, together."""


class MappingConfig(Struct, frozen=True, kw_only=True):
    """How events become records."""

    bodies: Bodies = "response"
    response_headers: tuple[str, ...] = RESPONSE_HEADERS
    time_policy: TimePolicy = TimePolicy()
    join: Join = "parent"
    """How failed deliveries join the application's own trace, where it is known."""
    destination_names: dict[str, str] = field(default_factory=dict)
    """Destination id → the name that people know it by."""
    resource: tuple[tuple[str, str], ...] = (("service.name", "segment"),)
    limits: Limits = Limits()
    redaction_key: Secret | None = None
    """Under it equal redacted values stay comparable; without it they cannot be told apart."""


class Target(Struct, frozen=True, kw_only=True):
    """Where one signal goes, and how."""

    url: str
    """For gRPC, its scheme says whether TLS is used, and its path nothing."""
    protocol: NetworkProtocol = "http/protobuf"
    headers: tuple[tuple[str, Secret], ...] = ()
    compression: Compression = "gzip"
    timeout_seconds: float = 10.0
    certificate: str | None = None
    """A file of authorities, PEM, which are trusted beside the system's."""
    client_certificate: str | None = None
    client_key: str | None = None
    proxy: Secret | None = None
    """`environment`, or a URL, which may hold a password; None: no proxy is used."""

    def masked(self, text: str) -> str:
        """The text without our header values: a server may say back what we sent it, "invalid key ..."."""
        for _, value in self.headers:
            for word in (value.reveal(), *value.reveal().split()):
                if len(word) >= MIN_SECRET:
                    text = text.replace(word, "***")
        return text

    @property
    def shown_url(self) -> str:
        """The URL as messages may show it: without user, password and query."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


class DeliveryConfig(Struct, frozen=True, kw_only=True):
    """What is sent, in which portions, and how long a silent collector is waited for."""

    signals: tuple[Signal, ...] = SIGNALS
    writes: Literal["file", "console"] | None = None
    """Records are written to a file or a terminal, instead of sent to the targets."""
    targets: dict[Signal, Target] = field(default_factory=dict)
    output: str | None = None
    """The file that `writes` means; None is standard output."""
    batch_records: int = 512
    batch_bytes: int = 1024 * 1024
    wait_seconds: float = 30.0


class Moment(Struct, frozen=True):
    """A point in time: fixed, or so long before now."""

    at_ns: int | None = None
    ago_seconds: float = 0.0

    def ns(self, now_ns: int) -> int:
        """Nanoseconds since 1970."""
        return now_ns - int(self.ago_seconds * 1e9) if self.at_ns is None else self.at_ns


DEFAULT_SINCE = Moment(ago_seconds=7 * 86400.0)


class SegmentConfig(Struct, frozen=True, kw_only=True):
    """Where failure logs come from when no PATHs are named."""

    url: str = SEGMENT_URLS["us"]
    token: Secret | None = None
    token_file: str | None = None
    """Is read anew for each request: tokens are rotated."""
    collections: tuple[str, ...] = ()
    since: Moment = DEFAULT_SINCE
    """Hours before are not asked for; what an earlier run wanted stays wanted."""
    is_since_given: bool = False
    """Whether a person named `since`: then the age of a collection is no reason to skip an hour."""
    until: Moment | None = None
    download_hosts: tuple[str, ...] = ()
    """HOST or HOST:PORT that presigned URLs may point to, besides S3."""
    certificate: str | None = None
    """A file of CA certificates, PEM, that are trusted besides the system's."""
    proxy: Secret | None = None
    """`environment`, or the URL of the proxy to Segment and S3; None: no proxy is used."""
    requests_per_day: int = 120
    """How many there are where Segment's headers do not say so."""
    max_requests: int | None = None
    """What one run may spend of them."""


class TelemetryConfig(Struct, frozen=True, kw_only=True):
    """Our own metrics: nothing of it comes from `OTEL_*`, and nothing goes to where forwarded data goes."""

    target: Target | None = None
    """None: there are none."""
    interval_seconds: float = 60.0
    resource: tuple[tuple[str, str], ...] = ()
    """Beside `service.*`, which it may replace."""


class HealthConfig(Struct, frozen=True, kw_only=True):
    """How a polling run shows that it is alive."""

    address: tuple[str, int] | None = None
    """Where `/healthz` and `/readyz` are answered: host and port; port 0 is any free one."""
    file: str | None = None
    """Is touched as long as the loops turn."""


class RunConfig(Struct, frozen=True, kw_only=True):
    """Everything that `run` needs."""

    mapping: MappingConfig
    backend: BackendName | None = None
    """Whose profile it is that `mapping` follows, where nothing else was said."""
    delivery: DeliveryConfig
    segment: SegmentConfig = SegmentConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    health: HealthConfig = HealthConfig()
    state_dir: str = ".faillog-otel"
    """The folder of everything that a polling run remembers."""
    fail_on: tuple[FailOn, ...] = ()
    quarantine: str
    pending: str
    max_content_bytes: int = 16 * 1024**3
    """What one compressed file may unpack to."""
    workers: int | None = None
    """How many processes share the work of a run over PATHs; None: as many as pay."""
    summary: Literal["text", "json"] = "text"
    log_format: Literal["text", "json"] = "text"
    verbosity: int = 0
    """-1 is `-q`, 1 and more are `-v`."""
    config_file: str | None = None
    """The file that settings were read from: it is no input, though it may lie among them."""
    warnings: tuple[str, ...] = ()
    """What was ignored while the settings were read, and what else a run should say, in sentences."""
    ignored: tuple[str, ...] = ()
    """Those of them that concern every command: variables without effect."""
