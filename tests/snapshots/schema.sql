CREATE VIEW v_compositions AS
SELECT p.name AS package, c.package AS path, c.id AS composition, c.title, c.kind, c.reels,
       iif(c.rate_units = 0, '', c.rate_units || '/' || c.rate_seconds) AS edit_rate, c.duration,
       round(1.0 * c.duration * c.rate_seconds / nullif(c.rate_units, 0), 1) AS seconds
FROM compositions c JOIN packages p ON p.path = c.package;
CREATE VIEW v_duplicates AS
SELECT lower(hex(sha1)) AS sha1, count(*) AS copies, (count(*) - 1) * size AS bytes_wasted
FROM library_files GROUP BY sha1, size HAVING count(*) > 1;
CREATE VIEW v_events AS
-- What happened.
SELECT datetime(at / 1000, 'unixepoch', 'localtime') AS at,
       level,                          -- info, warn, error
       kind, task,
       actor,                          -- api: a client asked. conductor: the service did it
       text
FROM events;
CREATE VIEW v_files AS
-- Each file of each task.
SELECT t.name AS task, t.role, f.path, f.size,
       lower(hex(f.sha1)) AS sha1,     -- what the task promises
       -- Who brings it: bt, obs, cdn, local (the library); 'bt,cdn' when it is split.
       (SELECT group_concat(DISTINCT s.method) FROM spans s WHERE s.task_id = f.task_id AND s.idx = f.idx) AS method,
       f.state,                        -- receivers: waiting, partial, verified (hashed here and right)
       f.bytes_done                    -- receivers: on disk, synced
FROM task_files f JOIN tasks t ON t.id = f.task_id;
CREATE VIEW v_generations AS
-- gentask jobs.
SELECT dcppath, taskfile, state,
       send,                           -- of sends: wanted, sent, refused (then error says why); else empty
       bytes_total, bytes_done,        -- to hash, hashed
       error,
       datetime(created_at / 1000, 'unixepoch', 'localtime') AS created_at,
       datetime(finished_at / 1000, 'unixepoch', 'localtime') AS finished_at
FROM generations;
CREATE VIEW v_hash_queue AS
SELECT path, size, digest_at AS bytes_done,
       CASE waits WHEN 'written' THEN 'being written' WHEN 'quiet' THEN 'perhaps being written'
            ELSE CASE WHEN due_at > unixepoch('subsec') * 1000 THEN 'settling' ELSE 'waiting' END END AS state,
       datetime(due_at / 1000, 'unixepoch', 'localtime') AS due_at
FROM library_queue;
CREATE VIEW v_hashing AS
SELECT state, file, files_left, bytes_left, rate,
       CASE WHEN files_left = 0 THEN 0 WHEN rate > 0 THEN bytes_left / rate / 60 + 1 ELSE -1 END AS eta_minutes,
       datetime(at / 1000, 'unixepoch', 'localtime') AS at
FROM library_work;
CREATE VIEW v_legs AS
-- Each task over each method: what it moved and what holds it up.
SELECT t.name AS task, t.role, l.method, l.state,
       l.ready,                        -- 1: others can fetch from it
       l.bytes_total, l.bytes_done,
       l.bytes_wire,                   -- what crossed the network for them, repeats included
       l.bytes_sent,                   -- to BitTorrent peers
       l.rate, l.peers,
       coalesce(s.windows, '') AS window,
       -- The next try, else the next opening or closing of the window.
       datetime(CASE WHEN l.retry_at IS NOT NULL THEN l.retry_at
                     WHEN s.open_now = 0 THEN s.opens_at ELSE s.closes_at END / 1000, 'unixepoch', 'localtime') AS next_change_at,
       l.tries,                        -- since the last progress
       datetime(l.retry_at / 1000, 'unixepoch', 'localtime') AS retry_at,
       l.error,                        -- of the last try
       round(l.active_ms / 1000.0, 1) AS active_seconds
