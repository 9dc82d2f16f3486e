-- What the node was at its last start. When one of these is another at the next start, the hash table is rebuilt.
CREATE TABLE node (
    id                INTEGER PRIMARY KEY CHECK (id = 1),
    servertype        TEXT NOT NULL,
    receiverstoreplan TEXT NOT NULL,
    since             INTEGER NOT NULL,             -- milliseconds since the epoch
    seen_at           INTEGER NOT NULL DEFAULT 0    -- the last time that the service believed, likewise
) STRICT;
