package sqlite

import (
	"errors"
	"fmt"

	"github.com/quashdev/quash/internal/issuer"
)

func scanIssuer(row scanner) (f issuer.Foreign, err error) {
	err = row.Scan(&f.Name, &f.MaxLifetime, &f.SameSubjects)
	return f, err
}

// PutIssuer implements [issuer.Tx].
func (t *tx) PutIssuer(f issuer.Foreign) error {
	if t.issuing {
		return errors.New("put issuer: this transaction issues a token; do it in an update of its own")
	}
	l := t.ledger.log.With(f)
	f, _ = l.Foreign(f.Name)
	if err := t.insertIssuer(f); err != nil {
		return fmt.Errorf("put issuer: %w", err)
	}
	t.ledger.log, t.ledger.changed = l, true
	return nil
}

func (t *tx) insertIssuer(f issuer.Foreign) error {
	_, err := t.c.exec(`
		INSERT INTO issuer (name, max_lifetime, same_subjects) VALUES (?, ?, ?)
		ON CONFLICT (name) DO UPDATE SET max_lifetime = excluded.max_lifetime, same_subjects = excluded.same_subjects`,
		f.Name, int64(f.MaxLifetime), f.SameSubjects)
	return err
}
