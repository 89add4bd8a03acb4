package issuer

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
)

// ImportedAccount is an account as another system has it. What is left out is
// the default in an account that is made, and stays in one that is there.
type ImportedAccount struct {
	Subject      string          // as in NewAccount; empty: that of the account with the name, or one is made up
	Name         string          // what it logs in with; this or the subject is required
	Password     string          // held to the rules of new ones
	PasswordHash string          // in the place of Password: bcrypt, or Argon2id or Argon2i in PHC form
	Claims       json.RawMessage // see Account
	Deactivated  *bool
}

// MaxImported is how many accounts one call imports, so that no revocation waits
// long for its transaction; and maxImportedPasswords how many of them may come
// with a password that is still to be hashed.
const (
	MaxImported          = 200
	maxImportedPasswords = 50
)

// Imported says what became of the accounts of an import.
type Imported struct {
	Created, Updated, Same int
	Refused                []RefusedRow
	Position               uint64 // of the last revocation that updates made; 0 where there was none
}

// RefusedRow is an account that was not imported.
type RefusedRow struct {
	Row    int // in the order of the call, from 0
	Reason *Error
}

// ImportAccounts makes accounts, all that can be in one transaction, so that
// it can be repeated whenever its answer was lost. An account that is there, by
// its subject or else its name, and is as the row says stays as it is. One that
// differs is refused, or with update made so, by the same rules as single
// changes: what a change of password, claims or state ends, ends.
//
// An imported hash is checked against as it is, and renewed at the next login.
// It is taken by an account that has no password, and passed over by any other:
// nothing says which of two hashes is newer. A password that is not hashed yet is
// set by an update as by [Issuer.SetPassword]. A subject that has no name gets
// one; a name that is there is not changed.
func (i *Issuer) ImportAccounts(ctx context.Context, by Actor, rows []ImportedAccount, update bool) (Imported, error) {
	if len(rows) == 0 || len(rows) > MaxImported {
		return Imported{}, refuse(CodeInvalid, "accounts: want 1 to %d of them, got %d", MaxImported, len(rows))
	}
	passwords := 0
	for _, row := range rows {
		if row.Password != "" {
			passwords++
		}
	}
	if passwords > maxImportedPasswords {
		return Imported{}, refuse(CodeInvalid, "accounts: %d of them have a password that is still to be hashed; send at most %d at a time", passwords, maxImportedPasswords)
	}
	batch, refused, err := i.readRows(ctx, rows)
	if err != nil {
		return Imported{}, err
	}
	var out Imported
	commit, err := i.store.Update(ctx, func(tx Tx) error {
		out = Imported{Refused: slices.Clone(refused)}
		for _, r := range batch {
			counter, err := i.importRow(tx, by, r, update, &out)
			if refusal, ok := errors.AsType[*Error](err); ok {
				out.Refused = append(out.Refused, RefusedRow{r.row, refusal})
				continue
			}
			if err != nil {
				return err
			}
			*counter++
		}
		return nil
	})
	if err != nil {
		return Imported{}, explain("account", err)
	}
	slices.SortFunc(out.Refused, func(a, b RefusedRow) int { return cmp.Compare(a.Row, b.Row) })
	out.Position = commit.Last
	return out, nil
}

// importedRow is a row that has been checked.
type importedRow struct {
	ImportedAccount
	row  int
	hash string // what its password is checked against; empty where it brings none
	// seen is the hash that the account had when a password that the row brings
	// was hashed, or found to be the same; nil where it brings none.
	seen *string
}

// readRows checks rows by themselves, and hashes their passwords.
func (i *Issuer) readRows(ctx context.Context, rows []ImportedAccount) (batch []importedRow, refused []RefusedRow, err error) {
	for n, row := range rows {
		r := importedRow{ImportedAccount: row, row: n}
		err := r.check()
		if err == nil && row.Password != "" {
			err = i.hashRow(ctx, &r)
		}
		refusal, ok := errors.AsType[*Error](err)
		switch {
		case ok && (refusal.Code == CodeInvalid || refusal.Code == CodePassword):
			refused = append(refused, RefusedRow{n, refusal})
		case err != nil:
			return nil, nil, err
		default:
			batch = append(batch, r)
		}
	}
	return batch, refused, nil
}

// check refuses what can be said of a row by itself, and brings the rest into
// the form that is stored.
func (r *importedRow) check() (err error) {
	switch {
	case r.Subject == "" && r.Name == "":
		return refuse(CodeInvalid, "want a name or a subject")
	case r.Password != "" && r.PasswordHash != "":
		return refuse(CodeInvalid, "want a password or a password_hash, not both")
	case r.Name == "" && r.Password+r.PasswordHash != "":
		return errNameless
	}
	if r.Subject != "" {
		if err := checkSubject(r.Subject); err != nil {
			return err
		}
	}
	if r.Name, err = accountName(r.Name); err != nil {
		return err
	}
	if len(r.Claims) > 0 {
		if r.Claims, err = checkClaims(r.Claims); err != nil {
			return err
		}
	}
	if r.PasswordHash != "" {
		_, err = parseHash(r.PasswordHash)
		r.hash = r.PasswordHash
	}
	return err
}

