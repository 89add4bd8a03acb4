package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quashdev/quash/client"
)

func number(n uint64) string { return strconv.FormatUint(n, 10) }

func (p *program) log() *cobra.Command {
	return p.remote(group("log", "The log of revocations", p.logShow(), p.logVerify()))
}

func (p *program) logShow() *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "Show what the log is and where it ends", Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			admin, err := p.admin("reading the log")
			if err != nil {
				return err
			}
			l, err := admin.Log(cmd.Context())
			if err != nil {
				return err
			}
			return p.print(l, func() {
				p.fields(
					"log", l.ID, "epoch", number(l.Epoch), "head", number(l.Head.Position), "digest", l.Head.Digest, "live", count(l.Live, "revocation"),
					"pruned to", number(l.Pruned.Position), "longest token", (time.Duration(l.MaxLifetime) * time.Second).String(), "claims named", strings.Join(l.Claims, ", "),
				)
			})
		},
	}
}

func (p *program) logVerify() *cobra.Command {
	return &cobra.Command{
		Use: "verify", Short: "Prove that no record was changed or taken out", Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			admin, err := p.admin("checking every record of the log")
			if err != nil {
				return err
			}
			r, err := admin.VerifyLog(cmd.Context())
			if err != nil {
				return err
			}
			if err := p.print(r, func() {
				if r.Whole {
					p.sayf("whole: %d of %d records stand as they were sealed\ndigest at the head: %s", r.Checked, r.Head.Position, r.Head.Digest)
				}
			}); err != nil || r.Whole {
				return err
			}
			return broken(r)
		},
	}
}

func broken(r client.LogReport) error {
	b := cmp.Or(r.Break, &client.LogBreak{Position: r.Checked + 1, Flaw: "unknown"})
	where := ""
	if b.Found != 0 {
		where = fmt.Sprintf(" (the record that belongs there stands at %d)", b.Found)
	}
	return fmt.Errorf("the log is not whole: record %d is %s%s, and nothing from there on is proven: stop the server, keep the database as evidence, restore a backup", b.Position, b.Flaw, where)
}

const (
	pollWait  = 55 * time.Second
	retryWait = time.Second
)

func (p *program) tail() *cobra.Command {
	var after uint64
	var most int
	cmd := &cobra.Command{
		Use: "tail", Short: "Print each revocation as it is made, until interrupted", Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			admin, err := p.admin("")
			if err != nil {
				return err
			}
			if !cmd.Flags().Changed("after") {
				l, err := admin.Log(cmd.Context())
				if err != nil {
					return err
				}
				after = l.Head.Position
			}
			if terminal(p.stderr) {
				fmt.Fprintf(p.stderr, "after position %d; interrupt to end\n", after)
			}
			return p.follow(cmd.Context(), admin, after, most)
		},
	}
	cmd.Flags().Uint64Var(&after, "after", 0, "begin after this position; 0 is the whole log (default: the head)")
	cmd.Flags().IntVar(&most, "count", 0, "end after so many (default: go on)")
	return p.remote(cmd)
}

// follow prints revocations until ctx ends, or most of them, if not 0. A server that goes away is asked
// again until it is back; one that refuses is not.
func (p *program) follow(ctx context.Context, admin client.Admin, after uint64, most int) error {
	lost := false
	for {
		page, err := admin.Revocations(ctx, client.RevocationQuery{After: after, Wait: pollWait, Limit: 1000})
		var refused *client.Problem
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &refused) && refused.Status < 500 && refused.RetryAfter == 0:
			return err
		case err != nil && !lost:
			p.complain(fmt.Errorf("lost the server and will ask again: %w", err))
		}
		if lost = err != nil; lost {
			if !pause(ctx, retryWait) {
				return nil
			}
			continue
		}
		for _, r := range page.Items {
			if err := p.revocation(r); err != nil {
				return err
			}
			after = r.Position
			if most--; most == 0 {
				return nil
			}
		}
	}
}

// pause waits and says whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// revocation prints one as one line.
func (p *program) revocation(r client.Revocation) error {
	if !p.json {
		p.sayf("%s", revocationText(r))
		return nil
	}
	return json.NewEncoder(p.stdout).Encode(r)
}

func revocationText(r client.Revocation) string {
	return fmt.Sprintf("%6d  %s  %s", r.Position, r.Time.Local().Format("2006-01-02 15:04:05"), evidence(r))
}

// evidence says what a revocation names, who made it and why.
func evidence(r client.Revocation) string {
	text := r.Claim + " " + r.Value
	if r.Forever {
		text += " for ever"
	}
	text += ", " + strings.ReplaceAll(r.Event, "_", " ") + " by " + r.Actor
	if r.Reason != "" {
		text += ": " + r.Reason
	}
	return text
}

func (p *program) audit() *cobra.Command {
	q := client.AuditQuery{}
	cmd := &cobra.Command{
		Use: "audit", Short: "List what happened, newest first: who, what, to whom, why", Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			admin, err := p.admin("reading the audit")
			if err != nil {
				return err
			}
			page, err := admin.Audit(cmd.Context(), q)
			if err != nil {
				return err
			}
			return p.print(page, func() {
				var rows [][]string
				for _, e := range page.Items {
					rows = append(rows, []string{number(e.ID), e.Time.Local().Format("2006-01-02 15:04:05"), e.Event, e.Actor, cmp.Or(e.Session, e.Subject), e.Address, e.Reason})
				}
				p.table([]string{"ID", "TIME", "EVENT", "BY", "OF", "FROM", "WHY"}, rows)
			})
		},
	}
	cmd.Flags().StringVar(&q.Subject, "subject", "", "only of this subject")
	cmd.Flags().StringVar(&q.Event, "event", "", "only this event, such as refresh_reuse")
	cmd.Flags().Uint64Var(&q.Before, "before", 0, "only ids below this one, to go further back")
	cmd.Flags().IntVar(&q.Limit, "limit", 100, "at most so many, 1 to 1000")
	return p.remote(cmd)
}
