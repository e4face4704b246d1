
CREATE TABLE connections (  -- which sources send to which destinations, as Segment says
    source TEXT NOT NULL,
    destination TEXT NOT NULL,
    PRIMARY KEY (source, destination)
) STRICT, WITHOUT ROWID;

CREATE TABLE event_counts (  -- Segment's own counts of events, by hour
    hour INTEGER NOT NULL,
    source TEXT NOT NULL,
    destination TEXT NOT NULL,  -- empty: counted before any destination
    stage TEXT NOT NULL,  -- received, failed_on_ingest, filtered_at_source, filtered, failed or delivered
    reason TEXT NOT NULL,  -- of the discard, or successes.attempt.N; empty: none
    events INTEGER NOT NULL CHECK (events > 0),
    retried INTEGER NOT NULL CHECK (retried >= 0),  -- of the delivered ones: after the first attempt
    PRIMARY KEY (hour, source, destination, stage, reason)
) STRICT, WITHOUT ROWID;

CREATE TABLE counted_hours (  -- hours whose counts were read, also those without events
    hour INTEGER NOT NULL,
    source TEXT NOT NULL,
    destination TEXT NOT NULL,
    read_ns INTEGER NOT NULL,
    PRIMARY KEY (hour, source, destination)
) STRICT, WITHOUT ROWID;

CREATE TABLE changes (  -- audit events: who changed what in the workspace
    id TEXT PRIMARY KEY,
    at_ns INTEGER NOT NULL,
    kind TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    resource_type TEXT NOT NULL,
    resource_name TEXT NOT NULL,
    actor TEXT NOT NULL,
    actor_email TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX changes_by_time ON changes (at_ns);

CREATE INDEX discards_by_hour ON failure_counts (hour) WHERE discarded > 0
