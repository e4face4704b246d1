-- version 6
-- migration 1: SHA-256 1d9f2fcacc98863dde39cd9992f7c6f9919fab042f63d1aee01017bbfe803197
-- migration 2: SHA-256 efb6868e07730383ad440a2c6494e4e16dab1744054d6bf112c3ebbe3809f082
-- migration 3: SHA-256 23663e6b465c0a93ee08d32c6f9c40df07501a76594991c5efaacab999c622c7
-- migration 4: SHA-256 9453b8ddc8218250301a336354851faa20ae61a1b67752e17f6b752058f3269c
-- migration 5: SHA-256 30e84cc351746c60b195cce7e5b61c97b1b0c2c3983493fe67e1c90561b71e0a
-- migration 6: SHA-256 c49d728017dfe1bf8a079b371e35c50cb653e57b3eb7cbeda798e957a3ddcb72

CREATE TABLE changes (  -- audit events: who changed what in the workspace
    id TEXT PRIMARY KEY,
    at_ns INTEGER NOT NULL,
    kind TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    resource_type TEXT NOT NULL,
    resource_name TEXT NOT NULL,
    actor TEXT NOT NULL,
    actor_email TEXT NOT NULL
) STRICT, WITHOUT ROWID

CREATE INDEX changes_by_time ON changes (at_ns)

CREATE TABLE connections (  -- which sources send to which destinations, as Segment says
    source TEXT NOT NULL,
    destination TEXT NOT NULL,
    PRIMARY KEY (source, destination)
) STRICT, WITHOUT ROWID

CREATE TABLE counted_hours (  -- hours whose counts were read, also those without events
    hour INTEGER NOT NULL,
    source TEXT NOT NULL,
    destination TEXT NOT NULL,
    read_ns INTEGER NOT NULL,
    PRIMARY KEY (hour, source, destination)
) STRICT, WITHOUT ROWID

CREATE INDEX discards_by_hour ON failure_counts (hour) WHERE discarded > 0

CREATE TABLE event_counts (  -- Segment's own counts of events, by hour
    hour INTEGER NOT NULL,
    source TEXT NOT NULL,
    destination TEXT NOT NULL,  -- empty: counted before any destination
    stage TEXT NOT NULL,  -- received, failed_on_ingest, filtered_at_source, filtered, failed or delivered
    reason TEXT NOT NULL,  -- of the discard, or successes.attempt.N; empty: none
    events INTEGER NOT NULL CHECK (events > 0),
    retried INTEGER NOT NULL CHECK (retried >= 0),  -- of the delivered ones: after the first attempt
    PRIMARY KEY (hour, source, destination, stage, reason)
) STRICT, WITHOUT ROWID

CREATE TABLE exchange_indexes (  -- one for each object with exchanges or attempts, also after it is done
    number INTEGER PRIMARY KEY AUTOINCREMENT,  -- in the order in which they were written
    object INTEGER NOT NULL UNIQUE,  -- the name of its file is that of the object with `.exchanges`
    collection TEXT NOT NULL,
    hour INTEGER NOT NULL CHECK (hour BETWEEN 0 AND 70000000),
    path TEXT NOT NULL,  -- of the object: a later version of it replaces this index
    bytes INTEGER NOT NULL CHECK (bytes > 0),
    sha256 TEXT NOT NULL,
    written_ns INTEGER NOT NULL
) STRICT

CREATE INDEX exchange_indexes_by_collection ON exchange_indexes (collection, number)

