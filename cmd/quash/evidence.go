package main

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/quashdev/quash/client"
)

// showRevocation prints the evidence of one revocation.
func (p *program) showRevocation(cmd *cobra.Command, admin client.Admin, text string) error {
	position, err := strconv.ParseUint(text, 10, 64)
	if err != nil || position == 0 {
		return misuse(cmd, "%q is no position: want a whole number from 1 on", text)
	}
	e, err := admin.Revocation(cmd.Context(), position)
	if err != nil {
		return err
	}
	return p.print(e, func() { p.showEvidence(e) })
}

// seconds is a time as lists show it, and exactly as evidence needs it: both say
// in which zone, because they are compared with those of other machines.
const (
	seconds = "2006-01-02 15:04:05 -07:00"
	exactly = "2006-01-02 15:04:05.000 -07:00"
)

func (p *program) showEvidence(e client.Evidence) {
	from := ""
	if e.Audit != nil {
		from = e.Audit.Address
	}
	slowest := ""
	if s := e.Slowest; s != nil {
		slowest = s.Name + ", process " + s.Process + took(s.Milliseconds)
	}
	r := e.Revocation
	p.fields(
		"position", number(r.Position), "revokes", revoked(r), "event", strings.ReplaceAll(r.Event, "_", " "), "by", r.Actor, "from", from, "why", r.Reason,
		"committed", r.Time.Local().Format(exactly), "state", confirmationText(e.Confirmation, r.Position), "slowest", slowest, "digest", r.Digest,
	)
	p.sayf("")
	p.outcomes(e)
}

// outcomes prints how it ended with each verifier, and for whom it has not.
func (p *program) outcomes(e client.Evidence) {
	var rows [][]string
	for _, v := range e.Confirmation.Pending {
		rows = append(rows, []string{v.Name, v.Process, "", "pending", "at most until " + clock(v.Until)})
	}
	more := 0
	for _, n := range e.Confirmations {
		for _, v := range n.Verifiers {
			rows = append(rows, []string{v.Name, v.Process, v.Address, outcomeText(v), v.At.Local().Format(exactly), strings.TrimPrefix(took(v.Milliseconds), " in ")})
		}
		more += n.Confirmed + n.Lost + n.Left - len(n.Verifiers)
	}
	p.table("no verifier was watched for it", []string{"VERIFIER", "PROCESS", "ADDRESS", "END", "AT", "AFTER"}, rows)
	if more > 0 {
		p.sayf("and %d that were faster", more)
	}
}

func outcomeText(v client.Outcome) string {
	switch v.End {
	case client.EndLost:
		return "lost its lease"
	case client.EndLeft:
		return "said goodbye"
	}
	return v.End
}
