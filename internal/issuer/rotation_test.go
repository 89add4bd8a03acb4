package issuer_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quashdev/quash/internal/issuer"
)

// A history is what happens to one session, step after step:
//
//	[+wait] login a              opens a session; its refresh token is called a
//	refresh a -> b [key=K]       gives the refresh token b, the same b each time
//	refresh a [key=K]: reuse     is refused and ends the session
//	refresh a [key=K]: dead      is refused and changes nothing
//	access b: live|dead          the latest access token that came with b
//	logout a, logout all, deactivate, reactivate, restart
var histories = []struct{ name, steps string }{
	{"R1 an old token after its successor was used ends the session", "login a; refresh a -> b; refresh b -> c; refresh a: reuse; refresh c: dead; access a: dead; access c: dead"},
	{"R1 reuse is found however late", "login a; refresh a -> b; refresh b -> c; +300h refresh a: reuse; refresh c: dead"},
	{"R1 reuse is found once", "login a; refresh a -> b; refresh b -> c; refresh a: reuse; refresh a: dead; refresh b: dead"},
	{"R3 a repeat within the window gets the same successor", "login a; refresh a -> b; +10s refresh a -> b; refresh b -> c; access c: live"},
	{"R3 the window ends", "login a; refresh a -> b; +10.001s refresh a: reuse; refresh b: dead"},
	{"R3 the window does not slide", "login a; refresh a -> b; +6s refresh a -> b; +4s refresh a -> b; +1s refresh a: reuse"},
	{"R3 the window is for one step", "login a; refresh a -> b; refresh b -> c; refresh b -> c; refresh a: reuse"},
	{"R3 a lost answer is repeated by its Idempotency-Key at any time", "login a; refresh a -> b key=K; +1h refresh a -> b key=K; +300h refresh a -> b key=K; refresh b -> c"},
	{"R3 another Idempotency-Key is not it", "login a; refresh a -> b key=K; +11s refresh a key=L: reuse"},
	{"R3 no Idempotency-Key is not it", "login a; refresh a -> b key=K; +11s refresh a: reuse"},
	{"R3 a key after a refresh without one is not it", "login a; refresh a -> b; +11s refresh a key=K: reuse"},
	{"R3 within the window any key does", "login a; refresh a -> b key=K; +9s refresh a -> b key=L; +1h refresh a -> b key=K"},
	{"R3 a key does not save what is older", "login a; refresh a -> b key=K; refresh b -> c key=K; refresh a key=K: reuse"},
	{"R4 the attacker first, within the window", "login a; refresh a -> b; +5s refresh a -> b; refresh b -> c; +11s refresh b: reuse; refresh c: dead"},
	{"R4 the attacker first, outside the window", "login a; refresh a -> b; +11s refresh a: reuse; refresh b: dead; access b: dead"},
	{"R4 the victim first, and goes on", "login a; refresh a -> b; +1m refresh b -> c; +1m refresh a: reuse; refresh c: dead"},
	{"R6 logout", "login a; refresh a -> b; logout b; refresh b: dead; refresh a: dead; access b: dead"},
	{"R6 logout by an old token", "login a; refresh a -> b; +1h refresh b -> c; logout a; refresh c: dead; access c: dead"},
	{"R6 logout twice", "login a; logout a; logout a; refresh a: dead"},
	{"R6 logout of all", "login a; refresh a -> b; logout all; refresh b: dead; access b: dead"},
	{"R6 deactivation, and reactivation revives nothing", "login a; refresh a -> b key=K; deactivate; refresh b: dead; reactivate; refresh b: dead; refresh a key=K: dead; access b: dead"},
	{"R9 idle time-out", "login a; +335h59m refresh a -> b; +336h refresh b: dead"},
	{"R9 a repeat after the idle time-out", "login a; refresh a -> b key=K; +336h refresh a key=K: dead"},
	{"R9 the absolute time-out is not extended", "login a; +300h refresh a -> b; +300h refresh b -> c; +300h refresh c -> d; +300h refresh d -> e; +300h refresh e -> f; +300h refresh f -> g; +300h refresh g -> h; +59h59m59s refresh h -> i; access i: live; +1s refresh i: dead; access i: dead"},
	{"R15 a crash before the answer", "login a; refresh a -> b; restart; +5s refresh a -> b; refresh b -> c"},
	{"R15 a crash before the answer, repeated by key", "login a; refresh a -> b key=K; restart; +1h refresh a -> b key=K"},
	{"R15 reuse after a restart", "login a; refresh a -> b; restart; refresh b -> c; restart; refresh a: reuse; restart; refresh c: dead"},
}

