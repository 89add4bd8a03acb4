//go:build linux

package chaos_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/server"
)

// serverConfig is what the process of a node gets.
type serverConfig struct {
	Data, Public, Private string
	Store                 string // empty: SQLite
	Issuer                string
	Secret                []byte
	Lease                 time.Duration
}

func playServer(ctx context.Context, text string) error {
	var c serverConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	srv, err := server.Open(ctx, server.Config{
		Data: c.Data, Public: c.Public, Private: c.Private, Lease: c.Lease, Store: c.Store, Issuer: c.Issuer, Secret: c.Secret,
		TokenLifetime: 24 * time.Hour, RequestsPerSecond: 100_000,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return err
	}
	return srv.Run(ctx)
}

// node is a server: one process at a time.
type node struct {
	stage    *stage
	name     string
	config   serverConfig
	private  *client.Client
	public   *client.Client
	paths    paths // from the resource servers
	database paths // to the database, where it is not its own
	log      words

	started atomic.Int64 // processes so far
	ended   atomic.Int64 // of them, those that somebody ended
	stopped atomic.Int64 // times

	mu      sync.Mutex
	process *process
}

// newNode prepares one. It cannot administer anything before it has a key.
func (s *stage) newNode(dir string) (n *node, err error) {
	n = &node{stage: s, name: fmt.Sprintf("node-%d", len(s.nodes))}
	n.config = serverConfig{
		Data: filepath.Join(dir, n.name), Public: freeAddress(), Private: freeAddress(), Issuer: "http://chaos.invalid",
		Secret: s.secret[:], Lease: s.lease,
	}
	if s.shared != nil {
		p, url, err := s.shared.path()
		if err != nil {
			return nil, err
		}
		n.config.Store, n.database = url, paths{p}
	}
	if n.public, err = client.New(client.Config{URL: "http://" + n.config.Public, HTTP: s.http}); err != nil {
		return nil, err
	}
	return n, n.takes("")
}

// takes has whoever administers the node present a key.
func (n *node) takes(key string) (err error) {
	n.private, err = client.New(client.Config{URL: "http://" + n.config.Private, Key: key, HTTP: n.stage.http})
	return err
}

// port is the last that freeAddress tried. It begins where other processes that
// run tests probably do not, and stays below what systems give to connections,
// so that none takes the port while the server is down.
var port atomic.Int64

func init() { port.Store(10_000 + rand.Int64N(9_000)) }

func freeAddress() string {
	for {
		address := fmt.Sprintf("127.0.0.1:%d", port.Add(1))
		if l, err := net.Listen("tcp", address); err == nil {
			_ = l.Close()
			return address
		}
	}
}

// start starts a process and waits until it serves. One whose database is away
// just then is started again.
func (n *node) start() error {
	if err := n.launch(); err != nil {
		return err
	}
	for began := time.Now(); n.ready() != nil; time.Sleep(10 * time.Millisecond) {
		p := n.current()
		err := p.fell()
		if err != nil && n.config.Store != "" && n.started.Load() > 1 && p.gaveUp() {
			err = n.launch()
		}
		if err != nil {
			return err
		}
		if time.Since(began) > patience {
			return fmt.Errorf("%s does not answer %v after its start", n.name, patience)
		}
	}
	return nil
}

func (n *node) launch() error {
	p, err := launch(n.name, "server", n.config, &n.log)
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.process = p
	n.mu.Unlock()
	n.started.Add(1)
	return nil
}

// ready returns nil where the node answers on both of its listeners.
func (n *node) ready() error {
	ctx, cancel := context.WithTimeout(n.stage.watching, time.Second)
	defer cancel()
	return errors.Join(n.private.Ready(ctx), n.public.Ready(ctx))
}

func (n *node) current() *process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.process
}

// words is what processes have had to say.
type words struct {
	mu   sync.Mutex
	text []byte
}

func (w *words) Write(text []byte) (int, error) {
	if *verbose {
		_, _ = os.Stderr.Write(text)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, text...)
	return len(text), nil
}

func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.text)
}
