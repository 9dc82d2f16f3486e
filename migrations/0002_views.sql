-- The public face for operators. Plain names, bytes as integers, local ISO time, hex digests, no secrets.

-- Every task, newest last.
CREATE VIEW v_tasks AS
SELECT t.name AS task, t.role, t.package, t.state, t.reason, t.policy, t.ratio, t.bytes_total,
       CASE WHEN t.role = 'receiver'
            THEN (SELECT coalesce(sum(f.bytes_done), 0) FROM task_files f WHERE f.task_id = t.id)
            ELSE (SELECT coalesce(sum(l.bytes_done), 0) FROM legs l WHERE l.task_id = t.id) END AS bytes_done,
       CASE WHEN t.state IN ('downloaded', 'uploaded') OR (t.state = 'history' AND t.reason = '') THEN 100.0
            WHEN t.bytes_total = 0 THEN 0.0
            ELSE round(min(99.999, 100.0 * CASE WHEN t.role = 'receiver'
                 THEN (SELECT coalesce(sum(f.bytes_done), 0) FROM task_files f WHERE f.task_id = t.id)
                 ELSE (SELECT coalesce(sum(l.bytes_done), 0) FROM legs l WHERE l.task_id = t.id) END / t.bytes_total), 3) END AS percent,
       (SELECT coalesce(sum(l.rate), 0) FROM legs l WHERE l.task_id = t.id AND l.state = 'running') AS rate,
       CASE WHEN t.state IN ('downloaded', 'uploaded', 'history') THEN 0
            WHEN (SELECT coalesce(sum(l.rate), 0) FROM legs l WHERE l.task_id = t.id AND l.state = 'running') = 0 THEN -1
            ELSE max(0, t.bytes_total - CASE WHEN t.role = 'receiver'
                 THEN (SELECT coalesce(sum(f.bytes_done), 0) FROM task_files f WHERE f.task_id = t.id)
                 ELSE (SELECT coalesce(sum(l.bytes_done), 0) FROM legs l WHERE l.task_id = t.id) END)
                 / (SELECT sum(l.rate) FROM legs l WHERE l.task_id = t.id AND l.state = 'running') / 60 + 1 END AS eta_minutes,
       t.bytes_local,
       datetime(t.created_at / 1000, 'unixepoch', 'localtime') AS created_at,
       datetime(t.started_at / 1000, 'unixepoch', 'localtime') AS started_at,
       datetime(t.finished_at / 1000, 'unixepoch', 'localtime') AS finished_at,
       datetime(t.seed_until / 1000, 'unixepoch', 'localtime') AS seed_until
FROM tasks t;

-- Each task over each method: what it moved and what holds it up.
CREATE VIEW v_legs AS
SELECT t.name AS task, t.role, l.method, l.state, l.ready, l.bytes_total, l.bytes_done, l.bytes_wire, l.bytes_sent,
       l.rate, l.peers, coalesce(s.windows, '') AS window,
       datetime(CASE WHEN l.retry_at IS NOT NULL THEN l.retry_at
                     WHEN s.open_now = 0 THEN s.opens_at ELSE s.closes_at END / 1000, 'unixepoch', 'localtime') AS next_change_at,
       l.tries, datetime(l.retry_at / 1000, 'unixepoch', 'localtime') AS retry_at, l.error,
       round(l.active_ms / 1000.0, 1) AS active_seconds
FROM legs l JOIN tasks t ON t.id = l.task_id
LEFT JOIN schedules s ON s.task_id = l.task_id AND s.method = l.method;

-- Each file of each task. method: how it came; 'bt,cdn' when a file is split.
CREATE VIEW v_files AS
SELECT t.name AS task, t.role, f.path, f.size, lower(hex(f.sha1)) AS sha1,
       (SELECT group_concat(DISTINCT s.method) FROM spans s WHERE s.task_id = f.task_id AND s.idx = f.idx) AS method,
       f.state, f.bytes_done
FROM task_files f JOIN tasks t ON t.id = f.task_id;

-- Progress over time.
CREATE VIEW v_progress AS
SELECT t.name AS task, t.role, p.method, datetime(p.at / 1000, 'unixepoch', 'localtime') AS at, p.bytes_done, p.rate, p.peers
FROM progress_samples p JOIN tasks t ON t.id = p.task_id;

-- The library: every file with its digest.
CREATE VIEW v_library AS
SELECT path, size, lower(hex(sha1)) AS sha1, 'ok' AS state,
       datetime(hashed_at / 1000, 'unixepoch', 'localtime') AS hashed_at, package
FROM library_files;

-- Packages and the verdict of their packing list.
CREATE VIEW v_packages AS
SELECT name AS package, path, verdict, title, files, bytes,
       datetime(checked_at / 1000, 'unixepoch', 'localtime') AS checked_at
FROM packages;

-- Files that lie in the library more than once.
CREATE VIEW v_duplicates AS
SELECT lower(hex(sha1)) AS sha1, count(*) AS copies, (count(*) - 1) * size AS bytes_wasted
FROM library_files GROUP BY sha1, size HAVING count(*) > 1;

-- gentask jobs.
CREATE VIEW v_generations AS
SELECT dcppath, taskfile, state, bytes_total, bytes_done, error,
       datetime(created_at / 1000, 'unixepoch', 'localtime') AS created_at,
       datetime(finished_at / 1000, 'unixepoch', 'localtime') AS finished_at
FROM generations;

-- Windows per task and method, and when they open and close next.
CREATE VIEW v_schedules AS
SELECT t.name AS task, t.role, s.method, s.windows AS window, s.open_now,
       datetime(s.opens_at / 1000, 'unixepoch', 'localtime') AS opens_at,
       datetime(s.closes_at / 1000, 'unixepoch', 'localtime') AS closes_at
FROM schedules s JOIN tasks t ON t.id = s.task_id;

-- What happened.
CREATE VIEW v_events AS
SELECT datetime(at / 1000, 'unixepoch', 'localtime') AS at, level, kind, task, actor, text FROM events;