func TestRotation(t *testing.T) {
	for _, tt := range histories {
		t.Run(tt.name, bubble(func(t *testing.T) { play(t, tt.steps) }))
	}
}

// history plays one.
type history struct {
	*house
	step    string
	refresh map[string]string // tokens by their names
	access  map[string]string
}

func play(t *testing.T, steps string) {
	h := &history{house: open(t), refresh: map[string]string{}, access: map[string]string{}}
	for step := range strings.SplitSeq(steps, ";") {
		h.step = strings.TrimSpace(step)
		do, outcome, _ := strings.Cut(h.step, ": ")
		words := strings.Fields(do)
		if wait, ok := strings.CutPrefix(words[0], "+"); ok {
			d, err := time.ParseDuration(wait)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(d)
			words = words[1:]
		}
		h.do(words, outcome)
		if t.Failed() {
			t.Fatalf("at %q", h.step)
		}
	}
}

func (h *history) do(words []string, outcome string) {
	var err error
	target := issuer.Target{Subject: subject}
	switch strings.Join(words[:min(2, len(words))], " ") {
	case "restart":
		h.restart()
	case "deactivate":
		_, err = h.Deactivate(h.ctx(), admin, target)
	case "reactivate":
		_, err = h.Reactivate(h.ctx(), admin, target)
	case "logout all":
		_, err = h.LogoutAll(h.ctx(), admin, target)
	default:
		h.doTo(words[0], words[1], words[2:], outcome)
	}
	if err != nil {
		h.t.Error(err)
	}
}

func (h *history) doTo(verb, name string, rest []string, outcome string) {
	switch verb {
	case "login":
		h.bind(name, h.session(subject))
	case "logout":
		if _, err := h.Logout(h.ctx(), h.refresh[name], ""); err != nil {
			h.t.Error(err)
		}
	case "access":
		h.lives(name, h.access[name], outcome == "live")
	case "refresh":
		var key, successor string
		for n, word := range rest {
			if k, ok := strings.CutPrefix(word, "key="); ok {
				key = k
			}
			if word == "->" {
				successor = rest[n+1]
			}
		}
		h.doRefresh(name, key, successor, outcome)
	default:
		h.t.Fatalf("step %q: unknown verb", h.step)
	}
}

func (h *history) doRefresh(name, key, successor, outcome string) {
	before := h.everything()
	g, err := h.house.refresh(h.refresh[name], key)
	if successor != "" {
		if err != nil {
			h.t.Fatalf("%s: %v", h.step, err)
		}
		h.bind(successor, g)
		return
	}
	h.refused(h.step, err, issuer.CodeGrant)
	if outcome == "dead" {
		h.unchanged(h.step, before)
		return
	}
	found := h.since(before.Log.Head.Position)
	if len(found) != 1 || found[0].Event != issuer.RefreshReused.Name || len(h.everything().Sessions) != 0 {
		h.t.Errorf("got revocations %+v, want the one of reuse and no session", found)
	}
}

// bind gives a refresh token its name, or checks that it is the one that has it.
func (h *history) bind(name string, g issuer.Grant) {
	for other, token := range h.refresh {
		if same := token == g.RefreshToken; same != (other == name) {
			h.t.Errorf("the token %s: same as %s = %v, want %v", name, other, same, other == name)
		}
	}
	h.refresh[name], h.access[name] = g.RefreshToken, g.AccessToken
}

func TestP10OneLineage(t *testing.T) {
	t.Run("parallel refreshes get one successor", bubble(func(t *testing.T) {
		h := open(t)
		g := h.session(subject)
		seen := h.parallel(8, g.RefreshToken)
		if len(seen) != 1 {
			t.Fatalf("got %d successors, want 1", len(seen))
		}
		for successor := range seen {
			h.mustRefresh(successor, "")
		}
		if len(h.since(0)) != 0 {
			t.Error("a parallel refresh revoked something")
		}
	}))
	t.Run("a reuse that is found ends the session though the caller hangs up", bubble(func(t *testing.T) {
		h := open(t)
		a := h.session(subject)
		b := h.mustRefresh(a.RefreshToken, "")
		c := h.mustRefresh(b.RefreshToken, "")
		ctx, hangUp := context.WithCancel(t.Context())
		h.store.updating = hangUp
		_, err := h.Refresh(ctx, issuer.RefreshRequest{Token: a.RefreshToken})
		h.refused("replay", err, issuer.CodeGrant)
		h.lives("after the replay", c.AccessToken, false)
	}))
	t.Run("a reuse whose commit failed is found again", bubble(func(t *testing.T) {
		h := open(t)
		a := h.session(subject)
		c := h.mustRefresh(h.mustRefresh(a.RefreshToken, "").RefreshToken, "")
		h.store.lose = true
		_, err := h.refresh(a.RefreshToken, "")
		h.refused("replay", err, issuer.CodeOutcomeUnknown)
		h.store.lose = false
		h.restart()
		_, err = h.refresh(a.RefreshToken, "")
		h.refused("replay", err, issuer.CodeGrant)
		h.lives("after the replay", c.AccessToken, false)
	}))
}

