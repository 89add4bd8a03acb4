-- compatible: 5
--
-- Revocations stand in batches: those that one commit appended, and that are
-- forgotten at one time, up to what stays in a row. See issuer.Batch, which the
-- expression below writes.

CREATE FUNCTION quash.counted(text) RETURNS bytea LANGUAGE sql IMMUTABLE
    AS $$ SELECT convert_to(octet_length($1) || ':' || $1, 'UTF8') $$;

DO $migrate$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['revocation', 'revocation_archive'] LOOP
        EXECUTE format('ALTER TABLE quash.%I RENAME TO before', name);
        EXECUTE format($table$
            CREATE TABLE quash.%I (
                last    bigint NOT NULL, -- position of the last record
                count   int NOT NULL,
                forget  bigint NOT NULL, -- Unix seconds; the same of each
                digest  bytea NOT NULL, -- of the last
                records bytea NOT NULL
            )$table$, name);
        EXECUTE format($copy$
            INSERT INTO quash.%I
            SELECT position, 1, forget, digest,
                int8send(position) || key || int8send(before) || substr(int8send(not_before), 5) || substr(int8send(forget), 5) || digest
                    || int4send(octet_length(evidence)) || evidence
            FROM (SELECT *, quash.counted(issuer) || quash.counted(claim) || quash.counted(value) || quash.counted(event) || quash.counted(actor)
                || quash.counted(reason) || quash.counted((CASE time WHEN 0 THEN -62135596800000 ELSE time END)::text) AS evidence FROM quash.before) r
            ORDER BY position$copy$, name);
        DROP TABLE quash.before;
        EXECUTE format('ALTER TABLE quash.%I ADD PRIMARY KEY (last)', name);
    END LOOP;
END
$migrate$;

DROP FUNCTION quash.counted(text);
CREATE INDEX revocation_forget ON quash.revocation (forget);
