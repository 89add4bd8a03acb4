package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quashdev/quash/client"
)

func (p *program) token() *cobra.Command {
	return group("token", "Look into access tokens", p.tokenInspect(), p.remote(p.tokenExplain()))
}

// maxToken bounds what is read of a token; verifiers accept far less.
const maxToken = 64 << 10

// readToken takes a token from the arguments, or from the standard input.
func (p *program) readToken(args []string) (string, error) {
	token := ""
	if len(args) == 1 && args[0] != "-" {
		token = args[0]
	} else {
		if terminal(p.stdin) {
			fmt.Fprintln(p.stderr, "paste the token, then end the input (Ctrl-D):")
		}
		text, err := io.ReadAll(io.LimitReader(p.stdin, maxToken+1))
		if err != nil {
			return "", fmt.Errorf("read the token: %w", err)
		}
		token = string(text)
	}
	token = strings.TrimPrefix(strings.TrimSpace(token), "Bearer ")
	switch {
	case token == "":
		return "", errors.New("there is no token: give it as an argument or on the standard input")
	case len(token) > maxToken:
		return "", fmt.Errorf("the token is longer than %d octets", maxToken)
	}
	return token, nil
}

// inspected is what a token says of itself.
type inspected struct {
	Header   json.RawMessage `json:"header"`
	Claims   json.RawMessage `json:"claims"`
	Verified bool            `json:"verified"` // always false: it is only decoded
}

func (p *program) tokenInspect() *cobra.Command {
	return &cobra.Command{
		Use: "inspect [TOKEN]", Short: "Decode a token, here, without trusting it", Args: arguments(0, 1),
		Long: "Decode a token from the argument or the standard input, on this machine alone.\nNothing is verified: anybody can write what it says. `quash token explain` verifies.",
		RunE: func(_ *cobra.Command, args []string) error {
			token, err := p.readToken(args)
			if err != nil {
				return err
			}
			t, err := decode(token)
			if err != nil {
				return err
			}
			return p.print(t, func() { p.inspection(t) })
		},
	}
}

func decode(token string) (t inspected, err error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return t, fmt.Errorf("this is not a JSON Web Token: want three parts with a dot between, got %d", len(parts))
	}
	if t.Header, err = object("header", parts[0]); err != nil {
		return t, err
	}
	t.Claims, err = object("claims", parts[1])
	return t, err
}

func object(what, encoded string) (json.RawMessage, error) {
	text, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return nil, fmt.Errorf("this is not a JSON Web Token: its %s is not base64url: %w", what, err)
	}
	var members map[string]any
	if err := json.Unmarshal(text, &members); err != nil {
		return nil, fmt.Errorf("this is not a JSON Web Token: its %s is not a JSON object: %w", what, err)
	}
	return text, nil
}

func (p *program) inspection(t inspected) {
	p.sayf("%s\n%s", p.bold("header"), indented(t.Header))
	p.sayf("%s\n%s", p.bold("claims"), indented(t.Claims))
	var times struct{ Iat, Nbf, Exp json.Number }
	_ = json.Unmarshal(t.Claims, &times) // what is no number has no time to tell
	p.fields("issued", moment(times.Iat), "not before", moment(times.Nbf), expiry(times.Exp), moment(times.Exp))
	p.sayf("only decoded, not verified: quash token explain asks the server")
}

func indented(doc json.RawMessage) string {
	var b bytes.Buffer
	_ = json.Indent(&b, doc, "", "  ") // decode has seen that it is JSON
	return b.String()
}

func expiry(n json.Number) string {
	if t, ok := instant(n); ok && t.Before(time.Now()) {
		return "expired"
	}
	return "expires"
}

func moment(n json.Number) string {
	t, ok := instant(n)
	if !ok {
		return ""
	}
	return t.Local().Format(seconds) + ", " + when(t)
}

// lastSecond is the end of the year 9999, beyond which times cannot be told.
const lastSecond = 253402300799

func instant(n json.Number) (time.Time, bool) {
	seconds, err := n.Float64()
	return time.Unix(int64(seconds), 0), err == nil && seconds >= 0 && seconds <= lastSecond
}

func (p *program) tokenExplain() *cobra.Command {
	return &cobra.Command{
		Use: "explain [TOKEN]", Short: "Ask the server what becomes of a token, and why", Args: arguments(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			token, err := p.readToken(args)
			if err != nil {
				return err
			}
			admin, err := p.admin("asking for the verdict")
			if err != nil {
				return err
			}
			x, err := admin.Explain(cmd.Context(), token)
			if err != nil {
				return err
			}
			return p.print(x, func() { p.explanation(x) })
		},
	}
}

func (p *program) explanation(x client.Explanation) {
	pairs := []string{"verdict", strings.ReplaceAll(x.Verdict, "_", " "), "check failed", x.Check, "log applied", "to position " + number(x.Position)}
	for _, r := range x.Revocations {
		pairs = append(pairs, "killed at", fmt.Sprintf("position %d, %s", r.Position, when(r.Time)), "by", evidence(r))
	}
	p.fields(pairs...)
}
