-- The truth of a node. Times are milliseconds since the epoch (UTC), sizes and positions are bytes, digests are raw
-- SHA-1 (20 bytes). Operators read the v_* views (0002_views.sql), which show local time and lower-case hex.

-- One row per send or recv of a package: role + task file name is the key.
CREATE TABLE tasks (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: staging directories carry it
    role         TEXT NOT NULL CHECK (role IN ('sender', 'receiver')),
    name         TEXT NOT NULL,                      -- the task file's own name
    package      TEXT NOT NULL,
    basesubdir   TEXT NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('queues', 'uploading', 'uploaded', 'failed',
                                                'downloading', 'downloaderror', 'downloaded', 'history')),
    reason       TEXT NOT NULL DEFAULT '',           -- why it is where it is, in words
    policy       TEXT NOT NULL CHECK (policy IN ('fulltime', 'priortime')),
    ratio        TEXT NOT NULL,
    bytes_total  INTEGER NOT NULL CHECK (bytes_total >= 0),
    bytes_local  INTEGER NOT NULL DEFAULT 0 CHECK (bytes_local >= 0),  -- found in the library
    store_path   TEXT NOT NULL DEFAULT '',           -- where the package lies (sender) or will lie (receiver)
    stage_inode  INTEGER,                            -- staging directory, noted before it is renamed into the store
    seed_until   INTEGER,                            -- end of the seed time, once it runs
    created_at   INTEGER NOT NULL,
    started_at   INTEGER,
    finished_at  INTEGER,
    revision     INTEGER NOT NULL DEFAULT 1,         -- counts changes that the exported view must follow
    exported     INTEGER NOT NULL DEFAULT 0,         -- the revision that the task directories show
    -- Large, so last: a row's other columns are read without them.
    document     TEXT NOT NULL CHECK (json_valid(document)),           -- the task file; holds keys: never in a view
    torrent      BLOB,                               -- the torrent that this task fetches or seeds
    UNIQUE (role, name)
) STRICT;
CREATE INDEX tasks_by_state ON tasks (state, id);
CREATE INDEX tasks_unexported ON tasks (id) WHERE exported < revision;

-- The task's files, in the order of its file list, with what is safely on disk.
CREATE TABLE task_files (
    task_id      INTEGER NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    idx          INTEGER NOT NULL,
    path         TEXT NOT NULL,
    size         INTEGER NOT NULL CHECK (size >= 0),
    sha1         BLOB NOT NULL CHECK (length(sha1) = 20),
    state        TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'partial', 'verified')),
    have         TEXT NOT NULL DEFAULT '',           -- synced ranges, '0-1048576,2097152-3145728'
    bytes_done   INTEGER NOT NULL DEFAULT 0,
    digest       BLOB,                               -- state of the running SHA-1 ...
    digest_at    INTEGER NOT NULL DEFAULT 0,         -- ... over the first digest_at bytes, all of them synced
    local_source TEXT,                               -- a library file with the same SHA-1 and size
    PRIMARY KEY (task_id, idx)
) STRICT, WITHOUT ROWID;
CREATE INDEX task_files_by_sha1 ON task_files (sha1);

-- One task over one method.
CREATE TABLE legs (
    task_id      INTEGER NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    method       TEXT NOT NULL CHECK (method IN ('bt', 'obs', 'cdn')),
    state        TEXT NOT NULL CHECK (state IN ('waiting', 'running', 'done', 'failed', 'off')),
    ready        INTEGER NOT NULL DEFAULT 0 CHECK (ready IN (0, 1)),    -- usable by others (sender)
    bytes_total  INTEGER NOT NULL DEFAULT 0,
    bytes_done   INTEGER NOT NULL DEFAULT 0,
    bytes_wire   INTEGER NOT NULL DEFAULT 0,         -- what really crossed the network, repeats included
    bytes_sent   INTEGER NOT NULL DEFAULT 0,         -- sent to peers
    rate         INTEGER NOT NULL DEFAULT 0,         -- bytes per second now
    peers        INTEGER NOT NULL DEFAULT 0,
    tries        INTEGER NOT NULL DEFAULT 0,
    retry_at     INTEGER,
    error        TEXT NOT NULL DEFAULT '',
    active_ms    INTEGER NOT NULL DEFAULT 0,         -- time spent running
    PRIMARY KEY (task_id, method)
) STRICT, WITHOUT ROWID;

