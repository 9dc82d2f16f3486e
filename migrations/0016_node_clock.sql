-- What the clock showed when it was looked at last (milliseconds since the epoch), believed or not; 0 = never. The ends of
-- seed times in tasks.seed_until are by this clock.
ALTER TABLE node ADD COLUMN clock_at INTEGER NOT NULL DEFAULT 0;
