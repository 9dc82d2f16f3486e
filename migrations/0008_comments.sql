-- Comments before CREATE are not kept by SQLite, those inside are: `.schema v_tasks` in any shell now explains the columns.
-- The views are as they were.

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
       -- -1: unknown. 0: done.
       CASE WHEN t.state IN ('downloaded', 'uploaded', 'history') THEN 0
            WHEN (SELECT coalesce(sum(l.rate), 0) FROM legs l WHERE l.task_id = t.id AND l.state = 'running') = 0 THEN -1
            ELSE max(0, t.bytes_total - CASE WHEN t.role = 'receiver'
                 THEN (SELECT coalesce(sum(f.bytes_done), 0) FROM task_files f WHERE f.task_id = t.id)
                 ELSE (SELECT coalesce(sum(l.bytes_done), 0) FROM legs l WHERE l.task_id = t.id) END)
                 / (SELECT sum(l.rate) FROM legs l WHERE l.task_id = t.id AND l.state = 'running') / 60 + 1 END AS eta_minutes,
       t.bytes_local,                  -- found in the library, not fetched
       datetime(t.created_at / 1000, 'unixepoch', 'localtime') AS created_at,
       datetime(t.started_at / 1000, 'unixepoch', 'localtime') AS started_at,     -- left the queue
       datetime(t.finished_at / 1000, 'unixepoch', 'localtime') AS finished_at,
       datetime(t.seed_until / 1000, 'unixepoch', 'localtime') AS seed_until
FROM tasks t;

DROP VIEW v_legs;
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

DROP VIEW v_files;
CREATE VIEW v_files AS
-- Each file of each task.
SELECT t.name AS task, t.role, f.path, f.size,
       lower(hex(f.sha1)) AS sha1,     -- what the task promises
       -- Who brings it: bt, obs, cdn, local (the library); 'bt,cdn' when it is split.
       (SELECT group_concat(DISTINCT s.method) FROM spans s WHERE s.task_id = f.task_id AND s.idx = f.idx) AS method,
       f.state,                        -- receivers: waiting, partial, verified (hashed here and right)
       f.bytes_done                    -- receivers: on disk, synced
FROM task_files f JOIN tasks t ON t.id = f.task_id;

DROP VIEW v_progress;
CREATE VIEW v_progress AS
-- Progress over time: finer when it is new, see finedays, minutedays, sampledays in the configuration.
SELECT t.name AS task, t.role, p.method, datetime(p.at / 1000, 'unixepoch', 'localtime') AS at,
       p.bytes_done,                   -- in place
       p.rate,                         -- bytes per second; the average of those that were merged
       p.peers
FROM progress_samples p JOIN tasks t ON t.id = p.task_id;

DROP VIEW v_generations;
CREATE VIEW v_generations AS
-- gentask jobs.
SELECT dcppath, taskfile, state,
       send,                           -- of sends: wanted, sent, refused (then error says why); else empty
       bytes_total, bytes_done,        -- to hash, hashed
       error,
       datetime(created_at / 1000, 'unixepoch', 'localtime') AS created_at,
       datetime(finished_at / 1000, 'unixepoch', 'localtime') AS finished_at
FROM generations;

DROP VIEW v_schedules;
CREATE VIEW v_schedules AS
-- Windows per task and method, and when they open and close next.
SELECT t.name AS task, t.role, s.method,
       s.windows AS window,            -- 18:00-05:00; several with commas
       s.open_now,
       datetime(s.opens_at / 1000, 'unixepoch', 'localtime') AS opens_at,        -- while it is closed
       datetime(s.closes_at / 1000, 'unixepoch', 'localtime') AS closes_at       -- while it is open
FROM schedules s JOIN tasks t ON t.id = s.task_id;

DROP VIEW v_events;
CREATE VIEW v_events AS
-- What happened.
SELECT datetime(at / 1000, 'unixepoch', 'localtime') AS at,
       level,                          -- info, warn, error
       kind, task,
       actor,                          -- api: a client asked. conductor: the service did it
       text
FROM events;
