package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// comparison is what is measured beside peers; the rest is what only a change
// of our own makes slower.
var comparison = []string{"verify", "request", "http", "lookup", "growth", "cache", "tail"}

// short is what a change can be judged by in a few minutes.
var short = []string{"verify", "request", "lookup", "cache"}

const compareFile = "results/compare.json"

// quick is what a run measures that is only held against another.
func (s sizes) quick() sizes {
	s.rounds, s.long, s.tails = 15, 9, 3
	return s
}

// worst is how many times worse than before a ratio may be: machines are noisy.
const worst = 1.5

// worse returns what is worse than in the report before.
func (r *report) worse(before *report) (found []string) {
	was := make(map[string]row)
	for _, w := range before.Rows {
		was[w.key()] = w
	}
	for _, w := range r.Rows {
		old, ok := was[w.key()]
		if !ok || old.Ratio <= 0 || w.Ratio <= 0 {
			continue
		}
		by := w.Ratio / old.Ratio
		if w.Higher {
			by = 1 / by
		}
		if by > worst {
			found = append(found, fmt.Sprintf("%s: %s, beside %s: %s× now, %s× before", w.Subject, w.What, w.Beside, ratio(w.Ratio), ratio(old.Ratio)))
		}
	}
	return found
}

func (w *row) key() string { return w.Subject + "\n" + w.What + "\n" + w.Beside }

// hold compares a run with the results in a file.
func (r *report) hold(file string, out io.Writer) error {
	before, err := readReport(file)
	if err != nil {
		return err
	}
	found := r.worse(before)
	if len(found) == 0 {
		fmt.Fprintf(out, "\nno ratio is more than %v times worse than in %s\n", worst, file)
		return nil
	}
	return fmt.Errorf("worse than in %s by more than %v:\n%s", file, worst, strings.Join(found, "\n"))
}

func readReport(file string) (*report, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := new(report)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return r, nil
}

// peerVersions returns the versions of the servers beside which we measure.
func peerVersions() (versions []string) {
	postgres, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	programs := append(postgres, "redis-server", "/usr/sbin/nginx")
	number := regexp.MustCompile(`\d+\.[\d.]+`)
	for _, p := range programs {
		flag := "--version"
		if strings.HasSuffix(p, "nginx") {
			flag = "-v"
		}
		out, err := exec.Command(p, flag).CombinedOutput()
		if err == nil || !errors.Is(err, exec.ErrNotFound) {
			versions = append(versions, filepath.Base(p)+" "+number.FindString(string(out)))
		}
	}
	return versions
}
