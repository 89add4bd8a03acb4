package revlog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gobwas/ws"

	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/revset"
)

// ServeFeed answers a verifier that asks for the feed with an authenticated
// key, whose id is given. It upgrades the connection and returns; from then on
// the connection is the Log's, until [Log.Run] ends. A handshake that is
// refused gets a problem (RFC 9457): 400 for one that is malformed or speaks
// no known version, 426 for one that is no WebSocket's, 503 with Retry-After
// where the node is not ready or the key has too many connections.
//
// Good, if not nil, looks again whether the secret that was presented is good.
// It is called once [Log.KeyWithdrawn] and [Log.KeyReplaced] reach the
// connection, so that whatever happens to the key is noticed here or there.
func (l *Log) ServeFeed(w http.ResponseWriter, r *http.Request, key string, good func() bool) {
	if !checkUpgrade(w, r) {
		return
	}
	p, err := readPresented(r.Header)
	if err != nil {
		problem(w, http.StatusBadRequest, "feed-handshake", err.Error())
		return
	}
	begin, err := l.plan(r.Context(), p)
	if err != nil {
		refuse(w, err)
		return
	}
	now := time.Now()
	c := &connection{
		log: l, start: begin, at: begin.at,
		written: make(chan struct{}),
		verifier: Verifier{
			Process: p.process, Name: p.name, Key: key, Address: r.RemoteAddr,
			Since: now, LastHeard: now, Applied: begin.at.Position, Sent: begin.at.Position,
		},
	}
	c.work.Store(1) // serve starts the writer
	if err := l.admit(c); err != nil {
		refuse(w, err)
		return
	}
	if good != nil && !good() {
		l.release(c)
		refuse(w, errKey)
		return
	}
	l.upgrade(w, r, c)
}

// upgrade hands the connection over to c.
func (l *Log) upgrade(w http.ResponseWriter, r *http.Request, c *connection) {
	upgrader := ws.HTTPUpgrader{
		Timeout:  l.cfg.WriteTimeout,
		Protocol: func(name string) bool { return name == feed.Subprotocol },
	}
	conn, rw, _, err := upgrader.Upgrade(r, w)
	if err != nil {
		if conn != nil {
			_ = conn.Close()
		}
		l.release(c)
		return
	}
	l.mu.Lock()
	c.net = conn
	l.mu.Unlock()
	var in io.Reader = conn
	if early, _ := rw.Reader.Peek(rw.Reader.Buffered()); len(early) > 0 {
		in = io.MultiReader(bytes.NewReader(slices.Clone(early)), conn)
	}
	go c.serve(in)
}

func checkUpgrade(w http.ResponseWriter, r *http.Request) bool {
	if r.ProtoMajor != 1 {
		problem(w, http.StatusHTTPVersionNotSupported, "feed-handshake", "the feed needs HTTP/1.1")
		return false
	}
	if !hasToken(r.Header, "Upgrade", "websocket") || r.Header.Get("Sec-WebSocket-Version") != "13" {
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Sec-WebSocket-Version", "13")
		problem(w, http.StatusUpgradeRequired, "feed-handshake", "the feed is a WebSocket of version 13")
		return false
	}
	if !hasToken(r.Header, "Sec-WebSocket-Protocol", feed.Subprotocol) {
		w.Header().Set("Sec-WebSocket-Protocol", feed.Subprotocol)
		problem(w, http.StatusBadRequest, "feed-version", "the node speaks "+feed.Subprotocol+"; offer it in Sec-WebSocket-Protocol")
		return false
	}
	return true
}

