package issuer_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/jws"
)

func TestConfigNamesEveryMistakeAtOnce(t *testing.T) {
	_, err := issuer.New(issuer.Config{
		Issuer: "my issuer", Audience: []string{"a b", "good"}, Algorithm: "HS256", TokenLifetime: time.Second,
		IdleTimeout: time.Millisecond, AbsoluteTimeout: time.Microsecond, MaxSessions: 1001, Client: "my app", Secret: secret[:31], MaxLive: 10,
	}, nil)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"issuer:", `audience "a b":`, `algorithm "HS256":`, "token lifetime 1s:", "idle timeout 1ms:", "absolute timeout 1µs:",
		"sessions of a subject:", "live revocations:", `client "my app":`, "secret: want 32 octets, got 31",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, want it to name %q", err, want)
		}
	}
	if got := strings.Count(err.Error(), "\n") + 1; got != 10 {
		t.Errorf("%d mistakes, want 10:\n%v", got, err)
	}
	if strings.Contains(err.Error(), string(secret[:31])) {
		t.Error("the error shows the secret")
	}
}

func TestConfigRequiresIssuerAndSecretAlone(t *testing.T) {
	_, err := issuer.New(issuer.Config{}, nil)
	if err == nil || strings.Count(err.Error(), "\n") != 1 || !strings.Contains(err.Error(), "issuer:") || !strings.Contains(err.Error(), "secret:") {
		t.Errorf("got %v, want issuer and secret and nothing else", err)
	}
}

func TestEveryAlgorithmSigns(t *testing.T) {
	for _, algorithm := range []jws.Algorithm{jws.ES256, jws.Ed25519, jws.RS256} {
		h := open(t, func(c *issuer.Config) { c.Algorithm = algorithm })
		g := h.session(subject)
		h.lives(string(algorithm), g.AccessToken, true)
		var token jws.Token
		if err := token.Parse(g.AccessToken); err != nil || token.Header.Algorithm != string(algorithm) {
			t.Errorf("alg %v, %v; want %s", token.Header.Algorithm, err, algorithm)
		}
	}
}

func TestCompromisedKeyIsWithdrawn(t *testing.T) {
	h := open(t)
	g := h.session(subject)
	kid := parse(t, g.AccessToken).kid
	withdraw := issuer.RevokeRequest{Claim: "kid", Value: kid}
	if _, err := h.Revoke(t.Context(), admin, withdraw); err != nil {
		t.Fatal(err)
	}
	h.lives("signed by the key", g.AccessToken, false)
	keys, err := h.PublicKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, published := keys.Key(kid); published || keys.Len() != 2 {
		t.Errorf("published = %v among %d keys, want two others", published, keys.Len())
	}
	next := h.mustRefresh(g.RefreshToken, "")
	h.lives("signed by the key in its place", next.AccessToken, true)

	all, err := h.SigningKeys(t.Context())
	if err != nil || len(all) != 3 || !all[0].Withdrawn || len(all[0].Sealed) != 0 || all[1].Withdrawn || all[2].Withdrawn {
		t.Errorf("keys %+v, %v; want the first withdrawn and its private half gone", all, err)
	}
	log := h.since(0)
	if r := log[len(log)-1]; !r.Keep {
		t.Error("the revocation of a key will be forgotten")
	}

	before := h.everything()
	effect, err := h.Revoke(t.Context(), admin, withdraw)
	if want := (issuer.Effect{Event: "key_compromised"}); err != nil || effect != want {
		t.Errorf("again: got %+v, %v; want %+v", effect, err, want)
	}
	h.unchanged("withdrawing a key twice", before)
	h.restart()
	h.lives("after a restart", h.mustRefresh(next.RefreshToken, "").AccessToken, true)
}

