-- Who comes first.

-- Of tasks that were given one. Beside `tasks`, whose rows end with large columns.
CREATE TABLE priorities (
    task_id      INTEGER PRIMARY KEY REFERENCES tasks (id) ON DELETE CASCADE,
    priority     INTEGER NOT NULL CHECK (priority BETWEEN -1000 AND 1000)
) STRICT;

DROP VIEW v_tasks;
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
