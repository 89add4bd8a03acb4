package issuer_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"

	"github.com/quashdev/quash/internal/issuer"
)

func bcryptHash(t testing.TB, variant, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return variant + strings.TrimPrefix(string(hash), "$2a$")
}

// phc returns an Argon2 hash of little cost in PHC form.
func phc(variant, password string) string {
	derive, salt := argon2.IDKey, []byte("0123456789abcdef")
	if variant == "argon2i" {
		derive = argon2.Key
	}
	text := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$%s$v=19$m=64,t=3,p=4$%s$%s", variant, text(salt), text(derive([]byte(password), salt, 3, 64, 4, 32)))
}

// ownHash returns a hash as this program makes them.
func ownHash(password string) string {
	salt, text := []byte("0123456789abcdef"), base64.RawStdEncoding.EncodeToString
	return ownForm + text(salt) + "$" + text(argon2.IDKey([]byte(password), salt, 2, 19456, 1, 32))
}

func (h *house) imports(update bool, rows ...issuer.ImportedAccount) issuer.Imported {
	h.t.Helper()
	out, err := h.ImportAccounts(h.ctx(), admin, rows, update)
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

func (h *house) hashOf(subject string) string {
	h.t.Helper()
	a, err := h.Account(h.ctx(), subject)
	if err != nil {
		h.t.Fatal(err)
	}
	return a.Password
}

const ownForm = "$argon2id$v=19$m=19456,t=2,p=1$"

func TestImportedHashesLogInAndAreRenewed(t *testing.T) {
	short := "hunter2" // what was good elsewhere goes on
	for name, hash := range map[string]string{
		"2a":       bcryptHash(t, "$2a$", short),
		"2b":       bcryptHash(t, "$2b$", short),
		"2y":       bcryptHash(t, "$2y$", short),
		"argon2id": phc("argon2id", short),
		"argon2i":  phc("argon2i", short),
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			row := issuer.ImportedAccount{Subject: subject, Name: "ada", PasswordHash: hash}
			if got := h.imports(false, row); got.Created != 1 {
				t.Fatalf("got %+v, want one made", got)
			}
			_, err := h.login("ada", short+"!")
			h.refused("a wrong password", err, issuer.CodeCredentials)
			if got := h.hashOf(subject); got != hash {
				t.Errorf("after a wrong password the hash is %q, want it as imported", got)
			}
			g, err := h.login("ada", short)
			if err != nil {
				t.Fatal(err)
			}
			if got := h.hashOf(subject); !strings.HasPrefix(got, ownForm) {
				t.Errorf("after the login the hash is %.40q, want one of our own", got)
			}
			if h.head() != 0 {
				t.Error("renewing a hash revoked something: it is the same password")
			}
			h.lives("the login that renewed it", g.AccessToken, true)
			if _, err := h.login("ada", short); err != nil {
				t.Errorf("login with the renewed hash: %v", err)
			}
			if got := h.imports(false, row); got.Same != 1 {
				t.Errorf("importing it again after that: %+v, want that it is the same", got)
			}
			if got := h.imports(true, row); got.Same != 1 {
				t.Errorf("and with update: %+v, want that the old hash does not come back", got)
			}
		})
	}
}

// Keyboards exist that give characters in another than the normal form, and
// systems that hash them so.
func TestImportedHashOfAnotherForm(t *testing.T) {
	h := open(t)
	decomposed, composed := "cafe\u0301", "caf\u00e9"
	h.imports(false, issuer.ImportedAccount{Subject: subject, Name: "ada", PasswordHash: phc("argon2id", decomposed)})
	for _, typed := range []string{decomposed, composed} {
		if _, err := h.login("ada", typed); err != nil {
			t.Errorf("login with %+q: %v", typed, err)
		}
	}
}

