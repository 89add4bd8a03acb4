package issuer_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/revset"
)

var update = flag.Bool("update", false, "write what the code says into docs/")

// scene is a subject with three sessions, the first of which something
// happens to, and somebody else, whom it should not touch.
type scene struct {
	*house
	first    []string       // the refresh token of each login
	previous []string       // its successor, which has been used with the Idempotency-Key "K"
	current  []issuer.Grant // what that gave
	other    issuer.Grant
	kid      string
}

const subject = "u_1"

// tokensEach is how many access tokens each session of a scene has.
const tokensEach = 3

func newScene(t testing.TB, e issuer.Event) *scene {
	t.Helper()
	s := &scene{house: open(t, func(c *issuer.Config) { c.MaxSessions = 3 })}
	n := issuer.NewAccount{Subject: subject, Name: "ada", Claims: json.RawMessage(`{"tenant":"acme"}`)}
	if e.Name == issuer.PasswordChanged.Name {
		n.Password = password
	}
	s.account(n)
	s.other = s.session("u_2")
	client := ""
	if e.Claim == "client_id" {
		client = "app"
		s.client(client)
	}
	for range 3 {
		g := s.sessionOf(subject, client)
		p := s.mustRefresh(g.RefreshToken, "")
		s.first = append(s.first, g.RefreshToken)
		s.previous = append(s.previous, p.RefreshToken)
		s.current = append(s.current, s.mustRefresh(p.RefreshToken, "K"))
		time.Sleep(time.Second)
	}
	s.kid = parse(t, s.other.AccessToken).kid
	return s
}

// happen makes each event happen to the first session of a scene, to its
// subject, key or claim. Those that cannot be tried ignore dry.
var happen = map[string]func(s *scene, dry bool) (issuer.Effect, error){
	issuer.LoggedOut.Name: func(s *scene, dry bool) (issuer.Effect, error) {
		return s.EndSession(s.ctx(), admin, issuer.Target{Session: s.current[0].Session, DryRun: dry})
	},
	issuer.LoggedOutOthers.Name: func(s *scene, dry bool) (issuer.Effect, error) {
		return s.LogoutOthers(s.ctx(), admin, issuer.Target{Subject: subject, Session: s.current[0].Session, DryRun: dry})
	},
	issuer.LoggedOutAll.Name: func(s *scene, dry bool) (issuer.Effect, error) {
		return s.LogoutAll(s.ctx(), admin, issuer.Target{Subject: subject, DryRun: dry})
	},
	issuer.PasswordChanged.Name: func(s *scene, _ bool) (issuer.Effect, error) {
		_, effect, err := s.ChangePassword(s.ctx(), issuer.PasswordChange{
			Refresh: issuer.RefreshRequest{Token: s.current[0].RefreshToken}, Old: password, New: newPassword,
		})
		return effect, err
	},
	issuer.PasswordSet.Name: func(s *scene, dry bool) (issuer.Effect, error) {
		return s.SetPassword(s.ctx(), admin, issuer.Target{Subject: subject, DryRun: dry}, newPassword)
	},
	issuer.Deactivated.Name: func(s *scene, dry bool) (issuer.Effect, error) {
		return s.Deactivate(s.ctx(), admin, issuer.Target{Subject: subject, DryRun: dry})
	},
	issuer.Reactivated.Name: func(s *scene, dry bool) (issuer.Effect, error) {
		return s.Reactivate(s.ctx(), admin, issuer.Target{Subject: subject, DryRun: dry})
	},
	issuer.Deleted.Name: func(s *scene, dry bool) (issuer.Effect, error) {
		return s.Delete(s.ctx(), admin, issuer.Target{Subject: subject, DryRun: dry})
	},
	issuer.RefreshReused.Name: func(s *scene, _ bool) (issuer.Effect, error) {
		_, err := s.refresh(s.first[0], "")
		return issuer.Effect{}, err
	},
	issuer.SessionEvicted.Name: func(s *scene, _ bool) (issuer.Effect, error) {
		_, err := s.OpenSession(s.ctx(), admin, subject, issuer.Device{})
		return issuer.Effect{}, err
	},
	issuer.ClaimsChanged.Name: func(s *scene, dry bool) (issuer.Effect, error) {
		return s.PutClaims(s.ctx(), admin, issuer.Target{Subject: subject, DryRun: dry}, json.RawMessage(`{"tenant":"umbrella"}`))
	},
	issuer.KeyCompromised.Name: func(s *scene, dry bool) (issuer.Effect, error) {
		return s.Revoke(s.ctx(), admin, issuer.RevokeRequest{Claim: "kid", Value: s.kid, DryRun: dry})
	},
	issuer.ClientChanged.Name: func(s *scene, dry bool) (issuer.Effect, error) {
		settings := issuer.ClientSettings{Grants: []string{issuer.GrantRefresh}, Scopes: []string{"read"}}
		return s.PutClient(s.ctx(), admin, "app", settings, issuer.Target{DryRun: dry})
	},
	issuer.ClientDeleted.Name: func(s *scene, dry bool) (issuer.Effect, error) {
		return s.DeleteClient(s.ctx(), admin, "app", issuer.Target{DryRun: dry})
	},
	issuer.ClaimRevoked.Name: func(s *scene, dry bool) (issuer.Effect, error) {
		return s.Revoke(s.ctx(), admin, issuer.RevokeRequest{Claim: "tenant", Value: "acme", End: true, DryRun: dry})
	},
}

