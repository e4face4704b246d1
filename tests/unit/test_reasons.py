"""The table of failure reasons is whole, and a failure finds the row that would mend it."""

import re
from collections import Counter
from importlib.metadata import files
from pathlib import Path

import pytest

from faillog_otel.reasons import CLASSES, ReasonRow, all_rows, classify, code_of_text, find_rows

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "failure-reasons.md"
CODES = (
    *"""\
INVALID_SETTINGS 429 EREFUSED ECONNREFUSED ECONNRESET ECONNABORTED ETIMEDOUT REQUESTTIMEOUTERROR
ENOTFOUND EHOSTUNREACH EAI_AGAIN INTERNAL RETRY MESSAGE_REJECTED UNSUPPORTED_EVENT_TYPE 400
BAD_REQUEST 401 403 404 307 502 503 5xx INVALID_AUTHENTICATION PAYLOAD_VALIDATION_FAILED
INVALID_PAYLOAD MISCONFIGURED_FIELD INVALID_CURRENCY_CODE RETRYABLE_ERROR REFRESH_TOKEN_EXPIRED
OAUTH_REFRESH_FAILED SELF_TIMEOUT CREATE_AUDIENCE_FAILED GET_AUDIENCE_FAILED
RETL_ON_MAPPING_SAVE_FAILED INVALID_AUDIENCE_MEMBERSHIP UNKNOWN_ERROR MULTI_STATUS MULTIPLE_CHOICES
UNAUTHORIZED PAYMENT_REQUIRED FORBIDDEN NOT_FOUND METHOD_NOT_ALLOWED NOT_ACCEPTABLE REQUEST_TIMEOUT
CONFLICT GONE PAYLOAD_TOO_LARGE UNSUPPORTED_MEDIA_TYPE IM_A_TEAPOT UNPROCESSABLE_ENTITY LOCKED
FAILED_DEPENDENCY TOO_EARLY UPGRADE_REQUIRED PRECONDITION_REQUIRED TOO_MANY_REQUESTS
REQUEST_HEADER_FIELDS_TOO_LARGE UNAVAILABLE_FOR_LEGAL_REASONS CANCELLED INTERNAL_SERVER_ERROR
NOT_IMPLEMENTED BAD_GATEWAY SERVICE_UNAVAILABLE GATEWAY_TIMEOUT INSUFFICIENT_STORAGE
BANDWIDTH_LIMIT_EXCEEDED NETWORK_AUTHENTICATION_REQUIRED SITE_IS_OVERLOADED MISSING_REQUIRED_FIELD
INVALID_REQUEST_DATA INVALID_RESPONSE INTEGRATION_ERROR INVALID_CONFIGURATION
CONVERSION_RULE_UPDATE_FAILURE CONVERSION_RULE_CREATION_FAILURE CONVERSION_RULE_VERIFICATION_FAILURE
ASSOCIATE_CAMPAIGN_TO_CONVERSION_ERROR FIELD_NOT_SELECTED STORE_REQUIRED FETCH_ERROR
UNEXPECTED_RECORD_COUNT SFTP_ERROR SEGMENT_NOT_FOUND PROJECT_DEACTIVATED NO_AUDIENCE_ID
AUDIENCE_NOT_FOUND COHORT_NOT_FOUND NOT_LOGGED_IN MULTIPLE_EXISTING_RECORDS MISSING_RESPONSE
MISSING_MATCH_KEY INVALID_URL INVALID_OAUTH_TOKEN INVALID_API_TOKEN INVALID_INPUT INVALID_ARGUMENT
INVALID_ACCOUNT_ID INVALID_IAM_ROLE_ARN_FORMAT HUBSPOT_PROPERTY_TYPE_NOT_SUPPORTED
BROKER_FORMAT_INVALID EMPTY_BATCH DEPENDENCY_ERROR DELETE_FAILED API_REQUEST_FAILED bad_request
invalid_settings message_rejected unsupported_event_type internal too_many_requests gateway_timeout
retry FUNCTIONS_LOCK_OUT FUNCTION_TIMEOUT RETRY_ERROR INVOKE_ERROR BAD_DEPLOY lambda_err
TRACKING_API_FAILED SET_API_FAILED FILTERED_BY_RULES FILTERED_BY_INTEGRATIONS_OBJECT
UNKNOWN_INTEGRATION MESSAGE_SENT_CLIENT_SIDE NO_MATCHING_MAPPING FILTERED_AT_MAPPING
FAILED_DATA_ENCRYPTION FILTERED_BY_END_USER_CONSENT common_schema_violation event_setting
schema_violation unplanned unplanned_and_schema_violation empty_batch empty_batch_result
source_disabled multi_user_error no_user_anon_id id_required id_not_string event_not_defined
event_not_string properties_not_object traits_not_object name_not_string category_not_string
consent_categorypreferences_should_exist consent_categorypreferences_fields_should_be_object
consent_categorypreferences_fields_should_be_bool device_advertisingid_should_be_string
consent_version_should_be_number unknown_source locked_workspace ErrRecordDuplicate
ErrRecordNullUniqueID ErrRecordMissingID ErrRecordInvalidID ErrSegmentNoEntitlement""".split(),
    "failed insert function",
)
"""All that Segment documents or that its code has, as of 2026."""
FUNCTION = "destinationInsertFunction"


