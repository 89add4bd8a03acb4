package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/coder/websocket"
	"github.com/spf13/cobra"

	"github.com/quashdev/quash"
)

// demoResource is one of the resource servers of the demo, in a process of its
// own. Of Quash it uses what any other would: the package quash.
func (p *program) demoResource() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use: "demo-resource", Hidden: true, Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			signal.Ignore(os.Interrupt) // the demo ends it, by closing its standard input
			ctx, end := context.WithCancel(cmd.Context())
			defer end()
			go func() {
				_, _ = io.Copy(io.Discard, p.stdin)
				end()
			}()
			return serveDemo(ctx, quash.Config{
				URL: p.env("QUASH_URL", ""), Key: p.env("QUASH_KEY", ""), Audience: name, Name: name,
			}, p.stdout)
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "of the resource server")
	return cmd
}

// serveDemo serves until ctx ends, and writes its address on out once it is
// ready.
func serveDemo(ctx context.Context, cfg quash.Config, out io.Writer) error {
	v, err := quash.Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer v.Close(context.WithoutCancel(ctx))

	mux := http.NewServeMux()
	mux.Handle("GET /", v.Protect(http.HandlerFunc(answer)))
	mux.Handle("GET /events", v.Protect(http.HandlerFunc(events)))
	mux.Handle("GET /socket", v.Protect(http.HandlerFunc(socket)))

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	web := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() { web.Close() })
	fmt.Fprintln(out, listener.Addr())
	if err := web.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// answer says what the resource server knows of the caller: the claims of the token.
func answer(w http.ResponseWriter, r *http.Request) {
	var c demoClaims
	if err := quash.FromContext(r.Context()).Decode(&c); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(c)
}

type demoClaims struct {
	Subject string `json:"sub"`
	Role    string `json:"role"`
}

// events is an event stream that lives as long as the token.
func events(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := quash.NotifyContext(r.Context())
	defer cancel()
	w.Header().Set("Content-Type", "text/event-stream")
	flush := http.NewResponseController(w)
	fmt.Fprint(w, "data: open\n\n")
	if flush.Flush() != nil {
		return
	}
	<-ctx.Done()
	fmt.Fprintf(w, "event: end\ndata: %v\n\n", context.Cause(ctx))
	_ = flush.Flush()
}

// socket is a WebSocket that lives as long as the token.
func socket(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := quash.NotifyContext(r.Context())
	defer cancel()
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	select {
	case <-conn.CloseRead(context.WithoutCancel(ctx)).Done(): // the client left
	case <-ctx.Done():
		_ = conn.Close(websocket.StatusPolicyViolation, context.Cause(ctx).Error())
	}
}
