-- How each epoch of the log began but for the first.

-- +goose Up
CREATE TABLE epoch (
    number        INTEGER PRIMARY KEY,
    log_id        TEXT NOT NULL,
    time          INTEGER NOT NULL,
    reason        TEXT NOT NULL,
    before        INTEGER NOT NULL, -- the head that was found
    before_digest BLOB NOT NULL,
    begin         INTEGER NOT NULL, -- the head that it was lifted to
    begin_digest  BLOB NOT NULL
) STRICT;
