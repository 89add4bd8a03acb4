package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/server"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"quash": main})
}

// TestScripts runs testdata/*.txtar, which specify each verb. Beside the
// commands of testscript they have:
//
//	server [LEASE]      a server in this process; sets QUASH_URL, QUASH_ADMIN_KEY, PUBLIC and DATA
//	verifier NAME       a verifier in this process
//	mute NAME           has the server hear nothing more of the verifier
//	login NAME PASSWORD a user's login at PUBLIC; sets ACCESS and REFRESH
//	take VAR MEMBER     sets VAR to a member of the JSON object on the last stdout
//	addresses           sets PUBLIC and PRIVATE to free addresses
//	ready URL           waits until a server there is ready
//	settled POSITION    waits until every connected verifier has applied it
//	facts               checks that the report of a demo on the last stdout is complete
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: false,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"server":    startServer,
			"verifier":  verifier,
			"mute":      mute,
			"login":     login,
			"take":      take,
			"addresses": addresses,
			"ready":     ready,
			"settled":   settled,
			"facts":     facts,
		},
	})
}

func startServer(ts *testscript.TestScript, _ bool, args []string) {
	data := filepath.Join(ts.Getenv("WORK"), "server-data")
	cfg := server.Config{Data: data, Issuer: "https://quash.test"}
	for _, lease := range args {
		var err error
		cfg.Lease, err = time.ParseDuration(lease)
		ts.Check(err)
	}
	srv, err := server.Open(context.Background(), cfg)
	ts.Check(err)
	public, private := httptest.NewServer(srv.Handler()), httptest.NewServer(srv.PrivateHandler())
	ts.Defer(func() {
		public.Close()
		private.Close()
		ts.Check(srv.Close(context.Background()))
	})
	ts.Setenv("QUASH_URL", private.URL)
	ts.Setenv("QUASH_ADMIN_KEY", srv.AdminKey())
	ts.Setenv("PUBLIC", public.URL)
	ts.Setenv("DATA", data)
}

// line is a verifier's connection, until it is cut.
type line struct {
	net.Conn
	cut *atomic.Bool
}

func (l line) Write(b []byte) (int, error) {
	if l.cut.Load() {
		return len(b), nil
	}
	return l.Conn.Write(b)
}

// lines are by server and verifier.
var lines sync.Map

func verifier(ts *testscript.TestScript, _ bool, args []string) {
	admin, err := client.New(client.Config{URL: ts.Getenv("QUASH_URL"), Key: ts.Getenv("QUASH_ADMIN_KEY")})
	ts.Check(err)
	key, err := admin.Admin().CreateKey(context.Background(), client.NewKey{Name: args[0], Scopes: []string{"feed"}})
	ts.Check(err)
	cut := new(atomic.Bool)
	lines.Store(ts.Getenv("QUASH_URL")+args[0], cut)
	v, err := quash.Open(context.Background(), quash.Config{
		URL: ts.Getenv("QUASH_URL"), Key: key.Secret, Name: args[0],
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			return line{conn, cut}, err
		},
	})
	ts.Check(err)
	ts.Defer(func() { _ = v.Close(context.Background()) })
}

func mute(ts *testscript.TestScript, _ bool, args []string) {
	cut, _ := lines.Load(ts.Getenv("QUASH_URL") + args[0])
	cut.(*atomic.Bool).Store(true)
}

func login(ts *testscript.TestScript, neg bool, args []string) {
	c, err := client.New(client.Config{URL: ts.Getenv("PUBLIC")})
	ts.Check(err)
	tokens, err := c.Login(context.Background(), client.LoginRequest{Name: args[0], Password: args[1]})
	if neg {
		if err == nil {
			ts.Fatalf("login of %s: it was accepted", args[0])
		}
		return
	}
	ts.Check(err)
	ts.Setenv("ACCESS", tokens.AccessToken)
	ts.Setenv("REFRESH", tokens.RefreshToken)
}

func take(ts *testscript.TestScript, _ bool, args []string) {
	var members map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &members))
	text, ok := members[args[1]].(string)
	if !ok {
		ts.Fatalf("there is no text under %q", args[1])
	}
	ts.Setenv(args[0], text)
}

func addresses(ts *testscript.TestScript, _ bool, _ []string) {
	public, private, err := freeAddresses()
	ts.Check(err)
	ts.Setenv("PUBLIC", public)
	ts.Setenv("PRIVATE", private)
}

func ready(ts *testscript.TestScript, _ bool, args []string) {
	c, err := client.New(client.Config{URL: args[0]})
	ts.Check(err)
	ts.Check((&stage{}).ready(context.Background(), c))
}

func settled(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.ParseUint(args[0], 10, 64)
	ts.Check(err)
	c, err := client.New(client.Config{URL: ts.Getenv("QUASH_URL"), Key: ts.Getenv("QUASH_ADMIN_KEY")})
	ts.Check(err)
	for behind := true; behind; {
		all, err := c.Admin().Verifiers(context.Background())
		ts.Check(err)
		behind = slices.ContainsFunc(all, func(v client.Verifier) bool { return v.Applied < want })
	}
}

func facts(ts *testscript.TestScript, _ bool, _ []string) {
	var r report
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &r))
	if !r.Met || len(r.Plays) != 5 {
		ts.Fatalf("got %d plays, met %t, want 5 that are met", len(r.Plays), r.Met)
	}
	for _, y := range r.Plays {
		if len(y.Resources) != 3 || len(y.Expectations) == 0 || y.Answered == nil || !y.met() {
			ts.Fatalf("%s: got %+v, want three resource servers that refused, and something expected and met", y.Title, y)
		}
	}
}

