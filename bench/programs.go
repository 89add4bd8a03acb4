package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// programs are other people's servers, on sockets and ports of this machine
// alone, with their files in one directory. They end with close.
type programs struct {
	dir   string
	owner *syscall.Credential // PostgreSQL refuses to be root; nil: who runs this
	ends  []func()
	last  *process
}

// process is a program that was started.
type process struct {
	*exec.Cmd
	ended chan struct{}
	again func() error
}

// startTimeout bounds how long a program may take to answer, or to end.
const startTimeout = 20 * time.Second

func newPrograms() (*programs, error) {
	// In a short path, as sockets need, that other users can enter.
	dir, err := os.MkdirTemp("/tmp", "quash-bench-")
	if err != nil {
		return nil, err
	}
	p := &programs{dir: dir, ends: []func(){func() { os.RemoveAll(dir) }}}
	if err = os.Chmod(dir, 0o755); err == nil && os.Geteuid() == 0 {
		p.owner, err = credential("postgres")
	}
	if err != nil {
		p.close()
	}
	return p, err
}

func credential(name string) (*syscall.Credential, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, err
}

func (p *programs) close() {
	for i := range p.ends {
		p.ends[len(p.ends)-1-i]()
	}
}

// start runs a program in the foreground until close, and returns when it
// listens.
func (p *programs) start(who *syscall.Credential, network, address, program string, args ...string) error {
	name := filepath.Base(program)
	log, err := os.Create(filepath.Join(p.dir, name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, p.dir
	cmd.SysProcAttr = ending(who)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	p.last = &process{cmd, ended, func() error { return p.start(who, network, address, program, args...) }}
	p.ends = append(p.ends, func() {
		_ = cmd.Process.Signal(os.Interrupt)
		select {
		case <-ended:
		case <-time.After(startTimeout):
			_ = cmd.Process.Kill()
			<-ended
		}
	})
	return listens(network, address, name, ended)
}

func listens(network, address, name string, ended <-chan struct{}) error {
	for start := time.Now(); time.Since(start) < startTimeout; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial(network, address)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ended:
			return fmt.Errorf("%s ended at once", name)
		default:
		}
	}
	return fmt.Errorf("%s does not listen after %v", name, startTimeout)
}

// redis returns the socket of a Redis that keeps nothing on disk.
func (p *programs) redis() (socket string, err error) {
	socket = filepath.Join(p.dir, "redis.sock")
	return socket, p.start(nil, "unix", socket, "redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no", "--dir", p.dir)
}

// postgres returns how to connect to a PostgreSQL with its defaults.
func (p *programs) postgres(ctx context.Context) (url string, err error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("there is no PostgreSQL in /usr/lib/postgresql: %w", os.ErrNotExist)
	}
	program, data := found[len(found)-1], filepath.Join(p.dir, "pg")
	if err := os.Mkdir(data, 0o700); err != nil {
		return "", err
	}
	if p.owner != nil {
		if err := os.Chown(data, int(p.owner.Uid), int(p.owner.Gid)); err != nil {
			return "", err
		}
	}
	create := exec.CommandContext(ctx, filepath.Join(filepath.Dir(program), "initdb"), "-D", data, "-U", "bench", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale", "C")
	create.SysProcAttr, create.Dir = ending(p.owner), p.dir
	if out, err := create.CombinedOutput(); err != nil {
		return "", fmt.Errorf("initdb: %w: %s", err, out)
	}
	if err := p.start(p.owner, "unix", filepath.Join(data, ".s.PGSQL.5432"), program, "-D", data, "-k", data, "-c", "listen_addresses=", "-c", "max_connections=100"); err != nil {
		return "", err
	}
	url = "postgres:///postgres?user=bench&sslmode=disable&host=" + data
	return url, answers(ctx, url)
}

// answers waits until a PostgreSQL that listens takes connections too.
func answers(ctx context.Context, url string) (err error) {
	for start := time.Now(); time.Since(start) < startTimeout; time.Sleep(10 * time.Millisecond) {
		var c *pgx.Conn
		if c, err = pgx.Connect(ctx, url); err == nil {
			return c.Close(ctx)
		}
	}
	return err
}

// nginx serves a small file behind each of the prefixes, after it has asked the
// backend's path for the request. An empty path asks nobody.
func (p *programs) nginx(backend string, asked map[string]string) (address string, err error) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	address = free.Addr().String()
	free.Close()
	if err := os.WriteFile(filepath.Join(p.dir, "file"), []byte("hello\n"), 0o644); err != nil {
		return "", err
	}
	file := filepath.Join(p.dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(nginxConfig(p.dir, address, backend, asked)), 0o644); err != nil {
		return "", err
	}
	return address, p.start(nil, "tcp", address, "/usr/sbin/nginx", "-p", p.dir, "-c", file, "-g", "daemon off;")
}

func nginxConfig(dir, address, backend string, asked map[string]string) string {
	var c strings.Builder
	fmt.Fprintf(&c, "worker_processes 1;\npid %s/nginx.pid;\nerror_log %s/error.log;\n", dir, dir)
	c.WriteString("events { worker_connections 1024; }\nhttp {\naccess_log off;\nkeepalive_requests 100000000;\n")
	for _, temp := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&c, "%s_temp_path %s/%s;\n", temp, dir, temp)
	}
	fmt.Fprintf(&c, "upstream go { server %s; keepalive 64; keepalive_requests 100000000; }\nserver {\nlisten %s;\n", backend, address)
	for prefix, path := range asked {
		fmt.Fprintf(&c, "location = /%s { alias %s/file; ", prefix, dir)
		if path == "" {
			c.WriteString("}\n")
			continue
		}
		fmt.Fprintf(&c, "auth_request /ask/%s; }\nlocation = /ask/%s { internal; proxy_pass http://go%s; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_pass_request_body off; proxy_set_header Content-Length \"\"; }\n", prefix, prefix, path)
	}
	c.WriteString("}\n}\n")
	return c.String()
}
