-- compatible: 2
--
-- Registered clients, what is granted to them, and the assertions that they
-- have used. A program of before would give a registered client's tokens to
-- whoever has its refresh token.

CREATE TABLE quash.client (
    id             text COLLATE "C" PRIMARY KEY,
    name           text NOT NULL,
    method         text NOT NULL,
    hash           bytea, -- NULL where it has no secret
    previous       bytea, -- NULL where there is none
    previous_until bigint NOT NULL,
    keys           bytea, -- NULL where it has none
    grants         text[] NOT NULL,
    scopes         text[] NOT NULL,
    audience       text[] NOT NULL,
    created        bigint NOT NULL,
    last_used      bigint NOT NULL
);

CREATE TABLE quash.client_assertion (
    id      bytea PRIMARY KEY,
    expires bigint NOT NULL
);
CREATE INDEX client_assertion_expires ON quash.client_assertion (expires);

ALTER TABLE quash.session ADD COLUMN scope text; -- NULL where the client is not registered

-- Whoever has every other scope has the new one.
UPDATE quash.api_key SET scopes = scopes || '{clients}'
WHERE scopes @> '{revoke,sessions,accounts,audit,keys,backup}';
