//go:build linux

package chaos_test

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// With these the test's own program runs as one of the processes to be
// tormented.
const (
	roleVariable   = "QUASH_CHAOS_ROLE"
	configVariable = "QUASH_CHAOS_CONFIG"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(act(role, os.Getenv(configVariable)))
	}
	flag.Parse()
	go launcher()
	os.Exit(m.Run())
}

// act is the main function of a child. It ends in order on SIGTERM.
func act(role, config string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	err := fmt.Errorf("there is no role %q", role)
	switch role {
	case "server":
		err = playServer(ctx, config)
	case "resource":
		err = playResource(ctx, config)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", role, err)
		return 1
	}
	return 0
}

// childLogger is silent, unless somebody wants to know.
func childLogger(verbose bool) *slog.Logger {
	if !verbose {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// launches are carried out by one thread, which lasts as long as this process:
// the kernel kills a child when the thread that made it ends.
var launches = make(chan func())

func launcher() {
	runtime.LockOSThread()
	for launch := range launches {
		launch()
	}
}

// process is a child.
type process struct {
	name    string
	cmd     *exec.Cmd
	stdout  *bufio.Reader
	ended   chan struct{} // closed when it has ended
	outcome error         // then
	killed  atomic.Bool   // somebody wanted it to end without order
	closing atomic.Bool   // somebody asked it to end
}

// launch starts this program in a role. It does not outlive this process. What
// it has to say goes to where words is.
func launch(name, role string, config any, words io.Writer) (*process, error) {
	text, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"="+role, configVariable+"="+string(text))
	cmd.Stderr = words
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	started := make(chan error)
	launches <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return nil, err
	}
	p := &process{name: name, cmd: cmd, stdout: bufio.NewReader(stdout), ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		p.outcome = cmd.Wait()
	}()
	return p, nil
}

// line returns the first line that the process wrote.
func (p *process) line(within time.Duration) (string, error) {
	late := time.AfterFunc(within, p.kill)
	defer late.Stop()
	text, err := p.stdout.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("%s did not start: %w", p.name, err)
	}
	return strings.TrimSpace(text), nil
}

func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// pause stops the process until resume; it does not notice.
func (p *process) pause()  { p.signal(syscall.SIGSTOP) }
func (p *process) resume() { p.signal(syscall.SIGCONT) }

// kill ends the process at once, paused or not.
func (p *process) kill() {
	p.killed.Store(true)
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// close asks the process to end, and waits for it.
func (p *process) close(within time.Duration) error {
	p.closing.Store(true)
	p.signal(syscall.SIGTERM)
	late := time.NewTimer(within)
	defer late.Stop()
	select {
	case <-p.ended:
	case <-late.C:
		p.kill()
		return fmt.Errorf("%s was asked to end and did not within %v", p.name, within)
	}
	if p.outcome != nil {
		return fmt.Errorf("%s was asked to end: %w", p.name, p.outcome)
	}
	return nil
}

// over says whether the process has ended.
func (p *process) over() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// gaveUp says whether a process that fell did so in order, saying that it could
// not go on.
func (p *process) gaveUp() bool { return p.cmd.ProcessState.ExitCode() == 1 }

// fell says how the process ended by itself; nil where it did not.
func (p *process) fell() error {
	if !p.over() {
		return nil
	}
	if p.killed.Load() || p.closing.Load() {
		return nil
	}
	return fmt.Errorf("%s ended by itself: %v", p.name, p.outcome)
}
