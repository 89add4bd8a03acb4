// Stream serves what lives longer than a request, an event stream and a
// WebSocket, and ends both within milliseconds of the session.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/quashdev/quash"
)

func main() {
	ctx := context.Background()
	v, err := quash.Open(ctx, quash.Config{URL: "http://127.0.0.1:8081", Key: os.Getenv("QUASH_KEY"), Token: token})
	if err != nil {
		log.Fatal(err)
	}
	defer v.Close(ctx)
	log.Fatal(http.ListenAndServe("127.0.0.1:8082", routes(v)))
}

func routes(v *quash.Verifier) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /events", v.Protect(http.HandlerFunc(events)))
	mux.Handle("GET /chat", v.Protect(http.HandlerFunc(chat)))
	return mux
}

// tokenProtocol carries the token of a WebSocket in a browser, which cannot
// set an Authorization header: new WebSocket(url, ["chat", "bearer." + token]).
const tokenProtocol = "bearer."

func token(r *http.Request) (string, error) {
	for _, p := range strings.Split(r.Header.Get("Sec-WebSocket-Protocol"), ",") {
		if t, ok := strings.CutPrefix(strings.TrimSpace(p), tokenProtocol); ok {
			return t, nil
		}
	}
	t, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return t, nil
}

// events is an event stream. Its loop ends with the session.
func events(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := quash.NotifyContext(r.Context())
	defer cancel()
	w.Header().Set("Content-Type", "text/event-stream")
	for tick := time.Tick(time.Second); ; {
		fmt.Fprintf(w, "data: it is %s\n\n", time.Now().Format(time.TimeOnly))
		if err := http.NewResponseController(w).Flush(); err != nil {
			return
		}
		select {
		case <-tick:
		case <-ctx.Done():
			fmt.Fprintf(w, "event: end\ndata: %v\n\n", context.Cause(ctx))
			return
		}
	}
}

// chat is a WebSocket that echoes. A read that is blocked when the session
// ends is interrupted by the context.
func chat(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"chat"}})
	if err != nil {
		return
	}
	defer conn.CloseNow()
	ctx, cancel := quash.NotifyContext(r.Context())
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close(websocket.StatusPolicyViolation, "the session has ended") })
	defer stop()
	for {
		kind, message, err := conn.Read(r.Context())
		if err != nil {
			return
		}
		if err := conn.Write(r.Context(), kind, message); err != nil {
			return
		}
	}
}
