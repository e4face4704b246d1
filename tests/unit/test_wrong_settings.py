"""Wrong settings: errors, warnings, and their texts."""

import math
import string
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from faillog_otel.config import RunConfig
from faillog_otel.errors import ConfigError
from faillog_otel.setting_values import parse_duration, parse_moment, parse_size, parse_timeout
from faillog_otel.settings import BY_PATH, VARIABLES
from faillog_otel.sources import Layer, read_environment, read_file, resolve


def from_environment(**environ: str) -> RunConfig:
    layer, warnings = read_environment(environ)
    return resolve([layer], warnings=warnings)


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as raised:
        read_file(text, "f.toml")
    return str(raised.value)


def problem_of(read: Callable[[], object]) -> str:
    """What a ConfigError says; empty where there is none."""
    try:
        read()
    except ConfigError as error:
        return str(error)
    return ""


HEADERS = [
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_LOGS_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "FAILLOG_SELF_OTLP_HEADERS",
]


@pytest.mark.parametrize("name", [*HEADERS, "OTEL_RESOURCE_ATTRIBUTES", "FAILLOG_RESOURCE_ATTRIBUTES"])
@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("api-key=s3cret,s3cret2,team=s3cret", 'pair 2 of 3 (after "api-key") has no "="'),
        ("s3cret", 'pair 1 of 1 has no "="'),
        ("a=s3cret,=s3cret", 'pair 2 of 2 (after "a") has no name'),
    ],
)
def test_one_bad_pair_is_an_error_that_names_the_pair_and_no_value(name: str, text: str, named: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read_environment({name: text})
    assert named in str(raised.value)
    assert name in str(raised.value)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_http_forbids_is_an_error_that_names_the_variable(name: str) -> None:
    for text in ("api key=s3cret", "a=s3cret%0a", "a=\udcff", "Authorization: Basic s3cret="):
        with pytest.raises(ConfigError, match=name) as raised:
            read_environment({name: text})
        assert "s3cret" not in str(raised.value)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters=","), min_size=1), min_size=1))
@example(["\r", "\r"])  # nothing but a comma: the attributes are those by default
def test_pairs_are_all_read_or_refused(parts: list[str]) -> None:
    text = ",".join(parts)
    whole = [part for part in map(str.strip, parts) if part]
    is_right = all(part.partition("=")[0].strip() and "=" in part for part in whole)
    try:
        layer, warnings = read_environment({"FAILLOG_RESOURCE_ATTRIBUTES": text})
    except ConfigError:
        assert not is_right or "\0" in text or "%00" in text
    else:
        assert is_right
        assert not warnings
        assert bool(layer.values) == bool(text.strip())


@pytest.mark.parametrize("signal", ["", "LOGS_", "TRACES_"])
@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("0", "10000 for 10 s"),
        ("000", "10000 for 10 s"),
        ("-1", "10000 for 10 s"),
        ("nan", "10000 for 10 s"),
        ("inf", "10000 for 10 s"),
        ("soon", "10000 for 10 s"),
        ("1e3", "10000 for 10 s"),
        ("10s", "10000 for 10s"),
        ("2m", "120000 for 2m"),
        ("9" * 5000, "10000 for 10 s"),
    ],
)
def test_a_timeout_of_otel_that_leaves_no_time_is_ignored_with_the_right_one(
    signal: str, text: str, hint: str
) -> None:
    name = f"OTEL_EXPORTER_OTLP_{signal}TIMEOUT"
    config = from_environment(**{name: text})
    [warning] = config.warnings
    assert warning.startswith(name)
    assert f"write {hint}; ignored" in warning
    assert {target.timeout_seconds for target in config.delivery.targets.values()} == {10.0}


