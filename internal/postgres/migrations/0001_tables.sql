-- compatible: 1
--
-- Times are Unix milliseconds, 0 where there is none. Positions and bounds are
-- unsigned 64-bit integers in two's complement, so "for ever" is -1. Text is
-- compared and ordered by its octets.
--
-- Nobody needs a right to these tables but the role that owns them, which the
-- nodes log in as. An application that asks for revocations in its own
-- transactions needs this, and no more:
--
--     GRANT USAGE ON SCHEMA quash TO application;
--     GRANT EXECUTE ON FUNCTION quash.revoke(text, text, text) TO application;

CREATE TABLE quash.meta (
    id            int PRIMARY KEY CHECK (id = 1),
    log_id        text NOT NULL,
    epoch         bigint NOT NULL,
    hash_secret   bytea NOT NULL,
    head          bigint NOT NULL,
    digest        bytea NOT NULL,
    pruned        bigint NOT NULL,
    pruned_digest bytea NOT NULL,
    max_lifetime  bigint NOT NULL, -- nanoseconds
    catalog       bigint NOT NULL  -- rises with every change of what the log says of itself, claim names and signing keys
) WITH (fillfactor = 10);

-- One row, its value random. What commits while it stays the same was not lost
-- in a crash or fail-over: the table is emptied by those.
CREATE UNLOGGED TABLE quash.life (
    one int PRIMARY KEY CHECK (one = 1),
    id  uuid NOT NULL
);

-- What is written to learn that all before it has been replicated.
CREATE TABLE quash.barrier (
    one int PRIMARY KEY CHECK (one = 1),
    n   bigint NOT NULL
) WITH (fillfactor = 10);
INSERT INTO quash.barrier VALUES (1, 0);

-- Locked, never written: see Store.Issue.
CREATE TABLE quash.gate ();

CREATE TABLE quash.account (
    subject     text COLLATE "C" PRIMARY KEY,
    name        text COLLATE "C" UNIQUE, -- NULL where it has none
    password    text NOT NULL,
    claims      bytea,
    deactivated boolean NOT NULL,
    created     bigint NOT NULL,
    changed     bigint NOT NULL,
    touched     bigint NOT NULL DEFAULT 0 -- written by what changes sessions, so that issuing waits or starts again
) WITH (fillfactor = 80);

CREATE TABLE quash.account_claim (
    claim   text COLLATE "C" NOT NULL,
    value   bytea NOT NULL, -- text, which may have a zero octet
    subject text COLLATE "C" NOT NULL REFERENCES quash.account ON DELETE CASCADE,
    PRIMARY KEY (claim, value, subject)
);
CREATE INDEX account_claim_subject ON quash.account_claim (subject);

-- A refresh changes no column that has an index, but for the day when it is
-- another; so its new version stays on the page and costs no index an entry.
CREATE TABLE quash.session (
    id        text COLLATE "C" PRIMARY KEY,
    subject   text COLLATE "C" NOT NULL REFERENCES quash.account ON DELETE CASCADE,
    client    text COLLATE "C" NOT NULL,
    device    text NOT NULL,
    address   text NOT NULL,
    created   bigint NOT NULL,
    last_used bigint NOT NULL,
    day       int NOT NULL, -- of last_used
    expires   bigint NOT NULL,
    counter   bigint NOT NULL,
    secret    bytea NOT NULL,
    rotated   bigint NOT NULL,
    retry_key bytea, -- NULL where the request had none
    tokens    bigint[] NOT NULL -- Unix seconds
) WITH (fillfactor = 70);
CREATE INDEX session_subject ON quash.session (subject, id);
CREATE INDEX session_client ON quash.session (client, id);
CREATE INDEX session_day ON quash.session (day);
CREATE INDEX session_expires ON quash.session (expires);

CREATE TABLE quash.revocation (
    position   bigint PRIMARY KEY,
    issuer     text NOT NULL,
    claim      text NOT NULL,
    value      text NOT NULL,
    before     bigint NOT NULL,
    not_before bigint NOT NULL, -- Unix seconds
    keep       boolean NOT NULL,
    time       bigint NOT NULL,
    event      text NOT NULL,
    actor      text NOT NULL,
    reason     text NOT NULL,
    key        bytea NOT NULL,
    forget     bigint NOT NULL, -- Unix seconds
    digest     bytea NOT NULL
);
CREATE INDEX revocation_forget ON quash.revocation (forget);

CREATE TABLE quash.revocation_archive (
    position   bigint PRIMARY KEY,
    issuer     text NOT NULL,
    claim      text NOT NULL,
    value      text NOT NULL,
    before     bigint NOT NULL,
    not_before bigint NOT NULL,
    keep       boolean NOT NULL,
    time       bigint NOT NULL,
    event      text NOT NULL,
    actor      text NOT NULL,
    reason     text NOT NULL,
    key        bytea NOT NULL,
    forget     bigint NOT NULL,
    digest     bytea NOT NULL
);

