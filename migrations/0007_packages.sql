-- Packages of the library are recognised by their documents, whoever put them there.

ALTER TABLE packages ADD COLUMN standard TEXT NOT NULL DEFAULT '';  -- SMPTE, Interop or other; empty: no documents were read
-- Received or generated here: such a package may be replaced by a newer version of itself, a stranger's may not.
ALTER TABLE packages ADD COLUMN ours INTEGER NOT NULL DEFAULT 1 CHECK (ours IN (0, 1));
ALTER TABLE packages ADD COLUMN revision INTEGER NOT NULL DEFAULT 1;  -- counts writers, so that a slow one notices a faster one
ALTER TABLE packages ADD COLUMN seen BLOB;  -- SHA-1 over the files and digests that the verdict is about; NULL: look again

-- Compositions (CPL): what plays.
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

-- Which package holds which identity. Only files that are there, in the listed size, and not known to be damaged.
CREATE TABLE package_assets (
    package      TEXT NOT NULL REFERENCES packages (path) ON DELETE CASCADE,
    asset        TEXT NOT NULL,
    path         TEXT NOT NULL,                      -- inside the package
    PRIMARY KEY (package, asset)
) STRICT, WITHOUT ROWID;
CREATE INDEX package_assets_by_asset ON package_assets (asset);

-- Track files that a version file plays and does not hold.
CREATE TABLE package_needs (
    package      TEXT NOT NULL REFERENCES packages (path) ON DELETE CASCADE,
    asset        TEXT NOT NULL,
    name         TEXT NOT NULL,                      -- what the composition calls it, else its identity
    title        TEXT NOT NULL,                      -- of the first composition that plays it
    PRIMARY KEY (package, asset)
) STRICT, WITHOUT ROWID;

-- What documents say about files that were never hashed here: a source for copies, which are verified on the way.
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
CREATE INDEX library_claims_by_sha1 ON library_claims (sha1, size) WHERE settled = 0;
CREATE INDEX library_claims_by_package ON library_claims (package);
CREATE TRIGGER library_files_settle_claims AFTER INSERT ON library_files
BEGIN
    UPDATE library_claims SET settled = 1 WHERE path = NEW.path;
END;

DROP VIEW v_library;
-- The library: files with their digests. state: ok (hashed here), claimed (the packing list says so, not hashed yet).
CREATE VIEW v_library AS
SELECT path, size, lower(hex(sha1)) AS sha1, 'ok' AS state,
       datetime(hashed_at / 1000, 'unixepoch', 'localtime') AS hashed_at, package
FROM library_files
UNION ALL
SELECT path, size, lower(hex(sha1)), 'claimed', NULL, package FROM library_claims WHERE settled = 0;

DROP VIEW v_packages;
-- Packages and the verdict of their packing list. ov: packages of the library with track files that a version file lacks.
-- Whether a version file has its OV is found out here, anew each time: an OV may come and go.
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

-- Compositions of the packages.
CREATE VIEW v_compositions AS
SELECT p.name AS package, c.package AS path, c.id AS composition, c.title, c.kind, c.reels,
       iif(c.rate_units = 0, '', c.rate_units || '/' || c.rate_seconds) AS edit_rate, c.duration,
       round(1.0 * c.duration * c.rate_seconds / nullif(c.rate_units, 0), 1) AS seconds
FROM compositions c JOIN packages p ON p.path = c.package;

-- Reels of the compositions, with the identities of their track files.
CREATE VIEW v_reels AS
SELECT p.name AS package, r.package AS path, r.composition, c.title, r.idx AS reel, r.id, r.picture, r.sound, r.subtitle,
       iif(r.rate_units = 0, '', r.rate_units || '/' || r.rate_seconds) AS edit_rate, r.duration,
       round(1.0 * r.duration * r.rate_seconds / nullif(r.rate_units, 0), 1) AS seconds
FROM reels r JOIN compositions c ON c.package = r.package AND c.id = r.composition JOIN packages p ON p.path = r.package;