FROM legs l JOIN tasks t ON t.id = l.task_id
LEFT JOIN schedules s ON s.task_id = l.task_id AND s.method = l.method;
CREATE VIEW v_library AS
SELECT path, size, lower(hex(sha1)) AS sha1, 'ok' AS state,
       datetime(hashed_at / 1000, 'unixepoch', 'localtime') AS hashed_at, package
FROM library_files
UNION ALL
SELECT path, size, lower(hex(sha1)), 'claimed', NULL, package FROM library_claims WHERE settled = 0;
CREATE VIEW v_packages AS
SELECT p.name AS package, p.path,
       CASE WHEN p.verdict = 'complete' THEN coalesce(
            (SELECT 'version file, needs OV: ' || min(n.title) || ' plays ' || count(*) || ' track file'
                    || iif(count(*) > 1, 's', '') || ' of another package (' || min(n.name) || iif(count(*) > 1, ', …)', ')')
             FROM package_needs n
             WHERE n.package = p.path AND NOT EXISTS (SELECT 1 FROM package_assets a WHERE a.asset = n.asset)
             HAVING count(*) > 0), p.verdict) ELSE p.verdict END AS verdict,
       p.title, p.files, p.bytes, datetime(p.checked_at / 1000, 'unixepoch', 'localtime') AS checked_at, p.standard,
       (SELECT coalesce(group_concat(path, ', '), '')
        FROM (SELECT DISTINCT a.package AS path FROM package_needs n JOIN package_assets a ON a.asset = n.asset
              WHERE n.package = p.path ORDER BY 1)) AS ov
FROM packages p;
CREATE VIEW v_progress AS
-- Progress over time: finer when it is new, see finedays, minutedays, sampledays in the configuration.
SELECT t.name AS task, t.role, p.method, datetime(p.at / 1000, 'unixepoch', 'localtime') AS at,
       p.bytes_done,                   -- in place
       p.rate,                         -- bytes per second; the average of those that were merged
       p.peers
FROM progress_samples p JOIN tasks t ON t.id = p.task_id;
CREATE VIEW v_reels AS
SELECT p.name AS package, r.package AS path, r.composition, c.title, r.idx AS reel, r.id, r.picture, r.sound, r.subtitle,
       iif(r.rate_units = 0, '', r.rate_units || '/' || r.rate_seconds) AS edit_rate, r.duration,
       round(1.0 * r.duration * r.rate_seconds / nullif(r.rate_units, 0), 1) AS seconds
FROM reels r JOIN compositions c ON c.package = r.package AND c.id = r.composition JOIN packages p ON p.path = r.package;
CREATE VIEW v_schedules AS
-- When each method of the tasks that are not over runs: its windows, and when it runs next.
SELECT t.name AS task, t.role, l.method,
       coalesce(s.windows, '') AS window,            -- 18:00-05:00; several with commas; empty: at any time
       coalesce(s.open_now, 1) AS open_now,          -- 1 also where the windows do not bind it
       datetime(s.opens_at / 1000, 'unixepoch', 'localtime') AS opens_at,        -- while it is closed
       datetime(s.closes_at / 1000, 'unixepoch', 'localtime') AS closes_at,      -- while it is open
       -- What it waits for. '': it runs. 'window', 'retry'; 'place': in the queue (uploadingnum, downloadingnum);
       -- 'turn': a place, or another task that brings the same files. 'done': it has nothing to do any more.
       CASE WHEN l.state = 'running' THEN ''
            WHEN l.state <> 'waiting' OR t.state NOT IN ('queues', 'uploading', 'downloading') THEN 'done'
            WHEN s.open_now = 0 AND coalesce(s.opens_at >= l.retry_at, 1) THEN 'window'
            WHEN l.retry_at > (julianday('now') - 2440587.5) * 86400000 THEN 'retry'
            WHEN t.state = 'queues' THEN 'place'
            ELSE 'turn' END AS waits_for,
       -- Not before this; empty: now, or when what it waits for is there.
       CASE WHEN l.state <> 'waiting' OR t.state NOT IN ('queues', 'uploading', 'downloading') THEN NULL
            WHEN s.open_now = 0 THEN datetime(max(s.opens_at, coalesce(l.retry_at, 0)) / 1000, 'unixepoch', 'localtime')
            ELSE datetime(l.retry_at / 1000, 'unixepoch', 'localtime') END AS runs_at
