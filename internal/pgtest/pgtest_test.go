package pgtest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/quashdev/quash/internal/pgtest"
)

func query(t *testing.T, url, query string) string {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	results, err := c.PgConn().Exec(t.Context(), query).ReadAll()
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	if last := results[len(results)-1]; len(last.Rows) > 0 {
		return string(last.Rows[0][0])
	}
	return ""
}

func TestDatabasesAreNewAndEmpty(t *testing.T) {
	a, b := pgtest.Start(t), pgtest.Start(t)
	query(t, a, "CREATE TABLE t ()")
	if got := query(t, b, "SELECT count(*)::text FROM pg_tables WHERE schemaname = 'public'"); got != "0" {
		t.Errorf("another database has %s tables, want none", got)
	}
}

func TestWhatWasCommittedSurvivesACrash(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{Fsync: true})
	url := c.Database(t)
	query(t, url, "CREATE TABLE t ()")
	c.Stop(t, "immediate")
	c.Start(t)
	query(t, url, "SELECT count(*)::text FROM t")
}

func TestAStandbyTakesOver(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{})
	s := c.Standby(t, true)
	query(t, c.URL("postgres"), "CREATE TABLE t ()")
	if got := query(t, s.URL("postgres"), "SELECT pg_is_in_recovery()::text"); got != "true" {
		t.Errorf("in recovery: got %s, want true", got)
	}
	c.Stop(t, "immediate")
	s.Promote(t)
	query(t, s.URL("postgres"), "INSERT INTO t DEFAULT VALUES")
}

func TestThroughABouncer(t *testing.T) {
	c := pgtest.New(t, pgtest.Options{})
	url := c.Bouncer(t, "postgres")
	if got := query(t, url, "SELECT 'here'"); got != "here" {
		t.Errorf("got %q", got)
	}
}

// The test binary runs itself, and is killed as hard as can be.
func TestNothingIsLeftBehind(t *testing.T) {
	if os.Getenv("PGTEST_LEAVE") != "" {
		c := pgtest.New(t, pgtest.Options{})
		os.Stdout.WriteString("dir " + c.Dir() + "\n")
		time.Sleep(time.Hour)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "PGTEST_LEAVE=yes")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var words strings.Builder
	buffer := make([]byte, 1024)
	for !strings.Contains(words.String(), "dir /tmp/") || !strings.HasSuffix(words.String(), "\n") {
		n, err := out.Read(buffer)
		if err != nil {
			t.Fatalf("%v after %q", err, &words)
		}
		words.Write(buffer[:n])
	}
	_, dir, _ := strings.Cut(words.String(), "dir ")
	dir = strings.TrimSpace(dir)
	running, err := filepath.Glob(filepath.Join(dir, "*.running"))
	if err != nil || len(running) != 1 {
		t.Fatalf("running: got %v, %v, want one", running, err)
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(dir); os.IsNotExist(err) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is still there", dir)
		}
	}
	pid := strings.TrimSuffix(filepath.Base(running[0]), ".running")
	if _, err := os.Stat("/proc/" + pid); err == nil {
		t.Errorf("process %s is still there", pid)
	}
}
