-- The inode of the staged file that the ranges and the digest speak of; 0 = not known.
ALTER TABLE task_files ADD COLUMN inode INTEGER NOT NULL DEFAULT 0;
