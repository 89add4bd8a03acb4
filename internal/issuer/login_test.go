package issuer_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quashdev/quash/internal/issuer"
)

func (h *house) login(name, password string) (issuer.Grant, error) {
	return h.Login(h.ctx(), issuer.LoginRequest{Name: name, Password: password})
}

func TestLoginTakesOnePathWhateverIsWrong(t *testing.T) {
	h := open(t)
	h.account(issuer.NewAccount{Subject: "u_ada", Name: "Ada", Password: password})
	h.account(issuer.NewAccount{Subject: "u_bob", Name: "bob", Password: password})
	h.account(issuer.NewAccount{Subject: "u_eve", Name: "eve"})
	if _, err := h.Deactivate(t.Context(), admin, issuer.Target{Subject: "u_bob"}); err != nil {
		t.Fatal(err)
	}
	var first string
	for _, tt := range []struct{ what, name, password string }{
		{"wrong password", "ada", newPassword},
		{"unknown account", "nobody", password},
		{"account without a password", "eve", password},
		{"account without a password, and none given", "eve", ""},
		{"deactivated account", "bob", password},
		{"no name", "", password},
		{"a name that cannot be", "a b\x00", password},
		{"a name of a megabyte", strings.Repeat("a", 1<<20), password},
		{"a password of a megabyte", "ada", strings.Repeat("a", 1<<20)},
		{"a password that is not UTF-8", "ada", "\xff\xfe"},
	} {
		before := h.PasswordHashes()
		_, err := h.login(tt.name, tt.password)
		h.refused(tt.what, err, issuer.CodeCredentials)
		if first == "" {
			first = fmt.Sprint(err)
		}
		if fmt.Sprint(err) != first {
			t.Errorf("%s: %q, want the text that a wrong password gets, %q", tt.what, err, first)
		}
		if got := h.PasswordHashes() - before; got != 1 {
			t.Errorf("%s: %d hashes, want 1", tt.what, got)
		}
	}
	g, err := h.login("ADA", password)
	if err != nil {
		t.Fatal(err)
	}
	if g.Subject != "u_ada" {
		t.Errorf("subject %q, want u_ada: names are compared without case", g.Subject)
	}
}

func TestLoginRefusesWhatChangedWhileItHashed(t *testing.T) {
	h := open(t)
	h.account(issuer.NewAccount{Subject: subject, Name: "ada", Password: password})
	target := issuer.Target{Subject: subject}
	for _, tt := range []struct {
		what   string
		change func() (issuer.Effect, error)
		undo   func() (issuer.Effect, error)
	}{
		{
			"deactivated",
			func() (issuer.Effect, error) { return h.Deactivate(h.ctx(), admin, target) },
			func() (issuer.Effect, error) { return h.Reactivate(h.ctx(), admin, target) },
		},
		{
			"password set",
			func() (issuer.Effect, error) { return h.SetPassword(h.ctx(), admin, target, newPassword) },
			func() (issuer.Effect, error) { return h.SetPassword(h.ctx(), admin, target, password) },
		},
		{
			"deleted",
			func() (issuer.Effect, error) { return h.Delete(h.ctx(), admin, target) },
			func() (issuer.Effect, error) { return issuer.Effect{}, nil },
		},
	} {
		var changed, undone error
		h.store.issuing = func() { _, changed = tt.change() }
		_, err := h.login("ada", password)
		h.refused(tt.what, err, issuer.CodeCredentials)
		h.store.issuing = nil
		_, undone = tt.undo()
		if err := errors.Join(changed, undone); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHashesWaitTheirTurnInAShortQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		cores := runtime.GOMAXPROCS(0)
		release := make(chan struct{})
		var holders sync.WaitGroup
		for range cores {
			holders.Go(func() { _ = h.HoldHash(t.Context(), release) })
		}
		synctest.Wait()
		before := h.PasswordHashes()
		ctx, leave := context.WithCancel(t.Context())
		left := make(chan error)
		for n := range cores * issuer.Waiters {
			go func() {
				_, err := h.Login(ctx, issuer.LoginRequest{Name: fmt.Sprint("waiter", n), Password: password})
				left <- err
			}()
		}
		synctest.Wait()
		if got := h.PasswordHashes() - before; got != 0 {
			t.Errorf("%d hashes began beside the %d that are allowed at once", got, cores)
		}
		_, err := h.login("another", password)
		h.refused("one more than can wait", err, issuer.CodeBusy)
		var refusal *issuer.Error
		if errors.As(err, &refusal) && refusal.RetryAfter <= 0 {
			t.Error("busy, without saying when to try again")
		}
		leave()
		for range cores * issuer.Waiters {
			if err := <-left; !errors.Is(err, context.Canceled) {
				t.Errorf("a caller who left got %v", err)
			}
		}
		close(release)
		holders.Wait()
		_, err = h.login("another", password)
		h.refused("when there is room again", err, issuer.CodeCredentials)
	})
}