@pytest.mark.parametrize("text", ["0", "0s", "0ms", "0.0h", "-1s", "nan", "inf", "soon", "2d", "9" * 5000])
@pytest.mark.parametrize("table", ["otlp", "otlp.logs", "otlp.traces", "self"])
def test_a_timeout_of_the_config_file_that_cannot_be_kept_is_refused(table: str, text: str) -> None:
    assert refusal(f"[{table}]\ntimeout = '{text}'").startswith(f"f.toml: [{table}] timeout: ")


def test_no_limit_is_a_timeout_that_is_written_out() -> None:
    config = resolve([read_file("[otlp]\ntimeout = 'forever'", "f.toml")])
    assert config.delivery.targets["logs"].timeout_seconds == math.inf


@given(
    st.text(st.characters(codec="utf-8"))
    | st.from_regex(r"-?[0-9.]{0,400}(ms|s|m|h|d|KiB|e9)?", fullmatch=True)
)
def test_any_text_is_a_value_or_a_config_error(text: str) -> None:
    parsers: tuple[Callable[[str], object], ...] = (parse_duration, parse_timeout, parse_size, parse_moment)
    for parse in parsers:
        assert len(problem_of(partial(parse, text))) < 200
    if not problem_of(partial(parse_timeout, text)):
        assert 0 < parse_timeout(text) <= 86400 or parse_timeout(text) == math.inf
    if not problem_of(partial(parse_duration, text)):
        assert parse_duration(text) >= 0


@given(
    st.sampled_from(sorted(VARIABLES)),
    st.text(st.characters(codec="utf-8"))
    | st.sampled_from(["0", "-1", "nan", "inf", "1e400", "9" * 5000, "=", ","]),
)
def test_any_text_of_a_variable_is_read_or_refused_or_ignored(name: str, text: str) -> None:
    def read() -> None:
        layer, warnings = read_environment({name: text})
        resolve([layer], warnings=warnings)

    problem_of(read)  # any error but a ConfigError fails


