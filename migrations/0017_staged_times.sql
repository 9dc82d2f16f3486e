-- The times of the staged file that the ranges and the digest speak of (nanoseconds since the epoch); 0 = not known. While
-- it grows, mtime_ns is the time that is given to it after each write, and ctime_ns is 0.
ALTER TABLE task_files ADD COLUMN mtime_ns INTEGER NOT NULL DEFAULT 0;
ALTER TABLE task_files ADD COLUMN ctime_ns INTEGER NOT NULL DEFAULT 0;
-- 1: others wrote into it. It is hashed from its beginning, and when that comes out wrong no method is to blame.
ALTER TABLE task_files ADD COLUMN doubted INTEGER NOT NULL DEFAULT 0 CHECK (doubted IN (0, 1));
-- When the directory (or file) of stage_inode was made, in nanoseconds since the epoch: inode numbers are used again.
-- NULL = the file system does not say.
ALTER TABLE tasks ADD COLUMN stage_born INTEGER;
