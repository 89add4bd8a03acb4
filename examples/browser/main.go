// Browser is a web application whose pages hold no refresh token: it is in a
// cookie that no script can read, and the access token in the memory of each
// tab. The application, its page and the server are one process here:
//
//	go run ./examples/browser
//	quash account create ada
//
// Then open http://localhost:8080, in two tabs. On localhost Chromium does
// without TLS; anywhere else the cookie needs https.
package main

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/server"
)

//go:embed page
var files embed.FS

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "address for users")
	private := flag.String("private", "127.0.0.1:8081", "address for administrators")
	data := flag.String("data", "quash-data", "directory of the database")
	flag.Parse()
	_, port, err := net.SplitHostPort(*listen)
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	origin := "http://localhost:" + port
	err = run(ctx, *listen, server.Config{Data: *data, Issuer: origin, Private: *private, BrowserOrigins: []string{origin}})
	if err != nil {
		log.Fatal(err)
	}
}

// run serves users on an address, and administrators on the server's own, until
// ctx ends. Then requests under way are answered before anything closes.
func run(ctx context.Context, listen string, cfg server.Config) error {
	srv, err := server.Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer srv.Close(context.Background())
	v, err := srv.Verifier(ctx, "")
	if err != nil {
		return err
	}
	defer v.Close(context.Background())
	ctx, stop := context.WithCancel(ctx)
	running, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		defer stop()
		ended <- srv.Run(running)
	}()
	web := &http.Server{Addr: listen, Handler: handler(srv, v)}
	drained := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(drained)
		_ = web.Shutdown(context.Background())
	})
	log.Printf("open %s", cfg.Issuer)
	err = web.ListenAndServe()
	stop()
	<-drained
	end()
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	return errors.Join(err, <-ended)
}

func handler(srv *server.Server, v *quash.Verifier) http.Handler {
	page, err := fs.Sub(files, "page")
	if err != nil {
		panic(err) // it is compiled in
	}
	static := http.FileServerFS(page)
	mux := http.NewServeMux()
	mux.Handle("/v1/", srv.Handler()) // login, refresh, logout, sessions …
	mux.Handle("GET /orders", v.Protect(http.HandlerFunc(orders)))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		// No script but the page's own, and nobody frames it.
		w.Header().Set("Content-Security-Policy", "default-src 'self'; img-src data:; frame-ancestors 'none'; form-action 'self'; base-uri 'none'")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		static.ServeHTTP(w, r)
	})
	return mux
}

func orders(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"subject": quash.FromContext(r.Context()).Subject,
		"orders":  []string{"Difference engine, second-hand", "Punched cards, 500", "Lamp oil"},
	})
}
