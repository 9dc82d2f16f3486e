-- hashtable.txt shows library_files and may be edited by hand.

-- Ids of library rows are never used twice from now on. An export shows the rows up to an id; a row that came later has
-- a higher one, and is never taken for a row whose line was deleted.
DROP VIEW v_library;
DROP VIEW v_duplicates;
ALTER TABLE library_files RENAME TO library_files_before;
-- Every file of the library with the SHA-1 that was computed here.
CREATE TABLE library_files (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: an export of the table is valid up to an id
    path         TEXT NOT NULL UNIQUE,               -- absolute
    size         INTEGER NOT NULL,
    mtime_ns     INTEGER NOT NULL,
    inode        INTEGER NOT NULL,
    sha1         BLOB NOT NULL CHECK (length(sha1) = 20),
    hashed_at    INTEGER NOT NULL,
    package      TEXT NOT NULL DEFAULT ''            -- directory of the package it belongs to
) STRICT;
INSERT INTO library_files (id, path, size, mtime_ns, inode, sha1, hashed_at, package)
SELECT id, path, size, mtime_ns, inode, sha1, hashed_at, package FROM library_files_before ORDER BY id;
DROP TABLE library_files_before;
CREATE INDEX library_files_by_sha1 ON library_files (sha1, size);
CREATE INDEX library_files_by_package ON library_files (package);

-- The library: every file with its digest.
CREATE VIEW v_library AS
SELECT path, size, lower(hex(sha1)) AS sha1, 'ok' AS state,
       datetime(hashed_at / 1000, 'unixepoch', 'localtime') AS hashed_at, package
FROM library_files;

-- Files that lie in the library more than once.
CREATE VIEW v_duplicates AS
SELECT lower(hex(sha1)) AS sha1, count(*) AS copies, (count(*) - 1) * size AS bytes_wasted
FROM library_files GROUP BY sha1, size HAVING count(*) > 1;

-- Exported tables as they were left: a file that looks otherwise was edited.
CREATE TABLE table_exports (
    path         TEXT PRIMARY KEY,                   -- of the exported file
    size         INTEGER NOT NULL,
    mtime_ns     INTEGER NOT NULL,
    inode        INTEGER NOT NULL,
    newest       INTEGER NOT NULL                    -- it shows library_files up to this id
) STRICT, WITHOUT ROWID;

-- Files that an edit of the table asks for, until they are hashed here.
CREATE TABLE library_queue (
    path         TEXT PRIMARY KEY,                   -- absolute
    listed       BLOB NOT NULL CHECK (length(listed) = 20)  -- what the line says; compared, never believed
) STRICT, WITHOUT ROWID;