// answersNoEffect are the events that happen within a call for something else.
var answersNoEffect = []string{issuer.RefreshReused.Name, issuer.SessionEvicted.Name}

// ends says whether the event ends the nth session of a scene.
func ends(e issuer.Event, n int) bool {
	switch e.Ends {
	case issuer.This:
		return n == 0
	case issuer.Others:
		return n != 0
	case issuer.All, issuer.Matching:
		return true
	}
	return false
}

// kills says whether the event kills the access tokens of the nth session.
func kills(e issuer.Event, n int) bool {
	return ends(e, n) || e.Claim != "" && e.Claim != "sid"
}

// effect is what the event's row of the table makes of a scene.
func (s *scene) effect(e issuer.Event) issuer.Effect {
	want := issuer.Effect{Event: e.Name}
	for n := range s.current {
		if ends(e, n) {
			want.Sessions++
		}
		if kills(e, n) {
			want.Tokens += tokensEach
		}
	}
	if e.Claim == "kid" {
		want.Tokens++ // the bystander's
	}
	return want
}

// revocation is what is looked at in one by the tests of the table.
type revocation struct {
	Event, Claim, Value string
	Forever             bool
}

func (s *scene) revocations(e issuer.Event) (want []revocation) {
	one := func(value string) { want = append(want, revocation{e.Name, e.Claim, value, e.Forever}) }
	switch e.Claim {
	case "sid":
		for n, g := range s.current {
			if ends(e, n) {
				one(g.Session)
			}
		}
		slices.SortFunc(want, func(a, b revocation) int { return strings.Compare(a.Value, b.Value) })
	case "sub":
		one(subject)
	case "client_id":
		one("app")
	case "kid":
		one(s.kid)
	case "*":
		want = append(want, revocation{e.Name, "tenant", "acme", e.Forever})
	}
	return want
}

// happened fails the test unless the event did all that its row says since head.
func (s *scene) happened(e issuer.Event, head uint64) {
	s.t.Helper()
	for n, g := range s.current {
		if _, found := s.row(g.Session); found == ends(e, n) {
			s.t.Errorf("%s: session %d is there = %v, want %v", e.Name, n, found, !ends(e, n))
		}
		s.lives(e.Name, g.AccessToken, !kills(e, n))
	}
	if _, found := s.row(s.other.Session); !found {
		s.t.Errorf("%s ended the session of another subject", e.Name)
	}
	s.lives(e.Name+": of another subject", s.other.AccessToken, e.Claim != "kid")

	var got []revocation
	for _, r := range s.since(head) {
		got = append(got, revocation{r.Event, r.Claim, r.Value, r.Before == revset.Forever})
		if r.Before != revset.Forever && r.Before != r.Position {
			s.t.Errorf("%s: before = %d, want the revocation's own position, %d", e.Name, r.Before, r.Position)
		}
		head = r.Position
	}
	if diff := cmp.Diff(s.revocations(e), got); diff != "" {
		s.t.Errorf("%s: revocations (-want +got):\n%s", e.Name, diff)
	}
	s.audited(e, len(got) > 0, head)
}

// audited fails the test unless the audit has the event, once, with the
// position of its last revocation.
func (s *scene) audited(e issuer.Event, revoked bool, position uint64) {
	s.t.Helper()
	entries, err := s.Audit(s.ctx(), issuer.AuditQuery{Event: e.Name, Limit: 10})
	if err != nil || len(entries) != 1 {
		s.t.Fatalf("%s: audit has %d entries, %v; want 1", e.Name, len(entries), err)
	}
	want := uint64(0)
	if revoked {
		want = position
	}
	if entries[0].Position != want || entries[0].Actor == "" {
		s.t.Errorf("%s: audit entry %+v, want an actor and position %d", e.Name, entries[0], want)
	}
}

// eachEvent runs a test for each row of the table in virtual time.
func eachEvent(t *testing.T, test func(t *testing.T, e issuer.Event)) {
	for _, e := range issuer.Events() {
		t.Run(e.Name, bubble(func(t *testing.T) { test(t, e) }))
	}
}

func TestEventTable(t *testing.T) {
	eachEvent(t, func(t *testing.T, e issuer.Event) {
		s := newScene(t, e)
		head := s.head()
		got, err := happen[e.Name](s, false)
		if e.Name == issuer.RefreshReused.Name {
			s.refused("reuse", err, issuer.CodeGrant)
		} else if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(answersNoEffect, e.Name) {
			want := s.effect(e)
			if want.Position = s.head(); want.Position == head {
				want.Position = 0
			}
			if got != want {
				t.Errorf("effect: got %+v, want %+v", got, want)
			}
		}
		s.happened(e, head)
	})
}