@given(
    st.sampled_from(sorted(BY_PATH.keys() - {""})),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(string.ascii_letters + string.digits),
        lambda each: st.lists(each, max_size=2) | st.dictionaries(st.sampled_from("ab"), each, max_size=2),
        max_leaves=4,
    ),
)
def test_any_value_in_the_config_file_is_read_or_refused_in_our_words(path: str, value: object) -> None:
    table, _, key = path.rpartition(".")
    text = f"[{table}]\n{key} = {toml(value)}"
    problem = problem_of(lambda: read_file(text, "f.toml"))
    if problem:
        assert f"[{table}] {key}" in problem
        assert "`" not in problem
        assert "$" not in problem
    else:
        assert [*read_file(text, "f.toml").values] == [path]


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "2025-05-07"
    return f"'{value}'" if isinstance(value, str) else str(value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[otlp]\nendpont = 'x'", '[otlp] unknown key "endpont"; did you mean "endpoint"?'),
        ("[otlp.logs]\nsignals = []", '[otlp.logs] unknown key "signals"; write it under [otlp]'),
        ("[segment]\nendpoint = 'x'", '[segment] unknown key "endpoint"; write it under [otlp] or [self]'),
        ("endpoint = 'x'", 'outside of any table: unknown key "endpoint"; write it under [otlp] or [self]'),
        ("[run]\nproxy = 'x'", "write it under [segment] or [otlp] or [self]"),
        ("[otpl]", "unknown table [otpl]; did you mean [otlp]?"),
        ("[otlp.log]", "unknown table [otlp.log]; did you mean [otlp.logs]?"),
        (
            "[xyzzy]",
            "unknown table [xyzzy]; the tables are [segment], [otlp], [mapping], [run], [links], [self]",
        ),
        ("[segment]\ncollections = 5", "[segment] collections: must be a list of strings; found a number"),
        (
            "[segment]\ncollections = 'a'",
            "[segment] collections: must be a list of strings; found a string; write it in brackets",
        ),
        ("[segment]\ncollections = [5]", "[segment] collections: must be a list of strings; found a number"),
        (
            "[otlp]\nsignals = ['trace']",
            '[otlp] signals: must be a list of logs or traces; found "trace"; did you mean "traces"?',
        ),
        ("[otlp]\ntimeout = 10", "[otlp] timeout: must be a string; found a number; write it in quotes"),
        ("[otlp]\nheaders = 'a=s3cret'", "[otlp] headers: must be a table of strings; found a string"),
        (
            "[otlp]\nheaders = { api-key = 53 }",
            '[otlp] headers: must be a table of strings; found a number for "api-key"',
        ),
        ("[otlp]\ninsecure = 'yes'", "[otlp] insecure: must be true or false; found a string"),
        ("[run]\nworkers = 0", "[run] workers: must be a whole number from 1 to 256; found 0"),
        ("[segment]\nmax_requests = 1.5", "max_requests: must be a whole number from 1; found 1.5"),
        ("[run]\nsummary = 'jso'", '[run] summary: must be text or json; found "jso"; did you mean "json"?'),
        ("[otlp]\nlogs = 'x'", "[otlp.logs] must be a table; found a string"),
        ("[[otlp]]", "[otlp] must be a table; found a list"),
        ('[segment]\ntoken_file = "a\\u0000"', "[segment] token_file: contains a NUL character; remove it"),
        ("[segment]\nsince = 2025-05-07T22:00:00Z", "since: must be a string; found a date or a time"),
        ("[run]\nwait = 'soon'", "[run] wait: 'soon' is not a duration"),
        ("[run]\nmax_content = '16G'", "[run] max_content: '16G' is not a size"),
        ("[mapping]\ntime_policy = 'clamp'", "[mapping] time_policy: 'clamp' is not a time policy"),
        ("[otlp]\na = 'b'\na = 'c'", "line 3: the key is set twice"),
        ("[otlp]\n\n[otlp]", "line 3: the table [otlp] appears twice"),
        ("[otlp]\nendpoint = http://h", "line 2: a value is missing or is not TOML; write text in quotes"),
        ("[otlp]\nendpoint 'x'", "line 2: expected '='"),
        ("[otlp", "line 1: expected ']'"),
        ("[run]\nworkers = " + "9" * 5000, "a number has too many digits"),
    ],
)
def test_the_error_about_a_config_file_says_what_is_wrong(text: str, says: str) -> None:
    message = refusal(text)
    assert message.startswith("f.toml: ")
    assert says in message
    assert "s3cret" not in message


@pytest.mark.parametrize("path", sorted(BY_PATH.keys() - {""}))
def test_a_wrong_type_is_refused_for_every_setting(path: str) -> None:
    table, _, key = path.rpartition(".")
    assert refusal(f"[{table}]\n{key} = 2025-05-07").count(f"[{table}] {key}: must be ") == 1


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("FAILLOG_COLECTIONS", "FAILLOG_COLLECTIONS"),
        ("FAILLOG_SELF_OTLP_ENDPONT", "FAILLOG_SELF_OTLP_ENDPOINT"),
        ("FAILOG_WAIT", "FAILLOG_WAIT"),
        ("FAILLOG_TOKEN", "SEGMENT_TOKEN"),
        ("FAILLOG_SEGMENT_TOKEN", "SEGMENT_TOKEN"),
        ("FAILLOG_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("FAILLOG_PROXY", "FAILLOG_OTLP_PROXY"),
        ("FAILLOG_SEGMENT_PROXI", "FAILLOG_SEGMENT_PROXY"),
        ("FAILLOG_REQUEST_PER_DAY", "FAILLOG_REQUESTS_PER_DAY"),
        ("faillog_wait", "FAILLOG_WAIT"),
        ("SEGMENT_TOKNE", "SEGMENT_TOKEN"),
        ("SEGMENT_TOKEN_FIEL", "SEGMENT_TOKEN_FILE"),
        ("OTEL_EXPORTER_OTLP_ENDPIONT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("OTEL_EXPORTER_OTLP_TRACE_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
    ],
)
def test_a_misspelt_variable_is_warned_about_with_the_right_name(name: str, meant: str) -> None:
    _, [warning] = read_environment({name: "s3cret"})
    assert warning == f'{name}: unknown variable, ignored; did you mean "{meant}"?'


