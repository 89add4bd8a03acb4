package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/quashdev/quash/client"
)

// defaultWait is how long a change waits for its confirmation.
const defaultWait = time.Second

// errUnconfirmed is how a command ends whose change stands and is not confirmed
// yet. What there is to say of it has been said.
var errUnconfirmed = errors.New("not confirmed yet")

// changes gives cmd the flags of verbs that end something.
func (p *program) changes(cmd *cobra.Command, c *client.Change) *cobra.Command {
	if cmd.Long == "" {
		cmd.Long = cmd.Short + "."
	}
	cmd.Long += "\n\nThe change is confirmed once no verifier accepts the tokens any more. With --wait the command\n" +
		"waits for that; the exit status is 3 where it is not confirmed by then. The change stands all\n" +
		"the same, and is confirmed a lease and its margin later at the latest."
	cmd.Flags().StringVar(&c.Reason, "reason", "", "why, for the log and the audit")
	cmd.Flags().BoolVar(&c.DryRun, "dry-run", false, "say what would end, and change nothing")
	cmd.Flags().DurationVar(&p.wait, "wait", defaultWait, "how long to wait until it is confirmed, to the second")
	return cmd
}

// revoker returns the calls of the private listener for a change. A wait of
// more than a moment is not left to the server alone, which shows no progress,
// where the API key may see who confirmed.
func (p *program) revoker(ctx context.Context, doing string) (client.Admin, error) {
	c, err := p.client(doing)
	if err != nil {
		return client.Admin{}, err
	}
	wait := p.wait
	if wait > defaultWait {
		var refused *client.Problem
		_, err := c.Admin().Log(ctx)
		p.blind = errors.As(err, &refused) && refused.Status == http.StatusForbidden
		if !p.blind {
			wait = defaultWait
		}
	}
	return c.WithWait(wait).Admin(), nil
}

// effect prints what a change ended, once it is confirmed or the wait is over.
func (p *program) effect(ctx context.Context, e client.Effect, err error) error {
	return p.conclusion(ctx, e, err, func() { p.sayf("%s", effectText(e)) })
}

// conclusion is effect in words of the caller's.
func (p *program) conclusion(ctx context.Context, e client.Effect, err error, text func()) error {
	if err != nil {
		return err
	}
	if e.Confirmation == nil {
		return p.print(e, text)
	}
	p.await(ctx, &e)
	err = p.print(e, func() {
		text()
		p.sayf("%s", confirmationText(*e.Confirmation, e.Position))
	})
	if err == nil && !e.Confirmation.Confirmed {
		return errUnconfirmed
	}
	return err
}

// await goes on waiting for the confirmation of a change where the first
// moment did not bring it, and shows whom it waits for.
func (p *program) await(ctx context.Context, e *client.Effect) {
	c, err := p.client("") // which shows no progress of its own
	if err != nil || p.blind {
		return
	}
	end := time.Now().Add(p.wait - defaultWait)
	show, done := p.showing()
	defer done()
	for !e.Confirmation.Confirmed && time.Now().Before(end) {
		show("confirmed by " + waitingText(*e.Confirmation, e.Position))
		found, err := c.WithWait(defaultWait).Admin().Revocation(ctx, e.Position)
		if err != nil && ctx.Err() == nil {
			p.complain(fmt.Errorf("the change stands, but whether it is confirmed could not be asked: %w", err))
		}
		if err != nil {
			return
		}
		e.Confirmation = &found.Confirmation
		pause(ctx, glance)
	}
}

// glance is the least pause between two questions.
const glance = 100 * time.Millisecond

// showing returns a function that shows how far it is: in one place on a
// terminal, and elsewhere in a line whenever there is something new. It says
// nothing to programs.
func (p *program) showing() (show func(string), done func()) {
	last := ""
	switch {
	case p.json:
		return func(string) {}, func() {}
	case !terminal(p.stderr):
		return func(text string) {
			if text != last {
				fmt.Fprintln(p.stderr, visible(text))
			}
			last = text
		}, func() {}
	}
	const clear = "\r\x1b[K"
	return func(text string) { fmt.Fprint(p.stderr, clear+fitting(visible(text), p.stderr)) }, func() { fmt.Fprint(p.stderr, clear) }
}

// fitting cuts a text to one line of a terminal.
func fitting(text string, out any) string {
	width, _, err := term.GetSize(int(out.(*os.File).Fd()))
	if runes := []rune(text); err == nil && len(runes) >= width {
		return string(runes[:max(width-2, 0)]) + "…"
	}
	return text
}

// ofAll says how many of the verifiers have confirmed.
func ofAll(c client.Confirmation) string {
	v := c.Verifiers
	return fmt.Sprintf("%d of %s", v.Applied, count(v.Applied+v.Pending+v.Lost+v.Left, "verifier"))
}

// otherEnds says how it ended with verifiers that did not confirm, and what else
// an operator has to know.
func otherEnds(c client.Confirmation) string {
	text := ""
	if c.Verifiers.Left > 0 {
		text += fmt.Sprintf("; %d said goodbye instead", c.Verifiers.Left)
	}
	if c.Verifiers.Lost > 0 {
		text += fmt.Sprintf("; %d lost the lease instead", c.Verifiers.Lost)
	}
	if c.Accepting > 0 {
		text += "; " + count(c.Accepting, "route") + " of theirs may accept what was revoked, because they accept when stale"
	}
	return text
}

// waitingText says how many have confirmed a change, and whom it waits for.
func waitingText(c client.Confirmation, position uint64) string {
	const named = 3
	var names []string
	for _, v := range c.Pending[:min(len(c.Pending), named)] {
		names = append(names, fmt.Sprintf("%s (applied %d of %d, at most until %s)", v.Name, v.Applied, position, clock(v.Until)))
	}
	if more := c.Verifiers.Pending - len(names); more > 0 && len(names) > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	for _, id := range c.Nodes {
		names = append(names, "node "+id)
	}
	if len(names) == 0 {
		names = []string{"leases that the node does not know of"}
	}
	return ofAll(c) + ", waiting for: " + strings.Join(names, ", ")
}

// confirmationText says how it ended.
func confirmationText(c client.Confirmation, position uint64) string {
	if !c.Confirmed {
		return "not confirmed yet: " + waitingText(c, position) + "; at the latest at " + clock(c.Until) + "; the change stands" + otherEnds(c)
	}
	if c.Verifiers == (client.Tally{}) {
		return "confirmed" + took(c.Milliseconds) + "; no verifier relied on the node"
	}
	return "confirmed by " + ofAll(c) + took(c.Milliseconds) + otherEnds(c)
}

// took says how long it took, where that is known.
func took(ms float64) string {
	switch {
	case ms <= 0:
		return ""
	case ms < 1000:
		return fmt.Sprintf(" in %.1f ms", ms)
	}
	return fmt.Sprintf(" in %.1f s", ms/1000)
}

// clock is a time of day.
func clock(t time.Time) string { return t.Local().Format("15:04:05") }
