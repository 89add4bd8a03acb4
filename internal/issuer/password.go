package issuer

import (
	"cmp"
	"context"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/alexedwards/argon2id"
	"golang.org/x/crypto/argon2"
	"golang.org/x/text/unicode/norm"
)

// Argon2id as OWASP's password storage recommendation has it: 19 MiB, two
// passes, one lane.
var hashing = argon2id.Params{Memory: 19 << 10, Iterations: 2, Parallelism: 1, SaltLength: 16, KeyLength: 32}

const (
	minPassword = 15      // characters: NIST SP 800-63B-4, section 3.1.1.2, for a password that stands alone
	maxPassword = 1 << 10 // octets
)

// hashGate bounds how many passwords are hashed at once to the number of
// cores, because more would share them and the memory of each would add up,
// and how many wait for their turn.
type hashGate struct {
	turns   chan struct{}
	waiting atomic.Int64
	done    atomic.Int64 // hashes made so far
	dummy   string
}

// waiters is how many calls a core may have waiting: about half a second.
const waiters = 16

func newHashGate() *hashGate {
	// No password has this hash, and checking against it costs as much as any. To
	// compute one would take its 19 MiB at each start.
	salt, key := make([]byte, hashing.SaltLength), make([]byte, hashing.KeyLength)
	randomize(salt)
	randomize(key)
	encode := base64.RawStdEncoding.EncodeToString
	dummy := fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s",
		argon2.Version, hashing.Memory, hashing.Iterations, hashing.Parallelism, encode(salt), encode(key))
	return &hashGate{turns: make(chan struct{}, runtime.GOMAXPROCS(0)), dummy: dummy}
}

// run calls fn when its turn has come. It refuses with CodeBusy where too many
// wait already.
func (g *hashGate) run(ctx context.Context, fn func() error) error {
	if g.waiting.Add(1) > int64(cap(g.turns)*(waiters+1)) {
		g.waiting.Add(-1)
		return &Error{Code: CodeBusy, Detail: "too many passwords are being checked; try again in a moment", RetryAfter: time.Second}
	}
	defer g.waiting.Add(-1)
	select {
	case g.turns <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-g.turns }()
	g.done.Add(1)
	return fn()
}

// verify compares a password with a hash, and against nobody's where there is
// none, so that both take the same time. Outdated says that the password is
// good, and that a hash of it made now would be another.
//
// Of what was typed the normal form counts. An imported hash may be of another
// form, which some keyboards give, so that is tried, too.
func (g *hashGate) verify(ctx context.Context, password, hash string) (good, outdated bool, err error) {
	against, err := parseHash(cmp.Or(hash, g.dummy))
	if err != nil {
		return false, false, fmt.Errorf("the stored hash of a password: %v", err) // the caller sent none
	}
	if len(password) > maxPassword {
		password = ""
	}
	outdated = !against.current
	err = g.run(ctx, func() error {
		normal := norm.NFC.String(password)
		if good = against.matches(normal); !good && normal != password {
			good, outdated = against.matches(password), true
		}
		return nil
	})
	good = good && hash != ""
	return good, good && outdated, err
}

// PasswordHashes returns how many passwords were hashed or checked since the
// start.
func (i *Issuer) PasswordHashes() int64 { return i.hashes.done.Load() }

// newPassword checks a new password of the account with a name and hashes it.
func (i *Issuer) newPassword(ctx context.Context, name, password string) (hash string, err error) {
	if err := i.checkPassword(name, password); err != nil {
		return "", err
	}
	return i.hashes.hash(ctx, password)
}

func (g *hashGate) hash(ctx context.Context, password string) (hash string, err error) {
	err = g.run(ctx, func() error {
		hash, err = argon2id.CreateHash(norm.NFC.String(password), &hashing)
		return err
	})
	return hash, err
}