CREATE TABLE facts (  -- what is known of Segment besides, and since when hours are wanted
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID

CREATE TABLE failure_counts (  -- of one object, by group and hour of occurrence
    object INTEGER NOT NULL,
    grp INTEGER NOT NULL,
    hour INTEGER NOT NULL,
    records INTEGER NOT NULL CHECK (records > 0),
    attempts INTEGER NOT NULL CHECK (attempts >= 0),
    requests INTEGER NOT NULL CHECK (requests >= 0),
    discarded INTEGER NOT NULL CHECK (discarded >= 0),
    PRIMARY KEY (object, grp, hour)
) STRICT, WITHOUT ROWID

CREATE TABLE failure_groups (
    id INTEGER PRIMARY KEY,  -- segment.failure.group as a signed number
    destination TEXT NOT NULL,
    subscription TEXT,
    code TEXT,
    status INTEGER,
    reason TEXT,  -- of one record, redacted
    class TEXT NOT NULL,
    retryable INTEGER,
    day INTEGER NOT NULL,  -- of its first failure, since 1970
    first_ns INTEGER NOT NULL,  -- occurrence
    last_ns INTEGER NOT NULL,
    seen_ns INTEGER NOT NULL  -- when it was stored
) STRICT

CREATE INDEX failure_groups_by_day ON failure_groups (destination, day)

CREATE TABLE "hours" (
    collection TEXT NOT NULL,
    hour INTEGER NOT NULL CHECK (hour BETWEEN 0 AND 70000000),
    listing_ns INTEGER,  -- the listing whose objects are being downloaded
    counted INTEGER NOT NULL DEFAULT 0,  -- whether every object of it was tried: it is the last one listed
    first_listed_ns INTEGER,
    last_listed_ns INTEGER,  -- the last listing of which every object was downloaded or tried
    listings INTEGER NOT NULL DEFAULT 0 CHECK (listings >= 0),
    identity TEXT,  -- of all objects that it showed
    same_since_ns INTEGER,
    failures INTEGER NOT NULL DEFAULT 0 CHECK (failures >= 0),  -- in a row
    failed_ns INTEGER NOT NULL DEFAULT 0,
    failed_why TEXT NOT NULL DEFAULT '',
    wanted INTEGER NOT NULL DEFAULT 0,  -- a person asked to read it again, or an object was damaged
    lost INTEGER NOT NULL DEFAULT 0 CHECK (lost >= 0),  -- objects that left the 28 days, never downloaded
    PRIMARY KEY (collection, hour)
) STRICT, WITHOUT ROWID

CREATE TABLE kept (  -- the quarantine
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    object INTEGER NOT NULL,
    collection TEXT NOT NULL,
    hour INTEGER NOT NULL,
    reason TEXT NOT NULL,
    kept_ns INTEGER NOT NULL,
    entry BLOB NOT NULL
) STRICT

CREATE TABLE message_notes (  -- what T3 stored about messages and is not merged into `messages` yet
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    number INTEGER NOT NULL,
    notes BLOB NOT NULL
) STRICT

CREATE TABLE message_sums (  -- of messages, also of those that are no longer kept
    hour INTEGER NOT NULL,  -- of their first failure
    grp INTEGER NOT NULL,
    code_grp INTEGER NOT NULL,  -- 0: none
    state INTEGER NOT NULL,
    messages INTEGER NOT NULL CHECK (messages >= 0),
    attempts INTEGER NOT NULL,
    first_s INTEGER NOT NULL,
    last_s INTEGER NOT NULL,
    slot INTEGER NOT NULL,  -- one of them
    key INTEGER NOT NULL,
    PRIMARY KEY (hour, grp, code_grp, state)
) STRICT, WITHOUT ROWID

CREATE TABLE messages (  -- one for each destination and message, also if it only succeeded
    slot INTEGER NOT NULL,  -- of six hours, since 1970, near its first failure
    key INTEGER NOT NULL,  -- the first 8 bytes of a hash of destination and message
    message_id TEXT NOT NULL,
    state INTEGER NOT NULL CHECK (state BETWEEN 0 AND 3),  -- 0 no failure known, 1 pending, 2 lost, 3 recovered
    grp INTEGER,  -- the most specific group of its records; NULL: no failure known
    grp_s INTEGER NOT NULL,  -- of the record with this group
    grp_rank INTEGER NOT NULL,
    code_grp INTEGER,  -- the group with the most specific code of its own, or else reason; NULL: none
    code_rank INTEGER NOT NULL,
    attempts INTEGER NOT NULL,  -- the number of the last failed one
    first_s INTEGER NOT NULL,  -- the first and the last failure, in seconds since 1970; 0: none
    last_s INTEGER NOT NULL,
    success_s INTEGER NOT NULL,
    discarded INTEGER NOT NULL,
    PRIMARY KEY (slot, key)
) STRICT, WITHOUT ROWID

CREATE INDEX messages_pending ON messages (last_s) WHERE state = 1

CREATE TABLE names (  -- of destinations, sources and subscriptions, a row for each change
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL CHECK (kind IN ('destination', 'source', 'subscription')),
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    slug TEXT NOT NULL,
    enabled INTEGER NOT NULL,
    source TEXT NOT NULL,  -- of a destination: the id of its source; of a subscription: its destination
    metadata_name TEXT NOT NULL,  -- the product, such as Mixpanel (Actions)
    metadata_slug TEXT NOT NULL,
    read_ns INTEGER NOT NULL
) STRICT

CREATE INDEX names_by_id ON names (kind, id, number)

CREATE TABLE "objects" (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- also the name of its spool file: never used again
    collection TEXT NOT NULL,
    hour INTEGER NOT NULL CHECK (hour BETWEEN 0 AND 70000000),
    path TEXT NOT NULL,  -- of its URL, without the query
    etag TEXT,
    last_modified TEXT,
    length INTEGER,
    state TEXT NOT NULL CHECK (state IN ('listed', 'missing', 'spooled', 'done')),
    -- missing: it could not be downloaded, and its URL works no more: the hour is listed again for its sake
    url TEXT,  -- with its signature: only until the download, and for two hours at most
    listed_ns INTEGER NOT NULL,  -- the last listing that showed it
    spooled_ns INTEGER CHECK (state != 'spooled' OR spooled_ns IS NOT NULL),  -- the "now" of its records
    sha256 TEXT,  -- of its bytes, fixed at the download; NULL: downloaded before version 3
    survey TEXT,  -- what decides its number of records (form, limits), as JSON; NULL like sha256
    damaged INTEGER NOT NULL DEFAULT 0,  -- its spool file was missing or changed: it was given up
    tries INTEGER NOT NULL DEFAULT 0 CHECK (tries >= 0),  -- of its present URL
    urls_failed INTEGER NOT NULL DEFAULT 0 CHECK (urls_failed >= 0),  -- before the present one, in a row
    failed_ns INTEGER,  -- its last try that failed
    failed_since_ns INTEGER,  -- the first one
    failed_why TEXT NOT NULL DEFAULT '',
    due_ns INTEGER NOT NULL DEFAULT 0,  -- listed: the next try; missing: the next listing of its hour
    position INTEGER NOT NULL DEFAULT 0 CHECK (position BETWEEN 0 AND records),  -- results recorded
    lines INTEGER NOT NULL DEFAULT 0,
    blank INTEGER NOT NULL DEFAULT 0,
    records INTEGER NOT NULL DEFAULT 0,
    exported INTEGER NOT NULL DEFAULT 0,
    rejected INTEGER NOT NULL DEFAULT 0,
    quarantined INTEGER NOT NULL DEFAULT 0,
    duplicate INTEGER NOT NULL DEFAULT 0,
    time_shifted INTEGER NOT NULL DEFAULT 0, indexes_to INTEGER, failures INTEGER NOT NULL DEFAULT 0 CHECK (failures >= 0), names_to INTEGER,
    CHECK (min(lines, blank, records, exported, rejected, quarantined, duplicate, time_shifted) >= 0),
    CHECK (position = exported + rejected + quarantined + duplicate),
    CHECK (lines = records + blank OR (lines = 0 AND blank = 0))
) STRICT

CREATE INDEX objects_by_hour ON objects (collection, hour, path)

CREATE INDEX objects_under_way ON objects (state, id) WHERE state != 'done'

CREATE TABLE "past" (  -- the sums of objects that were pruned, by hour; of hours long gone, with hour -1
    collection TEXT NOT NULL,
    hour INTEGER NOT NULL CHECK (hour BETWEEN -1 AND 70000000),
    objects INTEGER NOT NULL,
    lines INTEGER NOT NULL,
    blank INTEGER NOT NULL,
    records INTEGER NOT NULL,
    exported INTEGER NOT NULL,
    rejected INTEGER NOT NULL,
    quarantined INTEGER NOT NULL,
    duplicate INTEGER NOT NULL,
    time_shifted INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (collection, hour),
    CHECK (min(objects, lines, blank, records) >= 0),
    CHECK (min(exported, rejected, quarantined, duplicate, time_shifted) >= 0),
    CHECK (records = exported + rejected + quarantined + duplicate)
) STRICT, WITHOUT ROWID

CREATE TABLE requests (  -- the budget: debited before a request is made
    id INTEGER PRIMARY KEY,
    at_ns INTEGER NOT NULL,
    collection TEXT NOT NULL,
    hour INTEGER NOT NULL,
    why TEXT NOT NULL,
    outcome TEXT  -- NULL: not answered yet, or never
) STRICT

CREATE INDEX requests_by_time ON requests (at_ns)

CREATE TABLE said (  -- what Segment said last about the quota: one row
    id INTEGER PRIMARY KEY CHECK (id = 1),
    at_ns INTEGER NOT NULL,
    remaining INTEGER,
    reset_ns INTEGER,
    not_before_ns INTEGER NOT NULL
, quota INTEGER, window_ns INTEGER, refusal INTEGER NOT NULL DEFAULT 0, not_before_why TEXT NOT NULL DEFAULT '', pause_ns INTEGER NOT NULL DEFAULT 0, pause_why TEXT NOT NULL DEFAULT '') STRICT

CREATE TABLE sqlite_sequence(name,seq)

CREATE TABLE unanswered_attempts (  -- failed ones: the exchange, which is read later, may say their group
    exchange INTEGER NOT NULL,  -- the first 8 bytes of the hash of its id
    slot INTEGER NOT NULL,  -- the message
    key INTEGER NOT NULL,
    second INTEGER NOT NULL,  -- of the attempt
    PRIMARY KEY (exchange, slot, key, second)
) STRICT, WITHOUT ROWID
