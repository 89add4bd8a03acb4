-- compatible: 2
--
-- Nodes of one database issue under one name: a revocation names it.

ALTER TABLE quash.node ADD COLUMN issuer text NOT NULL DEFAULT '';
