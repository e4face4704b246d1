
CREATE TABLE requests (  -- the budget: debited before a request is made
    id INTEGER PRIMARY KEY,
    at_ns INTEGER NOT NULL,
    collection TEXT NOT NULL,
    hour INTEGER NOT NULL,
    why TEXT NOT NULL,
    outcome TEXT  -- NULL: not answered yet, or never
) STRICT;

CREATE INDEX requests_by_time ON requests (at_ns);

CREATE TABLE said (  -- what Segment said last about the quota: one row
    id INTEGER PRIMARY KEY CHECK (id = 1),
    at_ns INTEGER NOT NULL,
    remaining INTEGER,
    reset_ns INTEGER,
    not_before_ns INTEGER NOT NULL
) STRICT;

CREATE TABLE facts (  -- what is known of Segment besides, and since when hours are wanted
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE hours (
    collection TEXT NOT NULL,
    hour INTEGER NOT NULL,
    listing_ns INTEGER,  -- the listing whose objects are being downloaded
    closing INTEGER NOT NULL DEFAULT 0,  -- whether that listing is the last call
    first_listed_ns INTEGER,
    last_listed_ns INTEGER,  -- the last listing of which every object was downloaded
    listings INTEGER NOT NULL DEFAULT 0,
    identity TEXT,  -- of all objects that it showed
    same_since_ns INTEGER,
    failures INTEGER NOT NULL DEFAULT 0,  -- in a row
    failed_ns INTEGER NOT NULL DEFAULT 0,
    failed_why TEXT NOT NULL DEFAULT '',
    closed INTEGER NOT NULL DEFAULT 0,
    wanted INTEGER NOT NULL DEFAULT 0,  -- a person asked to read it again
    PRIMARY KEY (collection, hour)
) STRICT, WITHOUT ROWID;

CREATE TABLE objects (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- also the name of its spool file: never used again
    collection TEXT NOT NULL,
    hour INTEGER NOT NULL,
    path TEXT NOT NULL,  -- of its URL, without the query
    etag TEXT,
    last_modified TEXT,
    length INTEGER,
    state TEXT NOT NULL CHECK (state IN ('listed', 'spooled', 'done')),
    url TEXT,  -- with its signature: only until the download, and for two hours at most
    listed_ns INTEGER NOT NULL,  -- the last listing that showed it
    spooled_ns INTEGER,  -- the "now" of its records
    tries INTEGER NOT NULL DEFAULT 0,
    position INTEGER NOT NULL DEFAULT 0,  -- so many of its records are written down
    lines INTEGER NOT NULL DEFAULT 0,
    blank INTEGER NOT NULL DEFAULT 0,
    records INTEGER NOT NULL DEFAULT 0,
    exported INTEGER NOT NULL DEFAULT 0,
    rejected INTEGER NOT NULL DEFAULT 0,
    quarantined INTEGER NOT NULL DEFAULT 0,
    duplicate INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX objects_by_hour ON objects (collection, hour, path);

CREATE INDEX objects_under_way ON objects (state, id) WHERE state != 'done';

CREATE TABLE kept (  -- the quarantine
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    object INTEGER NOT NULL,
    collection TEXT NOT NULL,
    hour INTEGER NOT NULL,
    reason TEXT NOT NULL,
    kept_ns INTEGER NOT NULL,
    entry BLOB NOT NULL
) STRICT;

CREATE TABLE past (  -- the sums of objects that were pruned, by hour; of hours long gone, with hour -1
    collection TEXT NOT NULL,
    hour INTEGER NOT NULL,
    objects INTEGER NOT NULL,
    lines INTEGER NOT NULL,
    blank INTEGER NOT NULL,
    records INTEGER NOT NULL,
    exported INTEGER NOT NULL,
    rejected INTEGER NOT NULL,
    quarantined INTEGER NOT NULL,
    duplicate INTEGER NOT NULL,
    PRIMARY KEY (collection, hour)
) STRICT, WITHOUT ROWID
