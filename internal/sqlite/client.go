package sqlite

import (
	"crypto/sha256"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"github.com/quashdev/quash/internal/issuer"
)

const selectClient = `
	SELECT id, name, method, hash, previous, previous_until, keys, grants, scopes, audience, created, last_used
	FROM client `

func scanClient(row scanner) (c issuer.Client, err error) {
	var grants, scopes, audience string
	var hash, previous sql.RawBytes
	var until, created, lastUsed instant
	err = row.Scan(&c.ID, &c.Name, &c.Method, &hash, &previous, &until, (*[]byte)(&c.Keys), &grants, &scopes, &audience, &created, &lastUsed)
	c.Grants, c.Scopes, c.Audience = words(grants), words(scopes), words(audience)
	copy(c.Hash[:], hash)
	copy(c.Previous[:], previous)
	c.PreviousUntil, c.Created, c.LastUsed = until.time(), created.time(), lastUsed.time()
	return c, err
}

// words is a list as tables hold it, nil where there is nothing in it.
func words(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, " ")
}

// Client implements [issuer.Reader].
func (r *reader) Client(id string) (issuer.Client, error) {
	return one(r.c, scanClient, selectClient+`WHERE id = ?`, id)
}

// Clients implements [issuer.Reader].
func (r *reader) Clients() ([]issuer.Client, error) {
	return all(r.c, scanClient, selectClient+`ORDER BY id`)
}

// PutClient implements [issuer.Tx].
func (t *tx) PutClient(c issuer.Client) error {
	_, err := t.c.exec(`
		INSERT INTO client (id, name, method, hash, previous, previous_until, keys, grants, scopes, audience, created, last_used)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET name = excluded.name, method = excluded.method, hash = excluded.hash,
			previous = excluded.previous, previous_until = excluded.previous_until, keys = excluded.keys, grants = excluded.grants,
			scopes = excluded.scopes, audience = excluded.audience, created = excluded.created, last_used = excluded.last_used`,
		c.ID, c.Name, string(c.Method), hash(c.Hash), hash(c.Previous), stamp(c.PreviousUntil), blob(c.Keys), strings.Join(c.Grants, " "),
		strings.Join(c.Scopes, " "), strings.Join(c.Audience, " "), stamp(c.Created), stamp(c.LastUsed))
	if err != nil {
		return fmt.Errorf("put client: %w", err)
	}
	return nil
}

// DeleteClient implements [issuer.Tx].
func (t *tx) DeleteClient(id string) error {
	return t.deleteOne(`DELETE FROM client WHERE id = ?`, id)
}

// SpendAssertion implements [issuer.Tx].
func (t *tx) SpendAssertion(id [sha256.Size]byte, until time.Time) error {
	n, err := t.c.exec(`INSERT INTO client_assertion (id, expires) VALUES (?, ?) ON CONFLICT DO NOTHING`, id[:], stamp(until))
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
	n, err = t.c.exec(`DELETE FROM client_assertion WHERE id IN (SELECT id FROM client_assertion WHERE expires < ? LIMIT ?)`,
		stamp(now.Add(-assertionMargin)), max(limit, 0))
	return n, err
}
