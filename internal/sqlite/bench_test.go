package sqlite_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
)

// BenchmarkAppend measures durable appends by 1 and by 64 callers, beside a
// bare file on the same disk to which as many callers append 96 octets, and
// which is flushed once for all that wait. of-file is the ratio of the rates.
func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprint("callers=", callers), func(b *testing.B) {
			dir := b.TempDir()
			f := newGroupFile(b, filepath.Join(dir, "file"))
			file := timed(callers, b.N, f.append)
			s := open(b, filepath.Join(dir, "quash.db"))
			b.ResetTimer()
			store := timed(callers, b.N, func() {
				if _, err := s.Update(b.Context(), revoke); err != nil {
					b.Error(err)
				}
			})
			b.StopTimer()
			b.ReportMetric(float64(b.N)/store.Seconds(), "appends/s")
			b.ReportMetric(float64(b.N)/file.Seconds(), "file-appends/s")
			b.ReportMetric(file.Seconds()/store.Seconds(), "of-file")
		})
	}
}

// BenchmarkRefresh measures what a refresh does: an issue that reads account,
// session and head, and puts the session.
func BenchmarkRefresh(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprint("callers=", callers), func(b *testing.B) {
			s := open(b, filepath.Join(b.TempDir(), "quash.db"))
			one := step{Writer: "u"}
			if err := one.take(b.Context(), s); err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			timed(callers, b.N, func() {
				err := s.Issue(b.Context(), func(tx issuer.Tx) error { return refresh(tx, one.sid()) })
				if err != nil {
					b.Error(err)
				}
			})
		})
	}
}

// BenchmarkTail measures what a node does after a commit that it is told of.
func BenchmarkTail(b *testing.B) {
	s := open(b, ":memory:")
	for range 100 {
		if _, err := s.Update(b.Context(), revoke); err != nil {
			b.Fatal(err)
		}
	}
	tail, err := s.Tail(b.Context(), feed.Mark{}, 99)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if got, err := s.Tail(b.Context(), tail.Mark, 100); err != nil || len(got.Records) != 1 {
			b.Fatal(got, err)
		}
	}
}

// BenchmarkConfirmations looks for the evidence of one revocation among a
// hundred thousand, of as many processes of the server as it was started.
func BenchmarkConfirmations(b *testing.B) {
	const positions = 100_000
	for _, nodes := range []int{1, 100} {
		b.Run(fmt.Sprint("nodes=", nodes), func(b *testing.B) {
			s := open(b, ":memory:")
			if _, err := s.Update(b.Context(), func(tx issuer.Tx) error {
				for p := range positions {
					c := issuer.Confirmation{Node: fmt.Sprint("node", p*nodes/positions), First: uint64(p + 1), Last: uint64(p + 1), Outcomes: make([]issuer.Outcome, 3)}
					if err := tx.PutConfirmation(c); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			for n := range b.N {
				if err := s.View(b.Context(), func(r issuer.Reader) error {
					got, err := r.Confirmations(uint64(n*7919%positions + 1))
					if len(got) != 1 {
						b.Errorf("got %d confirmations, want 1", len(got))
					}
					return err
				}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func refresh(tx issuer.Tx, sid string) error {
	session, err := tx.Session(sid)
	if err != nil {
		return err
	}
	if _, err := tx.Account(session.Subject); err != nil {
		return err
	}
	if _, err := tx.Log(); err != nil {
		return err
	}
	session.Counter++
	session.LastUsed = tx.Now()
	return tx.PutSession(session)
}

// timed runs fn n times by so many callers.
func timed(callers, n int, fn func()) time.Duration {
	var left atomic.Int64
	left.Store(int64(n))
	start := time.Now()
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				fn()
			}
		})
	}
	wg.Wait()
	return time.Since(start)
}

// groupFile is the floor: one goroutine writes what waits and flushes it.
type groupFile struct {
	f     *os.File
	queue chan chan struct{}
}

func newGroupFile(b *testing.B, path string) *groupFile {
	b.Helper()
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	g := &groupFile{f: f, queue: make(chan chan struct{}, 256)}
	go g.write()
	b.Cleanup(func() { close(g.queue) })
	return g
}

func (g *groupFile) append() {
	done := make(chan struct{})
	g.queue <- done
	<-done
}

func (g *groupFile) write() {
	defer g.f.Close()
	record := make([]byte, 96*64)
	for first := range g.queue {
		group := append(make([]chan struct{}, 0, 64), first)
		for len(group) < 64 && len(g.queue) > 0 {
			group = append(group, <-g.queue)
		}
		_, _ = g.f.Write(record[:96*len(group)])
		_ = g.f.Sync()
		for _, done := range group {
			close(done)
		}
	}
}

// BenchmarkSessionRow reports the octets that one session takes of the file,
// with its indexes.
func BenchmarkSessionRow(b *testing.B) {
	const sessions = 20_000
	path := filepath.Join(b.TempDir(), "quash.db")
	for range b.N {
		s := open(b, path)
		for start := 0; start < sessions; start += 1000 {
			if _, err := s.Update(b.Context(), func(tx issuer.Tx) error { return putMany(tx, start, 1000) }); err != nil {
				b.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(info.Size())/sessions, "B/session")
}

func putMany(tx issuer.Tx, start, n int) error {
	subject := fmt.Sprintf("usr_%022d", start)
	now := tx.Now()
	if err := tx.PutAccount(issuer.Account{Subject: subject, Created: now, Changed: now}); err != nil {
		return err
	}
	for i := range n {
		s := issuer.Session{
			ID: fmt.Sprintf("ses_%022d", (start+i)*7919%1_000_003), Subject: subject, Client: "web", Device: "Firefox on Linux", Address: "192.0.2.7",
			Created: now, LastUsed: now, Expires: now.Add(90 * 24 * time.Hour), Counter: 3, Rotated: now, Tokens: []uint32{1, 2},
		}
		if err := tx.PutSession(s); err != nil {
			return err
		}
	}
	return nil
}
