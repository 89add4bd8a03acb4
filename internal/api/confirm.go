package api

import (
	"context"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/internal/issuer"
	"github.com/quashdev/quash/internal/revlog"
)

const (
	// settling is how long the answer to a change waits for its confirmation
	// where the caller does not say.
	settling = time.Second
	// glimpse is how long even an answer that is not to wait does: the node
	// reads its own commit meanwhile, and so knows whom it waits for.
	glimpse = 10 * time.Millisecond
)

// replyEffect answers with what a change did, and whether that is confirmed.
func (a *API) replyEffect(c *call, out issuer.Effect, err error) error {
	if err != nil {
		return err
	}
	status, effect := a.effect(c, out)
	return c.reply(status, effect)
}

// effect says what a change did, once that is confirmed or the caller's wait is
// over. The change stands in either case, also where the caller hangs up.
func (a *API) effect(c *call, e issuer.Effect) (status int, effect client.Effect) {
	effect = client.Effect{Event: e.Event, Position: e.Position, Sessions: e.Sessions, Tokens: e.Tokens, DryRun: e.DryRun}
	position := e.Position
	switch {
	case e.DryRun || e.Event == issuer.Reactivated.Name:
		return http.StatusOK, effect
	case position == 0: // it had ended before, perhaps a moment ago
		l, err := a.issuer.Log(c.r.Context())
		if err != nil {
			return http.StatusAccepted, effect
		}
		position = l.Head.Position
	}
	confirmation := a.confirmation(c, position, c.patience(settling))
	effect.Confirmation = &confirmation
	if confirmation.Confirmed {
		return http.StatusOK, effect
	}
	if c.private() {
		c.Header().Set("Location", "/v1/admin/revocations/"+strconv.FormatUint(position, 10))
	}
	return http.StatusAccepted, effect
}

// private says whether the caller may know who the verifiers are.
func (c *call) private() bool { return c.route.scope != "" }

// confirmation waits until a position is confirmed, for so long at most, and
// says how it stands.
func (a *API) confirmation(c *call, position uint64, wait time.Duration) client.Confirmation {
	c.extend(wait)
	ctx, cancel := context.WithTimeout(c.r.Context(), max(wait, glimpse))
	defer cancel()
	defer context.AfterFunc(a.stopping, cancel)()
	select {
	case a.waiting <- struct{}{}:
		defer func() { <-a.waiting }()
	default:
		cancel()
	}
	return c.confirmed(a.log.WaitConfirmed(ctx, position))
}

// confirmed shows to the caller how a position stands.
func (c *call) confirmed(s revlog.Confirmation) client.Confirmation {
	shown := client.Confirmation{
		Confirmed: s.Confirmed, Milliseconds: milliseconds(s.Took), Until: s.Until.UTC(),
		Verifiers:   client.Tally{Applied: s.Applied, Pending: s.Pending, Lost: s.Lost, Left: s.Left},
		StaleRoutes: s.StaleRoutes, Accepting: s.Accepting,
	}
	if !c.private() {
		return shown
	}
	shown.Nodes = s.Nodes
	for _, p := range s.Slow {
		shown.Pending = append(shown.Pending, client.Pending{Name: p.Name, Process: p.Process, Key: p.Key, Applied: p.Applied, Until: p.Until.UTC()})
	}
	return shown
}

// milliseconds are exact to the microsecond.
func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// evidence says what is known of one revocation.
func (a *API) evidence(c *call) error {
	position, err := strconv.ParseUint(c.r.PathValue("position"), 10, 64)
	if err != nil || position == 0 || position > maxPosition {
		return invalid("position: want a whole number from 1 to %d", uint64(maxPosition))
	}
	shown, err := a.evidenceOf(c, position, c.patience(0))
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, shown)
}

// evidenceOf looks at what this node watches first and then into the store,
// where that goes meanwhile.
func (a *API) evidenceOf(c *call, position uint64, wait time.Duration) (client.Evidence, error) {
	if _, err := a.issuer.Evidence(c.r.Context(), position); err != nil {
		return client.Evidence{}, err
	}
	state := a.confirmation(c, position, wait)
	var watched []issuer.Confirmation
	seen, known, ok := a.log.Evidence(position)
	if ok {
		watched = append(watched, seen)
	}
	found, err := a.issuer.Evidence(c.r.Context(), position, watched...)
	if err != nil {
		return client.Evidence{}, err
	}
	found.Verifiers = append(found.Verifiers, known...)
	return shownEvidence(found, state), nil
}