// TestMigrationIsRun holds docs/migrate.md to what its script runs: each of its
// commands stands word for word in testdata/migrate.txtar.
func TestMigrationIsRun(t *testing.T) {
	text, err := os.ReadFile("../../docs/migrate.md")
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile("testdata/migrate.txtar")
	if err != nil {
		t.Fatal(err)
	}
	commands := 0
	for line := range strings.Lines(string(text)) {
		command, indented := strings.CutPrefix(line, "    quash ")
		if !indented {
			continue
		}
		commands++
		if !strings.Contains(string(script), "\nquash "+command) {
			t.Errorf("this command of docs/migrate.md is run by no script: quash %s", command)
		}
	}
	if commands == 0 {
		t.Error("docs/migrate.md shows no command")
	}
}

func TestDemoFailsWhere(t *testing.T) {
	ms := milliseconds(1)
	good := outcome{Resource: "orders", Accepted: 3, Refused: &ms}
	all := &client.Confirmation{Confirmed: true, Verifiers: client.Tally{Applied: 1}}
	for name, y := range map[string]play{
		"a resource server never refused":            {Confirmation: all, Resources: []outcome{{Accepted: 3}}},
		"a resource server never accepted":           {Confirmation: all, Resources: []outcome{{Refused: &ms}}},
		"a resource server accepted again":           {Confirmation: all, Resources: []outcome{{Accepted: 3, Refused: &ms, Relapsed: true}}},
		"an expectation was not met":                 {Confirmation: all, Resources: []outcome{good}, Expectations: []expectation{{"it rains", false}}},
		"no resource server was there to ask at all": {Confirmation: &client.Confirmation{Confirmed: true}},
		"nothing was confirmed":                      {Resources: []outcome{good}},
		"not all have confirmed":                     {Confirmation: all, Resources: []outcome{good, good}},
	} {
		if y.met() {
			t.Errorf("%s: the play is met, want it not to be", name)
		}
	}
	if y := (play{Confirmation: all, Resources: []outcome{good}, Expectations: []expectation{{"it is dry", true}}}); !y.met() {
		t.Error("everything as it should be: the play is not met, want it to be")
	}
}

func TestTailEndsInOrderWhenInterrupted(t *testing.T) {
	srv, err := server.Open(t.Context(), server.Config{Data: filepath.Join(t.TempDir(), "data"), Issuer: "https://quash.test"})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close(context.Background())
	private := httptest.NewServer(srv.PrivateHandler())
	defer private.Close()
	environ := []string{"QUASH_URL=" + private.URL, "QUASH_ADMIN_KEY=" + srv.AdminKey()}
	if status := run(t.Context(), []string{"revoke", "sub", "u_1"}, nil, io.Discard, os.Stderr, environ); status != exitDone {
		t.Fatalf("revoke: got status %d, want 0", status)
	}

	ctx, interrupt := context.WithCancel(t.Context())
	out, in := io.Pipe()
	status := make(chan int, 1)
	go func() { status <- run(ctx, []string{"tail", "--after", "0"}, nil, in, os.Stderr, environ) }()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.Contains(line, "sub u_1") {
		t.Errorf("first line: got %q, %v, want the revocation of sub u_1", line, err)
	}
	interrupt()
	if got := <-status; got != exitDone {
		t.Errorf("after the interrupt: got status %d, want 0", got)
	}
}

func TestAShellIsToldWhereTheProgramIs(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	var out strings.Builder
	p := &program{stdout: &out}
	p.alias()
	if got, want := out.String(), "  alias quash="+self+"\n"; got != want {
		t.Errorf("not on the path: got %q, want %q", got, want)
	}
	if err := os.Symlink(self, filepath.Join(dir, "quash")); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	if p.alias(); out.String() != "" {
		t.Errorf("on the path: got %q, want nothing", out.String())
	}
}

func TestAddressesAreAsSeenFromThisMachine(t *testing.T) {
	for listen, want := range map[string]string{
		"":               "",
		"127.0.0.1:8080": "http://127.0.0.1:8080",
		":8080":          "http://localhost:8080",
		"0.0.0.0:8080":   "http://localhost:8080",
		"[::]:8080":      "http://localhost:8080",
		"[::1]:8080":     "http://[::1]:8080",
	} {
		if got := address(server.Config{}, listen); got != want {
			t.Errorf("%q: got %q, want %q", listen, got, want)
		}
	}
	if got := address(server.Config{TLSCert: "c.pem"}, ":8443"); got != "https://localhost:8443" {
		t.Errorf("with a certificate: got %q, want https", got)
	}
}

func TestTimesAreShortAndHuman(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		at   time.Time
		want string
	}{
		{time.Time{}, "never"},
		{now, "now"},
		{now.Add(-90 * time.Second), "1 min ago"},
		{now.Add(-3*time.Hour - time.Minute), "3 h ago"},
		{now.Add(5*time.Minute + time.Second), "in 5 min"},
		{time.Date(2020, 1, 2, 3, 4, 5, 0, time.Local), "2020-01-02 03:04"},
	} {
		if got := when(c.at); got != c.want {
			t.Errorf("%v: got %q, want %q", c.at, got, c.want)
		}
	}
}

func TestOutputCannotMoveTheCursor(t *testing.T) {
	var out strings.Builder
	p := &program{stdout: &out}
	p.table("", []string{"NAME"}, [][]string{{"evil\x1b[2J\u009b"}})
	p.sayf("%s", "a\rb\x1b[1A")
	if got := out.String(); strings.ContainsAny(got, "\x1b\r\u009b") {
		t.Errorf("got %q, want no control characters", got)
	}
}
