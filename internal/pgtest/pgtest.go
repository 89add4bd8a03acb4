// Package pgtest runs PostgreSQL for tests: throw-away servers that are made of
// nothing, listen on a socket in their own directory, and end with the test
// binary, however it ends.
package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Options of a server. The zero value is what most tests want.
type Options struct {
	// Fsync flushes what is committed to the disk, as in production. Without
	// it a commit survives the server's processes, not the machine.
	Fsync bool
	// Settings are lines of postgresql.conf, such as "max_connections = 20".
	Settings []string
}

// Cluster is a PostgreSQL server of a test's own. Its role is "quash", a
// superuser without a password; its databases sort text as people do, not by
// octets. Its methods may be called by one goroutine at a time; those that
// cannot do what they say fail the test.
type Cluster struct {
	dir     string // holds data/, the socket, and log
	process *exec.Cmd
	ended   chan struct{} // closed when process has
	primary *Cluster      // of a standby
	config  string
}

const role = "quash"

// startTimeout bounds how long a server may take to start, or to stop in order.
const startTimeout = time.Minute

// shared is the server that [Start] gives databases of.
var shared struct {
	sync.Mutex
	cluster *Cluster
}

// Start returns the URL of a new, empty database in a server that the tests of
// this binary share. It flushes nothing.
func Start(tb testing.TB) string {
	tb.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.cluster == nil {
		c, err := create(Options{Settings: []string{"max_connections = 300"}})
		if err != nil {
			tb.Fatal(err)
		}
		shared.cluster = c
	}
	return shared.cluster.Database(tb)
}

// New returns a new server, which ends with the test.
func New(tb testing.TB, o Options) *Cluster {
	tb.Helper()
	c, err := create(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		c.kill()
		_ = os.RemoveAll(c.dir)
	})
	return c
}

var databases atomic.Int64

// Database returns the URL of a new, empty database. It goes with the server.
func (c *Cluster) Database(tb testing.TB) string {
	tb.Helper()
	name := fmt.Sprint("test", databases.Add(1))
	c.exec(tb, "CREATE DATABASE "+name)
	return c.URL(name)
}

// URL returns how to connect to a database of the server, "postgres" among
// them.
func (c *Cluster) URL(database string) string { return socketURL(c.dir, database) }

func socketURL(dir, database string) string {
	u := url.URL{Scheme: "postgres", Path: "/" + database, RawQuery: url.Values{"host": {dir}, "user": {role}, "sslmode": {"disable"}}.Encode()}
	return u.String()
}

// Dir is the directory that holds the server's socket, its log and its data.
func (c *Cluster) Dir() string { return c.dir }

func (c *Cluster) exec(tb testing.TB, query string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.URL("postgres"))
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, query); err != nil {
		tb.Fatalf("%s: %v", query, err)
	}
}

// Stop ends the server as the mode of pg_ctl says: "fast" ends its connections
// and writes everything out, "immediate" is the crash of all its processes.
func (c *Cluster) Stop(tb testing.TB, mode string) {
	tb.Helper()
	sig := map[string]os.Signal{"fast": os.Interrupt, "immediate": syscall.SIGQUIT}[mode]
	if err := c.process.Process.Signal(sig); err != nil {
		tb.Fatalf("stop PostgreSQL: %v", err)
	}
	select {
	case <-c.ended:
		c.process = nil
	case <-time.After(startTimeout):
		tb.Fatalf("PostgreSQL did not stop; see %s", filepath.Join(c.dir, "log"))
	}
}

// Start starts the server again after [Cluster.Stop].
func (c *Cluster) Start(tb testing.TB) {
	tb.Helper()
	if err := c.start(); err != nil {
		tb.Fatal(err)
	}
}

// Standby returns a server that follows this one. When sync is set, this one
// waits at each commit from now on until the standby has written it.
func (c *Cluster) Standby(tb testing.TB, sync bool) *Cluster {
	tb.Helper()
	s := &Cluster{primary: c, config: c.config}
	var err error
	if s.dir, err = directory(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		s.kill()
		_ = os.RemoveAll(s.dir)
	})
	err = run("pg_basebackup", "-h", c.dir, "-U", role, "-D", filepath.Join(s.dir, "data"), "-R", "-X", "stream", "-c", "fast", "--no-sync")
	if err == nil {
		err = s.start()
	}
	if err != nil {
		tb.Fatal(err)
	}
	if sync {
		c.exec(tb, "ALTER SYSTEM SET synchronous_standby_names = '*'")
		c.exec(tb, "SELECT pg_reload_conf()")
	}
	return s
}

