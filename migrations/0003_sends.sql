-- A gentask job whose task is sent as soon as it is finished (`sends`).
ALTER TABLE generations ADD COLUMN send TEXT NOT NULL DEFAULT '' CHECK (send IN ('', 'wanted', 'sent', 'refused'));
CREATE INDEX generations_to_send ON generations (id) WHERE send = 'wanted';

DROP VIEW v_generations;
-- gentask jobs. send: empty, or what becomes of the task afterwards: wanted, sent, refused (then error says why).
CREATE VIEW v_generations AS
SELECT dcppath, taskfile, state, send, bytes_total, bytes_done, error,
       datetime(created_at / 1000, 'unixepoch', 'localtime') AS created_at,
       datetime(finished_at / 1000, 'unixepoch', 'localtime') AS finished_at
FROM generations;
