package sqlite

import (
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"github.com/quashdev/quash/internal/issuer"
)

// SigningKeys implements [issuer.Reader].
func (r *reader) SigningKeys() ([]issuer.SigningKey, error) {
	return all(r.c, func(row scanner) (k issuer.SigningKey, err error) {
		var created, retired instant
		err = row.Scan(&k.ID, &k.Algorithm, (*[]byte)(&k.Public), &k.Sealed, &created, &retired, &k.Withdrawn)
		k.Created, k.Retired = created.time(), retired.time()
		return k, err
	}, `SELECT id, algorithm, public, sealed, created, retired, withdrawn FROM signing_key ORDER BY created, id`)
}

// SigningKeys implements [issuer.Reader]. Every token that is issued asks for
// them, and the ledger has them.
func (t *tx) SigningKeys() ([]issuer.SigningKey, error) { return slices.Clone(t.ledger.keys), nil }

// PutSigningKey implements [issuer.Tx].
func (t *tx) PutSigningKey(k issuer.SigningKey) error {
	_, err := t.c.exec(`
		INSERT INTO signing_key (id, algorithm, public, sealed, created, retired, withdrawn) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET algorithm = excluded.algorithm, public = excluded.public, sealed = excluded.sealed,
			created = excluded.created, retired = excluded.retired, withdrawn = excluded.withdrawn`,
		k.ID, k.Algorithm, blob(k.Public), blob(k.Sealed), stamp(k.Created), stamp(k.Retired), k.Withdrawn)
	if err == nil {
		t.ledger.keys, err = t.reader.SigningKeys()
	}
	if err != nil {
		return fmt.Errorf("put signing key: %w", err)
	}
	t.ledger.changed = true
	return nil
}

const selectAPIKey = `SELECT id, name, scopes, hash, previous, previous_until, created, last_used FROM api_key `

func scanAPIKey(row scanner) (k issuer.APIKey, err error) {
	var scopes string
	var hash, previous sql.RawBytes
	var until, created, lastUsed instant
	err = row.Scan(&k.ID, &k.Name, &scopes, &hash, &previous, &until, &created, &lastUsed)
	for s := range strings.FieldsSeq(scopes) {
		k.Scopes = append(k.Scopes, issuer.Scope(s))
	}
	copy(k.Hash[:], hash)
	copy(k.Previous[:], previous)
	k.PreviousUntil, k.Created, k.LastUsed = until.time(), created.time(), lastUsed.time()
	return k, err
}

// APIKey implements [issuer.Reader].
func (r *reader) APIKey(id string) (issuer.APIKey, error) {
	return one(r.c, scanAPIKey, selectAPIKey+`WHERE id = ?`, id)
}

// APIKeys implements [issuer.Reader].
func (r *reader) APIKeys() ([]issuer.APIKey, error) {
	return all(r.c, scanAPIKey, selectAPIKey+`ORDER BY created, id`)
}

// PutAPIKey implements [issuer.Tx].
func (t *tx) PutAPIKey(k issuer.APIKey) error {
	scopes := make([]string, len(k.Scopes))
	for i, s := range k.Scopes {
		scopes[i] = string(s)
	}
	_, err := t.c.exec(`
		INSERT INTO api_key (id, name, scopes, hash, previous, previous_until, created, last_used) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET name = excluded.name, scopes = excluded.scopes, hash = excluded.hash,
			previous = excluded.previous, previous_until = excluded.previous_until, created = excluded.created,
			last_used = excluded.last_used`,
		k.ID, k.Name, strings.Join(scopes, " "), k.Hash[:], hash(k.Previous), stamp(k.PreviousUntil), stamp(k.Created), stamp(k.LastUsed))
	if err != nil {
		return fmt.Errorf("put API key: %w", err)
	}
	return nil
}

// DeleteAPIKey implements [issuer.Tx].
func (t *tx) DeleteAPIKey(id string) error {
	return t.deleteOne(`DELETE FROM api_key WHERE id = ?`, id)
}
