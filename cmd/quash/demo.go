package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quashdev/quash/client"
)

func (p *program) demo() *cobra.Command {
	var stay bool
	cmd := &cobra.Command{
		Use: "demo", Short: "See tokens die: a server, three services, and five ways to end a session", Args: arguments(0, 0),
		Long: "Start a server and three services on this machine, each service a process of its own,\n" +
			"and play what happens to a user's tokens: logout, a new password, theft, another role,\n" +
			"deactivation. The exit status is 1 where anything went otherwise than it should.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if stay && p.json {
				return misuse(cmd, "--stay prints what people try by hand; leave out --json")
			}
			return p.playDemo(cmd.Context(), stay)
		},
	}
	cmd.Flags().BoolVar(&stay, "stay", false, "leave it all running and print commands to try by hand")
	return cmd
}

func (p *program) playDemo(ctx context.Context, stay bool) (err error) {
	var s stage
	defer func() { err = errors.Join(err, s.strike()) }()
	begun := time.Now()
	if !p.json {
		p.sayf("Starting a server and three services, each a process of its own ...")
	}
	if err := s.raise(ctx, p.stderr); err != nil {
		return err
	}
	r, err := p.perform(ctx, &s)
	if err != nil {
		return err
	}
	r.Seconds = time.Since(begun).Seconds()
	if err := p.print(r, func() { p.conclude(r) }); err != nil {
		return err
	}
	if stay {
		if err := p.stay(ctx, &s); err != nil {
			return err
		}
	}
	if !r.Met {
		return errors.New("not everything went as it should: see what was not met")
	}
	return nil
}

// report is what the demo found, in full.
type report struct {
	Measured string  `json:"measured"`
	Plays    []*play `json:"plays"`
	Met      bool    `json:"met"`
	Seconds  float64 `json:"seconds"`
}

// play is one way to end tokens, and what became of them.
type play struct {
	Title        string               `json:"title"`
	Call         string               `json:"call"`         // what ended the tokens
	Token        string               `json:"token"`        // whose access token the resource servers were shown
	Answered     *milliseconds        `json:"answered_ms"`  // how long the call took
	Confirmation *client.Confirmation `json:"confirmation"` // what the server says of it
	Waited       bool                 `json:"waited"`       // whether the call's answer was the confirmation
	Resources    []outcome            `json:"resource_servers"`
	Expectations []expectation        `json:"expectations"`
}

// outcome is what one resource server did with the token.
type outcome struct {
	Resource string        `json:"resource_server"`
	Accepted int           `json:"accepted"`         // requests, before the first refusal
	Refused  *milliseconds `json:"refused_after_ms"` // the first refusal; null: there was none
	Late     *milliseconds `json:"late_ms"`          // after the answer, the last request to be accepted was sent; null: none was
	Relapsed bool          `json:"relapsed"`         // it accepted after it had refused
}

func (o outcome) met() bool { return o.Accepted > 0 && o.Refused != nil && !o.Relapsed }

type expectation struct {
	Says string `json:"says"`
	Met  bool   `json:"met"`
}

func (y *play) expect(met bool, format string, args ...any) {
	y.Expectations = append(y.Expectations, expectation{fmt.Sprintf(format, args...), met})
}

func (y *play) met() bool {
	for _, e := range y.Expectations {
		if !e.Met {
			return false
		}
	}
	for _, o := range y.Resources {
		if !o.met() {
			return false
		}
	}
	return len(y.Resources) > 0 && y.confirmed()
}

// confirmed says whether the server said that every resource server refuses
// the token.
func (y *play) confirmed() bool {
	return y.Confirmation != nil && y.Confirmation.Confirmed && y.Confirmation.Verifiers.Applied == len(y.Resources)
}

const howMeasured = "refused: from sending the call to the first refusal, at a service that is shown the token in a tight loop; confirmed: what the server says, from its commit; all on this machine, over loopback"

// perform plays everything, and prints each play when it is over.
func (p *program) perform(ctx context.Context, s *stage) (report, error) {
	r := report{Measured: howMeasured, Met: true}
	u := user{stage: s, name: "alice"}
	if err := u.prepare(ctx); err != nil {
		return r, err
	}
	for n, act := range []func(context.Context, *play) error{u.logout, u.newPassword, u.theft, u.newRole, u.deactivation} {
		var y play
		if err := act(ctx, &y); err != nil {
			return r, fmt.Errorf("%s: %w", strings.ToLower(y.Title), err)
		}
		r.Plays = append(r.Plays, &y)
		r.Met = r.Met && y.met()
		if !p.json {
			p.show(n+1, &y)
		}
	}
	return r, nil
}

