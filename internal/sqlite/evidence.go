package sqlite

import (
	"database/sql"
	"encoding/json"
	"fmt"

	"github.com/quashdev/quash/internal/issuer"
)

// Nodes implements [issuer.Reader].
func (r *reader) Nodes() ([]issuer.Node, error) {
	return all(r.c, func(row scanner) (n issuer.Node, err error) {
		var counter, floor int64
		var started instant
		err = row.Scan(&n.ID, &n.Issuer, &counter, &floor, &n.Lease, &started, &n.Owed)
		n.Counter, n.Floor, n.Started = uint64(counter), uint64(floor), started.time()
		return n, err
	}, `SELECT id, issuer, counter, floor, lease, started, owed FROM node ORDER BY id`)
}

// PutNode implements [issuer.Tx].
func (t *tx) PutNode(n issuer.Node) error {
	_, err := t.c.exec(`
		INSERT OR REPLACE INTO node (id, issuer, counter, floor, lease, started, owed) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		n.ID, n.Issuer, int64(n.Counter), int64(n.Floor), int64(n.Lease), stamp(n.Started), n.Owed)
	if err == nil {
		t.ledger.nodes, err = t.Nodes()
	}
	if err != nil {
		return fmt.Errorf("put node: %w", err)
	}
	return nil
}

// DeleteNode implements [issuer.Tx].
func (t *tx) DeleteNode(id string) (err error) {
	if err := t.deleteOne(`DELETE FROM node WHERE id = ?`, id); err != nil {
		return err
	}
	t.ledger.nodes, err = t.Nodes()
	return err
}

// Verifiers implements [issuer.Reader].
func (r *reader) Verifiers(node string, numbers []uint32) ([]issuer.Verifier, error) {
	if len(numbers) == 0 {
		return nil, nil
	}
	list, err := json.Marshal(numbers)
	if err != nil {
		return nil, fmt.Errorf("list the numbers of verifiers: %w", err)
	}
	return all(r.c, func(row scanner) (v issuer.Verifier, err error) {
		var since instant
		err = row.Scan(&v.Node, &v.Number, &v.Process, &v.Name, &v.Key, &v.Address, &since)
		v.Since = since.time()
		return v, err
	}, `
		SELECT node, number, process, name, key, address, since FROM verifier
		WHERE node = ? AND number IN (SELECT value FROM json_each(?)) ORDER BY number`, node, string(list))
}

// PutVerifier implements [issuer.Tx].
func (t *tx) PutVerifier(v issuer.Verifier) error {
	_, err := t.c.exec(`
		INSERT INTO verifier (node, number, process, name, key, address, since) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT DO NOTHING`,
		v.Node, v.Number, v.Process, v.Name, v.Key, v.Address, stamp(v.Since))
	if err != nil {
		return fmt.Errorf("put verifier: %w", err)
	}
	return nil
}

// Confirmations implements [issuer.Reader]. The index has the ranges of each
// node one behind the other, so it is read at one place for each node.
func (r *reader) Confirmations(position uint64) ([]issuer.Confirmation, error) {
	return all(r.c, scanConfirmation, `
		WITH RECURSIVE known (id) AS (
			SELECT min(node) FROM confirmation
			UNION ALL
			SELECT (SELECT min(node) FROM confirmation WHERE node > known.id) FROM known WHERE known.id IS NOT NULL
		)
		SELECT node, first, last, began, took, confirmed, lost, gone, outcomes
		FROM known CROSS JOIN confirmation ON node = id AND last = (SELECT min(last) FROM confirmation WHERE node = id AND last >= ?1)
		WHERE first <= ?1 ORDER BY node`, int64(position))
}

func scanConfirmation(row scanner) (c issuer.Confirmation, err error) {
	var began instant
	var outcomes sql.RawBytes
	err = row.Scan(&c.Node, &c.First, &c.Last, &began, &c.Took, &c.Confirmed, &c.Lost, &c.Left, &outcomes)
	if err != nil {
		return c, err
	}
	c.Began = began.time()
	if c.Outcomes, err = issuer.DecodeOutcomes(outcomes); err != nil {
		return c, fmt.Errorf("evidence of node %s for record %d: %w", c.Node, c.First, err)
	}
	return c, nil
}

// PutConfirmation implements [issuer.Tx].
func (t *tx) PutConfirmation(c issuer.Confirmation) error {
	_, err := t.c.exec(`
		INSERT INTO confirmation (node, first, last, began, took, confirmed, lost, gone, outcomes)
		SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9
		WHERE coalesce((SELECT first FROM confirmation WHERE node = ?1 AND last >= ?2 ORDER BY last LIMIT 1) > ?3, true)`,
		c.Node, int64(c.First), int64(c.Last), stamp(c.Began), int64(c.Took), c.Confirmed, c.Lost, c.Left, issuer.EncodeOutcomes(c.Outcomes))
	if err != nil {
		return fmt.Errorf("put confirmation: %w", err)
	}
	return nil
}
