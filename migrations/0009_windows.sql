-- Off-peak windows: what was measured, what is to be expected of it, and when each method runs next.

-- Bytes per second over the last minute or so in which the leg ran; NULL: not known yet.
ALTER TABLE legs ADD COLUMN measured INTEGER;

-- Kept by the conductor for tasks that are not done. Beside `tasks`, whose rows end with large columns.
CREATE TABLE outlooks (
    task_id      INTEGER PRIMARY KEY REFERENCES tasks (id) ON DELETE CASCADE,
    expected_at  INTEGER,                            -- when it will be done; NULL: unknown, or never
    risk         TEXT NOT NULL DEFAULT ''            -- why that is too late; empty: it is not, or nobody knows
) STRICT;

DROP VIEW v_tasks;
CREATE VIEW v_tasks AS
-- Every task: one send or recv of a package. Bytes; bytes per second; local time.
SELECT t.name AS task, t.role, t.package,
       t.state, t.reason,              -- why it is there: an error, 'cancelled', or empty
       t.policy, t.ratio,              -- shares of bt:obs:cdn
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
FROM tasks t LEFT JOIN outlooks o ON o.task_id = t.id;

DROP VIEW v_schedules;
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