// checkPassword asks for length, and refuses what everybody tries first, or
// tries first for this account. It asks for no kinds of characters (NIST SP
// 800-63B-4, section 3.1.1.2).
func (i *Issuer) checkPassword(name, password string) error {
	if len(password) > maxPassword || !utf8.ValidString(password) {
		return refuse(CodePassword, "the password has more than %d octets, or is not UTF-8", maxPassword)
	}
	normal := norm.NFC.String(password)
	folded := strings.ToLower(normal)
	switch {
	case utf8.RuneCountInString(normal) < minPassword:
		return refuse(CodePassword, "the password is too short: use %d characters or more; a few words do", minPassword)
	case common(folded):
		return refuse(CodePassword, "the password is among the first that attackers try; choose another")
	case made(folded, append(words(name), i.ownWords()...)):
		return refuse(CodePassword, "the password is made of the account's name or the server's; choose another")
	}
	return nil
}

// ownWords are those of the host that the issuer is named by.
func (i *Issuer) ownWords() []string {
	if at, err := url.Parse(i.cfg.Issuer); err == nil && at.Hostname() != "" {
		return words(at.Hostname())
	}
	return words(i.cfg.Issuer)
}

// words are the parts of a name that are long enough to mean something.
func words(name string) []string {
	parts := strings.FieldsFunc(strings.ToLower(name), func(r rune) bool { return !unicode.IsLetter(r) })
	return slices.DeleteFunc(parts, func(w string) bool { return utf8.RuneCountInString(w) < 3 })
}

