-- Files are hashed on request, too: then no line said what they are.
ALTER TABLE library_queue RENAME TO library_queue_before;
-- Files that an edit of the table or a scan of the library asks for, until they are hashed here.
CREATE TABLE library_queue (
    path         TEXT PRIMARY KEY,                   -- absolute
    listed       BLOB CHECK (length(listed) = 20),   -- what a line says; compared, never believed. NULL: there was no line
    size         INTEGER                             -- as the scan saw it; NULL: a line does not tell
) STRICT, WITHOUT ROWID;
INSERT INTO library_queue (path, listed) SELECT path, listed FROM library_queue_before;
DROP TABLE library_queue_before;
