-- compatible: 1
--
-- Other issuers, whose tokens the log revokes too. They are part of what
-- quash.meta.catalog is the version of.

CREATE TABLE quash.issuer (
    name          text COLLATE "C" PRIMARY KEY,
    max_lifetime  bigint NOT NULL, -- nanoseconds
    same_subjects boolean NOT NULL
);
