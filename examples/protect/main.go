// Protect is a resource server: it verifies every token in its own memory and
// refuses one as soon as it was revoked. Run it beside `quash serve`:
//
//	export QUASH_KEY=$(quash key create orders --verifier)
//	go run ./examples/protect
package main

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/quashdev/quash"
)

func main() {
	ctx := context.Background()
	v, err := quash.Open(ctx, quash.Config{URL: "http://127.0.0.1:8081", Key: os.Getenv("QUASH_KEY"), Name: "orders", Logger: slog.Default()})
	if err != nil {
		log.Fatal(err)
	}
	defer v.Close(ctx)
	log.Print("listening on http://127.0.0.1:8082/orders")
	if err := serve(&http.Server{Addr: "127.0.0.1:8082", Handler: routes(v)}); err != nil {
		log.Print(err)
	}
}

// serve serves until it is interrupted, and then answers what is under way. After
// that the verifier can say goodbye: nobody has to wait for its lease to end.
func serve(s *http.Server) error {
	stop, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	drained := make(chan error, 1)
	context.AfterFunc(stop, func() { drained <- s.Shutdown(context.Background()) })
	if err := s.ListenAndServe(); err != http.ErrServerClosed {
		return err
	}
	return <-drained
}

func routes(v *quash.Verifier) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /orders", v.Protect(http.HandlerFunc(orders)))
	return mux
}

func orders(w http.ResponseWriter, r *http.Request) {
	claims := quash.FromContext(r.Context())
	fmt.Fprintf(w, "the orders of %s\n", claims.Subject)
}