func TestHashingStaysWithinMemory(t *testing.T) {
	h := open(t)
	const logins, each = 24, 19 << 20
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	read := func() uint64 {
		metrics.Read(sample)
		return sample[0].Value.Uint64()
	}
	runtime.GC()
	peak, base := uint64(0), read()
	var wg sync.WaitGroup
	done := make(chan struct{})
	for n := range logins {
		wg.Go(func() { _, _ = h.login(fmt.Sprint("user", n), password) })
	}
	go func() { wg.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		case <-time.After(time.Millisecond):
			peak = max(peak, read()-min(base, read()))
		}
	}
	// Twice what is in use at once may wait for the collector.
	if bound := uint64(runtime.GOMAXPROCS(0)+1) * each * 3; peak > bound {
		t.Errorf("%d logins at once took %d MiB, want at most %d", logins, peak>>20, bound>>20)
	}
}

// from tries to log in from an address, and says why it was refused.
func (h *house) from(address, name string) error {
	_, err := h.Login(h.ctx(), issuer.LoginRequest{Name: name, Password: "x", Device: issuer.Device{Address: address}})
	return err
}

func TestLoginsAreLimitedByAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		const burst = 21
		for n := range burst {
			h.refused("within the limit", h.from(fmt.Sprint("192.0.2.", n), "ada"), issuer.CodeCredentials)
		}
		before := h.PasswordHashes()
		err := h.from("198.51.100.1", "ada")
		h.refused("beyond it", err, issuer.CodeLimited)
		h.refused("its name in capitals", h.from("198.51.100.1", "ADA"), issuer.CodeLimited)
		if h.PasswordHashes() != before {
			t.Error("a limited login cost a hash")
		}
		h.refused("another account", h.from("198.51.100.1", "bob"), issuer.CodeCredentials)

		var refusal *issuer.Error
		if !errors.As(err, &refusal) || refusal.RetryAfter < time.Second || refusal.RetryAfter > time.Minute {
			t.Fatalf("got %+v, want a wait of some seconds", err)
		}
		time.Sleep(refusal.RetryAfter)
		h.refused("after the wait", h.from("198.51.100.1", "ada"), issuer.CodeCredentials)
	})
}

func TestLoginsAreLimitedByAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		const burst = 241
		for range burst - 1 {
			_ = h.from("192.0.2.1", "ada") // soon limited by its account, which costs no hash
		}
		h.refused("within the limit", h.from("192.0.2.1", "bob"), issuer.CodeCredentials)
		h.refused("beyond it", h.from("192.0.2.1", "bob"), issuer.CodeLimited)
		h.refused("from another address", h.from("192.0.2.2", "bob"), issuer.CodeCredentials)

		for n := range burst {
			_ = h.from(fmt.Sprintf("2001:db8::%x", n), "ada")
		}
		h.refused("beyond it, from one of a network's many", h.from("2001:db8::ffff", "bob"), issuer.CodeLimited)
		h.refused("from another network", h.from("2001:db8:0:1::1", "bob"), issuer.CodeCredentials)
	})
}

func TestPasswords(t *testing.T) {
	h := open(t)
	h.account(issuer.NewAccount{Subject: subject, Name: "ada"})
	set := func(password string) error {
		_, err := h.SetPassword(t.Context(), admin, issuer.Target{Subject: subject, DryRun: true}, password)
		return err
	}
	composed, decomposed := "\u00e9", "e\u0301"
	for what, bad := range map[string]string{
		"empty":                            "",
		"14 characters":                    "kq8vj2mzx0wt4r",
		"14 characters of 4 octets":        "🐘🦒🦓🦍🐆🐅🐃🐂🐄🐎🐖🐏🐑🐐",
		"14 characters typed as 28":        strings.Repeat(decomposed+"kqvjmzx", 3)[:22] + decomposed,
		"common, twice":                    "passwordpassword",
		"common, with digits":              "Password1234567",
		"common, with digits and signs":    "sunshine!!2024!!",
		"one character again and again":    "aaaaaaaaaaaaaaaa",
		"a few characters again and again": "abcabcabcabcabcabc",
		"the keyboard":                     "qwertyuiop12345",
		"digits in order":                  "123456789012345",
		"1025 octets":                      strings.Repeat("correct horse battery staple ", 36)[:1025],
		"a megabyte":                       strings.Repeat("correct horse ", 75000),
		"not UTF-8":                        password + "\xff",
	} {
		before := h.PasswordHashes()
		h.refused(what, set(bad), issuer.CodePassword)
		if h.PasswordHashes() != before {
			t.Errorf("%s: hashed before it was refused", what)
		}
	}
	for what, good := range map[string]string{
		"words":                 password,
		"15 characters":         "kq8vj2mzx0wt4rp",
		"15 characters, no NFC": "kq8vj2mzx0wt4r" + decomposed,
		"15 of 4 octets":        "🐘🦒🦓🦍🐆🐅🐃🐂🐄🐎🐖🐏🐑🐐🐕",
		"with blanks and signs": " it's \t ${jndi} <b> ",
	} {
		if err := set(good); err != nil {
			t.Errorf("%s: refused: %v", what, err)
		}
	}
	if _, err := h.SetPassword(t.Context(), admin, issuer.Target{Subject: subject}, "kq8vj2mzx0wt4r"+decomposed); err != nil {
		t.Fatal(err)
	}
	for _, typed := range []string{composed, decomposed} {
		if _, err := h.login("ada", "kq8vj2mzx0wt4r"+typed); err != nil {
			t.Errorf("the same characters as %+q: %v", typed, err)
		}
	}
}