// hashRow hashes a row's password unless it is the account's already.
func (i *Issuer) hashRow(ctx context.Context, r *importedRow) error {
	var a Account
	err := i.store.View(ctx, func(rd Reader) (err error) {
		a, err = r.account(rd)
		return err
	})
	if err != nil && !errors.Is(err, ErrNotFound) {
		return explain("account", err)
	}
	r.seen = &a.Password
	if a.Password != "" {
		if same, _, err := i.hashes.verify(ctx, r.Password, a.Password); err != nil || same {
			return err
		}
	}
	r.hash, err = i.newPassword(ctx, r.Name, r.Password)
	return err
}

// account returns the account that a row means; ErrNotFound.
func (r *importedRow) account(rd Reader) (Account, error) {
	if r.Subject == "" {
		return rd.AccountNamed(r.Name)
	}
	return rd.Account(r.Subject)
}

// importRow makes or changes the account of a row, and returns what counts it.
// A refusal comes before anything is written.
func (i *Issuer) importRow(tx Tx, by Actor, r importedRow, update bool, out *Imported) (*int, error) {
	a, err := r.account(tx)
	found := !errors.Is(err, ErrNotFound)
	if found && err != nil {
		return nil, err
	}
	if r.seen != nil && *r.seen != a.Password {
		return nil, refuse(CodeConflict, "the account's password was changed meanwhile; import the row again")
	}
	if err := r.checkName(tx, a); err != nil {
		return nil, err
	}
	if !found {
		return &out.Created, insertAccount(tx, by, r.made(tx))
	}
	changed, events := r.change(a)
	switch {
	case len(events) == 0:
		return &out.Same, nil
	case !update:
		return nil, refuse(CodeConflict, "an account with this %s is there, and the row would change it (%s); ask for updates to have it so", r.key(), titles(events))
	}
	changed.Changed = tx.Now()
	return &out.Updated, i.updateImported(tx, by, changed, events)
}

// checkName refuses a name that another account has than a, which the row means.
func (r *importedRow) checkName(tx Tx, a Account) error {
	if r.Subject == "" || r.Name == "" || r.Name == a.Name {
		return nil
	}
	if a.Name != "" {
		return refuse(CodeConflict, "the account with this subject has another name, and an import changes none")
	}
	_, err := tx.AccountNamed(r.Name)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err == nil {
		err = refuse(CodeConflict, "another account has this name; choose a different one")
	}
	return err
}

// key is what the row means its account by.
func (r *importedRow) key() string {
	if r.Subject == "" {
		return "name"
	}
	return "subject"
}

func titles(events []Event) string {
	var all []string
	for _, e := range events {
		all = append(all, strings.ReplaceAll(e.Name, "_", " "))
	}
	return strings.Join(all, ", ")
}

// made is a new account.
func (r *importedRow) made(tx Tx) Account {
	a := Account{Subject: r.Subject, Name: r.Name, Password: r.hash, Claims: r.Claims, Created: tx.Now(), Changed: tx.Now()}
	setDefault(&a.Subject, a.Subject == "", newID("u_"))
	setDefault(&a.Claims, len(a.Claims) == 0, json.RawMessage("{}"))
	a.Deactivated = r.Deactivated != nil && *r.Deactivated
	return a
}

// change returns the account as the row says, and what happens to it.
func (r *importedRow) change(a Account) (Account, []Event) {
	var events []Event
	if r.Name != "" && r.Name != a.Name {
		a.Name, events = r.Name, append(events, accountNamed)
	}
	if r.hash != "" && (r.PasswordHash == "" || a.Password == "") {
		a.Password, events = r.hash, append(events, PasswordSet)
	}
	if len(r.Claims) > 0 && !bytes.Equal(r.Claims, a.Claims) {
		a.Claims, events = r.Claims, append(events, ClaimsChanged)
	}
	if r.Deactivated != nil && *r.Deactivated != a.Deactivated {
		event := Reactivated
		if *r.Deactivated {
			event = Deactivated
		}
		a.Deactivated, events = *r.Deactivated, append(events, event)
	}
	return a, events
}

func (i *Issuer) updateImported(tx Tx, by Actor, a Account, events []Event) error {
	if err := tx.PutAccount(a); err != nil {
		return err
	}
	for _, e := range events {
		if err := i.apply(tx, e, by, Target{Subject: a.Subject, Reason: "imported"}, new(Effect)); err != nil {
			return err
		}
	}
	return nil
}