FROM legs l JOIN tasks t ON t.id = l.task_id
LEFT JOIN schedules s ON s.task_id = l.task_id AND s.method = l.method
WHERE t.state IN ('queues', 'uploading', 'uploaded', 'downloading', 'downloaded');
CREATE VIEW v_tasks AS
-- Every task: one send or recv of a package. Bytes; bytes per second; local time.
SELECT t.name AS task, t.role, t.package,
       t.state, t.reason,              -- why it is there: an error, 'cancelled', or empty
       t.policy, t.ratio,              -- shares of bt:obs:cdn
       coalesce(p.priority, 0) AS priority,      -- higher ones leave the queue first, of equals the oldest
       t.bytes_total,
       -- Receiver: bytes in place. Sender: bytes that its methods made available.
       CASE WHEN t.role = 'receiver'
            THEN (SELECT coalesce(sum(f.bytes_done), 0) FROM task_files f WHERE f.task_id = t.id)
            ELSE (SELECT coalesce(sum(l.bytes_done), 0) FROM legs l WHERE l.task_id = t.id) END AS bytes_done,
       -- 100 only when it is done.
       CASE WHEN t.state IN ('downloaded', 'uploaded') OR (t.state = 'history' AND t.reason = '') THEN 100.0
            WHEN t.bytes_total = 0 THEN 0.0
            ELSE round(min(99.999, 100.0 * CASE WHEN t.role = 'receiver'
                 THEN (SELECT coalesce(sum(f.bytes_done), 0) FROM task_files f WHERE f.task_id = t.id)
                 ELSE (SELECT coalesce(sum(l.bytes_done), 0) FROM legs l WHERE l.task_id = t.id) END / t.bytes_total), 3) END AS percent,
       -- Of all running methods; while seeding, what is sent to peers.
       (SELECT coalesce(sum(l.rate), 0) FROM legs l WHERE l.task_id = t.id AND l.state = 'running') AS rate,
       -- -1: unknown. 0: done. Closed windows count.
       CASE WHEN t.state IN ('downloaded', 'uploaded', 'history') THEN 0
            WHEN o.expected_at > (julianday('now') - 2440587.5) * 86400000 - 60000
                 THEN max(1, (o.expected_at - CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) + 59999) / 60000)
            WHEN (SELECT coalesce(sum(l.rate), 0) FROM legs l WHERE l.task_id = t.id AND l.state = 'running') = 0 THEN -1
            ELSE max(0, t.bytes_total - CASE WHEN t.role = 'receiver'
                 THEN (SELECT coalesce(sum(f.bytes_done), 0) FROM task_files f WHERE f.task_id = t.id)
                 ELSE (SELECT coalesce(sum(l.bytes_done), 0) FROM legs l WHERE l.task_id = t.id) END)
                 / (SELECT sum(l.rate) FROM legs l WHERE l.task_id = t.id AND l.state = 'running') / 60 + 1 END AS eta_minutes,
       -- By its windows and the rates that were measured in them; empty: unknown, or never.
       CASE WHEN t.state IN ('queues', 'uploading', 'downloading')
            THEN datetime(o.expected_at / 1000, 'unixepoch', 'localtime') END AS expected_at,
       -- Why it will not be done before its offer ends; empty: it will, or nobody knows.
       CASE WHEN t.state IN ('queues', 'uploading', 'downloading') THEN coalesce(o.risk, '') ELSE '' END AS at_risk,
       t.bytes_local,                  -- found in the library, not fetched
       datetime(t.created_at / 1000, 'unixepoch', 'localtime') AS created_at,
       datetime(t.started_at / 1000, 'unixepoch', 'localtime') AS started_at,     -- left the queue
       datetime(t.finished_at / 1000, 'unixepoch', 'localtime') AS finished_at,
       datetime(t.seed_until / 1000, 'unixepoch', 'localtime') AS seed_until