// P4: what is revoked names its issuer, so two names on one database would have
// a confirmed logout leave tokens of the other alive.
func TestP4NodesOfOneDatabaseHaveOneIssuer(t *testing.T) {
	h := open(t)
	put := func(n issuer.Node) {
		t.Helper()
		if _, err := h.store.Update(t.Context(), func(tx issuer.Tx) error { return tx.PutNode(n) }); err != nil {
			t.Fatal(err)
		}
	}
	other, err := issuer.New(issuer.Config{Issuer: "https://other.example", Secret: h.cfg.Secret}, h.store)
	if err != nil {
		t.Fatal(err)
	}
	row := issuer.Node{ID: "n1", Issuer: h.cfg.Issuer, Lease: time.Minute, Started: time.Now()}
	put(row)
	if err := other.Prepare(t.Context()); err == nil || !strings.Contains(err.Error(), "--issuer "+h.cfg.Issuer) {
		t.Errorf("beside a node of another issuer: got %v, want an error that names it", err)
	}
	h.restart() // the same name is welcome
	row.Owed = "[]"
	put(row)
	if err := other.Prepare(t.Context()); err != nil {
		t.Errorf("once that node has ended in order: got %v, want success", err)
	}
}

func TestSigningKeysAreSealed(t *testing.T) {
	h := open(t)
	keys, err := h.SigningKeys(t.Context())
	if err != nil || len(keys) != 2 {
		t.Fatal(len(keys), err)
	}
	if _, err := jws.ParsePrivateKey(keys[0].Sealed); err == nil {
		t.Error("the private key is in the store as it is")
	}
	other, err := issuer.New(issuer.Config{Issuer: h.cfg.Issuer, Secret: bytes.Repeat([]byte{8}, 32)}, h.store)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Prepare(t.Context()); err == nil || !strings.Contains(err.Error(), "sealed with another secret") {
		t.Errorf("with another secret: %v, want it to say so", err)
	}
	h.restart()
	again, err := h.SigningKeys(t.Context())
	if diff := cmp.Diff(keys, again); diff != "" || err != nil {
		t.Errorf("after a restart: %v, keys (-before +after):\n%s", err, diff)
	}
}

func (h *house) published(kid string) bool {
	h.t.Helper()
	keys, err := h.PublicKeys(h.ctx())
	if err != nil {
		h.t.Fatal(err)
	}
	_, ok := keys.Key(kid)
	return ok
}

// Verifiers have what was published; time stands still, so each key of a
// withdrawal is made in one and the same instant.
func TestKeyIsPublishedBeforeItSigns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		g := h.session(subject)
		for range 5 {
			before, err := h.PublicKeys(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := h.Revoke(t.Context(), admin, issuer.RevokeRequest{Claim: "kid", Value: parse(t, g.AccessToken).kid}); err != nil {
				t.Fatal(err)
			}
			g = h.mustRefresh(g.RefreshToken, "")
			if _, ok := before.Key(parse(t, g.AccessToken).kid); !ok {
				t.Error("the first token after a withdrawal needs a key that was not published before it")
			}
			h.lives("after a withdrawal", g.AccessToken, true)
		}
	})
}

func TestWithdrawingTheNextKeyLeavesTheCurrentOne(t *testing.T) {
	h := open(t)
	g := h.session(subject)
	kid := parse(t, g.AccessToken).kid
	keys, err := h.SigningKeys(t.Context())
	if err != nil || keys[0].ID != kid {
		t.Fatalf("%v; want the oldest key to sign", err)
	}
	if _, err := h.Revoke(t.Context(), admin, issuer.RevokeRequest{Claim: "kid", Value: keys[1].ID}); err != nil {
		t.Fatal(err)
	}
	h.lives("signed with the current key", g.AccessToken, true)
	if next := parse(t, h.mustRefresh(g.RefreshToken, "").AccessToken).kid; next != kid {
		t.Errorf("another key signs, want the current one to go on")
	}
	if keys, err := h.PublicKeys(t.Context()); err != nil || keys.Len() != 2 {
		t.Errorf("%d keys are published, %v; want the current one and another next", keys.Len(), err)
	}
}

func TestAnotherAlgorithmRetiresTheKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		old := h.session(subject)
		h.cfg.Algorithm = jws.Ed25519
		h.restart()
		fresh := h.mustRefresh(old.RefreshToken, "")
		var token jws.Token
		if err := token.Parse(fresh.AccessToken); err != nil || token.Header.Algorithm != "Ed25519" {
			t.Errorf("alg %s, %v; want Ed25519", token.Header.Algorithm, err)
		}
		h.lives("of the algorithm before", old.AccessToken, true)
		time.Sleep(5*time.Minute + time.Minute - time.Millisecond)
		if !h.published(parse(t, old.AccessToken).kid) {
			t.Error("a retired key is gone while a token of it could be taken for live")
		}
		time.Sleep(time.Millisecond)
		if h.published(parse(t, old.AccessToken).kid) {
			t.Error("a retired key is published although its tokens have expired")
		}
		before := h.everything().Signing
		h.restart()
		if diff := cmp.Diff(before, h.everything().Signing); diff != "" || len(before) != 4 {
			t.Errorf("%d keys, want 4; another start changed them (-before +after):\n%s", len(before), diff)
		}
	})
}

func TestConfigLeavesRoomForTheLargestDocument(t *testing.T) {
	odd := strings.Repeat(`"`, 128) // two octets each in JSON
	h := open(t, func(c *issuer.Config) {
		c.Algorithm, c.Client = jws.RS256, odd
		for _, name := range []string{"a", "b", "c"} {
			c.Audience = append(c.Audience, strings.Repeat(name, 256))
		}
		c.Issuer = strings.Repeat("i", 1000-len(`["","","",""]`)-3*256)
	})
	h.account(issuer.NewAccount{Subject: odd, Claims: json.RawMessage(`{"a":"` + strings.Repeat("x", 4<<10-8) + `"}`)})
	g, err := h.OpenSession(t.Context(), admin, odd, issuer.Device{})
	if err != nil {
		t.Fatal(err)
	}
	const revision = 16 * 4 / 3 // rev may come to have so many digits more
	if n := len(g.AccessToken) + revision; n > jws.MaxToken {
		t.Errorf("a token may have %d octets, want at most %d", n, jws.MaxToken)
	}
	h.cfg.Audience = append(h.cfg.Audience, "d")
	if _, err := issuer.New(h.cfg, h.store); err == nil || !strings.Contains(err.Error(), "leave no room for claims") {
		t.Errorf("one octet too many: got %v, want it refused", err)
	}
}

func TestTokensAreNotIssuedWhenClocksDisagree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		g := h.session(subject)
		for _, off := range []time.Duration{-11 * time.Second, 11 * time.Second} {
			h.store.skew = off
			before := h.everything()
			_, err := h.refresh(g.RefreshToken, "")
			h.refused(fmt.Sprint("database ", off, " off"), err, issuer.CodeUnavailable)
			h.unchanged("a refused refresh", before)
		}
		h.store.skew = 9 * time.Second
		h.mustRefresh(g.RefreshToken, "")
	})
}

func (h *house) key(name string, scopes ...issuer.Scope) (issuer.APIKey, string) {
	h.t.Helper()
	k, secret, err := h.CreateAPIKey(h.ctx(), admin, name, scopes)
	if err != nil {
		h.t.Fatal(err)
	}
	return k, secret
}

func TestAPIKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		h.key("other", issuer.ScopeKeys)
		k, secret := h.key("orders", issuer.ScopeRevoke, issuer.ScopeSessions)
		got, err := h.Authenticate(t.Context(), secret)
		if err != nil || got.ID != k.ID || got.Name != "orders" || !slices.Equal(got.Scopes, k.Scopes) {
			t.Fatalf("got %+v, %v; want %+v", got, err, k)
		}
		for what, wrong := range map[string]string{
			"nothing": "", "its id": k.ID, "cut short": secret[:len(secret)-1], "longer": secret + "A", "another id": "qk_AAAAAAAAAAA" + secret[14:],
			"another secret": secret[:len(secret)-43] + strings.Repeat("A", 43), "a megabyte": strings.Repeat("A", 1<<20), "without prefix": secret[3:],
		} {
			_, err := h.Authenticate(t.Context(), wrong)
			h.refused(what, err, issuer.CodeToken)
		}

		_, next, err := h.ReplaceAPIKey(t.Context(), admin, k.ID, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour - time.Millisecond)
		for what, s := range map[string]string{"the old secret in the overlap": secret, "the new secret": next} {
			if _, err := h.Authenticate(t.Context(), s); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		time.Sleep(time.Millisecond)
		_, err = h.Authenticate(t.Context(), secret)
		h.refused("the old secret after the overlap", err, issuer.CodeToken)
		if _, err := h.Authenticate(t.Context(), next); err != nil {
			t.Errorf("the new secret after the overlap: %v", err)
		}

		if err := h.DeleteAPIKey(t.Context(), admin, k.ID); err != nil {
			t.Fatal(err)
		}
		_, err = h.Authenticate(t.Context(), next)
		h.refused("deleted", err, issuer.CodeToken)
		h.refused("deleting it again", h.DeleteAPIKey(t.Context(), admin, k.ID), issuer.CodeNotFound)
		if keys, err := h.APIKeys(t.Context()); err != nil || len(keys) != 1 || keys[0].Name != "other" {
			t.Errorf("keys %+v, %v; want the other one", keys, err)
		}
	})
}

