package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"github.com/quashdev/quash"
	remote "github.com/quashdev/quash/client"
	"github.com/quashdev/quash/internal/jws"
)

// fate is what becomes of a token after its user has logged out, and the store
// that knows of it has crashed and come back.
type fate struct {
	Way      string  `json:"way"`
	Lifetime float64 `json:"lifetime_s"` // of the token, or of the session in its place
	Refused  float64 `json:"refused_s"`  // since the logout was asked for
	// WhileDown is what other users' requests get while the store is away; empty
	// where none is asked.
	WhileDown string  `json:"while_down,omitempty"`
	Revived   float64 `json:"revived_s"` // how long it was accepted once the store was back; 0: never
	LoggedOut bool    `json:"others_logged_out"`
}

// scene is one of the ways, set up with two users' tokens.
type scene struct {
	gone, other    string
	ask            func(token string) error // an error: the token is refused
	logout         func() error             // of gone
	crash, restart func() error             // of the store; nil: there is none
}

// staged sets a scene up with programs of its own.
type staged struct {
	name string
	life time.Duration
	set  func(*programs) (scene, error)
}

// measureRestart plays a logout by each way at once, crashes the store right
// after it, and starts it again.
func measureRestart(b *bench) ([]row, error) {
	b.progress.show("restart: until tokens of %v have expired", b.life)
	ways := []staged{
		{"Quash", b.life, b.setQuash},
		{"denylist in Redis", b.life, b.setDenylist},
		{"version number in PostgreSQL", b.life, b.setVersion},
		{"opaque session in Redis", b.life, func(p *programs) (scene, error) { return b.setOpaque(p, true) }},
		{"opaque session in Redis, no snapshot yet", b.life, func(p *programs) (scene, error) { return b.setOpaque(p, false) }},
		{"short-lived token", max(b.life/6, 2*time.Second), b.setNothing(max(b.life/6, 2*time.Second))},
		{"refresh tokens only", b.life, b.setNothing(b.life)},
	}
	b.fates = make([]fate, len(ways))
	errs := make([]error, len(ways))
	var playing sync.WaitGroup
	for i, way := range ways {
		playing.Go(func() {
			b.fates[i] = fate{Way: way.name, Lifetime: way.life.Seconds()}
			if err := b.fates[i].play(way); err != nil {
				errs[i] = fmt.Errorf("%s: %w", way.name, err)
			}
		})
	}
	playing.Wait()
	return nil, errors.Join(errs...)
}

func (f *fate) play(way staged) error {
	p, err := newPrograms()
	if err != nil {
		return err
	}
	defer p.close()
	s, err := way.set(p)
	if err != nil {
		return err
	}
	if err := errors.Join(s.ask(s.gone), s.ask(s.other)); err != nil {
		return fmt.Errorf("before the logout: %w", err)
	}
	start := time.Now()
	if err := s.logout(); err != nil {
		return err
	}
	if f.Refused = s.until(start, way.life); f.Refused < 0 {
		return errors.New("the token is accepted after it has expired")
	}
	if s.crash == nil {
		return nil
	}
	if err := s.crash(); err != nil {
		return err
	}
	f.WhileDown = "accepted"
	if s.ask(s.other) != nil {
		f.WhileDown = "refused"
	}
	if err := s.restart(); err != nil {
		return err
	}
	return f.aftermath(s, way.life)
}

const poll = 2 * time.Millisecond

// until returns how long after start the token is refused; -1: never.
func (s *scene) until(start time.Time, life time.Duration) float64 {
	for s.ask(s.gone) == nil {
		if time.Since(start) > life+2*time.Second {
			return -1
		}
		time.Sleep(poll)
	}
	return time.Since(start).Seconds()
}

// aftermath looks at both tokens once the store is back.
func (f *fate) aftermath(s scene, life time.Duration) error {
	start, settle := time.Now(), min(startTimeout, life/3)
	f.LoggedOut = true
	for f.LoggedOut && time.Since(start) < settle {
		f.LoggedOut = s.ask(s.other) != nil
		time.Sleep(poll)
	}
	for begin := time.Now(); time.Since(begin) < time.Second; time.Sleep(poll) {
		if s.ask(s.gone) == nil {
			if f.Revived = s.until(start, life); f.Revived < 0 {
				return errors.New("the token is accepted after it has expired")
			}
		}
	}
	return nil
}

// crashable fills in what crashes the program that was started last, by a
// signal that leaves it no time to save anything.
func (s *scene) crashable(p *programs, by syscall.Signal) {
	s.crash = func() error {
		err := p.last.Process.Signal(by)
		<-p.last.ended
		return err
	}
	s.restart = func() error { return p.last.again() }
}