// parallel refreshes with one token from n goroutines and returns the
// successors, each of which must be a success.
func (h *house) parallel(n int, token string) map[string]bool {
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]bool{}
	for range n {
		wg.Go(func() {
			g, err := h.refresh(token, "")
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				h.t.Errorf("refresh: %v", err)
			}
			seen[g.RefreshToken] = true
		})
	}
	wg.Wait()
	return seen
}

func TestParallelRefreshNeitherSplitsNorLocksOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		token := h.session(subject).RefreshToken
		for round := range 5 {
			seen := h.parallel(4, token)
			if len(seen) != 1 {
				t.Fatalf("round %d: got %d successors, want 1", round, len(seen))
			}
			for token = range seen {
			}
		}
	})
}

// R7: whatever way a refresh and a logout cross, nothing verifies or
// refreshes once the logout has answered.
func TestRefreshRacingLogoutLeavesNothingAlive(t *testing.T) {
	h := open(t)
	h.account(issuer.NewAccount{Subject: subject})
	for range 40 {
		g := h.session(subject)
		var next issuer.Grant
		var err error
		var wg sync.WaitGroup
		wg.Go(func() { next, err = h.refresh(g.RefreshToken, "") })
		if _, err := h.LogoutAll(t.Context(), admin, issuer.Target{Subject: subject}); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if err != nil {
			h.refused("refresh", err, issuer.CodeGrant)
			continue
		}
		h.lives("of the racing refresh", next.AccessToken, false)
		_, err = h.refresh(next.RefreshToken, "")
		h.refused("its successor", err, issuer.CodeGrant)
	}
}

// Tabs that share a token each refresh with what is there when they begin. One
// that is on its way while two others are answered must not be taken for a thief.
func TestP10SharedTokenHasOneSuccessorAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		refresh := func(token string) string {
			t.Helper()
			g, err := h.Refresh(t.Context(), issuer.RefreshRequest{Token: token, Shared: true})
			if err != nil {
				t.Fatal(err)
			}
			h.lives("of the refresh", g.AccessToken, true)
			return g.RefreshToken
		}
		first := h.session(subject).RefreshToken
		if got := refresh(first); got != first {
			t.Error("a token that has just been given rotates")
		}
		time.Sleep(11 * time.Second)
		second := refresh(first)
		if got := refresh(second); second == first || got != second {
			t.Error("want a successor, and it again while it is new")
		}
		time.Sleep(9 * time.Second)
		if got := refresh(first); got != second {
			t.Error("the late refresh does not get the successor of the others")
		}
		time.Sleep(2 * time.Second)
		if got := refresh(second); got == second {
			t.Error("the token does not rotate when its time is over")
		}
		time.Sleep(11 * time.Second)
		_, err := h.Refresh(t.Context(), issuer.RefreshRequest{Token: first, Shared: true})
		h.refused("an old token", err, issuer.CodeGrant)
	})
}

func TestReuseKillsTheAccessTokenToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		a := h.session(subject)
		b := h.mustRefresh(a.RefreshToken, "")
		c := h.mustRefresh(b.RefreshToken, "")
		other := h.session(subject)
		_, err := h.refresh(a.RefreshToken, "")
		h.refused("replay", err, issuer.CodeGrant)
		for _, g := range []issuer.Grant{a, b, c} {
			h.lives("of the session", g.AccessToken, false)
		}
		h.lives("of another session", other.AccessToken, true)
	})
}

func TestReactivationRevivesNothing(t *testing.T) {
	h := open(t)
	g := h.session(subject)
	for _, change := range []func(context.Context, issuer.Actor, issuer.Target) (issuer.Effect, error){h.Deactivate, h.Reactivate} {
		if _, err := change(t.Context(), admin, issuer.Target{Subject: subject}); err != nil {
			t.Fatal(err)
		}
		_, err := h.refresh(g.RefreshToken, "")
		h.refused("refresh", err, issuer.CodeGrant)
		h.lives("of before", g.AccessToken, false)
	}
	h.lives("of a session opened after", h.session(subject).AccessToken, true)
}

