-- Which directory a reception is about to rename into its store is known until that is recorded, and no longer: a task that
-- was cancelled in between is told by it.
UPDATE tasks SET stage_inode = NULL, stage_born = NULL WHERE state IN ('downloaded', 'history');