# -- the table -------------------------------------------------------------------------------------------


def row_id(row: ReasonRow) -> str:
    return row.code


@pytest.mark.parametrize("code", CODES)
def test_every_code_of_segment_has_a_row(code: str) -> None:
    wanted = code.replace(" ", "_")
    assert [row for row in find_rows(code) if wanted in {row.code, *row.names}]


@pytest.mark.parametrize("row", all_rows(), ids=row_id)
def test_a_row_is_whole(row: ReasonRow) -> None:
    assert row.where
    assert row.source
    for text in (row.meaning, row.remedy):
        assert re.fullmatch(r"[A-Z][^\t]{18,}[.]", text)
        assert not re.search(r"  | [.,]|\bAs [0-9A-Z_]+\b", text)
    assert len(row.meaning.split()) >= 5
    assert len(row.remedy.split()) >= 8


@pytest.mark.parametrize("row", all_rows(), ids=row_id)
def test_a_row_speaks_for_itself(row: ReasonRow) -> None:
    """It names no code of another row."""
    words = set(re.findall(r"[A-Z]+(?:_[A-Z]+)+|(?<!HTTP )\b[45]\d\d\b", f"{row.meaning} {row.remedy}"))
    assert words <= {row.code, *row.names}


def test_codes_are_unique() -> None:
    names = Counter(name for row in all_rows() for name in (row.code, *row.names))
    assert [name for name, times in names.items() if times > 1] == []


def test_every_class_has_rows() -> None:
    assert {row.reason_class for row in all_rows()} == set(CLASSES)


def test_segment_retries_what_its_rule_says() -> None:
    """408, 423, 429, 5xx but 501; 307 is followed."""
    retried = {row.status for row in all_rows() if row.status and row.retryable}
    known = {row.status for row in all_rows() if row.status}
    assert retried == {each for each in known if each in {307, 408, 423, 429} or each >= 500} - {501}


def test_rows_of_the_network_and_of_outages_are_retried_and_those_of_mistakes_are_not() -> None:
    for row in all_rows():
        if row.reason_class in {"credentials", "payload", "filtered"}:
            assert not row.retryable, row.code
        if row.reason_class in {"destination_down", "rate_limit"}:
            assert row.retryable, row.code


def test_the_page_explains_every_class_and_source() -> None:
    page = PAGE.read_text("utf-8")
    assert re.findall(r"^## `(.+)`$", page, re.MULTILINE) == [*CLASSES]
    assert re.findall("<!-- table: failures:(.+) -->", page) == [*CLASSES]
    explained = re.findall(r"^\| `(\w+)` \| ", page.partition("## Sources")[2], re.MULTILINE)
    assert set(explained) == {each for row in all_rows() for each in row.source.split(", ")}


def test_the_wheel_has_the_table() -> None:
    assert [path for path in files("faillog-otel") or () if path.name == "reasons.tsv"]


# -- look-ups --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ("401", "UNAUTHORIZED", "unauthorized", " Unauthorized ", "errors.discarded.unauthorized"),
        ("429", "TOO_MANY_REQUESTS", "errors.awaiting-retry.429", "Errors.Discarded.TOO_MANY_REQUESTS"),
        ("400", "BAD_REQUEST", "bad_request", "bad request"),
        ("ECONNREFUSED", "EREFUSED", "econnrefused"),
        ("ETIMEDOUT", "etimedout", "REQUESTTIMEOUTERROR"),
        ("no_user_anon_id", "id_required", "NO_USER_ANON_ID"),
    ],
)
def test_one_failure_in_several_spellings_has_one_code(names: tuple[str, ...]) -> None:
    assert {classify(name, None, None, None).code for name in names} == {names[0]}


@pytest.mark.parametrize("row", [row for row in all_rows() if row.status and row.status >= 400], ids=row_id)
def test_a_status_and_its_name_are_one(row: ReasonRow) -> None:
    expected = classify(None, row.status, None, None)
    assert expected.row == row
    assert expected.code == row.code == str(row.status)
    for name in (row.code, *row.names):
        assert classify(name, None, None, None) == expected
        assert classify(name, row.status, None, None) == expected


