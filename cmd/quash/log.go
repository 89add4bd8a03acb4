package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
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
		Use: "show [POSITION]", Short: "Show what the log is and where it ends, or the evidence of one revocation", Args: arguments(0, 1),
		Long: "Show what the log is and where it ends.\n\n" +
			"With a position show the evidence of the revocation there: who made it and why, and when each\n" +
			"verifier confirmed it, the slowest first.",
		RunE: func(cmd *cobra.Command, args []string) error {
			admin, err := p.admin("reading the log")
			if err != nil {
				return err
			}
			if len(args) == 1 {
				return p.showRevocation(cmd, admin, args[0])
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
	var noted client.Mark
	cmd := &cobra.Command{
		Use: "verify", Short: "Check the log against its own chain, and against a digest noted earlier", Args: arguments(0, 0),
		Long: "Check every record of the log against its own chain, and print the digest at its head.\n\n" +
			"The chain alone finds damage, not forgery: it has no key, and whoever can write to the\n" +
			"database can write a chain that fits. So note the position and the digest elsewhere. With\n" +
			"--position and --digest the log is checked against such a note: where they agree, nothing\n" +
			"up to that position was changed or taken out since.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkNoted(cmd, noted); err != nil {
				return err
			}
			admin, err := p.admin("checking every record of the log")
			if err != nil {
				return err
			}
			r, err := admin.VerifyLog(cmd.Context())
			if err != nil {
				return err
			}
			if !r.Whole {
				return errors.Join(p.print(r, func() {}), broken(r))
			}
			if err := agrees(cmd.Context(), admin, noted); err != nil {
				return err
			}
			return p.print(r, func() { p.whole(r, noted) })
		},
	}
	cmd.Flags().Uint64Var(&noted.Position, "position", 0, "of the digest that was noted")
	cmd.Flags().StringVar(&noted.Digest, "digest", "", "that was noted at the position, in hexadecimal")
	return cmd
}

func checkNoted(cmd *cobra.Command, noted client.Mark) error {
	given := cmd.Flags().Changed("position") || cmd.Flags().Changed("digest")
	digest, err := hex.DecodeString(noted.Digest)
	if given && (noted.Position == 0 || err != nil || len(digest) != sha256.Size) {
		return misuse(cmd, "want --position, from 1 on, and --digest, 64 hexadecimal digits, as `quash log verify` printed them")
	}
	return nil
}

// agrees fails where the log does not have the digest noted for a position,
// if one was.
func agrees(ctx context.Context, admin client.Admin, noted client.Mark) error {
	if noted.Position == 0 {
		return nil
	}
	page, err := admin.Revocations(ctx, client.RevocationQuery{After: noted.Position - 1, Limit: 1})
	switch {
	case err != nil:
		return err
	case len(page.Items) == 0:
		return fmt.Errorf("the log ends before position %d: what was noted has been cut off: keep the database as evidence, restore a backup", noted.Position)
	case page.Items[0].Position != noted.Position || !strings.EqualFold(page.Items[0].Digest, noted.Digest):
		return fmt.Errorf("the log has another digest at position %d than was noted: it was rewritten, there or before: keep the database as evidence, restore a backup", noted.Position)
	}
	return nil
}

func (p *program) whole(r client.LogReport, noted client.Mark) {
	p.sayf("whole: %s fit the chain", count(int(r.Checked), "record"))
	if noted.Position != 0 {
		p.sayf("unchanged up to position %d: the digest there is the one noted", noted.Position)
	}
	if r.Head.Position != 0 {
		p.sayf("to check against later, note elsewhere: --position %d --digest %s", r.Head.Position, r.Head.Digest)
	}
}

func broken(r client.LogReport) error {
	b := cmp.Or(r.Break, &client.LogBreak{Position: r.Checked + 1, Flaw: "unknown"})
	what, where := fmt.Sprintf("record %d", b.Position), ""
	if b.Epoch != 0 {
		what = fmt.Sprintf("the beginning of epoch %d, at %d,", b.Epoch, b.Position)
	}
	if b.Found != 0 {
		where = fmt.Sprintf(" (the record that belongs there stands at %d)", b.Found)
	}
	return fmt.Errorf("the log is not whole: %s is %s%s, and nothing from there on can be relied on: stop the server, keep the database as evidence, restore a backup", what, b.Flaw, where)
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
	return fmt.Sprintf("%6d  %s  %s", r.Position, r.Time.Local().Format(seconds), evidence(r))
}

// revoked says what a revocation names.
func revoked(r client.Revocation) string {
	if r.Forever {
		return r.Claim + " " + r.Value + " for ever"
	}
	return r.Claim + " " + r.Value
}

// evidence says what a revocation names, who made it and why.
func evidence(r client.Revocation) string {
	text := revoked(r) + ", " + strings.ReplaceAll(r.Event, "_", " ") + " by " + r.Actor
	if r.Reason != "" {
		text += ": " + r.Reason
	}
	return text
}

func (p *program) audit() *cobra.Command {
	var q client.AuditQuery
	limit := limit(100)
	cmd := &cobra.Command{
		Use: "audit", Short: "List what happened, newest first: who, what, to whom, why", Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			admin, err := p.admin("reading the audit")
			if err != nil {
				return err
			}
			if a, found := named(cmd.Context(), admin, q.Subject); found { // the subject of a deleted account stays as it is
				q.Subject = a.Subject
			}
			q.Limit = int(limit)
			page, err := admin.Audit(cmd.Context(), q)
			if err != nil {
				return err
			}
			return p.print(page, func() {
				var rows [][]string
				for _, e := range page.Items {
					rows = append(rows, []string{number(e.ID), e.Time.Local().Format(seconds), e.Event, e.Actor, of(e), e.Address, e.Reason})
				}
				p.table("no entries", []string{"ID", "TIME", "EVENT", "BY", "OF", "FROM", "WHY"}, rows)
			})
		},
	}
	cmd.Flags().StringVar(&q.Subject, "subject", "", "only of this account, a `NAME|SUBJECT`")
	cmd.Flags().StringVar(&q.Event, "event", "", "only this event, such as refresh_reuse")
	cmd.Flags().Uint64Var(&q.Before, "before", 0, "only ids below this one, to go further back")
	cmd.Flags().Var(&limit, "limit", "at most so many, 1 to 1000")
	return p.remote(cmd)
}

// of says what an entry of the audit is about: a revoked claim and its
// value, a session, or a subject.
func of(e client.AuditEntry) string {
	var revoked struct{ Claim, Value string }
	_ = json.Unmarshal(e.Detail, &revoked) // entries of other events have other members, or none
	if revoked.Claim != "" {
		return revoked.Claim + " " + revoked.Value
	}
	return cmp.Or(e.Session, e.Subject)
}
