package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/quashdev/quash"
	quashclient "github.com/quashdev/quash/client"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/postgres"
	"github.com/quashdev/quash/server"
)

// measureNodes measures two nodes on one PostgreSQL: a logout over HTTP at the
// first that every verifier of the second has confirmed when it returns, and
// what it costs that two nodes revoke instead of one.
func measureNodes(b *bench) (rows []row, err error) {
	p, err := newPrograms()
	if err != nil {
		return nil, err
	}
	defer p.close()
	url, err := p.postgres(b.ctx)
	if err != nil {
		return nil, err
	}
	confirmed, err := b.confirmElsewhere(url)
	if err != nil {
		return nil, err
	}
	shared, err := b.revokeAtTwo(url)
	return append(confirmed, shared...), err
}

// elsewhere is how many verifiers follow the node at which nobody logs out.
const elsewhere = 20

// confirmElsewhere measures the logouts over HTTP.
func (b *bench) confirmElsewhere(url string) ([]row, error) {
	pair, err := b.startPair(url)
	if err != nil {
		return nil, err
	}
	defer pair.close()
	floor, err := pgx.Connect(b.ctx, url)
	if err != nil {
		return nil, err
	}
	defer floor.Close(context.Background())
	if _, err := floor.Exec(b.ctx, `CREATE TABLE floor (record bytea NOT NULL)`); err != nil {
		return nil, err
	}
	var logouts, inserts []float64
	for round := range b.tails {
		b.progress.show("nodes: round %d of %d", round+1, b.tails)
		took, err := pair.logouts(b.single)
		if err != nil {
			return nil, err
		}
		logouts = append(logouts, took...)
		for range b.single {
			took, err := perCall(1, func(int) error {
				_, err := floor.Exec(b.ctx, `INSERT INTO floor VALUES ($1)`, make([]byte, recordBytes))
				return err
			})
			if err != nil {
				return nil, err
			}
			inserts = append(inserts, took)
		}
	}
	what := fmt.Sprintf("logout, %d verifiers of another node", elsewhere)
	const beside = "floor: INSERT, commit"
	p99 := at(.99, what, logouts, beside, inserts, bound{})
	p99.OursTarget = bound{Most: 25e-3}
	return []row{at(.5, what, logouts, beside, inserts, bound{}), p99}, nil
}

// pair is two nodes of one database, with verifiers at the second.
type pair struct {
	*bench
	admin quashclient.Admin   // at the first
	user  *quashclient.Client // at the first
	ends  []func()
}

func (p *pair) close() {
	for i := range p.ends {
		p.ends[len(p.ends)-1-i]()
	}
}

func (b *bench) startPair(url string) (_ *pair, err error) {
	p := &pair{bench: b}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	first, err := p.node("first", url)
	if err != nil {
		return nil, err
	}
	private, err := quashclient.New(quashclient.Config{URL: "http://" + first.private, Key: first.AdminKey()})
	if err != nil {
		return nil, err
	}
	p.admin = private.Admin()
	if p.user, err = quashclient.New(quashclient.Config{URL: "http://" + first.public}); err != nil {
		return nil, err
	}
	p.user = p.user.WithWait(10 * time.Second)
	if _, err := p.admin.CreateAccount(b.ctx, quashclient.NewAccount{Subject: "u_1"}); err != nil {
		return nil, err
	}
	second, err := p.node("second", url)
	if err != nil {
		return nil, err
	}
	secret, err := p.admin.CreateKey(b.ctx, quashclient.NewKey{Name: "verifiers", Scopes: []string{"feed"}})
	if err != nil {
		return nil, err
	}
	for range elsewhere {
		v, err := quash.Open(b.ctx, quash.Config{URL: "http://" + second.private, Key: secret.Secret, Audience: audience})
		if err != nil {
			return nil, err
		}
		p.ends = append(p.ends, func() { _ = v.Close(context.Background()) })
	}
	return p, nil
}

// running is a node that serves.
type running struct {
	*server.Server
	public, private string
}

func (p *pair) node(name, url string) (*running, error) {
	n := new(running)
	for _, address := range []*string{&n.public, &n.private} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		*address = l.Addr().String()
		l.Close()
	}
	srv, err := server.Open(p.ctx, server.Config{
		Data: filepath.Join(p.dir, name), Store: url, Public: n.public, Private: n.private, Issuer: issuerURL, Audience: []string{audience},
		Secret: make([]byte, 32), RequestsPerSecond: 100_000,
	})
	if err != nil {
		return nil, err
	}
	n.Server = srv
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx) }()
	p.ends = append(p.ends, func() {
		cancel()
		<-ended
	})
	return n, nil
}

// logouts returns how long each of n took until it was confirmed.
func (p *pair) logouts(n int) ([]float64, error) {
	took := make([]float64, n)
	for i := range took {
		tokens, err := p.admin.OpenSession(p.ctx, "u_1", quashclient.Device{})
		if err != nil {
			return nil, err
		}
		var effect quashclient.Effect
		took[i], err = perCall(1, func(int) (err error) {
			effect, err = p.user.Logout(p.ctx, tokens.RefreshToken)
			return err
		})
		switch {
		case err != nil:
			return nil, err
		case effect.Confirmation == nil || !effect.Confirmation.Confirmed:
			return nil, errors.New("a logout was not confirmed")
		}
	}
	return took, nil
}

// revokeAtTwo measures revocations of two nodes, whose groups take the head of
// the log in turn, beside as many callers at one.
func (b *bench) revokeAtTwo(url string) ([]row, error) {
	var stores []issuer.Store
	for range 2 {
		s, err := postgres.Open(b.ctx, postgres.Config{URL: url})
		if err != nil {
			return nil, err
		}
		defer s.Close()
		stores = append(stores, s)
	}
	at := func(nodes int) func(int) error {
		return func(i int) error {
			_, err := revokeOne(b.ctx, stores[i%nodes])
			return err
		}
	}
	n := b.grouped / 2
	samples, err := b.alternate("nodes: revoke", b.long, b.pace(callers, n, at(2)), b.pace(callers, n, at(1)))
	if err != nil {
		return nil, err
	}
	return []row{times("revokes, 64 callers at two nodes", perSecond, samples[0], "at one node", samples[1], bound{})}, nil
}
