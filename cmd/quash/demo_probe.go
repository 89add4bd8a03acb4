package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// maxAnswer bounds what is read of a resource server's answer.
const maxAnswer = 64 << 10

// get shows a token to a resource server and returns whether it was accepted, and with
// which role.
func (rs *resource) get(ctx context.Context, token string) (accepted bool, role string, err error) {
	resp, err := rs.request(ctx, "/", token)
	if err != nil {
		return false, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return false, "", err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		var c demoClaims
		err := json.Unmarshal(body, &c)
		return true, c.Role, err
	case http.StatusUnauthorized:
		return false, "", nil
	}
	return false, "", fmt.Errorf("resource server %s answered %s: %s", rs.name, resp.Status, body)
}

func (rs *resource) request(ctx context.Context, path, token string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, rs.url+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	return rs.http.Do(r)
}

// probe is what one resource server did with a token that died meanwhile.
type probe struct {
	accepted int       // answers before the first refusal
	last     time.Time // when the last request that was accepted was sent
	refused  time.Time // when the first refusal came
	relapsed bool      // it accepted after it had refused
	err      error
}

// Probing goes on for lasting requests after the first refusal, to see that
// it stays one; it begins warm requests before the call.
const (
	warm    = 5
	lasting = 20
)

// watch shows a token to a resource server in a tight loop until it was refused for a
// while, or ctx ends. It calls ready once it has accepted some.
func (rs *resource) watch(ctx context.Context, token string, ready func()) (p probe) {
	defer func() {
		if p.accepted < warm {
			ready()
		}
	}()
	for refusals := 0; refusals < lasting && ctx.Err() == nil; {
		sent := time.Now()
		ok, _, err := rs.get(ctx, token)
		switch {
		case err != nil:
			if ctx.Err() == nil {
				p.err = err
			}
			return p
		case ok && refusals > 0:
			p.relapsed = true
			return p
		case ok:
			p.last = sent
			if p.accepted++; p.accepted == warm {
				ready()
			}
		default:
			if refusals++; refusals == 1 {
				p.refused = time.Now()
			}
		}
	}
	return p
}

// measured is what happened around a call that ends a token.
type measured struct {
	sent, answered time.Time
	probes         []probe // by resource server
}

// measure makes a call while every resource server is shown the token that it ends.
func (s *stage) measure(ctx context.Context, token string, call func(context.Context) error) (measured, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	m := measured{probes: make([]probe, len(s.resources))}
	var begun, ended sync.WaitGroup
	for i, rs := range s.resources {
		begun.Add(1)
		ended.Go(func() { m.probes[i] = rs.watch(ctx, token, begun.Done) })
	}
	begun.Wait()
	m.sent = time.Now()
	err := call(ctx)
	m.answered = time.Now()
	if err != nil {
		cancel()
	}
	ended.Wait()
	for _, p := range m.probes {
		if err == nil {
			err = p.err
		}
	}
	return m, err
}

// after is how long after the call was sent something happened; nothing where
// it did not.
func (m measured) after(t time.Time) *milliseconds {
	if t.IsZero() {
		return nil
	}
	ms := milliseconds(t.Sub(m.sent).Seconds() * 1000)
	return &ms
}

// milliseconds are printed to a tenth; more would be noise.
type milliseconds float64

func (ms milliseconds) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, "%.1f", float64(ms)), nil
}

func (ms *milliseconds) String() string {
	if ms == nil {
		return "never"
	}
	return fmt.Sprintf("%.1f ms", float64(*ms))
}

// ending is when a connection that was held open ended, and what it said.
type ending struct {
	at  time.Time
	why string
}

// holdSocket opens a WebSocket and tells when it was closed.
func (rs *resource) holdSocket(ctx context.Context, token string) (<-chan ending, error) {
	conn, resp, err := websocket.Dial(ctx, rs.url+"/socket", &websocket.DialOptions{
		HTTPClient: rs.http, HTTPHeader: http.Header{"Authorization": {"Bearer " + token}},
	})
	if err != nil {
		return nil, fmt.Errorf("WebSocket of %s: %w", rs.name, err)
	}
	if resp.Body != nil {
		resp.Body.Close()
	}
	ended := make(chan ending, 1)
	go func() {
		defer conn.CloseNow()
		_, _, err := conn.Read(ctx)
		ended <- ending{time.Now(), err.Error()}
	}()
	return ended, nil
}

// holdStream opens an event stream and tells when it ended.
func (rs *resource) holdStream(ctx context.Context, token string) (<-chan ending, error) {
	resp, err := rs.request(ctx, "/events", token)
	if err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(resp.Body)
	if !lines.Scan() || resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("event stream of %s: it did not open: %s", rs.name, resp.Status)
	}
	ended := make(chan ending, 1)
	go func() {
		defer resp.Body.Close()
		why := ""
		for lines.Scan() {
			if line, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				why = line
				break
			}
		}
		ended <- ending{time.Now(), why}
	}()
	return ended, nil
}