func TestAPIKeysAreGivenByWhoHasTheirScopes(t *testing.T) {
	h := open(t)
	k, _ := h.key("clerk", issuer.ScopeKeys, issuer.ScopeAudit)
	clerk := issuer.Actor{Name: "admin:clerk", Scopes: k.Scopes}
	var all []issuer.APIKey
	for _, scopes := range [][]issuer.Scope{{issuer.ScopeFeed}, {issuer.ScopeAudit}, {issuer.ScopeAudit, issuer.ScopeKeys}} {
		made, _, err := h.CreateAPIKey(t.Context(), clerk, fmt.Sprint(scopes), scopes)
		if err != nil {
			t.Fatalf("%q: %v", scopes, err)
		}
		if _, _, err := h.ReplaceAPIKey(t.Context(), clerk, made.ID, 0); err != nil {
			t.Errorf("replace %q: %v", scopes, err)
		}
		all = append(all, made)
	}
	for _, k := range append(all, k) {
		if err := h.DeleteAPIKey(t.Context(), clerk, k.ID); err != nil {
			t.Errorf("delete %q: %v", k.Scopes, err)
		}
	}
}

func TestAPIKeyIsLetInThoughItsUseCannotBeNoted(t *testing.T) {
	h := open(t)
	_, secret := h.key("orders", issuer.ScopeFeed)
	h.store.lose = true
	if _, err := h.Authenticate(t.Context(), secret); err != nil {
		t.Errorf("got %v, want the key to be let in", err)
	}
}

func TestAPIKeyReplacedAtOnce(t *testing.T) {
	h := open(t)
	k, secret := h.key("orders", issuer.ScopeFeed)
	if _, _, err := h.ReplaceAPIKey(t.Context(), admin, k.ID, 0); err != nil {
		t.Fatal(err)
	}
	_, err := h.Authenticate(t.Context(), secret)
	h.refused("the old secret without an overlap", err, issuer.CodeToken)
}

func TestAPIKeysAreStoredHashed(t *testing.T) {
	h := open(t)
	_, secret := h.key("orders", issuer.ScopeFeed)
	if all := fmt.Sprintf("%q %+v", h.everything().Keys, h.everything().Audit); strings.Contains(all, secret[14:]) {
		t.Error("the secret is in the store")
	}
}

func TestAPIKeyUseIsNotedToTheMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t)
		k, secret := h.key("orders", issuer.ScopeFeed)
		used := func(after time.Duration) time.Duration {
			t.Helper()
			time.Sleep(after)
			if _, err := h.Authenticate(t.Context(), secret); err != nil {
				t.Fatal(err)
			}
			keys, err := h.APIKeys(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return keys[0].LastUsed.Sub(k.Created)
		}
		for _, tt := range []struct{ after, want time.Duration }{
			{time.Second, 0}, {58 * time.Second, 0}, {time.Second, time.Minute}, {59 * time.Second, time.Minute}, {time.Hour, time.Hour + time.Minute},
		} {
			if got := used(tt.after); got != tt.want {
				t.Errorf("used %v later: noted at %v, want %v", tt.after, got, tt.want)
			}
		}
	})
}

