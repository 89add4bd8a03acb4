package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/server"
)

// stage is what the demo is played on: a server in this process, and three
// resource servers, each a process of its own.
type stage struct {
	dir       string
	config    server.Config
	server    *server.Server
	running   chan error // what Run returned
	halt      context.CancelFunc
	public    *client.Client
	admin     client.Admin
	resources []*resource
}

// resource is a resource server in a process of its own.
type resource struct {
	name  string
	url   string
	cmd   *exec.Cmd
	stdin io.Closer // the process ends when it is closed, or when this one dies
	http  *http.Client
}

var resourceNames = []string{"orders", "billing", "chat"}

// patience is how long anything on the stage may take before the demo gives
// up on it.
const patience = 10 * time.Second

// raise builds a stage. The caller must strike it, also where raise fails.
func (s *stage) raise(ctx context.Context, stderr io.Writer) error {
	dir, err := os.MkdirTemp("", "quash-demo-")
	if err != nil {
		return err
	}
	s.dir = dir
	if err := s.serve(ctx, stderr); err != nil {
		return err
	}
	s.resources = make([]*resource, len(resourceNames))
	group, ctx := errgroup.WithContext(ctx)
	for i, name := range resourceNames {
		group.Go(func() error {
			rs, err := s.start(ctx, name, stderr)
			s.resources[i] = rs
			if err != nil {
				return fmt.Errorf("resource server %s: %w", name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// serve starts the server on free ports and waits until it answers.
func (s *stage) serve(ctx context.Context, stderr io.Writer) error {
	public, private, err := freeAddresses()
	if err != nil {
		return err
	}
	s.config = server.Config{
		Data: filepath.Join(s.dir, "data"), Public: public, Private: private, Audience: resourceNames,
		TokenLifetime: time.Hour, // so that whoever stays has time to try things
		Logger:        slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelError})),
	}
	if s.server, err = server.Open(ctx, s.config); err != nil {
		return err
	}
	user, err := client.New(client.Config{URL: "http://" + public})
	if err != nil {
		return err
	}
	operator, err := client.New(client.Config{URL: "http://" + private, Key: s.server.AdminKey()})
	if err != nil {
		return err
	}
	s.public, s.admin = user.WithWait(patience), operator.WithWait(patience).Admin()
	running, halt := context.WithCancel(context.Background())
	s.halt, s.running = halt, make(chan error, 1)
	go func() { s.running <- s.server.Run(running) }()
	return errors.Join(s.ready(ctx, s.public), s.ready(ctx, operator))
}

// freeAddresses returns two addresses on loopback that nobody listened on a
// moment ago.
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

func (s *stage) ready(ctx context.Context, c *client.Client) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := c.Ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case failed := <-s.running:
			s.running <- failed
			return failed
		case <-ctx.Done():
			return fmt.Errorf("the server does not answer: %w", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// start runs a resource server as another process of this same program and waits
// until it says where it listens.
func (s *stage) start(ctx context.Context, name string, stderr io.Writer) (*resource, error) {
	key, err := s.admin.CreateKey(ctx, client.NewKey{Name: name, Scopes: []string{"feed"}})
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	rs := &resource{name: name, http: &http.Client{Timeout: patience, Transport: &http.Transport{}}}
	rs.cmd = &exec.Cmd{
		Path: self, Args: []string{os.Args[0], "demo-resource", "--name", name}, Stderr: stderr,
		Env: append(os.Environ(), "QUASH_URL=http://"+s.config.Private, "QUASH_KEY="+key.Secret),
	}
	stdout, err := rs.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if rs.stdin, err = rs.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := rs.cmd.Start(); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { rs.stdin.Close() })
	defer stop()
	address, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		return rs, fmt.Errorf("it did not start: %w", err)
	}
	rs.url = "http://" + strings.TrimSpace(address)
	return rs, nil
}

// strike ends the processes and removes what they left.
func (s *stage) strike() error {
	var errs []error
	for _, rs := range s.resources {
		if rs != nil {
			errs = append(errs, rs.end())
		}
	}
	switch {
	case s.halt != nil:
		s.halt()
		errs = append(errs, <-s.running)
	case s.server != nil:
		errs = append(errs, s.server.Close(context.Background()))
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}

func (rs *resource) end() error {
	rs.http.CloseIdleConnections()
	rs.stdin.Close()
	kill := time.AfterFunc(patience, func() { _ = rs.cmd.Process.Kill() })
	defer kill.Stop()
	if err := rs.cmd.Wait(); err != nil {
		return fmt.Errorf("resource server %s: %w", rs.name, err)
	}
	return nil
}
