// Protect is a resource server: it verifies every token in its own memory and
// refuses one as soon as it was revoked. Run it beside `quash serve`:
//
//	QUASH_KEY=$(quash key create orders --verifier) go run ./examples/protect
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"

	"github.com/quashdev/quash"
)

func main() {
	ctx := context.Background()
	v, err := quash.Open(ctx, quash.Config{URL: "http://127.0.0.1:8081", Key: os.Getenv("QUASH_KEY"), Name: "orders"})
	if err != nil {
		log.Fatal(err)
	}
	defer v.Close(ctx)
	log.Print("listening on http://127.0.0.1:8082/orders")
	log.Fatal(http.ListenAndServe("127.0.0.1:8082", routes(v)))
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