def test_variables_of_others_are_not_warned_about() -> None:
    others = [
        *(
            "FAILLOG_SERVICE_HOST",
            "FAILLOG_PORT_4318_TCP_ADDR",
            "FAILLOG_OTEL_SERVICE_PORT_HEALTH",
            "FAILLOG_PORT",
        ),
        *("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "OTEL_TRACES_SAMPLER"),
        *("SEGMENT_WRITE_KEY", "FAILLOG_COLLECTOR_HTTP", "OTEL_PROPAGATORS", "FAILLOG_CONFIG", "PATH"),
    ]
    assert read_environment(dict.fromkeys(others, "x")) == (Layer("environment"), [])


@pytest.mark.parametrize("name", ["FAILLOG_XYZZY", "FAILLOG_QUOTA"])
def test_a_variable_that_is_like_none_of_ours_is_warned_about_without_a_hint(name: str) -> None:
    _, warnings = read_environment({name: "x", "FAILLOG_EMPTY": ""})
    assert warnings == [f"{name}: unknown variable, ignored; unset it"]


@pytest.mark.parametrize("name", ["FAILLOG_SEGMENT_PROXY", "FAILLOG_OTLP_PROXY", "FAILLOG_SELF_OTLP_PROXY"])
def test_a_misspelt_environment_is_no_proxy(name: str) -> None:
    """Without the check, it would count as a host name."""
    with pytest.raises(ConfigError, match='proxy is neither "environment" nor a URL; write http://HOST:PORT'):
        from_environment(**{name: "enviroment", "FAILLOG_SELF_OTLP_ENDPOINT": "http://localhost:4318"})


@pytest.mark.parametrize(
    ("text", "write"),
    [
        ("2025-05-07T23:00:00", "write 2025-05-07T23:00:00Z for UTC"),
        ("2025-05-07 23:00", "write 2025-05-07T23:00:00Z for UTC"),
        ("2025-05-07", "write 2025-05-07T00:00:00Z for UTC"),
        ("36h", "write -36h"),
        ("-36", "write -36h or -36d"),
        ("yesterday", "is not a time"),
        ("-forever", "is not a time"),
        ("2025-13-07T23:00:00Z", "is not a time"),
    ],
)
@pytest.mark.parametrize("name", ["FAILLOG_SINCE", "FAILLOG_UNTIL"])
def test_a_time_without_a_zone_is_refused_with_the_right_one(name: str, text: str, write: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read_environment({name: text})
    assert str(raised.value).startswith(f"{name}: {text!r}")
    assert write in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        "YOUR_COLLECTION_ID",
        "COLLECTION_ID",
        "your-collection",
        "...",
        "<id>",
        "a b",
        '"abc"',
        "${ID}",
        "é",
        "a,b,a",
    ],
)
def test_impossible_collection_ids_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="FAILLOG_COLLECTIONS: '"):
        read_environment({"FAILLOG_COLLECTIONS": text})


def test_the_token_of_the_first_source_wins_over_the_file_of_a_later_one() -> None:
    file = read_file("[segment]\ntoken = 'of-the-file'", "f.toml")
    environment, _ = read_environment({"SEGMENT_TOKEN_FILE": "token"})
    segment = resolve([environment, file]).segment
    assert (segment.token, segment.token_file) == (None, "token")
    segment = resolve([file, environment]).segment
    assert (segment.token and segment.token.reveal(), segment.token_file) == ("of-the-file", None)


def test_a_token_file_beside_a_token_is_warned_about() -> None:
    config = from_environment(SEGMENT_TOKEN="x", SEGMENT_TOKEN_FILE="token")  # noqa: S106  # made up
    assert [warning for warning in config.warnings if "the file is not read" in warning]
    assert config.segment.token_file is None
