-- Other issuers, whose tokens the log revokes too.

-- +goose Up
CREATE TABLE issuer (
    name          TEXT PRIMARY KEY,
    max_lifetime  INTEGER NOT NULL, -- nanoseconds
    same_subjects INTEGER NOT NULL
) STRICT;