func TestPasswordsAreStoredHashed(t *testing.T) {
	h := open(t)
	h.account(issuer.NewAccount{Subject: subject, Name: "ada", Password: password})
	a, err := h.Account(t.Context(), subject)
	if err != nil {
		t.Fatal(err)
	}
	if want := "$argon2id$v=19$m=19456,t=2,p=1$"; !strings.HasPrefix(a.Password, want) {
		t.Errorf("stored as %.40q, want %q and so on", a.Password, want)
	}
}

// The rules of NIST SP 800-63B-4, section 3.1.1.2, and of ASVS 5.0, section 6.2,
// for a password that stands alone.
func TestPasswordRules(t *testing.T) {
	h := open(t, func(c *issuer.Config) { c.Issuer = "https://login.examplebank.test:8443" })
	h.account(issuer.NewAccount{Subject: subject, Name: "ada.lovelace@mail.test"})
	try := func(password string) error {
		_, err := h.SetPassword(t.Context(), admin, issuer.Target{Subject: subject}, password)
		return err
	}
	good := func(t *testing.T, all ...string) {
		t.Helper()
		for _, p := range all {
			if err := try(p); err != nil {
				t.Errorf("%.40q: refused: %v", p, err)
			}
		}
	}
	bad := func(t *testing.T, why string, all ...string) {
		t.Helper()
		for _, p := range all {
			if err := try(p); issuer.CodeOf(err) != issuer.CodePassword || !strings.Contains(err.Error(), why) {
				t.Errorf("%.40q: got %v, want it refused, saying %q", p, err, why)
			}
		}
	}
	phrase := "correct horse battery staple "
	t.Run("a minimum of 15 characters", func(t *testing.T) {
		bad(t, "too short: use 15", "kq8vj2mzx0wt4r", "")
		good(t, "kq8vj2mzx0wt4rp")
	})
	t.Run("64 characters and more, each code point one, and a bound", func(t *testing.T) {
		good(t, strings.Repeat("🐘🦒🦓🦍🐆🐅🐃🐂🐄🐎🐖🐏🐑🐐🐕🐈", 4), strings.Repeat(phrase, 36)[:1024])
		bad(t, "more than 1024 octets", strings.Repeat(phrase, 36)[:1025])
	})
	t.Run("all printing characters, blanks and Unicode", func(t *testing.T) {
		good(t, ` !"#$%&'()*+,-./:;<=>?@[\]^_`+"`{|}~ ", "пароль из слов и ещё", "十五文字以上の長い合言葉をここに置く")
	})
	t.Run("no rules of composition", func(t *testing.T) {
		good(t, "onlylowercaseletters", "kqvjmzxwtrpbncd", "847201936455018")
	})
	t.Run("common passwords are refused, as a whole", func(t *testing.T) {
		bad(t, "among the first that attackers try", "passwordpassword", "Password1234567")
		good(t, "my password is a long one")
	})
	t.Run("words of the account and the service are refused", func(t *testing.T) {
		bad(t, "the account's name or the server's",
			"ada.lovelace@mail.test", "AdaLovelace1815", "lovelace-ada-2026!", "examplebank2026!", "Login ExampleBank", "adalovelaceexamplebank")
		good(t, "ada likes punched cards")
	})
	t.Run("the whole is checked, nothing is cut off", func(t *testing.T) {
		long := strings.Repeat(phrase, 36)[:1023]
		good(t, long+"a")
		_, err := h.login("ada.lovelace@mail.test", long+"b")
		h.refused("another last octet", err, issuer.CodeCredentials)
		if _, err := h.login("ada.lovelace@mail.test", long+"a"); err != nil {
			t.Error(err)
		}
	})
	t.Run("no change is forced by time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := open(t)
			h.account(issuer.NewAccount{Name: "ada", Password: password})
			time.Sleep(10 * 365 * 24 * time.Hour)
			if _, err := h.login("ada", password); err != nil {
				t.Errorf("after ten years: %v", err)
			}
		})
	})
}