func TestAPIKeysRefuse(t *testing.T) {
	h := open(t)
	k, _ := h.key("orders", issuer.ScopeFeed)
	before := h.everything()
	for _, tt := range []struct {
		what, name string
		scopes     []issuer.Scope
		want       issuer.Code
	}{
		{"no name", "", []issuer.Scope{issuer.ScopeFeed}, issuer.CodeInvalid},
		{"a long name", strings.Repeat("n", 65), []issuer.Scope{issuer.ScopeFeed}, issuer.CodeInvalid},
		{"a name with a control character", "a\x07", []issuer.Scope{issuer.ScopeFeed}, issuer.CodeInvalid},
		{"no scope", "a", nil, issuer.CodeInvalid},
		{"an unknown scope", "a", []issuer.Scope{"all"}, issuer.CodeInvalid},
		{"a scope twice", "a", []issuer.Scope{issuer.ScopeAudit, issuer.ScopeAudit}, issuer.CodeInvalid},
		{"the feed and another", "a", []issuer.Scope{issuer.ScopeFeed, issuer.ScopeAudit}, issuer.CodeInvalid},
		{"a name that is taken", "orders", []issuer.Scope{issuer.ScopeFeed}, issuer.CodeConflict},
	} {
		_, _, err := h.CreateAPIKey(t.Context(), admin, tt.name, tt.scopes)
		h.refused(tt.what, err, tt.want)
	}
	for _, overlap := range []time.Duration{-1, 31 * 24 * time.Hour} {
		_, _, err := h.ReplaceAPIKey(t.Context(), admin, k.ID, overlap)
		h.refused(fmt.Sprint("an overlap of ", overlap), err, issuer.CodeInvalid)
	}
	h.unchanged("a refused key", before)
	mighty, _ := h.key("mighty", issuer.ScopeKeys, issuer.ScopeAccounts)
	before = h.everything()
	clerk := issuer.Actor{Name: "admin:clerk", Scopes: []issuer.Scope{issuer.ScopeKeys, issuer.ScopeAudit}}
	_, _, err := h.CreateAPIKey(t.Context(), clerk, "a", []issuer.Scope{issuer.ScopeAudit, issuer.ScopeRevoke})
	h.refused("a key with a scope that the maker lacks", err, issuer.CodeForbidden)
	_, _, err = h.ReplaceAPIKey(t.Context(), clerk, mighty.ID, 0)
	h.refused("the secret of a key with a scope that the maker lacks", err, issuer.CodeForbidden)
	h.refused("deleting the last key that makes keys", h.DeleteAPIKey(t.Context(), clerk, mighty.ID), issuer.CodeConflict)
	_, _, err = h.ReplaceAPIKey(t.Context(), admin, "nothing", 0)
	h.refused("a key that is not there", err, issuer.CodeNotFound)
	h.unchanged("a refused key", before)
}

// A key of the database's own is one with which all the others can be made
// again, and none of a database that no server has run on.
func TestRecoverAPIKey(t *testing.T) {
	h := open(t)
	_, secret, err := issuer.RecoverAPIKey(t.Context(), h.store, "rescue")
	if err != nil {
		t.Fatal(err)
	}
	k, err := h.Authenticate(t.Context(), secret)
	if err != nil || k.Name != "rescue" || !slices.Equal(k.Scopes, issuer.AdminScopes) || k.LastUsed.IsZero() {
		t.Errorf("got %+v, %v, want a key that was used, with the scopes %q", k, err, issuer.AdminScopes)
	}
	noted, err := h.Audit(t.Context(), issuer.AuditQuery{Event: "api_key_created", Limit: 1})
	if err != nil || len(noted) != 1 || noted[0].Actor != "recovery" || noted[0].Reason != "rescue" {
		t.Errorf("audit: got %+v, %v, want that recovery made it", noted, err)
	}
	_, _, err = issuer.RecoverAPIKey(t.Context(), h.store, "rescue")
	h.refused("a name that another key has", err, issuer.CodeConflict)
	_, _, err = issuer.RecoverAPIKey(t.Context(), openStore(t, filepath.Join(t.TempDir(), "new.db")), "rescue")
	h.refused("a database that no server has run on", err, issuer.CodeConflict)
}