// made reports whether all the letters of a password are those of the words,
// whatever digits and signs are between and around them.
func made(password string, of []string) bool {
	slices.SortFunc(of, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	rest := password
	for _, word := range of {
		rest = strings.ReplaceAll(rest, word, " ")
	}
	return rest != password && !strings.ContainsFunc(rest, unicode.IsLetter)
}

//go:embed commonpasswords/list.txt
var commonList string

var commonPasswords = sync.OnceValue(func() []string { return strings.Split(strings.TrimSpace(commonList), "\n") })

// common reports whether a password is on the list of common ones, or is one
// of them with digits or signs behind it, or a short piece again and again.
func common(password string) bool {
	padded := strings.TrimRightFunc(password, func(r rune) bool { return !unicode.IsLetter(r) })
	for n := len(password); n >= max(len(padded), 1); n-- {
		if _, found := slices.BinarySearch(commonPasswords(), password[:n]); found {
			return true
		}
	}
	for n := 1; n <= len(password)/2; n++ {
		piece := password[:n]
		_, found := slices.BinarySearch(commonPasswords(), piece)
		if (n <= 4 || found) && strings.HasPrefix(strings.Repeat(piece, len(password)/n+1), password) {
			return true
		}
	}
	return false
}

// PasswordChange is what a user changes a password with.
type PasswordChange struct {
	Refresh RefreshRequest // of the session that goes on
	Old     string
	New     string
}

// ChangePassword changes the password of the session's account, ends its other
// sessions and every access token it has, and gives this session a new pair.
// The refresh token rotates as in [Issuer.Refresh], one that tabs share too,
// after the change has committed: a crash in between leaves the old one usable. Asking for the same
// change again, because the answer was lost, completes it.
func (i *Issuer) ChangePassword(ctx context.Context, r PasswordChange) (Grant, Effect, error) {
	p, err := r.Refresh.read()
	if err != nil {
		return Grant{}, Effect{}, err
	}
	g, out, err := i.changePassword(ctx, &p, r)
	if errors.Is(err, errReuse) {
		err = i.endReused(ctx, p)
	}
	return g, out, explain("account", err)
}

func (i *Issuer) changePassword(ctx context.Context, p *presented, r PasswordChange) (g Grant, out Effect, err error) {
	a, err := i.ownerOf(ctx, p)
	if err != nil {
		return g, out, err
	}
	changed, hash, err := i.checkChange(ctx, a, r)
	if err != nil {
		return g, out, err
	}
	if !changed {
		if out, err = i.replacePassword(ctx, *p, a, hash); err != nil {
			return g, out, err
		}
	}
	g, err = i.issue(ctx, func(tx Tx) (draft, error) { return i.rotate(tx, *p) })
	if err != nil && !errors.Is(err, errReuse) {
		err = explainAfter("the password was changed and no tokens were issued", "session", err)
	}
	return g, out, err
}

// ownerOf returns the account of a token that deserves a successor, and notes
// when it was judged.
func (i *Issuer) ownerOf(ctx context.Context, p *presented) (a Account, err error) {
	err = i.store.View(ctx, func(rd Reader) error {
		p.at = rd.Now()
		s, _, err := i.admit(rd, *p)
		if err != nil {
			return err
		}
		a, err = rd.Account(s.Subject)
		return err
	})
	return a, err
}

// checkChange checks the old password and hashes the new one. Changed says
// that the account has the new password already.
func (i *Issuer) checkChange(ctx context.Context, a Account, r PasswordChange) (changed bool, hash string, err error) {
	if a.Password == "" {
		return false, "", refuse(CodeConflict, "this account has no password here; change it where it is kept")
	}
	if err := i.limits.login(ctx, a.Name, r.Refresh.Address); err != nil {
		return false, "", err
	}
	if err := i.checkPassword(a.Name, r.New); err != nil {
		return false, "", err
	}
	good, _, err := i.hashes.verify(ctx, r.Old, a.Password)
	if err != nil {
		return false, "", err
	}
	if !good {
		changed, _, err = i.hashes.verify(ctx, r.New, a.Password)
		if err == nil && !changed {
			err = refuse(CodeCredentials, "the old password is wrong")
		}
		return changed, "", err
	}
	hash, err = i.newPassword(ctx, a.Name, r.New)
	return false, hash, err
}

// replacePassword puts the new hash in place of the one that was checked.
func (i *Issuer) replacePassword(ctx context.Context, p presented, checked Account, hash string) (Effect, error) {
	return i.update(ctx, false, func(tx Tx, out *Effect) error {
		s, _, err := i.admit(tx, p)
		if err != nil {
			return err
		}
		a, err := tx.Account(s.Subject)
		if err != nil {
			return err
		}
		if a.Password != checked.Password || a.Deactivated {
			return refuse(CodeConflict, "the account was changed meanwhile; try again")
		}
		a.Password, a.Changed = hash, tx.Now()
		if err := tx.PutAccount(a); err != nil {
			return err
		}
		return i.apply(tx, PasswordChanged, User(p.address), Target{Subject: a.Subject, Session: s.ID}, out)
	})
}

// SetPassword sets a subject's password for it and ends all that it has.
func (i *Issuer) SetPassword(ctx context.Context, by Actor, t Target, password string) (Effect, error) {
	a, err := i.Account(ctx, t.Subject)
	if err != nil {
		return Effect{}, err
	}
	hash, err := i.newPassword(ctx, a.Name, password)
	if err != nil {
		return Effect{}, err
	}
	return i.changeAccount(ctx, PasswordSet, by, t, func(a *Account) error {
		if a.Name == "" {
			return refuse(CodeConflict, "this account has no name to log in with; its password is kept elsewhere")
		}
		a.Password = hash
		return nil
	})
}

// renewHash puts a hash made now in place of the outdated one that a login was
// checked against. It is the same password, so nothing is revoked; and one that
// was changed meanwhile stays. Where it fails, the next login does it.
func (i *Issuer) renewHash(ctx context.Context, checked Account, password string) {
	hash, err := i.hashes.hash(ctx, password)
	if err == nil {
		_, err = i.store.Update(ctx, func(tx Tx) error {
			a, err := tx.Account(checked.Subject)
			if err != nil || a.Password != checked.Password {
				return err
			}
			a.Password = hash
			return tx.PutAccount(a)
		})
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		i.cfg.Logger.Warn("the hash of a password is still the imported one; the next login renews it", "subject", checked.Subject, "error", err)
	}
}