const columns = 78

func (p *program) show(number int, y *play) {
	title := fmt.Sprintf("%d  %s", number, y.Title)
	gap := strings.Repeat(" ", max(2, columns-len(title)-len(y.Call)))
	p.sayf("")
	fmt.Fprintln(p.stdout, p.bold(title)+gap+y.Call)
	for _, o := range y.Resources {
		refused := "NEVER REFUSED"
		switch {
		case o.Relapsed:
			refused = "REFUSED, THEN ACCEPTED AGAIN"
		case o.Refused != nil:
			refused = fmt.Sprintf("refused after %8s", o.Refused)
		}
		p.sayf("   %-8s %s's token: accepted %4d times, %s", o.Resource, y.Token, o.Accepted, refused)
	}
	p.sayf("   %s; %s", p.verdict(y), y.lateness())
	for _, e := range y.Expectations {
		verdict := "yes"
		if !e.Met {
			verdict = p.styled("31;1", "NO ")
		}
		fmt.Fprintf(p.stdout, "   %s  %s\n", verdict, e.Says)
	}
}

// verdict is what the server says of the play.
func (p *program) verdict(y *play) string {
	if !y.confirmed() {
		return p.styled("31;1", "NOT CONFIRMED BY ALL")
	}
	v := y.Confirmation.Verifiers
	return fmt.Sprintf("confirmed by %d of %d%s", v.Applied, len(y.Resources), took(y.Confirmation.Milliseconds))
}

// lateness says what was accepted after the answer. Only an answer that is the
// confirmation promises anything.
func (y *play) lateness() string {
	if !y.Waited {
		return "the call's own answer, invalid_grant, waits for nobody"
	}
	var worst *milliseconds
	for _, o := range y.Resources {
		if o.Late != nil && (worst == nil || *o.Late > *worst) {
			worst = o.Late
		}
	}
	switch {
	case worst == nil:
		return "no request sent after the answer was accepted"
	case *worst < 0.1:
		return "a request sent right after the answer was accepted"
	}
	return fmt.Sprintf("a request sent %s after the answer was accepted", worst)
}

func (p *program) conclude(r report) {
	verdict := "All of it went as it should"
	if !r.Met {
		verdict = "NOT all of it went as it should"
	}
	p.sayf("\n%s, in %.1f s.", verdict, r.Seconds)
	p.sayf("Confirmed is what the server says, counted from its commit. Refused is counted\nfrom sending the call, at a service that is shown the token in a tight loop.\nAll of it is on this machine, over loopback.")
}

// stay leaves the stage to whoever wants to try things, until ctx ends.
func (p *program) stay(ctx context.Context, s *stage) error {
	u := user{stage: s, name: "bob"}
	if err := u.prepare(ctx); err != nil {
		return err
	}
	if err := u.login(ctx, &u.phone, "phone"); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.dir, "access.token"), []byte(u.phone.AccessToken), 0o600); err != nil {
		return err
	}
	p.suggest(s)
	<-ctx.Done()
	return nil
}

// suggest prints commands to copy.
func (p *program) suggest(s *stage) {
	p.sayf("\nAll of it goes on running. Bob has a session on a phone. In another terminal:\n")
	p.alias()
	for _, line := range []string{
		"export QUASH_URL=http://" + s.config.Private,
		"export QUASH_DATA=" + s.config.Data,
		"cd " + s.dir,
		"",
		`curl -i -H "Authorization: Bearer $(cat access.token)" ` + s.resources[0].url,
		"quash token inspect < access.token",
		"quash session list bob",
		"quash session end-all bob --dry-run",
		"quash session end-all bob",
		"quash token explain < access.token",
		"quash verifier list",
		"quash tail --after 0",
	} {
		p.sayf("%s", strings.TrimRight("  "+line, " "))
	}
	p.sayf("\nInterrupt (Ctrl-C) to end all of it and remove %s.", s.dir)
}
