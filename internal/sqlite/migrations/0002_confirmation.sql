-- Leases and their evidence. Durations are nanoseconds.

-- +goose Up
CREATE INDEX audit_position ON audit (position) WHERE position > 0;

CREATE TABLE node (
    id      TEXT PRIMARY KEY,
    counter INTEGER NOT NULL,
    floor   INTEGER NOT NULL,
    lease   INTEGER NOT NULL,
    started INTEGER NOT NULL,
    owed    TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE verifier (
    node    TEXT NOT NULL,
    number  INTEGER NOT NULL,
    process TEXT NOT NULL,
    name    TEXT NOT NULL,
    key     TEXT NOT NULL,
    address TEXT NOT NULL,
    since   INTEGER NOT NULL,
    PRIMARY KEY (node, number)
) STRICT, WITHOUT ROWID;

-- The ranges of one node do not overlap.
CREATE TABLE confirmation (
    node      TEXT NOT NULL,
    last      INTEGER NOT NULL,
    first     INTEGER NOT NULL,
    began     INTEGER NOT NULL,
    took      INTEGER NOT NULL,
    confirmed INTEGER NOT NULL,
    lost      INTEGER NOT NULL,
    gone      INTEGER NOT NULL, -- said goodbye
    outcomes  BLOB NOT NULL, -- of each the number of its verifier, its end and its microseconds, as varints
    UNIQUE (node, last)
) STRICT;
