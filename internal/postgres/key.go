package postgres

import (
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/quashdev/quash/internal/issuer"
)

const selectSigningKeys = `SELECT id, algorithm, public, sealed, created, retired, withdrawn FROM quash.signing_key ORDER BY created, id`

func scanSigningKey(row pgx.Rows) (k issuer.SigningKey, err error) {
	var created, retired int64
	err = row.Scan(&k.ID, &k.Algorithm, (*[]byte)(&k.Public), &k.Sealed, &created, &retired, &k.Withdrawn)
	k.Created, k.Retired = instant(created), instant(retired)
	return k, err
}

// SigningKeys implements [issuer.Reader].
func (r *reader) SigningKeys() ([]issuer.SigningKey, error) {
	c, err := r.catalog()
	if err != nil {
		return nil, err
	}
	if r.l.rekeyed {
		return all(r, scanSigningKey, selectSigningKeys)
	}
	list := slices.Clone(c.keys)
	for i := range list {
		list[i].Public, list[i].Sealed = slices.Clone(list[i].Public), slices.Clone(list[i].Sealed)
	}
	return list, nil
}

// PutSigningKey implements [issuer.Tx].
func (t *tx) PutSigningKey(k issuer.SigningKey) error {
	if _, err := t.catalog(); err != nil {
		return fmt.Errorf("put signing key: %w", err)
	}
	err := t.write(`
		INSERT INTO quash.signing_key (id, algorithm, public, sealed, created, retired, withdrawn) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (id) DO UPDATE SET algorithm = excluded.algorithm, public = excluded.public, sealed = excluded.sealed,
			created = excluded.created, retired = excluded.retired, withdrawn = excluded.withdrawn`,
		k.ID, k.Algorithm, blob(k.Public), k.Sealed, stamp(k.Created), stamp(k.Retired), k.Withdrawn)
	if err != nil {
		return fmt.Errorf("put signing key: %w", err)
	}
	t.u.recast, t.u.rekeyed = true, true
	return nil
}

const selectAPIKey = `SELECT id, name, scopes, hash, previous, previous_until, created, last_used FROM quash.api_key `

func scanAPIKey(row pgx.Rows) (k issuer.APIKey, err error) {
	var scopes []string
	var hash, previous []byte
	var until, created, lastUsed int64
	err = row.Scan(&k.ID, &k.Name, &scopes, &hash, &previous, &until, &created, &lastUsed)
	for _, s := range scopes {
		k.Scopes = append(k.Scopes, issuer.Scope(s))
	}
	copy(k.Hash[:], hash)
	copy(k.Previous[:], previous)
	k.PreviousUntil, k.Created, k.LastUsed = instant(until), instant(created), instant(lastUsed)
	return k, err
}

// APIKey implements [issuer.Reader].
func (r *reader) APIKey(id string) (issuer.APIKey, error) {
	return one(r, scanAPIKey, selectAPIKey+`WHERE id = $1`, id)
}

// APIKeys implements [issuer.Reader].
func (r *reader) APIKeys() ([]issuer.APIKey, error) {
	return all(r, scanAPIKey, selectAPIKey+`ORDER BY created, id`)
}

// PutAPIKey implements [issuer.Tx].
func (t *tx) PutAPIKey(k issuer.APIKey) error {
	if err := t.dirty(); err != nil {
		return err
	}
	others, err := all(t.reader, text, `SELECT id FROM quash.api_key WHERE name = $1 AND id <> $2`, k.Name, k.ID)
	if err == nil && len(others) > 0 {
		err = issuer.ErrExists
	}
	if err != nil {
		return fmt.Errorf("put API key: %w", err)
	}
	scopes := make([]string, len(k.Scopes))
	for i, s := range k.Scopes {
		scopes[i] = string(s)
	}
	err = t.write(`
		INSERT INTO quash.api_key (id, name, scopes, hash, previous, previous_until, created, last_used) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (id) DO UPDATE SET name = excluded.name, scopes = excluded.scopes, hash = excluded.hash,
			previous = excluded.previous, previous_until = excluded.previous_until, created = excluded.created,
			last_used = excluded.last_used`,
		k.ID, k.Name, scopes, k.Hash[:], hash(k.Previous), stamp(k.PreviousUntil), stamp(k.Created), stamp(k.LastUsed))
	if err != nil {
		return fmt.Errorf("put API key: %w", err)
	}
	return nil
}

// DeleteAPIKey implements [issuer.Tx].
func (t *tx) DeleteAPIKey(id string) error {
	return t.deleteOne(`DELETE FROM quash.api_key WHERE id = $1`, id)
}
