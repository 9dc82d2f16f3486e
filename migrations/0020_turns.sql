-- Who goes on where he was.

-- Tasks that were at work when they were accepted again: downloads, and seeds. Beside `tasks`, whose rows end with large
-- columns.
CREATE TABLE turns (
    task_id      INTEGER PRIMARY KEY REFERENCES tasks (id) ON DELETE CASCADE,
    since        INTEGER NOT NULL                    -- when it was accepted first
) STRICT;