// request says what became of a request of the outbox: it waits, 202, or here is
// the evidence of the last revocation that was made for it.
func (a *API) request(c *call) error {
	id, err := strconv.ParseUint(c.r.PathValue("id"), 10, 64)
	if err != nil || id == 0 || id > math.MaxInt64 {
		return invalid("request: want its number, as quash.revoke returned it")
	}
	wait := c.patience(0)
	began := time.Now()
	answer, err := a.carriedOut(c, id, wait)
	if err != nil {
		return err
	}
	shown := client.Request{ID: id, Waiting: answer.Waiting}
	switch {
	case answer.Waiting:
		return c.reply(http.StatusAccepted, shown)
	case answer.Position != 0:
		evidence, err := a.evidenceOf(c, answer.Position, max(0, wait-time.Since(began)))
		if err != nil {
			return err
		}
		shown.Evidence = &evidence
	}
	return c.reply(http.StatusOK, shown)
}

// carriedOut waits until a request does not, for so long at most.
func (a *API) carriedOut(c *call, id uint64, wait time.Duration) (issuer.Answer, error) {
	c.extend(wait)
	ctx, cancel := context.WithTimeout(c.r.Context(), wait)
	defer cancel()
	tick := time.NewTicker(glance)
	defer tick.Stop()
	for {
		answer, err := a.issuer.Request(c.r.Context(), id)
		if err != nil || !answer.Waiting {
			return answer, err
		}
		select {
		case <-ctx.Done():
			return answer, nil
		case <-a.stopping.Done():
			return answer, nil
		case <-tick.C:
		}
	}
}

func shownEvidence(e issuer.Evidence, state client.Confirmation) client.Evidence {
	shown := client.Evidence{Revocation: revocation(e.Revocation), Confirmation: state, Confirmations: []client.NodeConfirmation{}}
	if e.Audit != nil {
		entry := auditEntry(*e.Audit)
		shown.Audit = &entry
	}
	// What is over the evidence knows best: the node may have been started since.
	total := client.Confirmation{}
	verifiers := map[verifierID]issuer.Verifier{}
	for _, v := range e.Verifiers {
		verifiers[verifierID{v.Node, v.Number}] = v
	}
	for _, one := range e.Confirmations {
		n := nodeConfirmation(one, verifiers)
		shown.Confirmations = append(shown.Confirmations, n)
		total.Milliseconds = max(total.Milliseconds, n.Milliseconds)
		total.Verifiers.Applied += n.Confirmed
		total.Verifiers.Lost += n.Lost
		total.Verifiers.Left += n.Left
		for _, o := range n.Verifiers {
			if o.End == client.EndConfirmed && (shown.Slowest == nil || shown.Slowest.Milliseconds < o.Milliseconds) {
				shown.Slowest = &o
			}
		}
	}
	if state.Confirmed {
		shown.Confirmation.Milliseconds, shown.Confirmation.Verifiers = total.Milliseconds, total.Verifiers
	}
	return shown
}

// verifierID is how outcomes name a verifier.
type verifierID struct {
	node   string
	number uint32
}

// nodeConfirmation shows the evidence of one node as the store has it, to the
// millisecond, also where it comes from memory.
func nodeConfirmation(n issuer.Confirmation, verifiers map[verifierID]issuer.Verifier) client.NodeConfirmation {
	began := n.Began.UTC().Truncate(time.Millisecond)
	shown := client.NodeConfirmation{
		Node: n.Node, First: n.First, Last: n.Last, Began: began, Milliseconds: milliseconds(n.Took),
		Confirmed: n.Confirmed, Lost: n.Lost, Left: n.Left, Verifiers: make([]client.Outcome, len(n.Outcomes)),
	}
	for i, o := range n.Outcomes {
		v := verifiers[verifierID{n.Node, o.Verifier}]
		shown.Verifiers[i] = client.Outcome{
			Name: v.Name, Process: v.Process, Key: v.Key, Address: v.Address,
			End: ends[o.End], At: began.Add(o.After.Truncate(time.Microsecond)), Milliseconds: milliseconds(o.After),
		}
	}
	return shown
}

var ends = map[issuer.End]string{
	issuer.Confirmed: client.EndConfirmed,
	issuer.Lost:      client.EndLost,
	issuer.Left:      client.EndLeft,
}
