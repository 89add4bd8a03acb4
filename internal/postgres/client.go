package postgres

import (
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/quashdev/quash/internal/issuer"
)

const selectClient = `
	SELECT id, name, method, hash, previous, previous_until, keys, grants, scopes, audience, created, last_used
	FROM quash.client `

func scanClient(row pgx.Rows) (c issuer.Client, err error) {
	var hash, previous []byte
	var until, created, lastUsed int64
	err = row.Scan(&c.ID, &c.Name, &c.Method, &hash, &previous, &until, (*[]byte)(&c.Keys), &c.Grants, &c.Scopes, &c.Audience, &created, &lastUsed)
	copy(c.Hash[:], hash)
	copy(c.Previous[:], previous)
	c.PreviousUntil, c.Created, c.LastUsed = instant(until), instant(created), instant(lastUsed)
	return c, err
}

// Client implements [issuer.Reader].
func (r *reader) Client(id string) (issuer.Client, error) {
	return one(r, scanClient, selectClient+`WHERE id = $1`, id)
}

// Clients implements [issuer.Reader].
func (r *reader) Clients() ([]issuer.Client, error) {
	return all(r, scanClient, selectClient+`ORDER BY id`)
}

// PutClient implements [issuer.Tx].
func (t *tx) PutClient(c issuer.Client) error {
	if err := t.dirty(); err != nil {
		return err
	}
	err := t.write(`
		INSERT INTO quash.client (id, name, method, hash, previous, previous_until, keys, grants, scopes, audience, created, last_used)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
		ON CONFLICT (id) DO UPDATE SET name = excluded.name, method = excluded.method, hash = excluded.hash,
			previous = excluded.previous, previous_until = excluded.previous_until, keys = excluded.keys, grants = excluded.grants,
			scopes = excluded.scopes, audience = excluded.audience, created = excluded.created, last_used = excluded.last_used`,
		c.ID, c.Name, string(c.Method), hash(c.Hash), hash(c.Previous), stamp(c.PreviousUntil), blob(c.Keys),
		list(c.Grants), list(c.Scopes), list(c.Audience), stamp(c.Created), stamp(c.LastUsed))
	if err != nil {
		return fmt.Errorf("put client: %w", err)
	}
	return nil
}

// list is a list as tables hold it, which is never NULL.
func list(values []string) []string { return append([]string{}, values...) }

// DeleteClient implements [issuer.Tx].
func (t *tx) DeleteClient(id string) error {
	return t.deleteOne(`DELETE FROM quash.client WHERE id = $1`, id)
}

// SpendAssertion implements [issuer.Tx].
func (t *tx) SpendAssertion(id [sha256.Size]byte, until time.Time) error {
	if err := t.dirty(); err != nil {
		return err
	}
	n, err := t.exec(`INSERT INTO quash.client_assertion VALUES ($1, $2) ON CONFLICT DO NOTHING`, id[:], stamp(until))
	if err == nil && n == 0 {
		err = issuer.ErrExists
	}
	if err != nil {
		return fmt.Errorf("spend assertion: %w", err)
	}
	return nil
}

// assertionMargin covers what the clocks of two nodes differ by.
const assertionMargin = time.Minute

func (t *tx) pruneAssertions(now time.Time, limit int) (n int, err error) {
	n, err = t.exec(`DELETE FROM quash.client_assertion WHERE id = ANY(ARRAY(SELECT id FROM quash.client_assertion WHERE expires < $1 LIMIT $2))`,
		stamp(now.Add(-assertionMargin)), max(limit, 0))
	return n, err
}
