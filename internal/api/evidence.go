package api

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/quashdev/quash"
	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/internal/feed"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/jws"
	"github.com/quashdev/quash/internal/revlog"
)

const (
	// maxPosition is the highest of a log.
	maxPosition = 1<<53 - 1
	// glance is how often a call that waits for a revocation looks whether
	// there is one; looking costs a lock.
	glance = 50 * time.Millisecond
)

// revocations lists the log and can wait for what comes next, so that a
// client can follow it.
func (a *API) revocations(c *call) error {
	limit, err := c.limit()
	if err != nil {
		return err
	}
	after, err := c.number("after", 0, maxPosition, 0)
	if err != nil {
		return err
	}
	wait, err := c.number("wait", 0, maxWait, 0)
	if err != nil {
		return err
	}
	all, err := a.issuer.Revocations(c.r.Context(), after, limit)
	if err == nil && len(all) == 0 && wait > 0 {
		a.awaitRevocation(c, after, time.Duration(wait)*time.Second)
		all, err = a.issuer.Revocations(c.r.Context(), after, limit)
	}
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, page(all, limit, revocation, func(r issuer.Revocation) string { return strconv.FormatUint(r.Position, 10) }))
}

// awaitRevocation returns when the log goes beyond a position, or wait is over,
// or the server stops.
func (a *API) awaitRevocation(c *call, after uint64, wait time.Duration) {
	c.extend(wait)
	ctx, cancel := context.WithTimeout(c.r.Context(), wait)
	defer cancel()
	a.reached(ctx, after+1)
}

// reached waits until the log has been read up to a position, and reports
// whether it has.
func (a *API) reached(ctx context.Context, position uint64) bool {
	tick := time.NewTicker(glance)
	defer tick.Stop()
	for a.log.Head().Position < position {
		select {
		case <-ctx.Done():
			return false
		case <-a.stopping.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}

// extend gives an answer longer than the server's write time-out, where it can
// take that.
func (c *call) extend(by time.Duration) {
	_ = http.NewResponseController(c).SetWriteDeadline(time.Now().Add(by + 10*time.Second))
}

func (a *API) audit(c *call) error {
	limit, err := c.limit()
	if err != nil {
		return err
	}
	before, err := c.number("before", 1, math.MaxInt64, 0)
	if err != nil {
		return err
	}
	all, err := a.issuer.Audit(c.r.Context(), issuer.AuditQuery{
		Before: before, Subject: c.query.Get("subject"), Event: c.query.Get("event"), Limit: limit,
	})
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, page(all, limit, auditEntry, func(e issuer.AuditEntry) string { return strconv.FormatUint(e.ID, 10) }))
}

// explain says what becomes of a token. What is wrong with it is the answer,
// not an error.
func (a *API) explain(c *call) error {
	body, err := decode[client.ExplainRequest](c)
	if err != nil {
		return err
	}
	killers, err := a.issuer.Killers(c.r.Context(), body.Token)
	malformed := err != nil && issuer.CodeOf(err) == issuer.CodeToken
	if err != nil && !malformed {
		return err
	}
	e := client.Explanation{Verdict: "unknown", Position: a.log.Head().Position, Revocations: []client.Revocation{}}
	if v := a.verifier.Load(); v != nil {
		if len(killers) > 0 {
			catchUp(c.r.Context(), v, killers[len(killers)-1].Position)
		}
		e.Position = v.Status().Position
		_, err := v.Verify(body.Token)
		e.Verdict, e.Check = verdict(err)
	}
	if malformed {
		e.Verdict, e.Check = "invalid", err.Error()
		return c.reply(http.StatusOK, e)
	}
	e.Revocations = list(killers, revocation).Items
	var t jws.Token
	if t.Parse(body.Token) == nil {
		e.Claims = json.RawMessage(t.Payload)
	}
	return c.reply(http.StatusOK, e)
}

// catchUp lets the verifier apply what the log has already, lest the answer
// contradict itself. Where it cannot within a second, its position says so.
func catchUp(ctx context.Context, v *quash.Verifier, position uint64) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for v.Status().Position < position && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
}

// verdict puts what Verify answered into a word and the check that failed.
func verdict(err error) (word, check string) {
	if err == nil {
		return "accepted", ""
	}
	check = strings.TrimPrefix(err.Error(), "quash: ")
	for _, v := range []struct {
		err  error
		word string
	}{
		{quash.ErrInvalid, "invalid"},
		{quash.ErrExpired, "expired"},
		{quash.ErrRevoked, "revoked"},
		{quash.ErrStale, "stale"},
		{quash.ErrNotReady, "not_ready"},
	} {
		if errors.Is(err, v.err) {
			return v.word, check
		}
	}
	return "unknown", check
}

func (a *API) logState(c *call) error {
	l, err := a.issuer.Log(c.r.Context())
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, client.Log{
		ID: l.ID, Epoch: l.Epoch, Head: mark(l.Head), Pruned: mark(l.Pruned), MaxLifetime: int64(l.MaxLifetime / time.Second),
		Claims: append([]string{}, l.Claims...), Live: a.log.Live(),
	})
}

// verifying is how long the check of a long log may take.
const verifying = 10 * time.Minute

func (a *API) verifyLog(c *call) error {
	c.extend(verifying)
	found, err := a.issuer.VerifyLog(c.r.Context())
	if err != nil {
		return err
	}
	report := client.LogReport{Head: mark(found.Head), Checked: found.Checked, Whole: found.Break == nil}
	if b := found.Break; b != nil {
		report.Break = &client.LogBreak{Position: b.Position, Flaw: string(b.Flaw), Found: b.Found, Epoch: b.Epoch}
	}
	return c.reply(http.StatusOK, report)
}

func (a *API) verifiers(c *call) error {
	head := a.log.Head().Position
	return c.reply(http.StatusOK, list(a.log.Verifiers(), func(v revlog.Verifier) client.Verifier {
		return client.Verifier{
			Process: v.Process, Name: v.Name, Key: v.Key, Address: v.Address, Since: v.Since, LastHeard: v.LastHeard,
			Applied: v.Applied, Sent: v.Sent, Lag: lag(head, v.Applied), Connected: v.Connected,
			LeaseMilliseconds: v.Lease.Milliseconds(), StaleRoutes: v.Routes, ToleranceMilliseconds: v.Tolerance.Milliseconds(),
		}
	}))
}

// lag is how far a position is behind the head, which may be older than it.
func lag(head, applied uint64) uint64 { return max(head, applied) - applied }

// feed gives the connection to the log, until it ends.
func (a *API) feed(c *call) error {
	secret, err := bearer(c.r)
	if err != nil {
		return err
	}
	r := c.r
	if c.address.IsValid() {
		r = r.WithContext(r.Context())
		r.RemoteAddr = c.from()
	}
	a.log.ServeFeed(c, r, c.key.ID, func() bool {
		_, err := a.issuer.Authenticate(r.Context(), secret)
		return err == nil
	})
	return nil
}

func mark(m feed.Mark) client.Mark {
	return client.Mark{Position: m.Position, Digest: m.Digest.String()}
}