CREATE TABLE quash.epoch (
    number        bigint PRIMARY KEY,
    log_id        text NOT NULL,
    time          bigint NOT NULL,
    reason        text NOT NULL,
    before        bigint NOT NULL, -- the head that was found
    before_digest bytea NOT NULL,
    begin         bigint NOT NULL, -- the head that it was lifted to
    begin_digest  bytea NOT NULL
);

CREATE TABLE quash.claim_name (
    name text COLLATE "C" PRIMARY KEY
);

CREATE TABLE quash.signing_key (
    id        text COLLATE "C" PRIMARY KEY,
    algorithm text NOT NULL,
    public    bytea,
    sealed    bytea,
    created   bigint NOT NULL,
    retired   bigint NOT NULL,
    withdrawn boolean NOT NULL
);

CREATE TABLE quash.api_key (
    id             text COLLATE "C" PRIMARY KEY,
    name           text COLLATE "C" NOT NULL UNIQUE,
    scopes         text[] NOT NULL,
    hash           bytea NOT NULL,
    previous       bytea, -- NULL where there is none
    previous_until bigint NOT NULL,
    created        bigint NOT NULL,
    last_used      bigint NOT NULL
);

CREATE TABLE quash.audit (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    time     bigint NOT NULL,
    event    text COLLATE "C" NOT NULL,
    actor    text NOT NULL,
    address  text NOT NULL,
    subject  text COLLATE "C" NOT NULL,
    session  text NOT NULL,
    position bigint NOT NULL,
    reason   text NOT NULL,
    detail   bytea
);
CREATE INDEX audit_subject ON quash.audit (subject, id);
CREATE INDEX audit_event ON quash.audit (event, id);
CREATE INDEX audit_position ON quash.audit (position) WHERE position > 0;

CREATE TABLE quash.node (
    id      text COLLATE "C" PRIMARY KEY,
    counter bigint NOT NULL,
    floor   bigint NOT NULL,
    lease   bigint NOT NULL, -- nanoseconds
    started bigint NOT NULL,
    owed    text NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE quash.verifier (
    node    text COLLATE "C" NOT NULL,
    number  bigint NOT NULL,
    process text NOT NULL,
    name    text NOT NULL,
    key     text NOT NULL,
    address text NOT NULL,
    since   bigint NOT NULL,
    PRIMARY KEY (node, number)
);

-- The ranges of one node do not overlap.
CREATE TABLE quash.confirmation (
    node      text COLLATE "C" NOT NULL,
    last      bigint NOT NULL,
    first     bigint NOT NULL,
    began     bigint NOT NULL,
    took      bigint NOT NULL, -- nanoseconds
    confirmed int NOT NULL,
    lost      int NOT NULL,
    gone      int NOT NULL, -- said goodbye
    outcomes  bytea NOT NULL, -- of each the number of its verifier, its end and its microseconds, as varints
    PRIMARY KEY (node, last)
);

-- Requests come and go: what is dead must not stand in the way of those who
-- look whether there are any.
CREATE TABLE quash.outbox (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    claim  text NOT NULL,
    value  text NOT NULL,
    reason text NOT NULL,
    actor  text NOT NULL,
    time   bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

CREATE TABLE quash.ticket (
    id       bigint PRIMARY KEY,
    position bigint NOT NULL,
    time     bigint NOT NULL
);
CREATE INDEX ticket_time ON quash.ticket (time);

-- revoke asks, in the transaction that calls it, for the revocation of every
-- token that has the value under the claim. It returns the request's ticket, by
-- which the server's API tells what became of it.
CREATE FUNCTION quash.revoke(claim text, value text, reason text DEFAULT '') RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $revoke$
DECLARE
    ticket bigint;
BEGIN
    IF revoke.claim IS NULL OR revoke.claim !~ '^[!-~]{1,64}$' THEN
        RAISE EXCEPTION 'quash.revoke: claim: want its name, 1 to 64 visible ASCII characters' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF revoke.value IS NULL OR octet_length(revoke.value) NOT BETWEEN 1 AND 512 THEN
        RAISE EXCEPTION 'quash.revoke: value: want 1 to 512 octets' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF revoke.reason IS NULL OR char_length(revoke.reason) > 256 OR revoke.reason ~ U&'[\0001-\001F\007F-\009F]' THEN
        RAISE EXCEPTION 'quash.revoke: reason: want at most 256 characters, none of them a control character' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO quash.outbox (claim, value, reason, actor, time)
    VALUES (revoke.claim, revoke.value, revoke.reason, session_user, (extract(epoch FROM clock_timestamp()) * 1000)::bigint)
    RETURNING id INTO ticket;
    PERFORM pg_notify('quash', '');
    RETURN ticket;
END
$revoke$;
REVOKE ALL ON FUNCTION quash.revoke(text, text, text) FROM PUBLIC;