// signed puts two tokens into a scene, and returns how they are read.
func (s *scene) signed(life time.Duration) (func(string) (*golangClaims, error), error) {
	key, err := newSigner(jws.Ed25519)
	if err != nil {
		return nil, err
	}
	tokens, err := key.tokensFor(life, 2, 1)
	if err != nil {
		return nil, err
	}
	s.gone, s.other = tokens[0], tokens[1]
	return golangJWT(keyring{key.kid: key.public}, key.alg), nil
}

// setNothing is a token that nobody looks up: a logout ends the refresh token.
func (b *bench) setNothing(life time.Duration) func(*programs) (scene, error) {
	return func(*programs) (s scene, err error) {
		read, err := s.signed(life)
		s.ask = func(token string) error { _, err := read(token); return err }
		s.logout = func() error { return nil }
		return s, err
	}
}

// redisConfig is what Debian's package runs Redis with.
const redisConfig = "/etc/redis/redis.conf"

func (b *bench) startRedis(p *programs, s *scene) (*redis.Client, error) {
	socket := filepath.Join(p.dir, "redis.sock")
	args := []string{
		"--port", "0", "--unixsocket", socket, "--dir", p.dir,
		"--daemonize", "no", "--supervised", "no", "--pidfile", filepath.Join(p.dir, "redis.pid"), "--logfile", "",
	}
	// Where this user may not read it, Redis has the same snapshots built in.
	if f, err := os.Open(redisConfig); err == nil {
		f.Close()
		args = append([]string{redisConfig}, args...)
	}
	if err := p.start(nil, "unix", socket, "redis-server", args...); err != nil {
		return nil, err
	}
	s.crashable(p, syscall.SIGKILL)
	logging.Disable() // that it is away is no news here
	c := redis.NewClient(&redis.Options{Network: "unix", Addr: socket, MaxRetries: -1, DialerRetries: 1})
	p.ends = append(p.ends, func() { _ = c.Close() })
	return c, nil
}

// setDenylist is a list of denied tokens. It takes its snapshot before the
// logout, as a Redis that has run for a while has one.
func (b *bench) setDenylist(p *programs) (s scene, err error) {
	c, err := b.startRedis(p, &s)
	if err != nil {
		return s, err
	}
	read, err := s.signed(b.life)
	if err != nil {
		return s, err
	}
	s.ask = func(token string) error {
		claims, err := read(token)
		if err != nil {
			return err
		}
		if err := c.Get(b.ctx, "denied:"+claims.ID).Err(); !errors.Is(err, redis.Nil) {
			return errors.Join(errDenied, err)
		}
		return nil
	}
	s.logout = func() error {
		claims, err := read(s.gone)
		if err != nil {
			return err
		}
		return c.Set(b.ctx, "denied:"+claims.ID, "1", b.life).Err()
	}
	return s, c.Save(b.ctx).Err()
}

// setOpaque has sessions in the place of tokens.
func (b *bench) setOpaque(p *programs, snapshot bool) (s scene, err error) {
	c, err := b.startRedis(p, &s)
	if err != nil {
		return s, err
	}
	s.gone, s.other = "session:gone", "session:other"
	for _, key := range []string{s.gone, s.other} {
		if err := c.Set(b.ctx, key, `{"sub":"u"}`, b.life).Err(); err != nil {
			return s, err
		}
	}
	s.ask = func(key string) error {
		text, err := c.Get(b.ctx, key).Bytes()
		if err != nil {
			return err
		}
		return json.Unmarshal(text, new(golangClaims))
	}
	s.logout = func() error { return c.Del(b.ctx, s.gone).Err() }
	if snapshot {
		err = c.Save(b.ctx).Err()
	}
	return s, err
}