func hasToken(h http.Header, name, token string) bool {
	for _, line := range h.Values(name) {
		for t := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

// presented is how a verifier introduces itself.
type presented struct {
	process, name string
	log           string // empty where it has nothing
	epoch         uint64
	mark          feed.Mark
}

func readPresented(h http.Header) (p presented, err error) {
	if p.process, err = visible(h, feed.HeaderProcess); err != nil {
		return p, err
	}
	if p.name, err = visible(h, feed.HeaderName); err != nil {
		return p, err
	}
	if len(h.Values(feed.HeaderLog)) == 0 {
		return p, nil
	}
	if p.log, err = visible(h, feed.HeaderLog); err != nil {
		return p, err
	}
	if p.epoch, err = number(h, feed.HeaderEpoch); err != nil {
		return p, err
	}
	if p.mark.Position, err = number(h, feed.HeaderPosition); err != nil {
		return p, err
	}
	digest, err := visible(h, feed.HeaderDigest)
	if err != nil {
		return p, err
	}
	if p.mark.Digest, err = feed.ParseDigest(digest); err != nil {
		return p, fmt.Errorf("header %s: %w", feed.HeaderDigest, err)
	}
	return p, nil
}

// visible returns the one value of a header, of 1 to 64 visible ASCII characters.
func visible(h http.Header, name string) (string, error) {
	values := h.Values(name)
	if len(values) != 1 || len(values[0]) < 1 || len(values[0]) > 64 {
		return "", fmt.Errorf("header %s: want one value of 1 to 64 characters", name)
	}
	for _, c := range []byte(values[0]) {
		if c <= ' ' || c > '~' {
			return "", fmt.Errorf("header %s: want visible ASCII characters only", name)
		}
	}
	return values[0], nil
}

func number(h http.Header, name string) (uint64, error) {
	s, err := visible(h, name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n >= revset.MaxPosition {
		return 0, fmt.Errorf("header %s: want a whole number below 2^53", name)
	}
	return n, nil
}

// plan decides whether a verifier resumes from its position or gets a
// snapshot, and why. The ring answers for what it holds, the store for the
// rest: a node that lags behind the store refuses nobody's position unasked.
func (l *Log) plan(ctx context.Context, p presented) (start, error) {
	l.mu.Lock()
	s := start{generation: l.generation, log: l.settings.log}
	_, held := l.ring.find(p.mark)
	loaded, head := l.loaded != nil, l.ring.head.Position
	l.mu.Unlock()
	if !loaded {
		return start{}, errNotReady
	}
	var err error
	switch {
	case p.log == "":
		s.reason = "new"
	case p.log != s.log.ID:
		s.reason = "log"
	case p.epoch != s.log.Epoch:
		s.reason = "epoch"
	case !held:
		s.reason, err = l.judge(ctx, s.log, p.mark)
	}
	if err == nil && s.reason == "" && p.mark.Position > head {
		// It would be told of fewer claim names than it knows.
		wake(l.impatient)
		return start{}, fmt.Errorf("%w: it has read less of the log than the verifier", errNotReady)
	}
	if s.reason == "" {
		s.at = p.mark
	}
	return s, err
}

// judge looks in the store whether the log goes on from m.
func (l *Log) judge(ctx context.Context, known issuer.Log, m feed.Mark) (reason string, err error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	err = l.source.View(ctx, func(r Reader) error {
		found, err := r.Log()
		switch {
		case err != nil:
			return err
		case found.ID != known.ID || found.Epoch != known.Epoch:
			return errNotReady
		case m.Position < found.Pruned.Position:
			reason = "pruned"
			return nil
		case m.Position > found.Head.Position:
			reason = "ahead"
			return nil
		}
		at, err := r.MarkAt(m.Position)
		if reason = ""; err == nil && at != m {
			reason = "digest"
		}
		return err
	})
	if err != nil && !errors.Is(err, errNotReady) {
		l.cfg.Logger.Warn("reading the log for a verifier failed", "error", err)
		err = fmt.Errorf("%w: the store cannot be read", errNotReady)
	}
	return reason, err
}

// refuse answers a verifier that was not admitted.
func refuse(w http.ResponseWriter, err error) {
	if errors.Is(err, errCrowded) {
		w.Header().Set("Retry-After", "5")
		problem(w, http.StatusServiceUnavailable, "too-many-connections", err.Error())
		return
	}
	w.Header().Set("Retry-After", "1")
	problem(w, http.StatusServiceUnavailable, "not-ready", err.Error())
}

func problem(w http.ResponseWriter, status int, kind, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
		Code   string `json:"code"`
	}{"urn:quash:problem:" + kind, http.StatusText(status), status, detail, strings.ReplaceAll(kind, "-", "_")})
}