FROM tasks t LEFT JOIN outlooks o ON o.task_id = t.id LEFT JOIN priorities p ON p.task_id = t.id;
CREATE VIEW v_watches AS
SELECT root, filesystem, method, why, datetime(since / 1000, 'unixepoch', 'localtime') AS since, changes, overflows,
       datetime(scanned_at / 1000, 'unixepoch', 'localtime') AS scanned_at
FROM library_watches;
CREATE TRIGGER library_files_settle_claims AFTER INSERT ON library_files
BEGIN
    UPDATE library_claims SET settled = 1 WHERE path = NEW.path;
END;
CREATE TABLE area (
    id   INTEGER PRIMARY KEY CHECK (id = 1),
    mark TEXT NOT NULL
) STRICT;
CREATE TABLE checkpoints (
    task_id      INTEGER NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    method       TEXT NOT NULL CHECK (method IN ('bt', 'obs', 'cdn')),
    key          TEXT NOT NULL,
    value        TEXT NOT NULL,
    PRIMARY KEY (task_id, method, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE compositions (
    package      TEXT NOT NULL REFERENCES packages (path) ON DELETE CASCADE,
    id           TEXT NOT NULL,                      -- UUIDs are in lower case, without urn:uuid:
    title        TEXT NOT NULL,
    kind         TEXT NOT NULL,                      -- feature, trailer, ...
    reels        INTEGER NOT NULL,
    duration     INTEGER NOT NULL,                   -- in units of the edit rate, mostly frames
    rate_units   INTEGER NOT NULL CHECK (rate_units >= 0),   -- edit rate: so many units ...
    rate_seconds INTEGER NOT NULL CHECK (rate_seconds > 0),  -- ... in so many seconds
    PRIMARY KEY (package, id)
) STRICT, WITHOUT ROWID;
CREATE TABLE events (
    id           INTEGER PRIMARY KEY,
    at           INTEGER NOT NULL,
    level        TEXT NOT NULL CHECK (level IN ('info', 'warn', 'error')),
    kind         TEXT NOT NULL,
    task         TEXT NOT NULL DEFAULT '',
    actor        TEXT NOT NULL DEFAULT '',
    text         TEXT NOT NULL
) STRICT;
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
, send TEXT NOT NULL DEFAULT '' CHECK (send IN ('', 'wanted', 'sent', 'refused'))) STRICT;
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
    active_ms    INTEGER NOT NULL DEFAULT 0, measured INTEGER,         -- time spent running
    PRIMARY KEY (task_id, method)
) STRICT, WITHOUT ROWID;
CREATE TABLE library_claims (
    path         TEXT PRIMARY KEY,                   -- absolute
    package      TEXT NOT NULL REFERENCES packages (path) ON DELETE CASCADE,
    size         INTEGER NOT NULL,
    mtime_ns     INTEGER NOT NULL,
    inode        INTEGER NOT NULL,
    sha1         BLOB NOT NULL CHECK (length(sha1) = 20),
    -- The file was hashed here, or a copy of it was wrong: the claim counts no more while the file stays as it is.
    settled      INTEGER NOT NULL DEFAULT 0 CHECK (settled IN (0, 1))
) STRICT, WITHOUT ROWID;
CREATE TABLE library_files (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: an export of the table is valid up to an id
    path         TEXT NOT NULL UNIQUE,               -- absolute
    size         INTEGER NOT NULL,
    mtime_ns     INTEGER NOT NULL,
    inode        INTEGER NOT NULL,
    sha1         BLOB NOT NULL CHECK (length(sha1) = 20),
    hashed_at    INTEGER NOT NULL,
    package      TEXT NOT NULL DEFAULT ''            -- directory of the package it belongs to
, ctime_ns INTEGER NOT NULL DEFAULT 0, born_ns INTEGER NOT NULL DEFAULT 0) STRICT;
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
CREATE TABLE library_work (
    id           INTEGER PRIMARY KEY CHECK (id = 1),
    state        TEXT NOT NULL CHECK (state IN ('idle', 'hashing', 'giving way')),
    file         TEXT NOT NULL DEFAULT '',           -- one of those that are read
    files_left   INTEGER NOT NULL DEFAULT 0,
    bytes_left   INTEGER NOT NULL DEFAULT 0,
    rate         INTEGER NOT NULL DEFAULT 0,         -- bytes per second
    at           INTEGER NOT NULL
) STRICT;
CREATE TABLE node (
    id                INTEGER PRIMARY KEY CHECK (id = 1),
    servertype        TEXT NOT NULL,
    receiverstoreplan TEXT NOT NULL,
    since             INTEGER NOT NULL,             -- milliseconds since the epoch
    seen_at           INTEGER NOT NULL DEFAULT 0    -- the last time that the service believed, likewise
, clock_at INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE outlooks (
    task_id      INTEGER PRIMARY KEY REFERENCES tasks (id) ON DELETE CASCADE,
    expected_at  INTEGER,                            -- when it will be done; NULL: unknown, or never
    risk         TEXT NOT NULL DEFAULT ''            -- why that is too late; empty: it is not, or nobody knows
) STRICT;
CREATE TABLE package_assets (
    package      TEXT NOT NULL REFERENCES packages (path) ON DELETE CASCADE,
    asset        TEXT NOT NULL,
    path         TEXT NOT NULL,                      -- inside the package
    PRIMARY KEY (package, asset)
) STRICT, WITHOUT ROWID;
CREATE TABLE package_needs (
    package      TEXT NOT NULL REFERENCES packages (path) ON DELETE CASCADE,
    asset        TEXT NOT NULL,
    name         TEXT NOT NULL,                      -- what the composition calls it, else its identity
    title        TEXT NOT NULL,                      -- of the first composition that plays it
    PRIMARY KEY (package, asset)
) STRICT, WITHOUT ROWID;
CREATE TABLE packages (
    path         TEXT PRIMARY KEY,                   -- absolute
    name         TEXT NOT NULL,
    verdict      TEXT NOT NULL,                      -- complete, missing FILE, hash differs FILE, ...
    title        TEXT NOT NULL DEFAULT '',
    files        INTEGER NOT NULL,
    bytes        INTEGER NOT NULL,
    checked_at   INTEGER NOT NULL
, standard TEXT NOT NULL DEFAULT '', ours INTEGER NOT NULL DEFAULT 1 CHECK (ours IN (0, 1)), revision INTEGER NOT NULL DEFAULT 1, seen BLOB) STRICT, WITHOUT ROWID;
CREATE TABLE priorities (
    task_id      INTEGER PRIMARY KEY REFERENCES tasks (id) ON DELETE CASCADE,
    priority     INTEGER NOT NULL CHECK (priority BETWEEN -1000 AND 1000)
) STRICT;
CREATE TABLE progress_samples (
    task_id      INTEGER NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    method       TEXT NOT NULL CHECK (method IN ('bt', 'obs', 'cdn')),
    at           INTEGER NOT NULL,
    bytes_done   INTEGER NOT NULL,
    rate         INTEGER NOT NULL,
    peers        INTEGER NOT NULL,
    PRIMARY KEY (task_id, method, at)
) STRICT, WITHOUT ROWID;
CREATE TABLE reels (
    package      TEXT NOT NULL,
    composition  TEXT NOT NULL,
    idx          INTEGER NOT NULL,                   -- from 1
    id           TEXT,
    picture      TEXT,                               -- identity of the track file
    sound        TEXT,
    subtitle     TEXT,
    duration     INTEGER NOT NULL,
    rate_units   INTEGER NOT NULL CHECK (rate_units >= 0),
    rate_seconds INTEGER NOT NULL CHECK (rate_seconds > 0),
    PRIMARY KEY (package, composition, idx),
    FOREIGN KEY (package, composition) REFERENCES compositions (package, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE TABLE refusals (
    task_id      INTEGER NOT NULL,
    idx          INTEGER NOT NULL,
    method       TEXT NOT NULL CHECK (method IN ('bt', 'obs', 'cdn', 'local')),
    error        TEXT NOT NULL,
    at           INTEGER NOT NULL,
    PRIMARY KEY (task_id, idx, method),
    FOREIGN KEY (task_id, idx) REFERENCES task_files (task_id, idx) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE TABLE schedules (
    task_id      INTEGER NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    method       TEXT NOT NULL CHECK (method IN ('bt', 'obs', 'cdn')),
    windows      TEXT NOT NULL,
    open_now     INTEGER NOT NULL DEFAULT 1 CHECK (open_now IN (0, 1)),  -- kept by the conductor, with the next changes
    opens_at     INTEGER,
    closes_at    INTEGER,
    PRIMARY KEY (task_id, method)
) STRICT, WITHOUT ROWID;
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
CREATE TABLE table_exports (
    path         TEXT PRIMARY KEY,                   -- of the exported file
    size         INTEGER NOT NULL,
    mtime_ns     INTEGER NOT NULL,
    inode        INTEGER NOT NULL,
    newest       INTEGER NOT NULL                    -- it shows library_files up to this id
) STRICT, WITHOUT ROWID;
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
    local_source TEXT, inode INTEGER NOT NULL DEFAULT 0, mtime_ns INTEGER NOT NULL DEFAULT 0, ctime_ns INTEGER NOT NULL DEFAULT 0, doubted INTEGER NOT NULL DEFAULT 0 CHECK (doubted IN (0, 1)),                               -- a library file with the same SHA-1 and size
    PRIMARY KEY (task_id, idx)
) STRICT, WITHOUT ROWID;
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
    torrent      BLOB, stage_born INTEGER,                               -- the torrent that this task fetches or seeds
    UNIQUE (role, name)
) STRICT;
CREATE TABLE torrents (
    path         TEXT PRIMARY KEY,                   -- the package's directory
    files        TEXT NOT NULL CHECK (json_valid(files)),  -- [{path,size,mtime_ns,inode,sha1}], torrent order
    piece_length INTEGER NOT NULL,
    pieces       BLOB NOT NULL CHECK (length(pieces) % 20 = 0),
    created_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE turns (
    task_id      INTEGER PRIMARY KEY REFERENCES tasks (id) ON DELETE CASCADE,
    since        INTEGER NOT NULL                    -- when it was accepted first
) STRICT;
CREATE INDEX events_by_age ON events (at);
CREATE INDEX events_by_task ON events (task, id);
CREATE INDEX generations_to_send ON generations (id) WHERE send = 'wanted';
CREATE INDEX library_claims_by_package ON library_claims (package);
CREATE INDEX library_claims_by_sha1 ON library_claims (sha1, size) WHERE settled = 0;
CREATE INDEX library_files_by_inode ON library_files (inode);
CREATE INDEX library_files_by_package ON library_files (package);
CREATE INDEX library_files_by_sha1 ON library_files (sha1, size);
CREATE INDEX library_queue_by_due ON library_queue (due_at);
CREATE INDEX package_assets_by_asset ON package_assets (asset);
CREATE INDEX progress_samples_by_age ON progress_samples (at);
CREATE INDEX task_files_by_sha1 ON task_files (sha1);
CREATE INDEX tasks_by_state ON tasks (state, id);
CREATE INDEX tasks_unexported ON tasks (id) WHERE exported < revision;
