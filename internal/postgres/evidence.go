package postgres

import (
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/quashdev/quash/internal/issuer"
)

const selectNodes = `SELECT id, issuer, counter, floor, lease, started, owed FROM quash.node ORDER BY id`

func scanNode(row pgx.Rows) (n issuer.Node, err error) {
	var counter, floor, started int64
	err = row.Scan(&n.ID, &n.Issuer, &counter, &floor, (*int64)(&n.Lease), &started, &n.Owed)
	n.Counter, n.Floor, n.Started = uint64(counter), uint64(floor), instant(started)
	return n, err
}

// Nodes implements [issuer.Reader].
func (r *reader) Nodes() ([]issuer.Node, error) { return all(r, scanNode, selectNodes) }

// PutNode implements [issuer.Tx]. Every update holds the head.
func (t *tx) PutNode(n issuer.Node) error {
	err := t.write(`
		INSERT INTO quash.node (id, issuer, counter, floor, lease, started, owed) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (id) DO UPDATE SET issuer = excluded.issuer, counter = excluded.counter, floor = excluded.floor, lease = excluded.lease,
			started = excluded.started, owed = excluded.owed`,
		n.ID, n.Issuer, int64(n.Counter), int64(n.Floor), int64(n.Lease), stamp(n.Started), n.Owed)
	if err != nil {
		return fmt.Errorf("put node: %w", err)
	}
	t.u.rowWritten = true
	return nil
}

// DeleteNode implements [issuer.Tx].
func (t *tx) DeleteNode(id string) error {
	t.u.rowWritten = true
	return t.deleteOne(`DELETE FROM quash.node WHERE id = $1`, id)
}

// Verifiers implements [issuer.Reader].
func (r *reader) Verifiers(node string, numbers []uint32) ([]issuer.Verifier, error) {
	if len(numbers) == 0 {
		return nil, nil
	}
	return all(r, func(row pgx.Rows) (v issuer.Verifier, err error) {
		var since int64
		err = row.Scan(&v.Node, &v.Number, &v.Process, &v.Name, &v.Key, &v.Address, &since)
		v.Since = instant(since)
		return v, err
	}, `SELECT node, number, process, name, key, address, since FROM quash.verifier WHERE node = $1 AND number = ANY($2) ORDER BY number`,
		node, column(numbers, func(n *uint32) int64 { return int64(*n) }))
}

// PutVerifier implements [issuer.Tx].
func (t *tx) PutVerifier(v issuer.Verifier) error {
	err := t.write(`
		INSERT INTO quash.verifier (node, number, process, name, key, address, since) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT DO NOTHING`,
		v.Node, int64(v.Number), v.Process, v.Name, v.Key, v.Address, stamp(v.Since))
	if err != nil {
		return fmt.Errorf("put verifier: %w", err)
	}
	return nil
}

// Confirmations implements [issuer.Reader]. The index has the ranges of each
// node one behind the other, so it is read at one place for each node.
func (r *reader) Confirmations(position uint64) ([]issuer.Confirmation, error) {
	return all(r, scanConfirmation, `
		WITH RECURSIVE known (id) AS (
			(SELECT node FROM quash.confirmation ORDER BY node LIMIT 1)
			UNION ALL
			SELECT (SELECT c.node FROM quash.confirmation c WHERE c.node > known.id ORDER BY c.node LIMIT 1) FROM known WHERE known.id IS NOT NULL
		)
		SELECT c.node, c.first, c.last, c.began, c.took, c.confirmed, c.lost, c.gone, c.outcomes
		FROM known CROSS JOIN LATERAL (SELECT * FROM quash.confirmation WHERE node = known.id AND last >= $1 ORDER BY last LIMIT 1) c
		WHERE c.first <= $1 ORDER BY c.node`, int64(position))
}

func scanConfirmation(row pgx.Rows) (c issuer.Confirmation, err error) {
	var first, last, began int64
	var outcomes []byte
	err = row.Scan(&c.Node, &first, &last, &began, (*int64)(&c.Took), &c.Confirmed, &c.Lost, &c.Left, &outcomes)
	if err != nil {
		return c, err
	}
	c.First, c.Last, c.Began = uint64(first), uint64(last), instant(began)
	if c.Outcomes, err = issuer.DecodeOutcomes(outcomes); err != nil {
		return c, fmt.Errorf("evidence of node %s for record %d: %w", c.Node, c.First, err)
	}
	return c, nil
}

// PutConfirmation implements [issuer.Tx].
func (t *tx) PutConfirmation(c issuer.Confirmation) error {
	err := t.write(`
		INSERT INTO quash.confirmation (node, first, last, began, took, confirmed, lost, gone, outcomes)
		SELECT $1::text, $2::bigint, $3::bigint, $4::bigint, $5::bigint, $6::int, $7::int, $8::int, $9::bytea
		WHERE coalesce((SELECT first FROM quash.confirmation WHERE node = $1 AND last >= $2 ORDER BY last LIMIT 1) > $3, true)`,
		c.Node, int64(c.First), int64(c.Last), stamp(c.Began), int64(c.Took), c.Confirmed, c.Lost, c.Left, issuer.EncodeOutcomes(c.Outcomes))
	if err != nil {
		return fmt.Errorf("put confirmation: %w", err)
	}
	return nil
}
