package main

import (
	"bufio"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/quashtest"
)

// serve serves the example's routes, with the example's way to find a token.
func serve(t *testing.T) (*quashtest.Issuer, *httptest.Server) {
	t.Helper()
	iss := quashtest.New(t)
	cfg := iss.Config("")
	cfg.Token = token
	v, err := quash.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Close(t.Context()) })
	web := httptest.NewServer(routes(v))
	t.Cleanup(web.Close)
	return iss, web
}

func TestWebSocketEndsWithTheSession(t *testing.T) {
	iss, web := serve(t)
	tok := iss.Token(t, quashtest.Claims{})
	conn, _, err := websocket.Dial(t.Context(), web.URL+"/chat", &websocket.DialOptions{Subprotocols: []string{"chat", tokenProtocol + tok.Text}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	if err := conn.Write(t.Context(), websocket.MessageText, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, echo, err := conn.Read(t.Context()); err != nil || string(echo) != "hello" {
		t.Fatalf("got %q, %v", echo, err)
	}
	iss.Revoke(t, "sid", tok.Session)
	if _, _, err := conn.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
		t.Errorf("after the revocation: got %v, want the server to close with a policy violation", err)
	}
}

func TestEventStreamEndsWithTheSession(t *testing.T) {
	iss, web := serve(t)
	tok := iss.Token(t, quashtest.Claims{})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, web.URL+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+tok.Text)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	events := bufio.NewReader(resp.Body)
	if line, err := events.ReadString('\n'); err != nil || !strings.HasPrefix(line, "data: it is ") {
		t.Fatalf("got %q, %v", line, err)
	}
	iss.Revoke(t, "sid", tok.Session)
	rest, err := io.ReadAll(events)
	if err != nil || !strings.Contains(string(rest), "event: end\ndata: quash: token revoked") {
		t.Errorf("after the revocation: got %q, %v, want the end with its cause", rest, err)
	}
}

func TestNoTokenNoStream(t *testing.T) {
	_, web := serve(t)
	for _, path := range []string{"/events", "/chat"} {
		resp, err := http.Get(web.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: got %d, want 401", path, resp.StatusCode)
		}
	}
}