-- Which method moves which bytes of a task.
CREATE TABLE spans (
    task_id      INTEGER NOT NULL,
    idx          INTEGER NOT NULL,                   -- the file
    offset       INTEGER NOT NULL CHECK (offset >= 0),
    len          INTEGER NOT NULL CHECK (len >= 0),
    method       TEXT NOT NULL CHECK (method IN ('bt', 'obs', 'cdn', 'local')),
    planned      TEXT NOT NULL CHECK (planned IN ('bt', 'obs', 'cdn')),  -- what the sender allocated
    PRIMARY KEY (task_id, idx, offset),
    FOREIGN KEY (task_id, idx) REFERENCES task_files (task_id, idx) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- A method that brought wrong bytes of a file, or does not have it, is not asked for it again.
CREATE TABLE refusals (
    task_id      INTEGER NOT NULL,
    idx          INTEGER NOT NULL,
    method       TEXT NOT NULL CHECK (method IN ('bt', 'obs', 'cdn', 'local')),
    error        TEXT NOT NULL,
    at           INTEGER NOT NULL,
    PRIMARY KEY (task_id, idx, method),
    FOREIGN KEY (task_id, idx) REFERENCES task_files (task_id, idx) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- Off-peak windows per task and method ('08:00-18:00', several comma-separated); no row = no limit.
CREATE TABLE schedules (
    task_id      INTEGER NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    method       TEXT NOT NULL CHECK (method IN ('bt', 'obs', 'cdn')),
    windows      TEXT NOT NULL,
    open_now     INTEGER NOT NULL DEFAULT 1 CHECK (open_now IN (0, 1)),  -- kept by the conductor, with the next changes
    opens_at     INTEGER,
    closes_at    INTEGER,
    PRIMARY KEY (task_id, method)
) STRICT, WITHOUT ROWID;

-- Small durable notes of a leg: upload ids, entity tags.
CREATE TABLE checkpoints (
    task_id      INTEGER NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    method       TEXT NOT NULL CHECK (method IN ('bt', 'obs', 'cdn')),
    key          TEXT NOT NULL,
    value        TEXT NOT NULL,
    PRIMARY KEY (task_id, method, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE progress_samples (
    task_id      INTEGER NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    method       TEXT NOT NULL CHECK (method IN ('bt', 'obs', 'cdn')),
    at           INTEGER NOT NULL,
    bytes_done   INTEGER NOT NULL,
    rate         INTEGER NOT NULL,
    peers        INTEGER NOT NULL,
    PRIMARY KEY (task_id, method, at)
) STRICT, WITHOUT ROWID;
CREATE INDEX progress_samples_by_age ON progress_samples (at);

-- Every file of the library with the SHA-1 that was computed here.
CREATE TABLE library_files (
    id           INTEGER PRIMARY KEY,
    path         TEXT NOT NULL UNIQUE,               -- absolute
    size         INTEGER NOT NULL,
    mtime_ns     INTEGER NOT NULL,
    inode        INTEGER NOT NULL,
    sha1         BLOB NOT NULL CHECK (length(sha1) = 20),
    hashed_at    INTEGER NOT NULL,
    package      TEXT NOT NULL DEFAULT ''            -- directory of the package it belongs to
) STRICT;
CREATE INDEX library_files_by_sha1 ON library_files (sha1, size);
CREATE INDEX library_files_by_package ON library_files (package);

CREATE TABLE packages (
    path         TEXT PRIMARY KEY,                   -- absolute
    name         TEXT NOT NULL,
    verdict      TEXT NOT NULL,                      -- complete, missing FILE, hash differs FILE, ...
    title        TEXT NOT NULL DEFAULT '',
    files        INTEGER NOT NULL,
    bytes        INTEGER NOT NULL,
    checked_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Piece hashes of a package's full torrent, so that a new allocation needs no second read of the bytes.
CREATE TABLE torrents (
    path         TEXT PRIMARY KEY,                   -- the package's directory
    files        TEXT NOT NULL CHECK (json_valid(files)),  -- [{path,size,mtime_ns,inode,sha1}], torrent order
    piece_length INTEGER NOT NULL,
    pieces       BLOB NOT NULL CHECK (length(pieces) % 20 = 0),
    created_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- gentask jobs.
CREATE TABLE generations (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: a late result must not meet another job
    dcppath      TEXT NOT NULL,
    taskfile     TEXT NOT NULL UNIQUE,
    request      TEXT NOT NULL CHECK (json_valid(request)),   -- may hold keys: never in a view
    state        TEXT NOT NULL CHECK (state IN ('queued', 'running', 'finished', 'failed', 'cancelled')),
    bytes_total  INTEGER NOT NULL DEFAULT 0,
    bytes_done   INTEGER NOT NULL DEFAULT 0,
    error        TEXT NOT NULL DEFAULT '',
    created_at   INTEGER NOT NULL,
    finished_at  INTEGER
) STRICT;

-- Who did what, and what happened; append-only.
CREATE TABLE events (
    id           INTEGER PRIMARY KEY,
    at           INTEGER NOT NULL,
    level        TEXT NOT NULL CHECK (level IN ('info', 'warn', 'error')),
    kind         TEXT NOT NULL,
    task         TEXT NOT NULL DEFAULT '',
    actor        TEXT NOT NULL DEFAULT '',
    text         TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_task ON events (task, id);
CREATE INDEX events_by_age ON events (at);