// setVersion is a number on the account that a token must have.
func (b *bench) setVersion(p *programs) (s scene, err error) {
	url, err := p.postgres(b.ctx)
	if err != nil {
		return s, err
	}
	s.crashable(p, syscall.SIGQUIT) // its own immediate shutdown: nothing is flushed
	pool, err := pgxpool.New(b.ctx, url)
	if err != nil {
		return s, err
	}
	p.ends = append(p.ends, pool.Close)
	for start := time.Now(); pool.Ping(b.ctx) != nil && time.Since(start) < startTimeout; {
		time.Sleep(20 * time.Millisecond)
	}
	read, err := s.signed(b.life)
	if err != nil {
		return s, err
	}
	if _, err := pool.Exec(b.ctx, `CREATE TABLE account (name TEXT PRIMARY KEY, version BIGINT NOT NULL)`); err != nil {
		return s, err
	}
	for _, token := range []string{s.gone, s.other} {
		claims, err := read(token)
		if err == nil {
			_, err = pool.Exec(b.ctx, `INSERT INTO account VALUES ($1, $2)`, claims.Subject, int64(claims.Revision))
		}
		if err != nil {
			return s, err
		}
	}
	s.ask = func(token string) error {
		claims, err := read(token)
		if err != nil {
			return err
		}
		var version int64
		err = pool.QueryRow(b.ctx, `SELECT version FROM account WHERE name = $1`, claims.Subject).Scan(&version)
		if err == nil && version != int64(claims.Revision) {
			err = errDenied
		}
		return err
	}
	s.logout = func() error {
		claims, err := read(s.gone)
		if err == nil {
			_, err = pool.Exec(b.ctx, `UPDATE account SET version = version + 1 WHERE name = $1`, claims.Subject)
		}
		return err
	}
	return s, nil
}

// setQuash is quash serve as a process, and a verifier in this one.
func (b *bench) setQuash(p *programs) (s scene, err error) {
	bin, data := filepath.Join(p.dir, "quash"), filepath.Join(p.dir, "data")
	if out, err := exec.CommandContext(b.ctx, "go", "build", "-C", "..", "-o", bin, "./cmd/quash").CombinedOutput(); err != nil {
		return s, fmt.Errorf("build quash: %w: %s", err, out)
	}
	public, private, err := freeAddresses()
	if err != nil {
		return s, err
	}
	life := max(b.life, 10*time.Second)
	if err := p.start(nil, "tcp", private, bin, "serve", "--data", data, "--public", public, "--private", private, "--token-lifetime", life.String()); err != nil {
		return s, err
	}
	s.crashable(p, syscall.SIGKILL)
	admin, err := operator(b.ctx, private, filepath.Join(data, "admin.key"))
	if err != nil {
		return s, err
	}
	made, err := admin.CreateKey(b.ctx, remote.NewKey{Name: "bench", Scopes: []string{"feed"}})
	if err != nil {
		return s, err
	}
	v, err := quash.Open(b.ctx, quash.Config{URL: "http://" + private, Key: made.Secret, Name: "bench"})
	if err != nil {
		return s, err
	}
	p.ends = append(p.ends, func() { _ = v.Close(context.Background()) })
	session := ""
	for i, token := range []*string{&s.other, &s.gone} {
		subject := fmt.Sprint("u_", i)
		if _, err := admin.CreateAccount(b.ctx, remote.NewAccount{Subject: subject}); err != nil {
			return s, err
		}
		opened, err := admin.OpenSession(b.ctx, subject, remote.Device{})
		if err != nil {
			return s, err
		}
		*token, session = opened.AccessToken, opened.Session
	}
	s.ask = func(token string) error { _, err := v.Verify(token); return err }
	s.logout = func() error {
		_, err := admin.EndSession(b.ctx, session, remote.Change{})
		return err
	}
	return s, nil
}

// operator returns the calls of a server's private listener once it is ready,
// which is after its first key is there.
func operator(ctx context.Context, private, keyFile string) (remote.Admin, error) {
	anybody, err := remote.New(remote.Config{URL: "http://" + private})
	if err != nil {
		return remote.Admin{}, err
	}
	for start := time.Now(); anybody.Ready(ctx) != nil && time.Since(start) < startTimeout; {
		time.Sleep(20 * time.Millisecond)
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return remote.Admin{}, err
	}
	c, err := remote.New(remote.Config{URL: "http://" + private, Key: strings.TrimSpace(string(key))})
	if err != nil {
		return remote.Admin{}, err
	}
	return c.WithWait(time.Minute).Admin(), nil
}

// freeAddresses returns two on loopback that nobody listened on a moment ago.
func freeAddresses() (public, private string, err error) {
	var found [2]string
	for i := range found {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", "", err
		}
		defer l.Close()
		found[i] = l.Addr().String()
	}
	return found[0], found[1], nil
}

func printFates(out io.Writer, fates []fate) {
	if len(fates) == 0 {
		return
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "AFTER A LOGOUT\trefused after\tstore down: others are\tstore back: accepted for\tothers logged out")
	for _, f := range fates {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%t\n", f.Way, format(f.Refused, seconds), f.WhileDown, format(f.Revived, seconds), f.LoggedOut)
	}
	w.Flush()
}
