package server_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/internal/pgtest"
)

// users is an application's table, as Django makes it, as far as it matters.
const users = `CREATE TABLE public.auth_user (id int PRIMARY KEY, password text NOT NULL, is_active boolean NOT NULL, last_login timestamptz);
	INSERT INTO public.auth_user VALUES (7, 'old', true, NULL)`

// application is a server whose database an application has its users in.
type application struct {
	*running
	t        *testing.T
	url      string
	verifier *quash.Verifier
	db       *pgx.Conn // to look, not the application's
}

func openApplication(t *testing.T) *application {
	t.Helper()
	cfg := config(t)
	cfg.Store = pgtest.New(t, pgtest.Options{}).Database(t)
	a := &application{running: start(t, cfg), t: t, url: cfg.Store}
	a.verifier = a.running.verifier(t)
	a.db = a.connect()
	a.sql(a.db, users)
	if _, err := a.admin.CreateAccount(t.Context(), client.NewAccount{Subject: "7"}); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *application) connect() *pgx.Conn {
	a.t.Helper()
	c, err := pgx.Connect(a.t.Context(), a.url)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { _ = c.PgConn().Conn().Close() })
	return c
}

// sql runs statements, and returns the first column of the last row.
func (a *application) sql(c *pgx.Conn, statements string) string {
	a.t.Helper()
	results, err := c.PgConn().Exec(a.t.Context(), statements).ReadAll()
	if err != nil {
		a.t.Fatalf("%s: %v", statements, err)
	}
	if last := results[len(results)-1]; len(last.Rows) > 0 {
		return string(last.Rows[0][0])
	}
	return ""
}

func (a *application) session() client.Tokens {
	a.t.Helper()
	tokens, err := a.admin.OpenSession(a.t.Context(), "7", client.Device{})
	if err != nil {
		a.t.Fatal(err)
	}
	return tokens
}

// signedOut says whether a session has ended. A refresh first carries out what
// was committed for its subject, so there is nothing to wait for.
func (a *application) signedOut(tokens client.Tokens) bool {
	a.t.Helper()
	_, err := a.user.Refresh(a.t.Context(), tokens.RefreshToken, "")
	if p, ok := errors.AsType[*client.Problem](err); ok && p.Code == client.CodeGrant {
		return true
	}
	if err != nil {
		a.t.Fatal(err)
	}
	return false
}

// crash breaks off an application's connection, and returns when the database
// has noticed.
func (a *application) crash(c *pgx.Conn) {
	a.t.Helper()
	pid := c.PgConn().PID()
	if err := c.PgConn().Conn().Close(); err != nil {
		a.t.Fatal(err)
	}
	for a.sql(a.db, fmt.Sprint(`SELECT count(*) FROM pg_stat_activity WHERE pid = `, pid)) != "0" {
		a.sql(a.db, `SELECT pg_sleep(0.01)`)
	}
}

// request is what an application does where a user changes the password.
var request = []string{
	`BEGIN`,
	`UPDATE auth_user SET password = 'new' WHERE id = 7`,
	`SELECT quash.revoke('sub', '7', 'password changed')`,
	`COMMIT`,
}

// The application crashes after each statement of a request. Before its commit
// nothing has happened, after it everything has.
func TestP2WhenTheApplicationCrashes(t *testing.T) {
	a := openApplication(t)
	for n := range request {
		a.sql(a.db, `UPDATE auth_user SET password = 'old'`)
		tokens := a.session()
		app := a.connect()
		for _, statement := range request[:n+1] {
			a.sql(app, statement)
		}
		a.crash(app)
		committed := n == len(request)-1
		if got := a.sql(a.db, `SELECT password = 'new' FROM auth_user`) == "t"; got != committed {
			t.Errorf("after %s: the password is the new one: %v, want %v", request[n], got, committed)
		}
		if got := a.signedOut(tokens); got != committed {
			t.Errorf("after %s: signed out: %v, want %v", request[n], got, committed)
		}
	}
}

