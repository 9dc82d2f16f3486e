-- The library is watched: files wait until they have settled, hashing goes on where it was interrupted, and what watches
-- and what is hashed can be seen.

ALTER TABLE library_queue RENAME TO library_queue_before;
-- Files that are to be hashed here: they are new or have changed, or somebody asks for it.
CREATE TABLE library_queue (
    path         TEXT PRIMARY KEY,                   -- absolute
    listed       BLOB CHECK (length(listed) = 20),   -- what a line of hashtable.txt says; compared, never believed
    size         INTEGER,                            -- as it was seen; NULL: a line does not tell
    mtime_ns     INTEGER,
    inode        INTEGER,
    ctime_ns     INTEGER,
    anew         INTEGER NOT NULL DEFAULT 0 CHECK (anew IN (0, 1)),  -- hash it even if its row still fits
    due_at       INTEGER NOT NULL DEFAULT 0,         -- not before: it has to be quiet first
    waits        TEXT NOT NULL DEFAULT '' CHECK (waits IN ('', 'written', 'quiet')),  -- open for writing; nobody can tell
    digest       BLOB,                               -- state of the interrupted SHA-1 ...
    digest_at    INTEGER NOT NULL DEFAULT 0          -- ... over the first digest_at bytes of the file as it was seen
) STRICT, WITHOUT ROWID;
INSERT INTO library_queue (path, listed, size) SELECT path, listed, size FROM library_queue_before;
DROP TABLE library_queue_before;
CREATE INDEX library_queue_by_due ON library_queue (due_at);

-- Time of the last change of anything about the file, and of its making; 0: not known yet. The first betrays a file that
-- was written and given its old time back, the second tells a renamed file from another one that got its inode.
ALTER TABLE library_files ADD COLUMN ctime_ns INTEGER NOT NULL DEFAULT 0;
ALTER TABLE library_files ADD COLUMN born_ns INTEGER NOT NULL DEFAULT 0;

-- A file that was renamed is found by its inode.
CREATE INDEX library_files_by_inode ON library_files (inode);

-- What watches which part of the library; one row per mounted file system below it.
CREATE TABLE library_watches (
    root         TEXT PRIMARY KEY,                   -- absolute
    filesystem   TEXT NOT NULL,
    method       TEXT NOT NULL CHECK (method IN ('fanotify', 'inotify', 'polling', 'off')),
    why          TEXT NOT NULL DEFAULT '',           -- why no better one
    since        INTEGER NOT NULL,
    changes      INTEGER NOT NULL DEFAULT 0,         -- since then
    overflows    INTEGER NOT NULL DEFAULT 0,         -- changes were lost; each is repaired by a scan
    scanned_at   INTEGER                             -- last scan of the whole
) STRICT, WITHOUT ROWID;

-- What the hashing of the library does now; one row.
CREATE TABLE library_work (
    id           INTEGER PRIMARY KEY CHECK (id = 1),
    state        TEXT NOT NULL CHECK (state IN ('idle', 'hashing', 'giving way')),
    file         TEXT NOT NULL DEFAULT '',           -- one of those that are read
    files_left   INTEGER NOT NULL DEFAULT 0,
    bytes_left   INTEGER NOT NULL DEFAULT 0,
    rate         INTEGER NOT NULL DEFAULT 0,         -- bytes per second
    at           INTEGER NOT NULL
) STRICT;

-- What watches which part of the library.
CREATE VIEW v_watches AS
SELECT root, filesystem, method, why, datetime(since / 1000, 'unixepoch', 'localtime') AS since, changes, overflows,
       datetime(scanned_at / 1000, 'unixepoch', 'localtime') AS scanned_at
FROM library_watches;

-- What the hashing of the library does now.
CREATE VIEW v_hashing AS
SELECT state, file, files_left, bytes_left, rate,
       CASE WHEN files_left = 0 THEN 0 WHEN rate > 0 THEN bytes_left / rate / 60 + 1 ELSE -1 END AS eta_minutes,
       datetime(at / 1000, 'unixepoch', 'localtime') AS at
FROM library_work;

-- Files that wait to be hashed.
CREATE VIEW v_hash_queue AS
SELECT path, size, digest_at AS bytes_done,
       CASE waits WHEN 'written' THEN 'being written' WHEN 'quiet' THEN 'perhaps being written'
            ELSE CASE WHEN due_at > unixepoch('subsec') * 1000 THEN 'settling' ELSE 'waiting' END END AS state,
       datetime(due_at / 1000, 'unixepoch', 'localtime') AS due_at
FROM library_queue;
