
-- exchange indexes up to this number count for its records; NULL: not decided yet
ALTER TABLE objects ADD COLUMN indexes_to INTEGER;

CREATE TABLE exchange_indexes (  -- one for each object with exchanges or attempts, also after it is done
    number INTEGER PRIMARY KEY AUTOINCREMENT,  -- in the order in which they were written
    object INTEGER NOT NULL UNIQUE,  -- the name of its file is that of the object with `.exchanges`
    collection TEXT NOT NULL,
    hour INTEGER NOT NULL CHECK (hour BETWEEN 0 AND 70000000),
    path TEXT NOT NULL,  -- of the object: a later version of it replaces this index
    bytes INTEGER NOT NULL CHECK (bytes > 0),
    sha256 TEXT NOT NULL,
    written_ns INTEGER NOT NULL
) STRICT;

CREATE INDEX exchange_indexes_by_collection ON exchange_indexes (collection, number)
