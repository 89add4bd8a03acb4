// Embed is a monolith: the whole server in the application's own process and
// mux, with a verifier that follows the log in memory. There is no second
// process. What administrators use is served on another address, on loopback:
//
//	go run ./examples/embed
//	quash account create ada
//
// With STORE=postgres://… it keeps everything in that database, which other
// instances can share, and the application's own tables with it.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/server"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	app, err := open(ctx, server.Config{
		Data: "quash-data", Store: os.Getenv("STORE"),
		Issuer: "http://127.0.0.1:8080", Private: "127.0.0.1:8081",
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := app.serve(ctx, stop, "127.0.0.1:8080"); err != nil {
		log.Fatal(err)
	}
}

type app struct {
	mux      *http.ServeMux
	srv      *server.Server
	verifier *quash.Verifier
}

func open(ctx context.Context, cfg server.Config) (*app, error) {
	srv, err := server.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	v, err := srv.Verifier(ctx, "")
	if err != nil {
		return nil, errors.Join(err, srv.Close(ctx))
	}
	mux := http.NewServeMux()
	mux.Handle("/v1/", srv.Handler()) // login, refresh, logout, sessions …
	mux.Handle("GET /orders", v.Protect(http.HandlerFunc(orders)))
	return &app{mux, srv, v}, nil
}

// serve serves users on an address, and administrators on the server's own,
// until ctx ends. Then requests under way are answered before anything closes.
func (a *app) serve(ctx context.Context, stop func(), address string) error {
	running, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		defer stop()
		ended <- a.srv.Run(running)
	}()
	web := &http.Server{Addr: address, Handler: a.mux}
	drained := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(drained)
		_ = web.Shutdown(context.Background())
	})
	log.Printf("users: http://%s, administrators: http://127.0.0.1:8081", address)
	err := web.ListenAndServe()
	stop()
	<-drained
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	err = errors.Join(err, a.verifier.Close(context.Background()))
	end()
	return errors.Join(err, <-ended)
}

func orders(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "the orders of %s\n", quash.FromContext(r.Context()).Subject)
}
