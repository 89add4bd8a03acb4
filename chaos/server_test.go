//go:build linux

package chaos_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quashdev/quash/server"
)

// serverConfig is what the server's process gets.
type serverConfig struct {
	Data, Public, Private string
	Lease                 time.Duration
	Verbose               bool
}

func playServer(ctx context.Context, text string) error {
	var c serverConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	srv, err := server.Open(ctx, server.Config{
		Data: c.Data, Public: c.Public, Private: c.Private, Lease: c.Lease,
		TokenLifetime: 24 * time.Hour, RequestsPerSecond: 100_000, Logger: childLogger(c.Verbose),
	})
	if err != nil {
		return err
	}
	return srv.Run(ctx)
}

// node is the server: one process at a time.
type node struct {
	stage   *stage
	config  serverConfig
	started atomic.Int64 // processes so far

	mu      sync.Mutex
	process *process
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

// start starts a process and waits until it serves.
func (n *node) start() error {
	p, err := launch("server", "server", n.config)
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.process = p
	n.mu.Unlock()
	n.started.Add(1)
	for began := time.Now(); n.stage.ready() != nil; time.Sleep(10 * time.Millisecond) {
		if err := p.fell(); err != nil {
			return err
		}
		if time.Since(began) > patience {
			return fmt.Errorf("the server does not answer %v after its start", patience)
		}
	}
	return nil
}

func (n *node) current() *process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.process
}
