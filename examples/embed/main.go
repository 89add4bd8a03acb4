// Embed is a monolith: the whole server in the application's own process and
// mux, with a verifier that follows the log in memory. There is no second
// process and no private listener.
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
	app, err := open(ctx, "quash-data", "http://127.0.0.1:8080")
	if err != nil {
		log.Fatal(err)
	}
	web := &http.Server{Addr: "127.0.0.1:8080", Handler: app.mux}
	context.AfterFunc(ctx, func() { _ = web.Shutdown(context.Background()) })
	if err := web.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Print(err)
	}
	if err := app.close(context.Background()); err != nil {
		log.Fatal(err)
	}
}

type app struct {
	mux      *http.ServeMux
	srv      *server.Server
	verifier *quash.Verifier
}

func open(ctx context.Context, data, url string) (*app, error) {
	srv, err := server.Open(ctx, server.Config{Data: data, Issuer: url})
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

func (a *app) close(ctx context.Context) error {
	return errors.Join(a.verifier.Close(ctx), a.srv.Close(ctx))
}

func orders(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "the orders of %s\n", quash.FromContext(r.Context()).Subject)
}
