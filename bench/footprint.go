package main

import (
	"bufio"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/quashdev/quash/internal/issuer"
)

// sessionBytes measures what a session takes on disk, indexes and the audit of
// its login included, and what its refreshes add.
func (b *bench) sessionBytes() ([]row, error) {
	path := filepath.Join(b.dir, "sessions.db")
	var size [4]int64 // without sessions, with them, refreshed, and twice as often
	var tokens []string
	for step := range size {
		store, i, err := openStore(b.ctx, path)
		if err != nil {
			return nil, err
		}
		l := logouts{bench: b, issuer: i}
		switch step {
		case 0:
			err = l.createAccounts()
		case 1:
			tokens, err = l.open(b.grouped)
		default:
			err = concurrently(callers, len(tokens), func(n int) error {
				g, err := i.Refresh(b.ctx, issuer.RefreshRequest{Token: tokens[n]})
				tokens[n] = g.RefreshToken
				return err
			})
		}
		if err = errors.Join(err, store.Close()); err != nil {
			return nil, err
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		size[step] = info.Size()
	}
	each := func(n int64) []float64 { return []float64{float64(n) / float64(len(tokens))} }
	session := times("a session on disk, with its audit", bytesEach, each(size[1]-size[0]), "its id, subject and secret", []float64{24 + 5 + 32}, bound{})
	session.OursTarget = bound{Most: 600}
	refresh := times("what a refresh adds to the disk", bytesEach, each(size[3]-size[2]), "a session", each(size[1]-size[0]), bound{})
	refresh.OursTarget = bound{Most: 16} // a page or two of the whole
	return []row{session, refresh}, nil
}

// program measures the real binary: how soon it answers where the tables are
// there already, what it takes of memory when nothing happens, and logins.
func (b *bench) program() ([]row, error) {
	binary := filepath.Join(b.dir, "quash")
	build := exec.CommandContext(b.ctx, "go", "build", "-C", "..", "-ldflags", "-s -w", "-o", binary, "./cmd/quash")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build: %w: %s", err, out)
	}
	var start, idle, floor []float64
	for round := range b.tails + 1 {
		took, resident, err := b.startOnce(binary)
		if err != nil {
			return nil, err
		}
		began := time.Now()
		if err := exec.CommandContext(b.ctx, binary, "help").Run(); err != nil {
			return nil, err
		}
		if round > 0 { // the first makes the tables
			start, idle, floor = append(start, took), append(idle, resident), append(floor, time.Since(began).Seconds())
		}
	}
	started := times("start until healthy", seconds, start, "floor: the program's help", floor, bound{})
	started.OursTarget = bound{Most: 60e-3}
	const wanted = 40 << 20
	memory := times("resident memory, idle", bytesEach, idle, "wanted", []float64{wanted, wanted, wanted, wanted, wanted}[:len(idle)], bound{})
	memory.OursTarget = bound{Most: wanted}
	logins, err := b.logins(binary)
	return append([]row{started, memory}, logins...), err
}

// startOnce starts the binary, waits until it is ready, and a little longer
// until it is idle, and ends it.
func (b *bench) startOnce(binary string) (took, resident float64, err error) {
	p, err := b.startProgram(binary)
	if err != nil {
		return 0, 0, err
	}
	time.Sleep(b.parallel)
	resident, err = p.resident()
	return p.took, resident, errors.Join(err, p.end())
}

// instance is the real binary, which serves on loopback.
type instance struct {
	*exec.Cmd
	data            string
	public, private string  // base addresses
	took            float64 // seconds until it was ready
}

// startProgram starts the binary on the data that it had before, and returns
// when it is ready.
func (b *bench) startProgram(binary string, settings ...string) (*instance, error) {
	var addresses [2]string
	for i := range addresses {
		free, err := listen(nil)
		if err != nil {
			return nil, err
		}
		addresses[i] = free.Addr().String()
		free.Close()
	}
	p := &instance{data: filepath.Join(b.dir, "program"), public: "http://" + addresses[0], private: "http://" + addresses[1]}
	p.Cmd = exec.CommandContext(b.ctx, binary, append([]string{"serve", "--data", p.data, "--public", addresses[0], "--private", addresses[1]}, settings...)...)
	p.SysProcAttr = ending(nil)
	began := time.Now()
	if err := p.Start(); err != nil {
		return nil, err
	}
	for healthy := false; !healthy; {
		if time.Since(began) > startTimeout {
			return nil, errors.Join(errors.New("the server is not ready"), p.end())
		}
		if answer, err := http.Get(p.public + "/readyz"); err == nil {
			answer.Body.Close()
			healthy = answer.StatusCode == http.StatusOK
		} else {
			time.Sleep(time.Millisecond)
		}
	}
	p.took = time.Since(began).Seconds()
	return p, nil
}

func (p *instance) end() error {
	_ = p.Process.Signal(os.Interrupt)
	return p.Wait()
}

// resident reads what the system counts for the process.
func (p *instance) resident() (float64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", p.Process.Pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if kib, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
			var n float64
			_, err := fmt.Sscan(kib, &n)
			return n * 1024, err
		}
	}
	return 0, errors.New("the system does not say how much memory a process has")
}
