package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// The files of results, each with the subjects that none before it has.
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

// targets is a table of every figure that has a target.
func targets(dir string) (string, error) {
	var out bytes.Buffer
	seen := map[string]bool{}
	for _, name := range resultFiles {
		r, err := readReport(filepath.Join(dir, name))
		if err != nil {
			return "", err
		}
		here := map[string]bool{}
		for _, w := range r.Rows {
			if w.Met == nil || seen[w.Subject] {
				continue
			}
			if !here[w.Subject] {
				here[w.Subject] = true
				fmt.Fprintf(&out, "\n%s, %s:\n\n| | measured | beside | ratio | wanted | |\n| --- | --- | --- | --- | --- | --- |\n", w.Subject, r.Date[:len("2006-01-02")])
			}
			c := w.cells()
			fmt.Fprintf(&out, "| %s | %s | %s, %s | %s | %s | %s |\n", c[0], c[1], c[2], c[3], c[4], c[5], strings.ReplaceAll(c[6], "missed", "**missed**"))
		}
		for subject := range here {
			seen[subject] = true
		}
	}
	out.WriteByte('\n')
	return out.String(), nil
}