@pytest.mark.parametrize(
    ("code", "status", "text_code", "expected", "reason_class"),
    [
        ("INVALID_SETTINGS", 401, "429", "INVALID_SETTINGS", "settings"),
        ("NO_ROW", 401, "429", "401", "credentials"),
        (None, 401, "429", "401", "credentials"),
        ("UNKNOWN_ERROR", 503, None, "503", "destination_down"),
        ("RETRY", 503, None, "503", "destination_down"),
        ("RETRY", None, "ETIMEDOUT", "ETIMEDOUT", "network"),
        ("RETRY", None, None, "RETRY", "unknown"),
        ("RETRY", 200, None, "RETRY", "unknown"),
        ("MULTI_STATUS", 207, None, "207", "unknown"),
        ("UNKNOWN_ERROR", 420, None, "UNKNOWN_ERROR", "unknown"),
        ("NO_ROW", None, "ETIMEDOUT", "ETIMEDOUT", "network"),
        ("NO_ROW", None, None, None, "unknown"),
        ("successes.attempt.3", None, None, None, "unknown"),
        ("NO_ROW", 200, None, None, "unknown"),
        (None, 302, None, None, "unknown"),
        (None, 307, None, "307", "settings"),
        (None, 307, "401", "401", "credentials"),
        ("200", None, None, None, "unknown"),
        ("503", 401, None, "503", "destination_down"),
        (None, 420, None, "420", "unknown"),
        ("420", None, None, "420", "unknown"),
        (None, 420, "401", "401", "credentials"),
        (None, 598, None, "598", "destination_down"),
        (None, 999, None, "999", "unknown"),
        (None, 100_000, None, None, "unknown"),
        (None, -1, None, None, "unknown"),
        ("x" * 100_000, None, None, None, "unknown"),
        ("", None, "", None, "unknown"),
    ],
)
def test_the_first_that_says_something_counts(
    code: str | None, status: int | None, text_code: str | None, expected: str | None, reason_class: str
) -> None:
    found = classify(code, status, text_code, None)
    assert (found.code, found.reason_class) == (expected, reason_class)
    assert (found.row is None) == (found.retryable is None) == (expected is None)


@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        *((status, True) for status in (408, 423, 429, 500, 511, 520, 529, 599)),
        *((status, False) for status in (400, 420, 425, 501, 600)),
    ],
)
def test_segments_rule_decides_what_is_retried(status: int, retryable: bool) -> None:
    assert classify(None, status, None, None).retryable is retryable


@pytest.mark.parametrize(
    ("code", "status", "text_code", "expected", "row"),
    [
        ("bad_request", None, None, "bad_request", "bad_request"),
        ("BAD_REQUEST", None, None, "bad_request", "bad_request"),
        ("invalid_settings", None, None, "invalid_settings", "invalid_settings"),
        (None, 429, None, "too_many_requests", "too_many_requests"),
        ("FUNCTION_TIMEOUT", None, None, "FUNCTION_TIMEOUT", "FUNCTION_TIMEOUT"),
        (None, None, None, "failed_insert_function", "failed_insert_function"),
        ("ECONNREFUSED", None, None, "ECONNREFUSED", "failed_insert_function"),
        ("MY_ERROR", None, None, None, "failed_insert_function"),
        ("MY_ERROR", 503, None, "503", "failed_insert_function"),
        (None, 420, None, "420", "failed_insert_function"),
        (None, 200, "401", "401", "failed_insert_function"),
    ],
)
def test_a_function_is_meant_if_the_feature_names_one(
    code: str | None, status: int | None, text_code: str | None, expected: str | None, row: str
) -> None:
    for feature in (FUNCTION, "insertFunction", "FUNCTIONS"):
        found = classify(code, status, text_code, feature)
        assert (found.code, found.reason_class) == (expected, "function")
        assert found.row
        assert found.row.code == row


@pytest.mark.parametrize("feature", [None, "", "delivery", "x" * 1000 + "function"])
def test_without_a_function_the_destination_is_meant(feature: str | None) -> None:
    for code in ("bad_request", "BAD_REQUEST"):
        assert classify(code, None, None, feature).code == "400"
    assert classify("empty_batch", None, None, feature).code == "EMPTY_BATCH"
    assert classify("lambda_err", None, None, feature).reason_class == "function"


def test_find_rows_gives_both_variants() -> None:
    assert [row.code for row in find_rows("bad_request")] == ["400", "bad_request"]
    assert [row.code for row in find_rows("errors.discarded.Forbidden")] == ["403"]
    assert [row.code for row in find_rows("598")] == ["5xx"]
    assert [row.code for row in find_rows("420")] == ["4xx"]
    assert (
        find_rows("200")
        == find_rows("")
        == find_rows("no such code")
        == find_rows("²")
        == find_rows("4" * 5000)
        == []
    )


