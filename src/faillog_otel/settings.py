"""The table of settings: each setting is declared here, and nowhere else.

From the rows come the options of the command line, the environment variables, the keys of the config file,
the origins that `doctor` shows, the example file and the reference page. A default is that of the field in
`config` that gets the value.

To add a setting, add a row, and a field in `config` for its value. Then run
`PYTHONPATH=tests python -m support.reference_pages`.
"""

from collections.abc import Callable
from typing import Any, Literal

from msgspec import NODEFAULT, Struct
from msgspec.structs import fields, replace

from faillog_otel import config, links
from faillog_otel import setting_values as values
from faillog_otel.errors import ConfigError
from faillog_otel.setting_values import Kind, choice, number

Group = Literal["polling", "health", "forwarding", "judging", "paths"]
"""Which commands have an option; see `cli.options`."""


class Setting(Struct, frozen=True):
    """A row of the table."""

    path: str
    """Table and key of the config file, such as `otlp.logs.endpoint`; empty if the file cannot set it."""
    field: str
    """The field of `RunConfig` that gets the value, such as `mapping.bodies`; `target.` means each `Target`.
    Empty if `sources.resolve` calculates with the value."""
    kind: Kind
    help: str
    """What it does: for `--help`, the example file and the reference page."""
    option: str = ""
    """The option as a usage line shows it, such as `--endpoint URL`; `...` at the end means repeatable."""
    group: Group = "forwarding"
    variables: tuple[str, ...] = ()
    """The environment variables; of several, the first that is set wins."""
    default_text: str = ""
    """The default in words, if the field's does not say it."""
    example: str = ""
    """A value, as TOML."""
    details: str = ""
    """Markdown that follows `help` on the reference page."""

    @property
    def table(self) -> str:
        """The table of the config file."""
        return self.path.rpartition(".")[0]

    @property
    def key(self) -> str:
        """The key in the table."""
        return self.path.rpartition(".")[2]

    @property
    def flag(self) -> str:
        """The name of the option, such as `--download-host`."""
        return self.option.removesuffix("...").partition(" ")[0]

    @property
    def parameter(self) -> str:
        """The name of the option in Python, such as `download_host`."""
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def metavar(self) -> str | None:
        """What the usage line shows for the value; None if the kind says it."""
        return self.option.removesuffix("...").partition(" ")[2] or None

    @property
    def is_repeatable(self) -> bool:
        """Whether the option may be given several times."""
        return self.option.endswith("...")

    @property
    def default(self) -> Any:
        """The value of the field if nothing sets it; None if it has none."""
        if not self.field:
            return False if self.kind.form == "boolean" else None
        owner, _, name = self.field.rpartition(".")
        found = next(each for each in fields(_OWNERS[owner]) if each.name == name)
        if found.required:
            return None
        return found.default if found.default_factory is NODEFAULT else found.default_factory()

    def parse(self, value: Any, name: str, read: Callable[[Any], Any] | None = None) -> Any:
        """Returns the field's value. Raises ConfigError, which begins with `name`.

        `value` is that of a config file, or `read` converts it to one.
        """
        try:
            return self.kind.convert(read(value) if read else value)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None


_OWNERS: dict[str, type[Struct]] = {
    "": config.RunConfig,
    "failure_limits": config.FailureLimits,
    "mapping": config.MappingConfig,
    "delivery": config.DeliveryConfig,
    "segment": config.SegmentConfig,
    "telemetry": config.TelemetryConfig,
    "health": config.HealthConfig,
    "links": config.LinksConfig,
    "target": config.Target,
}

TABLES = {
    "segment": "What `run` polls if it gets no PATHs.",
    "otlp": "Where records are sent.",
    "otlp.logs": "For logs only: the keys of [otlp]. The endpoint is used as it is, with its path.",
    "otlp.traces": "For spans only.",
    "mapping": "What records contain.",
    "run": "How a run proceeds and ends.",
    "links": "What reports link to.",
    "self": "The program's own metrics and log events. Without an endpoint, none are sent.",
}
"""Table of the config file → its subject."""

