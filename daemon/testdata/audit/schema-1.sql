CREATE TABLE host (
  host INTEGER PRIMARY KEY,
  machine_id TEXT,                    -- derived from /etc/machine-id, not it
  name TEXT,                          -- host name
  UNIQUE (machine_id, name)
) STRICT;
CREATE TABLE boot (
  boot INTEGER PRIMARY KEY,
  commitment BLOB NOT NULL,           -- sha256 of this row and its host
  host INTEGER NOT NULL REFERENCES host,
  boot_uuid TEXT,                     -- the kernel's boot id
  started_us INTEGER NOT NULL,        -- start of the daemon
  daemon TEXT NOT NULL,               -- version of mcpfs
  kernel TEXT,
  reads TEXT,                         -- passthrough | cached
  trust_version INTEGER,
  trust_sha256 TEXT,
  config_sha256 TEXT
) STRICT;
CREATE TABLE release (
  release INTEGER PRIMARY KEY,
  commitment BLOB NOT NULL UNIQUE,    -- sha256 of this row
  registry TEXT,
  server_name TEXT NOT NULL,
  version TEXT,
  artefact_sha256 TEXT,
  tree_sha256 TEXT,
  statement_sha256 TEXT,              -- NULL: nothing verified under this name
  key_ids TEXT,                       -- JSON list
  maintainer TEXT,
  data_classification TEXT,
  lawful_basis TEXT,
  scope TEXT,                         -- JSON list
  reviewed_at TEXT,                   -- date
  reviewers TEXT,                     -- JSON list
  repository TEXT,
  commit_id TEXT,
  pull_request TEXT,
  status TEXT                         -- active | yanked | revoked, when it was recorded
) STRICT;
CREATE TABLE component (
  ecosystem TEXT NOT NULL,
  name TEXT NOT NULL,
  version TEXT NOT NULL,
  release INTEGER NOT NULL REFERENCES release,
  PRIMARY KEY (name, version, ecosystem, release)
) STRICT, WITHOUT ROWID;
CREATE TABLE caller (
  caller INTEGER PRIMARY KEY,
  commitment BLOB NOT NULL UNIQUE,    -- sha256(salt, fields)
  salt BLOB,                          -- NULL: erased, and the fields with it
  user_id INTEGER,                    -- real uid
  user_name TEXT,
  login_uid INTEGER,                  -- survives sudo
  request_uid INTEGER,                -- uid of the request to the file system
  group_id INTEGER,
  process TEXT,                       -- path of the executable, else its name
  host_app TEXT,                      -- nearest ancestor that is no shell or launcher
  unit TEXT                           -- systemd unit
) STRICT;
CREATE TABLE event (
  seq INTEGER PRIMARY KEY,
  time_us INTEGER NOT NULL,
  boot INTEGER NOT NULL REFERENCES boot,
  event TEXT NOT NULL,
  outcome TEXT NOT NULL,              -- ok, or the typed error
  release INTEGER REFERENCES release,
  caller INTEGER REFERENCES caller,
  launch INTEGER,                     -- seq of the launch it belongs to
  pid INTEGER,                        -- thread group id
  pid_start_us INTEGER,               -- its start, microseconds after the host's boot
  head_version INTEGER,
  stale INTEGER CHECK (stale IN (0, 1)),
  path TEXT,
  bytes INTEGER,
  duration_us INTEGER,
  count INTEGER NOT NULL DEFAULT 1 CHECK (count > 0),
  reason TEXT,
  detail TEXT                         -- JSON object
) STRICT;
CREATE TABLE seal (
  last_seq INTEGER PRIMARY KEY,
  first_seq INTEGER NOT NULL,
  time_us INTEGER NOT NULL,
  encoding INTEGER NOT NULL,          -- version of the row encoding
  leaves BLOB,                        -- 8 bytes of each row's hash, to name an altered row
  root BLOB NOT NULL,                 -- RFC 6962 root over the rows
  hash BLOB NOT NULL                  -- sha256(previous hash, root, first, last, time, encoding, leaves)
) STRICT;
CREATE TABLE cut (
  last_seq INTEGER PRIMARY KEY,
  time_us INTEGER NOT NULL,
  rows INTEGER NOT NULL,
  hash BLOB NOT NULL,                 -- of the last seal that was removed
  policy TEXT NOT NULL
) STRICT;
CREATE TABLE openset (
  openset INTEGER PRIMARY KEY,
  tree_sha256 TEXT NOT NULL,
  count INTEGER NOT NULL,
  nodes BLOB NOT NULL,
  sha256 TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE launch_opens (
  launch INTEGER PRIMARY KEY,
  openset INTEGER NOT NULL REFERENCES openset
) STRICT;
CREATE INDEX boot_host ON boot (host, started_us);
CREATE INDEX caller_user ON caller (user_name);
CREATE INDEX release_name ON release (server_name, version);
CREATE INDEX event_release ON event (release, event, time_us);
CREATE INDEX event_caller ON event (caller, time_us);
CREATE INDEX event_time ON event (time_us);
CREATE INDEX event_refused ON event (time_us) WHERE outcome <> 'ok';
CREATE INDEX event_exit ON event (launch) WHERE event = 'exit';
CREATE VIEW access AS
SELECT e.seq AS seq,
       strftime('%Y-%m-%dT%H:%M:%S', e.time_us / 1000000, 'unixepoch') || printf('.%06dZ', e.time_us % 1000000) AS time,
       e.time_us AS time_us,
       h.name AS host,
       e.boot AS boot,
       e.event AS event,
       c.user_id AS user_id,
       c.user_name AS user_name,
       c.login_uid AS login_uid,
       c.request_uid AS request_uid,
       c.group_id AS group_id,
       r.registry AS registry,
       r.server_name AS server_name,
       r.version AS version,
       e.outcome AS verification_outcome,
       e.reason AS reason,
       c.host_app AS host_app,
       c.process AS process,
       e.pid AS pid,
       e.pid_start_us AS pid_start_us,
       c.unit AS unit,
       r.artefact_sha256 AS artefact_sha256,
       r.tree_sha256 AS tree_sha256,
       r.statement_sha256 AS statement_sha256,
       r.key_ids AS key_ids,
       e.head_version AS head_version,
       e.stale AS stale,
       e.path AS path,
       e.bytes AS bytes,
       e.duration_us AS duration_us,
       e.count AS count,
       e.launch AS launch,
       e.release AS release,
       e.detail AS detail
FROM event AS e
JOIN boot AS b ON b.boot = e.boot
JOIN host AS h ON h.host = b.host
LEFT JOIN release AS r ON r.release = e.release
LEFT JOIN caller AS c ON c.caller = e.caller;
CREATE VIEW launches AS SELECT * FROM access WHERE event = 'launch';
CREATE VIEW refusals AS SELECT * FROM access WHERE verification_outcome <> 'ok';
