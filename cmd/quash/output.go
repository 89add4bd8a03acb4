package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/quashdev/quash/client"
)

// print writes v as JSON where that was asked for, and calls text otherwise.
func (p *program) print(v any, text func()) error {
	if !p.json {
		text()
		return nil
	}
	e := json.NewEncoder(p.stdout)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// sayf writes one line.
func (p *program) sayf(format string, args ...any) {
	fmt.Fprintln(p.stdout, visible(fmt.Sprintf(format, args...)))
}

// complain writes an error, a line for each mistake that it joins.
func (p *program) complain(err error) {
	for line := range strings.Lines(err.Error()) {
		if line = strings.TrimSpace(line); line != "" {
			line = strings.TrimPrefix(strings.TrimPrefix(line, "client: "), "quash: ")
			fmt.Fprintln(p.stderr, "quash: "+visible(line))
		}
	}
}

// visible replaces what could move the cursor of a terminal: texts come from
// users and from tokens that nobody vouches for.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || unicode.IsPrint(r) {
			return r
		}
		return utf8.RuneError
	}, s)
}

// table writes rows in aligned columns under a header, or where there are no
// rows, that there is none.
func (p *program) table(none string, header []string, rows [][]string) {
	if len(rows) == 0 {
		p.sayf("%s", none)
		return
	}
	width := make([]int, len(header))
	for _, row := range append([][]string{header}, rows...) {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(visible(cell)))
		}
	}
	line := func(row []string) string {
		var b strings.Builder
		for i, cell := range row {
			cell = visible(cell)
			b.WriteString(cell)
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		return strings.TrimRight(b.String(), " ")
	}
	fmt.Fprintln(p.stdout, p.bold(line(header)))
	for _, row := range rows {
		fmt.Fprintln(p.stdout, line(row))
	}
}

// fields writes names and values, a line each; those without a value are
// left out.
func (p *program) fields(pairs ...string) {
	width := 0
	for i := 0; i < len(pairs); i += 2 {
		width = max(width, len(pairs[i]))
	}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			fmt.Fprintf(p.stdout, "%-*s  %s\n", width, pairs[i], visible(pairs[i+1]))
		}
	}
}

func terminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// bold is how a heading looks where there are colours (https://no-color.org).
func (p *program) bold(s string) string { return p.styled("1", s) }

func (p *program) styled(code, s string) string {
	if !terminal(p.stdout) || p.env("NO_COLOR", "") != "" || p.env("TERM", "") == "dumb" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// when says a moment as people do: how long ago or ahead where that is near,
// the day and the minute where it is not.
func when(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	d := time.Since(t)
	switch {
	case d.Abs() < time.Second:
		return "now"
	case d.Abs() > 48*time.Hour:
		return t.Local().Format("2006-01-02 15:04")
	case d < 0:
		return "in " + short(-d)
	}
	return short(d) + " ago"
}

// short is a duration in its largest unit.
func short(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", d/time.Hour)
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}

// count is a number of things.
func count(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}

func effectText(e client.Effect) string {
	name := strings.ReplaceAll(e.Event, "_", " ")
	ended := count(e.Sessions, "session") + " and " + count(e.Tokens, "live access token")
	switch {
	case e.DryRun:
		return "dry run: would end " + ended + "; nothing was changed"
	case e.Position == 0:
		return name + ": done; there was nothing to revoke"
	}
	return fmt.Sprintf("%s: ended %s; position %d", name, ended, e.Position)
}

// patient returns a transport that says on a terminal, from the second second
// on, what it waits for; nil, the usual one, where there is no terminal.
func (p *program) patient(doing string) http.RoundTripper {
	if doing == "" || !terminal(p.stderr) {
		return nil
	}
	return patient{doing, p.stderr}
}

type patient struct {
	doing string
	out   io.Writer
}

func (t patient) RoundTrip(r *http.Request) (*http.Response, error) {
	defer progress(t.out, t.doing)()
	return http.DefaultTransport.RoundTrip(r)
}

// progress shows, from the second second on, what takes so long and since
// when, until the function that it returns is called.
func progress(out io.Writer, doing string) (stop func()) {
	done, cleared := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(cleared)
		start, tick := time.Now(), time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				fmt.Fprintf(out, "\r\x1b[K%s … %s", doing, short(time.Since(start)))
			case <-done:
				if time.Since(start) >= time.Second {
					fmt.Fprint(out, "\r\x1b[K")
				}
				return
			}
		}
	}()
	return func() { close(done); <-cleared }
}

// limit is a flag: how many entries of a list, as the server takes it.
type limit int

const maxLimit = 1000

func (l *limit) String() string { return strconv.Itoa(int(*l)) }

func (l *limit) Type() string { return "int" }

func (l *limit) Set(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxLimit {
		return fmt.Errorf("want 1 to %d", maxLimit)
	}
	*l = limit(n)
	return nil
}