// eventTable renders the events as the Markdown table of docs/design.md.
func eventTable() string {
	ends := map[issuer.Reach]string{issuer.None: "none", issuer.This: "this one", issuer.Others: "all others", issuer.All: "all", issuer.Matching: "those that match, if asked"}
	var b strings.Builder
	b.WriteString("| Event | In the log as | Sessions ended | Revocation | Besides |\n|---|---|---|---|---|\n")
	for _, e := range issuer.Events() {
		revocation := "none"
		switch {
		case e.Claim == "*":
			revocation = "(claim, value)"
		case e.Ends == issuer.Others && e.Claim == "sid":
			revocation = "a `sid` each, for ever"
		case e.Forever:
			revocation = fmt.Sprintf("`%s` for ever", e.Claim)
		case e.Claim != "":
			revocation = fmt.Sprintf("`%s`", e.Claim)
		}
		fmt.Fprintf(&b, "| %s | `%s` | %s | %s | %s |\n", e.Title, e.Name, ends[e.Ends], revocation, e.Note)
	}
	return b.String()
}

func TestEventTableInDocs(t *testing.T) {
	const path, begin, end = "../../docs/design.md", "<!-- events -->\n", "<!-- /events -->"
	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(doc), begin)
	table, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatalf("%s: the table of events must stand between %q and %q", path, begin, end)
	}
	if table == eventTable() {
		return
	}
	if !*update {
		t.Fatalf("%s says something else of the events than the code; regenerate it: go test ./internal/issuer -run TestEventTableInDocs -update\n%s",
			path, cmp.Diff(eventTable(), table))
	}
	if err := os.WriteFile(path, []byte(before+begin+eventTable()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestP9EndedIsEnded(t *testing.T) {
	eachEvent(t, func(t *testing.T, e issuer.Event) {
		if e.Ends == issuer.None {
			return
		}
		s := newScene(t, e)
		_, _ = happen[e.Name](s, false)
		dead := func(when string) {
			for n, g := range s.current {
				if !ends(e, n) {
					continue
				}
				_, err := s.refresh(g.RefreshToken, "")
				s.refused(when+": refresh", err, issuer.CodeGrant)
				_, err = s.refresh(s.previous[n], "K")
				s.refused(when+": late repeat", err, issuer.CodeGrant)
				s.lives(when, g.AccessToken, false)
			}
		}
		dead("after " + e.Name)
		before := s.everything()
		dead("again")
		s.unchanged("presenting dead tokens", before)
		if _, err := s.Reactivate(s.ctx(), admin, issuer.Target{Subject: subject}); err != nil && e.Name != issuer.Deleted.Name {
			t.Fatal(err)
		}
		dead("after reactivation")
	})
}

// Each write of each event fails in turn, then the commit: once it did not
// persist, once it did.
func TestP2Together(t *testing.T) {
	eachEvent(t, func(t *testing.T, e issuer.Event) {
		s := newScene(t, e)
		before, head := s.everything(), s.head()
		s.store.lose = true
		for n, failed := 1, true; failed; n++ {
			s.store.failWrite, s.store.failed = n, false
			if _, err := happen[e.Name](s, false); err == nil {
				t.Errorf("write %d: nothing was written, and the call did not fail", n)
			}
			failed = s.store.failed
			s.unchanged("a call that failed", before)
		}
		s.store.failWrite, s.store.lose, s.store.hide = 0, false, true
		if _, err := happen[e.Name](s, false); err == nil {
			t.Error("nobody knows what became of the commit, and the call did not fail")
		}
		s.happened(e, head)
	})
}

func TestCommitOfUnknownOutcomeIsNotMadeAgain(t *testing.T) {
	h := open(t)
	g := h.session(subject)
	h.store.hide = true
	_, err := h.LogoutAll(h.ctx(), admin, issuer.Target{Subject: subject})
	h.refused("logout", err, issuer.CodeOutcomeUnknown)
	if e, ok := errors.AsType[*issuer.Error](err); !ok || e.RetryAfter != 0 || !errors.Is(err, issuer.ErrUnknown) {
		t.Errorf("got %+v, want it to be ErrUnknown, and no word of trying again", err)
	}
	if got := len(h.since(0)); got != 1 {
		t.Errorf("%d revocations, want 1", got)
	}
	h.lives("after the commit", g.AccessToken, false)
}

func TestDryRunAnswersWhatWouldHappenAndChangesNothing(t *testing.T) {
	eachEvent(t, func(t *testing.T, e issuer.Event) {
		if slices.Contains(answersNoEffect, e.Name) || e.Name == issuer.PasswordChanged.Name {
			return
		}
		s := newScene(t, e)
		before := s.everything()
		dry, err := happen[e.Name](s, true)
		if err != nil {
			t.Fatal(err)
		}
		s.unchanged("a dry run", before)
		if !dry.DryRun || dry.Position != 0 {
			t.Errorf("got %+v, want a dry run without a position", dry)
		}
		wet, err := happen[e.Name](s, false)
		if err != nil {
			t.Fatal(err)
		}
		dry.DryRun, wet.Position = false, 0
		if dry != wet {
			t.Errorf("dry run answered %+v, the real thing %+v", dry, wet)
		}
	})
}