# One row per setting, in few lines, so that the table can be read; the order is that of `run --help`.
# fmt: off
CONFIG_FILE = Setting("", "config_file", values.STRING, "TOML file with settings.", option="--config FILE",
                      variables=("FAILLOG_CONFIG",), default_text="faillog-otel.toml")
_ROWS = (
    Setting("segment.collections", "segment.collections", values.COLLECTIONS, "ID of a collection to poll.",
            option="--collection ID...", group="polling", variables=("FAILLOG_COLLECTIONS",),
            example='["2wXq0cJ5Zr8vT1nLmKfYb3GdHaE"]'),
    Setting("segment.since", "segment.since", values.MOMENT, "Only hours that begin at TIME or later: RFC "
            "3339, or relative, such as -36h.", option="--since TIME", group="polling",
            variables=("FAILLOG_SINCE",), details="Hours that an earlier run wanted stay wanted, counted "
            "from its start, even if it could not reach Segment."),
    Setting("segment.until", "segment.until", values.MOMENT, "Only hours that begin before TIME.",
            option="--until TIME", group="polling", variables=("FAILLOG_UNTIL",),
            example='"2025-05-08T00:00:00Z"'),
    Setting("run.state_dir", "state_dir", values.STRING, "Folder that keeps the state of polling.",
            option="--state-dir DIR", group="polling", variables=("FAILLOG_STATE_DIR",),
            default_text="$XDG_STATE_HOME/faillog-otel", example='"/var/lib/faillog-otel"',
            details="See [the ledger](ledger.md)."),
    Setting("segment.url", "segment.url", values.SEGMENT_URL, "Segment's API: `us`, `eu`, or a base URL.",
            option="--segment-url URL", group="polling", variables=("FAILLOG_SEGMENT_URL",),
            details="Plain `http://` is for this machine only."),
    Setting("segment.download_hosts", "segment.download_hosts", values.HOSTS,
            "Host that presigned URLs may point to, besides S3: HOST or HOST:PORT.",
            option="--download-host HOST...", group="polling", variables=("FAILLOG_DOWNLOAD_HOSTS",),
            example='["cache.example"]', details="IPv6 with a port: `[ADDRESS]:PORT`. Other hosts are "
            "refused, and so are addresses inside a network that are not named here."),
    Setting("segment.max_requests", "segment.max_requests", number(1),
            "Requests to Segment that one run may spend.", option="--max-requests N", group="polling",
            variables=("FAILLOG_MAX_REQUESTS",), default_text="no limit but the quota", example="20",
            details="When a run has spent them, the log says so. `--once` ends with exit code 6 if hours "
            "are left; a run without it continues with the listed objects."),
    Setting("segment.token", "segment.token", values.TOKEN, "Public API token.",
            variables=("SEGMENT_TOKEN",)),
    Setting("segment.token_file", "segment.token_file", values.STRING,
            "File with the token. It is read for each request, so a rotated token needs no restart.",
            variables=("SEGMENT_TOKEN_FILE",), example='"/run/secrets/segment"',
            details="If it cannot be read, an error is logged, no request is made, and it is read again "
            "every 10 seconds. Within one source, `token` overrides `token_file`."),
    Setting("segment.requests_per_day", "segment.requests_per_day", number(1, 1_000_000),
            "Quota of requests a day, if Segment's headers report none.",
            variables=("FAILLOG_REQUESTS_PER_DAY",),
            details="See [the quota](../concepts/quota-and-late-data.md#the-quota)."),
    Setting("segment.names", "segment.names", values.BOOLEAN,
            "Read the names of destinations, sources and subscriptions from Segment when polling.",
            variables=("FAILLOG_SEGMENT_NAMES",), details="See [names](../guides/polling.md#names)."),
    Setting("segment.counts", "segment.counts", values.BOOLEAN,
            "Read Segment's own counts of events when polling: they say how complete the failure logs are.",
            variables=("FAILLOG_SEGMENT_COUNTS",), details="See "
            "[completeness](../concepts/completeness.md)."),
    Setting("segment.collection_destinations", "segment.collection_destinations", values.NAMES,
            "Ids of the destinations that collections belong to, where records do not say it yet.",
            example='{ "2wXq0cJ5Zr8vT1nLmKfYb3GdHaE" = "5f7dd6d21ad74f3842b1fc47" }',
            details="See [completeness](../concepts/completeness.md#collections-and-destinations)."),
    Setting("segment.audit", "segment.audit", values.BOOLEAN,
            "Read from Segment who changed what in the workspace, once an hour when polling.",
            variables=("FAILLOG_SEGMENT_AUDIT",),
            details="Changes are log events, and reports name the one that failures followed. See "
            "[who changed what](../guides/failures.md#who-changed-what)."),
    Setting("segment.audit_actors", "segment.audit_actors", values.BOOLEAN,
            "Keep and show who made a change: the id and the mail address of a person.",
            variables=("FAILLOG_SEGMENT_AUDIT_ACTORS",), details="Otherwise both are redacted before they "
            "are stored."),
    Setting("segment.certificate", "segment.certificate", values.STRING,
            "PEM file of authorities to trust, besides the system's, such as a company's own.",
            variables=("FAILLOG_SEGMENT_CERTIFICATE",)),
    Setting("segment.proxy", "segment.proxy", values.PROXY,
            "`environment`, or the URL of a proxy to Segment and S3.", default_text="none",
            variables=("FAILLOG_SEGMENT_PROXY",), details="See [proxies](#proxies)."),
    Setting("run.health_addr", "health.address", values.HEALTH_ADDRESS,
            "When polling: address of `/healthz`, `/readyz` and, at `/`, the page of failures. A port alone "
            "means 127.0.0.1.",
            option="--health-addr HOST:PORT", group="health", variables=("FAILLOG_HEALTH_ADDR",),
            example='"127.0.0.1:8080"', details="`[::]:8080` listens on all addresses, IPv6 and IPv4; "
            "`0.0.0.0:8080` on IPv4 only. See [monitoring](../guides/monitor.md)."),
    Setting("run.health_file", "health.file", values.STRING, "When polling: file to touch every few seconds "
            "while the program is healthy.", option="--health-file FILE", group="health",
            variables=("FAILLOG_HEALTH_FILE",)),
    Setting("run.page_messages", "health.page_messages", values.BOOLEAN, "Show message ids on the page of "
            "failures.", option="--page-messages", group="health", variables=("FAILLOG_PAGE_MESSAGES",),
            details="Applies to `report`, and to the page at `/` of `--health-addr`. See "
            "[the page](../guides/report.md)."),
    Setting("otlp.endpoint", "", values.STRING, "Base URL of the collector.", option="--endpoint URL",
            variables=("OTEL_EXPORTER_OTLP_ENDPOINT",),
            default_text=f"{config.DEFAULT_HTTP_ENDPOINT}, gRPC {config.DEFAULT_GRPC_ENDPOINT}",
            details="Over HTTP, `/v1/<signal>` is appended. `https://` means TLS."),
    Setting("otlp.protocol", "target.protocol", choice(config.Protocol, str.lower),
            "How to send. `file` writes OTLP JSON Lines, `console` prints trees; neither advances a state "
            "folder.", option="--protocol",
            variables=("FAILLOG_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"),
            details="See [output for people](../concepts/delivery-guarantee.md#output-that-only-shows)."),
    Setting("otlp.output", "delivery.output", values.STRING, "File that `--protocol file` writes.",
            option="--output FILE", variables=("FAILLOG_OUTPUT",), default_text="stdout",
            details="Its old content is overwritten."),
    Setting("otlp.headers", "target.headers", values.HEADERS, "Header of every request, such as an API key.",
            option="--header K=V...", variables=("OTEL_EXPORTER_OTLP_HEADERS",),
            example='{ api-key = "..." }', details="Values are never shown."),
    Setting("otlp.signals", "delivery.signals", values.SIGNALS, "What to send.", option="--signals LIST",
            variables=("FAILLOG_SIGNALS",)),
    Setting("otlp.timeout", "target.timeout_seconds", values.OTEL_TIMEOUT, "Time limit of one request.",
            variables=("OTEL_EXPORTER_OTLP_TIMEOUT",), details="The variable is in milliseconds. At most a "
            "day, or `forever`."),
    Setting("otlp.compression", "target.compression", choice(config.Compression, str.lower),
            "Compression of requests.", variables=("OTEL_EXPORTER_OTLP_COMPRESSION",)),
    Setting("otlp.certificate", "target.certificate", values.STRING,
            "PEM file of authorities to trust, besides the system's.",
            variables=("OTEL_EXPORTER_OTLP_CERTIFICATE",)),
    Setting("otlp.client_certificate", "target.client_certificate", values.STRING,
            "PEM file with the client certificate.", variables=("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",)),
    Setting("otlp.client_key", "target.client_key", values.STRING,
            "PEM file with the key of the certificate.", variables=("OTEL_EXPORTER_OTLP_CLIENT_KEY",)),
    Setting("otlp.insecure", "", values.BOOLEAN, "gRPC without TLS, for an endpoint without a scheme.",
            variables=("OTEL_EXPORTER_OTLP_INSECURE",)),
    Setting("otlp.proxy", "target.proxy", values.PROXY, "`environment`, or the URL of a proxy.",
            variables=("FAILLOG_OTLP_PROXY",), default_text="none", details="See [proxies](#proxies)."),
    Setting("mapping.bodies", "mapping.bodies", choice(config.Bodies), "Bodies of requests and responses to "
            "send, redacted and truncated. `keys` sends the structure of responses, and the values of keys "
            "such as `error` and `code`.", option="--bodies", variables=("FAILLOG_BODIES",),
            details="See [which bodies are sent](../concepts/redaction.md#which-bodies-are-sent)."),
    Setting("mapping.backend", "backend", choice(config.BackendName), "Backend that stores the records: sets "
            "the time policy and the limits that it needs.", option="--backend",
            variables=("FAILLOG_BACKEND",), details="See [backends](../guides/backends/index.md). Records "
            "are still sent to the endpoint."),
    Setting("mapping.time_policy", "mapping.time_policy", values.TIME_POLICY,
            "Time of a record: `occurred`, `arrival`, or `clamp:AGE` (never older than AGE).",
            option="--time-policy POLICY", variables=("FAILLOG_TIME_POLICY",),
            default_text="occurred, or what --backend needs", example='"clamp:17h"',
            details="See [late data](../concepts/quota-and-late-data.md#late-data-and-backends)."),
    Setting("mapping.join", "mapping.join", choice(config.Join),
            "How failures join the application's own trace, if it is known.", option="--join",
            variables=("FAILLOG_JOIN",), details="See [join traces](../guides/join-traces.md)."),
    Setting("mapping.response_headers", "mapping.response_headers", values.RESPONSE_HEADERS,
            "Response headers to send besides the usual ones. `*` at the end matches any rest.",
            variables=("FAILLOG_RESPONSE_HEADERS",), example='["cf-*"]',
            details="The usual ones are among the [attributes](attributes.md)."),
    Setting("mapping.destination_names", "mapping.destination_names", values.NAMES,
            "Names to show for the ids of destinations and subscriptions.",
            example='{ "5f7dd6d21ad74f3842b1fc47" = "Mixpanel" }'),
    Setting("mapping.resource_attributes", "mapping.resource", values.RESOURCE, "Attributes of the resource.",
            variables=("FAILLOG_RESOURCE_ATTRIBUTES", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_SERVICE_NAME"),
            example='{ "deployment.environment.name" = "prod" }',
            details="See [the resource](attributes.md#resource)."),
    Setting("mapping.redaction_key", "mapping.redaction_key", values.SECRET,
            "Secret of at least 16 characters. With it, equal redacted values stay comparable.",
            variables=("FAILLOG_REDACTION_KEY",), details="See [comparable "
            "values](../concepts/redaction.md#comparable-values)."),
    Setting("run.fail_on", "fail_on", values.FAIL_ON,
            "Exit with 1 if the run saw such a record; `empty`: no event.", option="--fail-on...",
            variables=("FAILLOG_FAIL_ON",), default_text="never", example='["discarded"]',
            details="See [fail conditions](exit-codes.md#fail-conditions)."),
    Setting("run.max_discarded", "failure_limits.discarded", number(0),
            "Exit with 1 if more than N messages are lost.", option="--max-discarded N", group="judging",
            variables=("FAILLOG_MAX_DISCARDED",), default_text="any number", example="0",
            details="See [limits of failures](exit-codes.md#limits-of-failures)."),
    Setting("run.max_failed", "failure_limits.failed", number(0),
            "Exit with 1 if more than N messages failed at least once.", option="--max-failed N",
            group="judging", variables=("FAILLOG_MAX_FAILED",), default_text="any number", example="100"),
    Setting("run.destinations", "failure_limits.destinations", values.TEXTS, "Only failures of this "
            "destination count for --max-discarded and --max-failed.", option="--destination ID|NAME...",
            group="judging", variables=("FAILLOG_DESTINATIONS",), default_text="all",
            example='["Mixpanel (prod)"]'),
    Setting("run.wait", "delivery.wait_seconds", values.DURATION, "How long to continue without an "
            "acknowledgement: 500ms, 30s, 5m, forever.", option="--wait DURATION",
            variables=("FAILLOG_WAIT",), default_text="30s; forever when polling without --once",
            details="See "
            "[acknowledgements](../concepts/delivery-guarantee.md#what-counts-as-an-acknowledgement)."),
    Setting("run.summary", "summary", choice(config.OutputFormat),
            "Text on stderr, or one JSON object as the last line of stdout.", option="--summary",
            variables=("FAILLOG_SUMMARY",)),
    CONFIG_FILE,
    Setting("run.log_format", "log_format", choice(config.OutputFormat), "Format of the log on stderr.",
            option="--log-format", variables=("FAILLOG_LOG_FORMAT",),
            details="See [messages](cli.md#messages)."),
    Setting("run.quarantine", "quarantine", values.STRING, "With PATHs: file of records that were not "
            "understood or not accepted.", option="--quarantine FILE", group="paths",
            variables=("FAILLOG_QUARANTINE",)),
    Setting("run.pending", "pending", values.STRING, "With PATHs: file of records that were not delivered.",
            option="--pending FILE", group="paths", variables=("FAILLOG_PENDING",)),
    Setting("run.workers", "workers", number(1, config.MAX_WORKERS),
            "With PATHs: number of processes that share the work.", option="--workers N", group="paths",
            variables=("FAILLOG_WORKERS",), default_text="1; one per core from 8 MiB on", example="2",
            details="See [workers](../concepts/workers.md)."),
    Setting("run.max_content", "max_content_bytes", values.SIZE,
            "Size to which one compressed file may decompress.", variables=("FAILLOG_MAX_CONTENT",)),
)
_LINK_ROWS = (
    Setting("links.trace", "links.trace", Kind(parse=links.parse_trace), "Link to the trace of a message: a "
            "preset (`honeycomb`, `datadog`, `grafana`, `jaeger`), or a URL with `{trace_id}`.",
            variables=("FAILLOG_LINKS_TRACE",), example='"https://tempo.example/trace/{trace_id}"',
            details="See [links](../guides/failures.md#links)."),
    Setting("links.segment", "links.segment", Kind(parse=links.parse_segment), "Link to a destination in "
            "Segment's app: a URL with `{destination_id}`.", variables=("FAILLOG_LINKS_SEGMENT",),
            example='"https://app.segment.com/{workspace}/destinations/{destination_id}"'),
    *(Setting(f"links.{key}", "", values.STRING, text, variables=(f"FAILLOG_LINKS_{key.upper()}",),
              example=example) for key, text, example in (
        ("workspace", "Slug of the workspace in Segment, for `{workspace}`.", '"shop"'),
        ("team", "Slug of the team, for `honeycomb`.", '"shop"'),
        ("environment", "Slug of the environment, for `honeycomb`.", '"prod"'),
        ("dataset", "Slug of the dataset, for `honeycomb`; it can do without.", '"segment"'),
        ("site", "Site, for `datadog`.", '"datadoghq.eu"'),
        ("url", "URL of the web app, for `grafana`, `jaeger`, and `honeycomb` in the EU.",
         '"https://grafana.example"'),
        ("datasource", "Uid of the Tempo data source, for `grafana`.", '"tempo"'),
    )),
)
_SELF_ROWS = (
    Setting("self.interval", "telemetry.interval_seconds", values.INTERVAL, "Time between two exports.",
            variables=("FAILLOG_SELF_OTLP_INTERVAL",), details="At least 0.1 s. A plain number in the "
            "variable is milliseconds."),
    Setting("self.resource_attributes", "telemetry.resource", values.PAIRS,
            "Attributes of the metrics' resource.", variables=("FAILLOG_SELF_OTLP_RESOURCE_ATTRIBUTES",),
            example='{ "service.instance.id" = "a" }'),
)
# fmt: on


def _for_signal(row: Setting, signal: str) -> Setting:
    """Returns the row of `[otlp]` for one signal. The variables of our own have no form for one signal."""
    otel = "OTEL_EXPORTER_OTLP_"
    variables = [each for each in row.variables if each.startswith(otel)]
    return replace(
        row,
        path=f"otlp.{signal}.{row.key}",
        kind=choice(config.NetworkProtocol, str.lower) if row.key == "protocol" else row.kind,
        option="",
        variables=tuple(each.replace(otel, f"{otel}{signal.upper()}_") for each in variables),
    )


def _for_self(row: Setting) -> Setting:
    """Returns the row of `[otlp]` for the program's own metrics."""
    kinds = {"protocol": choice(config.MetricsProtocol, str.lower), "timeout": values.OWN_TIMEOUT}
    own = {
        "endpoint": {
            "help": "Base URL of the collector of the metrics.",
            "default_text": "no metrics are sent",
        },
        "protocol": {"help": "How to send the metrics.", "details": ""},
        "timeout": {"details": "At most 60 s. A plain number in the variable is milliseconds."},
        "proxy": {"default_text": "that of `[otlp]`"},
    }
    return replace(
        row,
        path=f"self.{row.key}",
        kind=kinds.get(row.key, row.kind),
        option="",
        variables=(f"FAILLOG_SELF_OTLP_{row.key.upper()}",),
        **own.get(row.key, {}),
    )


_OF_TARGETS = [row for row in _ROWS if row.table == "otlp" and not row.field.startswith("delivery.")]

SETTINGS: tuple[Setting, ...] = (
    *_ROWS,
    *_LINK_ROWS,
    *(_for_signal(row, signal) for signal in config.SIGNALS for row in _OF_TARGETS),
    *map(_for_self, _OF_TARGETS),
    *_SELF_ROWS,
)
BY_PATH = {row.path: row for row in SETTINGS}
BY_PARAMETER = {row.parameter: row for row in SETTINGS if row.option}
VARIABLES = {name: row for row in SETTINGS for name in row.variables}