func TestLoginInTheSameSecondAsACut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		before := h.session(subject)
		if _, err := h.LogoutAll(t.Context(), admin, issuer.Target{Subject: subject}); err != nil {
			t.Fatal(err)
		}
		after := h.session(subject)
		a, b := parse(t, before.AccessToken).number("iat"), parse(t, after.AccessToken).number("iat")
		if a != b {
			t.Fatalf("iat %d and %d, want the same second", a, b)
		}
		h.lives("issued before the cut", before.AccessToken, false)
		h.lives("issued after the cut", after.AccessToken, true)
	})
}

func TestRefreshTokenIsOfTheServerAndTheDatabaseTogether(t *testing.T) {
	h := open(t)
	g := h.session(subject)
	row, _ := h.row(g.Session)
	if got := h.RefreshTokenOf(row, row.Counter); got != g.RefreshToken {
		t.Fatalf("got %q, want the token of the login", got)
	}
	thief, err := issuer.New(issuer.Config{Issuer: "https://id.example", Secret: []byte(strings.Repeat("x", 32))}, h.store)
	if err != nil {
		t.Fatal(err)
	}
	without := row
	without.Secret = [32]byte{}
	before := h.everything()
	for name, token := range map[string]string{
		"made with the database alone":          thief.RefreshTokenOf(row, row.Counter),
		"made with the server's secret alone":   h.RefreshTokenOf(without, row.Counter),
		"an older one, of the database alone":   thief.RefreshTokenOf(row, 0),
		"of a session that is not there":        h.RefreshTokenOf(issuer.Session{ID: "s_AAAAAAAAAAAAAAAAAAAAAA"}, 1),
		"one of a row whose secret was changed": h.RefreshTokenOf(issuer.Session{ID: row.ID, Secret: [32]byte{1}}, row.Counter),
	} {
		_, err := h.refresh(token, "")
		h.refused(name, err, issuer.CodeGrant)
		_, err = h.Logout(t.Context(), token, "")
		if name != "of a session that is not there" {
			h.refused(name+": logout", err, issuer.CodeGrant)
		}
	}
	h.unchanged("a forged token", before)
}

// R10.
func TestRefreshRefusesMalformedTokens(t *testing.T) {
	h := open(t)
	g := h.session(subject)
	good := g.RefreshToken
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(good, "qr_"))
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string]string{
		"empty": "", "prefix only": "qr_", "an access token": g.AccessToken, "a megabyte": strings.Repeat("A", 1<<20),
		"a megabyte behind the prefix": "qr_" + strings.Repeat("A", 1<<20), "not ASCII": "qr_" + strings.Repeat("é", 38),
		"without prefix": good[3:], "prefix in capitals": "QR_" + good[3:], "cut short": good[:len(good)-1], "longer": good + "A",
		"padded": good + "=", "line feed inside": good[:20] + "\n" + good[21:], "line feed behind": good + "\n", "blank before": " " + good,
		"standard alphabet": "qr_" + strings.Repeat("+", len(good)-3),
	}
	for n := range raw {
		flipped := append([]byte(nil), raw...)
		flipped[n] ^= 1
		bad[fmt.Sprintf("octet %d flipped", n)] = "qr_" + base64.RawURLEncoding.EncodeToString(flipped)
	}
	before := h.everything()
	for name, token := range bad {
		_, err := h.refresh(token, "")
		h.refused(name, err, issuer.CodeGrant)
		_, _, err = h.ChangePassword(t.Context(), issuer.PasswordChange{Refresh: issuer.RefreshRequest{Token: token}})
		h.refused(name+": password change", err, issuer.CodeGrant)
	}
	h.unchanged("a malformed token", before)
	h.mustRefresh(good, "")
}

func TestRefreshBoundsTheIdempotencyKey(t *testing.T) {
	h := open(t)
	g := h.session(subject)
	_, err := h.refresh(g.RefreshToken, strings.Repeat("k", 256))
	h.refused("256 characters", err, issuer.CodeInvalid)
	h.mustRefresh(g.RefreshToken, strings.Repeat("k", 255))
}

func TestTokenAheadOfTheDatabaseRaisesAnAlarm(t *testing.T) {
	var logged strings.Builder
	h := open(t, func(c *issuer.Config) {
		c.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelError}))
	})
	g := h.session(subject)
	row, _ := h.row(g.Session)
	ahead := h.mustRefresh(g.RefreshToken, "").RefreshToken
	h.putRow(row) // as it was: the database lost the refresh
	before := h.everything()
	_, err := h.refresh(ahead, "")
	h.refused("ahead", err, issuer.CodeGrant)
	if !strings.Contains(logged.String(), "ahead of its session") || strings.Contains(logged.String(), ahead) {
		t.Errorf("log: %q, want the alarm without the token", logged.String())
	}
	h.unchanged("a token that is ahead", before)
}
