package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/alexedwards/argon2id"
	"golang.org/x/crypto/argon2"

	quashclient "github.com/quashdev/quash/client"
)

// What a password costs: the server's own choice (OWASP's).
var hashing = argon2id.Params{Memory: 19 << 10, Iterations: 2, Parallelism: 1, SaltLength: 16, KeyLength: 32}

const (
	password = "a few words that nobody guesses"
	// users and addresses are enough that none reaches its limit of logins a
	// minute, which those that are refused count to.
	users     = 4000
	addresses = 1000
	// againAfter is when callers come again who were refused because too many
	// wait. The server asks for a second, in which it could run out of work.
	againAfter = 250 * time.Millisecond
)

// logins measures logins by password, by more callers than may wait, beside
// hashes alone on every core; and the largest heap that the program had.
func (b *bench) logins(binary string) ([]row, error) {
	p, err := b.startProgram(binary, "--trusted-proxy", "127.0.0.0/8", "--max-sessions", "1000")
	if err != nil {
		return nil, err
	}
	rows, err := b.loginsAt(p)
	return rows, errors.Join(err, p.end())
}

func (b *bench) loginsAt(p *instance) ([]row, error) {
	everybody, err := p.createUsers(b)
	if err != nil {
		return nil, err
	}
	cores := runtime.GOMAXPROCS(0)
	n := b.grouped / 12 // a few for each caller
	samples, err := b.alternate("server: logins", b.tails,
		func() (float64, error) { return callRate(callers, n, everybody.login) },
		func() (float64, error) {
			salt := make([]byte, hashing.SaltLength)
			return callRate(cores, n, func(int) error {
				argon2.IDKey([]byte(password), salt, hashing.Iterations, hashing.Memory, hashing.Parallelism, hashing.KeyLength)
				return nil
			})
		})
	if err != nil {
		return nil, err
	}
	heap, err := p.heapDuring(func() error {
		_, err := callRate(callers, n, everybody.login)
		return err
	})
	if err != nil {
		return nil, err
	}
	each := 1024 * float64(hashing.Memory)
	memory := times("heap at most, 64 logins at once", bytesEach, []float64{heap}, "of it, a hash on every core", []float64{float64(cores) * each}, bound{})
	memory.OursTarget = bound{Most: float64(cores+1)*each + 64<<20}
	return []row{
		times("logins by password, 64 at once", perSecond, samples[0], "floor: argon2id on every core", samples[1], bound{Least: .9}), memory,
	}, nil
}

// heapDuring returns the largest heap that the program's metrics tell of during
// a call.
func (p *instance) heapDuring(call func() error) (most float64, err error) {
	done := make(chan error, 1)
	go func() { done <- call() }()
	for {
		now, err := p.metric("go_memstats_heap_inuse_bytes")
		if err != nil {
			return 0, errors.Join(err, <-done)
		}
		most = max(most, now)
		select {
		case err := <-done:
			return most, err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (p *instance) metric(name string) (v float64, err error) {
	answer, err := http.Get(p.private + "/metrics")
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	all, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(all)) {
		if text, ok := strings.CutPrefix(line, name+" "); ok {
			_, err := fmt.Sscan(text, &v)
			return v, err
		}
	}
	return 0, fmt.Errorf("there is no metric %s", name)
}

// people log in.
type people struct {
	ctx    context.Context
	client *quashclient.Client
}

func (u *people) login(int) error {
	for {
		_, err := u.client.Login(u.ctx, quashclient.LoginRequest{Name: fmt.Sprint("user-", rand.N(users)), Password: password})
		refused, ok := errors.AsType[*quashclient.Problem](err)
		if !ok || refused.Code != quashclient.CodeBusy {
			return err
		}
		time.Sleep(againAfter)
	}
}

// proxy says of each request that it comes from another place.
type proxy struct{ http.Transport }

// RoundTrip implements [http.RoundTripper].
func (p *proxy) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-Forwarded-For", fmt.Sprintf("198.18.%d.%d", rand.N(addresses/250), rand.N(250)))
	return p.Transport.RoundTrip(r)
}

// createUsers makes the accounts, with one hash for all of them.
func (p *instance) createUsers(b *bench) (*people, error) {
	key, err := os.ReadFile(filepath.Join(p.data, "admin.key"))
	if err != nil {
		return nil, err
	}
	operator, err := quashclient.New(quashclient.Config{URL: p.private, Key: strings.TrimSpace(string(key))})
	if err != nil {
		return nil, err
	}
	hash, err := argon2id.CreateHash(password, &hashing)
	if err != nil {
		return nil, err
	}
	all := make([]quashclient.ImportedAccount, users)
	for i := range all {
		all[i] = quashclient.ImportedAccount{Name: fmt.Sprint("user-", i), PasswordHash: hash}
	}
	for some := range slices.Chunk(all, 200) {
		made, err := operator.Admin().ImportAccounts(b.ctx, quashclient.ImportRequest{Accounts: some})
		if err == nil && made.Created != len(some) {
			err = fmt.Errorf("%d of %d accounts were made: %v", made.Created, len(some), made.Refused)
		}
		if err != nil {
			return nil, err
		}
	}
	near := &proxy{http.Transport{MaxIdleConnsPerHost: callers}}
	user, err := quashclient.New(quashclient.Config{URL: p.public, HTTP: &http.Client{Transport: near}})
	return &people{b.ctx, user}, err
}