# -- prose -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("failed insert function", "failed_insert_function"),
        ("Invalid Settings", "INVALID_SETTINGS"),
        ("UNAUTHORIZED", "401"),
        ("connect ECONNREFUSED 10.0.0.1:443", "ECONNREFUSED"),
        ("getaddrinfo EAI_AGAIN api.shop.example", "EAI_AGAIN"),
        ("getaddrinfo ENOTFOUND api.shop.example", "ENOTFOUND"),
        ("Error: INVALID_ARGUMENT: bad currency", "INVALID_ARGUMENT"),
        ("HTTP 503", "503"),
        ("HTTP/1.1 404 Not Found", "404"),
        ("Request failed with status code 401", "401"),
        ("503 Service Unavailable", "503"),
        ("429: slow down", "429"),
        ("status=599", "5xx"),
        ("Request failed with status code 400: invalid API key", "INVALID_AUTHENTICATION"),
        ("Request failed with status code 400", "400"),
        ("Invalid API key", "INVALID_AUTHENTICATION"),
        ("API key 'abc' is not valid", "INVALID_AUTHENTICATION"),
        ("The access token has expired", "INVALID_AUTHENTICATION"),
        ("Invalid OAuth access token.", "INVALID_AUTHENTICATION"),
        ("Error validating access token: Session has expired on Friday", "INVALID_AUTHENTICATION"),
        ("The request is missing a valid API key.", "INVALID_AUTHENTICATION"),
        ("Request had invalid authentication credentials.", "INVALID_AUTHENTICATION"),
        ("Login required", "INVALID_AUTHENTICATION"),
        ("invalid_grant: Token has been expired or revoked.", "REFRESH_TOKEN_EXPIRED"),
        ("Refresh token was revoked", "REFRESH_TOKEN_EXPIRED"),
        ("You are unauthorised", "401"),
        ("The user does not have permission to do this", "403"),
        ("Permission 'bigquery.tables.updateData' denied on table t", "403"),
        ("The caller does not have permission", "403"),
        ("Rate limit reached, slow down", "429"),
        ("You have exceeded your API request quota", "429"),
        ("Daily quota exceeded", "429"),
        ("the destination answered 503: Oops", "503"),
        ("socket hang up", "ECONNRESET"),
        ("Client network socket disconnected before secure TLS connection was established", "ECONNRESET"),
        ("Timeout awaiting 'request' for 10000ms", "ETIMEDOUT"),
        ("network timeout at: https://api.shop.example/", "ETIMEDOUT"),
        ("no healthy upstream", "503"),
        ("Property values were not valid", "PAYLOAD_VALIDATION_FAILED"),
        ("(#100) Invalid parameter", "PAYLOAD_VALIDATION_FAILED"),
        ("Contact already exists", "409"),
        ("Unsupported event type: page", "UNSUPPORTED_EVENT_TYPE"),
        ("Connection refused by peer", "ECONNREFUSED"),
        ("timeout of 10000ms exceeded", "ETIMEDOUT"),
        ("The request timed out", "ETIMEDOUT"),
        ("the destination did not answer in time", "ETIMEDOUT"),
        ("Service Unavailable", "503"),
        ("upstream said Bad Gateway", "502"),
        ("Gateway Time-out", "504"),
        ("Internal Server Error", "500"),
        ("Request entity is too large", "413"),
        ("no route to host", "EHOSTUNREACH"),
        ("Invalid currency xyz", "INVALID_CURRENCY_CODE"),
        ("it was a bad request, sorry", "400"),
        ("Missing required field email", "MISSING_REQUIRED_FIELD"),
        ("The field 'email' is required", "MISSING_REQUIRED_FIELD"),
        ("email 'x' is not valid", "PAYLOAD_VALIDATION_FAILED"),
        ("price must be a number", "PAYLOAD_VALIDATION_FAILED"),
    ],
)
def test_prose_means_a_code(text: str, code: str) -> None:
    assert code_of_text(text) == code


@pytest.mark.parametrize(
    "text",
    [
        "some description for why",
        "404 items failed",
        "see page 503",
        "THIS ACCOUNT IS LOCKED",
        "SOMETHING HAS GONE WRONG",
        "please RETRY",
        "the device token has expired",
        "length limit exceeded",
        "the user must be an admin",
        "the endpoint returned 500 rows",
        "the token of the device was missing in segment 5000",
        "no further information is required",
        "valid until 2026",
        "preceded by PRE_INVALID_ARGUMENT_X",
        "",
        " " * 600 + "HTTP 503",
    ],
)
def test_prose_in_doubt_means_nothing(text: str) -> None:
    assert code_of_text(text) is None