// Promote makes a standby a server of its own. It takes what it has received so
// far for all that there is; the one that it followed should not run any more.
func (c *Cluster) Promote(tb testing.TB) {
	tb.Helper()
	c.exec(tb, "SELECT pg_promote(true, 60)")
	c.primary = nil
}

// Bouncer runs pgbouncer in transaction mode before the server until the test
// ends, and returns the URL by which a database of the server is reached
// through it.
func (c *Cluster) Bouncer(tb testing.TB, database string) string {
	tb.Helper()
	dir, err := directory()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	config := fmt.Sprintf(`[databases]
* = host=%s
[pgbouncer]
listen_addr =
listen_port = 5432
unix_socket_dir = %s
auth_type = trust
auth_file = %[2]s/users
pool_mode = transaction
logfile = %[2]s/log
pidfile = %[2]s/pid
`, c.dir, dir)
	err = errors.Join(write(dir, "bouncer.ini", config), write(dir, "users", `"`+role+`" ""`))
	if err != nil {
		tb.Fatal(err)
	}
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/pgbouncer"); err != nil {
			tb.Fatal("pgbouncer is needed: apt-get install pgbouncer")
		}
	}
	cmd, ended, err := begin(dir, program, "-q", filepath.Join(dir, "bouncer.ini"))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	if err := answers(dir, database, ended); err != nil {
		tb.Fatalf("pgbouncer: %v", err)
	}
	return socketURL(dir, database)
}

// create makes and starts a server.
func create(o Options) (*Cluster, error) {
	dir, err := directory()
	if err != nil {
		return nil, err
	}
	c := &Cluster{dir: dir, config: strings.Join(append(slices.Clone(o.Settings),
		"listen_addresses = ''", "shared_buffers = 64MB", "max_wal_size = 2GB", "fsync = "+strconv.FormatBool(o.Fsync)), "\n") + "\n"}
	if err := run("initdb", "-D", filepath.Join(dir, "data"), "-U", role, "-A", "trust", "-E", "UTF8", "--no-sync", "--no-instructions",
		"--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US"); err != nil {
		return nil, err
	}
	if err := c.start(); err != nil {
		return nil, err
	}
	return c, nil
}

// start runs the server and returns when it takes connections.
func (c *Cluster) start() error {
	err := write(filepath.Join(c.dir, "data"), "postgresql.conf", c.config)
	if err != nil {
		return err
	}
	program, err := find("postgres")
	if err != nil {
		return err
	}
	c.process, c.ended, err = begin(c.dir, program, "-D", filepath.Join(c.dir, "data"), "-k", c.dir)
	if err != nil {
		return err
	}
	return answers(c.dir, "postgres", c.ended)
}

func (c *Cluster) kill() {
	if c.process != nil {
		_ = c.process.Process.Signal(syscall.SIGCONT)
		_ = c.process.Process.Signal(syscall.SIGQUIT)
		<-c.ended
		c.process = nil
	}
}

// answers waits until the server at a socket takes connections.
func answers(dir, database string, ended <-chan struct{}) error {
	deadline := time.Now().Add(startTimeout)
	for {
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		conn, err := pgx.Connect(ctx, socketURL(dir, database))
		if err == nil {
			err = conn.Close(ctx)
		}
		cancel()
		if err == nil {
			return nil
		}
		over := time.Now().After(deadline)
		select {
		case <-ended:
			over = true
		case <-time.After(10 * time.Millisecond):
		}
		if over {
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			return fmt.Errorf("the server did not start: %w\n%s", err, log)
		}
	}
}

// begin starts a program that runs until it is ended. Its words go to the file
// log in dir.
func begin(dir, program string, args ...string) (*exec.Cmd, chan struct{}, error) {
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, nil, err
	}
	defer log.Close()
	if err := own(log.Name()); err != nil {
		return nil, nil, err
	}
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: credential()}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	err = write(dir, fmt.Sprintf("%d.running", cmd.Process.Pid), "")
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		_ = os.Remove(filepath.Join(dir, fmt.Sprintf("%d.running", cmd.Process.Pid)))
		close(ended)
	}()
	return cmd, ended, err
}

// run runs one of PostgreSQL's programs to its end.
func run(name string, args ...string) error {
	program, err := find(name)
	if err != nil {
		return err
	}
	cmd := exec.Command(program, args...)
	cmd.Dir = os.TempDir()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential(), Pdeathsig: syscall.SIGKILL}
	var words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &words, &words
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, &words)
	}
	return nil
}

// find looks for one of PostgreSQL's programs, the newest first.
func find(name string) (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(found) > 0 {
		return found[len(found)-1], nil
	}
	if program, err := exec.LookPath(name); err == nil {
		return program, nil
	}
	return "", errors.New("PostgreSQL is needed: apt-get install postgresql-15")
}