func TestRenewingAHashNeverOverwritesAChange(t *testing.T) {
	h := open(t)
	h.imports(false, issuer.ImportedAccount{Subject: subject, Name: "ada", PasswordHash: bcryptHash(t, "$2a$", "hunter2")})
	h.store.updating = func() {
		h.store.updating = nil
		if _, err := h.SetPassword(t.Context(), admin, issuer.Target{Subject: subject}, newPassword); err != nil {
			t.Error(err)
		}
	}
	if _, err := h.login("ada", "hunter2"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.login("ada", newPassword); err != nil {
		t.Errorf("login with what was set while the hash was renewed: %v", err)
	}
	_, err := h.login("ada", "hunter2")
	h.refused("login with the old one", err, issuer.CodeCredentials)
}

func TestLoginSucceedsThoughAnotherRenewsTheHash(t *testing.T) {
	h := open(t)
	h.imports(false, issuer.ImportedAccount{Subject: subject, Name: "ada", PasswordHash: bcryptHash(t, "$2a$", "hunter2")})
	h.store.issuing = func() { // once the password was checked
		h.store.issuing = nil
		if _, err := h.login("ada", "hunter2"); err != nil {
			t.Error(err)
		}
	}
	if _, err := h.login("ada", "hunter2"); err != nil {
		t.Errorf("the same password, checked against the hash before: %v", err)
	}
	if got := h.hashOf(subject); !strings.HasPrefix(got, ownForm) {
		t.Errorf("the hash is %.40q, want one of our own", got)
	}
}

func TestLoginStandsThoughRenewingFails(t *testing.T) {
	h := open(t)
	hash := bcryptHash(t, "$2a$", "hunter2")
	h.imports(false, issuer.ImportedAccount{Subject: subject, Name: "ada", PasswordHash: hash})
	ctx, leave := context.WithCancel(t.Context())
	h.store.updating = leave
	if _, err := h.Login(ctx, issuer.LoginRequest{Name: "ada", Password: "hunter2"}); err != nil {
		t.Fatal(err)
	}
	h.store.updating = nil
	if got := h.hashOf(subject); got != hash {
		t.Errorf("the hash is %q, want the imported one", got)
	}
}

func TestImportRefusesHashesThatCouldStopTheServer(t *testing.T) {
	h := open(t)
	salt, key := "MDEyMzQ1Njc4OWFiY2RlZg", strings.Repeat("A", 43)
	bcrypt53 := strings.Repeat("a", 53)
	for _, hash := range []string{
		"$argon2id$v=19$m=131073,t=1,p=1$" + salt + "$" + key,
		"$argon2id$v=19$m=131072,t=5,p=1$" + salt + "$" + key,
		"$argon2id$v=19$m=64,t=999999999,p=1$" + salt + "$" + key,
		"$argon2id$v=19$m=999999999,t=1,p=1$" + salt + "$" + key,
		"$argon2id$v=19$m=136,t=1,p=17$" + salt + "$" + key,
		"$argon2id$v=19$m=1,t=524288,p=16$" + salt + "$" + key, // would take 128 KiB, 524288 times
		"$argon2id$v=19$m=127,t=1,p=16$" + salt + "$" + key,
		"$argon2id$v=19$m=64,t=0,p=1$" + salt + "$" + key,
		"$argon2id$v=19$m=64,t=1,p=0$" + salt + "$" + key,
		"$argon2id$v=19$m=0,t=1,p=1$" + salt + "$" + key,
		"$argon2id$v=16$m=64,t=1,p=1$" + salt + "$" + key,
		"$argon2d$v=19$m=64,t=1,p=1$" + salt + "$" + key,
		"$argon2id$v=19$m=64,t=1,p=1$AAAA$" + key,
		"$argon2id$v=19$m=64,t=1,p=1$" + salt + "$AAAA",
		"$argon2id$v=19$m=64,t=1,p=1$" + salt + "$" + strings.Repeat("A", 90),
		"$argon2id$v=19$m=64,t=1,p=1$" + salt + "$" + strings.Repeat("A", 1000),
		"$2a$15$" + bcrypt53, "$2a$31$" + bcrypt53, "$2a$99$" + bcrypt53, "$2a$03$" + bcrypt53,
		"$2x$10$" + bcrypt53, "$2a$10$" + bcrypt53[1:], "$2a$10$" + bcrypt53 + "a",
		"$1$abc$def", "5f4dcc3b5aa765d61d8327deb882cf99", "hunter2",
	} {
		got := h.imports(false, issuer.ImportedAccount{Subject: subject, Name: "ada", PasswordHash: hash})
		if len(got.Refused) != 1 || got.Refused[0].Reason.Code != issuer.CodeInvalid || !strings.HasPrefix(got.Refused[0].Reason.Detail, "password_hash: ") {
			t.Errorf("%.60s: got %+v, want it refused", hash, got)
			continue
		}
		if strings.Contains(got.Refused[0].Reason.Detail, key) || strings.Contains(got.Refused[0].Reason.Detail, bcrypt53) {
			t.Errorf("%.60s: the answer holds the hash", hash)
		}
	}
	if _, err := h.Account(t.Context(), subject); issuer.CodeOf(err) != issuer.CodeNotFound {
		t.Errorf("a refused row made an account: %v", err)
	}
}

// A row that got past the import, by a restore or by hand, is not run either.
func TestLoginRunsNoHashThatCouldStopTheServer(t *testing.T) {
	h := open(t)
	row := issuer.Account{Subject: subject, Name: "ada", Claims: json.RawMessage("{}"), Password: "$argon2id$v=19$m=999999999,t=99,p=1$MDEyMzQ1Njc4OWFiY2RlZg$" + strings.Repeat("A", 43)}
	if _, err := h.store.Update(t.Context(), func(tx issuer.Tx) error { return tx.PutAccount(row) }); err != nil {
		t.Fatal(err)
	}
	before := h.PasswordHashes()
	_, err := h.login("ada", password)
	h.refused("login", err, issuer.CodeUnavailable)
	if h.PasswordHashes() != before {
		t.Error("the hash was run")
	}
}

func TestImportRefusesARowAndGoesOn(t *testing.T) {
	h := open(t)
	h.account(issuer.NewAccount{Subject: "u_bob", Name: "bob"})
	rows := []issuer.ImportedAccount{
		{Subject: "u_1", Name: "ann", PasswordHash: phc("argon2id", "hunter2"), Claims: json.RawMessage(`{"role":"editor"}`)},
		{},
		{Name: "a b"},
		{Subject: "\n"},
		{Subject: "u_2", Password: password},
		{Subject: "u_2", Name: "eve", Password: "short"},
		{Subject: "u_2", Name: "eve", Password: password, PasswordHash: phc("argon2id", "hunter2")},
		{Subject: "u_2", Name: "eve", Claims: json.RawMessage(`{"iss":"me"}`)},
		{Subject: "u_2", Name: "BOB"},
		{Subject: "u_bob", Name: "robert"},
		{Subject: "u_bob", Claims: json.RawMessage(`{"role":"editor"}`)},
		{Subject: "client:shop"},
		{Subject: "u_3", Deactivated: new(true)},
	}
	got := h.imports(false, rows...)
	var refused []int
	for _, r := range got.Refused {
		refused = append(refused, r.Row)
	}
	if diff := cmp.Diff([]int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, refused); diff != "" || got.Created != 2 {
		t.Errorf("made %d, want 2; refused (-want +got):\n%s", got.Created, diff)
	}
	a, err := h.Account(t.Context(), "u_3")
	if err != nil || !a.Deactivated {
		t.Errorf("got %+v, %v, want it deactivated", a, err)
	}
	before := h.everything()
	if got := h.imports(false, rows[0], rows[12]); got.Same != 2 {
		t.Errorf("again: got %+v, want that both are there", got)
	}
	h.unchanged("importing what is there", before)
}

func TestImportWithUpdateEndsWhatTheChangeEnds(t *testing.T) {
	h := open(t)
	h.imports(false, issuer.ImportedAccount{Subject: subject, Name: "ada", PasswordHash: phc("argon2id", "hunter2")})
	for _, tt := range []struct {
		what     string
		row      issuer.ImportedAccount
		sessions int
	}{
		{"claims", issuer.ImportedAccount{Claims: json.RawMessage(`{"role":"editor"}`)}, 1},
		{"password", issuer.ImportedAccount{Name: "ada", Password: password}, 0},
		{"deactivated", issuer.ImportedAccount{Deactivated: new(true)}, 0},
	} {
		g := h.session(subject)
		tt.row.Subject = subject
		if got := h.imports(false, tt.row); len(got.Refused) != 1 || got.Refused[0].Reason.Code != issuer.CodeConflict {
			t.Errorf("%s, without update: got %+v, want a conflict", tt.what, got)
		}
		h.lives(tt.what+", refused", g.AccessToken, true)
		if got := h.imports(true, tt.row); got.Updated != 1 || got.Position != h.head() {
			t.Errorf("%s: got %+v, want it updated at position %d", tt.what, got, h.head())
		}
		h.lives(tt.what, g.AccessToken, false)
		if _, found := h.row(g.Session); found != (tt.sessions > 0) {
			t.Errorf("%s: the session is there: %t", tt.what, found)
		}
		if got := h.imports(true, tt.row); got.Same != 1 {
			t.Errorf("%s, again: got %+v, want that it is the same", tt.what, got)
		}
	}
}

// Nothing says which of two hashes is newer, whatever made them: the account's own
// stays.
func TestImportedHashNeverReplacesAPassword(t *testing.T) {
	for name, hash := range map[string]string{
		"with our parameters": ownHash("hunter2"),
		"with others":         phc("argon2id", "hunter2"),
		"bcrypt":              bcryptHash(t, "$2b$", "hunter2"),
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			row := issuer.ImportedAccount{Subject: subject, Name: "ada", PasswordHash: hash}
			h.imports(false, row)
			if _, err := h.SetPassword(t.Context(), admin, issuer.Target{Subject: subject}, newPassword); err != nil {
				t.Fatal(err)
			}
			before := h.everything()
			for _, update := range []bool{false, true} {
				if got := h.imports(update, row); got.Same != 1 {
					t.Errorf("again, update %t: got %+v, want that it is the same", update, got)
				}
			}
			h.unchanged("importing the old hash again", before)
			row.Claims = json.RawMessage(`{"role":"editor"}`)
			if got := h.imports(true, row); got.Updated != 1 {
				t.Errorf("with other claims: got %+v, want it updated", got)
			}
			if _, err := h.login("ada", newPassword); err != nil {
				t.Errorf("login with what was set here: %v", err)
			}
		})
	}
}

