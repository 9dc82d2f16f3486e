-- Which transfer area the rows speak of: the mark that is written into it (transfer/.disk). One without it, or with another
-- one, is an empty mount point or another disk: nothing that is recorded is forgotten for what is missing there.
CREATE TABLE area (
    id   INTEGER PRIMARY KEY CHECK (id = 1),
    mark TEXT NOT NULL
) STRICT;
