package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/quashdev/quash/server"
)

func (p *program) serve() *cobra.Command {
	s := newSettings()
	var file string
	cmd := &cobra.Command{
		Use: "serve", Short: "Run the server", Args: arguments(0, 0),
		Long: "Run the server until it is told to stop.\n\n" +
			"Every flag can also stand in the environment (QUASH_TOKEN_LIFETIME) and in the file\n" +
			"that --config names (token-lifetime: 5m). A flag wins over the environment, and that\n" +
			"over the file.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := s.load(file, p.environ, p.stderr)
			if err != nil {
				return err
			}
			srv, err := server.Open(cmd.Context(), cfg)
			if errors.Is(err, syscall.EADDRINUSE) {
				return fmt.Errorf("%w; stop what holds it, or listen elsewhere with --public and --private", err)
			}
			if err != nil {
				return err
			}
			if err := p.announce(cfg, srv); err != nil {
				return err
			}
			defer server.FloorHeap()()
			return srv.Run(cmd.Context())
		},
	}
	cmd.Flags().AddFlagSet(s.flags)
	cmd.Flags().StringVar(&file, "config", p.env("QUASH_CONFIG", ""), "`FILE` with settings, in YAML (QUASH_CONFIG)")
	return cmd
}

// started is what a program learns of a server that starts.
type started struct {
	Public     string `json:"public,omitempty"`
	Private    string `json:"private,omitempty"`
	FirstStart bool   `json:"first_start"`
	KeyFile    string `json:"admin_key_file,omitempty"`
}

// announce says where the server is, and at the first start what to do next.
// The admin key itself is shown to a terminal only.
func (p *program) announce(cfg server.Config, srv *server.Server) error {
	s := started{Public: address(cfg, cfg.Public), Private: address(cfg, cfg.Private), FirstStart: srv.AdminKey() != ""}
	if _, err := os.Stat(srv.AdminKeyFile()); err == nil {
		s.KeyFile = srv.AdminKeyFile()
	}
	return p.print(s, func() {
		p.fields("users", s.Public, "private", s.Private, "data", cfg.Data, "admin key", s.KeyFile)
		if s.FirstStart {
			p.next(cfg, s, srv.AdminKey())
		}
	})
}

// address is the URL of a listener as seen from this machine.
func address(cfg server.Config, listen string) string {
	if listen == "" {
		return ""
	}
	host, port, _ := net.SplitHostPort(listen) // Validate has seen that it is one
	if ip := net.ParseIP(host); host == "" || ip.IsUnspecified() {
		host = "localhost"
	}
	scheme := "http://"
	if cfg.TLSCert != "" {
		scheme = "https://"
	}
	return scheme + net.JoinHostPort(host, port)
}

// next shows commands to copy.
func (p *program) next(cfg server.Config, s started, key string) {
	if terminal(p.stdout) {
		p.sayf("\nThis is the first start, and this the admin key; the file has it too:\n\n  %s", key)
	}
	if s.Private == "" {
		return
	}
	p.sayf("\nNext, in another terminal:\n")
	p.alias()
	if s.Private != "http://"+defaultPrivate {
		p.sayf("  export QUASH_URL=%s", s.Private)
	}
	if data, err := filepath.Abs(cfg.Data); err == nil {
		p.sayf("  export QUASH_DATA=%s", data)
	}
	p.sayf("  quash account create ada")
	p.sayf("  export QUASH_KEY=$(quash key create orders --verifier)\n  go run ./examples/protect  # or your own service")
	p.sayf("  quash tail")
}

// alias shows the command with which a shell finds this program as quash,
// where it does not already.
func (p *program) alias() {
	self, err := os.Executable()
	if err != nil {
		return
	}
	found, _ := exec.LookPath("quash")
	one, errOne := os.Stat(found)
	other, errOther := os.Stat(self)
	if errOne != nil || errOther != nil || !os.SameFile(one, other) {
		p.sayf("  alias quash=%s", self)
	}
}
