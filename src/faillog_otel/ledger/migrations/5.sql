
-- failing records of it that are counted in failure_counts
ALTER TABLE objects ADD COLUMN failures INTEGER NOT NULL DEFAULT 0 CHECK (failures >= 0);

-- names up to this number count for its records; NULL: none
ALTER TABLE objects ADD COLUMN names_to INTEGER;

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
) STRICT;

CREATE INDEX failure_groups_by_day ON failure_groups (destination, day);

CREATE TABLE failure_counts (  -- of one object, by group and hour of occurrence
    object INTEGER NOT NULL,
    grp INTEGER NOT NULL,
    hour INTEGER NOT NULL,
    records INTEGER NOT NULL CHECK (records > 0),
    attempts INTEGER NOT NULL CHECK (attempts >= 0),
    requests INTEGER NOT NULL CHECK (requests >= 0),
    discarded INTEGER NOT NULL CHECK (discarded >= 0),
    PRIMARY KEY (object, grp, hour)
) STRICT, WITHOUT ROWID;

CREATE TABLE message_notes (  -- what T3 stored about messages and is not merged into `messages` yet
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    number INTEGER NOT NULL,
    notes BLOB NOT NULL
) STRICT;

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
) STRICT, WITHOUT ROWID;

CREATE INDEX messages_pending ON messages (last_s) WHERE state = 1;

CREATE TABLE unanswered_attempts (  -- failed ones: the exchange, which is read later, may say their group
    exchange INTEGER NOT NULL,  -- the first 8 bytes of the hash of its id
    slot INTEGER NOT NULL,  -- the message
    key INTEGER NOT NULL,
    second INTEGER NOT NULL,  -- of the attempt
    PRIMARY KEY (exchange, slot, key, second)
) STRICT, WITHOUT ROWID;

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
) STRICT, WITHOUT ROWID;

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
) STRICT;

CREATE INDEX names_by_id ON names (kind, id, number)