// The application sends its commit and crashes before the answer. Whether the
// password is the new one or not, the session has fared the same.
func TestP2WhenTheApplicationCrashesInItsCommit(t *testing.T) {
	a := openApplication(t)
	for range 10 {
		a.sql(a.db, `UPDATE auth_user SET password = 'old'`)
		tokens := a.session()
		app := a.connect()
		for _, statement := range request[:len(request)-1] {
			a.sql(app, statement)
		}
		if _, err := app.PgConn().Conn().Write(query(`COMMIT`)); err != nil {
			t.Fatal(err)
		}
		a.crash(app)
		changed := a.sql(a.db, `SELECT password = 'new' FROM auth_user`) == "t"
		if got := a.signedOut(tokens); got != changed {
			t.Errorf("signed out: %v, and the password is the new one: %v", got, changed)
		}
	}
}

// query is PostgreSQL's message of a simple query.
func query(text string) []byte {
	return append(append(binary.BigEndian.AppendUint32([]byte{'Q'}, uint32(4+len(text)+1)), text...), 0)
}

// What quash.revoke returns can be waited for: once it is confirmed, no verifier
// accepts what was issued before.
func TestP4ATicketIsWaitedFor(t *testing.T) {
	a := openApplication(t)
	tokens := a.session()
	if _, err := a.verifier.Verify(tokens.AccessToken); err != nil {
		t.Fatal(err)
	}
	var ticket uint64
	if err := a.connect().QueryRow(t.Context(), `SELECT quash.revoke('sub', '7', 'password changed')`).Scan(&ticket); err != nil {
		t.Fatal(err)
	}
	answer, err := newClient(t, a.cfg.Private, a.AdminKey()).WithWait(10*time.Second).Admin().Request(t.Context(), ticket)
	if err != nil || answer.Waiting || answer.Evidence == nil || !answer.Evidence.Confirmation.Confirmed {
		t.Fatalf("got %+v, %v, want a revocation that is confirmed", answer, err)
	}
	if _, err := a.verifier.Verify(tokens.AccessToken); !errors.Is(err, quash.ErrRevoked) {
		t.Errorf("after its confirmation: got %v, want ErrRevoked", err)
	}
	if got := answer.Evidence.Revocation; got.Claim != "sub" || got.Value != "7" || got.Reason != "password changed" {
		t.Errorf("got %+v, want what was asked for", got)
	}
}

// The trigger is the one of docs/postgresql.md, and so are the rights that the
// application's role is given.
func TestTheTriggerOfTheDocument(t *testing.T) {
	a := openApplication(t)
	a.sql(a.db, `CREATE ROLE shop; ALTER TABLE auth_user OWNER TO shop; GRANT CREATE ON SCHEMA public TO shop`)
	a.sql(a.db, documented(t, "GRANT USAGE"))
	app := a.connect()
	a.sql(app, `SET ROLE shop`)
	a.sql(app, documented(t, "CREATE TRIGGER"))
	for _, c := range []struct {
		what, statement string
		out             bool
	}{
		{"a login", `UPDATE auth_user SET last_login = now()`, false},
		{"the same password", `UPDATE auth_user SET password = password`, false},
		{"another password", `UPDATE auth_user SET password = 'new'`, true},
		{"deactivated", `UPDATE auth_user SET is_active = false`, true},
		{"rolled back", `BEGIN; UPDATE auth_user SET password = 'newer'; ROLLBACK`, false},
	} {
		tokens := a.session()
		a.sql(app, c.statement)
		if got := a.signedOut(tokens); got != c.out {
			t.Errorf("%s: signed out: %v, want %v", c.what, got, c.out)
		}
	}
}

// documented returns the SQL of docs/postgresql.md that has some words.
func documented(t *testing.T, words string) string {
	t.Helper()
	text, err := os.ReadFile("../docs/postgresql.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range strings.Split(string(text), "```sql\n")[1:] {
		if block, _, _ := strings.Cut(part, "```"); strings.Contains(block, words) {
			return block
		}
	}
	t.Fatalf("docs/postgresql.md has no SQL with %q", words)
	return ""
}
