-- Registered clients, what is granted to them, and the assertions that they
-- have used. A program of before would give a registered client's tokens to
-- whoever has its refresh token.

-- +goose Up
PRAGMA user_version = 4; -- the oldest version of the tables whose programs may use them

CREATE TABLE client (
    id        TEXT PRIMARY KEY,
    name      TEXT NOT NULL,
    method    TEXT NOT NULL,
    hash      BLOB, -- NULL where it has no secret
    previous  BLOB, -- NULL where there is none
    previous_until INTEGER NOT NULL,
    keys      BLOB, -- NULL where it has none
    grants    TEXT NOT NULL, -- separated by spaces, like the next two
    scopes    TEXT NOT NULL,
    audience  TEXT NOT NULL,
    created   INTEGER NOT NULL,
    last_used INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE client_assertion (
    id      BLOB PRIMARY KEY,
    expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX client_assertion_expires ON client_assertion (expires);

ALTER TABLE session ADD COLUMN scope TEXT; -- NULL where the client is not registered

-- Whoever has every other scope has the new one.
UPDATE api_key SET scopes = scopes || ' clients'
WHERE (SELECT count(*) FROM (VALUES ('revoke'), ('sessions'), ('accounts'), ('audit'), ('keys'), ('backup')) AS v
       WHERE ' ' || scopes || ' ' LIKE '% ' || v.column1 || ' %') = 6;
