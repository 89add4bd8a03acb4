-- Nodes of one database issue under one name: a revocation names it.

-- +goose Up
ALTER TABLE node ADD COLUMN issuer TEXT NOT NULL DEFAULT '';
