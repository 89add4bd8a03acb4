package issuer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"

	"golang.org/x/text/secure/precis"
)

// NewAccount is an account to be made.
type NewAccount struct {
	Subject  string          // 1 to 128 visible ASCII characters; empty: one is made up
	Name     string          // what it logs in with; empty where an application keeps the password
	Password string          // empty: it cannot log in with one until one is set
	Claims   json.RawMessage // see Account
}

// CreateAccount makes an account, or a subject without a password.
func (i *Issuer) CreateAccount(ctx context.Context, by Actor, n NewAccount) (Account, error) {
	a := Account{Subject: n.Subject}
	setDefault(&a.Subject, a.Subject == "", newID("u_"))
	var err error
	if err = checkSubject(a.Subject); err != nil {
		return Account{}, err
	}
	if n.Password != "" && n.Name == "" {
		return Account{}, errNameless
	}
	if a.Name, err = accountName(n.Name); err != nil {
		return Account{}, err
	}
	if a.Claims, err = checkClaims(n.Claims); err != nil {
		return Account{}, err
	}
	if n.Password != "" {
		if a.Password, err = i.newPassword(ctx, a.Name, n.Password); err != nil {
			return Account{}, err
		}
	}
	_, err = i.store.Update(ctx, func(tx Tx) error {
		switch _, err := tx.Account(a.Subject); {
		case err == nil:
			return refuse(CodeConflict, "another account has this subject; choose a different one")
		case !errors.Is(err, ErrNotFound):
			return err
		}
		a.Created, a.Changed = tx.Now(), tx.Now()
		return insertAccount(tx, by, a)
	})
	return a, explain("account", err)
}

var errNameless = refuse(CodeInvalid, "name: a password needs a name to log in with")

// checkSubject refuses what no account can have as its subject.
func checkSubject(subject string) error {
	switch {
	case !visible(subject, 1, 128):
		return refuse(CodeInvalid, "subject: want 1 to 128 visible ASCII characters")
	case strings.HasPrefix(subject, clientPrefix):
		return refuse(CodeInvalid, "subject: %s begins those of clients; choose another", clientPrefix)
	}
	return nil
}

func insertAccount(tx Tx, by Actor, a Account) error {
	if err := tx.PutAccount(a); err != nil {
		return err
	}
	return tx.AppendAudit(AuditEntry{Time: tx.Now(), Event: accountCreated.Name, Actor: by.Name, Address: by.Address, Subject: a.Subject})
}

const maxName = 128 // octets

var errName = refuse(CodeInvalid, "name: want 1 to 128 octets of letters, digits and punctuation, without spaces (RFC 8265)")

// accountName returns a name in the form in which names are compared: RFC
// 8265, section 3.3, which folds case.
func accountName(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	if len(name) > maxName {
		return "", errName
	}
	folded, err := precis.UsernameCaseMapped.String(name)
	if err != nil || len(folded) > maxName {
		return "", errName
	}
	return folded, nil
}

// Account returns the account of a subject.
func (i *Issuer) Account(ctx context.Context, subject string) (a Account, err error) {
	err = i.store.View(ctx, func(rd Reader) error {
		a, err = rd.Account(subject)
		return err
	})
	return a, explain("account", err)
}

// AccountNamed returns the account that logs in with a name.
func (i *Issuer) AccountNamed(ctx context.Context, name string) (a Account, err error) {
	folded, err := accountName(name)
	if err != nil {
		return a, err
	}
	err = i.store.View(ctx, func(rd Reader) error {
		a, err = rd.AccountNamed(folded)
		return err
	})
	return a, explain("account", err)
}

// Accounts lists accounts in the order of their subjects, after one of them,
// at most limit.
func (i *Issuer) Accounts(ctx context.Context, after string, limit int) (all []Account, err error) {
	err = i.store.View(ctx, func(rd Reader) error {
		all, err = rd.Accounts(after, min(limit, maxListed))
		return err
	})
	return all, explain("account", err)
}

// changeAccount lets edit change an account's row and carries out the event
// in the same transaction.
func (i *Issuer) changeAccount(ctx context.Context, e Event, by Actor, t Target, edit func(*Account) error) (Effect, error) {
	out, err := i.update(ctx, t.DryRun, func(tx Tx, out *Effect) error {
		a, err := tx.Account(t.Subject)
		if err != nil {
			return err
		}
		if err := edit(&a); err != nil {
			return err
		}
		a.Changed = tx.Now()
		if err := tx.PutAccount(a); err != nil {
			return err
		}
		return i.apply(tx, e, by, t, out)
	})
	return out, explain("account", err)
}

// Deactivate refuses further logins of a subject and ends all it has.
func (i *Issuer) Deactivate(ctx context.Context, by Actor, t Target) (Effect, error) {
	return i.changeAccount(ctx, Deactivated, by, t, func(a *Account) error {
		a.Deactivated = true
		return nil
	})
}

// Reactivate allows logins again. It revives nothing.
func (i *Issuer) Reactivate(ctx context.Context, by Actor, t Target) (Effect, error) {
	return i.changeAccount(ctx, Reactivated, by, t, func(a *Account) error {
		a.Deactivated = false
		return nil
	})
}

// Delete ends all that a subject has and deletes its rows, but for the audit.
func (i *Issuer) Delete(ctx context.Context, by Actor, t Target) (Effect, error) {
	out, err := i.update(ctx, t.DryRun, func(tx Tx, out *Effect) error {
		if _, err := tx.Account(t.Subject); err != nil {
			return err
		}
		if err := i.apply(tx, Deleted, by, t, out); err != nil {
			return err
		}
		return tx.DeleteAccount(t.Subject)
	})
	return out, explain("account", err)
}

// PutClaims replaces a subject's document of claims. Tokens with the old ones
// die; sessions go on, and their next refresh carries the new ones. A document
// that says the same changes nothing.
func (i *Issuer) PutClaims(ctx context.Context, by Actor, t Target, claims json.RawMessage) (Effect, error) {
	doc, err := checkClaims(claims)
	if err != nil {
		return Effect{}, err
	}
	out, err := i.changeAccount(ctx, ClaimsChanged, by, t, func(a *Account) error {
		if bytes.Equal(a.Claims, doc) {
			return errSame
		}
		a.Claims = doc
		return nil
	})
	if errors.Is(err, errSame) {
		return Effect{Event: ClaimsChanged.Name, DryRun: t.DryRun}, nil
	}
	return out, err
}

var errSame = refuse(CodeConflict, "the claims are the same as before")
