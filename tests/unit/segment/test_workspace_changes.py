"""What the audit events of a workspace say."""

import json

from faillog_otel.clock import SECOND_NS
from faillog_otel.segment.answers import Change, ChangesPage, Failed
from faillog_otel.segment.workspace import read_changes

AT = "2025-05-08T00:00:00.000Z"
AT_NS = 1_746_662_400 * SECOND_NS


def answer(*events: object, **more: object) -> bytes:
    return json.dumps({"data": {"events": events, **more}}).encode()


def test_a_change_has_its_time_kind_resource_and_actor() -> None:
    event = {
        "id": "a1",
        "timestamp": AT,
        "type": "Destination Modified",
        "actor": "u1",
        "actorEmail": "jane@shop.example",
        "resourceId": "d1",
        "resourceType": "destination",
        "resourceName": "Mixpanel (prod)",
    }
    change = Change(
        *("a1", AT_NS, "Destination Modified", "d1"),
        *("destination", "Mixpanel (prod)", "u1", "jane@shop.example"),
    )
    assert read_changes(answer(event, pagination={"next": "c"})) == ChangesPage((change,), "c")


def test_changes_without_id_or_time_are_left_out() -> None:
    events = {"id": "", "timestamp": AT}, {"id": "a", "timestamp": "soon"}, {"id": "a"}, None
    assert read_changes(answer(*events)) == ChangesPage(())


def test_another_answer_is_a_failure() -> None:
    failed = Failed("the answer is not a list of audit events; check that --segment-url is Segment's API")
    assert [read_changes(body) for body in (b"", b"[]", b"{}", b'{"data": {}}')] == [failed] * 4