func TestImportNamesASubject(t *testing.T) {
	h := open(t)
	g := h.session(subject)
	row := issuer.ImportedAccount{Subject: subject, Name: "ada", PasswordHash: phc("argon2id", "hunter2")}
	if got := h.imports(true, row); got.Updated != 1 {
		t.Fatalf("got %+v, want it updated", got)
	}
	h.lives("the session from before it had a password", g.AccessToken, false)
	if _, err := h.login("ada", "hunter2"); err != nil {
		t.Error(err)
	}
}

func TestImportIsBounded(t *testing.T) {
	h := open(t)
	_, err := h.ImportAccounts(t.Context(), admin, nil, false)
	h.refused("no rows", err, issuer.CodeInvalid)
	_, err = h.ImportAccounts(t.Context(), admin, make([]issuer.ImportedAccount, issuer.MaxImported+1), false)
	h.refused("too many rows", err, issuer.CodeInvalid)
	many := make([]issuer.ImportedAccount, 51)
	for i := range many {
		many[i] = issuer.ImportedAccount{Name: fmt.Sprint("user", i), Password: password}
	}
	before := h.PasswordHashes()
	_, err = h.ImportAccounts(t.Context(), admin, many, false)
	h.refused("too many passwords", err, issuer.CodeInvalid)
	if h.PasswordHashes() != before {
		t.Error("it was found after hashing")
	}
}
