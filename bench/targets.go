package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// resultFiles are the files of results.
var resultFiles = []string{"compare.json", "latest.json", "server.json", "postgres.json"}

// The document that has the table of targets, and what is around it there.
const (
	document    = "../docs/performance.md"
	tableBegins = "<!-- targets: written by the benchmark -->\n"
	tableEnds   = "<!-- end of targets -->\n"
)

// writeTargets brings the table in the document up to the results in dir.
func writeTargets(dir string) error {
	table, err := targets(dir)
	if err != nil {
		return err
	}
	before, _, after, err := documented()
	if err != nil {
		return err
	}
	return os.WriteFile(document, []byte(before+table+after), 0o644)
}

// documented returns the table that the document has, and what is around it.
func documented() (before, table, after string, err error) {
	text, err := os.ReadFile(document)
	if err != nil {
		return "", "", "", err
	}
	before, rest, begins := strings.Cut(string(text), tableBegins)
	table, after, ends := strings.Cut(rest, tableEnds)
	if !begins || !ends {
		return "", "", "", fmt.Errorf("%s: want the lines %q and %q around the table of targets", document, strings.TrimSpace(tableBegins), strings.TrimSpace(tableEnds))
	}
	return before + tableBegins, table, tableEnds + after, nil
}

// targets is a table of every figure that had a target when it was measured,
// each subject as it was measured last.
func targets(dir string) (string, error) {
	var subjects []string
	latest := map[string]*report{}
	for _, name := range resultFiles {
		r, err := readReport(filepath.Join(dir, name))
		if err != nil {
			return "", err
		}
		for _, w := range r.Rows {
			before, found := latest[w.Subject]
			if !found {
				subjects = append(subjects, w.Subject)
			}
			if !found || r.Date > before.Date { // both are of RFC 3339, in UTC
				latest[w.Subject] = r
			}
		}
	}
	var out bytes.Buffer
	for _, s := range subjects {
		latest[s].table(&out, s)
	}
	out.WriteByte('\n')
	return out.String(), nil
}

// table writes those figures of a subject that have a target, if there are any.
func (r *report) table(out *bytes.Buffer, subject string) {
	head := fmt.Sprintf("\n%s, %s:\n\n| | measured | beside | ratio | wanted | |\n| --- | --- | --- | --- | --- | --- |\n", subject, r.Date[:len(time.DateOnly)])
	for _, w := range r.Rows {
		if w.Subject != subject || w.Met == nil {
			continue
		}
		c := w.cells()
		fmt.Fprintf(out, "%s| %s | %s | %s, %s | %s | %s | %s |\n", head, c[0], c[1], c[2], c[3], c[4], c[5], strings.ReplaceAll(c[6], "missed", "**missed**"))
		head = ""
	}
}
