-- Times are Unix milliseconds, 0 where there is none. Positions and bounds
-- are unsigned 64-bit integers in two's complement, so "for ever" is -1.

-- +goose Up
CREATE TABLE meta (
    id            INTEGER PRIMARY KEY CHECK (id = 1),
    log_id        TEXT NOT NULL,
    epoch         INTEGER NOT NULL,
    hash_secret   BLOB NOT NULL,
    head          INTEGER NOT NULL,
    digest        BLOB NOT NULL,
    pruned        INTEGER NOT NULL,
    pruned_digest BLOB NOT NULL,
    max_lifetime  INTEGER NOT NULL, -- nanoseconds
    group_id      INTEGER NOT NULL  -- rises with every commit
) STRICT;

CREATE TABLE account (
    subject     TEXT PRIMARY KEY,
    name        TEXT UNIQUE, -- NULL where it has none
    password    TEXT NOT NULL,
    claims      BLOB,
    deactivated INTEGER NOT NULL,
    created     INTEGER NOT NULL,
    changed     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE account_claim (
    claim   TEXT NOT NULL,
    value   TEXT NOT NULL,
    subject TEXT NOT NULL REFERENCES account ON DELETE CASCADE,
    PRIMARY KEY (claim, value, subject)
) STRICT, WITHOUT ROWID;
CREATE INDEX account_claim_subject ON account_claim (subject);

CREATE TABLE session (
    id        TEXT PRIMARY KEY,
    subject   TEXT NOT NULL REFERENCES account ON DELETE CASCADE,
    client    TEXT NOT NULL,
    device    TEXT NOT NULL,
    address   TEXT NOT NULL,
    created   INTEGER NOT NULL,
    last_used INTEGER NOT NULL,
    expires   INTEGER NOT NULL,
    counter   INTEGER NOT NULL,
    secret    BLOB NOT NULL,
    rotated   INTEGER NOT NULL,
    retry_key BLOB, -- NULL where the request had none
    tokens    BLOB NOT NULL -- Unix seconds in four big-endian octets each
) STRICT;
CREATE INDEX session_subject ON session (subject, id);
CREATE INDEX session_client ON session (client, id);
CREATE INDEX session_last_used ON session (last_used);
CREATE INDEX session_expires ON session (expires);

CREATE TABLE revocation (
    position   INTEGER PRIMARY KEY,
    issuer     TEXT NOT NULL,
    claim      TEXT NOT NULL,
    value      TEXT NOT NULL,
    before     INTEGER NOT NULL,
    not_before INTEGER NOT NULL, -- Unix seconds
    keep       INTEGER NOT NULL,
    time       INTEGER NOT NULL,
    event      TEXT NOT NULL,
    actor      TEXT NOT NULL,
    reason     TEXT NOT NULL,
    key        BLOB NOT NULL,
    forget     INTEGER NOT NULL, -- Unix seconds
    digest     BLOB NOT NULL
) STRICT;
CREATE INDEX revocation_forget ON revocation (forget);

CREATE TABLE revocation_archive (
    position   INTEGER PRIMARY KEY,
    issuer     TEXT NOT NULL,
    claim      TEXT NOT NULL,
    value      TEXT NOT NULL,
    before     INTEGER NOT NULL,
    not_before INTEGER NOT NULL,
    keep       INTEGER NOT NULL,
    time       INTEGER NOT NULL,
    event      TEXT NOT NULL,
    actor      TEXT NOT NULL,
    reason     TEXT NOT NULL,
    key        BLOB NOT NULL,
    forget     INTEGER NOT NULL,
    digest     BLOB NOT NULL
) STRICT;

CREATE TABLE claim_name (
    name TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;

CREATE TABLE signing_key (
    id        TEXT PRIMARY KEY,
    algorithm TEXT NOT NULL,
    public    BLOB,
    sealed    BLOB,
    created   INTEGER NOT NULL,
    retired   INTEGER NOT NULL,
    withdrawn INTEGER NOT NULL
) STRICT;

CREATE TABLE api_key (
    id        TEXT PRIMARY KEY,
    name      TEXT NOT NULL UNIQUE,
    scopes    TEXT NOT NULL, -- separated by spaces
    hash      BLOB NOT NULL,
    previous  BLOB, -- NULL where there is none
    previous_until INTEGER NOT NULL,
    created   INTEGER NOT NULL,
    last_used INTEGER NOT NULL
) STRICT;

CREATE TABLE audit (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    time     INTEGER NOT NULL,
    event    TEXT NOT NULL,
    actor    TEXT NOT NULL,
    address  TEXT NOT NULL,
    subject  TEXT NOT NULL,
    session  TEXT NOT NULL,
    position INTEGER NOT NULL,
    reason   TEXT NOT NULL,
    detail   BLOB
) STRICT;
CREATE INDEX audit_subject ON audit (subject, id);
CREATE INDEX audit_event ON audit (event, id);
