package sqlite

import (
	"database/sql"
	"fmt"

	"github.com/quashdev/quash/internal/issuer"
)

const selectAccount = `SELECT subject, name, password, claims, deactivated, created, changed FROM account `

func scanAccount(row scanner) (a issuer.Account, err error) {
	var name sql.NullString
	var created, changed instant
	err = row.Scan(&a.Subject, &name, &a.Password, (*[]byte)(&a.Claims), &a.Deactivated, &created, &changed)
	a.Name, a.Created, a.Changed = name.String, created.time(), changed.time()
	return a, err
}

// Account implements [issuer.Reader].
func (r *reader) Account(subject string) (issuer.Account, error) {
	return one(r.c, scanAccount, selectAccount+`WHERE subject = ?`, subject)
}

// AccountNamed implements [issuer.Reader].
func (r *reader) AccountNamed(name string) (issuer.Account, error) {
	return one(r.c, scanAccount, selectAccount+`WHERE name = ?`, name)
}

// Accounts implements [issuer.Reader].
func (r *reader) Accounts(after string, limit int) ([]issuer.Account, error) {
	return all(r.c, scanAccount, selectAccount+`WHERE subject > ? ORDER BY subject LIMIT ?`, after, max(limit, 0))
}

// AccountClaims implements [issuer.Reader]. It leaps from name to name, as
// there are few of them and many accounts.
func (r *reader) AccountClaims() ([]string, error) {
	return all(r.c, text, `
		WITH RECURSIVE name (claim) AS (
			SELECT min(claim) FROM account_claim
			UNION ALL
			SELECT (SELECT min(c.claim) FROM account_claim c WHERE c.claim > name.claim) FROM name WHERE name.claim IS NOT NULL
		)
		SELECT claim FROM name WHERE claim IS NOT NULL ORDER BY claim`)
}

// PutAccount implements [issuer.Tx].
func (t *tx) PutAccount(a issuer.Account) error {
	_, err := t.c.exec(`
		INSERT INTO account (subject, name, password, claims, deactivated, created, changed) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (subject) DO UPDATE SET name = excluded.name, password = excluded.password, claims = excluded.claims,
			deactivated = excluded.deactivated, created = excluded.created, changed = excluded.changed`,
		a.Subject, null(a.Name), a.Password, blob(a.Claims), a.Deactivated, stamp(a.Created), stamp(a.Changed))
	if err != nil {
		return fmt.Errorf("put account: %w", err)
	}
	if _, err := t.c.exec(`DELETE FROM account_claim WHERE subject = ?`, a.Subject); err != nil {
		return fmt.Errorf("put account: %w", err)
	}
	for _, m := range a.ClaimValues() {
		if _, err := t.c.exec(`INSERT INTO account_claim VALUES (?, ?, ?)`, m.Claim, m.Value, a.Subject); err != nil {
			return fmt.Errorf("put account: claim %s: %w", m.Claim, err)
		}
	}
	return nil
}

// DeleteAccount implements [issuer.Tx].
func (t *tx) DeleteAccount(subject string) error {
	return t.deleteOne(`DELETE FROM account WHERE subject = ?`, subject)
}

// deleteOne is for statements that delete one row.
func (t *tx) deleteOne(query, id string) error {
	n, err := t.c.exec(query, id)
	if err == nil && n == 0 {
		err = issuer.ErrNotFound
	}
	return err
}
