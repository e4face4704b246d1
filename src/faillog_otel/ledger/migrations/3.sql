
-- requests in one window, as the server says
ALTER TABLE said ADD COLUMN quota INTEGER;

-- how long a window is; NULL: not known, a day
ALTER TABLE said ADD COLUMN window_ns INTEGER;

-- whether the body of a 429 said it
ALTER TABLE said ADD COLUMN refusal INTEGER NOT NULL DEFAULT 0;

ALTER TABLE said ADD COLUMN not_before_why TEXT NOT NULL DEFAULT '';

-- until when the run itself pauses, after failures: the next one does not
ALTER TABLE said ADD COLUMN pause_ns INTEGER NOT NULL DEFAULT 0;

ALTER TABLE said ADD COLUMN pause_why TEXT NOT NULL DEFAULT '';

CREATE TABLE hours_3 (
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
) STRICT, WITHOUT ROWID;

INSERT INTO hours_3 SELECT collection, hour, listing_ns, 0, first_listed_ns, last_listed_ns, listings,
    identity, same_since_ns, failures, failed_ns, failed_why, wanted, 0 FROM hours;

DROP TABLE hours;

ALTER TABLE hours_3 RENAME TO hours;

CREATE TABLE objects_3 (
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
    time_shifted INTEGER NOT NULL DEFAULT 0,
    CHECK (min(lines, blank, records, exported, rejected, quarantined, duplicate, time_shifted) >= 0),
    CHECK (position = exported + rejected + quarantined + duplicate),
    CHECK (lines = records + blank OR (lines = 0 AND blank = 0))
) STRICT;

INSERT INTO objects_3 (id, collection, hour, path, etag, last_modified, length, state, url, listed_ns,
    spooled_ns, tries, position, lines, blank, records, exported, rejected, quarantined, duplicate,
    time_shifted)
SELECT id, collection, hour, path, etag, last_modified, length, state, url, listed_ns, spooled_ns, tries,
    position, CASE WHEN lines > 0 THEN max(records, position) + blank ELSE 0 END,
    CASE WHEN lines > 0 THEN blank ELSE 0 END, max(records, position), exported, rejected, quarantined,
    duplicate, time_shifted
FROM objects;

DELETE FROM sqlite_sequence WHERE name = 'objects_3';

INSERT INTO sqlite_sequence SELECT 'objects_3', seq FROM sqlite_sequence WHERE name = 'objects';

DROP TABLE objects;

ALTER TABLE objects_3 RENAME TO objects;

CREATE INDEX objects_by_hour ON objects (collection, hour, path);

CREATE INDEX objects_under_way ON objects (state, id) WHERE state != 'done';

CREATE TABLE past_3 (  -- the sums of objects that were pruned, by hour; of hours long gone, with hour -1
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
) STRICT, WITHOUT ROWID;

INSERT INTO past_3 SELECT collection, hour, objects,
    max(0, min(lines, max(blank, 0) + exported + rejected + quarantined + duplicate)), max(blank, 0),
    exported + rejected + quarantined + duplicate, exported, rejected, quarantined, duplicate, time_shifted
FROM past;

DROP TABLE past;

ALTER TABLE past_3 RENAME TO past
