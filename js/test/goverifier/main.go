// Goverifier is the Go verifier as a small HTTP server, for the tests to put
// beside the one in TypeScript. It prints its address, and ends with its input.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/quashdev/quash"
)

func main() {
	ctx := context.Background()
	v, err := quash.Open(ctx, quash.Config{URL: os.Getenv("QUASH_URL"), Key: os.Getenv("QUASH_KEY"), Name: "go"})
	if err != nil {
		log.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	subject := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, quash.FromContext(r.Context()).Subject)
	})
	mux := http.NewServeMux()
	mux.Handle("/strict", v.Protect(subject))
	mux.Handle("/tolerant", v.Protect(subject, quash.AcceptStale(time.Hour)))
	mux.Handle("/health", v.Health())
	mux.HandleFunc("/verify", func(w http.ResponseWriter, r *http.Request) {
		var tokens []string
		if err := json.NewDecoder(r.Body).Decode(&tokens); err != nil {
			log.Fatal(err)
		}
		verdicts := make([]string, len(tokens))
		for i, token := range tokens {
			verdicts[i] = verdict(v.Verify(token))
		}
		json.NewEncoder(w).Encode(verdicts)
	})
	fmt.Printf("http://%s\n", l.Addr())
	go http.Serve(l, mux)
	io.Copy(io.Discard, os.Stdin)
	bounded, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_ = v.Close(bounded)
}

func verdict(_ *quash.Claims, err error) string {
	for name, want := range map[string]error{"invalid": quash.ErrInvalid, "expired": quash.ErrExpired, "revoked": quash.ErrRevoked, "stale": quash.ErrStale} {
		if errors.Is(err, want) {
			return name
		}
	}
	if err != nil {
		return err.Error()
	}
	return "valid"
}
